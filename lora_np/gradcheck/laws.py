"""Two laws that every backward obeys, whatever its forward is: the same call gives the same answer, and it is linear.

A backward applies the transposed Jacobian to its upstream gradient, and that is a linear map (the adjoint; HIPS
autograd tests its primitives by the same property). A buffer that is reused, a gradient that accumulates, a mask drawn
anew, an upstream that is ignored, squared or clipped: each breaks one of the two.
"""

import numpy as np

from lora_np.gradcheck.calls import draw_upstream, flat
from lora_np.gradcheck.oracles import sizes_of

PORTIONS = (0.75, -1.25)  # of two upstreams


def backward_repeats(trial, evidence, cache):
    """Called again, on a fresh forward and then with the same cache, the backward gives the same gradients."""
    calls = [(None, "when it is called again after a fresh forward")]
    if not evidence.tampered:
        calls.append((cache, "when it is called again with the same cache"))
    for kept, when in calls:
        again = trial.another(evidence.doutput, kept, when)
        same = {name: _same(first, again.get(name), evidence.dtype) for name, first in evidence.gradients.items()}
        odd = [name for name in same if again and not same[name]]
        if odd:
            names = listed("d" + name for name in odd)
            reason = "it keeps something between calls, or draws numbers"
            trial.fail("backward", f"backward: gives a different {names} {when}; {reason}", "nondeterministic")
            return


def linear_in_upstream(trial, evidence):
    """backward(a u + b v) is a backward(u) + b backward(v), and another upstream gives another gradient."""
    (a, b), first = PORTIONS, evidence.gradients
    other = draw_upstream(evidence.doutput, trial.rng)
    mix = _combine(a, evidence.doutput, b, other)
    second, mixed = (trial.another(doutput, when="for another upstream gradient") for doutput in (other, mix))
    names = [name for name in first if name in second and name in mixed]
    names = [name for name in names if second[name].shape == mixed[name].shape == first[name].shape]
    ignoring = [name for name in names if np.any(first[name]) and np.array_equal(first[name], second[name])]
    if ignoring and len(ignoring) == len(trial.inputs):
        advice = "multiply by it, also where training only ever passes 1.0"
        trial.fail("backward", f"backward: ignores its upstream gradient; {advice}", "ignores_upstream")
    # For gradients that are zero but for rounding, such as that of attention's key bias.
    rounding = 100 * np.finfo(evidence.dtype).eps * np.sum(np.abs(flat(mix) * flat(evidence.output)))
    for name in names:
        size = abs(a) * np.max(np.abs(first[name])) + abs(b) * np.max(np.abs(second[name]))
        allowed = 1e-3 * size + rounding / np.min(sizes_of(trial.inputs[name]))
        if name in ignoring:
            trial.fail(name, f"d{name}: is the same for two different upstream gradients", "ignores_upstream")
        elif not np.max(np.abs(mixed[name] - (a * first[name] + b * second[name]))) <= allowed:
            advice = "a backward multiplies by it, and never squares or clips it"
            trial.fail(name, f"d{name}: is not linear in the upstream gradient; {advice}", "ignores_upstream")


def alike(a, b, dtype):
    """Equal up to the order of summation, which some BLAS libraries choose by how an array lies in memory."""
    return bool(np.all(np.abs(a - b) <= 100 * np.finfo(dtype).eps * np.max(np.abs(a), initial=0.0)))


def listed(names):
    """Join names with commas, the first three of many."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _same(first, again, dtype):
    return again is not None and again.shape == first.shape and alike(first, again, dtype)


def _combine(a, u, b, v):
    if isinstance(u, tuple):
        return tuple(_combine(a, x, b, y) for x, y in zip(u, v))
    return np.asarray(a * u + b * v) if isinstance(u, np.ndarray) else a * u + b * v
