"""The loss of one batch and its gradients, in shares that can be computed anywhere, and are added in one fixed order.

How many shares there are belongs to the run. Whatever executes them (`backends`), the result has the same bits: a
share's masks are drawn by its number, and the shares are added in a binary tree over their numbers, (0 + 1) + (2 + 3).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from lora_np.adapt.methods import penalty
from lora_np.model.batch import Batch
from lora_np.model.heads import ClassifierHead, TiedHead
from lora_np.ops import cross_entropy_backward, cross_entropy_forward
from lora_np.train.backends import here

IGNORED = -100  # the label of what has none, as PyTorch has it


@dataclass(frozen=True)
class Classification:
    """The mean cross entropy of one row of logits a sequence. Labels are integers, one a sequence."""

    label_smoothing: float = 0.0

    def check(self, model, sequences, labels):
        """Raise a ValueError unless the labels are right for these sequences, and the model can learn from them."""
        head, labels = getattr(model, "head", None), np.asarray(labels)
        if not isinstance(head, ClassifierHead) or head.classifier is None:
            raise ValueError(
                "training here needs a model with a classifier, one row of logits a sequence, but it has none; add one"
                " by lora_np.with_head(model, labels, rng=rng), or train a GPT-2 by loss=NextToken()."
            )
        if not len(sequences) or labels.shape != (len(sequences),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"training needs an integer label for each sequence, but there are {len(sequences)} sequences, and"
                f" labels of shape {labels.shape} and dtype {labels.dtype}."
            )
        classes = head.classifier.W.shape[1]
        if not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}, but the classes are 0 to {classes - 1}."
            )

    def counted(self, sequences):
        """Return over how many rows of a batch the mean is taken."""
        return len(sequences)

    def forward(self, output, batch, labels):
        """Return the sum of the losses of some sequences of a batch, and the cache."""
        return cross_entropy_forward(output, labels, reduction="sum", label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class NextToken:
    """The mean cross entropy of each token, given those before it: how a GPT-2 is trained. There are no labels."""

    def check(self, model, sequences, labels):
        if not isinstance(getattr(model, "head", None), TiedHead):
            raise ValueError("NextToken needs a GPT-2 with its output, logits over the words; load one, or make one.")
        if labels is not None or not sequences or min(map(len, sequences)) < 2:
            raise ValueError(
                "NextToken takes sequences of at least two tokens, each the label of the one before it, and no labels"
                f" beside (None), but it was given {len(sequences)} sequences and labels {labels!r:.60}."
            )

    def counted(self, sequences):
        return sum(len(sequence) - 1 for sequence in sequences)

    def forward(self, output, batch, labels):
        following = [np.append(ids[1:], IGNORED) for ids in batch.unpack(batch.content)]
        return cross_entropy_forward(output, batch.pack(following), IGNORED, reduction="sum")


def loss_and_gradients(model, sequences, labels, key, shares, run=here, loss=Classification(), max_tokens=None):
    """Return the mean loss of a batch and the gradients of the trainable parameters, with the penalty of the model's
    method, if it has one.

    Parameters
    ----------
    model : Transformer
    sequences : list of arrays
    labels : array of int, or None
        What the loss takes: for `Classification` one a sequence.
    key : tuple of int
        Dropout masks are drawn from `default_rng([*key, share, piece])`: a function of numbers, so that a resumed run
        draws the same.
    shares : int
    run : callable
        From a backend, `worker_pool`.
    loss : Classification or NextToken
    max_tokens : int, optional
        A share is taken in pieces of about so many tokens, one after the other, and their gradients are added up:
        what is held for the backward is that of one piece. Without dropout the result is that of the whole but for
        rounding.

    Raises
    ------
    ValueError
        If there is not one label a sequence.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    labels = labels if labels is None else np.asarray(labels)
    if not len(lengths) or (labels is not None and labels.shape != lengths.shape):
        raise ValueError(
            f"there must be one label a sequence, and at least one, but there are {len(lengths)} sequences and labels"
            f" of shape {np.shape(labels)}."
        )
    by_length = np.argsort(lengths, kind="stable")  # then a piece has few lengths, and long groups attend at once
    parts = [by_length[share] for share in split_by_tokens(lengths[by_length], shares)]
    count = loss.counted(sequences)

    def work(share):
        k, rows = share
        pieces = split_by_tokens(lengths[rows], pieces_of(lengths[rows], max_tokens))
        steps = (step(rows[piece], np.random.default_rng([*key, k, j])) for j, piece in enumerate(pieces))
        return functools.reduce(added, steps)

    def step(rows, rng):
        batch = Batch.of([sequences[row] for row in rows])
        with np.errstate(over="ignore", invalid="ignore"):  # the loop looks whether all is finite
            output, cache = model.forward(batch, rng)
            value, c = loss.forward(output, batch, labels if labels is None else labels[rows])
            return float(value), model.backward(cross_entropy_backward(1.0 / count, c), cache)

    value, total = in_a_tree(added, run(work, enumerate(parts)))
    return added((value / count, total), penalty(model))


def in_a_tree(add, parts):
    """Return the sum of some parts: neighbours are added, then their sums, and so on."""
    while len(parts) > 1:
        pairs = [parts[k : k + 2] for k in range(0, len(parts), 2)]
        parts = [add(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def added(one, other):
    """Return the sums of two losses and of their gradients by name; the arrays of the first are written into."""
    value, total = one
    for name, gradient in other[1].items():
        total[name] += gradient
    return value + other[0], total


def pieces_of(lengths, max_tokens):
    return 1 if max_tokens is None else max(1, math.ceil(np.sum(lengths) / max_tokens))


def split_by_tokens(lengths, shares):
    """Return rows for each share, about equally many tokens in each, in the order given; no share is empty."""
    middle = np.cumsum(lengths) - 0.5 * np.asarray(lengths)
    owner = np.minimum((middle * shares / np.sum(lengths)).astype(int), shares - 1)
    return [rows for k in range(shares) if len(rows := np.flatnonzero(owner == k))]
