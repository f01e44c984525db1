"""Debugging exercises by seed: wrong backwards of an operation, each proven wrong."""

from typing import NamedTuple

import numpy as np

from ..verdict.calls import by_name, draw_upstream, widened
from .edits import faults
from .suspect import Suspect, close


class Mutant(NamedTuple):
    case: object  # as it was given: forward, right backward, inputs and fixed
    backward: object  # the wrong function
    source: str  # of it, without comments
    arguments: tuple  # whose gradients are wrong
    cause: str
    sentence: str  # the solution


def mutants(case, seed=0):
    """Yield wrong backwards of an operation, in an order that the seed draws; no two give the same numbers.

    Parameters
    ----------
    case : object
        Its attributes `forward`, `backward` (a right one), `inputs` and `fixed` are what `check` takes.
    seed : int

    Yields
    ------
    Mutant
        Its gradients have the right shapes and the wrong values, by more than any rounding, for at least one argument.

    Raises
    ------
    TypeError
        If the case lacks one of these.
    """
    lacking = [name for name in ("forward", "backward", "inputs", "fixed") if not hasattr(case, name)]
    if lacking:
        received = f"mutants takes a case with forward, backward, inputs and fixed, but {case!r} has no {lacking[0]}"
        raise TypeError(f"{received}; give it an object with these four, as a types.SimpleNamespace is.")
    rng = np.random.default_rng(seed)
    output, cache = case.forward(**case.inputs, **case.fixed)
    doutput = draw_upstream(output, rng)
    suspect = Suspect(case.forward, case.backward, case.inputs, case.fixed, doutput)
    right, entrywise = suspect.given, any(suspect.is_entrywise(name) for name in suspect.given)
    seen = []
    edited = list(faults(case.backward, widened(doutput), widened(cache)))
    for k in rng.permutation(len(edited)):
        cause, edit = edited[k]
        try:
            with np.errstate(all="ignore"):
                function = edit.build()
                grads = by_name(function(widened(doutput), widened(cache)), case.inputs)
            fits = all(np.shape(grads[name]) == right[name].shape and np.isfinite(grads[name]).all() for name in right)
        except Exception:
            continue
        wrong = tuple(name for name, g in right.items() if fits and not close(grads[name], g, 1e-4))
        numbers = np.concatenate([np.ravel(grads[name]) for name in right]) if wrong else None
        if not wrong or any(close(numbers, other, 1e-9) for other in seen):
            continue
        seen.append(numbers)
        cause = "wrong_derivative" if entrywise and cause != "mask_ignored" else cause
        old, new, line = edit.words()
        sentence = f"in `{line}`, `{new}` stands where `{old}` belongs"
        yield Mutant(case, function, edit.source(), wrong, cause, sentence)
