"""A function's source, changed in one place: the slips of the pen between a right backward and a wrong one.

Read forwards, an edit makes a right backward wrong (`faults` of an operation of ours). Read backwards, it makes a
wrong one right, and then names the place in the learner's own words (`repairs`). Most edits do not run, or change
nothing: whoever uses them has to look.
"""

import ast
import contextlib
import functools
import inspect
import itertools
import math
import sys
import textwrap
import types
from typing import NamedTuple

import numpy as np

from ..verdict.calls import LIBRARIES
from ..verdict.snapshots import children

NUMBERS = (np.ndarray, np.number, float, int)
SIMPLE = {"2.0": 2.0, "3.0": 3.0, "1.5": 1.5, "4.0": 4.0}


class Edit(NamedTuple):
    kind: str  # what was done: "drop term", "flip sign", ...
    what: str  # the class of what it was done to: "constant", "minus", "count", "mask", "array" or ""
    editor: object
    place: object  # the statement as it was; here and below a node, or words
    before: object
    after: object
    nodes: tuple  # (node, the new one), ...
    inserted: tuple = ()  # (place in the body, a statement)
    coefficient: object = None  # the constant in `after`, a factor, whose value is still to be found

    def words(self):
        """Return what was there, what is there now, and the line: only when asked, as of some thousand one is shown."""
        return [written(part) for part in (self.before, self.after, self.place)]

    def build(self):
        """Return the edited function, None if it has no sense."""
        return self.editor.edited(self)

    def source(self):
        """Return the source of the edited function."""
        with self.editor.changed(self):
            return ast.unparse(self.editor.definition)


def written(node):
    if isinstance(node, ast.For):
        return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
    return node if isinstance(node, str) else ast.unparse(node)


class Unreadable(Exception):
    """The source of a function is not at hand."""


class Editor:
    """The source of a function, and of the functions of its author that it calls, with the values they had in a call.

    `rebuilt` goes from an edited function to the one that calls it; those `seen` are not read again.
    """

    def __init__(self, function, rebuilt=None, seen=()):
        self.bound = getattr(function, "__self__", None)
        self.function = getattr(function, "__func__", function)
        self.rebuilt = rebuilt or (lambda edited: edited)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(self.function)))
            endless = any(isinstance(node, ast.While) for node in ast.walk(tree))  # as an edit may make it
            if not isinstance(tree.body[0], ast.FunctionDef) or endless:
                raise Unreadable
            tree.body[0].decorator_list = []
            self.tree, self.definition, self.code = tree, tree.body[0], compile(tree, "<rebuilt>", "exec")
        except (OSError, TypeError, SyntaxError) as error:
            raise Unreadable from error
        cells = zip(self.function.__code__.co_freevars, self.function.__closure__ or ())
        self.scope = {**self.function.__globals__, **{name: cell.cell_contents for name, cell in cells}}
        self.place = dict(places_of(tree))
        self.locals, self.values, self.inner = {}, {}, []
        for name in (*self.function.__code__.co_names, *self.function.__code__.co_freevars):
            called = self.scope.get(name)
            own = isinstance(called, types.FunctionType) and not called.__code__.co_filename.startswith(LIBRARIES)
            if own and called not in seen:
                with contextlib.suppress(Unreadable):
                    rebuild = functools.partial(self.calling, name)
                    self.inner.append(Editor(called, rebuild, (*seen, self.function)))

    def calling(self, name, other):
        """Return this function as it is when it calls another one by that name."""
        return self.made(self.code, {name: other})

    def made(self, code, changed):
        """Return the function of some code, or the one that calls it, where some of its names stand for others."""
        scope = {**self.scope, **changed}
        exec(code, scope)
        function = scope[self.definition.name]
        return self.rebuilt(function if self.bound is None else function.__get__(self.bound))

    def watch(self, *arguments, **named):
        """Call the function once, and keep the local variables of all that are read here."""
        editors = {editor.function.__code__: editor for editor in self.all()}

        def trace(frame, event, _):
            if frame.f_code not in editors:
                return None
            if event == "return":
                editors[frame.f_code].locals = dict(frame.f_locals)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self.function(*(() if self.bound is None else (self.bound,)), *arguments, **named)
        finally:
            sys.settrace(before)
            for editor in self.all():
                editor.names = editor.atoms()

    def all(self):
        """Return this editor and those of the functions that are called."""
        return [self, *itertools.chain(*(editor.all() for editor in self.inner))]

    def value(self, node):
        """Return what an expression was worth at the end of the call, None if that cannot be told.

        It is a piece of the very source that the check has just run, so `eval` runs nothing that is new.
        """
        if id(node) in self.values:
            return self.values[id(node)]
        found = self.computed(node, self.locals)
        if id(node) in self.place:  # it lives as long as the tree, so nobody else gets its id
            self.values[id(node)] = found
        return found

    def computed(self, node, values):
        """Return what an expression is worth for some local variables, None if that cannot be told."""
        if isinstance(self.place.get(id(node), [None])[0], ast.Expr):  # a command, which changes things
            return None
        try:
            with np.errstate(all="ignore"):
                code = compile(ast.Expression(located(node, self.definition)), "", "eval")
                return eval(code, self.scope, values)
        except Exception:
            return None

    def kind_of(self, node):
        """Return the class of a factor: minus one, another number, a count, a mask, or another array."""
        value = self.value(node)
        if value is None:
            return "mask" if "mask" in ast.unparse(node) else "array"
        if isinstance(value, np.ndarray) and value.size > 1:
            found = np.unique(value)
            if value.dtype == bool or (len(found) == 2 and found[0] == 0):
                return "mask"
            return "count" if found[-1] > 1 and np.array_equal(found, np.rint(found)) else "array"
        try:
            minus, value = value == -1, abs(float(value))
        except (TypeError, ValueError):
            return "array"
        if minus:
            return "minus"
        whole = [v for v in (value, 1 / value if value else 0.0) if v > 2.5 and abs(v - round(v)) < 1e-9]
        return "count" if whole else "constant"

    def atoms(self):
        """Return the expressions that stand for a tensor or number: names, and all parts of a cache or of self."""
        arguments = [arg.arg for arg in self.definition.args.args]
        found = list(arguments)
        for node in ast.walk(self.definition):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.append(node.id)
            simple = isinstance(node, ast.Attribute) or (
                isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
            )
            if simple and isinstance(node.ctx, ast.Load) and getattr(node.value, "id", None) in found:
                found.append(ast.unparse(node))
        for name in arguments:
            whole = self.locals.get(name)
            if not isinstance(whole, np.ndarray):  # a key that is an object cannot be written down
                found += [name + path for path, _ in children(whole) if "<" not in path]
        values, seen = {}, set()
        for name in dict.fromkeys(found):
            value = self.value(parse(name))
            known = isinstance(value, NUMBERS) and not isinstance(value, bool) and not name.startswith("_")
            if known and id(value) not in seen:
                values[name] = value
                seen |= {id(value)} if isinstance(value, np.ndarray) else set()  # one array, two names: the first
        return values

    def numbers(self):
        """Return [(words, class, value), ...] of the numbers that a factor may be: small ones, lengths, scalars."""
        found = [(words, "constant", value) for words, value in SIMPLE.items()]
        arrays = {name: np.shape(value) for name, value in self.names.items() if np.ndim(value)}
        for name, shape in arrays.items():
            for count in range(1, len(shape) + 1):
                for axes in itertools.combinations(range(len(shape)), count):
                    words = "*".join(f"{name}.shape[{axis}]" for axis in axes)
                    found.append((f"({words})" if count > 1 else words, "count", math.prod(shape[a] for a in axes)))
        for name, value in self.names.items():
            if not np.ndim(value) and value and np.isfinite(value):
                number, what = float(value), self.kind_of(parse(name))
                found += [(name, what, number), (f"{name}**2", what, number**2)]
                found += [(f"(1 - {name})", what, 1 - number)] if 0 < number < 1 else []
                found += [(f"np.sqrt({name})", what, number**0.5)] if number > 0 else []
        return found

    @contextlib.contextmanager
    def changed(self, edit):
        """The tree itself is changed and changed back: copying it would cost more than all the rest."""
        body, places = self.definition.body, [(*self.place[id(node)], node) for node, _ in edit.nodes]
        inserted = [located(parse(edit.inserted[1], "exec"), self.definition)] if edit.inserted else []
        for (parent, field, index, node), (_, new) in zip(places, edit.nodes):
            put(parent, field, index, located(new, node))
        if inserted:
            body.insert(edit.inserted[0], *inserted)
        try:
            yield
        finally:
            if inserted:
                del body[edit.inserted[0]]
            for parent, field, index, node in places:
                put(parent, field, index, node)

    def edited(self, edit):
        """Return the function as edited. It is the author's own, which the check has run, but for one change."""
        try:
            with self.changed(edit):
                code = compile(self.tree, "<edited>", "exec")
            return self.made(code, {})
        except (SyntaxError, ValueError, TypeError, NameError, KeyError):
            return None

    def loops(self):
        return [node for node in ast.walk(self.definition) if isinstance(node, ast.For)]

    def start(self):
        """Return the place in the body behind the docstring."""
        first = self.definition.body[0]
        return 1 if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else 0

    def statements(self):
        """Yield (node, the statement it is part of) for all that may be edited."""
        plain = (ast.Assign, ast.AugAssign, ast.Return, ast.Expr)
        for statement in ast.walk(self.definition):
            whole = statement.iter if isinstance(statement, ast.For) else statement
            if whole is statement and (not isinstance(statement, plain) or isinstance(statement.value, ast.Constant)):
                continue
            written = written_to(statement)
            for node in ast.walk(whole):
                if isinstance(node, (ast.expr, ast.stmt)) and node not in written:
                    yield node, statement

    def bindings(self):
        """Return {name: place in the body} where arguments, and what comes out of a tuple, can be bound anew."""
        body = self.definition.body
        found = {arg.arg: self.start() for arg in self.definition.args.args}
        for place, statement in enumerate(body):
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
                found |= {n.id: place + 1 for n in ast.walk(statement.targets[0]) if isinstance(n, ast.Name)}
        return {name: place for name, place in found.items() if name in self.names}


def places_of(tree):
    """Yield (id of a node, (its parent, field, index or None)) for all nodes."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.AST):
                    yield id(node), (parent, field, index)


def written_to(statement):
    """Return the nodes of the array that a statement writes into: `a` and all in it, of `a[i] = ...`."""
    targets = [statement.target] if isinstance(statement, ast.AugAssign) else getattr(statement, "targets", [])
    arrays = [target.value for target in targets if isinstance(target, ast.Subscript)]
    return [node for array in arrays for node in ast.walk(array)]


def located(new, node):
    """Give the new parts of a node the line of the one in whose place it comes, as the compiler asks for one."""
    for part in ast.walk(new):
        if "lineno" in part._attributes and not hasattr(part, "lineno"):
            part.lineno = part.end_lineno = node.lineno
            part.col_offset = part.end_col_offset = 0
    return new


def put(parent, field, index, node):
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def parse(text, mode="eval"):
    tree = ast.parse(text, mode=mode)
    return tree.body if mode == "eval" else tree.body[0]
