"""Make the notebooks from their sources, chapters/src/NN_name.py (jupytext, py:percent).

python chapters/build.py [NN ...]            write chapters/NN_name.ipynb (the lesson, executed, with its outputs) and
                                             chapters/exercises/NN_name.ipynb (to be handed out: stubs, no outputs);
                                             chapters/pictures/NN_name.png from its cell with the tag `picture`
python chapters/build.py --check             fail if a committed notebook is not what its source makes, outputs aside
python chapters/build.py --check --execute   the same, and run the lessons: each text output must be the committed one,
                                             but for cells with the tag `measured`
python chapters/build.py --nbgrader DIR [NN ...]
                                             write a course for nbgrader: its configuration, and of each chapter what
                                             is graded, once its own solutions have passed its own tests; --points FILE
                                             says what an exercise is worth
python chapters/build.py --slides DIR [NN ...]
                                             write chapters as slides, DIR/NN_name.slides.html, from the notebooks
                                             that were built; needs nbconvert

In a source, `# %% exercise="name"` marks the cell of an exercise: its line `from lora_np.course.exercises.name import
name` becomes the solution that this file holds or, where it is handed out, a stub. `{{name}}` in a text becomes the
level and the time, the heading `Exercise:` before it gets its number, and the hints follow the text. `# %%
check="name"` marks the cell that checks it, and `# %% tags=["setup"]` what the exercises need to run: with these cells,
the text before each exercise, and its check as a test, a chapter is graded.

`# %% tags=["hide-input"]` marks a cell whose point is its figure: its code is folded, as that of the setup is. An
`assert` proves to its authors what the text says: it is run here and by the tests, and readers do not see it.
"""

import argparse
import ast
import base64
import copy
import hashlib
import os
import re
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # this checkout, whatever is installed

from lora_np.course import register  # noqa: E402
from lora_np.course.exercise import all_exercises, find  # noqa: E402
from lora_np.course.kept import document, text_of  # noqa: E402
from lora_np.files import read_json  # noqa: E402

HINT = "\n\n<details><summary>Hint {number}</summary>\n\n{words}\n\n</details>"
STUB = '# YOUR CODE HERE\nraise NotImplementedError("replace this line")'
POINTS = {"easy": 1, "medium": 2, "hard": 3}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SETUP = """\
# Finds lora_np: installed, or in the checkout that this notebook belongs to.
import importlib.util
import sys
from pathlib import Path

for folder in (Path.cwd(), *Path.cwd().parents):
    if importlib.util.find_spec("lora_np") is None and (folder / "lora_np" / "ops").is_dir():
        sys.path.insert(0, str(folder))
if importlib.util.find_spec("lora_np") is None:
    {missing}"""
MISSING = 'raise ModuleNotFoundError("lora_np is not here; run: pip install -r requirements.txt in its folder")'
INSTALL = """\
import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+{address}"], check=True)"""
FOLDED = "hide-input"  # so Jupyter Book calls it; JupyterLab wants jupyter.source_hidden, and GitHub folds nothing
WRITTEN = ["BEGIN SOLUTION", "END SOLUTION"]
MARK = r"\n *# (?:BEGIN|END) SOLUTION(?=\n|$)"


def repository():
    """Return the address of the repository in pyproject.toml, "" while there is none."""
    text = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"""^repository *= *["']([^"'\n]*)["']""", text, re.MULTILINE)
    address = found[1].rstrip("/") if found else ""
    if address and not re.fullmatch(r"[a-z]+://[^\s\\{}]+", address):
        words = "expected what pip takes behind git+, such as https://github.com/NAME/lora_np or file:///folder"
        raise ValueError(f"repository in pyproject.toml is {address!r}; {words}")
    return address


def sources(numbers=()):
    """Return the sources in order, all or those whose number is given."""
    found = sorted((HERE / "src").glob("[0-9][0-9]_*.py"))
    return [path for path in found if not numbers or path.stem[:2] in [number.zfill(2) for number in numbers]]


def cells_of(path):
    """Return the cells of a source, or raise a ValueError that says what is wrong with its exercises."""
    cells = jupytext.read(path, fmt="py:percent").cells
    for cell in cells:
        try:
            fill(cell)
        except ValueError as error:
            raise ValueError(f"chapters/src/{path.name}: {error}") from error
    for sentence in faults(cells):
        raise ValueError(f"chapters/src/{path.name}: {sentence}")
    return cells


def fill(cell):
    """Put what an exercise's file holds into a cell: its solution for its import; its level and time, and its hints."""
    for name in re.findall(r"\{\{(\w+)\}\}", cell.source) if cell.cell_type == "markdown" else ():
        exercise = find(name)
        heading = re.compile(rf"^(#+ Exercise)(?=: .*\{{\{{{name}\}}\}})", re.MULTILINE)
        cell.source = heading.sub(rf"\1 {exercise.place}", cell.source)
        cell.source = cell.source.replace(f"{{{{{name}}}}}", f"{exercise.level}, {exercise.minutes} minutes")
        for number, words in enumerate(exercise.hints, start=1):
            cell.source += HINT.format(number=number, words=words)
    name = str(cell.metadata.get("exercise", ""))
    line = re.compile(rf"^from [\w.]+ import {name}$", re.MULTILINE)
    if name and line.search(cell.source):
        exercise = find(name)
        head, body = exercise.parts_of(name)
        text = f"{head}\n    # BEGIN SOLUTION\n{body}\n    # END SOLUTION"
        cell.source = line.sub(lambda _: text, cell.source)


def faults(cells):
    """Yield what is wrong with the exercises of a chapter, a sentence each."""
    exercised, checked = [], []
    for cell in cells:
        name, check = (str(cell.metadata.get(key, "")) for key in ("exercise", "check"))
        marks = re.findall("(?:BEGIN|END) SOLUTION", cell.source)
        if marks and not name and cell.cell_type == "code":
            yield f"a cell has the mark {marks[0]} but no exercise=, so that its solution would be handed out; name it"
        if cell.cell_type == "code" and not name:
            try:
                seen = ast.parse(without_asserts(cell.source)).body
            except SyntaxError:
                seen = ()
            if not seen:
                yield f"without its asserts, which readers do not see, this is no code: {cell.source!r}"
        if name:
            if marks != WRITTEN or len(re.findall(MARK, cell.source)) != len(marks):
                words = "expected # BEGIN SOLUTION and # END SOLUTION, each on a line of its own below the first"
                yield f"the exercise {name} has the marks {marks}; {words}"
            try:
                find(name)
            except ValueError as error:
                yield f"{error}; correct the name, or write lora_np/course/exercises/{name}.py"
            if name in exercised:
                yield f"the exercise {name} stands there twice; take one out, as points are given by name"
            exercised.append(name)
        if check:
            if check not in exercised or check in checked:
                yield f"a check of {check} has no exercise of its own before it; put one there, or take the check out"
            if not calls(cell.source, check):
                yield f"the check of {check} is not that; expected only lnp.course.check({check!r}, {check})"
            checked.append(check)
    for name in exercised:
        if name not in checked:
            yield f'the exercise {name} has no test; add a cell # %% check="{name}": lnp.course.check({name!r}, {name})'


def calls(source, name):
    """Is the source one call whose first argument is this name?"""
    try:
        call = ast.parse(source.strip(), mode="eval").body
    except SyntaxError:
        return False
    return isinstance(call, ast.Call) and getattr(next(iter(call.args), None), "value", None) == name


def solved(source):
    """Return the code of an exercise with its solution, without the marks."""
    return re.sub(MARK, "", source)


def handed_out(source):
    """Return the code of an exercise as the learner gets it."""
    indent = re.search(r"\n( *)# BEGIN SOLUTION", source)[1]
    lines = "\n".join(indent + line for line in STUB.split("\n"))
    return re.sub(r"\n *# BEGIN SOLUTION\n.*# END SOLUTION", lambda _: "\n" + lines, source, flags=re.DOTALL)


def for_nbgrader(source):
    """Return the code of an exercise with nbgrader's own marks; nbgrader puts the stub in the solution's place."""
    return re.sub("# (BEGIN|END) SOLUTION", r"### \1 SOLUTION", source)


def links(path, lesson):
    """Return the first cell: where the chapter's other notebook is, the page of symbols, and the course's questions."""
    file, handed_out = f"{path.stem}.ipynb", f"exercises/{path.stem}.ipynb"
    words = (
        f"[The exercises of this chapter]({handed_out})" if lesson else f"[The chapter with its solutions](../{file})"
    )
    up = "" if lesson else "../"
    words += f" · [Symbols and shapes]({up}guide/symbols.md) · [The course's eight questions]({up}../README.md#learn)"
    if project := re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?", repository()):  # Colab opens no other
        colab = "https://colab.research.google.com"
        target = f"{colab}/github/{project[1]}/blob/main/chapters/{file if lesson else handed_out}"
        words += f" [![Open in Colab]({colab}/assets/colab-badge.svg)]({target})"
    return markdown(words)


def markdown(text, **metadata):
    return nbformat.v4.new_markdown_cell(text, metadata=metadata)


def code(text, **metadata):
    return nbformat.v4.new_code_cell(text, metadata=metadata)


def setup_cell(**metadata):
    """Return the cell that finds lora_np, or installs it from the repository where that is known."""
    address = repository()
    missing = INSTALL.format(address=address) if address else MISSING
    return code(SETUP.format(missing=missing), **folded("setup"), **metadata)


def notebook(cells):
    """Return a notebook of cells whose ids are the same in every build."""
    seen = {}
    for cell in cells:
        key = cell.metadata.pop("role", None) or hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[key] = seen.get(key, 0) + 1
        cell.id = re.sub(r"[^\w-]", "-", key if seen[key] == 1 else f"{key}-{seen[key]}")[:64]
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)


def lesson(path):
    """Return the chapter with its solutions, not yet executed."""
    return whole(path, links(path, lesson=True), solved)


def exercises(path):
    """Return the chapter as it is handed out to those who check themselves."""
    return whole(path, links(path, lesson=False), handed_out)


def whole(path, first, shown):
    """Return the whole chapter; `shown` makes of the cell of an exercise what stands there."""
    cells = [first, setup_cell()]
    for cell in cells_of(path):
        if cell.cell_type == "markdown":
            cells.append(markdown(cell.source))
        elif name := cell.metadata.get("exercise"):
            cells.append(code(shown(cell.source), role=name))
        elif name := cell.metadata.get("check"):
            cells.append(code(goes_on(name, cell.source.strip()), role=f"check-{name}"))
        else:
            cells.append(code(without_asserts(cell.source), **tags(cell)))
    return notebook(cells)


def goes_on(name, check):
    """Return the code that checks an answer, and goes on with the function that is right; 88 columns wide at most."""
    line = f"{name} = {check}.function"
    call, arguments = check[:-1].split("(", 1)
    return line if len(line) <= 88 else f"{name} = {call}(\n    {arguments}\n).function"


def tags(cell):
    own = cell.metadata.get("tags", ())
    return folded(*own) if {"setup", FOLDED} & set(own) else {"tags": list(own)} if own else {}


def folded(*tags):
    return {"tags": sorted({*tags, FOLDED}), "jupyter": {"source_hidden": True}}


def without_asserts(source):
    """Return the code of a cell as a reader sees it."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line for line in lines if line is not None).strip("\n")


def with_asserts(book, path):
    """Put the asserts of a chapter's source back into the cells of a notebook that is to be run."""
    plain = [cell for cell in cells_of(path) if cell.cell_type == "code" and "exercise" not in cell.metadata]
    whole = {without_asserts(cell.source): cell.source for cell in plain}
    for cell in book.cells:
        cell.source = whole.get(cell.source, cell.source)
    return book


def points_of(path):
    """Return POINTS, changed by a teacher's file: {"hard": 5, "linear_forward": 2}, a level or an exercise a line."""
    given = read_json(path)
    for name, points in given.items():
        if name not in POINTS:
            find(name)
        if type(points) not in (int, float) or not 0 <= points < float("inf"):
            raise ValueError(f"{path}: {name} has {points!r} points; expected a number, 0 or more")
    return {**POINTS, **given}


def grading(path, points=POINTS):
    """Return nbgrader's source of a chapter: what its exercises need, and of each the text, the code and the test.

    Nothing else is executed for each submission, and nothing leads to the chapter with its solutions.
    """
    source = cells_of(path)
    title = next((line for line in source[0].source.split("\n") if line.startswith("# ")), f"# {path.stem}")
    cells, text = [markdown(title), setup_cell(nbgrader=graded("setup"))], None
    for cell in source:
        if name := cell.metadata.get("exercise"):
            cells += [text] if text else []
            cells.append(code(for_nbgrader(cell.source), role=name, nbgrader=graded(name, solution=True)))
        elif name := cell.metadata.get("check"):
            test = f"verdict = {cell.source.strip()}\nassert verdict.ok, verdict.sentences[0]"
            worth = graded(f"test-{name}", points=points.get(name, points[find(name).level]))
            cells.append(code(test, role=f"test-{name}", nbgrader=worth))
        elif "setup" in cell.metadata.get("tags", ()):
            setup = without_asserts(cell.source)
            cells.append(code(setup, **tags(cell), nbgrader=graded(f"setup-{len(cells)}")))
        text = markdown(cell.source) if cell.cell_type == "markdown" else None
    return notebook(cells)


def graded(grade_id, solution=False, **points):
    """Return nbgrader's metadata (schema 3) of a cell: one to be written, or locked; one with points is scored."""
    kind = {"grade": bool(points), "locked": not solution, "solution": solution, "task": False}
    return {"grade_id": grade_id, "schema_version": 3, **kind, **points}


def executed(book, path, folder=HERE):
    """Run a chapter's notebook in a fresh kernel, after the answers of the chapters before; return it with outputs."""
    shown = [cell.source for cell in book.cells]
    with_asserts(book, path)
    with tempfile.TemporaryDirectory() as answers:
        own = {
            "LORA_NP_ANSWERS": str(answered_before(book, Path(answers))),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "NBGRADER_EXECUTION": "autograde",  # progress is the reader's own
            "PYTHONPATH": str(HERE.parent),
        }
        client = NotebookClient(book, timeout=1200, record_timing=False, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, **own})
    book.metadata = nbformat.from_dict(METADATA)
    for cell, source in zip(book.cells, shown):
        cell.source = source
        if ": not right yet" in outputs_of(cell) and cell.id.startswith("check-"):
            raise SystemExit(f"a solution is not right:\n{outputs_of(cell)}")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = plain_png(data["image/png"])
                data.pop("text/plain", None)  # <Figure size ...>
            output.get("metadata", {}).clear()
    return book


def answered_before(book, folder):
    """Return a file, as a learner has it, with the solutions of all chapters before that of a notebook."""
    course = all_exercises().values()
    own = [exercise.chapter for exercise in course if any(cell.id == f"check-{exercise.name}" for cell in book.cells)]
    texts = {exercise.name: text_of(exercise.solution) for exercise in course if exercise.chapter < min(own, default=0)}
    (folder / "my_answers.py").write_text(document(texts), encoding="utf-8")
    return folder / "my_answers.py"


def proven(path, points=POINTS):
    """Return nbgrader's source of a chapter if its own solutions pass its own tests, else raise a ValueError."""
    book = grading(path, points)
    try:
        executed(copy.deepcopy(book), path)
    except CellExecutionError as error:
        words = f"its own solutions do not pass its own tests: {error.ename}: {error.evalue}"
        way = 'mend the solution, or give tags=["setup"] to the cell that makes what is missing'
        raise ValueError(f"chapters/src/{path.name}: {words}; {way}") from error
    return book


def plain_png(text):
    """Return a PNG, in base64, without its text: the name and version of the software."""
    data, place, kept = base64.b64decode(text), 8, []
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        if data[place + 4 : place + 8] != b"tEXt":
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return base64.b64encode(data[:8] + b"".join(kept)).decode() + "\n"


def written(path, content):
    """Write a notebook, or the bytes of a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else (nbformat.writes(content) + "\n").encode())
    print(path.relative_to(HERE.parent) if path.is_relative_to(HERE.parent) else path)


def picture_of(book):
    """Return the PNG that the chapter's cell with the tag `picture` draws: it stands for the chapter in the README."""
    cell = next(cell for cell in book.cells if "picture" in cell.metadata.get("tags", ()))
    return base64.b64decode(next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})))


def outputs_of(cell):
    """Return the text outputs of a cell; pictures depend on the versions of libraries."""
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            found.append(output.text)
        elif output.output_type == "error":
            found.append(f"{output.ename}: {output.evalue}")
        elif "text/plain" in output.get("data", {}) and "image/png" not in output.data:
            found.append(output.data["text/plain"])
    return "".join(found)


def differences(path, execute):
    """Yield sentences about the committed notebooks of a chapter that are not what its source makes."""
    for folder, book in (HERE, lesson(path)), (HERE / "exercises", exercises(path)):
        target = folder / f"{path.stem}.ipynb"
        name = target.relative_to(HERE.parent)
        if not target.exists():
            yield f"{name} is missing"
            continue
        committed = nbformat.read(target, as_version=4)
        mine, theirs = ([(cell.id, cell.source, dict(cell.metadata)) for cell in b.cells] for b in (book, committed))
        if mine != theirs:
            k = next((k for k, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
            yield f"{name} is not what src/{path.name} makes: cell {k + 1} differs"
        elif folder == HERE:
            picture = HERE / "pictures" / f"{path.stem}.png"
            if not picture.exists() or picture.read_bytes() != picture_of(committed):
                yield f"{picture.relative_to(HERE.parent)} is not the picture in {name}"
            for k, (new, old) in enumerate(zip(executed(book, path).cells, committed.cells) if execute else ()):
                measured = "measured" in new.metadata.get("tags", ())
                if not measured and outputs_of(new) != outputs_of(old):
                    yield f"{name}: cell {k + 1} gives {outputs_of(new)!r}, committed is {outputs_of(old)!r}"


def write_course(folder, paths, points=POINTS):
    """Write a course for nbgrader, all of it or nothing; a notebook that somebody has changed is not replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the course")
    books = {folder / "source" / path.stem / f"{path.stem}.ipynb": proven(path, points) for path in paths}
    for target, book in books.items():
        if target.exists() and nbformat.read(target, as_version=4) != book:
            raise ValueError(f"{target} is there already, but with other cells; move it away, or name another folder")
    for target, book in books.items():
        written(target, book)
    config = folder / "nbgrader_config.py"
    if not config.exists():
        shutil.copyfile(HERE / config.name, config)


def slides(path):
    """Return a chapter as slides: each heading a slide, what follows it below; exercises as they are handed out."""
    handed = {cell.id: cell.source for cell in exercises(path).cells}
    book = nbformat.read(HERE / f"{path.stem}.ipynb", as_version=4)
    for number, cell in enumerate(book.cells):
        cell.source = handed.get(cell.id, cell.source)
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        kind = "slide" if heading else "-" if cell.source.startswith("*") else "subslide"  # a picture keeps its caption
        if number == 0 or cell.id.startswith("check-") or "setup" in cell.metadata.get("tags", ()):
            kind = "skip"
        cell.metadata["slideshow"] = {"slide_type": kind}
    return book


def write_slides(folder, paths):
    """Write the slides of chapters, as HTML."""
    try:
        from nbconvert import SlidesExporter  # noqa: PLC0415 - for slides alone
        from traitlets.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("slides need nbconvert; run: pip install nbconvert") from error
    seen = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {FOLDED}}})
    for path in paths:
        text, _ = SlidesExporter(config=seen, reveal_scroll=True, reveal_number="c/t").from_notebook_node(slides(path))
        written(folder / f"{path.stem}.slides.html", text.encode())


def main():
    parser = argparse.ArgumentParser(description="Make the notebooks from chapters/src.")
    parser.add_argument("chapters", nargs="*", help="numbers such as 05; without, all")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--check", action="store_true", help="compare with the committed notebooks, write nothing")
    task.add_argument("--nbgrader", type=Path, metavar="DIR", help="write a course for nbgrader there")
    task.add_argument("--slides", type=Path, metavar="DIR", help="write the chapters as slides there, in HTML")
    parser.add_argument("--execute", action="store_true", help="with --check: compare text outputs, too")
    parser.add_argument("--points", type=Path, metavar="FILE", help="with --nbgrader: points of a level or an exercise")
    parser.add_argument(
        "--exercise", action="append", default=[], metavar="FILE", help="of your own, not in lora_np/course/exercises"
    )
    options = parser.parse_args()
    known = [path.stem[:2] for path in sources()]
    if unknown := [number for number in options.chapters if number.zfill(2) not in known]:
        parser.error(f"there is no chapter {', '.join(unknown)}; there are {', '.join(known)}")
    if options.execute and not options.check:
        parser.error("--execute belongs to --check; without --check, the lessons are always executed")
    if options.points and not options.nbgrader:
        parser.error("--points belongs to --nbgrader")
    try:
        for path in options.exercise:
            register(path)
        make(sources(options.chapters), options)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error


def make(paths, options):
    """Do what the command line asks for."""
    for path in paths:
        cells_of(path)  # nothing is written for some chapters if another has a fault
    if options.check:
        found = [sentence for path in paths for sentence in differences(path, options.execute)]
        raise SystemExit("\n".join([*found, "run python chapters/build.py"]) if found else 0)
    if options.nbgrader:
        write_course(options.nbgrader, paths, points_of(options.points) if options.points else POINTS)
        return
    if options.slides:
        write_slides(options.slides, paths)
        return
    for path in paths:
        book = executed(lesson(path), path)
        written(HERE / f"{path.stem}.ipynb", book)
        written(HERE / "pictures" / f"{path.stem}.png", picture_of(book))
        written(HERE / "exercises" / f"{path.stem}.ipynb", exercises(path))


if __name__ == "__main__":
    main()
