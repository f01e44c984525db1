"""Chapter 4: the way back through GELU, a product in which x stands twice."""

import numpy as np

from lora_np import ops
from lora_np.course.exercises import gelu_forward as there

CHAPTER, PLACE, MINUTES, LEVEL = 4, 2, 10, "easy"
OUTPUTS = ("dx",)
HINTS = (
    "y is a product of two functions of x: two terms.",
    "The derivative of Phi is the density, `np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5`.",
)
library, forward, BRANCHES = ops.gelu_backward, there.gelu_forward, there.BRANCHES


def gelu_backward(dy, cache):
    """Return dx, shaped like x."""
    x, cdf = cache
    density = np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5
    return dy * (cdf + x * density)


def draw(rng, dtype, trial):
    return there.draw(rng, dtype, trial), {}


SLIPS = """
missing_term: the term x * density is missing: y is a product of two functions of x
    cdf + x * density => cdf
missing_term: the term cdf is missing: y is a product of two functions of x
    cdf + x * density => x * density
elementwise_factor: x is missing before the density
    cdf + x * density => cdf + density
sign: the second term is added
    cdf + x * density => cdf - x * density
constant_factor: the density lacks 1 / sqrt(2 pi)
    / (2 * np.pi) ** 0.5 =>
constant_factor: the density has 1 / sqrt(pi) for 1 / sqrt(2 pi)
    (2 * np.pi) ** 0.5 => np.pi**0.5
constant_factor: the density has 1 / (2 pi) for 1 / sqrt(2 pi): the root is missing
    (2 * np.pi) ** 0.5 => (2 * np.pi)
constant_factor: the density is multiplied by sqrt(2 pi); divide by it
    / (2 * np.pi) ** 0.5 => * (2 * np.pi) ** 0.5
wrong_derivative: the exponent is -x^2 / 2; the half is missing
    -0.5 * x * x => -x * x
wrong_derivative: the exponent is -x^2 / 2; the square is missing
    -0.5 * x * x => -0.5 * x
sign: the exponent is -x^2 / 2; the minus is missing
    -0.5 * x * x => 0.5 * x * x
elementwise_factor: x is twice in the second term
    cdf + x * density => cdf + x * x * density
missing_term: the density is the derivative of cdf alone; y = x * cdf(x) is a product
    cdf + x * density => density
wrong_cached_value: the density is taken at cdf; it is that of x
    -0.5 * x * x => -0.5 * cdf * cdf
wrong_cached_value: the density multiplies x, not y
    cdf + x * density => cdf + x * cdf * density
wrong_derivative: the density is not cdf * (1 - cdf), which belongs to the logistic function
    cdf + x * density => cdf + x * cdf * (1 - cdf)
wrong_derivative: this is the slope of ReLU, 0 or 1
    dy * (cdf + x * density) => dy * (x > 0)
wrong_derivative: this is the slope of the form with tanh, an approximation; the exact one takes the density
    dy * (cdf + x * density) => ops.gelu_tanh_backward(dy, ops.gelu_tanh_forward(x)[1])
"""
