"""Chapter 3: the gradient of a function of an array, by differences of order 4."""

import numpy as np

from lora_np.course.draws import drawn
from lora_np.course.findings import Finding, Wrong, difference

CHAPTER, PLACE, MINUTES, LEVEL = 3, 2, 15, "medium"
OUTPUTS = ("gradient",)
HINTS = (
    "Loop over `np.ndindex(x.shape)`. For each index, make the function of one number that puts t into that entry.",
    "(f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / (12 h); h is `choose_step(4)` times the size of the entry, or 1 if less.",
    "Work on a copy of x, and write each saved number back: adding h and taking it away may give another one.",
)
LENT = ("x",)
ALIKE = 0.01  # of two slips, as steps differ
TOLERANCE = 1e-9


def numerical_gradient(function, x):
    """Return the gradient of function(x) -> float, shaped like x, to order 4."""
    x = np.array(x, dtype=np.float64)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        h = np.finfo(np.float64).eps ** 0.2 * max(1.0, abs(kept))
        values = []
        for k in (-2, -1, 1, 2):
            x[index] = kept + k * h
            values.append(function(x))
        x[index] = kept
        near = (values[2] - values[1]) / (2 * h)
        wide = (values[3] - values[0]) / (4 * h)
        gradient[index] = (4 * near - wide) / 3
    return gradient


BRANCHES = {
    "x has one axis": lambda x, **_: x.ndim == 1,
    "x has two axes": lambda x, **_: x.ndim == 2,
    "x has three axes or more": lambda x, **_: x.ndim > 2,
    "x is not contiguous": lambda x, **_: not x.flags.c_contiguous,
    "x is a single number": lambda x, **_: x.size == 1,
    "an entry of x is 0": lambda x, **_: not x.all(),
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example: 12
        return {"function": lent(lambda x: float(np.sum(x**3)), (1,)), "x": np.array([2.0])}
    x = drawn(rng, np.float64, *((4, 3), (), (5,), (2, 3, 4), (3, 2), (2, 3, 1, 2))[trial])
    a, b = (drawn(rng, np.float64, *x.shape) for _ in range(2))
    if trial >= 4:  # around a place where order 2 shows; once a check so steep that it does however small its step
        steep, place = (1e6 if dtype == np.float32 else 1e3), (x if trial == 5 else 0 * x)  # at 0 a relative step is 0
        return {
            "function": lent(lambda x: float(np.sum(a * x + steep * b * (x - place) ** 3)), x.shape),
            "x": place.copy(),
        }
    if trial == 3:  # whose reshape(-1) is a copy
        x, a, b = x.T, a.T, b.T

    def function(x):
        return float(np.sum(b * np.tanh(3 * x * a)) + 3 * np.sum(x**3) + 5 * np.sin(np.sum(x) / 4))  # entries meet

    return {"function": lent(function, x.shape), "x": x}


def lent(function, shape):
    """Return the function, which tells the learner when it is called with another shape than that of x."""

    def called(x):
        if np.shape(x) != shape:
            raise Wrong(Finding("called", "gradient", {"given": np.shape(x), "expected": shape}))
        return function(x)

    return called


KINDS = {
    "called": (
        "shape",
        "function is called with the shape {given}, but x has {expected}: move one entry of a copy of x",
    ),
    "digits": (
        None,
        "gradient is right to {error:.0e} of its largest entry only, expected 1e-09: the formula has to be of order 4,"
        " and its step about eps ** 0.2, as rounding costs digits where it is far smaller; and each entry is put back"
        " before the next one moves",
    ),
}


def judge(given, right, arguments):
    found = difference("gradient", given["gradient"], right["gradient"], TOLERANCE)
    if found and found.kind == "entries":
        error = np.max(np.abs(given["gradient"] - right["gradient"])) / np.max(np.abs(right["gradient"]))
        found = Finding("digits", "gradient", {"error": error}) if error < 0.01 else found
    if found:
        yield found


SLIPS = """
constant_factor: the 12 below the line is missing
    (4 * near - wide) / 3 => (4 * near - wide) * 4
constant_factor: it is divided by 2 h; this formula is divided by 12 h
    (4 * near - wide) / 3 => (4 * near - wide) * 2
constant_factor: it is twice as large as it should be: the formula of four points is divided by 12 h
    (4 * near - wide) / 3 => (4 * near - wide) * 2 / 3
constant_factor: it is divided by 8 h; this formula is divided by 12 h
    (4 * near - wide) / 3 => (4 * near - wide) / 2
constant_factor: 4 near - wide is three slopes: divide by 3
    (4 * near - wide) / 3 => (4 * near - wide)
constant_factor: it is not divided by h
    (4 * near - wide) / 3 => (4 * near - wide) / 3 * h
constant_factor: it is multiplied by h; divide by it
    (4 * near - wide) / 3 => (4 * near - wide) / 3 * h * h
sign: the outer two points have the other sign: f(-2h) - 8 f(-h) + 8 f(h) - f(2h)
    (4 * near - wide) / 3 => (4 * near + wide) / 3
sign: the sign of the whole is wrong
    (4 * near - wide) / 3 => (wide - 4 * near) / 3
swapped: the 8 belongs to the inner two points, not to the outer two
    (4 * near - wide) / 3 => (near - 16 * wide) / 6
swapped: the 8 belongs to the inner two points, not to the outer two
    (4 * near - wide) / 3 => (16 * wide - near) / 6
constant_factor: the inner two points count 8 times
    (4 * near - wide) / 3 => (near - 2 * wide) / 6
constant_factor: the outer two points are 4 h apart, not 2 h
    (4 * h) => (2 * h)
missing_term: the outer two points are missing
    (4 * near - wide) / 3 => 4 * near / 3
inplace: an entry is not put back before it moves again
    x[index] = kept + k * h => x[index] += k * h
    x[index] = kept => pass
reduction_axis: all entries move at once; move one at a time
    x[index] = kept + k * h => pass
    values.append(function(x)) => values.append(function(x + k * h))
reduction_axis: a whole row moves at once; move one entry at a time
    x[index] = kept + k * h => x[index[0]] += k * h
    values.append(function(x)) => values.append(function(x)); x[index[0]] -= k * h
reduction_axis: a whole column moves at once; move one entry at a time
    x[index] = kept + k * h => pass
    values.append(function(x)) => values.append(function(x + k * h * (np.arange(x.shape[-1]) == index[-1])))
missing_term: a relative step is 0 where the entry is 0; let it be at least that of an entry of 1
    max(1.0, abs(kept)) => abs(kept)
"""
