"""Chapter 1: how many numbers a model holds, and how many are trained."""

import lora_np as lnp
from lora_np.course.models import adapted_model, config, frozen_model, moved, trained

CHAPTER, PLACE, MINUTES, LEVEL = 1, 3, 5, "easy"
OUTPUTS = ("total", "trainable")
HINTS = (
    "`lnp.parameters(model)` is a dict of arrays. An array knows how many numbers it has: `array.size`.",
    "Sum the sizes over the values of the dict, and once more for `trainable_only=True`.",
)
library = lnp.count_parameters


def count_parameters(model):
    """Return (total, trainable)."""
    total = sum(array.size for array in lnp.parameters(model).values())
    trained = lnp.parameters(model, trainable_only=True)
    trainable = sum(array.size for array in trained.values())
    return total, trainable


BRANCHES = {
    "nothing is trained": lambda model: not trained(model),
    "something is trained": lambda model: bool(trained(model)),
    "the head is trained, beside the adapter": lambda model: any(name.startswith("head") for name in trained(model)),
    "the head alone is trained": lambda model: {name.split(".")[0] for name in trained(model)} == {"head"},
    "everything is trained": lambda model: len(trained(model)) == len(lnp.parameters(model)),
    "the head is frozen": lambda model: not any(name.startswith("head") for name in trained(model)),
    "a trained array is zero, as B is at the start": lambda model: any(not a.any() for a in trained(model).values()),
}


def draw(rng, dtype, trial):
    if trial in (1, 3, 4):  # without an adapter
        model = frozen_model(rng, dtype, num_hidden_layers=trial)
        wanted = [name for name in lnp.parameters(model) if trial == 4 or (trial == 3 and name.startswith("head"))]
        return {"model": lnp.unfreeze(model, wanted) if wanted else model}
    if trial == 2:
        options = config(trial, modules_to_save=["classifier"])
        return {"model": moved(lnp.inject(frozen_model(rng, dtype), options, rng), rng)}
    if trial == 0:
        return {"model": lnp.inject(frozen_model(rng, dtype), config(trial), rng)}
    return {"model": adapted_model(rng, dtype, trial)}


SLIPS = """
swapped: the two numbers are returned in each other's place
    return total, trainable => return trainable, total
elementwise_factor: it counts rows: len(array) is the first side, array.size all entries
    array.size => len(array)
elementwise_factor: it adds up the lengths of the sides; the number of entries is their product, array.size
    array.size => sum(array.shape)
constant_factor: it counts bytes, not numbers
    array.size => array.nbytes
constant_factor: it counts axes: array.ndim, not array.size
    array.size => array.ndim
other: it counts arrays, not the numbers in them
    array.size => 1
missing_term: the vectors are left out: biases, and what layer norm holds
    .values()) => .items() if a.ndim > 1)
    array.size for array in => a.size for name, a in
missing_term: only the layers are counted; embeddings and head hold numbers, too
    .values()) => .items() if name.startswith('layer'))
    array.size for array in => a.size for name, a in
missing_term: the head is left out
    .values()) => .items() if not name.startswith('head'))
    array.size for array in => a.size for name, a in
missing_term: the embeddings are left out
    .values()) => .items() if not name.startswith('embeddings'))
    array.size for array in => a.size for name, a in
missing_term: biases are left out
    .values()) => .items() if not name.endswith('.b'))
    array.size for array in => a.size for name, a in
missing_term: the first number is of the trained ones, too; it is of all
    lnp.parameters(model) => lnp.parameters(model, trainable_only=True)
extra_term: the second number is of all, too; it is of the trained ones alone
    lnp.parameters(model, trainable_only=True) => lnp.parameters(model)
wrong_cached_value: the second number is that of the frozen ones
    return total, trainable => return total, total - trainable
missing_term: the first number is that of the frozen ones; it is of all
    return total, trainable => return total - trainable, trainable
missing_term: the second number is that of A and B alone; whatever else is trained counts, too
    array.size for array in => a.size for name, a in
    trained.values() => trained.items() if name.endswith(('.A', '.B'))
    (model).values() => (model).items()
"""
