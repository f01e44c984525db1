"""Mistakes in rotary positions, by halves and by pairs, and in a bilinear form with one matrix for each output."""

from typing import NamedTuple

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward


def tables(length, half, first=2):
    angle = np.arange(first, first + length)[:, None] * 30.0 ** (-np.arange(half) / half)
    return np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]


def rotate_half(x):
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def halves_forward(x, cos, sin):
    cos, sin = np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1)
    return (x * cos + rotate_half(x) * sin).astype(x.dtype), (cos, sin)


def halves(rng):
    t, h = rng.permutation([3, 5, 7])[:2]
    cos, sin = tables(t, 4)
    return halves_forward, {"x": rng.standard_normal((t, h, 8))}, {"cos": cos, "sin": sin}


def halves_single(rng):
    forward, inputs, fixed = halves(rng)
    return forward, single(inputs), fixed


def pairs_forward(x, base, start):
    t, half = x.shape[0], x.shape[-1] // 2
    theta = (np.arange(t)[:, None] + start) / base ** (np.arange(half) / half)
    c, s = np.cos(theta)[:, None], np.sin(theta)[:, None]
    y = np.empty_like(x)
    y[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
    y[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
    return y, {"theta": theta[:, None], "base": base, "start": start}


def pairs(rng):
    t, h = rng.permutation([3, 5, 7])[:2]
    return pairs_forward, {"x": rng.standard_normal((t, h, 8))}, {"base": 20.0, "start": 3}


def partial_forward(x, cos, sin):
    r = cos.shape[-1]
    a, b, rest = x[..., :r], x[..., r : 2 * r], x[..., 2 * r :]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1), (cos, sin)


def partial(rng):
    t, h = rng.permutation([4, 5, 7])[:2]
    cos, sin = tables(t, 3)
    return partial_forward, {"x": rng.standard_normal((t, h, 10))}, {"cos": cos, "sin": sin}


class Scores(NamedTuple):
    q: np.ndarray
    k: np.ndarray
    rq: np.ndarray
    rk: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


def scores_forward(q, k, cos, sin):
    rq = q * cos + rotate_half(q) * sin
    rk = k * cos + rotate_half(k) * sin
    return np.einsum("ihd,jhd->hij", rq, rk) / np.sqrt(q.shape[-1]), Scores(q, k, rq, rk, cos, sin)


def scores(rng):
    t, h = rng.permutation([3, 5, 7])[:2]
    cos, sin = (np.concatenate([a, a], -1) for a in tables(t, 3))
    return scores_forward, {k: rng.standard_normal((t, h, 6)) for k in "qk"}, {"cos": cos, "sin": sin}


def turned_back(dy, cos, sin):
    return dy * cos - rotate_half(dy) * sin


@wrong_backward("rope", halves, spoils=("x",), cause="sign", also=("transpose",))
def turned_on_instead_of_back(dy, cache):
    cos, sin = cache
    return dy * cos + rotate_half(dy) * sin


@wrong_backward("rope", halves, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_partner_is_forgotten(dy, cache):
    cos, _ = cache
    return (dy * cos,)


@wrong_backward("rope", halves, spoils=("x",), cause="missing_term", also=("missing_path",))
def the_second_half_has_no_sine(dy, cache):
    cos, sin = cache
    half = dy.shape[-1] // 2
    c, s = cos[..., :half], sin[..., :half]
    d1, d2 = dy[..., :half], dy[..., half:]
    return np.concatenate([d1 * c + d2 * s, d2 * c], axis=-1)


@wrong_backward("rope", halves_single, spoils=("x",), cause="dtype")
def double_tables_make_a_double_gradient(dy, cache):
    cos, sin = cache
    return turned_back(dy, cos, sin)


@wrong_backward("rope", halves, spoils=("x",), cause="elementwise_factor")
def the_cosine_is_left_out(dy, cache):
    _, sin = cache
    half = dy.shape[-1] // 2
    partner = np.concatenate([dy[..., half:], -dy[..., :half]], axis=-1)
    return dy + partner * sin


@wrong_backward("rope", pairs, spoils=("x",), cause="transpose")
def pairs_are_put_back_as_halves(dy, cache):
    c, s = np.cos(cache["theta"]), np.sin(cache["theta"])
    even, odd = dy[..., 0::2], dy[..., 1::2]
    dx = np.stack([even * c + odd * s, odd * c - even * s], axis=-2)
    return dx.reshape(dy.shape)


@wrong_backward("rope", pairs, spoils=("x",), cause="wrong_cached_value")
def the_tables_are_unpacked_in_the_other_order(dy, cache):
    s, c = np.cos(cache["theta"]), np.sin(cache["theta"])
    dx = np.zeros_like(dy)
    dx[..., ::2] = dy[..., ::2] * c + dy[..., 1::2] * s
    dx[..., 1::2] = dy[..., 1::2] * c - dy[..., ::2] * s
    return dx


@wrong_backward("rope", pairs, spoils=("x",), cause="wrong_cached_value")
def positions_start_at_zero_again(dy, cache):
    half = dy.shape[-1] // 2
    theta = np.outer(np.arange(len(dy)), cache["base"] ** (-np.arange(half) / half))
    dx = np.zeros_like(dy)
    for t in range(len(dy)):
        c, s = np.cos(theta[t]), np.sin(theta[t])
        dx[t, :, 0::2] += dy[t, :, 0::2] * c + dy[t, :, 1::2] * s
        dx[t, :, 1::2] += dy[t, :, 1::2] * c - dy[t, :, 0::2] * s
    return dx


@wrong_backward("rope", partial, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_entries_that_pass_through_get_nothing(dy, cache):
    cos, sin = cache
    r = cos.shape[-1]
    dx = np.zeros_like(dy)
    dx[..., :r] = dy[..., :r] * cos + dy[..., r : 2 * r] * sin
    dx[..., r : 2 * r] = dy[..., r : 2 * r] * cos - dy[..., :r] * sin
    return dx


@wrong_backward("rope", partial, spoils=("x",), cause="sign")
def one_of_the_two_sines_has_the_wrong_sign(dy, cache):
    cos, sin = cache
    da, db, drest = np.split(dy, [cos.shape[-1], 2 * cos.shape[-1]], axis=-1)
    return np.concatenate([da * cos - db * sin, db * cos - da * sin, drest], axis=-1)


@wrong_backward("rope", scores, spoils=("k",), cause="constant_factor")
def the_keys_miss_the_root(dS, c):
    scale = 1 / np.sqrt(c.q.shape[-1])
    drq = np.einsum("hij,jhd->ihd", dS, c.rk) * scale
    drk = np.einsum("hij,ihd->jhd", dS, c.rq)
    return turned_back(drq, c.cos, c.sin), turned_back(drk, c.cos, c.sin)


@wrong_backward("rope", scores, spoils=("k",), cause="wrong_cached_value")
def the_keys_see_queries_that_are_not_turned(dS, c):
    dS = dS / np.sqrt(c.q.shape[-1])
    dq = turned_back(np.einsum("hij,jhd->ihd", dS, c.rk), c.cos, c.sin)
    dk = turned_back(np.einsum("hij,ihd->jhd", dS, c.q), c.cos, c.sin)
    return dq, dk


@wrong_backward("rope", scores, spoils=("q", "k"), cause="swapped")
def the_gradients_come_back_in_alphabetical_order(dS, c):
    dS = dS / np.sqrt(c.q.shape[-1])
    dq = turned_back(np.einsum("hij,jhd->ihd", dS, c.rk), c.cos, c.sin)
    dk = turned_back(np.einsum("hij,ihd->jhd", dS, c.rq), c.cos, c.sin)
    return dk, dq


def bilinear_forward(x, z, W, b):
    y = np.einsum("ni,kij,nj->nk", x, W, z) + b
    return y, (x, z, W)


def drawn(rng, n, i, j, k):
    shapes = {"x": (n, i), "z": (n, j), "W": (k, i, j), "b": (k,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def form(rng):
    return bilinear_forward, drawn(rng, *sizes(rng, 4)), {}


def square_form(rng):
    n, i, k = sizes(rng, 3)
    return bilinear_forward, drawn(rng, n, i, i, k), {}


def quadratic_forward(x, W):
    return np.stack([np.sum((x @ Wk) * x, axis=1) for Wk in W], axis=1), {"x": x, "W": W}


def quadratic(rng):
    n, i, k = sizes(rng, 3)
    return quadratic_forward, {"x": rng.standard_normal((n, i)), "W": rng.standard_normal((k, i, i))}, {}


@wrong_backward("bilinear", square_form, spoils=("x",), cause="transpose")
def x_meets_the_matrices_transposed(dy, cache):
    x, z, W = cache
    dx = np.zeros_like(x)
    dz = np.zeros_like(z)
    for k in range(len(W)):
        dx += dy[:, k : k + 1] * (z @ W[k])
        dz += dy[:, k : k + 1] * (x @ W[k])
    return dx, dz, np.einsum("nk,ni,nj->kij", dy, x, z), dy.sum(axis=0)


@wrong_backward("bilinear", form, spoils=("z",), cause="elementwise_factor")
def x_is_missing_from_dz(dy, cache):
    x, z, W = cache
    dz = np.einsum("nk,kij->nj", dy, W)
    return np.einsum("nk,kij,nj->ni", dy, W, z), dz, np.einsum("nk,ni,nj->kij", dy, x, z), dy.sum(0)


@wrong_backward("bilinear", form, spoils=("W",), cause="not_accumulated")
def the_matrices_keep_the_last_example(dy, cache):
    x, z, W = cache
    dx, dz, dW = np.zeros_like(x), np.zeros_like(z), np.zeros_like(W)
    for n in range(len(x)):
        for k in range(len(W)):
            dx[n] += dy[n, k] * (W[k] @ z[n])
            dz[n] += dy[n, k] * (W[k].T @ x[n])
            dW[k] = dy[n, k] * np.outer(x[n], z[n])
    return dx, dz, dW, dy.sum(0)


@wrong_backward("bilinear", form, spoils=("x",), cause="not_accumulated", also=("missing_term", "missing_path"))
def x_keeps_the_last_output(dy, cache):
    x, z, W = cache
    dz = np.zeros_like(z)
    for k, Wk in enumerate(W):
        g = dy[:, k, None]
        dx = g * (z @ Wk.T)
        dz = dz + g * (x @ Wk)
    return dx, dz, np.einsum("nk,ni,nj->kij", dy, x, z), dy.sum(0)


@wrong_backward("bilinear", form, spoils=("W",), cause="mean_vs_sum", also=("constant_factor",))
def the_matrices_are_divided_by_the_batch(dy, cache):
    x, z, W = cache
    outer = x[:, :, None] * z[:, None, :]
    dW = np.tensordot(dy, outer, axes=(0, 0)) / x.shape[0]
    T = np.tensordot(dy, W, axes=1)
    return (T @ z[:, :, None])[..., 0], (x[:, None] @ T)[:, 0], dW, np.sum(dy, axis=0)


@wrong_backward("bilinear", form, spoils=("b",), cause="reduction_axis", also=("shape",))
def the_bias_is_summed_over_outputs(dy, cache):
    x, z, W = cache
    T = np.tensordot(dy, W, axes=1)
    return np.einsum("nij,nj->ni", T, z), np.einsum("nij,ni->nj", T, x), np.einsum("nk,ni,nj->kij", dy, x, z), dy.sum(1)


@wrong_backward("bilinear", square_form, spoils=("W",), cause="wrong_cached_value")
def the_outer_product_is_of_z_with_itself(dy, cache):
    x, z, W = cache
    dW = np.einsum("nk,ni,nj->kij", dy, z, z)
    return np.einsum("nk,kij,nj->ni", dy, W, z), np.einsum("nk,kij,ni->nj", dy, W, x), dW, dy.sum(0)


@wrong_backward("bilinear", quadratic, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_left_x_only(dy, cache):
    x, W = cache["x"], cache["W"]
    dx = np.einsum("nk,kij,nj->ni", dy, W, x)
    return dx, np.einsum("nk,ni,nj->kij", dy, x, x)


@wrong_backward("bilinear", quadratic, spoils=("x",), cause="transpose")
def the_matrix_is_taken_for_symmetric(dy, cache):
    x, W = cache["x"], cache["W"]
    dx = sum(2 * dy[:, [k]] * (x @ W[k].T) for k in range(len(W)))
    dW = np.stack([(dy[:, [k]] * x).T @ x for k in range(len(W))])
    return dx, dW
