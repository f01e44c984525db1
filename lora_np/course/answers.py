"""Is an answer right, and if not, why: what `check` does with a learner's function."""

import contextlib
import copy
import difflib
import operator
import sys

import numpy as np

from lora_np.course.catalogue import BY_NAME
from lora_np.course.old_slips import explained_by_slip
from lora_np.course.progress import remember
from lora_np.course.sentences import described, difference, of_raise, widening
from lora_np.course.verdict import Verdict
from lora_np.gradcheck import CAUSES
from lora_np.gradcheck import check as check_gradients
from lora_np.gradcheck.calls import in_words
from lora_np.gradcheck.compare import DOUBLE, LOSS
from lora_np.gradcheck.faults import faults
from lora_np.gradcheck.placement import by_name
from lora_np.gradcheck.snapshots import differences, leaves, snapshot
from lora_np.gradcheck.suspect import close
from lora_np.gradcheck.values import explain_values

SEEDS, MANY, OWN_SEED = 4, 12, 0x657865
RAISES = "it raises"
UNANSWERED = "it is still to be written: put your code in place of the line that raises NotImplementedError"


class Wrong(Exception):
    """An answer is not right."""

    def __init__(self, output, cause, *sentences):
        super().__init__(output, cause, *sentences)
        self.output, self.cause, self.sentences = output, cause, [sentence for sentence in sentences if sentence]


class Raised(Wrong):
    """An answer raises."""


@contextlib.contextmanager
def staying():
    """Make a verdict of what would end the program, be it a script, a grader or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        shell.ask_exit = sys.exit  # a notebook's own exit() raises nothing, but its kernel ends a little later
    try:
        yield
    except SystemExit as error:
        words = "return a result, or raise a ValueError, in place of exit(), quit() or sys.exit()"
        raise Wrong(None, None, f"it ends the whole program, by {in_words(error)}; {words}") from error
    finally:
        if shell is not None:
            vars(shell).pop("ask_exit", None)


def check(name, function, forward=None, hint=0):
    """Try an answer on random arguments, print what was found, and return it.

    Parameters
    ----------
    name : str
        Of the exercise: that of the function that it rebuilds. `exercises()` lists them.
    function : callable
        The answer.
    forward : callable, optional
        For a backward with a cache of its own: the forward that makes this cache.
    hint : int
        Show the first, second, ... hint as well.

    Returns
    -------
    Verdict
        Printed already; `.ok`, `.output`, `.cause` and `.hint` are there for programs.

    Raises
    ------
    ValueError, TypeError
        If there is no exercise of that name (the nearest are listed), the answer is no function, or the hint no number.
    """
    exercise = find(name)
    if not callable(function):
        raise TypeError(f"check needs the function itself, not {type(function).__name__}; leave out the ().")
    if forward is not None and exercise.forward is None:
        raise ValueError(f"{name} is no backward, so it takes no forward of your own; leave out forward=.")
    if not (forward is None or callable(forward)):
        raise TypeError(f"forward= needs a function, not {type(forward).__name__}; leave out the ().")
    if not hasattr(hint, "__index__") or operator.index(hint) < 0:
        raise ValueError(f"hint={hint!r} is no hint; expected 1 for the first, 2 for the second, or 0 for none.")
    try:
        with staying():
            proof = examine(exercise, function, forward)
        verdict = Verdict(name, True, [proof])
    except Wrong as wrong:
        verdict = Verdict(name, False, wrong.sentences, wrong.output, wrong.cause)
        left = len(exercise.hints) - hint
        verdict.more = f"a hint: lnp.course.check({name!r}, {name}, hint={hint + 1})" if left > 0 else ""
    if hint > 0:
        shown = min(hint, len(exercise.hints))
        verdict.hint = "\n  ".join(f"hint {k + 1}: {words}" for k, words in enumerate(exercise.hints[:shown]))
    remember(name, verdict.ok)
    print(verdict)
    return verdict


def find(name):
    """Return the exercise of that name, or say which ones are nearest."""
    if not isinstance(name, str):
        raise TypeError(f"check needs the exercise's name as a text, then the function; its name is {name!r}.")
    if name not in BY_NAME:
        near = ", ".join(difflib.get_close_matches(name, BY_NAME, n=3, cutoff=0))
        raise ValueError(f"there is no exercise {name!r}; did you mean {near}? lnp.course.exercises() lists all")
    return BY_NAME[name]


def examine(exercise, function, forward):
    """Return what was verified, or raise Wrong."""
    for seed in range(SEEDS):
        dtype = np.dtype(np.float32 if seed == SEEDS - 1 else np.float64)
        rng = np.random.default_rng([OWN_SEED, seed])
        if exercise.forward is not None:
            try_backward(exercise, function, forward, rng, dtype)
        else:
            try_function(exercise, function, rng, dtype)
    if exercise.refused is not None:
        refuses(exercise, function)
    if exercise.forward is not None:
        double = f"{SEEDS - 1} in float64, to {DOUBLE.rtol:.0e}"
        single = f"one in float32, where rounding may cost {LOSS:.0e}"  # of what is right in float64
        return f"verified against numerical derivatives on {SEEDS} random inputs: {double}, and {single}"
    last = leaves(exercise.draw(np.random.default_rng(0), np.dtype(np.float32)))
    single = ", one of them in float32" if any(getattr(leaf, "dtype", None) == np.float32 for _, leaf in last) else ""
    return f"verified on {SEEDS} random inputs{single}, against the function of lora_np"


def try_function(exercise, function, rng, dtype):
    """Compare an answer with the reference on one draw of arguments."""
    arguments = locked(exercise.draw(rng, dtype))
    right = results(exercise, exercise.reference, arguments)
    try:
        given = results(exercise, answer(exercise, function), arguments)
    except Raised as raised:
        raise Wrong(None, *likely(exercise, function, arguments, exercise.outputs[0], raised.sentences[0])) from raised
    if exercise.judge is not None:
        for output, cause, sentence in exercise.judge(given, right, arguments):
            raise Wrong(
                output, *(cause, sentence) if cause else likely(exercise, function, arguments, output, sentence)
            )
        repeats(exercise, function, arguments, given)
    else:
        for name, value in right.items():
            if name == "cache":
                judge_cache(given[name], value)
            elif name in exercise.changes and not differences(snapshot(arguments[name]), given[name]):
                words = f"{name} has not changed: write into it, by += or [...] =; a new array of that name is another"
                raise Wrong(name, None, words)
            elif sentence := difference(name, given[name], value, exercise.tolerance):
                raise Wrong(name, *likely(exercise, function, arguments, name, sentence))


def refuses(exercise, function):
    """Raise Wrong unless an answer refuses, by a ValueError, what it cannot work with."""
    arguments, words = exercise.refused(np.random.default_rng(OWN_SEED), np.float64)
    try:
        results(exercise, function, arguments)
    except ValueError:
        return
    except Exception as error:
        raise Wrong(None, None, f"{words}, but it raises {in_words(error)}") from error
    raise Wrong(None, None, f"{words}, but it raises nothing")


def repeats(exercise, function, arguments, given):
    """Raise Wrong unless an answer that is given a generator draws from it."""
    name = next((name for name, value in arguments.items() if isinstance(value, np.random.Generator)), None)
    if name is None:
        return
    again = results(exercise, function, arguments)
    other = results(exercise, function, {**arguments, name: np.random.default_rng(OWN_SEED)})
    if differences(snapshot(given), again):
        words = f"two calls with equal generators differ: draw from {name}, and from nothing else"
        raise Wrong(exercise.outputs[0], "nondeterministic", words)
    if not differences(snapshot(given), other):
        raise Wrong(exercise.outputs[0], None, f"another generator gives the same: draw from {name}")


def results(exercise, function, arguments):
    """Call a function and return its results by name: what it returns, and the arguments that it is meant to change."""
    own = {
        name: copy.deepcopy(value)
        if name in (*exercise.changes, *exercise.lent) or isinstance(value, np.random.Generator)
        else value
        for name, value in arguments.items()
    }
    returned = function(*own.values())
    if set(exercise.outputs) <= set(exercise.changes):
        return {name: own[name] for name in exercise.outputs}
    if exercise.name.endswith("_forward"):
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise Wrong(exercise.outputs[0], "shape", f"it returns {described(returned)}, expected (y, cache)")
        return {exercise.outputs[0]: returned[0], "cache": returned[1]}
    if len(exercise.outputs) == 1:
        return {exercise.outputs[0]: returned}
    if not isinstance(returned, (tuple, list)) or len(returned) != len(exercise.outputs):
        wanted = ", ".join(exercise.outputs)
        raise Wrong(exercise.outputs[0], "shape", f"it returns {described(returned)}, expected ({wanted})")
    return dict(zip(exercise.outputs, returned))


def judge_cache(given, right):
    """A cache is the author's own affair, unless it is called what the reference's is called."""
    if type(given) is type(right) and hasattr(right, "_fields"):
        for name, value in right._asdict().items():
            mine = getattr(given, name)
            same = mine is value is None or (
                mine is not None and value is not None and difference(name, mine, value) is None
            )
            if not same:
                words = f"y is right, but cache.{name} is not what the backward expects there"
                raise Wrong("cache", "wrong_cached_value", words)


def answer(exercise, function):
    """Return the learner's function, which now raises Wrong, with the learner's own line, or for a write."""

    def run(*own):
        names = exercise.signature.partition("(")[2][:-1].split(", ")
        kept = {name: value for name, value in zip(names, own) if name not in exercise.changes}
        before = {name: snapshot(value) for name, value in kept.items()}
        try:
            with np.errstate(all="ignore"):
                returned = function(*own)
        except NotImplementedError as error:
            raise Wrong(None, None, UNANSWERED) from error
        except Exception as error:
            words = in_words(error)
            if "read-only" in str(error):
                raise Wrong(None, "inplace", f"it changes an argument in place; work on a copy: {words}") from error
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:  # raised by the call itself
                raise Wrong(None, None, f"it is called as {exercise.signature}, but {error}") from error
            raise Raised(None, None, f"{RAISES} {words}") from error
        for name, value in kept.items():
            if differences(before[name], value):
                raise Wrong(name, "inplace", f"it changes its argument {name} in place; work on a copy")
        return returned

    return run


def locked(value):
    """Make all arrays inside read-only, and return it."""
    for _, leaf in leaves(value):
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    return value


def likely(exercise, function, arguments, output, sentence):
    """Return (cause, sentence, ...) with the likely cause of a wrong result."""
    if "has the dtype" in sentence:
        return "dtype", sentence, widening(sentence)
    if " is None" in sentence:
        return "zero_gradient", sentence
    try:
        raises = sentence.startswith(RAISES)
        if not raises and is_written_down(exercise, function, output):
            return None, sentence, "it is the same for other arguments: is it the result of an example, written down?"
        found = explained(exercise, function, arguments, output)
    except (Exception, SystemExit):  # a hypothesis that crashes is no explanation
        found = None
    found = found or of_raise(sentence)
    if found:
        return found[0], sentence, found[1]
    return ("shape" if "has the shape" in sentence else None), sentence


def results_of(exercise, arguments):
    """Return a function from an answer to its results by name, as numbers."""

    def call(function):
        found = exercise.numbers(results(exercise, function, arguments))
        return {name: np.asarray(value, float) for name, value in found.items() if name != "cache"}

    return call


def more_calls(exercise):
    """Yield a function from an answer to its results, for many draws: a number or two are alike by chance in some."""
    for seed in range(MANY):
        yield results_of(exercise, locked(exercise.draw(np.random.default_rng([OWN_SEED, seed]), np.float64)))


def is_written_down(exercise, function, output):
    """Does an answer give the same whatever its arguments are?"""
    draws = [locked(exercise.draw(np.random.default_rng([OWN_SEED, seed]), np.float64)) for seed in (0, 1)]
    found = [snapshot(results(exercise, function, draw)[output]) for draw in draws]
    return bool(found[0]) and found[0][next(iter(found[0]))] is not None and not differences(found[0], found[1])


def explained(exercise, function, arguments, output):
    """Return (cause, sentence) for one slip in the answer, or in the reference, that explains it; None if none does."""
    if found := explained_by_slip(exercise, function, list(more_calls(exercise))):
        return found
    call = results_of(exercise, arguments)
    wanted = call(exercise.reference)
    found = explain_values(function, copy.deepcopy(tuple(arguments.values())), wanted, call)
    if first := next((d for d in found if d.argument == output), None):
        return first.cause, f"likely cause ({first.group}): {first.sentence}"
    given = np.asarray(call(function)[output], float)
    for cause, edit in faults(exercise.reference, *copy.deepcopy(tuple(arguments.values()))):
        try:
            with np.errstate(all="ignore"):
                fits = close(np.asarray(call(edit.build())[output], float), given)
        except Exception:  # most edits do not run
            continue
        if fits:
            cause = "missing_term" if cause == "missing_path" else cause  # a value has terms, and no ways
            return cause, f"likely cause ({CAUSES[cause][0]}): {CAUSES[cause][1]}"
    return None


def try_backward(exercise, function, forward, rng, dtype):
    """Check an answer's gradients against numerical ones, and its manners."""
    inputs, fixed = exercise.draw(rng, dtype)
    output, cache = (forward or exercise.forward)(**inputs, **fixed)
    right = exercise.forward(**inputs, **fixed)[0]
    if forward is not None and (sentence := difference("y", output, right)):
        raise Wrong("y", "shape" if "has the shape" in sentence else None, f"your forward: {sentence}")
    doutput = rng.standard_normal(np.shape(output)).astype(dtype) if np.ndim(output) else float(rng.standard_normal())
    names = [f"d{name}" for name in inputs]
    call = gradients_of(inputs, doutput, cache)
    try:
        returned = answer(exercise, function)(locked(doutput), locked(cache))
    except Raised as raised:
        wanted = call(exercise.reference) if forward is None else {}
        found = explain_values(function, copy.deepcopy((doutput, cache)), wanted, call)
        found = found and (found[0].cause, f"likely cause ({found[0].group}): {found[0].sentence}")
        raise Wrong(None, *with_cause(found or of_raise(raised.sentences[0]), raised.sentences[0])) from raised
    if returned is None:
        raise Wrong(
            names[0], "zero_gradient", f"it returns None, expected ({', '.join(names)}): is the return missing?"
        )
    report = check_gradients(forward or exercise.forward, function, inputs, fixed, rng)
    if report.ok:
        if forward is None:
            for name, gradient in by_name(returned, inputs).items():
                if np.asarray(gradient).dtype != dtype:
                    words = f"d{name} has the dtype {gradient.dtype}, expected {dtype}"
                    raise Wrong(f"d{name}", "dtype", words, widening(words))
        return
    argument, sentences = next(iter(report.failures.items()))
    output = f"d{argument}" if argument in inputs else argument
    if "has dtype" in sentences[0]:
        raise Wrong(output, "dtype", sentences[0], widening(sentences[0]))
    known = None
    if forward is None and report.failures.keys() <= inputs.keys():  # else a rule is broken, which comes first
        known = explained_by_slip(exercise, function, [call])
    if known is None:
        found = next((diagnosis for diagnosis in report.diagnosis if diagnosis.argument == argument), None)
        if found:
            repeated = found.sentence in sentences or exercise.seek
            words = CAUSES[found.cause][1] if repeated else found.sentence
            known = found.cause, f"likely cause ({found.group}): {words}"
    if exercise.seek and known and known[0]:  # the place is for the learner to find
        known = known[0], f"likely cause ({CAUSES[known[0]][0]}): {CAUSES[known[0]][1]}"
    raise Wrong(output, *with_cause(known, sentences[0]))


def gradients_of(inputs, doutput, cache):
    """Return a function from a backward to its gradients by name."""

    def call(function):
        found = by_name(function(copy.deepcopy(doutput), copy.deepcopy(cache)), inputs)
        return {f"d{name}": np.asarray(gradient, float) for name, gradient in found.items()}

    return call


def with_cause(found, sentence):
    """Return (cause, sentence, what is known of it) for a (cause, words) that may be None."""
    return (found[0], sentence, found[1]) if found else (None, sentence)
