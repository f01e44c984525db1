"""Right backwards pass: no false alarm, whatever the size, dtype, kinks or rounding of the function."""

import math
import warnings

import numpy as np
import pytest

from lora_np.gradcheck import check

SEEDS = range(5)


def linear(x, W, b):
    return x @ W + b, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


def layer_norm(x, gamma, beta, eps):
    centred = x - x.mean(axis=1, keepdims=True)
    r = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + eps)
    return centred * r * gamma + beta, (centred * r, gamma, r)


def layer_norm_by_var(x, gamma, beta, eps):
    """The complex step through np.var is silently wrong: it takes |x - mean|^2."""
    normal = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(np.var(x, axis=1, keepdims=True) + eps)
    return normal * gamma + beta, layer_norm(x, gamma, beta, eps)[1]


def layer_norm_backward(dy, cache):
    normal, gamma, r = cache
    d = dy * gamma
    dx = r * (d - d.mean(axis=1, keepdims=True) - normal * (d * normal).mean(axis=1, keepdims=True))
    return dx, (dy * normal).sum(axis=0), dy.sum(axis=0)


def softmax(x):
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p


def softmax_backward(dp, p):
    return p * (dp - (p * dp).sum(axis=-1, keepdims=True))


def cross_entropy(z, labels):
    p, _ = softmax(z)
    return float(-np.log(p[np.arange(len(labels)), labels]).mean()), (p, labels)


def cross_entropy_backward(dloss, cache):
    p, labels = cache
    dz = p.copy()
    dz[np.arange(len(labels)), labels] -= 1
    return dloss / len(labels) * dz


def attention(x, Q, q, K, k, V, v):
    queries, keys, values = x @ Q + q, x @ K + k, x @ V + v
    p, _ = softmax(0.5 * (queries @ keys.T))
    return p @ values, (x, Q, K, V, queries, keys, values, p)


def attention_backward(do, cache):
    x, Q, K, V, queries, keys, values, p = cache
    dv = p.T @ do
    ds = 0.5 * softmax_backward(do @ values.T, p)
    dq, dk = ds @ keys, ds.T @ queries
    dx = dq @ Q.T + dk @ K.T + dv @ V.T
    return dx, x.T @ dq, dq.sum(axis=0), x.T @ dk, dk.sum(axis=0), x.T @ dv, dv.sum(axis=0)


def relu(x):
    return np.maximum(x, 0), x


def relu_backward(dy, x):
    return dy * (x > 0)


def relu_backward_other_side(dy, x):
    return dy * (x >= 0)


def perceptron(x, W, b):
    y, cache = linear(x, W, b)
    return np.maximum(y, 0), (y > 0, cache)


def perceptron_backward(dy, cache):
    return linear_backward(dy * cache[0], cache[1])


def maximum(x):
    return x.max(axis=1), x


def maximum_backward_first(dy, x):
    dx = np.zeros_like(x)
    dx[np.arange(len(x)), x.argmax(axis=1)] = dy
    return dx


def maximum_backward_shared(dy, x):
    ties = x == x.max(axis=1, keepdims=True)
    return (dy / ties.sum(axis=1).astype(x.dtype))[:, None] * ties


def absolute(x):
    return np.abs(x), x


def absolute_backward(dy, x):
    return dy * np.sign(x)


def normalise(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True), x


def normalise_backward(dy, x):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    y = x / length
    return (dy - y * (dy * y).sum(axis=1, keepdims=True)) / length


def gelu(x):
    """math.erf raises for complex numbers."""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), x


def gelu_backward(dy, x):
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * density)


def embedding(W, ids):
    return W[ids], (W.shape, ids)


def embedding_backward(dy, cache):
    shape, ids = cache
    dW = np.zeros(shape, dy.dtype)
    np.add.at(dW, ids, dy)
    return dW


def scaled(x, s):
    return x * s, (x, s)


def scaled_backward(dy, cache):
    x, s = cache
    return dy * s, float((dy * x).sum())


def three_outputs(x):
    return (x[:2] ** 2, np.sin(x[2:]), float((x**3).sum())), x


def three_outputs_backward(doutputs, x):
    first, second, third = doutputs
    return np.concatenate([2 * x[:2] * first, np.cos(x[2:]) * second]) + 3 * third * x * x


def falling(x):
    """Gradients from 1 down to 1e-11, side by side."""
    weights = (10.0 ** -np.arange(x.size)).reshape(x.shape)
    return float((weights * np.sin(x)).sum()), (x, weights)


def falling_backward(dy, cache):
    x, weights = cache
    return dy * weights * np.cos(x)


def log_of_floats(x):
    return float(sum(math.log(v) for v in x.flat)), x


def deep(x):
    layers = [x]
    for _ in range(6):
        layers.append(1.5 * np.tanh(layers[-1]) + layers[-1])
    return float(layers[-1].mean()), layers


def deep_backward(dy, layers):
    dx = np.full_like(layers[0], dy / layers[0].size)
    for x in layers[-2::-1]:
        dx = dx * (1.5 * (1 - np.tanh(x) ** 2) + 1)
    return dx


def rounded_inside(x):
    """Loses six digits inside: the oracle must notice its own noise."""
    return float(((x * x + 1e6) - 1e6).sum()), x


def rounded_inside_backward(dy, x):
    return 2 * dy * x


def single_inside(x):
    """Computes in float32 whatever it is given."""
    return np.sin(x.astype(np.float32)).astype(np.float64), x


def single_inside_backward(dy, x):
    return dy * np.cos(x)


def cases(seed):
    rng = np.random.default_rng(seed)

    def n(*shape):
        return rng.standard_normal(shape)

    ids = rng.integers(0, 6, size=9)
    holes = np.where(rng.random((6, 7)) < 0.4, 0.0, n(6, 7))
    yield "linear", linear, linear_backward, {"x": n(5, 4), "W": n(4, 3), "b": n(3)}, {}
    spread = n(5, 4) * 10.0 ** rng.uniform(-4, 4, (5, 4))
    yield "inputs of many sizes", linear, linear_backward, {"x": spread, "W": n(4, 3), "b": n(3)}, {}
    yield "bias of zeros", linear, linear_backward, {"x": n(5, 4), "W": n(4, 3), "b": np.zeros(3)}, {}
    for size in (1.0, 1e6, 1e-6):
        yield f"linear at {size:g}", linear, linear_backward, {"x": size * n(5, 4), "W": n(4, 3), "b": n(3)}, {}
        inputs, fixed = {"x": size * n(4, 9), "gamma": n(9), "beta": n(9)}, {"eps": 1e-5 * size**2}
        yield f"layer norm at {size:g}", layer_norm, layer_norm_backward, inputs, fixed
        yield f"layer norm by var at {size:g}", layer_norm_by_var, layer_norm_backward, inputs, fixed
    inputs = {"x": 1e6 + n(4, 9), "gamma": n(9), "beta": n(9)}
    yield "layer norm far from zero", layer_norm, layer_norm_backward, inputs, {"eps": 1e-12}
    yield "softmax", softmax, softmax_backward, {"x": n(4, 6)}, {}
    yield "softmax, saturated", softmax, softmax_backward, {"x": 10 * n(4, 6)}, {}
    yield "cross entropy", cross_entropy, cross_entropy_backward, {"z": n(9, 6)}, {"labels": ids}
    trained = n(9, 6)
    trained[np.arange(9), ids] += 15
    yield "cross entropy, trained", cross_entropy, cross_entropy_backward, {"z": trained}, {"labels": ids}
    inputs = {"x": n(5, 4), "Q": n(4, 3), "q": n(3), "K": n(4, 3), "k": n(3), "V": n(4, 3), "v": n(3)}
    yield "attention", attention, attention_backward, inputs, {}
    yield "relu at 0", relu, relu_backward, {"x": holes}, {}
    yield "relu at 0, other side", relu, relu_backward_other_side, {"x": holes}, {}
    yield "relu near 0", relu, relu_backward, {"x": holes + 1e-6 * n(6, 7)}, {}
    zero_row = n(5, 4)
    zero_row[2] = 0
    yield "perceptron at 0", perceptron, perceptron_backward, {"x": zero_row, "W": n(4, 3), "b": np.zeros(3)}, {}
    ties = np.round(2 * n(6, 5)) / 2
    yield "maximum with ties", maximum, maximum_backward_first, {"x": ties}, {}
    yield "maximum with shared ties", maximum, maximum_backward_shared, {"x": ties}, {}
    yield "absolute value at 0", absolute, absolute_backward, {"x": holes}, {}
    yield "absolute value of zeros", absolute, absolute_backward, {"x": np.zeros((2, 3))}, {}
    yield "norm", normalise, normalise_backward, {"x": n(5, 4)}, {}
    yield "gelu", gelu, gelu_backward, {"x": 2 * n(4, 5)}, {}
    yield "embedding", embedding, embedding_backward, {"W": n(8, 5)}, {"ids": ids}
    yield "float argument", scaled, scaled_backward, {"x": n(3, 4), "s": float(n())}, {}
    yield "0-d argument", scaled, scaled_backward, {"x": n(3, 4), "s": np.array(n())}, {}
    yield "float alone", lambda s: (math.sin(s), s), lambda d, s: d * math.cos(s), {"s": float(n())}, {}
    yield "three outputs", three_outputs, three_outputs_backward, {"x": n(5, 4)}, {}
    yield "identity", lambda x: (x, None), lambda dy, _: dy, {"x": n(3, 4)}, {}
    yield "falling", falling, falling_backward, {"x": n(3, 4)}, {}
    yield "deep", deep, deep_backward, {"x": n(5, 6)}, {}
    yield "saturated tanh", lambda x: (np.tanh(x),) * 2, lambda d, y: d * (1 - y * y), {"x": 10 * n(4, 5)}, {}
    small = np.exp(4 * n(4, 5))
    yield "log near its end", lambda x: (float(np.log(x).sum()), x), lambda d, x: d / x, {"x": small}, {}
    yield "raises beyond its domain", log_of_floats, lambda d, x: d / x, {"x": small}, {}
    yield "NumPy float", lambda s: (np.sin(s), s), lambda d, s: d * np.cos(s), {"s": np.float32(n())}, {}
    saturated = np.array([11.5, -12.0]) + 0.1 * n(2)
    yield "tanh, all saturated", lambda x: (np.tanh(x),) * 2, lambda d, y: d * (1 - y * y), {"x": saturated}, {}
    rare = np.where(np.arange(8)[:, None] == 6, 1e-12, n(8, 5))
    yield "unused and tiny", embedding, embedding_backward, {"W": rare}, {"ids": ids}
    yield "rounded inside", rounded_inside, rounded_inside_backward, {"x": n(4, 5)}, {}


NAMES = [case[0] for case in cases(0)]
DOUBLE_ONLY = (
    "far from zero",
    "trained",
    "falling",
    "inside",
    "alone",
    "beyond",
    "gelu",
    "all saturated",
)  # or lose float32's digits


def case_of(name, seed):
    return next(case[1:] for case in cases(seed) if case[0] == name)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_right_backward_passes(name, seed):
    forward, backward, inputs, fixed = case_of(name, seed)
    report = check(forward, backward, inputs, fixed, np.random.default_rng(seed))
    assert report.ok, f"\n{report}"
    assert report.failures == {}
    assert all(row.error <= row.tolerance for row in report.rows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in NAMES if not any(word in name for word in DOUBLE_ONLY)])
def test_right_backward_passes_in_float32(name, seed):
    forward, backward, inputs, fixed = case_of(name, seed)
    inputs = {key: x.astype(np.float32) if isinstance(x, np.ndarray) else x for key, x in inputs.items()}
    report = check(forward, backward, inputs, fixed, np.random.default_rng(seed))
    assert report.ok, f"\n{report}"


def test_a_small_entry_may_keep_the_rounding_of_its_neighbours():
    weights = np.array([1e3, 1e-8])
    report = check(lambda x: (x * weights, None), lambda dy, _: (dy * weights + 1e3) - 1e3, {"x": np.array([1.3, 0.7])})
    assert report.ok, f"\n{report}"
    assert abs(report.rows[0].given - report.rows[0].numeric) > 1e-15


def test_no_warning_comes_from_the_oracle():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check(lambda x: (np.log(x), x), lambda dy, x: dy / x, {"x": np.array([1e-9, 1.0])}).ok
        for name in ("raises beyond its domain", "norm", "absolute value at 0", "rounded inside"):
            forward, backward, inputs, fixed = case_of(name, 2)
            assert check(forward, backward, inputs, fixed).ok
    assert not caught


@pytest.mark.parametrize("seed", SEEDS)
def test_a_forward_that_computes_in_float32_inside_is_never_called_wrong(seed):
    x = np.random.default_rng(seed).standard_normal((4, 5))
    report = check(single_inside, single_inside_backward, {"x": x})
    assert report.rows[0].verdict in ("ok", "not resolved")
    assert report.rows[0].tolerance > 1e-6, "it must notice that the numbers are coarse"


@pytest.mark.parametrize("name", ["linear", "softmax", "layer norm at 1", "gelu", "deep", "three outputs"])
def test_smooth_functions_are_checked_sharply(name):
    forward, backward, inputs, fixed = case_of(name, 0)
    report = check(forward, backward, inputs, fixed)
    assert report.max_error < 1e-8
    assert all(row.tolerance < 1.5e-7 and row.verdict == "ok" for row in report.rows)


def test_read_only_arrays_and_views_are_fine_and_stay_untouched():
    rng = np.random.default_rng(3)
    inputs = {"x": rng.standard_normal((4, 5)).T, "W": rng.standard_normal((8, 3))[::2], "b": rng.standard_normal(3)}
    for x in inputs.values():
        x.flags.writeable = False
    before = {name: x.copy() for name, x in inputs.items()}
    assert check(linear, linear_backward, inputs).ok
    assert all(np.array_equal(inputs[name], before[name]) for name in inputs)


def test_key_bias_has_a_gradient_of_zero_and_says_so():
    forward, backward, inputs, fixed = case_of("attention", 1)
    report = check(forward, backward, inputs, fixed)
    assert [row.verdict for row in report.rows] == ["ok", "ok", "ok", "ok", "vacuous", "ok", "ok"]
    assert report.notes[0].startswith("dk: the true gradient is zero")


def test_an_argument_without_effect_is_vacuous():
    report = check(
        lambda x, y: (x * 2, x), lambda d, x: (2 * d, np.zeros(2)), {"x": np.array([1.0, 3.0]), "y": np.ones(2)}
    )
    assert report.ok
    assert report.rows[1].verdict == "vacuous"


def test_summed_softmax_is_vacuous():
    """All of its gradient cancels, as it does for an upstream of ones."""
    report = check(
        lambda x: (float(softmax(x)[0].sum()), softmax(x)[0]),
        lambda d, p: softmax_backward(np.full_like(p, d), p),
        {"x": np.random.default_rng(0).standard_normal((3, 5))},
    )
    assert report.ok
    assert report.rows[0].verdict == "vacuous"


def test_a_generator_given_as_an_argument_draws_the_same_mask_every_time():
    def dropout(x, rng):
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask

    fixed = {"rng": np.random.default_rng(7)}
    state = fixed["rng"].bit_generator.state
    assert check(dropout, lambda dy, mask: dy * mask, {"x": np.random.default_rng(1).standard_normal((3, 4))}, fixed).ok
    assert fixed["rng"].bit_generator.state == state


def test_the_upstream_has_the_form_and_dtype_of_the_output():
    seen = []

    def forward(x):
        return (x * 2, float(x.sum()), np.asarray(x.sum())), None

    def backward(doutput, _):
        seen.append(doutput)
        return 2 * doutput[0] + np.float32(doutput[1]) + doutput[2]

    assert check(forward, backward, {"x": np.arange(1, 5, dtype=np.float32)}).ok
    first, second, third = seen[0]
    assert first.dtype == np.float32 and first.shape == (4,)
    assert type(second) is float
    assert isinstance(third, np.ndarray) and third.shape == () and third.dtype == np.float32


def test_frozen_arrays_in_containers_are_cast_for_the_oracle_too():
    W = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)

    def forward(x, frozen):
        assert frozen["W"].dtype == x.real.dtype
        return x @ frozen["W"], frozen["W"]

    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    assert check(forward, lambda dy, W: dy @ W.T, {"x": x}, {"frozen": {"W": W}}).ok


def test_float32_that_loses_its_digits_is_not_called_wrong():
    """p - 1 with p nearly 1: right in float64, most digits gone in float32."""
    z = np.array([[14.9, 0.3, -0.4], [0.1, 14.2, 0.2]], dtype=np.float32)
    report = check(cross_entropy, cross_entropy_backward, {"z": z}, {"labels": np.array([0, 1])})
    assert report.rows[0].verdict == "not resolved"
    assert "right in float64" in report.failures["z"][0]
    wrong = check(
        cross_entropy, lambda d, cache: 2 * cross_entropy_backward(d, cache), {"z": z}, {"labels": np.array([0, 1])}
    )
    assert wrong.rows[0].verdict == "wrong"
