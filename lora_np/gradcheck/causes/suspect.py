"""A wrong gradient under the lens: the learner's functions at any values, beside the numerical truth there."""

import contextlib
import copy
import inspect
import io
import itertools
import warnings

import numpy as np

from ..verdict.calls import by_name, flat, fresh, is_scalar, widened
from ..verdict.oracles import numeric_gradients
from ..verdict.snapshots import leaves

ALIKE = 1e-6  # relative to the largest entry: beyond the oracle's error, far below any mistake
LARGEST = 4000  # entries of a gradient; a larger one is not diagnosed, as it would take seconds
JACOBIAN = 40_000  # entries
SILENT = 1e-6  # a true gradient below this part of the given one is no more than the oracle's error
DIRECTIONS = 3
COARSE, FINE = 1e-3, 1e-7  # of a slope along a direction, from two points and from four, relative to the gradient


@contextlib.contextmanager
def hushed():
    """Run an author's functions, and compile their sources, without what they print and what Python warns of, again."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


class Suspect:
    """Forward, backward and values, all in float64; `given` and `truth` are gradients by argument."""

    def __init__(self, forward, backward, inputs, fixed, doutput, linear=True):
        self.forward, self.backward, self.doutput = forward, backward, widened(doutput)
        self.inputs, self.fixed = widened(inputs), widened(fixed)
        self.given = self.student(self.inputs, self.fixed)
        self.truths, self.entrywise = {}, {}
        self.linear = linear  # in the upstream gradient, as a backward is

    def student(self, inputs, fixed, doutput=None, change=None):
        """Return the learner's gradients as float64 arrays; `change` may edit the cache first."""
        with np.errstate(all="ignore"):
            _, cache = self.forward(**fresh(inputs), **fresh(fixed))
            cache = copy.deepcopy(cache) if change is None else change(cache)
            returned = self.backward(copy.deepcopy(self.doutput if doutput is None else doutput), cache)
        found = by_name(returned, inputs)
        return {name: np.array(g, float) for name, g in found.items() if isinstance(g, (np.ndarray, float, np.number))}

    def truth(self, name):
        """Return the numerical gradient of one argument."""
        if name not in self.truths:
            self.truths[name] = self.truth_at(name, {})
        return self.truths[name]

    def given_at(self, name, changed):
        """Return the learner's gradient of an argument where some arguments have other values."""
        inputs, fixed = ({x: changed.get(x, values[x]) for x in values} for values in (self.inputs, self.fixed))
        return self.student(inputs, fixed)[name]

    def truth_at(self, name, changed):
        """Return the numerical gradient of an argument where some arguments have other values."""
        others = {**self.arguments(), **changed}
        variable = {name: others.pop(name)}
        with np.errstate(all="ignore"):
            return numeric_gradients(self.forward, variable, self.doutput, others)[name]

    def is_right(self, name, changed):
        """Is the learner's gradient of an argument right, and not zero, where others have other values?"""
        try:
            return self.is_gradient(self.given_at(name, changed), name, changed)
        except Exception:
            return False

    def is_gradient(self, given, name, changed=None, forward=None, doutput=None):
        """Is this the gradient of an argument, not zero, where others have other values, or that of another forward?

        Asked along some random directions, which costs four forwards each; the whole gradient would cost hundreds. Two
        points of the first one are enough to leave most hypotheses.
        """
        x, given = np.asarray(self.inputs[name]), np.asarray(given)
        if given.shape != x.shape or not given.any() or not np.isfinite(given).all():
            return False
        step, rng = step_of(x), np.random.default_rng(0)
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(x.shape)
            slope, size = np.vdot(given, direction), np.linalg.norm(given) * np.linalg.norm(direction)

            def at(t, direction=direction):
                there = {**(changed or {}), name: x + t * direction if x.ndim else float(x + t * direction)}
                return self.weighed(forward or self.forward, there, doutput)

            if not abs((at(step) - at(-step)) / (2 * step) - slope) <= COARSE * size:
                return False
            if not abs(central(at, step) - slope) <= FINE * size:
                return False
        return True

    def weighed(self, forward, changed=None, doutput=None):
        """Return sum(output * doutput) where some arguments have other values, nan if the forward does not run."""
        try:
            with np.errstate(all="ignore"):
                output = flat(forward(**fresh({**self.arguments(), **(changed or {})}))[0])
                return float(output @ flat(self.doutput if doutput is None else doutput))
        except Exception:
            return float("nan")

    @property
    def upstream(self):
        """What the learner calls the upstream gradient."""
        try:
            return next(iter(inspect.signature(self.backward).parameters))
        except (ValueError, TypeError, StopIteration):
            return "doutput"

    def arguments(self):
        return {**self.inputs, **self.fixed}

    def cache(self):
        return self.forward(**fresh(self.inputs), **fresh(self.fixed))[1]

    def tensors(self):
        """Return all arrays that a backward may use, by the name that a learner knows them by."""
        found = dict(self.arguments())
        found[self.upstream] = self.doutput
        known = [x for x in found.values() if isinstance(x, np.ndarray)]
        for path, leaf in leaves(self.cache(), "cache"):
            if isinstance(leaf, np.ndarray) and not any(np.array_equal(leaf, x) for x in known):
                found[path.removeprefix("cache.")] = leaf
        return {name: x for name, x in found.items() if isinstance(x, np.ndarray) and x.dtype.kind == "f"}

    def scalars(self):
        return {name: float(x) for name, x in self.arguments().items() if is_scalar(x)}

    def counts(self):
        """Return the numbers that a mean may divide by: lengths of axes, and integers in the cache."""
        found = {}
        for name, x in {**self.arguments(), self.upstream: self.doutput}.items():
            for axis, length in enumerate(np.shape(x)):
                found.setdefault(length, f"the length of axis {axis} of {name}")
            if np.ndim(x) > 1:
                found.setdefault(np.size(x), f"the number of entries of {name}")
        for path, leaf in leaves(self.cache(), "cache"):
            if isinstance(leaf, (int, np.integer)) and not isinstance(leaf, bool):
                found.setdefault(int(leaf), path.removeprefix("cache."))
        return {count: words for count, words in found.items() if count > 1}

    def jacobians(self, name):
        """Return the learner's and the true Jacobian of an argument, (outputs, entries) each; None if too large."""
        size, entries = flat(self.doutput).size, self.given[name].size
        if size * entries > JACOBIAN or isinstance(self.doutput, tuple):
            return None
        given, true = np.zeros((size, entries)), np.zeros((size, entries))
        for k, unit in enumerate(np.eye(size)):
            doutput = unit.reshape(np.shape(self.doutput)) if np.ndim(self.doutput) else 1.0
            given[k] = self.student(self.inputs, self.fixed, doutput)[name].reshape(-1)
        x = np.array(self.inputs[name], float)
        for i in range(entries):

            def at(t, i=i):
                moved = x.copy()
                moved.reshape(-1)[i] += t
                return flat(self.forward(**fresh({**self.arguments(), name: moved if x.ndim else float(moved)}))[0])

            true[:, i] = central(at, step_of(x))
        return given, true

    def reached(self, name):
        """Return the two Jacobians, and where each is not zero. A ValueError: they are too large, or one is none."""
        found = self.jacobians(name) if self.linear else None
        if found is None:
            raise ValueError(f"there is no Jacobian of {name} to look at")
        smallest = 1e-7 * np.max(np.abs(found[1]), initial=1e-300)
        return *found, *(np.abs(J) > smallest for J in found)

    def is_entrywise(self, name):
        """Does each entry of the argument move one entry of the output, and not by a constant?"""
        x = self.inputs[name]
        if np.shape(x) != np.shape(self.doutput) or not np.ndim(x):
            return False
        if name not in self.entrywise:
            found = self.jacobians(name)
            diagonal = found is not None and close(np.diag(np.diag(found[1])), found[1], 1e-7)
            there = self.truth_at(name, {name: -1.3 * x})
            self.entrywise[name] = diagonal and not close(self.truth(name), there, 1e-3)
        return self.entrywise[name]


def step_of(x):
    return 1e-3 * (float(np.sqrt(np.mean(x * x))) or 1.0)


def central(at, step):
    """Return the derivative at 0 from four points, of order 4."""
    return (at(-2 * step) - 8 * at(-step) + 8 * at(step) - at(2 * step)) / (12 * step)


def close(a, b, tolerance=ALIKE):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return False
    return bool(np.max(np.abs(a - b), initial=0.0) <= tolerance * max(np.max(np.abs(b), initial=0.0), 1e-300))


def ratio(given, truth):
    """Return c if given = c truth, c not 0 and not 1."""
    if np.shape(given) != np.shape(truth):
        return None
    if not np.linalg.norm(truth) > SILENT * np.linalg.norm(given):  # rounding would pass for it
        return None
    c = float(np.vdot(truth, given) / np.vdot(truth, truth))
    return c if c and abs(c - 1) > 1e-6 and close(given, c * truth) else None


def orders(x):
    """Yield the other orders that the axes of an array can have; of more than four axes there are too many."""
    if x.ndim < 5:
        yield from itertools.islice(itertools.permutations(range(x.ndim)), 1, None)


def broadcast(a, b):
    """Return the shape of two values together, None if they do not fit."""
    try:
        return np.broadcast_shapes(np.shape(a), np.shape(b))
    except ValueError:
        return None


def derivative(suspect, name, cause):
    """Inside the derivative of a function that acts entry by entry, every slip is a wrong derivative."""
    inside = ("missing_term", "missing_path", "extra_term", "constant_factor", "elementwise_factor")
    inside += ("factor_order",) if suspect.linear else ()
    if cause not in inside or ratio(suspect.given[name], suspect.truth(name)) is not None:
        return cause
    return "wrong_derivative" if suspect.is_entrywise(name) else cause
