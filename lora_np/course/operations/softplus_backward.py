"""Softplus, a ReLU with a round corner: y = log(1 + exp(beta x)) / beta. The larger beta, the sharper the corner."""

import numpy as np

from lora_np.course.draws import any_shape, drawn

OUTPUTS = ("dx", "dbeta")
NAMES = ("x beta sig y", "z sharp slope out", "u k prob v")


def forward(x, beta):
    """Return y and the cache, for x of any shape and a number beta."""
    e = np.exp(beta * x)
    sig = e / (1 + e)
    y = np.log(1 + e) / beta
    return y, (x, beta, sig, y)


def softplus_backward(dy, cache):
    """Return dx and the number dbeta."""
    x, beta, sig, y = cache
    dx = dy * sig
    dbeta = (dy * (x * sig - y) / beta).sum()
    return dx, dbeta


def draw(rng, dtype, trial):
    return {"x": drawn(rng, dtype, *any_shape(rng, trial)), "beta": 1.4}, {}


SLIPS = """
wrong_derivative: the derivative of softplus is the sigmoid; this is the derivative of the sigmoid
    dx = dy * sig => dx = dy * sig * (1 - sig)
missing_path: beta stands inside the exponential and below the logarithm; the second way is missing
    (x * sig - y) => (x * sig)
missing_path: beta stands inside the exponential and below the logarithm; the first way is missing
    (x * sig - y) => (-y)
sign: the larger the beta below, the smaller y: this way is taken away
    (x * sig - y) => (x * sig + y)
mean_vs_sum: beta serves all entries, so its gradient is a sum over them
    / beta).sum() => / beta).mean()
"""
HIDDEN = {
    "beta = 1": """
constant_factor: the beta inside and the 1 / beta outside cancel each other
    dx = dy * sig => dx = dy * beta * sig
constant_factor: the division by beta is missing in dbeta
    (x * sig - y) / beta => (x * sig - y)
constant_factor: one division by beta too many: y holds one already
    (x * sig - y) / beta => (x * sig - y) / beta**2
""",
}
UPSTREAM = """
ignores_upstream: dbeta does not depend on dy
    dy * (x * sig - y) => (x * sig - y)
ignores_upstream: dx does not depend on dy
    dx = dy * sig => dx = sig
"""
UNLUCKY = {"beta = 1": lambda values: values | {"beta": 1.0}}
