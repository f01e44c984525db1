"""How an entry is put in: one decorator a kind. Its suite is its folder, and no file lists entries a second time.

    @wrong_backward("linear", case, spoils=("b",), cause="mean_vs_sum", also=("shape",))
    @right_backward(case)
    @wrong_answer("linear_forward", cause="missing_term", also=("missing_path",))
    @right_answer("linear_forward")

A cause is a label of `lora_np.gradcheck.CAUSES`; `also` holds others that say the same. A decorator returns what it is
given, so that a function may be used again, and may be called where no decorator can stand.
"""

import importlib
from pathlib import Path
from typing import NamedTuple

from corpus.drawing import single

SUITES = {"backwards": ("seen", "foreign", "unseen"), "answers": ("seen", "foreign", "unseen", "blind")}
WRONG = {kind: {suite: [] for suite in names} for kind, names in SUITES.items()}
RIGHT = {kind: {suite: [] for suite in names} for kind, names in SUITES.items()}


class WrongBackward(NamedTuple):
    """A mistake that people make in a backward."""

    name: str
    op: str
    make: object  # make(rng) returns (forward, backward, inputs, fixed)
    spoils: tuple  # the arguments whose gradient is wrong; "backward" or "forward" where the call is
    cause: str
    also: tuple


class RightBackward(NamedTuple):
    """A backward that is right, though it may not look so."""

    name: str
    make: object  # make(rng) returns (forward, backward, inputs, fixed)


class WrongAnswer(NamedTuple):
    """A mistake that learners make in an exercise."""

    exercise: str
    function: object
    cause: str | None  # the label that a teacher would give, or None where none fits
    also: tuple


class RightAnswer(NamedTuple):
    """An answer that is right, though it may not look so."""

    exercise: str
    function: object


class Suite(NamedTuple):
    """The entries of a folder."""

    wrong: list
    right: list


def wrong_backward(op, case, *, spoils, cause, also=(), name=None):
    """Put in a wrong backward of an operation, at the inputs of a case.

    `case(rng)` returns (forward, inputs, fixed). Of a class with the methods forward and backward, of which each trial
    makes an object of its own, it returns the inputs alone.
    """

    def put_in(backward):
        title = f"{op}: {name or words(backward)}"
        entry = WrongBackward(title, op, made(case, backward), tuple(spoils), cause, tuple(also))
        WRONG["backwards"][folder(backward)].append(entry)
        return backward

    return put_in


def right_backward(case, *, name=None, float32=False):
    """Put in a right backward, at the inputs of a case (see `wrong_backward`), in float32 if so asked."""

    def put_in(backward):
        make = made(case, backward)

        def in_single(rng):
            forward, backward, inputs, fixed = make(rng)
            return forward, backward, single(inputs), single(fixed)

        title = (name or words(backward)) + (" in float32" if float32 else "")
        RIGHT["backwards"][folder(backward)].append(RightBackward(title, in_single if float32 else make))
        return backward

    return put_in


def wrong_answer(exercise, *, cause=None, also=()):
    """Put in a wrong answer to an exercise."""

    def put_in(function):
        WRONG["answers"][folder(function)].append(WrongAnswer(exercise, function, cause, tuple(also)))
        return function

    return put_in


def right_answer(exercise):
    """Put in a right answer to an exercise."""

    def put_in(function):
        RIGHT["answers"][folder(function)].append(RightAnswer(exercise, function))
        return function

    return put_in


def suites(kind):
    """Return the suites of a kind ("backwards" or "answers") by name. Their files are imported by the alphabet."""
    for suite in SUITES[kind]:
        for path in sorted((Path(__file__).parent / kind / suite).glob("[!_]*.py")):
            importlib.import_module(f"corpus.{kind}.{suite}.{path.stem}")
    return {suite: Suite(WRONG[kind][suite], RIGHT[kind][suite]) for suite in SUITES[kind]}


def folder(function):
    """Return the folder in which a function is written: its suite."""
    return function.__module__.split(".")[-2]


def words(backward):
    """Return a function's or a class's name as words."""
    name = backward.__name__
    if isinstance(backward, type):
        return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return name.replace("_", " ")


def made(case, backward):
    """Return the function of rng that makes a trial's (forward, backward, inputs, fixed)."""

    def of_function(rng):
        forward, inputs, fixed = case(rng)
        return forward, backward, inputs, fixed

    def of_class(rng):
        layer, inputs = backward(), case(rng)
        return layer.forward, layer.backward, inputs, {}

    return of_class if isinstance(backward, type) else of_function
