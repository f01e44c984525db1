"""Chapter 2: each entry times the probability that a normal variable lies below it."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import any_shape, drawn
from lora_np.ops.gelu import GeluCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 3, 5, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "The normal distribution function is `cdf = 0.5 * (1 + ops.erf(...))`, of x / sqrt(2); erf takes arrays.",
    "y is x times that.",
)
library = ops.gelu_forward


def gelu_forward(x):
    """Return y, shaped as x, and the cache GeluCache(x, cdf)."""
    cdf = 0.5 * (1.0 + ops.erf(x * 0.5**0.5))
    return x * cdf, GeluCache(x, cdf)


BRANCHES = {
    "x has one axis": lambda x: x.ndim == 1,
    "x has two axes": lambda x: x.ndim == 2,
    "x has one axis, or three or more": lambda x: x.ndim != 2,
    "x has three axes or more": lambda x: x.ndim > 2,
    "x has a single entry": lambda x: x.size == 1,
    "x has entries far from 0": lambda x: np.abs(x).max() > 50,
    "an entry of x is 0": lambda x: not x.all(),
}


def draw(rng, dtype, trial):
    if trial == 4:
        return {"x": np.array([[-1000, -30, 0], [30, 60, 1000]], dtype)}
    if trial == 1:
        return {"x": np.array([1.5], dtype)}
    return {"x": 2 * drawn(rng, dtype, *any_shape(rng, trial))}


SLIPS = """
other: this is the form with tanh, an approximation; the exact one takes erf
    return x * cdf, => return ops.gelu_tanh_forward(x)[0],
other: x times the logistic function of 1.702 x is an approximation; the exact form takes erf
    return x * cdf, => return x / (1 + np.exp(-1.702 * x)),
other: this is SiLU, x times the logistic function of x; GELU takes erf
    return x * cdf, => return x / (1 + np.exp(-x)),
other: this is ReLU
    return x * cdf, => return np.maximum(x, 0),
constant_factor: the half is missing
    0.5 * (1.0 => (1.0
missing_term: the 1 is missing: (1 + erf) / 2
    (1.0 + ops => (ops
sign: it is 1 + erf, not 1 - erf
    1.0 + ops => 1.0 - ops
constant_factor: erf takes x / sqrt(2); here it takes x
    x * 0.5**0.5 => x
constant_factor: erf takes x / sqrt(2); here it takes x / 2
    x * 0.5**0.5 => x * 0.5
constant_factor: erf takes x / sqrt(2); here it takes x * sqrt(2)
    x * 0.5**0.5 => x * 2**0.5
elementwise_factor: x is missing: y is x times the distribution function
    return x * cdf, => return cdf,
missing_term: the half multiplies the 1 only
    0.5 * (1.0 + ops.erf(x * 0.5**0.5)) => 0.5 * 1.0 + ops.erf(x * 0.5**0.5)
wrong_cached_value: y is x times the distribution function, not times the density
    return x * cdf, => return x * np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5,
"""
