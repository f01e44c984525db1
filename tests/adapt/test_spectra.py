"""The SVD of a product, out of its factors."""

import doctest

import numpy as np
import pytest

from lora_np.adapt import spectra
from lora_np.adapt.spectra import svd_of_product

rng = np.random.default_rng


def test_the_examples_are_true():
    assert not doctest.testmod(spectra).failed


@pytest.mark.parametrize(
    "d_in, r, d_out", [(9, 3, 7), (7, 3, 9), (5, 8, 6), (6, 8, 5), (4, 6, 9), (9, 6, 4), (1, 1, 1)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_thin_svd_of_the_product(d_in, r, d_out, dtype):
    A, B = (rng([r, k]).normal(size=shape).astype(dtype) for k, shape in enumerate([(d_in, r), (r, d_out)]))
    U, s, Vt = svd_of_product(A, B)
    k = min(d_in, r, d_out)
    product = A.astype(np.float64) @ B
    assert (U.shape, s.shape, Vt.shape) == ((d_in, k), (k,), (k, d_out))
    assert {U.dtype, s.dtype, Vt.dtype} == {np.dtype(np.float64)}
    assert (s >= 0).all() and (np.diff(s) <= 0).all()
    np.testing.assert_allclose((U * s) @ Vt, product, rtol=0, atol=1e-12 * s[0])
    np.testing.assert_allclose(s, np.linalg.svd(product, compute_uv=False)[:k], rtol=0, atol=1e-12 * s[0])
    for vectors in (U.T @ U, Vt @ Vt.T):
        np.testing.assert_allclose(vectors, np.eye(k), rtol=0, atol=1e-12)


def test_vectors_are_orthonormal_where_the_rank_is_smaller_or_nothing_was_trained():
    A, B = rng(0).normal(size=(9, 4)), rng(1).normal(size=(4, 7))
    for small, rank in ((np.concatenate([B[:2], B[:2]]), 2), (np.zeros((4, 7)), 0)):
        U, s, Vt = svd_of_product(A, small)
        assert (s[:rank] > 0.1).all() and (s[rank:] < 1e-14 * max(s[0], 1)).all()
        np.testing.assert_allclose(U.T @ U, np.eye(4), rtol=0, atol=1e-12)
        np.testing.assert_allclose(Vt @ Vt.T, np.eye(4), rtol=0, atol=1e-12)


def test_no_array_of_the_products_size_is_made():
    """The product would have 10^10 numbers."""
    A, B = (rng(k).normal(size=shape).astype(np.float32) for k, shape in enumerate([(100_000, 2), (2, 100_000)]))
    _, s, _ = svd_of_product(A, B)
    gram = (A.T.astype(np.float64) @ A) @ (B.astype(np.float64) @ B.T)  # its eigenvalues are the s^2
    np.testing.assert_allclose(np.sort(s**2), np.sort(np.linalg.eigvals(gram).real), rtol=1e-9)


@pytest.mark.parametrize(
    "A, B, words",
    [
        (np.ones((3, 2)), np.ones((3, 2)), r"A \(d_in, r\) and B \(r, d_out\), but they are \(3, 2\) and \(3, 2\)"),
        (np.ones(3), np.ones((3, 2)), r"they are \(3,\) and"),
        (np.full((3, 2), np.nan), np.ones((2, 3)), "not finite"),
        (np.ones((3, 2)), np.full((2, 3), np.inf), "not finite"),
    ],
)
def test_what_has_no_singular_values_is_refused_by_a_sentence(A, B, words):
    with pytest.raises(ValueError, match=words):
        svd_of_product(A, B)
