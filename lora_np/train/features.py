"""Training a head alone: what the frozen network says of an example never changes, so it is computed once.

With features f_s = pool(network(example s)) the loss depends on the head's parameters through head(f_s) alone. So a
model without blocks that is given f_s as a sequence of one row has the same logits and the same gradients, and an
epoch costs a product with the classifier.
"""

import dataclasses
from dataclasses import dataclass

from lora_np.model.heads import ClassifierHead
from lora_np.model.tree import is_trainable, walk
from lora_np.train.backends import here
from lora_np.train.evaluate import predict


@dataclass
class GivenRows:
    """Embeddings of what is a row of numbers already."""

    trainable: tuple = ()

    def arrange(self, batch):
        return batch

    def forward(self, batch, rng=None):
        return batch.content, None


def is_fixed_below_head(model):
    """Return whether all below the head is frozen and without dropout, so that its output is a constant."""
    if not isinstance(model.head, ClassifierHead):
        return False
    below = dataclasses.replace(model, head=None)
    return not is_trainable(below) and all(not getattr(node, "dropout", 0.0) for _, node in walk(below))


def features(model, sequences, run=here):
    """Return what the network below the head says of each sequence, pooled: a list of arrays (1, d).

    Raises
    ------
    ValueError
        Unless `is_fixed_below_head(model)`.
    """
    if not is_fixed_below_head(model):
        raise ValueError(
            "features are of a model with a classifier below which nothing is trained and nothing drops out; this one"
            " has to be trained through the whole network."
        )
    pooled = dataclasses.replace(model, head=ClassifierHead(None, None, model.head.pooling, padding=model.head.padding))
    return list(predict(pooled, sequences, run)[:, None])


def head_alone(model):
    """Return a model of the same head that reads features; the arrays are shared, so what trains one trains both."""
    return dataclasses.replace(model, embeddings=GivenRows(), layer=(), norm=None)
