"""Chapter 8: one row for each sentence, the mean over its tokens."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn
from lora_np.ops.pooling import PoolCache

CHAPTER, PLACE, MINUTES, LEVEL = 8, 1, 10, "medium"
OUTPUTS = ("y", "cache")
HINTS = (
    "The rows start to stop of a group are n sentences of T tokens each, one behind the other.",
    "x[start:stop] has n * T rows. Give it three axes, (n, T, d), and take the mean over the one of the tokens.",
)
library = ops.pool_mean_forward
GROUPS = (
    ((0, 6, 2, 3), (6, 14, 2, 4)),
    ((0, 3, 1, 3),),
    ((0, 9, 3, 3),),
    ((0, 4, 4, 1), (4, 10, 1, 6)),
    ((0, 10, 2, 5), (10, 18, 4, 2), (18, 20, 2, 1)),
    ((0, 6, 2, 3), (6, 14, 2, 4)),
)


def pool_mean_forward(x, groups):
    """Return y (S, d), one row a sequence, and the cache PoolCache(groups, rows)."""
    means = []
    for start, stop, n, T in groups:
        means.append(x[start:stop].reshape(n, T, -1).mean(axis=1))
    return np.concatenate(means), PoolCache(groups, len(x))


BRANCHES = {
    "there is one sequence": lambda groups, **_: len(groups) == 1 and groups[0][2] == 1,
    "all sequences have one length": lambda groups, **_: len(groups) == 1,
    "sequences have different lengths": lambda groups, **_: len(groups) > 1,
    "a sequence has a single token": lambda groups, **_: any(T == 1 for *_, T in groups),
}


def draw(rng, dtype, trial):
    groups = GROUPS[trial]
    return {"x": drawn(rng, dtype, groups[-1][1], 5 + trial), "groups": groups}


SLIPS = """
mean_vs_sum: it is the sum over the tokens, not their mean
    .mean(axis=1) => .sum(axis=1)
reduction_axis: the mean runs over all sequences of a group; each has its own
    .reshape(n, T, -1).mean(axis=1) => .mean(axis=0, keepdims=True).repeat(n, axis=0)
transpose: the rows are viewed as (T, n, d); a sequence's tokens follow each other, so it is (n, T, d)
    .reshape(n, T, -1).mean(axis=1) => .reshape(T, n, -1).mean(axis=0)
missing_term: the first token of each sequence is left out of the mean
    .mean(axis=1) => [:, min(1, T - 1) :].mean(axis=1)
other: it takes the first token of each sequence; the mean is asked for
    .mean(axis=1) => [:, 0]
other: it takes the last token of each sequence; the mean is asked for
    .mean(axis=1) => [:, -1]
other: it takes the largest number of each column; the mean is asked for
    .mean(axis=1) => .max(axis=1)
constant_factor: it is divided by the number of sequences, not by that of their tokens
    .mean(axis=1) => .sum(axis=1) / n
constant_factor: it is divided by the number of all rows, not by that of the sequence's own
    .mean(axis=1) => .sum(axis=1) / len(x)
constant_factor: it is divided by the length of the longest sequence; each has its own
    .mean(axis=1) => .sum(axis=1) / max(group[3] for group in groups)
constant_factor: it is divided by the length of the first sequence; each has its own
    .mean(axis=1) => .sum(axis=1) / groups[0][3]
"""
