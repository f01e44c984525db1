"""Pooling: one row for each sequence, out of the rows of its tokens.

The rows of a batch lie end to end in groups `(start, stop, n, T)`: rows start to stop hold n sequences of T tokens
each.

Mean
    Forward   (1)  y_s = (1 / T) sum_t x_st
    Backward  (1)  Nudge x_st: y_s moves by 1 / T of it, so dx_st = dy_s / T.
First
    Forward   (1)  y_s = x_s0, the class token
    Backward  (1)  dx_s0 = dy_s. The other tokens did not take part: their gradient is zero.
Last
    Forward   (1)  y_s = x_s,T-1: the one token that has seen all others, where attention looks back only
    Backward  (1)  dx_s,T-1 = dy_s, and zero for the others.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit


class PoolCache(NamedTuple):
    groups: tuple  # of (start, stop, n, T)
    rows: int  # N


def pool_mean_forward(x, groups):
    """Return y (S, d), the mean over the tokens of each of the S sequences, and the cache, for x (N, d).

    Raises
    ------
    ValueError
        If the groups do not cover the rows of x.
    """
    fit("pool_mean", "x (N, d)", x)
    check_groups(groups, len(x))
    y = np.concatenate([x[start:stop].reshape(n, T, -1).mean(axis=1) for start, stop, n, T in groups])  # (S, d)  (1)
    return y, PoolCache(groups, len(x))


def pool_mean_backward(dy, cache):
    """Return dx (N, d)."""
    groups, rows = cache
    fit("pool_mean_backward", "dy (S, d)", dy, S=sum(n for _, _, n, _ in groups))
    dx = np.empty((rows, dy.shape[1]), dy.dtype)  # (N, d)
    first = 0
    for start, stop, n, T in groups:
        dx[start:stop] = np.repeat(dy[first : first + n] / T, T, axis=0)  # (1)
        first += n
    return dx


def pool_first_forward(x, groups):
    """Return y (S, d), the first token of each of the S sequences, and the cache, for x (N, d).

    Raises
    ------
    ValueError
        If the groups do not cover the rows of x.
    """
    fit("pool_first", "x (N, d)", x)
    check_groups(groups, len(x))
    y = np.concatenate([x[start:stop:T] for start, stop, n, T in groups])  # (S, d)  (1)
    return y, PoolCache(groups, len(x))


def pool_first_backward(dy, cache):
    """Return dx (N, d)."""
    groups, rows = cache
    fit("pool_first_backward", "dy (S, d)", dy, S=sum(n for _, _, n, _ in groups))
    dx = np.zeros((rows, dy.shape[1]), dy.dtype)  # (N, d)
    first = 0
    for start, stop, n, T in groups:
        dx[start:stop:T] = dy[first : first + n]  # (1)
        first += n
    return dx


def pool_last_forward(x, groups):
    """Return y (S, d), the last token of each of the S sequences, and the cache, for x (N, d).

    Raises
    ------
    ValueError
        If the groups do not cover the rows of x.
    """
    fit("pool_last", "x (N, d)", x)
    check_groups(groups, len(x))
    y = np.concatenate([x[start + T - 1 : stop : T] for start, stop, n, T in groups])  # (S, d)  (1)
    return y, PoolCache(groups, len(x))


def pool_last_backward(dy, cache):
    """Return dx (N, d)."""
    groups, rows = cache
    fit("pool_last_backward", "dy (S, d)", dy, S=sum(n for _, _, n, _ in groups))
    dx = np.zeros((rows, dy.shape[1]), dy.dtype)  # (N, d)
    first = 0
    for start, stop, n, T in groups:
        dx[start + T - 1 : stop : T] = dy[first : first + n]  # (1)
        first += n
    return dx


def check_groups(groups, rows):
    """Raise ValueError unless the groups lie end to end, each n T rows long, and cover all the rows."""
    end = 0
    for start, stop, n, T in groups:
        if start != end or n < 1 or T < 1 or stop != start + n * T:
            raise ValueError(
                f"groups are (start, stop, n, T), end to end from row 0, stop = start + n T, but one that should start"
                f" at row {end} is {(start, stop, n, T)}."
            )
        end = stop
    if end != rows:
        raise ValueError(f"the groups cover {end} rows, but there are {rows}; take the groups of the same batch.")
