"""What the learner's gradient is the gradient of: their own forward, with one step taken for another.

A backward is a derivative of the forward, step by step. Who forgets that a mean depends on x has differentiated a
forward in which that mean is a constant. So a step e of the forward is replaced, in turn, by
    held       e0                   it counts, but does not move
    mistaken   e0 + (e' - e'0)      it is what it was, but moves as another expression e' does
where e0 and e'0 are the values in the call that is checked. Neither changes the output there. If the numerical
gradient of such a forward is the learner's, that step is where the two part.
"""

import ast

import numpy as np

from lora_np.gradcheck.calls import fresh
from lora_np.gradcheck.edits import Edit, Editor, parse
from lora_np.gradcheck.faults import AS_FAULT, ORDER, meaning
from lora_np.gradcheck.slips import changes
from lora_np.gradcheck.suspect import derivative


class Forwards:
    """A rule: which step of the forward the learner's gradient takes for constant, or for another."""

    def __init__(self, suspect, wrong):
        self.suspect, self.working = suspect, []
        arguments = {**fresh(suspect.inputs), **fresh(suspect.fixed)}
        try:
            self.editor = Editor(suspect.forward)
            self.editor.watch(**arguments)
        except Exception:  # its source cannot be read
            return
        output = suspect.weighed(suspect.forward)
        for cause, edit in self.hypotheses():
            forward = edit.build()
            if forward is None or not abs(suspect.weighed(forward) - output) <= 1e-9 * max(abs(output), 1):
                continue
            if right := {name for name in wrong if suspect.is_gradient(suspect.given[name], name, forward)}:
                self.working.append((cause, edit, right))

    def hypotheses(self):
        """Yield (cause, Edit), the simplest kind first."""
        found = [item for part in self.editor.all() for item in self.of_part(part)]
        return sorted(found, key=lambda item: -1 if item[1].kind == "hold" else ORDER.index(item[1].kind))

    def of_part(self, part):
        for node, statement in part.statements():
            if not isinstance(node, ast.expr) or not is_number(value := part.value(node)):
                continue
            held = parse(self.kept(part, value))
            yield "missing_path", Edit("hold", "", part, statement, node, "constant", ((node, held),))
            for kind, what, new in changes(part, node, statement, additions=False):
                cause = meaning(Edit(kind, what, part, statement, node, new, ()), AS_FAULT)
                other = part.value(new) if cause and isinstance(new, ast.expr) else None
                if is_number(other) and fits_in(other, value):
                    moving = ast.BinOp(new, ast.Sub(), parse(self.kept(part, other)))
                    mistaken = ast.BinOp(held, ast.Add(), moving)
                    yield cause, Edit(kind, what, part, statement, node, new, ((node, mistaken),))

    def kept(self, part, value):
        """Return a name by which a forward finds a value."""
        name = f"_kept_{len(part.scope)}"
        part.scope[name] = value
        return name

    def __call__(self, suspect, name):
        fitting = [(-len(right), cause, edit) for cause, edit, right in self.working if name in right]
        most = min((count for count, *_ in fitting), default=0)
        for count, cause, edit in fitting:
            if count == most:
                place = "" if edit.old == edit.line else f", in `{edit.line}`"
                if edit.kind == "hold":
                    words = f"leaves out the way through `{edit.old}`, as if it were constant{place}"
                else:
                    words = f"is that of another forward, with `{edit.new}` in place of `{edit.old}`{place}"
                yield derivative(suspect, name, cause), f"d{name} {words}"


def is_number(value):
    return isinstance(value, (np.ndarray, np.floating, float)) and np.asarray(value).dtype.kind == "f"


def fits_in(value, here):
    """Can a value be added to what is here, without changing its shape?"""
    try:
        return np.broadcast_shapes(np.shape(value), np.shape(here)) == np.shape(here)
    except ValueError:
        return False
