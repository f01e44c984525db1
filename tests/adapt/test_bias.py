"""LoRA with trained biases: which are trained, files, merging; check_method and the reference adapters do the rest."""

import json
import re

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt.bias import BiasedLoRAConfig, BiasedLoRALinear
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.nodes import LayerNorm
from lora_np.model.tree import fingerprint, freeze, rebuild, walk, with_arrays

MINILM = {
    **tiny.BERT,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "vocab_size": 5,
}


def base(name="bert mean head", dtype=np.float64):
    return freeze(tiny.build(name, dtype))


def adapted(name="bert mean head", dtype=np.float64, seed=1, on=None, **options):
    """Return a tiny model whose trained arrays are far from their start."""
    rng = np.random.default_rng(seed)
    config = lnp.LoRAConfig(**{"r": 2, "lora_alpha": 5, "lora_dropout": 0.2, "bias": "all", **options})
    model = lnp.inject(on or base(name, dtype), config, rng)
    live = lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: (a + 0.4 * rng.standard_normal(a.shape)).astype(dtype) for k, a in live.items()})


def bits(model):
    return {name: array.tobytes() for name, array in lnp.parameters(model).items()}


def trained(model):
    return set(lnp.parameters(model, trainable_only=True))


# ---- which, and how


@pytest.mark.parametrize(
    "name",
    ["bert pooler", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("bert mean head", "gpt", "vit"))],
)
@pytest.mark.parametrize(
    "options", [{"bias": "all", "lora_bias": True}, {"bias": "lora_only"}], ids=["all", "lora_only"]
)
def test_every_gradient_is_proven(name, options):
    model = adapted(name, **options)
    report = lnp.check_model(model, tiny.batch(name))
    assert report.ok and {row.argument for row in report.rows} == trained(model), report


@pytest.mark.parametrize("name", ["bert mean head", "bert pooler", "gpt", "vit"])
def test_all_are_those_of_maps_and_norms_and_lora_only_those_of_what_is_adapted(name):
    model, only = adapted(name), adapted(name, bias="lora_only")
    nodes = adapted_nodes(model)
    own = {f"{path}.{field}" for path in nodes for field in ("A", "B", "bias")}
    biases = {key for key in lnp.parameters(model) if key.endswith((".b", ".beta"))}
    of_own_head = {"head.classifier.b"} if name == "bert mean head" else set()
    assert trained(only) == own
    assert trained(model) == own | (biases - {f"{path}.b" for path in nodes} - of_own_head)
    assert trained(adapted(name, bias="none", lora_bias=True)) == {re.sub("bias$", "lora_bias", key) for key in own}
    assert all(type(node) is BiasedLoRALinear for node in nodes.values())


def test_the_spelling_of_peft_makes_the_right_configuration():
    assert type(lnp.LoRAConfig(bias="none", lora_bias=False)) is lnp.LoRAConfig
    assert type(lnp.LoRAConfig(bias=None)) is lnp.LoRAConfig
    for options in ({"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}):
        assert type(lnp.LoRAConfig(**options)) is BiasedLoRAConfig
    with pytest.raises(ValueError, match="bias must be 'none', 'all' or 'lora_only', but it is 'biases'"):
        lnp.LoRAConfig(bias="biases")
    with pytest.raises(ValueError, match="lora_bias must be true or false, but it is 'yes'"):
        lnp.LoRAConfig(lora_bias="yes")
    with pytest.raises(ValueError, match="(bias = 'all'|use_dora = True) is not supported here"):
        lnp.LoRAConfig(bias="all", use_dora=True)
    with pytest.raises(ValueError, match="bias = 'all' is not supported here"):
        lnp.VeraConfig(bias="all")


def test_a_map_without_a_bias_is_refused():
    def change(path, node):
        if path == "layer.1.attention.value":
            node.b = None
        return node

    model = rebuild(base(), lambda path, node: change(path, type(node)(**vars(node))))
    for options in ({"bias": "all"}, {"lora_bias": True}):
        with pytest.raises(ValueError, match=r"layer\.1\.attention\.value has no bias.*exclude_modules"):
            lnp.inject(model, lnp.LoRAConfig(r=2, **options), np.random.default_rng(0))


def test_the_base_is_as_it_was_and_two_adapters_do_not_meet():
    one = base()
    before, mark = bits(one), fingerprint(one)
    first, second = adapted(on=one), adapted(on=one, seed=2)
    for model in (first, second):
        norm, plain = model.layer[0].norm1, one.layer[0].norm1
        assert norm.trainable == ("beta",) and norm.gamma is plain.gamma and norm.beta is not plain.beta
        assert model.layer[0].attention.query.b is one.layer[0].attention.query.b
    live = [lnp.parameters(model, trainable_only=True).values() for model in (first, second)]
    assert not any(np.shares_memory(a, b) for a, b in zip(*live))
    assert bits(one) == before and fingerprint(one) == mark
    start = lnp.inject(one, lnp.LoRAConfig(bias="lora_only"), np.random.default_rng(0)).layer[0].attention.query
    assert start.bias.flags.writeable and not np.shares_memory(start.bias, start.b)


def test_merged_is_unmerged_and_its_biases_are_by_hand():
    model = adapted(lora_bias=True)
    merged, node = lnp.merge(model), model.layer[1].attention.value
    assert np.allclose(merged.forward(tiny.batch("bert"))[0], model.forward(tiny.batch("bert"))[0], rtol=1e-11)
    assert np.allclose(merged.layer[1].attention.value.b, node.bias + 2.5 * node.lora_bias, rtol=1e-15)
    assert np.array_equal(merged.layer[1].norm2.beta, model.layer[1].norm2.beta)
    assert not trained(merged)


def test_the_counts_on_minilm_are_those_of_lora_and_of_bitfit_together():
    model = lnp.with_head(lnp.bert(MINILM, rng=np.random.default_rng(0)), 2, "mean", rng=np.random.default_rng(0))
    model = lnp.inject(model, lnp.LoRAConfig(r=8, bias="all", task_type="SEQ_CLS"), np.random.default_rng(0))
    assert lnp.count_parameters(model).trainable == 74_498 + (26_498 - 770)


# ---- files


@pytest.mark.parametrize("name", ["bert mean head", "gpt", pytest.param("vit", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_a_folder_holds_it_to_the_bit(name, bias, tmp_path):
    own = {"task_type": "SEQ_CLS"} if name in ("bert mean head", "vit") else {}
    model = adapted(name, np.float32, bias=bias, lora_bias=True, **own)
    lnp.save_adapter(model, tmp_path / "one")
    again = lnp.load_adapter(base(name, np.float32), tmp_path / "one")
    assert bits(again) == bits(model) and trained(again) == trained(model)
    assert (again.adapter.bias, again.adapter.lora_bias) == (bias, True)
    lnp.save_adapter(again, tmp_path / "two")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_names_are_those_of_peft(tmp_path):
    lnp.save_adapter(adapted("bert pooler", lora_bias=True), tmp_path)
    names = {name.removeprefix("base_model.model.bert.") for name in load_file(tmp_path / "adapter_model.safetensors")}
    layer = "encoder.layer.1.attention"
    assert {f"{layer}.self.query.base_layer.bias", f"{layer}.self.query.lora_B.bias", f"{layer}.self.key.bias"} < names
    assert {f"{layer}.output.LayerNorm.bias", "embeddings.LayerNorm.bias", "pooler.dense.bias"} < names
    assert not any(name.endswith((".self.query.bias", "LayerNorm.weight")) for name in names)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["bias"] == "all"


def test_another_base_is_refused_and_one_with_other_biases_of_its_own_is_not(tmp_path):
    lnp.save_adapter(adapted(), tmp_path)
    one = base()
    norm, query = "layer.0.norm1.beta", "layer.0.attention.query.b"
    moved = {name: lnp.parameters(one)[name] + 1 for name in (norm, query)}
    lnp.load_adapter(with_arrays(one, {norm: moved[norm]}), tmp_path)  # it lies in the folder
    with pytest.raises(ValueError, match="was trained on other weights"):
        lnp.load_adapter(with_arrays(one, {query: moved[query]}), tmp_path)


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("encoder.layer.0.attention.self.query.base_layer.bias", r"lacks the tensor .*query\.base_layer\.bias"),
        ("encoder.layer.0.attention.self.value.lora_B.bias", r"lacks the tensor .*value\.lora_B\.bias"),
        ("encoder.layer.1.output.LayerNorm.bias", r"lacks the tensor encoder\.layer\.1\.output\.LayerNorm\.bias"),
    ],
)
def test_a_file_that_lacks_one_is_named(gone, sentence, tmp_path):
    lnp.save_adapter(adapted(lora_bias=True), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    held = {name: array for name, array in load_file(path).items() if name != f"base_model.model.{gone}"}
    save_file(held, path, metadata=metadata(path))
    with pytest.raises(ValueError, match=sentence):
        lnp.load_adapter(base(), tmp_path)


def metadata(path):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bare", "classifier"])
def test_peft_reads_and_writes_the_same(kind, tmp_path):
    """Also what PEFT holds twice, the classifier of modules_to_save, and a pooler that has no part in the output."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel, BertForSequenceClassification

    name, opened = ("bert", AutoModel) if kind == "bare" else ("bert pooler", BertForSequenceClassification)
    own = {} if kind == "bare" else {"task_type": "SEQ_CLS"}
    plain, model = base(name, np.float32), adapted(name, np.float32, lora_bias=True, **own)
    lnp.save_model(plain, tmp_path / "base")
    lnp.save_adapter(model, tmp_path / "ours")
    theirs = opened.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").double().eval()
    batch = tiny.batch(name)
    found = lnp.astype(model, np.float64).forward(batch)[0]
    rows = batch.unpack(found) if kind == "bare" else found
    for ids, kinds, ours in zip(batch.unpack(batch.content), batch.unpack(batch.type), rows):
        given = {"input_ids": torch.tensor(ids[None]), "token_type_ids": torch.tensor(kinds[None])}
        with torch.no_grad():
            assert np.allclose(ours, theirs(**given)[0][0].numpy(), rtol=0, atol=1e-6)
    theirs.float().save_pretrained(tmp_path / "theirs")
    again = lnp.load_adapter(plain, tmp_path / "theirs")
    assert bits(again) == bits(model) and trained(again) == trained(model)
    assert any(isinstance(node, LayerNorm) and node.trainable for _, node in walk(again))
