"""Why a gradient is wrong: every explanation that fits the numbers, the likeliest first, and none where none does.

contract  what `contract` found is its own cause
rules     hypotheses about any function (`by_numbers`)
repairs   the learner's source, changed in one place, gives the right numbers: the sentence quotes the place
forwards  the learner's gradient is that of their own forward with one step taken for constant, or for another
"""

import contextlib

import numpy as np

from ..verdict.calls import by_name, widened
from . import named
from .by_numbers import FIRST, LAST, RULES, SHAPES
from .edits import repairs
from .forwards import Forwards
from .repairs import Repairs
from .suspect import LARGEST, Suspect, close, derivative, hushed, ratio

MOST = 3  # diagnoses of one gradient
# What a factor that is the same for all entries can be.
OF_ONE_FACTOR = ("sign", "constant_factor", "mean_vs_sum", "swapped", "transpose", "wrong_derivative")


def diagnose(trial, wrong):
    """Return a list of Diagnosis for the failures of a trial; `wrong` names the arguments whose gradient is wrong."""
    found = [named(key, cause, sentence) for key, cause, sentence in trial.causes]
    values, linear = [], not any("not linear" in d.sentence for d in found)
    if trial.steady and all(np.size(trial.inputs[name]) <= LARGEST for name in wrong):
        with contextlib.suppress(Exception, SystemExit), hushed():
            functions = trial.forward.function, trial.backward.function  # whose sources are read
            suspect = Suspect(*functions, trial.inputs, trial.fixed, trial.doutput, linear)
            values = of_values(suspect, wrong)
    soft = [d for d in found if d.cause in ("shape", "dtype") or "not linear" in d.sentence]
    return [*(d for d in found if d not in soft), *values, *soft]


def of_values(suspect, wrong):
    """Return the diagnoses of those gradients whose numbers are wrong by more than a little."""
    wrong = [name for name in wrong if name in suspect.given and not close(suspect.given[name], suspect.truth(name))]
    if not wrong:
        return []
    edits, forwards = repairs_of(suspect), Forwards(suspect, wrong)
    early = (*FIRST, spoken(edits.found, False), spoken(forwards.found))
    rules = (*early, *SHAPES, spoken(edits.found, True), *RULES, *LAST)
    return [diagnosis for name in wrong for diagnosis in of_gradient(suspect, name, early, rules)]


def repairs_of(suspect):
    """Return the search for an edit of the learner's backward that makes gradients right."""
    wanted = {name: suspect.truth(name) for name in suspect.given}
    # Behind all other forwards: a layer that keeps things on itself then has those of this point.
    cache = suspect.cache()

    def arguments():
        return widened(suspect.doutput), widened(cache)

    def candidates():
        for cause, edit in repairs(suspect.backward, *arguments()):
            factor = getattr(getattr(edit.after, "right", None), "id", None) if edit.kind == "add factor" else None
            yield "ignores_upstream" if factor == suspect.upstream else cause, edit

    return Repairs(
        suspect.given,
        wanted,
        candidates,
        lambda backward: by_name(backward(*arguments()), suspect.inputs),
    )


def spoken(search, *args):
    """Return a search for edits as a rule, whose sentences are about a gradient."""

    def rule(suspect, name):
        for cause, words in search(name, *args):
            yield derivative(suspect, name, cause), f"d{name} {words}"

    return rule


def of_gradient(suspect, name, early, rules):
    """Return up to three diagnoses of one gradient; `early` are the rules for one that has another shape."""
    given, truth, found = suspect.given[name], suspect.truth(name), {}
    scaled = ratio(given, truth) is not None
    for rule in rules if given.shape == truth.shape else early:
        if len(found) >= MOST or (found and rule in LAST):
            break
        try:
            for cause, sentence in rule(suspect, name):
                if not scaled or cause in OF_ONE_FACTOR:
                    found.setdefault(cause, sentence)
        except Exception:  # a hypothesis that crashes is no explanation
            continue
    return [named(name, cause, sentence) for cause, sentence in list(found.items())[:MOST]]
