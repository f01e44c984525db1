"""sys.exit inside somebody's function is a finding like any other exception, and never the end of the check."""

import sys

import numpy as np
import pytest

from lora_np.gradcheck import check, check_parameters, numeric_gradients

X = {"x": np.array([0.3, -1.2, 2.0])}


def square(x):
    return x * x, x


def leaves(*_, **__):
    sys.exit(3)


def test_a_forward_that_exits_is_a_value_error_and_a_backward_a_failure():
    with pytest.raises(
        ValueError, match=r"the forward raises at the given inputs: SystemExit: 3 \(line 18 of test_exits"
    ):
        check(leaves, lambda d, x: 2 * x * d, X)
    report = check(square, leaves, X)
    assert not report.ok and "raises SystemExit: 3 (line 18" in report.failures["backward"][0]
    assert report.diagnosis is not None and "SystemExit" in str(report)


def test_what_exits_at_moved_inputs_only_is_told_too():
    def forward(x):
        return square(x) if np.array_equal(x, X["x"]) else leaves()

    report = check(forward, lambda d, x: 2 * x * d, X)
    assert not report.ok

    def backward(d, x):
        return -2 * x * d if np.array_equal(x, X["x"]) else leaves()

    report = check(square, backward, X)
    assert not report.ok and str(report)


def test_parameters_and_numeric_gradients():
    P = {"W": np.array([[0.5, 2.0]])}
    with pytest.raises(ValueError, match="the forward raises at the given parameters: SystemExit"):
        check_parameters(leaves, lambda p, d: {"W": d}, P)
    report = check_parameters(lambda p: p["W"] * 2, leaves, P)
    assert not report.ok and "raises SystemExit" in report.failures["backward"][0]
    with pytest.raises(ValueError, match=r"ends the program \(SystemExit\(3\)\)"):
        numeric_gradients(leaves, X, np.ones(3))


def test_ctrl_c_passes():
    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(stopped, square, X)
