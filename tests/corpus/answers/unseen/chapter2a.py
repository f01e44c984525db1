"""Chapter 2, first part: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache

# linear_forward


@wrong_answer("linear_forward", cause="transpose", also=("shape",))
def linear_as_pytorch_stores_it(x, W, b=None):
    y = x @ W.T
    if b is not None:
        y = y + b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="missing_term")
def linear_bias_forgotten(x, W, b=None):
    out = np.einsum("ni,io->no", x, W)
    return out, LinearCache(x, W)


@wrong_answer("linear_forward", cause="transpose", also=("shape",))
def linear_columns_as_examples(x, W, b=None):
    y = W.T @ x.T
    if b is not None:
        y = y + b[:, None]
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="not_accumulated", also=("missing_term",))
def linear_overwrites_products(x, W, b=None):
    y = np.zeros((x.shape[0], W.shape[1]), x.dtype)
    for i in range(x.shape[1]):
        y = x[:, i : i + 1] * W[i]
    return (y if b is None else y + b), LinearCache(x, W)


@wrong_answer("linear_forward", cause="extra_term", also=("constant_factor",))
def linear_bias_in_the_loop(x, W, b=None):
    bias = np.zeros(W.shape[1], W.dtype) if b is None else b
    y = np.zeros((len(x), W.shape[1]), x.dtype)
    for i in range(x.shape[1]):
        y += np.outer(x[:, i], W[i]) + bias
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="dtype")
def linear_in_double(x, W, b=None):
    y = np.zeros((len(x), W.shape[1]))
    for n, row in enumerate(x):
        y[n] = row @ W if b is None else row @ W + b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="mean_vs_sum", also=("constant_factor",))
def linear_mean_of_products(x, W, b=None):
    y = (x[:, :, None] * W[None]).mean(axis=1)
    return (y + b if b is not None else y), LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_without_a_case_for_none(x, W, b=None):
    y = np.dot(x, W)
    return y + b, LinearCache(x, W)


@right_answer("linear_forward")
def linear_with_a_column_of_ones(x, W, b=None):
    if b is None:
        return np.dot(x, W), LinearCache(x, W)
    ones = np.ones((len(x), 1), x.dtype)
    return np.hstack([x, ones]) @ np.vstack([W, b]), LinearCache(x, W)


@right_answer("linear_forward")
def linear_row_by_row(x, W, b=None):
    rows = [W.T @ row for row in x]
    y = np.stack(rows)
    if b is not None:
        y += b
    return y, LinearCache(x, W)


@right_answer("linear_forward")
def linear_by_tensordot(x, W, b=None):
    y = np.tensordot(x, W, axes=(1, 0))
    return y + (0 if b is None else b[None, :]), LinearCache(x, W)


# layer_norm_forward


@wrong_answer("layer_norm_forward", cause="wrong_derivative", also=("factor_order",))
def norm_eps_beside_the_deviation(x, gamma, beta, eps):
    mean = x.mean(axis=-1, keepdims=True)
    std = x.std(axis=-1, keepdims=True)
    inverse_std = 1 / (std + eps)
    xhat = (x - mean) * inverse_std
    return xhat * gamma + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="constant_factor", also=("mean_vs_sum",))
def norm_unbiased(x, gamma, beta, eps):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, ddof=1, keepdims=True)
    inverse_std = 1 / np.sqrt(var + eps)
    xhat = (x - mu) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="reduction_axis")
def norm_over_the_batch(x, gamma, beta, eps):
    centred = x - np.mean(x, axis=0)
    inverse_std = 1.0 / np.sqrt(np.mean(centred**2, axis=0) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="missing_term", also=("wrong_cached_value",))
def norm_numerator_not_centred(x, gamma, beta, eps):
    variance = x.var(axis=1, keepdims=True)
    inverse_std = (variance + eps) ** -0.5
    xhat = x * inverse_std
    y = xhat * gamma + beta
    return y, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="factor_order", also=("elementwise_factor",))
def norm_beta_before_gamma(x, gamma, beta, eps):
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1 / np.sqrt((c * c).mean(axis=1, keepdims=True) + eps)
    xhat = c * inverse_std
    return (xhat + beta) * gamma, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="extra_term", also=("elementwise_factor", "wrong_cached_value"))
def norm_gamma_around_one(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
    xhat = centred * inverse_std
    return (1 + gamma) * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="inplace")
def norm_centres_the_caller(x, gamma, beta, eps):
    x -= x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    xhat = x * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="swapped", also=("wrong_cached_value",))
def norm_shift_and_scale_exchanged(x, gamma, beta, eps):
    mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    inverse_std = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * inverse_std
    y = beta * xhat + gamma
    return y, LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norm_of_the_transpose(x, gamma, beta, eps):
    columns = x.T
    inverse_std = 1 / np.sqrt(columns.var(axis=0) + eps)
    xhat = ((columns - columns.mean(axis=0)) * inverse_std).T
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std[:, None], gamma)


@right_answer("layer_norm_forward")
def norm_each_row(x, gamma, beta, eps):
    y, xhat, inverse_std = np.empty_like(x), np.empty_like(x), np.empty_like(x[:, :1])
    for n in range(len(x)):
        inverse_std[n] = 1 / math.sqrt(x[n].var() + eps)
        xhat[n] = (x[n] - x[n].mean()) * inverse_std[n]
        y[n] = xhat[n] * gamma + beta
    return y, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause=None)  # right, until the text asked for digits far from 0
def norm_by_moments(x, gamma, beta, eps):
    d = x.shape[1]
    m1 = x.sum(axis=1, keepdims=True) / d
    m2 = np.einsum("nd,nd->n", x, x)[:, None] / d
    inverse_std = (m2 - m1 * m1 + eps) ** -0.5
    weight = gamma * inverse_std
    return x * weight + (beta - m1 * weight), LayerNormCache((x - m1) * inverse_std, inverse_std, gamma)


# gelu_forward


@wrong_answer("gelu_forward", cause="wrong_derivative")
def gelu_by_tanh(x):
    t = np.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))
    cdf = 0.5 * (1 + t)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="wrong_derivative")
def gelu_by_sigmoid(x):
    cdf = 1 / (1 + np.exp(-1.702 * x))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor", also=("wrong_derivative",))
def gelu_root_of_two_forgotten(x):
    cdf = (1 + ops.erf(x)) / 2
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="factor_order", also=("constant_factor", "wrong_derivative"))
def gelu_bracket_closes_early(x):
    cdf = 0.5 * 1 + ops.erf(x / 2**0.5)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="elementwise_factor", also=("wrong_cached_value",))
def gelu_returns_the_probability(x):
    cdf = 0.5 * (1 + ops.erf(x / math.sqrt(2)))
    y = cdf
    return y, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="sign")
def gelu_upper_tail(x):
    cdf = 0.5 * (1 - ops.erf(x / math.sqrt(2)))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="dtype")
def gelu_widened_by_numpy_root(x):
    cdf = 0.5 * (1.0 + ops.erf(x / np.sqrt(2.0)))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor")
def gelu_half_forgotten(x):
    phi = ops.erf(x / 2**0.5) + 1
    return np.multiply(x, phi), GeluCache(x, phi)


@right_answer("gelu_forward")
def gelu_by_plain_erf(x):
    erf = np.vectorize(math.erf, otypes=[np.float64])
    cdf = (0.5 * (1 + erf(x * 0.5**0.5))).astype(x.dtype)
    return x * cdf, GeluCache(x, cdf)


@right_answer("gelu_forward")
def gelu_by_size_and_sign(x):
    size = np.abs(x)
    y = 0.5 * (x + size * ops.erf(size / math.sqrt(2)))
    return y, GeluCache(x, (1 + ops.erf(x / math.sqrt(2))) / 2)


@right_answer("gelu_forward")
def gelu_subtracts_the_rest(x):
    above = (1 - ops.erf(x * math.sqrt(0.5))) / 2
    return x - x * above, GeluCache(x, 1 - above)
