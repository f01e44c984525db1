"""Chapter 5: the way back, through the frozen map and through the detour."""

from lora_np import ops
from lora_np.course.exercises import lora_linear_forward as there

CHAPTER, PLACE, MINUTES, LEVEL = 5, 2, 15, "medium"
OUTPUTS = ("dx", "dA", "dB")
HINTS = (
    "Take the cache apart: `z, u, W, A, B, scale, mask = cache`. Then write `du`; two gradients need it.",
    "Shapes tell the order of the factors. du is (N, r), made of dy (N, d_out) and B (r, d_out): so B is transposed.",
    "du = scale * dy B^T; dA = z^T du; dB = scale * u^T dy. dx has a part from W and one from the detour.",
)
library, forward = ops.lora_linear_backward, there.lora_linear_forward


def lora_linear_backward(dy, cache):
    """Return dx (N, d_in), dA (d_in, r) and dB (r, d_out)."""
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)  # (4)
    du = scale * (dy @ B.T)
    dA = z.T @ du  # (3)
    dz = du @ A.T
    dx = dz if mask is None else dz * mask  # (2)
    dx = dx + dy @ W.T  # (1)
    return dx, dA, dB


BRANCHES = {
    "mask is None": lambda mask, **_: mask is None,
    "mask is given": lambda mask, **_: mask is not None,
    "N, d_in, d_out and r are equal": lambda x, A, B, **_: len({*x.shape, *A.shape, *B.shape}) == 1,
    "x has one row": lambda x, **_: len(x) == 1,
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
}


def draw(rng, dtype, trial):
    arguments = there.draw(rng, dtype, trial)
    inputs = {name: arguments.pop(name) for name in ("x", "A", "B")}
    return inputs, arguments


SLIPS = """
missing_path: x goes two ways: the detour's part is missing in dx
    dx = dx + dy @ W.T => dx = dy @ W.T
missing_path: x goes two ways: the part through W is missing in dx
    dx = dx + dy @ W.T => dx = dx
elementwise_factor: the mask multiplies the detour's part of dx only; here it multiplies the sum
    dz if mask is None else dz * mask => dz
    dx + dy @ W.T => (dx + dy @ W.T) * (1 if mask is None else mask)
factor_order: the mask multiplies the detour's part of dx; here it multiplies the other one
    dz if mask is None else dz * mask => dz
    dx + dy @ W.T => dx + dy @ W.T * (1 if mask is None else mask)
mask_ignored: the mask multiplied x on its way into the detour, so it multiplies dz on the way back
    dz if mask is None else dz * mask => dz
constant_factor: scale is missing in dB
    scale * (u.T @ dy) => u.T @ dy
constant_factor: scale is missing in du, and so in dA and in dx
    scale * (dy @ B.T) => dy @ B.T
constant_factor: scale is missing in all gradients of the detour
    scale * (u.T @ dy) => u.T @ dy
    scale * (dy @ B.T) => dy @ B.T
constant_factor: scale is missing in dA
    z.T @ du => z.T @ du / scale
constant_factor: scale is missing in the detour's part of dx
    du @ A.T => du @ A.T / scale
constant_factor: scale is in dA twice
    z.T @ du => z.T @ du * scale
constant_factor: scale is in dB twice
    scale * (u.T => scale * scale * (u.T
constant_factor: scale multiplies the part through W, too
    dx + dy @ W.T => dx + scale * (dy @ W.T)
sign: the detour is added
    dx = dx + dy @ W.T => dx = -dx + dy @ W.T
mean_vs_sum: dA and dB are sums over the rows, not means
    u.T @ dy => u.T @ dy / len(dy)
    z.T @ du => z.T @ du / len(dy)
elementwise_factor: z is x * mask already; the mask is in dA twice
    z.T @ du => (z if mask is None else z * mask).T @ du
"""
