"""Answers to the exercises of chapter 1: the best approximation, the rank for an error, counting parameters."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np.compress import low_rank_approximation
from lora_np.model.tree import arrays, children, walk


@wrong_answer("low_rank_approximation", cause="elementwise_factor", also=("constant_factor",))
def singular_values_dropped(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], Vt[:r]


@wrong_answer("low_rank_approximation", cause="elementwise_factor", also=("constant_factor",))
def singular_values_in_both(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r] * s[:r]
    B = s[:r, None] * Vt[:r]
    return A, B


@wrong_answer("low_rank_approximation", cause="transpose", also=("shape",))
def rows_of_u(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:r].T @ np.diag(s[:r])
    return A, Vt[:r]


@wrong_answer("low_rank_approximation", cause="transpose", also=("shape",))
def v_taken_for_its_transpose(W, r):
    U, s, V = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], V[:, :r].T


@wrong_answer("low_rank_approximation", cause=None)
def smallest_singular_values(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, -r:] * s[-r:], Vt[-r:]


@wrong_answer("low_rank_approximation", cause=None, also=("shape",))
def the_product_itself(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ np.diag(s[:r]) @ Vt[:r]


@wrong_answer("low_rank_approximation", cause="swapped", also=("shape",))
def b_before_a(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(s[:r])
    return root[:, None] * Vt[:r], U[:, :r] * root


@wrong_answer("low_rank_approximation", cause=None)
def first_columns(W, r):
    B = np.zeros((r, W.shape[1]), W.dtype)
    B[np.arange(r), np.arange(r)] = 1
    return W[:, :r].copy(), B


@wrong_answer("low_rank_approximation", cause="extra_term", also=("missing_term",))
def centred_as_in_pca(W, r):
    U, s, Vt = np.linalg.svd(W - W.mean(axis=0), full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


@wrong_answer("low_rank_approximation", cause=None, also=("shape",))
def always_rank_two(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :2] * s[:2], Vt[:2]


@wrong_answer("low_rank_approximation", cause="elementwise_factor")
def eigenvalues_taken_for_singular_values(W, r):
    values, V = np.linalg.eigh(W.T @ W)
    V = V[:, ::-1][:, :r]
    U = W @ V / np.sqrt(values[::-1][:r])
    return U * values[::-1][:r], V.T


@right_answer("low_rank_approximation")  # nobody asked for a dtype
def approximation_in_double(W, r):
    U, s, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


@right_answer("low_rank_approximation")
def values_at_a(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


@right_answer("low_rank_approximation")
def full_svd_with_diag(W, r):
    U, s, Vt = np.linalg.svd(W)
    return [U[:, :r], np.diag(s[:r]) @ Vt[:r, :]]


@right_answer("low_rank_approximation")
def projection_onto_right_vectors(W, r):
    V = np.linalg.svd(W)[2].T[:, :r]
    return W @ V, V.T


@right_answer("low_rank_approximation")
def eigenvectors_of_the_smaller_side(W, r):
    _, vectors = np.linalg.eigh(W @ W.T)
    U = vectors[:, -r:]
    return U, U.T @ W


@right_answer("low_rank_approximation")
def odd_split(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = np.stack([-2 * s[k] * U[:, k] for k in range(r)], axis=1)
    B = np.stack([-0.5 * Vt[k] for k in range(r)])
    return A, B


@wrong_answer("rank_for_error", cause=None)
def not_squared(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    lost = np.append(np.cumsum(s[::-1])[::-1], 0)
    return int(np.argmax(lost <= error * lost[0]))


@wrong_answer("rank_for_error", cause="constant_factor")
def absolute_error(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if np.sqrt((s[r:] ** 2).sum()) <= error:
            return r


@wrong_answer("rank_for_error", cause=None)
def one_too_many(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = np.linalg.norm(s)
    r = 0
    while np.linalg.norm(s[r:]) > error * total:
        r += 1
    return r + 1


@wrong_answer("rank_for_error", cause=None)
def kept_instead_of_lost(W, error):
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    kept = np.sqrt(np.cumsum(s2) / s2.sum())
    return int(np.searchsorted(kept, error)) + 1


@wrong_answer("rank_for_error", cause=None)
def share_of_energy(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    lost = 1 - np.append(0, np.cumsum(energy)) / energy.sum()
    return int(np.argmax(lost <= error + 1e-12))


@wrong_answer("rank_for_error", cause=None)
def spectral_norm(W, error):
    s = np.append(np.linalg.svd(W, compute_uv=False), 0)
    return int(np.argmax(s <= error * s[0]))


@wrong_answer("rank_for_error", cause="mean_vs_sum", also=("constant_factor",))
def mean_square_against_norm(W, error):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    for r in range(len(s) + 1):
        difference = W - (U[:, :r] * s[:r]) @ Vt[:r]
        if np.sqrt(np.mean(difference**2)) <= error * np.linalg.norm(W):
            return r
    return len(s)


@wrong_answer("rank_for_error", cause=None)
def largest_rank(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    rank = 0
    for r in range(len(s) + 1):
        if np.linalg.norm(s[r:]) <= error * np.linalg.norm(s):
            rank = r
    return rank


@wrong_answer("rank_for_error", cause=None, also=("shape",))
def errors_of_all_ranks(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    errors = [np.linalg.norm(s[r:]) / np.linalg.norm(s) for r in range(len(s) + 1)]
    return np.array(errors) <= error


@wrong_answer("rank_for_error", cause=None)
def number_above(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    return int((s / np.linalg.norm(s) > error).sum())


@right_answer("rank_for_error")
def counting_up(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s)):
        if np.linalg.norm(s[r:]) <= error * np.linalg.norm(s):
            return r
    return len(s)


@right_answer("rank_for_error")
def by_the_differences_themselves(W, error):
    if error >= 1:
        return 0
    for r in range(1, min(W.shape)):
        A, B = low_rank_approximation(W, r)
        if np.linalg.norm(W - A @ B) <= error * np.linalg.norm(W):
            return r
    return min(W.shape)


@right_answer("rank_for_error")
def counting_down(W, error):
    if error >= 1:
        return 0
    values = list(np.linalg.svd(W, compute_uv=False))
    allowed = (error * math.sqrt(sum(v * v for v in values))) ** 2
    lost = 0.0
    while values and lost + values[-1] ** 2 <= allowed:
        lost += values.pop() ** 2
    return len(values)


@right_answer("rank_for_error")
def number_of_tails_above(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    tails = np.array([energy[r:].sum() for r in range(energy.size)])
    return int(np.count_nonzero(tails > error**2 * energy.sum()))


@wrong_answer("count_parameters", cause="swapped")
def trainable_before_total(model):
    total = sum(p.size for p in lnp.parameters(model).values())
    return sum(p.size for p in lnp.parameters(model, trainable_only=True).values()), total


@wrong_answer("count_parameters", cause=None)
def arrays_counted(model):
    return len(lnp.parameters(model)), len(lnp.parameters(model, trainable_only=True))


@wrong_answer("count_parameters", cause=None)
def rows_counted(model):
    total = sum(len(p) for p in lnp.parameters(model).values())
    return total, sum(len(p) for p in lnp.parameters(model, trainable_only=True).values())


@wrong_answer("count_parameters", cause=None, also=("missing_term",))
def trainable_twice(model):
    count = sum(p.size for p in lnp.parameters(model, trainable_only=True).values())
    return count, count


@wrong_answer("count_parameters", cause=None, also=("extra_term",))
def everything_trainable(model):
    total = 0
    for p in lnp.parameters(model).values():
        total += p.size
    return total, total


@wrong_answer("count_parameters", cause="missing_term")
def matrices_only(model):
    def count(parameters):
        return sum(p.shape[0] * p.shape[1] for p in parameters.values() if p.ndim == 2)

    return count(lnp.parameters(model)), count(lnp.parameters(model, trainable_only=True))


@wrong_answer("count_parameters", cause=None)
def frozen_for_trainable(model):
    total = sum(p.size for p in lnp.parameters(model).values())
    trainable = sum(p.size for p in lnp.parameters(model, trainable_only=True).values())
    return total, total - trainable


@wrong_answer("count_parameters", cause="constant_factor")
def bytes_counted(model):
    total = sum(p.nbytes for p in lnp.parameters(model).values())
    return total, sum(p.nbytes for p in lnp.parameters(model, trainable_only=True).values())


@wrong_answer("count_parameters", cause=None, also=("shape",))
def total_alone(model):
    return sum(p.size for p in lnp.parameters(model).values())


@wrong_answer("count_parameters", cause="missing_term")
def only_the_layers(model):
    sizes = {name: p.size for name, p in lnp.parameters(model).items() if name.startswith("layer")}
    trainable = lnp.parameters(model, trainable_only=True)
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in trainable)


@right_answer("count_parameters")
def by_walking(model):
    total = trainable = 0
    for _, node in walk(model):
        for name, array in arrays(node).items():
            total += array.size
            if name in node.trainable:
                trainable += array.size
    return total, trainable


@right_answer("count_parameters")
def by_recursion(model):
    total = sum(a.size for a in arrays(model).values())
    trainable = sum(a.size for name, a in arrays(model).items() if name in model.trainable)
    for _, child in children(model):
        t, s = by_recursion(child)
        total, trainable = total + t, trainable + s
    return total, trainable


@right_answer("count_parameters")
def list_of_products(model):
    return [sum(math.prod(p.shape) for p in lnp.parameters(model, only).values()) for only in (False, True)]


@right_answer("count_parameters")
def numbers_of_numpy(model):
    live = lnp.parameters(model, trainable_only=True)
    sizes = {name: np.prod(p.shape, dtype=int) for name, p in lnp.parameters(model).items()}
    frozen = np.sum([size for name, size in sizes.items() if name not in live])
    trainable = np.sum([size for name, size in sizes.items() if name in live], dtype=int)
    return frozen + trainable, trainable
