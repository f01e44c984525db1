"""Chapter 7: answers of learners, written without sight of the rules."""

import copy
import dataclasses
from functools import reduce

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild, walk


def check_adapter(model):
    if not any(isinstance(node, LoRALinear) for _, node in walk(model)):
        raise ValueError("nothing to merge")


# merge


@wrong_answer("merge", cause="constant_factor")
def merge_scale_forgotten(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W.astype(np.float64) + node.A.astype(np.float64) @ node.B.astype(np.float64)
            return Linear(W.astype(node.W.dtype), node.b, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="constant_factor")
def merge_scales_again_by_the_rank(model):
    check_adapter(model)

    def change(_, node):
        if not isinstance(node, LoRALinear):
            return node
        delta = node.scale / node.A.shape[1] * (node.A.astype(np.float64) @ node.B)
        return Linear((node.W + delta).astype(node.W.dtype), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="missing_term", also=("zero_gradient",))
def merge_loses_the_bias(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
            return Linear(W.astype(node.W.dtype), None, hf=node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="extra_term")
def merge_keeps_the_detour(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
            return dataclasses.replace(node, W=W.astype(node.W.dtype))
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="sign")
def merge_subtracts(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            update = node.scale * np.matmul(node.A, node.B, dtype=np.float64)
            return Linear((node.W - update).astype(node.W.dtype), node.b, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="dtype")
def merge_leaves_a_wide_weight(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W.astype(np.float64) + node.scale * (node.A.astype(np.float64) @ node.B.astype(np.float64))
            return Linear(W, node.b, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="inplace")
def merge_inside_the_old_model(model):
    check_adapter(model)
    for _, node in list(walk(model)):
        for field in dataclasses.fields(node):
            child = getattr(node, field.name)
            if isinstance(child, LoRALinear):
                W = child.W + child.scale * (child.A.astype(np.float64) @ child.B)
                setattr(node, field.name, Linear(W.astype(child.W.dtype), child.b, child.hf))
    model.adapter = None
    return model


@wrong_answer("merge", cause="missing_term", also=("missing_path",))
def merge_attention_alone(model):
    check_adapter(model)

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W.astype(np.float64)
            if "attention" in path:
                W = W + node.scale * (node.A.astype(np.float64) @ node.B)
            return Linear(W.astype(node.W.dtype), node.b, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def merge_by_unit_vectors(model):
    check_adapter(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        wide = [a.astype(np.float64) for a in (node.W, node.A, node.B)]
        W = np.empty(node.W.shape, node.W.dtype)
        for i in range(len(W)):
            W[i] = wide[0][i] + wide[1][i] @ wide[2] * node.scale
        return Linear(W=W, b=node.b, hf=node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def merge_into_a_copy(model):
    check_adapter(model)
    new = copy.deepcopy(model)
    nodes = dict(walk(new))
    for path, node in nodes.items():
        if isinstance(node, LoRALinear):
            W = np.einsum("ir,ro->io", node.A, node.B, dtype=np.float64) * node.scale + node.W
            parent, _, name = path.rpartition(".")
            setattr(nodes[parent], name, Linear(W.astype(node.W.dtype), node.b, node.hf))
    new.adapter = None
    return new


@right_answer("merge")
def merge_prepared_weights(model):
    found = {path: node for path, node in walk(model) if type(node) is LoRALinear}
    if not found:
        raise ValueError("no LoRALinear in this model")
    merged = {}
    for path, n in found.items():
        total = np.hstack([n.W, n.scale * n.A.astype(np.float64)]) @ np.vstack([np.eye(n.W.shape[1]), n.B])
        merged[path] = Linear(total.astype(n.W.dtype), n.b, n.hf)
    return dataclasses.replace(rebuild(model, lambda path, node: merged.get(path, node)), adapter=None)


# combine_adapters


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_without_scales(adapters):
    As, Bs, _ = zip(*adapters)
    return np.hstack(As), np.vstack(Bs)


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_scales_both(adapters):
    A = np.concatenate([s * a for a, _, s in adapters], axis=1)
    B = np.concatenate([s * b for _, b, s in adapters], axis=0)
    return A, B


@wrong_answer("combine_adapters", cause="extra_term")
def combine_adds_the_factors(adapters):
    r = max(A.shape[1] for A, _, _ in adapters)
    A = sum(np.pad(scale * A, ((0, 0), (0, r - A.shape[1]))) for A, _, scale in adapters)
    B = sum(np.pad(B, ((0, r - B.shape[0]), (0, 0))) for _, B, _ in adapters)
    return A, B


@wrong_answer("combine_adapters", cause="mean_vs_sum", also=("constant_factor",))
def combine_averages(adapters):
    n = len(adapters)
    A = np.concatenate([A * (scale / n) for A, _, scale in adapters], axis=1)
    B = np.concatenate([B for _, B, _ in adapters])
    return A, B


@wrong_answer("combine_adapters", cause="wrong_cached_value", also=("constant_factor",))
def combine_last_scale_for_all(adapters):
    As, Bs = [], []
    for adapter in adapters:
        A, B, scale = adapter
        As.append(A)
        Bs.append(B)
    return scale * np.concatenate(As, axis=1), np.concatenate(Bs, axis=0)


@wrong_answer("combine_adapters", cause="swapped", also=("wrong_cached_value",))
def combine_newest_b_on_top(adapters):
    A, B = None, None
    for a, b, scale in adapters:
        A = scale * a if A is None else np.hstack([A, scale * a])
        B = b if B is None else np.vstack([b, B])
    return A, B


@wrong_answer("combine_adapters", cause="missing_term")
def combine_skips_the_first(adapters):
    A0, B0, s0 = adapters[0]
    A, B = A0 * 0, B0 * 0
    for a, b, s in adapters[1:]:
        A, B = np.concatenate([A, s * a], axis=1), np.concatenate([B, b], axis=0)
    return A, B


@wrong_answer("combine_adapters", cause="inplace")
def combine_scales_the_callers_b(adapters):
    for _, B, scale in adapters:
        B *= scale
    A = np.concatenate([A for A, _, _ in adapters], axis=1)
    return A, np.concatenate([B for _, B, _ in adapters], axis=0)


@right_answer("combine_adapters")
def combine_by_roots(adapters):
    A = np.hstack([scale**0.5 * A for A, _, scale in adapters])
    B = np.vstack([scale**0.5 * B for _, B, scale in adapters])
    return A, B


@right_answer("combine_adapters")
def combine_two_at_a_time(adapters):
    def join(left, right):
        return np.hstack([left[0], right[0]]), np.vstack([left[1], right[1]])

    return reduce(join, [(A, scale * B) for A, B, scale in adapters])


@right_answer("combine_adapters")
def combine_into_blocks(adapters):
    first, last, _ = adapters[0]
    r = sum(A.shape[1] for A, _, _ in adapters)
    A, B = np.empty((first.shape[0], r), first.dtype), np.empty((r, last.shape[1]), last.dtype)
    end = r
    for a, b, scale in adapters:
        A[:, end - a.shape[1] : end] = -scale * a
        B[end - a.shape[1] : end] = -b
        end -= a.shape[1]
    return A, B
