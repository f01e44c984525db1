"""All edits of a function that a diagnosis tries: the slips in one place, and those that are due in several at once."""

import ast
import contextlib
import itertools

import numpy as np

from .editor import Edit, parse, written_to
from .edits_of_calls import reduced, with_reduced
from .edits_of_nodes import changes, is_reduction, is_root
from .suspect import broadcast


def all_edits(editor, additions):
    """Yield an Edit for each slip there may be in a function; with `additions`, also those that put something in."""
    same, alike = {}, {}  # edits that may be due in several places at once: of an expression, of all means, say
    every = {}  # whatever is taken along an axis
    for node, statement in editor.statements():
        try:
            found = list(changes(editor, node, statement, additions))
        except Exception:  # an expression of a form that nobody foresaw
            continue
        old = ast.unparse(node) if found else ""
        for kind, what, new in found:
            unknown = new.left if kind == "scale" else None
            yield Edit(kind, what, editor, statement, node, new, ((node, new),), coefficient=unknown)
            if unknown is None:
                same.setdefault((kind, what, old), []).append((node, new))
            if kind == "mean or sum" or (kind == "axis" and new.keywords):
                changed = ", ".join(map(ast.unparse, new.keywords))
                changed = f"{node.func.attr}(..., {changed})" if kind == "axis" else f"{new.func.attr}(...)"
                alike.setdefault((kind, node.func.attr, changed), {}).setdefault(id(node), (node, new))
                if additions and kind == "axis":
                    every.setdefault((kind, changed.partition("(")[2][5:-1]), {}).setdefault(id(node), (node, new))
    for (kind, what, old), nodes in same.items():
        if len({id(node) for node, _ in nodes}) > 1:
            yield from everywhere_alike(editor, kind, what, old, nodes)
    for (kind, name, changed), pairs in alike.items():
        if len(pairs) > 1:
            yield Edit(kind, "", editor, f"{name}, everywhere", f"{name}(...)", changed, tuple(pairs.values()))
    for (kind, changed), pairs in every.items():
        if len(pairs) > 1:
            yield Edit(kind, "", editor, "every sum, mean or maximum", "its axis", changed, tuple(pairs.values()))
    for several in (exchanges, overwritten, sums_of_loops, moves, *[lines][:additions]):
        with contextlib.suppress(Exception):
            yield from several(editor)


def everywhere_alike(editor, kind, what, old, nodes):
    """Yield an Edit for each new text that an expression can be given in all places where it stands."""
    by_text = {}
    for node, new in nodes:
        by_text.setdefault(ast.unparse(new), []).append((node, new))
    for text, pairs in by_text.items():
        if len(pairs) > 1:
            yield Edit(kind, what, editor, f"{old}, everywhere", old, text, tuple(pairs))


def exchanges(editor):
    """Yield an Edit for two tensors that may have been unpacked in each other's place."""
    for (a, first), (b, second) in itertools.combinations(editor.bindings().items(), 2):
        values = editor.names[a], editor.names[b]
        if np.ndim(values[0]) and np.shape(values[0]) == np.shape(values[1]):
            inserted = (max(first, second), f"{a}, {b} = {b}, {a}")
            yield Edit("exchange", "array", editor, "the whole function", f"{a}, {b}", f"{b}, {a}", (), inserted)


def overwritten(editor):
    """Yield an Edit for each array whose parts are overwritten one after the other: the later ones need the first."""
    body = editor.definition.body
    for name in editor.names:
        stores = [s for s in body if isinstance(s, ast.Assign) and ast.unparse(written_to(s)[:1] or s) == name]
        reads = [n for s in stores[1:] for n in ast.walk(s.value) if isinstance(n, ast.Name) and n.id == name]
        if reads:
            first = (body.index(stores[0]), f"_before = {name}.copy()")
            nodes = tuple((node, parse("_before")) for node in reads)
            yield Edit("overwritten", "", editor, stores[0], name, f"{name} as it was before", nodes, first)


def sums_of_loops(editor):
    """Yield an Edit for each name that a loop gives a new value at each step, where it may have to add them up."""
    for loop in editor.loops():
        for node in ast.walk(loop):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                new = ast.AugAssign(ast.Name(name, ast.Store()), ast.Add(), node.value)
                start = (editor.start(), f"{name} = 0.0")
                yield Edit("accumulate", "loop", editor, node, node, new, ((node, new),), start)


def lines(editor):
    """Yield an Edit for each line of the body that belongs above or below others."""
    body = editor.definition.body
    movable = [place for place, line in enumerate(body) if isinstance(line, (ast.Assign, ast.AugAssign))]
    for place, other in itertools.permutations(movable, 2):
        line, down = body[place], other > place
        if other != place - 1:  # the same as the other line, moved
            here, there = ("below", "above") if down else ("above", "below")
            words = f"{here} `{ast.unparse(body[other])}`, not {there} it"
            inserted = (other + down, ast.unparse(line))
            yield Edit("move line", "", editor, line, line, words, ((line, ast.Pass()),), inserted)


def moves(editor):
    """Yield an Edit for each array factor that stands in another place than it does."""
    places = list(editor.statements())
    factors = [
        (node, factor, other, statement)
        for node, statement in places
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        for factor, other in ((node.left, node.right), (node.right, node.left))
        if editor.kind_of(factor) in ("array", "mask") or is_reduction(factor)
    ]
    roots = [node for node, statement in places if is_root(node, statement)]
    for node, factor, other, statement in factors:
        if is_reduction(factor):
            factor = reduced(factor)
        value, words = editor.value(factor), ast.unparse(factor)
        forms = [words, f"({words})[:, None]"] if np.ndim(value) == 1 else [words]
        for form in forms:
            if is_reduction(other):
                new = with_reduced(other, ast.BinOp(reduced(other), ast.Mult(), parse(form)))
                yield Edit("move factor", "array", editor, statement, node, new, ((node, new),))
            yield from moved(editor, node, other, statement, form)
    for (node, factor, other, _), root in itertools.product(factors, roots):
        if node not in ast.walk(root) and root not in ast.walk(node):
            new = ast.BinOp(root, ast.Mult(), factor)
            before, after = (f"{ast.unparse(a)}` and `{ast.unparse(b)}" for a, b in ((root, node), (new, other)))
            yield Edit("move factor", "array", editor, before, before, after, ((node, other), (root, new)))


def moved(editor, node, other, statement, words):
    """Yield an Edit for each tensor that a factor may belong to."""
    value = editor.value(parse(words))
    for name, place in editor.bindings().items() if value is not None else ():
        if np.ndim(editor.names[name]) and broadcast(value, editor.names[name]) is not None:
            new, old = f"{name} * {words}", f"{name}` and `{ast.unparse(node)}"
            inserted, after = (place, f"{name} = {new}"), f"{new}` and `{ast.unparse(other)}"
            yield Edit("move factor", "array", editor, old, old, after, ((node, other),), inserted)
