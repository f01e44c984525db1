"""What a model says about held-out data, and how sure one may be of it."""

import math

import numpy as np

from lora_np.model.batch import Batch

MAX_TOKENS = 1024  # of one call: the activations of a forward are held until it ends, and larger calls are no faster


def predict(model, sequences, run=map):
    """Return logits (S, labels) for a list of sequences, without dropout."""
    calls = np.cumsum([len(sequence) for sequence in sequences]) // MAX_TOKENS
    starts = [0, *(np.flatnonzero(np.diff(calls)) + 1), len(sequences)]
    parts = [sequences[start:stop] for start, stop in zip(starts, starts[1:])]
    return np.concatenate(list(run(lambda part: model.forward(Batch.of(part))[0], parts)))


def accuracy(logits, labels):
    """Return the share of rows whose greatest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def wilson_interval(share, n, z=1.96):
    """Return the 95 % confidence interval of a share of n cases; unlike the share +- z s, it stays within 0..1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half
