"""Chapter 2: each query takes a weighted mean of the values."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, dropout
from lora_np.ops.attention import AttentionCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 4, 20, "medium"
OUTPUTS = ("O", "cache")
HINTS = (
    "`@` multiplies the last two axes and repeats over those in front; `K.swapaxes(2, 3)` is each head's transposed K.",
    "Divide by the root of Q's last size; then `np.where(visible, S, -np.inf)` hides keys, before the maximum.",
    "In order: S, hide, subtract `S.max(axis=3, keepdims=True)`, exp, divide by the sum over axis 3, mask, times V.",
)
library = ops.attention_forward


def attention_forward(Q, K, V, visible=None, mask=None):
    """Return O (n, h, T, d_v) and the cache AttentionCache(Q, K, V, P, mask)."""
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    S = np.exp(S - S.max(axis=3, keepdims=True))
    P = S / S.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


BRANCHES = {
    "visible is None": lambda visible, **_: visible is None,
    "visible is given": lambda visible, **_: visible is not None,
    "visible is given for all sequences at once, as (T, U)": lambda visible, **_: np.ndim(visible) == 2,
    "mask is None": lambda mask, **_: mask is None,
    "mask is given": lambda mask, **_: mask is not None,
    "visible and mask are both None": lambda visible, mask, **_: visible is None and mask is None,
    "visible and mask are both given": lambda visible, mask, **_: visible is not None and mask is not None,
    "scores are so large that exp overflows": lambda Q, K, **_: scores(Q, K).max() > 720,
    "the largest score of a row is hidden": lambda Q, K, visible, **_: (
        scores(Q, K).max(axis=3) > seen(scores(Q, K), visible) + 1000
    ).any(),
    "all that a query sees is far below 0": lambda Q, K, visible, **_: seen(scores(Q, K), visible).min() < -10_000,
    "the scores of one row are far below those of another": lambda Q, K, **_: (
        np.ptp(scores(Q, K).max(axis=3)) > 1000  # what is taken away is each row's own maximum
    ),
    "there is one query": lambda Q, **_: Q.shape[2] == 1,
    "there are more keys than queries": lambda Q, K, **_: Q.shape[2] < K.shape[2],
    "there are more queries than keys": lambda Q, K, **_: Q.shape[2] > K.shape[2],
}


def scores(Q, K):
    return Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5


def seen(S, visible):
    """Return the largest score that each query sees."""
    return (S if visible is None else np.where(visible, S, -np.inf)).max(axis=3)


def draw(rng, dtype, trial):
    n, h = 2 + trial % 2, 3 - trial % 2
    T, U, d, d_v = ((4, 6, 5, 7), (1, 5, 3, 4), (6, 4, 7, 5), (5, 5, 4, 6), (6, 5, 4, 3), (4, 6, 5, 7))[trial]
    Q, K, V = (drawn(rng, dtype, n, h, *sides) for sides in ((T, d), (U, d), (U, d_v)))
    if trial in (3, 4):  # scores are far below 0, or so large that exp overflows; whole numbers, so that they are exact
        Q, K = np.rint(2 * Q), np.rint(2 * K)
        Q[..., 0], K[..., 0] = 64, -400 if trial == 3 else 40
        if trial == 3:
            K[:, :, -1, 0] = 400  # the last query alone sees this key
        else:
            Q[:, :, 0, 0] = -64
    visible = rng.random((n, 1, T, U)) < 0.6
    visible[..., 0], visible[0, 0, 0, -1] = True, False
    if trial in (1, 3):
        visible = np.tri(T, dtype=bool) if trial == 3 else visible[0, 0]
    mask = None if trial in (1, 2, 3) else dropout(rng, dtype, n, h, T, U)
    return {"Q": Q, "K": K, "V": V, "visible": None if trial in (2, 4) else visible, "mask": mask}


ROOT, HIDE, D = "Q.shape[3] ** 0.5", "np.where(visible, S, -np.inf)", "P if mask is None else P * mask"


SLIPS = """
constant_factor: the scores are not divided by the root of d
    / Q.shape[3] ** 0.5 =>
constant_factor: the root is missing: divide by sqrt(d), not by d
    Q.shape[3] ** 0.5 => Q.shape[3]
constant_factor: the scores are multiplied by the root; divide by it
    / Q.shape[3] ** 0.5 => * Q.shape[3] ** 0.5
constant_factor: the size under the root is the last one of Q, not the number of queries
    Q.shape[3] ** 0.5 => Q.shape[2] ** 0.5
constant_factor: the size under the root is the last one of Q, not the number of keys
    Q.shape[3] ** 0.5 => K.shape[2] ** 0.5
constant_factor: the size under the root is that of one head, not of all heads together
    Q.shape[3] ** 0.5 => (Q.shape[1] * Q.shape[3]) ** 0.5
constant_factor: the size under the root is the last one of Q, not that of V
    Q.shape[3] ** 0.5 => V.shape[3] ** 0.5
factor_order: the root divides the weights after the softmax; it divides the scores before it
    / Q.shape[3] ** 0.5 =>
    D @ V => D @ V / Q.shape[3] ** 0.5
reduction_axis: the softmax runs over the queries; it runs over the keys, axis=-1
    axis=3 => axis=2
reduction_axis: the softmax runs over the queries; it runs over the keys, axis=-1
    axis=3 => axis=2
    -np.inf => -1e30
reduction_axis: the softmax runs over queries and keys together; it runs over the keys, axis=-1
    axis=3 => axis=(2, 3)
reduction_axis: the sum of the softmax runs over everything; it runs over the keys, axis=-1
    axis=3, keepdims=True =>
elementwise_factor: the exponentials are not divided by their sum
    S / S.sum(axis=3, keepdims=True) => S
elementwise_factor: the exponentials are not divided by their sum
    S / S.sum(axis=3, keepdims=True) => S
    np.exp(S - S.max(axis=3, keepdims=True)) => np.exp(S)
wrong_derivative: the softmax is skipped
    S / S.sum(axis=3, keepdims=True) => S
    np.exp(S - S.max(axis=3, keepdims=True)) => S
    -np.inf => 0.0
other: the largest score of each row is not taken away, so that exp overflows where scores are large
    np.exp(S - S.max(axis=3, keepdims=True)) => np.exp(S)
mask_ignored: `visible` is not applied
    np.where(visible, S, -np.inf) => S
mask_ignored: `visible` is True where a key is seen; here it hides just those
    np.where(visible, S, -np.inf) => np.where(visible, -np.inf, S)
mask_ignored: a hidden score is -inf, so that its weight is zero; a score of 0 has the weight exp(0)
    -np.inf => 0.0
factor_order: keys are hidden after the softmax, so the weights of the others do not sum to one
    np.where(visible, S, -np.inf) => S
    S / S.sum(axis=3, keepdims=True) => S / S.sum(axis=3, keepdims=True) * (1 if visible is None else visible)
mask_ignored: the dropout mask is not applied
    P if mask is None else P * mask => P
factor_order: the dropout mask multiplies the scores; it multiplies the weights, after the softmax
    Q.shape[3] ** 0.5 => Q.shape[3] ** 0.5 * (1 if mask is None else mask)
    P if mask is None else P * mask => P
factor_order: the dropout mask multiplies the scores; it multiplies the weights, after the softmax
    S = np.exp( => S = S * (1 if mask is None else mask); S = np.exp(
    P if mask is None else P * mask => P
elementwise_factor: the weights are made to sum to one again after dropout; they are left as they are
    D @ V => D / D.sum(axis=3, keepdims=True) @ V
"""
