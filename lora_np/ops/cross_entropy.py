"""Cross entropy of logits against integer labels: softmax and negative log-likelihood in one.

Forward, for each row n with label c_n; e is the label smoothing (Szegedy et al. 2015, arXiv:1512.00567, section 7), L
the number of classes that are left: a logit of -infinity masks its class, whose probability is 0
    (1)  logp = z - log sum_j exp(z_j)                     the greatest z of the row is taken away first: it cancels,
         and nothing overflows
    (2)  target q_j = (1 - e) [j = c] + e / L              over the classes that are left
    (3)  loss_n = - sum_j q_j logp_j                       a class that nobody asks for, q_j = 0, has no part in it
    (4)  loss = sum of loss_n over the rows that count, divided by their number for the mean

Backward. Write dloss for the upstream number, 1.0 as a rule.
    (4)  Each counting row receives w = dloss, or dloss / (number of counting rows); an ignored row receives 0.
    (3)  dlogp_j = - w q_j.
    (1)  logp_j depends on every z_i: d logp_j / d z_i = [i = j] - p_i, p the softmax. So dz_i = - w (q_i - p_i sum_j
         q_j) = w (p_i - q_i), as q sums to one. The gradient is the probability that was given minus the one that was
         asked for. It stays so where a label's own class is masked: the loss is infinite there, p - q is not.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, number

IGNORED = -100  # the label of a row that has none, as PyTorch has it


class CrossEntropyCache(NamedTuple):
    p: np.ndarray  # (N, L)  softmax of the logits
    q: np.ndarray  # (N, L)  targets; a row of zeros where the label is ignored
    divisor: int  # number of counting rows for the mean, 1 for the sum


def cross_entropy_forward(logits, labels, ignore_index=IGNORED, reduction="mean", label_smoothing=0.0):
    """Return the loss, a scalar of the logits' dtype, and the cache.

    Parameters
    ----------
    logits : (N, L)
        What a row holds that does not count, even NaN, makes no difference.
    labels : (N,) integers
        In 0..L-1, or `ignore_index`.
    ignore_index : int
        Marks rows that do not count.
    reduction : {"mean", "sum"}
        Over the rows that count.
    label_smoothing : float
        The share e of the target that is spread over all classes that are left.

    Raises
    ------
    ValueError
        If a label is out of range or not an integer, no row counts, all classes of one are masked, or an option has
        no meaning.
    """
    labels = np.asarray(labels)
    counts = _check(logits, labels, ignore_index, reduction, label_smoothing)  # (N,)
    z = np.where(counts[:, None], logits, 0.0)  # (N, L)
    left = z.real != -np.inf  # (N, L)
    if not left.any(axis=1).all():
        raise ValueError("all logits of a row that counts are -infinity: its probabilities would be 0 / 0; leave one.")
    q = (left * (label_smoothing / left.sum(axis=1, keepdims=True))).astype(z.real.dtype)  # (N, L)  (2)
    q[np.arange(len(q)), np.where(counts, labels, 0)] += 1.0 - label_smoothing
    q[~counts] = 0.0
    divisor = int(counts.sum()) if reduction == "mean" else 1
    half = 0.5 * z - 0.5 * z.real.max(axis=1, keepdims=True)  # (N, L)  of the difference, which may itself overflow
    with np.errstate(over="ignore"):
        exp_z = np.exp(2.0 * half)  # (N, L)
        total = exp_z.sum(axis=1, keepdims=True)  # (N, 1)
        minus = q * np.log(total) - 2.0 * q * np.where(q == 0.0, 0.0, half)  # (N, L)  (1)  - q logp
        loss = (minus / divisor).sum()  # ()  (3) (4)
    return loss, CrossEntropyCache(exp_z / total, q, divisor)


def cross_entropy_backward(dloss, cache):
    """Return dlogits (N, L), for a Python float dloss."""
    p, q, divisor = cache
    dloss = number("dloss", dloss)
    weight = np.where(q.any(axis=1, keepdims=True), p.dtype.type(1), p.dtype.type(0))  # (N, 1)
    dlogits = (p - q) * weight  # (N, L)  (3) (1)
    dlogits = dlogits * (dloss / divisor)  # (N, L)  (4)
    return dlogits


def _check(logits, labels, ignore_index, reduction, label_smoothing):
    """Return which rows count, a boolean array (N,)."""
    fit("cross_entropy", "logits (N, L)", logits)
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"logits must be (N, L) and labels N integers, but they are {logits.shape} and {labels.shape} of dtype"
            f" {labels.dtype}."
        )
    if reduction not in ("mean", "sum") or not 0.0 <= number("label_smoothing", label_smoothing) < 1.0:
        raise ValueError(
            f"reduction must be 'mean' or 'sum', label_smoothing in 0..1, but they are {reduction!r} and"
            f" {label_smoothing}."
        )
    counts = labels != ignore_index
    wrong = labels[counts & ((labels < 0) | (labels >= logits.shape[1]))]
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} is not among the {logits.shape[1]} classes 0 to {logits.shape[1] - 1}; {ignore_index}"
            " marks rows to ignore."
        )
    if not counts.any():
        raise ValueError(
            f"no row counts: the {len(labels)} labels all equal ignore_index ({ignore_index}) or there are none."
        )
    return counts
