"""Mistakes in bilinear forms, and in the mean-squared error."""

from types import SimpleNamespace

import numpy as np
from corpus.drawing import kept, single, sizes
from corpus.entries import wrong_backward


def form_forward(x, W, z):
    """One number for each pair: y_n = x_n^T W z_n."""
    return ((x @ W) * z).sum(axis=1), (x, W, z)


def drawn(rng, n, p, q):
    draw = rng.standard_normal
    return {"x": draw((n, p)), "W": draw((p, q)), "z": draw((n, q))}


def plain(rng):
    return form_forward, drawn(rng, *sizes(rng, 3)), {}


def square(rng):
    n, d = sizes(rng, 2)
    return form_forward, drawn(rng, n, d, d), {}


def plain_single(rng):
    return form_forward, single(plain(rng)[1]), {}


def quadratic_forward(v, M):
    return np.einsum("ni,ij,nj->n", v, M, v), {"v": v, "M": M}


def quadratic(rng):
    n, d = sizes(rng, 2)
    return quadratic_forward, {"v": rng.standard_normal((n, d)), "M": rng.standard_normal((d, d))}, {}


def affine_forward(head, dep, W, u, scale):
    """A scaled biaffine score, as in parsers: every head with every dependent, for some labels."""
    score = scale * np.einsum("ip,lpq,jq->lij", head, W, dep) + (head @ u)[:, None]
    return score, SimpleNamespace(head=head, dep=dep, W=W, u=u, scale=scale)


def affine(rng):
    draw = rng.standard_normal
    inputs = {"head": draw((4, 5)), "dep": draw((6, 7)), "W": draw((3, 5, 7)) / 2, "u": draw(5)}
    return affine_forward, inputs, {"scale": 0.6}


def affine_back(d, c):
    dhead = c.scale * np.einsum("lij,lpq,jq->ip", d, c.W, c.dep) + d.sum(axis=(0, 2))[:, None] * c.u
    ddep = c.scale * np.einsum("lij,lpq,ip->jq", d, c.W, c.head)
    dW = c.scale * np.einsum("lij,ip,jq->lpq", d, c.head, c.dep)
    return dhead, ddep, dW, c.head.T @ d.sum(axis=(0, 2))


@wrong_backward("bilinear", square, spoils=("x",), cause="transpose")
def w_transposed_for_x(dy, cache):
    x, W, z = cache
    return dy[:, None] * (z @ W), x.T @ (dy[:, None] * z), dy[:, None] * (x @ W)


@wrong_backward("bilinear", square, spoils=("W",), cause="transpose")
def outer_product_the_other_way_round(dy, cache):
    x, W, z = cache
    return dy[:, None] * (z @ W.T), np.einsum("n,ni,nj->ji", dy, x, z), dy[:, None] * (x @ W)


@wrong_backward("bilinear", square, spoils=("x", "z"), cause="swapped")
def x_and_z_exchanged(dy, cache):
    x, W, z = cache
    g = dy[:, None]
    dx, dz = g * (z @ W.T), g * (x @ W)
    return dz, x.T @ (g * z), dx


@wrong_backward("bilinear", quadratic, spoils=("v",), cause="missing_path", also=("missing_term",))
def v_stands_there_twice(dout, cache):
    v, M = cache["v"], cache["M"]
    return dout[:, None] * (v @ M.T), np.einsum("n,ni,nj->ij", dout, v, v)


@wrong_backward("bilinear", quadratic, spoils=("v",), cause="transpose")
def matrix_taken_for_symmetric(dout, cache):
    v, M = cache["v"], cache["M"]
    return dout[:, None] * (v @ M + v @ M), np.einsum("n,ni,nj->ij", dout, v, v)


@wrong_backward("bilinear", plain, spoils=("W",), cause="not_accumulated")
def matrix_of_the_last_pair(dy, cache):
    x, W, z = cache
    dx, dz = np.empty_like(x), np.empty_like(z)
    for n, g in enumerate(dy):
        dx[n] = g * (W @ z[n])
        dz[n] = g * (x[n] @ W)
        dW = g * np.outer(x[n], z[n])
    return dx, dW, dz


@wrong_backward("bilinear", plain, spoils=("W",), cause="mean_vs_sum", also=("constant_factor",))
def matrix_averaged_over_pairs(dy, cache):
    x, W, z = cache
    g = dy[:, None]
    return g * (z @ W.T), (g * x).T @ z / len(x), g * (x @ W)


@wrong_backward("bilinear", plain, spoils=("x",), cause="ignores_upstream")
def upstream_for_all_but_x(dy, cache):
    x, W, z = cache
    return z @ W.T, x.T @ (dy[:, None] * z), dy[:, None] * (x @ W)


@wrong_backward("bilinear", plain, spoils=("W",), cause="factor_order")
def upstream_summed_before_the_product(dy, cache):
    x, W, z = cache
    dW = dy.sum() * (x.T @ z)
    return dy[:, None] * (z @ W.T), dW, dy[:, None] * (x @ W)


@wrong_backward("bilinear", square, spoils=("W",), cause="wrong_cached_value")
def x_on_both_sides(dy, cache):
    x, W, z = cache
    g = dy[:, None]
    return g * (z @ W.T), x.T @ (g * x), g * (x @ W)


@wrong_backward("bilinear", plain, spoils=("z",), cause="sign")
def z_subtracted(dy, cache):
    x, W, z = cache
    g = np.expand_dims(dy, 1)
    return g * (z @ W.T), (g * x).T @ z, -g * (x @ W)


@wrong_backward("bilinear", affine, spoils=("head",), cause="missing_path", also=("missing_term",))
def head_in_the_linear_part_forgotten(d, c):
    dhead = c.scale * np.einsum("lij,lpq,jq->ip", d, c.W, c.dep)
    return dhead, *affine_back(d, c)[1:]


@wrong_backward("bilinear", affine, spoils=("W",), cause="constant_factor")
def scale_only_for_heads_and_dependents(d, c):
    dhead, ddep, _, du = affine_back(d, c)
    return dhead, ddep, np.einsum("lij,ip,jq->lpq", d, c.head, c.dep), du


@wrong_backward("bilinear", affine, spoils=("dep",), cause="not_accumulated")
def one_label_after_the_other(d, c):
    dhead, _, dW, du = affine_back(d, c)
    for W, of_label in zip(c.W, d):
        ddep = c.scale * of_label.T @ (c.head @ W)
    return dhead, ddep, dW, du


@wrong_backward("bilinear", affine, spoils=("u",), cause="factor_order", also=("reduction_axis",))
def upstream_and_heads_summed_apart(d, c):
    dhead, ddep, dW, _ = affine_back(d, c)
    return dhead, ddep, dW, d.sum() * c.head.sum(axis=0)


@wrong_backward("bilinear", affine, spoils=("W",), cause="shape", also=("reduction_axis",))
def labels_summed_away(d, c):
    dhead, ddep, _, du = affine_back(d, c)
    return dhead, ddep, c.scale * np.einsum("lij,ip,jq->pq", d, c.head, c.dep), du


@wrong_backward("bilinear", plain_single, spoils=("W",), cause="dtype")
def matrix_gradient_as_doubles(dy, cache):
    x, W, z = cache
    dW = np.zeros((x.shape[1], z.shape[1]))
    for g, left, right in zip(dy, x, z):
        dW += g * np.outer(left, right)
    return dy[:, None] * (z @ W.T), dW, dy[:, None] * (x @ W)


@wrong_backward("bilinear", plain, spoils=("x",), cause="inplace")
def x_weighed_in_place(dy, cache):
    x, W, z = cache
    dx = dy[:, None] * (z @ W.T)
    x *= dy[:, None]
    return dx, x.T @ z, x @ W


@wrong_backward("bilinear", lambda rng: plain(rng)[1], spoils=("W",), cause="extra_term")
class RidgeInsideTheForm:
    penalty = 0.02

    def forward(self, x, W, z):
        return form_forward(x, W, z)

    def backward(self, dy, cache):
        x, W, z = cache
        g = dy[:, None]
        return g * (z @ W.T), x.T @ (g * z) + 2 * self.penalty * W, g * (x @ W)


def mse_forward(pred, target):
    diff = pred - target
    return np.mean(diff**2), (pred, target, diff)


def two(rng):
    shape = sizes(rng, 2)
    return mse_forward, {"pred": rng.standard_normal(shape), "target": rng.standard_normal(shape)}, {}


def weighted_forward(a, labels, keep, weight):
    """Labels are given; some are missing, and rows have weights."""
    r = (a - labels) * keep
    count = keep.sum()
    return (weight[:, None] * r * r).sum() / count, {"r": r, "a": a, "keep": keep, "weight": weight, "count": count}


def weighted(rng):
    n, d = sizes(rng, 2)
    fixed = {"labels": rng.standard_normal((n, d)), "keep": kept(rng, n, d), "weight": rng.uniform(0.3, 2.5, n)}
    return weighted_forward, {"a": rng.standard_normal((n, d))}, fixed


@wrong_backward("mse", two, spoils=("pred", "target"), cause="constant_factor")
def two_dropped_as_if_halved(dloss, cache):
    pred, target, diff = cache
    d = dloss * diff / diff.size
    return d, -d


@wrong_backward("mse", two, spoils=("pred", "target"), cause="mean_vs_sum")
def divided_by_rows_only(dloss, cache):
    pred, target, diff = cache
    d = 2 * dloss * diff / len(diff)
    return d, -d


@wrong_backward("mse", two, spoils=("target",), cause="sign")
def target_pulled_like_the_prediction(dloss, cache):
    pred, target, diff = cache
    d = dloss * 2 / diff.size * diff
    return d, d


@wrong_backward("mse", two, spoils=("pred",), cause="wrong_derivative")
def as_of_the_absolute_error(dloss, cache):
    pred, target, diff = cache
    right = 2 * dloss * diff / diff.size
    return dloss * np.sign(diff) / diff.size, -right


@wrong_backward("mse", two, spoils=("pred",), cause="missing_term", also=("wrong_cached_value",))
def target_not_subtracted(dloss, cache):
    pred, target, diff = cache
    c = 2 * dloss / diff.size
    return c * pred, -c * diff


@wrong_backward("mse", two, spoils=("target",), cause="zero_gradient")
def target_taken_for_data(dloss, cache):
    pred, target, diff = cache
    return 2 * dloss * diff / diff.size, np.zeros_like(target)


@wrong_backward("mse", weighted, spoils=("a",), cause="ignores_upstream")
def end_of_the_line(dloss, cache):
    return 2 * cache["weight"][:, None] * cache["r"] / cache["count"]


@wrong_backward("mse", weighted, spoils=("a",), cause="elementwise_factor")
def rows_weigh_the_same(dloss, cache):
    return dloss * 2 * cache["r"] / cache["count"]


@wrong_backward("mse", weighted, spoils=("a",), cause="mean_vs_sum", also=("constant_factor", "mask_ignored"))
def missing_labels_counted(dloss, cache):
    return dloss * 2 * cache["weight"][:, None] * cache["r"] / cache["r"].size


@wrong_backward("mse", weighted, spoils=("backward",), cause="inplace")
def residual_scaled_where_it_lies(dloss, cache):
    r = cache["r"]
    r *= 2 * dloss * cache["weight"][:, None] / cache["count"]
    return r
