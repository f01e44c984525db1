"""Chapter 2: each query takes a mean of the values, weighed by how well it meets their keys."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, dropout
from lora_np.ops.attention import AttentionCache

CHAPTER, PLACE, MINUTES, LEVEL = 2, 4, 20, "medium"
OUTPUTS = ("O", "cache")
HINTS = (
    "Scores are Q times K with its last two axes exchanged, over the root of the last size of Q.",
    "Where `visible` is False, put -np.inf before the softmax. `mask` multiplies the weights after it.",
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
    "visible is to be broadcast": lambda visible, **_: visible is not None and visible.ndim < 4,
    "mask is None": lambda mask, **_: mask is None,
    "mask is given": lambda mask, **_: mask is not None,
    "visible and mask are both None": lambda visible, mask, **_: visible is mask is None,
    "scores are huge": lambda Q, K, **_: np.max(Q @ K.swapaxes(2, 3)) / Q.shape[3] ** 0.5 > 720,
    "scores are far below 0": lambda Q, K, **_: np.max(Q @ K.swapaxes(2, 3)) / Q.shape[3] ** 0.5 < -10_000,
    "there are more keys than queries": lambda Q, K, **_: K.shape[2] > Q.shape[2],
    "there are fewer keys than queries": lambda Q, K, **_: K.shape[2] < Q.shape[2],
}


def draw(rng, dtype, trial):
    n, h, d, d_v = 2, 3, 4 if trial in (2, 4) else 5, 7
    T, U = {1: (6, 4), 2: (4, 4)}.get(trial, (4, 6))
    visible = rng.random((n, 1, T, U)) < 0.6
    visible[..., 0] = True
    if trial == 2:
        visible = np.tri(T, dtype=bool)
    arguments = {
        "Q": drawn(rng, dtype, n, h, T, d),
        "K": drawn(rng, dtype, n, h, U, d),
        "V": drawn(rng, dtype, n, h, U, d_v),
    }
    if d == 4:  # all scores are huge, and exact: above 700, where exp overflows, or far below 0
        arguments |= {name: np.round(4 * arguments[name]) / 4 for name in ("Q", "K")}
        arguments["Q"][..., 0], arguments["K"][..., 0] = 64, 40 if trial == 4 else -400
    mask = dropout(rng, dtype, n, h, T, U)
    return {
        **arguments,
        "visible": None if trial in (1, 3, 4) else visible,
        "mask": None if trial in (1, 2, 4) else mask,
    }


ROOT, SUM = " / Q.shape[3] ** 0.5", "S.sum(axis=3, keepdims=True)"
MAXIMUM = " - S.max(axis=3, keepdims=True)"
HIDE = "        S = np.where(visible, S, -np.inf)"
SLIPS = [
    ("constant_factor", "the scores are not divided by the root of d", (ROOT, "")),
    ("constant_factor", "the root is missing: divide by sqrt(d), not by d", (ROOT, " / Q.shape[3]")),
    ("constant_factor", "the scores are multiplied by the root; divide by it", (ROOT, " * Q.shape[3] ** 0.5")),
    (
        "constant_factor",
        "the size under the root is the last one of Q, not the number of queries",
        ("Q.shape[3]", "Q.shape[2]"),
    ),
    (
        "constant_factor",
        "the size under the root is the last one of Q, not the number of keys",
        ("Q.shape[3]", "K.shape[2]"),
    ),
    (
        "constant_factor",
        "the size under the root is that of one head, not of all heads together",
        ("Q.shape[3]", "(Q.shape[1] * Q.shape[3])"),
    ),
    ("constant_factor", "the size under the root is the last one of Q, not that of V", ("Q.shape[3]", "V.shape[3]")),
    (
        "factor_order",
        "the root divides the weights after the softmax; it divides the scores before it",
        (ROOT, ""),
        ("D @ V", "D @ V / Q.shape[3] ** 0.5"),
    ),
    (
        "missing_term",
        "the greatest score of the row is not taken away before exp, so that large ones overflow",
        (MAXIMUM, ""),
    ),
    ("reduction_axis", "the softmax runs over the queries; it runs over the keys, axis=-1", ("axis=3", "axis=2")),
    (
        "reduction_axis",
        "the softmax runs over the queries; it runs over the keys, axis=-1",
        ("axis=3", "axis=2"),
        ("-np.inf", "-1e30"),
    ),
    (
        "reduction_axis",
        "the softmax runs over queries and keys together; it runs over the keys, axis=-1",
        ("axis=3", "axis=(2, 3)"),
    ),
    (
        "reduction_axis",
        "the sum of the softmax runs over everything; it runs over the keys, axis=-1",
        (SUM, "S.sum()"),
        (MAXIMUM, " - S.max()"),
    ),
    ("elementwise_factor", "the exponentials are not divided by their sum", (" / " + SUM, "")),
    ("elementwise_factor", "the exponentials are not divided by their sum", (" / " + SUM, ""), (MAXIMUM, "")),
    (
        "wrong_derivative",
        "the softmax is skipped",
        (f"np.exp(S{MAXIMUM})", "S"),
        (" / " + SUM, ""),
        ("-np.inf", "0.0"),
    ),
    ("mask_ignored", "`visible` is not applied", (HIDE, "        pass")),
    (
        "mask_ignored",
        "`visible` is True where a key is seen; here it hides just those",
        ("np.where(visible, S, -np.inf)", "np.where(visible, -np.inf, S)"),
    ),
    (
        "mask_ignored",
        "a hidden score is -inf, so that its weight is zero; a score of 0 has the weight exp(0)",
        ("-np.inf", "0.0"),
    ),
    (
        "factor_order",
        "keys are hidden after the softmax, so the weights of the others do not sum to one",
        (HIDE, "        pass"),
        (SUM, SUM + " * (1 if visible is None else visible)"),
    ),
    ("mask_ignored", "the dropout mask is not applied", ("P if mask is None else P * mask", "P")),
    (
        "factor_order",
        "the dropout mask multiplies the scores; it multiplies the weights, after the softmax",
        (ROOT, ROOT + " * (1 if mask is None else mask)"),
        ("P if mask is None else P * mask", "P"),
    ),
    (
        "elementwise_factor",
        "the weights are made to sum to one again after dropout; they are left as they are",
        ("D @ V", "D / D.sum(axis=3, keepdims=True) @ V"),
    ),
]
