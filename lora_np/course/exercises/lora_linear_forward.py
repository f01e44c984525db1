"""Chapter 5: a frozen map, and the detour of rank r beside it."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, dropout, in_and_out, sizes
from lora_np.ops.lora_linear import LoRALinearCache

CHAPTER, PLACE, MINUTES, LEVEL = 5, 1, 8, "easy"
OUTPUTS = ("y", "cache")
HINTS = (
    "The detour is scale * (x A) B, beside x W + b. The dropout mask multiplies x in the detour only.",
    "`ops.linear_forward(x, W, b)` returns step 1 and a cache that you do not need; it can do without a bias.",
    "Mind the brackets in step 4: `u @ B` has the shape of y. Do not form `A @ B`.",
    "The last line is `return y, LoRALinearCache(z, u, W, A, B, scale, mask)`.",
)
library = ops.lora_linear_forward


def lora_linear_forward(x, W, b, A, B, scale, mask=None):
    """Return y (N, d_out) and LoRALinearCache(z, u, W, A, B, scale, mask)."""
    y0, _ = ops.linear_forward(x, W, b)  # (1)
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
    "b alone is None": lambda b, mask, **_: b is None and mask is not None,
    "mask alone is None": lambda b, mask, **_: b is not None and mask is None,
    "N, d_in, d_out and r are equal": lambda x, A, B, **_: len({*x.shape, *A.shape, *B.shape}) == 1,
    "x has one row": lambda x, **_: len(x) == 1,
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
}


def draw(rng, dtype, trial):
    """Return the arguments in the forward's order; `lora_linear_backward` draws the same."""
    if trial == 1:  # the chapter's example
        x, W = np.array([[1, 2, 3]], dtype), np.array([[1, 0], [0, 1], [1, 1]], dtype)
        A, B = np.array([[1], [0], [1]], dtype), np.array([[2, -1]], dtype)
        return {"x": x, "W": W, "b": None, "A": A, "B": B, "scale": 0.5, "mask": None}
    d_in, d_out = in_and_out(rng, trial)
    n, r = 8 + int(rng.integers(2)), sizes(rng, 1)[0]
    r += r in (d_in, d_out)
    if trial == 4:  # where a transpose that is missing, or one too many, has the right shape
        n = d_in = d_out = r = 4
    x, W, A, B = (drawn(rng, dtype, *shape) for shape in ((n, d_in), (d_in, d_out), (d_in, r), (r, d_out)))
    b = None if trial in (2, 4) else drawn(rng, dtype, d_out)
    mask = None if trial in (3, 4) else dropout(rng, dtype, n, d_in)
    return {"x": x, "W": W, "b": b, "A": A, "B": B, "scale": 1.7, "mask": mask}


SLIPS = """
missing_term: b is not added
    (x, W, b) => (x, W)
extra_term: b is added twice
    y0 + => y0 + (0 if b is None else b) +
constant_factor: scale is missing
    scale * (u @ B) => u @ B
constant_factor: scale is there twice
    scale * (u @ B) => scale * scale * (u @ B)
constant_factor: scale is lora_alpha / r already; it is divided by r once more
    scale * (u @ B) => scale * (u @ B) / A.shape[1]
constant_factor: it is divided by scale; scale multiplies
    scale * (u @ B) => (u @ B) / scale
factor_order: scale multiplies the detour only; here it multiplies the whole sum
    y0 + scale * (u @ B) => scale * (y0 + u @ B)
factor_order: scale multiplies the detour, not the base
    y0 + scale * (u @ B) => scale * y0 + u @ B
mask_ignored: the dropout mask is not applied
    x if mask is None else x * mask => x
elementwise_factor: the mask multiplies x in the detour only; here the base loses entries, too
    (x, W, b) => (x if mask is None else x * mask, W, b)
factor_order: the mask multiplies x in the detour, not in the base
    x if mask is None else x * mask => x
    (x, W, b) => (x if mask is None else x * mask, W, b)
missing_path: x W + b is missing: the detour is beside it, not in its place
    y0 + =>
missing_path: the detour is missing
    + scale * (u @ B) =>
sign: the detour is added
    y0 + => y0 -
"""
