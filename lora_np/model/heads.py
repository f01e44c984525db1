"""What stands on top of the blocks: a classifier on a pooled row per sequence, or on each token, or GPT's tied output.

Classifier, forward
    (1)  pool the tokens of each sequence
    (2)  pooler, of BERT and those like it: tanh(dense(.)); ELECTRA has GELU there, DistilBERT the rectifier
    (3)  back to the order in which the sequences were given
    (4)  logits = classifier(.)
Backward: (4), (3), (2), (1).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.model.nodes import LinearNode, needs_below
from lora_np.ops import (
    gelu_backward,
    gelu_forward,
    linear_backward,
    linear_forward,
    pool_first_backward,
    pool_first_forward,
    pool_last_backward,
    pool_last_forward,
    pool_mean_backward,
    pool_mean_forward,
    relu_backward,
    relu_forward,
    tanh_backward,
    tanh_forward,
)
from lora_np.ops.fit import fit

BENDS = {
    "tanh": (tanh_forward, tanh_backward),
    "gelu": (gelu_forward, gelu_backward),
    "relu": (relu_forward, relu_backward),
}
POOLING = {
    "mean": (pool_mean_forward, pool_mean_backward),
    "first": (pool_first_forward, pool_first_backward),
    "last": (pool_last_forward, pool_last_backward),
}


@dataclass
class ClassifierHead:
    pooler: LinearNode | None
    classifier: LinearNode | None  # None: the pooled rows are the output
    pooling: str
    pooler_activation: str = "tanh"
    padding: int | None = None  # an id that ends no sequence: transformers would take the token before it for the last
    trainable: tuple[str, ...] = ()
    pool = property(lambda self: POOLING[self.pooling])
    bend = property(lambda self: BENDS[self.pooler_activation])

    def forward(self, x, batch, rng=None):
        check_ends(batch, self.padding)
        h, c_pool = self.pool[0](x, batch.groups)  # (1)
        c_pooler = c_bend = c_classifier = None
        if self.pooler is not None:
            h, c_pooler = self.pooler.forward(h, rng)  # (2)
            h, c_bend = self.bend[0](h)
        h = h[np.argsort(batch.order)]  # (3)
        if self.classifier is not None:
            h, c_classifier = self.classifier.forward(h, rng)  # (4)
        return h, (c_pool, c_pooler, c_bend, batch.order, c_classifier)

    def backward(self, dy, cache, needs_dx=True):
        c_pool, c_pooler, c_bend, order, c_classifier = cache
        fit("the head", "dy (S, d)", dy, S=len(order))  # else (3) would choose among more rows
        grads = {}
        to_x, to_h = needs_below(needs_dx, self.pooler, self.classifier)
        if self.classifier is not None:
            dy, grads["classifier"] = self.classifier.backward(dy, c_classifier, to_h)  # (4)
        if not to_h:
            return None, grads
        dy = dy[order]  # (3)
        if self.pooler is not None:
            dy = self.bend[1](dy, c_bend)  # (2)
            dy, grads["pooler"] = self.pooler.backward(dy, c_pooler, to_x)
        return (self.pool[1](dy, c_pool) if to_x else None), grads  # (1)


def check_ends(batch, padding):
    if padding is None or batch.content.ndim != 1:  # patches, or what `train.features` has pooled
        return
    is_last = np.append(batch.position[1:], 0) == 0
    if (batch.content[is_last] == padding).any():
        raise ValueError(
            f"a sequence ends with the id {padding}, which is padding to this model; there is no padding here, give"
            " each sequence without it."
        )


@dataclass
class TokenHead:
    """A classifier on each token: logits (N, labels), in packed order."""

    classifier: LinearNode
    trainable: tuple[str, ...] = ()

    def forward(self, x, batch, rng=None):
        return self.classifier.forward(x, rng)

    def backward(self, dy, cache, needs_dx=True):
        dx, grads = self.classifier.backward(dy, cache, needs_dx)
        return dx, {"classifier": grads}


@dataclass
class TiedHead:
    """GPT's output: logits = x table^T, with the word embedding's own table.

    It holds no array of its own: else the table would be counted, saved and stepped twice.
    """

    trainable: tuple[str, ...] = ()

    def forward(self, x, table):
        return linear_forward(x, table.T)

    def backward(self, dy, cache, needs_dx, needs_table):
        """Return dx and the table's gradient from this use; the transformer adds it to that of the embedding."""
        dx, dT, _ = linear_backward(dy, cache, ("x",) * needs_dx + ("W",) * needs_table)
        return dx, (dT.T if needs_table else None)
