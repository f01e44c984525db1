import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache

# linear_forward(x, W, b=None)


@wrong_answer("linear_forward", cause="missing_term")
def linear_without_bias(x, W, b=None):
    "b is never added."
    return x @ W, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_bias_not_optional(x, W, b=None):
    "Fails where b is None."
    return x @ W + b, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_truth_of_an_array(x, W, b=None):
    "The truth of an array of several entries is asked: raises for each b."
    return (x @ W + b if b else x @ W), LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_return_in_one_branch(x, W, b=None):
    "Without a bias nothing is returned."
    if b is not None:
        return x @ W + b, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_without_cache(x, W, b=None):
    "Returns y alone."
    y = x @ W
    return y if b is None else y + b


@wrong_answer("linear_forward", cause="swapped")
def linear_cache_swapped(x, W, b=None):
    "W is cached as x, and x as W."
    return (x @ W if b is None else x @ W + b), LinearCache(W, x)


@wrong_answer("linear_forward", cause="wrong_cached_value")
def linear_cache_of_the_output(x, W, b=None):
    "Caches y in place of x."
    y = x @ W if b is None else x @ W + b
    return y, LinearCache(y, W)


@wrong_answer("linear_forward", cause="transpose")
def linear_of_transposed_weight(x, W, b=None):
    "Uses W as PyTorch stores it: fits for a square W only."
    y = x @ W.T
    return (y if b is None else y + b), LinearCache(x, W)


@wrong_answer("linear_forward", cause="transpose")
def linear_bias_as_column(x, W, b=None):
    "b is added along the rows."
    y = x @ W if b is None else x @ W + b[:, None]
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="factor_order")
def linear_bias_first(x, W, b=None):
    "b is added to x, before the product."
    y = x @ W if b is None else (x + b) @ W
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause=None)
def linear_bias_to_the_first_row(x, W, b=None):
    "Only the first row gets the bias: right for one row."
    y = x @ W
    if b is not None:
        y[0] += b
    return y, LinearCache(x, W)


@wrong_answer("linear_forward", cause="wrong_cached_value")
def linear_bias_into_the_input(x, W, b=None):
    "Appends a column of ones to x and a row to W, and caches these."
    if b is not None:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        W = np.concatenate([W, b[None]], axis=0)
    return x @ W, LinearCache(x, W)


@right_answer("linear_forward")
def linear_by_einsum(x, W, b=None):
    "einsum, and the bias in place, on an array of its own."
    y = np.einsum("ni,ij->nj", x, W)
    if b is not None:
        y += b
    return y, LinearCache(x, W)


@right_answer("linear_forward")
def linear_by_columns(x, W, b=None):
    "One output after the other."
    y = np.empty((x.shape[0], W.shape[1]), np.result_type(x, W))
    for j in range(W.shape[1]):
        y[:, j] = np.dot(x, W[:, j])
        if b is not None:
            y[:, j] += b[j]
    return y, LinearCache(W=W, x=x)


@right_answer("linear_forward")
def linear_by_transposes(x, W, b=None):
    "The transposed product, turned back, and the fields by name."
    bias = np.zeros(W.shape[1], W.dtype) if b is None else b
    return np.matmul(W.T, x.T).T + bias, LinearCache(x=x, W=W)


@right_answer("linear_forward")
def linear_row_by_row(x, W, b=None):
    "A list of rows; the sum over the inputs is written out."
    rows = [(row[:, None] * W).sum(axis=0) for row in x]
    y = np.stack(rows)
    return (y, LinearCache(x, W)) if b is None else (np.add(y, b), LinearCache(x, W))


# layer_norm_forward(x, gamma, beta, eps)


@wrong_answer("layer_norm_forward", cause=None)
def norm_eps_outside_the_root(x, gamma, beta, eps):
    "eps is added to the root, not under it."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / (np.sqrt((c * c).mean(axis=1, keepdims=True)) + eps)
    return gamma * c * inverse_std + beta, LayerNormCache(c * inverse_std, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="missing_term")
def norm_without_eps(x, gamma, beta, eps):
    "eps is left out: a constant row gives 0 / 0."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((c * c).mean(axis=1, keepdims=True))
    return gamma * c * inverse_std + beta, LayerNormCache(c * inverse_std, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="constant_factor")
def norm_unbiased_variance(x, gamma, beta, eps):
    "Divides the squares by d - 1."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt(x.var(axis=1, keepdims=True, ddof=1) + eps)
    return gamma * c * inverse_std + beta, LayerNormCache(c * inverse_std, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="reduction_axis")
def norm_over_the_batch(x, gamma, beta, eps):
    "The means run over the rows of the batch."
    c = x - x.mean(axis=0)
    inverse_std = 1.0 / np.sqrt((c * c).mean(axis=0) + eps)
    xhat = c * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="reduction_axis")
def norm_without_keepdims(x, gamma, beta, eps):
    "The means lie along the wrong axis: raises, or is wrong for as many rows as columns."
    mean = x.mean(axis=1)
    inverse_std = 1.0 / np.sqrt(x.var(axis=1) + eps)
    xhat = (x - mean) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="shape")
def norm_cache_without_an_axis(x, gamma, beta, eps):
    "inverse_std is cached with the shape (N,)."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((c * c).mean(axis=1) + eps)
    xhat = c * inverse_std[:, None]
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value")
def norm_cache_of_the_std(x, gamma, beta, eps):
    "Caches the root, not one over the root."
    c = x - x.mean(axis=1, keepdims=True)
    std = np.sqrt((c * c).mean(axis=1, keepdims=True) + eps)
    return gamma * c / std + beta, LayerNormCache(c / std, std, gamma)


@wrong_answer("layer_norm_forward", cause="wrong_cached_value")
def norm_cache_of_the_output(x, gamma, beta, eps):
    "Caches xhat after gamma and beta."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((c * c).mean(axis=1, keepdims=True) + eps)
    xhat = c * inverse_std
    xhat = gamma * xhat + beta
    return xhat, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="inplace")
def norm_in_place(x, gamma, beta, eps):
    "The caller's x is centred in place."
    x -= x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    xhat = x * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="factor_order")
def norm_beta_inside(x, gamma, beta, eps):
    "gamma multiplies beta too."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((c * c).mean(axis=1, keepdims=True) + eps)
    xhat = c * inverse_std
    return gamma * (xhat + beta), LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause=None)
def norm_by_difference_of_squares(x, gamma, beta, eps):
    "The mean of the squares less the square of the mean: far from zero all digits cancel."
    mean = x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt(np.abs((x * x).mean(axis=1, keepdims=True) - mean * mean) + eps)
    xhat = (x - mean) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="missing_term", also=("wrong_cached_value",))
def norm_variance_not_centred(x, gamma, beta, eps):
    "The variance is taken of x, not of the centred rows."
    inverse_std = 1.0 / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=1, keepdims=True)) * inverse_std
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


@wrong_answer("layer_norm_forward", cause="extra_term")
def norm_eps_also_outside(x, gamma, beta, eps):
    "The larger of the root and eps is added up with eps under the root as well."
    c = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / (np.sqrt((c * c).mean(axis=1, keepdims=True) + eps) + eps)
    return gamma * c * inverse_std + beta, LayerNormCache(c * inverse_std, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norm_by_var(x, gamma, beta, eps):
    "np.var and a power of minus a half."
    inverse_std = (x.var(axis=1, keepdims=True) + eps) ** -0.5
    xhat = (x - x.mean(axis=1, keepdims=True)) * inverse_std
    return np.multiply(xhat, gamma) + beta, LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norm_by_einsum(x, gamma, beta, eps):
    "Sums by einsum."
    d = x.shape[1]
    centred = x - np.einsum("nd->n", x)[:, None] / d
    inverse_std = 1 / np.sqrt(np.einsum("nd,nd->n", centred, centred)[:, None] / d + eps)
    xhat = centred * inverse_std
    return beta + xhat * gamma, LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norm_by_rows(x, gamma, beta, eps):
    "A loop over the rows, in Python numbers where there is one for each row."
    xhat, inverse_std = np.empty_like(x), np.empty((len(x), 1), x.dtype)
    for n, row in enumerate(x):
        centred = row - row.mean()
        inverse_std[n, 0] = 1.0 / math.sqrt(float(centred @ centred) / len(row) + eps)
        xhat[n] = centred * inverse_std[n, 0]
    return gamma[None, :] * xhat + beta[None, :], LayerNormCache(xhat, inverse_std, gamma)


@right_answer("layer_norm_forward")
def norm_of_the_transpose(x, gamma, beta, eps):
    "Works on columns, and turns everything back; the length by np.linalg.norm."
    columns = x.T - np.average(x.T, axis=0)
    length = np.linalg.norm(columns, axis=0) / x.shape[1] ** 0.5
    inverse_std = np.reciprocal(np.sqrt(length**2 + eps))
    xhat = (columns * inverse_std).T
    return gamma * xhat + beta, LayerNormCache(xhat=xhat, inverse_std=inverse_std.reshape(-1, 1), gamma=gamma)
