"""The chapters as a reader meets them: each lesson runs from top to bottom, each exercise notebook stops where it must.

They need jupytext, nbclient and a kernel (`pip install -e .[author]`), and take minutes: `pytest -m chapters`.
"""

import re
import sys
from pathlib import Path

import pytest

from lora_np.course.exercise import find
from lora_np.fetch import MINILM, cache_folder

pytestmark = pytest.mark.chapters
CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"
sys.path.insert(0, str(CHAPTERS))
build = pytest.importorskip("build", reason="needs pip install -e .[author]", exc_type=ImportError)
STEMS = [path.stem for path in build.sources()]
NETWORK = ("08",)  # chapters that need the pinned model and data
LONG = ("06", "08")  # and that train for minutes
SHORTER = """
def shorter(start, train):
    def starts(self, model, sequences, labels, plan, *rest, **options):
        few = 16 * plan.batch_size  # the chapters draw the mean of 15
        start(self, model, sequences[:few], labels[:few], plan, *rest, **options)

    return starts, lambda self, batches, lr: train(self, batches[:16], lr)


from lora_np.course.assembled import Assembled
from lora_np.train import loop

loop.Training.__init__, Assembled.train = shorter(loop.Training.__init__, Assembled.train)
del shorter, Assembled, loop  # no name of the chapter's is here by itself
"""
FEWER = """
def of_few(answers, kind):
    def repeated(model, sequences, run=None):
        known = answers(model, sequences[:50])
        return kind([known[k % len(known)] for k in range(len(sequences))])

    return repeated


import numpy
from lora_np.train import evaluate, features

features.features, evaluate.predict = of_few(features.features, list), of_few(evaluate.predict, numpy.array)
del of_few, numpy, evaluate, features
"""


def needs_network(stem):
    if stem[:2] in NETWORK and not (cache_folder() / MINILM.entry).exists():
        pytest.skip("chapter 8 needs the pinned model: python -m lora_np info minilm fetches it")


def run(book, tmp_path, monkeypatch, allow_errors):
    monkeypatch.setenv("PYTHONPATH", str(CHAPTERS.parent))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("LORA_NP_ANSWERS", str(build.answered_before(book, tmp_path)))
    folder = {"metadata": {"path": str(tmp_path)}}  # alone in an empty folder
    build.NotebookClient(book, timeout=1200, allow_errors=allow_errors, resources=folder).execute()
    return book


def shortened(book, stem):
    """Return a notebook whose trainings have 16 batches an epoch, and whose real BERT answers 50 texts at most."""
    book.cells.insert(0, build.nbformat.v4.new_code_cell(SHORTER + FEWER * (stem[:2] in NETWORK)))
    return book


@pytest.mark.parametrize("stem", STEMS)
def test_the_notebooks_are_what_their_source_makes(stem):
    assert list(build.differences(CHAPTERS / "src" / f"{stem}.py", execute=False)) == []


@pytest.mark.parametrize("stem", [stem for stem in STEMS if stem[:2] not in NETWORK])
def test_an_exercise_notebook_runs_to_its_end_and_says_what_is_to_be_written(stem, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    book = shortened(build.exercises(CHAPTERS / "src" / f"{stem}.py"), stem)
    for cell in run(book, tmp_path, monkeypatch, allow_errors=False).cells:
        if cell.id.startswith("check-"):
            assert "not right yet" in build.outputs_of(cell), cell.source


@pytest.mark.parametrize(
    ("stem", "whole"),
    [(stem, stem[:2] not in LONG) for stem in STEMS]
    + [pytest.param(stem, True, marks=pytest.mark.release) for stem in STEMS if stem[:2] in LONG],
)
def test_with_the_solutions_pasted_in_it_is_right_and_shows_what_the_lesson_shows(stem, whole, tmp_path, monkeypatch):
    """So this run is the lesson's, too; what the authors assert of its measured numbers holds where it is whole."""
    needs_network(stem)
    if stem[:2] not in NETWORK:
        monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    source = CHAPTERS / "src" / f"{stem}.py"
    answers = [cell for cell in build.cells_of(source) if "exercise" in cell.metadata]
    solutions = {cell.metadata["exercise"]: build.solved(cell.source) for cell in answers}
    book = build.exercises(source)
    for cell in book.cells:
        cell.source = solutions.get(cell.id, cell.source)
    shown = {cell.id: cell for cell in build.nbformat.read(CHAPTERS / f"{stem}.ipynb", as_version=4).cells}
    book = build.with_asserts(book, source) if whole else shortened(book, stem)
    for cell in run(book, tmp_path, monkeypatch, allow_errors=True).cells:
        assert not [output for output in cell.get("outputs", ()) if output.output_type == "error"], cell.source
        if cell.id in shown and "measured" not in cell.metadata.get("tags", ()):
            assert build.outputs_of(cell) == build.outputs_of(shown[cell.id]), cell.source


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_keeps_the_rules_of_its_form(stem):
    cells = build.cells_of(CHAPTERS / "src" / f"{stem}.py")
    for cell in cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.split("\n") if line.strip()]
            most = 40 if "hide-input" in cell.metadata.get("tags", ()) else 25
            assert len(lines) < most, f"{len(lines)} lines:\n{cell.source}"
            assert not re.search(r"assert .*check\(", cell.source), "readers would see what it prints, and not the line"
        elif "<details>" in cell.source:
            assert re.search(r"</summary>\n\n", cell.source), "a blank line after </summary>, or Markdown shows no text"
            inside = "".join(re.findall(r"<details>.*?</details>", cell.source, re.DOTALL))
            assert "$" not in inside, "no LaTeX inside <details>"
        if "hide-input" in cell.metadata.get("tags", ()):
            assert cell.source.startswith("# "), f"a folded cell begins with a comment, which stays: {cell.source}"
    names = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    assert names and names == [cell.metadata["check"] for cell in cells if "check" in cell.metadata]


@pytest.mark.parametrize("stem", STEMS)
def test_no_line_of_code_is_scrolled_sideways(stem):
    code = [cell.source for cell in build.cells_of(CHAPTERS / "src" / f"{stem}.py") if cell.cell_type == "code"]
    wide = [line for source in code for line in source.split("\n") if len(line) > 88]
    assert not wide, "\n".join([f"{len(wide)} lines:", *wide])


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_begins_with_a_way_through_it_in_20_minutes(stem):
    first = build.cells_of(CHAPTERS / "src" / f"{stem}.py")[0].source
    quick = re.search(r"\n\n\*\*In 20 minutes:\*\* (.*?)\n\n", first, re.DOTALL)[1]
    written = [find(name) for name in re.findall(r"`(\w+)`", quick)]
    assert quick.count("](#") >= 2 and all(exercise.chapter == int(stem[:2]) for exercise in written)
    assert sum(exercise.minutes for exercise in written) <= 15


@pytest.mark.parametrize("stem", STEMS)
def test_a_link_within_the_page_leads_to_a_heading(stem):
    text = "\n".join(c.source for c in build.cells_of(CHAPTERS / "src" / f"{stem}.py") if c.cell_type == "markdown")
    headings = {heading.replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^\s]*)\)", text)) <= headings


def test_the_second_sitting_of_chapter_4_needs_the_setup_and_the_kept_answers_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    book = build.lesson(CHAPTERS / "src" / "04_backward_pass.py")
    start = next(k for k, cell in enumerate(book.cells) if "## Second sitting" in cell.source)
    book.cells = [cell for cell in book.cells[:start] if "setup" in cell.metadata.get("tags", ())] + book.cells[start:]
    for cell in run(book, tmp_path, monkeypatch, allow_errors=False).cells:
        assert "not right yet" not in build.outputs_of(cell), cell.source
