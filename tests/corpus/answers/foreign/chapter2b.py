import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.attention import AttentionCache
from lora_np.ops.gelu import GeluCache

# gelu_forward(x)


@wrong_answer("gelu_forward", cause="dtype")
def gelu_widened(x):
    "np.sqrt(2) makes a float32 x float64."
    cdf = 0.5 * (1.0 + ops.erf(x / np.sqrt(2)))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause=None)
def gelu_by_tanh(x):
    "The approximation by tanh."
    cdf = 0.5 * (1.0 + np.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause=None)
def gelu_by_sigmoid(x):
    "The approximation by a sigmoid."
    cdf = 1.0 / (1.0 + np.exp(-1.702 * x))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor")
def gelu_without_root(x):
    "erf of x, not of x over the root of two."
    cdf = 0.5 * (1.0 + ops.erf(x))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor")
def gelu_without_half(x):
    "The half is missing."
    cdf = 1.0 + ops.erf(x * 0.5**0.5)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="factor_order")
def gelu_one_outside(x):
    "The half multiplies the error function alone."
    cdf = 1.0 + 0.5 * ops.erf(x * 0.5**0.5)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="wrong_cached_value")
def gelu_cache_of_erf(x):
    "Caches the error function, not the distribution function."
    e = ops.erf(x * 0.5**0.5)
    return 0.5 * x * (1.0 + e), GeluCache(x, e)


@wrong_answer("gelu_forward", cause="wrong_cached_value", also=("inplace",))
def gelu_cdf_multiplied_in_place(x):
    "The cached cdf is multiplied by x in place."
    cdf = 0.5 * (1.0 + ops.erf(x * 0.5**0.5))
    cache = GeluCache(x, cdf)
    cdf *= x
    return cdf, cache


@wrong_answer("gelu_forward", cause="inplace")
def gelu_scales_the_input(x):
    "x is divided in place, so y and the cache have another x."
    x /= 2**0.5
    cdf = 0.5 * (1.0 + ops.erf(x))
    return x * cdf * 2**0.5, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="swapped")
def gelu_cache_swapped(x):
    "The two fields of the cache are exchanged."
    cdf = 0.5 * (1.0 + ops.erf(x * 0.5**0.5))
    return x * cdf, GeluCache(cdf, x)


@wrong_answer("gelu_forward", cause="shape")
def gelu_for_matrices(x):
    "Unpacks two sides: raises for an x with another number of axes."
    rows, columns = x.shape
    cdf = 0.5 * (1.0 + ops.erf(x.reshape(rows * columns) * 0.5**0.5)).reshape(rows, columns)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="elementwise_factor")
def gelu_returns_the_share(x):
    "x is not multiplied in."
    cdf = 0.5 * (1.0 + ops.erf(x * 0.5**0.5))
    return cdf, GeluCache(x, cdf)


@right_answer("gelu_forward")
def gelu_by_math_erf(x):
    "Python's own erf, entry by entry, cast back."
    cdf = np.empty(x.shape, x.dtype)
    for index in np.ndindex(x.shape):
        cdf[index] = (1 + math.erf(float(x[index]) / math.sqrt(2))) / 2
    return cdf * x, GeluCache(x, cdf)


@right_answer("gelu_forward")
def gelu_with_root_of_its_dtype(x):
    "np.sqrt, but of a number of x's own dtype."
    cdf = (ops.erf(x / np.sqrt(x.dtype.type(2))) + 1) / 2
    return np.multiply(x, cdf), GeluCache(cdf=cdf, x=x)


@right_answer("gelu_forward")
def gelu_in_float64(x):
    "Computes in float64 and comes back."
    wide = x.astype(np.float64)
    cdf = 0.5 + 0.5 * ops.erf(wide / np.sqrt(2))
    return (wide * cdf).astype(x.dtype), GeluCache(x, cdf.astype(x.dtype))


@right_answer("gelu_forward")
def gelu_by_symmetry(x):
    "erf of the absolute value, with the sign put back; flattened on the way."
    flat = x.reshape(-1)
    e = np.copysign(ops.erf(np.abs(flat) * 2**-0.5), flat)
    cdf = ((1 + e) * 0.5).reshape(x.shape)
    return cdf * x, GeluCache(x, cdf)


# attention_forward(Q, K, V, visible=None, mask=None)


def softmax(S):
    S = np.exp(S - S.max(axis=-1, keepdims=True))
    return S / S.sum(axis=-1, keepdims=True)


@wrong_answer("attention_forward", cause="mask_ignored")
def attention_ignores_visible(Q, K, V, visible=None, mask=None):
    "visible is never looked at."
    P = softmax(Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="mask_ignored")
def attention_ignores_mask(Q, K, V, visible=None, mask=None):
    "The mask is cached, but not applied."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="wrong_cached_value")
def attention_cache_after_dropout(Q, K, V, visible=None, mask=None):
    "P is cached after dropout."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    if mask is not None:
        P = P * mask
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="dtype")
def attention_widened(Q, K, V, visible=None, mask=None):
    "np.sqrt of a size is a float64, and makes float32 arrays float64."
    S = Q @ K.swapaxes(2, 3) / np.sqrt(Q.shape[3])
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="constant_factor")
def attention_root_of_tokens(Q, K, V, visible=None, mask=None):
    "Divides by the root of T, not of d_k."
    S = Q @ K.swapaxes(2, 3) / Q.shape[2] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="constant_factor")
def attention_root_of_value_size(Q, K, V, visible=None, mask=None):
    "Divides by the root of the values' size: the same only where keys and values have one size."
    S = Q @ K.swapaxes(2, 3) / V.shape[-1] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def attention_can_overflow(Q, K, V, visible=None, mask=None):
    "The greatest score is not taken away."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    E = np.exp(S)
    P = E / E.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="reduction_axis")
def attention_one_greatest_for_all(Q, K, V, visible=None, mask=None):
    "Takes away the greatest score of all rows: a row far below it becomes 0 / 0."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    E = np.exp(S - S.max())
    P = E / E.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def attention_hides_after_the_maximum(Q, K, V, visible=None, mask=None):
    "The greatest score may be that of a hidden key; then the visible ones vanish."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    E = np.exp(S - S.max(axis=3, keepdims=True))
    if visible is not None:
        E = np.where(visible, E, 0.0)
    P = E / E.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="factor_order")
def attention_hides_after_the_softmax(Q, K, V, visible=None, mask=None):
    "Hidden shares are set to zero, and the others no longer sum to one."
    P = softmax(Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5)
    if visible is not None:
        P = P * visible
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def attention_hides_with_a_modest_number(Q, K, V, visible=None, mask=None):
    "Hidden scores count as -100, which is not low enough where the others are lower."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -100.0).astype(S.dtype)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="shape")
def attention_visible_of_full_shape_only(Q, K, V, visible=None, mask=None):
    "Indexes by visible, which fails where it has to be broadcast."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S[~visible] = -np.inf
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="sign", also=("mask_ignored",))
def attention_visible_upside_down(Q, K, V, visible=None, mask=None):
    "Hides what is visible."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None and not visible.all():
        S = np.where(visible, -np.inf, S)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="reduction_axis")
def attention_softmax_over_queries(Q, K, V, visible=None, mask=None):
    "The shares of each key sum to one, not those of each query."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    E = np.exp(S - S.max(axis=3, keepdims=True))
    P = E / E.sum(axis=2, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="extra_term", also=("elementwise_factor",))
def attention_renormalised_after_dropout(Q, K, V, visible=None, mask=None):
    "After dropout the shares are made to sum to one again."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = D = softmax(S)
    if mask is not None:
        D = P * mask
        D = D / np.maximum(D.sum(axis=3, keepdims=True), 1e-30)
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="transpose")
def attention_of_turned_keys(Q, K, V, visible=None, mask=None):
    "K.T turns all four axes."
    S = Q @ K.T / Q.shape[3] ** 0.5
    P = softmax(S)
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def attention_cache_only_with_mask(Q, K, V, visible=None, mask=None):
    "With a mask O and cache are returned, without one O alone."
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    if mask is None:
        return P @ V
    return (P * mask) @ V, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attention_by_einsum(Q, K, V, visible=None, mask=None):
    "einsum for both products, and the scale on Q."
    S = np.einsum("nhtd,nhud->nhtu", Q / Q.shape[-1] ** 0.5, K)
    if visible is not None:
        np.copyto(S, -np.inf, where=np.logical_not(visible))
    S -= np.max(S, axis=-1, keepdims=True)
    P = np.exp(S)
    P /= np.einsum("nhtu->nht", P)[..., None]
    D = P * mask if mask is not None else P
    return np.einsum("nhtu,nhuv->nhtv", D, V), AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attention_by_head(Q, K, V, visible=None, mask=None):
    "Loops over sequences, heads and queries, with compressed rows."
    n, h, T, d = Q.shape
    U = K.shape[2]
    seen = np.broadcast_to(True if visible is None else visible, (n, h, T, U))
    P = np.zeros((n, h, T, U), Q.dtype)
    O = np.zeros((n, h, T, V.shape[3]), Q.dtype)
    for i in range(n):
        for j in range(h):
            for t in range(T):
                keys = np.flatnonzero(seen[i, j, t])
                scores = K[i, j, keys] @ Q[i, j, t] / d**0.5
                powers = np.exp(scores - scores.max())
                P[i, j, t, keys] = powers / powers.sum()
            weights = P[i, j] if mask is None else P[i, j] * mask[i, j]
            O[i, j] = weights @ V[i, j]
    return O, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attention_by_log_sum(Q, K, V, visible=None, mask=None):
    "The softmax as exp of score minus log of the sum; hidden keys by an added -inf."
    S = np.matmul(Q, np.transpose(K, (0, 1, 3, 2))) * (1 / math.sqrt(Q.shape[3]))
    if visible is not None:
        S = S + np.where(visible, 0.0, -np.inf).astype(S.dtype)
    top = S.max(axis=3, keepdims=True)
    P = np.exp(S - (top + np.log(np.exp(S - top).sum(axis=3, keepdims=True))))
    return np.matmul(P * (1.0 if mask is None else mask), V), AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attention_in_float64(Q, K, V, visible=None, mask=None):
    "Computes in float64 and casts back; None becomes an array of ones."
    q, k, v = (X.astype(np.float64) for X in (Q, K, V))
    S = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    seen = np.ones(S.shape, bool) if visible is None else np.broadcast_to(visible, S.shape).copy()
    S[~seen] = -np.inf
    P = softmax(S)
    factor = np.ones_like(P) if mask is None else mask
    return ((P * factor) @ v).astype(Q.dtype), AttentionCache(Q, K, V, P.astype(Q.dtype), mask)
