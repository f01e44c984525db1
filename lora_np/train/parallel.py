"""One batch on several cores: each thread takes a share of the sequences, and the gradients are added in a fixed order.

NumPy lets go of Python's lock inside its loops and matrix products, so threads run side by side; each then wants its
products on one core (`threadpoolctl` tells the BLAS library so). Nodes keep no activations, so one model serves all
threads.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from lora_np.model.batch import Batch
from lora_np.ops import cross_entropy_backward, cross_entropy_forward


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers):
    """Yield a `map` that runs its calls on that many threads, each with one BLAS thread; one worker runs in place."""
    with threadpool_limits(limits=1, user_api="blas"):
        if workers == 1:
            yield map
        else:
            with ThreadPoolExecutor(workers) as pool:
                yield pool.map


def loss_and_gradients(model, sequences, labels, key, workers, run=map, label_smoothing=0.0):
    """Return the mean loss of a batch and the gradients of the trainable parameters.

    Parameters
    ----------
    model : Transformer
        With a classifier.
    sequences : list of arrays
    labels : array of int
    key : tuple of int
        Dropout masks are drawn from `default_rng([*key, share])`: a function of numbers, so that a resumed run draws
        the same.
    workers : int
        Number of shares.
    run : callable
        From `worker_pool`.
    label_smoothing : float
    """
    shares = split_by_tokens([len(sequence) for sequence in sequences], workers)

    def work(share):
        k, rows = share
        rng = np.random.default_rng([*key, k])
        with np.errstate(over="ignore", invalid="ignore"):  # the loop looks whether all is finite
            return step(Batch.of([sequences[row] for row in rows]), labels[rows], rng)

    def step(batch, labels, rng):
        logits, cache = model.forward(batch, rng)
        loss, c = cross_entropy_forward(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        return float(loss), model.backward(cross_entropy_backward(1.0 / len(sequences), c), cache)

    results = list(run(work, enumerate(shares)))
    total = dict(results[0][1])
    for _, grads in results[1:]:
        for name, gradient in grads.items():
            total[name] = total[name] + gradient
    return sum(loss for loss, _ in results) / len(sequences), total


def split_by_tokens(lengths, shares):
    """Return rows for each share, about equally many tokens in each, in the order given; no share is empty."""
    middle = np.cumsum(lengths) - 0.5 * np.asarray(lengths)
    owner = np.minimum((middle * shares / np.sum(lengths)).astype(int), shares - 1)
    return [rows for k in range(shares) if len(rows := np.flatnonzero(owner == k))]
