"""Answers to the exercises of chapter 3, second part: given backwards that were mended in the wrong place."""

import numpy as np
from corpus.entries import right_answer, wrong_answer


@wrong_answer("debug_layer_norm_backward", cause="factor_order")
def gamma_taken_out_of_the_means(dy, cache):
    xhat, inverse_std, gamma = cache
    dbeta = dy.sum(axis=0)
    dgamma = (dy * xhat).sum(axis=0)
    dx = dy - dy.mean(axis=-1, keepdims=True) - xhat * (dy * xhat).mean(axis=-1, keepdims=True)
    return gamma * inverse_std * dx, dgamma, dbeta


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("factor_order",))
def gamma_in_one_term_only(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dy * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="reduction_axis")
def mean_over_the_rows(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=0) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="sign")
def along_xhat_added(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    centred = dxhat - dxhat.mean(axis=-1, keepdims=True)
    dx = inverse_std * (centred + xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def xhat_left_out_of_the_mean(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    mean = dxhat.mean(axis=-1, keepdims=True)
    return inverse_std * (dxhat - mean - xhat * mean), (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def dgamma_from_dxhat(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, (dxhat * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="mean_vs_sum", also=("constant_factor",))
def still_the_mean_for_dbeta(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, (dy * xhat).sum(axis=0), dy.mean(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="inplace")
def upstream_overwritten(dy, cache):
    xhat, inverse_std, gamma = cache
    dgamma, dbeta = (dy * xhat).sum(axis=0), dy.sum(axis=0)
    dy *= gamma
    along = (dy * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, dgamma, dbeta


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("factor_order",))
def inverse_std_only_in_front(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@right_answer("debug_layer_norm_backward")
def jacobian_of_every_row(dy, cache):
    xhat, inverse_std, gamma = cache
    d = xhat.shape[1]
    dx = np.empty_like(dy)
    for n in range(len(dy)):
        J = np.eye(d) - 1 / d - np.outer(xhat[n], xhat[n]) / d
        dx[n] = inverse_std[n] * (J @ (gamma * dy[n]))
    return dx, np.einsum("nd,nd->d", dy, xhat), np.ones(len(dy), dy.dtype) @ dy


@right_answer("debug_layer_norm_backward")
def d_times_as_large(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy.shape[1]
    g = dy * gamma
    total, inner = g.sum(axis=1, keepdims=True), (g * xhat).sum(axis=1, keepdims=True)
    return [(d * g - total - xhat * inner) * inverse_std / d, np.diag(xhat.T @ dy).copy(), np.add.reduce(dy)]


@right_answer("debug_layer_norm_backward")
def two_directions_taken_away(dy, cache):
    xhat, inverse_std, gamma = cache
    dx = gamma * dy * inverse_std
    for direction in (np.ones_like(xhat), xhat):
        dx = dx - direction * (dx * direction).mean(axis=1)[:, None]
    return dx, (xhat * dy).sum(0), dy.sum(0)


@wrong_answer("debug_lora_linear_backward", cause="missing_path", also=("missing_term",))
def detour_left_out(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dx = dy @ W.T
    return dx, dA, dB


@wrong_answer("debug_lora_linear_backward", cause="factor_order", also=("elementwise_factor",))
def mask_on_both_paths(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = du @ A.T + dy @ W.T
    if mask is not None:
        dx = dx * mask
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="factor_order", also=("mask_ignored",))
def mask_on_the_wrong_path(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = dy @ W.T
    if mask is not None:
        dx = dx * mask
    return dx + du @ A.T, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def scale_only_for_b(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = dy @ B.T
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, z.T @ du, dB


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def scale_once_more_for_a(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, scale * (z.T @ du), scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="wrong_cached_value")
def z_where_u_belongs(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, z.T @ du, scale * (z.T @ dy)[: B.shape[0]]


@wrong_answer("debug_lora_linear_backward", cause="swapped", also=("shape",))
def a_and_b_in_each_others_place(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, scale * (u.T @ dy), z.T @ du


@wrong_answer("debug_lora_linear_backward", cause=None)
def mask_is_never_none(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = dy @ W.T + (du @ A.T) * mask
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="elementwise_factor")
def mask_once_more_on_z(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    if mask is not None:
        dz, z = dz * mask, z * mask
    return dz + dy @ W.T, z.T @ du, scale * (u.T @ dy)


@right_answer("debug_lora_linear_backward")
def thin_projections_of_g(dy, cache):
    z, u, W, A, B, scale, mask = cache
    G = scale * z.T @ dy
    detour = dy @ (scale * A @ B).T
    return dy @ W.T + (detour if mask is None else mask * detour), G @ B.T, A.T @ G


@right_answer("debug_lora_linear_backward")
def einsum_all_over(dy, cache):
    z, u, W, A, B, scale, mask = cache
    keep = np.ones_like(z) if mask is None else mask
    dx = np.einsum("nj,ij->ni", dy, W) + scale * np.einsum("nj,rj,ir,ni->ni", dy, B, A, keep)
    dA = scale * np.einsum("ni,nj,rj->ir", z, dy, B)
    return [dx, dA, np.einsum("nr,nj->rj", scale * u, dy)]


@right_answer("debug_lora_linear_backward")
def example_after_example(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dx, dA, dB = np.zeros_like(z), np.zeros_like(A), np.zeros_like(B)
    for n in range(len(dy)):
        du = scale * (B @ dy[n])
        dA += np.outer(z[n], du)
        dB += scale * np.outer(u[n], dy[n])
        dz = A @ du
        dx[n] = W @ dy[n] + (dz if mask is None else dz * mask[n])
    return dx, dA, dB


@wrong_answer("debug_cross_entropy_backward", cause="mask_ignored")
def ignored_rows_count(dloss, cache):
    p, q, divisor = cache
    return (p - q) * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def divided_by_all_rows(dloss, cache):
    p, q, divisor = cache
    weight = q.any(axis=1, keepdims=True)
    return (p - q) * weight * (dloss / len(p))


@wrong_answer("debug_cross_entropy_backward", cause="sign")
def wanted_minus_given(dloss, cache):
    p, q, divisor = cache
    weight = q.any(axis=1, keepdims=True)
    return (q - p) * weight * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="missing_path", also=("wrong_derivative",))
def slope_of_the_logarithm(dloss, cache):
    p, q, divisor = cache
    return -q / p * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="mean_vs_sum", also=("constant_factor",))
def divisor_left_out(dloss, cache):
    p, q, divisor = cache
    return np.where(q.any(axis=1, keepdims=True), p - q, 0) * dloss


@wrong_answer("debug_cross_entropy_backward", cause="ignores_upstream")
def upstream_left_out(dloss, cache):
    p, q, divisor = cache
    return np.where(q.any(axis=1, keepdims=True), p - q, 0) / divisor


@wrong_answer("debug_cross_entropy_backward", cause="wrong_cached_value")
def labels_sharpened(dloss, cache):
    p, q, divisor = cache
    hard = np.zeros_like(q)
    hard[np.arange(len(q)), q.argmax(axis=1)] = 1
    return np.where(q.any(axis=1, keepdims=True), p - hard, 0) * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="inplace")
def p_overwritten(dloss, cache):
    p, q, divisor = cache
    p -= q
    p[~q.any(axis=1)] = 0
    return p * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def dloss_times_divisor(dloss, cache):
    p, q, divisor = cache
    return np.where(q.any(axis=1, keepdims=True), p - q, 0) * dloss * divisor


@right_answer("debug_cross_entropy_backward")
def mass_of_the_target(dloss, cache):
    p, q, divisor = cache
    return (p * q.sum(axis=1, keepdims=True) - q) * (dloss / divisor)


@right_answer("debug_cross_entropy_backward")
def jacobian_of_log_softmax(dloss, cache):
    p, q, divisor = cache
    dlogits = np.zeros_like(p)
    for n in range(len(p)):
        J = np.eye(len(p[n]), dtype=p.dtype) - p[n][None, :]
        dlogits[n] = -(dloss / divisor) * (q[n] @ J)
    return dlogits


@right_answer("debug_cross_entropy_backward")
def only_rows_that_count(dloss, cache):
    p, q, divisor = cache
    rows = np.flatnonzero(q.sum(axis=1))
    out = np.zeros(p.shape, p.dtype)
    out[rows] = dloss * (p[rows] - q[rows]) / divisor
    return out
