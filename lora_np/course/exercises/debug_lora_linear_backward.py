"""Chapter 3: the backward of the LoRA layer with two faults, to be found."""

from lora_np.course.exercises.lora_linear_backward import BRANCHES, SLIPS, draw, forward, library  # noqa: F401 - shared

CHAPTER, PLACE, MINUTES, LEVEL = 3, 4, 15, "medium"
OUTPUTS = ("dx", "dA", "dB")
HINTS = (
    "Follow the shapes: dA is (d_in, r), dB is (r, d_out).",
    "x goes two ways: through W, and through A and B. Both come back into dx.",
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
