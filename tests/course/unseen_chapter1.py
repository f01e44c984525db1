"""Chapter 1: answers of learners, written without sight of the rules."""

import numpy as np
from answers_parts import Right, Wrong

import lora_np as lnp
from lora_np.model.tree import arrays, walk

# low_rank_approximation


def svd_columns_of_vt(W, r):
    U, s, V = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r] * s[:r]
    return A, V[:, :r].T


def svd_values_in_both(W, r):
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    S = np.diag(S[:r])
    A = U[:, :r] @ S
    B = S @ Vt[:r, :]
    return A, B


def svd_root_in_a_only(W, r):
    u, s, vh = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(s)
    return u[:, :r] * root[:r], vh[:r]


def svd_counts_from_one(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    keep = slice(1, r + 1)
    return U[:, keep] * s[keep], Vt[keep]


def svd_values_along_columns(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], s[:r] * Vt[:r]


def svd_centred_like_pca(W, r):
    X = W - W.mean(axis=0)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


def eigh_ascending(W, r):
    _, V = np.linalg.eigh(W.T @ W)
    V = V[:, :r]
    return W @ V, V.T


def svd_returns_b_first(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A, B = U[:, :r], s[:r, None] * Vt[:r]
    return B, A


def svd_projects(W, r):
    _, _, Vt = np.linalg.svd(W)
    B = Vt[:r]
    return W @ B.T, B


def svd_of_the_transpose(W, r):
    V, s, Ut = np.linalg.svd(W.T, full_matrices=False)
    return 2 * Ut[:r].T, np.diag(s[:r]) @ V[:, :r].T / 2


def eigh_of_the_gram_matrix(W, r):
    values, vectors = np.linalg.eigh(W @ W.T)
    best = np.argsort(values)[::-1][:r]
    Q = vectors[:, best]
    return Q, Q.T @ W


# rank_for_error


def rank_without_squares(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = s.sum()
    r = 0
    while s[r:].sum() > error * total:
        r += 1
    return r


def rank_error_not_squared(W, error):
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    kept = np.cumsum(s2) / np.sum(s2)
    if error >= 1:
        return 0
    return int(np.searchsorted(kept, 1 - error)) + 1


def rank_leaves_one_out_of_the_sum(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    for r in range(len(energy)):
        lost = energy[r + 1 :].sum()
        if lost <= error**2 * energy.sum():
            return r
    return len(energy)


def rank_absolute_error(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if np.sqrt((s[r:] ** 2).sum()) <= error:
            return r


def rank_spectral_norm(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r, value in enumerate(s):
        if value <= error * s[0]:
            return r
    return len(s)


def rank_of_kept_energy(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = float((s**2).sum())
    for r in range(len(s) + 1):
        if (s[:r] ** 2).sum() >= error**2 * total:
            return r


def rank_never_returned(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    r = 0
    while energy[r:].sum() > error**2 * energy.sum():
        r += 1


def rank_counts_one_more(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return int((tails > error * tails[0]).sum()) + 1


def rank_by_counting(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return int(np.count_nonzero(tails > error * tails[0]))


def rank_by_approximating(W, error):
    W = W.astype(np.float64)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    for r in range(len(s)):
        if np.linalg.norm(W - (U[:, :r] * s[:r]) @ Vt[:r]) <= error * np.linalg.norm(W):
            return r
    return len(s)


def rank_from_behind(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    budget, lost, r = error**2 * np.sum(s**2), 0.0, len(s)
    while r > 0 and lost + s[r - 1] ** 2 <= budget:
        lost += s[r - 1] ** 2
        r -= 1
    return r


# count_parameters


def count_trainable_first(model):
    everything, trained = lnp.parameters(model), lnp.parameters(model, trainable_only=True)
    return sum(a.size for a in trained.values()), sum(a.size for a in everything.values())


def count_in_bytes(model):
    total = sum(a.nbytes for a in lnp.parameters(model).values())
    trainable = sum(a.nbytes for a in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


def count_rows(model):
    total = trainable = 0
    for array in lnp.parameters(model).values():
        total += len(array)
    for array in lnp.parameters(model, trainable_only=True).values():
        trainable += len(array)
    return total, trainable


def count_matrices_only(model):
    def count(only):
        return sum(a.shape[0] * a.shape[1] for a in lnp.parameters(model, only).values() if a.ndim == 2)

    return count(False), count(True)


def count_keeps_the_last(model):
    total = trainable = 0
    for array in lnp.parameters(model).values():
        total = array.size
    for array in lnp.parameters(model, trainable_only=True).values():
        trainable = array.size
    return total, trainable


def count_frozen_as_total(model):
    trained = lnp.parameters(model, trainable_only=True)
    total = sum(a.size for name, a in lnp.parameters(model).items() if name not in trained)
    return total, sum(a.size for a in trained.values())


def count_all_as_trainable(model):
    total = sum(np.prod(a.shape) for a in lnp.parameters(model).values())
    trainable = sum(np.prod(a.shape) for a in lnp.parameters(model).values() if a is not None)
    return int(total), int(trainable)


def count_trained_twice(model):
    everything = {**lnp.parameters(model)}
    trainable = sum(a.size for a in lnp.parameters(model, trainable_only=True).values())
    total = trainable
    for array in everything.values():
        total += array.size
    return total, trainable


def count_by_walking(model):
    total = trainable = 0
    for _, node in walk(model):
        for name, array in arrays(node).items():
            total += array.size
            if name in node.trainable:
                trainable += array.size
    return total, trainable


def count_by_shapes(model):
    counts = []
    for only in (False, True):
        shapes = [a.shape for a in lnp.parameters(model, trainable_only=only).values()]
        counts.append(sum(int(np.prod(shape)) for shape in shapes))
    return tuple(counts)


def count_by_joining(model):
    def joined(found):
        return np.concatenate([np.zeros(0), *(a.ravel() for a in found.values())])

    return len(joined(lnp.parameters(model))), len(joined(lnp.parameters(model, True)))


WRONG = [
    Wrong("low_rank_approximation", svd_columns_of_vt, "transpose", ("shape", "wrong_cached_value")),
    Wrong("low_rank_approximation", svd_values_in_both, "elementwise_factor", ("constant_factor",)),
    Wrong("low_rank_approximation", svd_root_in_a_only, "elementwise_factor", ("wrong_derivative", "constant_factor")),
    Wrong("low_rank_approximation", svd_counts_from_one, "wrong_cached_value"),
    Wrong("low_rank_approximation", svd_values_along_columns, "shape", ("transpose", "elementwise_factor")),
    Wrong("low_rank_approximation", svd_centred_like_pca, "extra_term", ("wrong_cached_value", "missing_term")),
    Wrong("low_rank_approximation", eigh_ascending, "wrong_cached_value"),
    Wrong("low_rank_approximation", svd_returns_b_first, "swapped", ("shape", "transpose")),
    Wrong("rank_for_error", rank_without_squares, "wrong_derivative", ("elementwise_factor",)),
    Wrong("rank_for_error", rank_error_not_squared, "constant_factor", ("wrong_derivative", "wrong_cached_value")),
    Wrong("rank_for_error", rank_leaves_one_out_of_the_sum, "missing_term"),
    Wrong("rank_for_error", rank_absolute_error, "constant_factor"),
    Wrong("rank_for_error", rank_spectral_norm, "missing_term", ("wrong_derivative", "reduction_axis")),
    Wrong("rank_for_error", rank_of_kept_energy, "wrong_cached_value", ("swapped",)),
    Wrong("rank_for_error", rank_never_returned, "zero_gradient", ("shape",)),
    Wrong("rank_for_error", rank_counts_one_more, "extra_term"),
    Wrong("count_parameters", count_trainable_first, "swapped"),
    Wrong("count_parameters", count_in_bytes, "constant_factor", ("wrong_cached_value",)),
    Wrong("count_parameters", count_rows, "elementwise_factor", ("wrong_cached_value",)),
    Wrong("count_parameters", count_matrices_only, "missing_term"),
    Wrong("count_parameters", count_keeps_the_last, "not_accumulated", ("missing_term",)),
    Wrong("count_parameters", count_frozen_as_total, "missing_term", ("wrong_cached_value",)),
    Wrong("count_parameters", count_all_as_trainable, "wrong_cached_value", ("mask_ignored", "extra_term")),
    Wrong("count_parameters", count_trained_twice, "extra_term"),
]
RIGHT = [
    Right("low_rank_approximation", svd_projects),
    Right("low_rank_approximation", svd_of_the_transpose),
    Right("low_rank_approximation", eigh_of_the_gram_matrix),
    Right("rank_for_error", rank_by_counting),
    Right("rank_for_error", rank_by_approximating),
    Right("rank_for_error", rank_from_behind),
    Right("count_parameters", count_by_walking),
    Right("count_parameters", count_by_shapes),
    Right("count_parameters", count_by_joining),
]
