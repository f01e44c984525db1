"""Chapter 2, second part: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.ops.attention import AttentionCache

# attention_forward


def softmax(S, axis=-1):
    e = np.exp(S - S.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@wrong_answer("attention_forward", cause="constant_factor")
def attend_unscaled(Q, K, V, visible=None, mask=None):
    S = np.einsum("nhtd,nhud->nhtu", Q, K)
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="constant_factor", also=("wrong_cached_value",))
def attend_scaled_by_the_number_of_keys(Q, K, V, visible=None, mask=None):
    S = Q @ K.transpose(0, 1, 3, 2) / math.sqrt(K.shape[-2])
    if visible is not None:
        S[~np.broadcast_to(visible, S.shape)] = -np.inf
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="reduction_axis")
def attend_softmax_over_queries(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if visible is not None:
        S = np.where(visible, S, -1e9).astype(Q.dtype)
    P = softmax(S, axis=2)
    D = P if mask is None else mask * P
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="mask_ignored", also=("wrong_cached_value", "wrong_derivative"))
def attend_hidden_scores_are_zero(Q, K, V, visible=None, mask=None):
    S = Q @ np.swapaxes(K, -1, -2) / Q.shape[-1] ** 0.5
    if visible is not None:
        S = S * visible
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="factor_order", also=("elementwise_factor", "mask_ignored"))
def attend_hides_after_the_softmax(Q, K, V, visible=None, mask=None):
    P = softmax(Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5)
    if visible is not None:
        P = np.where(visible, P, 0)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="factor_order", also=("mask_ignored", "wrong_cached_value"))
def attend_masks_scores(Q, K, V, visible=None, mask=None):
    scores = Q @ K.swapaxes(2, 3) * Q.shape[3] ** -0.5
    if mask is not None:
        scores = scores * mask
    if visible is not None:
        scores = np.where(visible, scores, -np.inf)
    P = softmax(scores)
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="elementwise_factor", also=("constant_factor",))
def attend_normalises_again(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = softmax(S)
    D = P if mask is None else P * mask
    total = D.sum(axis=-1, keepdims=True)
    D = D / np.where(total > 0, total, 1)
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="wrong_cached_value")
def attend_first_keys_for_every_head(Q, K, V, visible=None, mask=None):
    O = np.empty(Q.shape[:3] + V.shape[3:], Q.dtype)
    P = np.empty(Q.shape[:3] + K.shape[2:3], Q.dtype)
    for h in range(Q.shape[1]):
        S = Q[:, h] @ K[:, 0].swapaxes(1, 2) / math.sqrt(Q.shape[3])
        if visible is not None:
            S = np.where(visible[:, 0], S, -np.inf)
        P[:, h] = softmax(S)
        O[:, h] = (P[:, h] if mask is None else P[:, h] * mask[:, h]) @ V[:, h]
    return O, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attend_one_query_at_a_time(Q, K, V, visible=None, mask=None):
    P = np.zeros(Q.shape[:3] + K.shape[2:3], Q.dtype)
    O = np.zeros(Q.shape[:3] + V.shape[3:], Q.dtype)
    seen = np.broadcast_to(True if visible is None else visible, P.shape)
    for n, h, t in np.ndindex(Q.shape[:3]):
        keys = np.flatnonzero(seen[n, h, t])
        P[n, h, t, keys] = softmax(K[n, h, keys] @ Q[n, h, t] / math.sqrt(Q.shape[3]))
        O[n, h, t] = (P[n, h, t] if mask is None else P[n, h, t] * mask[n, h, t]) @ V[n, h]
    return O, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def attend_scales_queries_first(Q, K, V, visible=None, mask=None):
    q = Q * Q.shape[3] ** -0.5
    S = np.einsum("nhtd,nhud->nhtu", q, K)
    if visible is not None:
        S = S + np.where(visible, 0, -np.inf).astype(Q.dtype)
    P = softmax(S)
    O = np.einsum("nhtu,nhuv->nhtv", P if mask is None else P * mask, V)
    return O, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)  # relabelled: it takes no maximum, and overflows at large scores
def attend_divides_last(Q, K, V, visible=None, mask=None):
    E = np.exp(Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5)
    if visible is not None:
        E = E * visible
    total = E.sum(axis=3, keepdims=True)
    dropped = E if mask is None else E * mask
    return dropped @ V / total, AttentionCache(Q, K, V, E / total, mask)


# block_forward


@wrong_answer("block_forward", cause="factor_order", also=("wrong_cached_value", "missing_path"))
def block_post_norm(block, x, groups):
    a, c_attention = block.attention.forward(x, groups)
    h, c_norm1 = block.norm1.forward(x + a)
    m, c_mlp = block.mlp.forward(h)
    y, c_norm2 = block.norm2.forward(h + m)
    return y, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="missing_path", also=("missing_term",))
def block_forgets_x(block, x, groups):
    n1, c_norm1 = block.norm1.forward(x)
    h, c_attention = block.attention.forward(n1, groups)
    n2, c_norm2 = block.norm2.forward(h)
    m, c_mlp = block.mlp.forward(n2)
    return h + m, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="missing_path", also=("missing_term",))
def block_ends_in_the_mlp(block, x, groups):
    out, c1 = block.norm1.forward(x)
    out, c2 = block.attention.forward(out, groups)
    out = out + x
    out, c3 = block.norm2.forward(out)
    out, c4 = block.mlp.forward(out)
    return out, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def block_norm1_twice(block, x, groups):
    a, c_norm1 = block.norm1.forward(x)
    a, c_attention = block.attention.forward(a, groups)
    h = x + a
    m, c_norm2 = block.norm1.forward(h)
    m, c_mlp = block.mlp.forward(m)
    return h + m, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="wrong_cached_value", also=("missing_path", "missing_term"))
def block_in_parallel(block, x, groups):
    a_in, c_norm1 = block.norm1.forward(x)
    m_in, c_norm2 = block.norm2.forward(x)
    a, c_attention = block.attention.forward(a_in, groups)
    m, c_mlp = block.mlp.forward(m_in)
    return x + a + m, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="wrong_cached_value")
def block_adds_the_normed_x(block, x, groups):
    x, c_norm1 = block.norm1.forward(x)
    a, c_attention = block.attention.forward(x, groups)
    x = x + a
    m, c_norm2 = block.norm2.forward(x)
    m, c_mlp = block.mlp.forward(m)
    return x + m, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="inplace")
def block_writes_into_x(block, x, groups):
    a, c_norm1 = block.norm1.forward(x)
    a, c_attention = block.attention.forward(a, groups)
    x += a
    m, c_norm2 = block.norm2.forward(x)
    m, c_mlp = block.mlp.forward(m)
    return x + m, (c_norm1, c_attention, c_norm2, c_mlp)


@wrong_answer("block_forward", cause="extra_term")
def block_adds_x_at_the_end_too(block, x, groups):
    a, c_attention = block.attention.forward(block.norm1.forward(x)[0], groups)
    h = x + a
    n, c_norm2 = block.norm2.forward(h)
    m, c_mlp = block.mlp.forward(n)
    return x + h + m, (None, c_attention, c_norm2, c_mlp)


@right_answer("block_forward")
def block_in_two_halves(block, x, groups):
    caches = []
    for norm, part, more in ((block.norm1, block.attention, (groups,)), (block.norm2, block.mlp, ())):
        n, c_norm = norm.forward(x)
        out, c_part = part.forward(n, *more)
        caches += [c_norm, c_part]
        x = x + out
    return x, tuple(caches)


@right_answer("block_forward")
def block_nested(block, x, groups):
    h = block.attention.forward(block.norm1.forward(x)[0], groups)[0] + x
    return np.add(block.mlp.forward(block.norm2.forward(h)[0])[0], h), ()


@right_answer("block_forward")
def block_attends_group_by_group(block, x, groups):
    n = block.norm1.forward(x)[0]
    y = x.copy()
    for start, stop, count, T in groups:
        y[start:stop] += block.attention.forward(n[start:stop], ((0, stop - start, count, T),))[0]
    m, _ = block.mlp.forward(block.norm2.forward(y)[0])
    y += m
    return y, ()
