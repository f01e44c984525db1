"""AdamW and single operations against PyTorch; the arrays lie in tests/reference. Nothing here needs PyTorch."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_reference_models as models
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np import ops
from lora_np.adapt.lora_fa import projected
from lora_np.adapt.methods import between_steps
from lora_np.model.tree import with_arrays
from lora_np.train.optimisers import AdamW
from lora_np.train.step import loss_and_gradients

FOLDER = Path(__file__).parent / "reference"
TOLERANCE = 1e-12
EPS = 1e-5  # of layer_norm
FACTORS = {"vector": 7.0, "cube": 0.3}  # of AdamW's rate, in one setting
STEPS = 11  # of AdaLoRA's run
LR, RATIO = 0.003, 16.0  # of LoRA+; LoRA-FA has the same rate
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
    for setting in ("plain", "other", "factors"):
        beta1, beta2, eps, weight_decay = stored[f"{setting}.options"].tolist()
        parameters = {name: stored[f"start.{name}"].copy() for name in names}
        optimiser = AdamW(parameters, lr=0.0, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
        if setting == "factors":
            optimiser = AdamW(parameters, 0.0, (beta1, beta2), eps, weight_decay, lr_factors=FACTORS)
        for step, rate in enumerate(stored[f"{setting}.rates"].tolist()):
            optimiser.lr = rate
            optimiser.step({name: stored[f"gradient.{step}.{name}"] for name in names})
            for name in names:
                what = f"{setting} AdamW, {name} after step {step + 1}"
                errors[what] = relative_error(what, parameters[name], stored[f"{setting}.{step}.{name}"])
    return errors


def test_adamw_gives_the_parameters_of_torch():
    errors = adamw_errors()
    assert len(errors) == 3 * 5 * 3
    assert_small(errors)


# ---- LoRA+ and LoRA-FA as PEFT's optimisers take their steps


def two_steps(what, folder, optimiser_of, gradients_of=lambda model, grads, _: grads):
    """Return {what: relative error} of all arrays that a file of the adapter holds, after each of two steps from it."""
    stored, given = load_file(FOLDER / "optimisers.safetensors"), load_file(FOLDER / "bert/reference.safetensors")
    model = lnp.load_adapter(lnp.load_pretrained(FOLDER / "bert", dtype=np.float64), FOLDER / folder)
    names, transposed = models.names_in_peft(model)
    if what == "lorafa":
        model = lnp.freeze(model, "*.A")
    optimiser, batch = optimiser_of(lnp.parameters(model, trainable_only=True)), models.make_batch("bert", given)
    errors = {}
    for step in range(2):
        _, cache = model.forward(batch)
        grads = model.backward(models.upstream("bert", batch, given, np.float64), cache)
        optimiser.step(gradients_of(model, grads, optimiser))
        live = lnp.parameters(model)
        theirs = {name: stored[f"{what}.{step}.{names[name]}"] for name in names}
        for name, array in theirs.items():
            ours = models.as_stored("bert", name, live[name], array.shape, transposed.get(name))
            errors[f"{name} after step {step + 1}"] = relative_error(name, ours, array)
    assert len(theirs) == sum(key.startswith(f"{what}.0.") for key in stored)
    return errors


def loraplus_errors():
    def optimiser(live):
        factors = {"B|b|m|gamma|beta": RATIO}  # the classifier's bias and DoRA's m, too
        return AdamW(live, lr=LR, weight_decay=0.0, lr_factors=factors)

    return two_steps("loraplus", "bert/dora", optimiser)


def lorafa_errors():
    def gradients(model, grads, optimiser):
        optimiser.eps = 1e-6 / math.sqrt(1.0 - 0.999 ** (optimiser.t + 1))
        return projected(model, grads)

    return two_steps("lorafa", "bert/classifier", lambda live: AdamW(live, lr=LR, weight_decay=0.0), gradients)


@pytest.mark.parametrize("errors_of", [loraplus_errors, lorafa_errors])
def test_two_steps_are_those_of_an_optimiser_of_peft(errors_of):
    assert_small(errors_of())


# ---- AdaLoRA: a run in which PEFT takes triplets away


def adalora_errors():
    """Return {what: relative error} of each loss, of all singular values after each step, of all arrays in the end."""
    stored, given = load_file(FOLDER / "adalora.safetensors"), load_file(FOLDER / "bert/reference.safetensors")
    base = lnp.load_pretrained(FOLDER / "bert", dtype=np.float64)
    config = replace(lnp.load_adapter(base, FOLDER / "bert/adalora").adapter, rank_pattern=None)
    model = lnp.inject(base, config, np.random.default_rng(0))
    names, transposed = models.names_in_peft(model)
    names = {
        name: theirs.replace("classifier.", "classifier.modules_to_save.default.") if "head." in name else theirs
        for name, theirs in names.items()
    }

    def arrays(when, live):
        """Return ours and theirs of one time, in one row each."""
        known = {name: stored[f"{when}.{theirs}"] for name, theirs in names.items() if f"{when}.{theirs}" in stored}
        ours = [models.as_stored("bert", n, live[n], a.shape, transposed.get(n)).ravel() for n, a in known.items()]
        return np.concatenate(ours), np.concatenate([array.ravel() for array in known.values()]), known

    _, _, start = arrays("start", lnp.parameters(model))
    turned = {n: models.as_stored("bert", n, a, a.shape[::-1], transposed.get(n)) for n, a in start.items()}
    model = with_arrays(model, {name: np.ascontiguousarray(array) for name, array in turned.items()})
    sequences, live = np.split(given["ids"], np.cumsum(given["lengths"])[:-1]), lnp.parameters(model, True)
    optimiser, between, errors = AdamW(live, **models.STEP), between_steps(model), {}
    for step in range(STEPS):
        loss, grads = loss_and_gradients(model, sequences, stored["labels"], (0,), shares=2)
        optimiser.step(grads)
        between.after_step(step, grads)
        errors[f"loss {step + 1}"] = relative_error("loss", loss, stored["losses"][step])
        errors[f"E after step {step + 1}"] = relative_error("E", *arrays(step, live)[:2])
        assert np.array_equal(*(a == 0 for a in arrays(step, live)[:2])), f"others are masked at step {step + 1}"
    return {**errors, "all arrays in the end": relative_error("the end", *arrays("end", live)[:2])}


def test_a_run_of_adalora_is_that_of_peft():
    errors = adalora_errors()
    assert len(errors) == 2 * STEPS + 1
    assert_small(errors)


def test_that_run_takes_triplets_away_and_some_come_back():
    stored = load_file(FOLDER / "adalora.safetensors")
    left = [
        sum(int((array != 0).sum()) for key, array in stored.items() if key.startswith(f"{step}."))
        for step in range(STEPS)
    ]
    assert left == [24, 24, 21, 24, 19, 24, 18, 24, 18, 18, 18]  # every second step, then for good


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
