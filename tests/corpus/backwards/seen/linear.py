"""Mistakes in linear maps and in dropout."""

import numpy as np
from corpus.drawing import dropout_mask, kept, single, sizes
from corpus.entries import wrong_backward

from lora_np import ops


def of_ops(rng):
    n, d_in, d_out = sizes(rng, 3)
    draw = rng.standard_normal
    return ops.linear_forward, {"x": draw((n, d_in)), "W": draw((d_in, d_out)), "b": draw(d_out)}, {}


def square(rng):
    """A hidden layer as wide as its input: nothing stops a transposed matrix."""
    n, d = sizes(rng, 2)
    draw = rng.standard_normal
    return ops.linear_forward, {"x": draw((n, d)), "W": draw((d, d)), "b": draw(d)}, {}


def of_ops_single(rng):
    forward, inputs, fixed = of_ops(rng)
    return forward, single(inputs), fixed


def dense_forward(w, inp, bias):
    return inp @ w + bias, (w, inp)


def dense(rng):
    _, inputs, _ = of_ops(rng)
    return dense_forward, {"w": inputs["W"], "inp": inputs["x"], "bias": inputs["b"]}, {}


def torch_forward(x, weight, bias):
    """Weights as torch stores them, (d_out, d_in)."""
    return x @ weight.T + bias, {"x": x, "weight": weight}


def torch(rng):
    _, inputs, _ = of_ops(rng)
    return torch_forward, {"x": inputs["x"], "weight": inputs["W"].T.copy(), "bias": inputs["b"]}, {}


@wrong_backward("linear", of_ops, spoils=("b",), cause="mean_vs_sum")
def bias_averaged_over_rows(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(axis=0)


@wrong_backward("linear", dense, spoils=("w", "bias"), cause="mean_vs_sum")
def one_over_m_as_in_the_lecture(dout, cache):
    w, inp = cache
    m = inp.shape[0]
    dw = 1 / m * np.dot(inp.T, dout)
    db = 1 / m * np.sum(dout, axis=0)
    return dw, np.dot(dout, w.T), db


@wrong_backward("linear", of_ops, spoils=("b",), cause="reduction_axis", also=("shape",))
def bias_not_summed_over_rows(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy


@wrong_backward("linear", dense, spoils=("bias",), cause="reduction_axis", also=("shape",))
def bias_summed_over_columns(dout, cache):
    w, inp = cache
    return inp.T @ dout, dout @ w.T, dout.sum(axis=1)


@wrong_backward("linear", torch, spoils=("bias",), cause="shape")
def bias_keeps_its_dimensions(grad, cache):
    grad_weight = grad.T @ cache["x"]
    grad_bias = np.sum(grad, axis=0, keepdims=True)
    return grad @ cache["weight"], grad_weight, grad_bias


@wrong_backward("linear", of_ops, spoils=("b",), cause="shape", also=("reduction_axis",))
def one_number_for_the_bias(dy, cache):
    x, W = cache
    db = dy.sum()
    return dy @ W.T, x.T @ dy, db


@wrong_backward("linear", torch, spoils=("weight",), cause="transpose", also=("shape",))
def weight_as_for_the_other_layout(grad, cache):
    grad_weight = cache["x"].T @ grad
    return grad @ cache["weight"], grad_weight, grad.sum(axis=0)


@wrong_backward("linear", square, spoils=("x",), cause="transpose")
def back_through_w_itself(dy, cache):
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(axis=0)


@wrong_backward("linear", square, spoils=("W",), cause="transpose")
def square_weight_transposed(dy, cache):
    x, W = cache
    dW = np.einsum("no,ni->oi", dy, x)
    return dy @ W.T, dW, dy.sum(axis=0)


@wrong_backward("linear", dense, spoils=("w", "inp"), cause="swapped")
def input_first_though_the_weight_is(dout, cache):
    w, inp = cache
    dw = inp.T @ dout
    dinp = dout @ w.T
    return dinp, dw, dout.sum(axis=0)


@wrong_backward("linear", of_ops, spoils=("W",), cause="not_accumulated")
def last_row_only(dy, cache):
    x, W = cache
    dx, db = np.zeros_like(x), np.zeros(W.shape[1])
    for row in range(len(x)):
        dx[row] = W @ dy[row]
        dW = np.outer(x[row], dy[row])
        db += dy[row]
    return dx, dW, db


@wrong_backward("linear", dense, spoils=("w",), cause="extra_term")
def weight_decay_in_the_gradient(dout, cache):
    w, inp = cache
    dw = inp.T @ dout + 0.01 * w
    return dw, dout @ w.T, dout.sum(axis=0)


@wrong_backward("linear", of_ops, spoils=("b",), cause="zero_gradient")
def bias_left_for_later(dy, cache):
    x, W = cache
    db = np.zeros(W.shape[1])  # the learner meant to come back to it
    return dy @ W.T, x.T @ dy, db


@wrong_backward("linear", dense, spoils=("w", "bias"), cause="sign")
def downhill_already(dout, cache):
    w, inp = cache
    return -inp.T @ dout, dout @ w.T, -dout.sum(axis=0)


@wrong_backward("linear", square, spoils=("backward",), cause="inplace")
def reuses_the_memory_of_the_upstream(dy, cache):
    x, W = cache
    dW = x.T @ dy
    db = dy.sum(axis=0)
    dy[:] = dy @ W.T
    return dy, dW, db


@wrong_backward("linear", dense, spoils=("w",), cause="inplace")
def learns_in_the_backward(dout, cache):
    w, inp = cache
    dw, dinp, db = inp.T @ dout, dout @ w.T, dout.sum(axis=0)
    w -= 0.1 * dw
    return dw, dinp, db


@wrong_backward("linear", of_ops, spoils=("b",), cause="ignores_upstream")
def bias_counts_rows(dy, cache):
    """dy/db is 1 for each row, but that is not all of the chain rule."""
    x, W = cache
    db = np.ones((len(x), W.shape[1])).sum(axis=0)
    return dy @ W.T, x.T @ dy, db


@wrong_backward("linear", of_ops, spoils=("W",), cause="dtype")
def weight_gradient_in_single_precision(dy, cache):
    x, W = cache
    dW = (x.T @ dy).astype(np.float32)
    return dy @ W.T, dW, dy.sum(axis=0)


@wrong_backward("linear", of_ops_single, spoils=("b",), cause="dtype")
def zeros_are_double(dy, cache):
    x, W = cache
    db = np.zeros(W.shape[1])
    for row in dy:
        db += row
    return dy @ W.T, x.T @ dy, db


@wrong_backward("linear", dense, spoils=("w",), cause="constant_factor")
def two_from_a_squared_loss(dout, cache):
    w, inp = cache
    dw = 2 * inp.T @ dout
    return dw, dout @ w.T, dout.sum(axis=0)


@wrong_backward("linear", dense, spoils=("w", "inp", "bias"), cause="elementwise_factor")
def a_relu_that_is_not_there(dout, cache):
    w, inp = cache
    dout = dout * (inp @ w > 0)
    return inp.T @ dout, dout @ w.T, dout.sum(axis=0)


def overwriting_forward(x, w, b):
    x = x @ w + b
    return x, (x, w)


def overwriting(rng):
    _, inputs, _ = square(rng)
    return overwriting_forward, {"x": inputs["x"], "w": inputs["W"], "b": inputs["b"]}, {}


@wrong_backward("linear", overwriting, spoils=("w",), cause="wrong_cached_value")
def output_cached_as_the_input(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)


def residual_forward(x, w, b):
    return x + x @ w + b, (x, w)


def residual(rng):
    _, inputs, _ = square(rng)
    return residual_forward, {"x": inputs["x"], "w": inputs["W"], "b": inputs["b"]}, {}


@wrong_backward("linear", residual, spoils=("x",), cause="missing_path")
def the_residual_carries_gradient_too(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)


def gain_forward(x, w, gain):
    return (x @ w) * gain, (x, w, gain)


def gained(rng):
    _, inputs, _ = square(rng)
    return gain_forward, {"x": inputs["x"], "w": inputs["W"], "gain": inputs["b"]}, {}


@wrong_backward("linear", gained, spoils=("x",), cause="factor_order")
def gain_after_the_product(dy, cache):
    x, w, gain = cache
    dx = (dy @ w.T) * gain
    return dx, x.T @ (dy * gain), (dy * (x @ w)).sum(axis=0)


@wrong_backward("linear", lambda rng: of_ops(rng)[1], spoils=("backward",), cause="nondeterministic")
class NeverSetToZero:
    def forward(self, x, W, b):
        return x @ W + b, (x, W)

    def backward(self, dy, cache):
        x, W = cache
        if not hasattr(self, "dW"):
            self.dW, self.db = np.zeros_like(W), np.zeros(W.shape[1])
        self.dW += x.T @ dy
        self.db += dy.sum(axis=0)
        return dy @ W.T, self.dW, self.db


def dropout_of_ops(rng):
    shape = sizes(rng, 2)
    return ops.dropout_forward, {"x": rng.standard_normal(shape)}, {"mask": dropout_mask(rng, *shape)}


def dropout_single(rng):
    """The mask stays float64, and so the gradient becomes."""
    forward, inputs, fixed = dropout_of_ops(rng)
    return forward, single(inputs), fixed


def keep_forward(h, keep, p):
    return h * keep / (1 - p), (keep, p)


def keep(rng):
    shape = sizes(rng, 2)
    return keep_forward, {"h": rng.standard_normal(shape)}, {"keep": kept(rng, *shape), "p": 0.3}


@wrong_backward("dropout", dropout_of_ops, spoils=("x",), cause="mask_ignored")
def identity_as_in_evaluation(dy, cache):
    return dy


@wrong_backward("dropout", keep, spoils=("h",), cause="mask_ignored")
def all_divided_none_dropped(dout, cache):
    keep, p = cache
    dh = dout / (1 - p)
    return dh


@wrong_backward("dropout", dropout_of_ops, spoils=("x",), cause="elementwise_factor", also=("constant_factor",))
def mask_applied_twice(dy, cache):
    mask = cache.mask
    dx = dy * mask
    return dx * mask


@wrong_backward("dropout", dropout_of_ops, spoils=("x",), cause="constant_factor")
def mask_as_zeros_and_ones(dy, cache):
    return dy * (cache.mask > 0)


@wrong_backward("dropout", keep, spoils=("h",), cause="constant_factor")
def times_the_share_kept(dout, cache):
    keep, p = cache
    return dout * keep * (1 - p)


@wrong_backward("dropout", dropout_of_ops, spoils=("backward",), cause="inplace")
def upstream_masked_in_place(dy, cache):
    dy *= cache.mask
    return dy


@wrong_backward("dropout", keep, spoils=("backward",), cause="nondeterministic")
def drops_other_entries(dout, cache):
    keep, p = cache
    keep = np.random.default_rng().random(keep.shape) > p
    return dout * keep / (1 - p)


@wrong_backward("dropout", dropout_single, spoils=("x",), cause="dtype")
def mask_of_doubles(dy, cache):
    return dy * cache.mask


@wrong_backward("dropout", keep, spoils=("h",), cause="wrong_cached_value")
def dropped_taken_for_kept(dout, cache):
    keep, p = cache
    drop = ~keep
    return dout * drop / (1 - p)


@wrong_backward("dropout", dropout_of_ops, spoils=("x",), cause="ignores_upstream")
def derivative_without_the_chain(dy, cache):
    return cache.mask.copy()


def drawing_forward(h, p):
    keep = np.random.default_rng().random(h.shape) > p
    return h * keep / (1 - p), (keep, p)


@wrong_backward(
    "dropout",
    lambda rng: (drawing_forward, {"h": rng.standard_normal((6, 7))}, {"p": 0.3}),
    spoils=("forward",),
    cause="nondeterministic",
)
def draws_in_the_forward(dout, cache):
    keep, p = cache
    return dout * keep / (1 - p)
