"""Mistakes in batch norm in training mode and in group norm."""

from typing import NamedTuple

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward


class Saved(NamedTuple):
    x: np.ndarray
    mu: np.ndarray
    var: np.ndarray
    inv: np.ndarray
    xhat: np.ndarray
    gamma: np.ndarray
    running_var: np.ndarray
    eps: float


def bn_forward(x, gamma, beta, running_mean, running_var, eps):
    mu, var = x.mean(0), x.var(0)
    inv = 1 / np.sqrt(var + eps)
    xhat = (x - mu) * inv
    return gamma * xhat + beta, Saved(x, mu, var, inv, xhat, gamma, running_var, eps)


def bn_updating_forward(x, gamma, beta, running_mean, running_var, eps):
    mu, var = x.mean(0), x.var(0)
    running_mean *= 0.9
    running_mean += 0.1 * mu
    running_var *= 0.9
    running_var += 0.1 * var
    return bn_forward(x, gamma, beta, running_mean, running_var, eps)


def columns(rng):
    n, c = sizes(rng, 2)
    inputs = {"x": 1.5 * rng.standard_normal((n, c)) + 0.4, "gamma": rng.standard_normal(c)}
    inputs["beta"] = rng.standard_normal(c)
    fixed = {"running_mean": rng.standard_normal(c), "running_var": rng.uniform(0.5, 3, c), "eps": 1e-5}
    return bn_forward, inputs, fixed


def columns_updating(rng):
    return bn_updating_forward, *columns(rng)[1:]


def bn2d_forward(x, gamma, beta):
    axes = (0, 2, 3)
    centred = x - x.mean(axis=axes, keepdims=True)
    std = np.sqrt((centred**2).mean(axis=axes, keepdims=True) + 1e-5)
    xn = centred / std
    out = gamma[None, :, None, None] * xn + beta[None, :, None, None]
    return out, {"centred": centred, "std": std, "xn": xn, "gamma": gamma}


def images(rng):
    n, c, h, w = sizes(rng, 4)
    inputs = {"x": 0.7 * rng.standard_normal((n, c, h, w)), "gamma": rng.standard_normal(c)}
    inputs["beta"] = rng.standard_normal(c)
    return bn2d_forward, inputs, {}


def over(a):
    return a.sum(axis=(0, 2, 3), keepdims=True)


@wrong_backward("batch norm", columns, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_mean_is_taken_for_a_constant(dy, s):
    dxhat = dy * s.gamma
    dvar = np.sum(dxhat * (s.x - s.mu) * -0.5 * s.inv**3, axis=0)
    dx = dxhat * s.inv + dvar * 2 * (s.x - s.mu) / len(dy)
    return dx, np.sum(dy * s.xhat, axis=0), np.sum(dy, axis=0)


@wrong_backward("batch norm", columns, spoils=("x",), cause="missing_path", also=("missing_term",))
def the_variance_is_taken_for_a_constant(dy, s):
    dxhat = dy * s.gamma
    dcentred = dxhat * s.inv
    dmu = -dcentred.sum(axis=0)
    dx = dcentred + dmu / len(dy)
    return dx, np.sum(dy * s.xhat, axis=0), np.sum(dy, axis=0)


@wrong_backward("batch norm", columns, spoils=("x",), cause="constant_factor")
def the_variance_is_divided_by_one_less(dy, s):
    n = dy.shape[0]
    centred = s.x - s.mu
    dxhat = dy * s.gamma
    dvar = (dxhat * centred).sum(0) * (-0.5) * (s.var + s.eps) ** (-1.5)
    dmu = -(dxhat * s.inv).sum(0)
    dx = dxhat * s.inv + 2 * centred * dvar / (n - 1) + dmu / n
    return dx, (dy * s.xhat).sum(0), dy.sum(0)


@wrong_backward("batch norm", columns, spoils=("x",), cause="wrong_cached_value")
def the_running_variance_stands_for_the_batch(dy, s):
    n = len(dy)
    inv = 1 / np.sqrt(s.running_var + s.eps)
    dx = s.gamma * inv / n * (n * dy - dy.sum(0) - s.xhat * (dy * s.xhat).sum(0))
    return dx, (dy * s.xhat).sum(0), dy.sum(0)


@wrong_backward("batch norm", columns_updating, spoils=("running_mean", "running_var"), cause="inplace")
def the_running_statistics_are_updated_where_they_are(dy, s):
    n = len(dy)
    dx = s.gamma * s.inv / n * (n * dy - dy.sum(0) - s.xhat * (dy * s.xhat).sum(0))
    return dx, (dy * s.xhat).sum(0), dy.sum(0)


@wrong_backward("batch norm", columns, spoils=("x",), cause="reduction_axis")
def the_means_run_over_channels_as_in_layer_norm(dy, s):
    g = dy * s.gamma
    m1 = g.mean(axis=1, keepdims=True)
    m2 = (g * s.xhat).mean(axis=1, keepdims=True)
    return s.inv * (g - m1 - s.xhat * m2), np.einsum("nc,nc->c", dy, s.xhat), np.einsum("nc->c", dy)


@wrong_backward("batch norm", columns, spoils=("beta",), cause="mean_vs_sum")
def beta_is_averaged(dy, s):
    g = dy * s.gamma
    dx = s.inv * (g - g.mean(0) - s.xhat * (g * s.xhat).mean(0))
    return dx, (dy * s.xhat).sum(0), dy.mean(0)


@wrong_backward("batch norm", images, spoils=("x",), cause="constant_factor", also=("mean_vs_sum",))
def the_count_is_that_of_the_images_only(dout, k):
    m = dout.shape[0]
    dxn = dout * k["gamma"].reshape(1, -1, 1, 1)
    dx = (dxn - over(dxn) / m - k["xn"] * over(dxn * k["xn"]) / m) / k["std"]
    return dx, over(dout * k["xn"]).ravel(), over(dout).ravel()


@wrong_backward("batch norm", images, spoils=("x",), cause="sign")
def the_variance_is_pulled_the_wrong_way(dout, k):
    m = dout.size // dout.shape[1]
    dxn = dout * k["gamma"].reshape(1, -1, 1, 1)
    dstd = over(dxn * k["centred"]) / k["std"] ** 2
    dvar = dstd / (2 * k["std"])
    dcentred = dxn / k["std"] + dvar * 2 * k["centred"] / m
    dx = dcentred - over(dcentred) / m
    return dx, over(dout * k["xn"]).ravel(), over(dout).ravel()


@wrong_backward("batch norm", images, spoils=("gamma",), cause="wrong_cached_value", also=("elementwise_factor",))
def gamma_sees_centred_values(dout, k):
    m = dout.size // dout.shape[1]
    dxn = dout * k["gamma"].reshape(1, -1, 1, 1)
    dx = (dxn - over(dxn) / m - k["xn"] * over(dxn * k["xn"]) / m) / k["std"]
    return dx, np.einsum("nchw,nchw->c", dout, k["centred"]), np.einsum("nchw->c", dout)


@wrong_backward("batch norm", images, spoils=("gamma", "beta"), cause="swapped")
def gamma_comes_after_beta(dout, k):
    m = dout.size // dout.shape[1]
    scale = k["gamma"].reshape(1, -1, 1, 1) / (m * k["std"])
    b, g = over(dout), over(dout * k["xn"])
    return scale * (m * dout - b - k["xn"] * g), b.squeeze(), g.squeeze()


@wrong_backward("batch norm", columns, spoils=("x",), cause="elementwise_factor", also=("missing_path", "missing_term"))
def gamma_and_the_mean_are_left_out(dy, s):
    dx = s.inv * (dy - s.xhat * np.mean(dy * s.xhat, axis=0))
    return dx, (dy * s.xhat).sum(0), dy.sum(0)


def gn_forward(x, gamma, beta, groups):
    n, c, h, w = x.shape
    xg = x.reshape(n, groups, -1)
    mu = xg.mean(axis=2, keepdims=True)
    istd = 1 / np.sqrt(xg.var(axis=2, keepdims=True) + 1e-5)
    xhat = ((xg - mu) * istd).reshape(x.shape)
    y = xhat * gamma.reshape(c, 1, 1) + beta.reshape(c, 1, 1)
    return y.astype(x.dtype), (x, xhat, istd, gamma, groups)


def grouped(rng):
    n, h, w = rng.permutation([4, 5, 7])
    inputs = {"x": 1.4 * rng.standard_normal((n, 6, h, w)) + 0.3}
    inputs |= {k: rng.standard_normal(6) for k in ("gamma", "beta")}
    return gn_forward, inputs, {"groups": 3}


def grouped_single(rng):
    forward, inputs, fixed = grouped(rng)
    return forward, single(inputs), fixed


def gn_params(dy, xhat):
    return (dy * xhat).sum(axis=(0, 2, 3)), dy.sum(axis=(0, 2, 3))


@wrong_backward("group norm", grouped, spoils=("x",), cause="factor_order")
def gamma_is_multiplied_after_the_means(dy, cache):
    x, xhat, istd, gamma, G = cache
    n = x.shape[0]
    d, xh = dy.reshape(n, G, -1), xhat.reshape(n, G, -1)
    dx = istd * (d - d.mean(2, keepdims=True) - xh * (d * xh).mean(2, keepdims=True))
    return dx.reshape(x.shape) * gamma[:, None, None], *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("x",), cause="reduction_axis")
def the_means_run_over_pixels_only(dy, cache):
    x, xhat, istd, gamma, G = cache
    g = dy * gamma[:, None, None]
    inner = g - g.mean(axis=(2, 3), keepdims=True) - xhat * (g * xhat).mean(axis=(2, 3), keepdims=True)
    dx = np.repeat(istd, x.shape[1] // G, axis=1)[..., None] * inner
    return dx, *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("x",), cause="constant_factor", also=("mean_vs_sum",))
def the_group_counts_channels_but_not_pixels(dy, cache):
    x, xhat, istd, gamma, G = cache
    n, c = x.shape[:2]
    m = c // G
    g = (dy * gamma[:, None, None]).reshape(n, G, -1)
    xh = xhat.reshape(n, G, -1)
    s1, s2 = g.sum(-1, keepdims=True), (g * xh).sum(-1, keepdims=True)
    return (istd * (g - s1 / m - xh * s2 / m)).reshape(x.shape), *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("gamma",), cause="wrong_cached_value")
def gamma_sees_x(dy, cache):
    x, xhat, istd, gamma, G = cache
    g = (dy * gamma[:, None, None]).reshape(len(x), G, -1)
    xh = xhat.reshape(g.shape)
    dx = istd * (g - g.mean(-1, keepdims=True) - xh * (g * xh).mean(-1, keepdims=True))
    return dx.reshape(x.shape), *gn_params(dy, x)


@wrong_backward("group norm", grouped, spoils=("gamma",), cause="reduction_axis")
def gamma_is_summed_over_its_group(dy, cache):
    x, xhat, istd, gamma, G = cache
    n, c, h, w = x.shape
    g = (dy * gamma[:, None, None]).reshape(n, G, c // G * h * w)
    xh = xhat.reshape(n, G, c // G * h * w)
    dx = istd * (g - g.mean(-1, keepdims=True) - xh * (g * xh).mean(-1, keepdims=True))
    per_group = (dy.reshape(xh.shape) * xh).sum(axis=(0, 2))
    return dx.reshape(n, c, h, w), np.repeat(per_group, c // G), dy.sum(axis=(0, 2, 3))


@wrong_backward("group norm", grouped, spoils=("x",), cause="elementwise_factor")
def the_inverse_deviation_is_left_out(dy, cache):
    x, xhat, istd, gamma, G = cache
    g = (dy * gamma[:, None, None]).reshape(len(x), G, -1)
    xh = xhat.reshape(g.shape)
    dx = g - g.mean(-1, keepdims=True) - xh * np.mean(g * xh, -1, keepdims=True)
    return dx.reshape(x.shape), *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("x",), cause="missing_term", also=("missing_path",))
def the_term_along_xhat_is_left_out(dy, cache):
    x, xhat, istd, gamma, G = cache
    dx = np.zeros_like(x)
    per = x.shape[1] // G
    for i in range(len(x)):
        for j in range(G):
            block = slice(j * per, (j + 1) * per)
            g = dy[i, block] * gamma[block, None, None]
            dx[i, block] = istd[i, j] * (g - g.mean())
    return dx, *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("x",), cause="transpose")
def the_channels_come_back_shuffled(dy, cache):
    x, xhat, istd, gamma, G = cache
    n, c, h, w = x.shape
    g = (dy * gamma[:, None, None]).reshape(n, G, -1)
    xh = xhat.reshape(n, G, -1)
    dx = istd * (g - g.mean(-1, keepdims=True) - xh * np.mean(g * xh, -1, keepdims=True))
    dx = dx.reshape(n, G, c // G, h, w).swapaxes(1, 2).reshape(n, c, h, w)
    return dx, *gn_params(dy, xhat)


@wrong_backward("group norm", grouped, spoils=("gamma", "beta"), cause="shape")
def the_parameters_keep_their_broadcast_axes(dy, cache):
    x, xhat, istd, gamma, G = cache
    g = (dy * gamma[:, None, None]).reshape(len(x), G, -1)
    xh = xhat.reshape(g.shape)
    dx = istd * (g - g.mean(-1, keepdims=True) - xh * np.mean(g * xh, -1, keepdims=True))
    over = (0, 2, 3)
    return dx.reshape(x.shape), (dy * xhat).sum(over, keepdims=True), dy.sum(over, keepdims=True)


@wrong_backward("group norm", grouped_single, spoils=("gamma", "beta"), cause="dtype")
def the_sums_are_kept_in_double(dy, cache):
    x, xhat, istd, gamma, G = cache
    g = (dy * gamma[:, None, None]).reshape(len(x), G, -1)
    xh = xhat.reshape(g.shape)
    dx = istd * (g - g.mean(-1, keepdims=True) - xh * np.mean(g * xh, -1, keepdims=True))
    dgamma, dbeta = np.zeros(len(gamma)), np.zeros(len(gamma))
    for c in range(len(gamma)):
        dgamma[c] += np.sum(dy[:, c] * xhat[:, c])
        dbeta[c] += np.sum(dy[:, c])
    return dx.reshape(x.shape), dgamma, dbeta
