"""Cross entropy of logits against several labels at once: a sigmoid each, and negative log-likelihood, in one.

Each of the L labels is a question of its own, to be answered by yes (target t = 1) or no (t = 0), or by a number
between. Forward, for each row n and label l
    (1)  log p = -softplus(-z),  log(1 - p) = -softplus(z),  p = 1 / (1 + exp(-z)) the probability of yes
             softplus(z) = log(1 + exp(z)) is computed as z + log(1 + exp(-z)) where z > 0: no exp overflows
    (2)  loss_nl = -t log p - (1 - t) log(1 - p)           an answer that nobody asks for, weight 0, has no part in it
    (3)  loss = sum of loss_nl, divided by how many there are (N L) for the mean

Backward. Write dloss for the upstream number, 1.0 as a rule.
    (3)  Each loss_nl receives w = dloss, or dloss / (N L).
    (2)  d log p = -w t,  d log(1 - p) = -w (1 - t).
    (1)  softplus'(z) = p, so d log p / dz = 1 - p and d log(1 - p) / dz = -p. Hence dz = w (-t (1 - p) + (1 - t) p) =
         w (p - t): the probability that was given minus the one that was asked for, as with `cross_entropy`.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, mean_or_sum, number


class SigmoidCrossEntropyCache(NamedTuple):
    p: np.ndarray  # (N, L)  sigmoid of the logits
    t: np.ndarray  # (N, L)  targets
    divisor: int  # N L for the mean, 1 for the sum


def sigmoid_cross_entropy_forward(logits, targets, reduction="mean"):
    """Return the loss, a scalar of the logits' dtype, and the cache.

    Parameters
    ----------
    logits : (N, L)
    targets : (N, L) floats
        From 0, no, to 1, yes.
    reduction : {"mean", "sum"}
        Over all N L answers.

    Raises
    ------
    ValueError
        If the shapes differ, there is no row, a target is not from 0 to 1, or an option has no meaning.
    """
    fit("sigmoid_cross_entropy", "logits (N, L), targets (N, L)", logits, targets)
    divisor = mean_or_sum(reduction, logits)
    t = targets.real.astype(logits.real.dtype)  # (N, L)
    if not ((t >= 0.0) & (t <= 1.0)).all():
        raise ValueError(
            f"targets are from 0 (no) to 1 (yes), but they run from {t.min()} to {t.max()}; a row has one for"
            " each label, not the numbers of those that it has."
        )
    minus_log_p, minus_log_q = _softplus(-logits), _softplus(logits)  # (N, L)  (1)  q = 1 - p
    yes = t * np.where(t == 0.0, 0.0, minus_log_p)  # (N, L)  (2)
    no = (1.0 - t) * np.where(t == 1.0, 0.0, minus_log_q)  # (N, L)
    loss = ((yes + no) / divisor).sum()  # ()  (3)
    return loss, SigmoidCrossEntropyCache(np.exp(-minus_log_p), t, divisor)


def sigmoid_cross_entropy_backward(dloss, cache):
    """Return dlogits (N, L), for a Python float dloss."""
    p, t, divisor = cache
    dloss = number("dloss", dloss)
    dlogits = (p - t) * (dloss / divisor)  # (N, L)  (3) (2) (1)
    return dlogits


def _softplus(z):
    positive = z.real > 0  # (N, L)
    return np.where(positive, z, 0.0) + np.log1p(np.exp(np.where(positive, -z, z)))  # (N, L)
