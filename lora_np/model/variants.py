"""A model with another head, or with dropout: a new model that shares the rest."""

import dataclasses

import numpy as np

from lora_np.files import is_whole
from lora_np.model import architectures
from lora_np.model.architectures.maker import Maker
from lora_np.model.heads import POOLING, ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import check_node, freeze, rebuild, unfreeze
from lora_np.ops.dropout import probability


def with_head(
    model: Transformer, labels: int, pooling: str = "mean", rng: np.random.Generator | None = None
) -> Transformer:
    """Return a new model with a new, trained classifier on top, in place of any head it had; the rest is shared.

    Parameters
    ----------
    model : Transformer
    labels : int
        Number of classes.
    pooling : {"mean", "first", "pooler"}
        What is classified: the mean of a sequence's tokens, its first token, or BERT's pooler over the first token
        (if the model has one).
    rng : numpy.random.Generator
        Needed: draws the classifier's weights from N(0, initializer_range^2); its bias starts at zero.
    """
    check_node(model)
    pooler = getattr(model.head, "pooler", None)
    if pooling not in (*POOLING, "pooler") or (pooling == "pooler" and pooler is None):
        raise ValueError(
            f"pooling must be 'mean' or 'first' (or 'pooler', for a model that has one), but it is {pooling!r}."
        )
    if not is_whole(labels) or not isinstance(rng, np.random.Generator):
        raise ValueError(
            "with_head needs labels, a positive integer, and rng, numpy.random.default_rng(seed); it was given"
            f" {labels!r} and {rng!r}."
        )
    make = Maker(model.config, rng, model.dtype)
    kind = architectures.of(model.config)
    # Only that on a pooler is a class of transformers, such as BertForSequenceClassification: it has a name there.
    native, first = (kind.prefix, "first") if pooling == "pooler" else ("", pooling)
    classifier = freeze(make.linear(model.hidden_size, labels, kind.head[-1] if native else ""))
    head = ClassifierHead(pooler if native else None, classifier, first, kind.bend)
    return unfreeze(dataclasses.replace(model, head=head, hf_prefix=native), "head.classifier")


def with_dropout(model: Transformer, p: float) -> Transformer:
    """Return a new model with dropout where BERT has it: embeddings, attention weights, both halves' outputs."""
    p = probability(p)

    def change(_, node):
        of_base = hasattr(node, "dropout") and not hasattr(node, "FROZEN")  # an adapter has its own
        return dataclasses.replace(node, dropout=p) if of_base else node

    return rebuild(model, change)
