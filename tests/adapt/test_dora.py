"""DoRA beside what tests of all methods say: its norm on the way back, its start, and PEFT's spelling."""

import copy
import pickle
import re
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import tiny
from adapt.test_methods import batch_for, frozen, outputs, trained

import lora_np as lnp
from lora_np.adapt import dora
from lora_np.adapt.dora import DORA, DoRAConfig, DoRALinear, dora_backward, dora_forward, lengths, turned
from lora_np.adapt.methods import adapted_nodes
from lora_np.gradcheck import check
from lora_np.model.tree import rebuild, with_arrays

rng = np.random.default_rng


def drawn(dtype=np.float64, seed=0):
    """Return arguments of DoRA off every special point."""
    draw = rng(seed).standard_normal
    x, W, A, B = draw((7, 5)), draw((5, 4)), draw((5, 2)), draw((2, 4))
    inputs = {"x": x, "A": A, "B": B, "m": 1.0 + 0.3 * draw(4)}
    return {name: array.astype(dtype) for name, array in inputs.items()}, {"W": W, "b": draw(4), "scale": 0.7}


def called(inputs, fixed):
    return inputs["x"], fixed["W"], fixed["b"], inputs["A"], inputs["B"], inputs["m"], fixed["scale"]


def in_order(dy, cache):
    return dora_backward(dy, cache)


@pytest.mark.parametrize("masked", [False, True])
def test_the_exact_gradient_is_that_of_the_function(masked):
    inputs, fixed = drawn()
    fixed["mask"] = (rng(1).random((7, 5)) < 0.6) / 0.6 if masked else None
    assert check(dora_forward, in_order, inputs, {**fixed, "exact": True}).ok


@pytest.mark.parametrize("masked", [False, True])
def test_with_the_norm_constant_it_is_that_of_the_function_whose_norm_is_given(masked):
    inputs, fixed = drawn()
    fixed["mask"] = (rng(1).random((7, 5)) < 0.6) / 0.6 if masked else None
    n = lengths(turned(fixed["W"], inputs["A"], inputs["B"], fixed["scale"]))
    assert check(dora_forward, in_order, inputs, {**fixed, "n": n}).ok
    report = check(dora_forward, in_order, inputs, fixed)
    assert sorted(report.failures) == ["A", "B"]  # and not x, nor m


def test_through_the_norm_nothing_stretches_a_column():
    """The exact gradient has no part along the columns of V, and that with the norm constant has dm along them."""
    inputs, fixed = drawn()
    A = inputs["A"] = np.eye(5)  # then scale * B moves V itself
    B = inputs["B"] = rng(3).standard_normal((5, 4))
    V, dy = turned(fixed["W"], A, B, fixed["scale"]), rng(2).standard_normal((7, 4))
    _, cache = dora_forward(*called(inputs, fixed), exact=True)
    _, _, exact, dm = dora_backward(dy, cache)
    _, _, constant, other = dora_backward(dy, dora_forward(*called(inputs, fixed))[1])
    along = (V * exact).sum(axis=0), (V * constant).sum(axis=0)
    size = np.abs(along[1]).max()
    assert np.abs(along[0]).max() < 1e-13 * size
    assert np.array_equal(dm, other)
    assert np.allclose(along[1], fixed["scale"] * inputs["m"] * dm, rtol=1e-12)


def test_what_is_not_needed_is_not_computed():
    inputs, fixed = drawn()
    _, cache = dora_forward(*called(inputs, fixed), exact=True)
    whole = dora_backward(np.ones((7, 4)), cache)
    for k, name in enumerate("xABm"):
        found = dora_backward(np.ones((7, 4)), cache, (name,))
        assert np.array_equal(found[k], whole[k]) and all(found[j] is None for j in range(4) if j != k)


@pytest.mark.parametrize("name", ["bert mean head", "gpt", "vit"])
def test_the_function_has_no_gradient_along_the_columns_so_checks_fail_where_the_norm_is_not_held(name, monkeypatch):
    model = trained(DORA, frozen(name))
    assert lnp.check_model(model, batch_for(name)).ok
    monkeypatch.delattr(DoRALinear, "as_differentiated")
    report = lnp.check_model(model, batch_for(name))
    assert {key.rpartition(".")[2] for key in report.failures} == {"A", "B"}


def angle(one, other):
    one, other = (np.concatenate([array.ravel() for array in arrays]) for arrays in (one, other))
    return np.degrees(np.arccos(one @ other / np.sqrt((one @ one) * (other @ other))))


def angles(model, batch):
    """Return {field: the angle between the two gradients}, over all nodes."""
    output, _ = model.forward(batch)
    dy = rng(1).standard_normal(output.shape).astype(output.dtype)

    def exact(_, node):
        return replace(node, exact=True) if isinstance(node, DoRALinear) else node

    grads = [one.backward(dy, one.forward(batch)[1]) for one in (model, rebuild(model, exact))]
    found = {}
    for field in "ABm":
        found[field] = [[array for key, array in one.items() if key.endswith(f".{field}")] for one in grads]
    return {field: angle(*pair) for field, pair in found.items() if any(map(np.any, pair[0]))}


def test_what_the_constant_changes_is_what_the_docstring_says():
    tiny_bert = angles(trained(DORA, frozen("bert mean head")), tiny.batch("bert mean head"))
    digits = lnp.inject(lnp.load_pretrained("digits"), lnp.LoRAConfig(r=4, use_dora=True), rng(0))
    images = lnp.load_tokenizer("digits")(lnp.load_data("digits")[0].inputs[:32])
    digits = angles(lnp.astype(digits, np.float64), lnp.Batch.of([image.astype(float) for image in images]))
    said = re.search(r"the tests (\d+) degrees .* of A, and (\d+) .* 64 wide, (\d+)", " ".join(dora.__doc__.split()))
    found = tiny_bert["A"], tiny_bert["B"], digits["B"]
    assert [round(x) for x in found] == [int(x) for x in said.groups()], found
    assert max(tiny_bert["m"], digits["m"]) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_magnitude_starts_at_the_length_of_each_output_s_weights(dtype):
    base = frozen("bert", dtype)
    model = lnp.inject(base, lnp.LoRAConfig(r=2, use_dora=True, target_modules="all-linear", lora_dropout=0.3), rng(0))
    for path, node in adapted_nodes(model).items():
        expected = np.sqrt((node.W.astype(np.float64) ** 2).sum(axis=0))
        assert node.m.shape == (node.W.shape[1],) and node.m.dtype == dtype and not node.B.any(), path
        assert np.allclose(node.m, expected, rtol=1e-6 if dtype == np.float32 else 1e-14)
    one, other = (outputs(model, "bert", draws) for draws in (None, rng(0)))
    assert np.array_equal(one, other)  # what dropout takes away from the detour, the base's own output gives back
    assert np.array_equal(one, outputs(base, "bert"))


def test_dropout_acts_on_the_scaled_part_alone():
    """As in PEFT: y = x W + b + (g - 1) z W + g * scale * z A B, with z = x * mask."""
    inputs, fixed = drawn()
    x, W, b, A, B, m, scale = called(inputs, fixed)
    mask = (rng(1).random(x.shape) < 0.6) / 0.6
    y, cache = dora_forward(x, W, b, A, B, m, scale, mask)
    z, g = x * mask, m / np.sqrt(((W + scale * A @ B) ** 2).sum(axis=0))
    assert np.allclose(y, x @ W + b + (g - 1.0) * (z @ W) + g * scale * (z @ A @ B), rtol=1e-13)


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
def test_with_dropout_it_is_what_peft_computes():
    """One linear map of theirs in training, whose dropout has our mask: its output and every gradient."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch

    class Masked(torch.nn.Module):
        def forward(self, x):
            return x * torch.from_numpy(mask)

    inputs, fixed = drawn()
    mask, dy = (rng(1).random((7, 5)) < 0.6) / 0.6, rng(2).standard_normal((7, 4))
    whole = torch.nn.Sequential(torch.nn.Linear(5, 4)).double()
    config = peft.LoraConfig(use_dora=True, r=2, lora_alpha=1.4, lora_dropout=0.4, target_modules=["0"])
    theirs = peft.get_peft_model(whole, config).train().base_model.model[0]
    theirs.lora_dropout["default"] = Masked()
    A, B, m = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight, theirs.lora_magnitude_vector["default"]
    base = theirs.base_layer
    for parameter, array in (
        (A, inputs["A"].T),
        (B, inputs["B"].T),
        (m.weight, inputs["m"]),
        (base.weight, fixed["W"].T),
        (base.bias, fixed["b"]),
    ):
        parameter.data = torch.from_numpy(array)
    x = torch.tensor(inputs["x"], requires_grad=True)
    output = theirs(x)
    output.backward(torch.from_numpy(dy))
    y, cache = dora_forward(*called(inputs, fixed), mask)
    for ours, other in zip(
        (y, *dora_backward(dy, cache)), (output.detach(), x.grad, A.grad.T, B.grad.T, m.weight.grad)
    ):
        assert np.abs(ours - other.numpy()).max() < 1e-14 * np.abs(ours).max()


def test_rank_stabilised_scale_and_patterns_go_with_it():
    config = lnp.LoRAConfig(
        r=4, lora_alpha=6, use_rslora=True, use_dora=True, rank_pattern={"value": 1}, alpha_pattern={"value": 5}
    )
    model = lnp.inject(frozen("bert"), config, rng(0))
    attention = model.layer[1].attention
    assert (attention.query.scale, attention.value.scale) == (3.0, 5.0) and attention.value.A.shape[1] == 1
    assert {type(node) for node in adapted_nodes(model).values()} == {DoRALinear}


def test_lora_config_with_use_dora_is_dora():
    config = lnp.LoRAConfig(r=3, use_dora=True, lora_alpha=5)
    assert config == DoRAConfig(r=3, lora_alpha=5) and type(config) is DoRAConfig and isinstance(config, lnp.LoRAConfig)
    assert type(replace(config, r=2)) is DoRAConfig and type(config.at(("query",))) is DoRAConfig
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    assert type(lnp.LoRAConfig(use_dora=False)) is type(lnp.LoRAConfig(use_dora=None)) is lnp.LoRAConfig
    assert lnp.LoRAConfig(use_dora=True, exact_gradient=True).exact_gradient
    for given, words in (
        ({"use_dora": True, "lora_bias": True}, "lora_bias = True is not supported"),
        ({"use_dora": "yes"}, "use_dora = 'yes' is not supported here, only False or True is"),
        ({"use_dora": True, "exact_gradient": 1}, "exact_gradient must be true or false, but it is 1"),
    ):
        with pytest.raises(ValueError, match=words):
            lnp.LoRAConfig(**given)
    with pytest.raises(ValueError, match="use_dora = False is not supported"):
        DoRAConfig(use_dora=False)

    class Mine(DoRAConfig):
        """A class of somebody's own takes nothing away from the one above it."""

    assert type(DoRAConfig(use_dora=True)) is DoRAConfig and type(lnp.LoRAConfig(use_dora=True)) is DoRAConfig
    assert type(Mine()) is Mine


def test_a_file_says_by_use_dora_what_it_is(tmp_path):
    """One of PEFT; ours says so in its metadata, too."""
    shutil.copytree(Path(__file__).parents[1] / "reference/world/bert", tmp_path, dirs_exist_ok=True)
    base, path = lnp.load_pretrained(tmp_path), tmp_path / "dora/adapter_config.json"
    model = lnp.load_adapter(base, path.parent)
    assert model.adapter == DoRAConfig(
        r=2, lora_alpha=5, target_modules=model.adapter.target_modules, task_type=model.adapter.task_type
    )
    lnp.save_adapter(model, tmp_path / "ours")
    written = (tmp_path / "ours/adapter_config.json").read_text()
    assert '"use_dora": true' in written and "exact_gradient" not in written
    path.write_text(path.read_text().replace('"use_dora": true', '"use_dora": false'))
    with pytest.raises(ValueError, match=r"lora_magnitude_vector, which matches nothing"):
        lnp.load_adapter(base, path.parent)


def test_an_option_that_nobody_knows_in_the_metadata_is_refused(tmp_path):
    from lora_np.files.safetensors import read_safetensors, write_safetensors

    base = frozen("bert", np.float32)
    for model in (trained(DORA, base), tiny.adapted("bert", np.float32)):
        lnp.save_adapter(model, tmp_path)
        weights = tmp_path / "adapter_model.safetensors"
        tensors, metadata = read_safetensors(weights)
        for text, words in (('{"tomorrow": 1}', "has tomorrow = 1; expected nothing here but"), ("[]", "an object")):
            write_safetensors(weights, tensors, {**metadata, "lora_np_options": text})
            with pytest.raises(ValueError, match=words):
                lnp.load_adapter(base, tmp_path)


def test_an_output_whose_weights_are_all_zero_is_refused():
    base = frozen("bert")
    W = base.layer[1].attention.query.W.copy()
    W[:, 3] = 0.0
    base = with_arrays(base, {"layer.1.attention.query.W": W})
    with pytest.raises(
        ValueError, match=r"1 of 12 are zero in encoder\.layer\.1\.attention\.self\.query, .* output 3;"
    ):
        lnp.inject(base, DoRAConfig(), rng(0))
    assert lnp.inject(base, DoRAConfig(exclude_modules=[r"layer.1.attention.self.query"]), rng(0)).adapter


def test_merged_in_float64_and_rounded_once():
    model = trained(DORA, frozen("bert", np.float32))
    merged = lnp.merge(model)
    for path, node in adapted_nodes(model).items():
        W, A, B, m = (array.astype(np.float64) for array in (node.W, node.A, node.B, node.m))
        V = W + node.scale * A @ B
        _, layer, *rest = path.split(".")
        plain = merged.layer[int(layer)]
        for name in rest:
            plain = getattr(plain, name)
        exact = m / np.sqrt((V**2).sum(axis=0)) * V
        assert plain.W.dtype == np.float32 and np.abs(plain.W - exact).max() <= np.spacing(
            np.float32(np.abs(exact).max())
        )


def test_the_count_on_minilm_is_that_of_peft():
    """Six layers of 384, query and value, and a head of 384 x 2 + 2; PEFT counts the same."""
    config = lnp.LoRAConfig(r=8, use_dora=True)
    one = sum(map(prod, DORA.shapes(384, 384, config).values()))
    assert 12 * one + 770 == 79_106


def test_a_shape_that_does_not_fit_is_named():
    inputs, fixed = drawn()
    x, W, b, A, B, m, scale = called(inputs, fixed)
    with pytest.raises(ValueError, match=r"dora needs .* m \(d_out,\), .* m \(3,\)"):
        dora_forward(x, W, b, A, B, m[:3], scale)
    _, cache = dora_forward(x, W, b, A, B, m, scale)
    with pytest.raises(ValueError, match=r"dora_backward needs"):
        dora_backward(np.ones((7, 3)), cache)
    with pytest.raises(ValueError, match="scale must be one real number"):
        dora_forward(x, W, b, A, B, m, None)
