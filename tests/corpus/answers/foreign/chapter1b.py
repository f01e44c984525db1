import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp

# count_parameters(model)


@wrong_answer("count_parameters", cause=None)
def count_of_arrays(model):
    "Counts arrays, not numbers."
    return len(lnp.parameters(model)), len(lnp.parameters(model, trainable_only=True))


@wrong_answer("count_parameters", cause="swapped")
def count_swapped(model):
    "Trainable first, total second."
    total = sum(a.size for a in lnp.parameters(model).values())
    trainable = sum(a.size for a in lnp.parameters(model, trainable_only=True).values())
    return trainable, total


@wrong_answer("count_parameters", cause=None)
def count_frozen_as_trainable(model):
    "The second number is what is frozen."
    total = sum(a.size for a in lnp.parameters(model).values())
    trainable = sum(a.size for a in lnp.parameters(model, trainable_only=True).values())
    return total, total - trainable


@wrong_answer("count_parameters", cause="missing_term")
def count_matrices_only(model):
    "Biases and norms, which have one axis, are left out."
    found = (lnp.parameters(model), lnp.parameters(model, trainable_only=True))
    return tuple(sum(a.shape[0] * a.shape[1] for a in part.values() if a.ndim == 2) for part in found)


@wrong_answer("count_parameters", cause=None)
def count_lengths(model):
    "len of an array is its first side only."
    total = sum(len(a) for a in lnp.parameters(model).values())
    trainable = sum(len(a) for a in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


@wrong_answer("count_parameters", cause="constant_factor")
def count_bytes(model):
    "Counts bytes, four or eight for each number."
    total = sum(a.nbytes for a in lnp.parameters(model).values())
    trainable = sum(a.nbytes for a in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


@wrong_answer("count_parameters", cause="shape")
def count_total_only(model):
    "One number in place of a pair."
    return sum(a.size for a in lnp.parameters(model).values())


@wrong_answer("count_parameters", cause=None)
def count_trainable_by_name(model):
    "Takes what is called A or B for what is trained: not so after unfreeze."
    arrays = lnp.parameters(model)
    total = sum(a.size for a in arrays.values())
    return total, sum(a.size for name, a in arrays.items() if name.endswith((".A", ".B")))


@wrong_answer("count_parameters", cause="zero_gradient")
def count_as_loaded(model):
    "Always says that nothing is trained, as is so for a model as loaded."
    return sum(a.size for a in lnp.parameters(model).values()), 0


@wrong_answer("count_parameters", cause=None)
def count_equal_sizes_once(model):
    "A set of sizes counts arrays of the same size only once."
    found = (lnp.parameters(model), lnp.parameters(model, trainable_only=True))
    return tuple(sum({a.size for a in part.values()}) for part in found)


@wrong_answer("count_parameters", cause=None)
def count_by_values_that_are_not_zero(model):
    "Counts the entries that are not zero, so the fresh B of LoRA does not count."
    total = sum(np.count_nonzero(a) for a in lnp.parameters(model).values())
    trainable = sum(np.count_nonzero(a) for a in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


@right_answer("count_parameters")
def count_by_shapes(model):
    "The product of each shape."
    arrays = lnp.parameters(model)
    trained = lnp.parameters(model, True)
    return (
        sum(math.prod(a.shape) for a in arrays.values()),
        sum(math.prod(arrays[name].shape) for name in trained),
    )


@right_answer("count_parameters")
def count_by_concatenation(model):
    "All numbers in one long row."
    trained = [a.ravel() for a in lnp.parameters(model, trainable_only=True).values()]
    every = np.concatenate([a.ravel() for a in lnp.parameters(model).values()])
    return every.size, len(np.concatenate(trained)) if trained else 0


@right_answer("count_parameters")
def count_in_one_loop(model):
    "One pass over the names."
    trained = set(lnp.parameters(model, trainable_only=True))
    total = trainable = 0
    for name, array in lnp.parameters(model).items():
        total += array.size
        trainable += array.size * (name in trained)
    return total, trainable


@right_answer("count_parameters")
def count_by_map(model):
    "A tuple of two sums by a generator, as NumPy integers."
    return tuple(
        np.sum([np.size(a) for a in lnp.parameters(model, trainable_only=only).values()], dtype=int)
        for only in (False, True)
    )
