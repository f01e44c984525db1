"""Chapter 4, first part: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops

# linear_backward


@wrong_answer("linear_backward", cause="transpose", also=("shape",))
def linear_weight_as_in_pytorch(dy, cache):
    x, W = cache
    dx = dy @ W.T
    dW = dy.T @ x
    return dx, dW, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="mean_vs_sum", also=("constant_factor",))
def linear_averages_over_the_batch(dy, cache):
    x, W = cache
    N = x.shape[0]
    dW = np.dot(x.T, dy) / N
    db = np.sum(dy, axis=0)
    dx = np.dot(dy, W.T)
    return dx, dW, db


@wrong_answer("linear_backward", cause="reduction_axis", also=("shape",))
def linear_bias_sum_of_each_row(dy, cache):
    x, W = cache
    return np.einsum("no,io->ni", dy, W), np.einsum("ni,no->io", x, dy), np.einsum("no->n", dy)


@wrong_answer("linear_backward", cause="shape")
def linear_bias_keeps_its_axis(dy, cache):
    db = dy.sum(axis=0, keepdims=True)
    dW = cache.x.T @ dy
    dx = dy @ cache.W.T
    return dx, dW, db


@wrong_answer("linear_backward", cause="swapped", also=("shape",))
def linear_weight_first(dy, cache):
    x, W = cache
    dW, db = x.T @ dy, dy.sum(0)
    dx = dy @ W.T
    return dW, dx, db


@wrong_answer("linear_backward", cause="not_accumulated", also=("missing_term",))
def linear_last_row_only(dy, cache):
    x, W = cache
    dx, dW = np.zeros_like(x), np.zeros_like(W)
    for n in range(len(x)):
        dx[n] = W @ dy[n]
        dW = np.outer(x[n], dy[n])
    return dx, dW, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="missing_term", also=("not_accumulated",))
def linear_bias_starts_at_row_one(dy, cache):
    x, W = cache
    db = np.zeros(dy.shape[1], dy.dtype)
    for n in range(1, len(dy)):
        db = db + dy[n]
    return dy @ W.T, x.T @ dy, db


@wrong_answer("linear_backward", cause="transpose", also=("shape",))
def linear_wants_the_same_w(dy, cache):
    x, W = cache
    dW = x.T @ dy
    dx = dy @ W
    db = dy.sum(axis=0)
    return dx, dW, db


@right_answer("linear_backward")
def linear_by_outer_products(dy, cache):
    x, W = cache
    dW = sum(np.outer(a, g) for a, g in zip(x, dy))
    dx = np.stack([W @ g for g in dy])
    return dx, dW, sum(dy)


@right_answer("linear_backward")
def linear_by_transposes(dy, cache):
    x, W = cache
    return (W @ dy.T).T, (dy.T @ x).T, np.ones(len(dy), dy.dtype) @ dy


@right_answer("linear_backward")
def linear_with_bias_as_weight(dy, cache):
    x, W = cache
    wide = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    both = np.tensordot(wide, dy, axes=(0, 0))
    return np.tensordot(dy, W, axes=(1, 1)), both[:-1], both[-1]


# gelu_backward


@wrong_answer("gelu_backward", cause="missing_term", also=("wrong_derivative", "missing_path"))
def gelu_one_summand(dy, cache):
    x, cdf = cache
    return dy * cdf


@wrong_answer("gelu_backward", cause="elementwise_factor", also=("wrong_derivative",))
def gelu_density_without_x(dy, cache):
    x, cdf = cache
    pdf = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return dy * (cdf + pdf)


@wrong_answer("gelu_backward", cause="constant_factor", also=("wrong_derivative",))
def gelu_density_without_half(dy, cache):
    x, cdf = cache
    pdf = np.exp(-x * x) / math.sqrt(2 * math.pi)
    grad = cdf + x * pdf
    return grad * dy


@wrong_answer("gelu_backward", cause="constant_factor", also=("wrong_derivative",))
def gelu_density_by_pi_alone(dy, cache):
    x, cdf = cache
    phi = math.pi**-0.5 * np.exp(-0.5 * np.square(x))
    return dy * (x * phi + cdf)


@wrong_answer("gelu_backward", cause="wrong_derivative")
def gelu_as_if_logistic(dy, cache):
    x, cdf = cache
    slope = cdf * (1 - cdf)
    return dy * (cdf + x * slope)


@wrong_answer("gelu_backward", cause="ignores_upstream", also=("elementwise_factor", "factor_order"))
def gelu_upstream_on_one_summand(dy, cache):
    x, cdf = cache
    pdf = np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5
    return dy * cdf + x * pdf


@wrong_answer("gelu_backward", cause="dtype")
def gelu_root_widens(dy, cache):
    x, cdf = cache
    pdf = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    return dy * (cdf + x * pdf)


@wrong_answer("gelu_backward", cause="inplace")
def gelu_adds_into_the_cache(dy, cache):
    x, cdf = cache
    pdf = np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5
    cdf += x * pdf
    return dy * cdf


@right_answer("gelu_backward")
def gelu_each_entry(dy, cache):
    dx = np.empty_like(dy)
    for index, value in np.ndenumerate(cache.x):
        t = float(value)
        slope = float(cache.cdf[index]) + t * math.exp(-t * t / 2) / math.sqrt(math.tau)
        dx[index] = slope * dy[index]
    return dx


@right_answer("gelu_backward")
def gelu_two_ways(dy, cache):
    x, cdf = cache
    direct = dy * cdf
    dcdf = dy * x
    derf = 0.5 * dcdf
    dz = derf * (2 / math.pi**0.5) * np.exp(-((x * 0.5**0.5) ** 2))
    return direct + dz * 0.5**0.5


@right_answer("gelu_backward")
def gelu_cdf_anew(dy, cache):
    x = cache.x
    root = math.sqrt(2)
    half = np.exp(-x * x / 2) * x / math.sqrt(math.pi)
    return dy * (root + root * ops.erf(x / root) + 2 * half) / (2 * root)


# softmax_backward


@wrong_answer("softmax_backward", cause="missing_path", also=("missing_term", "not_accumulated", "wrong_derivative"))
def softmax_diagonal_alone(dP, P):
    return dP * P * (1 - P)


@wrong_answer("softmax_backward", cause="reduction_axis")
def softmax_sum_down_the_columns(dP, P):
    inner = np.sum(dP * P, axis=0, keepdims=True)
    return P * (dP - inner)


@wrong_answer("softmax_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def softmax_sum_of_upstream(dP, P):
    return P * (dP - dP.sum(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="mean_vs_sum", also=("constant_factor",))
def softmax_mean_of_products(dP, P):
    weighted = P * dP
    return weighted - P * weighted.mean(axis=-1, keepdims=True)


@wrong_answer("softmax_backward", cause="elementwise_factor", also=("factor_order",))
def softmax_p_inside_the_bracket_only(dP, P):
    s = (P * dP).sum(axis=-1, keepdims=True)
    return P * dP - s


@wrong_answer("softmax_backward", cause="inplace")
def softmax_subtracts_in_place(dP, P):
    dP -= (P * dP).sum(axis=-1, keepdims=True)
    return P * dP


@wrong_answer("softmax_backward", cause="wrong_cached_value")
def softmax_jacobian_of_the_first_row(dP, P):
    J = np.diag(P[0]) - np.outer(P[0], P[0])
    dS = np.empty_like(P)
    for n in range(len(P)):
        dS[n] = J @ dP[n]
    return dS


@wrong_answer("softmax_backward", cause="sign")
def softmax_adds(dP, P):
    s = np.einsum("...i,...i->...", P, dP)[..., None]
    return P * (s + dP)


@right_answer("softmax_backward")
def softmax_by_jacobians(dP, P):
    dS = np.zeros_like(P)
    for index in np.ndindex(P.shape[:-1]):
        p = P[index]
        dS[index] = (np.diag(p) - p[:, None] * p[None, :]).T @ dP[index]
    return dS


@right_answer("softmax_backward")
def softmax_by_einsum(dP, P):
    return np.einsum("...i,...i->...i", P, dP) - np.einsum("...i,...j,...j->...i", P, P, dP)


@right_answer("softmax_backward")
def softmax_from_the_difference(dP, P):
    g = P * dP
    return g - P * np.add.reduce(g, axis=P.ndim - 1)[..., np.newaxis]
