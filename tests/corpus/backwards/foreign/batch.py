"""Mistakes in batch norm, in training mode."""

from types import SimpleNamespace

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward


def course_forward(x, gamma, beta, eps):
    mu = x.mean(axis=0)
    xmu = x - mu
    var = (xmu**2).mean(axis=0)
    ivar = 1 / np.sqrt(var + eps)
    xhat = xmu * ivar
    return gamma * xhat + beta, (xhat, gamma, xmu, ivar, var, eps, x)


def table(rng):
    n, d = sizes(rng, 2)
    draw = rng.standard_normal
    x = draw((n, d)) * rng.uniform(0.4, 2.5, d) + draw(d)
    return {"x": x, "gamma": draw(d), "beta": draw(d)}


def course(rng):
    return course_forward, table(rng), {"eps": 1e-5}


def course_single(rng):
    return course_forward, single(table(rng)), {"eps": 1e-5}


def images_forward(x, gamma, beta, running_var):
    """Channels on the second of four axes."""
    axes = (0, 2, 3)
    centred = x - x.mean(axes, keepdims=True)
    std = np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    hat = centred / std
    g, b = (p[:, None, None] for p in (gamma, beta))
    return g * hat + b, SimpleNamespace(x=x, hat=hat, std=std, gamma=g, axes=axes, running_var=running_var)


def images(rng):
    n, c, h, w = sizes(rng, 4)
    draw = rng.standard_normal
    x = draw((n, c, h, w)) * rng.uniform(0.4, 2.5, (c, 1, 1)) + draw((c, 1, 1))
    return images_forward, {"x": x, "gamma": draw(c), "beta": draw(c)}, {"running_var": rng.uniform(0.5, 2, c)}


def padded_forward(x, gamma, beta, keep):
    """Rows of padding neither count nor come out."""
    m, k = keep.sum(), keep[:, None]
    centred = (x - (k * x).sum(axis=0) / m) * k
    rstd = 1 / np.sqrt((centred**2).sum(axis=0) / m + 1e-5)
    return k * (gamma * centred * rstd + beta), (centred * rstd, rstd, gamma, k, m)


def padded(rng):
    inputs = table(rng)
    keep = rng.permutation(np.arange(len(inputs["x"])) > 0)
    return padded_forward, inputs, {"keep": keep}


def through(dxhat, xhat, rstd):
    return rstd * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))


def parameters(d, c):
    return np.einsum("nchw,nchw->c", d, c.hat), np.einsum("nchw->c", d)


@wrong_backward("batch_norm", course, spoils=("x",), cause="missing_path")
def batch_mean_taken_for_a_constant(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dvar = np.sum(dout * gamma * xmu, axis=0) * -0.5 * ivar**3
    dx = dout * gamma * ivar + dvar * 2 * xmu / len(x)
    return dx, np.sum(dout * xhat, axis=0), np.sum(dout, axis=0)


@wrong_backward("batch_norm", images, spoils=("x",), cause="missing_path")
def batch_variance_taken_for_a_constant(d, c):
    dhat = d * c.gamma
    return (dhat - dhat.mean(c.axes, keepdims=True)) / c.std, *parameters(d, c)


@wrong_backward("batch_norm", course, spoils=("x",), cause="missing_path")
def as_in_evaluation(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    return dout * (gamma * ivar), (dout * xhat).sum(0), dout.sum(0)


@wrong_backward("batch_norm", course, spoils=("x",), cause="reduction_axis")
def means_over_features_as_in_layer_norm(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dxhat = dout * gamma
    along = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = ivar * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along)
    return dx, (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", images, spoils=("x",), cause="reduction_axis")
def each_pixel_on_its_own(d, c):
    dhat = d * c.gamma
    dx = (dhat - dhat.mean(0, keepdims=True) - c.hat * (dhat * c.hat).mean(0, keepdims=True)) / c.std
    return dx, *parameters(d, c)


@wrong_backward("batch_norm", images, spoils=("x",), cause="mean_vs_sum", also=("constant_factor",))
def divided_by_images_not_by_pixels(d, c):
    m, dhat = len(d), d * c.gamma
    first, second = (v.sum(c.axes, keepdims=True) for v in (dhat, dhat * c.hat))
    return (dhat - first / m - c.hat * second / m) / c.std, *parameters(d, c)


@wrong_backward("batch_norm", course, spoils=("gamma",), cause="mean_vs_sum")
def gamma_averaged_over_the_batch(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    return through(dout * gamma, xhat, ivar), np.mean(dout * xhat, axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("x",), cause="constant_factor")
def two_of_the_square_forgotten(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    N, _ = dout.shape
    dxhat = dout * gamma
    divar = np.sum(dxhat * xmu, axis=0)
    dvar = -0.5 * divar * (var + eps) ** -1.5
    dxmu = dxhat * ivar + xmu * dvar / N
    return dxmu - dxmu.sum(axis=0) / N, np.sum(dout * xhat, axis=0), np.sum(dout, axis=0)


@wrong_backward("batch_norm", course, spoils=("x",), cause="constant_factor", also=("mean_vs_sum",))
def variance_as_if_unbiased(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    n, dxhat = len(x), dout * gamma
    along = (dxhat * xhat).sum(axis=0) / (n - 1)
    dx = ivar * (dxhat - dxhat.mean(axis=0) - xhat * along)
    return dx, (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("gamma",), cause="wrong_cached_value")
def x_itself_for_gamma(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    return through(dout * gamma, xhat, ivar), (dout * x).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", images, spoils=("x",), cause="wrong_cached_value", also=("elementwise_factor",))
def divided_by_the_running_deviation(d, c):
    dhat = d * c.gamma
    inner = dhat - dhat.mean(c.axes, keepdims=True) - c.hat * (dhat * c.hat).mean(c.axes, keepdims=True)
    return inner / np.sqrt(c.running_var + 1e-5)[:, None, None], *parameters(d, c)


@wrong_backward("batch_norm", images, spoils=("x",), cause="elementwise_factor")
def gamma_left_out_of_dx(d, c):
    dx = (d - d.mean(c.axes, keepdims=True) - c.hat * (d * c.hat).mean(c.axes, keepdims=True)) / c.std
    return dx, *parameters(d, c)


@wrong_backward("batch_norm", course, spoils=("x",), cause="sign")
def variance_pushes_the_other_way(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dxhat = dout * gamma
    dvar = 0.5 * (dxhat * xmu).sum(axis=0) * ivar**3
    dmu = -(dxhat * ivar).sum(axis=0)
    dx = dxhat * ivar + dvar * 2 * xmu / len(x) + dmu / len(x)
    return dx, (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("x",), cause="wrong_derivative")
def inverse_root_derived_as_the_root(dout, cache):
    """Half over the root is the derivative of the root, not of one over it."""
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dxhat = dout * gamma
    dvar = -(dxhat * xmu).sum(axis=0) * 0.5 / np.sqrt(var + eps)
    dxmu = dxhat * ivar + 2 / len(x) * xmu * dvar
    return dxmu - dxmu.mean(axis=0), (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("gamma", "beta"), cause="swapped")
def shift_returned_first(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    return through(dout * gamma, xhat, ivar), dout.sum(axis=0), (dout * xhat).sum(axis=0)


@wrong_backward("batch_norm", images, spoils=("gamma", "beta"), cause="shape")
def channels_keep_their_ones(d, c):
    dhat = d * c.gamma
    dx = dhat - dhat.mean(c.axes, keepdims=True) - c.hat * (dhat * c.hat).mean(c.axes, keepdims=True)
    return dx / c.std, (d * c.hat).sum(c.axes, keepdims=True), d.sum(c.axes, keepdims=True)


@wrong_backward("batch_norm", images, spoils=("beta",), cause="reduction_axis", also=("shape",))
def shift_summed_per_image(d, c):
    dhat = d * c.gamma
    dx = dhat - dhat.mean(c.axes, keepdims=True) - c.hat * (dhat * c.hat).mean(c.axes, keepdims=True)
    return dx / c.std, parameters(d, c)[0], d.sum(axis=(1, 2, 3))


@wrong_backward("batch_norm", course, spoils=("gamma",), cause="extra_term")
def gamma_decays(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    return through(dout * gamma, xhat, ivar), (dout * xhat).sum(axis=0) + 0.05 * gamma, dout.sum(axis=0)


@wrong_backward("batch_norm", padded, spoils=("x", "beta"), cause="mask_ignored")
def padding_brings_its_upstream(dout, cache):
    xhat, rstd, gamma, k, m = cache
    dxhat = dout * gamma
    dx = rstd * (dxhat - dxhat.sum(axis=0) / m - xhat * (dxhat * xhat).sum(axis=0) / m)
    return dx * k, (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", padded, spoils=("beta",), cause="mask_ignored")
def shift_counts_the_padding(dout, cache):
    xhat, rstd, gamma, k, m = cache
    dxhat = dout * gamma * k
    dx = k * rstd * (dxhat - dxhat.sum(axis=0) / m - xhat * (dxhat * xhat).sum(axis=0) / m)
    return dx, (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("beta",), cause="not_accumulated")
def last_example_only(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dgamma = np.zeros_like(gamma)
    for up, hat in zip(dout, xhat):
        dgamma += up * hat
        dbeta = up
    return through(dout * gamma, xhat, ivar), dgamma, dbeta


@wrong_backward("batch_norm", course_single, spoils=("x",), cause="dtype")
def widened_for_stability_and_not_narrowed(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dxhat = dout.astype(np.float64) * gamma
    return through(dxhat, xhat, ivar), (dout * xhat).sum(axis=0), dout.sum(axis=0)


@wrong_backward("batch_norm", course, spoils=("beta",), cause="ignores_upstream")
def shift_counts_examples(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dbeta = np.full_like(gamma, len(x))
    return through(dout * gamma, xhat, ivar), (dout * xhat).sum(axis=0), dbeta


@wrong_backward("batch_norm", course, spoils=("backward",), cause="inplace")
def centred_in_the_upstream(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    dout -= dout.mean(axis=0) + xhat * (dout * xhat).mean(axis=0)
    return gamma * ivar * dout, dgamma, dbeta


@wrong_backward("batch_norm", table, spoils=("forward",), cause="nondeterministic")
class RunningAveragesUsedAtOnce:
    def __init__(self):
        self.mean = 0.0

    def forward(self, x, gamma, beta):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        rstd = 1 / np.sqrt(x.var(axis=0) + 1e-5)
        return gamma * (x - self.mean) * rstd + beta, (x - self.mean, rstd, gamma)

    def backward(self, dout, cache):
        centred, rstd, gamma = cache
        xhat = centred * rstd
        return through(dout * gamma, xhat, rstd), (dout * xhat).sum(axis=0), dout.sum(axis=0)
