"""Which known slip an answer has: the solution with one or two places changed gives the learner's numbers.

Each exercise lists what teachers see again and again, as changes of its solution's text with a sentence on each. The
general diagnosis (`lora_np.gradcheck`) comes after: it needs no list, but has only general words.
"""

import itertools

import numpy as np

from lora_np.gradcheck import close


def known_slips(exercise, function, calls, at_once=1):
    """Return the slip, or so many at once, that give an answer's results; () if none does.

    Parameters
    ----------
    exercise : Exercise
    function : callable
        The answer.
    calls : list of callable
        Each goes from a function to its results by name, for arguments of its own. It may raise: then it says nothing.
    at_once : int
    """
    results = [(call, found) for call in calls if (found := outcome(function, call)) is not None]
    if all(same(outcome(exercise.solution, call), given, exercise.alike) for call, given in results):
        return ()
    for found in itertools.combinations(exercise.slips, at_once):
        edited = exercise.edited([edit for slip in found for edit in slip.edits])
        if edited and all(same(outcome(edited, call), given, exercise.alike) for call, given in results):
            return found
    return ()


def outcome(function, call):
    """Return the results of a function by name, None if it does not run."""
    try:
        with np.errstate(all="ignore"):
            return call(function)
    except Exception:  # what does not run explains nothing
        return None


def same(results, given, tolerance):
    """Are two dicts of results the same?"""
    return not unlike(results, given, tolerance)


def unlike(results, given, tolerance):
    """Return the names of the given results that others, or None, do not have alike."""
    return {name for name in given if name not in (results or {}) or not alike(results[name], given[name], tolerance)}


def alike(a, b, tolerance):
    """Are two results close where they are finite, and not finite in the same entries?"""
    a, b = np.asarray(a), np.asarray(b)
    bad = ~np.isfinite(a)
    same_places = a.shape == b.shape and np.array_equal(bad, ~np.isfinite(b))
    return same_places and close(np.where(bad, 0, a), np.where(bad, 0, b), tolerance)
