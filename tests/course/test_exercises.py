"""Each exercise is one file, and each file holds what CONTRIBUTING.md asks of it."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lora_np as lnp
from lora_np.course.exercise import Trial, all_exercises
from lora_np.course.judging import fault_of
from lora_np.course.rules import faults
from lora_np.course.slips import alike
from lora_np.gradcheck import check, differences, leaves, snapshot

EXERCISES = all_exercises()
SOURCES = Path(__file__).resolve().parents[2] / "chapters" / "src"
by_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))


@by_exercise
def test_a_file_holds_what_it_must(exercise):
    """Its form, draws, solution and branches; each slip is wrong on some trial, and told by its own words."""
    assert list(faults(exercise)) == []


@by_exercise
def test_the_solution_agrees_with_the_library(exercise):
    """To 1e-12 in float64; where there is no such function, the solution is the reference."""
    if exercise.library is None:
        return
    for number in range(exercise.trials):
        trial = Trial.of(exercise, number, dtype=np.float64)
        mine, theirs = (trial.results(exercise, f) for f in (exercise.solution, exercise.library))
        if exercise.judge is not None:
            assert list(exercise.judge(mine, theirs, trial.arguments)) == []
        if exercise.judge is None or "numbers" in vars(exercise.module):
            mine, theirs = (
                {name: value for name, value in exercise.numbers(found).items() if name != "cache"}
                for found in (mine, theirs)
            )
            assert mine.keys() == theirs.keys()
            for name in mine:
                assert alike(mine[name], theirs[name], 1e-12), (number, name)


@by_exercise
def test_a_backward_is_proven(exercise):
    """The plain forward that it belongs to is the library's, too: a diagnosis quotes plain lines."""
    if not exercise.is_backward:
        return
    for number in range(exercise.trials):
        trial = Trial.of(exercise, number, dtype=np.float64)
        report = check(exercise.forward, exercise.solution, trial.inputs, trial.fixed)
        assert report.ok, report
        if exercise.library is None:
            continue
        ours = getattr(lnp.ops, exercise.library.__name__.replace("backward", "forward"))
        values = {**trial.inputs, **trial.fixed}
        assert alike(exercise.forward(**values)[0], ours(**values)[0], 1e-12)


def arrays_of(trial):
    return [leaf for _, leaf in leaves(trial.told) if isinstance(leaf, np.ndarray)]


@by_exercise
def test_it_draws_the_same_every_time_and_leaves_no_trial_without_a_verdict(exercise):
    for number in range(exercise.trials):
        one, two = (Trial.of(exercise, number) for _ in range(2))
        assert fault_of(exercise, exercise.solution, one) is None
        assert not differences(snapshot(arrays_of(one)), arrays_of(two))


@by_exercise
def test_one_slip_is_told_by_the_whole_check(exercise):
    """All slips are tried by their numbers above; the way through `check` is the same for each."""
    if not exercise.slips:
        return
    slip = exercise.slips[len(exercise.name) % len(exercise.slips)]
    verdict = lnp.course.check(exercise.name, exercise.edited(slip.edits))
    assert not verdict.ok and verdict.cause == slip.cause
    assert slip.words in str(verdict)


@by_exercise
def test_the_librarys_own_function_is_no_answer(exercise):
    assert "of lora_np itself" in str(lnp.course.check(exercise.name, exercise.solution))


def test_a_list_of_the_exercises_runs_none_of_them():
    program = "import sys, lora_np as lnp; repr(lnp.course.exercises()); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "lora_np.course.exercises." not in done.stdout


def test_signatures_are_those_of_the_functions():
    for exercise in EXERCISES.values():
        assert tuple(inspect.signature(exercise.solution).parameters) == exercise.parameters


@pytest.mark.parametrize("path", sorted(SOURCES.glob("[0-9]*.py")), ids=lambda path: path.stem[:2])
def test_the_chapters_take_exercises_from_their_files_in_order(path):
    """Level, time and hints stand in the file alone, and so does the solution."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r'^# %% exercise="(\w+)"$', text, re.MULTILINE)
    assert names == [name for name, exercise in EXERCISES.items() if exercise.chapter == int(path.stem[:2])]
    for name in names:
        assert f"({{{{{name}}}}})\n" in text, f"{name}: its heading lacks its level and time"
        assert f"\nfrom lora_np.course.exercises.{name} import {name}\n" in text and f"def {name}(" not in text
    assert not re.search(r"(easy|medium|hard)\W+\d+ minutes|hint \d", text, re.IGNORECASE)
