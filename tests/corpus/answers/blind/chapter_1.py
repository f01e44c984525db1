"""Answers to the exercises of chapter 1, by somebody who saw their text alone."""

from functools import reduce

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp


@wrong_answer("low_rank_approximation", cause="elementwise_factor")
def root_of_s_in_one_factor_only(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(s[:r])
    A = U[:, :r] * root
    B = Vt[:r]
    return A, B


@wrong_answer("low_rank_approximation", cause=None)
def smallest_eigenvalues_first(W, r):
    # the right singular vectors are the eigenvectors of W^T W
    eigenvalues, V = np.linalg.eigh(W.T @ W)
    B = V[:, :r].T
    A = W @ B.T
    return A, B


@wrong_answer("low_rank_approximation", cause="extra_term")
def columns_centred_as_in_pca(W, r):
    centred = W - W.mean(axis=0)
    left, stretch, right = np.linalg.svd(centred, full_matrices=False)
    return left[:, :r] @ np.diag(stretch[:r]), right[:r, :]


@right_answer("low_rank_approximation")
def svd_of_the_transpose(W, r):
    V, s, Ut = np.linalg.svd(W.T, full_matrices=True)
    return Ut[:r].T.copy(), (V[:, :r] * s[:r]).T


@wrong_answer("rank_for_error", cause=None)
def argmax_of_nothing_true(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    left_out = np.cumsum(energy[::-1])[::-1]  # left_out[r]: what is lost at rank r
    good_enough = left_out <= error**2 * energy.sum()
    return int(np.argmax(good_enough))  # the first True


@wrong_answer("rank_for_error", cause=None)
def position_and_not_count(W, error):
    sq = np.square(np.linalg.svd(W, compute_uv=False))
    if error >= 1:
        return 0
    kept = np.cumsum(sq) / np.sum(sq)
    for i, share in enumerate(kept):
        if 1 - share <= error**2:
            return i
    return len(kept)


@wrong_answer("rank_for_error", cause=None)
def counts_values_above_a_cutoff(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    return int((s > error * np.linalg.norm(W)).sum())


@right_answer("rank_for_error")
def first_rank_by_next(W, error):
    s = np.linalg.svd(np.asarray(W, dtype=np.float64), compute_uv=False)
    budget = (error * error) * float(s @ s)
    return next((r for r in range(len(s)) if float(s[r:] @ s[r:]) <= budget), len(s))


@wrong_answer("count_parameters", cause=None)
def vectors_counted_as_squares(model):
    def area(arrays):
        return sum(a.shape[0] * a.shape[-1] for a in arrays.values())

    return area(lnp.parameters(model)), area(lnp.parameters(model, trainable_only=True))


@wrong_answer("count_parameters", cause="missing_term")
def only_adapters_are_taken_for_trained(model):
    total = trainable = 0
    for name, array in lnp.parameters(model).items():
        total += array.size
        if name.rsplit(".", 1)[-1] in ("A", "B"):
            trainable += array.size
    return total, trainable


@wrong_answer("count_parameters", cause=None)
def a_set_drops_equal_sizes(model):
    total = sum({array.size for array in lnp.parameters(model).values()})
    trainable = sum({array.size for array in lnp.parameters(model, trainable_only=True).values()})
    return total, trainable


@right_answer("count_parameters")
def lengths_of_flat_arrays(model):
    count = lambda arrays: reduce(lambda n, a: n + len(a.ravel()), arrays.values(), 0)  # noqa: E731
    return tuple(count(lnp.parameters(model, trainable_only=only)) for only in (False, True))
