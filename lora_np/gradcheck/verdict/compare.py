"""Given gradients against numerical ones: how close is close enough, entry by entry, without a guess.

An entry of a gradient is a sum over outputs, sum_k w_k dy_k/dx_i, and rounding acts on the terms of that sum. So an
entry may be off by

    rtol * sum_k |w_k dy_k/dx_i|      its scale |J|^T |w|, which stays when the sum itself cancels
    + 10 eps * the largest scale      an entry that is small beside its neighbours keeps their rounding
    + 10 * what rounding of the outputs alone would make of it
    + the oracle's own error          what we do not know we do not hold against anybody

A gradient that is zero by cancellation inside the function (attention's key bias: softmax ignores a constant per row)
has no scale at all; there only the last two are left.

In float32 a right formula can lose digits inside (p - 1 where p is nearly 1), which no look at the outputs tells. So
the same backward is also run in float64: where it is right there, float32 may cost a hundredth of the array's largest
scale, and more is called "not resolved" instead of "wrong".
"""

from typing import NamedTuple

import numpy as np

from .noise import EPS
from .report import Row, bracketed, distinct
from .slopes import STEP, TINY

TOLERANCE = 1e-7  # of an entry's scale, in float64
RTOL = {np.dtype(np.float64): TOLERANCE, np.dtype(np.float32): 2e-4}
MEANINGFUL = 1e-3  # of the scale: an oracle less sure than that confirms nothing
FLOAT32_LOSS = 1e-2  # of the array's largest scale: what float32 may cost a right formula


class Precision(NamedTuple):
    """What can be asked of a gradient."""

    rtol: float
    eps: float

    @classmethod
    def of(cls, dtype):
        return cls(RTOL.get(dtype, RTOL[np.dtype(np.float32)]), float(np.finfo(dtype).eps))


DOUBLE = Precision.of(np.dtype(np.float64))


class Subject(NamedTuple):
    """Whose gradient is compared, and how to speak of it."""

    argument: str
    label: str  # "dA" in a sentence
    shape: tuple
    entries: np.ndarray | None  # flat indices of the entries compared; None for a direction

    def index(self, i):
        """Turn a position among the entries into an index of the array, None where there is only one."""
        if self.entries is None or self.shape == ():
            return None
        return tuple(int(j) for j in np.unravel_index(self.entries[i], self.shape))


class Comparison:
    """Given derivatives, (n,), beside the oracle's; `twin` is what the same backward gives in float64."""

    def __init__(self, subject, given, slopes, precision, twin=None):
        self.subject, self.given, self.slopes = subject, given, slopes
        exact, unit = _allowed(slopes, precision)
        self.tolerance = exact + slopes.error
        self.distance = _distance(given, slopes)
        self.wrong = self.distance > self.tolerance
        self.rounded = np.zeros_like(self.wrong)
        if twin is not None:
            self._excuse(twin)
        largest = np.max(slopes.scale)
        # An entry that moves nothing is known to be zero, unless something else is given and drowns in the rounding.
        concerned = slopes.moved | (np.abs(given) > exact)
        self.lost = concerned & (slopes.error > MEANINGFUL * np.maximum(slopes.scale, 0.01 * largest))
        # Zero for all that can be told, which takes an oracle that is blurred by rounding at most.
        size = np.maximum(np.abs(slopes.low), np.abs(slopes.high))
        jumps = self.lost & (slopes.error > 10 * slopes.floor / STEP)
        self.zero = bool(np.all((size <= self.tolerance) & (np.abs(given) <= exact) & ~jumps))
        # Far off, an error is quoted relative to what is given: 1.0 says more than 5e+06.
        unit = np.where(np.abs(given) > 100 * unit, np.abs(given), unit)
        self.quoted = self.distance / unit, self.tolerance / unit

    def _excuse(self, twin):
        """Pardon what is right in float64, and call it not resolved where float32 loses too much."""
        loss = FLOAT32_LOSS * np.max(self.slopes.scale)
        excused = self.wrong & (_distance(twin, self.slopes) <= _allowed(self.slopes, DOUBLE)[0] + self.slopes.error)
        self.rounded = excused & (self.distance > loss)
        self.wrong = self.wrong & ~excused
        self.tolerance = np.where(excused, np.maximum(self.tolerance, loss), self.tolerance)

    def verdict(self):
        """Return a Row, a failure sentence or None, and a list of notes."""
        excess = self.distance / np.maximum(self.tolerance, TINY)
        if self.wrong.any():
            worst = _argmax(excess, self.wrong)
            return self._row("wrong", worst), self._wrong(worst), []
        if self.rounded.any():
            worst = _argmax(excess, self.rounded)
            return self._row("not resolved", worst), self._rounded(worst), []
        if self.zero:
            return self._row("vacuous", _argmax(excess)), None, [self._vacuous()]
        if self.lost.any():
            worst = _argmax(self.slopes.error, self.lost)
            return self._row("not resolved", worst), self._lost(worst), []
        return self._row("ok", _argmax(excess)), None, []

    def _row(self, verdict, i):
        subject, (error, tolerance) = self.subject, (float(x[i]) for x in self.quoted)
        return Row(subject.argument, subject.shape, error, tolerance, verdict, subject.index(i), *self._pair(i))

    def _pair(self, i):
        given = float(self.given[i])
        return given, float(np.clip(given, self.slopes.low[i], self.slopes.high[i]))

    def _wrong(self, i):
        yours, numeric = distinct(*self._pair(i))
        if self.slopes.low[i] < self.slopes.high[i]:
            numeric = f"between {self.slopes.low[i]:.4g} and {self.slopes.high[i]:.4g} (a kink)"
        error, tolerance = (x[i] for x in self.quoted)
        off = f"(difference {error:.1e} of its scale, tolerance {tolerance:.0e})"
        return self._sentence("wrong", self.wrong, i, f"yours {yours}, numeric {numeric} {off}")

    def _rounded(self, i):
        yours, numeric = distinct(*self._pair(i))
        reason = "it is right in float64, so float32 has too few digits here: check in float64"
        return self._sentence("not resolved", self.rounded, i, f"yours {yours}, numeric {numeric}; {reason}")

    def _lost(self, i):
        error, scale = self.slopes.error[i], self.slopes.scale[i]
        known = "the oracle finds no derivative"
        if error < scale:
            known = f"the oracle is sure to {error / scale:.0e} of its scale only"
        reason = "the forward is noisy, saturated, jumps or ends its domain here: check elsewhere"
        return self._sentence("not resolved", self.lost, i, f"{known}; {reason}")

    def _sentence(self, verdict, where, i, numbers):
        label, index = self.subject.label, self.subject.index(i)
        if self.subject.entries is None:
            return f"{label}: {verdict} along a random direction: {numbers}"
        if index is None:
            return f"{label}: {verdict}: {numbers}"
        count = f"{np.sum(where)} of {len(where)} entries"
        return f"{label}: {verdict} in {count}; the worst is at {bracketed(index)}: {numbers}"

    def _vacuous(self):
        return (
            f"{self.subject.label}: the true gradient is zero here, so this row proves little. That is right for an "
            "argument without effect (a bias before a softmax); if not, check at other inputs"
        )


def _argmax(values, among=True):
    return int(np.argmax(np.where(among, values, -1.0)))


def _distance(given, slopes):
    return np.maximum(np.maximum(slopes.low - given, given - slopes.high), 0.0)


def _allowed(slopes, precision):
    """Return the tolerance without the oracle's error, and the scale that errors are quoted relative to."""
    scale = slopes.scale + 10 * precision.eps / precision.rtol * np.max(slopes.scale)
    if np.any(slopes.scale > slopes.error):
        return precision.rtol * scale + 10 * slopes.floor, np.where(scale > 0, scale, 1.0)
    # Nothing that can be told from zero. The outputs are rounded as they would be in the gradient's own precision.
    exact = precision.rtol * scale + 10 * precision.eps / EPS * slopes.floor
    return exact, np.where(slopes.floor > 0, slopes.floor / EPS, 1.0)
