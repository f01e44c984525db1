import numpy as np
from corpus.entries import right_answer, wrong_answer

# debug_layer_norm_backward(dy, cache)


@wrong_answer("debug_layer_norm_backward", cause="factor_order")
def mended_norm_as_it_was(dy, cache):
    "Handed in unchanged: gamma after the means."
    xhat, inverse_std, gamma = cache
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return gamma * dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def mended_norm_without_gamma(dy, cache):
    "gamma is taken out, and put in nowhere."
    xhat, inverse_std, gamma = cache
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("factor_order",))
def mended_norm_one_mean_forgotten(dy, cache):
    "One of the two means still has dy without gamma."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor", also=("factor_order",))
def mended_norm_projection_forgotten(dy, cache):
    "The mean along xhat still has dy without gamma."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def mended_norm_gamma_twice(dy, cache):
    "gamma comes first, as it must, and at the end once more."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return gamma * dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="elementwise_factor")
def mended_norm_gamma_in_dgamma(dy, cache):
    "dy is overwritten by gamma * dy, so dgamma and dbeta have gamma, too."
    xhat, inverse_std, gamma = cache
    dy = gamma * dy
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="inplace")
def mended_norm_in_place(dy, cache):
    "The upstream gradient is multiplied by gamma in place, after the sums."
    xhat, inverse_std, gamma = cache
    dgamma, dbeta = (dy * xhat).sum(axis=0), dy.sum(axis=0)
    dy *= gamma
    along_xhat = (dy * xhat).mean(axis=1, keepdims=True)
    return inverse_std * (dy - dy.mean(axis=1, keepdims=True) - xhat * along_xhat), dgamma, dbeta


@wrong_answer("debug_layer_norm_backward", cause="missing_path", also=("missing_term",))
def mended_norm_constant_mean(dy, cache):
    "The mean of dxhat is left out with the repair."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - xhat * (dxhat * xhat).mean(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause="factor_order")
def mended_norm_mean_of_gamma(dy, cache):
    "gamma is replaced by its mean: right for a gamma of equal entries."
    xhat, inverse_std, gamma = cache
    dxhat = gamma.mean() * dy
    along_xhat = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - xhat * along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("debug_layer_norm_backward", cause=None)
def mended_norm_nothing_returned(dy, cache):
    "Computes all, returns nothing."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True))
    dx -= inverse_std * xhat * (dxhat * xhat).mean(axis=1, keepdims=True)


@right_answer("debug_layer_norm_backward")
def mended_norm_gamma_early(dy, cache):
    "The old code in a helper, called with gamma * dy."

    def unit(dy, xhat):
        along = np.einsum("nd,nd->n", dy, xhat)[:, None] / dy.shape[1]
        return dy - np.average(dy, axis=1)[:, None] - xhat * along

    dx = unit(dy * cache.gamma, cache.xhat) * cache.inverse_std
    return dx, np.einsum("nd,nd->d", dy, cache.xhat), np.add.reduce(dy)


@right_answer("debug_layer_norm_backward")
def mended_norm_by_table(dy, cache):
    "The table of derivatives of each row."
    d = dy.shape[1]
    dx = np.empty_like(dy)
    for n in range(len(dy)):
        row = cache.xhat[n]
        table = (np.eye(d) - 1.0 / d - np.outer(row, row) / d) * cache.inverse_std[n, 0]
        dx[n] = table.T @ (cache.gamma * dy[n])
    return dx, np.sum(dy * cache.xhat, 0), np.sum(dy, 0)


@right_answer("debug_layer_norm_backward")
def mended_norm_with_sums(dy, cache):
    "Sums in place of means, all times d."
    xhat, inverse_std, gamma = cache
    d, g = xhat.shape[1], dy * gamma
    inner = d * g - g.sum(axis=1, keepdims=True) - xhat * (g * xhat).sum(axis=1, keepdims=True)
    ones = np.ones(len(dy), dy.dtype)
    return inverse_std / d * inner, ones @ (dy * xhat), ones @ dy


@right_answer("debug_layer_norm_backward")
def mended_norm_by_matrix_products(dy, cache):
    "Both means as matrix products."
    mean = np.full((dy.shape[1], 1), 1.0 / dy.shape[1], dy.dtype)
    dxhat = np.multiply(dy, cache[2])
    dx = cache[1] * (dxhat - dxhat @ mean - (dxhat * cache[0]) @ mean * cache[0])
    return dx, np.diag(dy.T @ cache[0]).copy(), dy.sum(0)


# debug_lora_linear_backward(dy, cache)


@wrong_answer("debug_lora_linear_backward", cause="constant_factor", also=("mask_ignored",))
def mended_lora_as_it_was(dy, cache):
    "Handed in unchanged: no scale in du, no mask."
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = dy @ B.T
    return dy @ W.T + du @ A.T, z.T @ du, dB


@wrong_answer("debug_lora_linear_backward", cause="mask_ignored")
def mended_lora_scale_only(dy, cache):
    "One of the two is mended: the mask is still missing."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    return dy @ W.T + du @ A.T, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def mended_lora_mask_only(dy, cache):
    "One of the two is mended: the scale is still missing."
    z, u, W, A, B, scale, mask = cache
    du = dy @ B.T
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause=None)
def mended_lora_mask_needed(dy, cache):
    "Fails where the mask is None."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    return dy @ W.T + (du @ A.T) * mask, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="elementwise_factor", also=("factor_order",))
def mended_lora_mask_on_both_ways(dy, cache):
    "The mask also stops the way through W."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = dy @ W.T + du @ A.T
    if mask is not None:
        dx = dx * mask
    return dx, z.T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def mended_lora_scale_in_da_alone(dy, cache):
    "The scale is put into dA, but not into the way to x."
    z, u, W, A, B, scale, mask = cache
    du = dy @ B.T
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, scale * (z.T @ du), scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="constant_factor")
def mended_lora_scale_twice(dy, cache):
    "du has the scale, and dA gets it once more."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, scale * (z.T @ du), scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="elementwise_factor")
def mended_lora_mask_in_da_again(dy, cache):
    "z has the mask already, and dA gets it a second time."
    z, u, W, A, B, scale, mask = cache
    m = 1.0 if mask is None else mask
    du = scale * (dy @ B.T)
    return dy @ W.T + (du @ A.T) * m, (z * m).T @ du, scale * (u.T @ dy)


@wrong_answer("debug_lora_linear_backward", cause="inplace")
def mended_lora_scales_b(dy, cache):
    "B in the cache is multiplied in place."
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    B *= scale
    du = dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ du, dB


@wrong_answer("debug_lora_linear_backward", cause="mask_ignored")
def mended_lora_mask_as_truth(dy, cache):
    "The mask is used as true or false: the factor 1 / (1 - p) is lost."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    if mask is not None:
        dz = np.where(mask, dz, 0.0)
    return dy @ W.T + dz, z.T @ du, scale * (u.T @ dy)


@right_answer("debug_lora_linear_backward")
def mended_lora_upstream_scaled(dy, cache):
    "The upstream of the detour is scaled once, at the top."
    z, u, W, A, B, scale, mask = cache
    up = scale * dy
    du = np.matmul(up, B.T)
    dx = np.matmul(du, A.T)
    if mask is not None:
        dx *= mask
    dx += dy @ W.T
    return dx, np.matmul(z.T, du), np.matmul(u.T, up)


@right_answer("debug_lora_linear_backward")
def mended_lora_by_windows(dy, cache):
    "Forms G and the full update: dear, but right."
    G = cache.z.T @ dy
    dx = (dy @ (cache.scale * cache.A @ cache.B).T) * (1 if cache.mask is None else cache.mask)
    return dx + dy @ cache.W.T, cache.scale * G @ cache.B.T, cache.scale * cache.A.T @ G


@right_answer("debug_lora_linear_backward")
def mended_lora_by_einsum(dy, cache):
    "einsum all the way."
    z, u, W, A, B, scale, mask = cache
    du = np.einsum("no,ro->nr", dy, B) * scale
    dz = np.einsum("nr,ir->ni", du, A)
    if mask is not None:
        dz = np.einsum("ni,ni->ni", dz, mask)
    return np.einsum("no,io->ni", dy, W) + dz, np.einsum("ni,nr->ir", z, du), np.einsum("nr,no->ro", u, dy) * scale


@right_answer("debug_lora_linear_backward")
def mended_lora_row_by_row(dy, cache):
    "Adds up outer products, a row at a time."
    z, u, W, A, B, scale, mask = cache
    dx, dA, dB = np.empty_like(z), np.zeros_like(A), np.zeros_like(B)
    for n in range(len(dy)):
        du = scale * (B @ dy[n])
        dA += np.outer(z[n], du)
        dB += np.outer(scale * u[n], dy[n])
        dz = A @ du
        dx[n] = W @ dy[n] + (dz if mask is None else mask[n] * dz)
    return dx, dA, dB
