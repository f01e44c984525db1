"""Rotary position (RoPE; Su 2021, arXiv:2104.09864): each pair (x1, x2) turns by the position times a frequency."""

import numpy as np

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dfreq")
NAMES = ("x x1 x2 freq where", "h h1 h2 speed place", "q q1 q2 omega at")


def forward(x, freq, where):
    """Return y and the cache; x (N, 2 k), freq (k,), positions where (N,)."""
    angle = where[:, None] * freq
    cos, sin = np.cos(angle), np.sin(angle)
    x1, x2 = np.split(x, 2, axis=1)
    y1 = x1 * cos - x2 * sin
    y2 = x1 * sin + x2 * cos
    return np.concatenate([y1, y2], axis=1), (cos, sin, y1, y2, where)


def rotation_backward(dy, cache):
    """Return dx (N, 2 k) and dfreq (k,)."""
    cos, sin, y1, y2, where = cache
    dy1, dy2 = np.split(dy, 2, axis=1)
    dx1 = dy1 * cos + dy2 * sin
    dx2 = dy2 * cos - dy1 * sin
    dangle = dy2 * y1 - dy1 * y2
    dfreq = (where[:, None] * dangle).sum(axis=0)
    return np.concatenate([dx1, dx2], axis=1), dfreq


def draw(rng, dtype, trial):
    n, k = sizes(rng, 2)
    where = rng.permutation(np.arange(2, 10))[:n].astype(dtype)
    return {"x": drawn(rng, dtype, n, 2 * k), "freq": drawn(rng, dtype, k)}, {"where": where}


SLIPS = """
missing_path: x1 reaches both halves of y; the way through the second is missing
    dy1 * cos + dy2 * sin => dy1 * cos
sign: y2 answers to the angle by y1, and y1 by minus y2
    dy2 * y1 - dy1 * y2 => dy2 * y1 + dy1 * y2
sign: the sign of dfreq is the other one
    dy2 * y1 - dy1 * y2 => dy1 * y2 - dy2 * y1
wrong_cached_value: the derivative of the angle takes the other half of y
    dy2 * y1 - dy1 * y2 => dy2 * y2 - dy1 * y1
other: the two halves of dx are in the wrong order
    np.concatenate([dx1, dx2], axis=1) => np.concatenate([dx2, dx1], axis=1)
"""
HIDDEN = {
    "every position is 0": """
transpose: this turns the same way as the forward; the way back turns backwards
    dy1 * cos + dy2 * sin => dy1 * cos - dy2 * sin
    dy2 * cos - dy1 * sin => dy2 * cos + dy1 * sin
missing_term: dx2 lacks what it receives from the first half of y
    dy2 * cos - dy1 * sin => dy2 * cos
""",
    "every position is 1": """
elementwise_factor: the angle is the position times the frequency, so the position is a factor
    (where[:, None] * dangle) => (dangle)
""",
    "N = 1": """
mean_vs_sum: a frequency serves all rows, so its gradient is a sum over them
    dangle).sum(axis=0) => dangle).mean(axis=0)
""",
}
UPSTREAM = """
ignores_upstream: the angle answers to nothing but y here; dy is missing
    dy2 * y1 - dy1 * y2 => y1 - y2
"""
UNLUCKY = {
    "every position is 0": lambda values: values | {"where": np.zeros_like(values["where"])},
    "every position is 1": lambda values: values | {"where": np.ones_like(values["where"])},
    "N = 1": lambda values: values | {"x": values["x"][:1], "where": values["where"][:1]},
}
