"""Chapter 3: the backward of the LoRA layer with two faults, to be found."""

from lora_np.course.exercises.lora_linear_backward import BRANCHES, SLIPS, draw, forward, library  # noqa: F401 - shared

CHAPTER, PLACE, MINUTES, LEVEL = 3, 4, 15, "medium"
OUTPUTS = ("dx", "dA", "dB")
HINTS = (
    "dB is right, dA and dx are wrong. So look behind the point where the way to A and x leaves the way to B.",
    'With `case.fixed | {"scale": 1.0}` only dx is wrong. Set the mask to None as well: what does the report say?',
    "u reaches y through two factors, the scale and B. And x reaches z through the mask.",
)


def debug_lora_linear_backward(dy, cache):
    """Return dx (N, d_in), dA (d_in, r), dB (r, d_out)."""
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dz = du @ A.T
    dx = dz if mask is None else dz * mask
    dx = dx + dy @ W.T
    return dx, dA, dB


def given(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = dy @ B.T
    dA = z.T @ du
    dz = du @ A.T
    dx = dy @ W.T + dz
    return dx, dA, dB
