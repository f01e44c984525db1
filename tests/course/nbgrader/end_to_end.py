"""Hand chapters out with nbgrader, hand in five answers, grade them: python tests/course/nbgrader/end_to_end.py [NN]

In an environment with lora_np and requirements.txt beside this file; nothing is fetched. It exits with 1 if a score is
not what it must be: everything as handed out 0, the first exercise alone its points, everything solved all points, and
nothing for functions that end the program or for a cell that puts another `check` in place of the judge; or if
something that a student gets leads to the solutions.
"""

import copy
import csv
import html
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "chapters"))
import build

ROOT = build.HERE.parent


def nbgrader(folder, *arguments):
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", "")])  # nbgrader calls alembic
    settings = {"PYTHONPATH": str(ROOT), "LORA_NP_CACHE": str(folder / "cache"), "PIP_NO_INDEX": "1"}
    command = [str(Path(programs) / "nbgrader"), *arguments]
    environment = {**os.environ, "PATH": path, **settings}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def solution_lines(cells):
    """Return the lines that a solution has and nothing that is handed out, nor a hint."""
    hints = [hint for cell in cells for hint in build.find(cell.metadata["exercise"]).hints]
    handed_out = "\n".join([build.handed_out(cell.source) for cell in cells] + hints)
    lines = {line.strip() for cell in cells for line in build.solved(cell.source).split("\n")}
    return [line for line in lines if len(line) > 25 and line not in handed_out]


def read_by(student, folder, stem):
    """Return the feedback of a student: the page, and its words alone."""
    page = (folder / "feedback" / student / stem / f"{stem}.html").read_text(encoding="utf-8")
    return page, html.unescape(re.sub("<[^>]*>", "", page.partition("<body")[2]))


def graded_rightly(folder, source):
    """Hand out, hand in and grade one chapter; return whether all is as it must be."""
    stem, cells = source.stem, [cell for cell in build.cells_of(source) if "exercise" in cell.metadata]
    nbgrader(folder, "generate_assignment", stem)
    release = build.nbformat.read(folder / "release" / stem / f"{stem}.ipynb", as_version=4)
    about = [cell.metadata["nbgrader"] for cell in release.cells if "nbgrader" in cell.metadata]
    points = {cell["grade_id"].removeprefix("test-"): cell["points"] for cell in about if cell["grade"]}
    answers = {cell.metadata["exercise"]: build.solved(cell.source) for cell in cells}
    first = next(iter(answers))
    leaving = {name: re.match(r"def .*?:\n", text)[0] + "    exit()" for name, text in answers.items()}
    cheat = f"lnp.course.check = lambda *a: type('Verdict', (), {{'ok': True}})\n{build.handed_out(cells[0].source)}"
    handed_in = {"nothing": {}, "first": {first: answers[first]}, "all": answers, "leaving": leaving}
    handed_in["cheating"] = {first: cheat}
    for student, given in handed_in.items():
        book = copy.deepcopy(release)
        for cell in book.cells:
            cell.source = given.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
        build.written(folder / "submitted" / student / stem / f"{stem}.ipynb", book)
    nbgrader(folder, "validate", str(folder / "submitted" / "all" / stem / f"{stem}.ipynb"))
    nbgrader(folder, "autograde", stem, "--create")
    nbgrader(folder, "generate_feedback", stem)
    nbgrader(folder, "export", "--to", "grades.csv")

    with open(folder / "grades.csv", newline="") as file:
        scores = {
            row["student_id"]: float(row["raw_score"]) for row in csv.DictReader(file) if row["assignment"] == stem
        }
    expected = {"nothing": 0, "first": points[first], "all": sum(points.values()), "leaving": 0, "cheating": 0}
    pages = {student: read_by(student, folder, stem) for student in handed_in}
    texts = {"release": "\n".join(cell.source for cell in release.cells), "nothing": pages["nothing"][1]}
    checks = {
        "the scores": scores == expected,
        "no link in feedback": not any(re.search(r"href=.[^\"']*\.ipynb|colab", page) for page, _ in pages.values()),
        "no link in the release": ".ipynb" not in texts["release"],
        "no solution": not any(line in text for text in texts.values() for line in solution_lines(cells)),
        "a solution is seen": all(line in pages["all"][1] for line in solution_lines(cells)),  # else nothing is tried
        "a sentence for a stub": "it is still to be written" in pages["nothing"][1],
        "a sentence for a cheat": "has changed lora_np.course.check" in pages["cheating"][1],
        "a sentence for exit()": pages["leaving"][1].count("AssertionError: it ends the whole program") == len(answers),
    }
    wrong = [name for name, right in checks.items() if not right]
    print(f"{stem}: scores {scores}, expected {expected}", *(f"NOT RIGHT: {name}" for name in wrong), sep="; ")
    return not wrong


def main():
    sources = build.sources(sys.argv[1:] or ["05"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build.write_course(folder, sources)
        right = [graded_rightly(folder, source) for source in sources]
    raise SystemExit(not all(right))


if __name__ == "__main__":
    main()
