"""The numerical derivative knows its own error: it is sharp where it claims to be and says so where it is not."""

import math

import numpy as np
import pytest

from lora_np.gradcheck import numeric_gradients
from lora_np.gradcheck.verdict.oracles import entry_slopes, outputs_at, sizes_of
from lora_np.gradcheck.verdict.slopes import EPS


def slope_of(f, x):
    """Differentiate a function of one float; f returns a float or an array."""
    calls = []

    def evaluate(values):
        calls.append(values["x"])
        return np.atleast_1d(np.asarray(f(values["x"]))).reshape(-1)

    outputs = outputs_at(evaluate, {"x": x}, np.ones(np.shape(f(x))))
    calls.clear()
    slopes = entry_slopes(evaluate, {"x": x}, "x", np.array([0]), outputs)
    return slopes, calls


SMOOTH = {
    "exp": (math.exp, math.exp),
    "sin": (math.sin, math.cos),
    "log": (math.log, lambda x: 1 / x),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "steep": (lambda x: math.tanh(300 * x), lambda x: 300 * (1 - math.tanh(300 * x)) * (1 + math.tanh(300 * x))),
    "wave": (lambda x: math.sin(200 * x), lambda x: 200 * math.cos(200 * x)),
    "complex": (lambda x: np.sin(50 * x), lambda x: 50 * np.cos(50 * x)),
    "offset": (lambda x: 1e6 + math.sin(x), math.cos),
    "noise": (lambda x: (math.sin(x) + 1e6) - 1e6, math.cos),
    "tiny": (lambda x: 1e-200 * math.sin(x), lambda x: 1e-200 * math.cos(x)),
}


@pytest.mark.parametrize("x", [0.013, 0.4, 1.1, 2.9])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_true_derivative_lies_within_the_stated_error(name, x):
    f, derivative = SMOOTH[name]
    slopes, _ = slope_of(f, x)
    assert slopes.low[0] == slopes.high[0]
    assert abs(slopes.low[0] - derivative(x)) <= slopes.error[0] + 4 * EPS * abs(derivative(x))


@pytest.mark.parametrize("x", [0.013, 0.4, 1.1, 2.9])
@pytest.mark.parametrize("name", ["exp", "sin", "log", "cube", "complex"])
def test_the_stated_error_is_small_for_a_smooth_function(name, x):
    slopes, _ = slope_of(SMOOTH[name][0], x)
    assert slopes.error[0] < 1e-8 * slopes.scale[0]


def test_four_forwards_are_enough_for_a_smooth_function():
    _, calls = slope_of(math.exp, 0.7)
    assert len(calls) == 4
    assert all(isinstance(x, float) for x in calls)


def test_points_are_exact():
    """x + h and x - h carry no rounding: h is a power of two."""
    _, calls = slope_of(math.exp, 0.7)
    steps = sorted({abs(x - 0.7) for x in calls})
    assert len(steps) == 2 and steps[1] == 2 * steps[0]
    assert math.frexp(steps[0])[0] == 0.5


def test_the_complex_step_sharpens_where_it_is_confirmed():
    """A small slope beside a large constant: blunt differences, and the complex step needs no difference."""

    def evaluate_with(f):
        return slope_of(lambda x: np.array([1e5, 0.0]) + f(x) * np.array([1.0, 0.0]), 1.3)[0]

    sharp = evaluate_with(np.sin)
    blunt = evaluate_with(lambda x: math.sin(x) if isinstance(x, float) else math.nan)
    assert sharp.error[0] < 1e-8 < blunt.error[0]
    assert abs(sharp.low[0] - math.cos(1.3)) < 1e-15


@pytest.mark.parametrize(
    "trap",
    [
        lambda x: 1e5 + np.abs(np.sin(x)),  # the complex step gives 0
        lambda x: 1e5 + np.var(np.stack([np.sin(x), np.cos(3 * x)])),
        lambda x: 1e5 + np.linalg.norm(np.stack([np.sin(x), np.cos(3 * x)])),
        lambda x: 1e5 + np.sin(np.real(x)),
        lambda x: 1e5 + math.sin(x),  # raises
        lambda x: 1e5 + np.sin(np.asarray(x).astype(float)),  # warns that it drops the imaginary part
        lambda x: 1e5 + np.sin(np.conj(x)),  # the wrong sign
        lambda x: 1e5 + np.sin(x) * (1 + 1e-4 * np.imag(x) / 1e-20),  # off by some digits
    ],
)
def test_the_complex_step_is_not_believed_where_it_is_wrong(trap):
    x = 0.8
    slopes, _ = slope_of(trap, x)
    real = slope_of(lambda x: trap(x) if isinstance(x, float) else math.nan, x)[0]
    assert abs(slopes.low[0] - real.low[0]) <= slopes.error[0] + real.error[0]
    assert slopes.scale[0] > 0.1


def test_a_complex_step_that_warns_is_not_believed_at_all():
    """The cast drops the imaginary part of a term so small that the differences cannot tell."""
    slopes, _ = slope_of(lambda x: 1e5 + np.sin(x) + 5e-9 * np.sin(np.asarray(x).astype(float)), 0.8)
    assert abs(slopes.low[0] - math.cos(0.8) * (1 + 5e-9)) <= slopes.error[0]


def test_a_kink_has_two_sides():
    slopes, _ = slope_of(lambda x: 3 * max(x, 0.0) - 2 * min(x, 0.0) + x * x, 0.0)
    assert slopes.low[0] == pytest.approx(-2, abs=1e-6)
    assert slopes.high[0] == pytest.approx(3, abs=1e-6)
    assert slopes.error[0] < 1e-6
    assert slopes.scale[0] == pytest.approx(3, abs=1e-6), "the steeper side's"


def test_a_kink_beside_a_large_constant_knows_its_rounding():
    for slope in np.linspace(0.1, 1.1, 40).tolist():
        slopes, _ = slope_of(lambda x, slope=slope: 1e6 + slope * abs(x), 0.0)
        assert slopes.low[0] < 0 < slopes.high[0]
        assert max(abs(slopes.high[0] - slope), abs(slopes.low[0] + slope)) <= slopes.error[0]


def test_the_sides_of_a_kink_are_sharp_on_a_curve():
    slopes, _ = slope_of(lambda x: np.exp(x) + 2 * np.abs(x - 1), 1.0)
    assert slopes.low[0] == pytest.approx(math.e - 2, rel=1e-7)
    assert slopes.high[0] == pytest.approx(math.e + 2, rel=1e-7)
    assert slopes.error[0] < 1e-7


def test_each_output_takes_its_own_side():
    """relu'(0) = 0 in every unit, though no single side of x gives that: one unit rises and one falls."""
    slopes, _ = slope_of(lambda x: np.array([max(x, 0.0), max(-x, 0.0)]), 0.0)
    assert (slopes.low[0], slopes.high[0]) == (-1, 1)


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_kink_nearby_is_stepped_around(distance):
    for side, derivative in ((1.0, 1.0), (-1.0, 0.0)):
        slopes, _ = slope_of(lambda x: max(x - 1, 0.0), 1 + side * distance)
        assert slopes.low[0] == slopes.high[0]
        assert slopes.low[0] == pytest.approx(derivative, abs=1e-6)


NOWHERE = [np.floor, np.sign, lambda x: np.sqrt(np.abs(x - 1)), lambda x: np.log(x - 1), lambda x: (x - 1) ** 1.5]


@pytest.mark.parametrize("f", NOWHERE)
def test_where_there_is_no_derivative_the_error_says_so(f):
    with np.errstate(all="ignore"):
        slopes, _ = slope_of(lambda x: f(x) if f is not np.sign else np.sign(x - 1), 1.0)
    assert not slopes.error[0] < 0.1 * slopes.scale[0]
    assert np.isfinite([slopes.low[0], slopes.high[0], slopes.scale[0]]).all()


def test_a_flat_function_far_out_is_not_taken_for_the_derivative():
    """Saturates within the reach of a large step."""
    slopes, _ = slope_of(lambda x: 1e3 + math.tanh(1e4 * (x - 1)), 1.0)
    assert abs(slopes.low[0] - 1e4) <= slopes.error[0] < 1


def test_what_moves_nothing_is_not_moved():
    slopes, _ = slope_of(lambda x: 7.0, 1.0)
    assert not slopes.moved[0]
    assert slopes.low[0] == slopes.high[0] == slopes.scale[0] == 0


def test_noise_is_measured():
    rough = outputs_at(lambda v: np.atleast_1d((np.sin(v["x"]) + 1e6) - 1e6), {"x": 0.7}, 1.0)
    fine = outputs_at(lambda v: np.atleast_1d(np.sin(v["x"])), {"x": 0.7}, 1.0)
    assert 1e-11 < rough.noise[0] < 1e-9
    assert EPS * fine.start[0] <= fine.noise[0] < 10 * EPS
    single = outputs_at(lambda v: np.sin(v["x"].astype(np.float32)).astype(float), {"x": np.arange(1.0, 9.0)}, 1.0)
    assert np.all((single.noise > 1e-9) & (single.noise < 1e-6))


def test_noise_is_never_far_underestimated():
    deviation = 2.0**-33 / math.sqrt(12)  # numbers near 1e6 are 2^-33 apart
    points = np.random.default_rng(3).uniform(0.3, 3, 300).tolist()
    levels = [outputs_at(lambda v: np.atleast_1d((np.sin(v["x"]) + 1e6) - 1e6), {"x": x}, 1.0).noise[0] for x in points]
    assert np.mean(np.array(levels) > 2 * deviation) > 0.97
    assert max(levels) < 20 * deviation


@pytest.mark.parametrize("x", np.random.default_rng(4).uniform(0.3, 3, 100).tolist())
def test_noise_is_not_taken_for_a_kink(x):
    slopes, calls = slope_of(lambda x: (math.sin(x) + 1e6) - 1e6, x)
    assert slopes.low[0] == slopes.high[0]
    assert abs(slopes.low[0] - math.cos(x)) <= slopes.error[0]


def test_noise_is_not_chased_with_smaller_steps():
    _, calls = slope_of(lambda x: 1e9 + math.sin(x), 1.0)
    assert min(abs(x - 1.0) for x in calls if isinstance(x, float)) > 1e-5


def test_noise_is_no_kink_and_no_curvature():
    x = np.zeros(50)
    at_kinks = outputs_at(lambda v: np.maximum(v["x"], 0) + 1, {"x": x}, 1.0)
    assert np.all(at_kinks.noise == EPS)
    curved = outputs_at(lambda v: np.atleast_1d(np.exp(20 * v["x"])), {"x": 1.0}, 1.0)
    assert curved.noise[0] < 1e3 * EPS * curved.start[0]


def test_noise_where_the_domain_ends():
    outputs = outputs_at(lambda v: np.atleast_1d(math.sqrt(1 - v["x"])), {"x": 1.0}, 1.0)
    assert outputs.noise[0] == 0


def test_natural_sizes():
    x = np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1e6, 1.0, -1e6]])
    sizes = sizes_of(x)
    assert sizes[0] == pytest.approx([3, 0.1 * 5 / math.sqrt(3), 4])
    whole = np.sqrt(np.mean(x**2))
    assert sizes[1] == pytest.approx([0.1 * whole] * 3)
    assert sizes[2] == pytest.approx([1e6, 0.1 * 1e6 * math.sqrt(2 / 3), 1e6], rel=1e-6)
    assert np.all(sizes_of(np.zeros((2, 2))) == 0.1)
    assert sizes_of(np.array(-2.0)) == 2


def test_numeric_gradients():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((4, 3)).astype(np.float32), "s": 0.7}
    mask, doutput = rng.random((4, 3)) < 0.5, rng.standard_normal((4, 3))
    gradients = numeric_gradients(lambda x, s, mask: (s * np.sin(x) * mask, None), inputs, doutput, {"mask": mask})
    x = inputs["x"].astype(float)
    assert list(gradients) == ["x", "s"]
    assert gradients["x"] == pytest.approx(0.7 * np.cos(x) * mask * doutput, rel=1e-9)
    assert gradients["s"] == pytest.approx(np.sum(np.sin(x) * mask * doutput), rel=1e-9)
    assert gradients["x"].dtype == np.float64 and gradients["s"].shape == ()


def test_numeric_gradients_of_a_tuple_and_at_a_kink():
    gradients = numeric_gradients(
        lambda x: ((np.abs(x), float((x * x).sum())), None), {"x": np.array([0.0, 2.0])}, (np.array([3.0, 5.0]), 10.0)
    )
    assert gradients["x"] == pytest.approx([0, 45], abs=1e-6)


def test_an_identity_is_not_fooled_by_its_own_views():
    """The output is the very array that the oracle moves."""
    gradients = numeric_gradients(lambda x: (x, None), {"x": np.arange(1.0, 5.0)}, np.arange(4.0))
    assert gradients["x"] == pytest.approx(np.arange(4.0))


def test_a_large_op_is_measured_in_blocks(monkeypatch):
    inputs, doutput = {"x": np.arange(1.0, 8.0)}, np.arange(7.0)
    whole = numeric_gradients(lambda x: (np.sin(x), None), inputs, doutput)
    monkeypatch.setattr("lora_np.gradcheck.verdict.slopes.BLOCK", 60)
    assert np.array_equal(numeric_gradients(lambda x: (np.sin(x), None), inputs, doutput)["x"], whole["x"])
