"""Chapter 4: the way back through attention: product, mask, softmax, scaled product."""

import numpy as np

from lora_np import ops
from lora_np.course.draws import drawn, dropout
from lora_np.course.exercises.attention_forward import attention_forward as forward  # noqa: F401

CHAPTER, PLACE, MINUTES, LEVEL = 4, 5, 25, "hard"
OUTPUTS = ("dQ", "dK", "dV")
HINTS = (
    "Undo the steps from the last to the first. `X.swapaxes(2, 3)` transposes; `@` takes all sequences and heads.",
    "It is D = P * mask that met V, so dV needs D. The softmax produced P, so dS needs P.",
    "d_k is `Q.shape[3]`. Divide dS by `d_k ** 0.5` once, then use it for dQ and dK.",
)
library = ops.attention_backward


def attention_backward(dO, cache):
    """Return dQ, dK, dV, shaped as Q, K, V."""
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dV = D.swapaxes(2, 3) @ dO
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True)) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


BRANCHES = {
    "mask is None": lambda mask, **_: mask is None,
    "mask is given": lambda mask, **_: mask is not None,
    "keys are hidden": lambda visible, **_: visible is not None,
    "no key is hidden": lambda visible, **_: visible is None,
    "keys are hidden and mask is given": lambda visible, mask, **_: visible is not None and mask is not None,
    "there are more keys than queries": lambda Q, K, **_: K.shape[2] > Q.shape[2],
    "there are fewer keys than queries": lambda Q, K, **_: K.shape[2] < Q.shape[2],
    "there are as many keys as queries": lambda Q, K, **_: K.shape[2] == Q.shape[2],
    "V has other sizes than K": lambda K, V, **_: K.shape != V.shape,
    "all sizes are equal": lambda Q, V, **_: len({*Q.shape, *V.shape}) == 1,
    "there is one sequence with one head": lambda Q, **_: Q.shape[:2] == (1, 1),
}


def draw(rng, dtype, trial):
    n, h, T, U, d, d_v = {1: (1, 1, 6, 6, 4, 4), 2: (2, 3, 6, 4, 5, 7), 4: 6 * (3,)}.get(trial, (2, 3, 4, 6, 5, 7))
    visible = rng.random((n, 1, T, U)) < 0.6
    visible[..., 0], visible[..., 0, -1] = True, False
    if trial == 1:  # the chapter's picture
        visible = np.tri(T, dtype=bool)
    Q, K, V = (drawn(rng, dtype, n, h, *sides) for sides in ((T, d), (U, d), (U, d_v)))
    mask = dropout(rng, dtype, n, h, T, U)
    hidden = {"visible": None if trial in (2, 3) else visible, "mask": None if trial in (1, 2) else mask}
    return {"Q": Q, "K": K, "V": V}, hidden


SLIPS = """
constant_factor: the root of d is missing: S was divided by it, so dQ and dK are, too
    / Q.shape[3] ** 0.5 =>
constant_factor: the root is missing: dS is divided by sqrt(d), not by d
    / Q.shape[3] ** 0.5 => / Q.shape[3]
constant_factor: dS is multiplied by the root of d; it is divided
    / Q.shape[3] ** 0.5 => * Q.shape[3] ** 0.5
constant_factor: the size under the root is the last one of Q, not the number of queries
    Q.shape[3] => Q.shape[2]
constant_factor: the size under the root is the last one of Q, not the number of keys
    Q.shape[3] => K.shape[2]
constant_factor: the size under the root is the last one of Q, not that of V
    Q.shape[3] => V.shape[3]
constant_factor: dQ lacks the root of d
    return dS @ K => return dS @ K * Q.shape[3] ** 0.5
constant_factor: dK lacks the root of d
    dS.swapaxes(2, 3) @ Q => dS.swapaxes(2, 3) @ Q * Q.shape[3] ** 0.5
constant_factor: dV has nothing of the root of d: it divided S alone
    @ dO => @ dO / Q.shape[3] ** 0.5
mask_ignored: V met P * mask in the forward, so dV takes it as well
    P if mask is None else P * mask => P
mask_ignored: the dropout mask is missing between dD and dP
    dD if mask is None else dD * mask => dD
mask_ignored: the dropout mask is not applied on the way back
    P if mask is None else P * mask => P
    dD if mask is None else dD * mask => dD
wrong_derivative: the step through the softmax is skipped: dS is not dP
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => dP
missing_term: the softmax ties a row together: the sum of P * dP over the row is missing
    (dP - (P * dP).sum(axis=-1, keepdims=True)) => dP
missing_term: P * (1 - P) is the diagonal of the softmax's Jacobian only; its other entries are missing
    (dP - (P * dP).sum(axis=-1, keepdims=True)) => ((1 - P) * dP)
elementwise_factor: the P in front of the bracket is missing in dS
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => (dP - (P * dP).sum(axis=-1, keepdims=True))
elementwise_factor: the sum in dS is of P * dP; the P is missing in it
    (P * dP).sum(axis=-1, keepdims=True) => dP.sum(axis=-1, keepdims=True)
elementwise_factor: the sum in dS stands inside the bracket, so P multiplies it, too
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => (P * dP - (P * dP).sum(axis=-1, keepdims=True))
sign: the sum in dS is subtracted
    (dP - (P => (dP + (P
reduction_axis: the softmax ran over the keys, so the sum in dS does, too: axis=-1
    axis=-1 => axis=2
mean_vs_sum: a mean stands in dS where the sum belongs
    ).sum(axis => ).mean(axis
wrong_cached_value: the softmax gave P, so dS is made of P, not of P * mask
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => D * (dP - (D * dP).sum(axis=-1, keepdims=True))
wrong_cached_value: dK is made of dS and Q, not K
    dS.swapaxes(2, 3) @ Q => dS @ K
wrong_cached_value: dQ is made of dS and K, not Q
    return dS @ K => return dS.swapaxes(2, 3) @ Q
"""
