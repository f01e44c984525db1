"""Derivatives along lines, by differences that know their own error.

For outputs y_k(t) that move along a line (one entry of one input, or a whole array in one direction) and an upstream
gradient w, what is wanted is g = sum_k w_k dy_k/dt at t = 0, together with what a verdict needs: how sure it is.

From y(0) and the four points y(-2h), y(-h), y(h), y(2h), for every output:
    (1) near = (y(h) - y(-h)) / 2h  and  wide = (y(2h) - y(-2h)) / 4h: central differences of order 2
    (2) slope = near + (near - wide) / 3: order 4, the terms in h^2 cancel (Richardson's extrapolation)
    (3) right = (4 y(h) - y(2h) - 3 y(0)) / 2h and its mirror image left: one-sided slopes of order 2
The step balances truncation (h^4) against rounding (eps / h): h = eps^(1/5) times the size of what moves. Press et al.,
Numerical Recipes, section 5.7, derive eps^(1/3) for order 2 by the same argument.

Three things can go wrong, and each leaves a trace:
    noise      rounding inside the function: measured before anything else, in `noise`
    curvature  near and wide disagree: the error of (2) is about the square of their relative disagreement
    a kink     right - left does not shrink with h. Then every value between the two slopes is a right gradient
Where the first step is not sharp enough, smaller and larger ones are tried, and the best is kept.

The complex step, Im y(ih) / h with a tiny h (Squire & Trapp 1998), subtracts nothing, so it is exact to rounding, but
silently wrong where a function is not analytic (np.abs, np.var, np.linalg.norm, .real). It is therefore a second
opinion: it replaces a blunt difference where the difference confirms it, and nowhere else.
"""

import warnings
from typing import NamedTuple

import numpy as np

from .noise import EPS

STEP = EPS**0.2
SHRINK = tuple(8.0**-k for k in range(1, 8))  # down to 3e-10 of the variable: a kink nearer than that counts as hit
GROW = tuple(8.0**k for k in range(1, 6))  # for a tiny variable beside large terms
SHARP = 0.1  # a difference whose error is below this part of the tolerance needs no better one
ROUGHLY = 4  # an error up to this many times the rounding is rounding and nothing else
BLOCK = 1_000_000  # numbers held at once, so that a large op does not fill the memory
TINY = float(np.finfo(np.float64).tiny)


class Outputs(NamedTuple):
    """The outputs at the point where derivatives are taken."""

    start: np.ndarray  # (K,)
    upstream: np.ndarray  # (K,)  the weight of each output
    noise: np.ndarray  # (K,)  how much of each output is rounding


class Slopes(NamedTuple):
    """Derivatives along n lines and how far they can be trusted."""

    low: np.ndarray  # (n,)  the derivative; at a kink the smallest right value
    high: np.ndarray  # (n,)  the derivative; at a kink the largest right value
    scale: np.ndarray  # (n,)  sum_k |w_k dy_k/dt|: the size of the terms whose sum the derivative is
    error: np.ndarray  # (n,)  estimated error of low and high, inf where there is no derivative to be had
    moved: np.ndarray  # (n,)  did any output change at all?
    floor: np.ndarray  # (n,)  sum_k |w_k noise_k| / size of the variable: what rounding alone makes of a derivative


class _Rung(NamedTuple):
    """What one step size has to say about n lines."""

    value: np.ndarray  # (n,)  order 4
    scale: np.ndarray  # (n,)
    error: np.ndarray  # (n,)  rounding + kink + curvature
    rounding: np.ndarray  # (n,)  the part that a smaller step makes worse
    moved: np.ndarray  # (n,)
    low: np.ndarray  # (n,)  between the one-sided slopes, each output taking its smaller one
    high: np.ndarray  # (n,)
    reach: np.ndarray  # (n,)  the scale, from the steeper side


def slopes_along(move, outputs, sizes, rtol=1e-7):
    """Differentiate sum(upstream * outputs) along n lines: the Slopes.

    `move(i, t)` returns all outputs as one vector after line i moved by t, a float or an imaginary number; it may
    raise. `sizes` are the natural sizes of what the lines move, and `rtol` is the tolerance, relative to the scale,
    that the derivatives will be held against.
    """
    # A power of two: x + h and x - h are then exact, and no rounding of the points enters the quotient.
    steps = 2.0 ** np.round(np.log2(STEP * sizes))
    with np.errstate(all="ignore"):  # a point beyond the domain of log or sqrt gives nan: a smaller step will do
        best = _rung(move, outputs, np.arange(len(steps)), steps)
        kinks = _Kinks(best)
        _shrink(best, kinks, move, outputs, steps, rtol)
        _grow(best, move, outputs, steps, rtol)
        _second_opinion(best, move, outputs, steps, rtol)
    return _settle(best, kinks, np.abs(outputs.upstream) @ outputs.noise / sizes)


def _rung(move, outputs, lines, steps):
    """Measure the given lines with one step each, block by block."""
    size = outputs.start.size
    rows = max(1, BLOCK // (4 * size))
    blocks = []
    for first in range(0, len(lines), rows):
        some = slice(first, first + rows)
        points = np.empty((4, len(lines[some]), size))
        for row, (line, step) in enumerate(zip(lines[some].tolist(), steps[some].tolist())):
            try:
                for k, multiple in enumerate((-2, -1, 1, 2)):
                    points[k, row] = move(line, multiple * step)
            except Exception:  # a domain error of math.log, say: like a nan
                points[:, row] = np.nan
        blocks.append(_measure(points, outputs, steps[some]))
    return _Rung(*map(np.concatenate, zip(*blocks)))


def _measure(points, outputs, steps):
    """Turn the four points of every line into slopes and errors; the numbers are those of the module's docstring."""
    start, upstream, noise = outputs
    h, weight = steps[:, None], np.abs(upstream)
    back2, back1, ahead1, ahead2 = points - start
    near = (ahead1 - back1) / (2 * h)  # (1)
    wide = (ahead2 - back2) / (4 * h)
    slope = near + (near - wide) / 3  # (2)
    right = (4 * ahead1 - ahead2) / (2 * h)  # (3)
    left = (back2 - 4 * back1) / (2 * h)
    scale, bend = np.abs(slope) @ weight, np.abs(near - wide) @ weight
    # The square, but not less than a thousandth: where the third derivative happens to vanish the square is blind.
    curvature = bend * np.clip(bend / np.maximum(scale, TINY), 1e-3, 1.0)
    rounding = noise @ weight / steps  # of all outputs: one that stands still may have swallowed a small change
    error = rounding + np.abs(right - left) @ weight + curvature
    # Per output, not of the sum: a network's own rule for relu at 0 picks a side for each unit separately.
    low = np.minimum(upstream * left, upstream * right).sum(axis=1)
    high = np.maximum(upstream * left, upstream * right).sum(axis=1)
    reach = np.maximum(np.abs(left), np.abs(right)) @ weight
    error = np.where(np.isfinite(error), error, np.inf)
    moved = np.any(points != start, axis=(0, 2))
    return _Rung(slope @ upstream, scale, error, rounding, moved, low, high, reach)


def _blunt(best, rtol):
    return best.moved & ~(best.error <= SHARP * rtol * best.scale)


def _take(best, rung, lines, better):
    """Write the better ones of some newly measured lines into `best`."""
    for mine, new in zip(best, rung):
        mine[lines[better]] = new[better]


def _shrink(best, kinks, move, outputs, steps, rtol):
    """Try smaller steps for the lines that curve or have a kink. Improve `best` and `kinks` in place."""
    for factor in SHRINK:
        lines = np.flatnonzero(_blunt(best, rtol) & (best.error > ROUGHLY * best.rounding))
        if lines.size == 0:
            return
        rung = _rung(move, outputs, lines, steps[lines] * factor)
        kinks.consider(rung, lines)
        _take(best, rung, lines, rung.error < best.error[lines])


def _grow(best, move, outputs, steps, rtol):
    """Try larger steps where rounding is all that is wrong. Improve `best` in place."""
    for factor in GROW:
        lines = np.flatnonzero(_blunt(best, rtol) & (best.error <= ROUGHLY * best.rounding))
        if lines.size == 0:
            return
        rung = _rung(move, outputs, lines, steps[lines] * factor)
        # Far out a bounded function is flat, and sure of it: so better relative to the slope, too.
        relatively = rung.error * best.scale[lines] < best.error[lines] * rung.scale
        _take(best, rung, lines, relatively & (rung.error < best.error[lines]))


class _Kinks:
    """The one-sided slopes of each line, from the step at which they are steadiest."""

    def __init__(self, first):
        self.low, self.high, self.reach = first.low.copy(), first.high.copy(), first.reach.copy()
        self.error = np.full(len(first.low), np.inf)
        self.last_low, self.last_high = first.low.copy(), first.high.copy()

    def consider(self, rung, lines):
        """One-sided slopes are trusted as far as they agree with those of the step before."""
        change = np.maximum(np.abs(rung.low - self.last_low[lines]), np.abs(rung.high - self.last_high[lines]))
        error = change + rung.rounding
        self.last_low[lines], self.last_high[lines] = rung.low, rung.high
        steadier = error < self.error[lines]
        for mine, new in ((self.low, rung.low), (self.high, rung.high), (self.reach, rung.reach), (self.error, error)):
            mine[lines[steadier]] = new[steadier]


def _second_opinion(best, move, outputs, steps, rtol):
    """Replace a blunt difference by the complex step, in place, where the difference confirms it to two digits."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # it dropped the imaginary part: the derivative
        for i in np.flatnonzero(_blunt(best, rtol) & (best.error <= 1e-2 * best.scale)).tolist():
            tiny = float(steps[i]) * 2.0**-56
            try:
                slope = outputs.upstream * np.imag(move(i, 1j * tiny)) / tiny
            except Exception:  # math.erf, a real buffer: this function does not speak complex
                return
            if abs(slope.sum() - best.value[i]) <= best.error[i]:
                best.value[i], best.scale[i] = slope.sum(), np.abs(slope).sum()
                best.error[i] = min(best.error[i], 0.01 * rtol * best.scale[i])


def _settle(best, kinks, floor):
    """Decide for each line between one smooth slope and the two sides of a kink."""
    # At a kink the two sides are steady while their gap spoils the central slope at every step.
    kink = kinks.error < 0.1 * best.error
    value = np.where(np.isfinite(best.value), best.value, 0.0)
    scale = np.where(np.isfinite(best.scale), best.scale, 0.0)
    return Slopes(
        low=np.where(kink, kinks.low, value),
        high=np.where(kink, kinks.high, value),
        scale=np.where(kink, kinks.reach, scale),
        error=np.where(kink, kinks.error, best.error),
        moved=best.moved,
        floor=floor,
    )
