"""Verify the gradients of a whole model: all parameter arrays at once along one random direction.

A model has too many entries to move one by one, but along a direction v the derivative of sum(output * upstream) is
sum(gradient * v), and a wrong entry anywhere shows in that sum with probability one. So a model costs a few forwards,
whatever its size. The same contraction with random vectors on both sides is how HIPS autograd checks its primitives.

v moves all arrays, scaled so that each has a like share in the sum. What the sum is off by, and what the oracle does
not know, might all be one array's: if that is within the tolerance even beside its share alone, its gradient is right.
The others then move together: if nothing comes of it and nothing is claimed, their gradients are zero, as that of a
bias before a softmax. If not, each moves alone, along the same direction, which names the culprit.
"""

import numpy as np

from .check import validate_function, validate_variable
from .verdict.calls import Answering, copied, draw_upstream, flat, generator, in_words, validate_output
from .verdict.compare import DOUBLE, TOLERANCE, Comparison, Subject
from .verdict.contract import UPSTREAM_CHANGED, Findings, listed, misplaced
from .verdict.oracles import direction_slope, outputs_at, random_direction
from .verdict.report import Report, Row
from .verdict.snapshots import differences, snapshot


def check_parameters(forward, gradients, parameters, rng=None) -> Report:
    """Check the gradients of all parameters of a model.

    Parameters
    ----------
    forward : callable
        ``forward(parameters)`` returns the output, an array or a float, for a dict like ``parameters``.
    gradients : callable
        ``gradients(parameters, doutput)`` returns a dict of the same names, in the same order, with the gradients of
        ``sum(output * doutput)``.
    parameters : dict of str to float64 array
        Only copies of them are passed on; the arrays themselves are never changed.
    rng : numpy.random.Generator or int, optional
        Draws the upstream gradient and the direction. Without it, every call draws the same.

    Returns
    -------
    Report
        One row per array, with its error along the direction; where all moved together, that of the sum relative to
        the array's share, so the most that its own can be. ``failures["backward"]`` is about the dict as a whole.

    Raises
    ------
    ValueError, TypeError
        If there is nothing to check: unusable arguments, or a forward that raises or gives no finite numbers.
    """
    _validate(forward, gradients, parameters)
    forward, gradients, rng = Answering(forward), Answering(gradients), generator(rng)
    values, findings = {name: np.array(x) for name, x in parameters.items()}, Findings()
    output = _output(forward, values, parameters, findings)
    doutput, steady = draw_upstream(output, rng), not findings.failures
    given = _given(gradients, parameters, doutput, findings) if steady else {}
    verdicts = _Oracle(forward, values, given, doutput, rng).verdicts() if given else {}
    rows, notes = findings.rows(values, verdicts, steady)
    return Report(rows, findings.failures, notes)


class _Oracle:
    """The derivatives along the directions, of some arrays together or of one."""

    def __init__(self, forward, values, given, doutput, rng):
        self.values, self.directions, self.totals = values, {}, {}
        for name, gradient in given.items():
            size = float(np.sqrt(np.mean(values[name] ** 2))) or 1.0
            self.directions[name] = random_direction(rng, gradient, size)
            self.totals[name] = float(np.sum(gradient * self.directions[name]))  # >= 0: their signs are the same
        self.evaluate = lambda moved: flat(forward(moved))
        self.outputs = outputs_at(self.evaluate, values, doutput)

    def verdicts(self):
        """Return by name a row, a failure sentence or None, and a list of notes."""
        found = self._right()
        rest = [name for name in self.totals if name not in found]
        if len(rest) > 1:
            zeros = self._moved(rest)
            if all(row.verdict == "vacuous" for row, _, _ in zeros.values()):
                return found | zeros
        for name in rest:
            found |= self._moved([name])
        return found

    def _right(self):
        """Return the verdicts on those arrays that one move of all proves right."""
        totals = {name: total for name, total in self.totals.items() if total > 0}
        if len(totals) < 2:
            return {}
        middle = float(np.median([*totals.values()]))
        weights = {name: min(1.0, middle / total) for name, total in totals.items()}
        slope = self._slope(weights, TOLERANCE / len(totals))
        shares = {name: weight * totals[name] for name, weight in weights.items()}
        distance = abs(sum(shares.values()) - slope.low[0])
        doubt = distance + slope.error[0] + (slope.high[0] - slope.low[0])  # at a kink these two differ
        return {
            name: (Row(name, self.values[name].shape, float(distance / share), TOLERANCE, "ok"), None, [])
            for name, share in shares.items()
            if doubt <= TOLERANCE * share
        }

    def _moved(self, names):
        """Return the verdicts on some arrays from one move of just these: the same for each."""
        slope = self._slope(dict.fromkeys(names, 1.0), TOLERANCE)
        given = np.array([sum(self.totals[name] for name in names)])
        subjects = {name: Subject(name, name, self.values[name].shape, None) for name in names}
        return {name: Comparison(subject, given, slope, DOUBLE).verdict() for name, subject in subjects.items()}

    def _slope(self, weights, rtol):
        return direction_slope(self.evaluate, self.values, self.directions, weights, self.outputs, rtol)


def _validate(forward, gradients, parameters):
    validate_function("forward", forward)
    validate_function("gradients", gradients)
    if not isinstance(parameters, dict):
        received = f"not {type(parameters).__name__}"
        raise TypeError(f"parameters must be a dict from names to arrays, {received}; write {{'layer.W': W}}")
    if not parameters:
        raise ValueError("parameters is empty, so there is nothing to check; is anything in the model trainable?")
    for name, x in parameters.items():
        validate_variable(name, x, "or leave it out of parameters")
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            received = f"{name!r} is {x.dtype if isinstance(x, np.ndarray) else 'a scalar'}, expected a float64 array"
            raise TypeError(f"{received}; cast the whole model to float64 for a check")


def _output(forward, values, parameters, findings):
    """Return the output at the given parameters, having seen that two calls agree and leave the parameters alone."""
    try:
        first, second = copied(forward(values)), forward(values)
    except Exception as error:
        words = f"the forward raises at the given parameters: {in_words(error)}; a check needs a forward that runs"
        raise ValueError(words) from error
    validate_output(first)
    changed = [name for name, x in parameters.items() if differences(snapshot(x), values[name])]
    for name in changed:
        findings.fail(name, f"{name}: the forward changes this parameter in place; a forward only reads")
    if not changed and differences(snapshot(first), second):
        advice = "draw random masks outside, or from a fixed seed"
        findings.fail("forward", f"forward: two calls with the same parameters differ; {advice}")
    return first


def _given(gradients, parameters, doutput, findings):
    """Call `gradients` on copies and return those gradients that can be compared, by name."""
    values, upstream = {name: x.copy() for name, x in parameters.items()}, copied(doutput)
    try:
        returned = gradients(values, upstream)
    except Exception as error:
        findings.fail("backward", f"backward: raises {in_words(error)}")
        return {}
    for sentence in _faults(returned, list(parameters)):
        findings.fail("backward", sentence)
    if differences(snapshot(doutput), upstream):
        findings.fail("backward", UPSTREAM_CHANGED)
    placed = {}
    for name, x in parameters.items():
        if differences(snapshot(x), values[name]):
            reason = "only an optimiser does that"
            findings.fail(name, f"{name}: the backward changes this parameter in place; {reason}")
        if isinstance(returned, dict) and name in returned:
            fault, _, comparable = misplaced(name, returned[name], x)
            if fault:
                findings.fail(name, fault)
            if comparable:
                placed[name] = np.array(returned[name])
    return placed


def _faults(returned, names):
    """Say what is wrong with the names of the gradients."""
    if not isinstance(returned, dict):
        yield f"backward: returns {type(returned).__name__}, expected a dict with the names of the parameters"
        return
    missing, extra = [name for name in names if name not in returned], [name for name in returned if name not in names]
    if missing:
        yield f"backward: has no gradient for {listed(missing)}"
    if extra:
        yield f"backward: has a gradient for {listed(map(str, extra))}, not among the parameters"
    if not missing and not extra and list(returned) != names:
        yield "backward: its gradients come in another order than the parameters; build both by the same walk"
