"""A model with another head, or with dropout: a new model that shares the rest."""

import dataclasses

import numpy as np

from lora_np.files import is_whole
from lora_np.model import architectures
from lora_np.model.architectures.architecture import PROBLEMS, TOKEN_CLASSIFIER
from lora_np.model.architectures.maker import Maker
from lora_np.model.heads import POOLING, ClassifierHead, TokenHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import check_node, freeze, rebuild, unfreeze
from lora_np.ops.dropout import probability


def with_head(
    model: Transformer,
    labels: int,
    pooling: str = "mean",
    rng: np.random.Generator | None = None,
    problem_type: str | None = None,
) -> Transformer:
    """Return a new model with a new, trained classifier on top, in place of any head it had; the rest is shared.

    Parameters
    ----------
    model : Transformer
    labels : int
        Number of classes; or of the numbers that a row is given, for a regression.
    pooling : {"mean", "first", "last", "pooler", "tokens"}
        What is classified: the mean of a sequence's tokens, its first or last token (of a GPT-2, which looks back only,
        the last: as `GPT2ForSequenceClassification` does, without a bias), BERT's pooler over the first token (if the
        model has one), or each token for itself, as `BertForTokenClassification` does.
    rng : numpy.random.Generator
        Needed: draws the classifier's weights from N(0, initializer_range^2); its bias starts at zero.
    problem_type : str, optional
        What the head is trained for, as it stands in config.json: "single_label_classification",
        "multi_label_classification" or "regression". None leaves it to transformers' rule: see `train.losses.loss_of`.
    """
    check_node(model)
    check_head(model, labels, pooling, rng, problem_type)
    head, prefix = new_head(model, labels, pooling, Maker(model.config, rng, model.dtype))
    config = {name: value for name, value in model.config.items() if name != "problem_type"}  # that of a head before
    config |= {"problem_type": problem_type} if problem_type else {}
    head = dataclasses.replace(head, classifier=freeze(head.classifier))
    return unfreeze(dataclasses.replace(model, head=head, hf_prefix=prefix, config=config), "head.classifier")


def check_head(model, labels, pooling, rng, problem_type):
    has_pooler, has_tokens = getattr(model.head, "pooler", None), architectures.of(model.config).tokens
    if pooling not in (*POOLING, *["pooler"] * bool(has_pooler), *["tokens"] * bool(has_tokens)):
        raise ValueError(
            f"pooling must be {', '.join(map(repr, POOLING))} (or 'pooler', for a model that has one, or 'tokens', for"
            f" one that reads texts), but it is {pooling!r}."
        )
    if not is_whole(labels) or not isinstance(rng, np.random.Generator):
        raise ValueError(
            "with_head needs labels, a positive integer, and rng, numpy.random.default_rng(seed); it was given"
            f" {labels!r} and {rng!r}."
        )
    if problem_type not in (None, *PROBLEMS) or (problem_type and pooling == "tokens"):
        raise ValueError(
            f"problem_type must be {', '.join(map(repr, PROBLEMS))}, or None (which it is for tokens), but it is"
            f" {problem_type!r}."
        )


def new_head(model, labels, pooling, make):
    """Return a head, and its prefix: one that is a class of transformers, such as BertForSequenceClassification with
    its pooler, has a name in files."""
    kind, d = architectures.of(model.config), model.hidden_size
    if pooling == "tokens":
        return TokenHead(make.linear(d, labels, TOKEN_CLASSIFIER)), kind.prefix
    if pooling == "pooler":
        classifier = make.linear(d, labels, kind.head[-1])
        return ClassifierHead(model.head.pooler, classifier, "first", kind.bend), kind.prefix
    if pooling == kind.pooled_in(model.config) and len(kind.head) == 1:
        padding = model.config.get("pad_token_id") if pooling == "last" else None
        classifier = make.linear(d, labels, kind.head[-1], kind.biased)
        return ClassifierHead(None, classifier, pooling, padding=padding), kind.prefix
    return ClassifierHead(None, make.linear(d, labels, ""), pooling, kind.bend), ""


def with_dropout(model: Transformer, p: float) -> Transformer:
    """Return a new model with dropout where BERT has it: embeddings, attention weights, both halves' outputs."""
    p = probability(p)

    def change(_, node):
        of_base = hasattr(node, "dropout") and "dropout" in getattr(node, "FROZEN", ("dropout",))  # not an adapter's
        return dataclasses.replace(node, dropout=p) if of_base else node

    return rebuild(model, change)
