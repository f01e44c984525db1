import numpy as np
from corpus.entries import right_answer, wrong_answer

# debug_cross_entropy_backward(dloss, cache)


@wrong_answer("debug_cross_entropy_backward", cause="ignores_upstream", also=("mask_ignored", "mean_vs_sum"))
def mended_entropy_as_it_was(dloss, cache):
    "Handed in unchanged."
    p, q, divisor = cache
    return (p - q) / len(p)


@wrong_answer("debug_cross_entropy_backward", cause="mask_ignored")
def mended_entropy_upstream_and_divisor(dloss, cache):
    "Two of three mended: ignored rows still have a gradient."
    p, q, divisor = cache
    return (p - q) * dloss / divisor


@wrong_answer("debug_cross_entropy_backward", cause="mean_vs_sum", also=("constant_factor",))
def mended_entropy_number_of_rows(dloss, cache):
    "Two of three mended: divides by all rows."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) * dloss / len(p)


@wrong_answer("debug_cross_entropy_backward", cause="ignores_upstream")
def mended_entropy_without_upstream(dloss, cache):
    "Two of three mended: the upstream is still ignored."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) / divisor


@wrong_answer("debug_cross_entropy_backward", cause="mean_vs_sum")
def mended_entropy_counts_the_rows(dloss, cache):
    "Counts the rows itself and does not look at the divisor: wrong for a sum."
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * dloss / counts.sum()


@wrong_answer("debug_cross_entropy_backward", cause="mask_ignored")
def mended_entropy_where_q(dloss, cache):
    "Keeps the entries with a target, not the rows: only the right class gets a gradient."
    p, q, divisor = cache
    return (p - q) * (q != 0) * dloss / divisor


@wrong_answer("debug_cross_entropy_backward", cause=None)
def mended_entropy_hard_targets_only(dloss, cache):
    "Takes a row for ignored unless one target is 1: wrong for smoothed labels."
    p, q, divisor = cache
    counts = (q == 1).any(axis=1, keepdims=True)
    return (p - q) * counts * dloss / divisor


@wrong_answer("debug_cross_entropy_backward", cause="inplace")
def mended_entropy_in_place(dloss, cache):
    "p in the cache is changed in place."
    p, q, divisor = cache
    p -= q
    p *= q.any(axis=1, keepdims=True) * (dloss / divisor)
    return p


@wrong_answer("debug_cross_entropy_backward", cause="shape")
def mended_entropy_drops_rows(dloss, cache):
    "Ignored rows are left out, so the gradient has fewer rows."
    p, q, divisor = cache
    counts = q.any(axis=1)
    return (p[counts] - q[counts]) * dloss / divisor


@wrong_answer("debug_cross_entropy_backward", cause="sign")
def mended_entropy_turned(dloss, cache):
    "q - p."
    p, q, divisor = cache
    return (q - p) * q.any(axis=1, keepdims=True) * (dloss / divisor)


@wrong_answer("debug_cross_entropy_backward", cause="reduction_axis")
def mended_entropy_any_column(dloss, cache):
    "any runs over the rows: asks which classes occur."
    p, q, divisor = cache
    return (p - q) * q.any(axis=0, keepdims=True) * dloss / divisor


@right_answer("debug_cross_entropy_backward")
def mended_entropy_by_where(dloss, cache):
    "np.where over the rows."
    p, q, divisor = cache
    counts = q.max(axis=1, keepdims=True) > 0
    return np.where(counts, (p - q) * (dloss / divisor), 0 * p)


@right_answer("debug_cross_entropy_backward")
def mended_entropy_by_rows(dloss, cache):
    "A loop that fills the rows that count."
    dlogits = np.zeros_like(cache.p)
    for n in range(len(cache.q)):
        if cache.q[n].any():
            dlogits[n] = dloss * (cache.p[n] - cache.q[n]) / cache.divisor
    return dlogits


@right_answer("debug_cross_entropy_backward")
def mended_entropy_by_index(dloss, cache):
    "Sets the ignored rows to zero at the end."
    p, q, divisor = cache
    dlogits = (p - q) / divisor
    dlogits[np.abs(q).sum(axis=1) == 0] = 0
    return dlogits * dloss


@right_answer("debug_cross_entropy_backward")
def mended_entropy_by_row_sums(dloss, cache):
    "The targets of a row sum to one or zero: p times that sum, less q."
    p, q, divisor = cache
    rows = np.rint(q.sum(axis=-1, keepdims=True))
    return (p * rows - q) / divisor * dloss
