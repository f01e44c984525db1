"""Chapter 4: the way back through a linear map, by two products and a sum."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, in_and_out
from lora_np.course.exercises.linear_forward import linear_forward as forward  # noqa: F401

CHAPTER, PLACE, MINUTES, LEVEL = 4, 1, 10, "easy"
OUTPUTS = ("dx", "dW", "db")
HINTS = (
    "Each gradient has the shape of its variable: dW is (d_in, d_out), from x (N, d_in) and dy (N, d_out).",
    "dx = dy W^T, dW = x^T dy; b serves every row, so its gradient is a sum over rows, axis 0.",
)
library = ops.linear_backward


def linear_backward(dy, cache):
    """Return dx (N, d_in), dW (d_in, d_out), db (d_out,)."""
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


BRANCHES = {
    "x has one row": lambda x, **_: len(x) == 1,
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
    "N, d_in and d_out are equal": lambda x, W, **_: len(x) == W.shape[0] == W.shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        x, W, b = (np.array(value, dtype) for value in ([[1, 2], [3, 4]], [[1], [10]], [0]))
        return {"x": x, "W": W, "b": b}, {}
    d_in, d_out = (4, 4) if trial == 4 else in_and_out(rng, trial)
    n = {2: 1, 3: 10, 4: 4}.get(trial, 8)
    return {"x": drawn(rng, dtype, n, d_in), "W": drawn(rng, dtype, d_in, d_out), "b": drawn(rng, dtype, d_out)}, {}


SLIPS = """
mean_vs_sum: db is a mean over the rows; it is their sum
    dy.sum( => dy.mean(
mean_vs_sum: dW is a sum over the rows, not a mean
    x.T @ dy => x.T @ dy / len(x)
mean_vs_sum: dW and db are sums over the rows, not means
    x.T @ dy => x.T @ dy / len(x)
    dy.sum( => dy.mean(
ignores_upstream: the upstream gradient is missing: it is taken for ones
    = cache => = cache; dy = np.ones_like(dy)
ignores_upstream: db is the number of rows; it is the sum of dy over the rows
    dy.sum(axis=0) => np.full_like(dy[0], len(dy))
"""
