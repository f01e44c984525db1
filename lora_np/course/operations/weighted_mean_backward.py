"""A weighted mean of rows, one row out of many: y = (w_1 x_1 + ... + w_N x_N) / (w_1 + ... + w_N)."""

import numpy as np

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dw")
NAMES = ("x w total y", "h alpha mass mean", "tokens trust whole out")


def forward(x, w):
    """Return y (d,) and the cache, for x (N, d) and w (N,)."""
    total = w.sum()
    y = w @ x / total
    return y, (x, w, total, y)


def weighted_mean_backward(dy, cache):
    """Return dx (N, d) and dw (N,)."""
    x, w, total, y = cache
    dx = w[:, None] * dy / total
    dw = (x - y) @ dy / total
    return dx, dw


def draw(rng, dtype, trial):
    n, d = sizes(rng, 2)
    return {"x": drawn(rng, dtype, n, d), "w": rng.uniform(0.3, 2, n).astype(dtype)}, {}


SLIPS = """
missing_path: a weight stands above and below; the way through the sum below is missing
    (x - y) @ dy => x @ dy
sign: a larger sum below makes y smaller, so y is taken away
    (x - y) @ dy => (x + y) @ dy
wrong_cached_value: dx takes dy and the weight, not y
    w[:, None] * dy / total => w[:, None] * y / total
elementwise_factor: dw has the factor w, and should not: y is linear in each weight above
    (x - y) @ dy / total => w * ((x - y) @ dy) / total
"""
HIDDEN = {
    "w = 1": """
elementwise_factor: the sum below is that of the weights, not the number of rows
    w[:, None] * dy / total => w[:, None] * dy / len(w)
elementwise_factor: in dw the sum below is that of the weights, not the number of rows
    (x - y) @ dy / total => (x - y) @ dy / len(w)
""",
    "w sums to 1": """
elementwise_factor: the division by the sum of the weights is missing in dw
    (x - y) @ dy / total => (x - y) @ dy
elementwise_factor: the division by the sum of the weights is missing in dx
    w[:, None] * dy / total => w[:, None] * dy
""",
}
UPSTREAM = """
ignores_upstream: dw does not depend on dy
    (x - y) @ dy => (x - y).sum(axis=1)
"""
UNLUCKY = {
    "w = 1": lambda values: values | {"w": np.ones_like(values["w"])},
    "w sums to 1": lambda values: values | {"w": values["w"] / values["w"].sum()},
}
