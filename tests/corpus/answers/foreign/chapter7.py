import copy
import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild, walk

# merge(model)


def wide(node):
    "W + scale * A B of a node in float64."
    return node.W + node.scale * (node.A.astype(np.float64) @ node.B)


def refuse_plain(model):
    if not any(isinstance(node, LoRALinear) for _, node in walk(model)):
        raise ValueError("there is nothing to merge")


@wrong_answer("merge", cause="constant_factor")
def merge_without_scale(model):
    "The scale is missing."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W + node.A.astype(np.float64) @ node.B
        return Linear(W.astype(node.W.dtype), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="dtype")
def merge_stays_wide(model):
    "The merged weights stay in float64."
    refuse_plain(model)

    def change(path, node):
        return Linear(wide(node), node.b, node.hf) if isinstance(node, LoRALinear) else node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="dtype")
def merge_to_float32(model):
    "Always rounds to float32, also a model in float64."
    refuse_plain(model)

    def change(path, node):
        return Linear(wide(node).astype(np.float32), node.b, node.hf) if isinstance(node, LoRALinear) else node

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_in_float32(model):
    "The sum is formed in the dtype of the model, and rounded at each step."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(node.W + node.scale * (node.A @ node.B), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_change_rounded_first(model):
    "The change is rounded before it is added: two roundings."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        delta = (node.scale * (node.A.astype(np.float64) @ node.B)).astype(node.W.dtype)
        return Linear(node.W + delta, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_without_refusal(model):
    "A model without an adapter comes back, and no error is raised."

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(wide(node).astype(node.W.dtype), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_with_another_error(model):
    "Refuses with a TypeError."
    if model.adapter is None:
        raise TypeError("there is nothing to merge")

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(wide(node).astype(node.W.dtype), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_keeps_the_config(model):
    "The field adapter keeps its config."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(wide(node).astype(node.W.dtype), node.b, node.hf)

    return rebuild(model, change)


@wrong_answer("merge", cause=None)
def merge_without_bias(model):
    "The bias is lost."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(wide(node).astype(node.W.dtype), None, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_without_name(model):
    "hf is lost."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return Linear(wide(node).astype(node.W.dtype), node.b)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="inplace")
def merge_into_the_old_nodes(model):
    "The old model's nodes get the merged weight, and their B becomes zero."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        node.W = wide(node).astype(node.W.dtype)
        node.B = np.zeros_like(node.B)
        return Linear(node.W, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause="inplace")
def merge_writes_into_w(model):
    "Adds into W in place: the base's array, which others share, and which may be locked."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W
        W += (node.scale * (node.A.astype(np.float64) @ node.B)).astype(W.dtype)
        return Linear(W, node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_leaves_a_detour(model):
    "The nodes stay LoRALinear, with the merged weight and a zero B."
    refuse_plain(model)

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        return dataclasses.replace(node, W=wide(node).astype(node.W.dtype), B=np.zeros_like(node.B))

    return dataclasses.replace(rebuild(model, change), adapter=None)


@wrong_answer("merge", cause=None)
def merge_one_scale_for_all(model):
    "The scale is computed from the config, not taken from the node."
    refuse_plain(model)
    scale = model.adapter.lora_alpha / model.adapter.r

    def change(path, node):
        if not isinstance(node, LoRALinear):
            return node
        W = node.W + scale * (node.A.astype(np.float64) @ node.B)
        return Linear(W.astype(node.W.dtype), node.b, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def merge_with_extended_factors(model):
    "A list of paths, einsum, and np.add in float64."
    adapted = [path for path, node in walk(model) if isinstance(node, LoRALinear)]
    if not adapted:
        raise ValueError("no LoRALinear")

    def change(path, node):
        if path not in adapted:
            return node
        A, B = np.asarray(node.A, np.float64), np.asarray(node.B, np.float64)
        W = np.add(node.W, np.einsum("ir,ro->io", A, B) * node.scale, dtype=np.float64)
        return Linear(b=node.b, hf=node.hf, W=W.astype(node.W.dtype))

    return dataclasses.replace(rebuild(model, change), adapter=None)


@right_answer("merge")
def merge_counting(model):
    "Counts while rebuilding, and refuses afterwards."
    count = 0

    def change(path, node):
        nonlocal count
        if path == "":
            return dataclasses.replace(node, adapter=None)
        if isinstance(node, LoRALinear):
            count += 1
            W = node.W.astype(np.float64)
            W += np.float64(node.scale) * np.matmul(node.A, node.B, dtype=np.float64)
            return Linear(np.array(W, dtype=node.W.dtype), node.b, node.hf)
        return node

    new = rebuild(model, change)
    if count == 0:
        raise ValueError(f"{count} detours to merge")
    return new


@right_answer("merge")
def merge_with_new_nodes_first(model):
    "All merged nodes are made first; one unit of rank after the other."

    def merged(node):
        W = np.array(node.W, dtype=np.float64)
        for a, b in zip(node.A.T.astype(np.float64), node.B.astype(np.float64)):
            W += node.scale * np.outer(a, b)
        return Linear(W.astype(node.W.dtype), node.b, node.hf)

    new = {path: merged(node) for path, node in walk(model) if isinstance(node, LoRALinear)}
    if len(new) == 0:
        raise ValueError
    return dataclasses.replace(rebuild(model, lambda path, node: new.get(path, node)), adapter=None)


class NothingToMerge(ValueError):
    "A kind of ValueError."


@right_answer("merge")
def merge_on_a_shallow_copy(model):
    "A tree of shallow copies whose fields are set; an error class of its own, which is a ValueError."
    new = rebuild(model, lambda path, node: copy.copy(node))
    nodes, found = dict(walk(new)), False
    for path, node in nodes.items():
        if type(node) is LoRALinear:
            found = True
            above, _, name = path.rpartition(".")
            setattr(nodes[above], name, Linear(wide(node).astype(node.W.dtype), node.b, node.hf))
    if not found:
        raise NothingToMerge("not here")
    new.adapter = None
    return new
