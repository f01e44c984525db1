import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

# low_rank_approximation(W, r)


@wrong_answer("low_rank_approximation", cause="elementwise_factor", also=("missing_term",))
def approximation_without_singular_values(W, r):
    "The singular values are put into neither factor."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], Vt[:r]


@wrong_answer("low_rank_approximation", cause="elementwise_factor")
def approximation_values_in_both(W, r):
    "The singular values are put into both factors, so they are squared."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], s[:r, None] * Vt[:r]


@wrong_answer("low_rank_approximation", cause="transpose")
def approximation_columns_of_vt(W, r):
    "Takes NumPy's Vt for V: its columns are kept, then transposed; fits for a square W only."
    U, s, V = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], V[:, :r].T


@wrong_answer("low_rank_approximation", cause=None)
def approximation_smallest_values(W, r):
    "eigh sorts upwards, so the first r columns are the weakest directions."
    values, Q = np.linalg.eigh(W @ W.T)
    Q = Q[:, :r]
    return Q, Q.T @ W


@wrong_answer("low_rank_approximation", cause=None)
def approximation_of_symmetric_only(W, r):
    "The eigenvectors of W itself: right for a symmetric W like that of the text."
    values, Q = np.linalg.eigh(W)
    order = np.argsort(-np.abs(values))[:r]
    return Q[:, order] * values[order], Q[:, order].T


@wrong_answer("low_rank_approximation", cause=None)
def approximation_by_qr(W, r):
    "A truncated QR: of rank r, but not the nearest."
    Q, R = np.linalg.qr(W)
    return Q[:, :r], R[:r]


@wrong_answer("low_rank_approximation", cause=None)
def approximation_one_too_many(W, r):
    "Keeps r + 1 directions."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, : r + 1] * s[: r + 1], Vt[: r + 1]


@wrong_answer("low_rank_approximation", cause="wrong_cached_value")
def approximation_scaled_by_next_value(W, r):
    "All columns are multiplied by one singular value, the last kept: right for r = 1."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[r - 1], Vt[:r]


@wrong_answer("low_rank_approximation", cause="shape")
def approximation_as_product(W, r):
    "Returns the product, not its two factors."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * s[:r]) @ Vt[:r]


@wrong_answer("low_rank_approximation", cause="swapped")
def approximation_swapped(W, r):
    "B is returned in front of A."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return s[:r, None] * Vt[:r], U[:, :r]


@wrong_answer("low_rank_approximation", cause="transpose")
def approximation_values_along_rows(W, r):
    "The r singular values are spread over the rows of the first r columns: only a square cut fits."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r].copy()
    for i in range(r):
        A[i] *= s[i]
    return A, Vt[:r]


@right_answer("low_rank_approximation")
def approximation_full_svd(W, r):
    "The full SVD, with the values in B."
    U, s, Vt = np.linalg.svd(W)
    return U[:, :r], np.diag(s[:r]) @ Vt[:r]


@right_answer("low_rank_approximation")
def approximation_by_projection(W, r):
    "Projects W on the strongest eigenvectors of W W^T, as the proof does."
    M = np.asarray(W, dtype=np.float64)
    values, Q = np.linalg.eigh(M @ M.T)
    Q = Q[:, ::-1][:, :r]
    return Q, Q.T @ M


@right_answer("low_rank_approximation")
def approximation_with_odd_scale(W, r):
    "A third of the power of each value in A, two thirds in B, and all signs turned."
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return -U[:, :r] * s[:r] ** (1 / 3), -np.einsum("k,kj->kj", s[:r] ** (2 / 3), Vt[:r])


@right_answer("low_rank_approximation")
def approximation_piece_by_piece(W, r):
    "The SVD of the transposed W, columns and rows gathered in a loop."
    V, s, Ut = np.linalg.svd(W.T, full_matrices=False)
    A = np.zeros((W.shape[0], r))
    B = np.zeros((r, W.shape[1]))
    for k in range(r):
        A[:, k] = s[k] * Ut[k, :]
        B[k, :] = V[:, k]
    return A, B


# rank_for_error(W, error)


@wrong_answer("rank_for_error", cause=None)
def rank_below_only(W, error):
    "Demands less than the error where the text says at most."
    s = np.linalg.svd(W, compute_uv=False).astype(np.float64)
    for r in range(len(s) + 1):
        if (s[r:] ** 2).sum() < error**2 * (s**2).sum():
            return r
    return len(s)


@wrong_answer("rank_for_error", cause=None)
def rank_none_for_a_tiny_error(W, error):
    "The loop ends before the full rank, and then nothing is returned."
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s)):
        if (s[r:] ** 2).sum() <= error**2 * (s**2).sum():
            return r


@wrong_answer("rank_for_error", cause=None)
def rank_error_not_squared(W, error):
    "Squares of the values are compared with the error itself."
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    for r in range(len(s2)):
        if s2[r:].sum() <= error * s2.sum():
            return r
    return len(s2)


@wrong_answer("rank_for_error", cause=None)
def rank_of_values_without_squares(W, error):
    "Sums the singular values, not their squares."
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if s[r:].sum() <= error * s.sum():
            return r


@wrong_answer("rank_for_error", cause="missing_term")
def rank_by_first_value_left_out(W, error):
    "Looks at the first value left out alone: the spectral norm."
    s = np.append(np.linalg.svd(W, compute_uv=False), 0.0)
    for r in range(len(s)):
        if s[r] <= error * np.sqrt((s**2).sum()):
            return r


@wrong_answer("rank_for_error", cause="constant_factor")
def rank_absolute_error(W, error):
    "The error is not taken relative to the size of W."
    s = np.linalg.svd(W, compute_uv=False)
    for r in range(len(s) + 1):
        if np.sqrt((s[r:] ** 2).sum()) <= error:
            return r


@wrong_answer("rank_for_error", cause=None)
def rank_at_least_one(W, error):
    "Starts at 1, so an error of 1 gives 1."
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    for r in range(1, len(s2)):
        if s2[r:].sum() <= error**2 * s2.sum():
            return r
    return len(s2)


@wrong_answer("rank_for_error", cause=None)
def rank_kept_instead_of_lost(W, error):
    "Searches for the rank that keeps the share error, not that loses it."
    s2 = np.linalg.svd(W, compute_uv=False) ** 2
    kept = np.sqrt(np.cumsum(s2) / s2.sum())
    return int((kept < error).sum())


@wrong_answer("rank_for_error", cause=None)
def rank_off_by_one(W, error):
    "An index into the energies kept by rank 1, 2, ... is returned as if it were the rank."
    s2 = np.linalg.svd(W, compute_uv=False).astype(np.float64) ** 2
    lost = 1 - np.cumsum(s2) / s2.sum()
    return int(np.argmax(lost <= error**2 + 1e-12))


@wrong_answer("rank_for_error", cause="shape")
def rank_of_square_only(W, error):
    "Eigenvalues of W in place of singular values: raises unless W is square."
    s2 = np.sort(np.abs(np.linalg.eigvals(W)) ** 2)[::-1]
    for r in range(len(s2) + 1):
        if s2[r:].sum() <= error**2 * s2.sum():
            return r


@wrong_answer("rank_for_error", cause=None)
def rank_full_side(W, error):
    "Falls back on the number of rows, which a tall W's rank never reaches."
    s2 = np.linalg.svd(W, compute_uv=False).astype(np.float64) ** 2
    for r in range(len(s2)):
        if s2[r:].sum() <= error**2 * s2.sum():
            return r
    return W.shape[0]


@right_answer("rank_for_error")
def rank_from_the_weak_end(W, error):
    "Leaves out one value after the other, the weakest first."
    if error >= 1:
        return 0
    s = np.linalg.svd(W, compute_uv=False).astype(np.float64)
    allowed = error * error * (s * s).sum()
    r, lost = len(s), 0.0
    while r > 0 and lost + s[r - 1] ** 2 <= allowed:
        r -= 1
        lost += s[r] ** 2
    return r


@right_answer("rank_for_error")
def rank_by_counting(W, error):
    "Counts the ranks that are not good enough."
    if error >= 1:
        return 0
    s = np.linalg.svd(np.asarray(W, np.float64), compute_uv=False)
    tails = np.array([np.dot(s[r:], s[r:]) for r in range(len(s))])
    return int(np.count_nonzero(tails > error**2 * tails[0]))


@right_answer("rank_for_error")
def rank_by_next(W, error):
    "A generator over the ranks; the empty sum makes the last one always good enough."
    squares = [float(value) ** 2 for value in np.linalg.svd(W, compute_uv=False)]
    limit = error**2 * sum(squares)
    return next(r for r in range(len(squares) + 1) if sum(squares[r:]) <= limit)


@right_answer("rank_for_error")
def rank_of_the_transpose(W, error):
    "From the transposed matrix, with norms in place of squares."
    s = np.linalg.svd(np.transpose(W).astype(float), compute_uv=False)
    size = math.sqrt(math.fsum(s * s))
    rank = 0
    while rank < len(s) and math.sqrt(math.fsum(s[rank:] ** 2)) > error * size * (1 + 1e-14):
        rank += 1
    return rank
