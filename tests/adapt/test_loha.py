"""LoHa: what `check_method` cannot know of it. Its gradients and files are proven there, and in the references."""

import itertools
import json

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.adapt.loha import LoHaLinear, loha_linear_backward, loha_linear_forward, shapes, update_mask
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.nodes import Linear

NAMES = ("A1", "B1", "A2", "B2")
MASK = np.array([0.0, 1.6, 1.6, 0.0, 1.6, 1.6, 1.6])


def drawn(dtype=np.float64, N=5, d_in=6, d_out=7, r=2):
    """Return x, and what a LoHa's forward is given beside it, with nothing that happens to be 0 or 1."""
    rng = np.random.default_rng(0)
    sizes = {"x": (N, d_in), "W": (d_in, d_out), "b": (d_out,), "A1": (d_in, r), "B1": (r, d_out)}
    sizes |= {"A2": (d_in, r), "B2": (r, d_out)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in sizes.items()}


def minilm(vocabulary=3):
    """Return a BERT of MiniLM's sizes, as far as linear maps of its layers count, with our head of 770 numbers."""
    config = {
        **tiny.BERT, "vocab_size": vocabulary, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 8,
    }  # fmt: skip
    base = lnp.bert(config, rng=np.random.default_rng(0), dtype=np.float32)
    return lnp.with_head(base, labels=2, pooling="mean", rng=np.random.default_rng(1))


# ---- the mathematics


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_gradient(mask, bias):
    given = drawn()
    inputs = {name: given[name] for name in ("x", *NAMES)}
    fixed = {"W": given["W"], "b": given["b"] if bias else None, "scale": 1.7, "mask": mask}
    report = lnp.gradcheck.check(loha_linear_forward, loha_linear_backward, inputs, fixed)
    assert report.ok, report


def test_it_is_the_formula_of_peft_entry_by_entry():
    given, scale = drawn(), 1.7
    y, _ = loha_linear_forward(**given, scale=scale, mask=MASK)
    w1_a, w1_b, w2_a, w2_b = (given[name].T for name in ("B1", "A1", "B2", "A2"))  # hada_..., (d_out, r) and (r, d_in)
    delta = np.zeros_like(given["W"].T)
    for i, j in itertools.product(*map(range, delta.shape)):
        delta[i, j] = MASK[i] * scale * sum(w1_a[i] * w1_b[:, j]) * sum(w2_a[i] * w2_b[:, j])
    assert np.allclose(y, given["x"] @ (given["W"].T + delta).T + given["b"], rtol=1e-13, atol=1e-13)


def test_the_update_has_the_square_of_the_rank_and_is_a_lora_of_that_rank():
    given = drawn(d_in=13, d_out=11, r=3)
    A1, B1, A2, B2 = (given[name] for name in NAMES)
    update = (A1 @ B1) * (A2 @ B2)
    assert np.linalg.matrix_rank(update) == 9
    A = np.stack([A1[:, k] * A2[:, l] for k in range(3) for l in range(3)], axis=1)
    B = np.stack([B1[k] * B2[l] for k in range(3) for l in range(3)])
    assert np.allclose(A @ B, update, rtol=1e-13, atol=1e-13)


def test_a_gradient_that_is_not_asked_for_is_not_computed():
    given = drawn()
    y, cache = loha_linear_forward(**given, scale=1.7, mask=MASK)
    everything = dict(zip(("x", *NAMES), loha_linear_backward(np.cos(y), cache)))
    for wanted in itertools.chain.from_iterable(itertools.combinations(everything, k) for k in range(6)):
        found = dict(zip(everything, loha_linear_backward(np.cos(y), cache, wanted)))
        assert {name for name, gradient in found.items() if gradient is not None} == set(wanted)
        assert all(np.array_equal(found[name], everything[name]) for name in wanted)


def test_nothing_dense_is_kept_for_the_backward():
    given = drawn()
    _, cache = loha_linear_forward(**given, scale=1.7, mask=MASK)
    large = [array for array in cache if np.shape(array) == given["W"].shape]
    assert len(large) == 1 and large[0] is given["W"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype):
    model = lnp.inject(tiny.build("bert", dtype), lnp.LoHaConfig(r=2, rank_dropout=0.5), np.random.default_rng(0))
    output, cache = model.forward(tiny.batch("bert"), np.random.default_rng(1))
    grads = model.backward(np.ones_like(output), cache)
    assert {array.dtype for array in (output, *grads.values(), *lnp.parameters(model).values())} == {np.dtype(dtype)}


# ---- the start


def test_all_but_one_factor_are_drawn_and_that_one_alone_moves_at_first():
    model = lnp.inject(tiny.build("bert"), lnp.LoHaConfig(r=3), np.random.default_rng(0))
    for node in adapted_nodes(model).values():
        assert not node.A2.any()
        for array in (node.A1, node.B1, node.B2):  # U(-1/sqrt(inputs), 1/sqrt(inputs)), the inputs being the rows
            bound = 1 / np.sqrt(len(array))
            assert array.all() and 0.8 * bound < abs(array).max() <= bound
    output, cache = model.forward(tiny.batch("bert"))
    grads = model.backward(np.cos(output), cache)
    assert all(gradient.any() == name.endswith("A2") for name, gradient in grads.items())


def test_without_init_weights_it_starts_elsewhere_and_the_file_says_so(tmp_path):
    base = tiny.build("bert")
    model = lnp.inject(base, lnp.LoHaConfig(r=3, init_weights=False), np.random.default_rng(0))
    outputs = [one.forward(tiny.batch("bert"))[0] for one in (model, base)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    lnp.save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_weights"] is False
    assert lnp.load_adapter(base, tmp_path).adapter.init_weights is False


# ---- dropout


@pytest.mark.parametrize("divided", [True, False])
def test_an_output_is_updated_or_not_and_what_is_left_is_divided_by_its_share(divided):
    mask = update_mask(1000, 0.3, 0.0, np.random.default_rng(0), np.float32, divided)
    share = np.count_nonzero(mask) / 1000
    assert abs(share - 0.7) < 0.05 and mask.dtype == np.float32
    assert np.array_equal(np.unique(mask), np.float32([0, 1 / share if divided else 1]))
    same = update_mask(1000, 0.3, 0.0, np.random.default_rng(0), np.float64, divided)
    assert np.array_equal(mask != 0, same != 0)


def test_a_whole_update_is_left_out_as_often_as_asked():
    masks = [update_mask(3, 0.0, 0.25, np.random.default_rng(seed), np.float32) for seed in range(1000)]
    assert {(tuple(mask), mask.dtype.name) for mask in masks} == {((0, 0, 0), "float32"), ((1, 1, 1), "float32")}
    assert abs(np.mean(masks) - 0.75) < 0.05


def test_without_a_generator_or_a_probability_nothing_is_dropped():
    assert update_mask(3, 0.5, 0.5, None, np.float64) is None
    assert update_mask(3, 0.0, 0.0, np.random.default_rng(0), np.float64) is None
    with pytest.raises(ValueError, match="rng must be a generator"):
        update_mask(3, 0.5, 0.5, 7, np.float64)
    assert not update_mask(2, 0.999999, 0.0, np.random.default_rng(0), np.float64).any()  # none is left: no 0 / 0


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("coin", [0.9, 0.1], ids=["kept", "left out"])
def test_both_dropouts_are_those_of_peft(coin, monkeypatch):
    """Its layer in training, with our random numbers in the place of its own."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from peft.tuners.loha.layer import Linear as Theirs

    given, uniform = drawn(), np.random.default_rng(2).random(7)
    linear = torch.nn.Linear(6, 7).double()
    config = peft.LoHaConfig(r=2, alpha=3, rank_dropout=0.4, module_dropout=0.3)
    theirs = Theirs(linear, "default", config, r=2, alpha=3).double().train()
    factors = {"hada_w1_b": "A1", "hada_w1_a": "B1", "hada_w2_b": "A2", "hada_w2_a": "B2"}
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(given["W"].T))
        linear.bias.copy_(torch.tensor(given["b"]))
        for name, ours in factors.items():
            getattr(theirs, name)["default"].copy_(torch.tensor(given[ours].T))
    monkeypatch.setattr(torch, "rand", lambda n: torch.tensor([coin] if n == 1 else uniform))
    y = theirs(torch.tensor(given["x"])).detach().numpy()

    class Generator(np.random.Generator):
        def random(self, size=None, dtype=None):
            return coin if size is None else uniform

    arrays = {name: given[name] for name in ("W", "b", *NAMES)}
    node = LoHaLinear(**arrays, scale=1.5, rank_dropout=0.4, module_dropout=0.3)
    ours, _ = node.forward(given["x"], Generator(np.random.PCG64()))
    assert np.allclose(ours, y, rtol=1e-12, atol=1e-12)
    plain, _ = Linear(given["W"], given["b"]).forward(given["x"])
    assert np.array_equal(ours, plain) == (coin < 0.3) and 1 < np.count_nonzero(uniform < 0.4) < 6


# ---- the count, and what is refused


def test_the_count_of_minilm():
    config = lnp.LoHaConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    assert lnp.count_parameters(lnp.inject(minilm(), config, np.random.default_rng(0))).trainable == 148_226
    assert 12 * sum(np.prod(shape) for shape in shapes(384, 384, config).values()) + 770 == 148_226


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"use_effective_conv2d": True}, "use_effective_conv2d = True is not supported here, only False is"),
        ({"peft_type": "LOKR"}, "peft_type = 'LOKR' is not supported here, only 'LOHA' is"),
        ({"layers_pattern": "layer"}, "layers_pattern = 'layer' is not supported here"),
        ({"init_weights": "lycoris"}, "init_weights must be true or false, but it is 'lycoris'"),
        ({"alpha": 0}, "alpha must be a positive number, but it is 0"),
        ({"r": 2.5}, "r must be a positive integer, but it is 2.5"),
        ({"rank_dropout": 1.0}, "rank_dropout must be a number from 0 to below 1, but it is 1.0"),
        ({"module_dropout": -0.1}, "module_dropout must be a number from 0 to below 1, but it is -0.1"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern must be a dict of positive integers by name"),
        ({"alpha_pattern": {"query": "1"}}, "alpha_pattern must be a dict of positive numbers by name"),
    ],
)
def test_an_option_without_meaning_here_is_refused_by_name(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        lnp.LoHaConfig(**option)


def test_options_of_lora_are_none_of_loha():
    with pytest.raises(TypeError, match="lora_alpha"):
        lnp.LoHaConfig(lora_alpha=8)


def test_in_a_file_too(tmp_path):
    base = tiny.build("bert")
    lnp.save_adapter(lnp.inject(base, lnp.LoHaConfig(r=2), np.random.default_rng(0)), tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    assert settings["peft_type"] == "LOHA" and not {"bias", "fan_in_fan_out"} & settings.keys()
    for name, value in {"use_effective_conv2d": True, "lora_alpha": 4, "decompose_both": True}.items():
        path.write_text(json.dumps({**settings, name: value}))
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            lnp.load_adapter(base, tmp_path)
    path.write_text(json.dumps({**settings, "peft_type": "LORA"}))
    with pytest.raises(ValueError, match="has (alpha = 8|init_weights = True), which is not known here"):
        lnp.load_adapter(base, tmp_path)


def test_a_rank_above_that_of_the_matrix_and_a_missing_generator_are_named():
    with pytest.raises(ValueError, match=r"r = 13 is more than .*12 x 12.* choose r <= 12 \(from r = 4 on"):
        lnp.inject(tiny.build("bert"), lnp.LoHaConfig(r=13), np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs a generator, .* given 0"):
        lnp.inject(tiny.build("bert"), lnp.LoHaConfig(r=2), 0)


def test_bad_input_is_told_by_name():
    given = drawn()
    with pytest.raises(ValueError, match=r"loha_linear needs .* A1 \(7, 2\)"):
        loha_linear_forward(**{**given, "A1": given["B1"].T.copy()}, scale=1.0)
    with pytest.raises(ValueError, match="scale must be one real number"):
        loha_linear_forward(**given, scale="1")
    y, cache = loha_linear_forward(**given, scale=1.0)
    with pytest.raises(ValueError, match="loha_linear_backward needs dy"):
        loha_linear_backward(y[:, 1:], cache)
