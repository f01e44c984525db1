"""Chapter 2: each row with mean 0 and deviation 1, then gamma and beta."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn
from lora_np.ops.layer_norm import LayerNormCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 2, 10, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "Mean and variance are those of each row: `x.mean(axis=1, keepdims=True)` is (N, 1), to be subtracted from x.",
    "Compute the centred rows once, and use them twice: for the variance and for xhat.",
    "eps stands inside the root. gamma multiplies and beta is added after the division.",
)
library = ops.layer_norm_forward


def layer_norm_forward(x, gamma, beta, eps):
    """Return y (N, d) and the cache LayerNormCache(xhat, inverse_std, gamma)."""
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt(variance + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


BRANCHES = {
    "x has one row": lambda x, **_: len(x) == 1,
    "x has more rows than columns": lambda x, **_: x.shape[0] > x.shape[1],
    "x has more columns than rows": lambda x, **_: 1 < x.shape[0] < x.shape[1],
    "x has as many rows as columns": lambda x, **_: x.shape[0] == x.shape[1],
    "x is far from 0": lambda x, **_: np.abs(x.mean()) > 1e4,
    "a row is constant": lambda x, **_: (x == x[:, :1]).all(axis=1).any(),
    "eps is tiny": lambda eps, **_: eps < 1e-9,
}


def draw(rng, dtype, trial):
    n, d = ((4, 7), (1, 2), (9, 5), (3, 8), (6, 6), (5, 7))[trial]
    x = np.array([[1.0, 3.0]], dtype) if trial == 1 else drawn(rng, dtype, n, d)  # the chapter's example
    if trial in (2, 4):
        x[2] = 3
    if trial == 3:  # in steps of 2^-20: its rows are centred without rounding, but the squares of x are rounded
        x = np.rint(x * 2**20) / 2**20 + 2.0**14
    eps = (0.1, 1e-12, 1e-5, 1e-12, 1e-5, 0.2)[trial]  # large, so that its place shows
    return {"x": x, "gamma": drawn(rng, dtype, d), "beta": drawn(rng, dtype, d), "eps": eps}


SLIPS = """
swapped: gamma and beta are exchanged: gamma multiplies, beta is added
    gamma * xhat + beta => beta * xhat + gamma
missing_term: beta is not added
    gamma * xhat + beta => gamma * xhat
elementwise_factor: gamma is missing
    gamma * xhat + beta => xhat + beta
elementwise_factor: gamma is 1 in a fresh model; it multiplies, and nothing is added to it
    gamma * xhat => (1 + gamma) * xhat
factor_order: beta stands inside the bracket, so gamma multiplies it, too
    gamma * xhat + beta => gamma * (xhat + beta)
sign: beta is added
    gamma * xhat + beta => gamma * xhat - beta
constant_factor: the variance divides by d - 1, as of a sample (ddof=1); here it divides by d
    (centred * centred).mean(axis=1, keepdims=True) => (centred * centred).sum(axis=1, keepdims=True) / (x.shape[1] - 1)
mean_vs_sum: the variance is a mean of squares, not their sum
    (centred * centred).mean( => (centred * centred).sum(
elementwise_factor: the root is missing: divide by the deviation, not by the variance
    1.0 / np.sqrt(variance + eps) => 1.0 / (variance + eps)
elementwise_factor: it is multiplied by the deviation; divide by it
    1.0 / np.sqrt(variance + eps) => np.sqrt(variance + eps)
elementwise_factor: it is not divided by the deviation
    centred * inverse_std => centred
factor_order: eps is added to the deviation; it belongs under the root, to the variance
    np.sqrt(variance + eps) => (np.sqrt(variance) + eps)
missing_term: eps is missing
    variance + eps => variance
constant_factor: eps is squared; it is added to the variance as it is
    + eps => + eps * eps
constant_factor: eps is an argument; here it is another number, written into the function
    + eps => + 1e-5
reduction_axis: mean and variance run over the batch; they are those of each row, axis=-1
    .mean(axis=1, => .mean(axis=0,
reduction_axis: mean and variance are those of all entries; they are those of each row, axis=-1
    .mean(axis=1, keepdims=True) => .mean()
reduction_axis: the mean is that of all entries; it is that of each row
    x.mean(axis=1, keepdims=True) => x.mean()
reduction_axis: the variance is that of all entries; it is that of each row
    (centred * centred).mean(axis=1, keepdims=True) => (centred * centred).mean()
reduction_axis: the mean runs over the batch; it is that of each row
    x.mean(axis=1, keepdims=True) => x.mean(axis=0)
reduction_axis: the variance runs over the batch; it is that of each row
    (centred * centred).mean(axis=1, keepdims=True) => (centred * centred).mean(axis=0)
missing_term: the mean is not taken away before the division
    centred * inverse_std => x * inverse_std
missing_term: the mean is not taken away at all
    x - x.mean(axis=1, keepdims=True) => x
wrong_cached_value: the variance is the mean of the squares of what is centred, not of x
    (centred * centred) => (x * x)
wrong_derivative: the mean of the absolute values is no deviation: it is the root of the mean square
    1.0 / np.sqrt(variance + eps) => 1.0 / (np.abs(centred).mean(axis=1, keepdims=True) + eps)
"""
