"""The slips of the pen: what a person gets wrong in one place of a derivation, as edits of the source.

Each rule yields (kind, class of what it is done to, new node). What a kind means is said in `faults`.
"""

import ast
import copy
import functools
import itertools

import numpy as np

from lora_np.gradcheck.edits import NUMBERS, parse

REDUCTIONS = ("sum", "mean")


def changes(editor, node, statement, additions):
    """Yield (kind, class, new node) for one node."""
    if isinstance(node, ast.BinOp):
        rules = {
            ast.Add: of_sum,
            ast.Sub: of_sum,
            ast.Mult: of_product,
            ast.Div: of_quotient,
            ast.MatMult: of_matrices,
            ast.Pow: of_power,
        }
        yield from rules.get(type(node.op), lambda *_: ())(editor, node)
    elif isinstance(node, ast.Call):
        yield from of_call(editor, node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "flip sign", "", node.operand
    elif isinstance(node, ast.Attribute) and node.attr == "T" and isinstance(node.ctx, ast.Load):
        yield "transpose", "", node.value
    elif isinstance(node, (ast.Assign, ast.AugAssign)):
        yield from of_statement(editor, node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in (ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq):
            if not isinstance(node.ops[0], op):
                yield "compare", "", ast.Compare(node.left, [op()], node.comparators)
    if is_atom(editor, node):
        for other, value in editor.names.items():
            if other != ast.unparse(node) and comparable(value, editor.names[ast.unparse(node)]):
                yield "rename", "array" if np.ndim(value) else "constant", parse(other)
        if np.ndim(editor.names[ast.unparse(node)]) >= 2 and not is_reduced(editor, node, statement):
            yield "transpose", "", flip(node)
    if additions and is_scaled(editor, node):
        yield "scale", "", ast.BinOp(ast.Constant(2.0), ast.Mult(), node)
    if additions and is_root(node, statement) and isinstance(here := editor.value(node), np.ndarray):
        for what, words in products(editor, here):
            yield "add product", what, plus(node, words)
    if additions and (is_root(node, statement) or is_operand(editor, node, statement)):
        yield from insertions(editor, node)


def is_atom(editor, node):
    return (
        isinstance(node, (ast.Name, ast.Attribute, ast.Subscript))
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node) in editor.names
    )


def is_operand(editor, node, statement):
    """Does it stand on a side of a product of matrices, below a reduction, or in a sum?"""
    for parent in ast.walk(statement):
        if (
            isinstance(parent, ast.BinOp)
            and isinstance(parent.op, (ast.MatMult, ast.Add, ast.Sub))
            and node in (parent.left, parent.right)
        ):
            return True
        if isinstance(parent, ast.Call):
            if isinstance(parent.func, ast.Attribute) and parent.func.attr in REDUCTIONS and parent.func.value is node:
                return True
            if node in parent.args:
                return True
    return False


def is_reduced(editor, node, statement):
    """Does it stand directly below a sum or mean, or is it an argument of another function?"""
    for parent in ast.walk(statement):
        if isinstance(parent, ast.Call):
            method = isinstance(parent.func, ast.Attribute) and parent.func.attr in REDUCTIONS
            if node in parent.args or (method and parent.func.value is node):
                return True
    return False


def of_sum(editor, node):
    minus = isinstance(node.op, ast.Sub)
    number = "number" if np.ndim(editor.value(node)) == 0 and editor.value(node) is not None else ""
    yield "drop term", number or way(editor, node.right), node.left
    yield "drop term", number or way(editor, node.left), ast.UnaryOp(ast.USub(), node.right) if minus else node.right
    yield "flip sign", "", ast.BinOp(node.left, ast.Add() if minus else ast.Sub(), node.right)


def way(editor, part):
    """Is a term a whole way from the variable to the output: a product of matrices, or a sum over other entries?"""
    value = editor.value(part)
    if value is not None and np.ndim(value) == 0:
        return "constant"
    matrices = any(isinstance(n, ast.MatMult) for n in ast.walk(part))
    sums = any(isinstance(n, ast.Attribute) and n.attr in REDUCTIONS for n in ast.walk(part))
    return "way" if matrices or sums or isinstance(part, ast.Name) else "term"


def of_product(editor, node):
    for factor, other in ((node.left, node.right), (node.right, node.left)):
        what = editor.kind_of(factor)
        yield "drop factor", what, other
        yield "double factor", what, ast.BinOp(node, ast.Mult(), factor)
        yield "invert factor", what, ast.BinOp(other, ast.Div(), factor)

    factors = chain(node)
    for pair in itertools.combinations(range(len(factors)), 2) if 2 < len(factors) < 6 else ():
        rest = [factor for k, factor in enumerate(factors) if k not in pair]
        yield "drop factor", "array", functools.reduce(lambda a, b: ast.BinOp(a, ast.Mult(), b), rest)


def of_quotient(editor, node):
    what = editor.kind_of(node.right)
    yield "drop factor", what, node.left
    yield "invert factor", what, ast.BinOp(node.left, ast.Mult(), node.right)
    yield "double factor", what, ast.BinOp(node, ast.Div(), node.right)


def of_power(editor, node):
    if isinstance(editor.value(node.right), (int, float)):
        for power in (-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 3):
            yield (
                "power",
                "array" if np.ndim(editor.value(node.left)) else "constant",
                ast.BinOp(node.left, ast.Pow(), ast.Constant(power)),
            )


def of_matrices(editor, node):
    yield "transpose", "", ast.BinOp(node.right, ast.MatMult(), node.left)
    yield "transpose", "", flip(node)
    yield "transpose", "", ast.BinOp(flip(node.left), ast.MatMult(), node.right)
    yield "transpose", "", ast.BinOp(node.left, ast.MatMult(), flip(node.right))
    yield "transpose", "", ast.BinOp(flip(node.left), ast.MatMult(), flip(node.right))


def of_call(editor, node):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else None
    method = name in REDUCTIONS and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "np")
    if name in REDUCTIONS:
        changed = copy.deepcopy(node)
        changed.func.attr = "mean" if name == "sum" else "sum"
        yield "mean or sum", "", changed
        axes = (0, 1, 2, -1, None)
        for axis, keep in itertools.product(axes, (None, True, False)):
            changed = copy.deepcopy(node)
            kept = [k for k in changed.keywords if k.arg != "axis" and (keep is None or k.arg != "keepdims")]
            changed.keywords = [*kept, ast.keyword("axis", ast.Constant(axis))]
            changed.keywords += [] if keep is None else [ast.keyword("keepdims", ast.Constant(keep))]
            if not method:
                changed.args = changed.args[:1]
            else:
                changed.args = []
            yield "axis", "", changed
        yield "drop reduction", "", node.func.value if method else node.args[0]
    if name in ("transpose", "reshape", "swapaxes"):
        first = 1 if isinstance(node.func.value, ast.Name) and node.func.value.id == "np" else 0
        for k, m in itertools.combinations(range(first, len(node.args)), 2):
            changed = copy.deepcopy(node)
            changed.args[k], changed.args[m] = changed.args[m], changed.args[k]
            yield "transpose", "", changed
        if name in ("transpose", "swapaxes") and first == 0:
            yield "transpose", "", node.func.value
    if name == "reshape":
        whole = node.args[0] if first else node.func.value
        axes = np.ndim(editor.value(whole))
        for k, m in itertools.permutations(range(axes), 2) if 1 < axes < 7 else ():
            moved = parse(f"np.moveaxis({ast.unparse(whole)}, {k}, {m})")
            changed = copy.deepcopy(node)
            if first:
                changed.args[0] = moved
            else:
                changed.func.value = moved
            yield "transpose", "", changed
    if name in ("reshape", "ravel", "flatten") and any(keyword.arg == "order" for keyword in node.keywords):
        yield "transpose", "", ast.Call(node.func, node.args, [k for k in node.keywords if k.arg != "order"])
    if name == "tile" and len(node.args) == 2 and isinstance(node.args[1], ast.Tuple):
        times, axis = node.args[1].elts[0], ast.keyword("axis", ast.Constant(0))
        yield "transpose", "", ast.Call(parse("np.repeat"), [node.args[0], times], [axis])
    if name == "einsum" and isinstance(node.args[0], ast.Constant):
        for text in subscripts(node.args[0].value):
            yield "transpose", "", ast.Call(node.func, [ast.Constant(text), *node.args[1:]], node.keywords)
    if name == "where" and len(node.args) == 3:
        yield "compare", "", ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])
    if name in ("dot", "matmul") and len(node.args) == 2:
        left, right = node.args
        for sides in ((right, left), (flip(left), right), (left, flip(right)), (flip(left), flip(right))):
            yield "transpose", "", ast.Call(node.func, list(sides), [])
    if name == "reduceat":
        return
    if name in ("repeat", "tile", "exp", "sqrt", "log", "tanh", "abs"):
        yield "drop call", "", node.args[0] if node.args else node.func.value


def of_statement(editor, node):
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    if isinstance(target, ast.Subscript):
        array, index = ast.unparse(target.value), ast.unparse(target.slice)
        if isinstance(node, ast.Assign):
            yield "accumulate", "loop", ast.AugAssign(target, ast.Add(), node.value)
        if not any(isinstance(part, ast.Slice) for part in ast.walk(target.slice)):
            yield "accumulate", "loop", parse(f"np.add.at({array}, {index}, {ast.unparse(node.value)})", "exec")
        if rows := ids(editor):
            yield "keep the last", "", parse(f"{array}[{rows}] = {next(iter(editor.names))}", "exec")
    if isinstance(node, ast.AugAssign):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield "drop term", way(editor, node.value), ast.Pass()
            yield (
                "flip sign",
                "",
                ast.AugAssign(target, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.value),
            )
        elif isinstance(node.op, (ast.Mult, ast.Div)):
            yield "drop factor", editor.kind_of(node.value), ast.Pass()
    elif isinstance(target, ast.Name):
        what = "loop" if node in editor.in_loops else "way"
        yield "accumulate", what, ast.AugAssign(ast.Name(target.id, ast.Store()), ast.Add(), node.value)


def ids(editor):
    """Return the name of an array of integers, None if there is none."""
    arrays = {name: value for name, value in editor.names.items() if isinstance(value, np.ndarray)}
    return next((name for name, value in arrays.items() if value.dtype.kind in "iu"), None)


def insertions(editor, node):
    """Yield the node times, and plus, what is at hand."""
    here = editor.value(node)
    if here is None or not isinstance(here, NUMBERS):
        return
    for other, value in editor.names.items():
        if not np.ndim(value) or not fits(value, here):
            continue
        what = editor.kind_of(parse(other))
        yield "add factor", what, ast.BinOp(node, ast.Mult(), parse(other))
        yield "add factor", what, ast.BinOp(node, ast.Div(), parse(other))
        yield "add term", "term", plus(node, other)
        if np.shape(value) == np.shape(here):
            for axes in axes_of(here):
                words = f"(({ast.unparse(node)}) * {other}).sum(axis={axes}, keepdims=True)"
                yield "add term", "way", plus(node, words)
                yield "add term", "way", plus(node, f"{other} * {words}")
    for axes in axes_of(here):
        yield "add term", "way", plus(node, f"({ast.unparse(node)}).mean(axis={axes}, keepdims=True)")


def axes_of(here):
    """Return the axes that a mean may run over: the last, the first, and all but one."""
    axes = range(np.ndim(here))
    but_one = [tuple(a for a in axes if a != kept) for kept in axes] if len(axes) > 2 else []
    return [-1, 0, *but_one] if len(axes) > 1 else [-1] * len(axes)


def plus(node, words):
    """Return the node with a term added, times a coefficient that is still to be found."""
    return ast.BinOp(node, ast.Add(), ast.BinOp(ast.Constant(1.0), ast.Mult(), parse(words)))


def is_scaled(editor, node):
    """May it have a wrong factor: is it a floating-point number, or an array of them?"""
    if not isinstance(node, ast.expr) or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return False
    value = editor.value(node)
    return isinstance(value, (float, np.ndarray, np.floating)) and np.asarray(value).dtype.kind == "f"


def products(editor, here):
    """Yield (class, words) for the products of two tensors at hand that have the shape of what is here."""
    tensors = {name: np.ndim(value) for name, value in editor.names.items() if np.ndim(value)}
    for a, b in itertools.product(tensors, repeat=2):
        forms = [("term", f"{a} * {b}")] if a <= b else []
        if tensors[a] > 1 and tensors[b] > 1:
            turned = f"{a}.swapaxes(-1, -2)", f"{b}.swapaxes(-1, -2)"
            forms += [("way", f"{a} @ {b}"), ("way", f"{a} @ {turned[1]}"), ("way", f"{turned[0]} @ {b}")]
        yield from ((what, words) for what, words in forms if np.shape(editor.value(parse(words))) == np.shape(here))


def is_root(node, statement):
    """Is it the whole right side of an assignment, or one of the values returned?"""
    value = getattr(statement, "value", None)
    return node is value or (isinstance(statement, ast.Return) and isinstance(value, ast.Tuple) and node in value.elts)


def chain(node):
    """Return the factors of a product, a b c."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*chain(node.left), *chain(node.right)]
    return [node]


def comparable(a, b):
    return np.shape(a) == np.shape(b) or np.ndim(a) == np.ndim(b)


def fits(value, here):
    """Does a value broadcast with what is here?"""
    try:
        np.broadcast_shapes(np.shape(value), np.shape(here))
        return True
    except ValueError:
        return False


def flip(node):
    """Return the transpose of the last two axes, without the one that is there already."""
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "swapaxes":
        return node.func.value
    return ast.Call(ast.Attribute(node, "swapaxes", ast.Load()), [parse("-1"), parse("-2")], [])


def subscripts(text):
    """Yield an einsum's subscripts with two letters of one operand exchanged."""
    parts = text.replace(" ", "").replace("->", ",").split(",")
    for k, part in enumerate(parts):
        for i, j in itertools.combinations(range(len(part)), 2):
            letters = list(part)
            letters[i], letters[j] = letters[j], letters[i]
            new = [*parts[:k], "".join(letters), *parts[k + 1 :]]
            yield ",".join(new[:-1]) + "->" + new[-1] if "->" in text else ",".join(new)
