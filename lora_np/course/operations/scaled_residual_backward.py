"""A residual with a strength for each column (LayerScale; Touvron 2021, arXiv:2103.17239): y = x + alpha tanh(x)."""

import numpy as np

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dalpha")
NAMES = ("x alpha h", "z gamma t", "u strength branch")


def forward(x, alpha):
    """Return y (N, d) and the cache, for x (N, d) and alpha (d,)."""
    h = np.tanh(x)
    y = x + alpha * h
    return y, (alpha, h)


def scaled_residual_backward(dy, cache):
    """Return dx (N, d) and dalpha (d,)."""
    alpha, h = cache
    dalpha = (dy * h).sum(axis=0)
    dx = dy + alpha * dy * (1 - h * h)
    return dx, dalpha


def draw(rng, dtype, trial):
    n, d = sizes(rng, 2)
    return {"x": drawn(rng, dtype, n, d), "alpha": drawn(rng, dtype, d)}, {}


SLIPS = """
missing_path: x reaches y in two ways; the straight one is missing
    dy + alpha * dy * (1 - h * h) => alpha * dy * (1 - h * h)
elementwise_factor: alpha is multiplied by h, so its gradient has the factor h
    (dy * h).sum(axis=0) => dy.sum(axis=0)
elementwise_factor: the factor alpha belongs to one way alone
    dy + alpha * dy * (1 - h * h) => alpha * (dy + dy * (1 - h * h))
sign: the two ways meet in y, so they are added
    dy + alpha => dy - alpha
"""
HIDDEN = {
    "alpha = 0": """
wrong_derivative: the derivative of tanh is 1 - h h, with the square of h
    1 - h * h => 1 - h
missing_path: x reaches y in two ways; the one through tanh is missing
    dy + alpha * dy * (1 - h * h) => dy
""",
    "alpha = 1": """
elementwise_factor: h was multiplied by alpha, so what comes back to it is, too
    dy + alpha * dy => dy + dy
""",
    "N = 1": """
mean_vs_sum: alpha serves all rows, so its gradient is a sum over them
    (dy * h).sum(axis=0) => (dy * h).mean(axis=0)
""",
}
UPSTREAM = """
ignores_upstream: the way through tanh does not depend on dy
    dy + alpha * dy => dy + alpha
"""
UNLUCKY = {
    "alpha = 0": lambda values: values | {"alpha": np.zeros_like(values["alpha"])},
    "alpha = 1": lambda values: values | {"alpha": np.ones_like(values["alpha"])},
    "N = 1": lambda values: values | {"x": values["x"][:1]},
}
