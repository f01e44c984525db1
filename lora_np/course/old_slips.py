"""Which known slip an answer has: the reference with one or two places changed gives the learner's numbers.

`known_slips.txt` lists what teachers see again and again, as changes of the reference's text with a sentence for the
learner. The general diagnosis (`lora_np.gradcheck`) comes after: it needs no list, but has only general words.
"""

import functools
import inspect
import itertools
import textwrap
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_np.gradcheck.suspect import ALIKE, close


class Slip(NamedTuple):
    cause: object  # one of lora_np.gradcheck.CAUSES, or None where none of them fits
    words: str
    changes: tuple  # (text of the reference, the text in its place), ...


@functools.cache
def known():
    """Return {exercise: list of Slip}, from the file."""
    found, slips = {}, []
    lines = Path(__file__).with_name("known_slips.txt").read_text(encoding="utf-8").splitlines()
    for line in itertools.dropwhile(lambda line: not line.startswith("["), lines):
        if line.startswith("["):
            slips = []
            found |= dict.fromkeys(line.strip("[]").split(", "), slips)
        elif line.startswith(" "):
            old, _, new = line.strip().partition(" =>")
            slips[-1] = slips[-1]._replace(changes=(*slips[-1].changes, (old, new.strip())))
        elif line:
            cause, _, words = line.partition(": ")
            slips.append(Slip(None if cause == "-" else cause, words, ()))
    return found


def explained_by_slip(exercise, function, calls):
    """Return (cause, sentence) if one known slip, or two at once, gives an answer's results; None if none does.

    Parameters
    ----------
    exercise : Exercise
    function : callable
        The answer.
    calls : list of callable
        Each goes from a function to its results by name, for arguments of its own. It may raise: then it says nothing.
    """
    results = [(call, found) for call in calls if (found := outcome(function, call)) is not None]
    slips = known().get(exercise.name, ())
    for found in itertools.chain(((slip,) for slip in slips), itertools.combinations(slips, 2)):
        edited = slipped(exercise.reference, [change for slip in found for change in slip.changes])
        if (
            results
            and edited is not None
            and all(same(outcome(edited, call), given, exercise.tolerance) for call, given in results)
        ):
            number = "one slip" if len(found) == 1 else "two slips"
            words = "; and ".join(slip.words for slip in found)
            return found[0].cause, f"likely {number}: {words}"
    return None


def outcome(function, call):
    """Return the results of a function by name, None if it does not run."""
    try:
        with np.errstate(all="ignore"):
            return call(function)
    except Exception:  # what does not run explains nothing
        return None


def same(results, given, tolerance=None):
    if results is None or results.keys() != given.keys():
        return False
    return all(alike(results[name], value, max(ALIKE, tolerance or 0)) for name, value in given.items())


def alike(a, b, tolerance):
    """Are two results close where they are finite, and not finite in the same entries?"""
    a, b = np.asarray(a), np.asarray(b)
    bad = ~np.isfinite(a)
    same_places = a.shape == b.shape and np.array_equal(bad, ~np.isfinite(b))
    return same_places and close(np.where(bad, 0, a), np.where(bad, 0, b), tolerance)


def slipped(function, changes):
    """Return a function of ours with its text changed, or that of one it calls; None if a text to change is not there.

    It is our own source, changed into what the file lists: nothing that a learner wrote is run here.
    """
    source = new = textwrap.dedent(inspect.getsource(function))
    for old, text in changes:
        if old not in new:
            new = None
            break
        new = new.replace(old, text)
    if new is not None and new != source:
        scope = dict(function.__globals__)
        exec(compile(new, f"<a slip in {function.__name__}>", "exec"), scope)
        return scope[function.__name__]
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if isinstance(called, types.FunctionType) and called.__module__.startswith("lora_np."):
            other = slipped(called, changes)
            if other is not None:
                scope = {**function.__globals__, name: other}
                return types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    return None
