"""Mistakes in SwiGLU with its three matrices."""

from typing import NamedTuple

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class Saved(NamedTuple):
    x: np.ndarray
    W_gate: np.ndarray
    W_up: np.ndarray
    W_down: np.ndarray
    a: np.ndarray  # x @ W_gate
    s: np.ndarray  # its sigmoid
    b: np.ndarray  # x @ W_up


def glu_forward(x, W_gate, W_up, W_down):
    a, b = x @ W_gate, x @ W_up
    s = sigmoid(a)
    return (a * s * b) @ W_down, Saved(x, W_gate, W_up, W_down, a, s, b)


def weights(rng, n, d, hidden, d_out):
    draw = rng.standard_normal
    return {
        "x": draw((n, d)),
        "W_gate": draw((d, hidden)) / 2,
        "W_up": draw((d, hidden)) / 2,
        "W_down": draw((hidden, d_out)) / 2,
    }


def plain(rng):
    return glu_forward, weights(rng, *sizes(rng, 4)), {}


def square(rng):
    n, d = sizes(rng, 2)
    return glu_forward, weights(rng, n, d, d, d), {}


def plain_single(rng):
    return glu_forward, single(plain(rng)[1]), {}


def torch_forward(w1, w2, w3, x, beta):
    """Llama's names, torch's layout, and a swish with a slope of its own."""
    gate, up = x @ w1.T, x @ w3.T
    sig = sigmoid(beta * gate)
    hidden = gate * sig * up
    cache = {"w": (w1, w2, w3), "x": x, "gate": gate, "up": up, "sig": sig, "hidden": hidden, "beta": beta}
    return hidden @ w2.T, cache


def torch(rng):
    _, inputs, _ = plain(rng)
    w1, w2, w3 = (inputs[name].T.copy() for name in ("W_gate", "W_down", "W_up"))
    return torch_forward, {"w1": w1, "w2": w2, "w3": w3, "x": inputs["x"]}, {"beta": 1.6}


def d_silu(a, s):
    return s * (1 + a * (1 - s))


def finish(dy, da, db, c):
    """The linear maps at both ends, once the middle is known."""
    dW_down = (c.a * c.s * c.b).T @ dy
    return da @ c.W_gate.T + db @ c.W_up.T, c.x.T @ da, c.x.T @ db, dW_down


def middle(dy, c):
    dh = dy @ c.W_down.T
    return dh * c.b * d_silu(c.a, c.s), dh * c.a * c.s


@wrong_backward("swiglu", plain, spoils=("x",), cause="missing_path")
def up_projection_reads_x_too(dy, c):
    da, db = middle(dy, c)
    _, dW_gate, dW_up, dW_down = finish(dy, da, db, c)
    return da @ c.W_gate.T, dW_gate, dW_up, dW_down


@wrong_backward("swiglu", torch, spoils=("x",), cause="missing_path")
def gate_does_not_reach_x(grad, cache):
    w1, w2, w3 = cache["w"]
    gate, up, sig = cache["gate"], cache["up"], cache["sig"]
    dhidden = grad @ w2
    dup = dhidden * gate * sig
    dgate = dhidden * up * (sig + cache["beta"] * gate * sig * (1 - sig))
    return dgate.T @ cache["x"], grad.T @ cache["hidden"], dup.T @ cache["x"], dup @ w3


@wrong_backward("swiglu", plain, spoils=("x", "W_gate"), cause="missing_term", also=("wrong_derivative",))
def sigmoid_taken_for_a_constant(dy, c):
    dh = dy @ c.W_down.T
    return finish(dy, dh * c.b * c.s, dh * c.a * c.s, c)


@wrong_backward("swiglu", plain, spoils=("x", "W_gate"), cause="wrong_derivative")
def silu_derived_as_a_sigmoid(dy, c):
    dh = dy @ c.W_down.T
    return finish(dy, dh * c.b * c.s * (1 - c.s), dh * c.a * c.s, c)


@wrong_backward("swiglu", torch, spoils=("w1", "x"), cause="constant_factor", also=("wrong_derivative",))
def slope_of_the_swish_forgotten(grad, cache):
    w1, w2, w3 = cache["w"]
    gate, up, sig = cache["gate"], cache["up"], cache["sig"]
    dhidden = grad @ w2
    dup = dhidden * gate * sig
    dgate = dhidden * up * (sig + gate * sig * (1 - sig))
    return dgate.T @ cache["x"], grad.T @ cache["hidden"], dup.T @ cache["x"], dgate @ w1 + dup @ w3


@wrong_backward("swiglu", plain, spoils=("W_gate", "W_up"), cause="swapped")
def up_before_gate(dy, c):
    dx, dW_gate, dW_up, dW_down = finish(dy, *middle(dy, c), c)
    return dx, dW_up, dW_gate, dW_down


@wrong_backward("swiglu", plain, spoils=("x", "W_up"), cause="wrong_cached_value", also=("elementwise_factor",))
def gate_before_its_silu(dy, c):
    dh = dy @ c.W_down.T
    return finish(dy, dh * c.b * d_silu(c.a, c.s), dh * c.a, c)


@wrong_backward("swiglu", torch, spoils=("w2",), cause="wrong_cached_value")
def up_alone_cached_as_the_hidden(grad, cache):
    w1, w2, w3 = cache["w"]
    gate, up, sig = cache["gate"], cache["up"], cache["sig"]
    dhidden = grad @ w2
    dup = dhidden * gate * sig
    dgate = dhidden * up * (sig + cache["beta"] * gate * sig * (1 - sig))
    return dgate.T @ cache["x"], grad.T @ up, dup.T @ cache["x"], dgate @ w1 + dup @ w3


@wrong_backward("swiglu", plain, spoils=("x", "W_gate"), cause="elementwise_factor")
def gate_not_multiplied_by_up(dy, c):
    dh = dy @ c.W_down.T
    return finish(dy, dh * d_silu(c.a, c.s), dh * c.a * c.s, c)


@wrong_backward("swiglu", plain, spoils=("x", "W_gate"), cause="sign")
def product_rule_with_a_minus(dy, c):
    dh = dy @ c.W_down.T
    da = dh * c.b * c.s * (1 - c.a * (1 - c.s))
    return finish(dy, da, dh * c.a * c.s, c)


@wrong_backward("swiglu", square, spoils=("W_down",), cause="transpose")
def upstream_on_the_left(dy, c):
    dx, dW_gate, dW_up, _ = finish(dy, *middle(dy, c), c)
    return dx, dW_gate, dW_up, np.einsum("no,nh->oh", dy, c.a * c.s * c.b)


@wrong_backward("swiglu", square, spoils=("x",), cause="transpose")
def gate_matrix_not_transposed(dy, c):
    da, db = middle(dy, c)
    dx = da @ c.W_gate + db @ c.W_up.T
    return dx, *finish(dy, da, db, c)[1:]


@wrong_backward("swiglu", square, spoils=("x",), cause="factor_order")
def silu_after_the_matrix(dy, c):
    """The slope belongs to the hidden numbers, before they are mixed."""
    da, db = middle(dy, c)
    before = (dy @ c.W_down.T) * c.b
    dx = (before @ c.W_gate.T) * d_silu(c.a, c.s) + db @ c.W_up.T
    return dx, *finish(dy, da, db, c)[1:]


@wrong_backward("swiglu", plain, spoils=("W_gate",), cause="zero_gradient")
def gate_frozen_once_for_an_experiment(dy, c):
    dx, dW_gate, dW_up, dW_down = finish(dy, *middle(dy, c), c)
    return dx, dW_gate * 0, dW_up, dW_down


@wrong_backward("swiglu", square, spoils=("x",), cause="extra_term")
def residual_of_the_block_added_here(dy, c):
    dx, *matrices = finish(dy, *middle(dy, c), c)
    return dx + dy, *matrices


@wrong_backward("swiglu", plain, spoils=("W_down",), cause="mean_vs_sum", also=("constant_factor",))
def only_the_last_matrix_averaged(dy, c):
    dx, dW_gate, dW_up, dW_down = finish(dy, *middle(dy, c), c)
    return dx, dW_gate, dW_up, dW_down / len(dy)


@wrong_backward("swiglu", plain_single, spoils=("W_down",), cause="dtype")
def outer_products_into_doubles(dy, c):
    dx, dW_gate, dW_up, _ = finish(dy, *middle(dy, c), c)
    hidden, dW_down = c.a * c.s * c.b, np.zeros(c.W_down.shape)
    for h, d in zip(hidden, dy):
        dW_down += h[:, None] * d
    return dx, dW_gate, dW_up, dW_down


class Block:
    """The same as a class."""

    def forward(self, x, W_gate, W_up, W_down):
        return glu_forward(x, W_gate, W_up, W_down)


@wrong_backward("swiglu", lambda rng: plain(rng)[1], spoils=("backward",), cause="nondeterministic")
class GradientsOnTheLayer(Block):
    def __init__(self):
        self.grads = {}

    def add(self, name, gradient):
        self.grads[name] = self.grads.get(name, 0) + gradient
        return self.grads[name]

    def backward(self, dy, c):
        dx, *matrices = finish(dy, *middle(dy, c), c)
        return dx, *(self.add(name, g) for name, g in zip(("gate", "up", "down"), matrices))


@wrong_backward("swiglu", lambda rng: plain(rng)[1], spoils=("backward",), cause="inplace")
class SiluFinishedInTheCache(Block):
    def backward(self, dy, c):
        da, db = middle(dy, c)
        gradients = finish(dy, da, db, c)
        np.multiply(c.a, c.s, out=c.a)
        return *gradients[:3], (c.a * c.b).T @ dy


@wrong_backward("swiglu", lambda rng: plain(rng)[1], spoils=("W_up",), cause="not_accumulated")
class OneRowAtATime(Block):
    def backward(self, dy, c):
        dx, dW_gate, _, dW_down = finish(dy, *middle(dy, c), c)
        _, db = middle(dy, c)
        for row, d in zip(c.x, db):
            dW_up = np.outer(row, d)
        return dx, dW_gate, dW_up, dW_down
