"""Make the notebooks from their sources, chapters/src/NN_name.py (jupytext, py:percent).

python chapters/build.py [NN ...]            write chapters/NN_name.ipynb (the lesson, executed, with its outputs) and
                                             chapters/exercises/NN_name.ipynb (to be handed out: stubs, no outputs);
                                             chapters/pictures/NN_name.png from its cell with the tag `picture`
python chapters/build.py --check             fail if a committed notebook is not what its source makes, outputs aside
python chapters/build.py --check --execute   the same, and run the lessons: each text output must be the committed one,
                                             but for cells with the tag `measured`
python chapters/build.py --nbgrader DIR      write a course for nbgrader: source notebooks and nbgrader_config.py

In a source, `# %% exercise="name"` marks a cell whose lines between `# BEGIN SOLUTION` and `# END SOLUTION` the learner
has to write; what stands as `#| code` between `# BEGIN GIVEN` and `# END GIVEN` is handed out in their place.
`# %% check="name"` marks the cell that checks it.
"""

import argparse
import base64
import hashlib
import os
import re
import struct
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
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
INSTALL = '!{{sys.executable}} -m pip install -q "git+{repository}"'
COURSE_CONFIG = """\
c = get_config()  # noqa: F821 - nbgrader provides it
c.CourseDirectory.course_id = "lora_np"
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.ExecutePreprocessor.timeout = 600
"""


def repository():
    """Return the address of the repository in pyproject.toml, "" while there is none."""
    text = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^repository = "(.*)"', text, re.MULTILINE)
    return found[1] if found else ""


def sources(numbers=()):
    """Return the sources in order, all or those whose number is given."""
    found = sorted((HERE / "src").glob("[0-9][0-9]_*.py"))
    return [path for path in found if not numbers or path.stem[:2] in numbers]


def cells_of(path):
    return jupytext.read(path, fmt="py:percent").cells


def solved(source):
    """Return the code of an exercise with its solution, without the marks and without what is handed out."""
    source = re.sub(r"\n *# BEGIN GIVEN\n.*?# END GIVEN", "", source, flags=re.DOTALL)
    return re.sub(r"\n *# (BEGIN|END) SOLUTION(?=\n|$)", "", source)


def handed_out(source):
    """Return the code of an exercise as the learner gets it."""
    given = re.search(r"\n *# BEGIN GIVEN\n(.*?)\n *# END GIVEN", source, re.DOTALL)
    if given:
        lines = re.sub(r"^( *)#\| ?", r"\1", given[1], flags=re.MULTILINE)
        source = source.replace(given[0], "")
    indent = re.search(r"\n( *)# BEGIN SOLUTION", source)[1]
    stub = lines if given else "\n".join(indent + line for line in STUB.split("\n"))
    return re.sub(r"\n *# BEGIN SOLUTION\n.*# END SOLUTION", lambda _: "\n" + stub, source, flags=re.DOTALL)


def for_nbgrader(source):
    """Return the code of an exercise with nbgrader's own marks; given code stays as it is handed out."""
    if "# BEGIN GIVEN" in source:
        return handed_out(source)
    return source.replace("# BEGIN SOLUTION", "### BEGIN SOLUTION").replace("# END SOLUTION", "### END SOLUTION")


def links(path, lesson):
    """Return the first cell: where the other notebook of the chapter is."""
    other = f"exercises/{path.stem}.ipynb" if lesson else f"../{path.stem}.ipynb"
    words = f"[The exercises of this chapter]({other})" if lesson else f"[The chapter with its solutions]({other})"
    if address := repository():
        place = f"{path.stem}.ipynb" if lesson else f"exercises/{path.stem}.ipynb"
        target = f"{address.removeprefix('https://')}/blob/main/chapters/{place}"
        badge = "https://colab.research.google.com/assets/colab-badge.svg"
        words += f" [![Open in Colab]({badge})](https://colab.research.google.com/{target})"
    return markdown(words)


def markdown(text, **metadata):
    return nbformat.v4.new_markdown_cell(text, metadata=metadata)


def code(text, **metadata):
    return nbformat.v4.new_code_cell(text, metadata=metadata)


def setup_cell():
    address = repository()
    return code(SETUP.format(missing=INSTALL.format(repository=address) if address else MISSING), tags=["setup"])


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
    cells = [links(path, lesson=True), setup_cell()]
    for cell in cells_of(path):
        if cell.cell_type == "markdown":
            cells.append(markdown(cell.source))
        elif name := cell.metadata.get("exercise"):
            cells.append(code(solved(cell.source), role=name))
        elif name := cell.metadata.get("check"):
            cells.append(code(cell.source, role=f"check-{name}"))
        else:
            cells.append(code(cell.source, **tags(cell)))
    return notebook(cells)


def tags(cell):
    return {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}


def exercises(path, source=for_nbgrader):
    """Return the chapter as it is handed out, or, with `for_nbgrader`, as nbgrader's source."""
    cells = [links(path, lesson=False), setup_cell()]
    for cell in cells_of(path):
        if cell.cell_type == "markdown":
            cells.append(markdown(cell.source))
        elif name := cell.metadata.get("exercise"):
            cells.append(code(source(cell.source), role=name, nbgrader=graded(name, solution=True)))
        elif name := cell.metadata.get("check"):
            cells.append(code(cell.source, role=f"check-{name}"))
            cells.append(test_cell(cell.source, name, source))
        else:
            cells.append(code(cell.source, **tags(cell)))
    return notebook(cells)


def test_cell(source, name, style):
    """Return the cell that nbgrader scores: the same check, as an assertion."""
    test = f"assert {source.strip()}.ok"
    if style is for_nbgrader:
        test = f"### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
    return code(test, role=f"test-{name}", tags=["raises-exception"], nbgrader=graded(name, solution=False))


def graded(name, solution):
    """Return nbgrader's metadata (schema 3) of a cell to be written, or of one that is scored."""
    from lora_np.course.catalogue import BY_NAME

    common = {"locked": not solution, "schema_version": 3, "solution": solution, "task": False}
    if solution:
        return {**common, "grade": False, "grade_id": name}
    return {**common, "grade": True, "grade_id": f"test-{name}", "points": POINTS[BY_NAME[name].level]}


def executed(book, folder=HERE):
    """Run a notebook in a fresh kernel and return it with its outputs."""
    with tempfile.TemporaryDirectory() as cache:
        network = any('load_pretrained("minilm")' in cell.source for cell in book.cells)
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        kept = (
            {} if network or "LORA_NP_CACHE" in os.environ else {"LORA_NP_CACHE": cache}
        )  # progress is the reader's own
        kept["PYTHONPATH"] = str(HERE.parent)  # this checkout, whatever is installed
        os.environ.update(kept)
        try:
            NotebookClient(book, timeout=1200, record_timing=False, resources={"metadata": {"path": folder}}).execute()
        finally:
            for key in kept:
                del os.environ[key]
    book.metadata = nbformat.from_dict(METADATA)
    for cell in book.cells:
        if "not right yet" in outputs_of(cell) and cell.id.startswith("check-"):
            raise SystemExit(f"a solution is not right:\n{outputs_of(cell)}")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = plain_png(data["image/png"])
                data.pop("text/plain", None)  # <Figure size ...>
            output.get("metadata", {}).clear()
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
    file = f"{path.stem}.ipynb"
    made = {HERE / file: lesson(path), HERE / "exercises" / file: exercises(path, handed_out)}
    for target, book in made.items():
        name = target.relative_to(HERE.parent)
        if not target.exists():
            yield f"{name} is missing"
            continue
        committed = nbformat.read(target, as_version=4)
        mine, theirs = ([(cell.id, cell.source, dict(cell.metadata)) for cell in b.cells] for b in (book, committed))
        if mine != theirs:
            k = next((k for k, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
            yield f"{name} is not what src/{path.name} makes: cell {k + 1} differs"
            continue
        if target.parent == HERE:
            picture = HERE / "pictures" / f"{path.stem}.png"
            if not picture.exists() or picture.read_bytes() != picture_of(committed):
                yield f"{picture.relative_to(HERE.parent)} is not the picture in {name}"
        if execute and target.parent == HERE:
            for k, (new, old) in enumerate(zip(executed(book).cells, committed.cells)):
                measured = "measured" in new.metadata.get("tags", ())
                if not measured and outputs_of(new) != outputs_of(old):
                    yield f"{name}: cell {k + 1} gives {outputs_of(new)!r}, committed is {outputs_of(old)!r}"


def write_course(folder, paths):
    """Write a course for nbgrader."""
    for path in paths:
        written(folder / "source" / path.stem / f"{path.stem}.ipynb", exercises(path))
    (folder / "nbgrader_config.py").write_text(COURSE_CONFIG.format(stub=STUB), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description="Make the notebooks from chapters/src.")
    parser.add_argument("chapters", nargs="*", help="numbers such as 05; without, all")
    parser.add_argument("--check", action="store_true", help="compare with the committed notebooks, write nothing")
    parser.add_argument("--execute", action="store_true", help="with --check: compare text outputs, too")
    parser.add_argument("--nbgrader", type=Path, metavar="DIR", help="write a course for nbgrader there")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    paths = sources(options.chapters)
    if not paths:
        parser.error(f"there is no chapter {', '.join(options.chapters)}; there are {[p.stem[:2] for p in sources()]}")
    if options.check:
        found = [sentence for path in paths for sentence in differences(path, options.execute)]
        raise SystemExit("\n".join([*found, "run python chapters/build.py"]) if found else 0)
    if options.nbgrader:
        write_course(options.nbgrader, paths)
        return
    for path in paths:
        book = executed(lesson(path))
        written(HERE / f"{path.stem}.ipynb", book)
        written(HERE / "pictures" / f"{path.stem}.png", picture_of(book))
        written(HERE / "exercises" / f"{path.stem}.ipynb", exercises(path, handed_out))


if __name__ == "__main__":
    main()
