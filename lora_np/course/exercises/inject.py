"""Chapter 6: a detour beside each linear map that a configuration names."""

import dataclasses
import itertools

import numpy as np

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear, lora_init, lora_scale
from lora_np.adapt.targets import targets_of
from lora_np.course.findings import Finding
from lora_np.course.models import config as configuration
from lora_np.course.models import frozen_model, nodes_of, same_outputs
from lora_np.model.nodes import Linear
from lora_np.model.tree import parameters, rebuild

CHAPTER, PLACE, MINUTES, LEVEL = 6, 2, 20, "hard"
OUTPUTS = ("model",)
HINTS = (
    "`targets_of(model, config)` names the nodes; `rebuild(model, change)` makes a new model. Write `change` inside.",
    "`change(path, node)` returns the node itself if the path is no target; for one, `d_in, d_out = node.W.shape`.",
    "`lora_init` makes A and B; then `LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)`.",
    "The last line is `return dataclasses.replace(rebuild(model, change), adapter=config)`.",
)
library = lnp.inject


def inject(model, config, rng):
    """Return a new model with a LoRA detour beside each map that the config names."""
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


def maps(model, config, **_):
    """Return the maps that are to be adapted."""
    nodes = nodes_of(model, Linear)
    return [nodes[path] for path in targets_of(model, config)]


BRANCHES = {
    "use_rslora is True": lambda config, **_: config.use_rslora,
    "use_rslora is False": lambda config, **_: not config.use_rslora,
    "lora_dropout is 0": lambda config, **_: config.lora_dropout == 0,
    "lora_dropout is not 0": lambda config, **_: config.lora_dropout > 0,
    "there is one target": lambda **told: len(maps(**told)) == 1,
    "there are several targets": lambda **told: len(maps(**told)) > 1,
    "every map but the head is a target": lambda config, **_: config.target_modules == "all-linear",
    "a target is square": lambda **told: any(n.W.shape[0] == n.W.shape[1] for n in maps(**told)),
    "a target has d_in larger than d_out": lambda **told: any(n.W.shape[0] > n.W.shape[1] for n in maps(**told)),
    "a target has d_out larger than d_in": lambda **told: any(n.W.shape[0] < n.W.shape[1] for n in maps(**told)),
    "a target has no bias": lambda **told: any(n.b is None for n in maps(**told)),
    "the weights are float32": lambda model, **_: model.head.classifier.W.dtype == np.float32,
    "r is 1": lambda config, **_: config.r == 1,
}


def draw(rng, dtype, trial):
    model = frozen_model(rng, dtype)
    if trial == 3:
        model = rebuild(model, lambda path, node: dataclasses.replace(node, b=None) if path.endswith("query") else node)
    options = {
        1: {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "use_rslora": False},  # the chapter's
        2: {"target_modules": None, "lora_dropout": 0.0},
        4: {"target_modules": r".*\.1\.output\.dense", "r": 1, "lora_alpha": 3},
        5: {"target_modules": ["output.dense", "key"], "layers_to_transform": [0], "lora_dropout": 0.5},
    }
    own = np.random.default_rng(rng.integers(1000))
    return {"model": model, "config": configuration(trial, **options.get(trial, {})), "rng": own}


def numbers(results):
    """Return what the detours hold, in order."""
    nodes = nodes_of(results["model"], LoRALinear).values()
    held = [[*node.A.ravel(), *node.B.ravel(), node.scale, node.dropout, node.b is None] for node in nodes]
    return {"model": np.array(sum(held, []))}


KINDS = {
    "no model": (None, "inject returns {given}, expected a new Transformer"),
    "changed": ("inplace", "the given model was changed; rebuild makes a new one"),
    "nothing": (None, "no map has a detour: is what rebuild returns handed on?"),
    "missing": (None, "{path} is a target, but has no detour"),
    "extra": (None, "{path} has a detour, but the configuration does not name it"),
    "changed W": ("wrong_cached_value", "{path}.W is not the base's W: LoRALinear(W, b, A, B, ...), in this order"),
    "copied W": ("inplace", "{path}.W is a copy; the frozen weight is shared with the base model"),
    "copied": ("inplace", "{name} is a copy; what is frozen is shared with the base model"),
    "b": ("missing_term", "{path}.b is not the base's: hand on the node's own"),
    "other way round": ("swapped", "{path}.A is zero and B random; it is B that starts at zero"),
    "B": ("extra_term", "{path}.B is not zero, so the new model does not start from the base"),
    "shared": (None, "{path}.{which} is also that of {other}; each map needs its own call of lora_init, in change"),
    "sides": ("swapped", "{path}.A has the shape {A} and B {B}, expected {expected}: d_in and d_out are exchanged"),
    "turned": ("transpose", "{path}.A has the shape {A} and B {B}, expected {expected}: they are transposed"),
    "sizes": ("shape", "{path}.A has the shape {A} and B {B}, expected (d_in, r) and (r, d_out), {expected}"),
    "scale": ("constant_factor", "{path}.scale is {given:g}, expected {formula} = {expected:g}"),
    "zero": ("zero_gradient", "{path}.A is zero like B: then nothing ever learns"),
    "bound": (None, "{path}.A reaches {reach:.3f}; lora_init draws from U(-1/sqrt(d_in), 1/sqrt(d_in)), +-{bound:.3f}"),
    "dropout": ("mask_ignored", "{path}.dropout is {given:g}, but the configuration says {expected:g}"),
    "trained": (None, "{path}.trainable is {given!r}, expected {expected!r}"),
    "hf": (None, "{path}.hf is {given!r}, expected {expected!r}: hand on the node's own, for the files"),
    "outputs": ("missing_term", "its outputs are not those of the base model, as B is zero: {largest}"),
    "adapter": (None, "its .adapter is not the configuration, so nobody can save it: dataclasses.replace(model, ...)"),
}


def judge(given, right, arguments):
    base, config = arguments["model"], arguments["config"]
    given, right = given["model"], right["model"]
    if not isinstance(given, type(base)):
        yield Finding("no model", "model", {"given": type(given).__name__})
    mine, wanted = nodes_of(given, LoRALinear), nodes_of(right, LoRALinear)
    if nodes_of(base, LoRALinear) or base.adapter is not None:
        yield Finding("changed", "model")
    for path in [path for path in wanted if path not in mine]:
        yield Finding("missing" if mine else "nothing", "model", {"path": path})
    for path in [path for path in mine if path not in wanted]:
        yield Finding("extra", "model", {"path": path})
    yield from shared(mine)
    for path, node in wanted.items():
        for kind, values in of_detour(mine[path], node, config):
            yield Finding(kind, "model", {"path": path, **values} if kind in KINDS else values)
    theirs = parameters(given)
    for name, array in parameters(base).items():
        if name in theirs and not np.shares_memory(array, theirs[name]):
            yield Finding("copied", "model", {"name": name})
    if found := same_outputs(given, base):
        yield found
    if given.adapter != config:
        yield Finding("adapter", "model")


def shared(nodes):
    """Yield a Finding where two detours have one A, or one B."""
    for other, path in itertools.combinations(nodes, 2):
        for which in ("A", "B"):
            one, two = (getattr(nodes[p], which) for p in (path, other))
            if np.shares_memory(one, two) or (which == "A" and one.any() and np.array_equal(one, two)):
                yield Finding("shared", "model", {"path": path, "other": other, "which": which})


def of_detour(own, node, config):
    """Yield (kind, values) for what is wrong with one detour."""
    if not np.shares_memory(own.W, node.W):
        yield ("copied W" if np.array_equal(own.W, node.W) else "changed W"), {}
    if not np.array_equal(own.b, node.b):
        yield "b", {}
    if np.any(own.B):
        yield ("B" if np.any(own.A) else "other way round"), {}
    given, expected = (own.A.shape, own.B.shape), (node.A.shape, node.B.shape)
    if given != expected:
        turned, exchanged = (expected[0][::-1], expected[1][::-1]), (expected[1][::-1], expected[0][::-1])
        kind = {turned: "turned", exchanged: "sides"}.get(given, "sizes")
        yield kind, {"A": given[0], "B": given[1], "expected": f"{expected[0]} and {expected[1]}"}
    if not abs(own.scale / node.scale - 1) < 1e-6:
        formula = "lora_alpha / sqrt(r)" if config.use_rslora else "lora_alpha / r"
        yield "scale", {"given": own.scale, "formula": formula, "expected": node.scale}
    if not np.any(own.A):
        yield "zero", {}
    for name in ("A", "B"):
        if (kind := getattr(own, name).dtype) != node.W.dtype:
            yield "dtype", {"name": f"the {name} of a detour", "given": kind, "expected": node.W.dtype}
    bound, reach = 1 / np.sqrt(len(node.W)), np.max(np.abs(own.A))
    if not (0.3 if own.A.size < 30 else 0.7) * bound < reach < 1.0001 * bound:
        yield "bound", {"bound": bound, "reach": reach}
    if own.dropout != node.dropout:
        yield "dropout", {"given": own.dropout, "expected": node.dropout}
    if tuple(own.trainable) != node.trainable:
        yield "trained", {"given": own.trainable, "expected": node.trainable}
    if own.hf != node.hf:
        yield "hf", {"given": own.hf, "expected": node.hf}


SLIPS = """
constant_factor: the bound of A has d_out in place of d_in
    node.W.dtype) => node.W.dtype); A = A * np.sqrt(node.W.shape[0] / node.W.shape[1])
"""
