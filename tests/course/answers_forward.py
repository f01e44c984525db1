"""Answers to the exercises of chapter 2, first part: the forwards of linear, layer norm and GELU."""

import math

import numpy as np
from answers_parts import Right, Wrong

from lora_np.ops import erf
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache


def bias_forgotten(x, W, b=None):
    y = x @ W
    return y, LinearCache(x, W)


def weights_as_torch_stores_them(x, W, b=None):
    y = x @ W.T
    if b is not None:
        y = y + b
    return y, LinearCache(x, W)


def columns_are_examples(x, W, b=None):
    y = W.T @ x.T
    if b is not None:
        y = y + b[:, None]
    return y, LinearCache(x, W)


def bias_always_there(x, W, b=None):
    return x @ W + b, LinearCache(x, W)


def cache_the_other_way_round(x, W, b=None):
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(W, x)


def output_cached(x, W, b=None):
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(y, W)


def without_cache(x, W, b=None):
    return x @ W if b is None else x @ W + b


def mean_over_inputs(x, W, b=None):
    y = (x[:, :, None] * W).mean(axis=1)
    if b is not None:
        y += b
    return y, LinearCache(x, W)


def loops_into_double(x, W, b=None):
    y = np.zeros((x.shape[0], W.shape[1]))
    for n in range(x.shape[0]):
        y[n] = x[n] @ W
    if b is not None:
        y = y + b
    return y, LinearCache(x, W)


def bias_twice(x, W, b=None):
    y = x @ W
    if b is not None:
        y += b
        y = y + b
    return y, LinearCache(x, W)


def linear_prints(x, W, b=None):
    y = x @ W
    if b is not None:
        y = y + b
    print(y.shape)


def einsum_of_rows(x, W, b=None):
    y = np.einsum("ni,ij->nj", x, W)
    return [y if b is None else np.add(y, b), (x, W)]


def bias_as_one_more_input(x, W, b=None):
    if b is None:
        return np.dot(x, W), LinearCache(x, W)
    ones = np.ones((len(x), 1), x.dtype)
    y = np.hstack([x, ones]) @ np.vstack([W, b])
    return y, LinearCache(x=x, W=W)


def sum_of_outer_products(x, W, b=None):
    y = np.zeros((x.shape[0], W.shape[1]), dtype=x.dtype)
    for i in range(W.shape[0]):
        y += np.outer(x[:, i], W[i])
    if b is not None:
        y += b
    return y, LinearCache(x, W)


def triple_loop(x, W, b=None):
    y = np.empty((len(x), W.shape[1]), np.result_type(x, W))
    for n in range(len(x)):
        for j in range(W.shape[1]):
            total = 0 if b is None else b[j]
            for i in range(len(W)):
                total = total + x[n, i] * W[i, j]
            y[n, j] = total
    return y, LinearCache(x, W)


def eps_outside_the_root(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / (np.sqrt((centred**2).mean(axis=-1, keepdims=True)) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def over_the_batch(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=0, keepdims=True) + eps)
    xhat = (x - x.mean(axis=0, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def gamma_and_beta_exchanged(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return beta * xhat + gamma, LayerNormCache(xhat, inverse_std, gamma)


def beta_forgotten(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat, LayerNormCache(xhat, inverse_std, gamma)


def gamma_forgotten(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def variance_of_a_sample(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def divided_by_the_variance(x, gamma, beta, eps):
    inverse_std = 1.0 / (x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def centred_in_place(x, gamma, beta, eps):
    x -= x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    xhat = x * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def mean_of_everything(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var() + eps)
    xhat = (x - x.mean()) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def square_of_what_is_not_centred(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def without_eps(x, gamma, beta, eps):
    inverse_std = 1.0 / x.std(axis=-1, keepdims=True)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def std_cached(x, gamma, beta, eps):
    std = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) / std
    return gamma * xhat + beta, LayerNormCache(xhat, std, gamma)


def sum_of_squares(x, gamma, beta, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((centred * centred).sum(axis=-1, keepdims=True) + eps)
    xhat = centred * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def beta_inside_the_bracket(x, gamma, beta, eps):
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * (xhat + beta), LayerNormCache(xhat, inverse_std, gamma)


def norm_in_double(x, gamma, beta, eps):
    x = x.astype(float)
    inverse_std = 1.0 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


def row_after_row(x, gamma, beta, eps):
    y, xhat, inverse_std = np.empty_like(x), np.empty_like(x), np.empty_like(x[:, :1])
    for n, row in enumerate(x):
        inverse_std[n, 0] = (row.var() + eps) ** -0.5
        xhat[n] = (row - row.mean()) * inverse_std[n, 0]
        y[n] = beta + xhat[n] * gamma
    return y, LayerNormCache(xhat, inverse_std, gamma)


def centring_matrix(x, gamma, beta, eps):
    d = x.shape[-1]
    centred = x @ (np.eye(d, dtype=x.dtype) - np.full((d, d), 1 / d, x.dtype))
    variance = np.einsum("nd,nd->n", centred, centred)[:, None] / d
    inverse_std = np.power(variance + eps, -0.5)
    xhat = inverse_std * centred
    return xhat * gamma + beta, (xhat, inverse_std, gamma)


def norms_of_the_centred(x, gamma, beta, eps):
    d = x.shape[1]
    centred = x - x.sum(axis=1).reshape(-1, 1) / d
    length2 = np.linalg.norm(centred, axis=1, keepdims=True) ** 2 + d * eps
    inverse_std = math.sqrt(d) / np.sqrt(length2)
    xhat = centred * inverse_std
    return xhat @ np.diag(gamma) + beta, LayerNormCache(xhat, inverse_std, gamma)


def gelu_by_tanh(x):
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    cdf = 0.5 * (1 + t)
    return x * cdf, GeluCache(x, cdf)


def halved_instead_of_root_two(x):
    cdf = 0.5 * (1 + erf(x / 2))
    return x * cdf, GeluCache(x, cdf)


def half_forgotten(x):
    cdf = 1 + erf(x / math.sqrt(2))
    return x * cdf, GeluCache(x, cdf)


def one_forgotten(x):
    cdf = 0.5 * erf(x / math.sqrt(2))
    return x * cdf, GeluCache(x, cdf)


def gelu_by_sigmoid(x):
    cdf = 1 / (1 + np.exp(-1.702 * x))
    return x * cdf, GeluCache(x, cdf)


def relu(x):
    y = np.maximum(x, 0)
    return y, GeluCache(x, (x > 0).astype(x.dtype))


def gelu_caches_its_output(x):
    y = x * (0.5 * (1 + erf(x / math.sqrt(2))))
    return y, GeluCache(x, y)


def root_two_of_numpy(x):
    cdf = 0.5 * (1.0 + erf(x / np.sqrt(2.0)))
    return x * cdf, GeluCache(x, cdf)


def gelu_in_place(x):
    cdf = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    cache = GeluCache(x.copy(), cdf)
    x *= cdf
    return x, cache


def the_probability_alone(x):
    cdf = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    return cdf, GeluCache(x, cdf)


def upper_tail(x):
    cdf = 0.5 * (1.0 - erf(x / math.sqrt(2.0)))
    return x * cdf, GeluCache(x, cdf)


def erf_of_the_library(x):
    cdf = (0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))).astype(x.dtype)
    return x * cdf, GeluCache(x, cdf)


def from_the_other_tail(x):
    cdf = np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.ravel().tolist()], x.dtype).reshape(x.shape)
    return x - x * (1 - cdf), (x, cdf)


def half_of_two_terms(x):
    e = erf(x * 2**-0.5)
    return [0.5 * x + 0.5 * x * e, GeluCache(x=x, cdf=0.5 + 0.5 * e)]


WRONG = [
    Wrong("linear_forward", bias_forgotten, "missing_term"),
    Wrong("linear_forward", weights_as_torch_stores_them, "transpose"),
    Wrong("linear_forward", columns_are_examples, "transpose", ("shape",)),
    Wrong("linear_forward", bias_always_there, None),
    Wrong("linear_forward", cache_the_other_way_round, "swapped", ("wrong_cached_value",)),
    Wrong("linear_forward", output_cached, "wrong_cached_value"),
    Wrong("linear_forward", without_cache, None, ("shape",)),
    Wrong("linear_forward", mean_over_inputs, "mean_vs_sum", ("constant_factor",)),
    Wrong("linear_forward", loops_into_double, "dtype"),
    Wrong("linear_forward", bias_twice, "extra_term", ("constant_factor",)),
    Wrong("linear_forward", linear_prints, None),
    Wrong("layer_norm_forward", eps_outside_the_root, None),
    Wrong("layer_norm_forward", over_the_batch, "reduction_axis"),
    Wrong("layer_norm_forward", gamma_and_beta_exchanged, "swapped"),
    Wrong("layer_norm_forward", beta_forgotten, "missing_term"),
    Wrong("layer_norm_forward", gamma_forgotten, "elementwise_factor"),
    Wrong("layer_norm_forward", variance_of_a_sample, "constant_factor"),
    Wrong("layer_norm_forward", divided_by_the_variance, "elementwise_factor"),
    Wrong("layer_norm_forward", centred_in_place, "inplace"),
    Wrong("layer_norm_forward", mean_of_everything, "reduction_axis"),
    Wrong("layer_norm_forward", square_of_what_is_not_centred, "wrong_cached_value", ("missing_term",)),
    Wrong("layer_norm_forward", without_eps, "missing_term"),
    Wrong("layer_norm_forward", std_cached, "wrong_cached_value"),
    Wrong("layer_norm_forward", sum_of_squares, "mean_vs_sum", ("constant_factor",)),
    Wrong("layer_norm_forward", beta_inside_the_bracket, "factor_order", ("elementwise_factor",)),
    Wrong("layer_norm_forward", norm_in_double, "dtype"),
    Wrong("gelu_forward", gelu_by_tanh, None),
    Wrong("gelu_forward", halved_instead_of_root_two, "constant_factor"),
    Wrong("gelu_forward", half_forgotten, "constant_factor"),
    Wrong("gelu_forward", one_forgotten, "missing_term"),
    Wrong("gelu_forward", gelu_by_sigmoid, None),
    Wrong("gelu_forward", relu, None),
    Wrong("gelu_forward", gelu_caches_its_output, "wrong_cached_value"),
    Wrong("gelu_forward", root_two_of_numpy, "dtype"),
    Wrong("gelu_forward", gelu_in_place, "inplace"),
    Wrong("gelu_forward", the_probability_alone, "elementwise_factor"),
    Wrong("gelu_forward", upper_tail, "sign"),
]
RIGHT = [
    Right("linear_forward", einsum_of_rows),
    Right("linear_forward", bias_as_one_more_input),
    Right("linear_forward", sum_of_outer_products),
    Right("linear_forward", triple_loop),
    Right("layer_norm_forward", row_after_row),
    Right("layer_norm_forward", centring_matrix),
    Right("layer_norm_forward", norms_of_the_centred),
    Right("gelu_forward", erf_of_the_library),
    Right("gelu_forward", from_the_other_tail),
    Right("gelu_forward", half_of_two_terms),
]
