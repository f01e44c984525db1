"""A soft maximum of each row: y = t log(sum over j of exp(x_j / t)). The smaller t, the nearer to the largest x_j."""

import numpy as np

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dt")
NAMES = ("x t p y", "s tau w best", "logits heat prob out")


def forward(x, t):
    """Return y (N,) and the cache, for x (N, L) and a number t."""
    e = np.exp(x / t)
    total = e.sum(axis=1, keepdims=True)
    p = e / total
    y = t * np.log(total)[:, 0]
    return y, (x, t, p, y)


def log_sum_exp_backward(dy, cache):
    """Return dx (N, L) and the number dt."""
    x, t, p, y = cache
    dx = dy[:, None] * p
    dt = (dy * (y / t - (x * p).sum(axis=1) / t)).sum()
    return dx, dt


def draw(rng, dtype, trial):
    n, width = sizes(rng, 2)
    return {"x": drawn(rng, dtype, n, width), "t": 1.6}, {}


SLIPS = """
wrong_derivative: y answers to each entry of its row by p alone; this is how a probability answers to its own score
    dy[:, None] * p => dy[:, None] * p * (1 - p)
missing_path: t stands in front and inside of the exponential; the second way is missing
    y / t - (x * p).sum(axis=1) / t => y / t
missing_path: t stands in front and inside of the exponential; the first way is missing
    y / t - (x * p).sum(axis=1) / t => -(x * p).sum(axis=1) / t
sign: a larger t makes x / t smaller, so what comes from inside is taken away
    y / t - (x => y / t + (x
mean_vs_sum: the mean over a row is weighted by p already: their products are added up
    (x * p).sum(axis=1) => (x * p).mean(axis=1)
"""
HIDDEN = {
    "t = 1": """
constant_factor: the t in front and the 1 / t inside cancel each other
    dy[:, None] * p => dy[:, None] * p / t
constant_factor: y is t times the logarithm; the logarithm alone is y / t
    y / t - (x => y - (x
constant_factor: inside, x is divided by t, whose derivative brings another division by t
    (x * p).sum(axis=1) / t => (x * p).sum(axis=1)
""",
    "N = 1": """
mean_vs_sum: t serves all rows, so its gradient is a sum over them
    / t)).sum() => / t)).mean()
""",
}
UPSTREAM = """
ignores_upstream: dx does not depend on dy
    dx = dy[:, None] * p => dx = p
"""
UNLUCKY = {
    "t = 1": lambda values: values | {"t": 1.0},
    "N = 1": lambda values: values | {"x": values["x"][:1]},
}
