"""Mistakes in RMSNorm with a weight and in the SwiGLU feed-forward."""

from types import SimpleNamespace

import numpy as np
from corpus.drawing import sizes
from corpus.entries import wrong_backward


def rms_forward(x, g, eps):
    r = 1.0 / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)
    return x * r * g, {"x": x, "r": r, "g": g}


def rms_rows(rng):
    n, d = sizes(rng, 2)
    return rms_forward, {"x": 1.6 * rng.standard_normal((n, d)), "g": rng.standard_normal(d)}, {"eps": 1e-5}


def rms_steps_forward(x, weight):
    square = x * x
    ms = square.mean(axis=-1, keepdims=True)
    root = np.sqrt(ms + 1e-6)
    normed = x / root
    return normed * weight, (x, root, normed, weight)


def rms_sequence(rng):
    b, t, d = sizes(rng, 3)
    return rms_steps_forward, {"x": 0.6 * rng.standard_normal((b, t, d)), "weight": rng.standard_normal(d)}, {}


@wrong_backward("rms norm", rms_rows, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_rms_is_taken_for_a_constant(dy, cache):
    dx = dy * cache["g"] * cache["r"]
    dg = np.einsum("nd,nd,n->d", dy, cache["x"], cache["r"][:, 0])
    return dx, dg


@wrong_backward("rms norm", rms_rows, spoils=("x",), cause="factor_order")
def the_weight_comes_last(dout, cache):
    x, r, g = cache["x"], cache["r"], cache["g"]
    xh = x * r
    dx = g * r * (dout - xh * np.mean(dout * xh, axis=1, keepdims=True))
    return dx, np.sum(dout * xh, axis=0)


@wrong_backward("rms norm", rms_sequence, spoils=("x",), cause="mean_vs_sum")
def the_projection_is_summed(dout, cache):
    x, root, normed, weight = cache
    dnormed = dout * weight
    dot = np.sum(dnormed * normed, axis=-1, keepdims=True)
    dx = (dnormed - normed * dot) / root
    dweight = np.sum(dout * normed, axis=(0, 1))
    return dx, dweight


@wrong_backward("rms norm", rms_sequence, spoils=("x",), cause="constant_factor", also=("wrong_derivative",))
def the_two_of_the_square_is_lost(dout, cache):
    x, root, normed, weight = cache
    d = x.shape[-1]
    dnormed = dout * weight
    droot = -(dnormed * x).sum(-1, keepdims=True) / root**2
    dms = droot * 0.5 / root
    dsquare = dms * np.ones_like(x) / d
    dx = dnormed / root
    dx += dsquare * x
    return dx, (dout * normed).reshape(-1, d).sum(0)


@wrong_backward("rms norm", rms_rows, spoils=("x",), cause="sign")
def the_projection_is_added(dy, c):
    gdy = c["g"] * dy
    s = (gdy * c["x"]).mean(1)[:, None]
    return c["r"] * gdy + c["r"] ** 3 * s * c["x"], (dy * c["x"] * c["r"]).sum(0)


@wrong_backward("rms norm", rms_rows, spoils=("x",), cause="wrong_derivative", also=("elementwise_factor",))
def the_cube_of_the_inverse_is_a_square(dy, c):
    x, r, g = c["x"], c["r"], c["g"]
    dr = ((dy * g) * x).sum(axis=1, keepdims=True)
    dx = dy * g * r - dr * r**2 * x / x.shape[1]
    return dx, (dy * (x * r)).sum(axis=0)


@wrong_backward("rms norm", rms_rows, spoils=("g",), cause="wrong_cached_value", also=("elementwise_factor",))
def the_weight_sees_x_before_it_is_normed(dy, c):
    xh, g = c["x"] * c["r"], c["g"]
    dxh = dy * g
    dx = c["r"] * (dxh - xh * (dxh * xh).mean(-1, keepdims=True))
    dg = np.zeros_like(g)
    for i in range(len(dy)):
        dg += dy[i] * c["x"][i]
    return dx, dg


@wrong_backward("rms norm", rms_rows, spoils=("g",), cause="not_accumulated")
def the_weight_keeps_the_last_row(dy, c):
    dx, dg = np.empty_like(dy), np.zeros_like(c["g"])
    for i, (row, up) in enumerate(zip(c["x"] * c["r"], dy)):
        h = up * c["g"]
        dx[i] = c["r"][i] * (h - row * (h @ row) / row.size)
        dg = up * row
    return dx, dg


@wrong_backward("rms norm", rms_sequence, spoils=("x",), cause="reduction_axis")
def the_mean_runs_over_time(dout, cache):
    x, root, normed, weight = cache
    dn = dout * weight
    dx = (dn - normed * np.mean(dn * normed, axis=1, keepdims=True)) / root
    return dx, np.einsum("btd,btd->d", dout, normed)


@wrong_backward("rms norm", rms_sequence, spoils=("weight",), cause="reduction_axis", also=("shape",))
def the_weight_is_summed_over_the_batch_only(dout, cache):
    x, root, normed, weight = cache
    dn = dout * weight
    dx = (dn - normed * np.mean(dn * normed, axis=-1, keepdims=True)) / root
    return dx, (dout * normed).sum(axis=0)


@wrong_backward("rms norm", rms_sequence, spoils=("x",), cause="elementwise_factor")
def the_weight_is_left_out_on_the_way_to_x(dout, cache):
    x, root, normed, weight = cache
    inner = np.mean(dout * normed, axis=-1, keepdims=True)
    return (dout - normed * inner) / root, np.sum(dout * normed, axis=(0, 1))


@wrong_backward("rms norm", rms_rows, spoils=("x",), cause="mean_vs_sum", also=("sign",))
def the_projection_is_summed_and_added(dy, c):
    xh = c["x"] * c["r"]
    h = dy * c["g"]
    return c["r"] * (h + xh * (h * xh).sum(1, keepdims=True)), (dy * xh).sum(0)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def ffn_forward(x, Wg, Wu, Wd):
    t = SimpleNamespace(x=x, Wg=Wg, Wu=Wu, Wd=Wd)
    t.a = x @ Wg
    t.u = x @ Wu
    t.s = sigmoid(t.a)
    t.g = t.a * t.s
    t.h = t.g * t.u
    return t.h @ Wd, t


def ffn(rng):
    n, d, m, e = sizes(rng, 4)
    shapes = {"x": (n, d), "Wg": (d, m), "Wu": (d, m), "Wd": (m, e)}
    return ffn_forward, {k: 0.7 * rng.standard_normal(s) for k, s in shapes.items()}, {}


def dsilu(t):
    return t.s * (1 + t.a * (1 - t.s))


def from_branches(t, da, du, dWd):
    return da @ t.Wg.T + du @ t.Wu.T, t.x.T @ da, t.x.T @ du, dWd


@wrong_backward("swiglu", ffn, spoils=("x", "Wg"), cause="wrong_derivative", also=("missing_term",))
def the_gate_is_differentiated_as_its_sigmoid(dy, t):
    dh = dy @ t.Wd.T
    return from_branches(t, dh * t.u * t.s, dh * t.g, t.h.T @ dy)


@wrong_backward("swiglu", ffn, spoils=("x",), cause="missing_path", also=("missing_term", "not_accumulated"))
def the_second_branch_overwrites_dx(dy, t):
    dh = dy @ t.Wd.T
    da = dh * t.u * dsilu(t)
    dx = da @ t.Wg.T
    dWg = t.x.T @ da
    du = dh * t.g
    dx = du @ t.Wu.T
    dWu = t.x.T @ du
    return dx, dWg, dWu, t.h.T @ dy


@wrong_backward("swiglu", ffn, spoils=("x", "Wu"), cause="wrong_cached_value", also=("elementwise_factor",))
def the_up_branch_sees_the_gate_before_its_activation(dy, t):
    dh = dy @ t.Wd.T
    du = dh * t.a
    da = dh * t.u * dsilu(t)
    return from_branches(t, da, du, t.h.T @ dy)


@wrong_backward("swiglu", ffn, spoils=("x", "Wg"), cause="elementwise_factor")
def the_gate_is_not_multiplied_by_up(dy, t):
    dh = dy @ t.Wd.T
    return from_branches(t, dh * dsilu(t), dh * t.g, t.h.T @ dy)


@wrong_backward("swiglu", ffn, spoils=("Wd",), cause="transpose", also=("shape",))
def the_down_matrix_comes_out_lying_on_its_side(dy, t):
    dh = dy @ t.Wd.T
    return from_branches(t, dh * t.u * dsilu(t), dh * t.g, dy.T @ t.h)


@wrong_backward("swiglu", ffn, spoils=("Wg", "Wu"), cause="swapped")
def the_gate_matrix_stands_where_up_belongs(dy, t):
    dh = np.einsum("ne,me->nm", dy, t.Wd)
    dx, dWu, dWg, dWd = from_branches(t, dh * t.u * dsilu(t), dh * t.g, np.einsum("nm,ne->me", t.h, dy))
    return dx, dWg, dWu, dWd


@wrong_backward("swiglu", ffn, spoils=("x", "Wg"), cause="wrong_cached_value")
def the_slope_is_taken_at_the_activated_gate(dy, t):
    dh = dy @ t.Wd.T
    s = sigmoid(t.g)
    slope = s + t.g * s * (1 - s)
    return from_branches(t, dh * t.u * slope, dh * t.g, t.h.T @ dy)


@wrong_backward("swiglu", ffn, spoils=("Wd",), cause="wrong_cached_value", also=("elementwise_factor",))
def the_down_matrix_sees_the_gate_alone(dy, t):
    dh = dy @ t.Wd.T
    return from_branches(t, dh * t.u * dsilu(t), dh * t.g, t.g.T @ dy)


@wrong_backward("swiglu", ffn, spoils=("x",), cause="extra_term")
def the_up_branch_is_added_to_dx_twice(dy, t):
    dh = dy @ t.Wd.T
    dx = np.zeros_like(t.x)
    du = dh * t.g
    dx += du @ t.Wu.T
    da = dh * t.u * dsilu(t)
    dx += da @ t.Wg.T + du @ t.Wu.T
    return dx, t.x.T @ da, t.x.T @ du, t.h.T @ dy


@wrong_backward("swiglu", ffn, spoils=("Wu",), cause="mean_vs_sum", also=("constant_factor",))
def the_up_matrix_is_averaged_over_the_rows(dy, t):
    dh = dy @ t.Wd.T
    du, da = dh * t.g, dh * t.u * dsilu(t)
    n = len(t.x)
    return da @ t.Wg.T + du @ t.Wu.T, t.x.T @ da, t.x.T @ du / n, t.h.T @ dy
