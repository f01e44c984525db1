"""Make tests/reference/world: model and adapter folders as the world has them, and what transformers and PEFT compute
from them; then open what lora_np writes by the same libraries:
    python tests/reference/make_world.py            (needs torch, transformers and peft; the tests need none of them)
    python tests/reference/make_world.py --check    (the second half alone)

Each folder is what `save_pretrained` wrote (a few kilobytes, random off every special point), or that with the words of
older versions. A reference is computed in float64 from the folder *as it is opened again*, never from the model that
was saved: what a file does not hold is not in it. Sequences are computed one by one, so nothing depends on padding.
The largest errors of the other direction are written to results.json; the exit code is 1 if one is too large.
"""

import contextlib
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).resolve().parent / "world"
sys.path.insert(0, str(HERE.parents[1] / "formats"))  # the tests hold the comparisons
import test_world as world  # noqa: E402

import lora_np as lnp  # noqa: E402

SEED = 20210617
TOLERANCE = 1e-9
warnings.filterwarnings("ignore", module="peft|torch|transformers")

BERT = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 10,
    "max_position_embeddings": 9, "type_vocab_size": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 20, "n_positions": 9, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 10, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
VIT = {
    "image_size": 6, "patch_size": 3, "num_channels": 2, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 10, "encoder_stride": 3,
}  # fmt: skip

DISTILBERT = {"vocab_size": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 10, "max_position_embeddings": 9}
ELECTRA = {**BERT, "embedding_size": 6}
ROBERTA = {**BERT, "max_position_embeddings": 11, "type_vocab_size": 1}
MPNET = {name: value for name, value in ROBERTA.items() if name != "type_vocab_size"}


# ---- models: folder -> (class, changes of its configuration, what is done to the folder or the model)


def base(kind, config=None, init=None, dtype="float32", save=None, after=None):
    """Describe a folder: class, configuration, arguments of the class, dtype, of save_pretrained; a last edit."""
    return {
        "kind": kind,
        "config": config or {},
        "init": init or {},
        "dtype": dtype,
        "save": save or {},
        "after": after,
    }


def as_google_wrote_it(folder):
    """Turn a BertForPreTraining of today into a file such as bert-base-uncased: LayerNorm.gamma and .beta, ids of
    positions, the word table once, and a configuration in the words of 2018."""
    for path in folder.glob("*.safetensors"):
        tensors = load_torch(path)
        old = {re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name): value for name, value in tensors.items()}
        old = {re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name): value for name, value in old.items()}
        if "bert.embeddings.word_embeddings.weight" in old:
            old["bert.embeddings.position_ids"] = torch.arange(9)[None]
        save_torch(old, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {
            re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)): shard
            for name, shard in content["weight_map"].items()
        }
        content["weight_map"]["bert.embeddings.position_ids"] = content["weight_map"][
            "bert.embeddings.word_embeddings.weight"
        ]
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    config = json.loads((folder / "config.json").read_text())
    kept = (
        "attention_probs_dropout_prob hidden_act hidden_dropout_prob hidden_size initializer_range intermediate_size"
        " layer_norm_eps max_position_embeddings model_type num_attention_heads num_hidden_layers pad_token_id"
        " type_vocab_size use_cache vocab_size"
    )
    config = {name: config[name] for name in kept.split()} | {
        "architectures": ["BertForMaskedLM"], "gradient_checkpointing": False,
        "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0",
    }  # fmt: skip
    write(folder / "config.json", config)


def with_a_pooler(folder):
    """Add a pooler that the class does not use, as versions 2 and 3 of transformers wrote it."""
    path, rng = folder / "model.safetensors", np.random.default_rng([SEED, 77])
    tensors = load_torch(path)
    tensors["bert.pooler.dense.weight"] = torch.from_numpy(0.3 * rng.standard_normal((8, 8))).float()
    tensors["bert.pooler.dense.bias"] = torch.from_numpy(0.3 * rng.standard_normal(8)).float()
    save_torch(tensors, path, {"format": "pt"})


def untied(folder):
    """Say in the configuration that the output is not the word table; the file holds both by now."""
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


TINY_SHARDS = {"max_shard_size": "2KB"}
BASES = {
    "bert": base("BertModel", {"num_hidden_layers": 2}),
    "bert_headless": base("BertModel", init={"add_pooling_layer": False}),
    "bert_cls": base("BertForSequenceClassification", {"num_hidden_layers": 2}),
    "bert_gamma": base("BertForPreTraining", after=as_google_wrote_it),
    "bert_gamma_sharded": base("BertForPreTraining", save=TINY_SHARDS, after=as_google_wrote_it),
    "bert_mlm": base("BertForMaskedLM"),
    "bert_pretraining": base("BertForPreTraining"),
    "bert_nsp": base("BertForNextSentencePrediction"),
    "bert_tokens": base("BertForTokenClassification"),
    "bert_tokens_pooler": base("BertForTokenClassification", after=with_a_pooler),
    "bert_qa": base("BertForQuestionAnswering"),
    "bert_qa_pooler": base("BertForQuestionAnswering", after=with_a_pooler),
    "bert_choice": base("BertForMultipleChoice"),
    "bert_regression": base("BertForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "bert_regression_unsaid": base("BertForSequenceClassification", {"num_labels": 1}),
    "bert_multilabel": base("BertForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "bert_decoder": base("BertLMHeadModel", {"is_decoder": True}),
    "bert_bf16": base("BertForSequenceClassification", dtype="bfloat16"),
    "bert_fp16": base("BertForSequenceClassification", dtype="float16"),
    "bert_sharded": base("BertForSequenceClassification", save=TINY_SHARDS),
    "bert_bf16_sharded": base("BertForMaskedLM", dtype="bfloat16", save={"max_shard_size": "1KB"}),
    "gpt2": base("GPT2LMHeadModel"),
    "gpt2_bare": base("GPT2Model", {"n_layer": 1}),
    "gpt2_untied": base("GPT2LMHeadModel", {"tie_word_embeddings": False, "n_layer": 1}, after=untied),
    "gpt2_score": base("GPT2ForSequenceClassification", {"n_layer": 1}),
    "gpt2_tokens": base("GPT2ForTokenClassification", {"n_layer": 1}),
    "gpt2_qa": base("GPT2ForQuestionAnswering", {"n_layer": 1}),
    "gpt2_choice": base("GPT2DoubleHeadsModel", {"n_layer": 1, "num_labels": 1}),
    "gpt2_bf16": base("GPT2LMHeadModel", {"n_layer": 1}, dtype="bfloat16"),
    "gpt2_sharded": base("GPT2LMHeadModel", {"n_layer": 1}, save=TINY_SHARDS),
    "vit": base("ViTModel"),
    "vit_headless": base("ViTModel", init={"add_pooling_layer": False}),
    "vit_mask_token": base("ViTModel", init={"use_mask_token": True}),
    "vit_cls": base("ViTForImageClassification"),
    "vit_fp16": base("ViTForImageClassification", dtype="float16"),
    "vit_sharded": base("ViTForImageClassification", save=TINY_SHARDS),
    "vit_mim": base("ViTForMaskedImageModeling"),
    "distilbert": base("DistilBertModel"),
    "distilbert_cls": base("DistilBertForSequenceClassification"),
    "distilbert_mlm": base("DistilBertForMaskedLM"),
    "distilbert_sinus": base("DistilBertModel", {"sinusoidal_pos_embds": True}),
    "distilbert_tokens": base("DistilBertForTokenClassification"),
    "electra": base("ElectraModel"),
    "electra_cls": base("ElectraForSequenceClassification"),
    "electra_pretraining": base("ElectraForPreTraining"),
    "electra_mlm": base("ElectraForMaskedLM"),
    "electra_wide": base("ElectraModel", {"embedding_size": 8}),
    "roberta": base("RobertaModel"),
    "roberta_headless": base("RobertaModel", init={"add_pooling_layer": False}),
    "roberta_cls": base("RobertaForSequenceClassification"),
    "roberta_mlm": base("RobertaForMaskedLM"),
    "roberta_types": base("RobertaModel", {"type_vocab_size": 2}),
    "roberta_regression": base("RobertaForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "mpnet": base("MPNetModel"),
    "mpnet_cls": base("MPNetForSequenceClassification"),
    "mpnet_mlm": base("MPNetForMaskedLM"),
    "xlmr": base("XLMRobertaModel"),
    "xlmr_cls": base("XLMRobertaForSequenceClassification", dtype="float16"),
    "xlmr_mlm": base("XLMRobertaForMaskedLM"),
    "vit_regression": base("ViTForImageClassification", {"num_labels": 1, "problem_type": "regression"}),
}
CONFIGS = {
    "Bert": (transformers.BertConfig, BERT),
    "GPT2": (transformers.GPT2Config, GPT2),
    "ViT": (transformers.ViTConfig, VIT),
    "DistilBert": (transformers.DistilBertConfig, DISTILBERT),
    "Electra": (transformers.ElectraConfig, ELECTRA),
    "Roberta": (transformers.RobertaConfig, ROBERTA),
    "MPNet": (transformers.MPNetConfig, MPNET),
    "XLMRoberta": (transformers.XLMRobertaConfig, ROBERTA),
}


# ---- adapters: folder -> (class that opens the base, LoraConfig, what is done else)

QV, QV_VIT = ["query", "value"], ["q_proj", "v_proj"]
CLS, VIT_CLS, LM = "BertForSequenceClassification", "ViTForImageClassification", "GPT2LMHeadModel"


def lora(kind, before=None, save=None, dtype=None, name="default", lost=False, **config):
    """Describe an adapter: the class of its base, what is done to that first, arguments of save_pretrained, the
    adapter's dtype and name, and whether the file lacks something that the output depends on."""
    config = {"r": 2, "lora_alpha": 5, **config}
    options = {"before": before, "save": save or {}, "dtype": dtype, "name": name, "lost": lost}
    return {"kind": kind, "config": config, **options}


def resized(model):
    model.resize_token_embeddings(24, mean_resizing=False)


ADAPTERS = {
    # F2: the usual tutorials
    "bert/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert/seq_cls_default_targets": lora(CLS, task_type="SEQ_CLS"),
    "bert/seq_cls_pooler": lora(CLS, target_modules=QV, task_type="SEQ_CLS", modules_to_save=["pooler", "classifier"]),
    "bert/seq_cls_score": lora(CLS, target_modules=QV, task_type="SEQ_CLS", modules_to_save=["score"]),
    "bert/classifier": lora(CLS, target_modules=QV, modules_to_save=["classifier"]),
    "bert/seq_cls_all_linear": lora(CLS, target_modules="all-linear", task_type="SEQ_CLS"),
    "bert_headless/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS", lost=True),
    "bert_headless/seq_cls_pooler": lora(
        CLS, target_modules=QV, task_type="SEQ_CLS", modules_to_save=["pooler", "classifier"]
    ),
    "bert_gamma/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert_gamma_sharded/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert_pretraining/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert_mlm/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS", lost=True),
    "bert_cls/seq_cls": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert_cls/other_labels": lora("BertForSequenceClassification:5", target_modules=QV, task_type="SEQ_CLS"),
    "vit/classifier": lora(VIT_CLS, target_modules=QV_VIT, modules_to_save=["classifier"]),
    "vit/classifier_all_linear": lora(VIT_CLS, target_modules="all-linear", modules_to_save=["classifier"]),
    "vit_headless/classifier": lora(VIT_CLS, target_modules=QV_VIT, modules_to_save=["classifier"]),
    "distilbert/seq_cls": lora("DistilBertForSequenceClassification", target_modules=["q_lin"], task_type="SEQ_CLS"),
    "distilbert/all_linear": lora("DistilBertModel", target_modules="all-linear"),
    "distilbert_mlm/seq_cls": lora(
        "DistilBertForSequenceClassification", target_modules=["lin1"], task_type="SEQ_CLS"
    ),
    "distilbert_cls/classifier": lora(
        "DistilBertForSequenceClassification", target_modules=["v_lin"], modules_to_save=["classifier"]
    ),
    "electra/seq_cls": lora("ElectraForSequenceClassification", task_type="SEQ_CLS"),
    "electra_pretraining/seq_cls": lora("ElectraForSequenceClassification", task_type="SEQ_CLS"),
    "electra/all_linear": lora("ElectraModel", target_modules="all-linear"),
    "electra_cls/all_linear_no_task": lora("ElectraForSequenceClassification", target_modules="all-linear"),
    "roberta/seq_cls": lora("RobertaForSequenceClassification", task_type="SEQ_CLS"),
    "roberta/all_linear": lora("RobertaModel", target_modules="all-linear"),
    "roberta_mlm/seq_cls": lora("RobertaForSequenceClassification", target_modules="all-linear", task_type="SEQ_CLS"),
    "roberta_cls/seq_cls": lora("RobertaForSequenceClassification", task_type="SEQ_CLS"),
    "roberta_cls/out_proj": lora(
        "RobertaForSequenceClassification", target_modules=QV, modules_to_save=["classifier.out_proj"]
    ),
    "mpnet/seq_cls": lora("MPNetForSequenceClassification", target_modules=["q", "v"], task_type="SEQ_CLS"),
    "mpnet/all_linear": lora("MPNetModel", target_modules="all-linear"),
    "mpnet/bias_saved": lora("MPNetModel", target_modules=["q"], modules_to_save=["relative_attention_bias"]),
    "mpnet_mlm/seq_cls": lora("MPNetForSequenceClassification", target_modules="all-linear", task_type="SEQ_CLS"),
    "xlmr/seq_cls": lora("XLMRobertaForSequenceClassification", task_type="SEQ_CLS"),
    # other tasks on the same base: their files look like those above
    "bert/token_cls": lora("BertForTokenClassification", target_modules=QV, task_type="TOKEN_CLS"),
    "bert/token_cls_unsaid": lora("BertForTokenClassification", target_modules=QV, modules_to_save=["classifier"]),
    "bert/qa": lora("BertForQuestionAnswering", target_modules=QV, task_type="QUESTION_ANS"),
    "bert/multiple_choice": lora("BertForMultipleChoice:1", target_modules=QV, modules_to_save=["classifier"]),
    "bert/regression": lora("BertForSequenceClassification:1", target_modules=QV, task_type="SEQ_CLS"),
    "bert/feature_extraction": lora("BertModel", target_modules=QV, task_type="FEATURE_EXTRACTION"),
    "bert/masked_lm": lora("BertForMaskedLM", target_modules=QV, lost=True),
    "bert_mlm/masked_lm": lora("BertForMaskedLM", target_modules=QV),
    "bert_mlm/all_linear": lora("BertForMaskedLM", target_modules="all-linear"),
    "gpt2_bare/score": lora("GPT2ForSequenceClassification", task_type="SEQ_CLS", fan_in_fan_out=True),
    # F3
    "bert_bf16/seq_cls_bf16": lora(CLS, target_modules=QV, task_type="SEQ_CLS", dtype="bfloat16"),
    "bert_bf16/seq_cls_float32": lora(CLS, target_modules=QV, task_type="SEQ_CLS"),
    "bert_fp16/seq_cls_fp16": lora(CLS, target_modules=QV, task_type="SEQ_CLS", dtype="float16"),
    "gpt2_bf16/c_attn_bf16": lora(LM, fan_in_fan_out=True, target_modules=["c_attn"], dtype="bfloat16"),
    "vit_fp16/classifier_bf16": lora(VIT_CLS, target_modules=QV_VIT, modules_to_save=["classifier"], dtype="bfloat16"),
    # F5
    "bert/all_linear": lora("BertModel", target_modules="all-linear"),
    "bert/pooler_target": lora("BertModel", target_modules=["query", "pooler.dense"]),
    "bert/high_rank": lora("BertModel", target_modules=QV, r=16),
    "bert/high_rank_pattern": lora("BertModel", target_modules=QV, rank_pattern={"layer.1.attention.self.query": 33}),
    "bert/pattern_of_nothing": lora(
        "BertModel", target_modules=QV, rank_pattern={"q_proj": 3, "query": 3}, alpha_pattern={"decoder": 7}
    ),
    "bert/target_of_nothing": lora("BertModel", target_modules=["query", "value", "q_proj", "c_attn"]),
    "bert/word_embeddings": lora("BertModel", target_modules=QV, modules_to_save=["word_embeddings"]),
    "bert/embedding_layers": lora("BertModel", target_modules=QV, save={"save_embedding_layers": True}),
    "bert/resized": lora("BertModel", resized, target_modules=QV, save={"save_embedding_layers": True}),
    "bert/resized_auto": lora(CLS, resized, target_modules=QV, task_type="SEQ_CLS"),
    "bert/resized_saved": lora("BertModel", resized, target_modules=QV, modules_to_save=["word_embeddings"]),
    "bert/layer_norms": lora("BertModel", target_modules=QV, modules_to_save=["LayerNorm"]),
    "bert/output_whole": lora("BertModel", target_modules=QV, modules_to_save=["layer.1.output"]),
    "bert/word_embeddings_target": lora("BertModel", target_modules=["query", "word_embeddings"]),
    "bert/token_indices": lora("BertModel", target_modules=QV, trainable_token_indices=[3, 5]),
    "bert_gamma/layer_norms": lora("BertModel", target_modules=QV, modules_to_save=["LayerNorm"]),
    "bert_cls/all_linear_no_task": lora(CLS, target_modules="all-linear"),
    "bert_cls/classifier_target": lora(CLS, target_modules=["query", "classifier"]),
    "bert_cls/all_linear_seq_cls": lora(CLS, target_modules="all-linear", task_type="SEQ_CLS"),
    "bert_cls/word_embeddings": lora(
        CLS, target_modules=QV, task_type="SEQ_CLS", modules_to_save=["classifier", "word_embeddings"]
    ),
    "vit/all_linear": lora("ViTModel", target_modules="all-linear"),
    "vit/projection": lora("ViTModel", target_modules=["q_proj", "projection"]),
    "vit/high_rank": lora("ViTModel", target_modules=QV_VIT, r=12),
    "vit_cls/all_linear_no_task": lora(VIT_CLS, target_modules="all-linear"),
    "vit_cls/classifier": lora(VIT_CLS, target_modules=QV_VIT, modules_to_save=["classifier"]),
    "gpt2/high_rank": lora(LM, target_modules=["c_attn"], r=12, fan_in_fan_out=True),
    "gpt2/all_linear": lora(LM, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM"),
    "gpt2/ln_f": lora(LM, target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True),
    # N10
    "gpt2/wte": lora(LM, target_modules=["c_attn"], modules_to_save=["wte"], fan_in_fan_out=True),
    "gpt2/wte_tied": lora(
        LM, target_modules=["c_attn"], modules_to_save=["wte"], ensure_weight_tying=True, fan_in_fan_out=True
    ),
    "gpt2/wte_lm_head": lora(LM, target_modules=["c_attn"], modules_to_save=["wte", "lm_head"], fan_in_fan_out=True),
    "gpt2/lm_head": lora(LM, target_modules=["c_attn"], modules_to_save=["lm_head"], fan_in_fan_out=True),
    "gpt2/lm_head_target": lora(LM, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True),
    "gpt2/wte_target": lora(LM, target_modules=["c_attn", "wte"], fan_in_fan_out=True),
    "gpt2/resized": lora(
        LM, resized, target_modules=["c_attn"], fan_in_fan_out=True, save={"save_embedding_layers": True}
    ),
    "gpt2_bare/wte": lora("GPT2Model", target_modules=["c_attn"], modules_to_save=["wte"], fan_in_fan_out=True),
    "gpt2/wpe": lora(LM, target_modules=["c_attn"], modules_to_save=["wpe"], fan_in_fan_out=True),
    # what PEFT's options write
    "bert/rslora": lora("BertModel", target_modules=QV, use_rslora=True),
    "bert/dora": lora("BertModel", target_modules=QV, use_dora=True),
    "bert/bias_lora_only": lora("BertModel", target_modules=QV, bias="lora_only"),
    "bert/bias_all": lora("BertModel", target_modules=QV, bias="all"),
    "bert/lora_bias": lora("BertModel", target_modules=QV, lora_bias=True),
    "bert/gaussian": lora("BertModel", target_modules=QV, init_lora_weights="gaussian"),
    "bert/not_initialised": lora("BertModel", target_modules=QV, init_lora_weights=False),
    "bert/exclude": lora("BertModel", target_modules="all-linear", exclude_modules=["key", "pooler.dense"]),
    "bert/exclude_pattern": lora("BertModel", target_modules=QV, exclude_modules=r".*layer\.0.*value"),
    "bert/one_layer": lora("BertModel", target_modules=QV, layers_to_transform=[1]),
    "bert/layers_pattern": lora("BertModel", target_modules=QV, layers_to_transform=[1], layers_pattern="layer"),
    "bert/regular_expression": lora("BertModel", target_modules=r".*layer\.1\.(attention\.self\.query|output\.dense)"),
    "bert/other_name": lora("BertModel", target_modules=QV, name="other"),
}  # fmt: skip


def write(path, content):
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def seeded(name):
    return np.random.default_rng([SEED, *name.encode()])


GAMMA = r"(LayerNorm|layernorm\w*|ln_\w+)\.(modules_to_save\.\w+\.)?weight$"


def randomise(model, rng):
    """Draw what is trained: a LayerNorm's gamma around 1 but far from it, all else around 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_gamma = re.search(GAMMA, name) is not None
                parameter.copy_(torch.from_numpy(is_gamma + 0.3 * rng.standard_normal(parameter.shape)))


def opened(kind, folder, dtype="float64"):
    """Return the model in a folder, opened by transformers; `kind` is a class, and perhaps the number of its labels."""
    kind, _, labels = kind.partition(":")
    has_head = kind in (json.loads((folder / "config.json").read_text()).get("architectures") or ())
    labels = labels or ("3" if kind.endswith("Classification") and not has_head else "")
    options = {"num_labels": int(labels), "ignore_mismatched_sizes": True} if labels else {}
    implementation = "sdpa" if kind.startswith("ViT") else "eager"
    return getattr(transformers, kind).from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=implementation, **options
    )


def make_base(name):
    """Write a model's folder, and the reference that transformers computes from it."""
    recipe, folder = BASES[name], HERE / name
    family = next(prefix for prefix in CONFIGS if recipe["kind"].startswith(prefix))
    make_config, words = CONFIGS[family]
    labels = {"num_labels": 3} if recipe["kind"].endswith("Classification") else {}
    torch.manual_seed(SEED)
    model = getattr(transformers, recipe["kind"])(
        make_config(**{**words, **labels, **recipe["config"]}), **recipe["init"]
    )
    randomise(model, seeded(name))
    model.to(getattr(torch, recipe["dtype"])).save_pretrained(folder, **recipe["save"])
    (folder / "generation_config.json").unlink(missing_ok=True)
    if recipe["after"]:
        recipe["after"](folder)
    save_reference(lambda: opened(kind_of(name), folder), folder)


def make_adapter(name):
    """Write an adapter's folder, and the reference that PEFT computes from it and from its base."""
    recipe, folder = ADAPTERS[name], HERE / name
    of, options = recipe["name"], recipe["save"]
    torch.manual_seed(SEED)
    model = opened(recipe["kind"], folder.parent, BASES[folder.parent.name]["dtype"])
    if recipe["before"]:
        recipe["before"](model)
    model = get_peft_model(model, LoraConfig(**recipe["config"]), adapter_name=of)
    randomise(model, seeded(name))
    if recipe["dtype"]:
        model.to(getattr(torch, recipe["dtype"]))
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)
    if of != "default":
        (folder / of / "README.md").unlink(missing_ok=True)
    for path in folder.rglob("adapter_config.json"):  # PEFT writes a set, in the order of the day, and our path
        config = json.loads(path.read_text())
        for option in ("target_modules", "exclude_modules"):
            if isinstance(config[option], list):
                config[option].sort()
        write(path, {**config, "base_model_name_or_path": folder.parent.name})
    lost = save_reference(lambda: opened_adapter(name, folder), folder, wide="resized" in name)
    assert bool(lost) == recipe["lost"], f"{name}: from the files alone, {lost or 'nothing'} is random"


def save_reference(open_it, folder, wide=False):
    """Write what the model gives that `open_it` opens; return what differs from time to time: no file holds that."""
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(run(open_it().eval(), wide))
    lost = sorted(key for key in runs[0] if not np.array_equal(runs[0][key], runs[1][key]))
    if kept := {key: value for key, value in runs[0].items() if key not in lost}:
        save_file(kept, folder / "reference.safetensors")
    return lost


def opened_adapter(name, folder, base_folder=None):
    """Return the adapter of a recipe in `folder`, opened by PEFT on its base, in float64."""
    recipe = ADAPTERS[name]
    model = opened(recipe["kind"], base_folder or (HERE / name).parent)
    if recipe["before"]:
        recipe["before"](model)
    place = folder / recipe["name"] if (folder / recipe["name"]).is_dir() else folder
    return PeftModel.from_pretrained(model, place).double()


def run(model, wide=False):
    """Return all that a model gives for the common inputs: logits, hidden rows, pooled rows, start and end."""
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    core, kind = whole.base_model, whole.config.model_type
    given = world.inputs()
    rows = {"logits": [], "hidden": [], "pooled": []}

    def keep(key, value):
        if value is not None:
            value = value.detach()
            # One text: (1, T, k) are rows of tokens, (1, k) is a row of the text; images come together.
            rows[key].append(value.flatten(0, 1).numpy() if value.ndim == 3 else value.numpy())

    with torch.no_grad():
        if type(whole).__name__.startswith("ViT"):
            arguments = [{"pixel_values": torch.from_numpy(given["images"])}]
        else:
            arguments = [
                {"input_ids": torch.from_numpy(ids)[None]}
                | ({"token_type_ids": torch.from_numpy(types)[None]} if kind in world.TYPED else {})
                for ids, types in zip(world.texts(kind, wide), world.sequences("types"))
            ]
        for these in arguments:
            inner = core(**these)
            keep("hidden", inner.last_hidden_state)
            keep("pooled", getattr(inner, "pooler_output", None))
            if whole is core:
                continue
            name = type(whole).__name__
            if "MultipleChoice" in name:
                these = {key: value[None] for key, value in these.items()}
            if "DoubleHeads" in name:
                these |= {"mc_token_ids": torch.tensor([these["input_ids"].shape[1] - 1])}
            if "MaskedImage" in name:
                keep("logits", whole(**these).reconstruction.flatten(1))
                continue
            output = whole(**these)
            if "QuestionAnswering" in name:
                keep("logits", torch.stack([output.start_logits, output.end_logits], -1))
            elif "PreTraining" in name:
                keep("logits", getattr(output, "prediction_logits", None))  # ELECTRA says which words were replaced
            else:
                keep("logits", output.logits)
    if rows["logits"] and not re.search("MaskedLM|PreTraining|NextSentence", type(whole).__name__):
        rows = {"logits": rows["logits"]}  # that is what the class is for; of the others we read the encoder
    return {key: np.concatenate(value) for key, value in rows.items() if value}


# ---- the other direction: what lora_np writes, opened by transformers and PEFT

ROUNDED = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1}  # by the dtype of the file


def kind_of(name):
    return "BertForMaskedLM" if name.startswith("bert_gamma") else BASES[name]["kind"]


def model_again(name):
    """Yield (what, error, bound) of a folder of the world, read and written by lora_np, in transformers."""
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_model(lnp.load_pretrained(HERE / name), folder)
        yield "model", difference(run(opened(kind_of(name), Path(folder)).eval()), name), TOLERANCE


def adapter_again(name):
    """Yield the same of an adapter in PEFT, and of its merged model in transformers."""
    base_name, wide = name.split("/")[0], "resized" in name
    lora = lnp.load_adapter(lnp.load_pretrained(HERE / base_name), world.adapter_folder(name))
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_adapter(lora, folder)
        yield "adapter", difference(run(opened_adapter(name, Path(folder)).eval(), wide), name), TOLERANCE
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_model(lnp.merge(lora), folder)
        outputs = run(opened(ADAPTERS[name]["kind"], Path(folder)).eval(), wide)
        yield "merged", difference(outputs, name), ROUNDED[BASES[base_name]["dtype"]]


def difference(theirs, name):
    """Return the largest relative error over all that is stored of a folder."""
    stored = world.reference(name)
    missing = stored.keys() - theirs.keys()
    if missing:
        raise ValueError(f"the model that was opened again has no {sorted(missing)}.")
    return max(world.relative_error(theirs[key], value, key) for key, value in stored.items())


def attempt(function, name):
    """Yield (what, error or sentence, bound): a refusal is a result, too."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield from function(name)
    except Exception as error:  # noqa: BLE001 (whatever the libraries raise is the result)
        text = str(error).replace(str(HERE), "world").splitlines()[0]
        yield "not possible", f"{type(error).__name__}: {text}", None


def measure():
    """Yield (what, error or sentence, bound or None), one a row of the table."""
    for function, names in ((model_again, BASES), (adapter_again, ADAPTERS)):
        for name in names:
            yield from ((f"{name}: {what}", value, bound) for what, value, bound in attempt(function, name))


def main():
    transformers.utils.logging.disable_progress_bar()
    if "--check" not in sys.argv:
        shutil.rmtree(HERE, ignore_errors=True)
        HERE.mkdir()
        rng = np.random.default_rng([SEED, 3])
        lengths = np.array(world.LENGTHS)
        save_file(
            {
                "ids": rng.integers(1, 20, lengths.sum()),
                "wide_ids": rng.integers(1, 24, lengths.sum()),  # for a vocabulary that was resized
                "types": rng.integers(0, 2, lengths.sum()),
                "images": rng.random((5, 2, 6, 6)),
            },
            HERE / "inputs.safetensors",
        )
        for name in BASES:
            make_base(name)
        for name in ADAPTERS:
            make_adapter(name)
        for path in HERE.rglob("*.safetensors"):
            path.chmod(0o644)  # the library makes its files private
    rows = list(measure())
    for what, value, bound in rows:
        print(f"{what:45} {value if bound is None else f'{value:8.1e}' + ('' if value < bound else '  TOO LARGE')}")
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft, np)}
    results = {
        "versions": {"python": platform.python_version(), **versions},
        "read and written by lora_np, then opened by transformers and PEFT: largest relative errors": {
            what: value if bound is None else float(f"{value:.1e}") for what, value, bound in rows
        },
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return int(any(bound is not None and not value < bound for _, value, bound in rows))


if __name__ == "__main__":
    sys.exit(main())
