import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops

# linear_backward(dy, cache)


@wrong_answer("linear_backward", cause="missing_term", also=("not_accumulated",))
def linear_db_of_the_first_row(dy, cache):
    "db is that of the first row: right for one row."
    x, W = cache
    return dy @ W.T, x.T @ dy, dy[0]


@wrong_answer("linear_backward", cause="mean_vs_sum")
def linear_db_as_mean(dy, cache):
    "db is a mean over the rows."
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(axis=0)


@wrong_answer("linear_backward", cause="mean_vs_sum")
def linear_all_per_row(dy, cache):
    "Both parameters' gradients are divided by the number of rows."
    x, W = cache
    return dy @ W.T, x.T @ dy / len(x), dy.sum(axis=0) / len(x)


@wrong_answer("linear_backward", cause="reduction_axis")
def linear_db_over_outputs(dy, cache):
    "db sums over axis 1."
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=1)


@wrong_answer("linear_backward", cause="shape")
def linear_db_keeps_an_axis(dy, cache):
    "db has the shape (1, d_out)."
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0, keepdims=True)


@wrong_answer("linear_backward", cause="transpose")
def linear_dw_turned(dy, cache):
    "dW comes out as (d_out, d_in)."
    x, W = cache
    return dy @ W.T, dy.T @ x, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="transpose")
def linear_weight_not_turned(dy, cache):
    "dx by W itself: fits for a square W only."
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="swapped")
def linear_dw_first(dy, cache):
    "dW and dx are returned in each other's place."
    x, W = cache
    return x.T @ dy, dy @ W.T, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="shape")
def linear_without_db(dy, cache):
    "Only two gradients are returned."
    x, W = cache
    return dy @ W.T, x.T @ dy


@wrong_answer("linear_backward", cause="reduction_axis", also=("not_accumulated",))
def linear_db_not_summed(dy, cache):
    "db is dy as it is."
    x, W = cache
    return dy @ W.T, x.T @ dy, dy


@wrong_answer("linear_backward", cause="wrong_cached_value", also=("ignores_upstream",))
def linear_forward_once_more(dy, cache):
    "dW is made of the output x W in place of dy."
    x, W = cache
    return dy @ W.T, x.T @ (x @ W), dy.sum(axis=0)


@wrong_answer("linear_backward", cause="zero_gradient")
def linear_with_none(dy, cache):
    "db is None, as the cache has no bias."
    x, W = cache
    return dy @ W.T, x.T @ dy, None


@right_answer("linear_backward")
def linear_back_by_einsum(dy, cache):
    "einsum."
    x, W = cache
    return np.einsum("nj,ij->ni", dy, W), np.einsum("ni,nj->ij", x, dy), np.einsum("nj->j", dy)


@right_answer("linear_backward")
def linear_back_by_rows(dy, cache):
    "Adds up over the rows."
    dW, db = np.zeros_like(cache.W), np.zeros(cache.W.shape[1], dy.dtype)
    dx = np.empty_like(cache.x)
    for n, upstream in enumerate(dy):
        dx[n] = cache.W @ upstream
        dW += np.outer(cache.x[n], upstream)
        db += upstream
    return dx, dW, db


@right_answer("linear_backward")
def linear_back_by_ones(dy, cache):
    "db as a product with a row of ones, and the transposes turned round."
    x, W = cache
    return (W @ dy.T).T, (dy.T @ x).T, np.ones(len(dy), dtype=dy.dtype) @ dy


@right_answer("linear_backward")
def linear_back_by_wide_x(dy, cache):
    "dW and db from one product with an x that has a column of ones."
    x, W = cache
    wide = np.hstack([x, np.ones((x.shape[0], 1), x.dtype)])
    both = np.dot(wide.T, dy)
    return np.tensordot(dy, W, axes=([1], [1])), both[:-1], both[-1]


# gelu_backward(dy, cache)


def density(x):
    return np.exp(-0.5 * x * x) / (2 * math.pi) ** 0.5


@wrong_answer("gelu_backward", cause="missing_path", also=("missing_term",))
def gelu_first_path(dy, cache):
    "Only the path through the first factor."
    x, cdf = cache
    return dy * cdf


@wrong_answer("gelu_backward", cause="missing_path", also=("missing_term",))
def gelu_second_path(dy, cache):
    "Only the path through the distribution function."
    x, cdf = cache
    return dy * x * density(x)


@wrong_answer("gelu_backward", cause="elementwise_factor")
def gelu_density_without_x(dy, cache):
    "The density is not multiplied by x."
    x, cdf = cache
    return dy * (cdf + density(x))


@wrong_answer("gelu_backward", cause="ignores_upstream")
def gelu_without_upstream(dy, cache):
    "dy is not multiplied in."
    x, cdf = cache
    return cdf + x * density(x)


@wrong_answer("gelu_backward", cause="dtype")
def gelu_back_widened(dy, cache):
    "np.sqrt of a plain number makes float32 float64."
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))


@wrong_answer("gelu_backward", cause="wrong_derivative", also=("constant_factor",))
def gelu_exponent_without_half(dy, cache):
    "The half in the exponent is missing."
    x, cdf = cache
    return dy * (cdf + x * np.exp(-x * x) / (2 * math.pi) ** 0.5)


@wrong_answer("gelu_backward", cause="constant_factor")
def gelu_root_of_pi(dy, cache):
    "Divides by the root of pi, not of two pi."
    x, cdf = cache
    return dy * (cdf + x * np.exp(-0.5 * x * x) / math.pi**0.5)


@wrong_answer("gelu_backward", cause="inplace")
def gelu_upstream_in_place(dy, cache):
    "dy is multiplied in place."
    x, cdf = cache
    dy *= cdf + x * density(x)
    return dy


@wrong_answer("gelu_backward", cause="inplace")
def gelu_cdf_in_place(dy, cache):
    "The cached cdf is added to in place: a second call differs."
    x, cdf = cache
    cdf += x * density(x)
    return dy * cdf


@wrong_answer("gelu_backward", cause="factor_order")
def gelu_upstream_on_one_path(dy, cache):
    "dy multiplies the first path alone."
    x, cdf = cache
    return dy * cdf + x * density(x)


@wrong_answer("gelu_backward", cause="sign")
def gelu_exponent_sign(dy, cache):
    "The minus of the exponent squares away: exp of plus a half x squared."
    x, cdf = cache
    return dy * (cdf + x * np.exp(0.5 * (-x) ** 2) / (2 * math.pi) ** 0.5)


@wrong_answer("gelu_backward", cause="wrong_derivative")
def gelu_back_as_relu(dy, cache):
    "The derivative of the ReLU."
    x, cdf = cache
    return dy * (x > 0)


@wrong_answer("gelu_backward", cause="wrong_derivative")
def gelu_back_of_sigmoid(dy, cache):
    "The derivative of a sigmoid, with the cdf in its place."
    x, cdf = cache
    return dy * (cdf + x * cdf * (1 - cdf))


@right_answer("gelu_backward")
def gelu_back_by_two_paths(dy, cache):
    "One path after the other, in place on an array of its own."
    dx = dy * cache.cdf
    dx += dy * cache.x * np.exp(-(cache.x**2) / 2) * (1 / math.sqrt(2 * math.pi))
    return dx


@right_answer("gelu_backward")
def gelu_back_in_float64(dy, cache):
    "Computes in float64 and casts back."
    x, cdf, g = (a.astype(np.float64) for a in (cache.x, cache.cdf, dy))
    return (g * (cdf + x * np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi))).astype(cache.x.dtype)


@right_answer("gelu_backward")
def gelu_back_entry_by_entry(dy, cache):
    "A loop over the entries, with math.exp."
    dx = np.empty_like(cache.x)
    for index in np.ndindex(dx.shape):
        x = float(cache.x[index])
        dx[index] = dy[index] * (cache.cdf[index] + x * math.exp(-x * x / 2) / math.sqrt(math.tau))
    return dx


@right_answer("gelu_backward")
def gelu_back_with_constant(dy, cache):
    "The constant of the density as a plain number, and its own cdf."
    x = cache[0]
    return dy * (0.5 * (ops.erf(x * 2**-0.5) + 1) + 0.3989422804014327 * x * np.exp(-((x * 2**-0.5) ** 2)))
