"""Right backwards of the package's operations by other formulas, at other numbers."""

import math

import numpy as np
from suite_parts import dropout_mask, kept, repeated, right_collector

from lora_np import ops

RIGHT = []
right = right_collector(RIGHT)
LINEAR = {"x": (5, 4), "W": (4, 3), "b": (3,)}
SPREAD = {key: lambda rng, s=s: rng.standard_normal(s) * 10.0 ** rng.uniform(-6, 6, s) for key, s in LINEAR.items()}
NORM = {"x": (5, 7), "gamma": (7,), "beta": (7,)}
HEADS = {"Q": (2, 3, 4, 5), "K": (2, 3, 7, 5), "V": (2, 3, 7, 6)}
LORA = {"x": (5, 6), "A": (6, 2), "B": (2, 3)}
FROZEN = {"W": lambda rng: rng.standard_normal((6, 3)), "scale": 1.7}
IDS = {"ids": lambda rng: repeated(rng, 9, 6)}
LABELS = {"labels": lambda rng: repeated(rng, 7, 5)}
SINGLE = np.float32


@right(ops.linear_forward, **LINEAR)
@right(ops.linear_forward, dtype=SINGLE, **LINEAR)
@right(ops.linear_forward, name="einsum from 1e-6 to 1e6", **SPREAD)
def einsum(dy, cache):
    return np.einsum("no,io->ni", dy, cache.W), np.einsum("no,ni->io", dy, cache.x), np.einsum("no->o", dy)


@right(ops.linear_forward, **LINEAR)
@right(ops.linear_forward, dtype=SINGLE, **LINEAR)
def last_row_first_outer_products(dy, cache):
    dx, dW, db = np.zeros_like(cache.x), np.zeros_like(cache.W), np.zeros_like(cache.W[0])
    for n in reversed(range(len(dy))):
        dx[n] += cache.W @ dy[n]
        dW += np.outer(cache.x[n], dy[n])
        db += dy[n]
    return dx, dW, db


@right(ops.linear_forward, **LINEAR)
def fortran_order_and_views(dy, cache):
    padded = np.zeros((8, 9))
    padded[:5, 1::2] = dy @ cache.W.T
    return padded[:5, 1::2], np.asfortranarray(cache.x.T @ dy), (dy[::-1].T @ np.ones(5))[::1]


@right(ops.linear_forward, **LINEAR)
def read_only_in_a_list(dy, cache):
    gradients = [(cache.W @ dy.T).T, (dy.T @ cache.x).T, dy.sum(axis=0)]
    for g in gradients:
        g.flags.writeable = False
    return gradients


def lora_forward(x, A, B, W, scale):
    return ops.lora_linear_forward(x, W, None, A, B, scale)


@right(lora_forward, FROZEN, **LORA)
@right(lora_forward, FROZEN, dtype=SINGLE, **LORA)
@right(lora_forward, FROZEN, name="B of zeros", x=(5, 6), A=(6, 2), B=lambda rng: np.zeros((2, 3)))
def two_projections_of_the_full_gradient(dy, cache):
    z, u, W, A, B, scale, _ = cache
    G = z.T @ dy
    return dy @ (W + scale * A @ B).T, scale * G @ B.T, scale * A.T @ G


@right(
    lambda x, A, B, W, scale, mask: ops.lora_linear_forward(x, W, None, A, B, scale, mask),
    {**FROZEN, "mask": lambda rng: dropout_mask(rng, 5, 6)},
    **LORA,
)
def in_place_on_own_copies(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dy = dy.copy()
    dx = dy @ W.T
    dy *= scale
    dz = dy @ B.T @ A.T
    dz *= mask
    dx += dz
    return dx, z.T @ (dy @ B.T), u.T @ dy


def spread_rows(rng):
    return rng.standard_normal((5, 7)) * 10.0 ** np.array([[-6], [6], [-3], [0], [3]])


@right(ops.layer_norm_forward, {"eps": 1e-5}, **NORM)
@right(ops.layer_norm_forward, {"eps": 1e-5}, dtype=SINGLE, **NORM)
@right(ops.layer_norm_forward, {"eps": 1e-14}, name="rows from 1e-6 to 1e6", **NORM | {"x": spread_rows})
@right(
    ops.layer_norm_forward,
    {"eps": 0.1},
    name="rows that hardly vary",
    **NORM | {"x": lambda r: 3 + 1e-6 * r.random((5, 7))},
)
def three_terms_by_hand(dy, cache):
    xhat, r, gamma = cache
    d = xhat.shape[1]
    dcentred = gamma * dy * r
    dvar = -0.5 * (gamma * dy * xhat).sum(axis=1, keepdims=True) * r**2
    dmean = -dcentred.sum(axis=1, keepdims=True)  # what comes by the variance is zero here
    return dcentred + 2 * dvar * xhat / r / d + dmean / d, (xhat * dy).sum(0), dy.sum(0)


@right(ops.layer_norm_forward, {"eps": 1e-12}, **NORM)
def layer_norm_through_the_jacobian(dy, cache):
    xhat, r, gamma = cache
    d = len(gamma)
    jacobian = np.eye(d) - 1 / d - xhat[:, :, None] * xhat[:, None, :] / d
    return np.einsum("n,nij,nj->ni", r[:, 0], jacobian, gamma * dy), np.einsum("nd,nd->d", xhat, dy), dy.sum(0)


def var_forward(x, gamma, beta):
    """The mean of squares minus the square of the mean."""
    variance = (x * x).mean(1, keepdims=True) - x.mean(1, keepdims=True) ** 2
    return gamma * (x - x.mean(1, keepdims=True)) / np.sqrt(variance + 1e-5) + beta, (x, gamma)


@right(var_forward, **NORM)
def sums_only(dy, cache):
    x, gamma = cache
    d, S, SS = len(gamma), x.sum(1, keepdims=True), (x * x).sum(1, keepdims=True)
    r = (SS / d - (S / d) ** 2 + 1e-5) ** -0.5
    h = r * (x - S / d)
    a, b = (dy @ gamma)[:, None], ((dy * h) @ gamma)[:, None]
    return r * (d * gamma * dy - a - h * b) / d, (dy * h).sum(0), dy.sum(0)


@right(ops.attention_forward, **HEADS)
@right(ops.attention_forward, dtype=SINGLE, **HEADS)
def softmax_through_the_full_jacobian(dO, cache):
    Q, K, V, P, _ = cache
    jacobian = P[..., None] * (np.eye(P.shape[-1], dtype=P.dtype) - P[..., None, :])
    dS = np.einsum("nhtuw,nhtv,nhwv->nhtu", jacobian, dO, V) / P.dtype.type(math.sqrt(Q.shape[-1]))
    return dS @ K, np.einsum("nhtu,nhtd->nhud", dS, Q), np.einsum("nhtu,nhtv->nhuv", P, dO)


@right(ops.attention_forward, {"mask": lambda rng: dropout_mask(rng, 2, 3, 4, 7)}, **HEADS)
@right(
    ops.attention_forward,
    {"mask": None, "visible": lambda rng: kept(rng, 1, 1, 4, 7) | (np.arange(7) == 3)},
    name="rows of dO times O, hidden keys",
    **HEADS,
)
@right(
    ops.attention_forward,
    name="rows of dO times O, saturated",
    **HEADS | {"Q": lambda rng: 12 * rng.standard_normal((2, 3, 4, 5))},
)
def rows_of_do_times_o(dO, cache):
    """The sum over P dP is the sum over dO O, with dropout too."""
    Q, K, V, P, mask = cache
    c, mask = Q.shape[3] ** -0.5, 1.0 if mask is None else mask
    D = P * mask
    dS = D * (dO @ V.swapaxes(2, 3)) - P * (dO * (D @ V)).sum(3, keepdims=True)
    return c * dS @ K, c * dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@right(ops.attention_forward, {"visible": np.tri(4, dtype=bool)}, Q=(2, 3, 4, 5), K=(2, 3, 4, 5), V=(2, 3, 4, 6))
def first_query_sees_one_key(dO, cache):
    """So its gradient is zero but for rounding."""
    return ops.attention_backward(dO, cache)


def biased_forward(q, k, bias, v):
    s = q @ (k + bias).T
    e = np.exp(s - s.real.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return p @ v, (q, k + bias, v, p)


@right(biased_forward, q=(4, 5), k=(7, 5), bias=(5,), v=(7, 6))
def key_bias_before_a_softmax(do, cache):
    q, k, v, p = cache
    ds = p * (do @ v.T - ((do @ v.T) * p).sum(1, keepdims=True))
    return ds @ k, ds.T @ q, (ds.T @ q).sum(axis=0), p.T @ do


@right(biased_forward, q=(4, 5), k=(7, 5), bias=(5,), v=(7, 6))
def key_bias_of_exact_zeros(do, cache):
    q, k, v, p = cache
    ds = p * (do @ v.T - ((do @ v.T) * p).sum(1, keepdims=True))
    return ds @ k, ds.T @ q, np.zeros(5), p.T @ do


@right(ops.embedding_forward, IDS, table=(6, 4))
@right(ops.embedding_forward, IDS, dtype=SINGLE, table=(6, 4))
def add_at(dy, cache):
    dtable = np.zeros(cache.shape, dy.dtype)
    np.add.at(dtable, cache.ids, dy)
    return dtable


@right(ops.embedding_forward, IDS, table=(6, 4))
def one_hot_product(dy, cache):
    return (cache.ids == np.arange(cache.shape[0])[:, None]) @ dy


@right(ops.embedding_forward, IDS, table=(6, 4))
def bincount_of_each_column(dy, cache):
    return np.array([np.bincount(cache.ids, column, cache.shape[0]) for column in dy.T]).T


def windows_forward(x, size, step):
    return np.lib.stride_tricks.sliding_window_view(x, size)[::step].copy(), (x.shape, size, step)


@right(windows_forward, {"size": 5, "step": 2}, x=(12,))
def overlapping_windows(dy, cache):
    shape, size, step = cache
    places = np.arange(len(dy))[:, None] * step + np.arange(size)
    dx = np.zeros(shape)
    np.add.at(dx, places, dy)
    return dx


@right(ops.patches_forward, {"size": 2}, images=(3, 4, 6, 5))
def patches_by_their_places(dy, cache):
    places, _ = ops.patches_forward(np.arange(float(math.prod(cache.shape))).reshape(cache.shape), cache.size)
    dimages = np.empty(math.prod(cache.shape))
    dimages[places.astype(int)] = dy
    return dimages.reshape(cache.shape)


@right(lambda x: (x.mean(axis=1), x.shape), x=(4, 5, 3))
def broadcast_and_read_only(dy, shape):
    return np.broadcast_to(dy[:, None] / shape[1], shape)


@right(ops.pool_first_forward, {"groups": ((0, 4, 2, 2), (4, 13, 3, 3))}, x=(13, 4))
def first_tokens_by_a_matrix(dy, cache):
    pick = np.zeros((len(dy), cache.rows))
    pick[np.arange(5), [0, 2, 4, 7, 10]] = 1
    return pick.T @ dy


@right(ops.gelu_forward, x=(6, 5))
@right(ops.gelu_forward, dtype=SINGLE, x=(6, 5))
@right(ops.gelu_forward, name="far tails by erfc", x=lambda rng: 4 * rng.standard_normal((6, 5)))
def slope_by_erfc(dy, cache):
    slope = [math.erfc(-v / math.sqrt(2)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in cache.x.flat]
    return dy * np.array(slope, dtype=dy.dtype).reshape(cache.x.shape)


@right(ops.gelu_tanh_forward, x=(6, 5))
def sigmoid_of_twice(dy, cache):
    s, c = (1 + cache.t) / 2, math.sqrt(8 / math.pi)
    return dy * s * (1 + cache.x * (1 - s) * (c + c * 0.134145 * cache.x**2))


@right(ops.tanh_forward, x=(6, 5))
@right(ops.tanh_forward, dtype=SINGLE, x=(6, 5))
@right(ops.tanh_forward, name="saturated tanh", x=lambda rng: 6 * rng.standard_normal((6, 5)))
def product_of_one_minus_and_one_plus(dy, cache):
    return dy * (1 - cache.y) * (1 + cache.y)


@right(ops.dropout_forward, {"mask": lambda rng: dropout_mask(rng, 6, 5)}, x=(6, 5))
def where_kept(dy, cache):
    return np.where(cache.mask > 0, dy / 0.7, 0.0)


@right(ops.cross_entropy_forward, LABELS, logits=(7, 5))
@right(ops.cross_entropy_forward, LABELS, name="trained well", logits=lambda rng: 5 * rng.standard_normal((7, 5)))
@right(
    ops.cross_entropy_forward, LABELS | {"label_smoothing": 0.2, "reduction": "sum"}, name="smoothed sum", logits=(7, 5)
)
def logarithm_then_softmax(dloss, cache):
    p, q, divisor = cache
    dp = -dloss / divisor * q / p
    return np.einsum("nij,nj->ni", p[:, :, None] * (np.eye(5) - p[:, None, :]), dp)
