"""Answers to the exercises of chapter 5, second part: the LoRA layer backward."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def dx_without_detour(dy, cache):
    z, u, W, A, B, scale, mask = cache
    return dy @ W.T, scale * z.T @ (dy @ B.T), scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="missing_path", also=("missing_term",))
def dx_without_base(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dx = du @ A.T
    return (dx if mask is None else dx * mask), z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="factor_order", also=("elementwise_factor",))
def sum_of_both_dropped(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dx = dy @ W.T + du @ A.T
    return (dx if mask is None else dx * mask), z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="mask_ignored", also=("elementwise_factor",))
def mask_not_on_the_way_back(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    return dy @ W.T + du @ A.T, z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="constant_factor")
def scale_missing_for_b(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ du, u.T @ dy


@wrong_answer("lora_linear_backward", cause="constant_factor")
def scale_missing_for_a(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = dy @ B.T
    dz = scale * du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="swapped", also=("shape",))
def b_before_a_returned(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), scale * u.T @ dy, z.T @ du


@wrong_answer("lora_linear_backward", cause="transpose", also=("shape",))
def b_in_the_layout_of_peft(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), du.T @ z, scale * dy.T @ u


@wrong_answer("lora_linear_backward", cause="mean_vs_sum", also=("constant_factor",))
def averaged_over_the_batch(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ du / len(dy), scale * u.T @ dy / len(dy)


@wrong_answer("lora_linear_backward", cause="shape")
def gradient_of_w_as_well(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ dy, z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="inplace")
def upstream_scaled_in_place(dy, cache):
    z, u, W, A, B, scale, mask = cache
    dx = dy @ W.T
    dy *= scale
    du = dy @ B.T
    dz = du @ A.T
    return dx + (dz if mask is None else dz * mask), z.T @ du, u.T @ dy


@wrong_answer("lora_linear_backward", cause="dtype")
def scale_of_numpy(dy, cache):
    z, u, W, A, B, scale, mask = cache
    scale = np.float64(scale)
    du = scale * (dy @ B.T)
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ du, scale * (u.T @ dy)


@wrong_answer("lora_linear_backward", cause="sign")
def detour_subtracted(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T - (dz if mask is None else dz * mask), z.T @ du, scale * u.T @ dy


@wrong_answer("lora_linear_backward", cause="ignores_upstream", also=("wrong_cached_value",))
def g_by_the_wrong_factor(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du = scale * dy @ B.T
    dz = du @ A.T
    return dy @ W.T + (dz if mask is None else dz * mask), z.T @ (z @ A), scale * (z @ A).T @ dy


@right_answer("lora_linear_backward")
def full_gradient_first(dy, cache):
    z, u, W, A, B, scale, mask = cache
    G = np.einsum("ni,nj->ij", z, dy)
    back = np.dot(dy, np.dot(A, B).T) * scale
    if mask is not None:
        back *= mask
    return [back + np.dot(dy, W.T), scale * np.dot(G, B.T), scale * np.dot(A.T, G)]


@right_answer("lora_linear_backward")
def two_linear_maps(dy, cache):
    z, u, W, A, B, scale, mask = cache
    du, dB, _ = ops.linear_backward(scale * dy, ops.linear.LinearCache(u, B))
    dz, dA, _ = ops.linear_backward(du, ops.linear.LinearCache(z, A))
    dx = ops.dropout_backward(dz, ops.dropout.DropoutCache(mask))
    return dx + ops.linear_backward(dy, ops.linear.LinearCache(None, W), ("x",))[0], dA, dB


@right_answer("lora_linear_backward")
def sums_over_the_rows(dy, cache):
    W, A, B, scale = cache.W, cache.A, cache.B, cache.scale
    du = np.stack([scale * (B @ row) for row in dy])
    dA = sum(np.outer(z, d) for z, d in zip(cache.z, du))
    dB = sum(scale * np.outer(u, row) for u, row in zip(cache.u, dy))
    keep = 1 if cache.mask is None else cache.mask
    return (W @ dy.T).T + keep * (A @ du.T).T, dA, dB
