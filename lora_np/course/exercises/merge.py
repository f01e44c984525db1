"""Chapter 7: each detour is added into its weight."""

import dataclasses

import numpy as np

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear
from lora_np.course.findings import Finding
from lora_np.course.models import adapted_model, frozen_model, nodes_of, same_outputs
from lora_np.gradcheck import close
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild, walk

CHAPTER, PLACE, MINUTES, LEVEL = 7, 1, 15, "medium"
OUTPUTS = ("model",)
HINTS = (
    "Write `change` first, inside `merge`. For a LoRALinear it returns a new Linear, else the node as it is.",
    "`node.A.astype(np.float64) @ node.B` is float64, and W plus it, too. Round once, with `.astype(node.W.dtype)`.",
    "The last line: `return dataclasses.replace(rebuild(model, change), adapter=None)`.",
)
library = lnp.merge


def merge(model):
    """Return a new model in which each detour is added into its weight."""
    if not any(isinstance(node, LoRALinear) for _, node in walk(model)):
        raise ValueError("there is no adapter to merge")

    def change(path, node):
        if isinstance(node, LoRALinear):
            W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
            return Linear(W.astype(node.W.dtype), node.b, node.hf)
        return node

    return dataclasses.replace(rebuild(model, change), adapter=None)


def adapted(model):
    return nodes_of(model, LoRALinear)


BRANCHES = {
    "the weights are float32": lambda model: model.head.classifier.W.dtype == np.float32,
    "an adapted map has no bias": lambda model: any(n.b is None for n in adapted(model).values()),
    "an adapted map is square": lambda model: any(len({*n.W.shape}) == 1 for n in adapted(model).values()),
    "an adapted map is not square": lambda model: any(len({*n.W.shape}) == 2 for n in adapted(model).values()),
    "lora_alpha is divided by the root of r": lambda model: model.adapter.use_rslora,
}


def draw(rng, dtype, trial):
    model = adapted_model(rng, np.float32 if trial == 1 else dtype, trial)
    if trial == 2:
        old = adapted(model)
        model = rebuild(model, lambda path, node: dataclasses.replace(node, b=None) if path in old else node)
    return {"model": model}


def refuses(rng):
    yield {"model": frozen_model(rng, np.float64)}, "a model without an adapter has nothing to merge"


def numbers(results):
    return {"model": np.concatenate([node.W.ravel() for node in nodes_of(results["model"], Linear).values()])}


KINDS = {
    "no model": (None, "merge returns {given}, expected a new Transformer"),
    "changed": ("inplace", "the given model was changed; rebuild makes a new one"),
    "untouched": ("missing_path", "{path} still has its detour, and its W has not changed"),
    "lost": (None, "{path} is no Linear: change returns one node, in the place of the LoRALinear"),
    "twice": ("extra_term", "{path} still has its detour, so the update counts twice"),
    "W": (None, "{path}.W is not W + scale * A B"),
    "rounded": (None, "{path}.W was added up in float32: make A or B float64 before the product, round the sum once"),
    "hf": (None, "{path}.hf is {given!r}, expected {expected!r}: hand on the node's own, for the files"),
    "outputs": ("missing_term", "its outputs differ from the adapted model's by up to {largest}; is a bias lost?"),
    "adapter": (None, "its .adapter is still there, though all is merged: dataclasses.replace(model, adapter=None)"),
}


def judge(given, right, arguments):
    lora, given, right = arguments["model"], given["model"], right["model"]
    if not isinstance(given, type(lora)):
        yield Finding("no model", "model", {"given": type(given).__name__})
    detours = adapted(lora)
    if not detours:
        yield Finding("changed", "model")
    for path, node in adapted(given).items():
        yield Finding("untouched" if np.array_equal(node.W, detours[path].W) else "twice", "model", {"path": path})
    mine, wanted = nodes_of(given, Linear), nodes_of(right, Linear)
    for path in detours:
        if path not in mine:
            yield Finding("lost", "model", {"path": path})
        W, target = mine[path].W, wanted[path].W
        single = target.dtype == np.float32
        if W.dtype != target.dtype:
            yield Finding("dtype", "model", {"name": f"{path}.W", "given": W.dtype, "expected": target.dtype})
        if W.shape != target.shape or not close(W, target, 1e-6 if single else 1e-12):
            yield Finding("W", "model", {"path": path})
        elif single and np.mean(target != W) > 0.05:  # another order of float64's sums moves hardly any
            yield Finding("rounded", "model", {"path": path})
        elif mine[path].hf != wanted[path].hf:
            yield Finding("hf", "model", {"path": path, "given": mine[path].hf, "expected": wanted[path].hf})
    if found := same_outputs(given, lora):
        yield found
    if given.adapter is not None:
        yield Finding("adapter", "model")


SLIPS = """
constant_factor: the scale is missing
    node.scale * ( => (
constant_factor: the scale is there twice
    node.scale * ( => node.scale**2 * (
constant_factor: it is divided by the scale; the scale multiplies
    node.scale * ( => 1 / node.scale * (
sign: the update is subtracted; it is added
    node.W + => node.W -
missing_term: the detour is thrown away; its update is added to W
    + node.scale * (node.A.astype(np.float64) @ node.B) =>
missing_term: W is missing: it is the update alone
    node.W + node => node
factor_order: the scale multiplies W, too
    node.W + node.scale * (node.A.astype(np.float64) @ node.B) => node.scale * (node.W + node.A @ node.B)
factor_order: the scale multiplies W, and not the update
    node.W + node.scale * ( => node.scale * node.W + (
transpose: the update is transposed
    (node.A.astype(np.float64) @ node.B) => (u.T if (u := node.A @ node.B).shape == u.T.shape else u)
"""
