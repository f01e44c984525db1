"""Chapter 2: each row through the same matrix."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, in_and_out, sizes
from lora_np.ops.linear import LinearCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 1, 5, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "Each row of x goes through W: which of the two stands left?",
    "`x @ W` has shape (N, d_out). Treat `b is None` separately.",
)
library = ops.linear_forward


def linear_forward(x, W, b=None):
    """Return y (N, d_out) and the cache LinearCache(x, W)."""
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(x, W)


BRANCHES = {
    "b is None": lambda b, **_: b is None,
    "b is given": lambda b, **_: b is not None,
    "x has one row": lambda x, **_: len(x) == 1,
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        x, W, b = (np.array(value, dtype) for value in ([[1, 2]], [[1, 0, 2], [3, 1, 0]], [0, 0, 1]))
        return {"x": x, "W": W, "b": b}
    n = 8 if trial == 0 else sizes(rng, 1)[0]
    d_in, d_out = in_and_out(rng, trial)
    b = None if trial in (2, 3) else drawn(rng, dtype, d_out)
    return {"x": drawn(rng, dtype, n, d_in), "W": drawn(rng, dtype, d_in, d_out), "b": b}


SLIPS = """
missing_term: b is not added
    x @ W + b => x @ W
extra_term: b is added twice
    x @ W + b => x @ W + b + b
sign: b is subtracted; it is added
    x @ W + b => x @ W - b
mean_vs_sum: it is divided by the number of entries of a row; x @ W is a sum
    x @ W => x @ W / x.shape[1]
"""
