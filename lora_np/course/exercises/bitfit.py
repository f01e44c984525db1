"""Chapter 6: train the biases and nothing else, a rival of LoRA."""

import numpy as np

import lora_np as lnp
from lora_np.course.findings import Finding
from lora_np.course.models import frozen_model

CHAPTER, PLACE, MINUTES, LEVEL = 6, 4, 10, "easy"
OUTPUTS = ("model",)
HINTS = (
    "What do biases add to, and what do their names in lnp.parameters(model) end with? A layer norm has one, too.",
    "lnp.unfreeze(model, names) takes a list of names, and returns a new model.",
)


def bitfit(model):
    """Return a new model in which all biases are trained, and nothing else."""
    names = [name for name in lnp.parameters(model) if name.endswith((".b", ".beta"))]
    return lnp.unfreeze(model, names)


BRANCHES = {
    "there is one layer": lambda model: len(model.layer) == 1,
    "there are several layers": lambda model: len(model.layer) > 1,
    "a map has no bias": lambda model: model.layer[0].attention.query.b is None,
    "the weights are float32": lambda model: model.dtype == np.float32,
}


def draw(rng, dtype, trial):
    options = {"qkv_bias": False} if trial == 3 else {}
    return {"model": frozen_model(rng, dtype, num_hidden_layers=(2, 1, 3, 2, 2, 2)[trial], **options)}


def numbers(results):
    return {"model": np.array([array.flags.writeable for array in lnp.parameters(results["model"]).values()], float)}


KINDS = {
    "no model": (None, "bitfit returns {given}, expected a new Transformer"),
    "the same": ("inplace", "the given model was changed; lnp.unfreeze returns a new one"),
    "missing": ("missing_term", "{name} is a bias, but is not trained"),
    "beta": ("missing_term", "{name} is the bias of a layer norm, but is not trained"),
    "extra": ("extra_term", "{name} is trained, but is no bias"),
    "read-only": (None, "{name} is marked as trained, but cannot be written: lnp.unfreeze makes copies that can"),
    "changed": ("extra_term", "{name} has other numbers than the given model's"),
}


def judge(given, right, arguments):
    model, given, right = arguments["model"], given["model"], right["model"]
    if not isinstance(given, type(model)):
        yield Finding("no model", "model", {"given": type(given).__name__})
    if lnp.parameters(model, trainable_only=True):
        yield Finding("the same", "model")
    mine, wanted = (lnp.parameters(each, trainable_only=True) for each in (given, right))
    for name in wanted:
        if name not in mine:
            yield Finding("beta" if name.endswith("beta") else "missing", "model", {"name": name})
    for name, array in mine.items():
        if name not in wanted:
            yield Finding("extra", "model", {"name": name})
        if not array.flags.writeable:
            yield Finding("read-only", "model", {"name": name})
    for name, array in lnp.parameters(model).items():
        if not np.array_equal(array, lnp.parameters(given)[name]):
            yield Finding("changed", "model", {"name": name})


SLIPS = ""
