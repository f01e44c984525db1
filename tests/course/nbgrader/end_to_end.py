"""Hand a chapter out with nbgrader, hand in three answers, grade them: python tests/course/nbgrader/end_to_end.py [NN]

In an environment with lora_np and requirements.txt beside this file. It exits with 1 if a score is not what it must be:
everything as handed out 0, the first exercise alone its points, everything solved all points.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "chapters"))
import build

ROOT = build.HERE.parent
STEM = build.sources(sys.argv[1:] or ["05"])[0].stem


def nbgrader(folder, *arguments):
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", "")])  # nbgrader calls alembic
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LORA_NP_CACHE": str(folder / "cache")}
    command = [str(Path(programs) / "nbgrader"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build.write_course(folder, [ROOT / "chapters" / "src" / f"{STEM}.py"])
        nbgrader(folder, "generate_assignment", STEM)
        release = folder / "release" / STEM / f"{STEM}.ipynb"
        source = build.nbformat.read(folder / "source" / STEM / f"{STEM}.ipynb", as_version=4)
        solutions = {c.id: c.source for c in source.cells if c.metadata.get("nbgrader", {}).get("solution")}
        given = [
            cell for cell in build.cells_of(ROOT / "chapters" / "src" / f"{STEM}.py") if "exercise" in cell.metadata
        ]
        solutions |= {c.metadata["exercise"]: build.solved(c.source) for c in given}
        wanted = {"nothing": [], "first": list(solutions)[:1], "all": list(solutions)}
        points = {
            c.id.removeprefix("test-"): c.metadata["nbgrader"]["points"]
            for c in source.cells
            if c.id.startswith("test-")
        }
        for student, answered in wanted.items():
            book = build.nbformat.read(release, as_version=4)
            for cell in book.cells:
                if cell.id in answered:
                    cell.source = solutions[cell.id]
            build.written(folder / "submitted" / student / STEM / f"{STEM}.ipynb", book)
        nbgrader(folder, "validate", str(folder / "submitted" / "all" / STEM / f"{STEM}.ipynb"))
        nbgrader(folder, "autograde", STEM, "--create")
        nbgrader(folder, "generate_feedback", STEM)
        nbgrader(folder, "export", "--to", "grades.csv")
        with open(folder / "grades.csv", newline="") as file:
            scores = {row["student_id"]: float(row["raw_score"]) for row in csv.DictReader(file)}
        expected = {student: float(sum(points[name] for name in answered)) for student, answered in wanted.items()}
        pages = [folder / "feedback" / student / STEM / f"{STEM}.html" for student in wanted]
        print(f"scores {scores}, expected {expected}; {sum(page.exists() for page in pages)} of 3 pages of feedback")
        raise SystemExit(scores != expected or not all(page.exists() for page in pages))


if __name__ == "__main__":
    main()
