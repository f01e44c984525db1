"""Hyperbolic tangent, entry by entry (the activation of BERT's pooler).

Forward   (1)  y = tanh(x)
Backward  (1)  tanh' = 1 - tanh^2, so dx = dy * (1 - y^2): the output alone is enough.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit


class TanhCache(NamedTuple):
    y: np.ndarray  # (N, d)


def tanh_forward(x):
    """Return y and the cache, for x of any shape."""
    fit("tanh", "x (...)", x)
    y = np.tanh(x)  # (N, d)  (1)
    return y, TanhCache(y)


def tanh_backward(dy, cache):
    """Return dx."""
    (y,) = cache
    fit("tanh_backward", "dy (...), y (...)", dy, y)
    dx = dy * (1.0 - y * y)  # (N, d)  (1)
    return dx
