"""Masked classes and keys, rows that do not count, constant rows, and the largest numbers there are."""

import numpy as np
import pytest

from lora_np import ops

INF, NAN = np.inf, np.nan
rng = np.random.default_rng(0)


def entropy(logits, labels, dtype=np.float64, **options):
    """Return the loss and the gradient; any warning of NumPy is an error."""
    loss, cache = ops.cross_entropy_forward(np.array(logits, dtype), labels, **options)
    return loss, ops.cross_entropy_backward(1.0, cache)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_a_masked_class_is_as_if_it_were_not_there(label_smoothing, dtype):
    logits, labels = rng.standard_normal((5, 4)), np.array([0, 2, 1, -100, 2])
    loss, dlogits = entropy(logits[:, [0, 1, 3]], labels, dtype, label_smoothing=label_smoothing)
    masked = logits.copy()
    masked[:, 2] = -INF
    found, gradient = entropy(masked, np.where(labels == 2, 3, labels), dtype, label_smoothing=label_smoothing)
    assert np.isclose(found, loss, rtol=1e-6 if dtype == np.float32 else 1e-14)
    assert np.allclose(gradient[:, [0, 1, 3]], dlogits, rtol=1e-5, atol=1e-7)
    assert (gradient[:, 2] == 0).all()


def test_classes_may_be_masked_row_by_row():
    loss, dlogits = entropy([[0, -INF, 1]], [0])
    assert np.isclose(loss, 1.3132616875182228, rtol=1e-15)
    assert np.allclose(dlogits, [[-0.7310585786300049, 0, 0.7310585786300049]], rtol=1e-15)
    loss, dlogits = entropy([[0, -INF, 1], [2, 0, -INF], [-INF, 5, -INF]], [0, 1, 1], label_smoothing=0.1)
    by_hand = [np.log1p(np.e) - 0.05, np.log1p(np.exp(2)) - 0.1, 0.0]  # the smoothing is over the classes that are left
    assert np.isclose(loss, np.mean(by_hand), rtol=1e-14)
    assert (dlogits[2] == 0).all() and np.allclose(dlogits.sum(axis=1), 0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_label_on_a_masked_class_has_an_infinite_loss_and_the_gradient_p_minus_q(label_smoothing):
    loss, dlogits = entropy([[0, -INF, 1]], [1], label_smoothing=label_smoothing)
    near, limit = entropy([[0, -1e4, 1]], [1])
    assert loss == INF and np.isfinite(near)
    if not label_smoothing:
        assert np.array_equal(dlogits, limit)
    assert np.isfinite(dlogits).all() and dlogits[0, 1] == -(1 - label_smoothing)


def test_a_row_without_any_class_is_refused_if_it_counts():
    with pytest.raises(ValueError, match="all logits of a row that counts are -infinity"):
        entropy([[0, 1], [-INF, -INF]], [0, 0])
    assert np.isclose(entropy([[0, 1], [-INF, -INF]], [0, -100])[0], entropy([[0, 1]], [0])[0])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e308])
def test_what_an_ignored_row_holds_makes_no_difference(junk, label_smoothing, reduction):
    logits = rng.standard_normal((3, 4))
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    loss, dlogits = entropy(logits[:2], [1, 3], **options)
    logits[2] = junk
    logits[2, 0] = 0.0
    found, gradient = entropy(logits[[0, 2, 1]], [1, -100, 3], **options)
    assert np.isclose(found, loss, rtol=1e-15)
    assert np.allclose(gradient, [dlogits[0], np.zeros(4), dlogits[1]], rtol=1e-15, atol=0)


@pytest.mark.parametrize(("large", "dtype"), [(1e308, np.float64), (3e38, np.float32)])
def test_differences_of_the_largest_logits_overflow_nowhere(large, dtype):
    loss, dlogits = entropy([[large, -large]], [0], dtype)
    assert loss == 0 and (dlogits == 0).all() and loss.dtype == dlogits.dtype == dtype
    loss, dlogits = entropy([[large, -large]], [0], dtype, label_smoothing=0.2)
    assert np.isclose(loss, 0.1 * (2.0 * 0.1 * large) * 10, rtol=1e-6)  # 0.1 times the difference, which is no number
    assert np.allclose(dlogits, [[0.1, -0.1]], rtol=1e-6)
    loss, dlogits = entropy([[large, -large]], [1], dtype)
    assert loss == INF and np.array_equal(dlogits, [[1, -1]])  # the loss itself is above all numbers
    assert np.isclose(entropy([[large, large]], [0], dtype)[0], np.log(2))
    assert np.isclose(entropy([[-large, -large, -INF]], [0], dtype)[0], np.log(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [3, 64, 100, 384, 768, 1000])
@pytest.mark.parametrize("constant", [3.3, -0.1, 1e-3, 0.7, 1234.5, 1e8, 1e30, 3e38, 0.0])
def test_layer_norm_of_a_constant_row_is_beta(constant, d, dtype):
    x, gamma, beta = np.full((3, d), constant, dtype), rng.standard_normal(d).astype(dtype), np.ones(d, dtype)
    x[1] = np.linspace(-1, 1, d)  # the rows beside it are not touched
    y, cache = ops.layer_norm_forward(x, gamma, beta, 1e-12)
    assert np.array_equal(y[[0, 2]], np.ones((2, d)))
    assert (cache.xhat[[0, 2]] == 0).all()
    beside = (x[1] - np.mean(x[1])) / np.std(x[1]) * gamma + beta
    assert np.allclose(y[1], beside, rtol=1e-5, atol=1e-5)
    assert np.isfinite(ops.layer_norm_backward(np.ones_like(x), cache)[0]).all()


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("constant", [3.3, 1e6])
def test_layer_norm_of_a_row_that_is_nearly_constant(constant, step):
    """Some roundings of float32 apart: the mean's own rounding is as large."""
    x = np.full((2, 384), constant, np.float32)
    x[0, 5], x[1, ::2] = (x[0, 0] + k * step * np.spacing(x[0, 0]) for k in (1, 2))
    exact = x.astype(np.longdouble)
    exact -= exact.mean(axis=1, keepdims=True)
    exact /= np.sqrt((exact * exact).mean(axis=1, keepdims=True) + 1e-12)
    y, _ = ops.layer_norm_forward(x, np.ones(384, np.float32), np.zeros(384, np.float32), 1e-12)
    assert np.abs(y - exact).max() <= 1e-5 * np.abs(exact).max()


def test_a_complex_step_runs_through_a_constant_row():
    gamma, beta, dy, v = rng.standard_normal((4, 7))
    x = np.full((1, 7), 3.3)
    _, cache = ops.layer_norm_forward(x, gamma, beta, 1e-5)
    slope = (ops.layer_norm_forward(x + 1e-30j * v, gamma, beta, 1e-5)[0].imag / 1e-30 * dy).sum()
    assert np.isclose((ops.layer_norm_backward(dy[None], cache)[0] * v).sum(), slope, rtol=1e-11)


def attention_of_scores(scores, dtype, visible=None):
    """Return P for queries and keys whose products are the given ones: a scale of 1, and each query alone with each."""
    scores = np.array(scores, dtype)
    Q = np.ones((1, 1, 1, 1), dtype)
    return ops.attention_forward(Q, scores.reshape(1, 1, -1, 1), np.ones((1, 1, len(scores), 1), dtype), visible)[1].P


@pytest.mark.parametrize(("large", "dtype"), [(1e308, np.float64), (3e38, np.float32)])
def test_attention_of_the_largest_scores(large, dtype):
    assert np.array_equal(attention_of_scores([large, -large, 0], dtype)[0, 0], [[1, 0, 0]])
    assert np.array_equal(attention_of_scores([-large, -large], dtype)[0, 0], [[0.5, 0.5]])
    hidden = attention_of_scores([large, -large, -large], dtype, np.array([False, True, True]))
    assert np.array_equal(hidden[0, 0], [[0, 0.5, 0.5]])


@pytest.mark.parametrize(("size", "dtype"), [(1e200, np.float64), (1e25, np.float32)])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_overflow(size, dtype, sign):
    """Of each query and key the product is far above all numbers, or below; the greatest takes all."""
    Q = np.array([[1.0, 0.5], [0.5, 1.0], [0, 0]], dtype).reshape(1, 1, 3, 2) * dtype(sign * size)
    K = np.array([[1, 2], [2, 1], [1, 1]], dtype).reshape(1, 1, 3, 2) * dtype(size)
    visible = np.array([[True, True, False], [True, True, True], [True, True, True]])
    O, cache = ops.attention_forward(Q, K, np.eye(3, dtype=dtype)[None, None], visible)
    first = [[0, 1, 0], [1, 0, 0]] if sign > 0 else [[1, 0, 0], [0, 0, 1]]
    assert np.array_equal(cache.P[0, 0, :2], first)
    assert np.allclose(cache.P[0, 0, 2], 1 / 3)  # its own scores are zero
    dQ, dK, dV = ops.attention_backward(np.ones_like(O), cache)
    assert (dQ == 0).all() and (dK == 0).all() and np.isfinite(dV).all()


def test_scores_that_overflow_beside_small_ones_leave_these_as_they_are():
    Q, K = rng.standard_normal((2, 1, 1, 4, 5))
    plain = ops.attention_forward(Q, K, K)[1].P
    Q[0, 0, 0] = 1e200
    K = K.copy()
    K[..., 0] = 1e200  # the same for all keys: it cancels, but for the first query, whose scores overflow
    Q[0, 0, 1:, 0] = 0.0
    large = ops.attention_forward(Q, K, K)[1].P
    K[..., 0] = 0.0
    assert np.allclose(large[0, 0, 1:], ops.attention_forward(Q[:, :, 1:], K, K)[1].P[0, 0])
    assert np.isfinite(large).all() and np.isfinite(plain).all()


def test_a_hidden_key_may_hold_anything():
    Q, K, V = rng.standard_normal((3, 1, 1, 3, 4))
    right = ops.attention_forward(Q, K[:, :, :2], V[:, :, :2])[0]
    for junk in (NAN, INF, 1e308):
        K[0, 0, 2] = junk
        found = ops.attention_forward(Q, K, V, np.array([True, True, False]))[0]
        assert np.allclose(found, right, rtol=1e-12)
        large = K.copy()
        large[:, :, :2] *= 1e200
        found = ops.attention_forward(1e200 * Q, large, V, np.array([True, True, False]))[1].P
        assert np.array_equal(found[..., :2], ops.attention_forward(1e200 * Q, large[:, :, :2], V[:, :, :2])[1].P)
