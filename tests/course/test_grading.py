"""What nbgrader gets of each chapter: it passes its own tests, alone and at once, and leads to no solution.

nbgrader itself is run by hand: tests/course/nbgrader/end_to_end.py.
"""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "chapters"))
build = pytest.importorskip("build", reason="needs pip install -e .[author]", exc_type=ImportError)
pytestmark = pytest.mark.chapters  # the README's commands do not install what makes notebooks
SOURCES = {path.stem: path for path in build.sources()}
by_chapter = pytest.mark.parametrize("stem", SOURCES)


def released(book):
    """Return a notebook as nbgrader releases it: the stub in place of each solution."""
    for cell in book.cells:
        indented = "\n".join(r"\1" + line for line in build.STUB.split("\n"))
        cell.source = re.sub(r"( *)### BEGIN SOLUTION\n.*### END SOLUTION", indented, cell.source, flags=re.DOTALL)
    return book


def run(books, folder):
    """Run notebooks with an empty cache, and return, by name, what became of each of their code cells."""
    for name, book in books.items():
        (folder / name).write_text(build.nbformat.writes(book), encoding="utf-8")
    settings = {"LORA_NP_CACHE": str(folder / "cache"), "PIP_NO_INDEX": "1", "MPLBACKEND": "agg"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("run_cells.py")), *books]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Run each chapter's grading notebook, and what is released of it."""
    books = {stem: build.grading(path) for stem, path in SOURCES.items()}
    books |= {f"{stem} released": released(build.grading(path)) for stem, path in SOURCES.items()}
    return run(books, tmp_path_factory.mktemp("graded"))


@by_chapter
def test_the_solutions_pass_the_tests_without_network_or_training(stem, graded):
    assert [outcome for outcome in graded[stem] if outcome[1]] == []


@by_chapter
def test_as_released_each_test_fails_by_its_verdict_and_nothing_else_fails(stem, graded):
    unsolved = "it is still to be written: put your code in place of the line that raises NotImplementedError"
    for cell, error, message in graded[f"{stem} released"]:
        assert (error, message) == (("AssertionError", unsolved) if cell.startswith("test-") else ("", "")), cell


@by_chapter
def test_only_what_an_exercise_needs_is_executed(stem):
    """Chapter 8 trains a BERT; to grade its one function, four cells are run."""
    cells = [cell for cell in build.grading(SOURCES[stem]).cells if cell.cell_type == "code"]
    kinds = {"solution": [], "grade": [], "": []}  # to be written, scored, and to be left alone
    for cell in cells:
        about = cell.metadata.nbgrader
        assert about["schema_version"] == 3 and about["locked"] is not about["solution"] and about["task"] is False
        assert "points" not in about or (about["grade"] and about["points"] in (1, 2, 3))
        kinds[next((kind for kind in ("solution", "grade") if about[kind]), "")].append(about["grade_id"])
    names = [cell.metadata["exercise"] for cell in build.cells_of(SOURCES[stem]) if "exercise" in cell.metadata]
    assert kinds["solution"] == names and kinds["grade"] == [f"test-{name}" for name in names]
    assert len(kinds[""]) == (3 if stem[:2] == "03" else 2) and len(
        {c.metadata.nbgrader["grade_id"] for c in cells}
    ) == len(cells)
    assert not re.search(r"minilm|finetune|steps\(\)", "".join(cell.source for cell in cells))


@by_chapter
def test_what_is_released_leads_to_no_solution(stem):
    book = released(build.grading(SOURCES[stem]))
    build.nbformat.validate(book)
    assert not re.search(r"\.ipynb|colab|SOLUTION", build.nbformat.writes(book))
    code = {line.strip() for cell in book.cells if cell.cell_type == "code" for line in cell.source.split("\n")}
    for cell in build.cells_of(SOURCES[stem]):
        if "exercise" in cell.metadata:
            own = set(build.solved(cell.source).split("\n")) - set(build.handed_out(cell.source).split("\n"))
            assert own and not code & {line.strip() for line in own if line.strip()}


def test_each_exercise_is_released_with_its_text():
    book = released(build.grading(SOURCES["03_trusting_a_gradient"]))
    place = next(k for k, cell in enumerate(book.cells) if cell.id == "choose_step")
    assert book.cells[place - 1].source.startswith("### Exercise 1: choose the step")
    assert book.cells[place].source.split("\n")[2:] == [
        "    # YOUR CODE HERE",
        '    raise NotImplementedError("replace this line")',
    ]


def test_an_exercise_notebook_is_no_release():
    """It opens with a link to the solutions, and holds the whole chapter."""
    assert not any("nbgrader" in cell.metadata for path in SOURCES.values() for cell in build.exercises(path).cells)


CHAPTER = """# %% [markdown]
# # 9. Ours
# %% tags=["setup"]
import numpy as np

import lora_np as lnp
TWO = 2
# %% [markdown]
# Write it.
# %% exercise="choose_step"
def choose_step(order):
    # BEGIN SOLUTION
    return 2.0 ** (-52 / (order + TWO - 1))
    # END SOLUTION
# %% check="choose_step"
lnp.course.check("choose_step", choose_step)
"""
FAULTS = {
    "unknown": (
        'exercise="choose_step"',
        'exercise="chose_step"',
        "no exercise 'chose_step'; did you mean choose_step",
    ),
    "nonsense": ('exercise="choose_step"', 'exercise="zzz"', "no exercise 'zzz'; did you mean .*exercises/zzz.py"),
    "number": ('exercise="choose_step"', "exercise=5", "no exercise '5'; did you mean"),
    "no name": ('exercise="choose_step"', "", "has the mark BEGIN SOLUTION but no exercise="),
    "misspelt": ('exercise="choose_step"', 'excercise="choose_step"', "has the mark BEGIN SOLUTION but no exercise="),
    "no test": ('# %% check="choose_step"', "# %%", 'choose_step has no test; add a cell # %% check="choose_step"'),
    "no exercise": ('check="choose_step"', 'check="gelu_forward"', "a check of gelu_forward has no exercise"),
    "another": ('check("choose_step"', 'check("gelu_forward"', "the check of choose_step is not that; expected only"),
    "more": ("choose_step)\n", "choose_step)\nprint(1)\n", "the check of choose_step is not that; expected only"),
    "no call": ('lnp.course.check("choose_step", choose_step)', "choose_step", "the check of choose_step is not that"),
    "no end": ("    # END SOLUTION\n", "", r"has the marks \['BEGIN SOLUTION'\]; expected"),
    "no mark": ("# BEGIN SOLUTION\n", "\n", r"has the marks \['END SOLUTION'\]; expected"),
    "a mark behind code": (
        "    # BEGIN SOLUTION\n    return",
        "    return 0 # BEGIN SOLUTION\n    return",
        "on a line of its",
    ),
}


def chapter(folder, text):
    path = folder / "09_ours.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("old, new, sentence", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_chapter_is_named_in_a_sentence(old, new, sentence, tmp_path):
    assert CHAPTER.count(old) == 1
    path = chapter(tmp_path, CHAPTER.replace(old, new))
    for make in (build.grading, build.exercises, build.lesson):
        with pytest.raises(ValueError, match=f"^chapters/src/09_ours.py: .*{sentence}"):
            make(path)


def test_an_exercise_that_stands_twice_is_named(tmp_path):
    with pytest.raises(ValueError, match="the exercise choose_step stands there twice"):
        build.grading(chapter(tmp_path, CHAPTER + CHAPTER))


def test_a_chapter_of_a_teachers_own_is_graded(tmp_path):
    books = {"right": build.grading(chapter(tmp_path, CHAPTER))}
    books["lost"] = build.grading(chapter(tmp_path, CHAPTER.replace('# %% tags=["setup"]', "# %%")))
    found = run(books, tmp_path)
    assert not any(error for _, error, _ in found["right"])
    assert [error for _, error, _ in found["lost"] if error] == ["NameError"]


@pytest.mark.parametrize("old, new, words", [("TWO = 2", "", "NameError: name 'TWO'"), ("- 1", "", "h is ")])
def test_a_course_whose_solutions_fail_is_not_written(old, new, words, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    path = chapter(tmp_path, CHAPTER.replace(old, new))
    with pytest.raises(ValueError, match=f"its own solutions do not pass its own tests: .*{words}"):
        build.write_course(tmp_path / "course", [path])
    assert not (tmp_path / "course").exists()


@by_chapter
def test_a_kernel_agrees_that_the_solutions_pass_the_tests(stem, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    build.proven(SOURCES[stem])
    assert not (tmp_path / "course.json").exists()  # progress is the reader's own


def test_what_a_teacher_has_changed_in_a_course_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "proven", build.grading)
    path, course = chapter(tmp_path, CHAPTER), tmp_path / "course"
    build.write_course(course, [path])
    assert (course / "nbgrader_config.py").read_text() == (build.HERE / "nbgrader_config.py").read_text()
    (course / "nbgrader_config.py").write_text("mine")
    build.write_course(course, [path])
    assert (course / "nbgrader_config.py").read_text() == "mine"
    notebook = course / "source" / "09_ours" / "09_ours.ipynb"
    mine = notebook.read_text(encoding="utf-8").replace("Write it.", "Write it well.")
    notebook.write_text(mine, encoding="utf-8")
    with pytest.raises(ValueError, match="09_ours.ipynb is there already, but with other cells; move it away"):
        build.write_course(course, [path])
    assert notebook.read_text(encoding="utf-8") == mine


def command(*arguments):
    done = subprocess.run([sys.executable, build.__file__, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode and not done.stdout and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["99"], "there is no chapter 99; there are 01, 02"),
    (["05", "9", "x"], "there is no chapter 9, x; there are 01"),
    (["--execute"], "--execute belongs to --check"),
    (["--points", "points.json"], "--points belongs to --nbgrader"),
    (["--check", "--nbgrader", "there"], "not allowed with"),
])  # fmt: skip
def test_an_order_that_cannot_be_followed_is_refused(arguments, words):
    assert words in command(*arguments)


def test_a_course_cannot_be_written_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "proven", build.grading)
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(sys, "argv", ["build.py", "8", "--nbgrader", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="file is a file; name a folder"):
        build.main()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("given, points", [({}, 1), ({"easy": 5}, 5), ({"easy": 5, "choose_step": 0.5}, 0.5)])
def test_a_teachers_points_are_those_of_the_tests(given, points, tmp_path):
    (tmp_path / "points.json").write_text(json.dumps(given))
    book = build.grading(chapter(tmp_path, CHAPTER), build.points_of(tmp_path / "points.json"))
    assert [c.metadata.nbgrader.points for c in book.cells if "points" in c.metadata.get("nbgrader", {})] == [points]


@pytest.mark.parametrize("text, words", [
    ("[1]", "points.json holds a list"),
    ("{", "points.json"),
    ('{"eazy": 1}', "there is no exercise 'eazy'; did you mean"),
    ('{"easy": "1"}', "points.json: easy has '1' points; expected a number, 0 or more"),
    ('{"easy": -1}', "points.json: easy has -1 points"),
    ('{"easy": true}', "points.json: easy has True points"),
    ('{"easy": 1e999}', "points.json: easy has inf points"),
])  # fmt: skip
def test_what_are_no_points_is_said(text, words, tmp_path):
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        build.points_of(tmp_path / "points.json")


def test_points_are_handed_to_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "executed", lambda book, path: book)
    (tmp_path / "points.json").write_text('{"choose_step": 7}')
    arguments = ["3", "--nbgrader", str(tmp_path / "course"), "--points", str(tmp_path / "points.json")]
    monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
    build.main()
    (written,) = (tmp_path / "course" / "source").rglob("*.ipynb")
    about = {c.id: c.metadata.get("nbgrader", {}) for c in build.nbformat.read(written, as_version=4).cells}
    assert about["test-choose_step"]["points"] == 7 and about["test-numerical_gradient"]["points"] in (1, 2, 3)


@pytest.fixture
def configuration(monkeypatch):
    """The configuration of a course, run as nbgrader runs it: what it sets, and its judge."""
    there = types.ModuleType("nbgrader.preprocessors")
    there.NbGraderPreprocessor = object
    monkeypatch.setitem(sys.modules, "nbgrader", types.ModuleType("nbgrader"))
    monkeypatch.setitem(sys.modules, "nbgrader.preprocessors", there)
    settings = mock.MagicMock()
    settings.Autograde.autograde_preprocessors = ["runs it", "keeps its score"]
    names = {"get_config": lambda: settings}
    exec((build.HERE / "nbgrader_config.py").read_text(encoding="utf-8"), names)
    return settings, names["JudgedAlone"]


def test_the_configuration_of_a_course_sets_the_stub_and_judges_before_the_score_is_kept(configuration):
    settings, judge = configuration
    assert settings.ClearSolutions.code_stub == {"python": build.STUB}
    assert settings.CourseDirectory.course_id == "lora_np" and settings.ExecutePreprocessor.timeout == 600
    assert settings.Autograde.autograde_preprocessors == ["runs it", judge, "keeps its score"]


CHEAT = "lnp.course.check = lambda *a: type('Verdict', (), {'ok': True})\n    return 0.1"
SOLUTION = "return 2.0 ** (-52 / (order + TWO - 1))"


@pytest.mark.parametrize("answer, before, words", [
    (SOLUTION, [], []),
    ("from mine import bits\n    return 2.0 ** (-bits() / (order + 1))", [], []),
    (CHEAT, [], ["judged alone, it is not right: h is 0.1"]),
    ("return 0.1", ["h is 0.1"], ["h is 0.1"]),  # what failed in the notebook is told by the notebook
])  # fmt: skip
def test_the_configuration_of_a_course_takes_the_points_of_a_cheat(answer, before, words, configuration, tmp_path):
    (tmp_path / "mine.py").write_text("def bits():\n    return 52\n")
    book = build.grading(chapter(tmp_path, CHAPTER.replace(SOLUTION, answer)))
    tested = next(cell for cell in book.cells if cell.id == "test-choose_step")
    tested.outputs = [build.nbformat.v4.new_output("error", ename="A", evalue=words) for words in before]
    given = configuration[1]().preprocess(book, {"metadata": {"path": str(tmp_path)}})
    assert given[0] is book and not any(c.outputs for c in book.cells if "code" in c.cell_type and c is not tested)
    assert len(tested.outputs) == len(words)
    for output, expected in zip(tested.outputs, words):
        assert output.output_type == "error" and re.search(expected, output.evalue)
