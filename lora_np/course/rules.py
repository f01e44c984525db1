"""What an exercise's file must hold, and be: `register` asks before it takes one, and a test asks of all."""

import ast
import functools
from pathlib import Path

import numpy as np

from lora_np.course.exercise import FOLDER, LEVELS, REGISTERED, Exercise, Trial
from lora_np.course.explain import more_trials, numbers_of
from lora_np.course.findings import Wrong
from lora_np.course.judging import examine, fault_of, is_single
from lora_np.course.slips import known_slips, outcome, same
from lora_np.course.words import en
from lora_np.gradcheck import CAUSES

NEEDED = {
    "CHAPTER": (int, "a number"),
    "PLACE": (int, "which exercise of its chapter it is, a number"),
    "MINUTES": (int, "a number"),
    "LEVEL": (str, f"one of {', '.join(LEVELS)}"),
    "HINTS": (tuple, "a tuple of texts, the vaguest first"),
    "OUTPUTS": (tuple, 'a tuple of names of what the function returns, such as ("y",)'),
}


def register(path: str | Path) -> Exercise:
    """Take a teacher's own exercise: it is listed, checked and built into notebooks as the course's own are.

    It is one file, of the form that CONTRIBUTING.md describes ("Write an exercise"), and is named like its function. A
    file that is put into `lora_np/course/exercises/` needs no registering.

    Parameters
    ----------
    path : str or Path
        Of the file, NAME.py. It is run, so take none that you have not read.

    Returns
    -------
    Exercise

    Raises
    ------
    ValueError
        If it is no such file, the course has an exercise of that name, or something in it is wrong: its own solution is
        refused, a branch is never drawn, a slip is not told by its words ... Each in a sentence.
    """
    path = Path(path).resolve()
    if path.suffix != ".py" or not path.stem.isidentifier() or not path.is_file():
        raise ValueError(
            f"{path} is no file of an exercise; expected NAME.py, named like the function that it asks for."
        )
    if (FOLDER / path.name).exists() and path.parent != FOLDER:
        raise ValueError(f"the course has an exercise {path.stem!r} already; give yours another name.")
    exercise = Exercise(path.stem, path)
    if found := list(faults(exercise)):
        raise ValueError(f"{path.name}: {'; '.join(found)}.")
    REGISTERED[path.stem] = exercise
    return exercise


def faults(exercise):
    """Yield what is wrong with an exercise's file, a sentence each: a test needs what the ones before it ask."""
    last = faults_of_branches, faults_of_slips
    for tests in (faults_of_form,), (faults_of_draws,), (faults_of_solution,), last:
        found = [sentence for test in tests for sentence in test(exercise)]
        yield from found
        if found:
            return


def faults_of_form(exercise):
    try:
        constants, functions = exercise.constants, exercise.functions
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        yield f"it cannot be read: {error}"
        return
    for name, (kind, words) in NEEDED.items():
        value = constants.get(name)
        if not isinstance(value, kind) or (name == "LEVEL" and value not in LEVELS) or value == ():
            yield f"{name} is {'missing' if value is None else repr(value)}; expected {words}, written out"
    if exercise.name not in functions:
        yield f"the function {exercise.name} is missing: the solution, named like the file"
    elif ast.get_docstring(functions[exercise.name]) is None:
        yield f"{exercise.name} has no docstring; it says to the learner what is to be returned"
    for name, words in (
        ("SLIPS", 'SLIPS = ""'),
        ("BRANCHES", "BRANCHES = {}"),
        ("draw", "def draw(rng, dtype, trial)"),
    ):
        if name not in exercise.text:
            yield f"{name} is missing; at the least, write {words}"


def faults_of_draws(exercise):
    try:
        exercise.module  # noqa: B018 - runs the file
    except Exception as error:
        yield f"it cannot be run: {type(error).__name__}: {error}"
        return
    for number in range(exercise.trials):
        for dtype in (None, np.float64):
            try:
                trial = Trial.of(exercise, number, dtype=dtype)
            except Exception as error:
                yield f"draw fails on trial {number}: {type(error).__name__}: {error}"
                return
            if tuple(trial.arguments) != exercise.parameters:
                wanted = ", ".join(exercise.parameters)
                yield f"draw returns {', '.join(trial.arguments)} on trial {number}; expected {wanted}, in this order"
                return


def faults_of_solution(exercise):
    try:
        examine(exercise, exercise.solution)
    except Wrong as wrong:
        yield f"its own solution is not right: {'; '.join(en.tell(finding, exercise) for finding in wrong.args)}"


def faults_of_branches(exercise):
    """Yield the branches that no trial is on, or only one in float32, where a small mistake passes for rounding."""
    trials = [Trial.of(exercise, number) for number in range(exercise.trials)]
    again = Trial.of(exercise, exercise.trials - 1, dtype=np.float64)
    for name, holds in exercise.branches.items():
        on = [trial for trial in trials if holds(**trial.told)]
        if not on:
            yield f"no trial draws the branch {name!r}"
        elif all(is_single(trial) for trial in on) and holds(**again.told):
            yield f"only the last trial draws the branch {name!r}; draw it on another one, as that one is in float32"


def faults_of_slips(exercise):
    """Yield what is wrong with the slips, each a sentence of its own."""
    try:
        slips = exercise.slips
    except ValueError as error:
        yield str(error)
        return
    # Kept, as each slip is compared with those before it.
    calls = [functools.cache(numbers_of(exercise, trial)) for trial in more_trials(exercise)] if slips else []
    right = [outcome(exercise.solution, call) for call in calls]
    for slip in slips:
        if fault := fault_of_slip(exercise, slip, calls, right):
            yield f"the slip {slip.words!r} {fault}"


def fault_of_slip(exercise, slip, calls, right):
    """Return why a slip cannot be made, is not wrong on any trial, or is not told by its own words; else None."""
    if slip.cause not in (None, *CAUSES):
        return f"has the cause {slip.cause!r}, which is none of lora_np.gradcheck.CAUSES, nor `other`"
    if not slip.edits:
        return "has no edit; write `text of the solution => text in its place` below it, indented"
    try:
        function = exercise.edited(slip.edits)
    except SyntaxError as error:
        return f"makes what is no Python: {error.msg}"
    if function is None:
        return "changes a text that the solution does not have"
    if all(same(outcome(function, call), value, exercise.alike) for call, value in zip(calls, right)):
        return "gives what the solution gives, on all trials"
    told = [other.words for other in known_slips(exercise, function, calls)]
    if told != [slip.words]:
        return f"is told by other words: {'; and '.join(told)}" if told else "is not told"
    if not exercise.is_backward and not any(is_wrong(exercise, function, number) for number in range(exercise.trials)):
        return "is accepted"
    return None


def is_wrong(exercise, function, number):
    """Is an answer wrong on a trial?"""
    return fault_of(exercise, function, Trial.of(exercise, number)) is not None
