"""Answers to the exercises of chapter 4, first part: the backwards of linear, GELU and layer norm."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.ops import erf


@wrong_answer("linear_backward", cause="mean_vs_sum", also=("constant_factor",))
def bias_averaged(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(axis=0)


@wrong_answer("linear_backward", cause="reduction_axis", also=("shape",))
def bias_not_summed(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy


@wrong_answer("linear_backward", cause="reduction_axis", also=("shape",))
def bias_summed_over_columns(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=1)


@wrong_answer("linear_backward", cause="transpose", also=("shape",))
def weights_transposed(dy, cache):
    x, W = cache
    return dy @ W.T, dy.T @ x, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="transpose")
def forward_once_more(dy, cache):
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="mean_vs_sum", also=("constant_factor",))
def weights_over_the_batch_size(dy, cache):
    x, W = cache
    m = x.shape[0]
    return dy @ W.T, x.T @ dy / m, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="swapped", also=("shape",))
def weights_first(dy, cache):
    x, W = cache
    dW = x.T @ dy
    dx = dy @ W.T
    return dW, dx, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="reduction_axis", also=("shape",))
def bias_a_single_number(dy, cache):
    x, W = cache
    return np.dot(dy, W.T), np.dot(x.T, dy), np.sum(dy)


@wrong_answer("linear_backward", cause="shape")
def bias_keeps_its_axis(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0, keepdims=True)


@wrong_answer("linear_backward", cause="ignores_upstream")
def upstream_taken_for_one(dy, cache):
    x, W = cache
    dy = np.ones_like(dy)
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="zero_gradient")
def no_gradient_of_x(dy, cache):
    x, W = cache
    return None, x.T @ dy, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="shape")
def only_two_gradients(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy


@wrong_answer("linear_backward", cause="sign")
def a_step_downhill(dy, cache):
    x, W = cache
    return -dy @ W.T, -x.T @ dy, -dy.sum(axis=0)


@wrong_answer("linear_backward", cause="dtype")
def outer_products_in_double(dy, cache):
    x, W = cache
    dW = np.zeros(W.shape)
    for n in range(len(x)):
        dW += np.outer(x[n], dy[n])
    return dy @ W.T, dW, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="not_accumulated")
def last_row_only(dy, cache):
    x, W = cache
    dW, db = np.zeros_like(W), np.zeros_like(dy[0])
    for n in range(len(x)):
        dW[:] = np.outer(x[n], dy[n])
        db[:] = dy[n]
    return dy @ W.T, dW, db


@right_answer("linear_backward")
def einsum_three_times(dy, cache):
    x, W = cache
    return np.einsum("nj,ij->ni", dy, W), np.einsum("ni,nj->ij", x, dy), np.einsum("nj->j", dy)


@right_answer("linear_backward")
def everything_transposed(dy, cache):
    dyT = dy.T
    return [(cache.W @ dyT).T, (dyT @ cache.x).T, dyT @ np.ones(len(dy), dy.dtype)]


@right_answer("linear_backward")
def sum_over_examples(dy, cache):
    x, W = cache
    dx, dW, db = np.zeros_like(x), np.zeros_like(W), np.zeros(W.shape[1], W.dtype)
    for n in reversed(range(len(x))):
        dx[n] = W @ dy[n]
        dW += x[n][:, None] * dy[n][None, :]
        db += dy[n]
    return dx, dW, db


@wrong_answer("gelu_backward", cause="missing_term", also=("missing_path",))
def density_term_missing(dy, cache):
    x, cdf = cache
    return dy * cdf


@wrong_answer("gelu_backward", cause="missing_term", also=("missing_path",))
def cdf_term_missing(dy, cache):
    x, cdf = cache
    return dy * x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@wrong_answer("gelu_backward", cause="constant_factor", also=("wrong_derivative",))
def density_not_normalised(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-(x**2) / 2))


@wrong_answer("gelu_backward", cause="wrong_derivative", also=("constant_factor",))
def half_missing_in_the_exponent(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-x * x) / math.sqrt(2 * math.pi))


@wrong_answer("gelu_backward", cause="sign")
def density_subtracted(dy, cache):
    x, cdf = cache
    return dy * (cdf - x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


@wrong_answer("gelu_backward", cause="wrong_derivative")
def derivative_of_the_tanh_form(dy, cache):
    x, cdf = cache
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x))


@wrong_answer("gelu_backward", cause="ignores_upstream")
def gelu_without_upstream(dy, cache):
    x, cdf = cache
    return cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@wrong_answer("gelu_backward", cause="wrong_cached_value", also=("wrong_derivative",))
def density_at_cdf(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * cdf * cdf) / math.sqrt(2 * math.pi))


@wrong_answer("gelu_backward", cause="elementwise_factor")
def x_forgotten_before_the_density(dy, cache):
    x, cdf = cache
    return dy * (cdf + np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


@wrong_answer("gelu_backward", cause="inplace")
def gelu_into_the_upstream(dy, cache):
    x, cdf = cache
    dy *= cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dy


@wrong_answer("gelu_backward", cause="dtype")
def root_of_two_pi_of_numpy(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))


@wrong_answer("gelu_backward", cause="wrong_derivative")
def density_by_the_logistic_rule(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * cdf * (1 - cdf))


@right_answer("gelu_backward")
def cdf_computed_anew(dy, cache):
    x = cache[0]
    cdf = (1 + erf(x / math.sqrt(2))) / 2
    return dy * cdf + dy * x * np.exp(-(x**2) / 2) * (2 * math.pi) ** -0.5


@right_answer("gelu_backward")
def number_after_number(dy, cache):
    x, cdf = cache
    dx = np.empty_like(dy)
    for i in np.ndindex(x.shape):
        v = float(x[i])
        dx[i] = dy[i] * (0.5 * math.erfc(-v / math.sqrt(2)) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi))
    return dx


@right_answer("gelu_backward")
def logarithm_of_the_density(dy, cache):
    x, cdf = cache
    paths = [cdf, x * np.exp(-0.5 * (np.square(x) + math.log(2 * math.pi)))]
    return np.multiply(sum(paths), dy)


@wrong_answer("layer_norm_backward", cause="missing_term", also=("missing_path",))
def both_means_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    return inverse_std * gamma * dy, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="missing_term", also=("missing_path",))
def plain_mean_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="missing_term", also=("missing_path",))
def way_through_the_variance_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="reduction_axis")
def as_in_batch_norm(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def gamma_not_in_dx(dy, cache):
    xhat, inverse_std, gamma = cache
    dx = inverse_std * (dy - dy.mean(axis=-1, keepdims=True) - xhat * (dy * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def inverse_std_missing(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="mean_vs_sum")
def sums_for_means(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.sum(axis=-1, keepdims=True) - xhat * (dxhat * xhat).sum(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def dgamma_without_xhat(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, dy.sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="swapped")
def dbeta_before_dgamma(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, dy.sum(axis=0), (dy * xhat).sum(axis=0)


@wrong_answer("layer_norm_backward", cause="mean_vs_sum", also=("constant_factor",))
def dgamma_averaged(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).mean(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def multiplied_by_std(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inner / inverse_std, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="reduction_axis", also=("shape",))
def dgamma_summed_over_the_row(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    inner = dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return inverse_std * inner, (dy * xhat).sum(axis=-1), dy.sum(axis=-1)


@right_answer("layer_norm_backward")
def by_way_of_mean_and_variance(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy.shape[1]
    centred = xhat / inverse_std
    dxhat = dy * gamma
    dvariance = (dxhat * centred).sum(axis=1, keepdims=True) * -0.5 * inverse_std**3
    dcentred = dxhat * inverse_std + dvariance * 2 / d * centred
    dmean = -dcentred.sum(axis=1, keepdims=True)
    return dcentred + dmean / d, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@right_answer("layer_norm_backward")
def one_jacobian_for_each_row(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy.shape[1]
    J = np.eye(d, dtype=dy.dtype) - (1 + np.einsum("ni,nj->nij", xhat, xhat)) / d
    dx = np.einsum("nij,nj->ni", J * inverse_std[:, :, None], dy * gamma)
    return [dx, np.einsum("ni,ni->i", dy, xhat), np.einsum("ni->i", dy)]


@right_answer("layer_norm_backward")
def least_squares_residual(dy, cache):
    xhat, inverse_std, gamma = cache
    dx = np.empty_like(dy)
    for n, g in enumerate(gamma * dy):
        constant = g - g.sum() / g.size
        dx[n] = inverse_std[n, 0] * (constant - xhat[n] * np.dot(g, xhat[n]) / g.size)
    return dx, sum(dy[n] * xhat[n] for n in range(len(dy))), sum(dy)
