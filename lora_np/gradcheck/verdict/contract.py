"""What a backward must be before its numbers are compared: polite to what it is given, its gradients in place.

Mistakes of this kind are why a right formula trains badly: an upstream scaled in place, a cache that is used up, a
gradient that NumPy quietly broadcasts into its parameter.

Two laws hold for repeated calls, whatever the forward is: the same call gives the same answer, and it is linear. A
backward applies the transposed Jacobian to its upstream gradient, and that is a linear map (the adjoint; HIPS autograd
tests its primitives by the same property). A buffer that is reused, a gradient that accumulates, a mask drawn anew, an
upstream that is ignored, squared or clipped: each breaks one of the two.
"""

import numpy as np

from .calls import (
    by_name,
    coarsest,
    copied,
    draw_upstream,
    flat,
    forward_once,
    fresh,
    gradients_of,
    in_words,
    is_scalar,
    located,
    parts_of,
)
from .oracles import sizes_of
from .report import Row
from .snapshots import differences, snapshot

PORTIONS = (0.75, -1.25)  # of two upstreams
UPSTREAM_CHANGED = "backward: changes its upstream gradient in place; others may still have to read it"


class Findings:
    """What is wrong: sentences by argument, or under "backward" or "forward", and the causes of some."""

    def __init__(self):
        self.failures, self.causes = {}, []

    def fail(self, key, sentence, cause=None):
        """Note a sentence under a key, once, and its cause if it is known."""
        found = self.failures.setdefault(key, [])
        if sentence not in found:
            found.append(sentence)
            self.causes += [(key, cause, sentence)] if cause else []

    def rows(self, variables, verdicts, steady):
        """Return a Row for each variable, and the notes, from the verdicts on those whose numbers were compared."""
        rows, notes = [], []
        for name, x in variables.items():
            row = Row(name, np.shape(x), np.inf, np.nan, "wrong" if steady else "not resolved")
            row, failure, found = verdicts.get(name, (row, None, []))
            notes += found
            if failure:
                self.fail(name, failure)
            if name in self.failures and row.verdict in ("ok", "vacuous"):  # its numbers alone are right
                row = row._replace(verdict="wrong")
            rows.append(row)
        return rows, notes


class Trial(Findings):
    """One forward and one backward on trial. Every call gets fresh copies."""

    def __init__(self, forward, backward, inputs, fixed, rng):
        super().__init__()
        self.forward, self.backward, self.inputs, self.fixed, self.rng = forward, backward, inputs, fixed, rng

    def examine(self):
        """Apply every rule, and keep what the comparison of values needs."""
        inputs, fixed = fresh(self.inputs), fresh(self.fixed)
        output, cache = forward_once(self.forward, inputs, fixed)
        self.dtype = coarsest([*self.inputs.values(), *parts_of(output)])  # the least precise one
        self.output = copied(output)  # it may lie in a buffer that the next call writes into
        self.doutput = draw_upstream(output, self.rng)
        self.pure = self._unchanged("forward", {**inputs, **fixed})
        self.steady = self._forward_repeats()
        returned = self._guarded_backward(cache, {**inputs, **fixed} if self.pure else {})
        self.gradients = {}  # by argument, those with the right shape
        if returned is not None and self._right_number(returned):
            self.gradients = self._placed(by_name(returned, self.inputs))
        if self.gradients and self.steady:
            backward_repeats(self, cache)
            linear_in_upstream(self)

    def another(self, doutput, cache=None, when=""):
        """Run another backward, on a fresh forward if no cache is given. Its gradients by argument, {} if it raises."""
        if cache is None:
            _, cache = forward_once(self.forward, fresh(self.inputs), fresh(self.fixed), "when it is called again")
        try:
            returned = by_name(copied(self.backward(copied(doutput), cache)), self.inputs)
            return {name: np.asarray(gradient) for name, gradient in returned.items() if gradient is not None}
        except Exception as error:
            self.fail("backward", f"backward: raises {in_words(error)} {when}")
            return {}

    def _unchanged(self, who, arguments):
        """Were the copies in `arguments` left as they were given?"""
        before = {**self.inputs, **self.fixed}
        changed = [name for name in arguments if differences(snapshot(before[name]), arguments[name])]
        for name in changed:
            self.fail(name, f"{name}: the {who} changes this argument in place; work on a copy", "inplace")
        return not changed

    def _forward_repeats(self):
        again, _ = forward_once(self.forward, fresh(self.inputs), fresh(self.fixed), "when it is called again")
        if alike(flat(self.output), flat(again), self.dtype):
            return True
        advice = "draw random masks outside and pass them in `fixed`"
        self.fail("forward", f"forward: two calls with the same arguments differ; {advice}", "nondeterministic")
        return False

    def _guarded_backward(self, cache, arguments):
        """Call the backward for the first time and see that it changes nothing it was given. None if it raises."""
        upstream, before = copied(self.doutput), snapshot(cache)
        try:  # a copy at once: the next call may write into the same buffers
            returned = copied(gradients_of(self.backward(upstream, cache)))
        except Exception as error:
            self.fail("backward", f"backward: raises {in_words(error)}")
            return None
        if differences(snapshot(self.doutput), upstream):
            self.fail("backward", UPSTREAM_CHANGED, "inplace")
        inputs_kept = self._unchanged("backward", arguments)
        changed = differences(before, cache)
        if changed and inputs_kept:  # a cache usually holds the inputs themselves: say it once
            paths = listed("cache" + path for path in changed)
            self.fail("backward", f"backward: changes {paths} in place; a cache is only read", "inplace")
        self.cache_kept = inputs_kept and not changed
        return returned

    def _right_number(self, returned):
        if len(returned) == len(self.inputs):
            return True
        received = f"{len(returned)} gradients" if len(returned) != 1 else "one gradient"
        wanted = ", ".join("d" + name for name in self.inputs)
        sentence = f"backward: returns {received}, expected {len(self.inputs)} in the order of the inputs: ({wanted})"
        self.fail("backward", sentence, "shape")
        return False

    def _placed(self, gradients):
        """Keep the gradients that can be compared, and say what is wrong with the others."""
        placed = {}
        for name, gradient in gradients.items():
            fault, cause, comparable = misplaced("d" + name, gradient, self.inputs[name])
            if fault:
                self.fail(name, fault, cause)
            if comparable:
                placed[name] = np.asarray(gradient)
        return placed


def misplaced(label, gradient, variable):
    """Return what is wrong with a gradient as an object, the cause, and: can its numbers be compared nevertheless?"""
    if gradient is None:
        advice = "return an array, or move the argument to `fixed` if it needs no gradient"
        return f"{label}: is None; {advice}", "zero_gradient", False
    if not isinstance(gradient, (np.ndarray, np.number, float, int)):
        return f"{label}: is a {type(gradient).__name__}, expected an array", "dtype", False
    array, shape = np.asarray(gradient), np.shape(variable)
    if array.dtype.kind not in "fiu":
        return f"{label}: has dtype {array.dtype}, expected real floating-point numbers", "dtype", False
    if array.shape != shape:
        larger = array.size > np.size(variable)
        advice = "sum over the axes along which it was broadcast" if larger else "do not leave it to broadcasting"
        return f"{label}: has shape {array.shape}, expected {shape} as its variable has; {advice}", "shape", False
    bad = ~np.isfinite(array)
    if np.any(bad):
        return f"{label}: is not finite{located(bad)}", None, False
    if is_scalar(variable):
        right, wanted = array.dtype.kind == "f", "a float"
    else:  # Python's float takes any precision
        right = array.dtype == variable.dtype or type(gradient) is float
        wanted = f"{variable.dtype} as its variable has"
    return (None, None, True) if right else (f"{label}: has dtype {array.dtype}, expected {wanted}", "dtype", True)


def backward_repeats(trial, cache):
    """Called again, on a fresh forward and then with the same cache, the backward gives the same gradients."""
    calls = [(None, "when it is called again after a fresh forward")]
    if trial.cache_kept:
        calls.append((cache, "when it is called again with the same cache"))
    for kept, when in calls:
        first, again = trial.gradients, trial.another(trial.doutput, kept, when)
        odd = [x for x in first if again and not (x in again and alike(first[x], again[x], trial.dtype))]
        if odd:
            names = listed("d" + name for name in odd)
            reason = "it keeps something between calls, or draws numbers"
            trial.fail("backward", f"backward: gives a different {names} {when}; {reason}", "nondeterministic")
            return


def linear_in_upstream(trial):
    """backward(a u + b v) is a backward(u) + b backward(v), and another upstream gives another gradient."""
    (a, b), first = PORTIONS, trial.gradients
    other = draw_upstream(trial.doutput, trial.rng)
    mix = _combine(a, trial.doutput, b, other)
    second, mixed = (trial.another(doutput, when="for another upstream gradient") for doutput in (other, mix))
    names = [name for name in first if name in second and name in mixed]
    names = [name for name in names if second[name].shape == mixed[name].shape == first[name].shape]
    ignoring = [name for name in names if np.any(first[name]) and np.array_equal(first[name], second[name])]
    if ignoring and len(ignoring) == len(trial.inputs):
        advice = "multiply by it, also where training only ever passes 1.0"
        trial.fail("backward", f"backward: ignores its upstream gradient; {advice}", "ignores_upstream")
    # For gradients that are zero but for rounding, such as that of attention's key bias.
    rounding = 100 * np.finfo(trial.dtype).eps * np.sum(np.abs(flat(mix) * flat(trial.output)))
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
    if a.shape != b.shape:
        return False
    return bool(np.all(np.abs(a - b) <= 100 * np.finfo(dtype).eps * np.max(np.abs(a), initial=0.0)))


def listed(names):
    """Join names with commas, the first three of many."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _combine(a, u, b, v):
    if isinstance(u, tuple):
        return tuple(_combine(a, x, b, y) for x, y in zip(u, v))
    return np.asarray(a * u + b * v) if isinstance(u, np.ndarray) else a * u + b * v
