"""Chapter 4: the way back through an RMSNorm, the layer norm of Llama, without a formula to copy."""

from typing import NamedTuple

import numpy as np

from lora_np.course.draws import drawn

CHAPTER, PLACE, MINUTES, LEVEL = 4, 5, 20, "hard"
OUTPUTS = ("dx", "dgamma")
HINTS = (
    "The derivation of the layer norm goes through. Which of its ways does an RMSNorm not have?",
    "There is no mean that is taken away. The way through 1 / rms stays: each entry of the row is in it.",
)


class RMSNormCache(NamedTuple):
    """xhat = x / rms (N, d), inverse_rms (N, 1), gamma (d,)."""

    xhat: np.ndarray
    inverse_rms: np.ndarray
    gamma: np.ndarray


def forward(x, gamma, eps):
    """Return gamma * x / rms, with rms the root of the mean square of each row, plus eps; and the cache."""
    inverse_rms = ((x * x).mean(axis=1, keepdims=True) + eps) ** -0.5
    xhat = x * inverse_rms
    return gamma * xhat, RMSNormCache(xhat, inverse_rms, gamma)


def rms_norm_backward(dy, cache):
    """Return dx (N, d), dgamma (d,)."""
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    return inverse_rms * (dxhat - xhat * along_xhat), (dy * xhat).sum(axis=0)


BRANCHES = {
    "x has one row": lambda x, **_: len(x) == 1,
    "x has more rows than columns": lambda x, **_: x.shape[0] > x.shape[1],
    "x has more columns than rows": lambda x, **_: 1 < x.shape[0] < x.shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example: dx is at right angles to x, but for eps
        return {"x": np.array([[3.0, 4.0]], dtype), "gamma": np.ones(2, dtype)}, {"eps": 1e-5}
    d = 5 + int(rng.integers(3))
    return {"x": drawn(rng, dtype, 9 if trial % 2 else 3, d), "gamma": drawn(rng, dtype, d)}, {"eps": 1e-2}


SLIPS = """
missing_term: dx takes 1 / rms for a constant; it depends on each entry of x
    - xhat * along_xhat =>
sign: the way through 1 / rms is subtracted
    - xhat * along_xhat => + xhat * along_xhat
extra_term: the mean of dxhat is taken away, as in a layer norm; an RMSNorm takes away no mean
    dxhat - xhat => dxhat - dxhat.mean(axis=1, keepdims=True) - xhat
elementwise_factor: gamma is missing in dx: it multiplies dy first of all
    gamma * dy => dy
factor_order: gamma multiplies dx at the end; it differs from entry to entry, and belongs into the mean
    gamma * dy => dy
    inverse_rms * ( => gamma * inverse_rms * (
elementwise_factor: 1 / rms is missing in dx
    inverse_rms * ( => (
elementwise_factor: inverse_rms divides dx; it is 1 / rms already, so it multiplies
    inverse_rms * ( => 1 / inverse_rms * (
mean_vs_sum: the way through 1 / rms has the mean of dxhat * xhat, not the sum
    .mean(axis=1, keepdims=True) => .sum(axis=1, keepdims=True)
reduction_axis: the mean runs over the rows; it runs over the entries of each row
    .mean(axis=1, => .mean(axis=0,
mean_vs_sum: dgamma is the sum over the rows, not the mean
    (dy * xhat).sum(axis=0) => (dy * xhat).mean(axis=0)
elementwise_factor: dgamma lacks xhat: gamma multiplies it
    (dy * xhat) => (dy)
elementwise_factor: the mean in the way through 1 / rms is of dxhat * xhat, not of dxhat
    (dxhat * xhat).mean => dxhat.mean
missing_term: xhat is missing in the way through 1 / rms
    - xhat * along_xhat => - along_xhat
"""
