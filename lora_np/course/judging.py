"""Is an answer right, and if not, why: what `check` does with a learner's function."""

import contextlib
import inspect
import operator
import re
import sys
import traceback
from collections.abc import Callable
from numbers import Number
from pathlib import Path

import numpy as np

from lora_np.course.blocks import show
from lora_np.course.exercise import OWN_SEED, Trial, all_exercises, find
from lora_np.course.explain import explained
from lora_np.course.findings import Excerpt, Finding, Wrong, difference
from lora_np.course.kept import NotKept, imported, keep, kept
from lora_np.course.progress import remember
from lora_np.course.verdict import Verdict
from lora_np.course.words import en
from lora_np.gradcheck import FLOAT32_LOSS, TOLERANCE, by_name, differences, in_words, leaves, snapshot
from lora_np.gradcheck import check as check_gradients
from lora_np.ops.fit import fit

PACKAGE = str(Path(__file__).parents[1])
RAISED = {  # what NumPy and Python say, and the Finding that explains it
    "core dimension": "sizes",
    "not aligned": "sizes",
    "could not be broadcast": "broadcast",
    "must match exactly": "side by side",
    "must have the same shape": "stacked",
    "truth value of an array": "truth",
    "boolean index did not match": "boolean",
    "inhomogeneous": "pair",
    "to unpack": "unpacked",
    "too many indices": "axes",
    "has no len()": "axes",
    "invalid index to scalar variable": "axes",
    "iteration over a 0-d array": "axes",
    "is out of bounds for array of dimension": "axes",
    "must be square": "square",
}
REDUCTIONS = {"sum", "mean", "max", "min", "any", "all", "std", "var", "norm"}


@contextlib.contextmanager
def staying():
    """Make a finding of what would end the program, be it a script, a grader or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        shell.ask_exit = sys.exit  # a notebook's own exit() raises nothing, but its kernel ends a little later
    try:
        yield
    except SystemExit as error:
        raise Wrong(Finding("exits", None, {"error": told(error)})) from error
    finally:
        if shell is not None:
            vars(shell).pop("ask_exit", None)


def check(name: str, function: Callable, forward: Callable | None = None, hint: int = 0) -> Verdict:
    """Try an answer on random arguments, print what was found, and return it.

    Parameters
    ----------
    name : str
        Of the exercise: that of the function that it rebuilds. `exercises()` lists them.
    function : callable
        The answer.
    forward : callable, optional
        For a backward with a cache of its own: the forward that makes this cache. Without it, a right forward of yours
        is tried, if the backward does not fit the library's cache.
    hint : int
        Show the first, second, ... hint as well.

    Returns
    -------
    Verdict
        Printed already, numbers that differ as a picture as well; `.ok`, `.output`, `.cause` and `.hint` are there for
        programs, and `.function` is what a notebook goes on with.

    Raises
    ------
    ValueError, TypeError
        If there is no exercise of that name (the nearest are listed), the answer is no function, or the hint no number.
    """
    exercise = find(name)
    if not callable(function):
        raise TypeError(f"check needs the function itself, not {type(function).__name__}; leave out the ().")
    if forward is not None and not exercise.is_backward:
        raise ValueError(f"{name} is no backward, so it takes no forward of your own; leave out forward=.")
    if not (forward is None or callable(forward)):
        raise TypeError(f"forward= needs a function, not {type(forward).__name__}; leave out the ().")
    if not hasattr(hint, "__index__") or operator.index(hint) < 0:
        raise ValueError(f"hint={hint!r} is no hint; expected 1 for the first, 2 for the second, or 0 for none.")
    try:
        with staying():
            if is_ours(function):
                raise Wrong(Finding("library", exercise.outputs[0]))
            found = of_pair(exercise, function) if exercise.is_backward and forward is None else None
            verdict = Verdict.of(exercise, True, found or (examine(exercise, function, forward),))
    except Wrong as wrong:
        verdict = Verdict.of(exercise, False, wrong.args)
        if len(exercise.hints) > hint:
            verdict.more = en.NEXT_HINT.format(name=name, hint=hint + 1)
    if hint > 0:
        shown = enumerate(exercise.hints[:hint], start=1)
        verdict.hint = "\n  ".join(en.HINT.format(number=number, words=words) for number, words in shown)
    verdict.function = function if verdict.ok else exercise.library or exercise.solution
    if verdict.ok:
        remember(name)
        try:
            if file := keep(name, function):
                missing = {other for other in imported(name) & all_exercises().keys() if kept(other) is None}
                verdict.more = en.kept(file, sorted(missing))
        except NotKept as reason:
            verdict.more = en.NOT_KEPT.format(reason=reason)
    print(verdict)
    for finding in verdict.findings:
        if finding.excerpt is not None:
            show(finding.argument, finding.excerpt)
    return verdict


def of_pair(exercise, function):
    """Return what was verified of a backward that reads what a kept forward of the learner's keeps, or None."""
    name = exercise.name.replace("backward", "forward")
    theirs = kept(name) if name in all_exercises() else None
    if theirs is None or is_right(exercise, function):
        return None
    if is_right(exercise, function, theirs):
        return examine(exercise, function, positional(name, theirs)), Finding("together", None, {"forward": name})
    return None


def is_right(exercise, function, forward=None):
    """Is an answer right; a backward with what this forward keeps, if one is given? Nothing is explained."""
    try:
        with staying():
            if is_ours(function):
                return False
            examine(
                exercise, function, forward and positional(exercise.name.replace("backward", "forward"), forward), False
            )
    except Wrong:
        return False
    return True


def positional(name, forward):
    """Return a forward that takes an exercise's arguments by name, which the learner may call otherwise."""
    names = find(name).parameters
    return lambda **values: forward(*(values[name] for name in names))


def is_ours(function):
    """Is it a function of this package, and nobody's answer?"""
    function = inspect.unwrap(getattr(function, "func", function))  # of a partial
    return (getattr(function, "__module__", None) or "").startswith("lora_np.")


def examine(exercise, function, forward=None, why=True):
    """Return what was verified, a Finding, or raise Wrong, with what explains it."""
    single = False
    for number in range(exercise.trials):
        trial = Trial.of(exercise, number, forward)
        single |= is_single(trial)
        if wrong := fault_of(exercise, function, trial, forward):
            raise Wrong(
                *(explained(exercise, function, trial, wrong, forward, fault_of) if why else wrong.args)
            ) from wrong
    for arguments, words in exercise.refuses(np.random.default_rng(OWN_SEED)) if exercise.refuses else ():
        refuses(function, arguments, words)
    if exercise.is_backward:
        values = {"trials": exercise.trials, "double": exercise.trials - 1, "rtol": TOLERANCE, "loss": FLOAT32_LOSS}
        return Finding("proven", None, values)
    return Finding("verified", None, {"trials": exercise.trials, "single": single})


def is_single(trial):
    """Is something in it float32?"""
    return any(getattr(leaf, "dtype", None) == np.float32 for _, leaf in leaves(trial.arguments))


def fault_of(exercise, function, trial, forward=None):
    """Return None if an answer is right on a trial, else Wrong, with one Finding and perhaps a gradient's report."""
    try:
        if exercise.is_backward:
            verify_gradients(exercise, function, trial, forward)
        elif finding := next(faults_of_results(exercise, function, trial), None):
            return Wrong(finding)
    except Wrong as wrong:
        return wrong
    return None


def faults_of_results(exercise, function, trial):
    """Yield what is wrong with an answer's results, and its manners."""
    right = trial.results(exercise, exercise.solution)
    given = trial.results(exercise, answer(exercise, function))
    for name in given:
        if given[name] is None and right[name] is not None and name != "cache":
            yield Finding("none", name)
    if exercise.judge is None:
        yield from filter(None, (compared(exercise, trial, name, given[name], right[name]) for name in right))
        return
    try:
        yield from exercise.judge(given, right, trial.arguments)
    except Exception:  # a judge expects results of the right kind
        yield Finding("unusable", exercise.outputs[0], {"given": given[exercise.outputs[0]]})
    yield from repeats(exercise, function, trial, given)


def compared(exercise, trial, name, given, right):
    """Return a Finding if a result is wrong, None if not."""
    if name == "cache":
        return of_cache(given, right)
    if name in exercise.changes and not differences(snapshot(trial.arguments[name]), given):
        return Finding("unchanged", name)
    return difference(name, given, right, exercise.tolerance)


def of_cache(given, right):
    """A cache is the author's own affair, unless it is called what the solution's is called."""
    if type(given).__name__ != type(right).__name__ or not hasattr(right, "_fields") or len(given) != len(right):
        return None
    for field, mine, value in zip(right._fields, given, right):
        if wrong := of_field(field, mine, value):
            holds = next((name for name, other in zip(right._fields, right) if not of_field(field, mine, other)), None)
            swapped = holds and of_field(holds, given[right._fields.index(holds)], getattr(right, holds))
            alike = wrong.kind == "dtype" or (wrong.kind == "shape" and np.size(mine) == np.size(value))
            cause = "swapped" if swapped else wrong.kind if alike and not holds else "wrong_cached_value"
            return Finding("cache", "cache", {"field": field, "cause": cause, "holds": holds, "wrong": wrong})
    return None


def of_field(field, given, right):
    """Return a Finding if a field of a cache is not what it should be, None if it is."""
    if isinstance(right, (np.ndarray, Number)):
        return difference(field, given, right)
    same = given is None if right is None else not isinstance(given, np.ndarray) and given == right
    return None if same else Finding("type", field, {"given": given, "expected": right})


def repeats(exercise, function, trial, given):
    """Yield a Finding unless an answer that is given a generator draws from it, and from nothing else."""
    for name, value in trial.arguments.items():
        if isinstance(value, np.random.Generator):
            again = trial.results(exercise, function)
            other = trial.results(exercise, function, **{name: np.random.default_rng(OWN_SEED)})
            if differences(snapshot(given), again):
                yield Finding("nondeterministic", exercise.outputs[0], {"generator": name})
            if not differences(snapshot(given), other):
                yield Finding("generator", exercise.outputs[0], {"generator": name})


def verify_gradients(exercise, function, trial, forward):
    """Raise Wrong unless an answer's gradients are the numerical ones, and its manners good."""
    if forward is not None:
        drawn = {**trial.inputs, **trial.fixed}
        if other := difference("y", forward(**drawn)[0], exercise.forward(**drawn)[0]):
            raise Wrong(Finding("forward", "y"), other)
    returned = answer(exercise, function)(*trial.arguments.values())
    if returned is None:
        expected = ", ".join(f"d{name}" for name in trial.inputs)
        raise Wrong(Finding("nothing", f"d{next(iter(trial.inputs))}", {"expected": expected}))
    report = check_gradients(forward or exercise.forward, function, trial.inputs, trial.fixed, trial.rng)
    if forward is None or not report.ok:
        for name, gradient in by_name(returned, trial.inputs).items():
            kind = getattr(gradient, "dtype", trial.dtype)
            if kind != trial.dtype and np.shape(gradient) == np.shape(trial.inputs[name]):
                raise Wrong(Finding("dtype", f"d{name}", {"given": kind, "expected": trial.dtype}))
    for argument, sentences in report.failures.items():
        output = f"d{argument}" if argument in trial.inputs else argument
        excerpt = of_gradient(report, argument, trial.dtype)
        raise Wrong(Finding("gradient", output, {"words": sentences[0]}, excerpt), report=report)


def of_gradient(report, argument, dtype):
    """Return the excerpt of a wrong gradient beside the numerical one, None if they were not compared by entries."""
    row = next((row for row in report.rows if row.argument == argument), None)
    if argument not in report.pairs or row is None or row.where is None:
        return None
    given, numeric = report.pairs[argument]
    apart = np.abs(given - numeric)
    rounding = np.finfo(dtype).eps ** 0.5 * max(np.max(np.abs(numeric)), np.max(apart))
    return Excerpt.of(given, numeric, apart > rounding, row.where)


def refuses(function, arguments, words):
    """Raise Wrong unless an answer refuses, by a ValueError, what it cannot work with."""
    try:
        function(*arguments.values())
    except ValueError:
        return
    except Exception as error:
        raise Wrong(Finding("refused otherwise", None, {"words": words, "error": told(error)})) from error
    raise Wrong(Finding("not refused", None, {"words": words}))


def answer(exercise, function):
    """Return the learner's function, which now raises Wrong, with the learner's own line, or for a write."""

    def run(*own):
        kept = {name: value for name, value in zip(exercise.parameters, own) if name not in exercise.changes}
        before = {name: snapshot(value) for name, value in kept.items()}
        try:
            with np.errstate(all="ignore"):
                returned = function(*own)
        except NotImplementedError as error:
            raise Wrong(Finding("unanswered")) from error
        except Wrong:  # from a function that the answer was lent
            raise
        except Exception as error:
            raise Wrong(of_error(exercise, error)) from error
        for name, value in kept.items():
            if differences(before[name], value):
                raise Wrong(Finding("inplace", name))
        return returned

    return run


def of_error(exercise, error):
    """Return the Finding of an error that an answer raises. Only here, and only of NumPy's errors, is a text read."""
    text = str(error)
    if isinstance(error, TypeError) and error.__traceback__.tb_next is None:  # raised by the call itself
        return Finding("call", None, {"signature": exercise.signature, "error": text})
    if "read-only" in text:
        return Finding("read-only", None, {"error": told(error)})
    line = told(error)
    why = of_fit(error) or next((kind for words, kind in RAISED.items() if words in text), None)
    if why == "broadcast":
        why = "entry by entry" if meet(text) else why if reduces(error) else None
    elif why is None and "'tuple'" in text and ("operand" in text or hasattr(np.ndarray, getattr(error, "name", ""))):
        why = "pair"
    elif "tuple index out of range" in text and ".shape[" in line:
        why = "axes"
    return Finding("raises", None if exercise.is_backward else exercise.outputs[0], {"error": line, "why": why})


def meet(text):
    """Are the two shapes that NumPy names those of a product of matrices?"""
    shapes = [tuple(map(int, shape)) for shape in re.findall(r"\((\d+),(\d+)\)", text)]
    return len(shapes) == 2 and shapes[0][1] == shapes[1][0]


def reduces(error):
    """Does a function of the learner's, on the way to an error, take a sum, a mean or the like?"""
    names = [name for frame, _ in traceback.walk_tb(error.__traceback__) for name in frame.f_code.co_names]
    return not REDUCTIONS.isdisjoint(names)


def of_fit(error):
    """Return what is wrong where one of our operations refuses its arrays: their sizes, or that one is a pair."""
    frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
    arrays = frame.f_locals.get("arrays", ()) if frame.f_code is fit.__code__ else ()
    if any(isinstance(array, tuple) for array in arrays):
        return "pair"
    return "sizes" if arrays and all(array is None or isinstance(array, np.ndarray) for array in arrays) else None


def told(error):
    """Say what was raised, and in which line of the learner's, also where that called something of ours."""
    return in_words(error, ours=PACKAGE)
