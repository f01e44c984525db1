"""Wrong backwards to be mended, by level and seed: for each of a class another one, and for the same numbers the same.

    >>> task = lnp.course.bug(1, seed=7)
    >>> print(task)                     # a forward, which is right, and a backward, which is not
    >>> task.check(mended)
    >>> print(task.reveal())            # what was wrong, and the right backward

The operations are no exercises; each is a file in `operations/`, which breaks by the edits that the file lists.
"""

import functools
import itertools
import linecache
import operator
import re
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_np.course.exercise import Exercise, Trial, slips_of
from lora_np.course.findings import Wrong
from lora_np.course.judging import examine, staying
from lora_np.course.verdict import Verdict
from lora_np.course.words import en

FOLDER = Path(__file__).with_name("operations")
LEVELS, OWN_ORDER, WIDTH = (1, 2, 3), 0x627567, 86


@dataclass(frozen=True)
class Operation(Exercise):
    """An operation, written as an exercise is, in one of several sets of names.

    SLIPS show at every point. Those of HIDDEN hide at one, {its words: slips}, which UNLUCKY makes of ordinary values.
    Those of UPSTREAM hide where the upstream gradient is all ones.
    """

    names: int = 0  # which line of NAMES it is written in; the first is that of the file

    @functools.cached_property
    def text(self):
        text = self.path.read_text(encoding="utf-8")
        first, *others = re.search(r"^NAMES = \((.*)\)$", text, re.MULTILINE)[1].split(", ")
        old, new = (line.strip('"').split() for line in (first, [first, *others][self.names]))
        pairs = dict(zip(old, new))
        return re.sub(rf"\b(d?)({'|'.join(old)})(?=\b|_\w\b)", lambda found: found[1] + pairs[found[2]], text)

    @functools.cached_property
    def module(self):
        module = types.ModuleType(f"operation_{self.name}")
        exec(compile(self.text, str(self.path), "exec"), vars(module))
        return module

    def faults(self, level):
        """Return what is wrong with its backwards of a level, a list of (slips, the point that hides them or "")."""
        plain, upstream = (slips_of(self.constants[name]) for name in ("SLIPS", "UPSTREAM"))
        hidden = [(slip, point) for point, text in self.constants["HIDDEN"].items() for slip in slips_of(text)]
        if level == 1:
            return [((slip,), "") for slip in plain]
        if level == 2:
            return [((slip,), point) for slip, point in hidden]
        pairs = itertools.combinations([*plain, *(slip for slip, _ in hidden)], 2)
        return [((slip,), "") for slip in upstream] + [(pair, "") for pair in pairs if self.apart(*pair)]

    def apart(self, one, two):
        """Do two slips change different lines of the text, and the same in either order?"""
        right, *wrong = (self.text_with(edits).split("\n") for edits in ([], one.edits, two.edits))
        order = self.text_with(one.edits + two.edits) == self.text_with(two.edits + one.edits)
        return order and all(line in changed for line, *changed in zip(right, *wrong))


def operations():
    """Return the names of all operations."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


@functools.cache
def operation_of(name, names=0):
    """Return the operation of that name, in a line of its NAMES."""
    return Operation(name, FOLDER / f"{name}.py", names)


@functools.cache
def stock(level):
    """Return all (name of an operation, which of its faults) of a level, in an order of its own."""
    every = [(name, k) for name in operations() for k in range(len(operation_of(name).faults(level)))]
    return [every[k] for k in np.random.default_rng([OWN_ORDER, level]).permutation(len(every))]


class Task:
    """A wrong backward beside its right forward. Printed, it is their text, with what is to be done.

    Attributes
    ----------
    level, seed : int
    forward, backward : callable
        Those of the text: the right one, and the wrong one.
    inputs, fixed : dict
        Arguments of the forward at which the fault shows: `lnp.gradcheck.check(task.forward, task.backward,
        task.inputs, task.fixed)`.
    unlucky : tuple of two dicts, or None
        On level 2: inputs and fixed arguments at which the wrong backward is right.
    """

    def __init__(self, level, seed):
        self.level, self.seed = level, seed
        operation, _, point = self._drawn()
        scope, title, text = {}, f"<{self!r}>", str(self)
        linecache.cache[title] = len(text), None, text.splitlines(keepends=True), title  # a report quotes its lines
        exec(compile(text, title, "exec"), scope)
        self.forward, self.backward = scope["forward"], scope[operation.name]
        trial = Trial.of(operation, 0, seed=seed)
        self.inputs, self.fixed, self.unlucky = trial.inputs, trial.fixed, None
        if point:
            moved = operation.module.UNLUCKY[point]({**self.inputs, **self.fixed})
            self.unlucky = tuple({name: moved[name] for name in part} for part in (self.inputs, self.fixed))

    def _drawn(self):
        """Return the operation, the slips in it, and the point that hides them, "" where there is none."""
        every = stock(self.level)
        turn, place = divmod(self.seed, len(every))
        name, k = every[place]
        operation = operation_of(name)
        operation = operation_of(name, (place + turn) % len(operation.constants["NAMES"]))
        return operation, *operation.faults(self.level)[k]

    def __repr__(self):
        return f"bug({self.level}, seed={self.seed})"

    def __str__(self):
        operation, slips, point = self._drawn()
        head = f"{self!r}. {operation.module.__doc__.strip()}", en.BUGS[self.level].format(point=point)
        marked = {"width": WIDTH, "initial_indent": "# ", "subsequent_indent": "# "}
        head = "\n".join(textwrap.fill(paragraph, **marked) for paragraph in head)
        forward = "\n".join(operation.parts_of("forward"))
        backward = operation.text_with([edit for slip in slips for edit in slip.edits])
        return f"{head}\nimport numpy as np\n\n\n{forward}\n\n\n{backward}\n"

    def check(self, backward: Callable) -> Verdict:
        """Say whether a backward is right, and if not, which gradient is wrong and where, but not why.

        Parameters
        ----------
        backward : callable
            The mended one.

        Returns
        -------
        Verdict
            Printed already; it is true if the backward is right.
        """
        if not callable(backward):
            raise TypeError(f"check needs the function itself, not {type(backward).__name__}; leave out the ().")
        operation, *_ = self._drawn()
        try:
            with staying():
                verdict = Verdict.of(operation, True, (examine(operation, backward, why=False),))
        except Wrong as wrong:
            verdict = Verdict.of(operation, False, wrong.args)
            verdict.more = en.BUG_SHOWN
        verdict.exercise = repr(self)
        print(verdict)
        return verdict

    def reveal(self) -> str:
        """Return the solution: what was wrong, a sentence for each slip, and the right backward."""
        operation, slips, point = self._drawn()
        words = [slip.words for slip in slips]
        words += [en.HIDES.format(point=point)] if point else []
        return "\n".join([*(f"# {sentence}" for sentence in words), operation.text_with([])]) + "\n"


def bug(level: int, seed: int) -> Task:
    """Return a wrong backward to be mended; the operation, its slip and its names are those of the two numbers.

    Parameters
    ----------
    level : int
        1: one slip, which shows wherever one looks. 2: one slip that hides at an unlucky point; it is told which.
        3: two slips, or one that an upstream gradient of ones hides.
    seed : int
        Not negative. Sixty seeds in a row give sixty different tasks.

    Returns
    -------
    Task
        Print it; mend its backward; `task.check(yours)`.
    """
    for name, number in ("level", level), ("seed", seed):
        if not hasattr(number, "__index__") or operator.index(number) < 0:
            raise ValueError(f"{name}={number!r} is no whole number from 0 on; write lnp.course.bug(1, seed=7)")
    if operator.index(level) not in LEVELS:
        raise ValueError(f"there is no level {level}; there are 1, 2 and 3")
    return Task(operator.index(level), operator.index(seed))
