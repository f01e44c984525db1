"""Chapter 3: the backward of a layer norm with one fault, to be found."""

from lora_np.course.exercises.layer_norm_backward import BRANCHES, SLIPS, draw, forward, library  # noqa: F401 - shared

CHAPTER, PLACE, MINUTES, LEVEL = 3, 3, 15, "medium"
OUTPUTS = ("dx", "dgamma", "dbeta")
HINTS = (
    'Only dx is wrong. Try again with gamma = 1: `case.inputs | {"gamma": np.ones(7)}`. What does the report say now?',
    "gamma is the last thing that the forward applies. So it is the first thing that the backward meets.",
    "xhat receives gamma * dy. Everything after that works on this, not on dy: also both means.",
)


def debug_layer_norm_backward(dy, cache):
    """Return dx (N, d), dgamma (d,), dbeta (d,)."""
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def given(dy, cache):
    xhat, inverse_std, gamma = cache
    along_xhat = (dy * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=-1, keepdims=True) - xhat * along_xhat)
    return gamma * dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)
