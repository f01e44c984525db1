"""Mistakes in layer normalisation."""

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward

from lora_np import ops


def of_ops(rng):
    n, d = sizes(rng, 2)
    draw = rng.standard_normal
    inputs = {"x": draw((n, d)) * rng.uniform(0.4, 2.5, (n, 1)), "gamma": draw(d), "beta": draw(d)}
    return ops.layer_norm_forward, inputs, {"eps": 1e-5}


def of_ops_single(rng):
    forward, inputs, fixed = of_ops(rng)
    return forward, single(inputs), fixed


def course_forward(x, g, b, eps=1e-5):
    """The names and the cache of a well-known course."""
    mu = x.mean(axis=1, keepdims=True)
    xc = x - mu
    var = (xc**2).mean(axis=1, keepdims=True)
    std = np.sqrt(var + eps)
    xn = xc / std
    return g * xn + b, (x, mu, xc, var, std, xn, g, eps)


def course(rng):
    _, inputs, _ = of_ops(rng)
    return course_forward, {"x": inputs["x"], "g": inputs["gamma"], "b": inputs["beta"]}, {}


def parts_forward(scale, shift, tokens, eps):
    """Three axes, the parameters first, a dict for a cache."""
    centred = tokens - tokens.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    cache = {"centred": centred, "rstd": rstd, "hat": centred * rstd, "scale": scale}
    cache["out"] = scale * cache["hat"] + shift
    return cache["out"], cache


def parts(rng):
    n, T, d = sizes(rng, 3)
    draw = rng.standard_normal
    tokens = draw((n, T, d)) * rng.uniform(0.4, 2.5, (n, T, 1))
    return parts_forward, {"scale": draw(d), "shift": draw(d), "tokens": tokens}, {"eps": 1e-5}


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="elementwise_factor")
def gamma_forgotten_in_dx(dy, cache):
    xhat, inverse_std, gamma = cache
    mean_dy = dy.mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - mean_dy - xhat * (dy * xhat).mean(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="factor_order")
def gamma_after_the_means(dy, cache):
    xhat, inverse_std, gamma = cache
    along = (dy * xhat).mean(axis=1, keepdims=True)
    dx = gamma * inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("tokens",), cause="factor_order")
def gamma_outside_the_second_mean_only(dout, cache):
    hat, rstd, scale = cache["hat"], cache["rstd"], cache["scale"]
    dhat = scale * dout
    along = scale * (dout * hat).mean(-1, keepdims=True)
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * along)
    return (dout * hat).sum((0, 1)), dout.sum((0, 1)), dtokens


@wrong_backward("layer_norm", course, spoils=("x",), cause="factor_order")
def gamma_outside_the_first_mean_only(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dx = dxn - g * dout.mean(axis=1, keepdims=True) - xn * (dxn * xn).mean(axis=1, keepdims=True)
    return dx / std, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("scale",), cause="elementwise_factor")
def gamma_in_its_own_gradient(dout, cache):
    hat, rstd, scale = cache["hat"], cache["rstd"], cache["scale"]
    dhat = scale * dout
    dscale = (dhat * hat).sum(axis=(0, 1))
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))
    return dscale, dout.sum(axis=(0, 1)), dtokens


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="elementwise_factor")
def not_divided_by_the_deviation(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="missing_path")
def mean_taken_for_a_constant(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    dx = inverse_std * (dxhat - xhat * (dxhat * xhat).mean(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="missing_path")
def variance_taken_for_a_constant(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxc = g * dout / std
    dmu = -dxc.sum(axis=1, keepdims=True)
    dx = dxc + dmu / x.shape[1]
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("tokens",), cause="missing_path")
def mean_and_variance_taken_for_constants(dout, cache):
    dhat = dout * cache["scale"]
    dtokens = dhat * cache["rstd"]
    return (dout * cache["hat"]).sum((0, 1)), dout.sum((0, 1)), dtokens


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="mean_vs_sum")
def sums_for_means(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.sum(axis=1, keepdims=True) - xhat * (dxhat * xhat).sum(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="mean_vs_sum")
def gradient_of_the_mean_not_divided(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dvar = (dxn * xc).sum(axis=1, keepdims=True) * -0.5 * (var + eps) ** -1.5
    dmu = -(dxn / std).sum(axis=1, keepdims=True)
    dx = dxn / std + dvar * 2 * xc / x.shape[1] + dmu
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("shift", "scale"), cause="mean_vs_sum")
def parameters_averaged_over_the_batch(dout, cache):
    hat, rstd = cache["hat"], cache["rstd"]
    dhat = cache["scale"] * dout
    dscale = (dout * hat).sum(axis=1).mean(axis=0)
    dshift = dout.sum(axis=1).mean(axis=0)
    return dscale, dshift, rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="reduction_axis")
def means_over_rows_as_in_batch_norm(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    dx = inverse_std * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="reduction_axis")
def mean_over_everything(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = dout * g
    dx = (dxn - np.mean(dxn) - xn * np.mean(dxn * xn)) / std
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("shift",), cause="reduction_axis", also=("shape",))
def shift_summed_over_one_of_two_axes(dout, cache):
    hat, rstd = cache["hat"], cache["rstd"]
    dhat = cache["scale"] * dout
    dshift = dout.sum(axis=0)
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))
    return (dout * hat).sum(axis=(0, 1)), dshift, dtokens


@wrong_backward("layer_norm", course, spoils=("g",), cause="wrong_cached_value")
def x_where_xhat_belongs(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = dout * g
    dx = (dxn - dxn.mean(1, keepdims=True) - xn * (dxn * xn).mean(1, keepdims=True)) / std
    return dx, (dout * x).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("scale",), cause="wrong_cached_value", also=("elementwise_factor",))
def centred_where_xhat_belongs(dout, cache):
    centred, rstd, hat = cache["centred"], cache["rstd"], cache["hat"]
    dhat = dout * cache["scale"]
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))
    return (dout * centred).sum((0, 1)), dout.sum((0, 1)), dtokens


@wrong_backward("layer_norm", parts, spoils=("scale",), cause="wrong_cached_value")
def output_where_xhat_belongs(dout, cache):
    hat, rstd = cache["hat"], cache["rstd"]
    dhat = cache["scale"] * dout
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))
    return (dout * cache["out"]).sum((0, 1)), dout.sum((0, 1)), dtokens


@wrong_backward("layer_norm", course, spoils=("x",), cause="wrong_cached_value")
def x_for_xhat_in_the_projection(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = dout * g
    dx = (dxn - dxn.mean(1, keepdims=True) - xn * (dxn * x).mean(1, keepdims=True)) / std
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", of_ops, spoils=("gamma", "beta"), cause="swapped")
def beta_before_gamma(dy, cache):
    xhat, inverse_std, gamma = cache
    dbeta = dy.sum(axis=0)
    dgamma = (dy * xhat).sum(axis=0)
    dxhat = dy * gamma
    dx = inverse_std * (dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
    return dx, dbeta, dgamma


@wrong_backward("layer_norm", course, spoils=("g", "b"), cause="shape")
def parameters_keep_their_dimensions(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = dout * g
    dx = (dxn - dxn.mean(1, keepdims=True) - xn * (dxn * xn).mean(1, keepdims=True)) / std
    return dx, (dout * xn).sum(axis=0, keepdims=True), dout.sum(axis=0, keepdims=True)


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="sign")
def mean_added_back(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat + dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="sign")
def minus_one_half_without_its_minus(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dvar = 0.5 * (dxn * xc).sum(axis=1, keepdims=True) / std**3
    dmu = -(dxn / std).sum(axis=1, keepdims=True)
    dx = dxn / std + 2 / x.shape[1] * xc * dvar + dmu / x.shape[1]
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="wrong_derivative")
def power_rule_without_lowering_the_power(dout, cache):
    """The derivative of v ** -0.5 is -0.5 * v ** -1.5."""
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dvar = (dxn * xc).sum(axis=1, keepdims=True) * -0.5 * (var + eps) ** -0.5
    dmu = -(dxn / std).sum(axis=1, keepdims=True)
    dx = dxn / std + dvar * 2 * xc / x.shape[1] + dmu / x.shape[1]
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="wrong_derivative")
def inverse_without_its_square(dout, cache):
    """The derivative of 1 / s is -1 / s ** 2."""
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dstd = -(dxn * xc).sum(axis=1, keepdims=True) / std
    dvar = 0.5 * dstd / std
    dx = dxn / std + dvar * 2 * xc / x.shape[1]
    dx = dx - dx.mean(axis=1, keepdims=True)
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("x",), cause="constant_factor")
def square_without_its_two(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dvar = (dxn * xc).sum(axis=1, keepdims=True) * -0.5 * (var + eps) ** -1.5
    dmu = -(dxn / std).sum(axis=1, keepdims=True)
    dx = dxn / std + dvar * xc / x.shape[1] + dmu / x.shape[1]
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="constant_factor", also=("mean_vs_sum",))
def divided_by_d_minus_one(dy, cache):
    """As torch.var does."""
    xhat, inverse_std, gamma = cache
    d = xhat.shape[1]
    dxhat = gamma * dy
    along = (dxhat * xhat).sum(axis=1, keepdims=True) / (d - 1)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward(
    "layer_norm", course, spoils=("x",), cause="missing_term", also=("wrong_cached_value", "elementwise_factor")
)
def eps_forgotten(dout, cache):
    """Six digits are right."""
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    std = np.sqrt(var)
    dx = (dxn - dxn.mean(1, keepdims=True) - xn * (dxn * xn).mean(1, keepdims=True)) / std
    return dx, (dout * xn).sum(axis=0), dout.sum(axis=0)


@wrong_backward("layer_norm", parts, spoils=("scale",), cause="extra_term")
def scale_as_one_plus_scale(dout, cache):
    hat, rstd = cache["hat"], cache["rstd"]
    dhat = cache["scale"] * dout
    dscale = (dout * (hat + 1)).sum(axis=(0, 1))
    dtokens = rstd * (dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True))
    return dscale, dout.sum(axis=(0, 1)), dtokens


@wrong_backward("layer_norm", of_ops, spoils=("x",), cause="extra_term")
def a_residual_that_is_not_there(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
    return dx + dy, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", course, spoils=("backward",), cause="inplace")
def xhat_scaled_in_the_cache(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dg, db, dxn = (dout * xn).sum(axis=0), dout.sum(axis=0), dout * g
    dx = dxn - dxn.mean(axis=1, keepdims=True)
    xn *= (dxn * xn).mean(axis=1, keepdims=True)
    return (dx - xn) / std, dg, db


def centring_forward(x, gamma, beta, eps):
    x -= x.mean(axis=1, keepdims=True)
    return ops.layer_norm_forward(x, gamma, beta, eps)


@wrong_backward("layer_norm", lambda rng: (centring_forward, *of_ops(rng)[1:]), spoils=("x",), cause="inplace")
def centred_in_the_forward(dy, cache):
    xhat, rstd, g = cache
    dxhat = g * dy
    dx = dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True)
    return rstd * dx, np.einsum("nd,nd->d", dy, xhat), dy.sum(0)


@wrong_backward("layer_norm", course, spoils=("b",), cause="zero_gradient")
def sum_that_goes_nowhere(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dxn = g * dout
    dx = (dxn - dxn.mean(1, keepdims=True) - xn * (dxn * xn).mean(1, keepdims=True)) / std
    db = np.zeros_like(g)
    for row in dout:
        np.add(db, row)
    return dx, (dout * xn).sum(axis=0), db


@wrong_backward("layer_norm", of_ops, spoils=("gamma",), cause="ignores_upstream")
def xhat_alone_for_gamma(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
    return dx, xhat.sum(axis=0), dy.sum(axis=0)


@wrong_backward("layer_norm", of_ops_single, spoils=("gamma", "beta"), cause="dtype")
def sums_start_from_double_zeros(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
    dgamma, dbeta = np.zeros(len(gamma)), np.zeros(len(gamma))
    for row, hat in zip(dy, xhat):
        dgamma += row * hat
        dbeta += row
    return dx, dgamma, dbeta


@wrong_backward("layer_norm", course, spoils=("g", "b"), cause="not_accumulated")
def row_by_row_without_adding_up(dout, cache):
    x, mu, xc, var, std, xn, g, eps = cache
    dx = np.empty_like(x)
    for i in range(len(x)):
        dxn = g * dout[i]
        dg = dout[i] * xn[i]
        db = dout[i]
        dx[i] = (dxn - dxn.mean() - xn[i] * (dxn * xn[i]).mean()) / std[i]
    return dx, dg, db


@wrong_backward("layer_norm", lambda rng: of_ops(rng)[1], spoils=("backward",), cause="nondeterministic")
class RunningSums:
    def __init__(self):
        self.dgamma = self.dbeta = 0.0

    def forward(self, x, gamma, beta):
        return ops.layer_norm_forward(x, gamma, beta, 1e-5)

    def backward(self, dy, cache):
        xhat, inverse_std, gamma = cache
        self.dgamma += (dy * xhat).sum(axis=0)
        self.dbeta += dy.sum(axis=0)
        dxhat = gamma * dy
        dx = inverse_std * (dxhat - dxhat.mean(1, keepdims=True) - xhat * (dxhat * xhat).mean(1, keepdims=True))
        return dx, self.dgamma, self.dbeta
