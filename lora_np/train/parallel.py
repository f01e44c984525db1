"""One batch on several cores: each thread takes a share of the sequences, and the gradients are added in a fixed order.

NumPy lets go of Python's lock inside its loops and matrix products, so threads run side by side; each then wants its
products on one core (`threadpoolctl` tells the BLAS library so). Nodes keep no activations, so one model serves all
threads.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

from lora_np.model.batch import Batch
from lora_np.ops import cross_entropy_backward, cross_entropy_forward


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers):
    """Yield a `map` that runs its calls on that many threads, with one BLAS thread each.

    A call that is alone, such as a single sentence to predict, runs in place, and its products on all of them.
    """
    blas = ThreadpoolController()
    with ThreadPoolExecutor(workers) as pool:

        def run(function, items):
            items = list(items)
            alone = len(items) == 1
            with blas.limit(limits=workers if alone else 1, user_api="blas"):
                return list((map if alone or workers == 1 else pool.map)(function, items))

        yield run


def loss_and_gradients(model, sequences, labels, key, workers, run=map, label_smoothing=0.0, max_tokens=None):
    """Return the mean loss of a batch and the gradients of the trainable parameters.

    Parameters
    ----------
    model : Transformer
        With a classifier.
    sequences : list of arrays
    labels : array of int
    key : tuple of int
        Dropout masks are drawn from `default_rng([*key, share, piece])`: a function of numbers, so that a resumed run
        draws the same.
    workers : int
        Number of shares.
    run : callable
        From `worker_pool`.
    label_smoothing : float
    max_tokens : int, optional
        A worker takes its share in pieces of about so many tokens, one after the other, and adds their gradients up:
        what is held for the backward is that of one piece. Without dropout the result is that of the whole but for
        rounding.

    Raises
    ------
    ValueError
        If there is not one label a sequence.
    """
    lengths, labels = np.array([len(sequence) for sequence in sequences]), np.asarray(labels)
    if not len(lengths) or labels.shape != lengths.shape:
        raise ValueError(
            f"there must be one label a sequence, and at least one, but there are {len(lengths)} sequences and labels"
            f" of shape {labels.shape}."
        )
    by_length = np.argsort(lengths, kind="stable")  # then a piece has few lengths, and long groups attend at once
    shares = [by_length[share] for share in split_by_tokens(lengths[by_length], workers)]

    def work(share):
        k, rows = share
        loss, total = 0.0, {}
        for j, piece in enumerate(split_by_tokens(lengths[rows], pieces_of(lengths[rows], max_tokens))):
            with np.errstate(over="ignore", invalid="ignore"):  # the loop looks whether all is finite
                part, grads = step(rows[piece], np.random.default_rng([*key, k, j]))
            loss, total = loss + part, added(total, grads)
        return loss, total

    def step(rows, rng):
        logits, cache = model.forward(Batch.of([sequences[row] for row in rows]), rng)
        loss, c = cross_entropy_forward(logits, labels[rows], reduction="sum", label_smoothing=label_smoothing)
        return float(loss), model.backward(cross_entropy_backward(1.0 / len(sequences), c), cache)

    loss, total = 0.0, {}
    for part, grads in run(work, enumerate(shares)):
        loss, total = loss + part, added(total, grads)
    return loss / len(sequences), total


def added(total, grads):
    """Return the sums of gradients by name; the arrays of `total` are written into."""
    if not total:
        return grads
    for name, gradient in grads.items():
        total[name] += gradient
    return total


def pieces_of(lengths, max_tokens):
    return 1 if max_tokens is None else max(1, math.ceil(np.sum(lengths) / max_tokens))


def split_by_tokens(lengths, shares):
    """Return rows for each share, about equally many tokens in each, in the order given; no share is empty."""
    middle = np.cumsum(lengths) - 0.5 * np.asarray(lengths)
    owner = np.minimum((middle * shares / np.sum(lengths)).astype(int), shares - 1)
    return [rows for k in range(shares) if len(rows := np.flatnonzero(owner == k))]
