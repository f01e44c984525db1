"""All edits of a function that a diagnosis tries: the slips in one place, and those that are due in several at once."""

import ast
import contextlib
import itertools

import numpy as np

from lora_np.gradcheck.edits import Edit, parse
from lora_np.gradcheck.slips import changes, fits, is_root, of_call

TO_BE_FOUND = ("scale", "add term", "add product")  # those with a coefficient


def all_edits(editor, additions):
    """Yield an Edit for each slip there may be in a function; with `additions`, also those that put something in."""
    same = {}  # edits that may be due in several places at once
    for node, statement in editor.statements():
        try:
            found = list(changes(editor, node, statement, additions))
        except Exception:  # an expression of a form that nobody foresaw
            continue
        for kind, what, new in found:
            coefficient = {"scale": lambda new: new.left}.get(kind, lambda new: new.right.left)
            unknown = coefficient(new) if kind in TO_BE_FOUND else None
            yield Edit(kind, what, editor, statement, node, new, ((node, new),), coefficient=unknown)
            if kind not in TO_BE_FOUND:
                same.setdefault((kind, what, editor.words(node)), []).append((node, new))
    for (kind, what, old), nodes in same.items():
        if len({id(node) for node, _ in nodes}) > 1:
            yield from everywhere_alike(editor, kind, what, old, nodes)
    for several in (together, rebindings, moves):
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


def together(editor):
    """Yield an Edit for what is likely to be wrong everywhere at once: sums for means, an axis."""
    calls = {}
    for node, _ in editor.statements():
        if isinstance(node, ast.Call):
            for kind, _, new in of_call(editor, node):
                if kind in ("mean or sum", "axis"):
                    axis = ", ".join(ast.unparse(k) for k in new.keywords if k.arg)
                    key = (kind, node.func.attr, axis if kind == "axis" else "")
                    calls.setdefault(key, {}).setdefault(id(node), (node, new))
    for (kind, name, axis), found in calls.items():
        if len(found) > 1:
            words = (
                f"each {name} over axis {axis}"
                if kind == "axis"
                else f"each {name} as a {'mean' if name == 'sum' else 'sum'}"
            )
            yield Edit(kind, "", editor, "the whole function", name, words, tuple(found.values()))


def rebindings(editor):
    """Yield an Edit for each argument, or part of the cache, that is changed for all its uses at once."""
    for name, place in editor.bindings().items():
        for kind, what, value in everywhere(editor, name):
            yield Edit(kind, what, editor, f"{name}, everywhere", name, value, (), (place, f"{name} = {value}"))


def everywhere(editor, name):
    mine = editor.names[name]
    if np.ndim(mine) >= 2:
        yield "transpose", "", f"{name}.swapaxes(-1, -2)"
    for other, value in editor.names.items():
        if other != name and np.ndim(mine) and fits(value, mine):
            yield "add factor everywhere", editor.kind_of(parse(other)), f"{name} * {other}"
            yield "add factor everywhere", editor.kind_of(parse(other)), f"{name} / {other}"
    if np.ndim(mine) >= 2:
        yield "normalise", "", f"{name} / {name}.sum(axis=-1, keepdims=True)"
    for other, value in editor.names.items():
        if other != name and np.ndim(mine) and np.shape(value) == np.shape(mine):
            yield "rename", "array", other


def moves(editor):
    """Yield an Edit for each array factor that stands in another place than it does."""
    places = list(editor.statements())
    factors = [
        (node, factor, other, statement)
        for node, statement in places
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        for factor, other in ((node.left, node.right), (node.right, node.left))
        if editor.kind_of(factor) in ("array", "mask")
    ]
    roots = [node for node, statement in places if is_root(node, statement)]
    for node, factor, other, statement in factors:
        value, words = editor.value(factor), ast.unparse(factor)
        for name, place in editor.bindings().items() if value is not None else ():
            if np.ndim(editor.names[name]) and fits(value, editor.names[name]):
                new = f"{name} * {words}"
                inserted = (place, f"{name} = {new}")
                yield Edit("move factor", "array", editor, statement, name, new, ((node, other),), inserted)
    for (node, factor, other, statement), root in itertools.product(factors, roots):
        if node not in ast.walk(root) and root not in ast.walk(node):
            new = ast.BinOp(root, ast.Mult(), factor)
            yield Edit("move factor", "array", editor, statement, root, new, ((node, other), (root, new)))
