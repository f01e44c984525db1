"""The slips of the pen: what a person gets wrong in one place of a derivation, as edits of the source.

Each rule yields (kind, class of what it is done to, new node). What a kind means is said in `edits`.
"""

import ast
import functools
import itertools
import math

import numpy as np

from .editor import NUMBERS, parse
from .edits_of_calls import REDUCTIONS, flip, of_axis, of_call, one_off, orders_of_factors
from .suspect import broadcast

WRAPS = ("np.exp({})", "np.log({})", "np.sqrt({})", "{}**2", "np.tanh({})")
SLOPES = ("(1 - {})", "(1 - {}**2)", "{} * (1 - {})")


def changes(editor, node, statement, additions):
    """Yield (kind, class, new node) for one node; with `additions`, also what puts something in that is not there."""
    if size := size_read(editor, node):
        yield from of_size(editor, node) if node is size else ()
        return
    yield from of_node(editor, node)
    atom = is_atom(editor, node)
    if atom:
        yield from of_atom(editor, node)
    if not additions:
        return
    yield from regrouped(editor, node)
    if is_scaled(editor, node):
        yield "scale", "", ast.BinOp(ast.Constant(2.0), ast.Mult(), node)
    if atom:
        yield from wraps(editor, node)
    elif isinstance(node, (ast.BinOp, ast.Call, ast.Subscript)) and np.ndim(here := editor.value(node)):
        for other, value in editor.names.items():
            whole = math.prod(broadcast(value, here) or (0,))  # the same shape but for ones in front
            if np.ndim(value) and np.size(value) == np.size(here) == whole and not np.array_equal(value, here):
                yield "put a name", "array", parse(other)
    if is_root(node, statement) or is_operand(editor, node):
        yield from insertions(editor, node)
    if is_root(node, statement) and np.ndim(editor.value(node)) > 1 and not atom:
        yield "flip axes", "", flip(node)


def size_read(editor, node):
    """Return the `x.shape[0]`, `len(x)` or `n, d = x.shape` that a node is, or stands in; None if it is in none.

    Another tensor there, or its transpose, is no more than another number.
    """
    while isinstance(node, (ast.expr, ast.Assign)):
        unpacked = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        if (unpacked or isinstance(node, ast.Subscript)) and getattr(node.value, "attr", None) == "shape":
            return node
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "len":
            return node
        node = editor.place[id(node)][0]
    return None


def of_size(editor, node):
    """Yield another axis of the same tensor, that of another tensor, or the sizes unpacked in another order."""
    if isinstance(node, ast.Assign):
        for names in exchanged(node.targets[0].elts):
            yield "size", "", ast.Assign([ast.Tuple(names, ast.Store())], node.value)
        return
    by_length = isinstance(node, ast.Call)
    array, axis = (node.args[0], 0) if by_length else (node.value.value, editor.value(node.slice))
    for other, size in enumerate(np.shape(editor.value(array))):
        if size != editor.value(node):
            yield "size", "", parse(f"{ast.unparse(array)}.shape[{other}]")
    for name, value in editor.names.items():
        if -np.ndim(value) <= axis < np.ndim(value) and np.shape(value)[axis] != editor.value(node):
            yield "size", "", parse(f"{name}.shape[{axis}]")


def exchanged(names):
    """Yield the names with each two of them exchanged."""
    for k, m in itertools.combinations(range(len(names)), 2):
        yield [names[{k: m, m: k}.get(place, place)] for place in range(len(names))]


def of_node(editor, node):
    """Yield what may be wrong with a node of its type, or of its operator's."""
    rules = {
        ast.Add: of_sum,
        ast.Sub: of_sum,
        ast.Mult: of_product,
        ast.Div: of_quotient,
        ast.MatMult: of_matrices,
        ast.Pow: of_power,
        ast.USub: of_minus,
        ast.Call: of_call,
        ast.Compare: of_comparison,
        ast.Subscript: of_slice,
        ast.Attribute: of_attribute,
        ast.Assign: of_statement,
        ast.AugAssign: of_statement,
        ast.Expr: of_expression,
    }
    kind = type(node.op if isinstance(node, (ast.BinOp, ast.UnaryOp)) else node)
    if kind in rules:
        yield from rules[kind](editor, node)


def of_minus(editor, node):
    yield "flip sign", "", node.operand


def of_attribute(editor, node):
    if node.attr == "T" and isinstance(node.ctx, ast.Load):
        yield "transpose", "", node.value


def of_comparison(editor, node):
    for alike in ((ast.Gt, ast.GtE, ast.Lt, ast.LtE), (ast.Eq, ast.NotEq)):
        if len(node.ops) == 1 and isinstance(node.ops[0], alike):
            for op in alike:
                yield "compare", "", ast.Compare(node.left, [op()], node.comparators)


def of_slice(editor, node):
    if isinstance(node.slice, ast.Slice):
        for lower, upper in ((None, node.slice.upper), (node.slice.lower, None)):
            yield "range", "", ast.Subscript(node.value, ast.Slice(lower, upper, node.slice.step), ast.Load())


def regrouped(editor, node):
    """Yield what puts a bracket, a product, an axis or an index right: a repair alone tries it."""
    if isinstance(node, ast.BinOp):
        yield from brackets(node)
        yield from column(editor, node)
        if min(np.ndim(editor.value(side)) for side in (node.left, node.right)) > 1:
            other = {ast.Mult: ast.MatMult, ast.MatMult: ast.Mult}.get(type(node.op))
            yield from [("transpose", "", ast.BinOp(node.left, other(), node.right))] if other else ()
        if isinstance(node.op, ast.FloorDiv):
            yield "drop call", "", ast.BinOp(node.left, ast.Div(), node.right)
    elif isinstance(node, ast.Attribute) and node.attr == "T" and np.ndim(editor.value(node)) > 2:
        yield "transpose", "", flip(node.value)
    elif isinstance(node, ast.Subscript):
        yield from indices(editor, node)
    elif isinstance(node, ast.Call):
        yield from of_axis(editor, node)
        inner = node.args[0] if len(node.args) == 1 else None
        if isinstance(inner, ast.BinOp):
            yield "bracket", "", ast.BinOp(ast.Call(node.func, [inner.left], node.keywords), inner.op, inner.right)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        for names in exchanged(node.targets[0].elts):
            yield "exchange", "array", ast.Assign([ast.Tuple(names, ast.Store())], node.value)


def brackets(node):
    """Yield `(a + b) * c` for `a + b * c`, `f(a / b)` for `f(a) / b`, and the other way round."""
    for inner, other in ((node.left, node.right), (node.right, node.left)):

        def joined(part, first=inner is node.left, other=other):
            return ast.BinOp(part, node.op, other) if first else ast.BinOp(other, node.op, part)

        if isinstance(inner, ast.BinOp) and type(inner.op) is not type(node.op):
            yield "bracket", "", ast.BinOp(joined(inner.left), inner.op, inner.right)
            yield "bracket", "", ast.BinOp(inner.left, inner.op, joined(inner.right))
        elif isinstance(inner, ast.Call) and len(inner.args) == 1:
            yield "bracket", "", ast.Call(inner.func, [joined(inner.args[0])], inner.keywords)


def column(editor, node):
    """Yield a vector as a column, beside a matrix."""
    for vector, matrix in ((node.left, node.right), (node.right, node.left)):
        if np.ndim(editor.value(vector)) == 1 and np.ndim(editor.value(matrix)) == 2:
            new = ast.Subscript(vector, parse("x[:, None]").slice, ast.Load())
            sides = (new, matrix) if vector is node.left else (matrix, new)
            yield "flip axes", "", ast.BinOp(sides[0], node.op, sides[1])


def indices(editor, node):
    """Yield the index along another axis, a slice up to an index, and slices that end one earlier or later."""
    array, index = np.ndim(editor.value(node.value)), node.slice

    def at(new):
        return ast.Subscript(node.value, new, node.ctx)

    if isinstance(index, ast.Tuple) and len(index.elts) == 2:
        first, second = index.elts
        yield "flip axes", "", at(ast.Tuple([second, first], ast.Load()))
        if isinstance(first, ast.Slice) and first.lower is first.upper is None:
            yield "flip axes", "", at(second)
    elif array > 1 and not isinstance(index, ast.Tuple):
        yield "flip axes", "", at(ast.Tuple([ast.Slice(), index], ast.Load()))
    if isinstance(index, ast.Slice):
        for bound in filter(None, (index.lower, index.upper)):
            for new in one_off(bound):
                lower, upper = (new if old is bound else old for old in (index.lower, index.upper))
                yield "range", "", at(ast.Slice(lower, upper, index.step))
    elif isinstance(editor.value(index), (int, np.integer)):
        for new in (index, *one_off(index)):
            yield "put a name", "array", at(ast.Slice(None, new))


def is_atom(editor, node):
    read = isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Load)
    return read and ast.unparse(node) in editor.names


def of_atom(editor, node):
    """Another tensor in the place of one, or its transpose."""
    words = ast.unparse(node)
    mine = editor.names[words]
    for other, value in editor.names.items():
        if other != words and np.ndim(value) == np.ndim(mine):
            yield "rename", "array" if np.ndim(value) else "constant", parse(other)
    if np.ndim(mine) >= 2 and not is_argument(editor, node):
        yield "transpose", "", flip(node)


def wraps(editor, node):
    """A function of a tensor in its place, or the tensor turned round."""
    words = ast.unparse(node)
    mine = editor.names[words]
    if not isinstance(mine, np.ndarray) or mine.dtype.kind != "f":
        return
    for axes in ((-1,), (-2,), (-2, -1)) if mine.ndim > 2 else ():
        yield "flip axes", "", parse(f"np.flip({words}, {axes})")
    for wrap in WRAPS:
        yield "wrap", "array", parse(wrap.format(words))
    for slope in SLOPES:
        yield "wrap", "slope", parse(slope.format(words, words))


def is_operand(editor, node):
    """Does it stand on a side of a product of matrices, in a sum, or is it an argument?"""
    parent = editor.place[id(node)][0]
    if isinstance(parent, ast.BinOp):
        return isinstance(parent.op, (ast.MatMult, ast.Add, ast.Sub))
    return is_argument(editor, node)


def is_argument(editor, node):
    """Is it an argument of a function, the array of a method such as sum or mean included?"""
    parent, field, _ = editor.place[id(node)]
    if isinstance(parent, ast.Attribute):
        if parent.attr == "shape":
            return True
        return parent.attr in REDUCTIONS and editor.place[id(parent)][1] == "func"
    return isinstance(parent, ast.Call) and field == "args"


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
        return "term"
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


def is_reduction(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCTIONS


def of_quotient(editor, node):
    what = editor.kind_of(node.right)
    yield "drop factor", what, node.left
    yield "invert factor", what, ast.BinOp(node.left, ast.Mult(), node.right)
    for power in (2, 3):  # 1 / s derived as if the slope were 1 / s
        yield "power", what, ast.BinOp(node.left, ast.Div(), ast.BinOp(node.right, ast.Pow(), ast.Constant(power)))


def of_power(editor, node):
    if isinstance(editor.value(node.right), (int, float)):
        what = "array" if np.ndim(editor.value(node.left)) else "constant"
        for power in (-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 3):
            yield "power", what, ast.BinOp(node.left, ast.Pow(), ast.Constant(power))
        yield "power", "array", ast.Call(parse("np.abs"), [node.left], [])


def of_matrices(editor, node):
    yield "transpose", "", flip(node)
    for left, right in orders_of_factors(node.left, node.right):
        yield "transpose", "", ast.BinOp(left, ast.MatMult(), right)


def of_statement(editor, node):
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    if isinstance(target, ast.Subscript):
        array, index = ast.unparse(target.value), ast.unparse(target.slice)
        if isinstance(node, ast.Assign):
            yield "accumulate", "loop", ast.AugAssign(target, ast.Add(), node.value)
        parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else [target.slice]
        if not any(isinstance(part, ast.Slice) for part in parts):
            yield "accumulate", "loop", parse(f"np.add.at({array}, {index}, {ast.unparse(node.value)})", "exec")
        if rows := ids(editor):
            yield "keep the last", "", parse(f"{array}[{rows}] = {next(iter(editor.names))}", "exec")
    if isinstance(node, ast.AugAssign):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield "drop term", way(editor, node.value), ast.Pass()
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield "flip sign", "", ast.AugAssign(target, other, node.value)
        elif isinstance(node.op, (ast.Mult, ast.Div)):
            yield "drop factor", editor.kind_of(node.value), ast.Pass()
    elif isinstance(target, ast.Name):
        what = "loop" if any(node in ast.walk(loop) for loop in editor.loops()) else "way"
        yield "accumulate", what, ast.AugAssign(ast.Name(target.id, ast.Store()), ast.Add(), node.value)


def of_expression(editor, node):
    """A mask that is not applied; values for one place of which the last is kept."""
    call = node.value
    names = [part for part in ast.walk(call) if isinstance(part, ast.Name) and editor.locals.get(part.id) is not None]
    if any(editor.kind_of(part) == "mask" for part in names):
        yield "drop step", "mask", ast.Pass()
    if isinstance(call, ast.Call) and ast.unparse(call.func) == "np.add.at" and len(call.args) == 3:
        array, index, values = map(ast.unparse, call.args)
        yield "keep the last", "", parse(f"{array}[{index}] = {values}", "exec")


def ids(editor):
    """Return the name of an array of integers, None if there is none."""
    arrays = {name: value for name, value in editor.names.items() if isinstance(value, np.ndarray)}
    return next((name for name, value in arrays.items() if value.dtype.kind in "iu"), None)


def insertions(editor, node):
    """Yield the node times, and divided by, the arrays at hand."""
    here = editor.value(node)
    is_number = isinstance(here, NUMBERS) and np.asarray(here).dtype.kind != "b"
    for other, value in editor.names.items() if is_number else ():
        forms = [other] if np.ndim(value) and broadcast(value, here) is not None else []
        if np.ndim(value) == 1 and np.ndim(here) > 1 and len(value) == len(here):
            forms.append(f"{other}[:, {', '.join(['None'] * (np.ndim(here) - 1))}]")
        for form in forms:
            what = editor.kind_of(parse(form))
            yield "add factor", what, ast.BinOp(node, ast.Mult(), parse(form))
            yield "add factor", what, ast.BinOp(node, ast.Div(), parse(form))


def is_scaled(editor, node):
    """May it have a wrong factor: is it a floating-point number, or an array of them?"""
    if not isinstance(node, ast.expr) or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return False
    value = editor.value(node)
    return isinstance(value, NUMBERS) and not isinstance(value, bool) and np.asarray(value).dtype.kind in "fi"


def is_root(node, statement):
    """Is it the whole right side of an assignment, or one of the values returned?"""
    value = getattr(statement, "value", None)
    return node is value or (isinstance(statement, ast.Return) and isinstance(value, ast.Tuple) and node in value.elts)


def chain(node):
    """Return the factors of a product, a b c."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*chain(node.left), *chain(node.right)]
    return [node]
