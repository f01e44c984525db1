"""Answers to the exercises of chapter 1: the best approximation, the rank for an error, counting parameters."""

import math

import numpy as np
from answers_parts import Right, Wrong

import lora_np as lnp
from lora_np.compress import low_rank_approximation
from lora_np.model.tree import arrays, children, walk


def singular_values_dropped(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], Vt[:r]


def singular_values_in_both(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r] * s[:r]
    B = s[:r, None] * Vt[:r]
    return A, B


def rows_of_u(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:r].T @ np.diag(s[:r])
    return A, Vt[:r]


def v_taken_for_its_transpose(W, r):
    U, s, V = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], V[:, :r].T


def smallest_singular_values(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, -r:] * s[-r:], Vt[-r:]


def the_product_itself(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] @ np.diag(s[:r]) @ Vt[:r]


def b_before_a(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(s[:r])
    return root[:, None] * Vt[:r], U[:, :r] * root


def first_columns(W, r):
    B = np.zeros((r, W.shape[1]), W.dtype)
    B[np.arange(r), np.arange(r)] = 1
    return W[:, :r].copy(), B


def centred_as_in_pca(W, r):
    U, s, Vt = np.linalg.svd(W - W.mean(axis=0), full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


def always_rank_two(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :2] * s[:2], Vt[:2]


def eigenvalues_taken_for_singular_values(W, r):
    values, V = np.linalg.eigh(W.T @ W)
    V = V[:, ::-1][:, :r]
    U = W @ V / np.sqrt(values[::-1][:r])
    return U * values[::-1][:r], V.T


def approximation_in_double(W, r):
    U, s, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


def values_at_a(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


def full_svd_with_diag(W, r):
    U, s, Vt = np.linalg.svd(W)
    return [U[:, :r], np.diag(s[:r]) @ Vt[:r, :]]


def projection_onto_right_vectors(W, r):
    V = np.linalg.svd(W)[2].T[:, :r]
    return W @ V, V.T


def eigenvectors_of_the_smaller_side(W, r):
    _, vectors = np.linalg.eigh(W @ W.T)
    U = vectors[:, -r:]
    return U, U.T @ W


def odd_split(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = np.stack([-2 * s[k] * U[:, k] for k in range(r)], axis=1)
    B = np.stack([-0.5 * Vt[k] for k in range(r)])
    return A, B


def not_squared(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    lost = np.append(np.cumsum(s[::-1])[::-1], 0)
    return int(np.argmax(lost <= error * lost[0]))


def absolute_error(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if np.sqrt((s[r:] ** 2).sum()) <= error:
            return r


def one_too_many(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    total = np.linalg.norm(s)
    r = 0
    while np.linalg.norm(s[r:]) > error * total:
        r += 1
    return r + 1


def kept_instead_of_lost(W, error):
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    kept = np.sqrt(np.cumsum(s2) / s2.sum())
    return int(np.searchsorted(kept, error)) + 1


def share_of_energy(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    lost = 1 - np.append(0, np.cumsum(energy)) / energy.sum()
    return int(np.argmax(lost <= error + 1e-12))


def spectral_norm(W, error):
    s = np.append(np.linalg.svd(W, compute_uv=False), 0)
    return int(np.argmax(s <= error * s[0]))


def mean_square_against_norm(W, error):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    for r in range(len(s) + 1):
        difference = W - (U[:, :r] * s[:r]) @ Vt[:r]
        if np.sqrt(np.mean(difference**2)) <= error * np.linalg.norm(W):
            return r
    return len(s)


def largest_rank(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    rank = 0
    for r in range(len(s) + 1):
        if np.linalg.norm(s[r:]) <= error * np.linalg.norm(s):
            rank = r
    return rank


def errors_of_all_ranks(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    errors = [np.linalg.norm(s[r:]) / np.linalg.norm(s) for r in range(len(s) + 1)]
    return np.array(errors) <= error


def number_above(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    return int((s / np.linalg.norm(s) > error).sum())


def counting_up(W, error):
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s)):
        if np.linalg.norm(s[r:]) <= error * np.linalg.norm(s):
            return r
    return len(s)


def by_the_differences_themselves(W, error):
    if error >= 1:
        return 0
    for r in range(1, min(W.shape)):
        A, B = low_rank_approximation(W, r)
        if np.linalg.norm(W - A @ B) <= error * np.linalg.norm(W):
            return r
    return min(W.shape)


def counting_down(W, error):
    if error >= 1:
        return 0
    values = list(np.linalg.svd(W, compute_uv=False))
    allowed = (error * math.sqrt(sum(v * v for v in values))) ** 2
    lost = 0.0
    while values and lost + values[-1] ** 2 <= allowed:
        lost += values.pop() ** 2
    return len(values)


def number_of_tails_above(W, error):
    energy = np.linalg.svd(W, compute_uv=False) ** 2
    tails = np.array([energy[r:].sum() for r in range(energy.size)])
    return int(np.count_nonzero(tails > error**2 * energy.sum()))


def trainable_before_total(model):
    total = sum(p.size for p in lnp.parameters(model).values())
    return sum(p.size for p in lnp.parameters(model, trainable_only=True).values()), total


def arrays_counted(model):
    return len(lnp.parameters(model)), len(lnp.parameters(model, trainable_only=True))


def rows_counted(model):
    total = sum(len(p) for p in lnp.parameters(model).values())
    return total, sum(len(p) for p in lnp.parameters(model, trainable_only=True).values())


def trainable_twice(model):
    count = sum(p.size for p in lnp.parameters(model, trainable_only=True).values())
    return count, count


def everything_trainable(model):
    total = 0
    for p in lnp.parameters(model).values():
        total += p.size
    return total, total


def matrices_only(model):
    def count(parameters):
        return sum(p.shape[0] * p.shape[1] for p in parameters.values() if p.ndim == 2)

    return count(lnp.parameters(model)), count(lnp.parameters(model, trainable_only=True))


def frozen_for_trainable(model):
    total = sum(p.size for p in lnp.parameters(model).values())
    trainable = sum(p.size for p in lnp.parameters(model, trainable_only=True).values())
    return total, total - trainable


def bytes_counted(model):
    total = sum(p.nbytes for p in lnp.parameters(model).values())
    return total, sum(p.nbytes for p in lnp.parameters(model, trainable_only=True).values())


def total_alone(model):
    return sum(p.size for p in lnp.parameters(model).values())


def only_the_layers(model):
    sizes = {name: p.size for name, p in lnp.parameters(model).items() if name.startswith("layer")}
    trainable = lnp.parameters(model, trainable_only=True)
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in trainable)


def by_walking(model):
    total = trainable = 0
    for _, node in walk(model):
        for name, array in arrays(node).items():
            total += array.size
            if name in node.trainable:
                trainable += array.size
    return total, trainable


def by_recursion(model):
    total = sum(a.size for a in arrays(model).values())
    trainable = sum(a.size for name, a in arrays(model).items() if name in model.trainable)
    for _, child in children(model):
        t, s = by_recursion(child)
        total, trainable = total + t, trainable + s
    return total, trainable


def list_of_products(model):
    return [sum(math.prod(p.shape) for p in lnp.parameters(model, only).values()) for only in (False, True)]


def numbers_of_numpy(model):
    live = lnp.parameters(model, trainable_only=True)
    sizes = {name: np.prod(p.shape, dtype=int) for name, p in lnp.parameters(model).items()}
    frozen = np.sum([size for name, size in sizes.items() if name not in live])
    trainable = np.sum([size for name, size in sizes.items() if name in live], dtype=int)
    return frozen + trainable, trainable


WRONG = [
    Wrong("low_rank_approximation", singular_values_dropped, "elementwise_factor", ("constant_factor",)),
    Wrong("low_rank_approximation", singular_values_in_both, "elementwise_factor", ("constant_factor",)),
    Wrong("low_rank_approximation", rows_of_u, "transpose", ("shape",)),
    Wrong("low_rank_approximation", v_taken_for_its_transpose, "transpose", ("shape",)),
    Wrong("low_rank_approximation", smallest_singular_values, None),
    Wrong("low_rank_approximation", the_product_itself, None, ("shape",)),
    Wrong("low_rank_approximation", b_before_a, "swapped", ("shape",)),
    Wrong("low_rank_approximation", first_columns, None),
    Wrong("low_rank_approximation", centred_as_in_pca, "extra_term", ("missing_term",)),
    Wrong("low_rank_approximation", always_rank_two, None, ("shape",)),
    Wrong("low_rank_approximation", eigenvalues_taken_for_singular_values, "elementwise_factor"),
    Wrong("low_rank_approximation", approximation_in_double, "dtype"),
    Wrong("rank_for_error", not_squared, None),
    Wrong("rank_for_error", absolute_error, "constant_factor"),
    Wrong("rank_for_error", one_too_many, None),
    Wrong("rank_for_error", kept_instead_of_lost, None),
    Wrong("rank_for_error", share_of_energy, None),
    Wrong("rank_for_error", spectral_norm, None),
    Wrong("rank_for_error", mean_square_against_norm, "mean_vs_sum", ("constant_factor",)),
    Wrong("rank_for_error", largest_rank, None),
    Wrong("rank_for_error", errors_of_all_ranks, None, ("shape",)),
    Wrong("rank_for_error", number_above, None),
    Wrong("count_parameters", trainable_before_total, "swapped"),
    Wrong("count_parameters", arrays_counted, None),
    Wrong("count_parameters", rows_counted, None),
    Wrong("count_parameters", trainable_twice, None, ("missing_term",)),
    Wrong("count_parameters", everything_trainable, None, ("extra_term",)),
    Wrong("count_parameters", matrices_only, "missing_term"),
    Wrong("count_parameters", frozen_for_trainable, None),
    Wrong("count_parameters", bytes_counted, "constant_factor"),
    Wrong("count_parameters", total_alone, None, ("shape",)),
    Wrong("count_parameters", only_the_layers, "missing_term"),
]
RIGHT = [
    Right("low_rank_approximation", values_at_a),
    Right("low_rank_approximation", full_svd_with_diag),
    Right("low_rank_approximation", projection_onto_right_vectors),
    Right("low_rank_approximation", eigenvectors_of_the_smaller_side),
    Right("low_rank_approximation", odd_split),
    Right("rank_for_error", counting_up),
    Right("rank_for_error", by_the_differences_themselves),
    Right("rank_for_error", counting_down),
    Right("rank_for_error", number_of_tails_above),
    Right("count_parameters", by_walking),
    Right("count_parameters", by_recursion),
    Right("count_parameters", list_of_products),
    Right("count_parameters", numbers_of_numpy),
]
