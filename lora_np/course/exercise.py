"""An exercise is one file: `exercises/NAME.py`, or a teacher's own, of the same form.

What a list needs (chapter, minutes, level, signature), and the text of the solution for the notebook, is read without
running the file; it is run when an answer is checked.
"""

import ast
import copy
import difflib
import functools
import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_np.course.findings import Finding, Wrong
from lora_np.gradcheck import ALIKE, by_name, leaves

FOLDER = Path(__file__).with_name("exercises")
LEVELS = ("easy", "medium", "hard")
TRIALS, OWN_SEED = 6, 0x657865


class Slip(NamedTuple):
    cause: str | None  # one of lora_np.gradcheck.CAUSES; None, "other" in the file, where none of them fits
    words: str
    edits: list  # of (text of the solution, the text in its place)


def slips_of(text):
    """Return the Slips that SLIPS tells: lines `cause: sentence`, and indented below each its edits, `old => new`."""
    if not isinstance(text, str):
        raise ValueError(f"SLIPS is a {type(text).__name__}; expected a text, as CONTRIBUTING.md describes it")
    found = []
    for line in filter(str.strip, text.splitlines()):
        is_edit = line[0].isspace()
        first, mark, second = (part.strip() for part in line.partition(" =>" if is_edit else ": "))
        if not first or not mark or (is_edit and not found):
            raise ValueError(
                f"the line {line.strip()!r} of SLIPS is neither `cause: sentence`"
                " nor, indented below one, `text of the solution => text in its place`"
            )
        if is_edit:
            found[-1].edits.append((first, second))
        else:
            found.append(Slip(None if first == "other" else first, second, []))
    return tuple(found)


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes
    ----------
    name : str
        That of its file and of the function that is to be written.
    chapter, place, minutes : int
        Where it stands, as which one of its chapter, and how long it takes.
    level : str
        "easy", "medium" or "hard".
    hints : tuple of str
    outputs : tuple of str
        Names of what the function returns, in order.
    signature : str
    """

    name: str
    path: Path

    @functools.cached_property
    def text(self):
        return self.path.read_text(encoding="utf-8")

    @functools.cached_property
    def functions(self):
        """The file's functions, {name: node of its syntax tree}."""
        return {node.name: node for node in ast.parse(self.text).body if isinstance(node, ast.FunctionDef)}

    @functools.cached_property
    def constants(self):
        """What the file assigns that can be told without running it, {name: value}."""
        found = {}
        for node in ast.parse(self.text).body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                many = isinstance(target, ast.Tuple)
                names = target.elts if many else [target]
                try:
                    value = ast.literal_eval(node.value)
                    values = list(value) if many else [value]
                except (ValueError, TypeError):  # told only by running it, or not at all
                    continue
                found |= {name.id: one for name, one in zip(names, values) if isinstance(name, ast.Name)}
        return found

    chapter = property(lambda self: self.constants["CHAPTER"])
    place = property(lambda self: self.constants["PLACE"])
    minutes = property(lambda self: self.constants["MINUTES"])
    level = property(lambda self: self.constants["LEVEL"])
    hints = property(lambda self: self.constants["HINTS"])
    outputs = property(lambda self: self.constants["OUTPUTS"])
    changes = property(lambda self: self.constants.get("CHANGES", ()))  # arguments that it is meant to change in place
    lent = property(lambda self: self.constants.get("LENT", ()))  # that it may change while it runs, if it puts it back
    tolerance = property(lambda self: self.constants.get("TOLERANCE"))  # relative; None: some roundings of the dtype
    alike = property(lambda self: self.constants.get("ALIKE", max(ALIKE, self.tolerance or 0)))  # for a slip's numbers
    kinds = property(lambda self: self.optional("KINDS", {}))  # of the judge's findings: {kind: (cause, sentence)}
    trials = property(lambda self: self.constants.get("TRIALS", TRIALS))

    @property
    def parameters(self):
        return tuple(argument.arg for argument in self.functions[self.name].args.args)

    @property
    def signature(self):
        return f"{self.name}({', '.join(self.parameters)})"

    @property
    def is_backward(self):
        return self.forward is not None

    def parts_of(self, name):
        """Return the text of a function in two: down to its docstring, and what follows, without a newline between."""
        node, lines = self.functions[name], self.text.split("\n")
        end = node.body[0].end_lineno if ast.get_docstring(node) is not None else node.body[0].lineno - 1
        return "\n".join(lines[node.lineno - 1 : end]), "\n".join(lines[end : node.end_lineno])

    @functools.cached_property
    def module(self):
        """The file, run."""
        if self.path.parent == FOLDER:
            return importlib.import_module(f"lora_np.course.exercises.{self.name}")
        title = f"lora_np_exercise_{self.name}"
        spec = importlib.util.spec_from_file_location(title, self.path)
        sys.modules[title] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def optional(self, name, otherwise=None):
        return getattr(self.module, name, otherwise)

    solution = property(lambda self: getattr(self.module, self.name))
    forward = property(lambda self: self.optional("forward"))  # of a backward: then `draw` draws for this one
    judge = property(lambda self: self.optional("judge"))  # judge(given, right, arguments) yields Findings
    numbers = property(lambda self: self.optional("numbers", dict))  # from results to arrays, to seek a cause for
    refuses = property(lambda self: self.optional("refuses"))  # refuses(rng) yields (arguments, a sentence on them)
    library = property(lambda self: self.optional("library"))  # what the solution agrees with
    branches = property(lambda self: self.optional("BRANCHES", {}))  # {words: predicate of the arguments}

    @functools.cached_property
    def slips(self):
        return slips_of(self.module.SLIPS)

    def text_with(self, edits):
        """Return the solution's text, changed, None if a text to change is not there."""
        head, body = self.parts_of(self.name)
        for old, new in edits:
            if old not in body:
                return None
            body = body.replace(old, new)
        return f"{head}\n{body}"

    def edited(self, edits):
        """Return the solution with its text changed, None if a text to change is not there."""
        text = self.text_with(edits)
        return None if text is None else made(self, text)


@functools.cache
def made(exercise, text):
    """Return the function of a text that stands in place of an exercise's solution."""
    scope = {**vars(exercise.module), "__name__": "a slip"}
    exec(compile(text, f"<a slip in {exercise.name}>", "exec"), scope)
    return scope[exercise.name]


@dataclass
class Trial:
    """What an answer is tried on once."""

    number: int
    dtype: np.dtype
    arguments: dict  # of the answer, by name
    told: dict  # what BRANCHES ask of: the same, or for a backward the arguments of its forward
    inputs: dict = field(default_factory=dict)  # of a backward: what it is differentiated by, and what is fixed
    fixed: dict = field(default_factory=dict)
    rng: object = None

    @classmethod
    def of(cls, exercise, number, forward=None, seed=0, dtype=None):
        """Draw a trial; the last one is in float32, unless a dtype is asked for."""
        dtype = np.dtype(dtype or (np.float32 if number == exercise.trials - 1 else np.float64))
        rng = np.random.default_rng([OWN_SEED, number, seed])
        drawn = exercise.module.draw(rng, dtype, number)
        if not exercise.is_backward:
            return cls(number, dtype, locked(drawn), drawn)
        inputs, fixed = drawn
        output, cache = (forward or exercise.forward)(**inputs, **fixed)
        many = np.ndim(output)
        doutput = rng.standard_normal(np.shape(output)).astype(dtype) if many else float(rng.standard_normal())
        arguments = dict(zip(exercise.parameters, locked((doutput, cache))))
        return cls(number, dtype, arguments, {**inputs, **fixed}, inputs, fixed, rng)

    def results(self, exercise, function, **changed):
        """Call a function and return its results by name: what it returns, and the arguments that it is to change."""
        own = {**self.arguments, **changed}
        for name, value in own.items():
            if name in (*exercise.changes, *exercise.lent) or isinstance(value, np.random.Generator):
                own[name] = copy.deepcopy(value)
        returned, names = function(*own.values()), exercise.outputs
        if exercise.is_backward:
            return {f"d{name}": gradient for name, gradient in by_name(returned, self.inputs).items()}
        changed = {name: own[name] for name in names if name in exercise.changes}
        names = tuple(name for name in names if name not in changed)
        if len(names) < 2:
            returned = (returned,)
        elif not isinstance(returned, (tuple, list)) or len(returned) != len(names):
            raise Wrong(Finding("count", names[0], {"given": returned, "expected": names}))
        return {**dict(zip(names, returned)), **changed}


def locked(value):
    """Make all arrays inside read-only, and return it."""
    for _, leaf in leaves(value):
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    return value


REGISTERED = {}


def all_exercises():
    """Return {name: Exercise}: the course's in order, then those that were registered."""
    return {**_own(), **REGISTERED}


@functools.cache
def _own():
    found = []
    for path in sorted(FOLDER.glob("[!_]*.py")):
        exercise = Exercise(path.stem, path)
        try:
            found.append((exercise.chapter, exercise.place, exercise))
        except (SyntaxError, KeyError) as error:
            words = "is no exercise; mend it, or take it away. lnp.course.register says all that is wrong"
            raise ValueError(f"{path} {words} ({type(error).__name__}: {error})") from error
    return {exercise.name: exercise for *_, exercise in sorted(found, key=lambda place: place[:2])}


def find(name):
    """Return the exercise of that name, or say which ones are nearest."""
    if not isinstance(name, str):
        raise TypeError(f"check needs the exercise's name as a text, then the function; its name is {name!r}.")
    known = all_exercises()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0))
        raise ValueError(f"there is no exercise {name!r}; did you mean {near}? lnp.course.exercises() lists all")
    return known[name]
