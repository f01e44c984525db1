"""Answers to the exercises of chapter 7, by somebody who saw their text alone."""

import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild, walk


@wrong_answer("merge", cause="missing_term")
def the_bias_is_lost(model):
    if not any(isinstance(node, LoRALinear) for _, node in walk(model)):
        raise ValueError("nothing to merge")

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
        return Linear(W.astype(node.W.dtype), None, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def rounded_before_the_sum_and_after(model):
    found = []

    def change(path, node):
        if isinstance(node, LoRALinear):
            found.append(path)
            update = node.scale * (node.A.astype(np.float64) @ node.B.astype(np.float64))
            return Linear(node.W + update.astype(node.W.dtype), node.b, node.hf)
        return node

    merged = rebuild(model, change)
    if not found:
        raise ValueError("this model has no detours")
    return dataclasses.replace(merged, adapter=None)


@wrong_answer("merge", cause=None)
def still_says_that_it_has_an_adapter(model):
    detours = [node for _, node in walk(model) if isinstance(node, LoRALinear)]
    if len(detours) == 0:
        raise ValueError("no LoRALinear in this model")

    def merged(path, node):
        if node.__class__ is LoRALinear:
            A, B, W = (a.astype(np.float64) for a in (node.A, node.B, node.W))
            return Linear((W + node.scale * A @ B).astype(node.W.dtype), node.b, node.hf)
        return node

    return rebuild(model, merged)


@right_answer("merge")
def prepared_in_a_dict(model):
    plain = {}
    for path, node in walk(model):
        if isinstance(node, LoRALinear):
            wide = np.einsum("ir,ro->io", node.A, node.B, dtype=np.float64) * node.scale
            wide += node.W
            plain[path] = Linear(W=wide.astype(node.W.dtype), b=node.b, hf=node.hf)
    if not plain:
        raise ValueError("there is nothing to merge")
    new = rebuild(model, lambda path, node: plain.get(path, node))
    return dataclasses.replace(new, adapter=None)


@wrong_answer("combine_adapters", cause="constant_factor", also=("wrong_cached_value",))
def the_last_scale_for_all(adapters):
    left, right = [], []
    for A, B, scale in adapters:
        left.append(A)
        right.append(B)
    return scale * np.concatenate(left, axis=1), np.concatenate(right, axis=0)


@wrong_answer("combine_adapters", cause=None)
def second_blocks_in_reverse(adapters):
    As, Bs = [], []
    for A, B, s in adapters:
        As.append(s * A)
        Bs.insert(0, B)
    return np.hstack(As), np.vstack(Bs)


@wrong_answer("combine_adapters", cause="inplace")
def the_given_factors_are_scaled(adapters):
    for A, _, scale in adapters:
        A *= scale
    return np.concatenate([a[0] for a in adapters], axis=1), np.concatenate([a[1] for a in adapters])


@right_answer("combine_adapters")
def scales_on_the_rows_of_b(adapters):
    As, Bs, scales = zip(*adapters)
    rows = [scale for B, scale in zip(Bs, scales) for _ in range(len(B))]
    B = np.vstack(Bs)
    return np.hstack(As), np.asarray(rows, dtype=B.dtype)[:, None] * B
