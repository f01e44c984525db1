"""Answers to the exercises of chapter 5, by somebody who saw their text alone."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops.lora_linear import LoRALinearCache


@wrong_answer("lora_linear_forward", cause="constant_factor", also=("wrong_cached_value",))
def scale_is_in_the_cached_u(x, W, b, A, B, scale, mask=None):
    y0, _ = ops.linear_forward(x, W, b)
    z = x if mask is None else x * mask
    u = scale * (z @ A)
    return y0 + u @ B, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="constant_factor")
def mask_as_yes_or_no(x, W, b, A, B, scale, mask=None):
    y = x @ W
    if b is not None:
        y = y + b
    z = x if mask is None else np.where(mask > 0, x, np.zeros_like(x))
    u = z @ A
    y = y + scale * (u @ B)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@wrong_answer("lora_linear_forward", cause="inplace")
def dropout_on_the_callers_x(x, W, b, A, B, scale, mask=None):
    y = ops.linear_forward(x, W, b)[0]
    z = x
    if mask is not None:
        z *= mask
    u = np.einsum("ni,ir->nr", z, A)
    y = y + scale * np.einsum("nr,ro->no", u, B)
    return y, LoRALinearCache(z, u, W, A, B, scale, mask)


@right_answer("lora_linear_forward")
def both_paths_as_one_product(x, W, b, A, B, scale, mask=None):
    z = x * (1 if mask is None else mask)
    u = np.dot(z, A)
    y = np.concatenate([x, scale * u], axis=1) @ np.concatenate([W, B], axis=0)
    if b is not None:
        y += b
    return y, LoRALinearCache(mask=mask, scale=scale, B=B, A=A, W=W, u=u, z=z)


@wrong_answer("lora_linear_backward", cause="elementwise_factor", also=("factor_order",))
def mask_on_both_paths(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dA = z.T @ du
    dB = scale * u.T @ dy
    dx = dy @ W.T + du @ A.T
    if mask is not None:
        dx = dx * mask
    return dx, dA, dB


@wrong_answer("lora_linear_backward", cause="constant_factor")
def scale_once_more_in_da(dy, cache):
    s = cache.scale
    du = s * (dy @ cache.B.T)
    detour = du @ cache.A.T
    if cache.mask is not None:
        detour = detour * cache.mask
    grads = {"A": s * (cache.z.T @ du), "B": s * (cache.u.T @ dy)}
    return dy @ cache.W.T + detour, grads["A"], grads["B"]


@wrong_answer("lora_linear_backward", cause="missing_path")
def detour_only_under_a_mask(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dB = scale * np.einsum("nr,no->ro", u, dy)
    du = scale * np.einsum("no,ro->nr", dy, B)
    dA = np.einsum("ni,nr->ir", z, du)
    dx = np.einsum("no,io->ni", dy, W)
    if mask is not None:
        dx = dx + mask * np.einsum("nr,ir->ni", du, A)
    return dx, dA, dB


@right_answer("lora_linear_backward")
def by_the_gradient_of_the_full_update(dy, cache):
    z, _, W, A, B, scale, mask = cache
    G = scale * np.tensordot(z, dy, axes=(0, 0))  # of A B, were it one matrix
    through = scale * (dy @ (A @ B).T)
    return through * (1 if mask is None else mask) + dy @ W.T, G @ B.T, A.T @ G


@wrong_answer("lora_init", cause="dtype")
def divided_after_the_cast(d_in, d_out, r, rng, dtype):
    A = rng.uniform(-1, 1, size=(d_in, r)).astype(dtype) / np.sqrt(d_in)
    B = np.zeros((r, d_out), dtype=dtype)
    return A, B


@wrong_answer("lora_init", cause="nondeterministic")
def a_generator_of_its_own(d_in, d_out, r, rng, dtype):
    rng = np.random.default_rng()
    limit = d_in**-0.5
    return rng.uniform(-limit, limit, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@wrong_answer("lora_init", cause="constant_factor")
def gain_of_kaiming_for_relu(d_in, d_out, r, rng, dtype):
    bound = (6 / d_in) ** 0.5
    A = rng.uniform(-bound, bound, (d_in, r))
    return A.astype(dtype), np.zeros_like(A, shape=(r, d_out), dtype=dtype)


@right_answer("lora_init")
def from_the_unit_interval(d_in, d_out, r, rng, dtype):
    A = (2 * rng.random((d_in, r)) - 1) * d_in**-0.5
    return np.asarray(A, dtype=dtype), np.full((r, d_out), 0, dtype=dtype)
