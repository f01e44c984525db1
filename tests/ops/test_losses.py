"""The losses of several labels and of regression: by hand, at the ends of the numbers, and what is refused."""

import numpy as np
import pytest

from lora_np import ops

rng = np.random.default_rng(0)
INF = np.inf


def test_squared_error_by_hand():
    y, t = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 4.0]]), np.array([[0.0, 2.5], [-1.0, 0.5], [3.0, 4.5]])
    loss, cache = ops.squared_error_forward(y, t)
    assert np.isclose(loss, (1 + 0.25 + 4 + 0 + 9 + 0.25) / 6, rtol=1e-15)
    assert np.allclose(ops.squared_error_backward(1.7, cache), 1.7 * 2 * (y - t) / 6, rtol=1e-15)
    total, cache = ops.squared_error_forward(y, t, "sum")
    assert np.isclose(total, 6 * loss, rtol=1e-15)
    assert np.allclose(ops.squared_error_backward(1.0, cache), 2 * (y - t), rtol=1e-15)


def test_sigmoid_cross_entropy_by_hand():
    z, t = rng.standard_normal((4, 3)), np.array([[0, 1, 1], [1, 0, 0], [0.25, 1, 0], [0, 0.9, 1]])
    p = 1 / (1 + np.exp(-z))
    loss, cache = ops.sigmoid_cross_entropy_forward(z, t)
    assert np.isclose(loss, np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p)), rtol=1e-14)
    assert np.allclose(ops.sigmoid_cross_entropy_backward(1.7, cache), 1.7 * (p - t) / 12, rtol=1e-13)
    total, _ = ops.sigmoid_cross_entropy_forward(z, t, reduction="sum")
    assert np.isclose(total, 12 * loss, rtol=1e-15)


@pytest.mark.parametrize(("large", "dtype"), [(1e308, np.float64), (3e38, np.float32), (INF, np.float32)])
def test_the_largest_logits_overflow_nowhere(large, dtype):
    z = np.array([[large, -large, large, -large]], dtype)
    loss, cache = ops.sigmoid_cross_entropy_forward(z, np.array([[1.0, 0.0, 1.0, 0.0]], dtype), "sum")
    assert loss == 0 and (ops.sigmoid_cross_entropy_backward(1.0, cache) == 0).all()
    loss, cache = ops.sigmoid_cross_entropy_forward(z[:, :2], np.array([[0.0, 1.0]], dtype), "mean")
    assert loss >= large * 0.99
    assert np.array_equal(ops.sigmoid_cross_entropy_backward(1.0, cache), [[0.5, -0.5]])


def test_small_probabilities_are_not_lost():
    """log(1 - p) of p = e-40 would be 0, if 1 - p were taken first; and 1 - p of z = 40 is 0 in float64."""
    loss, _ = ops.sigmoid_cross_entropy_forward(np.array([[-40.0, 40.0]]), np.array([[0.0, 1.0]]), "sum")
    assert np.isclose(loss, 2 * np.exp(-40.0), rtol=1e-15)


def test_targets_do_not_widen_the_dtype():
    for forward, backward in (
        (ops.squared_error_forward, ops.squared_error_backward),
        (ops.sigmoid_cross_entropy_forward, ops.sigmoid_cross_entropy_backward),
    ):
        loss, cache = forward(np.ones((2, 3), np.float32), np.ones((2, 3)))
        assert loss.dtype == backward(1.0, cache).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: ops.squared_error_forward(np.ones((4, 1)), np.ones(4)), r"y \(4, 1\) float64, targets \(4,\)"),
        (lambda: ops.squared_error_forward(np.ones((4, 1)), np.ones((1, 4))), r"targets \(1, 4\)"),
        (lambda: ops.squared_error_forward(np.ones((0, 2)), np.ones((0, 2))), "over 0"),
        (lambda: ops.squared_error_forward(np.ones((4, 1)), np.ones((4, 1)), "none"), "'none', over 4"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), np.ones((2, 2))), r"targets \(2, 2\)"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), 2 * np.ones((2, 3))), "from 2.0 to 2.0"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), -np.ones((2, 3))), "from -1.0 to -1.0"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), np.nan * np.ones((2, 3))), "from nan"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), np.ones((2, 3), int)), "int64"),
        (lambda: ops.sigmoid_cross_entropy_forward(np.ones((2, 3)), np.ones((2, 3)), reduction="Mean"), "'Mean'"),
    ],
)
def test_bad_input_is_named(call, received):
    with pytest.raises(ValueError, match=received):
        call()
