"""Verify a hand-written backward against its own forward.

    >>> report = check(forward, backward, {"x": x, "A": A}, fixed={"mask": mask})
    >>> print(report)

`contract` asks first whether the backward is a well-behaved function at all; then every entry of every gradient is
compared with a numerical derivative (`oracles`) within a tolerance that is reasoned, not guessed (`compare`).
"""

import functools
from collections.abc import Callable

import numpy as np

from .causes.diagnose import diagnose
from .verdict.calls import Answering, by_name, evaluator, fresh, generator, in_words, is_scalar, widened
from .verdict.compare import DOUBLE, RTOL, Comparison, Precision, Subject
from .verdict.contract import Trial
from .verdict.oracles import direction_slope, entry_slopes, outputs_at, random_direction, sizes_of
from .verdict.replays import replays
from .verdict.report import Report

ALL_ENTRIES = 2000  # an array up to this size is checked entry by entry; of a larger one this many are drawn at random


def check(
    forward: Callable,
    backward: Callable,
    inputs: dict,
    fixed: dict = {},  # noqa: B006 - never changed
    rng: np.random.Generator | int | None = None,
) -> Report:
    """Check that ``backward`` returns the gradients of ``forward``.

    Parameters
    ----------
    forward : callable
        ``forward(**inputs, **fixed)`` returns ``(output, cache)``; the output is an array, a float, or a tuple of them.
    backward : callable
        ``backward(doutput, cache)`` returns the gradients of ``sum(output * doutput)`` as a tuple in the order of
        ``inputs``; a single gradient may stand alone. ``doutput`` has the form of the output.
    inputs : dict of str to array or float
        The differentiable arguments, float64 (errors down to 1e-7 are seen) or float32 (2e-4), at values that hide
        nothing: random, all sizes different and above 1, no factor that happens to be 1 or 0.
    fixed : dict
        Arguments that are passed on and not differentiated: ids, masks, eps, frozen arrays.
    rng : numpy.random.Generator or int, optional
        Draws the upstream gradient, and the entries where an array has more than 2000. Without it, every call draws
        the same.

    Returns
    -------
    Report
        ``ok`` is the verdict and ``print`` shows the reasons. A backward that raises is a failure in it.

    Raises
    ------
    ValueError, TypeError
        If there is nothing to check: unusable arguments, or a forward that raises or gives no finite numbers.
    """
    _validate(forward, backward, inputs, fixed)
    rng = generator(rng)
    report = _check_here(forward, backward, inputs, fixed, rng)
    if report.ok:
        for default, moved in replays(inputs, fixed, rng):
            there = [{name: moved.get(name, x) for name, x in values.items()} for values in (inputs, fixed)]
            try:
                other = _check_here(forward, backward, there[0], there[1], rng)
            except (ValueError, TypeError):  # the forward does not run there, so there is nothing to check
                continue
            if not other.ok:
                return _off_the_default(report, other, default)
    return report


def _off_the_default(report, other, default):
    """Return the report for a backward that is right at the given inputs only."""
    failures = {
        name: [f"right only where {default}, as given; elsewhere {sentence}" for sentence in sentences]
        for name, sentences in other.failures.items()
    }
    wrong = {row.argument: row for row in other.rows if row.argument in failures}
    rows = [wrong.get(row.argument, row) for row in report.rows]
    return Report(rows, failures, report.notes, other.explain, other.pairs)


def _check_here(forward, backward, inputs, fixed, rng):
    """Check at the given inputs alone."""
    trial = Trial(Answering(forward), Answering(backward), inputs, fixed, rng)
    trial.examine()
    values = _Values(trial) if trial.gradients and trial.steady else None
    verdicts = {name: values.compare(name, rng) for name in inputs if name in trial.gradients} if values else {}
    rows, notes = trial.rows(inputs, verdicts, trial.steady)
    order = [*inputs, *trial.failures]
    failures = dict(sorted(trial.failures.items(), key=lambda item: order.index(item[0])))
    wrong = [row.argument for row in rows if row.verdict == "wrong"]
    explain = functools.partial(diagnose, trial, wrong) if failures else list
    return Report(rows, failures, notes, explain, values.pairs if values else {})


class _Values:
    """The given gradients, and the oracle at the same point with the same upstream."""

    def __init__(self, trial):
        self.gradients, self.inputs, self.pairs = trial.gradients, widened(trial.inputs), {}
        self.precision = Precision.of(trial.dtype)
        self.evaluate = evaluator(trial.forward, trial.fixed, trial.pure)
        try:
            self.outputs = outputs_at(self.evaluate, self.inputs, trial.doutput)
        except Exception as error:
            words = f"the forward raises when its arguments are cast to float64, as the oracle needs: {in_words(error)}"
            raise ValueError(words) from error
        self.twins = {} if self.precision == DOUBLE else _in_float64(trial, self.inputs, widened(trial.doutput))

    def compare(self, name, rng):
        """Compare one gradient. Return its Row, a failure sentence or None, and notes."""
        given, twin = _line(self.gradients[name]), self.twins.get(name)
        entries, drawn = np.arange(given.size), given.size > ALL_ENTRIES
        if drawn:
            entries = np.sort(rng.choice(given.size, ALL_ENTRIES, replace=False))
        slopes = entry_slopes(self.evaluate, self.inputs, name, entries, self.outputs, self.precision.rtol)
        subject, shape = Subject(name, "d" + name, np.shape(self.inputs[name]), entries), np.shape(self.inputs[name])
        if not drawn:
            self.pairs[name] = given.reshape(shape), ((slopes.low + slopes.high) / 2).reshape(shape)
        part = None if twin is None else twin[entries]
        row, failure, notes = Comparison(subject, given[entries], slopes, self.precision, part).verdict()
        if drawn:
            drawing = f"{ALL_ENTRIES} of {given.size} entries, drawn at random"
            notes.append(f"d{name}: {drawing}, and a random direction over all of them")
            failure = failure or self._whole(subject, given, twin, rng)
        return row, failure, notes

    def _whole(self, subject, given, twin, rng):
        """Check a large array along one direction too: an error in a row that was not drawn shows there."""
        x = self.inputs[subject.argument]
        direction = random_direction(rng, given.reshape(x.shape), sizes_of(x))
        only = {subject.argument: direction}, {subject.argument: 1.0}
        slope = direction_slope(self.evaluate, self.inputs, *only, self.outputs, self.precision.rtol)
        total, twin = (None if g is None else np.array([g @ direction.reshape(-1)]) for g in (given, twin))
        along = subject._replace(entries=None)
        return Comparison(along, total, slope, self.precision, twin).verdict()[1]


def _in_float64(trial, inputs, doutput):
    """Run the same backward in float64. Return its gradients by name, none if it cannot be done."""
    try:
        _, cache = trial.forward(**fresh(inputs), **widened(trial.fixed))
        lines = {name: _line(gradient) for name, gradient in by_name(trial.backward(doutput, cache), inputs).items()}
    except Exception:  # it ran in float32, which is what was asked for
        return {}
    return {name: line for name, line in lines.items() if line.size == np.size(inputs[name])}


def _line(gradient):
    return np.array(gradient, dtype=np.float64).reshape(-1)


def _validate(forward, backward, inputs, fixed):
    """Refuse arguments that cannot be checked, each in one sentence with the way out."""
    validate_function("forward", forward)
    validate_function("backward", backward)
    for name, values in (("inputs", inputs), ("fixed", fixed)):
        if not isinstance(values, dict):
            example = f"write {name}={{'x': x}}"
            raise TypeError(f"{name} must be a dict by argument name, not {type(values).__name__}; {example}")
    if not inputs:
        raise ValueError("inputs is empty, so there is nothing to differentiate; pass at least one argument: {'x': x}")
    for name in inputs:
        if name in fixed:
            raise ValueError(f"{name!r} is in both inputs and fixed; leave it in inputs only if its gradient is wanted")
    for name, x in inputs.items():
        validate_variable(name, x, "or pass it in fixed")


def validate_function(name, function):
    """Refuse what cannot be called."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(function).__name__}; pass it without calling it")


def validate_variable(name, x, otherwise):
    """Refuse what has no derivative: anything but finite float32 or float64 numbers."""
    if not is_scalar(x) and not isinstance(x, np.ndarray):
        received = f"{name!r} is of type {type(x).__name__}, expected a NumPy array or a float"
        raise TypeError(f"{received}; write np.array({name}, dtype=float), {otherwise}")
    if np.asarray(x).dtype not in RTOL:
        received = f"{name!r} has dtype {np.asarray(x).dtype}, expected float64 or float32"
        raise TypeError(f"{received}; write {name}.astype(np.float64), {otherwise}")
    if np.size(x) == 0:
        raise ValueError(f"{name!r} has shape {np.shape(x)}, so no entries; give it sizes above zero, {otherwise}")
    bad = int(np.sum(~np.isfinite(x)))
    if bad:
        raise ValueError(f"{name!r} is not finite in {bad} of {np.size(x)} entries; check at finite inputs")


def assert_gradients(forward, backward, inputs, fixed={}, rng=None):  # noqa: B006 - never changed
    """Raise AssertionError with the report of `check`, likely causes included, unless every gradient is right.

    Parameters
    ----------
    forward, backward, inputs, fixed, rng
        As for `check`.

    Raises
    ------
    AssertionError
        If `check` finds anything wrong.
    ValueError, TypeError
        If there is nothing to check.
    """
    __tracebackhide__ = True  # pytest then points at the caller's line
    report = check(forward, backward, inputs, fixed, rng)
    if not report.ok:
        raise AssertionError(f"\n{report}")
