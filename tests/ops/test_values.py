"""What each operation computes, beyond its gradients; and what it says when it cannot."""

import math

import numpy as np
import pytest

from lora_np import ops

rng = np.random.default_rng(0)


def test_erf_is_accurate_in_both_dtypes():
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.0, np.inf, -np.inf, 1e-300, 30.0]])
    exact = np.array([math.erf(v) for v in x])
    assert np.abs(ops.erf(x) - exact).max() < 1e-15
    single = x.astype(np.float32)
    exact = np.array([math.erf(float(v)) for v in single])
    result = ops.erf(single)
    assert result.dtype == np.float32
    assert np.abs(result - exact).max() < 2e-7
    assert np.isnan(ops.erf(np.array([np.nan], np.float32))).all()
    assert np.isnan(ops.erf(np.array([np.nan]))).all()


def test_erf_of_large_numbers_overflows_nowhere():
    x = np.array([-1e30, -1e4, 7.0, 1e4, 1e30], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        assert np.array_equal(ops.erf(x), np.sign(x))


def test_gelu_in_single_precision_is_that_in_double():
    x = np.concatenate([np.linspace(-12, 12, 20001), [-1e30, -1e4, 1e4, 1e30]])
    with np.errstate(over="raise", invalid="raise"):
        y, cache = ops.gelu_forward(x.astype(np.float32))
    assert y.dtype == cache.cdf.dtype == np.float32
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x])
    assert np.abs(cache.cdf - exact).max() < 1.5e-7
    assert (np.abs(y - x * exact) <= 2e-7 * np.abs(x)).all()
    x, dy = rng.standard_normal((2, 70, 301))
    single = ops.gelu_backward(dy.astype(np.float32), ops.gelu_forward(x.astype(np.float32))[1])
    assert np.abs(single - ops.gelu_backward(dy, ops.gelu_forward(x)[1])).max() < 2e-6


def test_derivative_of_erf_by_complex_step_is_its_true_derivative():
    x = np.linspace(-6, 6, 4001)
    slope = ops.erf(x + 1e-30j).imag / 1e-30
    assert np.abs(slope - 2 / math.sqrt(math.pi) * np.exp(-x * x)).max() < 1e-13


def test_erf_and_gelu_of_any_shape_and_layout():
    x = rng.standard_normal((70, 301)).T[::2]
    assert np.allclose(ops.erf(x), np.vectorize(math.erf)(x), atol=1e-15, rtol=0)
    cdf = 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    assert np.allclose(ops.gelu_forward(x)[0], x * cdf, atol=1e-14, rtol=0)
    assert ops.erf(np.array(0.5)).shape == ()


def test_lora_linear_at_zero_B_is_the_linear_map_to_the_bit():
    x, W, b, A = (rng.standard_normal(shape).astype(np.float32) for shape in [(9, 5), (5, 4), (4,), (5, 2)])
    y, _ = ops.linear_forward(x, W, b)
    adapted, _ = ops.lora_linear_forward(x, W, b, A, np.zeros((2, 4), np.float32), 1.7)
    assert np.array_equal(y, adapted)


def test_lora_gradients_are_two_projections_of_the_full_gradient():
    x, W, A, B, dy, mask = (rng.standard_normal(s) for s in [(9, 5), (5, 4), (5, 2), (2, 4), (9, 4), (9, 5)])
    _, cache = ops.lora_linear_forward(x, W, None, A, B, 1.7, mask)
    _, dA, dB = ops.lora_linear_backward(dy, cache)
    G = (x * mask).T @ dy
    assert np.allclose(dA, 1.7 * G @ B.T, rtol=1e-12)
    assert np.allclose(dB, 1.7 * A.T @ G, rtol=1e-12)


@pytest.mark.parametrize("shift", [-300.0, -100.0, 0.0, 100.0, 300.0])
def test_attention_of_large_scores_is_that_of_small_ones(shift):
    Q, K, V = (rng.standard_normal(shape).astype(np.float32) for shape in [(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2)])
    Q[..., 0], K[..., 0] = 1.0, 0.0
    _, small = ops.attention_forward(Q, K, V)
    K[..., 0] = shift  # adds the same to all scores: exp would overflow, or vanish in a whole row, at 300 / sqrt(5)
    with np.errstate(over="raise", invalid="raise"):
        _, large = ops.attention_forward(Q, K, V)
    assert np.abs(large.P - small.P).max() < 1e-4  # the rounding of the large scores themselves


def test_attention_weights_are_a_mean_over_the_visible_keys():
    Q, K, V = (rng.standard_normal((2, 3, 5, d)) for d in (4, 4, 6))
    O, cache = ops.attention_forward(Q, K, V, np.tri(5, dtype=bool))
    assert np.allclose(cache.P.sum(axis=3), 1.0)
    assert (cache.P[..., ~np.tri(5, dtype=bool)] == 0).all()
    assert np.allclose(O[:, :, 0], V[:, :, 0])  # the first query sees the first key alone
    shifted, _ = ops.attention_forward(Q, K + 100.0 * rng.standard_normal((2, 3, 1, 4)), V)
    assert np.allclose(shifted, ops.attention_forward(Q, K, V)[0])  # a constant per row of scores changes nothing


def test_attention_survives_large_scores():
    Q = 1e3 * rng.standard_normal((1, 1, 4, 8)).astype(np.float32)
    O, _ = ops.attention_forward(Q, Q, Q)
    assert np.isfinite(O).all()


def test_embedding_adds_up_repeated_ids():
    dy = rng.standard_normal((200, 3))
    ids = rng.integers(0, 7, 200)
    _, cache = ops.embedding_forward(np.zeros((9, 3)), ids)
    expected = np.array([dy[ids == row].sum(axis=0) for row in range(9)])
    assert np.allclose(ops.embedding_backward(dy, cache), expected, rtol=1e-13, atol=1e-13)
    assert (expected[7:] == 0).all()


def test_patches_are_the_squares_in_reading_order_and_go_back():
    images = np.arange(2 * 4 * 6 * 3, dtype=float).reshape(2, 4, 6, 3)
    y, cache = ops.patches_forward(images, 2)
    assert y.shape == (2, 6, 12)
    assert np.array_equal(y[1, 4].reshape(3, 2, 2), images[1, 2:4, 2:4].transpose(2, 0, 1))
    assert np.array_equal(ops.patches_backward(y, cache), images)


def test_dropout_keeps_the_mean_and_depends_on_the_seed_not_on_the_dtype():
    masks = [ops.dropout_mask((300, 400), 0.2, np.random.default_rng(1), dtype) for dtype in (np.float32, np.float64)]
    assert masks[0].dtype == np.float32
    assert np.array_equal(masks[0] > 0, masks[1] > 0)
    assert abs(masks[1].mean() - 1.0) < 0.005
    assert set(np.unique(masks[1])) == {0.0, 1.25}
    assert ops.dropout_mask((2, 2), 0.0, np.random.default_rng(1), float) is None
    assert ops.dropout_mask((2, 2), 0.5, None, float) is None


def test_cross_entropy_ignores_and_averages():
    logits, labels = rng.standard_normal((5, 3)), np.array([2, -100, 0, 1, -100])
    loss, cache = ops.cross_entropy_forward(logits, labels)
    rows = [0, 2, 3]
    exact = np.mean([np.log(np.exp(logits[k]).sum()) - logits[k, labels[k]] for k in rows])
    assert np.isclose(loss, exact, rtol=1e-14)
    assert (ops.cross_entropy_backward(1.0, cache)[[1, 4]] == 0).all()
    total, _ = ops.cross_entropy_forward(logits, labels, reduction="sum")
    assert np.isclose(total, 3 * exact, rtol=1e-14)
    assert np.isfinite(ops.cross_entropy_forward(1e4 * logits, labels)[0])


def test_pooling_by_hand():
    x = np.arange(20.0).reshape(10, 2)
    groups = ((0, 4, 2, 2), (4, 10, 2, 3))
    assert np.array_equal(ops.pool_mean_forward(x, groups)[0], [[1, 2], [5, 6], [10, 11], [16, 17]])
    assert np.array_equal(ops.pool_first_forward(x, groups)[0], x[[0, 2, 4, 7]])
    assert np.array_equal(ops.pool_last_forward(x, groups)[0], x[[1, 3, 6, 9]])


def test_layer_norm_of_rows_far_from_zero():
    whole = rng.integers(-9, 9, (4, 384)).astype(np.float64)
    far = (1000 + rng.standard_normal((4, 384))).astype(np.float32)
    far[:, 0] = 1000  # near the mean
    for x, dtype, error in ((whole, np.float64, 1e-13), (far, np.float32, 3e-6)):
        y, cache = ops.layer_norm_forward(x, np.ones(384, dtype), np.zeros(384, dtype), 1e-12)
        expected = (x - np.mean(x, 1, np.float64, keepdims=True)) / np.std(x, 1, np.float64, keepdims=True)
        assert y.dtype == cache.inverse_std.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=0, atol=error)


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: ops.linear_forward(np.ones((2, 3)), np.ones((4, 5))), r"\(2, 3\).*\(4, 5\)"),
        (lambda: ops.linear_forward(np.ones((2, 3, 4)), np.ones((4, 5))), r"\(2, 3, 4\)"),
        (lambda: ops.linear_forward(np.ones((2, 4)), np.ones((4, 5)), np.ones(4)), r"b \(4,\)"),
        (lambda: ops.lora_linear_forward(*map(np.ones, [(2, 3), (3, 4), 4, (2, 3), (2, 4)]), 1.0), r"A \(2, 3\)"),
        (lambda: ops.layer_norm_forward(np.ones((2, 3)), np.ones(2), np.ones(3), 1e-5), r"\(2,\)"),
        (lambda: ops.attention_forward(*(np.ones((1, 2, 3, d)) for d in (4, 5, 4))), r"\(1, 2, 3, 5\)"),
        (lambda: ops.attention_forward(*3 * [np.ones((1, 1, 2, 2))], visible=np.ones((2, 2))), "float64"),
        (
            lambda: ops.attention_forward(*3 * [np.ones((1, 1, 2, 2))], visible=np.zeros((2, 2), bool)),
            "hides every key",
        ),
        (lambda: ops.embedding_forward(np.ones((3, 2)), np.array([0, 3])), "0 to 3.*rows 0 to 2"),
        (lambda: ops.embedding_forward(np.ones((3, 2)), np.array([-1, 2])), "-1"),
        (lambda: ops.embedding_forward(np.ones((3, 2)), np.array([1.0])), "float64"),
        (lambda: ops.patches_forward(np.ones((1, 8, 8, 1)), 3), "3 x 3"),
        (lambda: ops.dropout_mask((2,), 1.0, None, float), "1.0"),
        (lambda: ops.cross_entropy_forward(np.ones((2, 3)), np.array([0, 3])), "label 3 .*3 classes"),
        (lambda: ops.cross_entropy_forward(np.ones((2, 3)), np.array([0, -1])), "label -1"),
        (lambda: ops.cross_entropy_forward(np.ones((2, 3)), np.array([0.0, 1.0])), "float64"),
        (lambda: ops.cross_entropy_forward(np.ones((2, 3)), np.array([-100, -100])), "no row counts"),
        (lambda: ops.cross_entropy_forward(np.ones((2, 3)), np.array([0, 1]), reduction="none"), "'none'"),
    ],
)
def test_bad_input_is_named(call, received):
    with pytest.raises(ValueError, match=received):
        call()
