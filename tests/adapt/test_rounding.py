"""Rounding to the floats of models, and what it leaves of an update."""

import doctest
from fractions import Fraction

import numpy as np
import pytest

from lora_np.adapt import rounding
from lora_np.adapt.rounding import CODES, FLOATS, Rounding, rounded, rounding_of
from lora_np.compress import FORMATS

rng = np.random.default_rng


def test_the_examples_are_true():
    assert not doctest.testmod(rounding).failed


def nearest(x, digits, lowest):
    """Return the float of so many binary digits that is nearest to x, of two the even one, by exact arithmetic.

    `lowest` is the exponent of the smallest normal number.
    """
    x = Fraction(float(x))
    if not x:
        return 0.0
    exponent = max(np.frexp(float(abs(x)))[1] - 1, lowest)
    unit = Fraction(2) ** (int(exponent) - digits + 1)
    return float(round(x / unit) * unit)  # of a Fraction round() goes to the even one


@pytest.mark.parametrize("dtype, digits, lowest", [("bfloat16", 8, -126), ("float16", 11, -14), ("float32", 24, -126)])
@pytest.mark.parametrize("given", [np.float32, np.float64])
def test_each_number_becomes_the_nearest_and_is_rounded_once(dtype, digits, lowest, given):
    x = rng(0).normal(size=200) * 2.0 ** rng(1).integers(-18, 13, 200)
    ties = np.float64([1 + 2.0**-digits * k for k in (1, 3, 5, 2)])
    beside = [ties * (1 + sign * 2.0**-e) for sign in (-1, 1) for e in (20, 30, 50)]  # float32 sees the middle in these
    x = np.concatenate([x, ties, *beside, 2.0**-135 * np.arange(1, 6) / 3, [0.0]])
    x = np.concatenate([x, -x]).astype(given)
    found = rounded(x, dtype)
    assert found.dtype == (np.float32 if dtype == "bfloat16" else np.dtype(dtype))
    assert found.astype(np.float64).tolist() == [nearest(number, digits, lowest) for number in x]
    assert np.array_equal(rounded(found, dtype), found)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_error_is_that_of_the_update(dtype):
    W, dW = rng(0).normal(size=(7, 5)), 0.01 * rng(1).normal(size=(7, 5))
    dW[0] = 1e-12  # too small for any of them
    digits, lowest = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126)}[dtype]
    before, after = (np.vectorize(lambda x: nearest(x, digits, lowest))(array) for array in (W, W + dW))
    found = rounding_of(W, dW, dtype)
    assert found.error == pytest.approx(np.linalg.norm(after - before - dW) / np.linalg.norm(dW), rel=1e-12)
    assert found.size == pytest.approx(np.linalg.norm(dW) / np.linalg.norm(W), rel=1e-12)
    assert found.unchanged == np.mean(before == after) >= 5 / 35
    parts = sum((rounding_of(W[rows], dW[rows], dtype) for rows in (slice(0, 2), slice(2, 7))), Rounding())
    assert (parts.same, parts.entries) == (found.same, 35) and parts.error == pytest.approx(found.error, rel=1e-12)


def test_of_a_weight_that_was_rounded_before_no_more_than_the_update_is_lost():
    W = rounded(rng(0).normal(size=(40, 30)), "bfloat16")
    for size, low, high in ((1e-5, 0.99, 1.0), (1e-3, 0.7, 1.0), (1e-1, 0.0, 0.05)):
        found = rounding_of(W, size * rng(1).normal(size=W.shape), "bfloat16")
        assert low <= found.error <= high
    lost = rounding_of(W, np.full(W.shape, 1e-9), "bfloat16")
    assert lost.error == lost.unchanged == 1.0
    nothing = rounding_of(W, np.zeros(W.shape), "bfloat16")
    assert (nothing.error, nothing.size, nothing.unchanged) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("form", CODES)
def test_a_compressed_form_is_that_of_a_linear_maps_weight(form):
    W = rng(0).normal(size=(40, 70)).astype(np.float32)
    assert np.array_equal(rounded(W, form), FORMATS[form].of(W.T).T.dense())
    assert rounded(W[0], form) is not None and np.array_equal(rounded(W[0], form), W[0])


def test_what_cannot_be_rounded_is_refused_by_a_sentence():
    with pytest.raises(ValueError, match="70000 is beyond float16; float16 ends at 65,504"):
        rounded(np.float32([1, -7e4]), "float16")
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(ValueError, match=rf"1e\+39 is beyond {dtype}; "):
            rounded(np.float64([1, 1e39]), dtype)
    for dtype in ("float64", "half", None):
        with pytest.raises(ValueError, match=f"one of float32, float16, bfloat16, int8.*but dtype is {dtype!r}"):
            rounded(np.ones(3), dtype)
