"""Mistakes in LoRA: a frozen linear map with a detour of low rank."""

import numpy as np
from corpus.drawing import dropout_mask, kept, sizes
from corpus.entries import wrong_backward

from lora_np import ops


def arrays(rng, square=False):
    rank, n, d_in, d_out = sizes(rng, 4)
    d_out = d_in if square else d_out
    draw = rng.standard_normal
    inputs = {"x": draw((n, d_in)), "A": draw((d_in, rank)), "B": draw((rank, d_out))}
    return inputs, draw((d_in, d_out)), draw(d_out), rng.uniform(1.3, 1.9)


def ops_forward(x, A, B, W, b, scale, mask):
    return ops.lora_linear_forward(x, W, b, A, B, scale, mask)


def of_ops(rng):
    inputs, W, b, scale = arrays(rng)
    fixed = {"W": W, "b": b, "scale": scale, "mask": dropout_mask(rng, *inputs["x"].shape)}
    return ops_forward, inputs, fixed


def no_dropout(rng):
    forward, inputs, fixed = of_ops(rng)
    return forward, inputs, {**fixed, "b": None, "mask": None}


def square(rng):
    inputs, W, b, scale = arrays(rng, square=True)
    return ops_forward, inputs, {"W": W, "b": b, "scale": scale, "mask": None}


def adapter_forward(x, down, up, frozen, alpha):
    rank = down.shape[1]
    hidden = x @ down
    out = x @ frozen + alpha / rank * (hidden @ up)
    return out, {"x": x, "hidden": hidden, "down": down, "up": up, "frozen": frozen, "alpha": alpha}


def adapter(rng):
    inputs, W, _, scale = arrays(rng)
    rank = inputs["B"].shape[0]
    return (
        adapter_forward,
        {"x": inputs["x"], "down": inputs["A"], "up": inputs["B"]},
        {"frozen": W, "alpha": scale * rank},
    )


def peft_forward(x, lora_A, lora_B, weight, keep, p, scaling):
    """Matrices as PEFT stores them: lora_A (r, d_in), lora_B (d_out, r), weight (d_out, d_in)."""
    dropped = x * keep / (1 - p)
    low = dropped @ lora_A.T
    return x @ weight.T + low @ lora_B.T * scaling, (x, dropped, low, lora_A, lora_B, weight, keep, p, scaling)


def peft(rng):
    inputs, W, _, scale = arrays(rng)
    fixed = {"weight": W.T.copy(), "keep": kept(rng, *inputs["x"].shape), "p": 0.3, "scaling": scale}
    return (
        peft_forward,
        {"x": inputs["x"], "lora_A": inputs["A"].T.copy(), "lora_B": inputs["B"].T.copy()},
        fixed,
    )


@wrong_backward("lora_linear", of_ops, spoils=("B",), cause="constant_factor")
def no_scale_in_db(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = u.T @ dy
    du = scale * dy @ B.T
    dA = z.T @ du
    return dy @ W.T + (du @ A.T) * mask, dA, dB


@wrong_backward("lora_linear", no_dropout, spoils=("x", "A"), cause="constant_factor")
def no_scale_in_du(dy, cache):
    z, u, W, A, B, scale, _ = cache
    dB = scale * u.T @ dy
    du = dy @ B.T
    return dy @ W.T + du @ A.T, z.T @ du, dB


@wrong_backward("lora_linear", of_ops, spoils=("A",), cause="constant_factor")
def scale_twice_in_da(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = scale * (z.T @ du)
    dB = scale * (u.T @ dy)
    return dy @ W.T + (du @ A.T) * mask, dA, dB


@wrong_backward("lora_linear", adapter, spoils=("down", "up", "x"), cause="constant_factor", also=("mean_vs_sum",))
def alpha_not_divided_by_the_rank(dout, cache):
    alpha = cache["alpha"]
    dup = alpha * cache["hidden"].T @ dout
    dhidden = alpha * dout @ cache["up"].T
    ddown = cache["x"].T @ dhidden
    dx = dout @ cache["frozen"].T + dhidden @ cache["down"].T
    return dx, ddown, dup


@wrong_backward("lora_linear", peft, spoils=("x",), cause="constant_factor")
def kept_inputs_not_enlarged(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    grad_low = grad @ lora_B * scaling
    grad_x = grad @ weight + grad_low @ lora_A * keep
    return grad_x, grad_low.T @ dropped, grad.T @ low * scaling


@wrong_backward("lora_linear", of_ops, spoils=("x",), cause="mask_ignored")
def dropout_forgotten_in_dx(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = dy @ W.T + du @ A.T
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", peft, spoils=("x",), cause="mask_ignored")
def divided_by_the_share_kept_but_not_masked(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    grad_low = grad @ lora_B * scaling
    grad_x = grad @ weight + grad_low @ lora_A / (1 - p)
    return grad_x, grad_low.T @ dropped, grad.T @ low * scaling


@wrong_backward("lora_linear", peft, spoils=("lora_A",), cause="wrong_cached_value", also=("mask_ignored",))
def x_where_the_dropped_input_belongs(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    grad_low = grad @ lora_B * scaling
    grad_A = grad_low.T @ x
    grad_B = scaling * grad.T @ low
    return grad @ weight + grad_low @ lora_A * keep / (1 - p), grad_A, grad_B


@wrong_backward("lora_linear", peft, spoils=("lora_B",), cause="wrong_cached_value", also=("mask_ignored",))
def u_computed_again_from_x(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    low = x @ lora_A.T
    grad_B = scaling * grad.T @ low
    grad_low = scaling * grad @ lora_B
    grad_x = grad_low @ lora_A * keep / (1 - p) + grad @ weight
    return grad_x, grad_low.T @ dropped, grad_B


@wrong_backward("lora_linear", square, spoils=("A", "x"), cause="wrong_cached_value")
def a_where_b_transposed_belongs(dy, cache):
    z, u, W, A, B, scale, _ = cache
    du = scale * dy @ A
    return dy @ W.T + du @ A.T, z.T @ du, scale * u.T @ dy


@wrong_backward("lora_linear", square, spoils=("x",), cause="wrong_cached_value")
def up_through_b_again(dy, cache):
    z, u, W, A, B, scale, _ = cache
    du = scale * dy @ B.T
    dz = du @ B
    return dy @ W.T + dz, z.T @ du, scale * u.T @ dy


@wrong_backward("lora_linear", of_ops, spoils=("x",), cause="missing_path")
def frozen_map_forgotten_in_dx(dy, cache):
    """W gets no gradient, but x gets one through W."""
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dx = (du @ A.T) * mask
    return dx, dA, dB


@wrong_backward("lora_linear", adapter, spoils=("x",), cause="missing_path")
def detour_forgotten_in_dx(dout, cache):
    s = cache["alpha"] / cache["down"].shape[1]
    dhidden = s * dout @ cache["up"].T
    dx = dout @ cache["frozen"].T
    return dx, cache["x"].T @ dhidden, s * cache["hidden"].T @ dout


@wrong_backward("lora_linear", no_dropout, spoils=("x",), cause="missing_path", also=("not_accumulated",))
def one_dx_overwrites_the_other(dy, cache):
    z, u, W, A, B, scale, _ = cache
    dx = dy @ W.T
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dx = du @ A.T
    return dx, dA, dB


@wrong_backward("lora_linear", of_ops, spoils=("x",), cause="elementwise_factor")
def mask_on_both_paths(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = (dy @ W.T + du @ A.T) * mask
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", of_ops, spoils=("A",), cause="elementwise_factor", also=("constant_factor",))
def z_masked_once_more(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = (z * mask).T @ du
    return dy @ W.T + (du @ A.T) * mask, dA, scale * (u.T @ dy)


@wrong_backward("lora_linear", of_ops, spoils=("x",), cause="sign")
def detour_taken_away(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = dy @ W.T - (du @ A.T) * mask
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", adapter, spoils=("up",), cause="sign")
def up_goes_downhill(dout, cache):
    x, s = cache["x"], cache["alpha"] / cache["down"].shape[1]
    dhidden = s * dout @ cache["up"].T
    dup = -s * cache["hidden"].T @ dout
    return dout @ cache["frozen"].T + dhidden @ cache["down"].T, x.T @ dhidden, dup


@wrong_backward("lora_linear", of_ops, spoils=("A",), cause="transpose", also=("shape",))
def da_as_peft_stores_it(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = du.T @ z
    return dy @ W.T + (du @ A.T) * mask, dA, scale * (u.T @ dy)


@wrong_backward("lora_linear", peft, spoils=("lora_B",), cause="transpose", also=("shape",))
def db_as_in_the_paper(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    grad_low = grad @ lora_B * scaling
    grad_B = low.T @ grad * scaling
    return grad @ weight + grad_low @ lora_A * keep / (1 - p), grad_low.T @ dropped, grad_B


@wrong_backward("lora_linear", square, spoils=("x",), cause="transpose")
def frozen_map_not_transposed(dy, cache):
    z, u, W, A, B, scale, _ = cache
    du = scale * (dy @ B.T)
    return dy @ W + du @ A.T, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", adapter, spoils=("down", "up"), cause="swapped")
def up_returned_before_down(dout, cache):
    s = cache["alpha"] / cache["down"].shape[1]
    dup = s * cache["hidden"].T @ dout
    dhidden = s * dout @ cache["up"].T
    ddown = cache["x"].T @ dhidden
    return dout @ cache["frozen"].T + dhidden @ cache["down"].T, dup, ddown


@wrong_backward("lora_linear", no_dropout, spoils=("A", "B"), cause="mean_vs_sum")
def averaged_over_the_batch(dy, cache):
    z, u, W, A, B, scale, _ = cache
    N = len(dy)
    dB = scale * (u.T @ dy) / N
    du = scale * (dy @ B.T)
    dA = z.T @ du / N
    return dy @ W.T + du @ A.T, dA, dB


@wrong_backward("lora_linear", of_ops, spoils=("A",), cause="zero_gradient")
def a_is_never_trained(dy, cache):
    """A stays as it was drawn, some say; it has a gradient all the same."""
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    return dy @ W.T + (du @ A.T) * mask, np.zeros_like(A), scale * (u.T @ dy)


@wrong_backward("lora_linear", adapter, spoils=("up",), cause="not_accumulated")
def up_from_the_last_row(dout, cache):
    s = cache["alpha"] / cache["down"].shape[1]
    for h, d in zip(cache["hidden"], dout):
        dup = s * np.outer(h, d)
    dhidden = s * dout @ cache["up"].T
    return dout @ cache["frozen"].T + dhidden @ cache["down"].T, cache["x"].T @ dhidden, dup


@wrong_backward("lora_linear", no_dropout, spoils=("x",), cause="extra_term")
def merged_weight_and_detour(dy, cache):
    """W + scale A B holds the detour already."""
    z, u, W, A, B, scale, _ = cache
    du = scale * (dy @ B.T)
    dx = dy @ (W + scale * A @ B).T + du @ A.T
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", of_ops, spoils=("A",), cause="extra_term")
def decay_of_a_in_its_gradient(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = z.T @ du + 0.1 * A
    return dy @ W.T + (du @ A.T) * mask, dA, scale * (u.T @ dy)


@wrong_backward("lora_linear", no_dropout, spoils=("backward",), cause="inplace")
def u_scaled_in_the_cache(dy, cache):
    z, u, W, A, B, scale, _ = cache
    u *= scale
    dB = u.T @ dy
    du = scale * (dy @ B.T)
    return dy @ W.T + du @ A.T, z.T @ du, dB


@wrong_backward("lora_linear", of_ops, spoils=("backward",), cause="nondeterministic")
def drops_again(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    mask = (np.random.default_rng().random(z.shape) > 0.3) / 0.7
    return dy @ W.T + (du @ A.T) * mask, z.T @ du, scale * (u.T @ dy)


@wrong_backward("lora_linear", adapter, spoils=("down",), cause="dtype")
def adapters_in_single_precision(dout, cache):
    s = cache["alpha"] / cache["down"].shape[1]
    dhidden = s * dout @ cache["up"].T
    ddown = np.matmul(cache["x"].T, dhidden, dtype=np.float32, casting="same_kind")
    return dout @ cache["frozen"].T + dhidden @ cache["down"].T, ddown, s * cache["hidden"].T @ dout


@wrong_backward("lora_linear", peft, spoils=("lora_B",), cause="reduction_axis", also=("shape",))
def one_b_for_each_row(grad, cache):
    x, dropped, low, lora_A, lora_B, weight, keep, p, scaling = cache
    grad_B = scaling * grad[:, :, None] * low[:, None, :]
    grad_low = scaling * grad @ lora_B
    return grad @ weight + grad_low @ lora_A * keep / (1 - p), grad_low.T @ dropped, grad_B


@wrong_backward("lora_linear", no_dropout, spoils=("B",), cause="ignores_upstream")
def y_is_linear_in_b_so_its_gradient_is_u(dy, cache):
    z, u, W, A, B, scale, _ = cache
    dB = scale * u.sum(axis=0)[:, None] * np.ones_like(B)
    du = scale * (dy @ B.T)
    return dy @ W.T + du @ A.T, z.T @ du, dB


@wrong_backward("lora_linear", lambda rng: arrays(rng)[0], spoils=("backward",), cause="nondeterministic")
class KeepsAddingUp:
    """Meant for gradient accumulation, but nobody empties it."""

    def __init__(self):
        self.grads = {"A": 0.0, "B": 0.0}

    def forward(self, x, A, B):
        self.low = x @ A
        return 1.7 * self.low @ B, (x, A, B)

    def backward(self, dy, cache):
        x, A, B = cache
        self.grads["B"] = self.grads["B"] + 1.7 * self.low.T @ dy
        dlow = 1.7 * dy @ B.T
        self.grads["A"] = self.grads["A"] + x.T @ dlow
        return dlow @ A.T, self.grads["A"], self.grads["B"]
