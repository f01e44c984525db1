"""Answers to the exercises of chapter 5, first part: the LoRA layer forward, and its start."""

import math

import numpy as np
from answers_parts import Right, Wrong

from lora_np import ops
from lora_np.ops.lora_linear import LoRALinearCache


def update_not_scaled(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = x @ W + u @ B
    return (y if b is None else y + b), LoRALinearCache(z, u, W, A, B, scale, mask)


def dropout_forgotten(x, W, b, A, B, scale, mask=None):
    u = x @ A
    y = x @ W + scale * (u @ B)
    return (y if b is None else y + b), LoRALinearCache(x, u, W, A, B, scale, mask)


def dropout_before_both(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    y = z @ W + scale * (u @ B)
    return (y if b is None else y + b), LoRALinearCache(z, u, W, A, B, scale, mask)


def base_without_bias(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    return x @ W + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def base_scaled_too(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return scale * (y + u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def detour_alone(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    return scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def x_cached_for_z(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


def scaled_twice(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def scaled_u_cached(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


def scale_over_r_again(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = z @ A
    return y + scale / A.shape[1] * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def x_dropped_in_place(x, W, b, A, B, scale, mask=None):
    y, _ = ops.linear_forward(x, W, b)
    if mask is not None:
        x *= mask
    u = x @ A
    return y + scale * (u @ B), LoRALinearCache(x, u, W, A, B, scale, mask)


def merged_into_the_base(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A
    W += scale * (A @ B)
    y, _ = ops.linear_forward(x, W, b)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


def mask_expected(x, W, b, A, B, scale, mask=None):
    z = x * mask
    u = z @ A
    return ops.linear_forward(x, W, b)[0] + scale * (u @ B), LoRALinearCache(z, u, W, A, B, scale, mask)


def factors_as_in_peft(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = z @ A.T
    return ops.linear_forward(x, W, b)[0] + scale * (u @ B.T), LoRALinearCache(z, u, W, A, B, scale, mask)


def one_product_of_blocks(x, W, b, A, B, scale, mask=None):
    z = x if mask is None else x * mask
    u = np.einsum("ni,ir->nr", z, A)
    y = np.hstack([x, u]) @ np.vstack([W, scale * B])
    if b is not None:
        y += b
    return [y, (z, u, W, A, B, scale, mask)]


def effective_weights(x, W, b, A, B, scale, mask=None):
    update = scale * np.dot(A, B)
    z = x if mask is None else np.multiply(mask, x)
    y = x @ (W + update) if mask is None else x @ W + z @ update
    if b is not None:
        y = b + y
    return y, LoRALinearCache(z, z @ A, W, A, B, scale, mask)


def row_by_row_through_the_detour(x, W, b, A, B, scale, mask=None):
    z = (x if mask is None else x * mask).copy()
    u, y = np.empty((len(x), A.shape[1]), x.dtype), np.empty((len(x), W.shape[1]), x.dtype)
    for n in range(len(x)):
        u[n] = A.T @ z[n]
        y[n] = W.T @ x[n] + B.T @ (u[n] * scale)
        if b is not None:
            y[n] += b
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


def both_random(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = rng.uniform(-bound, bound, (d_in, r)).astype(dtype)
    return A, rng.uniform(-bound, bound, (r, d_out)).astype(dtype)


def both_zero(d_in, d_out, r, rng, dtype):
    return np.zeros((d_in, r), dtype), np.zeros((r, d_out), dtype)


def a_zero_b_random(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.zeros((d_in, r), dtype), rng.uniform(-bound, bound, (r, d_out)).astype(dtype)


def dtype_forgotten(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)), np.zeros((r, d_out))


def bound_from_r(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(r)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


def bound_without_root(d_in, d_out, r, rng, dtype):
    bound = 1 / d_in
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


def shapes_of_peft(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (r, d_in)).astype(dtype), np.zeros((d_out, r), dtype)


def from_zero_up(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return (rng.random((d_in, r)) * bound).astype(dtype), np.zeros((r, d_out), dtype)


def own_generator(d_in, d_out, r, rng, dtype):
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


def global_generator(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    A = np.random.default_rng().uniform(-bound, bound, (d_in, r)).astype(dtype)
    return A, np.zeros((r, d_out), dtype)


def b_returned_first(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.zeros((r, d_out), dtype), rng.uniform(-bound, bound, (d_in, r)).astype(dtype)


def one_number_for_all(d_in, d_out, r, rng, dtype):
    bound = 1 / math.sqrt(d_in)
    return np.full((d_in, r), rng.uniform(-bound, bound), dtype), np.zeros((r, d_out), dtype)


def small_normal_numbers(d_in, d_out, r, rng, dtype):
    return (0.02 * rng.standard_normal((d_in, r))).astype(dtype), np.zeros((r, d_out), dtype)


def spread_of_unit_interval(d_in, d_out, r, rng, dtype):
    A = (2 * rng.random((d_in, r)) - 1) / math.sqrt(d_in)
    return [A.astype(dtype), np.zeros(shape=(r, d_out), dtype=dtype)]


def drawn_in_another_order(d_in, d_out, r, rng, dtype):
    bound = d_in**-0.5
    A = np.empty((d_in, r), dtype)
    for k in range(r):
        A[:, k] = rng.uniform(low=-bound, high=bound, size=d_in)
    return A, 0 * np.ones((r, d_out), dtype)


def drawn_transposed(d_in, d_out, r, rng, dtype):
    bound = np.sqrt(1 / d_in)
    A = rng.uniform(-bound, bound, size=(r, d_in)).T
    return np.ascontiguousarray(A, dtype=dtype), np.zeros((d_out, r), dtype=dtype).T.copy()


WRONG = [
    Wrong("lora_linear_forward", update_not_scaled, "constant_factor"),
    Wrong("lora_linear_forward", dropout_forgotten, "mask_ignored"),
    Wrong("lora_linear_forward", dropout_before_both, "wrong_cached_value", ("elementwise_factor",)),
    Wrong("lora_linear_forward", base_without_bias, "missing_term"),
    Wrong("lora_linear_forward", base_scaled_too, "factor_order", ("constant_factor",)),
    Wrong("lora_linear_forward", detour_alone, "missing_term", ("missing_path",)),
    Wrong("lora_linear_forward", x_cached_for_z, "wrong_cached_value"),
    Wrong("lora_linear_forward", scaled_twice, "constant_factor"),
    Wrong("lora_linear_forward", scaled_u_cached, "wrong_cached_value", ("constant_factor",)),
    Wrong("lora_linear_forward", scale_over_r_again, "constant_factor"),
    Wrong("lora_linear_forward", x_dropped_in_place, "inplace"),
    Wrong("lora_linear_forward", merged_into_the_base, "inplace"),
    Wrong("lora_linear_forward", mask_expected, None),
    Wrong("lora_linear_forward", factors_as_in_peft, "transpose"),
    Wrong("lora_init", both_random, None),
    Wrong("lora_init", both_zero, "zero_gradient"),
    Wrong("lora_init", a_zero_b_random, "swapped"),
    Wrong("lora_init", dtype_forgotten, "dtype"),
    Wrong("lora_init", bound_from_r, "constant_factor"),
    Wrong("lora_init", bound_without_root, "constant_factor"),
    Wrong("lora_init", shapes_of_peft, "transpose", ("shape",)),
    Wrong("lora_init", from_zero_up, None),
    Wrong("lora_init", own_generator, None),
    Wrong("lora_init", global_generator, "nondeterministic"),
    Wrong("lora_init", b_returned_first, "swapped", ("shape",)),
    Wrong("lora_init", one_number_for_all, None),
    Wrong("lora_init", small_normal_numbers, None),
]
RIGHT = [
    Right("lora_linear_forward", one_product_of_blocks),
    Right("lora_linear_forward", effective_weights),
    Right("lora_linear_forward", row_by_row_through_the_detour),
    Right("lora_init", spread_of_unit_interval),
    Right("lora_init", drawn_in_another_order),
    Right("lora_init", drawn_transposed),
]
