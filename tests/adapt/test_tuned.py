"""Layer norms alone and biases alone: what is trained, that it is what `unfreeze` would train, and how it is merged."""

import dataclasses
import re

import numpy as np
import pytest
import tiny
from adapt.test_methods import batch_for, frozen

import lora_np as lnp
from lora_np.adapt.methods import adapted_nodes
from lora_np.files.safetensors import read_safetensors, write_safetensors
from lora_np.model.tree import with_arrays

MINILM = {**tiny.BERT, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
CONFIGS = {"norms": lnp.LNTuningConfig, "biases": lnp.BitFitConfig}
ENDS = {"norms": (".gamma", ".beta"), "biases": (".b", ".beta")}
BASE = {"weight": "gamma", "bias": "beta"}
FAMILIES = ["bert pooler", "gpt", "vit", "distilbert", "electra", "roberta"]
rng = np.random.default_rng


def moved(kind, name, dtype=np.float64, **options):
    model = lnp.inject(frozen(name, dtype), CONFIGS[kind](**options))
    live, random = lnp.parameters(model, trainable_only=True), rng(2)
    return with_arrays(model, {k: (a + 0.3 * random.standard_normal(a.shape)).astype(dtype) for k, a in live.items()})


def in_base(model, key):
    """Return the name of the base's array that a trained one stands for."""
    path, _, field = key.rpartition(".")
    return f"{path}.b" if hasattr(dict(adapted_nodes(model))[path], "W") else f"{path}.{BASE[field]}"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_by_default_all_of_the_network_are_trained_and_none_of_the_classifier(kind, name):
    model = moved(kind, name)
    live = lnp.parameters(model, trainable_only=True)
    found = {in_base(model, key) for key in live}
    outside = ("head.classifier.b", *(("head.pooler.b",) if name in ("distilbert", "electra", "roberta") else ()))
    every = {key for key in lnp.parameters(frozen(name)) if key.endswith(ENDS[kind])}
    assert found == every - set(outside) and len(live) == len(found)


@pytest.mark.parametrize("name", FAMILIES[:3])
@pytest.mark.parametrize("kind", CONFIGS)
def test_its_numbers_and_gradients_are_those_of_a_model_with_these_unfrozen(kind, name):
    model, batch = moved(kind, name), batch_for(name)
    live = lnp.parameters(model, trainable_only=True)
    names = {key: in_base(model, key) for key in live}
    other = with_arrays(lnp.unfreeze(frozen(name), list(names.values())), {names[key]: live[key] for key in live})
    given = [(one, *one.forward(batch)) for one in (model, other)]
    assert np.array_equal(given[0][1], given[1][1])
    doutput = rng(3).standard_normal(given[0][1].shape)
    mine, theirs = (one.backward(doutput, cache) for one, _, cache in given)
    assert all(np.array_equal(mine[key], theirs[names[key]]) for key in mine) and len(mine) == len(theirs)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_model_has_the_same_bits_and_shares_the_rest(kind):
    model, base = moved(kind, "bert"), frozen("bert")
    merged = lnp.merge(model)
    assert np.array_equal(merged.forward(tiny.batch("bert"))[0], model.forward(tiny.batch("bert"))[0])
    live = lnp.parameters(merged)
    for key, array in lnp.parameters(model, trainable_only=True).items():
        found = live[in_base(model, key)]
        assert np.array_equal(found, array) and not np.shares_memory(found, array) and not found.flags.writeable
    assert live.keys() == lnp.parameters(base).keys() and merged.layer[0].mlp.up.W is model.layer[0].mlp.up.W


@pytest.mark.parametrize(("kind", "trained"), [("norms", 10_754), ("biases", 26_498)])
def test_the_counts_on_minilm(kind, trained):
    model = lnp.with_head(lnp.bert(MINILM, rng=rng(0)), labels=2, pooling="mean", rng=rng(0))
    assert lnp.count_parameters(lnp.inject(model, CONFIGS[kind](task_type="SEQ_CLS"))).trainable == trained


def test_maps_without_a_bias_are_left_alone_and_named_if_asked_for():
    model = lnp.vit({**tiny.VIT, "qkv_bias": False}, labels=3, rng=rng(0))
    found = adapted_nodes(lnp.inject(model, lnp.BitFitConfig()))
    assert "layer.0.attention.query" not in found and {"layer.0.attention.output", "embeddings.projection"} <= set(
        found
    )
    with pytest.raises(ValueError, match="target_modules: 'query' matches nothing; the nearest that exist are"):
        lnp.inject(model, lnp.BitFitConfig(target_modules=["query"]))


def test_the_projection_of_patches_is_still_no_place_for_an_adapter_with_two_sides():
    with pytest.raises(ValueError, match="target_modules: 'projection' matches nothing"):
        lnp.inject(tiny.build("vit"), lnp.LoRAConfig(target_modules=["projection"]), rng(0))


def test_some_norms_by_peft_s_rules():
    for options in ({}, {"target_modules": ["LayerNorm"]}):
        found = adapted_nodes(moved("norms", "bert", layers_to_transform=[1], **options))
        assert list(found) == ["layer.1.norm1", "layer.1.norm2"]
    found = adapted_nodes(moved("norms", "bert", exclude_modules=["attention.output.LayerNorm", "norm2"]))
    assert list(found) == ["embeddings.norm"]
    for other in ("all-linear", ["query"], ["LayerNorm", "word_embeddings"]):
        with pytest.raises(ValueError, match="target_modules: .* matches nothing; the nearest that exist are .*Norm"):
            moved("norms", "bert", target_modules=other)
    with pytest.raises(ValueError, match="no layer norm is left to adapt"):
        moved("norms", "bert", exclude_modules=["LayerNorm"])


def test_all_linear_means_the_maps_of_biases_alone():
    found = adapted_nodes(moved("biases", "bert mean head", target_modules="all-linear"))
    assert len(found) == 2 * 6 and all(hasattr(node, "W") for node in found.values())


def test_the_default_is_that_of_peft_where_it_has_one():
    constants = pytest.importorskip("peft.utils.constants", reason="compares with PEFT, where it is installed")
    theirs = constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING
    families = {"gpt2": "gpt", "bert": "bert", "vit": "vit", "roberta": "roberta"}
    assert theirs.keys() & families.keys() == {"gpt2"}
    for kind in theirs.keys() & families.keys():
        ours, named = (
            adapted_nodes(moved("norms", families[kind], **o)) for o in ({}, {"target_modules": theirs[kind]})
        )
        assert list(ours) == list(named)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_base_whose_norms_have_another_epsilon_is_another_base(kind, tmp_path):
    lnp.save_adapter(moved(kind, "bert", np.float32), tmp_path)
    base = frozen("bert", np.float32)
    lnp.load_adapter(base, tmp_path)
    norm = dataclasses.replace(base.layer[0].norm1, eps=1e-5)
    layer = (dataclasses.replace(base.layer[0], norm1=norm), *base.layer[1:])
    with pytest.raises(ValueError, match="was trained on other weights or settings than these"):
        lnp.load_adapter(dataclasses.replace(base, layer=layer), tmp_path)


def test_a_file_that_names_no_norm_is_refused_by_its_words(tmp_path):
    lnp.save_adapter(moved("norms", "bert", np.float32), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors, metadata = read_safetensors(path)
    other = {key.replace("layer.0.output.LayerNorm", "layer.0.output.dense"): array for key, array in tensors.items()}
    write_safetensors(path, other, metadata)
    with pytest.raises(ValueError, match=r"adapts encoder.layer.0.output.dense, which is no layer norm of this model;"):
        lnp.load_adapter(frozen("bert", np.float32), tmp_path)
    fewer = {key: array for key, array in tensors.items() if "layer.0.output.LayerNorm" not in key}
    write_safetensors(path, fewer, metadata)
    with pytest.raises(
        ValueError, match="has nothing for 1 of the modules that target_modules names, encoder.layer.0.out"
    ):
        lnp.load_adapter(frozen("bert", np.float32), tmp_path)


@pytest.mark.parametrize("option", [{"bias": "all"}, {"use_dora": True}, {"layer_replication": [[0, 1]]}])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_others_have_is_refused_by_name(kind, option):
    with pytest.raises(ValueError, match=re.escape(next(iter(option)))):
        CONFIGS[kind](**option)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_of_a_norm_one_may_be_frozen_and_the_other_keeps_its_gradient(name):
    whole, batch = moved("norms", "gpt"), batch_for("gpt")
    model = lnp.freeze(whole, f"*.{name}")
    output, cache = model.forward(batch)
    mine, theirs = model.backward(output, cache), whole.backward(output, whole.forward(batch)[1])
    assert len(mine) == len(theirs) / 2 and all(np.array_equal(mine[key], theirs[key]) for key in mine)
