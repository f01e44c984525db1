"""Answers to the exercises of chapter 2, second part: the forwards of attention and of a block."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.model.mlp import ACTIVATIONS
from lora_np.ops.attention import AttentionCache


def softmax(S, axis=-1):
    e = np.exp(S - S.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def hide(S, visible):
    return S if visible is None else np.where(visible, S, -np.inf)


@wrong_answer("attention_forward", cause="constant_factor")
def not_scaled(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3), visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="constant_factor")
def root_forgotten(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3) / Q.shape[3], visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="constant_factor")
def scaled_by_the_length(Q, K, V, visible=None, mask=None):
    n, h, T, d = Q.shape
    P = softmax(hide(Q @ K.transpose(0, 1, 3, 2) / math.sqrt(T), visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="reduction_axis")
def softmax_over_the_queries(Q, K, V, visible=None, mask=None):
    S = hide(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]), visible)
    P = softmax(np.nan_to_num(S, neginf=-1e30), axis=2)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="mask_ignored")
def everything_visible(Q, K, V, visible=None, mask=None):
    P = softmax(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="mask_ignored")
def no_dropout(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]), visible))
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def visible_the_other_way(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if visible is not None:
        S = np.where(visible, -1e9, S)
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None, also=("mask_ignored",))
def hidden_scores_zero(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if visible is not None:
        S = S * visible
    P = softmax(S)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="factor_order", also=("mask_ignored",))
def hidden_after_the_softmax(Q, K, V, visible=None, mask=None):
    P = softmax(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]))
    if visible is not None:
        P = P * visible
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="factor_order", also=("mask_ignored",))
def dropout_on_the_scores(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if mask is not None:
        S = S * mask
    P = softmax(hide(S, visible))
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="transpose")
def keys_reshaped(Q, K, V, visible=None, mask=None):
    n, h, U, d = K.shape
    P = softmax(hide(Q @ K.reshape(n, h, d, U) / math.sqrt(d), visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="wrong_cached_value")
def weights_cached_after_dropout(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]), visible))
    if mask is not None:
        P = P * mask
    return P @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="dtype")
def root_of_numpy(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / np.sqrt(Q.shape[3])
    P = softmax(hide(S, visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="inplace")
def queries_scaled_in_place(Q, K, V, visible=None, mask=None):
    Q /= math.sqrt(Q.shape[3])
    P = softmax(hide(Q @ K.swapaxes(2, 3), visible))
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="elementwise_factor")
def renormalised_after_dropout(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]), visible))
    D = P if mask is None else P * mask
    D = D / (D.sum(axis=3, keepdims=True) + 1e-12)
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None, also=("shape",))
def output_alone(Q, K, V, visible=None, mask=None):
    P = softmax(hide(Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]), visible))
    D = P if mask is None else P * mask
    return D @ V


@right_answer("attention_forward")
def a_large_negative_number(Q, K, V, visible=None, mask=None):
    S = np.matmul(Q / math.sqrt(Q.shape[-1]), K.transpose(0, 1, 3, 2))
    if visible is not None:
        S = S - 1e9 * (1 - visible.astype(S.dtype))
    P = softmax(S)
    return (P if mask is None else P * mask) @ V, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def every_head_by_itself(Q, K, V, visible=None, mask=None):
    n, h, T, d = Q.shape
    U = K.shape[2]
    O, P = np.empty((n, h, T, V.shape[3]), Q.dtype), np.empty((n, h, T, U), Q.dtype)
    see = None if visible is None else np.broadcast_to(visible, P.shape)
    for i in range(n):
        for j in range(h):
            for t in range(T):
                s = K[i, j] @ Q[i, j, t] / math.sqrt(d)
                keys = np.arange(U) if see is None else np.flatnonzero(see[i, j, t])
                P[i, j, t] = 0
                P[i, j, t, keys] = softmax(s[keys])
                weights = P[i, j, t] if mask is None else P[i, j, t] * mask[i, j, t]
                O[i, j, t] = weights @ V[i, j]
    return O, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def einsum_and_log_softmax(Q, K, V, visible=None, mask=None):
    S = np.einsum("nhtd,nhud->nhtu", Q, K) * Q.shape[3] ** -0.5
    S = S if visible is None else np.where(visible, S, S.min(axis=-1, keepdims=True))
    e = np.exp(S - S.max(axis=-1, keepdims=True))
    e = e if visible is None else e * visible
    P = np.exp(np.log(np.maximum(e, 1e-38)) - np.log(e.sum(axis=-1, keepdims=True))) * (e > 0)
    D = P * (1 if mask is None else mask)
    return [np.einsum("nhtu,nhud->nhtd", D, V), (Q, K, V, P, mask)]


@wrong_answer("block_forward", cause="factor_order")
def norm_behind_the_sum(block, x, groups):
    a, c1 = block.attention.forward(x, groups)
    h, c2 = block.norm1.forward(x + a)
    m, c3 = block.mlp.forward(h)
    y, c4 = block.norm2.forward(h + m)
    return y, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="missing_path", also=("missing_term",))
def first_residual_forgotten(block, x, groups):
    h, c1 = block.norm1.forward(x)
    h, c2 = block.attention.forward(h, groups)
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="missing_path", also=("missing_term",))
def second_residual_forgotten(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    y, c3 = block.norm2.forward(x + a)
    y, c4 = block.mlp.forward(y)
    return y, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def residual_of_the_normed(block, x, groups):
    x, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(x, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def halves_side_by_side(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    m, c3 = block.norm2.forward(x)
    m, c4 = block.mlp.forward(m)
    return x + a + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause=None)
def second_norm_forgotten(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.mlp.forward(h)
    return h + m, (c1, c2, c3)


@wrong_answer("block_forward", cause=None)
def first_norm_twice(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm1.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="missing_term", also=("missing_path", "wrong_cached_value"))
def x_added_for_h(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    m, c3 = block.norm2.forward(x + a)
    m, c4 = block.mlp.forward(m)
    return x + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="inplace")
def added_into_x(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    x += a
    m, c3 = block.norm2.forward(x)
    m, c4 = block.mlp.forward(m)
    x += m
    return x, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause=None, also=("shape",))
def block_output_alone(block, x, groups):
    h = x + block.attention.forward(block.norm1.forward(x)[0], groups)[0]
    return h + block.mlp.forward(block.norm2.forward(h)[0])[0]


@wrong_answer("block_forward", cause=None)
def activation_forgotten(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.up.forward(m)
    m, c5 = block.mlp.down.forward(m)
    return h + m, (c1, c2, c3, c4, c5)


@wrong_answer("block_forward", cause=None, also=("mask_ignored",))
def one_long_sequence(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, ((0, len(x), 1, len(x)),))
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause=None)
def tuple_for_array(block, x, groups):
    a = block.norm1.forward(x)
    a = block.attention.forward(a, groups)
    h = x + a
    m = block.mlp.forward(block.norm2.forward(h))
    return h + m, None


@wrong_answer("block_forward", cause="extra_term")
def x_once_more(block, x, groups):
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return x + h + m, (c1, c2, c3, c4)


@right_answer("block_forward")
def one_sum_of_three(block, x, groups):
    def half(norm, part, h, *rest):
        return part.forward(norm.forward(h)[0], *rest)[0]

    a = half(block.norm1, block.attention, x, groups)
    return x + a + half(block.norm2, block.mlp, x + a), None


@right_answer("block_forward")
def mlp_written_out(block, x, groups):
    cache = {}
    normed, cache["norm1"] = ops.layer_norm_forward(x, block.norm1.gamma, block.norm1.beta, block.norm1.eps)
    y, cache["attention"] = block.attention.forward(normed, groups)
    np.add(y, x, out=y)
    normed, cache["norm2"] = ops.layer_norm_forward(y, block.norm2.gamma, block.norm2.beta, block.norm2.eps)
    wide, cache["up"] = block.mlp.up.forward(normed)
    wide, cache["activation"] = ACTIVATIONS[block.mlp.activation][0](wide)
    m, cache["down"] = block.mlp.down.forward(wide)
    return [np.add(m, y), cache]


@right_answer("block_forward")
def group_after_group(block, x, groups):
    y = np.empty_like(x)
    for start, stop, n, T in groups:
        rows = x[start:stop]
        a, _ = block.norm1.forward(rows)
        a, _ = block.attention.forward(a, [(0, n * T, n, T)])
        h = a + rows
        m, _ = block.norm2.forward(h)
        y[start:stop] = block.mlp.forward(m)[0] + h
    return y, ()
