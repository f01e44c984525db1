"""What was found of an answer, as data; `words` makes sentences of it, last."""

from dataclasses import dataclass, field
from numbers import Number
from typing import NamedTuple

import numpy as np

TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 2e-5}  # relative to the largest entry
CAUSE = {  # of what is a cause by itself
    "none": "zero_gradient",
    "nothing": "zero_gradient",
    "zero": "zero_gradient",
    "always zero": "zero_gradient",
    "reversed": "swapped",
    "shape": "shape",
    "type": "shape",
    "count": "shape",
    "dtype": "dtype",
    "inplace": "inplace",
    "read-only": "inplace",
    "nondeterministic": "nondeterministic",
    "sizes": "transpose",
    "broadcast": "reduction_axis",
    "entry by entry": "transpose",
    "side by side": "shape",
    "stacked": "shape",
    "boolean": "shape",
    "pair": "shape",
    "unpacked": "shape",
    "axes": "shape",
    "square": "shape",
}

LARGEST = 64  # of an excerpt: more rows or columns are no small picture
HUGE = 1e300  # its numbers have differences, too


class Excerpt(NamedTuple):
    """The matrix in a wrong result that holds its worst entry, to be drawn; a vector is a matrix of one row."""

    given: np.ndarray
    expected: np.ndarray
    off: np.ndarray  # where they differ
    first: tuple  # the index of this matrix in the whole result
    worst: tuple  # the index of the worst entry in this matrix

    @classmethod
    def of(cls, given, expected, off, at):
        """Return the excerpt around an index, None where there is nothing to look at, or too much."""
        if np.size(given) < 2 or not off[at]:
            return None
        first = at[:-2]
        given, expected, off = (np.atleast_2d(np.asarray(array)[first]) for array in (given, expected, off))
        if max(off.shape) > LARGEST or float(max(np.abs(given).max(), np.abs(expected).max())) > HUGE:
            return None
        return cls(given.astype(float), expected.astype(float), off, first, (0, *at[len(first) :])[-2:])

    @property
    def apart(self):
        """How far the entries are apart, and zero for those that are near enough."""
        return np.where(self.off, np.abs(self.given - self.expected), 0.0)

    @property
    def limits(self):
        both = np.stack([self.given, self.expected])
        return both.min(), both.max()

    def name_of(self, name):
        """Return the name of the result with the index of this matrix in it."""
        return f"{name}[{', '.join(map(str, self.first))}]" if self.first else name


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    kind : str
        What it is: a key of the table of sentences in `words`, or of the exercise's own KINDS.
    argument : str or None
        The result, or the argument, that it is about.
    values : dict
        What its sentence tells.
    excerpt : Excerpt or None
        Of numbers that differ: what can be drawn.
    """

    kind: str
    argument: str | None = None
    values: dict = field(default_factory=dict)
    excerpt: Excerpt | None = field(default=None, compare=False, repr=False)

    def cause(self, exercise):
        """Return one of `lora_np.gradcheck.CAUSES`, or None."""
        own = exercise.kinds.get(self.kind, (None,))[0]
        return self.values.get("cause") or own or CAUSE.get(self.kind)


class Wrong(Exception):
    """An answer is not right; its arguments are Findings, the first of which says what is wrong, the others why.

    Of a gradient, `report` is that of `gradcheck.check`.
    """

    def __init__(self, *findings, report=None):
        super().__init__(*findings)
        self.report = report


def difference(name, given, right, tolerance=None):
    """Return a Finding if a result is not what it should be, None if it is within a relative tolerance.

    Parameters
    ----------
    name : str
        Of the result.
    given, right : array or number
    tolerance : float, optional
        Relative to the largest entry of what is right; a few roundings of its dtype if it is not given.
    """
    if given is None:
        return Finding("none", name)
    if not isinstance(given, (np.ndarray, Number)):
        return Finding("type", name, {"given": given, "expected": right})
    mine, wanted = np.asarray(given), np.asarray(right)
    if mine.shape != wanted.shape:
        return Finding("shape", name, {"given": mine.shape, "expected": wanted.shape})
    bad = ~np.isfinite(mine)
    if bad.any():
        return Finding("infinite", name, {"count": int(bad.sum()), "of": mine.size})
    if isinstance(right, np.ndarray) and mine.dtype != wanted.dtype:
        return Finding("dtype", name, {"given": mine.dtype, "expected": wanted.dtype})
    off = np.abs(mine - wanted) > (tolerance or TOLERANCE.get(wanted.dtype, 1e-9)) * max(np.max(np.abs(wanted)), 1e-300)
    if not off.any():
        return None
    if not mine.ndim:
        return Finding("number", name, {"given": mine[()], "expected": wanted[()]})
    at = np.unravel_index(np.argmax(np.abs(mine - wanted)), mine.shape)
    numbers = {"given": mine[at], "expected": wanted[at], "at": tuple(map(int, at))}
    numbers |= {"count": int(off.sum()), "of": mine.size}
    return Finding("entries" if mine.any() else "zero", name, numbers, Excerpt.of(mine, wanted, off, at))
