"""Chapter 2: x times the probability that a normal number lies below it."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import any_shape, drawn
from lora_np.ops.gelu import GeluCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 3, 5, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "The normal distribution function is (1 + erf(x / sqrt(2))) / 2; lora_np.ops.erf takes arrays.",
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
    "x has three axes or more": lambda x: x.ndim > 2,
    "an entry of x is 0": lambda x: not x.all(),
    "an entry of x is far from 0": lambda x: (abs(x) > 30).any(),
}


def draw(rng, dtype, trial):
    x = 2 * drawn(rng, dtype, *any_shape(rng, trial))
    if trial == 1:  # the chapter's example, and both ends
        x = np.array([0, 1, -1, 40, -40], dtype)
    return {"x": x}


Y = "x * cdf,"
SLIPS = [
    (
        None,
        "this is the form with tanh, an approximation; the exact one takes erf",
        (Y, "0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),"),
    ),
    (
        None,
        "x times the logistic function of 1.702 x is an approximation; the exact form takes erf",
        (Y, "x / (1 + np.exp(-1.702 * x)),"),
    ),
    (None, "this is SiLU, x times the logistic function of x; GELU takes erf", (Y, "x / (1 + np.exp(-x)),")),
    (None, "this is ReLU", (Y, "np.maximum(x, 0),")),
    ("constant_factor", "the half is missing", ("0.5 * (1.0", "(1.0")),
    ("missing_term", "the 1 is missing: (1 + erf) / 2", ("(1.0 + ", "(")),
    ("sign", "it is 1 + erf, not 1 - erf", ("1.0 + ", "1.0 - ")),
    ("constant_factor", "erf takes x / sqrt(2); here it takes x", ("x * 0.5**0.5", "x")),
    ("constant_factor", "erf takes x / sqrt(2); here it takes x / 2", ("x * 0.5**0.5", "x * 0.5")),
    ("constant_factor", "erf takes x / sqrt(2); here it takes x * sqrt(2)", ("x * 0.5**0.5", "x * 2**0.5")),
    ("elementwise_factor", "x is missing: y is x times the distribution function", (Y, "cdf,")),
    ("missing_term", "the half multiplies the 1 only", ("0.5 * (1.0 + ", "(0.5 + ")),
    (
        "wrong_cached_value",
        "y is x times the distribution function, not times the density",
        (Y, "x * np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5,"),
    ),
]
