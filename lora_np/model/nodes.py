"""The smallest nodes: each holds parameters and calls one operation.

Every node has `trainable`, the tuple of its own array fields that are trained, and `hf`, the name of the same module
in Hugging Face's transformers. `forward` returns `(output, cache)`. `backward(dy, cache, needs_dx)` returns `(dx,
gradients)`: gradients of exactly the trainable arrays, dx or None. Nodes keep no activations.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lora_np.model.tree import is_trainable
from lora_np.ops import (
    dropout_forward,
    dropout_mask,
    embedding_backward,
    embedding_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
)


class LinearNode(Protocol):
    """What stands where a linear map stands: the map itself, or one that is adapted."""

    W: np.ndarray
    b: np.ndarray | None
    hf: str
    trainable: tuple[str, ...]

    def forward(self, x: np.ndarray, rng: np.random.Generator | None = None) -> tuple[np.ndarray, Any]: ...

    def backward(self, dy: np.ndarray, cache: Any, needs_dx: bool = True) -> tuple[np.ndarray | None, dict]: ...


@dataclass
class Linear:
    W: np.ndarray  # (d_in, d_out)
    b: np.ndarray | None  # (d_out,)
    hf: str = ""
    trainable: tuple[str, ...] = ()

    def forward(self, x, rng=None):
        y, cache = linear_forward(x, self.W, self.b)
        return y, cache if "W" in self.trainable else cache._replace(x=None)  # a frozen W never meets x again

    def backward(self, dy, cache, needs_dx=True):
        dx, dW, db = linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(W=dW, b=db)


@dataclass
class LayerNorm:
    gamma: np.ndarray  # (d,)
    beta: np.ndarray  # (d,)
    eps: float
    hf: str = ""
    trainable: tuple[str, ...] = ()

    def forward(self, x):
        return layer_norm_forward(x, self.gamma, self.beta, self.eps)

    def backward(self, dy, cache, needs_dx=True):
        dx, dgamma, dbeta = layer_norm_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(gamma=dgamma, beta=dbeta)


@dataclass
class Embedding:
    table: np.ndarray  # (V, d)
    hf: str = ""
    trainable: tuple[str, ...] = ()
    virtual = 0  # tokens that it puts in front of each sequence
    places = property(lambda self: len(self.table))  # rows that a sequence may ask for

    def forward(self, ids):
        return embedding_forward(self.table, ids)

    def backward(self, dy, cache):
        return {"table": embedding_backward(dy, cache)} if self.trainable else {}


def needs(node, needs_dx):
    """Return the names of the gradients that a node's backward has to compute."""
    return ("x", *node.trainable) if needs_dx else node.trainable


def needs_below(needs_dx, *parts):
    """Return for each part, in forward order, whether its backward must return dx: something before it wants it.

    So a backward does no work below the lowest trained array. A part may be None.
    """
    wanted = [needs_dx]
    for part in parts[:-1]:
        wanted.append(wanted[-1] or (part is not None and is_trainable(part)))
    return wanted


def gradients(**given):
    """Return the gradients that were computed, by field name."""
    return {name: gradient for name, gradient in given.items() if gradient is not None}


def drop(x, p, rng):
    """Return x after dropout with a mask that is drawn here, and the cache for `dropout_backward`."""
    return dropout_forward(x, dropout_mask(x.shape, p, rng, x.dtype))
