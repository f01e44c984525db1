"""Why a gradient is wrong: every explanation that fits the numbers, the likeliest first, and none where none does.

contract    what `structure` and `laws` found is its own cause
rules       hypotheses about any function (`rules`)
repairs     the learner's source, changed in one place, gives the right numbers: the sentence quotes the place
dictionary  the source of the same operation in `lora_np.ops`, changed in one place, gives the learner's numbers
"""

import contextlib
import copy
import inspect
import io
import itertools

import numpy as np

from lora_np import ops
from lora_np.gradcheck.calls import fresh, widened
from lora_np.gradcheck.causes import named
from lora_np.gradcheck.faults import faults, repairs
from lora_np.gradcheck.placement import by_name
from lora_np.gradcheck.rules import FIRST, LAST, RULES, SHAPES, is_entrywise, ratio
from lora_np.gradcheck.suspect import LARGEST, Suspect, close

MOST = 3  # diagnoses of one gradient
OF_ONE_FACTOR = (
    "sign",
    "constant_factor",
    "mean_vs_sum",
    "swapped",
    "transpose",
    "wrong_derivative",
)  # for all entries
VARIABLES = {
    "linear": ("x", "W", "b"),
    "lora_linear": ("x", "A", "B"),
    "layer_norm": ("x", "gamma", "beta"),
    "gelu": ("x",),
    "gelu_tanh": ("x",),
    "tanh": ("x",),
    "attention": ("Q", "K", "V"),
    "embedding": ("table",),
    "patches": ("images",),
    "dropout": ("x",),
    "pool_mean": ("x",),
    "pool_first": ("x",),
    "cross_entropy": ("logits",),
}


def diagnose(trial, evidence, wrong):
    """Return a list of Diagnosis for the failures of a trial; `wrong` names the arguments whose gradient is wrong."""
    found = [named(key, cause, sentence) for key, cause, sentence in trial.causes]
    values = []
    if evidence.steady and all(np.size(trial.inputs[name]) <= LARGEST for name in wrong):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # a learner's prints, once more
            suspect = Suspect(trial.forward, trial.backward, trial.inputs, trial.fixed, evidence.doutput)
            values = of_values(suspect, wrong)
    soft = [d for d in found if d.cause in ("shape", "dtype") or "not linear" in d.sentence]
    return [*(d for d in found if d not in soft), *values, *soft]


def of_values(suspect, wrong):
    """Return the diagnoses of those gradients whose numbers are wrong by more than a little."""
    wrong = [name for name in wrong if name in suspect.given and not close(suspect.given[name], suspect.truth(name))]
    searches = (Repairs(suspect, wrong), Dictionary(suspect)) if wrong else ()
    return [diagnosis for name in wrong for diagnosis in of_gradient(suspect, name, searches)]


def of_gradient(suspect, name, searches):
    """Return up to three diagnoses of one gradient."""
    found, scaled = {}, ratio(suspect.given[name], suspect.truth(name)) is not None
    exact = [search.without_renaming for search in searches]
    fits = suspect.given[name].shape == suspect.truth(name).shape
    for rule in (*FIRST, *exact, *SHAPES, *searches, *RULES, *LAST) if fits else (*FIRST, *exact):
        if len(found) >= MOST or (found and rule in LAST):
            break
        try:
            for cause, sentence in rule(suspect, name):
                if not scaled or cause in OF_ONE_FACTOR:
                    found.setdefault(cause, sentence)
        except Exception:  # a hypothesis that crashes is no explanation
            continue
    return [named(name, cause, sentence) for cause, sentence in list(found.items())[:MOST]]


class Repairs:
    """A rule: which single edit of the learner's own source makes the gradient right."""

    def __init__(self, suspect, wrong):
        self.working = []
        self.right = {name for name in suspect.given if close(suspect.given[name], suspect.truth(name))}
        try:
            _, cache = suspect.forward(**fresh(suspect.inputs), **fresh(suspect.fixed))
            candidates = repairs(suspect.backward, copy.deepcopy(suspect.doutput), copy.deepcopy(cache))
            for _, kind in itertools.groupby(candidates, key=lambda repair: repair[1].kind):
                for cause, edit in kind:
                    self.try_out(suspect, cause, edit, cache)
                if any(set(wrong) <= right for *_, right in self.working):
                    return  # a rarer kind of slip would say less
        except Exception:  # its source cannot be read, or it does not run twice
            return

    def try_out(self, suspect, cause, edit, cache):
        try:
            with np.errstate(all="ignore"):
                function = edit.build()
                grads = by_name(function(widened(suspect.doutput), widened(cache)), suspect.inputs)
            right = {name for name in suspect.given if close(np.asarray(grads[name], float), suspect.truth(name))}
        except Exception:
            return
        if right - self.right:
            self.working.append((cause, edit, right))

    def without_renaming(self, suspect, name):
        return self(suspect, name, ("rename",))

    def __call__(self, suspect, name, without=()):
        fitting = [
            (-len(right), cause, edit)
            for cause, edit, right in self.working
            if name in right and edit.kind not in without
        ]
        most = min((count for count, *_ in fitting), default=0)
        for count, cause, edit in fitting:
            if count == most:
                place = "" if edit.old == edit.line else f" in `{edit.line}`"
                words = f"d{name} is right with `{edit.new}` in place of `{edit.old}`{place}"
                yield derivative(suspect, name, cause), words


class Dictionary:
    """A rule: which single edit of the operation in `lora_np.ops` gives the learner's numbers."""

    def __init__(self, suspect):
        self.edits = []
        found = reference(suspect)
        if found:
            op, mapping, cache = found
            with np.errstate(all="ignore"):
                for cause, edit in faults(getattr(ops, f"{op}_backward"), suspect.doutput, cache):
                    try:
                        function = edit.build()
                        grads = by_name(function(suspect.doutput, cache), VARIABLES[op])
                    except Exception:
                        continue
                    grads = {mapping.get(name): np.asarray(g) for name, g in grads.items() if g is not None}
                    self.edits.append((cause, edit, grads))

    def without_renaming(self, suspect, name):
        return self(suspect, name, ("rename",))

    def __call__(self, suspect, name, without=()):
        fitting = []
        for cause, edit, grads in self.edits:
            g = grads.get(name)
            if edit.kind in without or g is None or not close(suspect.given[name], g) or close(g, suspect.truth(name)):
                continue
            elsewhere = sum(other in grads and close(suspect.given[other], grads[other]) for other in suspect.given)
            fitting.append((-elsewhere, cause, edit))
        most = min((count for count, *_ in fitting), default=0)
        for count, cause, edit in fitting:
            if count == most:
                words = f"d{name} is what our `{edit.line}` gives with `{edit.new}` in place of `{edit.old}`"
                yield derivative(suspect, name, cause), words


def derivative(suspect, name, cause):
    """Inside the derivative of a function that acts entry by entry, every slip is a wrong derivative."""
    inside = (
        "missing_term",
        "missing_path",
        "extra_term",
        "constant_factor",
        "elementwise_factor",
    )
    if cause not in inside or ratio(suspect.given[name], suspect.truth(name)) is not None:
        return cause
    return "wrong_derivative" if is_entrywise(suspect, name) else cause


def reference(suspect):
    """Return (op, {its variable: the learner's name}, its cache) for the operation that gives the same output."""
    mine = suspect.forward(**fresh(suspect.inputs), **fresh(suspect.fixed))[0]
    for op in VARIABLES:
        forward = getattr(ops, f"{op}_forward")
        parameters = inspect.signature(forward).parameters
        needed = [name for name, p in parameters.items() if p.default is p.empty]
        for mapping in assignments(suspect, needed, parameters):
            arguments = {name: suspect.arguments()[other] for name, other in mapping.items()}
            try:
                with np.errstate(all="ignore"):
                    output, cache = forward(**arguments)
            except Exception:
                continue
            if close(np.asarray(output), np.asarray(mine), 1e-9):
                return op, mapping, cache
    return None


def assignments(suspect, needed, parameters):
    """Yield {parameter of the reference: argument of the learner}, those of the same name first."""
    arguments = suspect.arguments()
    lower = {other.lower(): other for other in arguments}
    same = {name: lower[name.lower()] for name in parameters if name.lower() in lower}
    if all(name in same for name in needed):
        yield same
    optional = [name for name in parameters if name not in needed]
    if len(arguments) <= 7:
        for count in range(min(len(optional), len(arguments) - len(needed)) + 1):
            for extra in itertools.combinations(optional, count):
                for order in itertools.islice(itertools.permutations(arguments, len(needed) + count), 800):
                    yield dict(zip((*needed, *extra), order))
