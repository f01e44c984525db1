"""Nodes that run the learner's functions, with the arrays of those in whose places they stand.

A node calls an `Operation`: the learner's forward and backward where they are right, the library's elsewhere. A pair
counts as the learner's if the two are right *together*, whatever lies in their cache. A forward alone gives the output,
and the library's makes the cache; a backward alone gets the library's cache. A learner's backward computes all
gradients, and those of frozen arrays are dropped.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lora_np import ops
from lora_np.adapt.lora import LoRALinear
from lora_np.model.attention import Attention
from lora_np.model.blocks import PreNormBlock
from lora_np.model.heads import ClassifierHead
from lora_np.model.mlp import MLP
from lora_np.model.nodes import LayerNorm, Linear
from lora_np.model.tree import walk
from lora_np.ops import dropout_mask


@dataclass(frozen=True)
class Operation:
    """A forward and its backward, as a node calls them.

    Attributes
    ----------
    library : tuple of two functions
        Its forward and backward.
    forward, backward : callable or None
        The learner's, where they are right.
    together : bool
        The learner's backward takes what the learner's forward keeps.
    """

    library: tuple
    forward: Callable | None = None
    backward: Callable | None = None
    together: bool = False

    def run(self, *arguments):
        """Return the output, and a cache for `back`."""
        if self.forward is None:
            return self.library[0](*arguments)
        y, cache = self.forward(*arguments)
        return y, (cache if self.together else self.library[0](*arguments)[1])

    def back(self, *arguments):
        return (self.backward or self.library[1])(*arguments)


def asked(node, needs_dx, dx, **gradients):
    """Return of a learner's gradients what a node's backward is asked for."""
    return (dx if needs_dx else None), {name: gradients[name] for name in node.trainable}


CROSS_ENTROPY = Operation((ops.cross_entropy_forward, ops.cross_entropy_backward))  # of the loss, which is no node


@dataclass
class YourLinear(Linear):
    operations: dict = field(default_factory=dict)

    def forward(self, x, rng=None):
        return self.operations["linear"].run(x, self.W, self.b)

    def backward(self, dy, cache, needs_dx=True):
        dx, dW, db = self.operations["linear"].back(dy, cache)
        return asked(self, needs_dx, dx, W=dW, b=db)


@dataclass
class YourLayerNorm(LayerNorm):
    operations: dict = field(default_factory=dict)

    def forward(self, x):
        return self.operations["layer_norm"].run(x, self.gamma, self.beta, self.eps)

    def backward(self, dy, cache, needs_dx=True):
        dx, dgamma, dbeta = self.operations["layer_norm"].back(dy, cache)
        return asked(self, needs_dx, dx, gamma=dgamma, beta=dbeta)


@dataclass
class YourLoRALinear(LoRALinear):
    operations: dict = field(default_factory=dict)

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        return self.operations["lora_linear"].run(x, self.W, self.b, self.A, self.B, self.scale, mask)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB = self.operations["lora_linear"].back(dy, cache)
        return asked(self, needs_dx, dx, A=dA, B=dB)


class OwnBackward:
    """A node of several parts whose backward is an exercise of its own, `BACKWARD`."""

    def backward(self, dy, cache, needs_dx=True):
        whole = self.operations[self.BACKWARD]
        if whole.backward is None:
            return super().backward(dy, cache, needs_dx)
        dx, grads = whole.backward(self, dy, cache)
        return (dx if needs_dx else None), grads


@dataclass
class YourMLP(OwnBackward, MLP):
    operations: dict = field(default_factory=dict)
    BACKWARD = "mlp"

    @property
    def bend(self):
        gelu = self.operations["gelu"]
        if self.operations["mlp"].backward is not None:  # which reads the library's cache
            gelu = replace(gelu, together=False)
        return gelu.run, gelu.back


@dataclass
class YourAttention(OwnBackward, Attention):
    operations: dict = field(default_factory=dict)
    BACKWARD = "attention_layer"

    @property
    def attend(self):
        attention = self.operations["attention"]
        return attention.run, lambda dO, cache, needs: attention.back(dO, cache)


@dataclass
class YourHead(ClassifierHead):
    operations: dict = field(default_factory=dict)
    pool = property(lambda self: (self.operations["pool_mean"].run, self.operations["pool_mean"].back))


@dataclass
class YourPreNormBlock(PreNormBlock):
    operations: dict = field(default_factory=dict)

    def forward(self, x, groups, rng=None):
        if rng is not None and drops(self):  # the exercises' blocks know no dropout
            return super().forward(x, groups, rng)
        y, cache = self.operations["block"].run(self, x, groups)
        return y, WithoutDropout(cache)

    def backward(self, dy, cache, needs_dx=True):
        if not isinstance(cache, WithoutDropout):
            return super().backward(dy, cache, needs_dx)
        dx, grads = self.operations["block"].back(self, dy, cache.kept)
        return (dx if needs_dx else None), grads


class WithoutDropout(NamedTuple):
    """What a forward has kept that drew no masks."""

    kept: object


def drops(node):
    return any(getattr(part, "dropout", 0) for _, part in walk(node))


KINDS = {  # of node: what takes its place, and its operations
    Linear: (YourLinear, "linear"),
    LayerNorm: (YourLayerNorm, "layer_norm"),
    LoRALinear: (YourLoRALinear, "lora_linear"),
    MLP: (YourMLP, "gelu", "mlp"),
    Attention: (YourAttention, "attention", "attention_layer"),
    PreNormBlock: (YourPreNormBlock, "block"),
    ClassifierHead: (YourHead, "pool_mean"),
}
LIBRARY = {
    "mlp": (MLP.forward, MLP.backward),
    "attention_layer": (Attention.forward, Attention.backward),
    "block": (PreNormBlock.forward, PreNormBlock.backward),
}


def place_of(node):
    """Return (what takes a node's place, its operations ...), () for a node that no exercise asks for, as one that
    computes more than its kind: MPNet's attention."""
    other = getattr(node, "activation", "gelu") != "gelu" or getattr(node, "pooling", "mean") != "mean"
    return () if other else next((KINDS[kind] for kind in KINDS if type(node) in (kind, KINDS[kind][0])), ())


def fields_of(node):
    """Return a node's fields, without the operations that another `assemble` has given it."""
    return {own.name: getattr(node, own.name) for own in dataclasses.fields(node) if own.name != "operations"}


def plain(_, node):
    """Return the library's node in the place of one that runs a learner's operation."""
    kind = next((kind for kind, (yours, *_) in KINDS.items() if type(node) is yours), None)
    return kind(**fields_of(node)) if kind else node
