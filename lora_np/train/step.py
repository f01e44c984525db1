"""The loss of one batch and its gradients, in shares that can be computed anywhere, and are added in one fixed order.

How many shares there are belongs to the run. Whatever executes them (`backends`), the result has the same bits: a
share's masks are drawn by its number, and the shares are added in a binary tree over their numbers, (0 + 1) + (2 + 3).
"""

import functools
import math

import numpy as np

from lora_np.model.batch import Batch
from lora_np.train.backends import here
from lora_np.train.losses import as_rows, loss_of


def loss_and_gradients(model, sequences, labels, key, shares, run=here, loss=None, max_tokens=None):
    """Return the mean loss of a batch and the gradients of the trainable parameters.

    Parameters
    ----------
    model : Transformer
    sequences : list of arrays
    labels : array, list of arrays, or None
        What the loss takes, one entry a sequence: for `Classification` its class.
    key : tuple of int
        Dropout masks are drawn from `default_rng([*key, share, piece])`: a function of numbers, so that a resumed run
        draws the same.
    shares : int
    run : callable
        From a backend, `worker_pool`.
    loss : Classification or another of `losses`, optional
        Without it, that of the model's head: `losses.loss_of`.
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
    labels = as_rows(labels)
    if not len(lengths) or (labels is not None and labels.shape[:1] != lengths.shape):
        raise ValueError(
            f"there must be one label a sequence, and at least one, but there are {len(lengths)} sequences and labels"
            f" of shape {np.shape(labels)}."
        )
    by_length = np.argsort(lengths, kind="stable")  # then a piece has few lengths, and long groups attend at once
    parts = [by_length[share] for share in split_by_tokens(lengths[by_length], shares)]
    loss = loss or loss_of(model, labels)
    count = loss.counted(sequences, labels)

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
            return float(value), model.backward(loss.backward(1.0 / count, c), cache)

    value, total = in_a_tree(added, run(work, enumerate(parts)))
    return value / count, total


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
