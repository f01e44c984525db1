"""Answers to the exercises of chapter 2, first part: the forwards of linear, layer norm and GELU."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.ops import erf
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache


@wrong_answer("linear_forward", cause="missing_term")
def bias_forgotten(x, W, b=None):
    y = x @ W
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="transpose")
def weights_as_torch_stores_them(x, W, b=None):
    y = x @ W.T
    if b is not None:
        y = y + b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="transpose", also=("shape",))
def columns_are_examples(x, W, b=None):
    y = W.T @ x.T
    if b is not None:
        y = y + b[:, None]
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def bias_always_there(x, W, b=None):
    return x @ W + b, LinearCache(x, W)


@wrong_answer("linear_forward", cause="swapped", also=("wrong_cached_value",))
def cache_the_other_way_round(x, W, b=None):
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(W, x)


@wrong_answer("linear_forward", cause="wrong_cached_value")
def output_cached(x, W, b=None):
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(y, W)


@wrong_answer("linear_forward", cause=None, also=("shape",))
def without_cache(x, W, b=None):
    return x @ W if b is None else x @ W + b


@wrong_answer("linear_forward", cause="mean_vs_sum", also=("constant_factor",))
def mean_over_inputs(x, W, b=None):
    y = (x[:, :, None] * W).mean(axis=1)
    if b is not None:
        y += b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="dtype")
def loops_into_double(x, W, b=None):
    y = np.zeros((x.shape[0], W.shape[1]))
    for n in range(x.shape[0]):
        y[n] = x[n] @ W
    if b is not None:
        y = y + b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="extra_term", also=("constant_factor",))
def bias_twice(x, W, b=None):
    y = x @ W
    if b is not None:
        y += b
        y = y + b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_prints(x, W, b=None):
    y = x @ W
    if b is not None:
        y = y + b
    print(y.shape)


@right_answer("linear_forward")
def einsum_of_rows(x, W, b=None):
    y = np.einsum("ni,ij->nj", x, W)
    return [y if b is None else np.add(y, b), (x, W)]


@right_answer("linear_forward")
def bias_as_one_more_input(x, W, b=None):
    if b is None:
        return np.dot(x, W), LinearCache(x, W)
    ones = np.ones((len(x), 1), x.dtype)
    y = np.hstack([x, ones]) @ np.vstack([W, b])
    return y, LinearCache(x=x, W=W)


@right_answer("linear_forward")
def sum_of_outer_products(x, W, b=None):
    y = np.zeros((x.shape[0], W.shape[1]), dtype=x.dtype)
    for i in range(W.shape[0]):
        y += np.outer(x[:, i], W[i])
    if b is not None:
        y += b
    return y, LinearCache(x, W)


@right_answer("linear_forward")
def triple_loop(x, W, b=None):
    y = np.empty((len(x), W.shape[1]), np.result_type(x, W))
    for n in range(len(x)):
        for j in range(W.shape[1]):
            total = 0 if b is None else b[j]
            for i in range(len(W)):
                total = total + x[n, i] * W[i, j]
            y[n, j] = total
    return y, LinearCache(x, W)


@wrong_answer("layer_norm_forward", cause=None)
def eps_outside_the_root(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / (np.sqrt((centred**2).mean(axis=-1, keepdims=True)) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="reduction_axis")
def over_the_batch(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=0, keepdims=True) + eps)
    xhat = (x - x.mean(axis=0, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="swapped")
def gamma_and_beta_exchanged(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return beta * xhat + gamma, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="missing_term")
def beta_forgotten(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="elementwise_factor")
def gamma_forgotten(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="constant_factor")
def variance_of_a_sample(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="elementwise_factor")
def divided_by_the_variance(x, gamma, beta, eps):
    inverse_std = 1.0 / (x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="inplace")
def centred_in_place(x, gamma, beta, eps):
    x -= x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    xhat = x * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="reduction_axis")
def mean_of_everything(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var() + eps)
    xhat = (x - x.mean()) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value", also=("missing_term",))
def square_of_what_is_not_centred(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="missing_term")
def without_eps(x, gamma, beta, eps):
    inverse_std = 1.0 / x.std(axis=-1, keepdims=True)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value")
def std_cached(x, gamma, beta, eps):
    std = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) / std
    return gamma * xhat + beta, LayerNormCache(xhat, std, gamma)


@wrong_answer("layer_norm_forward", cause="mean_vs_sum", also=("constant_factor",))
def sum_of_squares(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((centred * centred).sum(axis=-1, keepdims=True) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="factor_order", also=("elementwise_factor",))
def beta_inside_the_bracket(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * (xhat + beta), LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="dtype")
def norm_in_double(x, gamma, beta, eps):
    x = x.astype(float)
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def row_after_row(x, gamma, beta, eps):
    y, xhat, inverse_std = np.empty_like(x), np.empty_like(x), np.empty_like(x[:, :1])
    for n, row in enumerate(x):
        inverse_std[n, 0] = (row.var() + eps) ** -0.5
        xhat[n] = (row - row.mean()) * inverse_std[n, 0]
        y[n] = beta + xhat[n] * gamma
    return y, LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def centring_matrix(x, gamma, beta, eps):
    d = x.shape[-1]
    centred = x @ (np.eye(d, dtype=x.dtype) - np.full((d, d), 1 / d, x.dtype))
    variance = np.einsum("nd,nd->n", centred, centred)[:, None] / d
    inverse_std = np.power(variance + eps, -0.5)
    xhat = inverse_std * centred
    return xhat * gamma + beta, (xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norms_of_the_centred(x, gamma, beta, eps):
    d = x.shape[1]
    centred = x - x.sum(axis=1).reshape(-1, 1) / d
    length2 = np.linalg.norm(centred, axis=1, keepdims=True) ** 2 + d * eps
    inverse_std = math.sqrt(d) / np.sqrt(length2)
    xhat = centred * inverse_std
    return xhat @ np.diag(gamma) + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("gelu_forward", cause=None)
def gelu_by_tanh(x):
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    cdf = 0.5 * (1 + t)
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor")
def halved_instead_of_root_two(x):
    cdf = 0.5 * (1 + erf(x / 2))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="constant_factor")
def half_forgotten(x):
    cdf = 1 + erf(x / math.sqrt(2))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="missing_term")
def one_forgotten(x):
    cdf = 0.5 * erf(x / math.sqrt(2))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause=None)
def gelu_by_sigmoid(x):
    cdf = 1 / (1 + np.exp(-1.702 * x))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause=None)
def relu(x):
    y = np.maximum(x, 0)
    return y, GeluCache(x, (x > 0).astype(x.dtype))


@wrong_answer("gelu_forward", cause="wrong_cached_value")
def gelu_caches_its_output(x):
    y = x * (0.5 * (1 + erf(x / math.sqrt(2))))
    return y, GeluCache(x, y)


@wrong_answer("gelu_forward", cause="dtype")
def root_two_of_numpy(x):
    cdf = 0.5 * (1.0 + erf(x / np.sqrt(2.0)))
    return x * cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="inplace")
def gelu_in_place(x):
    cdf = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    cache = GeluCache(x.copy(), cdf)
    x *= cdf
    return x, cache


@wrong_answer("gelu_forward", cause="elementwise_factor")
def the_probability_alone(x):
    cdf = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    return cdf, GeluCache(x, cdf)


@wrong_answer("gelu_forward", cause="sign")
def upper_tail(x):
    cdf = 0.5 * (1.0 - erf(x / math.sqrt(2.0)))
    return x * cdf, GeluCache(x, cdf)


@right_answer("gelu_forward")
def erf_of_the_library(x):
    cdf = (0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))).astype(x.dtype)
    return x * cdf, GeluCache(x, cdf)


@right_answer("gelu_forward")
def from_the_other_tail(x):
    cdf = np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.ravel().tolist()], x.dtype).reshape(x.shape)
    return x - x * (1 - cdf), (x, cdf)


@right_answer("gelu_forward")
def half_of_two_terms(x):
    e = erf(x * 2**-0.5)
    return [0.5 * x + 0.5 * x * e, GeluCache(x=x, cdf=0.5 + 0.5 * e)]
