"""(IA)^3: what is scaled, the two kinds of scales, and how they are merged; check_method does the rest."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.adapt import ia3
from lora_np.adapt.methods import adapted_nodes
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays

MINILM = {**tiny.BERT, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
KINDS = {
    "output": (ia3.scaled_output_forward, ia3.scaled_output_backward, 4),
    "input": (ia3.scaled_input_forward, ia3.scaled_input_backward, 3),
}


def draw(features, dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = {"x": (5, 3), "l": (features,), "W": (3, 4), "b": (4,), "dy": (5, 4)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def scaled(name="bert", dtype=np.float64, seed=1, **options):
    """Return a tiny model with scales that are far from 1."""
    rng = np.random.default_rng(seed)
    model = lnp.inject(tiny.build(name, dtype), lnp.IA3Config(**options))
    live = lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: rng.standard_normal(a.shape).astype(dtype) for k, a in live.items()})


def kinds(model):
    """Return {path: whether its input is scaled}."""
    return {path: node.feedforward for path, node in adapted_nodes(model).items()}


# ---- the mathematics


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_backwards_agree_with_differences_and_complex_step(kind, bias):
    forward, backward, features = KINDS[kind]
    given = draw(features)
    given.pop("dy")
    fixed = {"W": given.pop("W"), "b": given.pop("b")}
    fixed["b"] = fixed["b"] if bias else None
    report = check(forward, backward, given, fixed, np.random.default_rng(1))
    assert report.ok and {row.argument for row in report.rows} >= {"x", "l"}, report


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_l_is_the_column_of_the_full_gradient_along_the_weights(kind):
    forward, backward, features = KINDS[kind]
    x, l, W, b, dy = draw(features).values()
    _, cache = forward(x, W, b, l)
    _, dl = backward(dy, cache, ("l",))
    G = x.T @ dy
    expected = (W * G).sum(0) + b * dy.sum(0) if kind == "output" else (W * G).sum(1)
    assert np.allclose(dl, expected, rtol=1e-13)


def test_the_bias_is_scaled_with_the_output_and_not_with_the_input():
    x, W, b = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]), np.array([10.0, 20.0, 30.0])
    assert np.array_equal(ia3.scaled_output_forward(x, W, b, np.array([2.0, 0.0, -1.0]))[0], [[22.0, 0.0, -34.0]])
    assert np.array_equal(ia3.scaled_input_forward(x, W, b, np.array([3.0, -1.0]))[0], [[13.0, 18.0, 34.0]])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_needed_is_not_computed(kind):
    forward, backward, features = KINDS[kind]
    x, l, W, b, dy = draw(features).values()
    products = []

    class Counted(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            products.extend([ufunc.__name__] * (ufunc is np.matmul))
            return getattr(ufunc, method)(*(np.asarray(value) for value in inputs), **options)

    _, cache = forward(x, W, b, l)
    cache = cache._replace(W=W.view(Counted))
    for needs, expected in (((), 0), (("l",), kind == "input"), (("x",), 1), (("x", "l"), 1)):
        products.clear()
        given = backward(dy, cache, needs)
        assert len(products) == expected, needs
        assert [gradient is not None for gradient in given] == ["x" in needs, "l" in needs]


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_named(kind):
    forward, backward, features = KINDS[kind]
    x, l, W, b, dy = draw(features).values()
    with pytest.raises(ValueError, match=rf"scaled_{kind} needs x \(N, d_in\).*l \(6,\)"):
        forward(x, W, b, np.ones(6))
    _, cache = forward(x, W, b, l)
    with pytest.raises(ValueError, match=rf"scaled_{kind}_backward needs dy \(N, d_out\).*\(5, 9\)"):
        backward(np.ones((5, 9)), cache)


# ---- what is adapted


@pytest.mark.parametrize(
    ("name", "outputs", "inputs"),
    [
        ("bert", ["attention.key", "attention.value"], ["attention.output", "mlp.down"]),
        ("vit", ["attention.key", "attention.value"], ["attention.output", "mlp.down"]),
        ("gpt", ["attention.c_attn"], ["mlp.down"]),
    ],
)
def test_the_defaults_are_those_of_peft(name, outputs, inputs):
    found = kinds(scaled(name))
    layers = range(len(tiny.build(name).layer))
    assert [path for path in found if not found[path]] == [f"layer.{k}.{end}" for k in layers for end in outputs]
    assert [path for path in found if found[path]] == [f"layer.{k}.{end}" for k in layers for end in inputs]


def test_the_tables_of_defaults_are_those_of_peft():
    constants = pytest.importorskip("peft.utils.constants", reason="compares with PEFT, where it is installed")
    targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    feedforward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    ours = lnp.IA3Config
    assert ours.TARGETS.keys() - targets.keys() == {"vit"}
    for kind, names in ours.TARGETS.items():
        assert set(names) == set(targets.get(kind, names)), kind
        assert set(feedforward.get(kind, ())) <= set(ours.PARTS["feedforward_modules"]), kind


@pytest.mark.parametrize(
    ("options", "trained"), [({}, 16_898), ({"exclude_modules": ["attention.output.dense"]}, 14_594)]
)
def test_the_counts_on_minilm(options, trained):
    model = lnp.bert(MINILM, rng=np.random.default_rng(0))
    model = lnp.with_head(model, labels=2, pooling="mean", rng=np.random.default_rng(0))
    model = lnp.inject(model, lnp.IA3Config(task_type="SEQ_CLS", **options))
    assert lnp.count_parameters(model).trainable == trained


@pytest.mark.parametrize(
    ("feedforward", "expected"),
    [
        (None, ["attention.output", "mlp.down"]),
        ([], []),
        (["dense"], ["attention.output", "mlp.up", "mlp.down"]),
        (["ense"], ["attention.output", "mlp.up", "mlp.down"]),  # PEFT compares the ends of words, too
        (r".*\.layer\.\d+\.(intermediate\.dense|attention\.self\.key)", ["attention.key", "mlp.up"]),
        ("output.dense", None),  # a regular expression is for the whole name
        (["query", "keys"], None),
        ("", None),
    ],
)
def test_feedforward_modules_are_found_by_the_rule_of_peft(feedforward, expected):
    options = {"target_modules": "all-linear", "feedforward_modules": feedforward}
    if expected is None:
        with pytest.raises(ValueError, match="feedforward_modules: .* means none of the adapted nodes; the nearest"):
            scaled("bert", **options)
    else:
        found = kinds(scaled("bert", **options))
        assert [path for path in found if found[path]] == [f"layer.{k}.{end}" for k in range(2) for end in expected]


def test_feedforward_modules_must_be_names():
    for wrong in (3, [3], "(", {"output.dense": 1}):
        with pytest.raises(ValueError, match="feedforward_modules"):
            lnp.IA3Config(feedforward_modules=wrong)


def test_the_default_means_the_mlp_of_a_gpt_2_alone():
    found = kinds(scaled("gpt", target_modules=["c_proj"]))
    assert [path for path in found if found[path]] == ["layer.0.mlp.down", "layer.1.mlp.down"] and len(found) == 4


# ---- merged, and with zeros


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merged_entries_are_products_rounded_once(dtype):
    model = scaled(dtype=dtype, target_modules="all-linear")
    merged = lnp.merge(model)
    for path, node in adapted_nodes(model).items():
        linear = dict(lnp.parameters(merged))
        exact = node.W.astype(np.longdouble) * node.l
        assert np.array_equal(linear[f"{path}.W"], exact.astype(dtype))
        exact = node.b.astype(np.longdouble) * (1 if node.feedforward else node.l[0])
        assert np.array_equal(linear[f"{path}.b"], exact.astype(dtype))
        assert linear[f"{path}.b"].shape == node.b.shape


def test_a_zero_switches_a_feature_off_and_may_come_back():
    model = scaled(target_modules=["key", "value", "output.dense"], exclude_modules=["attention.output.dense"])
    live = lnp.parameters(model, trainable_only=True)
    zero = with_arrays(model, {key: np.zeros_like(array) for key, array in live.items()})
    batch = tiny.batch("bert")
    output, cache = zero.forward(batch)
    gradients = zero.backward(np.random.default_rng(0).standard_normal(output.shape), cache)
    assert all(gradients[key].any() for key in live if "value" in key or "mlp" in key)  # with no values, no keys count
    node = zero.layer[0].attention.value
    y, _ = node.forward(np.ones((2, 12)))
    assert not y.any() and not lnp.merge(zero).layer[0].attention.value.W.any()
    assert np.array_equal(lnp.merge(zero).forward(batch)[0], output)
    half = with_arrays(model, {key: np.where(array > 0, array, 0.0) for key, array in live.items()})
    assert lnp.check_model(half, batch).ok


# ---- files


def test_a_file_says_which_maps_have_their_input_scaled(tmp_path):
    base = tiny.build("bert", np.float32)
    options = {"target_modules": ["query", "key", "output.dense"], "feedforward_modules": ["1.attention.self.key"]}
    model = scaled("bert", np.float32, **options)
    lnp.save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["feedforward_modules"] == ["encoder.layer.1.attention.self.key"]
    again = lnp.load_adapter(base, tmp_path)
    assert kinds(again) == kinds(model) and sum(kinds(again).values()) == 1
    for wrong in (["query"], None, []):  # query's l is (1, d) there, and another kind must be (d, 1)
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "feedforward_modules": wrong}))
        with pytest.raises(ValueError, match=r"ia3_l in .* is \(.*\) of dtype float32, but the configuration asks for"):
            lnp.load_adapter(base, tmp_path)


def test_a_file_without_scaled_inputs_is_read_without_them(tmp_path):
    model = scaled("bert", np.float32, target_modules=["key", "output.dense"], feedforward_modules=[])
    lnp.save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["feedforward_modules"] == []
    again = lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)
    assert kinds(again) == kinds(model) and not any(kinds(model).values())


@pytest.mark.parametrize("feedforward", [["output.dense"], None, r".*layer\.\d+\.(attention\.)?output\.dense"])
def test_a_file_of_peft_may_spell_them_in_its_own_way(feedforward, tmp_path):
    model = scaled("bert", np.float32)
    lnp.save_adapter(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "feedforward_modules": feedforward}))
    again = lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)
    assert kinds(again) == kinds(model) and any(kinds(again).values()) and not all(kinds(again).values())


def test_nodes_that_differ_from_the_carried_configuration_are_not_saved(tmp_path):
    model = scaled(target_modules=["key", "output.dense"])
    for feedforward, words in ((["key", "output.dense"], "a scaled output"), ([], "a scaled input")):
        carried = dataclasses.replace(model.adapter, feedforward_modules=feedforward)
        with pytest.raises(ValueError, match=f"has {words}, but the configuration that the model carries says"):
            lnp.save_adapter(dataclasses.replace(model, adapter=carried), tmp_path)


def test_a_random_start_is_refused_in_a_call_and_read_in_a_file(tmp_path):
    """Once an adapter is trained, it does not matter where it started."""
    with pytest.raises(ValueError, match="init_ia3_weights = False is not supported here, only True is; leave it out"):
        lnp.IA3Config(init_ia3_weights=False)
    lnp.save_adapter(scaled("bert", np.float32), tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "init_ia3_weights": False}))
    lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)
    path.write_text(json.dumps({**settings, "init_ia3_weights": "random"}))
    with pytest.raises(ValueError, match="init_ia3_weights = 'random'; expected true or false"):
        lnp.load_adapter(tiny.build("bert", np.float32), tmp_path)


@pytest.mark.parametrize("option", [{"bias": "all"}, {"use_dora": True}, {"layer_replication": [[0, 1]]}])
def test_what_others_have_is_refused_by_name(option):
    with pytest.raises(ValueError, match=re.escape(next(iter(option)))):
        lnp.IA3Config(**option)
