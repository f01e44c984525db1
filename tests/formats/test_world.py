"""Files of the world: folders as transformers and PEFT write them, and as older versions did, read by lora_np.

Each folder in tests/reference/world is a few kilobytes that tests/reference/make_world.py wrote with these libraries;
its reference.safetensors is what they compute from it, in float64. Nothing here needs them. What is computed elsewhere
must be computed here to the same numbers, or be refused in one sentence that names it: never a wrong number.
"""

import itertools
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.cli.commands import main
from lora_np.formats.huggingface import load_folder

WORLD = Path(__file__).parents[1] / "reference" / "world"
LENGTHS = (6, 3, 1, 6, 4)
TOLERANCE = 1e-9
OUTPUT = "base_model.model.lm_head"
INDEX = "model.safetensors.index.json"


# ---- what the folders give, here and there


def inputs():
    return load_file(WORLD / "inputs.safetensors")


def sequences(what):
    """Return the common "ids", "wide_ids" (of a vocabulary of 24) or "types", a list of one array a text."""
    return np.split(inputs()[what], np.cumsum(LENGTHS)[:-1])


TYPED = ("bert", "electra")


def texts(kind, wide=False):
    """Return the ids of the common texts, without 1, where that is padding."""
    ids = sequences("wide_ids" if wide else "ids")
    return [np.maximum(text, 2) for text in ids] if "roberta" in kind or kind == "mpnet" else ids


def reference(name):
    return load_file(WORLD / name / "reference.safetensors")


def adapter_folder(name):
    """Return where an adapter's files lie: PEFT puts one that is not called "default" into a folder of its name."""
    return next((WORLD / name).rglob("adapter_config.json")).parent


def relative_error(ours, theirs, what="the output"):
    assert ours.shape == theirs.shape, f"{what} has the shape {ours.shape} here and {theirs.shape} there"
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def batch_for(model, wide=False, dtype=np.float64):
    if model.config["model_type"] == "vit":
        images = inputs()["images"].transpose(0, 2, 3, 1).astype(dtype)  # theirs have the channels first
        return lnp.Batch.of(lnp.load_tokenizer(WORLD / "vit")(images))
    kind = model.config["model_type"]
    return lnp.Batch.of(texts(kind, wide), sequences("types") if kind in TYPED else None)


def outputs(model, wide=False):
    """Return our output as theirs is stored: one row a token, a text or an image, in the order given."""
    batch = batch_for(model, wide)
    output, _ = model.forward(batch)
    return np.concatenate(batch.unpack(output)) if len(output) == len(batch.content) else output


def error_of(model, stored, key, wide=False):
    """Return the relative error of a model's output. "encoder": hidden or pooled rows, whichever it gives."""
    output = outputs(model, wide)
    if key == "encoder":
        key = "hidden" if len(output) == len(stored["hidden"]) else "pooled"
    return relative_error(output, stored[key])


def loaded(name, dtype=np.float64):
    """Return the model of a folder of the world, or the adapter of one on its base."""
    if "/" not in name:
        return lnp.load_pretrained(WORLD / name, dtype=dtype)
    return lnp.load_adapter(loaded(name.split("/")[0], dtype), adapter_folder(name))


def assert_computes(name, key):
    assert error_of(loaded(name), reference(name), key, "resized" in name) < TOLERANCE


def assert_computes_or_refuses(name, key, sentence):
    """What is computed must be right; what is refused must be refused by a ValueError that says what it is."""
    try:
        model = loaded(name)
    except ValueError as error:
        assert_one_sentence(error, sentence)
    else:
        assert error_of(model, reference(name), key) < TOLERANCE


def assert_one_sentence(error, *words):
    """Hold a refusal to its contract: it names what it must, in one of the ways given, and ends as a sentence."""
    text = str(error)
    for word in words:
        assert any(way in text for way in word.split("|")), f"expected {word} in: {text}"
    assert text.endswith(".") and "Traceback" not in text


def refused(function, *words):
    with pytest.raises(ValueError) as caught:
        function()
    assert_one_sentence(caught.value, *words)


# ---- models

MODELS = {  # folder: what its forward gives
    "bert": "encoder",
    "bert_headless": "hidden",
    "bert_cls": "logits",
    "bert_gamma": "hidden",
    "bert_gamma_sharded": "hidden",
    "bert_mlm": "hidden",
    "bert_pretraining": "encoder",
    "bert_bf16": "logits",
    "bert_fp16": "logits",
    "bert_sharded": "logits",
    **dict.fromkeys(["distilbert", "distilbert_mlm", "electra", "electra_mlm", "electra_wide"], "hidden"),
    **dict.fromkeys(["electra_pretraining", "roberta", "roberta_headless", "roberta_mlm", "roberta_types"], "hidden"),
    **dict.fromkeys(["mpnet", "mpnet_mlm"], "hidden"),
    **dict.fromkeys(["xlmr", "xlmr_mlm"], "hidden"),
    **dict.fromkeys(["distilbert_cls", "electra_cls", "mpnet_cls", "roberta_cls", "xlmr_cls"], "logits"),
    **dict.fromkeys(["bert_tokens", "bert_tokens_pooler", "distilbert_tokens", "gpt2_score", "gpt2_tokens"], "logits"),
    **dict.fromkeys(["bert_regression", "bert_regression_unsaid", "bert_multilabel"], "logits"),
    **dict.fromkeys(["roberta_regression", "vit_regression"], "logits"),
    "bert_bf16_sharded": "hidden",
    "gpt2": "logits",
    "gpt2_bare": "hidden",
    "gpt2_bf16": "logits",
    "gpt2_sharded": "logits",
    "vit": "encoder",
    "vit_headless": "hidden",
    "vit_mask_token": "encoder",
    "vit_cls": "logits",
    "vit_fp16": "logits",
    "vit_sharded": "logits",
}
HEADS = {  # folder: what transformers computes, and the words by which to refuse it if it is not computed here
    "bert_nsp": ("encoder", "BertForNextSentencePrediction"),
    "bert_qa": ("logits", "BertForQuestionAnswering"),
    "bert_qa_pooler": ("logits", "BertForQuestionAnswering"),
    "bert_choice": ("refused", "BertForMultipleChoice"),  # its rows are choices of one question, not texts
    "bert_decoder": ("refused", "is_decoder"),
    "distilbert_sinus": ("hidden", "sinusoidal_pos_embds"),
    "gpt2_untied": ("logits", "lm_head|tie_word_embeddings"),
    "gpt2_qa": ("logits", "GPT2ForQuestionAnswering"),
    "gpt2_choice": ("refused", "GPT2DoubleHeadsModel"),
    "vit_mim": ("refused", "ViTForMaskedImageModeling"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_gives_what_transformers_computes(name):
    assert_computes(name, MODELS[name])


@pytest.mark.parametrize("name", HEADS)
def test_another_head_is_computed_or_refused_by_its_class(name):
    key, sentence = HEADS[name]
    if key == "refused":
        refused(lambda: loaded(name), sentence)
    else:
        assert_computes_or_refuses(name, key, sentence)


# ---- adapters

ADAPTERS = {  # folder: what its forward gives
    **dict.fromkeys(
        [
            *("bert/seq_cls", "bert/seq_cls_default_targets", "bert/seq_cls_pooler", "bert/seq_cls_score"),
            *("bert/classifier", "bert/seq_cls_all_linear", "bert_headless/seq_cls_pooler", "bert_gamma/seq_cls"),
            *("bert_gamma_sharded/seq_cls", "bert_pretraining/seq_cls", "bert_cls/seq_cls", "bert_cls/other_labels"),
            *("vit/classifier", "vit/classifier_all_linear", "vit_headless/classifier"),
            *("bert_bf16/seq_cls_bf16", "bert_bf16/seq_cls_float32", "bert_fp16/seq_cls_fp16"),
            *("gpt2_bf16/c_attn_bf16", "vit_fp16/classifier_bf16", "bert/resized_auto"),
            *("bert_cls/all_linear_no_task", "bert_cls/classifier_target", "bert_cls/all_linear_seq_cls"),
            *("bert_cls/word_embeddings", "vit_cls/all_linear_no_task", "vit_cls/classifier"),
            *("distilbert/seq_cls", "distilbert_mlm/seq_cls", "distilbert_cls/classifier", "electra/seq_cls"),
            *("electra_pretraining/seq_cls", "electra_cls/all_linear_no_task", "roberta/seq_cls"),
            *("roberta_mlm/seq_cls", "roberta_cls/seq_cls", "roberta_cls/out_proj", "xlmr/seq_cls"),
            *("mpnet/seq_cls", "mpnet_mlm/seq_cls"),
            *("bert/token_cls", "bert/token_cls_unsaid", "bert/regression", "gpt2_bare/score"),
            *("gpt2/high_rank", "gpt2/all_linear", "gpt2/ln_f", "gpt2/resized", "gpt2/wpe"),
        ],
        "logits",
    ),
    **dict.fromkeys(
        [
            *("bert/feature_extraction", "bert/all_linear", "bert/pooler_target", "bert/high_rank"),
            *("bert/high_rank_pattern", "bert/pattern_of_nothing", "bert/target_of_nothing", "bert/word_embeddings"),
            *("bert/embedding_layers", "bert/resized", "bert/resized_saved", "bert/layer_norms"),
            *("bert/output_whole", "bert_gamma/layer_norms", "vit/all_linear", "vit/high_rank", "bert/rslora"),
            *(
                "bert/dora",
                "bert/gaussian",
                "bert/not_initialised",
                "bert/exclude",
                "bert/exclude_pattern",
                "bert/one_layer",
            ),
            *("bert/layers_pattern", "bert/regular_expression", "bert/other_name"),
            *("bert/bias_lora_only", "bert/lora_bias"),
        ],
        "encoder",
    ),
    **dict.fromkeys(["bert/masked_lm", "bert_mlm/masked_lm", "gpt2_bare/wte"], "hidden"),
    **dict.fromkeys(["distilbert/all_linear", "electra/all_linear", "roberta/all_linear"], "hidden"),
    **dict.fromkeys(["mpnet/all_linear", "mpnet/bias_saved"], "hidden"),
}
OTHERS = {  # folder: what PEFT computes, and the words by which to refuse it if it is not computed here
    "bert_headless/seq_cls": ("refused", "pooler"),  # PEFT draws a new one each time
    "bert_mlm/seq_cls": ("refused", "pooler"),
    "bert/qa": ("refused", "QUESTION_ANS|BertForQuestionAnswering"),
    "bert/multiple_choice": ("refused", "BertForMultipleChoice"),
    "bert_mlm/all_linear": ("hidden", "cls.predictions.transform.dense"),
    "bert/word_embeddings_target": ("encoder", "word_embeddings"),
    "bert/token_indices": ("encoder", "trainable_token_indices"),
    "vit/projection": ("encoder", "projection"),
    "gpt2/wte": ("logits", "wte"),
    "gpt2/wte_tied": ("logits", "wte"),
    "gpt2/wte_lm_head": ("logits", "wte|lm_head"),
    "gpt2/lm_head": ("logits", "lm_head"),
    "gpt2/lm_head_target": ("logits", "lm_head"),
    "gpt2/wte_target": ("logits", "wte"),
    "bert/bias_all": ("encoder", "bias"),  # read, but not written with that of a pooler which has no part in the output
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_folder_gives_what_peft_computes(name):
    assert_computes(name, ADAPTERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_another_adapter_is_computed_or_refused_by_name(name):
    key, sentence = OTHERS[name]
    if key == "refused":
        refused(lambda: loaded(name), sentence)
    else:
        assert_computes_or_refuses(name, key, sentence)


def test_every_folder_of_the_world_is_tried():
    folders = {str(path.parent.relative_to(WORLD)) for path in WORLD.rglob("*config.json")}
    folders = {name.removesuffix("/other") for name in folders}
    assert folders == {*MODELS, *HEADS, *ADAPTERS, *OTHERS}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_peft_is_merged(name):
    assert error_of(lnp.merge(loaded(name)), reference(name), ADAPTERS[name], "resized" in name) < TOLERANCE


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_peft_is_written_again_and_loses_nothing(name, tmp_path):
    """Not the pooler, not saved embeddings: each tensor stands in our file as in theirs, and the output is the same."""
    theirs = tensors_of(adapter_folder(name) / "adapter_model.safetensors")
    # PEFT stores a table of words that is both trained and resized three times: trained, trained again, as it was.
    theirs = {key: value for key, value in theirs.items() if not re.search(r"modules_to_save|original_module", key)}
    if name == "gpt2/resized":  # the tied table stands there twice, and once is enough
        assert np.array_equal(theirs.pop(f"{OUTPUT}.weight")[1], theirs["base_model.model.transformer.wte.weight"][1])
    lnp.save_adapter(loaded(name), tmp_path)
    ours = tensors_of(tmp_path / "adapter_model.safetensors")
    assert theirs.keys() <= ours.keys(), f"lost: {sorted(theirs.keys() - ours.keys())}"
    for key, (_, values) in theirs.items():
        assert np.array_equal(ours[key][1], values), f"{key} differs"
    back = lnp.load_adapter(loaded(name.split("/")[0]), tmp_path)
    assert error_of(back, reference(name), ADAPTERS[name], "resized" in name) < TOLERANCE


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_peft_can_be_trained_further(name):
    """What the file holds has a gradient, and nothing else has one.

    Two things may: a pooler that the output does not pass through, and embeddings that were saved but not trained.
    """
    lora = loaded(name)
    batch = batch_for(lora, "resized" in name)
    output, cache = lora.forward(batch)
    grads = lora.backward(np.random.default_rng(0).standard_normal(output.shape), cache)
    assert all(np.isfinite(gradient).all() for gradient in grads.values())
    sizes = {key: v.size for key, (_, v) in tensors_of(adapter_folder(name) / "adapter_model.safetensors").items()}
    words = ["pooler"] if len(output) > len(LENGTHS) else []
    words += ["word_embeddings.weight|wte.weight"] if "embedding_layers" in name or "resized" in name else []
    optional = [sum(size for key, size in sizes.items() if re.search(word, key)) for word in words]
    other = [*words, "lm_head", "original_module"]  # the last: a table as it was before the training
    needed = sum(size for key, size in sizes.items() if not re.search("|".join(other), key))
    choices = [sum(some) for k in range(len(optional) + 1) for some in itertools.combinations(optional, k)]
    assert sum(gradient.size for gradient in grads.values()) - needed in choices


@pytest.mark.parametrize("name", ["bert/all_linear", "vit/all_linear"])
def test_a_pooler_that_no_output_passes_through_is_merged_too(name, tmp_path):
    base, lora = loaded(name.split("/")[0]).aside["pooler"], loaded(name)
    detour = lora.aside["pooler"]
    expected = base.W + detour.scale * detour.A @ detour.B
    assert relative_error(lnp.merge(lora).aside["pooler"].W, expected) < TOLERANCE < relative_error(base.W, expected)
    lnp.save_model(lnp.merge(lora), tmp_path)
    assert relative_error(tensors_in(tmp_path)["pooler.dense.weight"][1].T, expected) < TOLERANCE


# ---- safetensors, as NumPy alone reads them: (dtype, float64 values) by name

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def tensors_of(path):
    data = Path(path).read_bytes()
    stop = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:stop])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        raw = np.frombuffer(data[stop + start : stop + end], KINDS[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype("<u4") << 16).view("<f4")
        found[name] = entry["dtype"], raw.astype(np.float64).reshape(entry["shape"])
    return found


def tensors_in(folder):
    return {
        key: value
        for path in sorted(Path(folder).glob("model*.safetensors"))
        for key, value in tensors_of(path).items()
    }


# ---- F6: what is written keeps what was there


def todays_name(name):
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def bare_name(name):
    """Return a tensor's name without the prefix that it has only where there is a head."""
    return re.sub(r"^((bert|electra|mpnet|roberta|vit)\.|(distilbert\.)?(transformer\.)?)", "", todays_name(name))


KEPT = [
    "bert",
    "bert_cls",
    "bert_gamma",
    "bert_gamma_sharded",
    "bert_mlm",
    "bert_pretraining",
    "bert_bf16",
    "bert_fp16",
]
KEPT += ["distilbert", "distilbert_cls", "distilbert_mlm", "electra_cls", "electra_mlm", "electra_pretraining"]
KEPT += ["mpnet", "mpnet_cls", "mpnet_mlm", "roberta", "roberta_cls", "roberta_mlm", "xlmr_cls", "xlmr_mlm"]
KEPT += ["bert_bf16_sharded", "gpt2", "gpt2_bare", "gpt2_bf16", "vit", "vit_cls", "vit_fp16", "vit_mask_token"]


@pytest.mark.parametrize("name", KEPT)
def test_a_model_written_again_keeps_every_tensor_and_its_dtype(name, tmp_path):
    """The pooler, the heads of other tasks, half precision: all to the bit (names of 2018 may become today's)."""
    lnp.save_model(lnp.load_pretrained(WORLD / name), tmp_path)
    theirs = {todays_name(key): value for key, value in tensors_in(WORLD / name).items() if "position_ids" not in key}
    ours = {todays_name(key): value for key, value in tensors_in(tmp_path).items() if "position_ids" not in key}
    assert theirs.keys() == ours.keys(), f"in one only: {sorted(theirs.keys() ^ ours.keys())}"
    for key, (dtype, values) in theirs.items():
        assert ours[key][0] == dtype, f"{key} is {ours[key][0]}, and was {dtype}"
        assert np.array_equal(ours[key][1], values), f"{key} differs"
    assert_the_configuration_agrees(tmp_path)


def assert_the_configuration_agrees(folder):
    config = json.loads((folder / "config.json").read_text())
    said = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    words = {said[config[word]] for word in ("dtype", "torch_dtype") if config.get(word)} or {"F32"}
    assert {dtype for dtype, _ in tensors_in(folder).values() if dtype != "I64"} == words


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_merged_model_loses_nothing_and_is_not_rounded(name, tmp_path):
    """Merged into half precision most of a small update would be gone: it is written in float32, and says so."""
    base = tensors_in(WORLD / name.split("/")[0])
    lnp.save_model(lnp.merge(loaded(name, np.float32)), tmp_path)
    ours = tensors_in(tmp_path)
    assert_the_configuration_agrees(tmp_path)
    lost = {bare_name(key) for key in base if "position_ids" not in key} - {bare_name(key) for key in ours}
    assert not lost, f"tensors of the base that the merged file lacks: {sorted(lost)}"
    config = json.loads((tmp_path / "config.json").read_text())
    for key, (_, values) in ours.items():  # else transformers would not open it
        if key == "classifier.weight":
            assert len(config.get("id2label") or "ab") == len(values), "id2label has another number of classes"
        if key.endswith(("word_embeddings.weight", "wte.weight")):
            assert config["vocab_size"] == len(values)
    back = lnp.load_pretrained(tmp_path, dtype=np.float64)
    assert error_of(back, reference(name), ADAPTERS[name], "resized" in name) < 1e-5


def test_what_the_model_does_not_use_is_named():
    model, extras = load_folder(WORLD / "bert_mlm")
    assert any("cls.predictions.transform.dense.weight" in name for name in extras)
    _, extras = load_folder(WORLD / "bert_pretraining")
    assert any("cls.seq_relationship.weight" in name for name in extras)
    _, extras = load_folder(WORLD / "bert_gamma")
    assert any("position_ids" in name for name in extras)


# ---- copies of these folders, changed as other versions and other hands write them


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies a folder of the world (without what lies below it)."""
    count = itertools.count()

    def make(name):
        source = adapter_folder(name) if "/" in name else WORLD / name
        folder = tmp_path / f"copy{next(count)}"
        folder.mkdir()
        for path in source.iterdir():
            if path.is_file() and path.name != "reference.safetensors":
                shutil.copy(path, folder)
        return folder

    return make


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def of_transformers_4(config):
    config["torch_dtype"] = config.pop("dtype")
    config.pop("architectures")
    config["transformers_version"] = "4.30.2"
    config["_name_or_path"] = "/some/where"
    config["id2label"] = {"0": "one", "1": "two", "2": "three"}
    config["label2id"] = {"one": 0, "two": 1, "three": 2}


@pytest.mark.parametrize("name", ["bert_cls", "vit_cls", "gpt2", "bert", "vit"])
@pytest.mark.parametrize(
    "change",
    [
        of_transformers_4,
        lambda c: c.update(architectures=None),
        lambda c: c.update(torch_dtype="float32", dtype=None),
        lambda c: c.update(torch_dtype=c.pop("dtype"), transformers_version="4.56.0"),
        lambda c: c.update(finetuning_task="sst2", pruned_heads={}, output_attentions=True, a_new_word=None),
        lambda c: c.update(problem_type="single_label_classification"),
    ],
    ids=["of 4", "no architectures", "both dtypes", "torch_dtype", "other words", "single label"],
)
def test_configurations_of_other_versions_are_read(name, change, copy):
    folder = copy(name)
    edit(folder / "config.json", change)
    model = lnp.load_pretrained(folder, dtype=np.float64)
    key = {**MODELS}[name]
    assert error_of(model, reference(name), key) < TOLERANCE


def test_a_classifier_without_a_pooler_is_refused_if_no_class_is_said(copy):
    folder = copy("bert_tokens")
    edit(folder / "config.json", lambda c: c.pop("architectures"))
    refused(lambda: lnp.load_pretrained(folder), "classifier", "pooler")


def test_gpt2_files_of_the_hub_are_read(copy):
    """No prefix, masks as buffers, the table twice."""
    folder = copy("gpt2")

    def as_openai_wrote_it(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for k in range(2):
            tensors[f"h.{k}.attn.bias"] = np.tril(np.ones((1, 1, 9, 9), (np.float32, bool)[k]))
            tensors[f"h.{k}.attn.masked_bias"] = np.array(-1e4, np.float32)
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()

    edit_tensors(folder / "model.safetensors", as_openai_wrote_it)
    edit(
        folder / "config.json",
        lambda c: c.update(n_ctx=9, task_specific_params={"text-generation": {"do_sample": True}}),
    )
    assert error_of(lnp.load_pretrained(folder, dtype=np.float64), reference("gpt2"), "logits") < TOLERANCE


def without(*names):
    return lambda c: [c.pop(name, None) for name in names]


NOT_IN_0_5 = (
    "alora_invocation_tokens arrow_config corda_config ensure_weight_tying eva_config exclude_modules kasa_config"
    " layer_replication loftq_config lora_bias lora_ga_config megatron_config megatron_core monteclora_config"
    " peft_version qalora_group_size target_parameters trainable_token_indices use_bdlora use_dora use_qalora"
    " use_rslora velora_config rank_pattern alpha_pattern auto_mapping"
)


@pytest.mark.parametrize("name", ["bert/rslora", "bert/seq_cls", "vit/classifier", "gpt2/high_rank", "bert/high_rank"])
@pytest.mark.parametrize(
    "change",
    [
        without(*(key for key in NOT_IN_0_5.split() if key != "use_rslora")),
        lambda c: c.update(
            eva_config=None, corda_config=None, qalora_group_size=16, arrow_config=None, ensure_weight_tying=False,
            lora_ga_config=None, velora_config=None, use_qalora=False, peft_version="0.99.0",
        ),
        lambda c: c.update(auto_mapping=None, revision="main"),
        lambda c: c.update(layers_pattern=[], megatron_core="megatron.core", loftq_config={}, runtime_config=None),
        lambda c: c.update(init_lora_weights="gaussian", inference_mode=False, revision=None),
        lambda c: c.update(init_lora_weights="orthogonal", lora_dropout=0.1),
        lambda c: c.update(init_lora_weights=False, base_model_name_or_path=None),
        lambda c: c.update(lora_alpha=float(c["lora_alpha"])),
        lambda c: c.update(modules_to_save=c["modules_to_save"] or []),
    ],
    ids=["0.5", "0.21", "auto_mapping", "neutral", "gaussian", "orthogonal", "not drawn", "alpha", "no modules"],
)  # fmt: skip
def test_adapter_configurations_of_other_versions_are_read(name, change, copy):
    folder = copy(name)
    edit(folder / "adapter_config.json", change)
    lora = lnp.load_adapter(loaded(name.split("/")[0]), folder)
    assert error_of(lora, reference(name), ADAPTERS[name]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bias", "all"), ("bias", "lora_only"), ("use_qalora", True),
        ("layer_replication", [[0, 2], [1, 2]]), ("trainable_token_indices", [1]),
        ("peft_type", "OFT"), ("init_lora_weights", "lora_ga"), ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"), ("init_lora_weights", "corda"),
        ("arrow_config", {"top_k": 2}), ("alora_invocation_tokens", [1]), ("target_parameters", ["x"]),
        ("a_setting_of_tomorrow", True), ("use_something_new", 3),
    ],
)  # fmt: skip
def test_a_setting_that_changes_the_numbers_is_refused_by_name(name, value, copy):
    """Also one that nobody here has heard of, unless it is null, false or empty: it may be another adapter."""
    folder = copy("bert/feature_extraction")
    edit(folder / "adapter_config.json", lambda c: c.update({name: value}))
    refused(lambda: lnp.load_adapter(loaded("bert"), folder), f"{name}|{value}")


@pytest.mark.parametrize("name", ["target_modules", "exclude_modules"])
def test_a_regular_expression_that_is_none_is_refused_by_name(name, copy):
    """Also where each linear map is adapted, and none has to be looked for: it was a bare re.error."""
    folder = copy("bert/all_linear")
    edit(folder / "adapter_config.json", lambda c: c.update({name: "("}))
    refused(lambda: lnp.load_adapter(loaded("bert"), folder), f"{name} = '('")


# ---- F3: shards, links


def test_a_snapshot_of_the_hub_is_read_through_its_links(tmp_path):
    """The layout of the hub's cache: a file's name is a link to a blob named by its hash."""
    for name in ("bert_sharded", "bert_cls"):
        blobs, snapshot = tmp_path / name / "blobs", tmp_path / name / "snapshots" / "0123abcd"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for k, path in enumerate(sorted((WORLD / name).glob("*[.]*"))):
            if path.is_file() and path.name != "reference.safetensors":
                shutil.copy(path, blobs / f"{k:040x}")
                os.symlink(Path("../../blobs") / f"{k:040x}", snapshot / path.name)
        assert error_of(lnp.load_pretrained(snapshot, dtype=np.float64), reference(name), "logits") < TOLERANCE


def test_an_adapter_is_read_through_links(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(WORLD / "bert/seq_cls" / name, blobs / f"{len(name):040x}")
        os.symlink(blobs / f"{len(name):040x}", snapshot / name)
    lora = lnp.load_adapter(loaded("bert"), snapshot)
    assert error_of(lora, reference("bert/seq_cls"), "logits") < TOLERANCE


def edit_index(folder, change):
    edit(folder / "model.safetensors.index.json", lambda c: change(c["weight_map"]))


def first_shard(folder):
    return sorted(folder.glob("model-*.safetensors"))[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: first_shard(f).unlink(), ["model-00001"]),
        (lambda f: os.truncate(first_shard(f), 300), ["model-00001"]),
        (lambda f: edit_index(f, lambda m: m.update({next(iter(m)): "../../outside.safetensors"})), ["outside"]),
        (lambda f: edit_index(f, lambda m: m.update({next(iter(m)): "/etc/passwd"})), ["/etc/passwd"]),
        (lambda f: edit_index(f, lambda m: m.update({next(iter(m)): 5})), ["5"]),
        (lambda f: edit(f / "model.safetensors.index.json", lambda c: c.pop("weight_map")), ["weight_map"]),
        (lambda f: edit(f / "model.safetensors.index.json", lambda c: c.update(weight_map=[1])), ["weight_map"]),
        (lambda f: edit_index(f, lambda m: m.clear()), ["model.safetensors.index.json|lacks"]),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), ["model.safetensors.index.json"]),
    ],
    ids=["missing", "cut", "upwards", "absolute", "number", "no map", "list", "empty", "json"],
)  # fmt: skip
def test_damaged_shards_are_named(damage, words, copy):
    folder = copy("bert_sharded")
    damage(folder)
    refused(lambda: lnp.load_pretrained(folder), *words)


@pytest.mark.parametrize(
    "change",
    [lambda m: m.update({"classifier.weight": min(m.values())}), lambda m: m.pop("classifier.bias")],
    ids=["another shard", "not named"],
)
def test_an_index_that_disagrees_with_its_shards_is_refused_or_does_not_matter(change, copy):
    """transformers reads whatever the shards hold; a reader that goes by the index must say what it misses."""
    folder = copy("bert_sharded")
    edit_index(folder, change)
    try:
        model = lnp.load_pretrained(folder, dtype=np.float64)
    except ValueError as error:
        assert_one_sentence(error, "classifier")
    else:
        assert error_of(model, reference("bert_sharded"), "logits") < TOLERANCE


def test_a_whole_file_goes_before_the_index(copy):
    """As in transformers: where both lie, model.safetensors is the one that is read."""
    folder = copy("bert_cls")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert error_of(lnp.load_pretrained(folder, dtype=np.float64), reference("bert_cls"), "logits") < TOLERANCE


def write_raw(path, kind, values):
    """Write a safetensors file of one dtype, also of those that NumPy lacks: (name, shape, bytes) of each tensor."""
    header, data = {}, b""
    for name, shape, raw in values:
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def upper_half(values):
    """Return float32 numbers as the bytes of bfloat16; what is cut off must be zero."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_bfloat16_that_is_not_finite_is_refused(value, copy):
    folder = copy("bert_bf16")
    tensors = {name: values.astype(np.float32) for name, (_, values) in tensors_in(folder).items()}
    tensors["classifier.bias"][1] = value
    write_raw(folder / "model.safetensors", "BF16", [(n, v.shape, upper_half(v)) for n, v in tensors.items()])
    refused(lambda: lnp.load_pretrained(folder), "classifier.bias", "finite")


@pytest.mark.parametrize(
    ("kind", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("U8", 1), ("I32", 4), ("BOOL", 1)]
)
def test_weights_in_a_dtype_that_is_not_computed_are_refused_by_name(kind, size, copy):
    folder = copy("bert_cls")
    tensors = [(name, v.shape, bytes(v.size * size)) for name, (_, v) in tensors_in(folder).items()]
    write_raw(folder / "model.safetensors", kind, tensors)
    words = {"I8": "I8|int8", "U8": "U8|uint8", "I32": "I32|int32", "BOOL": "BOOL|bool"}
    refused(lambda: lnp.load_pretrained(folder), words.get(kind, kind))


def test_dtypes_may_be_mixed_in_one_file(copy):
    """As where norms are kept in float32: each tensor says its own."""
    folder = copy("bert_fp16")

    def widen(tensors):
        for name in tensors:
            if "LayerNorm" in name or name == "classifier.weight":
                tensors[name] = tensors[name].astype(np.float32)

    edit_tensors(folder / "model.safetensors", widen)
    assert error_of(lnp.load_pretrained(folder, dtype=np.float64), reference("bert_fp16"), "logits") < TOLERANCE


# ---- F4: pickles


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"]
)
def test_a_model_in_another_format_is_refused_by_name_and_never_opened(file, copy, tmp_path):
    folder = copy("bert_cls")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(lambda: lnp.load_pretrained(folder), file, "safetensors", "save_pretrained|convert")
    assert not (tmp_path / "sprung").exists()


def test_an_adapter_in_a_pickle_is_refused_by_name_and_never_opened(copy, tmp_path):
    folder = copy("bert/seq_cls")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(
        lambda: lnp.load_adapter(loaded("bert"), folder), "adapter_model.bin", "safetensors", "save_pretrained|convert"
    )
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_beside_safetensors_does_not_matter(copy):
    folder, adapter = copy("bert_cls"), copy("bert_cls/seq_cls")
    for path in (folder / "pytorch_model.bin", adapter / "adapter_model.bin"):
        path.write_bytes(b"no model")
    lora = lnp.load_adapter(lnp.load_pretrained(folder, dtype=np.float64), adapter)
    assert error_of(lora, reference("bert_cls/seq_cls"), "logits") < TOLERANCE


# ---- N14, N15, N22: what does not belong together


def drop_modules(word):
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if word in name]


@pytest.mark.parametrize(
    ("name", "word", "missing"),
    [
        ("bert/feature_extraction", "layer.1.", "encoder.layer.1.attention.self.query"),
        ("bert/feature_extraction", "value", "encoder.layer.0.attention.self.value"),
        ("bert/feature_extraction", "layer.0.attention.self.query", "encoder.layer.0.attention.self.query"),
        ("bert/all_linear", "pooler", "pooler.dense"),
        ("bert/all_linear", "layer.1.", "encoder.layer.1"),
        ("bert/one_layer", "value", "encoder.layer.1.attention.self.value"),
        ("bert/exclude", "intermediate", "intermediate.dense"),
        ("bert/regular_expression", "output.dense", "encoder.layer.1.output.dense"),
        ("bert_cls/all_linear_no_task", "classifier", "classifier"),
        ("bert/seq_cls", "classifier.weight", "classifier.weight"),
        ("bert/seq_cls", "classifier.", "classifier"),
        ("bert/seq_cls_pooler", "pooler.", "pooler"),
        ("bert/layer_norms", "layer.1.output.LayerNorm", "layer.1.output.LayerNorm"),
        ("bert/word_embeddings", "word_embeddings", "word_embeddings"),
        ("gpt2/high_rank", "h.1.", "h.1.attn.c_attn"),
        ("vit/high_rank", "v_proj", "v_proj|attention.value"),
        ("vit/classifier", "classifier", "classifier"),
    ],
)
def test_an_adapter_file_that_lacks_what_it_names_is_refused(name, word, missing, copy):
    folder = copy(name)
    edit_tensors(folder / "adapter_model.safetensors", drop_modules(word))
    refused(lambda: lnp.load_adapter(loaded(name.split("/")[0]), folder), missing)


@pytest.mark.parametrize(
    "part", ["embeddings.word.table", "embeddings.norm.gamma", "layer.1.norm2.beta", "layer.0.mlp.up.b"]
)
def test_an_adapter_of_ours_knows_its_whole_base(part, tmp_path):
    from lora_np.model.tree import with_arrays

    base = tiny.build("bert", np.float32)
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, target_modules=["query"]), np.random.default_rng(0))
    lnp.save_adapter(lora, tmp_path)
    lnp.load_adapter(base, tmp_path)
    other = with_arrays(base, {**lnp.parameters(base), part: lnp.parameters(base)[part] + np.float32(0.5)})
    refused(lambda: lnp.load_adapter(other, tmp_path), "other weights|another base")


def test_an_adapter_of_ours_knows_its_base_in_another_dtype_and_with_another_head(tmp_path):
    base = lnp.load_pretrained(WORLD / "bert")
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, target_modules=["query"]), np.random.default_rng(0))
    lnp.save_adapter(lora, tmp_path)
    lnp.load_adapter(lnp.load_pretrained(WORLD / "bert", dtype=np.float64), tmp_path)
    lnp.load_adapter(lnp.with_head(base, 2, "mean", np.random.default_rng(1)), tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "old", "key", "new"),
    [
        ("bert/seq_cls", "adapter_config.json", '"r": 2', "r", '"r": 2, "r": 3'),
        ("bert/seq_cls", "adapter_config.json", '"r": 2', "r", '"r": 2, "r": 2'),
        ("bert/seq_cls", "adapter_config.json", '"lora_alpha": 5', "lora_alpha", '"lora_alpha": 5, "lora_alpha": 50'),
        ("bert/seq_cls", "adapter_config.json", '_pattern": {}', "query", '_pattern": {"query": 2, "query": 2}'),
        ("bert_cls", "config.json", '"layer_norm_eps"', "layer_norm_eps", '"layer_norm_eps": 0.1, "layer_norm_eps"'),
        ("bert_cls", "config.json", '"0": "LABEL_0"', "0", '"0": "LABEL_0", "0": "other"'),
        ("bert_sharded", INDEX, '"classifier.bias"', "classifier.bias", '"classifier.bias": "x", "classifier.bias"'),
    ],
)  # fmt: skip
def test_a_key_twice_is_refused(name, file, old, key, new, copy):
    folder = copy(name)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    load = (lambda: lnp.load_adapter(loaded("bert"), folder)) if "/" in name else (lambda: lnp.load_pretrained(folder))
    refused(load, f'{key!r}|"{key}"', "twice")


# ---- the commands on such folders


@pytest.fixture
def with_words(copy):
    """Return a function that copies a BERT of the world and gives it a tokenizer of twenty words."""

    def make(name):
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        folder = copy(name)
        words = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop"])}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("bert_regression", "regression"), ("bert_regression_unsaid", "regression"),
        ("bert_multilabel", "multi_label_classification"),
    ],
)  # fmt: skip
def test_what_is_no_choice_of_one_class_is_not_shown_as_one(name, word, with_words, capsys):
    """`predict` says a class and its probability. Neither a number nor several labels are that."""
    folder = with_words(name)
    status = main(["predict", "--model", str(folder), "--max-length", "9", "a b c"])
    shown = capsys.readouterr()
    assert "%" not in shown.out
    assert word in shown.err if status else shown.out


def test_predict_uses_an_adapter_of_peft_on_a_base_without_a_head(with_words, capsys):
    folder = with_words("bert")
    adapter = ["--adapter", str(WORLD / "bert/seq_cls"), "--model", str(folder)]
    assert main(["predict", *adapter, "--max-length", "9", "a b c"]) == 0
    assert "%" in capsys.readouterr().out


def test_merge_writes_the_classifier_of_peft_that_transformers_opens(with_words, tmp_path, capsys):
    folder, out = with_words("bert"), tmp_path / "out"
    assert main(["merge", "--adapter", str(WORLD / "bert/seq_cls"), "--model", str(folder), "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= tensors_in(out).keys()
    assert error_of(lnp.load_pretrained(out, dtype=np.float64), reference("bert/seq_cls"), "logits") < 1e-5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert_mlm", ["cls.predictions.transform.dense.weight"]),
        ("bert_gamma", ["cls.seq_relationship.weight"]),
        ("bert_sharded", ["embeddings.word.table"]),
        ("bert_bf16", ["embeddings.word.table"]),
        ("vit_mask_token", ["embeddings.mask_token"]),
        ("bert_bf16/seq_cls_bf16", ["query.lora_A.weight", "classifier.weight"]),
        ("bert/all_linear", ["pooler.dense.lora_A.weight"]),
        ("bert/other_name", ["query.lora_A.weight"]),
    ],
)
def test_info_shows_what_is_in_a_folder(name, words, capsys):
    assert main(["info", str(adapter_folder(name) if "/" in name else WORLD / name)]) == 0
    shown = capsys.readouterr().out
    assert not [word for word in words if word not in shown]


# ---- N10: GPT-2's one table, used twice


@pytest.mark.parametrize("modules", [["wte"], ["transformer.wte"], ["wte", "ln_f"], ["embeddings.word"]])
def test_a_trained_word_table_of_gpt2_is_what_peft_makes_of_it(modules, tmp_path):
    """PEFT unties it: the output stays the old table. So does lora_np, or it refuses: a file means the same to both."""
    base = lnp.load_pretrained(WORLD / "gpt2", dtype=np.float64)
    config = lnp.LoRAConfig(r=2, target_modules=["c_attn"], modules_to_save=modules)
    try:
        lora = lnp.inject(base, config, np.random.default_rng(0))
    except ValueError as error:
        assert_one_sentence(error, "wte|embeddings.word")
        return
    from dataclasses import replace

    rng = np.random.default_rng(1)
    for array in lnp.parameters(lora, trainable_only=True).values():
        array += 0.3 * rng.standard_normal(array.shape)
    batch = batch_for(lora)
    hidden, _ = replace(lora, head=None).forward(batch)
    expected = hidden @ lnp.parameters(base)["embeddings.word.table"].T
    lnp.save_adapter(lora, tmp_path)
    for model in (lora, lnp.load_adapter(base, tmp_path), lnp.merge(lora)):
        assert relative_error(model.forward(batch)[0], expected) < TOLERANCE


# ---- adapters under another name


def test_a_folder_of_named_adapters_says_what_is_in_it():
    refused(lambda: lnp.load_adapter(loaded("bert"), WORLD / "bert/other_name"), "adapter_config.json", "other")


# ---- ViT's two naming schemes

VIT_OLD = {
    "q_proj": "attention.attention.query", "v_proj": "attention.attention.value", "fc1": "intermediate.dense",
}  # fmt: skip


@pytest.mark.parametrize("name", ["vit/classifier", "vit/high_rank", "vit_cls/classifier"])
def test_vit_adapters_of_transformers_4_are_read(name, copy):
    folder = copy(name)

    def old_names(tensors):
        for key in list(tensors):
            old = key.replace("layers.0.", "encoder.layer.0.")
            for new_name, old_name in {
                "attention.q_proj": VIT_OLD["q_proj"],
                "attention.v_proj": VIT_OLD["v_proj"],
            }.items():
                old = old.replace(new_name, old_name)
            tensors[old] = tensors.pop(key)

    edit_tensors(folder / "adapter_model.safetensors", old_names)
    edit(folder / "adapter_config.json", lambda c: c.update(target_modules=["query", "value"]))
    lora = lnp.load_adapter(loaded(name.split("/")[0]), folder)
    assert error_of(lora, reference(name), ADAPTERS[name]) < TOLERANCE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["q_proj", "v_proj"], ["query", "value"]),
        (["q_proj", "v_proj"], ["attention.attention.query", "attention.attention.value"]),
        (["attention.q_proj", "mlp.fc1"], ["attention.query", "intermediate.dense"]),
        (["layers.0.attention.q_proj"], ["encoder.layer.0.attention.attention.query"]),
        (["o_proj", "fc2"], ["attention.output.dense", "mlp.down"]),
        (r".*\.(q_proj|fc2)", r".*\.attention\.attention\.query|.*layer\.\d+\.output\.dense"),
        (r"vit\.layers\.\d+\.attention\.k_proj", r"vit\.encoder\.layer\.\d+\.attention\.attention\.key"),
    ],
)
def test_vit_targets_go_by_both_naming_schemes(one, other):
    base = lnp.load_pretrained(WORLD / "vit_cls")
    names = []
    for targets in (one, other):
        lora = lnp.inject(base, lnp.LoRAConfig(r=2, target_modules=targets), np.random.default_rng(0))
        names.append(list(lnp.parameters(lora, trainable_only=True)))
    assert names[0] == names[1] and names[0]


def test_patterns_and_exclusions_on_vit_go_by_both_naming_schemes():
    base = lnp.load_pretrained(WORLD / "vit_cls")
    ranks = []
    for query, value in (("q_proj", "v_proj"), ("query", "value")):
        config = lnp.LoRAConfig(
            r=2, target_modules=[query, value, "mlp.up"], rank_pattern={query: 3}, exclude_modules=[value]
        )
        lora = lnp.inject(base, config, np.random.default_rng(0))
        ranks.append({name: array.shape for name, array in lnp.parameters(lora, trainable_only=True).items()})
    assert ranks[0] == ranks[1]
    assert ranks[0]["layer.0.attention.query.A"] == (8, 3) and "layer.0.attention.value.A" not in ranks[0]


# ---- F11: PEFT's own spelling


@pytest.mark.parametrize(
    "words",
    [
        {"task_type": "SEQ_CLS", "inference_mode": False, "bias": "none"},
        {"fan_in_fan_out": False, "init_lora_weights": True},
        {"fan_in_fan_out": True},
        {"use_dora": False, "lora_bias": False, "layer_replication": None, "megatron_config": None},
        {"megatron_core": "megatron.core", "loftq_config": {}, "layers_pattern": None, "revision": None},
        {"peft_type": "LORA", "auto_mapping": None, "base_model_name_or_path": None},
        {"trainable_token_indices": None, "eva_config": None, "corda_config": None, "ensure_weight_tying": False},
        {"use_qalora": False, "qalora_group_size": 16, "target_parameters": None, "arrow_config": None},
        {"rank_pattern": {}, "alpha_pattern": {}, "exclude_modules": None, "modules_to_save": None},
    ],
    ids=lambda words: ", ".join(words),
)
def test_the_neutral_words_of_peft_are_accepted(words):
    plain = lnp.LoRAConfig(r=2, task_type=words.get("task_type"))
    config = lnp.LoRAConfig(r=2, **words)
    base = lnp.load_pretrained(WORLD / "bert_cls")
    one, other = (lnp.inject(base, c, np.random.default_rng(0)) for c in (plain, config))
    mine, theirs = lnp.parameters(one), lnp.parameters(other)
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("bias", "some"), ("lora_bias", 2), ("use_dora", 2), ("inference_mode", True),
        ("init_lora_weights", "corda"), ("init_lora_weights", "lora_ga"), ("init_lora_weights", "mica"),
        ("layer_replication", [[0, 1]]), ("trainable_token_indices", [1, 2]), ("target_parameters", ["x"]),
        ("use_qalora", True), ("peft_type", "IA3"), ("loftq_config", {"loftq_bits": 4}), ("ensure_weight_tying", True),
        ("megatron_config", {"a": 1}), ("layers_pattern", "layer"), ("eva_config", {"rho": 2.0}),
    ],
)  # fmt: skip
def test_other_values_are_refused_by_name(word, value):
    refused(lambda: lnp.LoRAConfig(r=2, **{word: value}), word, str(value))


@pytest.mark.parametrize("word", ["lora_r", "alpha", "target_module", "dropout", "useDora"])
def test_a_word_that_peft_does_not_have_is_refused(word):
    with pytest.raises((TypeError, ValueError), match=word):
        lnp.LoRAConfig(r=2, **{word: 1})


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"task_type": "SEQ_CLS"}, ["classifier"]),
        ({"modules_to_save": ["classifier"]}, ["classifier"]),
        ({"modules_to_save": ["classifier.out_proj"]}, ["classifier.out_proj"]),
    ],
)
def test_a_head_of_two_maps_is_one_module_to_peft_if_both_are_trained(given, written, tmp_path):
    """PEFT would wrap a module that it has wrapped already."""
    config = lnp.LoRAConfig(r=2, target_modules=["query"], **given)
    lnp.save_adapter(lnp.inject(loaded("roberta_cls"), config, np.random.default_rng(0)), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == written
