"""Chapter 4: the way back through a softmax, which ties a row together."""

import numpy as np

from lora_np.course.draws import any_shape, drawn

CHAPTER, PLACE, MINUTES, LEVEL = 4, 6, 15, "medium"
OUTPUTS = ("dS",)
HINTS = (
    "Adding a constant to a row of S changes nothing: each row of dS sums to zero.",
    "dS = P * (dP - the sum of P * dP over the last axis, with keepdims=True).",
)


def softmax_backward(dP, P):
    """Return dS, shaped like P."""
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


BRANCHES = {
    "P has one axis": lambda P, **_: P.ndim == 1,
    "P has two axes": lambda P, **_: P.ndim == 2,
    "P has three axes": lambda P, **_: P.ndim == 3,
    "P has four axes": lambda P, **_: P.ndim == 4,
    "P has one axis or two": lambda P, **_: P.ndim <= 2,
    "P has three axes or more": lambda P, **_: P.ndim > 2,
    "P has not just two axes": lambda P, **_: P.ndim != 2,
    "P has more axes than one": lambda P, **_: P.ndim > 1,
    "an entry of P is 0": lambda P, **_: not P.all(),
    "P is square": lambda P, **_: P.ndim == 2 and P.shape[0] == P.shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        return {"dP": np.array([1, 0], dtype), "P": np.array([0.25, 0.75], dtype)}
    S = drawn(rng, dtype, *((4, 4) if trial == 4 else any_shape(rng, 2 if trial == 5 else trial)))
    if trial == 4:  # as where keys are hidden; the first row sees one alone
        S[~np.tri(4, dtype=bool)] = -np.inf
    P = np.exp(S - S.max(axis=-1, keepdims=True))
    return {"dP": drawn(rng, dtype, *S.shape), "P": P / P.sum(axis=-1, keepdims=True)}


SLIPS = """
missing_term: P * (1 - P) is the diagonal of the Jacobian only; its other entries are missing
    (dP - (P * dP).sum(axis=-1, keepdims=True)) => (1 - P) * dP
missing_term: the softmax ties a row together: the sum of P * dP over the row is missing
    (dP - (P * dP).sum(axis=-1, keepdims=True)) => dP
ignores_upstream: P * (1 - P) is a slope; the upstream gradient dP is missing
    (dP - (P * dP).sum(axis=-1, keepdims=True)) => (1 - P)
wrong_derivative: p - q is the gradient of the softmax and a cross entropy together; here dP is what comes from above
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => P - dP
reduction_axis: the sum runs over the rows; it runs within each row, axis=-1
    axis=-1 => axis=0
reduction_axis: the sum runs along axis 1; the rows lie along the last one, axis=-1
    axis=-1 => axis=1
reduction_axis: the sum runs along the last axis but one; the rows lie along the last one, axis=-1
    axis=-1 => axis=-2
reduction_axis: the sum runs over everything; it runs within each row, axis=-1
    axis=-1, keepdims=True =>
reduction_axis: the sum runs over all axes but the first; it runs within each row, axis=-1
    axis=-1 => axis=tuple(range(1, P.ndim))
mean_vs_sum: a mean stands where the sum belongs
    .sum( => .mean(
elementwise_factor: the P in front of the bracket is missing
    return P * (dP => return (dP
elementwise_factor: the sum is of P * dP; the P is missing in it
    (P * dP).sum( => dP.sum(
elementwise_factor: the sum stands inside the bracket, so P multiplies it, too
    P * (dP - (P * dP).sum(axis=-1, keepdims=True)) => P * dP - (P * dP).sum(axis=-1, keepdims=True)
sign: the sum is subtracted
    (dP - (P => (dP + (P
sign: the sign of the whole is wrong
    return P * (dP => return -P * (dP
elementwise_factor: P is in the sum twice
    (P * dP).sum( => (P * P * dP).sum(
"""
