"""Chapter 1: answers of learners, written without sight of the rules."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np.model.tree import arrays, walk

# low_rank_approximation


@wrong_answer("low_rank_approximation", cause="transpose", also=("shape", "wrong_cached_value"))
def svd_columns_of_vt(W, r):
    U, s, V = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r] * s[:r]
    return A, V[:, :r].T


@wrong_answer("low_rank_approximation", cause="elementwise_factor", also=("constant_factor",))
def svd_values_in_both(W, r):
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    S = np.diag(S[:r])
    A = U[:, :r] @ S
    B = S @ Vt[:r, :]
    return A, B


@wrong_answer("low_rank_approximation", cause="elementwise_factor", also=("wrong_derivative", "constant_factor"))
def svd_root_in_a_only(W, r):
    u, s, vh = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(s)
    return u[:, :r] * root[:r], vh[:r]


@wrong_answer("low_rank_approximation", cause="wrong_cached_value")
def svd_counts_from_one(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    keep = slice(1, r + 1)
    return U[:, keep] * s[keep], Vt[keep]


@wrong_answer("low_rank_approximation", cause="shape", also=("transpose", "elementwise_factor"))
def svd_values_along_columns(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], s[:r] * Vt[:r]


@wrong_answer("low_rank_approximation", cause="extra_term", also=("wrong_cached_value", "missing_term"))
def svd_centred_like_pca(W, r):
    X = W - W.mean(axis=0)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


@wrong_answer("low_rank_approximation", cause="wrong_cached_value")
def eigh_ascending(W, r):
    _, V = np.linalg.eigh(W.T @ W)
    V = V[:, :r]
    return W @ V, V.T


@wrong_answer("low_rank_approximation", cause="swapped", also=("shape", "transpose"))
def svd_returns_b_first(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A, B = U[:, :r], s[:r, None] * Vt[:r]
    return B, A


@right_answer("low_rank_approximation")
def svd_projects(W, r):
    _, _, Vt = np.linalg.svd(W)
    B = Vt[:r]
    return W @ B.T, B


@right_answer("low_rank_approximation")
def svd_of_the_transpose(W, r):
    V, s, Ut = np.linalg.svd(W.T, full_matrices=False)
    return 2 * Ut[:r].T, np.diag(s[:r]) @ V[:, :r].T / 2


@right_answer("low_rank_approximation")
def eigh_of_the_gram_matrix(W, r):
    values, vectors = np.linalg.eigh(W @ W.T)
    best = np.argsort(values)[::-1][:r]
    Q = vectors[:, best]
    return Q, Q.T @ W


# rank_for_error


@wrong_answer("rank_for_error", cause="wrong_derivative", also=("elementwise_factor",))
def rank_without_squares(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = s.sum()
    r = 0
    while s[r:].sum() > error * total:
        r += 1
    return r


@wrong_answer("rank_for_error", cause="constant_factor", also=("wrong_derivative", "wrong_cached_value"))
def rank_error_not_squared(W, error):
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    kept = np.cumsum(s2) / np.sum(s2)
    if error >= 1:
        return 0
    return int(np.searchsorted(kept, 1 - error)) + 1


@wrong_answer("rank_for_error", cause="missing_term")
def rank_leaves_one_out_of_the_sum(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    for r in range(len(energy)):
        lost = energy[r + 1 :].sum()
        if lost <= error**2 * energy.sum():
            return r
    return len(energy)


@wrong_answer("rank_for_error", cause="constant_factor")
def rank_absolute_error(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if np.sqrt((s[r:] ** 2).sum()) <= error:
            return r


@wrong_answer("rank_for_error", cause="missing_term", also=("wrong_derivative", "reduction_axis"))
def rank_spectral_norm(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r, value in enumerate(s):
        if value <= error * s[0]:
            return r
    return len(s)


@wrong_answer("rank_for_error", cause="wrong_cached_value", also=("swapped",))
def rank_of_kept_energy(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = float((s**2).sum())
    for r in range(len(s) + 1):
        if (s[:r] ** 2).sum() >= error**2 * total:
            return r


@wrong_answer("rank_for_error", cause="zero_gradient", also=("shape",))
def rank_never_returned(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    r = 0
    while energy[r:].sum() > error**2 * energy.sum():
        r += 1


@wrong_answer("rank_for_error", cause="extra_term")
def rank_counts_one_more(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return int((tails > error * tails[0]).sum()) + 1


@right_answer("rank_for_error")
def rank_by_counting(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
    return int(np.count_nonzero(tails > error * tails[0]))


@right_answer("rank_for_error")
def rank_by_approximating(W, error):
    W = W.astype(np.float64)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    for r in range(len(s)):
        if np.linalg.norm(W - (U[:, :r] * s[:r]) @ Vt[:r]) <= error * np.linalg.norm(W):
            return r
    return len(s)


@right_answer("rank_for_error")
def rank_from_behind(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    budget, lost, r = error**2 * np.sum(s**2), 0.0, len(s)
    while r > 0 and lost + s[r - 1] ** 2 <= budget:
        lost += s[r - 1] ** 2
        r -= 1
    return r


# count_parameters


@wrong_answer("count_parameters", cause="swapped")
def count_trainable_first(model):
    everything, trained = lnp.parameters(model), lnp.parameters(model, trainable_only=True)
    return sum(a.size for a in trained.values()), sum(a.size for a in everything.values())


@wrong_answer("count_parameters", cause="constant_factor", also=("wrong_cached_value",))
def count_in_bytes(model):
    total = sum(a.nbytes for a in lnp.parameters(model).values())
    trainable = sum(a.nbytes for a in lnp.parameters(model, trainable_only=True).values())
    return total, trainable


@wrong_answer("count_parameters", cause="elementwise_factor", also=("wrong_cached_value",))
def count_rows(model):
    total = trainable = 0
    for array in lnp.parameters(model).values():
        total += len(array)
    for array in lnp.parameters(model, trainable_only=True).values():
        trainable += len(array)
    return total, trainable


@wrong_answer("count_parameters", cause="missing_term")
def count_matrices_only(model):
    def count(only):
        return sum(a.shape[0] * a.shape[1] for a in lnp.parameters(model, only).values() if a.ndim == 2)

    return count(False), count(True)


@wrong_answer("count_parameters", cause="not_accumulated", also=("missing_term",))
def count_keeps_the_last(model):
    total = trainable = 0
    for array in lnp.parameters(model).values():
        total = array.size
    for array in lnp.parameters(model, trainable_only=True).values():
        trainable = array.size
    return total, trainable


@wrong_answer("count_parameters", cause="missing_term", also=("wrong_cached_value",))
def count_frozen_as_total(model):
    trained = lnp.parameters(model, trainable_only=True)
    total = sum(a.size for name, a in lnp.parameters(model).items() if name not in trained)
    return total, sum(a.size for a in trained.values())


@wrong_answer("count_parameters", cause="wrong_cached_value", also=("mask_ignored", "extra_term"))
def count_all_as_trainable(model):
    total = sum(np.prod(a.shape) for a in lnp.parameters(model).values())
    trainable = sum(np.prod(a.shape) for a in lnp.parameters(model).values() if a is not None)
    return int(total), int(trainable)


@wrong_answer("count_parameters", cause="extra_term")
def count_trained_twice(model):
    everything = {**lnp.parameters(model)}
    trainable = sum(a.size for a in lnp.parameters(model, trainable_only=True).values())
    total = trainable
    for array in everything.values():
        total += array.size
    return total, trainable


@right_answer("count_parameters")
def count_by_walking(model):
    total = trainable = 0
    for _, node in walk(model):
        for name, array in arrays(node).items():
            total += array.size
            if name in node.trainable:
                trainable += array.size
    return total, trainable


@right_answer("count_parameters")
def count_by_shapes(model):
    counts = []
    for only in (False, True):
        shapes = [a.shape for a in lnp.parameters(model, trainable_only=only).values()]
        counts.append(sum(int(np.prod(shape)) for shape in shapes))
    return tuple(counts)


@right_answer("count_parameters")
def count_by_joining(model):
    def joined(found):
        return np.concatenate([np.zeros(0), *(a.ravel() for a in found.values())])

    return len(joined(lnp.parameters(model))), len(joined(lnp.parameters(model, True)))
