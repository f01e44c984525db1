"""Answers to the exercises of chapter 5, first part: the LoRA layer forward, and its start."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.lora_linear import LoRALinearCache


@wrong_answer("lora_linear_forward", cause="constant_factor")
def update_not_scaled(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = x @ W + u @ B
    return (y if b is None else y + b), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="mask_ignored")
def dropout_forgotten(x, W, b, A, B, scale, mask=None):
    u = x @ A
    y = x @ W + scale * (u @ B)
    return (y if b is None else y + b), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value", also=("elementwise_factor",))
def dropout_before_both(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = z @ W + scale * (u @ B)
    return (y if b is None else y + b), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="missing_term")
def base_without_bias(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    return x @ W + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="factor_order", also=("constant_factor",))
def base_scaled_too(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return scale * (y + u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="missing_term", also=("missing_path",))
def detour_alone(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    return scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value")
def x_cached_for_z(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def scaled_twice(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="wrong_cached_value", also=("constant_factor",))
def scaled_u_cached(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def scale_over_r_again(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y + scale / A.shape[1] * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="inplace")
def x_dropped_in_place(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    if mask is not None:
        x *= mask
    u = x @ A
    return y + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="inplace")
def merged_into_the_base(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    W += scale * (A @ B)
    y, _ = ops.linear_forward(x, W, b)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause=None)
def mask_expected(x, W, b, A, B, scale, mask=None):
    z = x * mask
    u = z @ A
    return ops.linear_forward(x, W, b)[0] + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="transpose")
def factors_as_in_peft(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A.T
    return ops.linear_forward(x, W, b)[0] + scale * (u @ B.T), LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def one_product_of_blocks(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = np.einsum("ni,ir->nr", z, A)
    y = np.hstack([x, u]) @ np.vstack([W, scale * B])
    if b is not None:
        y += b
    return [y, (z, u, W, A, B, scale, mask)]


@right_answer("lora_linear_forward")
def effective_weights(x, W, b, A, B, scale, mask=None):
    update = scale * np.dot(A, B)
    z = x if mask is None else np.multiply(mask, x)
    y = x @ (W + update) if mask is None else x @ W + z @ update
    if b is not None:
        y = b + y
    return y, LoRALinearCache(z, z @ A, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def row_by_row_through_the_detour(x, W, b, A, B, scale, mask=None):
    z = (x if mask is None else x * mask).copy()
    u, y = np.empty((len(x), A.shape[1]), x.dtype), np.empty((len(x), W.shape[1]), x.dtype)
    for n in range(len(x)):
        u[n] = A.T @ z[n]
        y[n] = W.T @ x[n] + B.T @ (u[n] * scale)
        if b is not None:
            y[n] += b
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_init", cause=None)
def both_random(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = rng.uniform(-bound, bound, (d_in, r)).astype(dtype)
    return A, rng.uniform(-bound, bound, (r, d_out)).astype(dtype)


@wrong_answer("lora_init", cause="zero_gradient")
def both_zero(d_in, d_out, r, rng, dtype):
    return np.zeros((d_in, r), dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="swapped")
def a_zero_b_random(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.zeros((d_in, r), dtype), rng.uniform(-bound, bound, (r, d_out)).astype(dtype)


@wrong_answer("lora_init", cause="dtype")
def dtype_forgotten(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)), np.zeros((r, d_out))


@wrong_answer("lora_init", cause="constant_factor")
def bound_from_r(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(r)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="constant_factor")
def bound_without_root(d_in, d_out, r, rng, dtype):
    bound = 1 / d_in
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="transpose", also=("shape",))
def shapes_of_peft(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (r, d_in)).astype(dtype), np.zeros((d_out, r), dtype)


@wrong_answer("lora_init", cause=None)
def from_zero_up(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return (rng.random((d_in, r)) * bound).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause=None)
def own_generator(d_in, d_out, r, rng, dtype):
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="nondeterministic")
def global_generator(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = np.random.default_rng().uniform(-bound, bound, (d_in, r)).astype(dtype)
    return A, np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="swapped", also=("shape",))
def b_returned_first(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.zeros((r, d_out), dtype), rng.uniform(-bound, bound, (d_in, r)).astype(dtype)


@wrong_answer("lora_init", cause=None)
def one_number_for_all(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.full((d_in, r), rng.uniform(-bound, bound), dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause=None)
def small_normal_numbers(d_in, d_out, r, rng, dtype):
    return (0.02 * rng.standard_normal((d_in, r))).astype(dtype), np.zeros((r, d_out), dtype)


@right_answer("lora_init")
def spread_of_unit_interval(d_in, d_out, r, rng, dtype):
    A = (2 * rng.random((d_in, r)) - 1) / math.sqrt(d_in)
    return [A.astype(dtype), np.zeros(shape=(r, d_out), dtype=dtype)]


@right_answer("lora_init")
def drawn_in_another_order(d_in, d_out, r, rng, dtype):
    bound = d_in**-0.5
    A = np.empty((d_in, r), dtype)
    for k in range(r):
        A[:, k] = rng.uniform(low=-bound, high=bound, size=d_in)
    return A, 0 * np.ones((r, d_out), dtype)


@right_answer("lora_init")
def drawn_transposed(d_in, d_out, r, rng, dtype):
    bound = np.sqrt(1 / d_in)
    A = rng.uniform(-bound, bound, size=(r, d_in)).T
    return np.ascontiguousarray(A, dtype=dtype), np.zeros((d_out, r), dtype=dtype).T.copy()
