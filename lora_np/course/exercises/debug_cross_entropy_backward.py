"""Chapter 3: the backward of a cross entropy with three faults, to be found."""

import numpy as np  # noqa: F401 - the slips take it

from lora_np.course.exercises.cross_entropy_backward import (  # noqa: F401 - shared
    BRANCHES,
    SLIPS,
    draw,
    forward,
    library,
)

CHAPTER, PLACE, MINUTES, LEVEL = 3, 5, 15, "medium"
OUTPUTS = ("dlogits",)
HINTS = (
    "Read the whole report, mend what it names, and check again: a second fault often shows when the first is gone.",
    "Think of what the forward can be told: another upstream than 1.0, ignored rows, a sum in place of a mean.",
    "An ignored row has no gradient, though its p is not zero. `q.any(axis=1, keepdims=True)` says which rows count.",
)


def debug_cross_entropy_backward(dloss, cache):
    """Return dlogits (N, L), for an upstream number dloss."""
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * (dloss / divisor)


def given(dloss, cache):
    p, q, divisor = cache
    return (p - q) / len(p)
