"""LoRA on a model: what is adapted, what stays, and what merging changes."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear, lora_scale
from lora_np.adapt.targets import targets_of
from lora_np.model.tree import walk

rng = np.random.default_rng


def adapted_paths(model):
    return [path for path, node in walk(model) if isinstance(node, LoRALinear)]


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_fresh_adapter_changes_nothing_to_the_bit_and_shares_the_base(name):
    model = tiny.build(name, np.float32)
    lora = lnp.inject(model, lnp.LoRAConfig(r=2, target_modules="all-linear"), rng(0))
    batch = tiny.batch(name)
    if name.startswith("vit"):
        batch = batch._replace(content=batch.content.astype(np.float32))
    assert np.array_equal(lora.forward(batch)[0], model.forward(batch)[0])
    base, live = lnp.parameters(model), lnp.parameters(model, trainable_only=True)
    for key, array in lnp.parameters(lora).items():
        if not key.endswith((".A", ".B")):
            assert (array is base[key]) == (key not in live) and np.array_equal(array, base[key]), key
    trained = [key for key in lnp.parameters(lora, trainable_only=True) if not key.startswith("head")]
    assert trained and all(key.endswith((".A", ".B")) for key in trained)


def test_initial_A_is_uniform_in_the_bound_that_peft_uses():
    model = lnp.bert({**tiny.BERT, "hidden_size": 36, "intermediate_size": 400}, rng=rng(0))
    lora = lnp.inject(model, lnp.LoRAConfig(r=12, target_modules=["mlp.down"]), rng(1))
    A = lora.layer[0].mlp.down.A
    assert A.shape == (400, 12)
    bound = 1 / np.sqrt(400)
    assert np.abs(A).max() <= bound
    assert np.abs(A).max() > 0.99 * bound
    assert abs(A.std() - bound / np.sqrt(3)) < 0.02 * bound
    assert not lora.layer[0].mlp.down.B.any()


def test_the_scale_is_alpha_over_r_or_over_its_root():
    assert lora_scale(8, 16, False) == 2.0
    assert lora_scale(16, 8, True) == 2.0
    model = tiny.adapted("bert", r=4, lora_alpha=6, use_rslora=True, target_modules=["query"])
    assert model.layer[0].attention.query.scale == 3.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["query", "value"]),
        ({"target_modules": ["query"]}, ["query"]),
        ({"target_modules": ["attention.self.key"]}, ["key"]),
        ({"target_modules": ["attention.output"]}, ["output"]),  # our name
        ({"target_modules": ["attention.output.dense"]}, ["output"]),  # theirs
        ({"target_modules": ["layer.1.attention.query"]}, ["query 1"]),
        ({"target_modules": r"encoder\.layer\.0\.attention\.self\.(query|key)"}, ["query 0", "key 0"]),
        ({"target_modules": "all-linear"}, ["query", "key", "value", "output", "up", "down"]),
        ({"target_modules": "all-linear", "exclude_modules": ["query", "mlp.up"]}, ["key", "value", "output", "down"]),
        ({"target_modules": "all-linear", "exclude_modules": r".*\.output\.dense"}, ["query", "key", "value", "up"]),
        ({"target_modules": ["query"], "layers_to_transform": 1}, ["query 1"]),
        (
            {"target_modules": "all-linear", "layers_to_transform": [0], "exclude_modules": ["dense"]},
            ["query 0", "key 0", "value 0"],
        ),
    ],
)
def test_targets_follow_pefts_rules(config, expected):
    full = []
    for layer in "01":
        for entry in expected:
            name, _, only = entry.partition(" ")
            if not only or only == layer:
                full.append(f"layer.{layer}.{'mlp' if name in ('up', 'down') else 'attention'}.{name}")
    model = lnp.inject(tiny.build("bert"), lnp.LoRAConfig(r=2, **config), rng(0))
    assert sorted(adapted_paths(model)) == sorted(full)


def test_gpt_keeps_one_A_for_query_key_and_value():
    model = lnp.inject(tiny.build("gpt"), lnp.LoRAConfig(r=2), rng(0))
    assert adapted_paths(model) == ["layer.0.attention.c_attn", "layer.1.attention.c_attn"]
    assert model.layer[0].attention.c_attn.A.shape == (12, 2)
    assert model.layer[0].attention.c_attn.B.shape == (2, 36)


def test_all_linear_leaves_out_the_head_and_the_patches():
    paths = targets_of(tiny.build("vit"), lnp.LoRAConfig(target_modules="all-linear"))
    assert len(paths) == 12
    assert not any("head" in path or "projection" in path for path in paths)


def test_patterns_choose_rank_and_alpha_by_name():
    config = lnp.LoRAConfig(
        r=2,
        lora_alpha=4,
        target_modules=["query", "value"],
        rank_pattern={"value": 3, r"layer\.1\.attention\.self\.query": 1},
        alpha_pattern={"value": 9},
    )
    model = lnp.inject(tiny.build("bert"), config, rng(0))
    found = [(n.A.shape[1], n.scale) for _, n in walk(model) if isinstance(n, LoRALinear)]
    assert found == [(2, 2.0), (3, 3.0), (1, 4.0), (3, 3.0)]


def test_modules_to_save_are_trained_whole_and_not_adapted():
    config = lnp.LoRAConfig(r=2, target_modules="all-linear", modules_to_save=["classifier", "layer.1.mlp.up"])
    model = lnp.inject(tiny.build("bert pooler"), config, rng(0))
    trained = lnp.parameters(model, trainable_only=True)
    assert {"head.classifier.W", "head.classifier.b", "layer.1.mlp.up.W", "layer.1.mlp.up.b"} <= set(trained)
    assert not any(path.startswith(("layer.1.mlp.up", "head.classifier")) for path in adapted_paths(model))


def test_task_type_trains_the_classifier():
    model = lnp.inject(tiny.build("bert pooler"), lnp.LoRAConfig(task_type="SEQ_CLS"), rng(0))
    assert {"head.classifier.W", "head.classifier.b"} <= set(lnp.parameters(model, trainable_only=True))
    with pytest.raises(ValueError, match="with_head"):
        lnp.inject(tiny.build("bert"), lnp.LoRAConfig(task_type="SEQ_CLS"), rng(0))


@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-4)])
def test_merged_equals_unmerged(name, dtype, bound):
    model = tiny.adapted(name, dtype)
    batch = tiny.batch(name)
    batch = batch._replace(content=batch.content.astype(dtype)) if name.startswith("vit") else batch
    merged = lnp.merge(model)
    reference = model.forward(batch)[0]
    assert np.abs(merged.forward(batch)[0] - reference).max() <= bound * np.abs(reference).max()
    assert lnp.count_parameters(merged).trainable == 0
    assert not adapted_paths(merged)
    assert all(not array.flags.writeable for array in lnp.parameters(merged).values())
    assert {k: v.shape for k, v in lnp.parameters(merged).items()} == {
        k: v.shape for k, v in lnp.parameters(tiny.build(name)).items()
    }


def test_merging_changes_the_adapted_weights_only_and_leaves_the_adapted_model():
    model = tiny.adapted("bert", target_modules=["query"])
    before = {key: array.copy() for key, array in lnp.parameters(model).items()}
    merged = lnp.parameters(lnp.merge(model))
    for key, array in merged.items():
        same = array is lnp.parameters(model)[key]
        assert same == (not key.endswith("query.W")), key
    q = model.layer[1].attention.query
    assert np.allclose(merged["layer.1.attention.query.W"], q.W + q.scale * q.A @ q.B, rtol=1e-14)
    assert all(np.array_equal(array, before[key]) for key, array in lnp.parameters(model).items())


def test_merging_twice_is_an_error():
    merged = lnp.merge(tiny.adapted("bert"))
    with pytest.raises(ValueError, match="no adapter to merge"):
        lnp.merge(merged)


def test_two_adapters_on_one_base_can_be_swapped():
    base, batch = tiny.build("bert mean head"), tiny.batch("bert")
    first, second = (lnp.inject(base, lnp.LoRAConfig(r=2), rng(seed)) for seed in (0, 1))
    for model in (first, second):
        for key, array in lnp.parameters(model, trainable_only=True).items():
            if key.endswith(".B"):
                array += 0.3
    alone = first.forward(batch)[0]
    second.forward(batch)
    assert np.array_equal(first.forward(batch)[0], alone)
    assert not np.allclose(second.forward(batch)[0], alone)


def test_two_adapters_on_one_base_train_each_a_head_of_its_own(tmp_path):
    """As PEFT's users expect it; the base's own head stays as it is, too."""
    base, batch = tiny.build("bert mean head"), tiny.batch("bert")
    assert lnp.parameters(base, trainable_only=True).keys() == {"head.classifier.W", "head.classifier.b"}
    lnp.save_adapter(lnp.inject(lnp.unfreeze(base, "head"), lnp.LoRAConfig(r=2), rng(0)), tmp_path)
    first, second = (lnp.inject(base, lnp.LoRAConfig(r=2), rng(seed)) for seed in (0, 1))
    others = (base, second, lnp.load_adapter(base, tmp_path))
    before = [model.forward(batch)[0] for model in (first, *others)]
    live = lnp.parameters(first, trainable_only=True)
    assert {"head.classifier.W", "head.classifier.b"} < live.keys()
    output, cache = first.forward(batch)
    lnp.AdamW(live, lr=0.1).step(first.backward(output, cache))
    assert all(np.array_equal(model.forward(batch)[0], old) for model, old in zip(others, before[1:]))
    assert not np.allclose(first.forward(batch)[0], before[0])
    assert all(array.flags.writeable for array in live.values())


class Narrow(lnp.LoRAConfig):
    TARGETS = {"bert": ("attention.self.key", "mlp.up")}


def test_what_is_adapted_by_default_is_the_methods_and_else_the_architectures():
    model = lnp.inject(tiny.build("bert"), Narrow(r=2), rng(0))
    assert adapted_paths(model) == [f"layer.{k}.{name}" for k in range(2) for name in ("attention.key", "mlp.up")]
    assert adapted_paths(lnp.inject(tiny.build("bert"), Narrow(r=2, target_modules=["query"]), rng(0))) == [
        f"layer.{k}.attention.query" for k in range(2)
    ]
    for config in (lnp.LoRAConfig(r=2), Narrow(r=2)):
        model = lnp.inject(tiny.build("vit"), config, rng(0))
        assert adapted_paths(model) == [f"layer.{k}.attention.{name}" for k in range(2) for name in ("query", "value")]


@pytest.mark.parametrize(
    ("config", "received"),
    [
        ({"r": 0}, "r must be a positive integer.*0"),
        ({"r": 2.0}, "2.0"),
        ({"r": 13}, "r = 13 .*12 x 12"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "nan"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"target_modules": ["querry"]}, "'querry'.*nearest.*query"),
        ({"target_modules": ["query", "vlaue"]}, "'vlaue'.*value"),
        ({"target_modules": r".*qqq"}, "target_modules"),
        ({"target_modules": ["query"], "exclude_modules": ["value"]}, "exclude_modules: 'value'"),
        ({"target_modules": ["query"], "layers_to_transform": 7}, "no layer 7.*2 layers"),
        ({"target_modules": r".*query", "layers_to_transform": 1}, "regular expression"),
        ({"modules_to_save": ["klassifier"]}, "modules_to_save: 'klassifier'"),
        ({"rank_pattern": {"query": 0}}, "rank_pattern"),
        ({"rank_pattern": {"nosuch": 3}}, "'nosuch' matches none"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"rank_pattern": []}, "must be a dict"),
        ({"r": True}, "True"),
        ({"use_rslora": "no"}, "'no'"),
        ({"target_modules": "que(ry"}, "'que.ry' is no regular expression"),
        ({"target_modules": 5}, "target_modules must be a list of names.*5"),
        ({"target_modules": []}, r"target_modules is \[\]"),
        ({"exclude_modules": [5]}, "exclude_modules must be"),
        ({"modules_to_save": "classifier"}, "modules_to_save must be a list"),
        ({"modules_to_save": ["mlp"]}, "modules_to_save: 'mlp' matches nothing"),
        ({"layers_to_transform": "1"}, "'1'"),
        ({"target_modules": ["query"], "layers_to_transform": [0, 7]}, "no layer 7.*2 layers"),
        ({"task_type": "nonsense"}, "'nonsense'"),
    ],
)
def test_impossible_configurations_are_named(config, received):
    with pytest.raises(ValueError, match=received):
        lnp.inject(tiny.build("bert pooler"), lnp.LoRAConfig(**config), rng(0))


def test_numpy_integers_are_integers():
    model = lnp.inject(tiny.build("bert"), lnp.LoRAConfig(r=np.int64(2), layers_to_transform=np.int64(1)), rng(0))
    assert adapted_paths(model) == ["layer.1.attention.query", "layer.1.attention.value"]


def test_everything_may_be_trained_beside_an_adapter_but_what_lies_under_it():
    model = lnp.unfreeze(tiny.adapted("bert", target_modules=["query"]), "all")
    trained = lnp.parameters(model, trainable_only=True)
    assert "layer.0.attention.query.W" not in trained and "layer.0.attention.key.W" in trained
    output, cache = model.forward(tiny.batch("bert"))
    assert list(model.backward(np.ones_like(output), cache)) == list(trained)


def test_one_adapter_at_a_time_and_a_generator_is_needed():
    with pytest.raises(ValueError, match="adapter already"):
        lnp.inject(tiny.adapted("bert"), lnp.LoRAConfig(), rng(0))
    with pytest.raises(ValueError, match="given 0"):
        lnp.inject(tiny.build("bert"), lnp.LoRAConfig(), 0)
    with pytest.raises(ValueError, match="LoRAConfig"):
        lnp.inject(tiny.build("bert"), {"r": 2}, rng(0))
    with pytest.raises(ValueError, match="trained itself"):
        lnp.inject(lnp.unfreeze(tiny.build("bert"), "layer.0.attention.query"), lnp.LoRAConfig(), rng(0))


def test_the_options_of_peft_may_stand_at_their_neutral_values():
    config = lnp.LoRAConfig(
        task_type="SEQ_CLS", inference_mode=False, bias="none", fan_in_fan_out=False, init_lora_weights=True, r=4,
        use_dora=False, layers_pattern=None, peft_type="LORA", loftq_config={}, revision=None, qalora_group_size=16,
        base_model_name_or_path="bert-base-uncased", ensure_weight_tying=False, megatron_core="megatron.core",
    )  # fmt: skip
    assert config == lnp.LoRAConfig(r=4, task_type="SEQ_CLS")
    assert replace(config, r=2).r == 2


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": 2}, {"corda_config": {"a": 1}},
        {"inference_mode": True}, {"layers_pattern": "layer"}, {"peft_type": "IA3"},
        {"trainable_token_indices": [1]}, {"target_parameters": ["a"]}, {"layer_replication": [[0, 1]]},
        {"ensure_weight_tying": True}, {"megatron_config": {"a": 1}},
    ],
)  # fmt: skip
def test_an_option_of_peft_that_is_not_computed_here_is_refused_by_name(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=re.escape(f"{name} = {value!r} is not supported here")):
        lnp.LoRAConfig(**option)


def test_a_name_that_peft_does_not_know_is_refused():
    with pytest.raises(TypeError, match="lora_alpah"):
        lnp.LoRAConfig(lora_alpah=8)


def test_a_model_is_adapted_if_its_nodes_are(tmp_path):
    model = replace(tiny.adapted("bert", target_modules=["query"]), adapter=None)  # by hand
    with pytest.raises(ValueError, match="adapter already"):
        lnp.inject(model, lnp.LoRAConfig(target_modules=["value"]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="adapter already"):
        lnp.load_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="merge it first"):
        lnp.save_model(model, tmp_path / "model")
    with pytest.raises(ValueError, match="its field adapter is None"):
        lnp.save_adapter(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    assert lnp.merge(model).adapter is None
    plain = replace(tiny.build("bert"), adapter=lnp.LoRAConfig())
    assert plain.adapter is not None and lnp.inject(plain, lnp.LoRAConfig(r=2), np.random.default_rng(0)).adapter.r == 2
    with pytest.raises(ValueError, match="no adapter"):
        lnp.save_adapter(plain, tmp_path / "adapter")
    lnp.save_model(plain, tmp_path / "model")


@pytest.mark.parametrize("change", [{"r": 3}, {"lora_alpha": 9}, {"use_rslora": True}, {"alpha_pattern": {"query": 1}}])
def test_the_configuration_that_a_model_carries_must_be_that_of_its_nodes(change, tmp_path):
    model = tiny.adapted("bert")
    with pytest.raises(ValueError, match="carries says otherwise"):
        lnp.save_adapter(replace(model, adapter=replace(model.adapter, **change)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_order_of_the_arguments_of_inject_is_named():
    with pytest.raises(ValueError, match="a model and .*a LoRAConfig.*, in this order"):
        lnp.inject(lnp.LoRAConfig(), tiny.build("bert"), np.random.default_rng(0))
