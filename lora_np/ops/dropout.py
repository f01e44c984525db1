"""Dropout: each entry is zeroed with probability p, the others are divided by 1 - p, so that the mean stays.

Forward   (1)  y = x * mask,  mask = 0 with probability p, else 1 / (1 - p)
Backward  (1)  The mask is a constant once it is drawn: dx = dy * mask, with the same mask.

Source: Srivastava et al. 2014, JMLR 15:1929.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, number


class DropoutCache(NamedTuple):
    mask: np.ndarray  # (N, d)  or None


def dropout_mask(shape, p, rng, dtype):
    """Return a mask of the given shape and dtype, already divided by 1 - p; None if p is 0 or there is no generator.

    The uniform numbers are float32 whatever the dtype, so that float64 and float32 runs of one seed drop the same
    entries.

    Raises
    ------
    ValueError
        If p is not in 0 <= p < 1, or `rng` is neither a generator nor None.
    """
    p = probability(p)
    check_generator(rng)
    if p == 0.0 or rng is None:
        return None
    kept = rng.random(shape, dtype=np.float32) >= p
    return kept.astype(np.dtype(dtype).type(0).real.dtype) * (1.0 / (1.0 - p))


def check_generator(rng):
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a generator, numpy.random.default_rng(seed), or None, but it is {rng!r}.")


def probability(p):
    """Return a dropout probability as a Python float; raise ValueError unless 0 <= p < 1."""
    if not 0.0 <= number("the dropout probability", p) < 1.0:
        raise ValueError(f"the dropout probability must lie in 0 <= p < 1, but it is {p}.")
    return float(p)


def dropout_forward(x, mask):
    """Return y and the cache, for x of the mask's shape; `mask=None` returns x itself."""
    fit("dropout", "x (...), mask (...) or None", x, mask)
    y = x if mask is None else x * mask  # (N, d)  (1)
    return y, DropoutCache(mask)


def dropout_backward(dy, cache):
    """Return dx."""
    (mask,) = cache
    fit("dropout_backward", "dy (...), mask (...) or None", dy, mask)
    dx = dy if mask is None else dy * mask  # (N, d)  (1)
    return dx
