"""The slips in calls of NumPy: the wrong axis, a mean for a sum, another einsum. See `edits_of_nodes`."""

import ast
import copy
import itertools

import numpy as np

from .editor import parse

REDUCTIONS = ("sum", "mean")
WITH_AXIS = ("max", "min", "any", "all", "std", "var", "prod", "norm", "argmax", "argmin", "cumsum")
ONE_BY_ONE = ("exp", "sqrt", "log", "tanh", "abs", "sin", "cos", "sign", "square")


def of_call(editor, node):
    """Yield (kind, class, new node) for a call."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    rules = {
        **dict.fromkeys(REDUCTIONS, of_reduction),
        **dict.fromkeys(("max", "min"), of_extremum),
        **dict.fromkeys(("transpose", "swapaxes", "reshape"), of_axes),
        **dict.fromkeys(("ravel", "flatten"), of_order),
        **dict.fromkeys(("dot", "matmul"), of_dot),
        **dict.fromkeys(("maximum", "minimum"), of_larger),
        "einsum": of_einsum,
        "where": of_choice,
        "range": of_range,
    }
    yield from rules.get(name, lambda *_: ())(editor, node)
    if name in ("repeat", "tile", *ONE_BY_ONE) or (isinstance(node.func, ast.Name) and len(node.args) == 1):
        inner = node.args[0] if node.args else node.func.value
        if name in ("repeat", "tile") or np.shape(editor.value(inner)) == np.shape(editor.value(node)):
            yield "drop call", "", inner


def is_method(node):
    """Is it a method of an array, and not a function of NumPy?"""
    return not (isinstance(node.func.value, ast.Name) and node.func.value.id == "np")


def reduced(node):
    """Return what is summed, or reshaped."""
    return node.func.value if is_method(node) else node.args[0]


def with_reduced(node, new):
    """Return the same call for something else."""
    if is_method(node):
        return ast.Call(ast.Attribute(new, node.func.attr, ast.Load()), node.args, node.keywords)
    return ast.Call(node.func, [new, *node.args[1:]], node.keywords)


def of_reduction(editor, node):
    changed = copy.deepcopy(node)
    changed.func.attr = "mean" if node.func.attr == "sum" else "sum"
    yield "mean or sum", "", changed
    whole = reduced(node)
    yield from along_axes(editor, node)
    yield "drop reduction", "", whole
    if isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.Mult):
        for factor, other in ((whole.left, whole.right), (whole.right, whole.left)):
            if editor.kind_of(factor) in ("array", "mask"):
                yield "move factor", "array", ast.BinOp(factor, ast.Mult(), with_reduced(node, other))


def along_axes(editor, node):
    """Yield a reduction along each other axis, with and without keepdims."""
    for axis, keep in itertools.product(axes_for(editor.value(reduced(node))), (None, True, False)):
        kept = [k for k in node.keywords if k.arg != "axis" and (keep is None or k.arg != "keepdims")]
        kept += [ast.keyword("axis", parse(repr(axis)))]
        kept += [] if keep is None else [ast.keyword("keepdims", ast.Constant(keep))]
        yield "axis", "", ast.Call(node.func, [] if is_method(node) else node.args[:1], kept)


def of_axis(editor, node):
    """Another axis of a maximum, a norm and the like, which are no sums."""
    if isinstance(node.func, ast.Attribute) and node.func.attr in WITH_AXIS:
        yield from along_axes(editor, node)


def axes_for(value):
    """Return the axes that a sum may run over: one, all but one, or all."""
    axes = range(np.ndim(value)) if np.ndim(value) else range(3)
    but_one = [tuple(a for a in axes if a != kept) for kept in axes] if len(axes) > 2 else []
    return [*axes, -1, *but_one, None]


def of_extremum(editor, node):
    changed = copy.deepcopy(node)
    changed.func.attr = "mean"
    yield "drop call", "", changed


def of_axes(editor, node):
    first = 0 if is_method(node) else 1
    for k, m in itertools.combinations(range(first, len(node.args)), 2):
        changed = copy.deepcopy(node)
        changed.args[k], changed.args[m] = changed.args[m], changed.args[k]
        yield "transpose", "", changed
    whole = reduced(node)
    if node.func.attr != "reshape":
        yield "transpose", "", whole
        return
    axes = np.ndim(editor.value(whole))
    for k, m in itertools.permutations(range(axes), 2) if 1 < axes < 7 else ():
        moved = parse(f"np.moveaxis({ast.unparse(whole)}, {k}, {m})")
        yield "transpose", "", with_reduced(node, moved)
    yield from of_order(editor, node)


def of_order(editor, node):
    if any(keyword.arg == "order" for keyword in node.keywords):
        yield "transpose", "", ast.Call(node.func, node.args, [k for k in node.keywords if k.arg != "order"])


def of_einsum(editor, node):
    if not isinstance(node.args[0], ast.Constant):
        return
    text = node.args[0].value.replace(" ", "")
    parts = text.replace("->", ",").split(",")
    for k, part in enumerate(parts):
        found = {}
        for i, j in itertools.combinations(range(len(part)), 2):
            found[part[:i] + part[j] + part[i + 1 : j] + part[i] + part[j + 1 :]] = "transpose"
        for i, letter in itertools.product(range(len(part)), sorted({*text} - {*part, *",->"})):
            found.setdefault(part[:i] + letter + part[i + 1 :], "axis")
        for other, kind in found.items():
            new = [*parts[:k], other, *parts[k + 1 :]]
            words = ",".join(new[:-1]) + "->" + new[-1] if "->" in text else ",".join(new)
            yield kind, "", ast.Call(node.func, [ast.Constant(words), *node.args[1:]], node.keywords)


def of_choice(editor, node):
    if len(node.args) == 3:
        condition, yes, no = node.args
        yield "compare", "", ast.Call(node.func, [condition, no, yes], [])
        yield "choose", "mask", yes
        yield "choose", "mask", no


def of_larger(editor, node):
    for side in node.args[:2]:
        yield "drop call", "", side


def of_range(editor, node):
    """One step too few, or too many."""
    end = min(1, len(node.args) - 1)
    for other in one_off(node.args[end]):
        yield "range", "", ast.Call(node.func, [*node.args[:end], other, *node.args[end + 1 :]], [])
    if len(node.args) == 2:
        yield "range", "", ast.Call(node.func, node.args[1:], [])


def one_off(node):
    """Yield a number plus and minus 1."""
    for op, undone in ((ast.Add, ast.Sub), (ast.Sub, ast.Add)):
        one = isinstance(node, ast.BinOp) and isinstance(node.op, undone) and getattr(node.right, "value", None) == 1
        yield node.left if one else ast.BinOp(node, op(), ast.Constant(1))


def of_dot(editor, node):
    if len(node.args) == 2:
        for sides in orders_of_factors(*node.args):
            yield "transpose", "", ast.Call(node.func, list(sides), [])


def orders_of_factors(left, right):
    """Return what a product of matrices may be of: exchanged, or one or both transposed."""
    return (right, left), (flip(left), right), (left, flip(right)), (flip(left), flip(right))


def flip(node):
    """Return the transpose of the last two axes, without the one that is there already."""
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "swapaxes":
        return node.func.value
    return ast.Call(ast.Attribute(node, "swapaxes", ast.Load()), [parse("-1"), parse("-2")], [])
