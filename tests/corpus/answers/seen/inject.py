"""Answers to the exercises of chapter 6, third part: putting LoRA into a model."""

import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear, lora_init, lora_scale, targets_of
from lora_np.model.tree import children, rebuild, walk


def scale_of(config):
    return lora_scale(config.r, config.lora_alpha, config.use_rslora)


@wrong_answer("inject", cause="constant_factor")
def alpha_for_scale(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, config.lora_alpha, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def b_not_zero(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        B = (0.02 * rng.standard_normal(B.shape)).astype(B.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="inplace")
def model_changed_in_place(model, config, rng):
    nodes = dict(walk(model))
    for path in targets_of(model, config):
        parent, _, name = path.rpartition(".")
        node = nodes[path]
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        detour = LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)
        setattr(nodes[parent], name, detour)
    model.adapter = config
    return model


@wrong_answer("inject", cause=None, also=("extra_term",))
def every_linear_node(model, config, rng):
    def change(path, node):
        if not hasattr(node, "W"):
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="swapped", also=("transpose",))
def sides_exchanged(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        d_out, d_in = node.W.shape
        A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, B.T, A.T, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="missing_term")
def bias_lost(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, None, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="constant_factor")
def rslora_ignored(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, config.lora_alpha / config.r, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None, also=("missing_term",))
def first_target_only(model, config, rng):
    targets = list(targets_of(model, config))

    def change(path, node):
        if path != targets[0]:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def one_a_and_b_for_all(model, config, rng):
    targets = targets_of(model, config)
    shared = {}

    def change(path, node):
        if path not in targets:
            return node
        if node.W.shape not in shared:
            shared[node.W.shape] = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, *shared[node.W.shape], scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="mask_ignored")
def dropout_not_passed_on(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), hf=node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="dtype")
def detours_in_double(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, np.float64)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def new_model_thrown_away(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    rebuild(model, change)
    return model


@wrong_answer("inject", cause=None)
def query_and_value_always(model, config, rng):
    def change(path, node):
        if not path.endswith(("query", "value")):
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="shape")
def always_rank_eight(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, 8, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@right_answer("inject")
def by_rebuild(model, config, rng):
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    paths = list(targets_of(model, config))

    def change(path, node):
        if path in paths:
            d_in, d_out = node.W.shape
            A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
            return LoRALinear(W=node.W, b=node.b, A=A, B=B, scale=float(scale), dropout=config.lora_dropout, hf=node.hf)
        return node

    new = rebuild(model, change)
    new.adapter = config
    return new


@right_answer("inject")
def detours_drawn_beforehand(model, config, rng):
    nodes = dict(walk(model))
    detours = {}
    for path in sorted(targets_of(model, config), reverse=True):
        W = nodes[path].W
        bound = W.shape[0] ** -0.5
        A = rng.uniform(-bound, bound, (W.shape[0], config.r)).astype(W.dtype)
        B = np.zeros((config.r, W.shape[1]), W.dtype)
        detours[path] = LoRALinear(W, nodes[path].b, A, B, scale_of(config), config.lora_dropout, nodes[path].hf)
    return dataclasses.replace(rebuild(model, lambda path, node: detours.get(path, node)), adapter=config)


@right_answer("inject")
def own_recursion(model, config, rng):
    targets = targets_of(model, config)

    def copy(node, path):
        if path in targets:
            A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
            return LoRALinear(node.W, node.b, A, B, scale_of(config), config.lora_dropout, node.hf)
        new = {}
        for name, child in children(node):
            below = copy(child, f"{path}.{name}" if path else name)
            field, dot, _ = name.partition(".")
            new[field] = (*new.get(field, ()), below) if dot else below
        return dataclasses.replace(node, **new)

    return dataclasses.replace(copy(model, ""), adapter=config)
