"""Answers to the exercises of chapter 2, by somebody who saw their text alone."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.attention import AttentionCache
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache


@wrong_answer("linear_forward", cause=None)
def no_cache_without_a_bias(x, W, b=None):
    if b is None:
        return x @ W
    return x @ W + b, LinearCache(x, W)


@wrong_answer("linear_forward", cause="wrong_cached_value")
def cache_has_the_column_of_ones(x, W, b=None):
    if b is not None:  # one matrix product does it all
        x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
        W = np.concatenate([W, b[None, :]], axis=0)
    return x @ W, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def ones_in_front_but_bias_at_the_end(x, W, b=None):
    cache = LinearCache(x, W)
    if b is None:
        return x @ W, cache
    ones = np.ones((x.shape[0], 1), dtype=x.dtype)
    return np.hstack([ones, x]) @ np.vstack([W, b]), cache


@right_answer("linear_forward")
def sum_over_inputs(x, W, b=None):
    y = sum((x[:, i, None] * W[i] for i in range(W.shape[0])), np.zeros((x.shape[0], W.shape[1]), x.dtype))
    return (y if b is None else np.add(y, b)), LinearCache(W=W, x=x)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value", also=("inplace",))
def cached_xhat_is_overwritten(x, gamma, beta, eps):
    centred = x - x.mean(axis=1, keepdims=True)
    inverse_std = ((centred**2).mean(axis=1, keepdims=True) + eps) ** -0.5
    xhat = centred * inverse_std
    y = xhat
    y *= gamma
    y += beta
    return y, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value")
def squares_of_x_and_not_of_the_centred(x, gamma, beta, eps):
    mu = np.mean(x, axis=1, keepdims=True)
    variance = np.mean(x * x, axis=1, keepdims=True)
    inv = 1 / np.sqrt(variance + eps)
    xhat = (x - mu) * inv
    return gamma * xhat + beta, LayerNormCache(xhat, inv, gamma)


@wrong_answer("layer_norm_forward", cause="shape")
def inverse_std_is_flat(x, gamma, beta, eps):
    std = np.sqrt(x.var(axis=1) + eps)
    xhat = ((x.T - x.mean(axis=1)) / std).T
    return xhat * gamma + beta, LayerNormCache(xhat, 1 / std, gamma)


@right_answer("layer_norm_forward")
def all_by_einsum(x, gamma, beta, eps):
    d = x.shape[1]
    c = x - np.add.reduce(x, axis=1)[:, None] / d
    inverse_std = (np.einsum("nd,nd->n", c, c)[:, None] / d + eps) ** -0.5
    xhat = np.einsum("nd,nk->nd", c, inverse_std)
    return np.einsum("nd,d->nd", xhat, gamma) + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("gelu_forward", cause=None)
def cdf_by_dividing_y_by_x(x):
    y = 0.5 * x * (1 + ops.erf(x / 2**0.5))
    with np.errstate(invalid="ignore"):
        cdf = y / x
    return y, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor", also=("wrong_cached_value",))
def half_outside_of_the_cached_cdf(x):
    cdf = 1 + ops.erf(x / 2**0.5)
    y = 0.5 * x * cdf
    return y, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="shape")
def flattened_and_never_folded_back(x):
    cdf = np.array([0.5 * (1 + math.erf(value / 2**0.5)) for value in x.ravel()], dtype=x.dtype)
    y = x.ravel() * cdf
    return y, GeluCache(x, cdf.reshape(x.shape))


@right_answer("gelu_forward")
def by_the_complement_of_erf(x):
    upper = np.vectorize(lambda value: math.erfc(-value * math.sqrt(0.5)) / 2, otypes=[np.float64])
    cdf = upper(x).astype(x.dtype)
    return cdf * x, GeluCache(x, cdf)


def plain_softmax_of_blind3(S):
    e = np.exp(S - S.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@wrong_answer("attention_forward", cause="constant_factor")
def root_of_the_size_of_values(Q, K, V, visible=None, mask=None):
    n, h, T, d = V.shape
    S = Q @ np.swapaxes(K, -1, -2) / d**0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = plain_softmax_of_blind3(S)
    dropped = P if mask is None else P * mask
    return dropped @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause="elementwise_factor")
def shares_sum_to_one_again_after_dropout(Q, K, V, visible=None, mask=None):
    S = np.einsum("nhtd,nhud->nhtu", Q, K) / Q.shape[-1] ** 0.5
    if visible is not None:
        S = np.where(visible, S, -np.inf)
    P = plain_softmax_of_blind3(S)
    D = P
    if mask is not None:
        D = P * mask
        D = D / D.sum(axis=3, keepdims=True)
    return D @ V, AttentionCache(Q, K, V, P, mask)


@wrong_answer("attention_forward", cause=None)
def hidden_score_is_tiny_and_not_low(Q, K, V, visible=None, mask=None):
    scores = (Q @ K.transpose(0, 1, 3, 2)) / (K.shape[3] ** 0.5)
    if visible is not None:
        scores = np.where(visible, scores, np.finfo(scores.dtype).tiny)
    P = plain_softmax_of_blind3(scores)
    O = (P if mask is None else mask * P) @ V  # noqa: E741
    return O, AttentionCache(Q, K, V, P, mask)


@right_answer("attention_forward")
def head_by_head_in_logarithms(Q, K, V, visible=None, mask=None):
    n, h, T, d_k = Q.shape
    U = K.shape[2]
    seen = np.broadcast_to(True if visible is None else visible, (n, h, T, U))
    P = np.empty((n, h, T, U), Q.dtype)
    O = np.empty((n, h, T, V.shape[3]), V.dtype)  # noqa: E741
    for i, j in np.ndindex(n, h):
        S = (Q[i, j] * d_k**-0.5) @ K[i, j].T
        S[~seen[i, j]] = -np.inf
        P[i, j] = np.exp(S - np.logaddexp.reduce(S, axis=1)[:, None])
        D = P[i, j] if mask is None else P[i, j] * mask[i, j]
        O[i, j] = D @ V[i, j]
    return O, AttentionCache(Q, K, V, P, mask)


@wrong_answer("block_forward", cause="wrong_cached_value")
def first_norm_used_twice(block, x, groups):
    normed, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(normed, groups)
    h = x + a
    normed, c3 = block.norm1.forward(h)
    m, c4 = block.mlp.forward(normed)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="extra_term")
def x_added_once_more_at_the_end(block, x, groups):
    caches = []

    def through(part, *args):
        out, cache = part.forward(*args)
        caches.append(cache)
        return out

    h = x + through(block.attention, through(block.norm1, x), groups)
    y = x + h + through(block.mlp, through(block.norm2, h))
    return y, tuple(caches)


@wrong_answer("block_forward", cause="missing_path", also=("wrong_cached_value",))
def both_halves_side_by_side(block, x, groups):
    n1, c_n1 = block.norm1.forward(x)
    n2, c_n2 = block.norm2.forward(x)
    attended, c_a = block.attention.forward(n1, groups)
    worked, c_m = block.mlp.forward(n2)
    return x + attended + worked, (c_n1, c_a, c_n2, c_m)


@right_answer("block_forward")
def one_loop_over_two_halves(block, x, groups):
    halves = ((block.norm1, block.attention, (groups,)), (block.norm2, block.mlp, ()))
    stream, caches = x, {}
    for norm, part, more in halves:
        rows, caches[id(norm)] = norm.forward(stream)
        update, caches[id(part)] = part.forward(rows, *more)
        stream = np.sum([stream, update], axis=0)
    return stream, caches
