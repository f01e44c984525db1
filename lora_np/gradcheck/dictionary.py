"""Which single slip in an operation of `lora_np.ops` gives the learner's numbers: a fault dictionary."""

import inspect
import itertools

import numpy as np

from lora_np import ops
from lora_np.gradcheck.calls import fresh, widened
from lora_np.gradcheck.faults import faults
from lora_np.gradcheck.placement import by_name
from lora_np.gradcheck.suspect import close, derivative

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


class Dictionary:
    """A rule: which single edit of the operation in `lora_np.ops` gives the learner's numbers."""

    def __init__(self, suspect):
        self.edits = []
        found = reference(suspect)
        if found:
            op, mapping, cache = found
            with np.errstate(all="ignore"):
                for cause, edit in faults(getattr(ops, f"{op}_backward"), widened(suspect.doutput), widened(cache)):
                    try:
                        function = edit.build()
                        grads = by_name(function(widened(suspect.doutput), widened(cache)), VARIABLES[op])
                    except Exception:
                        continue
                    grads = {mapping.get(name): np.asarray(g) for name, g in grads.items() if g is not None}
                    self.edits.append((cause, edit, grads))

    def plain(self, suspect, name):
        return self.fitting(suspect, name, without="rename")

    def rest(self, suspect, name):
        return self.fitting(suspect, name)

    def fitting(self, suspect, name, without=None):
        fitting = []
        for cause, edit, grads in self.edits:
            g = grads.get(name)
            if edit.kind == without or g is None or not close(suspect.given[name], g) or close(g, suspect.truth(name)):
                continue
            elsewhere = sum(other in grads and close(suspect.given[other], grads[other]) for other in suspect.given)
            fitting.append((-elsewhere, cause, edit))
        most = min((count for count, *_ in fitting), default=0)
        for count, cause, edit in fitting:
            if count == most:
                words = f"d{name} is what our `{edit.line}` gives with `{edit.new}` in place of `{edit.old}`"
                yield derivative(suspect, name, cause), words


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
