"""Inputs in which nothing hides: sizes that differ, masks that hide something, ids that occur twice."""

import numpy as np


def sizes(rng, count):
    """Draw different sizes. None is 2 or a square above 4, so that no size looks like a 2 or a root of another."""
    return rng.permutation([3, 4, 5, 6, 7])[:count].tolist()


def kept(rng, *shape):
    """Draw a boolean array of which 3 in 10 entries are False."""
    count = int(np.prod(shape))
    return (rng.permutation(count) >= 0.3 * count).reshape(shape)


def dropout_mask(rng, *shape):
    """Draw a dropout mask for p = 0.3, already divided by 1 - p."""
    return kept(rng, *shape) / 0.7


def repeated(rng, count, below):
    """Draw more ids than there are: some occur twice or more, and the last one never does."""
    assert count >= below
    return rng.integers(0, below - 1, count)


def single(arguments):
    """Cast the arrays of real numbers among some arguments to float32."""
    real = {name for name, x in arguments.items() if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    return {name: x.astype(np.float32) if name in real else x for name, x in arguments.items()}


def drawn(forward, fixed=None, **inputs):
    """Return a case. Inputs are given by their shapes or as functions of rng, fixed ones as they are or so too."""

    def case(rng):
        arrays = {name: x(rng) if callable(x) else rng.standard_normal(x) for name, x in inputs.items()}
        return forward, arrays, {name: x(rng) if callable(x) else x for name, x in (fixed or {}).items()}

    return case
