"""AdamW and single operations against PyTorch; the arrays lie in tests/reference. Nothing here needs PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_np import ops
from lora_np.train.optimisers import AdamW

FOLDER = Path(__file__).parent / "reference"
TOLERANCE = 1e-12
EPS = 1e-5  # of layer_norm
CROSS_ENTROPY = tuple(
    {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": smoothing}
    for ignore_index in (-100, 1)
    for reduction in ("mean", "sum")
    for smoothing in (0.0, 0.2)
)


def relative_error(what, ours, theirs):
    """Return max|ours - theirs| / max|theirs|."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what} has the shape {ours.shape} here and {theirs.shape} there"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def case_name(case):
    return "cross_entropy." + ".".join(map(str, case.values()))


# ---- AdamW


def adamw_errors():
    """Return {what: relative error} for the parameters after each step in each setting."""
    stored = load_file(FOLDER / "adamw.safetensors")
    names = [key.removeprefix("start.") for key in stored if key.startswith("start.")]
    errors = {}
    for setting in ("plain", "other"):
        beta1, beta2, eps, weight_decay = stored[f"{setting}.options"].tolist()
        parameters = {name: stored[f"start.{name}"].copy() for name in names}
        optimiser = AdamW(parameters, lr=0.0, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
        for step, rate in enumerate(stored[f"{setting}.rates"].tolist()):
            optimiser.lr = rate
            optimiser.step({name: stored[f"gradient.{step}.{name}"] for name in names})
            for name in names:
                what = f"{setting} AdamW, {name} after step {step + 1}"
                errors[what] = relative_error(what, parameters[name], stored[f"{setting}.{step}.{name}"])
    return errors


def test_adamw_gives_the_parameters_of_torch():
    errors = adamw_errors()
    assert len(errors) == 2 * 5 * 3
    assert_small(errors)


# ---- operations: (forward, backward, differentiable arguments, fixed arguments)


def operations(stored):
    found = {
        "gelu": (ops.gelu_forward, ops.gelu_backward, ("x",), {}),
        "gelu_tanh": (ops.gelu_tanh_forward, ops.gelu_tanh_backward, ("x",), {}),
        "layer_norm": (ops.layer_norm_forward, ops.layer_norm_backward, ("x", "gamma", "beta"), {"eps": EPS}),
        "attention": (
            ops.attention_forward,
            ops.attention_backward,
            ("Q", "K", "V"),
            {"visible": stored["attention.visible"]},
        ),
    }
    for case in CROSS_ENTROPY:
        name = case_name(case)
        fixed = {"labels": stored[f"{name}.labels"], **case}
        found[name] = (ops.cross_entropy_forward, ops.cross_entropy_backward, ("logits",), fixed)
    return found


def operation_errors():
    """Return {what: relative error} for the output and the gradients of each operation."""
    stored = load_file(FOLDER / "operations.safetensors")
    errors = {}
    for name, (forward, backward, inputs, fixed) in operations(stored).items():
        output, cache = forward(**{key: stored[f"{name}.{key}"] for key in inputs}, **fixed)
        doutput = stored[f"{name}.doutput"]
        found = backward(doutput if doutput.ndim else float(doutput), cache)
        errors[name] = relative_error(name, output, stored[f"{name}.output"])
        for key, gradient in zip(inputs, found if isinstance(found, tuple) else (found,), strict=True):
            what = f"{name}: d{key}"
            errors[what] = relative_error(what, gradient, stored[f"{name}.d{key}"])
    return errors


def test_operations_give_the_outputs_and_gradients_of_torch():
    errors = operation_errors()
    assert len(errors) == 2 * len(CROSS_ENTROPY) + 2 + 2 + 4 + 4
    assert_small(errors)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_is_right_at_each_point(name):
    stored = load_file(FOLDER / "operations.safetensors")
    forward, backward, _, _ = operations(stored)[name]
    x = stored[f"{name}.x"]
    y, cache = forward(x)
    dx = backward(np.ones_like(x), cache)
    assert x.min() == -6.0 and x.max() == 6.0
    worst = (
        np.abs(y - stored[f"{name}.output"]).max(),
        np.abs(dx - stored[f"{name}.dx"] / stored[f"{name}.doutput"]).max(),
    )
    assert max(worst) < 1e-14, f"{name}: value and slope differ by up to {worst}"


def assert_small(errors):
    large = {what: error for what, error in errors.items() if not error < TOLERANCE}
    assert not large, f"relative errors of {TOLERANCE} or more: " + ", ".join(f"{k} {v:.1e}" for k, v in large.items())
