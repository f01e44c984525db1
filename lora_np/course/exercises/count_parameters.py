"""Chapter 1: how many numbers a model holds, and how many of them are trained."""

import lora_np as lnp
from lora_np.course.models import config, frozen_model

CHAPTER, PLACE, MINUTES, LEVEL = 1, 3, 5, "easy"
OUTPUTS = ("total", "trainable")
HINTS = (
    "lnp.parameters(model) is a dict of arrays; array.size counts entries.",
    "Call it a second time with trainable_only=True.",
)
library = lnp.count_parameters


def count_parameters(model):
    """Return (total, trainable)."""
    total = sum(array.size for array in lnp.parameters(model).values())
    trainable = sum(array.size for array in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


def trained(model):
    return lnp.parameters(model, trainable_only=True)


BRANCHES = {
    "nothing is trained": lambda model: not trained(model),
    "an adapter is trained": lambda model: any(name.endswith(".A") for name in trained(model)),
    "the head is trained": lambda model: any(name.startswith("head") for name in trained(model)),
    "everything is trained": lambda model: len(trained(model)) == len(lnp.parameters(model)),
}


def draw(rng, dtype, trial):
    base = frozen_model(rng, dtype)
    if trial == 1:
        return {"model": base}
    if trial in (2, 3):
        wanted = [name for name in lnp.parameters(base) if trial == 2 or name.startswith("head")]
        return {"model": lnp.unfreeze(base, wanted)}
    return {"model": lnp.inject(base, config(trial), rng)}


EACH, NAMED = "array.size for array in", "a.size for n, a in"


def only(condition):
    """Return the edits that count only those arrays whose name holds a condition."""
    return (EACH, NAMED), (".values())", f".items() if {condition})")


SLIPS = [
    (
        "swapped",
        "the two numbers are returned in each other's place",
        ("return total, trainable", "return trainable, total"),
    ),
    (
        "elementwise_factor",
        "it counts rows: len(array) is the first side, array.size all entries",
        ("array.size", "len(array)"),
    ),
    ("constant_factor", "it counts bytes, not numbers", ("array.size", "array.nbytes")),
    ("constant_factor", "it counts axes: array.ndim, not array.size", ("array.size", "array.ndim")),
    (None, "it counts arrays, not the numbers in them", ("array.size", "1")),
    (
        "missing_term",
        "the vectors are left out: biases, and what layer norm holds",
        (".values())", ".values() if array.ndim > 1)"),
    ),
    (
        "missing_term",
        "only the layers are counted; embeddings and head hold numbers, too",
        *only("n.startswith('layer')"),
    ),
    ("missing_term", "the head is left out", *only("not n.startswith('head')")),
    ("missing_term", "the embeddings are left out", *only("not n.startswith('embeddings')")),
    ("missing_term", "biases are left out", *only("not n.endswith('.b')")),
    (
        "missing_term",
        "the first number is of the trained ones, too; it is of all",
        ("lnp.parameters(model).", "lnp.parameters(model, trainable_only=True)."),
    ),
    (
        "extra_term",
        "the second number is of all, too; it is of the trained ones alone",
        (", trainable_only=True", ""),
    ),
    (
        "wrong_cached_value",
        "the second number is that of the frozen ones",
        ("return total, trainable", "return total, total - trainable"),
    ),
    (
        "missing_term",
        "the first number is that of the frozen ones; it is of all",
        ("return total, trainable", "return total - trainable, trainable"),
    ),
]
