"""Which single change of the learner's own source makes the gradient right."""

import ast
import itertools

import numpy as np

from lora_np.gradcheck.calls import fresh, widened
from lora_np.gradcheck.faults import AS_REPAIR, meaning, repairs
from lora_np.gradcheck.placement import by_name
from lora_np.gradcheck.suspect import close, derivative

FEW = 3  # a gradient of fewer entries is right with any factor somewhere


class Repairs:
    """A rule: what to write, and in place of what.

    Most edits are tried as they stand. Where one has a coefficient (a factor, or that of a term), one trial tells its
    value: the change of the gradient has to be along what it lacks.
    """

    def __init__(self, suspect, wrong):
        self.suspect, self.wrong, self.working = suspect, wrong, []
        self.right = {name for name in suspect.given if close(suspect.given[name], suspect.truth(name))}
        try:
            _, self.cache = suspect.forward(**fresh(suspect.inputs), **fresh(suspect.fixed))
            candidates = repairs(suspect.backward, widened(suspect.doutput), widened(self.cache))
            for _, kind in itertools.groupby(candidates, key=lambda repair: repair[1].kind):
                for cause, edit in kind:
                    self.try_out(cause, edit)
                if any(set(wrong) <= right for *_, right in self.working):
                    return  # a rarer kind of slip would say less
        except Exception:  # its source cannot be read, or it does not run twice
            return

    def try_out(self, cause, edit):
        grads = self.run(edit)
        if not grads:
            return
        if edit.coefficient is None:
            self.keep(cause, edit, grads)
            return
        for value in dict.fromkeys(value for name in self.wrong for value in self.values(edit, name, grads)):
            edit.coefficient.value = value
            if self.keep(*solved(cause, edit), self.run(edit)):
                return

    def run(self, edit):
        """Return the gradients that the edited source gives, none if it does not run."""
        try:
            with np.errstate(all="ignore"):
                grads = by_name(edit.build()(widened(self.suspect.doutput), widened(self.cache)), self.suspect.inputs)
            return {name: np.asarray(grads[name], float) for name in self.suspect.given}
        except Exception:
            return {}

    def keep(self, cause, edit, grads):
        """Note an edit that makes something right; return whether it does."""
        right = {name for name, g in grads.items() if close(g, self.suspect.truth(name))}
        if right - self.right:
            self.working.append((cause, edit, right))
        return bool(right - self.right)

    def values(self, edit, name, grads):
        """Yield what the coefficient must be for one gradient, if it goes with its value in a simple way."""
        given, truth = self.suspect.given[name], self.suspect.truth(name)
        if given.size < FEW or grads[name].shape != truth.shape or given.shape != truth.shape:
            return
        lacking, change = truth - given, grads[name] - given
        if not np.isfinite(change).all() or not change.any():
            return
        share = float(np.vdot(change, lacking) / np.vdot(change, change))
        off = np.max(np.abs(lacking - share * change))
        if off > 1e-6 * np.max(np.abs(truth)) or off > 1e-3 * np.max(np.abs(lacking)):
            return
        if edit.kind != "scale":  # the term counted 0 times, and once in the trial
            yield share
            return
        yield 1 + share  # the factor was 1, and 2 in the trial; the gradient goes with it,
        yield from (1 / (1 - share / 2),) if share != 2 else ()  # with one over it,
        yield from ((1 + 3 * share) ** 0.5,) if share > -1 / 3 else ()  # or with its square

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


def solved(cause, edit):
    """Return (cause, edit) for a coefficient that has been found, written as a person would."""
    value, node = edit.coefficient.value, edit.before
    if edit.kind != "scale":
        other = edit.after.right.right
        if abs(abs(value) - 1) < 1e-6:
            return cause, edit._replace(after=ast.BinOp(node, ast.Add() if value > 0 else ast.Sub(), other))
        edit.coefficient.value = float(f"{value:.6g}")
        return cause, edit
    if abs(value + 1) < 1e-6:
        return "sign", edit._replace(after=ast.UnaryOp(ast.USub(), node))
    for words, what, number in edit.editor.numbers():
        for op, power in ((ast.Mult(), 1), (ast.Div(), -1)):
            if abs(value / number**power - 1) < 1e-6:
                new = ast.BinOp(node, op, ast.parse(words, mode="eval").body)
                return meaning(edit._replace(kind="add factor", what=what), AS_REPAIR), edit._replace(after=new)
    edit.coefficient.value = float(f"{value:.6g}")
    return cause, edit
