"""Mistakes in attention as learners write it: one head, shared keys, a bias, a layer with its projections."""

import math

import numpy as np
from corpus.drawing import kept, single
from corpus.entries import wrong_backward


def softmax(s):
    e = np.exp(s - s.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def head_forward(v, k, q, hidden):
    """One head without a batch, the values first; hidden keys have True."""
    s = q @ k.T / np.sqrt(q.shape[1])
    s = np.where(hidden, -1e30, s)
    p = softmax(s)
    return p @ v, {"q": q, "k": k, "v": v, "s": s, "p": p}


def head(rng):
    draw = rng.standard_normal
    hidden = ~kept(rng, 4, 7)
    hidden[:, 0] = False
    return head_forward, {"v": draw((7, 6)), "k": draw((7, 5)), "q": draw((4, 5))}, {"hidden": hidden}


def noisy_head_forward(q, k, v, keep):
    """Dropout on the weights, p = 0.3; both the weights and what is left of them are kept."""
    weights = softmax(q @ k.T / q.shape[1] ** 0.5)
    left = weights * keep / 0.7
    return left @ v, (q, k, v, weights, left, keep)


def noisy_head(rng):
    draw = rng.standard_normal
    return noisy_head_forward, {"q": draw((4, 5)), "k": draw((7, 5)), "v": draw((7, 6))}, {"keep": kept(rng, 4, 7)}


def layer_forward(x, wq, wk, wv):
    """Queries, keys and values of the same x."""
    q, k, v = x @ wq, x @ wk, x @ wv
    p = softmax(q @ k.T / math.sqrt(q.shape[1]))
    return p @ v, (x, wq, wk, wv, q, k, v, p)


def layer(rng):
    draw = rng.standard_normal
    return layer_forward, {"x": draw((4, 7)), "wq": draw((7, 5)), "wk": draw((7, 5)), "wv": draw((7, 6))}, {}


def shared_forward(q, k, v):
    """Queries (h, T, d) of many heads, keys and values of one."""
    p = softmax(q @ k.T / math.sqrt(k.shape[1]))
    return p @ v, (q, k, v, p)


def shared(rng):
    draw = rng.standard_normal
    return shared_forward, {"q": draw((3, 4, 5)), "k": draw((7, 5)), "v": draw((7, 6))}, {}


def biased_forward(q, k, v, bias):
    """A bias (T, U) on the scores, the same for all heads (h, ...)."""
    p = softmax(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[2]) + bias)
    return p @ v, (q, k, v, p)


def biased(rng):
    draw = rng.standard_normal
    return biased_forward, {"q": draw((3, 4, 5)), "k": draw((3, 7, 5)), "v": draw((3, 7, 6)), "bias": draw((4, 7))}, {}


@wrong_backward("attention", head, spoils=("k",), cause="constant_factor")
def root_of_d_forgotten_for_keys(dout, cache):
    q, k, v, p = (cache[name] for name in "qkvp")
    dp = dout @ v.T
    ds = p * (dp - np.sum(p * dp, axis=1, keepdims=True))
    dq = ds @ k / np.sqrt(q.shape[1])
    dk = ds.T @ q
    return p.T @ dout, dk, dq


@wrong_backward("attention", biased, spoils=("bias",), cause="constant_factor")
def bias_scaled_like_the_products(dout, cache):
    q, k, v, p = cache
    dp = dout @ v.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / math.sqrt(q.shape[2])
    return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dout, ds.sum(axis=0)


@wrong_backward("attention", biased, spoils=("bias",), cause="reduction_axis", also=("shape",))
def bias_not_summed_over_heads(dout, cache):
    q, k, v, p = cache
    dp = dout @ v.swapaxes(1, 2)
    dbias = p * (dp - (p * dp).sum(-1, keepdims=True))
    ds = dbias / math.sqrt(q.shape[2])
    return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dout, dbias


@wrong_backward("attention", biased, spoils=("bias",), cause="sign")
def bias_subtracted(dout, cache):
    q, k, v, p = cache
    dp = dout @ v.swapaxes(1, 2)
    da = p * (dp - (p * dp).sum(-1, keepdims=True))
    ds = da / math.sqrt(q.shape[2])
    return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dout, -da.sum(0)


@wrong_backward("attention", noisy_head, spoils=("v",), cause="wrong_cached_value", also=("mask_ignored",))
def p_where_d_belongs(dout, cache):
    q, k, v, weights, left, keep = cache
    dv = weights.T @ dout
    dw = dout @ v.T * keep / 0.7
    ds = weights * (dw - (weights * dw).sum(axis=1, keepdims=True)) / q.shape[1] ** 0.5
    return ds @ k, ds.T @ q, dv


@wrong_backward("attention", noisy_head, spoils=("q", "k"), cause="constant_factor")
def kept_weights_not_enlarged(dout, cache):
    q, k, v, weights, left, keep = cache
    dw = dout @ v.T * keep
    ds = weights * (dw - (weights * dw).sum(axis=1, keepdims=True)) / q.shape[1] ** 0.5
    return ds @ k, ds.T @ q, left.T @ dout


@wrong_backward("attention", head, spoils=("k", "q"), cause="wrong_cached_value")
def scores_where_weights_belong(dout, cache):
    q, k, v, p = cache["q"], cache["k"], cache["v"], cache["p"]
    s = q @ k.T / np.sqrt(q.shape[1])
    dp = dout @ v.T
    ds = s * (dp - np.sum(s * dp, axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    return p.T @ dout, ds.T @ q, ds @ k


@wrong_backward("attention", head, spoils=("v", "k", "q"), cause="mask_ignored")
def weights_computed_again_without_hiding(dout, cache):
    q, k, v = cache["q"], cache["k"], cache["v"]
    p = softmax(q @ k.T / np.sqrt(q.shape[1]))
    dp = dout @ v.T
    ds = p * (dp - np.sum(p * dp, axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    return p.T @ dout, ds.T @ q, ds @ k


@wrong_backward("attention", head, spoils=("v",), cause="mask_ignored")
def values_see_hidden_keys(dout, cache):
    q, k, v, p = (cache[name] for name in "qkvp")
    dp = dout @ v.T
    ds = p * (dp - np.sum(p * dp, axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    everybody = softmax(q @ k.T / np.sqrt(q.shape[1]))
    return everybody.T @ dout, ds.T @ q, ds @ k


@wrong_backward("attention", head, spoils=("v", "q"), cause="swapped")
def usual_order_though_values_come_first(dout, cache):
    q, k, v, p = (cache[name] for name in "qkvp")
    dp = dout @ v.T
    ds = p * (dp - np.sum(p * dp, axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    return ds @ k, ds.T @ q, p.T @ dout


@wrong_backward("attention", shared, spoils=("k", "v"), cause="reduction_axis", also=("shape",))
def shared_keys_not_summed_over_heads(dout, cache):
    q, k, v, p = cache
    dp = dout @ v.T
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / math.sqrt(k.shape[1])
    return ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dout


@wrong_backward("attention", shared, spoils=("k", "v"), cause="not_accumulated")
def shared_keys_of_the_last_head(dout, cache):
    q, k, v, p = cache
    dq = np.zeros_like(q)
    for h in range(len(q)):
        dv = p[h].T @ dout[h]
        dp = dout[h] @ v.T
        ds = p[h] * (dp - (p[h] * dp).sum(axis=1, keepdims=True)) / math.sqrt(k.shape[1])
        dq[h], dk = ds @ k, ds.T @ q[h]
    return dq, dk, dv


@wrong_backward("attention", shared, spoils=("k", "v"), cause="mean_vs_sum")
def shared_keys_averaged_over_heads(dout, cache):
    q, k, v, p = cache
    dp = dout @ v.T
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / math.sqrt(k.shape[1])
    return ds @ k, np.mean(ds.swapaxes(1, 2) @ q, axis=0), np.mean(p.swapaxes(1, 2) @ dout, axis=0)


def layer_backward(dout, cache):
    """The part that the mistakes below share: gradients of queries, keys and values."""
    x, wq, wk, wv, q, k, v, p = cache
    dp = dout @ v.T
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) / math.sqrt(q.shape[1])
    return ds @ k, ds.T @ q, p.T @ dout


@wrong_backward("attention", layer, spoils=("x",), cause="missing_path")
def x_from_the_values_only(dout, cache):
    x, wq, wk, wv, *_ = cache
    dq, dk, dv = layer_backward(dout, cache)
    dx = dv @ wv.T
    return dx, x.T @ dq, x.T @ dk, x.T @ dv


@wrong_backward("attention", layer, spoils=("x",), cause="missing_path")
def x_without_the_keys(dout, cache):
    x, wq, wk, wv, *_ = cache
    dq, dk, dv = layer_backward(dout, cache)
    dx = dq @ wq.T
    dx += dv @ wv.T
    return dx, x.T @ dq, x.T @ dk, x.T @ dv


@wrong_backward("attention", layer, spoils=("x",), cause="extra_term", also=("constant_factor",))
def values_counted_twice(dout, cache):
    x, wq, wk, wv, *_ = cache
    dq, dk, dv = layer_backward(dout, cache)
    dx = dq @ wq.T + dk @ wk.T + dv @ wv.T + dv @ wv.T
    return dx, x.T @ dq, x.T @ dk, x.T @ dv


@wrong_backward("attention", head, spoils=("k", "q"), cause="missing_term")
def jacobian_with_p_on_its_diagonal(dout, cache):
    """The diagonal of the softmax is p - p^2."""
    q, k, v, p = (cache[name] for name in "qkvp")
    dp = dout @ v.T
    ds = np.zeros_like(p)
    for t in range(len(p)):
        jacobian = -np.outer(p[t], p[t])
        np.fill_diagonal(jacobian, p[t])
        ds[t] = jacobian @ dp[t]
    ds /= np.sqrt(q.shape[1])
    return p.T @ dout, ds.T @ q, ds @ k


def single_head(rng):
    forward, inputs, fixed = noisy_head(rng)
    return forward, single(inputs), {"keep": fixed["keep"]}


@wrong_backward("attention", single_head, spoils=("q",), cause="dtype")
def query_by_query_into_doubles(dout, cache):
    q, k, v, weights, left, keep = cache
    dw = dout @ v.T * keep / np.float32(0.7)
    ds = weights * (dw - (weights * dw).sum(1, keepdims=True)) / np.float32(math.sqrt(q.shape[1]))
    dq = np.zeros(q.shape)
    for t in range(len(q)):
        dq[t] = ds[t] @ k
    return dq, ds.T @ q, left.T @ dout


@wrong_backward("attention", head, spoils=("q",), cause="not_accumulated")
def queries_from_the_last_key(dout, cache):
    q, k, v, p = (cache[name] for name in "qkvp")
    dp = dout @ v.T
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) / q.shape[1] ** 0.5
    dk = np.zeros_like(k)
    for u in range(len(k)):
        dk[u] = ds[:, u] @ q
        dq = np.outer(ds[:, u], k[u])
    return p.T @ dout, dk, dq


@wrong_backward("attention", shared, spoils=("q",), cause="shape")
def heads_left_side_by_side(dout, cache):
    q, k, v, p = cache
    dp = np.einsum("htv,uv->htu", dout, v)
    ds = p * (dp - np.einsum("htu,htu->ht", p, dp)[..., None]) / k.shape[1] ** 0.5
    dq = (ds @ k).swapaxes(0, 1).reshape(q.shape[1], -1)
    return dq, np.einsum("htu,htd->ud", ds, q), np.einsum("htu,htv->uv", p, dout)


def split_forward(x, h):
    """x (T, h d) attends to itself with h heads, side by side."""
    heads = x.reshape(len(x), h, -1).swapaxes(0, 1)
    p = softmax(heads @ heads.swapaxes(1, 2))
    return (p @ heads).swapaxes(0, 1).reshape(x.shape), (heads, p)


@wrong_backward(
    "attention",
    lambda rng: (split_forward, {"x": 0.5 * rng.standard_normal((4, 15))}, {"h": 3}),
    spoils=("x",),
    cause="transpose",
)
def heads_merged_without_moving_axes(dout, cache):
    heads, p = cache
    do = dout.reshape(len(dout), len(heads), -1).swapaxes(0, 1)
    dp = do @ heads.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dheads = p.swapaxes(1, 2) @ do + ds @ heads + ds.swapaxes(1, 2) @ heads
    return dheads.reshape(dout.shape)
