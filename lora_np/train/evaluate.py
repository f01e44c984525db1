"""What a model says about held-out data, and how sure one may be of it."""

import math

import numpy as np

from lora_np.model.batch import Batch
from lora_np.model.heads import ClassifierHead, TokenHead
from lora_np.train.backends import here
from lora_np.train.losses import loss_of
from lora_np.train.step import pieces_of, split_by_tokens

MAX_TOKENS = 512  # of one call: its activations are held until it ends, and larger ones leave a thread without work


def predict(model, sequences, run=here):
    """Return logits (S, labels) for a list of sequences, without dropout, or a list of arrays (T, labels) if the model
    classifies tokens; neighbours in length share a call."""
    of_tokens = isinstance(model.head, TokenHead)
    if not (of_tokens or isinstance(model.head, ClassifierHead)) or not len(sequences):
        raise ValueError(
            "predict needs a model with a classifier (lora_np.with_head adds one) and at least one sequence, but it was"
            f" given {len(sequences)} sequences and a head of type {type(model.head).__name__}."
        )
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(lengths, kind="stable")
    calls = [order[rows] for rows in split_by_tokens(lengths[order], pieces_of(lengths, MAX_TOKENS))]

    def call(rows):
        batch = Batch.of([sequences[k] for k in rows])
        output = model.forward(batch, keep=False)[0]
        return batch.unpack(output) if of_tokens else output

    parts = run(call, calls, spread=True)
    if of_tokens:
        rows = [row for part in parts for row in part]
        return [rows[k] for k in np.argsort(order)]
    return np.concatenate(parts)[np.argsort(order)]


def decisions(model, output):
    """Return what `predict` says, as an answer: the class of each sequence, (S,); which of several labels it has,
    booleans (S, L), each by a probability above a half; its number; or the class of each token, a list of arrays (T,).
    """
    return loss_of(model).decided(output)


def accuracy(logits, labels):
    """Return the share of rows whose greatest logit is the label's."""
    labels = np.asarray(labels)
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1] or np.isnan(logits).any():
        raise ValueError(
            f"accuracy needs logits (N, L), none of them NaN, and N labels, but they are of shape {logits.shape} and"
            f" {labels.shape}."
        )
    return float((logits.argmax(axis=1) == labels).mean())


def measured(logits, labels):
    """Return the accuracy and its interval, as a file can hold them."""
    share = accuracy(logits, labels)
    return {"accuracy": share, "interval": list(wilson_interval(share, len(labels)))}


def wilson_interval(share, n, z=1.96):
    """Return the 95 % confidence interval of a share of n cases; unlike the share +- z s, it stays within 0..1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half
