"""Answers to the exercises of chapter 4, first part: the backwards of linear, GELU and layer norm."""

import math

import numpy as np
from answers_parts import Right, Wrong

from lora_np.ops import erf


def bias_averaged(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(axis=0)


def bias_not_summed(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy


def bias_summed_over_columns(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=1)


def weights_transposed(dy, cache):
    x, W = cache
    return dy @ W.T, dy.T @ x, dy.sum(axis=0)


def forward_once_more(dy, cache):
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(axis=0)


def weights_over_the_batch_size(dy, cache):
    x, W = cache
    m = x.shape[0]
    return dy @ W.T, x.T @ dy / m, dy.sum(axis=0)


def weights_first(dy, cache):
    x, W = cache
    dW = x.T @ dy
    dx = dy @ W.T
    return dW, dx, dy.sum(axis=0)


def bias_a_single_number(dy, cache):
    x, W = cache
    return np.dot(dy, W.T), np.dot(x.T, dy), np.sum(dy)


def bias_keeps_its_axis(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0, keepdims=True)


def upstream_taken_for_one(dy, cache):
    x, W = cache
    dy = np.ones_like(dy)
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


def no_gradient_of_x(dy, cache):
    x, W = cache
    return None, x.T @ dy, dy.sum(axis=0)


def only_two_gradients(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy


def a_step_downhill(dy, cache):
    x, W = cache
    return -dy @ W.T, -x.T @ dy, -dy.sum(axis=0)


def outer_products_in_double(dy, cache):
    x, W = cache
    dW = np.zeros(W.shape)
    for n in range(len(x)):
        dW += np.outer(x[n], dy[n])
    return dy @ W.T, dW, dy.sum(axis=0)


def last_row_only(dy, cache):
    x, W = cache
    dW, db = np.zeros_like(W), np.zeros_like(dy[0])
    for n in range(len(x)):
        dW[:] = np.outer(x[n], dy[n])
        db[:] = dy[n]
    return dy @ W.T, dW, db


def einsum_three_times(dy, cache):
    x, W = cache
    return np.einsum("nj,ij->ni", dy, W), np.einsum("ni,nj->ij", x, dy), np.einsum("nj->j", dy)


def everything_transposed(dy, cache):
    dyT = dy.T
    return [(cache.W @ dyT).T, (dyT @ cache.x).T, dyT @ np.ones(len(dy), dy.dtype)]


def sum_over_examples(dy, cache):
    x, W = cache
    dx, dW, db = np.zeros_like(x), np.zeros_like(W), np.zeros(W.shape[1], W.dtype)
    for n in reversed(range(len(x))):
        dx[n] = W @ dy[n]
        dW += x[n][:, None] * dy[n][None, :]
        db += dy[n]
    return dx, dW, db


def density_term_missing(dy, cache):
    x, cdf = cache
    return dy * cdf


def cdf_term_missing(dy, cache):
    x, cdf = cache
    return dy * x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def density_not_normalised(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-(x**2) / 2))


def half_missing_in_the_exponent(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-x * x) / math.sqrt(2 * math.pi))


def density_subtracted(dy, cache):
    x, cdf = cache
    return dy * (cdf - x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def derivative_of_the_tanh_form(dy, cache):
    x, cdf = cache
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x))


def gelu_without_upstream(dy, cache):
    x, cdf = cache
    return cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def density_at_cdf(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * cdf * cdf) / math.sqrt(2 * math.pi))


def x_forgotten_before_the_density(dy, cache):
    x, cdf = cache
    return dy * (cdf + np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def gelu_into_the_upstream(dy, cache):
    x, cdf = cache
    dy *= cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dy


def root_of_two_pi_of_numpy(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))


def density_by_the_logistic_rule(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * cdf * (1 - cdf))


def cdf_computed_anew(dy, cache):
    x = cache[0]
    cdf = (1 + erf(x / math.sqrt(2))) / 2
    return dy * cdf + dy * x * np.exp(-(x**2) / 2) * (2 * math.pi) ** -0.5


def number_after_number(dy, cache):
    x, cdf = cache
    dx = np.empty_like(dy)
    for i in np.ndindex(x.shape):
        v = float(x[i])
        dx[i] = dy[i] * (0.5 * math.erfc(-v / math.sqrt(2)) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi))
    return dx


def logarithm_of_the_density(dy, cache):
    x, cdf = cache
    paths = [cdf, x * np.exp(-0.5 * (np.square(x) + math.log(2 * math.pi)))]
    return np.multiply(sum(paths), dy)


def both_means_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    return inverse_std * gamma * dy, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def plain_mean_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def way_through_the_variance_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def as_in_batch_norm(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def gamma_not_in_dx(dy, cache):
    xhat, inverse_std, gamma = cache
    dx = inverse_std * (dy - dy.mean(axis=-1, keepdims=True) - xhat * (dy * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def inverse_std_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def sums_for_means(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.sum(axis=-1, keepdims=True) - xhat * (dxhat * xhat).sum(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def dgamma_without_xhat(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, dy.sum(axis=0), dy.sum(axis=0)


def dbeta_before_dgamma(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, dy.sum(axis=0), (dy * xhat).sum(axis=0)


def dgamma_averaged(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).mean(axis=0), dy.sum(axis=0)


def multiplied_by_std(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inner / inverse_std, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def dgamma_summed_over_the_row(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).sum(axis=-1), dy.sum(axis=-1)


def by_way_of_mean_and_variance(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy.shape[1]
    centred = xhat / inverse_std
    dxhat = dy * gamma
    dvariance = (dxhat * centred).sum(axis=1, keepdims=True) * -0.5 * inverse_std**3
    dcentred = dxhat * inverse_std + dvariance * 2 / d * centred
    dmean = -dcentred.sum(axis=1, keepdims=True)
    return dcentred + dmean / d, (dy * xhat).sum(axis=0), dy.sum(axis=0)


def one_jacobian_for_each_row(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy.shape[1]
    J = np.eye(d, dtype=dy.dtype) - (1 + np.einsum("ni,nj->nij", xhat, xhat)) / d
    dx = np.einsum("nij,nj->ni", J * inverse_std[:, :, None], dy * gamma)
    return [dx, np.einsum("ni,ni->i", dy, xhat), np.einsum("ni->i", dy)]


def least_squares_residual(dy, cache):
    xhat, inverse_std, gamma = cache
    dx = np.empty_like(dy)
    for n, g in enumerate(gamma * dy):
        constant = g - g.sum() / g.size
        dx[n] = inverse_std[n, 0] * (constant - xhat[n] * np.dot(g, xhat[n]) / g.size)
    return dx, sum(dy[n] * xhat[n] for n in range(len(dy))), sum(dy)


WRONG = [
    Wrong("linear_backward", bias_averaged, "mean_vs_sum", ("constant_factor",)),
    Wrong("linear_backward", bias_not_summed, "reduction_axis", ("shape",)),
    Wrong("linear_backward", bias_summed_over_columns, "reduction_axis", ("shape",)),
    Wrong("linear_backward", weights_transposed, "transpose", ("shape",)),
    Wrong("linear_backward", forward_once_more, "transpose"),
    Wrong("linear_backward", weights_over_the_batch_size, "mean_vs_sum", ("constant_factor",)),
    Wrong("linear_backward", weights_first, "swapped", ("shape",)),
    Wrong("linear_backward", bias_a_single_number, "reduction_axis", ("shape",)),
    Wrong("linear_backward", bias_keeps_its_axis, "shape"),
    Wrong("linear_backward", upstream_taken_for_one, "ignores_upstream"),
    Wrong("linear_backward", no_gradient_of_x, "zero_gradient"),
    Wrong("linear_backward", only_two_gradients, "shape"),
    Wrong("linear_backward", a_step_downhill, "sign"),
    Wrong("linear_backward", outer_products_in_double, "dtype"),
    Wrong("linear_backward", last_row_only, "not_accumulated"),
    Wrong("gelu_backward", density_term_missing, "missing_term", ("missing_path",)),
    Wrong("gelu_backward", cdf_term_missing, "missing_term", ("missing_path",)),
    Wrong("gelu_backward", density_not_normalised, "constant_factor", ("wrong_derivative",)),
    Wrong("gelu_backward", half_missing_in_the_exponent, "wrong_derivative", ("constant_factor",)),
    Wrong("gelu_backward", density_subtracted, "sign"),
    Wrong("gelu_backward", derivative_of_the_tanh_form, "wrong_derivative"),
    Wrong("gelu_backward", gelu_without_upstream, "ignores_upstream"),
    Wrong("gelu_backward", density_at_cdf, "wrong_cached_value", ("wrong_derivative",)),
    Wrong("gelu_backward", x_forgotten_before_the_density, "elementwise_factor"),
    Wrong("gelu_backward", gelu_into_the_upstream, "inplace"),
    Wrong("gelu_backward", root_of_two_pi_of_numpy, "dtype"),
    Wrong("gelu_backward", density_by_the_logistic_rule, "wrong_derivative"),
    Wrong("layer_norm_backward", both_means_missing, "missing_term", ("missing_path",)),
    Wrong("layer_norm_backward", plain_mean_missing, "missing_term", ("missing_path",)),
    Wrong("layer_norm_backward", way_through_the_variance_missing, "missing_term", ("missing_path",)),
    Wrong("layer_norm_backward", as_in_batch_norm, "reduction_axis"),
    Wrong("layer_norm_backward", gamma_not_in_dx, "elementwise_factor"),
    Wrong("layer_norm_backward", inverse_std_missing, "elementwise_factor"),
    Wrong("layer_norm_backward", sums_for_means, "mean_vs_sum"),
    Wrong("layer_norm_backward", dgamma_without_xhat, "elementwise_factor"),
    Wrong("layer_norm_backward", dbeta_before_dgamma, "swapped"),
    Wrong("layer_norm_backward", dgamma_averaged, "mean_vs_sum", ("constant_factor",)),
    Wrong("layer_norm_backward", multiplied_by_std, "elementwise_factor", ("wrong_cached_value",)),
    Wrong("layer_norm_backward", dgamma_summed_over_the_row, "reduction_axis", ("shape",)),
]
RIGHT = [
    Right("linear_backward", einsum_three_times),
    Right("linear_backward", everything_transposed),
    Right("linear_backward", sum_over_examples),
    Right("gelu_backward", cdf_computed_anew),
    Right("gelu_backward", number_after_number),
    Right("gelu_backward", logarithm_of_the_density),
    Right("layer_norm_backward", by_way_of_mean_and_variance),
    Right("layer_norm_backward", one_jacobian_for_each_row),
    Right("layer_norm_backward", least_squares_residual),
]
