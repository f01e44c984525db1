"""Chapter 6, second part: answers of learners, written without sight of the rules."""

import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear, add_detour, lora_init, lora_scale, targets_of
from lora_np.model.nodes import Linear
from lora_np.model.tree import is_node, rebuild, walk

# inject


@wrong_answer("inject", cause="constant_factor")
def inject_plain_scale(model, config, rng):
    names = targets_of(model, config)

    def change(path, node):
        if path in names:
            d_in, d_out = node.W.shape
            A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
            return LoRALinear(node.W, node.b, A, B, config.lora_alpha / config.r, config.lora_dropout, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="constant_factor")
def inject_alpha_as_scale(model, config, rng):
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(
            W=node.W, b=node.b, A=A, B=B, scale=float(config.lora_alpha), dropout=config.lora_dropout, hf=node.hf
        )

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="missing_term")
def inject_without_bias(model, config, rng):
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path in targets:
            A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
            node = LoRALinear(node.W, None, A, B, scale, config.lora_dropout, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="mask_ignored", also=("constant_factor", "zero_gradient"))
def inject_without_dropout(model, config, rng):
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(node.W.shape[0], node.W.shape[1], config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, hf=node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="extra_term")
def inject_every_linear_map(model, config, rng):
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if not isinstance(node, Linear) or path.startswith("head"):
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="missing_term", also=("missing_path",))
def inject_attention_only(model, config, rng):
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if any(path.endswith("." + name) for name in config.target_modules):
            A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
            return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="inplace")
def inject_into_the_model_itself(model, config, rng):
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    nodes = dict(walk(model))
    for path in targets_of(model, config):
        node = nodes[path]
        parent, _, name = path.rpartition(".")
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        setattr(nodes[parent], name, LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf))
    model.adapter = config
    return model


@wrong_answer("inject", cause=None)
def inject_adapter_not_noted(model, config, rng):
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return rebuild(model, change)


@right_answer("inject")
def inject_prepared_detours(model, config, rng):
    nodes, detours = dict(walk(model)), {}
    for path, name in targets_of(model, config).items():
        detours[path] = add_detour(path, nodes[path], name, config, rng)
    new = rebuild(model, lambda path, node: detours.get(path, node))
    new.adapter = config
    return new


@right_answer("inject")
def inject_by_own_recursion(model, config, rng):
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def visit(value, path):
        if isinstance(value, tuple):
            return tuple(visit(child, f"{path}.{k}") for k, child in enumerate(value))
        if not is_node(value):
            return value
        if path in targets:
            bound = value.W.shape[0] ** -0.5
            A = rng.uniform(-bound, bound, (value.W.shape[0], config.r)).astype(value.W.dtype)
            B = np.zeros((config.r, value.W.shape[1]), value.W.dtype)
            return LoRALinear(value.W, value.b, A, B, scale, config.lora_dropout, value.hf)
        fields = [field.name for field in dataclasses.fields(value)]
        new = {f: visit(getattr(value, f), f"{path}.{f}".lstrip(".")) for f in fields if f != "trainable"}
        return dataclasses.replace(value, **new)

    return dataclasses.replace(visit(model, ""), adapter=config)


@right_answer("inject")
def inject_one_target_after_the_other(model, config, rng):
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    new = model
    for target in targets_of(model, config):

        def change(path, node, target=target):
            if path != target:
                return node
            A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
            return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

        new = rebuild(new, change)
    return dataclasses.replace(new, adapter=config)
