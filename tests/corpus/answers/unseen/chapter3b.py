"""Chapter 3, second part, the three bugs: answers of learners, written without sight of the rules."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

# debug_layer_norm_backward


@wrong_answer("debug_layer_norm_backward", cause="factor_order")
def norm_as_given(dy, cache):
    xhat, inverse_std, gamma = cache
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return gamma * dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def norm_gamma_before_and_after(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return gamma * dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("wrong_cached_value", "factor_order"))
def norm_second_mean_not_mended(dy, cache):
    xhat, inverse_std, gamma = cache
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    g = gamma * dy
    dx = inverse_std * (g - g.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def norm_gamma_taken_out(dy, cache):
    xhat, inverse_std, _ = cache
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def norm_dgamma_of_dxhat(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    along = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along)
    return dx, (dxhat * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="inplace")
def norm_gamma_into_dy(dy, cache):
    xhat, inverse_std, gamma = cache
    dgamma, dbeta = (dy * xhat).sum(axis=0), dy.sum(axis=0)
    dy *= gamma
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, dgamma, dbeta


@wrong_answer("debug_layer_norm_backward", cause="reduction_axis")
def norm_mean_of_all_rows(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@right_answer("debug_layer_norm_backward")
def norm_by_projection(dy, cache):
    xhat, inverse_std, gamma = cache
    d = xhat.shape[1]
    dx = np.empty_like(dy)
    for n, row in enumerate(dy * gamma):
        J = np.eye(d, dtype=dy.dtype) - 1 / d - np.outer(xhat[n], xhat[n]) / d
        dx[n] = inverse_std[n, 0] * (J @ row)
    return dx, np.einsum("nd,nd->d", dy, xhat), np.einsum("nd->d", dy)


@right_answer("debug_layer_norm_backward")
def norm_by_sums(dy, cache):
    xhat, inverse_std, gamma = cache
    g = np.multiply(gamma[None, :], dy)
    total, along = g.sum(1)[:, None], (g * xhat).sum(1)[:, None]
    d = len(gamma)
    return (d * g - total - xhat * along) * (inverse_std / d), np.sum(xhat * dy, 0), np.sum(dy, 0)


@right_answer("debug_layer_norm_backward")
def norm_centres_then_projects(dy, cache):
    g = cache.gamma * dy
    g = g - g.mean(axis=1, keepdims=True)
    g = g - cache.xhat * (g * cache.xhat).mean(axis=1, keepdims=True)
    return g * cache.inverse_std, (cache.xhat * dy).sum(axis=0), np.ones(len(dy), dy.dtype) @ dy


# debug_lora_linear_backward


@wrong_answer("debug_lora_linear_backward", cause="mask_ignored", also=("elementwise_factor",))
def lora_mask_not_mended(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dz = du @ A.T
    return dy @ W.T + dz, dA, dB


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def lora_scale_not_mended(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = dy @ B.T
    dA = z.T @ du
    dz = du @ A.T
    if mask is not None:
        dz = dz * mask
    dx = dy @ W.T + dz
    return dx, dA, dB


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def lora_scale_mended_for_a_alone(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = dy @ B.T
    dA = scale * (z.T @ du)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, dA, dB


@wrong_answer("debug_lora_linear_backward", cause="elementwise_factor", also=("factor_order",))
def lora_mask_over_both_paths(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dx = dy @ W.T + du @ A.T
    if mask is not None:
        dx = dx * mask
    return dx, dA, dB


@wrong_answer("debug_lora_linear_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def lora_mask_on_z_again(dy, cache):
    z, u, W, A, B, scale, mask = cache
    m = 1 if mask is None else mask
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = (z * m).T @ du
    return dy @ W.T + (du @ A.T) * m, dA, dB


@wrong_answer("debug_lora_linear_backward", cause=None)
def lora_always_a_mask(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return dy @ W.T + dz * mask, z.T @ du, dB


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def lora_scale_in_b_twice(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dy_scaled = scale * dy
    dB = scale * (u.T @ dy_scaled)
    du = dy_scaled @ B.T
    dA = z.T @ du
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, dA, dB


@right_answer("debug_lora_linear_backward")
def lora_scales_b_first(dy, cache):
    z, u, W, A, B, scale, mask = cache
    sB = scale * B
    du = np.einsum("no,ro->nr", dy, sB)
    dx = du @ A.T
    if mask is not None:
        dx *= mask
    dx += dy @ W.T
    return dx, np.einsum("ni,nr->ir", z, du), np.einsum("nr,no->ro", u, dy) * scale


@right_answer("debug_lora_linear_backward")
def lora_through_the_full_gradient(dy, cache):
    z, _, W, A, B, scale, mask = cache
    G = scale * (z.T @ dy)
    detour = dy @ (scale * (A @ B)).T
    return dy @ W.T + np.multiply(detour, 1 if mask is None else mask), G @ B.T, A.T @ G


@right_answer("debug_lora_linear_backward")
def lora_row_by_row(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dx, dA, dB = np.empty_like(z), np.zeros_like(A), np.zeros_like(B)
    for n, g in enumerate(dy):
        back = B @ g * scale
        dA += np.outer(z[n], back)
        dB += np.outer(u[n], g) * scale
        dx[n] = W @ g + (A @ back) * (mask[n] if mask is not None else 1)
    return dx, dA, dB


# debug_cross_entropy_backward


@wrong_answer("debug_cross_entropy_backward", cause="ignores_upstream", also=("constant_factor",))
def entropy_upstream_not_mended(dloss, cache):
    p, q, divisor = cache
    rows = q.any(axis=1, keepdims=True)
    return (p - q) * rows / divisor


@wrong_answer("debug_cross_entropy_backward", cause="mask_ignored", also=("elementwise_factor",))
def entropy_ignored_rows_not_mended(dloss, cache):
    p, q, divisor = cache
    return (p - q) * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="constant_factor", also=("wrong_cached_value",))
def entropy_all_rows_in_the_mean(dloss, cache):
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * (dloss / len(p))


@wrong_answer("debug_cross_entropy_backward", cause="shape", also=("reduction_axis",))
def entropy_counts_without_keepdims(dloss, cache):
    p, q, divisor = cache
    counts = q.any(axis=1)
    return (p - q) * counts * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="reduction_axis", also=("mask_ignored",))
def entropy_counts_classes(dloss, cache):
    p, q, divisor = cache
    counts = (q != 0).any(axis=0)
    return dloss * (p - q) * counts / divisor


@wrong_answer("debug_cross_entropy_backward", cause="zero_gradient", also=("mask_ignored",))
def entropy_counts_sure_rows(dloss, cache):
    p, q, divisor = cache
    counts = q.max(axis=1, keepdims=True) == 1
    return (p - q) * counts * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="dtype")
def entropy_counts_as_float64(dloss, cache):
    p, q, divisor = cache
    weight = q.any(axis=1, keepdims=True).astype(float) * dloss / divisor
    return (p - q) * weight


@wrong_answer("debug_cross_entropy_backward", cause="inplace")
def entropy_subtracts_in_the_cache(dloss, cache):
    p, q, divisor = cache
    p -= q
    p[~q.any(axis=1)] = 0
    return p * (dloss / divisor)


@right_answer("debug_cross_entropy_backward")
def entropy_weights_p_by_the_row_sum(dloss, cache):
    p, q, divisor = cache
    asked = q.sum(axis=1, keepdims=True).round()
    return (asked * p - q) * (dloss / divisor)


@right_answer("debug_cross_entropy_backward")
def entropy_writes_chosen_rows(dloss, cache):
    p, q, divisor = cache
    rows = np.flatnonzero(q.sum(axis=1))
    out = np.zeros_like(p)
    out[rows] = (p[rows] - q[rows]) * (dloss / divisor)
    return out


@right_answer("debug_cross_entropy_backward")
def entropy_where(dloss, cache):
    step = dloss / cache.divisor
    ignored = (cache.q == 0).all(axis=1)[:, None]
    return np.where(ignored, cache.p.dtype.type(0), step * cache.p - step * cache.q)
