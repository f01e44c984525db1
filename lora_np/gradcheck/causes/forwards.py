"""What the learner's gradient is the gradient of: their own forward, with one step taken for another.

A backward is a derivative of the forward, step by step. Who forgets that a mean depends on x has differentiated a
forward in which that mean is a constant. So a step e of the forward is replaced, in turn, by
    held       e0                   it counts, but does not move
    mistaken   e0 + (e' - e'0)      it is what it was, but moves as another expression e' does
where e0 and e'0 are the values in the call that is checked. Neither changes the output there. If the numerical
gradient of such a forward is the learner's, that step is where the two part.
"""

import ast
import itertools

import numpy as np

from ..verdict.calls import fresh
from .editor import Edit, Editor, parse
from .edits import AS_FAULT, ORDER, meaning
from .edits_of_nodes import changes
from .repairs import best
from .suspect import broadcast

MOST_HOLDS = 30  # of which pairs are tried


class Forwards:
    """Which step of the forward the learner's gradient takes for constant, or for another."""

    def __init__(self, suspect, wrong):
        self.suspect, self.wrong, self.working = suspect, wrong, None

    def search(self):
        """Find the edits of the forward that make the learner's gradients right, once for all of them."""
        self.working = []
        arguments = fresh(self.suspect.arguments())
        self.editor = Editor(self.suspect.forward)
        self.movers = {}
        for name, x in self.suspect.inputs.items():
            self.editor.watch(**{**arguments, name: 1.01 * x + 0.01})
            for part in self.editor.all():
                self.movers.setdefault(part, {})[name] = part.locals
        self.editor.watch(**arguments)
        self.output = self.suspect.weighed(self.suspect.forward)
        hypotheses = self.hypotheses()
        for cause, edit in hypotheses:
            self.try_out(cause, edit)
        if not any(set(self.wrong) <= right for *_, right in self.working):
            for edit in pairs([edit for _, edit in hypotheses if edit.kind == "hold"]):
                self.try_out("missing_path", edit)

    def try_out(self, cause, edit):
        """Note an edit if the learner's gradients are those of the forward that it makes."""
        suspect, forward = self.suspect, edit.build()
        if forward is None or not abs(suspect.weighed(forward) - self.output) <= 1e-9 * max(abs(self.output), 1):
            return
        if right := {name for name in self.wrong if suspect.is_gradient(suspect.given[name], name, forward=forward)}:
            self.working.append((self.of_one_function(cause, edit), edit, right))

    def of_one_function(self, cause, edit):
        """In a product of two functions of the same, such as x sigmoid(x), a factor that is lost is a derivative."""
        node, new = edit.before, edit.after
        if edit.kind != "drop factor" or not isinstance(node, ast.BinOp):
            return cause
        lost = node.left if new is node.right else node.right
        alike = np.shape(edit.editor.value(lost)) == np.shape(edit.editor.value(new))
        movers = self.moves(edit.editor, lost)
        return "wrong_derivative" if alike and movers and movers == self.moves(edit.editor, new) else cause

    def moves(self, part, node):
        """Return the names of the inputs that an expression of the forward depends on."""
        here = part.value(node)
        there = {name: part.computed(node, values) for name, values in self.movers[part].items()}
        return {name for name, value in there.items() if not np.array_equal(value, here)}

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
                other = part.value(new) if cause and kind != "rename" and isinstance(new, ast.expr) else None
                if is_number(other) and broadcast(other, value) == np.shape(value):
                    moving = ast.BinOp(new, ast.Sub(), parse(self.kept(part, other)))
                    mistaken = ast.BinOp(held, ast.Add(), moving)
                    yield cause, Edit(kind, what, part, statement, node, new, ((node, mistaken),))

    def kept(self, part, value):
        """Return a name by which a forward finds a value."""
        name = f"_kept_{len(part.scope)}"
        part.scope[name] = value
        return name

    def found(self, name):
        """Yield (cause, words) for the steps where the learner's gradient parts from the forward."""
        if self.working is None:
            self.search()
        for cause, kind, old, new, place in best(self.working, name):
            words = f"is that of another forward, with `{new}` in place of `{old}`"
            if kind == "hold":
                words = f"leaves out the way through `{old}`, as if it were constant"
            yield cause, words + (place and f",{place}")


def pairs(holds):
    """Yield an Edit for two steps that are held at once, the mean and the variance, say."""
    for one, other in itertools.combinations(holds[:MOST_HOLDS], 2):
        same = one.editor is other.editor
        if same and other.before not in ast.walk(one.before) and one.before not in ast.walk(other.before):
            words = f"{one.words()[0]}` and `{other.words()[0]}"
            yield one._replace(place=words, before=words, nodes=(*one.nodes, *other.nodes))


def is_number(value):
    return isinstance(value, (np.ndarray, np.floating, float)) and np.asarray(value).dtype.kind == "f"
