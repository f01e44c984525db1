"""The best approximation of rank r: its error is what the other singular values hold, and no other is nearer."""

import numpy as np
import pytest

from lora_np.compress import low_rank_approximation, rank_for_error

W = np.random.default_rng(0).standard_normal((7, 5))
SINGULAR = np.linalg.svd(W, compute_uv=False)


@pytest.mark.parametrize("r", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_error_is_that_of_eckart_and_young(r, dtype):
    A, B = low_rank_approximation(W.astype(dtype), r)
    assert A.shape == (7, r) and B.shape == (r, 5) and A.dtype == B.dtype == dtype
    error = np.linalg.norm(W - A @ B)
    assert abs(error - np.sqrt((SINGULAR[r:] ** 2).sum())) < (1e-12 if dtype == np.float64 else 1e-5)
    rng = np.random.default_rng(r)
    for _ in range(20 if r < 5 else 0):
        near = (A + 0.1 * rng.standard_normal(A.shape)) @ (B + 0.1 * rng.standard_normal(B.shape))
        assert np.linalg.norm(W - near) > error


def test_the_rank_for_an_error_is_the_smallest():
    for error in (0.05, 0.3, 0.6, 0.9):
        r = rank_for_error(W, error)
        A, B = low_rank_approximation(W, r)
        assert np.linalg.norm(W - A @ B) <= error * np.linalg.norm(W)
        less = np.sqrt((SINGULAR[r - 1 :] ** 2).sum())
        assert less > error * np.linalg.norm(W)
    assert rank_for_error(W, 0.0) == 5 and rank_for_error(W, 1.0) == 0


def test_what_has_no_rank():
    with pytest.raises(ValueError, match=r"ranks from 1 to its smaller side, but W is \(7, 5\) and r = 6"):
        low_rank_approximation(W, 6)
    with pytest.raises(ValueError, match="error of at least 0"):
        rank_for_error(W, -0.1)
