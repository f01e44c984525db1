"""Chapter 3: the step at which the error of a difference formula is about least."""

import numpy as np

CHAPTER, PLACE, MINUTES, LEVEL = 3, 1, 5, "easy"
OUTPUTS = ("h",)
TOLERANCE = 5e-3  # eps may be written as 2.2e-16
HINTS = (
    "The error of the formula grows as h ** order, rounding as eps / h. Their sum is about least where they meet.",
    "The two are equal where h ** (order + 1) = eps.",
    "`np.finfo(np.float64).eps` is eps.",
)


def choose_step(order):
    """Return the relative step h of a difference formula of this order, in float64."""
    return float(np.finfo(np.float64).eps) ** (1 / (order + 1))


BRANCHES = {
    "order is 1": lambda order: order == 1,
    "order is odd and above 1": lambda order: order % 2 and order > 1,
    "order is even": lambda order: order % 2 == 0,
}


def draw(rng, dtype, trial):
    return {"order": (4, 1, 2, 6, 3, 8)[trial]}


SLIPS = """
missing_term: the exponent is 1 / (order + 1): the 1 is missing
    (order + 1) => order
sign: the exponent is 1 / (order + 1), not minus that
    ** (1 / => ** (-1 /
sign: the exponent is 1 / (order + 1), not 1 / (order - 1)
    1 / (order + 1) => 1 / max(order - 1, 1e-9)
constant_factor: the exponent is 1 / (order + 1): here it does not depend on the order, as for order 1
    (order + 1) => 2
constant_factor: this is the step for order 2 alone
    (order + 1) => 3
constant_factor: this is the step for order 4 alone
    (order + 1) => 5
factor_order: 1 / order + 1 is (1 / order) + 1; the sum needs a bracket
    1 / (order + 1) => 1 / order + 1
elementwise_factor: the exponent is one over order + 1, not order + 1 itself
    1 / (order + 1) => order + 1
dtype: this is the eps of float32; numbers here are float64
    np.float64 => np.float32
wrong_cached_value: order / (order + 1) is the exponent of the error, not of the step
    1 / (order + 1) => order / (order + 1)
missing_term: eps itself is too small a step: its root is asked for
    ** (1 / (order + 1)) =>
wrong_derivative: eps divided by order + 1 is no root of it
    ** (1 / (order + 1)) => / (order + 1)
"""
