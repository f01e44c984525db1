"""The same functions off their defaults: what is right only at gamma = 1 or B = 0 is not right.

Each argument that stands at a value where mistakes hide is moved off it, one at a time, and the gradients are compared
again: a number or an array of ones or zeros, a mask that hides nothing, ids without a repetition.
"""

import numpy as np

from lora_np.gradcheck.calls import is_scalar


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


def distinct(ids):
    """Do no two agree, without being an order of all of 0 to n - 1? That may be meant as a permutation."""
    found = np.unique(ids)
    return found.size == ids.size and not np.array_equal(found, np.arange(ids.size))
