"""From a source cell to what is handed out, and to what nbgrader gets."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_np.course.exercise import find

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chapters"))
build = pytest.importorskip("build", reason="needs pip install -e .[author]", exc_type=ImportError)
pytestmark = pytest.mark.chapters  # the README's commands do not install what makes notebooks

SOURCE = '''def double(x):
    """Return 2 x."""
    # BEGIN SOLUTION
    y = x + x
    return y
    # END SOLUTION'''


def test_a_lesson_has_the_solution_without_marks():
    assert build.solved(SOURCE) == 'def double(x):\n    """Return 2 x."""\n    y = x + x\n    return y'


def test_a_learner_gets_a_stub():
    stub = '    # YOUR CODE HERE\n    raise NotImplementedError("replace this line")'
    assert build.handed_out(SOURCE) == f'def double(x):\n    """Return 2 x."""\n{stub}'


def test_nbgrader_gets_its_own_marks():
    assert "### BEGIN SOLUTION\n    y = x + x" in build.for_nbgrader(SOURCE)


@pytest.mark.parametrize("lesson", [True, False])
def test_the_links_of_the_first_cell_lead_somewhere(lesson):
    folder = build.HERE if lesson else build.HERE / "exercises"
    targets = re.findall(r"\]\(([^)]+)\)", build.links(build.sources()[4], lesson).source)
    here = [target.partition("#") for target in targets if "://" not in target]
    assert len(here) == 3 and all((folder / target).is_file() for target, _, _ in here), here
    marks = [(mark, (folder / target).read_text(encoding="utf-8")) for target, _, mark in here if mark]
    assert marks and all(f"\n## {mark}\n" in text.lower() for mark, text in marks)


ADDRESS = "https://github.com/someone/lora_np"
COLAB = "https://colab.research.google.com/github/someone/lora_np/blob/main/chapters/exercises/05_the_lora_layer.ipynb"


def with_repository(line, folder, monkeypatch):
    (folder / "pyproject.toml").write_text(f"[tool.lora_np]\n{line}\n", encoding="utf-8")
    monkeypatch.setattr(build, "HERE", folder / "chapters")


@pytest.mark.parametrize(
    "line", [f'repository = "{ADDRESS}"  # "ours"', f"repository = '{ADDRESS}.git'", f'repository="{ADDRESS}/"']
)
def test_with_a_repository_on_github_there_is_a_badge(line, tmp_path, monkeypatch):
    with_repository(line, tmp_path, monkeypatch)
    assert f"({COLAB})" in build.links(Path("05_the_lora_layer.py"), lesson=False).source
    assert f'"git+{build.repository()}"' in build.setup_cell().source


@pytest.mark.parametrize(
    "line", ['repository = ""', "", 'repository = "file:///a/clone"', 'repository = "https://gitlab.com/a/b"']
)
def test_elsewhere_there_is_none(line, tmp_path, monkeypatch):
    with_repository(line, tmp_path, monkeypatch)
    assert "olab" not in build.links(Path("05_the_lora_layer.py"), lesson=False).source
    assert ("git+" in build.setup_cell().source) == ("://" in line)


@pytest.mark.parametrize(
    "address", ["git@github.com:someone/lora_np.git", "../lora_np", "https://a/b c", "github.com/a/b"]
)
def test_an_address_that_pip_does_not_take_is_refused(address, tmp_path, monkeypatch):
    with_repository(f'repository = "{address}"', tmp_path, monkeypatch)
    with pytest.raises(
        ValueError, match=re.escape(f"repository in pyproject.toml is {address!r}; expected what pip takes")
    ):
        build.setup_cell()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the course whose repository is a clone at a local address; the first cell of one of its notebooks."""
    if not shutil.which("git"):
        pytest.skip("git is not installed; pip needs it, too")
    course, there = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("git") / "clone"
    for name in ("lora_np", "chapters"):
        shutil.copytree(ROOT / name, course / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, course / name)
    text = (course / "pyproject.toml").read_text(encoding="utf-8")
    new = re.sub('^repository = ".*?"', f'repository = "{there.as_uri()}"', text, flags=re.MULTILINE)
    (course / "pyproject.toml").write_text(new, encoding="utf-8")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all"), ("clone", "-q", ".", str(there))):
        subprocess.run(["git", *author, *arguments], cwd=course, check=True)
    program = "import build; print(build.grading(build.sources(['8'])[0]).cells[1].source)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(course / "chapters"), str(course)])}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout


FIRST_CELL = """
import importlib.util, json, subprocess, sys
cell, more = json.loads(sys.argv[1])
find, run = importlib.util.find_spec, subprocess.run
importlib.util.find_spec = lambda name: None if name == "lora_np" else find(name)  # as where it is not installed
subprocess.run = lambda command, **options: run([*command, *more], **options)
exec(cell)
"""
USE = """
import sys
import numpy as np
import lora_np as lnp
assert lnp.__file__.startswith(sys.argv[1]), lnp.__file__
model, parts = lnp.load_pretrained("digits"), [lnp.load_data(name) for name in ("digits", "digits-mixed")]
assert lnp.count_parameters(model).total == 136138 and all(map(len, parts[0]))
assert "likely one slip" in str(lnp.course.check("gelu_backward", lambda dy, cache: dy * cache.cdf))
"""


@pytest.mark.download
def test_the_first_cell_installs_what_a_notebook_needs(clone, tmp_path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    arguments = json.dumps([clone, ["--no-deps", "--target", str(target)]])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CELL, arguments], cwd=empty, env=environment, capture_output=True, text=True
    )
    if "setuptools" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("setuptools, which builds the package, cannot be had")
    assert done.returncode == 0, done.stderr
    environment |= {"PYTHONPATH": str(target), "LORA_NP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(target)], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_all_that_is_not_python_comes_with_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = re.findall(r'"(.*?)"', re.search(r"^lora_np = \[(.*)\]", text, re.MULTILINE)[1])
    taken = {path for pattern in patterns for path in (ROOT / "lora_np").glob(pattern) if path.is_file()}
    there = {path for path in (ROOT / "lora_np").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there and there <= taken


def test_a_heading_takes_level_time_and_hints_from_the_exercise():
    cell = build.markdown("### Exercise: forward ({{linear_forward}})\n\nWrite it.")
    build.fill(cell)
    assert (
        cell.source.startswith("### Exercise 1: forward (easy, ")
        and "minutes)\n\nWrite it.\n\n<details>" in cell.source
    )
    for number, words in enumerate(find("linear_forward").hints, start=1):
        assert f"<details><summary>Hint {number}</summary>\n\n{words}\n\n</details>" in cell.source


TINY = """\
# %% [markdown]
# # 9. Tiny

# %% tags=["hide-input", "measured"]
# Draws nothing.
x = 1
assert x == 1, (
    "a second line"
)

# %%
for x in (1, 2):
    assert x < 3  # as the text says
    print(x)
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "09_tiny.py"
    path.write_text(TINY, encoding="utf-8")
    return path


def test_asserts_are_run_and_not_shown(tiny):
    book = build.executed(build.lesson(tiny), tiny, tiny.parent)
    assert [cell.source for cell in book.cells[3:]] == ["# Draws nothing.\nx = 1", "for x in (1, 2):\n    print(x)"]
    assert build.outputs_of(book.cells[-1]) == "1\n2\n"
    tiny.write_text(TINY.replace("x < 3", "x < 2"), encoding="utf-8")
    with pytest.raises(build.CellExecutionError, match="x < 2"):
        build.executed(build.lesson(tiny), tiny, tiny.parent)


@pytest.mark.parametrize("rest", ["    print(x)", "x = 1\n"])
def test_without_its_asserts_a_cell_is_still_code(rest, tiny):
    tiny.write_text(TINY.replace(rest, ""), encoding="utf-8")
    with pytest.raises(ValueError, match="without its asserts, which readers do not see, this is no code"):
        build.cells_of(tiny)


def test_what_draws_and_what_imports_is_folded(tiny):
    book = build.exercises(tiny)
    seen = [
        (cell.metadata.get("tags"), cell.metadata.get("jupyter")) for cell in book.cells if "code" in cell.cell_type
    ]
    folded = {"source_hidden": True}
    assert seen == [(["hide-input", "setup"], folded), (["hide-input", "measured"], folded), (None, None)]


@pytest.mark.parametrize("name", ["gelu_backward", "attention_layer_backward"])
def test_a_check_goes_on_with_the_right_function_in_lines_that_are_not_wide(name):
    text = build.goes_on(name, f'lnp.course.check("{name}", {name})')
    assert max(map(len, text.split("\n"))) <= 88
    assert ast.unparse(ast.parse(text)) == f"{name} = lnp.course.check('{name}', {name}).function"


def test_ids_are_the_same_in_every_build_and_unique():
    cells = [[build.code("x = 1"), build.code("x = 1"), build.code("y", role="double")] for _ in range(2)]
    ids = [[cell.id for cell in build.notebook(book).cells] for book in cells]
    assert ids[0] == ids[1] and len(set(ids[0])) == 3 and ids[0][2] == "double"


def test_slides_begin_at_headings_and_show_no_solution():
    path = build.sources(["5"])[0]
    cells = build.slides(path).cells
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in cells]
    headings = [cell.source.startswith("#") and cell.cell_type == "markdown" for cell in cells]
    assert [kind == "slide" for kind in kinds] == headings and headings.count(True) > 10
    shown = "".join(cell.source for cell, kind in zip(cells, kinds) if kind != "skip")
    assert "YOUR CODE HERE" in shown and "course.check(" not in shown and "importlib" not in shown
    assert "Symbols and shapes" in cells[0].source and "Symbols and shapes" not in shown
    setup = [kind for cell, kind in zip(cells, kinds) if "setup" in cell.metadata.get("tags", ())]
    assert setup == ["skip", "skip"]
    assert find("lora_linear_backward").parts_of("lora_linear_backward")[1].strip() not in shown
    assert {"-", "subslide"} < set(kinds) and any(cell.get("outputs") for cell in cells)


def test_slides_are_written_where_they_are_wanted(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(build, "write_slides", lambda *given: asked.append(given))
    monkeypatch.setattr(sys, "argv", ["build.py", "5", "--slides", str(tmp_path)])
    build.main()
    assert asked == [(tmp_path, build.sources(["5"]))]


def test_without_nbconvert_slides_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    with pytest.raises(ValueError, match="pip install nbconvert"):
        build.write_slides(tmp_path, [])


def test_slides_are_pages_of_their_own_without_the_code_that_is_folded(tiny, tmp_path, monkeypatch):
    pytest.importorskip("nbconvert", reason="slides need nbconvert")
    build.write_slides(tmp_path, build.sources(["5"]))
    assert "<section" in (tmp_path / "05_the_lora_layer.slides.html").read_text(encoding="utf-8")
    monkeypatch.setattr(build, "slides", build.lesson)
    build.write_slides(tmp_path, [tiny])
    page = (tmp_path / "09_tiny.slides.html").read_text(encoding="utf-8")
    assert "Draws nothing" not in page and 'class="nb">print' in page
