"""The same functions off their defaults: what is right only at gamma = 1 or B = 0 is not right.

Each argument that stands at a value where mistakes hide is moved off it, one at a time, and the gradients are compared
again: a number or an array of ones or zeros, a mask that hides nothing, ids without a repetition, a batch of one.
"""

import numpy as np

from .calls import is_scalar


def replays(inputs, fixed, rng):
    """Yield (what the default is, {argument: another value}) for the arguments that stand at one."""
    for name, x in {**inputs, **fixed}.items():
        if is_scalar(x) and x in (0.0, 1.0):
            yield f"{name} = {x:g}", {name: type(x)(1.7 if x else 0.3)}
        elif not isinstance(x, np.ndarray) or x.size < 2:
            continue
        elif x.dtype == bool and x.all():
            some = rng.random(x.shape) < 0.6
            some[..., 0] = True
            yield f"{name} hides nothing", {name: some}
        elif x.dtype.kind == "f" and np.ptp(x) == 0 and x.flat[0] in (0.0, 1.0):
            yield f"{name} = {x.flat[0]:g}", {name: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)}
        elif x.dtype.kind in "iu" and x.ndim == 1 and name in fixed and distinct(x):
            again = x.copy()
            again[-1] = again[0]
            yield f"{name} do not repeat", {name: again}
    if two := batch_of_two(inputs, fixed, rng):
        yield f"{next(iter(inputs))} holds one row", two


def batch_of_two(inputs, fixed, rng):
    """Return the arguments for two rows where there is one: there a mean over the batch is the sum.

    The rows are those of the first input, as data come first, and of the fixed arrays of length 1 beside it. Another
    input of length 1 may be a parameter that is broadcast, so that two rows of it would be another function.
    """
    single = [name for name, x in inputs.items() if isinstance(x, np.ndarray) and x.ndim > 1 and len(x) == 1]
    if single != [next(iter(inputs))]:
        return {}
    x = inputs[single[0]]
    both = {name: np.repeat(y, 2, axis=0) for name, y in fixed.items() if np.ndim(y) and len(y) == 1}
    return {**both, single[0]: np.concatenate([x, rng.permuted(x, axis=-1) * x.dtype.type(1.3)])}


def distinct(ids):
    """Do no two agree, without being an order of all of 0 to n - 1? That may be meant as a permutation."""
    found = np.unique(ids)
    return found.size == ids.size and not np.array_equal(found, np.arange(ids.size))
