"""Whole models: every array along a random direction, and the dict as it should be."""

import numpy as np
import pytest

from lora_np.gradcheck import check_parameters

RNG = np.random.default_rng(4)
X = RNG.standard_normal((6, 5))
PARAMETERS = {
    "layer.0.W": RNG.standard_normal((5, 7)),
    "layer.0.b": np.zeros(7),
    "layer.1.W": 1e-3 * RNG.standard_normal((7, 2)),
    "layer.1.b": 1e3 * RNG.standard_normal(2),
}


def forward(parameters):
    return (
        np.tanh(X @ parameters["layer.0.W"] + parameters["layer.0.b"]) @ parameters["layer.1.W"]
        + parameters["layer.1.b"]
    )


def gradients(parameters, dy):
    h = np.tanh(X @ parameters["layer.0.W"] + parameters["layer.0.b"])
    dz = dy @ parameters["layer.1.W"].T * (1 - h * h)
    return {"layer.0.W": X.T @ dz, "layer.0.b": dz.sum(0), "layer.1.W": h.T @ dy, "layer.1.b": dy.sum(0)}


def changed(name, change):
    def run(parameters, dy):
        grads = gradients(parameters, dy)
        return grads | {name: change(grads[name])}

    return run


def only(report, key, *words):
    assert list(report.failures) == [key], f"\n{report}"
    assert all(word in report.failures[key][0] for word in words), f"\n{report}"


@pytest.mark.parametrize("seed", range(10))
def test_right(seed):
    report = check_parameters(forward, gradients, PARAMETERS, np.random.default_rng(seed))
    assert report.ok, f"\n{report}"
    assert [row.argument for row in report.rows] == list(PARAMETERS)
    assert [row.shape for row in report.rows] == [x.shape for x in PARAMETERS.values()]
    assert report.max_error < 1e-7


def test_the_same_call_gives_the_same_report():
    reports = [check_parameters(forward, gradients, PARAMETERS, rng) for rng in (None, None, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_right_with_a_float_output():
    def loss(parameters):
        return float((forward(parameters) ** 2).mean())

    def loss_gradients(parameters, dloss):
        y = forward(parameters)
        return gradients(parameters, dloss * 2 * y / y.size)

    assert check_parameters(loss, loss_gradients, PARAMETERS).ok


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda g: 2 * g,
        lambda g: -g,
        lambda g: 0 * g,
        lambda g: g * (1 + 1e-5),
        lambda g: g + 1e-4 * np.abs(g).max() * (np.arange(g.size).reshape(g.shape) == g.size - 1),
        lambda g: np.roll(g, 1, axis=-1),
    ],
)
def test_wrong(name, change, seed):
    report = check_parameters(forward, changed(name, change), PARAMETERS, np.random.default_rng(seed))
    only(report, name, f"{name}: wrong along a random direction: yours ", "of its scale, tolerance")
    assert [row.argument for row in report.rows if row.verdict == "wrong"] == [name]


def test_many_kinks_nearby_do_no_harm():
    x, W = RNG.standard_normal((40, 30)), RNG.standard_normal((30, 50))

    def forward(parameters):
        z = x @ parameters["W"]
        return float(np.where(z.real > 0, z, 0).sum().real) if np.isrealobj(z) else np.where(z.real > 0, z, 0).sum()

    def gradients(parameters, d):
        return {"W": d * (x.T @ (x @ parameters["W"] > 0))}

    for seed in range(5):
        assert check_parameters(forward, gradients, {"W": W}, seed).ok
        wrong = check_parameters(forward, lambda p, d: {"W": 1.00001 * gradients(p, d)["W"]}, {"W": W}, seed)
        assert list(wrong.failures) == ["W"]


def test_a_parameter_without_effect_is_vacuous():
    def softmax(z):
        e = np.exp(z - z.real.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def forward(p):
        return softmax(X @ p["W"] + p["shift"])

    def gradients(extra):
        def run(p, dy):
            P = forward(p)
            dz = P * (dy - (P * dy).sum(axis=1, keepdims=True))
            return {"W": X.T @ dz, "shift": np.array(dz.sum()) + extra}

        return run

    parameters = {"W": RNG.standard_normal((5, 3)), "shift": np.array(0.3)}
    report = check_parameters(forward, gradients(0.0), parameters)
    assert report.ok
    assert [row.verdict for row in report.rows] == ["ok", "vacuous"]
    assert "the true gradient is zero" in report.notes[0]
    assert list(check_parameters(forward, gradients(1e-8), parameters).failures) == ["shift"]


class TestStructure:
    def test_missing_and_extra(self):
        def run(parameters, dy):
            grads = gradients(parameters, dy)
            grads["layer.2.W"] = grads.pop("layer.1.b")
            return grads

        report = check_parameters(forward, run, PARAMETERS)
        assert report.failures == {
            "backward": [
                "backward: has no gradient for layer.1.b",
                "backward: has a gradient for layer.2.W, not among the parameters",
            ]
        }
        assert [row.verdict for row in report.rows] == ["ok", "ok", "ok", "wrong"]

    def test_order(self):
        report = check_parameters(forward, lambda p, d: dict(reversed(gradients(p, d).items())), PARAMETERS)
        only(report, "backward", "another order")

    def test_no_dict(self):
        only(check_parameters(forward, lambda p, d: 1.0, PARAMETERS), "backward", "returns float, expected a dict")

    def test_none(self):
        only(check_parameters(forward, changed("layer.0.b", lambda g: None), PARAMETERS), "layer.0.b", "is None")

    def test_shape(self):
        report = check_parameters(forward, changed("layer.0.b", lambda g: g[None]), PARAMETERS)
        only(report, "layer.0.b", "has shape (1, 7), expected (7,)")

    def test_dtype(self):
        report = check_parameters(forward, changed("layer.0.W", lambda g: g.astype(np.float32)), PARAMETERS)
        assert "has dtype float32, expected float64" in report.failures["layer.0.W"][0]

    def test_not_finite(self):
        report = check_parameters(
            forward, changed("layer.0.b", lambda g: g / 0 if g.size == 0 else g + np.inf), PARAMETERS
        )
        only(report, "layer.0.b", "is not finite in 7 of 7 entries")

    def test_raises(self):
        def run(parameters, dy):
            return parameters["layer.9.W"]

        report = check_parameters(forward, run, PARAMETERS)
        only(report, "backward", "raises KeyError: 'layer.9.W'", 'return parameters["layer.9.W"]')
        assert all(row.verdict == "wrong" for row in report.rows)

    def test_changes_a_parameter(self):
        def run(parameters, dy):
            grads = gradients(parameters, dy)
            parameters["layer.0.b"] -= 0.1
            return grads

        report = check_parameters(forward, run, PARAMETERS)
        only(report, "layer.0.b", "the backward changes this parameter in place")
        assert [row.verdict for row in report.rows] == ["ok", "wrong", "ok", "ok"]

    def test_changes_the_upstream(self):
        def run(parameters, dy):
            grads = gradients(parameters, dy)
            dy *= 2
            return grads

        only(check_parameters(forward, run, PARAMETERS), "backward", "changes its upstream gradient in place")

    def test_forward_changes_a_parameter(self):
        def run(parameters):
            y = forward(parameters)
            parameters["layer.0.b"] += 0.1
            return y

        only(check_parameters(run, gradients, PARAMETERS), "layer.0.b", "the forward changes this parameter in place")

    def test_forward_draws_numbers(self):
        report = check_parameters(lambda p: forward(p) * (1 + RNG.random()), gradients, PARAMETERS)
        only(report, "forward", "two calls with the same parameters differ")
        assert all(row.verdict == "not resolved" for row in report.rows)

    def test_the_callers_arrays_are_never_passed_on(self):
        parameters = {name: x.copy() for name, x in PARAMETERS.items()}
        for x in parameters.values():
            x.flags.writeable = False

        def run(p):
            assert all(not np.shares_memory(p[name], x) for name, x in parameters.items())
            return forward(p)

        assert check_parameters(run, gradients, parameters).ok


@pytest.mark.parametrize(
    "parameters, error, words",
    [
        ([X], TypeError, "parameters must be a dict from names to arrays, not list"),
        ({}, ValueError, "parameters is empty"),
        ({"W": X.astype(np.float32)}, TypeError, "'W' is float32, expected a float64 array; cast the whole model"),
        ({"W": np.arange(3)}, TypeError, "'W' has dtype int64"),
        ({"W": 1.0}, TypeError, "'W' is a scalar"),
        ({"W": np.array([np.nan])}, ValueError, "'W' is not finite"),
        ({"V": X}, ValueError, "the forward raises at the given parameters: KeyError"),
    ],
)
def test_bad_arguments(parameters, error, words):
    with pytest.raises(error) as caught:
        check_parameters(lambda p: p["W"] * 2, lambda p, d: {"W": 2 * d}, parameters)
    assert words in str(caught.value)


def test_bad_functions_and_outputs():
    with pytest.raises(TypeError, match="gradients must be a function, not dict"):
        check_parameters(forward, {}, PARAMETERS)
    with pytest.raises(ValueError, match="not finite"):
        check_parameters(lambda p: np.inf, gradients, PARAMETERS)


def counted(parameters, change=None, sizes=None):
    """Return the report on a sum of sines, each of its size, and how many forwards it took."""
    sizes = sizes or dict.fromkeys(parameters, 1.0)
    calls = []

    def forward(parameters):
        calls.append(1)
        return sum(sizes[name] * np.sin(x) for name, x in parameters.items())

    def gradients(parameters, d):
        grads = {name: d * sizes[name] * np.cos(x) for name, x in parameters.items()}
        return grads | {name: factor * grads[name] for name, factor in (change or {}).items()}

    return check_parameters(forward, gradients, parameters), len(calls)


@pytest.mark.parametrize("width", [3, 300])
@pytest.mark.parametrize("arrays", [5, 60])
def test_a_few_forwards_whatever_the_size(width, arrays):
    report, calls = counted({f"W{k}": RNG.standard_normal(width) for k in range(arrays)})
    assert report.ok and calls < 50


def test_large_gradients_do_not_make_the_others_move_alone():
    parameters = {f"W{k}": RNG.standard_normal(9) for k in range(60)}
    report, calls = counted(parameters, sizes={f"W{k}": 1e6 if k % 4 == 0 else 1.0 for k in range(60)})
    assert report.ok and calls < 80  # with larger steps


def test_only_a_failure_moves_the_arrays_one_by_one_and_finds_the_culprits():
    parameters = {f"W{k}": RNG.standard_normal(7) for k in range(60)}
    report, calls = counted(parameters, {"W3": 1 + 1e-5, "W41": -1.0})
    assert list(report.failures) == ["W3", "W41"]
    assert 60 * 4 < calls < 60 * 6


def test_arrays_without_effect_are_seen_to_be_so_together_and_one_that_has_some_alone():
    parameters = {f"W{k}": RNG.standard_normal(7) for k in range(60)}
    report, calls = counted(parameters, sizes={f"W{k}": float(k % 2) for k in range(60)})
    assert report.ok and [row.verdict for row in report.rows] == 30 * ["vacuous", "ok"]
    assert calls < 80
    for change in (0.0, 1.5):
        report, _ = counted(parameters, {"W3": change}, {f"W{k}": float(k % 2) for k in range(60)})
        assert list(report.failures) == ["W3"]
        assert [row.verdict for row in report.rows][:4] == ["vacuous", "ok", "vacuous", "wrong"]


@pytest.mark.parametrize("size", [1e-8, 1e-4, 1e4, 1e8])
@pytest.mark.parametrize("factor", [1.0, 1 + 1e-5])
def test_an_array_of_another_size_is_judged_by_its_own_share(size, factor):
    """Beside gradients of 1, one of 1e-8 must not drown; nor must they beside one of 1e8."""

    def forward(parameters):
        return np.sin(parameters["W"]) + size * np.sin(parameters["V"]) + np.sin(parameters["U"])

    def gradients(parameters, d):
        odd = {"U": 1.0, "V": size, "W": 1.0}
        grads = {name: d * odd[name] * np.cos(x) for name, x in parameters.items()}
        return grads | {"V": factor * grads["V"]}

    parameters = {name: RNG.standard_normal(9) for name in "UVW"}
    report = check_parameters(forward, gradients, parameters)
    assert (factor == 1.0 and report.ok) or list(report.failures) == ["V"], f"\n{report}"
