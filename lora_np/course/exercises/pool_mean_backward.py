"""Chapter 8: the way back through the mean over tokens."""

import numpy as np

from lora_np import ops
from lora_np.course.exercises import pool_mean_forward as there

CHAPTER, PLACE, MINUTES, LEVEL = 8, 2, 10, "medium"
OUTPUTS = ("dx",)
HINTS = (
    "The rows of dy count sequences: a group's first one is not its `start`. Keep a counter that grows by n a group.",
    "Each token of a sequence gets the same gradient: its sequence's, divided by T. np.repeat copies rows.",
)
library, forward, BRANCHES = ops.pool_mean_backward, there.pool_mean_forward, there.BRANCHES


def pool_mean_backward(dy, cache):
    """Return dx (N, d)."""
    groups, rows = cache
    dx, first = np.empty((rows, dy.shape[1]), dy.dtype), 0
    for start, stop, n, T in groups:
        dx[start:stop] = np.repeat(dy[first : first + n] / T, T, axis=0)
        first += n
    return dx


def draw(rng, dtype, trial):
    arguments = there.draw(rng, dtype, trial)
    return {"x": arguments["x"]}, {"groups": arguments["groups"]}


SLIPS = """
constant_factor: each token gets its sequence's gradient divided by T: y was a mean
    / T, T => , T
constant_factor: it is divided by the number of sequences, not by that of their tokens
    / T, T => / n, T
constant_factor: it is divided by the number of all rows, not by that of the sequence's own
    / T, T => / rows, T
constant_factor: it is divided by the length of the longest sequence; each has its own
    / T, T => / max(group[3] for group in groups), T
constant_factor: it is divided by the length of the first sequence; each has its own
    / T, T => / groups[0][3], T
transpose: a sequence's tokens follow each other: repeat each row T times, not the whole block
    np.repeat(dy[first : first + n] / T, T, axis=0) => np.tile(dy[first : first + n] / T, (T, 1))
"""
