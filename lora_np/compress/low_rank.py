"""The best approximation of a matrix by one of rank r: keep the r largest singular values.

With W = U diag(s) V^T, s_1 >= s_2 >= ... >= 0, no matrix of rank r is nearer to W in the Frobenius norm than the sum of
the first r terms s_k u_k v_k^T; its distance is sqrt(s_{r+1}^2 + s_{r+2}^2 + ...).

In the place of a weight, the two thin factors A (R, r) and B (r, C) of M hold r (R + C) numbers for R C, and a product
multiplies as much less: x M = (x A) B and x M^T = (x B^T) A^T. Below r = R C / (R + C), half the side of a square, both
are won. The one format that is faster than what it replaces, and the coarsest: weights have no small rank (chapter 1).

Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank", Psychometrika 1.
"""

from dataclasses import dataclass

import numpy as np

from lora_np.compress.matrix import FrozenMatrix, check_matrix


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(FrozenMatrix):
    """A matrix of rank r, as the product of two thin ones."""

    A: np.ndarray  # (R, r)
    B: np.ndarray  # (r, C)

    @classmethod
    def of(cls, M, r):
        """Return the matrix of rank r that is nearest to M (R, C)."""
        check_matrix(M, "low_rank")
        A, B = low_rank_approximation(M, r)
        return cls(A, B, columns=M.shape[1], dtype=M.dtype)

    def factors(self):
        return self.A.astype(self.dtype, copy=False), self.B.astype(self.dtype, copy=False)

    def times(self, x):
        A, B = self.factors()
        return x @ A @ B

    def times_transposed(self, x):
        A, B = self.factors()
        return x @ B.T @ A.T

    def decoded(self, rows):
        A, B = self.factors()
        return A[rows] @ B


def low_rank_approximation(W, r):
    """Return A (d_in, r) and B (r, d_out) whose product is the matrix of rank r nearest to W (d_in, d_out).

    Each takes the root of the singular values, so that both have the same norm.

    Raises
    ------
    ValueError
        If W is no matrix, or r is not between 1 and its smaller side.
    """
    if W.ndim != 2 or not 1 <= r <= min(W.shape):
        raise ValueError(
            f"a matrix (d_in, d_out) has ranks from 1 to its smaller side, but W is {W.shape} and r = {r}."
        )
    return leading_factors(*np.linalg.svd(W, full_matrices=False), r)


def leading_factors(U, s, Vt, r):
    """Return A (d_in, r) and B (r, d_out), whose product is the first r terms of an SVD; each takes the root of s."""
    root = np.sqrt(s[:r])  # (r,)
    return U[:, :r] * root, root[:, None] * Vt[:r]


def rank_for_error(W, error):
    """Return the smallest rank whose best approximation differs from W by at most `error`, relative to W.

    Both are measured in the Frobenius norm. An error of 1 or more needs no rank at all: 0.

    Raises
    ------
    ValueError
        If W is no matrix, or the error is negative.
    """
    if W.ndim != 2 or not error >= 0:
        raise ValueError(
            f"rank_for_error needs a matrix and an error of at least 0, but W is {W.shape}, error {error}."
        )
    return smallest_rank(np.linalg.svd(W, compute_uv=False), error * error)


def smallest_rank(s, share):
    """Return how many of the descending singular values s leave out at most a share of the energy, the sum of s^2."""
    energy = s.astype(np.float64) ** 2
    lost = np.append(np.cumsum(energy[::-1])[::-1], 0.0)  # lost[r]: what a rank of r leaves out
    return int(np.argmax(lost <= share * lost[0]))
