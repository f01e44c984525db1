"""Chapter 4: the way back through a layer norm, where x has three ways to y."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn

CHAPTER, PLACE, MINUTES, LEVEL = 4, 4, 25, "hard"
OUTPUTS = ("dx", "dgamma", "dbeta")
HINTS = (
    "Parameters first: two sums over axis 0. Then form dxhat = gamma * dy, and use nothing but dxhat from there on.",
    "Four ways lead from x to xhat, and one brings nothing: straight on, by the mean, by the spread remain.",
    "dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)), the means over each row, keepdims=True.",
)
library, forward = ops.layer_norm_backward, ops.layer_norm_forward


def layer_norm_backward(dy, cache):
    """Return dx (N, d), dgamma (d,), dbeta (d,)."""
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


BRANCHES = {
    "x has one row": lambda x, **_: len(x) == 1,
    "x has more rows than columns": lambda x, **_: x.shape[0] > x.shape[1],
    "x has more columns than rows": lambda x, **_: 1 < x.shape[0] < x.shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example: whatever dy is, dx is zero
        x, d = np.array([[1.0, 3.0]], dtype), 2
    else:
        d = 5 + int(rng.integers(3))
        x = drawn(rng, dtype, 9 if trial % 2 else int(rng.integers(3, 5)), d)
    return {"x": x, "gamma": drawn(rng, dtype, d), "beta": drawn(rng, dtype, d)}, {"eps": 1e-5}


SLIPS = """
missing_term: dx lacks the way through the mean: minus the mean of dxhat over the row
    - dxhat.mean(axis=-1, keepdims=True) =>
missing_term: dx lacks the way through the deviation: minus xhat times the mean of dxhat * xhat
    - xhat * along_xhat =>
missing_term: dx takes mean and deviation for constants; both depend on x
    - dxhat.mean(axis=-1, keepdims=True) - xhat * along_xhat =>
sign: the way through the mean is subtracted
    - dxhat.mean => + dxhat.mean
sign: the way through the deviation is subtracted
    - xhat * along_xhat => + xhat * along_xhat
elementwise_factor: gamma is missing in dx: it multiplies dy first of all
    gamma * dy => dy
factor_order: gamma multiplies dx at the end; it differs from entry to entry, and belongs into the means
    gamma * dy => dy
    inverse_std * ( => gamma * inverse_std * (
elementwise_factor: inverse_std is missing in dx
    inverse_std * ( => (
elementwise_factor: inverse_std divides dx; it is 1 / std already, so it multiplies
    inverse_std * ( => 1 / inverse_std * (
elementwise_factor: inverse_std is in dx twice
    inverse_std * ( => inverse_std**2 * (
elementwise_factor: the second mean is of dxhat alone; it is of dxhat * xhat
    (dxhat * xhat).mean => dxhat.mean
elementwise_factor: the way through the deviation is xhat times a mean; the xhat in front is missing
    - xhat * along_xhat => - along_xhat
mean_vs_sum: dx takes sums over the row where means belong
    .mean( => .sum(
reduction_axis: the means in dx run over the rows; they run within each row, axis=-1
    .mean(axis=-1, => .mean(axis=0,
reduction_axis: the means in dx run over everything; they run within each row, axis=-1
    .mean(axis=-1, keepdims=True) => .mean()
elementwise_factor: dgamma lacks xhat, which gamma multiplied
    return dx, (dy * xhat).sum(axis=0) => return dx, dy.sum(axis=0)
elementwise_factor: dgamma has gamma in it; gamma multiplies xhat, so its gradient is dy * xhat, summed
    (dy * xhat).sum => (gamma * dy * xhat).sum
mean_vs_sum: dgamma is a mean over the rows; it is their sum
    (dy * xhat).sum( => (dy * xhat).mean(
mean_vs_sum: dbeta is a mean over the rows; it is their sum
    , dy.sum( => , dy.mean(
mean_vs_sum: dgamma and dbeta are means over the rows; they are sums
    .sum(axis=0) => .mean(axis=0)
"""
