"""Chapter 4: the way back through softmax, logarithm and mean, at one stroke."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn
from lora_np.ops.cross_entropy import CrossEntropyCache

CHAPTER, PLACE, MINUTES, LEVEL = 4, 10, 15, "medium"
OUTPUTS = ("dlogits",)
HINTS = (
    "For one label j the nudge of z_i moves -log p_j by p_i, and where i is j by p_i - 1. Weigh these by q_j and add.",
    "Softmax and logarithm together: the probability given minus the one asked for, p - q, times dloss / divisor.",
    "An ignored row must give zero: `q.any(axis=1, keepdims=True)` is True for the rows that count.",
)
library = ops.cross_entropy_backward


def cross_entropy_backward(dloss, cache):
    """Return dlogits (N, L)."""
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * (dloss / divisor)


def forward(logits, labels, reduction="mean", label_smoothing=0.0):
    """Return the loss and the cache; a label of -100 marks a row that does not count."""
    counts = labels != -100
    q = np.full_like(logits, label_smoothing / logits.shape[1])
    q[np.arange(len(q)), labels * counts] += 1 - label_smoothing
    q[~counts] = 0
    shifted = logits - logits.real.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    divisor = int(counts.sum()) if reduction == "mean" else 1
    loss = (q * (np.log(total) - shifted)).sum() / divisor
    return loss, CrossEntropyCache(np.exp(shifted) / total, q.real, divisor)


BRANCHES = {
    "rows are ignored": lambda labels, **_: (labels == -100).any(),
    "no row is ignored": lambda labels, **_: (labels != -100).all(),
    "the loss is a sum": lambda reduction="mean", **_: reduction == "sum",
    "the loss is a mean": lambda reduction="mean", **_: reduction == "mean",
    "labels are smoothed": lambda label_smoothing=0.0, **_: label_smoothing > 0,
    "labels are not smoothed": lambda label_smoothing=0.0, **_: label_smoothing == 0,
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        return {"logits": np.array([[0, np.log(3)]], dtype)}, {"labels": np.array([0])}
    n, classes = 7, (4, 4, 4, 9, 3, 4)[trial]
    labels = rng.integers(0, classes, n)
    if trial != 3:
        labels[rng.choice(n, 2, replace=False)] = -100
    more = {0: {"label_smoothing": 0.2}, 2: {"reduction": "sum"}, 3: {"label_smoothing": 0.1}}.get(trial, {})
    return {"logits": 1.5 * drawn(rng, dtype, n, classes)}, {"labels": labels, **more}


SLIPS = """
sign: it is p - q, what was given minus what was asked for
    (p - q) => (q - p)
mask_ignored: rows that are ignored have no gradient: their rows of dlogits are zero
    * counts =>
mean_vs_sum: the loss was a mean over the rows that count: divide by divisor
    (dloss / divisor) => dloss
constant_factor: it is multiplied by divisor; the loss was divided by it
    dloss / divisor => dloss * divisor
constant_factor: it is divided by the number of all rows; only those count that are not ignored
    dloss / divisor => dloss / len(p)
constant_factor: it is divided by the number of entries; the mean is over rows
    dloss / divisor => dloss / p.size
constant_factor: it is divided by the number of classes; the mean is over rows
    dloss / divisor => dloss / p.shape[1]
constant_factor: it is divided twice
    dloss / divisor => dloss / divisor**2
ignores_upstream: the upstream number dloss is missing
    dloss / divisor => 1.0 / divisor
missing_term: only -q is left: the way through the sum of all exponentials, p, is missing
    (p - q) => (-q)
missing_term: only p is left: q, what was asked for, is missing
    (p - q) => p
wrong_derivative: -q / p is the slope of the logarithm; the softmax below it is not gone through
    (p - q) => np.where(q > 0, -q / p, 0)
missing_path: only the entries of the labels have a gradient here; the softmax ties all of a row together
    (p - q) * counts => (p - q) * (q > 0)
missing_path: only the entries of the labels have a gradient here; the softmax ties all of a row together
    (p - q) => (p - q) * (q == q.max(axis=1, keepdims=True))
wrong_derivative: the softmax and the logarithm together give p - q alone; there is no further p (1 - p)
    (p - q) => (p - q) * p * (1 - p)
wrong_cached_value: p are probabilities already; no softmax once more
    (p - q) => (np.exp(p) / np.exp(p).sum(axis=1, keepdims=True) - q)
wrong_cached_value: q holds the smoothed targets, not ones and zeros
    (p - q) => (p - (q == q.max(axis=1, keepdims=True)))
"""
