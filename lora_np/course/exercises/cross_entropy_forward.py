"""Chapter 4: from logits to the loss, so that no exponential overflows."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn
from lora_np.ops.cross_entropy import CrossEntropyCache

CHAPTER, PLACE, MINUTES, LEVEL = 4, 9, 15, "medium"
OUTPUTS = ("loss", "cache")
HINTS = (
    "log p_j = z_j - log(sum of all exp(z_k)). Which number may be taken from all logits of a row without changing p?",
    "Take away the row's largest logit first, and never form log(p): with p = 0 that is -inf, and 0 * -inf is nan.",
    "Take the log probabilities of the labels alone, rows[counts], labels[counts], and their mean, with a minus.",
)
library = ops.cross_entropy_forward


def cross_entropy_forward(logits, labels):
    """Return the loss, a mean over rows, and CrossEntropyCache(p, q, divisor)."""
    counts = labels != -100
    rows = np.arange(len(labels))[counts]
    z = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    log_p = z - np.log(total)
    divisor = int(counts.sum())
    loss = -log_p[rows, labels[counts]].sum() / divisor
    q = np.zeros_like(logits)
    q[rows, labels[counts]] = 1
    return loss, CrossEntropyCache(np.exp(z) / total, q, divisor)


BRANCHES = {
    "rows are ignored": lambda labels, **_: (labels == -100).any(),
    "no row is ignored": lambda labels, **_: (labels != -100).all(),
    "there is one row": lambda labels, **_: len(labels) == 1,
    "logits are so large that exp overflows": lambda logits, **_: logits.max() > 720,
    "all logits of a row are far below 0": lambda logits, **_: logits.max(axis=1).min() < -720,
    "the label's probability is 0, but for rounding": lambda logits, labels: (
        np.max(np.ptp(logits, axis=1)) > 800 and (labels == logits.argmin(axis=1)).any()
    ),
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        return {"logits": np.array([[0, np.log(3)]], dtype), "labels": np.array([0])}
    n, classes = 6, (4, 4, 9, 3, 5, 4)[trial]
    logits, labels = 1.5 * drawn(rng, dtype, n, classes), rng.integers(0, classes, n)
    if trial in (0, 3, 5):
        labels[rng.choice(n, 2, replace=False)] = -100
    if trial == 3:
        logits[:3] += 1000
        logits[3:] -= 1000
    if trial == 4:  # one sure of a wrong class
        logits[2] = 0
        logits[2, (labels[2] + 1) % classes] = 1000
        logits[2, labels[2]] = -1
    return {"logits": logits, "labels": labels}


SLIPS = """
other: the largest logit of each row is not taken away, so that exp overflows where logits are large
    z = logits - logits.max(axis=1, keepdims=True) => z = logits
other: log(p) is formed from p: where p is rounded to 0 that is -inf
    z - np.log(total) => np.log(np.exp(z) / total)
sign: the minus is missing: a loss is -log p
    -log_p => log_p
mean_vs_sum: it is the sum over the rows that count, not their mean
    .sum() / divisor => .sum()
constant_factor: it is divided by the number of all rows; only those count whose label is not -100
    / divisor => / len(labels)
constant_factor: it is divided by the number of entries; the mean is over rows
    .sum() / divisor => .sum() / divisor / logits.shape[1]
wrong_derivative: this is 1 - p of the label, not -log p
    -log_p[rows, labels[counts]].sum() => (1 - np.exp(log_p[rows, labels[counts]])).sum()
missing_term: the logarithm of the sum is missing: log p = z - log(sum of exp z)
    z - np.log(total) => z
missing_term: the largest logit is in log of the sum no more, so it must be taken from the label's own logit, too
    z - np.log(total) => logits - np.log(total)
constant_factor: log2 counts bits; the loss takes the natural logarithm
    np.log(total) => np.log2(total)
    z - => z / np.log(2) -
reduction_axis: the exponentials are summed over everything; each row has its own sum
    np.exp(z).sum(axis=1, keepdims=True) => np.exp(z).sum()
"""
