"""A teacher's own exercise: registered, or put into the folder of a copied course."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lora_np as lnp
from lora_np.course.exercise import REGISTERED, Slip, slips_of

ROOT = Path(__file__).resolve().parents[2]
OWN = '''"""A teacher's own."""

import numpy as np

CHAPTER, PLACE, MINUTES, LEVEL = 9, 1, 7, "medium"
OUTPUTS = ("y",)
HINTS = ("What is left of a negative number?",)
KINDS = {"below": ("sign", "{name} is below zero at {at}")}


def soft_step(x, slope=0.1):
    """Return x where it is above 0, slope * x elsewhere, shaped like x."""
    return np.where(x > 0, x, slope * x)


BRANCHES = {
    "slope is 0": lambda slope, **_: slope == 0,
    "x is negative": lambda x, **_: (x < 0).all(),
}


def draw(rng, dtype, trial):
    x = rng.standard_normal((4, 3)).astype(dtype)
    return {"x": -abs(x) if trial == 2 else x, "slope": 0.0 if trial == 1 else 0.3}


def refuses(rng):
    yield {"x": np.ones(3), "slope": -1.0}, "a negative slope is none"


SLIPS = """
elementwise_factor: the slope is missing below 0
    slope * x => x
"""
'''
OWN = OWN.replace(
    "    return np.where", '    if slope < 0:\n        raise ValueError("slope is negative")\n    return np.where'
)
CHAPTER = """# %% [markdown]
# # 9. Ours
# %% tags=["setup"]
import numpy as np

import lora_np as lnp
# %% [markdown]
# ### A softer step ({{soft_step}})
# %% exercise="soft_step"
from lora_np.course.exercises.soft_step import soft_step
# %% check="soft_step"
lnp.course.check("soft_step", soft_step)
"""


def right(x, slope=0.1):
    if slope < 0:
        raise ValueError("a slope is not negative")
    return x * (x > 0) + slope * x * (x <= 0)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "soft_step.py").write_text(OWN, encoding="utf-8")
    yield tmp_path / "soft_step.py"
    REGISTERED.clear()


def test_it_is_checked_and_listed_like_the_others(own, capsys):
    exercise = lnp.course.register(own)
    assert (exercise.chapter, exercise.minutes, exercise.level) == (9, 7, "medium")
    assert "medium  soft_step(x, slope)" in repr(lnp.course.exercises())
    assert lnp.course.check("soft_step", right).ok
    verdict = lnp.course.check("soft_step", lambda x, slope: x, hint=1)
    assert verdict.cause == "elementwise_factor" and "the slope is missing below 0" in str(verdict)
    assert "hint 1: What is left" in str(verdict)
    assert "only where slope is 0" in str(lnp.course.check("soft_step", lambda x, slope: np_where(x, slope or 1.0)))
    assert "a negative slope is none: raise a ValueError" in str(lnp.course.check("soft_step", np_where))


def np_where(x, slope=0.1):
    return x * (x > 0) + slope * x * (x <= 0)


def test_a_branch_is_told_though_float32_hides_the_fault(own):
    """The slope is 0 on the last trial, too, where a millionth passes for rounding."""
    own.write_text(OWN.replace("if trial == 1", "if trial in (1, 5)"), encoding="utf-8")
    lnp.course.register(own)
    verdict = lnp.course.check("soft_step", lambda x, slope: right(x, slope) * (1 + 1e-6 * (slope == 0)))
    assert "only where slope is 0" in str(verdict)


def test_it_may_be_registered_again_after_a_change(own):
    lnp.course.register(own)
    own.write_text(OWN.replace("MINUTES, LEVEL = 9, 1, 7", "MINUTES, LEVEL = 9, 1, 8"), encoding="utf-8")
    assert lnp.course.register(str(own)).minutes == 8 and len(REGISTERED) == 1


FAULTS = [
    ("if trial == 1", "if trial == 5", "only the last trial draws the branch 'slope is 0'; draw it on another one"),
    ("MINUTES, LEVEL = 9, 1, 7", "MINUTES, LEVEL = 9, 1, None", "MINUTES is missing; expected a number"),
    ('"medium"', '"so so"', "LEVEL is 'so so'; expected one of easy, medium, hard"),
    ("HINTS = (", "HINT = (", "HINTS is missing; expected a tuple of texts"),
    ("def soft_step", "def other_step", "the function soft_step is missing: the solution"),
    ('    """Return x', "    # Return x", "soft_step has no docstring"),
    ("SLIPS = ", "SLIP = ", 'SLIPS is missing; at the least, write SLIPS = ""'),
    ("import numpy as np", "import numpi as np", "it cannot be run: ModuleNotFoundError"),
    ('OUTPUTS = ("y",)', 'OUTPUTS = ("y",', "it cannot be read"),
    ("def draw(rng, dtype, trial)", "def draw(rng, dtype)", "draw fails on trial 0: TypeError"),
    ('return {"x": -abs', 'return {"z": -abs', "draw returns z, slope on trial 0; expected x, slope, in this order"),
    (
        '    if slope < 0:\n        raise ValueError("slope is negative")\n',
        "",
        "its own solution is not right: a negative",
    ),
    ("if trial == 2 else x", "if trial == 9 else x", "no trial draws the branch 'x is negative'"),
    ("slope * x => x", "slope * x => x * slope", "the slip 'the slope is missing below 0' gives what the solution"),
    ("slope * x => x", "slope * z => x", "the slip 'the slope is missing below 0' changes a text that the solution"),
    ("elementwise_factor: ", "factor: ", "has the cause 'factor', which is none of"),
    ("slope * x => x", "slope * x -> x", "the line 'slope * x -> x' of SLIPS is neither `cause: sentence` nor"),
    ("    slope * x => x", "slope * x => x", "the line 'slope * x => x' of SLIPS is neither `cause: sentence` nor"),
    ("elementwise_factor: the slope is missing below 0\n", "", "the line 'slope * x => x' of SLIPS is neither"),
    ("slope * x => x", "=> x", "the line '=> x' of SLIPS is neither"),
    ("    slope * x => x\n", "", "the slip 'the slope is missing below 0' has no edit; write `text of the solution =>"),
    (
        "slope * x => x",
        "slope * x => x\nother: twice\n    slope * x => 1.0 * x",
        "'twice' is told by other words: the slope",
    ),
    ("slope * x => x", "slope * x => (x", "the slip 'the slope is missing below 0' makes what is no Python: "),
    ('SLIPS = """', 'SLIPS = [], """', "SLIPS is a tuple; expected a text"),
]


@pytest.mark.parametrize("old, new, sentence", FAULTS, ids=[sentence[:40] for *_, sentence in FAULTS])
def test_a_fault_is_named_in_a_sentence(old, new, sentence, own):
    text = OWN.replace(old, new)
    if sentence.startswith("soft_step has no"):
        text = text.replace('shaped like x."""', "shaped like x.")
    assert text != OWN
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        lnp.course.register(own)
    assert str(caught.value).startswith("soft_step.py: ") and sentence in str(caught.value)
    assert not REGISTERED


def test_slips_are_a_text():
    """A cause or `other`, a sentence, and edits in order; nothing behind => takes the text away."""
    text = "\nother: a: b\n    x =>\n\n  y + 1 => lambda: z\nsign: c\n\tx => -x  \n"
    assert slips_of(text) == (Slip(None, "a: b", [("x", ""), ("y + 1", "lambda: z")]), Slip("sign", "c", [("x", "-x")]))
    assert slips_of("") == ()


def test_what_is_no_exercise_is_refused(own, tmp_path):
    for path in (tmp_path / "missing.py", tmp_path, __file__ + "x"):
        with pytest.raises(ValueError, match="is no file of an exercise; expected NAME.py"):
            lnp.course.register(path)
    shutil.copy(own, tmp_path / "merge.py")
    with pytest.raises(ValueError, match="the course has an exercise 'merge' already; give yours another name"):
        lnp.course.register(tmp_path / "merge.py")


PROGRAM = """
import json, sys
import build
path = build.sources(["09"])[0]
for kind in ("lesson", "exercises", "grading"):
    book = getattr(build, kind)(path)
    open(kind, "w").write(build.nbformat.writes(book))
"""


@pytest.mark.chapters
def test_in_a_copied_course_it_needs_one_file_and_a_cell(tmp_path):
    pytest.importorskip("jupytext", reason="needs pip install -e .[author]")
    for name in ("lora_np", "chapters"):
        skipped = shutil.ignore_patterns("__pycache__", "*.ipynb", "*.safetensors", "reviews*")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "lora_np/course/exercises/soft_step.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "chapters/src/09_ours.py").write_text(CHAPTER, encoding="utf-8")
    folders = os.pathsep.join([str(tmp_path), str(tmp_path / "chapters")])
    environment = {**os.environ, "PYTHONPATH": folders, "LORA_NP_CACHE": str(tmp_path / "cache")}

    def run(*command):
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", PROGRAM)
    handed_out = (tmp_path / "exercises").read_text()
    assert "np.where" not in handed_out and "A softer step (medium, 7 minutes)" in handed_out
    assert "where it is above 0" in handed_out
    outcomes = json.loads(run(Path(__file__).with_name("run_cells.py"), "lesson", "exercises", "grading"))
    assert not any(error for book in ("lesson", "exercises") for _, error, _ in outcomes[book])
    assert not any(error for _, error, _ in outcomes["grading"])
    assert "done 9" in run("-c", "import lora_np as lnp; print(lnp.course.exercises())")


@pytest.mark.chapters
def test_without_a_copy_the_notebooks_are_told_where_it_is(own, tmp_path):
    pytest.importorskip("jupytext", reason="needs pip install -e .[author]")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "soft_step.py").write_text("", encoding="utf-8")
    for path, words in ((own, "chapters/03_trust"), (tmp_path / "wrong" / "soft_step.py", "CHAPTER is missing")):
        command = [sys.executable, str(ROOT / "chapters/build.py"), "--check", "2", "--exercise", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (words in done.stderr) is (path != own), done.stderr


@pytest.mark.parametrize("line", ["numpy.x = 5", "a[0] = 5", "X = {[]: 1}", "A, b.c = 1, 2", "A, B = 5"])
def test_a_line_that_is_no_plain_constant_is_passed_over(line, tmp_path):
    """What is missing is still told in a sentence."""
    (tmp_path / "double.py").write_text(f'"""A file."""\n{line}\n')
    with pytest.raises(ValueError, match="CHAPTER is missing"):
        lnp.course.register(tmp_path / "double.py")
