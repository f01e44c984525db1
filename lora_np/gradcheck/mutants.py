"""Debugging exercises by seed: wrong backwards of the operations in `lora_np.ops`, each proven wrong."""

from typing import NamedTuple

import numpy as np

from lora_np.gradcheck.calls import widened
from lora_np.gradcheck.faults import faults
from lora_np.gradcheck.placement import by_name
from lora_np.gradcheck.suspect import close
from lora_np.ops.cases import cases

ENTRYWISE = ("gelu", "gelu_tanh", "tanh")


class Mutant(NamedTuple):
    case: object  # forward, right backward, inputs and fixed, as `lora_np.ops.cases` has them
    backward: object  # the wrong function
    source: str  # of it, without comments
    arguments: tuple  # whose gradients are wrong
    cause: str
    sentence: str  # the solution


def mutants(op, seed=0):
    """Yield wrong backwards of an operation, in an order that the seed draws; no two give the same numbers.

    Parameters
    ----------
    op : str
        A name of `lora_np.ops.cases`: "linear", "lora_linear", "layer_norm", "attention, causal", ...
    seed : int

    Yields
    ------
    Mutant
        Its gradients have the right shapes and the wrong values, by more than any rounding, for at least one argument.

    Raises
    ------
    ValueError
        If there is no operation of that name.
    """
    rng = np.random.default_rng(seed)
    known = {case.name: case for case in cases(rng)}
    if op not in known:
        raise ValueError(f"there is no operation {op!r}; expected one of {', '.join(known)}.")
    case = known[op]
    output, cache = case.forward(**case.inputs, **case.fixed)
    doutput = rng.standard_normal(np.shape(output)) if np.shape(output) else float(rng.standard_normal())
    right = by_name(case.backward(doutput, cache), case.inputs)
    seen = []
    edited = list(faults(case.backward, widened(doutput), widened(cache)))
    for k in rng.permutation(len(edited)):
        cause, edit = edited[k]
        try:
            with np.errstate(all="ignore"):
                function = edit.build()
                grads = by_name(function(widened(doutput), widened(cache)), case.inputs)
            fits = all(
                np.shape(grads[name]) == np.shape(g) and np.isfinite(grads[name]).all() for name, g in right.items()
            )
        except Exception:
            continue
        wrong = tuple(name for name, g in right.items() if fits and not close(grads[name], g, 1e-4))
        numbers = np.concatenate([np.ravel(grads[name]) for name in right]) if wrong else None
        if not wrong or any(close(numbers, other, 1e-9) for other in seen):
            continue
        seen.append(numbers)
        cause = "wrong_derivative" if op in ENTRYWISE and cause != "mask_ignored" else cause
        sentence = f"in `{edit.line}`, `{edit.new}` stands where `{edit.old}` belongs"
        yield Mutant(case, function, edit.source(), wrong, cause, sentence)
