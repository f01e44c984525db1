"""Right backwards of the package's operations by other formulas, at other numbers."""

import math

import numpy as np
from corpus.drawing import drawn, dropout_mask, kept, repeated
from corpus.entries import right_backward

from lora_np import ops

LINEAR = {"x": (5, 4), "W": (4, 3), "b": (3,)}
SPREAD = {key: lambda rng, s=s: rng.standard_normal(s) * 10.0 ** rng.uniform(-6, 6, s) for key, s in LINEAR.items()}
NORM = {"x": (5, 7), "gamma": (7,), "beta": (7,)}
HEADS = {"Q": (2, 3, 4, 5), "K": (2, 3, 7, 5), "V": (2, 3, 7, 6)}
LORA = {"x": (5, 6), "A": (6, 2), "B": (2, 3)}
FROZEN = {"W": lambda rng: rng.standard_normal((6, 3)), "scale": 1.7}
IDS = {"ids": lambda rng: repeated(rng, 9, 6)}
LABELS = {"labels": lambda rng: repeated(rng, 7, 5)}


@right_backward(drawn(ops.linear_forward, **LINEAR))
@right_backward(drawn(ops.linear_forward, **LINEAR), float32=True)
@right_backward(drawn(ops.linear_forward, **SPREAD), name="einsum from 1e-6 to 1e6")
def einsum(dy, cache):
    return np.einsum("no,io->ni", dy, cache.W), np.einsum("no,ni->io", dy, cache.x), np.einsum("no->o", dy)


@right_backward(drawn(ops.linear_forward, **LINEAR))
@right_backward(drawn(ops.linear_forward, **LINEAR), float32=True)
def last_row_first_outer_products(dy, cache):
    dx, dW, db = np.zeros_like(cache.x), np.zeros_like(cache.W), np.zeros_like(cache.W[0])
    for n in reversed(range(len(dy))):
        dx[n] += cache.W @ dy[n]
        dW += np.outer(cache.x[n], dy[n])
        db += dy[n]
    return dx, dW, db


@right_backward(drawn(ops.linear_forward, **LINEAR))
def fortran_order_and_views(dy, cache):
    padded = np.zeros((8, 9))
    padded[:5, 1::2] = dy @ cache.W.T
    return padded[:5, 1::2], np.asfortranarray(cache.x.T @ dy), (dy[::-1].T @ np.ones(5))[::1]


@right_backward(drawn(ops.linear_forward, **LINEAR))
def read_only_in_a_list(dy, cache):
    gradients = [(cache.W @ dy.T).T, (dy.T @ cache.x).T, dy.sum(axis=0)]
    for g in gradients:
        g.flags.writeable = False
    return gradients


def lora_forward(x, A, B, W, scale):
    return ops.lora_linear_forward(x, W, None, A, B, scale)


@right_backward(drawn(lora_forward, FROZEN, **LORA))
@right_backward(drawn(lora_forward, FROZEN, **LORA), float32=True)
@right_backward(drawn(lora_forward, FROZEN, x=(5, 6), A=(6, 2), B=lambda rng: np.zeros((2, 3))), name="B of zeros")
def two_projections_of_the_full_gradient(dy, cache):
    z, u, W, A, B, scale, _ = cache
    G = z.T @ dy
    return dy @ (W + scale * A @ B).T, scale * G @ B.T, scale * A.T @ G


@right_backward(
    drawn(
        lambda x, A, B, W, scale, mask: ops.lora_linear_forward(x, W, None, A, B, scale, mask),
        {**FROZEN, "mask": lambda rng: dropout_mask(rng, 5, 6)},
        **LORA,
    )
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


@right_backward(drawn(ops.layer_norm_forward, {"eps": 1e-5}, **NORM))
@right_backward(drawn(ops.layer_norm_forward, {"eps": 1e-5}, **NORM), float32=True)
@right_backward(
    drawn(ops.layer_norm_forward, {"eps": 1e-14}, **NORM | {"x": spread_rows}), name="rows from 1e-6 to 1e6"
)
@right_backward(
    drawn(ops.layer_norm_forward, {"eps": 0.1}, **NORM | {"x": lambda r: 3 + 1e-6 * r.random((5, 7))}),
    name="rows that hardly vary",
)
def three_terms_by_hand(dy, cache):
    xhat, r, gamma = cache
    d = xhat.shape[1]
    dcentred = gamma * dy * r
    dvar = -0.5 * (gamma * dy * xhat).sum(axis=1, keepdims=True) * r**2
    dmean = -dcentred.sum(axis=1, keepdims=True)  # what comes by the variance is zero here
    return dcentred + 2 * dvar * xhat / r / d + dmean / d, (xhat * dy).sum(0), dy.sum(0)


@right_backward(drawn(ops.layer_norm_forward, {"eps": 1e-12}, **NORM))
def layer_norm_through_the_jacobian(dy, cache):
    xhat, r, gamma = cache
    d = len(gamma)
    jacobian = np.eye(d) - 1 / d - xhat[:, :, None] * xhat[:, None, :] / d
    return np.einsum("n,nij,nj->ni", r[:, 0], jacobian, gamma * dy), np.einsum("nd,nd->d", xhat, dy), dy.sum(0)


def var_forward(x, gamma, beta):
    """The mean of squares minus the square of the mean."""
    variance = (x * x).mean(1, keepdims=True) - x.mean(1, keepdims=True) ** 2
    return gamma * (x - x.mean(1, keepdims=True)) / np.sqrt(variance + 1e-5) + beta, (x, gamma)


@right_backward(drawn(var_forward, **NORM))
def sums_only(dy, cache):
    x, gamma = cache
    d, S, SS = len(gamma), x.sum(1, keepdims=True), (x * x).sum(1, keepdims=True)
    r = (SS / d - (S / d) ** 2 + 1e-5) ** -0.5
    h = r * (x - S / d)
    a, b = (dy @ gamma)[:, None], ((dy * h) @ gamma)[:, None]
    return r * (d * gamma * dy - a - h * b) / d, (dy * h).sum(0), dy.sum(0)


@right_backward(drawn(ops.attention_forward, **HEADS))
@right_backward(drawn(ops.attention_forward, **HEADS), float32=True)
def softmax_through_the_full_jacobian(dO, cache):
    Q, K, V, P, _ = cache
    jacobian = P[..., None] * (np.eye(P.shape[-1], dtype=P.dtype) - P[..., None, :])
    dS = np.einsum("nhtuw,nhtv,nhwv->nhtu", jacobian, dO, V) / P.dtype.type(math.sqrt(Q.shape[-1]))
    return dS @ K, np.einsum("nhtu,nhtd->nhud", dS, Q), np.einsum("nhtu,nhtv->nhuv", P, dO)


@right_backward(drawn(ops.attention_forward, {"mask": lambda rng: dropout_mask(rng, 2, 3, 4, 7)}, **HEADS))
@right_backward(
    drawn(
        ops.attention_forward,
        {"mask": None, "visible": lambda rng: kept(rng, 1, 1, 4, 7) | (np.arange(7) == 3)},
        **HEADS,
    ),
    name="rows of dO times O, hidden keys",
)
@right_backward(
    drawn(ops.attention_forward, **HEADS | {"Q": lambda rng: 12 * rng.standard_normal((2, 3, 4, 5))}),
    name="rows of dO times O, saturated",
)
def rows_of_do_times_o(dO, cache):
    """The sum over P dP is the sum over dO O, with dropout too."""
    Q, K, V, P, mask = cache
    c, mask = Q.shape[3] ** -0.5, 1.0 if mask is None else mask
    D = P * mask
    dS = D * (dO @ V.swapaxes(2, 3)) - P * (dO * (D @ V)).sum(3, keepdims=True)
    return c * dS @ K, c * dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@right_backward(
    drawn(ops.attention_forward, {"visible": np.tri(4, dtype=bool)}, Q=(2, 3, 4, 5), K=(2, 3, 4, 5), V=(2, 3, 4, 6))
)
def first_query_sees_one_key(dO, cache):
    """So its gradient is zero but for rounding."""
    return ops.attention_backward(dO, cache)


def biased_forward(q, k, bias, v):
    s = q @ (k + bias).T
    e = np.exp(s - s.real.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return p @ v, (q, k + bias, v, p)


@right_backward(drawn(biased_forward, q=(4, 5), k=(7, 5), bias=(5,), v=(7, 6)))
def key_bias_before_a_softmax(do, cache):
    q, k, v, p = cache
    ds = p * (do @ v.T - ((do @ v.T) * p).sum(1, keepdims=True))
    return ds @ k, ds.T @ q, (ds.T @ q).sum(axis=0), p.T @ do


@right_backward(drawn(biased_forward, q=(4, 5), k=(7, 5), bias=(5,), v=(7, 6)))
def key_bias_of_exact_zeros(do, cache):
    q, k, v, p = cache
    ds = p * (do @ v.T - ((do @ v.T) * p).sum(1, keepdims=True))
    return ds @ k, ds.T @ q, np.zeros(5), p.T @ do


@right_backward(drawn(ops.embedding_forward, IDS, table=(6, 4)))
@right_backward(drawn(ops.embedding_forward, IDS, table=(6, 4)), float32=True)
def add_at(dy, cache):
    dtable = np.zeros(cache.shape, dy.dtype)
    np.add.at(dtable, cache.ids, dy)
    return dtable


@right_backward(drawn(ops.embedding_forward, IDS, table=(6, 4)))
def one_hot_product(dy, cache):
    return (cache.ids == np.arange(cache.shape[0])[:, None]) @ dy


@right_backward(drawn(ops.embedding_forward, IDS, table=(6, 4)))
def bincount_of_each_column(dy, cache):
    return np.array([np.bincount(cache.ids, column, cache.shape[0]) for column in dy.T]).T


def windows_forward(x, size, step):
    return np.lib.stride_tricks.sliding_window_view(x, size)[::step].copy(), (x.shape, size, step)


@right_backward(drawn(windows_forward, {"size": 5, "step": 2}, x=(12,)))
def overlapping_windows(dy, cache):
    shape, size, step = cache
    places = np.arange(len(dy))[:, None] * step + np.arange(size)
    dx = np.zeros(shape)
    np.add.at(dx, places, dy)
    return dx


@right_backward(drawn(ops.patches_forward, {"size": 2}, images=(3, 4, 6, 5)))
def patches_by_their_places(dy, cache):
    places, _ = ops.patches_forward(np.arange(float(math.prod(cache.shape))).reshape(cache.shape), cache.size)
    dimages = np.empty(math.prod(cache.shape))
    dimages[places.astype(int)] = dy
    return dimages.reshape(cache.shape)


@right_backward(drawn(lambda x: (x.mean(axis=1), x.shape), x=(4, 5, 3)))
def broadcast_and_read_only(dy, shape):
    return np.broadcast_to(dy[:, None] / shape[1], shape)


@right_backward(drawn(ops.pool_first_forward, {"groups": ((0, 4, 2, 2), (4, 13, 3, 3))}, x=(13, 4)))
def first_tokens_by_a_matrix(dy, cache):
    pick = np.zeros((len(dy), cache.rows))
    pick[np.arange(5), [0, 2, 4, 7, 10]] = 1
    return pick.T @ dy


@right_backward(drawn(ops.gelu_forward, x=(6, 5)))
@right_backward(drawn(ops.gelu_forward, x=(6, 5)), float32=True)
@right_backward(drawn(ops.gelu_forward, x=lambda rng: 4 * rng.standard_normal((6, 5))), name="far tails by erfc")
def slope_by_erfc(dy, cache):
    slope = [math.erfc(-v / math.sqrt(2)) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in cache.x.flat]
    return dy * np.array(slope, dtype=dy.dtype).reshape(cache.x.shape)


@right_backward(drawn(ops.gelu_tanh_forward, x=(6, 5)))
def sigmoid_of_twice(dy, cache):
    s, c = (1 + cache.t) / 2, math.sqrt(8 / math.pi)
    return dy * s * (1 + cache.x * (1 - s) * (c + c * 0.134145 * cache.x**2))


@right_backward(drawn(ops.tanh_forward, x=(6, 5)))
@right_backward(drawn(ops.tanh_forward, x=(6, 5)), float32=True)
@right_backward(drawn(ops.tanh_forward, x=lambda rng: 6 * rng.standard_normal((6, 5))), name="saturated tanh")
def product_of_one_minus_and_one_plus(dy, cache):
    return dy * (1 - cache.y) * (1 + cache.y)


@right_backward(drawn(ops.dropout_forward, {"mask": lambda rng: dropout_mask(rng, 6, 5)}, x=(6, 5)))
def where_kept(dy, cache):
    return np.where(cache.mask > 0, dy / 0.7, 0.0)


@right_backward(drawn(ops.cross_entropy_forward, LABELS, logits=(7, 5)))
@right_backward(
    drawn(ops.cross_entropy_forward, LABELS, logits=lambda rng: 5 * rng.standard_normal((7, 5))), name="trained well"
)
@right_backward(
    drawn(ops.cross_entropy_forward, LABELS | {"label_smoothing": 0.2, "reduction": "sum"}, logits=(7, 5)),
    name="smoothed sum",
)
def logarithm_then_softmax(dloss, cache):
    p, q, divisor = cache
    dp = -dloss / divisor * q / p
    return np.einsum("nij,nj->ni", p[:, :, None] * (np.eye(5) - p[:, None, :]), dp)
