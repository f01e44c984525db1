"""Each rule about the structure of a backward can fail, by itself and with its own sentence."""

import dataclasses
from collections import namedtuple

import numpy as np
import pytest

from lora_np.gradcheck import check
from lora_np.gradcheck.verdict.contract import alike

RNG = np.random.default_rng(11)
INPUTS = {"x": RNG.standard_normal((5, 4)), "W": RNG.standard_normal((4, 3)), "b": RNG.standard_normal(3)}


def forward(x, W, b):
    return x @ W + b, (x, W)


def backward(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.sum(axis=0)


def checked(backward=backward, forward=forward, inputs=INPUTS, **rest):
    return check(forward, backward, inputs, **rest)


def only(report, key, *words):
    """The report has one failing key, with one sentence that contains the words."""
    assert list(report.failures) == [key], f"\n{report}"
    assert len(report.failures[key]) == 1, f"\n{report}"
    for word in words:
        assert word in report.failures[key][0]
    assert not report.ok


def test_the_right_one_passes():
    assert checked().ok


class TestPlacement:
    def test_none(self):
        report = checked(lambda dy, c: (backward(dy, c)[0], None, backward(dy, c)[2]))
        only(report, "W", "dW: is None")
        assert report.rows[1].verdict == "wrong"
        assert report.max_error == np.inf

    def test_none_alone(self):
        only(check(lambda x: (2 * x, None), lambda dy, _: None, {"x": np.ones(3)}), "x", "dx: is None")

    def test_too_few(self):
        report = checked(lambda dy, c: backward(dy, c)[:2])
        only(report, "backward", "returns 2 gradients, expected 3 in the order of the inputs: (dx, dW, db)")
        assert [row.verdict for row in report.rows] == ["wrong"] * 3

    def test_one_array_is_not_taken_apart(self):
        """Three rows are not three gradients."""
        report = check(lambda a, b, c: (a + b + c, None), lambda d, _: np.ones((3, 2)), {n: np.ones(2) for n in "abc"})
        only(report, "backward", "returns one gradient, expected 3")

    def test_too_many(self):
        only(checked(lambda dy, c: (*backward(dy, c), 0.0)), "backward", "returns 4 gradients, expected 3")

    def test_a_list_is_a_tuple(self):
        assert checked(lambda dy, c: list(backward(dy, c))).ok

    @pytest.mark.parametrize(
        "bias",
        [lambda dy: dy.sum(axis=0, keepdims=True), lambda dy: dy.sum(axis=0)[:, None], lambda dy: dy, lambda dy: 0.0],
    )
    def test_a_shape_that_would_broadcast(self, bias):
        report = checked(lambda dy, c: (*backward(dy, c)[:2], bias(dy)))
        only(report, "b", "db: has shape", "expected (3,)")

    def test_too_large_a_shape_is_told_to_sum(self):
        only(checked(lambda dy, c: (*backward(dy, c)[:2], dy)), "b", "sum over the axes along which it was broadcast")

    def test_a_float_wants_a_scalar(self):
        def scaled_backward(dy, cache):
            return np.array([float((dy * cache).sum())])

        x = np.arange(1.0, 4.0)
        only(check(lambda s: (s * x, x), scaled_backward, {"s": 1.5}), "s", "ds: has shape (1,), expected ()")

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
    def test_dtype(self, dtype):
        report = checked(lambda dy, c: (*backward(dy, c)[:2], backward(dy, c)[2].astype(dtype)))
        assert list(report.failures) == ["b"]
        assert report.failures["b"][0] == f"db: has dtype {np.dtype(dtype)}, expected float64 as its variable has"

    def test_float64_from_float32(self):
        inputs = {name: x.astype(np.float32) for name, x in INPUTS.items()}
        report = checked(lambda dy, c: (*backward(dy, c)[:2], dy.sum(axis=0, dtype=np.float64)), inputs=inputs)
        only(report, "b", "has dtype float64, expected float32")
        assert report.rows[2].error < 1e-4, "its numbers are compared all the same"

    def test_complex_and_other_objects(self):
        only(checked(lambda dy, c: (*backward(dy, c)[:2], dy.sum(axis=0) + 0j)), "b", "has dtype complex128")
        only(checked(lambda dy, c: (*backward(dy, c)[:2], "db")), "b", "db: is a str, expected an array")

    def test_an_integer_for_a_float(self):
        report = check(lambda s: (2.0 * s, None), lambda d, _: int(2 * d), {"s": 1.5})
        assert "ds: has dtype int64, expected a float" in report.failures["s"]

    def test_not_finite(self):
        def infinite(dy, c):
            dW = backward(dy, c)[1]
            dW[1, 2] = np.nan
            return backward(dy, c)[0], dW, backward(dy, c)[2]

        only(checked(infinite), "W", "dW: is not finite in 1 of 12 entries, the first at [1, 2]")


class TestManners:
    def test_upstream_changed(self):
        def rude(dy, cache):
            grads = backward(dy, cache)
            dy *= 2
            return grads

        only(checked(rude), "backward", "changes its upstream gradient in place")

    def test_one_upstream_of_a_tuple_changed(self):
        def rude(dy, x):
            dx = dy[0] + 2 * dy[1]
            dy[1][0] = 0
            return dx

        only(check(lambda x: ((x, 2 * x), x), rude, {"x": np.ones(3)}), "backward", "upstream gradient in place")

    def test_input_changed_by_the_backward(self):
        def rude(dy, cache):
            grads = backward(dy, cache)
            cache[0][0] = 0
            return grads

        only(checked(rude), "x", "x: the backward changes this argument in place")

    def test_fixed_changed_by_the_backward(self):
        def rude(dy, mask):
            dx = dy * mask
            mask[:] = 0
            return dx

        only(check(lambda x, mask: (x * mask, mask), rude, {"x": np.ones(3)}, {"mask": np.full(3, 2.0)}), "mask")

    def test_input_changed_by_the_forward(self):
        def rude(x, W, b):
            output = forward(x.copy(), W, b)
            x += 1
            return output

        report = checked(forward=rude)
        only(report, "x", "x: the forward changes this argument in place")
        assert report.rows[0].error < 1e-7, "its numbers are compared all the same"

    def test_fixed_changed_by_the_forward(self):
        def rude(x, mask):
            y = x * mask
            mask *= 2
            return y, mask / 2

        only(check(rude, lambda dy, mask: dy * mask, {"x": np.ones(3)}, {"mask": np.full(3, 2.0)}), "mask", "forward")

    def test_forward_draws_numbers_into_one_buffer(self):
        rng, buffer = np.random.default_rng(0), np.empty((5, 5))

        def noisy(x):
            np.multiply(x, rng.random(x.shape) < 0.5, out=buffer)
            return buffer, None

        report = check(noisy, lambda dy, _: dy, {"x": np.ones((5, 5))})
        assert "two calls with the same arguments differ" in report.failures["forward"][0]

    def test_forward_draws_numbers(self):
        rng = np.random.default_rng(0)

        def noisy(x):
            mask = rng.random(x.shape) < 0.5
            return x * mask, mask

        report = check(noisy, lambda dy, mask: dy * mask, {"x": np.ones((5, 5))})
        only(report, "forward", "two calls with the same arguments differ")
        assert report.rows[0].verdict == "not resolved"


@dataclasses.dataclass
class Record:
    y: np.ndarray
    name: str = "record"


class Plain:
    def __init__(self, y):
        self.y, self.me = y, self


class Slotted:
    __slots__ = ("y",)

    def __init__(self, y):
        self.y = y


Pair = namedtuple("Pair", "x y")
CACHES = {
    "array": (lambda y: y, lambda c: c, "cache"),
    "tuple": (lambda y: (1, (y,)), lambda c: c[1][0], "cache[1][0]"),
    "list": (lambda y: [y, None], lambda c: c[0], "cache[0]"),
    "dict": (lambda y: {"a": {"y": y}}, lambda c: c["a"]["y"], "cache['a']['y']"),
    "namedtuple": (lambda y: Pair(1.0, y), lambda c: c.y, "cache.y"),
    "dataclass": (lambda y: Record(y), lambda c: c.y, "cache.y"),
    "object": (lambda y: Plain(y), lambda c: c.y, "cache.y"),
    "slots": (lambda y: Slotted(y), lambda c: c.y, "cache.y"),
    "object array": (lambda y: np.array([None, y], dtype=object), lambda c: c[1], "cache[1]"),
}


class TestCaches:
    @pytest.mark.parametrize("kind", CACHES)
    def test_changed_in_place(self, kind):
        wrap, unwrap, path = CACHES[kind]

        def run(rude):
            def tanh_backward(dy, cache):
                y = unwrap(cache)
                dx = dy * (1 - y * y)
                if rude:
                    y[1] += 1
                return dx

            return check(lambda x: (np.tanh(x), wrap(np.tanh(x))), tanh_backward, {"x": np.array([0.3, -0.7, 1.1])})

        assert run(rude=False).ok
        only(run(rude=True), "backward", f"changes {path} in place")

    def test_used_up(self):
        def pop(dy, cache):
            return dy * cache.pop()

        report = check(lambda x: (x * 2, [2.0]), pop, {"x": np.ones(3)})
        only(report, "backward", "changes cache[0] in place")

    def test_grown(self):
        def grow(dy, cache):
            cache["seen"] = True
            return dy * 2

        only(check(lambda x: (x * 2, {}), grow, {"x": np.ones(3)}), "backward", "changes cache['seen'] in place")

    def test_a_replaced_number(self):
        def replace(dy, cache):
            cache["n"] += 1
            return dy * 2

        only(check(lambda x: (x * 2, {"n": 0}), replace, {"x": np.ones(3)}), "backward", "cache['n']")

    def test_another_nan_is_no_change(self):
        def replace(dy, cache):
            cache["loss"] = float("nan")
            return dy * 2

        assert check(lambda x: (x * 2, {"loss": float("nan")}), replace, {"x": np.ones(3)}).ok

    def test_nan_in_a_cache_is_no_change(self):
        assert check(lambda x: (x * 2, (float("nan"), np.full(2, np.nan))), lambda dy, _: dy * 2, {"x": np.ones(3)}).ok

    def test_an_output_that_is_the_cache_does_not_confuse(self):
        def rude(dy, y):
            dx = dy * (1 - y * y)
            y[:] = 0
            return dx

        def forward(x):
            y = np.tanh(x)
            return y, y

        report = check(forward, rude, {"x": np.array([0.3, -0.7])})
        only(report, "backward", "changes cache in place")
        assert report.rows[0].verdict == "ok"


class TestLaws:
    def test_accumulates_between_calls(self):
        total = np.zeros(3)

        def accumulating(dy, cache):
            total[:] += dy.sum(axis=0)
            return *backward(dy, cache)[:2], total

        report = checked(accumulating)
        assert "gives a different db when it is called again after a fresh forward" in report.failures["backward"][0]

    def test_draws_numbers(self):
        rng = np.random.default_rng(0)

        def noisy(dy, cache):
            dx, dW, db = backward(dy, cache)
            return dx, dW * (1 + 1e-11 * rng.standard_normal()), db

        only(checked(noisy), "backward", "gives a different dW")

    def test_same_cache_twice(self):
        """A closure keeps count, where no snapshot sees it."""

        def counting(x):
            calls = []

            def apply(dy):
                calls.append(1)
                return dy * 2 * len(calls)

            return 2 * x, apply

        report = check(counting, lambda dy, apply: apply(dy), {"x": np.ones(3)})
        only(report, "backward", "gives a different dx when it is called again with the same cache")

    def test_ignores_the_upstream(self):
        def forward(x):
            return float((x * x).sum()), x

        report = check(forward, lambda dloss, x: 2 * x, {"x": np.array([1.0, -2.0])})
        assert set(report.failures) == {"backward", "x"}
        assert "ignores its upstream gradient" in report.failures["backward"][0]

    def test_one_gradient_ignores_the_upstream(self):
        report = checked(lambda dy, c: (*backward(dy, c)[:2], np.full(3, 5.0)))
        assert list(report.failures) == ["b"]
        assert "db: is the same for two different upstream gradients" in report.failures["b"][0]

    @pytest.mark.parametrize("bend", [lambda dy: dy * np.abs(dy), lambda dy: np.clip(dy, -0.3, 0.3), lambda dy: dy + 1])
    def test_not_linear(self, bend):
        report = checked(lambda dy, c: (*backward(dy, c)[:2], bend(dy).sum(axis=0)))
        assert list(report.failures) == ["b"]
        assert any("db: is not linear in the upstream gradient" in sentence for sentence in report.failures["b"])

    def test_not_linear_only_where_another_upstream_would_see_it(self):
        """Right for the first upstream, whatever that is: only the law finds it."""
        first = []

        def backward(dy, x):
            first.append(dy.copy())
            same = np.array_equal(dy, first[0])
            return 2 * x * dy if same else 3 * x * dy - x * first[0]

        report = check(lambda x: (x * x, x), backward, {"x": np.array([1.0, -2.0, 0.5])})
        assert report.rows[0].error < 1e-7
        assert report.ok or "not linear" in report.failures["x"][0]

    def test_clipped_for_large_upstreams_only(self):
        """Right for the drawn upstream; a combination of two goes beyond the clip."""
        drawn = []

        def backward(dy, x):
            drawn.append(np.max(np.abs(dy)))
            return 2 * x * np.clip(dy, -drawn[0], drawn[0])

        report = check(lambda x: (x * x, x), backward, {"x": np.linspace(1.0, 2.0, 7)})
        only(report, "x", "dx: is not linear")
        assert report.rows[0].error < 1e-7


class TestRaising:
    def test_names_the_exception_and_the_line(self):
        def raising(dy, cache):
            x, W = cache
            return dy @ W, x.T @ dy, dy.sum(axis=0)  # a missing transpose

        report = checked(raising)
        only(report, "backward", "backward: raises ValueError: matmul", "of test_rules.py: `return dy @ W, x.T @ dy")
        assert [row.verdict for row in report.rows] == ["wrong"] * 3
        assert "/" not in report.failures["backward"][0].split("(line")[1], "no path"

    def test_wrong_signature(self):
        report = checked(lambda dy: dy)
        only(report, "backward", "raises TypeError", "positional argument")
        assert "(line" not in report.failures["backward"][0], "it is not the caller's line"

    def test_a_backward_of_numpy_itself(self):
        report = check(lambda x: (x, np.ones(3)), np.linalg.solve, {"x": np.ones((2, 2))})
        only(report, "backward", "raises ValueError", "(line")

    def test_inside_numpy(self):
        only(checked(lambda dy, c: np.linalg.inv(dy)), "backward", "LinAlgError", "test_rules.py")

    def test_on_the_second_call(self):
        calls = []

        def once(dy, cache):
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("used up")
            return backward(dy, cache)

        report = checked(once)
        assert list(report.failures) == ["backward"]
        assert "raises RuntimeError: used up" in report.failures["backward"][0]
        assert "when it is called again" in report.failures["backward"][0]

    def test_the_same_exception_twice_is_told_once(self):
        first = []

        def for_one_upstream_only(dy, cache):
            first.append(dy.copy())
            if not np.array_equal(dy, first[0]):
                raise RuntimeError("another upstream")
            return backward(dy, cache)

        only(
            checked(for_one_upstream_only), "backward", "raises RuntimeError: another upstream", "for another upstream"
        )

    def test_an_exception_without_text(self):
        def silent(dy, cache):
            raise NotImplementedError

        only(checked(silent), "backward", "raises NotImplementedError (line")


def test_several_failures_come_in_the_order_of_the_inputs():
    def several(dy, cache):
        dx, dW, _ = backward(dy, cache)
        cache[1][:] = dy[:4]
        return 2 * dx, dW, dy

    assert list(checked(several).failures) == ["x", "W", "b"]


def test_sums_in_another_order_are_alike():
    """Some BLAS libraries choose the order by the alignment of an array."""
    x = np.random.default_rng(0).standard_normal(1000)
    assert alike(np.array([x.sum(), 1.0]), np.array([x[::-1].sum(), 1.0]), np.float64)
    assert not alike(np.array([1.0]), np.array([1.0 + 1e-12]), np.float64)
    assert alike(np.array([1.0]), np.array([1.0 + 1e-6]), np.float32)
    assert not alike(np.array([1.0]), np.array([np.nan]), np.float64)


def test_the_callers_arrays_are_never_touched():
    inputs = {name: x.copy() for name, x in INPUTS.items()}

    def rude(x, W, b):
        y = forward(x.copy(), W.copy(), b.copy())
        x[:], W[:], b[:] = 0, 0, 0
        return y

    checked(forward=rude, inputs=inputs)
    assert all(np.array_equal(inputs[name], INPUTS[name]) for name in INPUTS)
