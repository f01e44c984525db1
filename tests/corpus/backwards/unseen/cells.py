"""Mistakes in one step of a GRU and of an LSTM."""

import numpy as np
from corpus.drawing import sizes
from corpus.entries import wrong_backward


def sig(a):
    return 1.0 / (1.0 + np.exp(-a))


def gru_forward(x, h, W, U, b):
    H = h.shape[1]
    xw, hu = x @ W + b, h @ U
    z = sig(xw[:, :H] + hu[:, :H])
    r = sig(xw[:, H : 2 * H] + hu[:, H : 2 * H])
    m = hu[:, 2 * H :]
    n = np.tanh(xw[:, 2 * H :] + r * m)
    new = (1 - z) * n + z * h
    return new, {"x": x, "h": h, "W": W, "U": U, "z": z, "r": r, "m": m, "n": n, "new": new}


def step(rng):
    n, d, h = sizes(rng, 3)
    shapes = {"x": (n, d), "h": (n, h), "W": (d, 3 * h), "U": (h, 3 * h), "b": (3 * h,)}
    return gru_forward, {k: 0.8 * rng.standard_normal(s) for k, s in shapes.items()}, {}


def gates(dnew, c):
    dn = dnew * (1 - c["z"]) * (1 - c["n"] ** 2)
    dz = dnew * (c["h"] - c["n"]) * c["z"] * (1 - c["z"])
    dr = dn * c["m"] * c["r"] * (1 - c["r"])
    return dz, dr, dn


def assemble(dnew, c, dz, dr, dn):
    dxw = np.hstack([dz, dr, dn])
    dhu = np.hstack([dz, dr, dn * c["r"]])
    return dxw @ c["W"].T, dnew * c["z"] + dhu @ c["U"].T, c["x"].T @ dxw, c["h"].T @ dhu, dxw.sum(0)


@wrong_backward("gru", step, spoils=("x", "h", "W", "U", "b"), cause="wrong_derivative")
def the_slope_of_tanh_lacks_its_square(dnew, c):
    dn = dnew * (1 - c["z"]) * (1 - c["n"])
    dz, _, _ = gates(dnew, c)
    dr = dn * c["m"] * c["r"] * (1 - c["r"])
    return assemble(dnew, c, dz, dr, dn)


@wrong_backward("gru", step, spoils=("h",), cause="missing_path", also=("missing_term",))
def the_old_state_is_not_carried_over(dnew, c):
    dz, dr, dn = gates(dnew, c)
    dhu = np.concatenate([dz, dr, dn * c["r"]], axis=1)
    dx, _, dW, dU, db = assemble(dnew, c, dz, dr, dn)
    return dx, dhu @ c["U"].T, dW, dU, db


@wrong_backward("gru", step, spoils=("x", "h", "W", "U", "b"), cause="sign")
def the_update_gate_pulls_the_wrong_way(dnew, c):
    z = c["z"]
    _, dr, dn = gates(dnew, c)
    dz = dnew * (c["n"] - c["h"]) * z * (1 - z)
    return assemble(dnew, c, dz, dr, dn)


@wrong_backward("gru", step, spoils=("h", "U"), cause="elementwise_factor")
def the_reset_gate_is_not_applied_on_the_way_to_h(dnew, c):
    da = np.hstack(gates(dnew, c))
    dh = dnew * c["z"] + da @ c["U"].T
    return da @ c["W"].T, dh, c["x"].T @ da, c["h"].T @ da, da.sum(axis=0)


@wrong_backward("gru", step, spoils=("x", "h", "W", "U", "b"), cause="wrong_derivative", also=("elementwise_factor",))
def the_slope_of_the_update_gate_is_the_gate(dnew, c):
    _, dr, dn = gates(dnew, c)
    return assemble(dnew, c, dnew * (c["h"] - c["n"]) * c["z"], dr, dn)


@wrong_backward("gru", step, spoils=("U",), cause="wrong_cached_value")
def the_recurrent_matrix_sees_the_new_state(dnew, c):
    dx, dh, dW, _, db = assemble(dnew, c, *gates(dnew, c))
    dz, dr, dn = gates(dnew, c)
    dU = np.einsum("nh,ng->hg", c["new"], np.hstack([dz, dr, dn * c["r"]]))
    return dx, dh, dW, dU, db


@wrong_backward("gru", step, spoils=("x", "W", "b", "U", "h"), cause="missing_path", also=("missing_term",))
def nothing_reaches_the_reset_gate(dnew, c):
    dz, _, dn = gates(dnew, c)
    return assemble(dnew, c, dz, np.zeros_like(dz), dn)


@wrong_backward("gru", step, spoils=("h",), cause="missing_path", also=("elementwise_factor", "missing_term"))
def the_carried_state_and_the_reset_gate_are_forgotten(dnew, c):
    dx, _, dW, dU, db = assemble(dnew, c, *gates(dnew, c))
    return dx, np.hstack(gates(dnew, c)) @ c["U"].T, dW, dU, db


class Tape:
    def __init__(self, **values):
        self.__dict__.update(values)


def lstm_forward(x, h, c, Wi, Wf, Wo, Wg, b):
    xh = np.concatenate([x, h], axis=1)
    bi, bf, bo, bg = np.split(b, 4)
    ai, af, ao, ag = xh @ Wi + bi, xh @ Wf + bf, xh @ Wo + bo, xh @ Wg + bg
    i, f, o, g = sig(ai), sig(af), sig(ao), np.tanh(ag)
    c_new = f * c + i * g
    tc = np.tanh(c_new)
    t = Tape(xh=xh, d=x.shape[1], c=c, Ws=(Wi, Wf, Wo, Wg), ag=ag, i=i, f=f, o=o, g=g, c_new=c_new, tc=tc)
    return (o * tc, c_new), t


def cell(rng):
    n, d, h = sizes(rng, 3)
    shapes = {"x": (n, d), "h": (n, h), "c": (n, h)}
    shapes |= {f"W{gate}": (d + h, h) for gate in "ifog"} | {"b": (4 * h,)}
    return lstm_forward, {k: 0.7 * rng.standard_normal(s) for k, s in shapes.items()}, {}


def state(dh, dc, t):
    return dc + dh * t.o * (1 - t.tc**2)


def activations(dh, dc, t):
    di, df = dc * t.g * t.i * (1 - t.i), dc * t.c * t.f * (1 - t.f)
    do, dg = dh * t.tc * t.o * (1 - t.o), dc * t.i * (1 - t.g**2)
    return [di, df, do, dg]


def finish(acts, dc_old, t):
    dxh = sum(a @ W.T for a, W in zip(acts, t.Ws))
    db = np.concatenate([a.sum(0) for a in acts])
    return (dxh[:, : t.d], dxh[:, t.d :], dc_old, *[t.xh.T @ a for a in acts], db)


@wrong_backward(
    "lstm", cell, spoils=("x", "h", "c", "Wi", "Wf", "Wg", "b"), cause="elementwise_factor", also=("wrong_derivative",)
)
def the_slope_of_the_outer_tanh_is_left_out(dout, t):
    dh, dc = dout
    dc = dc + dh * t.o
    return finish(activations(dh, dc, t), dc * t.f, t)


@wrong_backward("lstm", cell, spoils=("c",), cause="elementwise_factor")
def the_forget_gate_is_forgotten(dout, t):
    dh, dc = dout
    dc = state(dh, dc, t)
    return finish(activations(dh, dc, t), dc, t)


@wrong_backward(
    "lstm", cell, spoils=("x", "h", "c", "Wi", "Wf", "Wg", "b"), cause="missing_path", also=("missing_term",)
)
def the_gradient_of_the_cell_state_is_not_used(dout, t):
    dh, _ = dout
    dc = dh * t.o * (1 - t.tc * t.tc)
    return finish(activations(dh, dc, t), dc * t.f, t)


@wrong_backward("lstm", cell, spoils=("x", "h", "Wg", "b"), cause="wrong_cached_value")
def the_slope_of_the_candidate_is_taken_before_its_tanh(dout, t):
    dh, dc = dout
    dc = state(dh, dc, t)
    di, df, do, _ = activations(dh, dc, t)
    dg = dc * t.i * (1 - t.ag**2)
    return finish([di, df, do, dg], dc * t.f, t)


@wrong_backward("lstm", cell, spoils=("x", "h", "Wf", "b"), cause="wrong_cached_value")
def the_forget_gate_sees_the_new_cell_state(dout, t):
    dh, dc = dout
    dc = state(dh, dc, t)
    acts = activations(dh, dc, t)
    acts[1] = dc * t.c_new * t.f * (1 - t.f)
    return finish(acts, dc * t.f, t)


@wrong_backward("lstm", cell, spoils=("Wi", "Wf"), cause="swapped")
def input_matrix_stands_where_forget_belongs(dout, t):
    dh, dc = dout
    dc = state(dh, dc, t)
    dx, dhold, dcold, dWi, dWf, dWo, dWg, db = finish(activations(dh, dc, t), dc * t.f, t)
    return dx, dhold, dcold, dWf, dWi, dWo, dWg, db


@wrong_backward("lstm", cell, spoils=("b",), cause="mean_vs_sum")
def the_bias_is_averaged_over_the_rows(dout, t):
    dh, dc = dout
    dc = state(dh, dc, t)
    acts = activations(dh, dc, t)
    db = np.hstack(acts).mean(axis=0)
    return (*finish(acts, dc * t.f, t)[:-1], db)
