"""Chapter 5: a linear map with a detour of rank r beside it."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, dropout, sizes
from lora_np.ops.lora_linear import LoRALinearCache

CHAPTER, PLACE, MINUTES, LEVEL = 5, 1, 10, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "The detour is scale * (x A) B, beside x W + b.",
    "The dropout mask multiplies x in the detour only.",
)
library = ops.lora_linear_forward


def lora_linear_forward(x, W, b, A, B, scale, mask=None):
    """Return y (N, d_out) and LoRALinearCache(z, u, W, A, B, scale, mask)."""
    y0 = x @ W if b is None else x @ W + b  # (1)
    z = x if mask is None else x * mask  # (2)
    u = z @ A  # (3)
    y = y0 + scale * (u @ B)  # (4)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


BRANCHES = {
    "b is None": lambda b, **_: b is None,
    "b is given": lambda b, **_: b is not None,
    "mask is None": lambda mask, **_: mask is None,
    "mask is given": lambda mask, **_: mask is not None,
    "b and mask are both None": lambda b, mask, **_: b is mask is None,
    "b and mask are both given": lambda b, mask, **_: b is not None and mask is not None,
    "b alone is None": lambda b, mask, **_: b is None and mask is not None,
    "mask alone is None": lambda b, mask, **_: b is not None and mask is None,
    "x has one row": lambda x, **_: len(x) == 1,
    "r is 1": lambda A, **_: A.shape[1] == 1,
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
    "all sizes are equal": lambda x, A, B, **_: len({*x.shape, *A.shape, *B.shape}) == 1,
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        arrays = [[1, 2, 3]], [[1, 0], [0, 1], [1, 1]], [[1], [0], [1]], [[2, -1]]
        x, W, A, B = (np.array(array, dtype) for array in arrays)
        return {"x": x, "W": W, "b": None, "A": A, "B": B, "scale": 0.5, "mask": None}
    r, *ends = [4] * 3 if trial == 4 else sizes(rng, 3)
    (d_in, d_out), n = sorted(ends, reverse=trial % 2 == 0), 4 if trial == 4 else 8
    return {
        "x": drawn(rng, dtype, n, d_in),
        "W": drawn(rng, dtype, d_in, d_out),
        "b": None if trial == 3 else drawn(rng, dtype, d_out),
        "A": drawn(rng, dtype, d_in, r),
        "B": drawn(rng, dtype, r, d_out),
        "scale": 1.7,
        "mask": None if trial == 2 else dropout(rng, dtype, n, d_in),
    }


BIAS, MASK, DETOUR = "x @ W + b", "x if mask is None else x * mask", "y0 + scale * (u @ B)"
MASKED_BASE = ("    y0 = x @ W if b is None else x @ W + b", f"    x0 = {MASK}; y0 = x0 @ W + (0 if b is None else b)")
SLIPS = [
    ("missing_term", "b is not added", (BIAS, "x @ W")),
    ("extra_term", "b is added twice", (BIAS, "x @ W + b + b")),
    ("constant_factor", "scale is missing", (DETOUR, "y0 + u @ B")),
    ("constant_factor", "scale is there twice", (DETOUR, "y0 + scale * scale * (u @ B)")),
    (
        "constant_factor",
        "scale is lora_alpha / r already; it is divided by r once more",
        (DETOUR, "y0 + scale / A.shape[1] * (u @ B)"),
    ),
    ("constant_factor", "it is divided by scale; scale multiplies", (DETOUR, "y0 + u @ B / scale")),
    (
        "factor_order",
        "scale multiplies the detour only; here it multiplies the whole sum",
        (DETOUR, "scale * (y0 + u @ B)"),
    ),
    ("factor_order", "scale multiplies the detour, not the base", (DETOUR, "scale * y0 + u @ B")),
    ("mask_ignored", "the dropout mask is not applied", (MASK, "x")),
    (
        "elementwise_factor",
        "the mask multiplies x in the detour only; here the base loses entries, too",
        MASKED_BASE,
    ),
    ("factor_order", "the mask multiplies x in the detour, not in the base", (f"z = {MASK}", "z = x"), MASKED_BASE),
    ("missing_path", "x W + b is missing: the detour is beside it, not in its place", (DETOUR, "scale * (u @ B)")),
    ("missing_path", "the detour is missing", (DETOUR, "y0")),
    ("sign", "the detour is added", (DETOUR, "y0 - scale * (u @ B)")),
]
