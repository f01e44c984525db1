"""The rectifier, entry by entry (the activation in DistilBERT's head).

Forward   (1)  y = x where x > 0, else 0
Backward  (1)  the slope is 1 where y > 0, else 0; at 0, where there is none, it is taken to be 0.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit


class ReluCache(NamedTuple):
    y: np.ndarray  # (N, d)


def relu_forward(x):
    """Return y and the cache, for x of any shape."""
    fit("relu", "x (...)", x)
    y = np.where(x.real > 0, x, 0)  # (N, d)  (1)
    return y, ReluCache(y)


def relu_backward(dy, cache):
    """Return dx."""
    (y,) = cache
    fit("relu_backward", "dy (...), y (...)", dy, y)
    dx = np.where(y.real > 0, dy, 0)  # (N, d)  (1)
    return dx
