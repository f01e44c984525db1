"""Which single change of the learner's own source makes the gradient right."""

import ast
import contextlib
import fractions
import itertools

import numpy as np

from .editor import parse
from .edits import AS_REPAIR, meaning
from .suspect import close

LATE = ("rename", "exchange", "overwritten", "put a name", "wrap", "drop call", "move line")
LARGEST_NUMBER = 20  # above and below the line of a factor that a person may have lost
FEW = 3  # a result of fewer entries is right with any factor somewhere


class Repairs:
    """Which single edit of an author's function makes its results right: a rule of the diagnosis.

    Most edits are tried as they stand. Of a factor, one trial with 2 tells the value: the change of the result has to
    be along what it lacks. `given` and `wanted` are the results as they are and as they should be, by name,
    `candidates()` is all that may be tried, as (cause, Edit), and `run` goes from an edited function to its results.
    """

    def __init__(self, given, wanted, candidates, run):
        self.given, self.wanted, self.call = given, wanted, run
        self.right = {name for name in given if close(given[name], wanted[name])}
        self.wrong = given.keys() - self.right
        self.working = []
        self.candidates = {False: [], True: []}  # late ones or not; each is tried once
        with contextlib.suppress(Exception):  # the source cannot be read, or the function does not run twice
            for cause, edit in candidates():
                self.candidates[edit.kind in LATE].append((cause, edit))

    def found(self, name, late):
        """Yield (cause, words) for what does another thing with the same tensors; `late`: what puts another one in."""
        for _, group in itertools.groupby(self.candidates.pop(late, ()), key=lambda repair: repair[1].kind):
            # Until one kind makes all right: a rarer kind of slip would say less.
            if not any(self.wrong <= right for *_, right in self.working):
                for cause, edit in group:
                    self.try_out(cause, edit)
        for cause, kind, old, new, place in best(self.working, name):
            words = f"without `{old}`" if new == "pass" else f"with `{new}` in place of `{old}`{place}"
            words = f"with `{old}` {new}" if kind == "move line" else words
            yield cause, f"is right {words}"

    def try_out(self, cause, edit):
        results = self.run(edit)
        if edit.coefficient is None or not results:
            self.keep(cause, edit, results)
            return
        for value in dict.fromkeys(value for name in sorted(self.wrong) for value in self.factors(name, results)):
            edit.coefficient.value = value
            found = solved(edit)
            if found and self.keep(*found, self.run(edit)):
                return

    def run(self, edit):
        """Return the results that the edited source gives, none if it does not run."""
        try:
            with np.errstate(all="ignore"):
                found = self.call(edit.build())
            return {name: np.asarray(found[name], float) for name in self.given}
        except Exception:
            return {}

    def keep(self, cause, edit, results):
        """Note an edit that makes something right; return whether it does."""
        right = {name for name, result in results.items() if close(result, self.wanted[name])}
        if right - self.right:
            self.working.append((cause, edit, right))
        return bool(right - self.right)

    def factors(self, name, results):
        """Yield what a factor must be for one result, if that goes with it in a simple way."""
        given, wanted = self.given[name], self.wanted[name]
        if given.size < FEW or results[name].shape != wanted.shape or given.shape != wanted.shape:
            return
        lacking, change = wanted - given, results[name] - given
        if not np.isfinite(change).all() or not change.any():
            return
        share = float(np.vdot(change, lacking) / np.vdot(change, change))
        off = np.max(np.abs(lacking - share * change))
        if abs(1 + share) < 1e-6:  # without it, which `drop term` says better
            return
        if off > 1e-6 * np.max(np.abs(wanted)) or off > 1e-3 * np.max(np.abs(lacking)):
            return
        yield 1 + share  # the factor was 1, and 2 in the trial; the result goes with it,
        yield from (1 / (1 - share / 2),) if share != 2 else ()  # with one over it,
        yield from ((1 + 3 * share) ** 0.5,) if share > -1 / 3 else ()  # or with its square


def best(working, name):
    """Yield (cause, kind, old, new, where) for those of the edits that work that make most right, and this result."""
    most = max((len(right) for *_, right in working if name in right), default=0)
    for cause, edit, right in working:
        if name in right and len(right) == most:
            old, new, line = edit.words()
            yield cause, edit.kind, old, new, "" if old == line else f" in `{line}`"


def solved(edit):
    """Return (cause, edit) for a factor that was found, as a person would write it; None for an odd number."""
    value, node = edit.coefficient.value, edit.before
    if abs(value + 1) < 1e-6:
        return "sign", edit._replace(after=ast.UnaryOp(ast.USub(), node))
    what, new = times(edit.editor, node, value)
    return new and (meaning(edit._replace(kind="add factor", what=what), AS_REPAIR), edit._replace(after=new))


def times(editor, node, value):
    """Return (class, node) for a node times a number, written with what is at hand; ("", None) for an odd number."""
    for words, what, number in editor.numbers():
        for op, power in ((ast.Mult(), 1), (ast.Div(), -1)):
            if abs(value / number**power - 1) < 1e-6:
                return what, ast.BinOp(node, op, parse(words))
    ratio = fractions.Fraction(value).limit_denominator(LARGEST_NUMBER)
    if abs(ratio - value) > 1e-6 * abs(value) or abs(ratio.numerator) > LARGEST_NUMBER:
        return "", None
    return "constant", ast.BinOp(parse(str(ratio)), ast.Mult(), node)
