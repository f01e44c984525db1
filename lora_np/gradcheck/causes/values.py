"""Why the results of any function are wrong: the same rules as for a gradient, where what is right is known."""

import numpy as np

from . import named
from .edits import repairs
from .repairs import Repairs
from .suspect import close, hushed, orders


def explain_values(function, arguments, wanted, call):
    """Return the likely causes of wrong results, a list of Diagnosis, the best first.

    Parameters
    ----------
    function : callable
        It is run some hundred times.
    arguments : tuple
        As it runs once, to see the values in its source.
    wanted : dict of str to array
        What is right, by the name of the result.
    call : callable
        From the function, or an edited one, to its results by name. It gives it arguments that may be changed, and may
        raise: then all results are taken for wrong.
    """
    found = []
    with hushed():
        try:
            given = call(function)
            given = {name: np.asarray(given[name], float) for name in wanted}
        except Exception:
            given = {name: np.full(value.shape, np.nan) for name, value in wanted.items()}
        edits = Repairs(given, wanted, lambda: repairs(function, *arguments), call)
        for name in wanted:
            if not close(given[name], wanted[name]):
                seen = {}
                for rule in (of_numbers(name, given, wanted), edits.found(name, False), edits.found(name, True)):
                    for cause, words in rule:
                        seen.setdefault(cause, words)
                    if seen:
                        break
                found += [named(name, cause, f"{name} {words}") for cause, words in seen.items()]
    return found


def of_numbers(name, given, wanted):
    """Yield (cause, words) for what the numbers alone tell."""
    mine, right = given[name], wanted[name]
    for other, value in wanted.items():
        if other != name and close(mine, value) and not close(value, right):
            yield "swapped", f"holds what belongs in {other}: return them in the order that is asked for"
    for order in orders(mine):
        if close(mine.transpose(order), right):
            yield "transpose", f"is right but for its axes: transpose it to the order {order}"
            return
    if mine.shape != right.shape:
        if mine.size == right.size and close(mine.reshape(right.shape), right):
            yield "shape", f"has the right numbers in the shape {mine.shape}, expected {right.shape}"
    elif close(mine, -right):
        yield "sign", "has the wrong sign"
