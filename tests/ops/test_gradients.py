"""Every operation's backward against numerical derivatives, at inputs where no known mistake hides."""

import numpy as np
import pytest

from lora_np.gradcheck import check
from lora_np.ops.cases import cases

NAMES = [case.name for case in cases(np.random.default_rng(0))]
SEEDS = (0, 1, 2)


def case_of(name, seed, dtype=np.float64):
    return next(case for case in cases(np.random.default_rng(seed), dtype) if case.name == name)


def arrays_of(value):
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in values if isinstance(v, (np.ndarray, np.generic))]


def run(case, rng):
    """Return the output and the gradients at a random upstream gradient of the output's dtype."""
    output, cache = case.forward(**case.inputs, **case.fixed)
    doutput = rng.standard_normal(np.shape(output)).astype(output.dtype)
    return output, case.backward(doutput if doutput.ndim else float(doutput), cache)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_backward_agrees_with_differences_and_complex_step(name, seed):
    case = case_of(name, seed)
    report = check(case.forward, case.backward, case.inputs, case.fixed, np.random.default_rng(seed))
    assert report.ok, f"\n{report}"
    assert all(row.verdict == "ok" for row in report.rows), f"a vacuous case proves nothing\n{report}"


@pytest.mark.parametrize("name", NAMES)
def test_complex_step_runs_through_the_forward(name):
    case = case_of(name, 3)
    rng = np.random.default_rng(4)
    output, grads = run(case, np.random.default_rng(5))
    doutput = np.random.default_rng(5).standard_normal(np.shape(output))
    for (argument, x), gradient in zip(case.inputs.items(), grads if isinstance(grads, tuple) else (grads,)):
        direction = rng.standard_normal(x.shape)
        moved, _ = case.forward(**{**case.inputs, argument: x + 1e-30j * direction}, **case.fixed)
        slope = (np.asarray(moved).imag * doutput).sum() / 1e-30
        assert np.isclose((gradient * direction).sum(), slope, rtol=1e-11, atol=1e-13), argument


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_agrees_with_float64(name):
    single, double = (run(case_of(name, 6, dtype), np.random.default_rng(7)) for dtype in (np.float32, np.float64))
    for mine, reference in zip(
        arrays_of(single[0]) + arrays_of(single[1]), arrays_of(double[0]) + arrays_of(double[1])
    ):
        assert mine.dtype == np.float32
        assert np.abs(mine - reference).max() <= 2e-5 * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_inputs_may_be_read_only_and_are_not_changed(name, dtype):
    case = case_of(name, 8, dtype)
    before = {
        key: value.copy() for key, value in {**case.inputs, **case.fixed}.items() if isinstance(value, np.ndarray)
    }
    for value in (*case.inputs.values(), *case.fixed.values()):
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    run(case, np.random.default_rng(9))
    for key, value in before.items():
        assert np.array_equal({**case.inputs, **case.fixed}[key], value), key


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("linear", ("x", "W", "b")),
        ("lora_linear", ("x", "A", "B")),
        ("layer_norm", ("x", "gamma", "beta")),
        ("attention, dropout", ("Q", "K", "V")),
    ],
)
def test_needs_skips_what_is_not_wanted_and_changes_nothing_else(name, arguments):
    case = case_of(name, 10)
    output, cache = case.forward(**case.inputs, **case.fixed)
    doutput = np.random.default_rng(11).standard_normal(output.shape)
    full = case.backward(doutput, cache)
    for bits in range(2 ** len(arguments)):
        needs = tuple(argument for k, argument in enumerate(arguments) if bits >> k & 1)
        for argument, gradient, reference in zip(arguments, case.backward(doutput, cache, needs), full):
            assert (gradient is None) == (argument not in needs)
            assert gradient is None or np.array_equal(gradient, reference)


def test_every_operation_has_a_case():
    from lora_np import ops

    covered = {name.split(",")[0] for name in NAMES}
    assert {name.removesuffix("_backward") for name in ops.__all__ if name.endswith("_backward")} == covered
