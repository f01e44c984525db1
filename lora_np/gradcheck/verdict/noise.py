"""How much of a function's output is rounding: measured, because nobody can know it from outside."""

import numpy as np

EPS = float(np.finfo(np.float64).eps)
SPACINGS = (2.0**-19, 2.0**-27, 2.0**-35)  # relative to the inputs
POINTS = 11
DEVIATIONS = 5  # noise is taken as five standard deviations, since thousands of entries will be compared


def noise_level(evaluate, values, start):
    """Measure the rounding in each of the outputs `start`, (K,), that `evaluate` gives at `values`.

    Over close and evenly spaced points a smooth function has fourth differences of order spacing^4, so what they show
    is noise; for white noise their mean square is 70 times its variance (More & Wild 2011, "Estimating computational
    noise"). A wide spacing can show curvature or a kink instead; a narrow one can be finer than the noise itself, so
    that the output mostly stands still, which says nothing. Hence the median of three, and never less than the last
    digit of the output.
    """
    rng = np.random.default_rng(0)
    # Relative changes leave zeros alone, and with them every kink that is hit exactly.
    rates = {name: rng.uniform(0.5, 1.5, np.shape(x)) for name, x in values.items()}
    levels = [level for spacing in SPACINGS if (level := _level(evaluate, values, rates, spacing)) is not None]
    levels = np.sort([*levels, np.full(start.shape, np.nan)], axis=0)  # nan comes last
    middle = np.maximum(np.sum(~np.isnan(levels), axis=0) - 1, 0) // 2
    measured = np.take_along_axis(levels, middle[None], axis=0)[0]
    return np.fmax(EPS * np.abs(start), DEVIATIONS * measured)  # fmax passes over nan


def _level(evaluate, values, rates, spacing):
    """Return the standard deviation of the noise seen at one spacing, nan for outputs that stand still."""
    # The spacing grows a little, or a straight line, rounded, could move in equal jumps and look free of noise.
    moves = [spacing * (k + k * k / 64) for k in range(1, POINTS + 1)]
    try:
        with np.errstate(all="ignore"):
            points = np.array([evaluate(_scaled(values, rates, move)) for move in moves])
            level = np.sqrt(np.mean(np.diff(points, 4, axis=0) ** 2, axis=0) / 70)
    except Exception:  # beyond the domain of math.log, say
        return None
    still = np.mean(np.diff(points, axis=0) == 0, axis=0) > 0.5
    return np.where(still | (level == 0), np.nan, level)


def _scaled(values, rates, move):
    """Return the inputs after a relative change, arrays as arrays and floats as floats."""
    moved = {name: x * (1.0 + move * rates[name]) for name, x in values.items()}
    return {name: np.asarray(x) if isinstance(values[name], np.ndarray) else float(x) for name, x in moved.items()}
