"""What cannot be checked is refused in one sentence: what came, what was expected, the way out."""

import numpy as np
import pytest

from lora_np.gradcheck import check

X = np.array([1.0, -2.0, 3.0])


def double(x, **rest):
    return 2 * x, None


def double_backward(dy, cache):
    return 2 * dy


@pytest.mark.parametrize(
    "inputs, fixed, error, words",
    [
        ([X], {}, TypeError, "inputs must be a dict by argument name, not list"),
        (X, {}, TypeError, "inputs must be a dict by argument name, not ndarray"),
        ({"x": X}, [1], TypeError, "fixed must be a dict by argument name, not list"),
        ({}, {"x": X}, ValueError, "inputs is empty"),
        ({"x": X}, {"x": X}, ValueError, "'x' is in both inputs and fixed"),
        ({"x": np.arange(3)}, {}, TypeError, "'x' has dtype int64, expected float64 or float32; write x.astype"),
        ({"x": X > 0}, {}, TypeError, "'x' has dtype bool"),
        ({"x": X + 0j}, {}, TypeError, "'x' has dtype complex128"),
        ({"x": X.astype(np.float16)}, {}, TypeError, "'x' has dtype float16"),
        ({"x": [1.0, 2.0]}, {}, TypeError, "'x' is of type list, expected a NumPy array or a float; write np.array(x"),
        ({"x": 3}, {}, TypeError, "'x' is of type int"),
        ({"x": np.zeros((0, 3))}, {}, ValueError, "'x' has shape (0, 3), so no entries"),
        ({"x": np.array([1.0, np.nan])}, {}, ValueError, "'x' is not finite in 1 of 2 entries"),
        ({"x": float("inf")}, {}, ValueError, "'x' is not finite in 1 of 1 entries"),
    ],
)
def test_arguments(inputs, fixed, error, words):
    with pytest.raises(error) as caught:
        check(double, double_backward, inputs, fixed)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forward, backward, name", [(3, double_backward, "forward"), (double, None, "backward")])
def test_functions(forward, backward, name):
    with pytest.raises(TypeError, match=f"{name} must be a function, not"):
        check(forward, backward, {"x": X})


@pytest.mark.parametrize(
    "forward, error, words",
    [
        (lambda x: x, TypeError, "must return a pair (output, cache), not ndarray; a cache may be None"),
        (lambda x: (x, x, x), TypeError, "not a tuple of 3"),
        (lambda x: (x > 0, None), TypeError, "the forward's output is an array of bool"),
        (lambda x: (3, None), TypeError, "the forward's output is int"),
        (lambda x: ((x, x.argmax()), None), TypeError, "output 1 of the forward is int64"),
        (lambda x: (x + 1j, None), TypeError, "the forward's output is an array of complex128"),
        (lambda x: (x[:0], None), ValueError, "output has no entries"),
        (lambda x: (np.where(x > 2, np.inf, x), None), ValueError, "not finite in 1 of 3 entries, the first at [2]"),
        (lambda x: (float("nan"), None), ValueError, "the forward's output is not finite;"),
        (lambda y: (y, None), ValueError, "the forward raises at the given inputs: TypeError"),
    ],
)
def test_forwards(forward, error, words):
    with pytest.raises(error) as caught:
        check(forward, double_backward, {"x": X})
    assert words in str(caught.value)


def test_a_forward_that_raises_names_the_line_and_keeps_its_cause():
    def forward(x):
        return x @ np.ones((2, 2)), None

    with pytest.raises(
        ValueError, match=r"the forward raises at the given inputs: ValueError: matmul.*line \d+"
    ) as caught:
        check(forward, double_backward, {"x": X})
    assert "return x @ np.ones((2, 2)), None" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_forward_that_raises_on_its_second_call():
    calls = []

    def forward(x):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("once only")
        return 2 * x, None

    with pytest.raises(ValueError, match="the forward raises when it is called again: RuntimeError: once only"):
        check(forward, double_backward, {"x": X})


def test_a_forward_that_knows_float32_only():
    def forward(x):
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return 2 * x, None

    with pytest.raises(ValueError, match="the forward raises when its arguments are cast to float64"):
        check(forward, double_backward, {"x": X.astype(np.float32)})


def test_interrupts_pass_through():
    def interrupted(dy, cache):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(double, interrupted, {"x": X})


def test_what_cannot_be_copied_is_passed_on():
    class Stubborn:
        def __deepcopy__(self, memo):
            raise TypeError("no")

    assert check(double, double_backward, {"x": X}, {"handle": Stubborn()}).ok
