"""Answers to the exercises of chapter 8, by somebody who saw their text alone."""

import math
from fractions import Fraction

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np.ops.pooling import PoolCache


@wrong_answer("pool_mean_forward", cause="transpose", also=("reduction_axis",))
def folded_with_tokens_in_front(x, groups):
    d = x.shape[1]
    means = [x[start:stop].reshape(T, n, d).mean(axis=0) for start, stop, n, T in groups]
    return np.concatenate(means), PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="wrong_cached_value")
def rows_of_y_in_the_cache(x, groups):
    y = []
    for start, stop, n, T in groups:
        for k in range(n):
            first = start + k * T
            y.append(x[first : first + T].mean(axis=0))
    y = np.stack(y)
    return y, PoolCache(groups, y.shape[0])


@wrong_answer("pool_mean_forward", cause="missing_term")
def without_the_first_piece(x, groups):
    def pooled(group):
        start, stop, n, T = group
        pieces = x[start:stop].reshape(n, T, -1)
        return pieces[:, 1:].mean(axis=1)  # [CLS] is no word

    return np.vstack([pooled(group) for group in groups]), PoolCache(groups, x.shape[0])


@right_answer("pool_mean_forward")
def sums_between_marks(x, groups):
    lengths = [T for _, _, n, T in groups for _ in range(n)]
    firsts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(int)
    y = np.add.reduceat(x, firsts, axis=0) / np.array(lengths, dtype=x.dtype)[:, None]
    return y, PoolCache(rows=len(x), groups=groups)


@wrong_answer("pool_mean_backward", cause="transpose")
def tiled_and_not_repeated(dy, cache):
    parts, row = [], 0
    for start, stop, n, T in cache.groups:
        parts.append(np.tile(dy[row : row + n] / T, (T, 1)))
        row += n
    return np.concatenate(parts, axis=0)


@wrong_answer("pool_mean_backward", cause="constant_factor")
def divided_by_all_rows_of_the_group(dy, cache):
    dx = np.empty((cache.rows, dy.shape[1]), dy.dtype)
    s = 0
    for start, stop, n, T in cache.groups:
        dx[start:stop] = np.repeat(dy[s : s + n], T, axis=0) / (stop - start)
        s += n
    return dx


@wrong_answer("pool_mean_backward", cause="wrong_cached_value")
def each_group_starts_again_at_the_first_row(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]), dtype=dy.dtype)
    for start, stop, n, T in groups:
        for k in range(n):
            dx[start + k * T : start + (k + 1) * T] = dy[k] / T
    return dx


@right_answer("pool_mean_backward")
def which_sequence_is_each_row_of(dy, cache):
    lengths = np.concatenate([np.full(n, T) for _, _, n, T in cache.groups])
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return (dy / lengths.astype(dy.dtype)[:, None])[owner]


@wrong_answer("accuracy_interval", cause="constant_factor")
def z_for_one_side_only(correct, total):
    z = 1.6448536269514722
    p = correct / total
    a = z * z / total
    middle = (p + a / 2) / (1 + a)
    half = z * math.sqrt(p * (1 - p) / total + a / (4 * total)) / (1 + a)
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause=None)
def plain_interval_around_the_shrunken_share(correct, total):
    z = 1.959963984540054
    n = total + z**2
    p = (correct + z**2 / 2) / n
    half = z * (p * (1 - p) / n) ** 0.5
    return p - half, p + half


@wrong_answer("accuracy_interval", cause=None)
def root_taken_of_each_summand(correct, total):
    z, n = 1.959963984540054, total
    share = correct / n
    spread = z * (math.sqrt(share * (1 - share) / n) + math.sqrt(z**2 / (4 * n**2)))
    centre = share + z**2 / (2 * n)
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return low, high


@right_answer("accuracy_interval")
def roots_in_whole_counts(correct, total):
    zz = 1.959963984540054**2
    wrong = total - correct
    root = math.sqrt(zz * (correct * wrong / total + zz / 4))
    low, high = (correct + zz / 2 - root) / (total + zz), (correct + zz / 2 + root) / (total + zz)
    return low, high


@wrong_answer("paired_comparison", cause="sign")
def never_below_zero(first, second):
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    difference = (max(only_first, only_second) - k) / len(first)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    return difference, p


@wrong_answer("paired_comparison", cause=None)
def normal_curve_in_place_of_coins(first, second):
    b = np.count_nonzero(first > second)
    c = np.count_nonzero(first < second)
    difference = first.mean() - second.mean()
    if b == c:
        return float(difference), 1.0
    chi = abs(b - c) / math.sqrt(b + c)
    return float(difference), math.erfc(chi / math.sqrt(2))


@wrong_answer("paired_comparison", cause=None)
def halves_multiplied_as_floats(first, second):
    wins = int(np.sum(first & np.logical_not(second)))
    losses = int(np.sum(second & np.logical_not(first)))
    n = wins + losses
    tail = sum(math.comb(n, k) * 0.5**n for k in range(min(wins, losses) + 1))
    return (wins - losses) / len(first), min(1.0, 2 * tail)


@right_answer("paired_comparison")
def fractions_row_by_row(first, second):
    signs = np.asarray(first, dtype=int) - np.asarray(second, dtype=int)
    n = int(np.abs(signs).sum())
    lead = int(signs.sum())
    ways, heads = 1, 0  # of k = 0
    k = 0
    while 2 * k <= n - abs(lead):
        heads += ways
        ways = ways * (n - k) // (k + 1)
        k += 1
    p = min(Fraction(1), Fraction(2 * heads, 2**n))
    return lead / len(signs), float(p)
