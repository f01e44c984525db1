import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.lora_linear import LoRALinearCache

# lora_linear_forward(x, W, b, A, B, scale, mask=None)


@wrong_answer("lora_linear_forward", cause="missing_term")
def lora_without_bias(x, W, b, A, B, scale, mask=None):
    "b is never added."
    z = x if mask is None else x * mask
    u = z @ A
    return x @ W + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause=None)
def lora_bias_needed(x, W, b, A, B, scale, mask=None):
    "Fails where b is None."
    z = x if mask is None else x * mask
    u = z @ A
    return x @ W + b + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def lora_without_scale(x, W, b, A, B, scale, mask=None):
    "The scale is only cached."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y0 + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="factor_order")
def lora_scale_on_everything(x, W, b, A, B, scale, mask=None):
    "The scale multiplies the pretrained map as well."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return scale * (y0 + u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value", also=("elementwise_factor",))
def lora_dropout_on_both_ways(x, W, b, A, B, scale, mask=None):
    "The mask also acts on the input of the pretrained map."
    if mask is not None:
        x = x * mask
    y0, _ = ops.linear_forward(x, W, b)
    u = x @ A
    return y0 + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="mask_ignored")
def lora_mask_only_cached(x, W, b, A, B, scale, mask=None):
    "The mask is not applied."
    y0, _ = ops.linear_forward(x, W, b)
    u = x @ A
    return y0 + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value")
def lora_cache_of_x(x, W, b, A, B, scale, mask=None):
    "x is cached as z."
    y0, _ = ops.linear_forward(x, W, b)
    u = (x if mask is None else x * mask) @ A
    return y0 + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value", also=("constant_factor",))
def lora_cache_of_scaled_u(x, W, b, A, B, scale, mask=None):
    "u is cached after the scale."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y0 + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="inplace")
def lora_mask_in_place(x, W, b, A, B, scale, mask=None):
    "The caller's x is multiplied by the mask in place."
    y0, _ = ops.linear_forward(x, W, b)
    z = x
    if mask is not None:
        z *= mask
    u = z @ A
    return y0 + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def lora_mask_as_truth(x, W, b, A, B, scale, mask=None):
    "The mask is used as true or false, so the mean of z is too small."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else np.where(mask > 0, x, 0).astype(x.dtype)
    u = z @ A
    return y0 + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause=None)
def lora_mask_lost_in_the_cache(x, W, b, A, B, scale, mask=None):
    "The mask is applied, but the cache holds None."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y0 + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, None)


@wrong_answer("lora_linear_forward", cause="swapped")
def lora_cache_in_another_order(x, W, b, A, B, scale, mask=None):
    "u is put before z."
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y0 + scale * (u @ B), LoRALinearCache(u, z, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause=None)
def lora_return_only_with_mask(x, W, b, A, B, scale, mask=None):
    "Without a mask nothing is returned."
    y0, _ = ops.linear_forward(x, W, b)
    if mask is not None:
        z = x * mask
        u = z @ A
        return y0 + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_by_einsum(x, W, b, A, B, scale, mask=None):
    "einsum, and the fields by name."
    z = np.einsum("ni,ni->ni", x, mask) if mask is not None else x
    u = np.einsum("ni,ir->nr", z, A)
    y = np.einsum("ni,io->no", x, W) + scale * np.einsum("nr,ro->no", u, B)
    if b is not None:
        y += b
    return y, LoRALinearCache(mask=mask, scale=scale, B=B, A=A, W=W, u=u, z=z)


@right_answer("lora_linear_forward")
def lora_scale_on_b(x, W, b, A, B, scale, mask=None):
    "The scale is multiplied into B, which is small."
    y, (x, W) = ops.linear_forward(x, W, b)
    z = np.multiply(x, 1 if mask is None else mask)
    u = z @ A
    return np.add(y, u @ (scale * B)), LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_as_one_wide_product(x, W, b, A, B, scale, mask=None):
    "Side by side: (x, s u) times W above B."
    z = x.copy() if mask is None else mask * x
    u = np.dot(z, A)
    y = np.concatenate([x, scale * u], axis=1) @ np.concatenate([W, B], axis=0)
    return (y if b is None else y + b), LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_by_rank(x, W, b, A, B, scale, mask=None):
    "One unit of rank after the other."
    y, _ = ops.linear_forward(x, W, b)
    y = y.copy()
    z = x if mask is None else x * mask
    u = np.stack([z @ A[:, k] for k in range(A.shape[1])], axis=1)
    for k in range(A.shape[1]):
        y += scale * np.outer(u[:, k], B[k])
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


# lora_linear_backward(dy, cache)


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def lora_back_detour_only(dy, cache):
    "dx has the way through the detour alone."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return (dz if mask is None else dz * mask), z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def lora_back_pretrained_only(dy, cache):
    "dx has the way through W alone."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    return dy @ W.T, z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="mask_ignored")
def lora_back_without_mask(dy, cache):
    "The mask is not looked at."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    return du @ A.T + dy @ W.T, z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="factor_order", also=("elementwise_factor",))
def lora_back_mask_on_the_sum(dy, cache):
    "The mask multiplies both ways."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dx = du @ A.T + dy @ W.T
    return (dx if mask is None else dx * mask), z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="constant_factor")
def lora_back_scale_missing_in_db(dy, cache):
    "dB has no scale."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, z.T @ du, u.T @ dy


@wrong_answer("lora_linear_backward", cause="constant_factor")
def lora_back_scale_missing_in_du(dy, cache):
    "du has no scale, and so dA and dx."
    z, u, W, A, B, scale, mask = cache
    du = dy @ B.T
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="constant_factor")
def lora_back_scale_twice(dy, cache):
    "dA and dz get the scale once more."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = scale * (du @ A.T)
    return (dz if mask is None else dz * mask) + dy @ W.T, scale * (z.T @ du), scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="factor_order", also=("constant_factor",))
def lora_back_scale_on_both_ways(dy, cache):
    "dy is scaled at the top, and the way through W gets it, too."
    z, u, W, A, B, scale, mask = cache
    dy = scale * dy
    du = dy @ B.T
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, z.T @ du, u.T @ dy


@wrong_answer("lora_linear_backward", cause="swapped")
def lora_back_db_before_da(dy, cache):
    "dB is returned before dA."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, scale * (u.T @ dy), z.T @ du


@wrong_answer("lora_linear_backward", cause="transpose")
def lora_back_as_peft_stores_it(dy, cache):
    "dA and dB come out turned, as PEFT stores A and B."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, du.T @ z, scale * (dy.T @ u)


@wrong_answer("lora_linear_backward", cause="shape")
def lora_back_with_dw(dy, cache):
    "dW is returned as well, though W is frozen."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, z.T @ dy, z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="mean_vs_sum")
def lora_back_per_row(dy, cache):
    "dA and dB are divided by the number of rows."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    N = len(dy)
    return (dz if mask is None else dz * mask) + dy @ W.T, z.T @ du / N, scale * (u.T @ dy) / N


@wrong_answer("lora_linear_backward", cause="inplace")
def lora_back_upstream_in_place(dy, cache):
    "dy is scaled in place at the end of its use."
    z, u, W, A, B, scale, mask = cache
    dx = dy @ W.T
    dy *= scale
    du = dy @ B.T
    dz = du @ A.T
    return dx + (dz if mask is None else dz * mask), z.T @ du, u.T @ dy


@wrong_answer("lora_linear_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def lora_back_masked_again(dy, cache):
    "dA is formed with z times the mask, which z has already."
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dz = du @ A.T
    if mask is None:
        return dz + dy @ W.T, z.T @ du, scale * (u.T @ dy)
    return dz * mask + dy @ W.T, (z * mask).T @ du, scale * (u.T @ dy)


@right_answer("lora_linear_backward")
def lora_back_by_linear_backward(dy, cache):
    "The backward of a linear map, three times."
    z, u, W, A, B, scale, mask = cache
    du, dB, _ = ops.linear_backward(scale * dy, (u, B))
    dz, dA, _ = ops.linear_backward(du, (z, A))
    dx, _, _ = ops.linear_backward(dy, (z, W))
    return dx + (dz * mask if mask is not None else dz), dA, dB


@right_answer("lora_linear_backward")
def lora_back_through_g(dy, cache):
    "Forms G, and the change of W."
    z, u, W, A, B, scale, mask = cache
    G = z.T @ dy
    dx = dy @ (scale * (A @ B)).T
    if mask is not None:
        dx = np.where(mask == 0, np.zeros_like(dx), dx * mask)
    return np.add(dx, dy @ W.T), scale * (G @ B.T), scale * (A.T @ G)


@right_answer("lora_linear_backward")
def lora_back_by_einsum(dy, cache):
    "einsum with three factors."
    m = np.ones_like(cache.z) if cache.mask is None else cache.mask
    s = cache.scale
    dx = np.einsum("no,io->ni", dy, cache.W) + m * np.einsum("no,ro,ir->ni", s * dy, cache.B, cache.A)
    return dx, s * np.einsum("ni,no,ro->ir", cache.z, dy, cache.B), s * np.einsum("ni,ir,no->ro", cache.z, cache.A, dy)


@right_answer("lora_linear_backward")
def lora_back_turned(dy, cache):
    "All products turned round."
    z, u, W, A, B, scale, mask = cache
    duT = scale * (B @ dy.T)
    dzT = A @ duT
    if mask is not None:
        dzT = dzT * mask.T
    return (dzT + W @ dy.T).T, (duT @ z).T, ((scale * dy).T @ u).T
