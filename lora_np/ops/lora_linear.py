"""LoRA: a frozen linear map with a trainable detour of rank r beside it.

    y = x W + b + scale * (x A) B,      A (d_in, r),  B (r, d_out),  r much smaller than d_in and d_out

Forward
    (1)  y0 = x W + b            the pretrained map; W and b are frozen
    (2)  z = x * mask            dropout on the detour's input only
    (3)  u = z A                 down to r numbers a row
    (4)  y = y0 + scale * u B    up again, and added

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (4)  Nudge B: y moves by scale * u times the nudge. So B is the weight of a linear map with input scale * u:
         dB = scale * u^T dy, and du = scale * dy B^T. y0 receives dy unchanged.
    (3)  A linear map with weight A and input z: dA = z^T du, and dz = du A^T.
    (2)  dx receives dz * mask from the detour.
    (1)  dx receives dy W^T from the pretrained map. The two paths start at the same x, so their gradients add.
         W and b are frozen: there is no dW and no db, and the N d_in d_out multiplications of x^T dy are not done.

Let G = z^T dy, the gradient by which full fine-tuning would change W. Then
    dA = scale * G B^T    and    dB = scale * A^T G :
LoRA sees two thin projections of G. It never forms G, which costs N d_in d_out multiplications: in the order of the
factors below, `u.T @ dy` and `z.T @ du` cost N r d_out and N r d_in.

At the start B = 0: y = y0 to the bit, dA = 0, and only B moves. Were A zero as well, u and so dB would vanish too,
and nothing would ever learn.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1, equation 3.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, number
from lora_np.ops.linear import linear_forward


class LoRALinearCache(NamedTuple):
    z: np.ndarray  # (N, d_in)  the input after dropout; None if A is frozen
    u: np.ndarray  # (N, r)
    W: np.ndarray  # (d_in, d_out)
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    scale: float
    mask: np.ndarray  # (N, d_in)  or None


def lora_linear_forward(x, W, b, A, B, scale, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, A (d_in, r),
    B (r, d_out).

    `scale` is a Python float, lora_alpha / r; `mask` (N, d_in) is a dropout mask already divided by 1 - p, or None.

    Raises
    ------
    ValueError
        If the sizes do not fit (PEFT's lora_A and lora_B are the transposes of A and B), or scale is no number.
    """
    fit(
        "lora_linear",
        "x (N, d_in), W (d_in, d_out), A (d_in, r), B (r, d_out), mask (N, d_in) or None",
        x,
        W,
        A,
        B,
        mask,
    )
    scale = number("scale", scale)
    y0, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    z = x if mask is None else x * mask  # (N, d_in)  (2)
    u = z @ A  # (N, r)  (3)
    y = y0 + (scale * u) @ B  # (N, d_out)  (4)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


def lora_linear_backward(dy, cache, needs=("x", "A", "B")):
    """Return dx (N, d_in), dA (d_in, r), dB (r, d_out); None for those that `needs` does not name.

    There is no dW and no db. `cache.z` may be None when "A" is not needed.
    """
    z, u, W, A, B, scale, mask = cache
    spec = "dy (N, d_out), z (N, d_in) or None, W (d_in, d_out), mask (N, d_in) or None"
    fit("lora_linear_backward", spec, dy, z, W, mask)
    dx = dA = dB = None
    if "B" in needs:
        dB = scale * (u.T @ dy)  # (r, d_out)  (4)
    if "A" in needs or "x" in needs:
        du = scale * (dy @ B.T)  # (N, r)
    if "A" in needs:
        dA = z.T @ du  # (d_in, r)  (3)
    if "x" in needs:
        dz = du @ A.T  # (N, d_in)
        dx = dz if mask is None else dz * mask  # (N, d_in)  (2)
        dx = dx + dy @ W.T  # (N, d_in)  (1)
    return dx, dA, dB
