"""Squared error of outputs against numbers that were measured: the loss of regression.

Forward, for each row n and output l with target t_nl
    (1)  e_nl = y_nl - t_nl
    (2)  loss = sum of e_nl^2, divided by how many there are (N L) for the mean

Backward. Write dloss for the upstream number, 1.0 as a rule.
    (2)  Nudge e_nl: its square moves by 2 e_nl of it, and nothing else does, so de_nl = dloss 2 e_nl, or dloss 2 e_nl /
         (N L).
    (1)  y_nl moves e_nl by as much: dy = de. The targets are constants.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, mean_or_sum, number


class SquaredErrorCache(NamedTuple):
    e: np.ndarray  # (N, L)  output minus target
    divisor: int  # N L for the mean, 1 for the sum


def squared_error_forward(y, targets, reduction="mean"):
    """Return the loss, a scalar of the outputs' dtype, and the cache.

    Parameters
    ----------
    y : (N, L)
        What is said: L numbers a row.
    targets : (N, L) floats
        What is right.
    reduction : {"mean", "sum"}
        Over all N L numbers.

    Raises
    ------
    ValueError
        If the shapes differ, there is no row, or an option has no meaning.
    """
    fit("squared_error", "y (N, L), targets (N, L)", y, targets)
    divisor = mean_or_sum(reduction, y)
    e = y - targets.real.astype(y.real.dtype)  # (N, L)  (1)
    loss = (e * e).sum() / divisor  # ()  (2)
    return loss, SquaredErrorCache(e, divisor)


def squared_error_backward(dloss, cache):
    """Return dy (N, L), for a Python float dloss."""
    e, divisor = cache
    dloss = number("dloss", dloss)
    dy = e * (2.0 * dloss / divisor)  # (N, L)  (2) (1)
    return dy
