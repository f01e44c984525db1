"""Answers to the exercises of chapter 7: merging, and combining adapters."""

import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear
from lora_np.model.nodes import Linear
from lora_np.model.tree import locked, rebuild, walk


@wrong_answer("merge", cause="constant_factor")
def merge_without_scale(model):
    def change(path, node):
        return Linear(node.W + node.A @ node.B, node.b, node.hf) if isinstance(node, LoRALinear) else node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="inplace")
def merge_in_place(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W + node.scale * (node.A @ node.B)
        node.W = W
        node.B[...] = 0
        return Linear(W, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="sign")
def merge_subtracts(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(node.W - node.scale * (node.A @ node.B), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="extra_term")
def detour_kept(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return dataclasses.replace(node, W=node.W + node.scale * (node.A @ node.B))

    return rebuild(model, change)


@wrong_answer("merge", cause="missing_term")
def detour_taken_off(model):
    def change(path, node):
        return Linear(node.W, node.b, node.hf) if isinstance(node, LoRALinear) else node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="missing_term")
def merge_loses_bias(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(node.W + node.scale * (node.A @ node.B), None, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="missing_term")
def update_in_place_of_w(model):
    def change(path, node):
        return Linear(node.scale * (node.A @ node.B), node.b, node.hf) if isinstance(node, LoRALinear) else node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="factor_order", also=("constant_factor",))
def merge_scales_all(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(node.scale * (node.W + node.A @ node.B), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def first_layer_only(model):
    def change(path, node):
        if not isinstance(node, LoRALinear) or not path.startswith("layer.0."):
            return node
        return Linear(node.W + node.scale * (node.A @ node.B), node.b, node.hf)

    return rebuild(model, change)


@wrong_answer("merge", cause="dtype")
def merge_leaves_double(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W + node.scale * (node.A.astype(np.float64) @ node.B.astype(np.float64))
        return Linear(W, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="transpose")
def update_transposed(model):
    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(node.W + (node.scale * (node.A @ node.B)).T, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_forgets_return(model):
    def change(path, node):
        if isinstance(node, LoRALinear):
            return Linear(node.W + node.scale * (node.A @ node.B), node.b, node.hf)
        return node

    dataclasses.replace(rebuild(model, change), adapter=None)


def needs_adapter(model):
    if not any(isinstance(node, LoRALinear) for _, node in walk(model)):
        raise ValueError("no adapter")


@right_answer("merge")
def sum_of_thin_products(model):
    needs_adapter(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W.astype(float)
        for k in range(node.A.shape[1]):
            W += node.scale * np.outer(node.A[:, k].astype(float), node.B[k])
        return Linear(locked(W.astype(node.W.dtype)), node.b, hf=node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def what_the_layer_does_to_unit_vectors(model):
    needs_adapter(model)

    def change(path, node):
        if type(node).__name__ != "LoRALinear":
            return node
        unbiased = dataclasses.replace(node, b=None)
        W, _ = unbiased.forward(np.eye(len(node.W)))
        W = W.astype(node.W.dtype)
        W.flags.writeable = False
        return Linear(W=W, b=node.b, hf=node.hf)

    merged = rebuild(model, change)
    merged.adapter = None
    return merged


@wrong_answer("merge", cause=None)
def added_up_in_float32(model):
    needs_adapter(model)

    def change(path, node):
        if type(node).__name__ != "LoRALinear":
            return node
        return Linear(node.W + node.scale * (node.A @ node.B), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def weights_prepared_beforehand(model):
    needs_adapter(model)
    new = {}
    for path, node in walk(model):
        if hasattr(node, "A"):
            update = np.einsum("ir,rj->ij", node.A.astype(float) * node.scale, node.B)
            new[path] = Linear(locked((node.W + update).astype(node.W.dtype)), node.b, node.hf)
    return dataclasses.replace(rebuild(model, lambda path, node: new.get(path, node)), adapter=None)


@wrong_answer("combine_adapters", cause="extra_term")
def sums_of_the_factors(adapters):
    return sum(A for A, _, _ in adapters), sum(scale * B for _, B, scale in adapters)


@wrong_answer("combine_adapters", cause="constant_factor")
def scales_left_out(adapters):
    return np.hstack([A for A, _, _ in adapters]), np.vstack([B for _, B, _ in adapters])


@wrong_answer("combine_adapters", cause="constant_factor")
def scales_in_both(adapters):
    return np.hstack([scale * A for A, _, scale in adapters]), np.vstack([scale * B for _, B, scale in adapters])


@wrong_answer("combine_adapters", cause="constant_factor", also=("wrong_cached_value",))
def first_scale_for_all(adapters):
    scale = adapters[0][2]
    return np.hstack([A for A, _, _ in adapters]), scale * np.vstack([B for _, B, _ in adapters])


@wrong_answer("combine_adapters", cause="mean_vs_sum", also=("constant_factor",))
def mean_of_the_updates(adapters):
    A = np.hstack([A for A, _, _ in adapters])
    return A, np.vstack([scale * B for _, B, scale in adapters]) / len(adapters)


@wrong_answer("combine_adapters", cause="swapped")
def blocks_in_other_orders(adapters):
    A = np.concatenate([A for A, _, _ in adapters], axis=1)
    return A, np.concatenate([scale * B for _, B, scale in reversed(adapters)], axis=0)


@wrong_answer("combine_adapters", cause="missing_term", also=("not_accumulated",))
def last_adapter_only(adapters):
    for A, B, scale in adapters:
        combined = A, scale * B
    return combined


@wrong_answer("combine_adapters", cause="inplace")
def b_scaled_in_place(adapters):
    for _, B, scale in adapters:
        B *= scale
    return np.hstack([A for A, _, _ in adapters]), np.vstack([B for _, B, _ in adapters])


@wrong_answer("combine_adapters", cause=None, also=("shape",))
def total_update(adapters):
    return sum(scale * (A @ B) for A, B, scale in adapters)


@wrong_answer("combine_adapters", cause=None)
def exactly_two(adapters):
    (A1, B1, s1), (A2, B2, s2) = adapters
    return np.hstack([A1, A2]), np.vstack([s1 * B1, s2 * B2])


@wrong_answer("combine_adapters", cause="shape", also=("transpose",))
def axes_exchanged(adapters):
    return np.vstack([A for A, _, _ in adapters]), np.hstack([scale * B for _, B, scale in adapters])


@right_answer("combine_adapters")
def filled_into_double(adapters):
    r = sum(A.shape[1] for A, _, _ in adapters)
    A_all, B_all = np.zeros((len(adapters[0][0]), r)), np.zeros((r, adapters[0][1].shape[1]))
    k = 0
    for A, B, scale in adapters:
        A_all[:, k : k + A.shape[1]], B_all[k : k + len(B)] = A, scale * B
        k += len(B)
    return A_all, B_all


@right_answer("combine_adapters")
def scales_at_a_and_reversed(adapters):
    backwards = adapters[::-1]
    return [np.hstack([s * A for A, _, s in backwards]), np.vstack([B for _, B, _ in backwards])]


@right_answer("combine_adapters")
def pair_by_pair(adapters):
    if len(adapters) == 1:
        A, B, scale = adapters[0]
        return A.copy(), B * scale
    A, B = pair_by_pair(adapters[1:])
    return np.c_[adapters[0][0], A], np.r_[adapters[0][1] * adapters[0][2], B]


@wrong_answer("combine_adapters", cause="shape")
def update_and_identity(adapters):
    total = sum(scale * np.dot(A, B) for A, B, scale in adapters)
    return np.eye(len(total), dtype=total.dtype), total
