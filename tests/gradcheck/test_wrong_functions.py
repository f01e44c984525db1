"""Wrong numbers fail, under the name of the argument and with a sentence that says where and by how much."""

import math
import re

import numpy as np
import pytest

from lora_np.gradcheck import check

SEEDS = range(4)


def lora(x, W, b, A, B, scale):
    u = x @ A
    return x @ W + b + scale * (u @ B), (x, u, W, A, B, scale)


def lora_backward(dy, cache):
    x, u, W, A, B, scale = cache
    du = scale * (dy @ B.T)
    return dy @ W.T + du @ A.T, x.T @ dy, dy.sum(axis=0), x.T @ du, scale * (u.T @ dy)


def lora_inputs(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"x": (5, 4), "W": (4, 3), "b": (3,), "A": (4, 2), "B": (2, 3)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def broken(name, change):
    """Return lora_backward with one gradient changed: change(gradient, dy, cache)."""
    place = ["x", "W", "b", "A", "B"].index(name)

    def backward(dy, cache):
        grads = list(lora_backward(dy, cache))
        grads[place] = change(grads[place], dy, cache)
        return tuple(grads)

    return backward


def one_entry(factor):
    def change(g, dy, cache):
        g = g.copy()
        g.flat[4] *= factor
        return g

    return change


MISTAKES = {
    "missing factor": ("A", lambda g, dy, c: g / c[5]),
    "factor squared": ("B", lambda g, dy, c: g * c[5]),
    "missing term": ("x", lambda g, dy, c: dy @ c[2].T),
    "sign": ("W", lambda g, dy, c: -g),
    "mean for sum": ("b", lambda g, dy, c: dy.mean(axis=0)),
    "zero": ("A", lambda g, dy, c: 0 * g),
    "constant added": ("B", lambda g, dy, c: g + 1e-5 * np.mean(np.abs(dy))),
    "off by 1e-5": ("A", lambda g, dy, c: g * (1 + 1e-5)),
    "off by 1e-6 in one entry": ("W", one_entry(1 + 1e-6)),
    "one entry's sign": ("x", one_entry(-1)),
    "rows swapped": ("A", lambda g, dy, c: g[::-1].copy()),
    "columns swapped": ("B", lambda g, dy, c: g[:, ::-1].copy()),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_gradient_is_found_and_named(mistake, seed):
    name, change = MISTAKES[mistake]
    report = check(lora, broken(name, change), lora_inputs(seed), {"scale": 1.7}, np.random.default_rng(seed))
    assert not report.ok
    assert list(report.failures) == [name], f"\n{report}"
    assert [row.argument for row in report.rows if row.verdict == "wrong"] == [name]
    assert report.max_error > 1e-8
    assert re.match(
        rf"d{name}: wrong in \d+ of \d+ entries; the worst is at \[\d+(, \d+)*\]: yours \S+, numeric \S+ "
        r"\(difference \S+ of its scale, tolerance 1e-07\)",
        report.failures[name][0],
    )


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if "1e-" not in m and "constant" not in m])
def test_wrong_gradient_is_found_in_float32(mistake):
    name, change = MISTAKES[mistake]
    report = check(lora, broken(name, change), lora_inputs(0, np.float32), {"scale": 1.7})
    assert list(report.failures) == [name], f"\n{report}"


@pytest.mark.parametrize("size", [1e6, 1e-6])
@pytest.mark.parametrize("mistake", [m for m in MISTAKES if "constant" not in m])  # what is added depends on the size
def test_wrong_gradient_is_found_at_every_size(mistake, size):
    name, change = MISTAKES[mistake]
    inputs = lora_inputs(1) | {"x": size * lora_inputs(1)["x"], "b": size * lora_inputs(1)["b"]}
    report = check(lora, broken(name, change), inputs, {"scale": 1.7})
    assert list(report.failures) == [name], f"\n{report}"


def test_the_sentence_names_the_worst_entry_and_both_values():
    def backward(dy, x):
        dx = 2 * x * dy
        dx[1, 2] *= 0.5
        return dx

    report = check(lambda x: (x * x, x), backward, {"x": np.arange(1.0, 7.0).reshape(2, 3)})
    row = report.rows[0]
    assert row.where == (1, 2)
    assert row.given == pytest.approx(row.numeric / 2)
    assert row.error == pytest.approx(0.5, rel=1e-6)
    assert row.tolerance == pytest.approx(1e-7, rel=0.2)
    assert "wrong in 1 of 6 entries; the worst is at [1, 2]" in report.failures["x"][0]
    assert "(difference 5.0e-01 of its scale, tolerance 1e-07)" in report.failures["x"][0]


def test_a_transposed_gradient_of_a_square_matrix():
    rng = np.random.default_rng(2)
    inputs = {"x": rng.standard_normal((5, 3)), "W": rng.standard_normal((3, 3))}
    report = check(lambda x, W: (x @ W, (x, W)), lambda dy, c: (dy @ c[1], (c[0].T @ dy).T), inputs)
    assert list(report.failures) == ["x", "W"]


def test_swapped_order_of_two_gradients_of_one_shape():
    rng = np.random.default_rng(2)
    inputs = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal((4, 3))}
    report = check(lambda a, b: (a * b, (a, b)), lambda dy, c: (dy * c[0], dy * c[1]), inputs)
    assert list(report.failures) == ["a", "b"]


def test_a_wrong_scalar_has_no_index():
    report = check(lambda s: (np.array([s, s * s]), s), lambda dy, s: float(dy[0] + s * dy[1]), {"s": 1.3})
    assert report.failures["s"][0].startswith("ds: wrong: yours ")
    assert report.rows[0].where is None


def test_a_wrong_side_output_of_a_tuple():
    report = check(
        lambda x: ((x * 2, x**3), x), lambda d, x: 2 * d[0] + x**2 * d[1], {"x": np.array([[1.0, -2.0, 0.5]])}
    )
    assert list(report.failures) == ["x"]


def test_a_gradient_that_should_be_zero():
    """Attention's key bias: no own scale, but a gradient that is there is still wrong."""
    rng = np.random.default_rng(0)

    def softmax(z):
        e = np.exp(z - z.real.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def forward(z, shift):
        p = softmax(z + shift)
        return p, p

    def backward(extra):
        def run(dp, p):
            dz = p * (dp - (p * dp).sum(axis=1, keepdims=True))
            return dz, dz.sum(axis=1, keepdims=True) + extra * dp[:, :1]

        return run

    inputs = {"z": rng.standard_normal((4, 5)), "shift": rng.standard_normal((4, 1))}
    assert check(forward, backward(0.0), inputs).ok
    for extra in (1.0, 1e-9):
        assert list(check(forward, backward(extra), inputs).failures) == ["shift"]


def test_an_unused_entry_must_have_gradient_zero():
    def backward(dy, x):
        dx = np.zeros_like(x)
        dx[:3] = 2 * dy
        dx[4] = 1e-6 * dy[0]
        return dx

    report = check(lambda x: (2 * x[:3], x), backward, {"x": np.arange(1.0, 6.0)})
    assert "wrong in 1 of 5 entries; the worst is at [4]" in report.failures["x"][0]


def test_a_gradient_far_off_is_quoted_relative_to_itself():
    report = check(lambda x: (2 * x[:1], x), lambda dy, x: np.array([2 * dy[0], 5.0 * dy[0]]), {"x": np.ones(2)})
    assert "difference 1.0e+00 of its scale" in report.failures["x"][0]


def test_at_a_kink_values_outside_both_slopes_are_wrong():
    x = np.array([[0.0, 1.0, -1.0], [0.0, 2.0, 0.0]])

    def backward(at_zero):
        return lambda dy, x: dy * np.where(x == 0, at_zero, x > 0)

    for right in (0.0, 0.3, 1.0):
        assert check(lambda x: (np.maximum(x, 0), x), backward(right), {"x": x}).ok
    for wrong in (-0.01, 1.01, -1.0):
        report = check(lambda x: (np.maximum(x, 0), x), backward(wrong), {"x": x})
        assert "wrong in 3 of 6 entries" in report.failures["x"][0]
        assert "(a kink)" in report.failures["x"][0]


def test_next_to_a_kink_the_side_matters():
    x = np.array([3e-6, -3e-6, 1.0, -1.0])
    assert check(lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 0), {"x": x}).ok
    report = check(lambda x: (np.maximum(x, 0), x), lambda dy, x: dy * (x > 1e-5), {"x": x})
    assert "wrong in 1 of 4 entries; the worst is at [0]" in report.failures["x"][0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_gradient_beside_large_ones_is_checked_too(seed):
    weights = 10.0 ** -np.arange(6)
    inputs = {"x": np.random.default_rng(seed).standard_normal(6)}
    factor = np.ones(6)
    factor[5] = 1.001
    report = check(lambda x: (weights * np.sin(x), x), lambda dy, x: factor * dy * weights * np.cos(x), inputs)
    assert "the worst is at [5]" in report.failures["x"][0]


def test_a_jump_is_not_resolved():
    report = check(lambda x: (np.floor(x), x), lambda dy, x: 0 * dy, {"x": np.array([1.0, 2.5, -0.3])})
    assert not report.ok
    assert report.rows[0].verdict == "not resolved"
    assert "the oracle finds no derivative" in report.failures["x"][0]
    assert "[0]" in report.failures["x"][0]


def test_a_vertical_slope_is_not_resolved():
    def backward(dy, x):
        return 0.5 * dy / np.sqrt(np.abs(x) + (x == 0))

    report = check(lambda x: (np.sqrt(np.abs(x)), x), backward, {"x": np.array([1.0, 0.0, 2.0])})
    assert report.rows[0].verdict == "not resolved"


def test_the_end_of_a_domain_is_not_resolved():
    with np.errstate(invalid="ignore"):
        report = check(lambda x: (x**1.5, x), lambda dy, x: 1.5 * dy * x**0.5, {"x": np.array([1.0, 0.0, 2.0])})
    assert report.rows[0].verdict == "not resolved"


def test_what_drowns_in_rounding_is_not_resolved():
    """The oracle cannot see the slope, so it neither confirms the given one nor calls it zero."""
    report = check(
        lambda x: (1e12 + 0.01 * np.vectorize(math.sin)(x), x), lambda dy, x: 0.01 * dy * np.cos(x), {"x": np.ones(3)}
    )
    assert report.rows[0].verdict == "not resolved"


class TestLargeArrays:
    """More than 2000 entries: some are drawn, and a direction covers the rest."""

    inputs = {"x": np.random.default_rng(5).standard_normal((60, 70))}

    @staticmethod
    def forward(x):
        return np.array([np.sin(x).sum(), (x * x).sum()]), x

    def backward(self, change):
        def run(dy, x):
            dx = dy[0] * np.cos(x) + dy[1] * 2 * x
            change(dx)
            return dx

        return run

    def test_right(self):
        report = check(self.forward, self.backward(lambda dx: None), self.inputs)
        assert report.ok
        assert report.notes == [
            "dx: 2000 of 4200 entries, drawn at random, and a random direction over all of them",
        ]

    def test_wrong_everywhere(self):
        def change(dx):
            dx *= 1.5

        report = check(self.forward, self.backward(change), self.inputs)
        assert "2000 of 2000 entries" in report.failures["x"][0]

    @pytest.mark.parametrize("entry", range(0, 4200, 600))
    @pytest.mark.thorough
    def test_wrong_in_one_entry(self, entry):
        def change(dx):
            dx.flat[entry] *= -1

        report = check(self.forward, self.backward(change), self.inputs)
        assert list(report.failures) == ["x"]
        assert report.rows[0].verdict == "wrong"

    def test_another_generator_draws_other_entries(self):
        def change(dx):
            dx.flat[::10] *= -1

        first, second = (check(self.forward, self.backward(change), self.inputs, rng=seed) for seed in (1, 2))
        assert first.failures["x"] != second.failures["x"]
