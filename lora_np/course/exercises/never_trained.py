"""Chapter 4: which arrays of a model have no gradient, whatever the batch."""

from dataclasses import replace

import numpy as np

import lora_np as lnp
from lora_np.course.findings import Finding
from lora_np.course.models import config, frozen_model, nodes_of
from lora_np.model.nodes import Linear
from lora_np.model.tree import rebuild

CHAPTER, PLACE, MINUTES, LEVEL = 4, 12, 15, "medium"
OUTPUTS = ("names",)
HINTS = (
    "Try it: run a forward and a backward with random upstream numbers, and print the largest entry of each gradient.",
    "What happens to a row of attention's scores if the same number is added to all of them?",
)


def never_trained(model):
    """Return a list of the names of the arrays that no batch gives a gradient."""
    names = lnp.parameters(model, trainable_only=True)
    return [name for name in names if name.endswith("attention.key.b")]


def without_key_bias(model):
    nodes = nodes_of(model, Linear)
    change = lambda path, node: replace(nodes[path], b=None) if path.endswith("key") else node  # noqa: E731
    return rebuild(model, change)


BRANCHES = {
    "there is one layer": lambda model: len(model.layer) == 1,
    "there are several layers": lambda model: len(model.layer) > 1,
    "no key has a bias": lambda model: all(block.attention.key.b is None for block in model.layer),
    "everything is trained": lambda model: len(lnp.parameters(model, True)) == len(lnp.parameters(model)),
    "an adapter is trained, from its start": lambda model: (
        not getattr(model.layer[0].attention.query, "B", np.ones(1)).any()
    ),
    "all gradients are small": lambda model: np.max(np.abs(model.norm.gamma)) < 0.01,
}


def draw(rng, dtype, trial):
    model = frozen_model(rng, dtype, num_hidden_layers=(6, 1, 3, 2, 2, 2)[trial])
    if trial == 4:  # B is zero, and so is dA: in the first step alone
        return {"model": lnp.inject(model, config(trial), rng)}
    if trial == 2:  # so faint that all gradients are small
        model = rebuild(
            model, lambda _, node: replace(node, gamma=node.gamma * 1e-3) if hasattr(node, "gamma") else node
        )
    return {"model": lnp.unfreeze(without_key_bias(model) if trial == 3 else model, "all")}


def numbers(results):
    return {"names": np.array([sum(map(ord, name)) for name in sorted(results["names"])], float)}


KINDS = {
    "no list": ("shape", "it returns {given}, expected a list of names"),
    "unknown": (None, "{name} is no name of lnp.parameters(model)"),
    "all": ("zero_gradient", "all that is trained is named; most of it has a gradient, if the upstream is not zero"),
    "has one": ("extra_term", "{name} has a gradient"),
    "frozen": ("extra_term", "{name} is frozen; the question is which of the trained ones has no gradient"),
    "lacks": ("missing_term", "one is missing: {name}"),
    "many": ("missing_term", "{count} are missing, one in each layer"),
}


def judge(given, right, arguments):
    model, names = arguments["model"], given["names"]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        yield Finding("no list", "names", {"given": names})
    everything = lnp.parameters(model, trainable_only=True)
    if set(names) == set(everything) != set(right["names"]):
        yield Finding("all", "names")
    for name in names:
        if name not in lnp.parameters(model):
            yield Finding("unknown", "names", {"name": name})
        elif name not in everything:
            yield Finding("frozen", "names", {"name": name})
        elif name not in right["names"]:
            yield Finding("has one", "names", {"name": name})
    missing = [name for name in right["names"] if name not in names]
    if len(missing) > 1:
        yield Finding("many", "names", {"count": len(missing)})
    if missing:
        yield Finding("lacks", "names", {"name": missing[0]})


SLIPS = ""
