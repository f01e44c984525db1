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
    "The gradient of a row is the probability given minus the one asked for, times the weight of the row.",
    "Which rows count, and what is the mean taken over?",
)


def debug_cross_entropy_backward(dloss, cache):
    """Return dlogits (N, L), for an upstream number dloss."""
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * (dloss / divisor)


def given(dloss, cache):
    p, q, divisor = cache
    return (p - q) / len(p)
