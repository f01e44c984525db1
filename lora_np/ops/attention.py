"""Scaled dot-product attention of n sequences with h heads.

Forward, for each sequence and head by itself; T queries, U keys (U = T when a sequence attends to itself)
    (1)  S = Q K^T / sqrt(d)         how well query t fits key u
    (2)  P = softmax of each row     invisible keys count as S = -infinity, so their P is 0
    (3)  D = P * mask                dropout on the attention weights
    (4)  O = D V                     a weighted mean of the values

Backward, from the last step to the first. Write dO for the gradient of the loss with respect to O.
    (4)  O = D V is a product: dV = D^T dO and dD = dO V^T. It is D that met V, not P: with dropout the two differ.
    (3)  dP = dD * mask.
    (2)  P_u = exp(S_u) / sum_v exp(S_v), so dP_u / dS_v = P_u (1 if u = v else 0) - P_u P_v. Hence dS_v = P_v (dP_v -
         sum_u P_u dP_u): each row of dS sums to zero, as adding a constant to a row of S changes nothing. Where P = 0
         (invisible) dS = 0.
    (1)  S = Q K^T / sqrt(d) is a product again: dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d).

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1, equation 1.
"""

import math
from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import described, fit
from lora_np.ops.rows import row_sum, softmax


class AttentionCache(NamedTuple):
    Q: np.ndarray  # (n, h, T, d)
    K: np.ndarray  # (n, h, U, d)
    V: np.ndarray  # (n, h, U, d_v)
    P: np.ndarray  # (n, h, T, U)
    mask: np.ndarray  # (n, h, T, U)  or None


def attention_forward(Q, K, V, visible=None, mask=None):
    """Return O (n, h, T, d_v) and the cache, for Q (n, h, T, d), K (n, h, U, d), V (n, h, U, d_v).

    Parameters
    ----------
    visible : boolean array that broadcasts to (n, h, T, U), or None
        Which key (last axis) each query may see; None: all. Causal attention has `np.tri(T, dtype=bool)`.
    mask : (n, h, T, U) or None
        Dropout mask, already divided by 1 - p.

    Raises
    ------
    ValueError
        If the shapes do not fit, `visible` is not boolean, or a query sees no key.
    """
    fit("attention", "Q (n, h, T, d), K (n, h, U, d), V (n, h, U, d_v), mask (n, h, T, U) or None", Q, K, V, mask)
    _check_visible(visible, (*Q.shape[:3], K.shape[2]))
    with np.errstate(over="ignore", invalid="ignore"):  # a hidden key may hold anything; what is below all numbers is 0
        S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3])  # (n, h, T, U)  (1)
        if visible is not None:
            S = np.where(visible, S, -np.inf)  # (n, h, T, U)
        P = softmax(S)  # (n, h, T, U)  (2)
        if np.isnan(P.real).any():  # a row's greatest score is above, or below, all numbers
            P = softmax(_finite_scores(Q, K, visible))  # (n, h, T, U)
    D = P if mask is None else P * mask  # (n, h, T, U)  (3)
    O = D @ V  # (n, h, T, d_v)  (4)
    return O, AttentionCache(Q, K, V, P, mask)


def attention_backward(dO, cache, needs=("Q", "K", "V")):
    """Return dQ, dK, dV, shaped as Q, K, V; None for those that `needs` does not name."""
    Q, K, V, P, mask = cache
    fit("attention_backward", "dO (n, h, T, d_v), V (n, h, U, d_v), P (n, h, T, U)", dO, V, P)
    dQ = dK = dV = None
    if "V" in needs:
        D = P if mask is None else P * mask  # (n, h, T, U)
        dV = D.swapaxes(2, 3) @ dO  # (n, h, U, d_v)  (4)
    if "Q" in needs or "K" in needs:
        dD = dO @ V.swapaxes(2, 3)  # (n, h, T, U)
        dP = dD if mask is None else dD * mask  # (n, h, T, U)  (3)
        dS = P * (dP - row_sum(P * dP))  # (n, h, T, U)  (2)
        dQ = dS @ K / math.sqrt(Q.shape[3]) if "Q" in needs else None  # (n, h, T, d)  (1)
        dK = dS.swapaxes(2, 3) @ Q / math.sqrt(Q.shape[3]) if "K" in needs else None  # (n, h, U, d)
    return dQ, dK, dV


def _finite_scores(Q, K, visible):
    """Return the scores less the greatest of each row, which is taken away before they can overflow."""
    q, k = _greatest(Q.real, 3), _greatest(K.real, (2, 3))
    S = (Q / q) @ (K / k).swapaxes(2, 3)
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    S -= S.real.max(axis=3, keepdims=True)
    return S * (q / math.sqrt(Q.shape[3])) * k


def _greatest(X, axis):
    """Return the greatest finite size along some axes, 1 where all are zero."""
    size = np.abs(X).max(axis=axis, keepdims=True, initial=0.0, where=np.isfinite(X))
    return np.where(size == 0.0, 1.0, size).astype(X.dtype)


def _check_visible(visible, shape):
    if visible is not None and (
        not isinstance(visible, np.ndarray)
        or visible.dtype != bool
        or visible.ndim > 4
        or any(size not in (1, full) for size, full in zip(visible.shape[::-1], shape[::-1]))
    ):
        raise ValueError(
            f"visible must be a boolean array (True: the query may see the key) that broadcasts to {shape}, but it is"
            f" {described(visible)}."
        )
    if not (shape[3] if visible is None else visible.any(axis=-1).all()):
        raise ValueError(
            "visible hides every key from some query, whose weights would be 0 / 0; let each query see at least one"
            " key."
        )
