"""Bottleneck adapters: the mathematics, where Houlsby's and Pfeiffer's stand, what is trained beside; check_method does
the rest."""

import json
import re

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.adapt import bottleneck
from lora_np.adapt.methods import adapted_nodes
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays

MINILM = {**tiny.BERT, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
TRAINED = ("W_down", "b_down", "W_up", "b_up")
KINDS = {"Houlsby": lnp.HoulsbyConfig, "Pfeiffer": lnp.PfeifferConfig}
rng = np.random.default_rng


def draw():
    shapes = {"x": (5, 3), "W_down": (4, 6), "b_down": (6,), "W_up": (6, 4), "b_up": (4,), "W": (3, 4), "b": (4,)}
    random = rng(0)
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def moved(config, name="bert", dtype=np.float64):
    model = lnp.inject(tiny.build(name, dtype), config, rng(1))
    live, random = lnp.parameters(model, trainable_only=True), rng(2)
    return with_arrays(model, {k: (a + 0.3 * random.standard_normal(a.shape)).astype(dtype) for k, a in live.items()})


# ---- the mathematics


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("act", ["relu", "gelu", "tanh"])
def test_the_backward_agrees_with_differences_and_complex_step(act, bias):
    given = draw()
    fixed = {"W": given.pop("W"), "b": given.pop("b") if bias else None, "act": act}
    given = {name: given[name] for name in ("x", *TRAINED)}
    report = check(bottleneck.bottleneck_forward, bottleneck.bottleneck_backward, given, fixed, rng(1))
    assert report.ok and {row.argument for row in report.rows} >= {"x", *TRAINED}, report


def test_values_by_hand():
    x, W, b = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([10.0, 20.0])  # y0 = 11, 18
    W_down, b_down = np.array([[1.0, 1.0, 0.0], [0.0, -1.0, 0.5]]), np.array([-1.0, 0.0, 1.0])  # u = 10, -7, 10
    W_up, b_up = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]]), np.array([0.5, -0.5])
    y, _ = bottleneck.bottleneck_forward(x, W, b, W_down, b_down, W_up, b_up, "relu")
    assert np.array_equal(y, [[11.0 + 10.5, 18.0 + 19.5]])


@pytest.mark.parametrize("needed", [(), ("b_up",), ("W_up",), ("W_down",), ("b_down",), ("x",), ("x", *TRAINED)])
def test_what_is_not_needed_is_not_computed(needed, monkeypatch):
    given, products, bends = draw(), [], []

    class Counted(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            products.extend([ufunc.__name__] * (ufunc is np.matmul))
            return getattr(ufunc, method)(*(np.asarray(value) for value in inputs), **options)

    right = bottleneck.BENDS["tanh"]
    watched = (right[0], lambda *a: bends.append(1) or right[1](*a))
    monkeypatch.setitem(bottleneck.BENDS, "tanh", watched)
    _, cache = bottleneck.bottleneck_forward(**given, act="tanh")
    arrays = {name: getattr(cache, name).view(Counted) for name in ("y0", "a", "W", "W_down", "W_up")}
    found = bottleneck.bottleneck_backward(np.ones((5, 4)), cache._replace(**arrays), needed)
    below = bool({"x", "W_down", "b_down"} & {*needed})
    assert len(products) == ("W_up" in needed) + below + ("W_down" in needed) + 2 * ("x" in needed)
    assert len(bends) == below
    assert [gradient is not None for gradient in found] == [name in needed for name in ("x", *TRAINED)]


def test_what_does_not_fit_is_named():
    given = draw()
    with pytest.raises(ValueError, match=r"bottleneck needs x \(N, d_in\).*W_up \(4, 6\)"):
        bottleneck.bottleneck_forward(**{**given, "W_up": given["W_up"].T}, act="relu")
    _, cache = bottleneck.bottleneck_forward(**given, act="relu")
    with pytest.raises(ValueError, match=r"bottleneck_backward needs dy \(N, d\).*\(5, 9\)"):
        bottleneck.bottleneck_backward(np.ones((5, 9)), cache)


def test_the_first_step_moves_what_is_zero_and_the_second_all(tmp_path):
    model = lnp.inject(tiny.build("bert"), lnp.PfeifferConfig(non_linearity="tanh"), rng(0))
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=0.1)
    for step in range(2):
        output, cache = model.forward(tiny.batch("bert"))
        grads = model.backward(rng(1).standard_normal(output.shape), cache)
        silent = {key.rpartition(".")[2] for key, gradient in grads.items() if not gradient.any()}
        assert silent == ({"W_down", "b_down"} if step == 0 else set())
        optimiser.step(grads)


# ---- where they stand


@pytest.mark.parametrize("name", ["bert", "gpt", "vit", "distilbert", "electra", "roberta"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_a_block_and_its_norms_or_one(kind, name):
    model = lnp.inject(tiny.build(name), KINDS[kind](), rng(0))
    ends = {"Houlsby": ("attention.output", "mlp.down"), "Pfeiffer": ("mlp.down",)}[kind]
    layers = range(len(model.layer))
    assert list(adapted_nodes(model)) == sorted(f"layer.{k}.{end}" for k in layers for end in ends)
    beside = {key for key in lnp.parameters(model, trainable_only=True) if key.rpartition(".")[2] not in TRAINED}
    norms = {f"layer.{k}.norm{n}.{part}" for k in layers for n in (1, 2) for part in ("gamma", "beta")}
    assert beside == (norms if kind == "Houlsby" else set())


def test_an_adapter_is_before_the_residual_sum_and_the_norm():
    model = moved(lnp.PfeifferConfig(bottleneck_size=5), "bert")
    block, batch = model.layer[0], tiny.batch("bert")
    x = rng(3).standard_normal((len(batch.content), 12))
    h, _ = block.norm1.forward(x + block.attention.forward(x, batch.groups)[0])
    node = block.mlp.down
    y0 = block.mlp.bend[0](block.mlp.up.forward(h)[0])[0] @ node.W + node.b
    behind = y0 + np.maximum(y0 @ node.W_down + node.b_down, 0) @ node.W_up + node.b_up
    expected, _ = block.norm2.forward(h + behind)
    assert np.allclose(block.forward(x, batch.groups)[0], expected, rtol=1e-12)


def test_the_norms_are_those_of_the_adapted_layers_and_others_may_be_trained_too():
    model = lnp.inject(tiny.build("bert pooler"), lnp.HoulsbyConfig(layers_to_transform=[1]), rng(0))
    assert list(adapted_nodes(model)) == ["layer.1.attention.output", "layer.1.mlp.down"]
    beside = {key for key in lnp.parameters(model, trainable_only=True) if key.rpartition(".")[2] not in TRAINED}
    assert {key.rpartition(".")[0] for key in beside} == {"layer.1.norm1", "layer.1.norm2"}
    config = lnp.HoulsbyConfig(modules_to_save=["classifier"])
    live = lnp.parameters(lnp.inject(tiny.build("bert pooler"), config, rng(0)), trainable_only=True)
    assert "head.classifier.W" in live and "layer.0.norm1.gamma" in live


@pytest.mark.parametrize(("kind", "trained"), [("Houlsby", 162_242), ("Pfeiffer", 76_898)])
def test_the_counts_on_minilm(kind, trained):
    model = lnp.with_head(lnp.bert(MINILM, rng=rng(0)), labels=2, pooling="mean", rng=rng(0))
    model = lnp.inject(model, KINDS[kind](task_type="SEQ_CLS"), rng(0))
    assert lnp.count_parameters(model).trainable == trained


def test_every_gradient_of_houlsbys_model_is_proven_with_its_norms():
    report = lnp.check_model(lnp.inject(tiny.build("bert mean head"), lnp.HoulsbyConfig(), rng(0)), tiny.batch("bert"))
    assert report.ok and "layer.1.norm2.gamma" in {row.argument for row in report.rows}, report


# ---- files


@pytest.mark.parametrize("name", ["bert pooler", "gpt", "vit"])
def test_a_folder_holds_the_norms_and_they_are_trained_again(name, tmp_path):
    model = moved(lnp.HoulsbyConfig(bottleneck_size=3), name, np.float32)
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(tiny.build(name, np.float32), tmp_path)
    mine, theirs = (lnp.parameters(one, trainable_only=True) for one in (model, again))
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    assert again.layer[0].mlp.down.act == "gelu" and "layer.0.norm1.gamma" in theirs
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "BOTTLENECK" and settings["bottleneck_size"] == 3


def test_another_bend_than_the_configuration_says_is_not_saved(tmp_path):
    model = moved(lnp.PfeifferConfig())
    model = lnp.Transformer(**{**vars(model), "adapter": lnp.PfeifferConfig(non_linearity="tanh")})
    with pytest.raises(ValueError, match="has non_linearity = 'relu', but the configuration that the model carries"):
        lnp.save_adapter(model, tmp_path)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"non_linearity": "swish"}, "non_linearity must be one of tanh, gelu, relu, but it is 'swish'"),
        ({"bottleneck_size": 0}, "bottleneck_size must be a positive integer, but it is 0"),
        ({"bias": "all"}, "bias = 'all' is not supported here, only 'none' is"),
        ({"peft_type": "LORA"}, "peft_type = 'LORA' is not supported here, only 'BOTTLENECK' is"),
    ],
)
def test_what_is_not_here_is_refused_by_name(option, words):
    for kind in KINDS.values():
        with pytest.raises(ValueError, match=re.escape(words)):
            kind(**option)


def test_without_a_generator_it_says_so_and_a_merge_says_why_there_is_none():
    with pytest.raises(ValueError, match=r"W_down is drawn at random, so inject needs numpy\.random\.default"):
        lnp.inject(tiny.build("bert"), lnp.PfeifferConfig())
    with pytest.raises(ValueError, match="a bottleneck adapter cannot be merged: the bend between"):
        lnp.merge(moved(lnp.PfeifferConfig()))
