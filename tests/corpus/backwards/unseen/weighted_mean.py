"""Mistakes in pooling by a mask, in a weighted mean with learned weights, and in average pooling of images."""

from types import SimpleNamespace

import numpy as np
from corpus.drawing import kept, sizes
from corpus.entries import wrong_backward


def masked_forward(x, scale, mask):
    count = mask.sum(axis=1)
    pooled = np.einsum("btd,bt->bd", x, mask) / count[:, None]
    return pooled * scale, SimpleNamespace(x=x, scale=scale, mask=mask, count=count, pooled=pooled)


def sentences(rng):
    b, t, d = int(rng.choice([3, 4])), 7, 5
    lengths = rng.permutation([3, 4, 5, 6])[:b]
    mask = (np.arange(t) < lengths[:, None]).astype(float)
    return masked_forward, {"x": rng.standard_normal((b, t, d)), "scale": rng.uniform(0.4, 2, d)}, {"mask": mask}


def weighted_forward(x, w):
    total = w.sum(axis=-1, keepdims=True)
    y = (w[..., None] * x).sum(axis=1) / total
    return y, (x, w, y, total)


def weighted(rng):
    b, t, d = sizes(rng, 3)
    return weighted_forward, {"x": rng.standard_normal((b, t, d)), "w": rng.uniform(0.2, 1.5, (b, t))}, {}


def patches_forward(x, valid, k, stride):
    n, h, w = x.shape
    ho, wo = (h - k) // stride + 1, (w - k) // stride + 1
    y, count = np.zeros((n, ho, wo)), np.zeros((n, ho, wo))
    for i in range(ho):
        for j in range(wo):
            at = np.s_[:, i * stride : i * stride + k, j * stride : j * stride + k]
            count[:, i, j] = np.maximum(valid[at].sum((1, 2)), 1)
            y[:, i, j] = (x[at] * valid[at]).sum((1, 2)) / count[:, i, j]
    return y, {"valid": valid, "count": count, "k": k, "stride": stride}


def patches(rng):
    shape = (5, 7, 9)
    return patches_forward, {"x": rng.standard_normal(shape)}, {"valid": kept(rng, *shape), "k": 3, "stride": 2}


@wrong_backward("mean pool", sentences, spoils=("x",), cause="mask_ignored")
def padding_gets_a_gradient(dy, c):
    dpooled = dy * c.scale
    dx = np.repeat((dpooled / c.count[:, None])[:, None, :], c.x.shape[1], axis=1)
    return dx, (dy * c.pooled).sum(0)


@wrong_backward(
    "mean pool", sentences, spoils=("x",), cause="wrong_cached_value", also=("elementwise_factor", "constant_factor")
)
def padding_is_counted(dy, c):
    b, t, d = c.x.shape
    dx = c.mask[..., None] * (dy * c.scale)[:, None] / t
    return dx, np.einsum("bd,bd->d", dy, c.pooled)


@wrong_backward("mean pool", sentences, spoils=("x",), cause="mean_vs_sum", also=("elementwise_factor",))
def the_count_is_left_out(dy, c):
    dx = np.zeros_like(c.x)
    for b, t in zip(*np.nonzero(c.mask)):
        dx[b, t] += dy[b] * c.scale
    return dx, np.sum(dy * c.pooled, axis=0)


@wrong_backward("mean pool", sentences, spoils=("x",), cause="elementwise_factor")
def the_scale_is_left_out(dy, c):
    dx = np.einsum("bd,bt->btd", dy, c.mask / c.count[:, None])
    return dx, np.sum(dy * c.pooled, axis=0)


@wrong_backward("mean pool", sentences, spoils=("scale",), cause="wrong_cached_value")
def the_scale_sees_a_mean_that_counts_padding(dy, c):
    dx = np.einsum("bd,bt->btd", dy * c.scale, c.mask / c.count[:, None])
    return dx, (dy * c.x.mean(axis=1)).sum(0)


@wrong_backward("mean pool", weighted, spoils=("w",), cause="missing_path", also=("missing_term",))
def the_total_is_taken_for_a_constant(dy, cache):
    x, w, y, total = cache
    dw = np.einsum("bd,btd->bt", dy, x) / total
    return (w / total)[..., None] * dy[:, None], dw


@wrong_backward("mean pool", weighted, spoils=("w",), cause="sign")
def the_quotient_rule_has_a_plus(dy, cache):
    x, w, y, total = cache
    dw = (x @ dy[:, :, None])[..., 0] / total + (dy * y).sum(1, keepdims=True) / total
    dx = np.zeros_like(x)
    dx += w[:, :, None] * dy[:, None, :] / total[:, :, None]
    return dx, dw


@wrong_backward("mean pool", weighted, spoils=("x",), cause="elementwise_factor")
def the_weights_are_left_out(dy, cache):
    x, w, y, total = cache
    dx = np.broadcast_to((dy / total)[:, None, :], x.shape)
    return dx, ((x - y[:, None]) * dy[:, None]).sum(-1) / total


@wrong_backward("mean pool", patches, spoils=("x",), cause="not_accumulated")
def windows_that_meet_keep_one_share(dy, m):
    k, s = m["k"], m["stride"]
    dx = np.zeros(m["valid"].shape)
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            at = np.s_[:, i * s : i * s + k, j * s : j * s + k]
            share = dy[:, i, j] / m["count"][:, i, j]
            dx[at] = share[:, None, None] * m["valid"][at]
    return dx


@wrong_backward("mean pool", patches, spoils=("x",), cause="mask_ignored")
def pixels_that_are_not_valid_get_a_share(dy, m):
    k, s = m["k"], m["stride"]
    dx = np.zeros(m["valid"].shape)
    share = dy / m["count"]
    for n, i, j in np.ndindex(dy.shape):
        dx[n, i * s : i * s + k, j * s : j * s + k] += share[n, i, j]
    return dx
