"""What a backward must be before its numbers are compared: polite to what it is given, its gradients in place.

Mistakes of this kind are why a right formula trains badly: an upstream scaled in place, a cache that is used up, a
gradient that NumPy quietly broadcasts into its parameter. What holds for repeated calls is in `laws`.
"""

from dataclasses import dataclass

import numpy as np

from lora_np.gradcheck.calls import coarsest, copied, draw_upstream, flat, forward_once, fresh, in_words, parts_of
from lora_np.gradcheck.laws import alike, backward_repeats, linear_in_upstream, listed
from lora_np.gradcheck.placement import by_name, freeze, misplaced
from lora_np.gradcheck.snapshots import differences, snapshot


@dataclass
class Evidence:
    """What the trial leaves for the comparison of values."""

    output: object  # of the forward at the given inputs
    doutput: object  # the upstream that the gradients belong to
    dtype: np.dtype  # the least precise one among inputs and outputs
    gradients: dict[str, np.ndarray]  # by argument, those with the right shape
    steady: bool  # the forward gives the same output twice
    pure: bool  # the forward leaves its arguments alone
    tampered: bool = False  # the backward does not


class Trial:
    """One forward and one backward on trial. Every call gets fresh copies; what is found goes into ``failures``."""

    def __init__(self, forward, backward, inputs, fixed, rng):
        self.forward, self.backward, self.inputs, self.fixed, self.rng = forward, backward, inputs, fixed, rng
        self.failures, self.causes = {}, []

    def fail(self, key, sentence, cause=None):
        """Note a sentence under a key, once, and its cause if it is known."""
        found = self.failures.setdefault(key, [])
        if sentence not in found:
            found.append(sentence)
            self.causes += [(key, cause, sentence)] if cause else []

    def examine(self):
        """Apply every rule. Return the Evidence for the comparison of values."""
        inputs, fixed = fresh(self.inputs), fresh(self.fixed)
        output, cache = forward_once(self.forward, inputs, fixed)
        # A copy: the output may lie in a buffer that the next call writes into.
        dtype = coarsest([*self.inputs.values(), *parts_of(output)])
        evidence = Evidence(copied(output), draw_upstream(output, self.rng), dtype, {}, steady=True, pure=True)
        evidence.pure = self._unchanged("forward", {**inputs, **fixed})
        evidence.steady = self._forward_repeats(evidence)
        returned = self._guarded_backward(evidence, cache, {**inputs, **fixed} if evidence.pure else {})
        if returned is not None and self._right_number(returned):
            evidence.gradients = self._placed(by_name(returned, self.inputs))
        if evidence.gradients and evidence.steady:
            backward_repeats(self, evidence, cache)
            linear_in_upstream(self, evidence)
        return evidence

    def another(self, doutput, cache=None, when=""):
        """Run another backward, on a fresh forward if no cache is given. Its gradients by argument, {} if it raises."""
        if cache is None:
            _, cache = forward_once(self.forward, fresh(self.inputs), fresh(self.fixed), "when it is called again")
        try:
            returned = by_name(freeze(self.backward(copied(doutput), cache)), self.inputs)
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

    def _forward_repeats(self, evidence):
        again, _ = forward_once(self.forward, fresh(self.inputs), fresh(self.fixed), "when it is called again")
        first, second = flat(evidence.output), flat(again)
        if first.shape == second.shape and alike(first, second, evidence.dtype):
            return True
        advice = "draw random masks outside and pass them in `fixed`"
        self.fail("forward", f"forward: two calls with the same arguments differ; {advice}", "nondeterministic")
        return False

    def _guarded_backward(self, evidence, cache, arguments):
        """Call the backward for the first time and see that it changes nothing it was given. None if it raises."""
        upstream, before = copied(evidence.doutput), snapshot(cache)
        try:
            returned = freeze(self.backward(upstream, cache))
        except Exception as error:
            self.fail("backward", f"backward: raises {in_words(error)}")
            return None
        if differences(snapshot(evidence.doutput), upstream):
            self.fail(
                "backward",
                "backward: changes its upstream gradient in place; others may still have to read it",
                "inplace",
            )
        inputs_kept = self._unchanged("backward", arguments)
        changed = differences(before, cache)
        if changed and inputs_kept:  # a cache usually holds the inputs themselves: say it once
            paths = listed("cache" + path for path in changed)
            self.fail("backward", f"backward: changes {paths} in place; a cache is only read", "inplace")
        evidence.tampered = bool(changed) or not inputs_kept
        return (returned,) if returned is None else returned

    def _right_number(self, returned):
        several = isinstance(returned, (tuple, list))
        count = len(returned) if several else 1
        if count == len(self.inputs):
            return True
        received = f"{count} gradients" if count != 1 else "one gradient"
        wanted = ", ".join("d" + name for name in self.inputs)
        sentence = f"backward: returns {received}, expected {len(self.inputs)} in the order of the inputs: ({wanted})"
        self.fail("backward", sentence, "shape")
        return False

    def _placed(self, gradients):
        """Keep the gradients that can be compared, and say what is wrong with the others."""
        placed = {}
        for name, gradient in gradients.items():
            fault, comparable = misplaced("d" + name, gradient, self.inputs[name])
            if fault:
                self.fail(name, fault, cause_of(gradient, self.inputs[name]))
            if comparable:
                placed[name] = np.asarray(gradient)
        return placed


def cause_of(gradient, variable):
    """Return the cause that a misplaced gradient is."""
    if gradient is None:
        return "zero_gradient"
    if isinstance(gradient, (np.ndarray, np.number, float, int)) and np.shape(gradient) != np.shape(variable):
        return "shape"
    return None if np.asarray(gradient).dtype.kind == "f" and not np.all(np.isfinite(gradient)) else "dtype"
