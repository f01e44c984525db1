"""Chapter 5: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.lora_linear import LoRALinearCache

# lora_linear_forward


@wrong_answer("lora_linear_forward", cause="constant_factor")
def lora_scale_forgotten(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="elementwise_factor", also=("wrong_cached_value",))
def lora_drops_the_input_of_both(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = ops.linear_forward(z, W, b)[0] + scale * (u @ B)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="factor_order", also=("constant_factor",))
def lora_scales_all(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = scale * (x @ W + u @ B)
    if b is not None:
        y = y + b
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def lora_divides_by_r_again(x, W, b, A, B, scale, mask=None):
    r = A.shape[1]
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else mask * x
    u = z @ A
    y = y0 + (scale / r) * (u @ B)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor", also=("mask_ignored",))
def lora_mask_as_zeros_and_ones(x, W, b, A, B, scale, mask=None):
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else np.where(mask > 0, x, 0)
    u = z @ A
    return y0 + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="mask_ignored", also=("wrong_cached_value",))
def lora_computes_z_for_nothing(x, W, b, A, B, scale, mask=None):
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = x @ A
    y = y0 + scale * (u @ B)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="missing_term", also=("missing_path",))
def lora_detour_alone(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = scale * (u @ B)
    if b is not None:
        y = y + b
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="inplace")
def lora_masks_the_callers_x(x, W, b, A, B, scale, mask=None):
    y0, _ = ops.linear_forward(x, W, b)
    if mask is not None:
        x *= mask
    u = x @ A
    return y0 + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_merged_on_the_fly(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    y = x @ W + z @ (scale * (A @ B))
    return (y if b is None else y + b), LoRALinearCache(z, z @ A, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_side_by_side(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = np.hstack([x, u]) @ np.vstack([W, scale * B])
    if b is not None:
        y += b
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def lora_rank_by_rank(x, W, b, A, B, scale, mask=None):
    y = ops.linear_forward(x, W, b)[0].copy()
    z = np.multiply(x, 1 if mask is None else mask)
    u = np.einsum("ni,ir->nr", z, A)
    for k in range(A.shape[1]):
        y += scale * np.outer(u[:, k], B[k])
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


# lora_linear_backward


@wrong_answer("lora_linear_backward", cause="constant_factor")
def lora_back_scale_missing_in_b(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = dy @ B.T * scale
    dA = z.T @ du
    dB = u.T @ dy
    dz = du @ A.T
    return (dz if mask is None else dz * mask) + dy @ W.T, dA, dB


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def lora_back_through_the_detour_only(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dA = z.T @ du
    dx = du @ A.T
    if mask is not None:
        dx = dx * mask
    return dx, dA, dB


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def lora_back_through_w_only(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dx = dy @ W.T
    du = scale * np.matmul(dy, B.T)
    return dx, np.matmul(z.T, du), scale * np.matmul(u.T, dy)


@wrong_answer("lora_linear_backward", cause="transpose", also=("shape",))
def lora_back_as_peft_stores_a(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = du.T @ z
    dB = scale * (u.T @ dy)
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, dA, dB


@wrong_answer("lora_linear_backward", cause="zero_gradient", also=("not_accumulated",))
def lora_back_dead_accumulator(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = np.zeros_like(A)
    for row, g in zip(z, du):
        dA + np.outer(row, g)  # noqa: B018
    dz = du @ A.T
    dx = dy @ W.T + (dz if mask is None else dz * mask)
    return dx, dA, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="mean_vs_sum", also=("constant_factor",))
def lora_back_mean_over_the_batch(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * (dy @ B.T)
    dA = (z[:, :, None] * du[:, None, :]).mean(axis=0)
    dB = scale * (u.T @ dy)
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), dA, dB


@wrong_answer("lora_linear_backward", cause="inplace")
def lora_back_scales_dy_in_place(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dx = dy @ W.T
    dy *= scale
    du = dy @ B.T
    dB = u.T @ dy
    dz = du @ A.T
    dx = dx + (dz if mask is None else dz * mask)
    return dx, z.T @ du, dB


@wrong_answer("lora_linear_backward", cause="sign")
def lora_back_subtracts_the_detour(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * (u.T @ dy)
    du = scale * (dy @ B.T)
    dz = du @ A.T
    if mask is not None:
        dz = dz * mask
    return dy @ W.T - dz, z.T @ du, dB


@right_answer("lora_linear_backward")
def lora_back_full_gradient_first(dy, cache):
    z, u, W, A, B, scale, mask = cache
    G = np.einsum("ni,no->io", z, dy) * scale
    dA, dB = np.einsum("io,ro->ir", G, B), np.einsum("io,ir->ro", G, A)
    m = np.ones_like(z) if mask is None else mask
    return np.einsum("no,io->ni", dy, W) + m * np.einsum("no,ro,ir->ni", dy, B, scale * A), dA, dB


@right_answer("lora_linear_backward")
def lora_back_by_two_linear_backwards(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du, dB, _ = ops.linear_backward(scale * dy, ops.linear_forward(u, B)[1])
    dz, dA, _ = ops.linear_backward(du, ops.linear_forward(z, A)[1])
    dx, _, _ = ops.linear_backward(dy, ops.linear_forward(z, W)[1])
    return dx + ops.dropout_backward(dz, (mask,)), dA, dB


@right_answer("lora_linear_backward")
def lora_back_transposed_throughout(dy, cache):
    g = cache.scale * dy.T
    back = cache.B @ g
    dx = cache.A @ back
    if cache.mask is not None:
        dx = dx * cache.mask.T
    return (dx + cache.W @ dy.T).T, (back @ cache.z).T, (g @ cache.u).T


# lora_init


@wrong_answer("lora_init", cause="swapped")
def init_zeros_in_a(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = np.zeros((d_in, r), dtype=dtype)
    B = rng.uniform(-bound, bound, size=(r, d_out)).astype(dtype)
    return A, B


@wrong_answer("lora_init", cause="constant_factor", also=("wrong_cached_value",))
def init_bound_of_the_rank(d_in, d_out, r, rng, dtype):
    k = 1 / np.sqrt(r)
    return rng.uniform(-k, k, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="wrong_cached_value", also=("constant_factor",))
def init_bound_of_the_other_side(d_in, d_out, r, rng, dtype):
    limit = d_out**-0.5
    A = rng.uniform(-limit, limit, (d_in, r)).astype(dtype)
    return A, np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="constant_factor")
def init_he_bound(d_in, d_out, r, rng, dtype):
    bound = math.sqrt(6 / d_in)
    A = rng.uniform(-bound, bound, (d_in, r))
    return A.astype(dtype), np.zeros((r, d_out)).astype(dtype)


@wrong_answer("lora_init", cause="zero_gradient")
def init_both_zero(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = np.zeros((d_in, r), dtype)
    A + rng.uniform(-bound, bound, A.shape)  # noqa: B018
    return A, np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="transpose", also=("shape",))
def init_as_peft_stores_a(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (r, d_in)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="dtype")
def init_in_double(d_in, d_out, r, rng, dtype):
    bound = 1.0 / np.sqrt(d_in)
    A = rng.uniform(-bound, bound, (d_in, r))
    B = np.zeros((r, d_out), dtype)
    return A, B


@wrong_answer("lora_init", cause="sign", also=("missing_term", "constant_factor"))
def init_positive_half(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = (rng.random((d_in, r)) * bound).astype(dtype)
    return A, np.zeros((r, d_out), dtype)


@right_answer("lora_init")
def init_from_unit_numbers(d_in, d_out, r, rng, dtype):
    A = (2 * rng.random((d_in, r)) - 1) / d_in**0.5
    return np.asarray(A, dtype), np.full((r, d_out), 0, dtype)


@right_answer("lora_init")
def init_row_after_row(d_in, d_out, r, rng, dtype):
    high = math.pow(d_in, -0.5)
    A = np.empty((d_in, r), dtype)
    for i in range(d_in):
        A[i] = rng.uniform(low=-high, high=high, size=r)
    return A, np.zeros((r, d_out), dtype=dtype)


@right_answer("lora_init")
def init_flat_draw(d_in, d_out, r, rng, dtype):
    numbers = rng.uniform(-1, 1, d_in * r) * math.sqrt(1 / d_in)
    A = numbers.reshape(d_in, r).astype(dtype)
    return A, np.zeros_like(A, shape=(r, d_out))
