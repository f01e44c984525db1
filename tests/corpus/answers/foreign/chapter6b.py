import copy
import dataclasses
import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.adapt.lora import LoRALinear, lora_init, lora_scale
from lora_np.adapt.targets import targets_of
from lora_np.model.tree import rebuild, walk

# inject(model, config, rng)


@wrong_answer("inject", cause="constant_factor")
def inject_without_rslora(model, config, rng):
    "The scale is always alpha / r."
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, config.lora_alpha / config.r, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="constant_factor")
def inject_alpha_as_scale(model, config, rng):
    "The scale is alpha: the same for r = 1 only."
    targets = targets_of(model, config)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, float(config.lora_alpha), config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_without_dropout(model, config, rng):
    "The probability of dropout is not handed on."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, hf=node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_without_name(model, config, rng):
    "hf is not handed on."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_without_config(model, config, rng):
    "The field adapter is not set."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return rebuild(model, change)


@wrong_answer("inject", cause=None)
def inject_copies_the_weights(model, config, rng):
    "W and b are copied, so the base is stored twice."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        b = None if node.b is None else node.b.copy()
        return LoRALinear(node.W.copy(), b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_everywhere(model, config, rng):
    "Every linear map is adapted, the head too; the targets are not asked for."
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if getattr(node, "W", None) is None:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_one_draw_for_all(model, config, rng):
    "A and B are drawn once for each shape: maps of one shape share their arrays."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    drawn = {}

    def change(path, node):
        if path not in targets:
            return node
        if node.W.shape not in drawn:
            drawn[node.W.shape] = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        A, B = drawn[node.W.shape]
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="dtype")
def inject_in_float64(model, config, rng):
    "A and B are float64 beside a float32 W."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, np.float64)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_without_bias(model, config, rng):
    "The bias of the adapted maps is lost."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, None, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="transpose", also=("swapped",))
def inject_sides_exchanged(model, config, rng):
    "d_in and d_out are exchanged: fits for a square W only."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        d_out, d_in = node.W.shape
        A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="inplace")
def inject_into_the_base(model, config, rng):
    "The nodes of the given model are replaced in place."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    nodes = dict(walk(model))
    for path in targets:
        node, (above, _, name) = nodes[path], path.rpartition(".")
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        setattr(nodes[above], name, LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf))
    model.adapter = config
    return model


@wrong_answer("inject", cause=None)
def inject_own_generator(model, config, rng):
    "Draws from a generator of its own, with a fixed seed."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    own = np.random.default_rng(0)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, own, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_missing_return(model, config, rng):
    "change returns nothing for a node that is no target."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path in targets:
            A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
            return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause=None)
def inject_rebuild_thrown_away(model, config, rng):
    "What rebuild returns is thrown away; the old tree gets the config and comes back."
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    rebuild(model, change)
    return dataclasses.replace(model, adapter=config)


@right_answer("inject")
def inject_nodes_made_first(model, config, rng):
    "All new nodes are made first, in the order of the targets, and put in place by dict.get."
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    nodes, new = dict(walk(model)), {}
    for path in targets_of(model, config):
        old = nodes[path]
        d_in, d_out = old.W.shape
        A, B = lora_init(d_in=d_in, d_out=d_out, r=config.r, rng=rng, dtype=old.W.dtype)
        new[path] = LoRALinear(
            W=old.W, b=old.b, A=A, B=B, scale=scale, dropout=config.lora_dropout, hf=old.hf, trainable=("A", "B")
        )
    return dataclasses.replace(rebuild(model, new.get), adapter=config)


@right_answer("inject")
def inject_replacing_at_the_root(model, config, rng):
    "change sets the field adapter when it comes to the root, whose path is empty."
    targets = set(targets_of(model, config))

    def change(path, node):
        if path == "":
            return dataclasses.replace(node, adapter=config)
        if path in targets:
            pair = lora_init(node.W.shape[0], node.W.shape[1], config.r, rng, node.W.dtype)
            scale = lora_scale(r=config.r, lora_alpha=config.lora_alpha, use_rslora=config.use_rslora)
            return LoRALinear(node.W, node.b, *pair, scale, config.lora_dropout, node.hf)
        return node

    return rebuild(model, change)


@right_answer("inject")
def inject_with_scale_written_out(model, config, rng):
    "The scale written out, and the fields of the old node by name."
    targets = targets_of(model, config)
    scale = float(config.lora_alpha) / (math.sqrt(config.r) if config.use_rslora else config.r)

    def detour(node):
        A, B = lora_init(*np.shape(node.W), config.r, rng, node.W.dtype)
        kept = {name: getattr(node, name) for name in ("W", "b", "hf")}
        return LoRALinear(A=A, B=B, scale=scale, dropout=config.lora_dropout, **kept)

    return dataclasses.replace(
        rebuild(model, lambda path, node: detour(node) if path in targets.keys() else node), adapter=config
    )


@right_answer("inject")
def inject_on_a_shallow_copy(model, config, rng):
    "A tree of shallow copies, whose fields are then set."
    new = rebuild(model, lambda path, node: copy.copy(node))
    nodes = dict(walk(new))
    for path in targets_of(model, config):
        node, (above, _, name) = nodes[path], path.rpartition(".")
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
        setattr(nodes[above], name, LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf))
    new.adapter = config
    return new
