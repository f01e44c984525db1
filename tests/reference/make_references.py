"""Make the arrays in this folder by PyTorch, transformers and PEFT, and check lora_np against them in both directions:
    python tests/reference/make_references.py        (needs torch, transformers and peft; the tests need none of them)

Every model is tiny, in float64, without dropout, and off every point at which a mistake could hide: all weights,
biases and LayerNorm parameters are random, sizes differ, lengths are unequal, B is not 0 and no scale is 1. The other
direction, files of lora_np opened by PEFT and transformers, is checked here alone. The largest errors are written to
results.json; the exit code is 1 if one of them is too large.
"""

import copy
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import peft
import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F

import lora_np as lnp
from lora_np.adapt.methods import METHODS, registered

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the tests hold the comparisons
import test_reference_models as models  # noqa: E402
import test_reference_optimiser as operations  # noqa: E402

SEED = 20210617
NOT_OURS = "`is_gradient_checkpointing` is deprecated"  # a warning that PEFT draws from transformers at every use
MODELS = {
    "bert": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(
            vocab_size=23, hidden_size=10, num_hidden_layers=2, num_attention_heads=2, intermediate_size=13,
            max_position_embeddings=11, type_vocab_size=2, num_labels=4,
        ),
    ),
    "bert_hidden": (
        transformers.BertModel,
        transformers.BertConfig(
            vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=9, type_vocab_size=3, layer_norm_eps=1e-6,
        ),
    ),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            vocab_size=19, n_positions=11, n_embd=10, n_layer=2, n_head=2, n_inner=21, bos_token_id=0, eos_token_id=0
        ),
    ),
    "vit": (
        transformers.ViTForImageClassification,
        transformers.ViTConfig(
            image_size=9, patch_size=3, num_channels=2, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=11, num_labels=7,
        ),
    ),
    "distilbert": (
        transformers.DistilBertForSequenceClassification,
        transformers.DistilBertConfig(
            vocab_size=23, dim=10, n_layers=2, n_heads=2, hidden_dim=13, max_position_embeddings=11, num_labels=4
        ),
    ),
    "electra": (
        transformers.ElectraForSequenceClassification,
        transformers.ElectraConfig(
            vocab_size=23, embedding_size=7, hidden_size=10, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=13, max_position_embeddings=11, type_vocab_size=2, num_labels=4,
        ),
    ),
    "roberta": (
        transformers.RobertaForSequenceClassification,
        transformers.RobertaConfig(
            vocab_size=23, hidden_size=10, num_hidden_layers=2, num_attention_heads=2, intermediate_size=13,
            max_position_embeddings=13, num_labels=4, layer_norm_eps=1e-5, type_vocab_size=1,
        ),
    ),
    "xlm_roberta": (
        transformers.XLMRobertaForSequenceClassification,
        transformers.XLMRobertaConfig(
            vocab_size=19, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=12, num_labels=3, layer_norm_eps=1e-5, type_vocab_size=1,
        ),
    ),
    # Heads: what is stored of these has labels too, the loss, and its gradient with respect to the output.
    "bert_tokens": (
        transformers.BertForTokenClassification,
        transformers.BertConfig(
            vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=11, type_vocab_size=2, num_labels=5,
        ),
    ),
    "electra_tokens": (
        transformers.ElectraForTokenClassification,
        transformers.ElectraConfig(
            vocab_size=13, embedding_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=11, max_position_embeddings=11, type_vocab_size=2, num_labels=3,
        ),
    ),
    "roberta_tokens": (
        transformers.RobertaForTokenClassification,
        transformers.RobertaConfig(
            vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=13, num_labels=3, layer_norm_eps=1e-5, type_vocab_size=1,
        ),
    ),
    "gpt2_tokens": (
        transformers.GPT2ForTokenClassification,
        transformers.GPT2Config(vocab_size=13, n_positions=11, n_embd=8, n_layer=1, n_head=2, n_inner=17, num_labels=4),
    ),
    "gpt2_score": (
        transformers.GPT2ForSequenceClassification,
        transformers.GPT2Config(
            vocab_size=13, n_positions=11, n_embd=8, n_layer=2, n_head=2, n_inner=17, num_labels=3, pad_token_id=0
        ),
    ),
    "bert_regression": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(
            vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=11, type_vocab_size=2, num_labels=1,
        ),
    ),
    "distilbert_regression": (
        transformers.DistilBertForSequenceClassification,
        transformers.DistilBertConfig(
            vocab_size=13, dim=8, n_layers=1, n_heads=2, hidden_dim=11, max_position_embeddings=11, num_labels=2,
            problem_type="regression",
        ),
    ),
    "roberta_labels": (
        transformers.RobertaForSequenceClassification,
        transformers.RobertaConfig(
            vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=11,
            max_position_embeddings=13, num_labels=3, layer_norm_eps=1e-5, type_vocab_size=1,
            problem_type="multi_label_classification",
        ),
    ),
}  # fmt: skip
LENGTHS = {"bert": (9, 7, 1, 9, 6, 7), "bert_hidden": (5, 7, 5), "gpt2": (8, 3, 8, 6)}
TYPED = ("bert", "bert_hidden", "electra", "bert_tokens", "electra_tokens", "bert_regression")
QUERY_VALUE = ["query", "value"]
ADAPTERS = {
    "bert/query_value": {"r": 2, "lora_alpha": 5, "target_modules": QUERY_VALUE},
    "bert/classifier": {"r": 3, "lora_alpha": 4, "target_modules": QUERY_VALUE, "task_type": "SEQ_CLS"},
    "bert/patterns": {
        "r": 2,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": r".*layer\.\d+\.(attention\.self\.(query|key)|output\.dense)",
        "rank_pattern": {"query": 3, r"layer\.1\.output\.dense": 1},
        "alpha_pattern": {r"layer\.0\..*key": 7, "encoder.layer.1.attention.self.query": 2},
    },
    "bert_hidden/query_value": {"r": 3, "lora_alpha": 2, "target_modules": QUERY_VALUE},
    "gpt2/c_attn": {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    "gpt2/patterns": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "fan_in_fan_out": True,
        "layers_to_transform": [1],
        "rank_pattern": {"mlp.c_proj": 3},
        "alpha_pattern": {r"h\.1\.attn\..*": 9},
    },
    "distilbert/classifier": {"r": 2, "lora_alpha": 5, "target_modules": ["q_lin", "lin2"], "task_type": "SEQ_CLS"},
    "electra/all": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear", "task_type": "SEQ_CLS"},
    "roberta/classifier": {"r": 3, "lora_alpha": 4, "target_modules": None, "task_type": "SEQ_CLS"},
    "xlm_roberta/query_value": {"r": 3, "lora_alpha": 2, "target_modules": QUERY_VALUE},
    "bert_tokens/token_cls": {"r": 2, "lora_alpha": 5, "target_modules": QUERY_VALUE, "task_type": "TOKEN_CLS"},
    "electra_tokens/token_cls": {
        "r": 3,
        "lora_alpha": 2,
        "target_modules": ["query", "dense"],
        "task_type": "TOKEN_CLS",
    },
    "gpt2_tokens/token_cls": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["c_attn"],
        "modules_to_save": ["classifier"],
        "fan_in_fan_out": True,
    },
    "gpt2_score/seq_cls": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["c_attn", "mlp.c_proj"],
        "task_type": "SEQ_CLS",
        "fan_in_fan_out": True,
    },
    "bert_regression/seq_cls": {"r": 3, "lora_alpha": 4, "target_modules": QUERY_VALUE, "task_type": "SEQ_CLS"},
    "roberta_labels/seq_cls": {"r": 2, "lora_alpha": 3, "target_modules": QUERY_VALUE, "task_type": "SEQ_CLS"},
    "bert/ia3": {
        "config": "IA3Config",
        "target_modules": [
            "query",
            "layer.1.attention.self.query",
            "key",
            "value",
            "intermediate.dense",
            "output.dense",
        ],
        "feedforward_modules": ["layer.1.attention.self.query", "output.dense"],
        "task_type": "SEQ_CLS",
    },
    "gpt2/ia3": {"config": "IA3Config", "fan_in_fan_out": True},
    "vit/ia3": {
        "config": "IA3Config",
        "target_modules": r".*\.(k_proj|v_proj|fc1|fc2)",
        "feedforward_modules": r".*(1.*k_proj|fc2)",
        "modules_to_save": ["classifier"],
    },
    "bert/vera": {
        "config": "VeraConfig",
        "r": 14,
        "d_initial": 0.7,
        "projection_prng_key": 5,
        "target_modules": ["query", "value", "intermediate.dense", "layer.1.output.dense"],
        "modules_to_save": ["classifier"],
    },
    "gpt2/vera": {
        "config": "VeraConfig",
        "r": 3,
        "d_initial": -1.5,
        "target_modules": ["c_attn", "c_proj"],
        "layers_to_transform": [1],
        "fan_in_fan_out": True,
    },
    "vit/vera": {"config": "VeraConfig", "r": 9, "d_initial": 0.6, "target_modules": r".*(q_proj|fc1|fc2)"},
    "bert/dora": {
        "use_dora": True,
        "r": 2,
        "lora_alpha": 5,
        "use_rslora": True,
        "target_modules": r".*layer\.\d+\.(attention\.self\.(query|key)|output\.dense)",
        "rank_pattern": {"query": 3, r"layer\.1\.output\.dense": 1},
        "alpha_pattern": {r"layer\.0\..*key": 7},
        "task_type": "SEQ_CLS",
    },
    "gpt2/dora": {
        "use_dora": True,
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["c_attn", "mlp.c_proj"],
        "fan_in_fan_out": True,
        "alpha_pattern": {r"h\.1\..*": 9},
    },
    "vit/dora": {
        "use_dora": True,
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "v_proj", "fc2"],
        "modules_to_save": ["classifier"],
        "rank_pattern": {"fc2": 1},
    },
    "vit/six": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]},
    "vit/patterns": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "v_proj", "fc2"],
        "modules_to_save": ["classifier"],
        "rank_pattern": {r"layers\.0\.attention\.q_proj": 3, "fc2": 1},
        "alpha_pattern": {"layers.1.attention.v_proj": 5},
    },
    "bert/loha": {
        "config": "LoHaConfig",
        "r": 2,
        "alpha": 5,
        "rank_dropout": 0.3,
        "module_dropout": 0.1,
        "target_modules": ["query", "value", "intermediate.dense"],
        "rank_pattern": {"value": 3, r"layer\.1\.intermediate\.dense": 1},
        "alpha_pattern": {r"layer\.0\..*query": 7},
        "task_type": "SEQ_CLS",
    },
    "vit/loha": {
        "config": "LoHaConfig",
        "r": 3,
        "alpha": 4,
        "init_weights": False,
        "target_modules": ["q_proj", "o_proj", "fc2"],
        "exclude_modules": ["layers.0.mlp.fc2"],
    },
    "bert/lokr": {  # 10 = 2 * 5, 13 = 1 * 13: a second factor that is a product, or with r = 3 none
        "config": "LoKrConfig",
        "r": 2,
        "alpha": 5,
        "rank_dropout": 0.3,
        "rank_dropout_scale": True,
        "module_dropout": 0.1,
        "target_modules": ["query", "value", "intermediate.dense"],
        "rank_pattern": {"value": 3},
        "alpha_pattern": {r"layer\.0\..*query": 7},
        "task_type": "SEQ_CLS",
    },
    "bert/lokr_both": {  # 10 = 5 * 2, 13 = 1 * 13: a first factor that is a product, and both
        "config": "LoKrConfig",
        "r": 2,
        "alpha": 3,
        "decompose_both": True,
        "decompose_factor": 5,
        "init_weights": "lycoris",
        "target_modules": ["query", "intermediate.dense", "output.dense"],
        "exclude_modules": ["attention.output.dense"],
    },
    "vit/lokr": {
        "config": "LoKrConfig",
        "r": 1,
        "alpha": 7,
        "decompose_factor": 3,
        "init_weights": False,
        "target_modules": ["q_proj", "o_proj", "fc1", "fc2"],
        "exclude_modules": ["layers.0.attention.q_proj"],
    },
}


# ---- models and adapters of transformers and PEFT


def attention_of(name):
    """Return the implementation to ask for: plain matrix products, but that of ViT takes its softmax in float32."""
    return {"attn_implementation": "sdpa" if name == "vit" else "eager"}


def make_model(name):
    """Write the model's folder and its reference; return the transformers model and its inputs."""
    rng = np.random.default_rng([SEED, *name.encode()])
    kind, config = MODELS[name]
    model = kind._from_config(config, **attention_of(name)).double().eval()
    randomise(model, rng)
    save(model, HERE / name)
    inputs = make_inputs(rng, name, config)
    output = run(model, name, inputs)
    inputs["doutput"] = rng.standard_normal(output.shape)
    stored = {f"gradient.{key}": value for key, value in gradients(model, output, inputs).items()}
    if name in models.LABELLED:
        stored |= loss_of(model, name, inputs)
    save_file({**inputs, "output": output.detach().numpy(), **stored}, HERE / name / "reference.safetensors")
    return model, inputs


def loss_of(model, name, inputs):
    """Return labels, the loss that the model itself computes of them, and its gradient of the output."""
    rng, lengths, classes = np.random.default_rng([SEED, 3, *name.encode()]), inputs["lengths"], model.num_labels
    if models.is_token_wise(name):
        labels = np.where(rng.random(lengths.sum()) < 0.4, -100, rng.integers(0, classes, lengths.sum()))
        labels[np.cumsum(lengths) - 1] = rng.integers(0, classes, len(lengths))  # each sequence has one that counts
    elif "regression" in name:
        labels = 2.0 * rng.standard_normal((len(lengths), classes))
    elif name == "roberta_labels":
        labels = 1.0 * (rng.random((len(lengths), classes)) < 0.5)
    else:
        labels = rng.integers(0, classes, len(lengths))
    theirs, found = labels, {}
    if models.is_token_wise(name):
        theirs = torch.from_numpy(labels).split(lengths.tolist())
        theirs = torch.nn.utils.rnn.pad_sequence(theirs, True, -100).numpy()
    layer = getattr(model, "score", getattr(model, "classifier", None))  # the output is its, at some of its rows

    def keep(module, _, output):
        output.retain_grad()
        found["logits"] = output

    hook = layer.register_forward_hook(keep)
    result = result_of(model, name, inputs, labels=torch.from_numpy(theirs))
    hook.remove()
    result.loss.backward()
    model.zero_grad()
    dlogits = found["logits"].grad.numpy()
    if dlogits.ndim == 3 and models.is_token_wise(name):
        dlogits = np.concatenate([rows[:length] for rows, length in zip(dlogits, lengths)])
    elif dlogits.ndim == 3:
        dlogits = dlogits[np.arange(len(lengths)), lengths - 1]
    return {"labels": labels, "loss": result.loss.detach().numpy(), "dlogits": dlogits}


def make_adapter(name, base, inputs):
    """Write the adapter's folder and its reference: output, gradients, output after merging."""
    kind = name.split("/")[0]
    options = dict(ADAPTERS[name])
    config = getattr(peft, options.pop("config", "LoraConfig"))(**options)
    model = get_peft_model(copy.deepcopy(base), config).eval()
    randomise(model, np.random.default_rng([SEED, *name.encode()]))
    save(model, HERE / name)
    output = run(model, kind, inputs)
    stored = {f"gradient.{key}": value for key, value in gradients(model, output, inputs).items()}
    stored["output"] = output.detach().numpy()
    if hasattr(model.base_model, "merge_and_unload"):
        stored["merged"] = run(copy.deepcopy(model).merge_and_unload(), kind, inputs).detach().numpy()
    stored |= {f"stepped.{key}": value for key, value in stepped(model, kind, inputs).items()}
    save_file(stored, HERE / name / "reference.safetensors")


def stepped(model, kind, inputs):
    """Return what is trained, under its names in the file, after a step of AdamW with the stored upstream gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    run(model, kind, inputs).backward(torch.from_numpy(inputs["doutput"]))
    torch.optim.AdamW(trained, **models.STEP).step()
    with torch.no_grad():
        leave_out(parameter for parameter in model.parameters() if not parameter.requires_grad)
        leave_out(model.buffers())
    return {name: value for name, value in written(model).items() if not np.isnan(value).any()}


def leave_out(tensors):
    """Mark tensors as what is not stored; buffers are no parameters, but an adapter's file may hold them."""
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


def randomise(model, rng):
    """Draw what is trained: a LayerNorm's gamma around 1 but far from it, a factor of PEFT's around its start, all else
    around 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_gamma = re.search(r"(LayerNorm|layernorm\w*|ln_\w+)\.weight$", name) is not None
                noise = torch.from_numpy(0.3 * rng.standard_normal(parameter.shape))
                is_factor = re.search(models.FACTORS, name) is not None
                parameter.copy_(parameter * (1.0 + noise) if is_factor else is_gamma + noise)


def make_inputs(rng, name, config):
    """Return images, or ids and types of sequences laid end to end, and their lengths."""
    if name == "vit":
        return {"images": rng.random((5, config.num_channels, config.image_size, config.image_size))}
    lengths = np.array(LENGTHS.get(name, LENGTHS["bert"]))
    first = (config.pad_token_id or 0) + 1  # the row of padding gets no gradient there
    ids = rng.integers(first, config.vocab_size, lengths.sum())
    types = rng.integers(0, config.type_vocab_size, lengths.sum()) if name in TYPED else np.zeros_like(ids)
    return {"lengths": lengths, "ids": ids, "types": types}


def run(model, name, inputs):
    """Return the output, for sequences padded to one length, with a mask; the rows of padding are taken away again."""
    if name == "vit":
        return model(pixel_values=torch.from_numpy(inputs["images"])).logits
    result = result_of(model, name, inputs)
    output = result.last_hidden_state if name == "bert_hidden" else result.logits
    mask = torch.arange(output.shape[1]) < torch.from_numpy(inputs["lengths"])[:, None]
    return output[mask] if models.is_token_wise(name) else output


def result_of(model, name, inputs, **labels):
    """Return what a model gives for sequences padded to one length, with a mask."""
    padding = MODELS[name][1].pad_token_id or 0
    ids, types, mask = (
        torch.nn.utils.rnn.pad_sequence(torch.from_numpy(rows).split(inputs["lengths"].tolist()), True, value)
        for rows, value in ((inputs["ids"], padding), (inputs["types"], 0), (np.ones_like(inputs["ids"]), 0))
    )
    types = {"token_type_ids": types} if name in TYPED else {}
    return model(input_ids=ids, attention_mask=mask, **types, **labels)


def gradients(model, output, inputs):
    """Return the gradients of all that is trained, under the names that the model's own files use.

    They are written by the library in the place of the parameters: the names of ViT's files are not those of its
    modules. Parameters without a gradient, such as the pooler's if only the hidden states are used, are left out.
    """
    output.backward(torch.from_numpy(inputs["doutput"]))
    holder = copy.deepcopy(model)
    with torch.no_grad():
        for mine, theirs in zip(holder.parameters(), model.parameters()):
            mine.copy_(torch.full_like(mine, torch.nan) if theirs.grad is None else theirs.grad)
        leave_out(holder.buffers())
    model.zero_grad()
    return {name: value for name, value in written(holder).items() if not np.isnan(value).any()}


def written(model):
    """Return the tensors that the library writes for a model, or for its adapter."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = "adapter_model" if isinstance(model, PeftModel) else "model"
        return load_file(Path(folder) / f"{file}.safetensors")


def save(model, folder):
    """Write a model or an adapter as its library does, without the files that nothing here reads."""
    model.save_pretrained(folder)
    for name in ("README.md", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    if path.exists():  # PEFT writes sets, in the order of the day
        config = json.loads(path.read_text())
        config = {option: sorted(value) if isinstance(value, list) else value for option, value in config.items()}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# ---- the optimiser and single operations


def make_adamw():
    """Five steps of torch.optim.AdamW in three settings, two with a rate that changes, one of them by other factors."""
    rng = np.random.default_rng([SEED, 1])
    shapes = {"matrix": (4, 3), "vector": (5,), "cube": (2, 3, 2)}
    stored = {f"start.{name}": rng.standard_normal(shape) for name, shape in shapes.items()}
    for step in range(5):  # the vector's gradients are so small that eps counts
        for name, shape in shapes.items():
            stored[f"gradient.{step}.{name}"] = (1e-7 if name == "vector" else 1.0) * rng.standard_normal(shape)
    settings = {"plain": (0.01, (0.9, 0.999), 1e-8, 0.01), "other": (0.03, (0.8, 0.95), 1e-6, 0.1)}
    settings["factors"] = settings["other"]
    for setting, (lr, betas, eps, weight_decay) in settings.items():
        rates = np.array([lr * (1.0 if setting == "plain" else 1.0 - step / 5) for step in range(5)])
        tensors = {name: torch.tensor(stored[f"start.{name}"], requires_grad=True) for name in shapes}
        groups = [{"params": [tensor]} for tensor in tensors.values()]
        optimiser = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        factors = operations.FACTORS if setting == "factors" else {}
        for step in range(5):
            for name, group in zip(shapes, optimiser.param_groups):
                group["lr"] = float(rates[step]) * factors.get(name, 1.0)
            for name, tensor in tensors.items():
                tensor.grad = torch.from_numpy(stored[f"gradient.{step}.{name}"])
            optimiser.step()
            stored |= {f"{setting}.{step}.{name}": t.detach().numpy().copy() for name, t in tensors.items()}
        stored |= {f"{setting}.rates": rates, f"{setting}.options": np.array([*betas, eps, weight_decay])}
    save_file(stored, HERE / "adamw.safetensors")


def make_optimisers(base, inputs):
    """Two steps of PEFT's own optimisers, from adapters that are stored, with its words for what is trained."""
    stored = {}
    for what, folder, make in (
        ("loraplus", "bert/dora", loraplus),
        ("lorafa", "bert/classifier", lorafa),
    ):
        model = PeftModel.from_pretrained(copy.deepcopy(base), HERE / folder, is_trainable=True).eval()
        optimiser = make(model)
        for step in range(2):
            optimiser.zero_grad()
            run(model, "bert", inputs).backward(torch.from_numpy(inputs["doutput"]))
            optimiser.step()
            stored |= {f"{what}.{step}.{name}": value for name, value in written(model).items()}
    save_file(stored, HERE / "optimisers.safetensors")


def loraplus(model):
    return create_loraplus_optimizer(model, torch.optim.AdamW, lr=operations.LR, loraplus_lr_ratio=operations.RATIO)


def lorafa(model):
    config = model.peft_config["default"]
    return create_lorafa_optimizer(model, config.r, config.lora_alpha, operations.LR, weight_decay=0.0)


def make_operations():
    """Single operations: inputs, output, a random upstream gradient, and the gradients of the inputs."""
    rng = np.random.default_rng([SEED, 2])
    stored = {}

    def add(name, function, **arrays):
        tensors = {key: torch.tensor(array, requires_grad=True) for key, array in arrays.items()}
        y = function(**tensors)
        dy = torch.from_numpy(np.asarray(rng.standard_normal(y.shape)))
        y.backward(dy)
        stored.update({f"{name}.output": y.detach().numpy(), f"{name}.doutput": dy.numpy()})
        stored.update({f"{name}.{key}": array for key, array in arrays.items()})
        stored.update({f"{name}.d{key}": tensor.grad.numpy() for key, tensor in tensors.items()})

    logits, labels = 2.0 * rng.standard_normal((7, 5)), np.array([3, 0, -100, 1, 4, -100, 2])
    logits[4] += 900.0  # overflows where the greatest of the row is not taken away
    labels_by = {-100: labels, 1: np.where(labels < 0, 1, labels)}
    for case in operations.CROSS_ENTROPY:
        name = operations.case_name(case)
        stored[f"{name}.labels"] = labels_by[case["ignore_index"]]
        target = torch.from_numpy(stored[f"{name}.labels"])
        add(name, lambda logits: F.cross_entropy(logits, target, **case), logits=logits)  # noqa: B023 (called at once)
    x = np.linspace(-6.0, 6.0, 61)
    add("gelu", F.gelu, x=x)
    add("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), x=x)
    rows, gamma, beta = rng.standard_normal((5, 7)), rng.standard_normal(7), rng.standard_normal(7)
    rows[2] *= 1e-3  # a variance below eps
    add(
        "layer_norm",
        lambda x, gamma, beta: F.layer_norm(x, (7,), gamma, beta, operations.EPS),
        x=rows,
        gamma=gamma,
        beta=beta,
    )
    visible = rng.random((2, 1, 4, 7)) < 0.5
    visible[..., 0] |= ~visible.any(axis=-1)
    stored["attention.visible"] = visible
    add(
        "attention",
        lambda Q, K, V: F.scaled_dot_product_attention(Q, K, V, attn_mask=torch.from_numpy(visible)),
        Q=rng.standard_normal((2, 3, 4, 5)),
        K=rng.standard_normal((2, 3, 7, 5)),
        V=rng.standard_normal((2, 3, 7, 6)),
    )
    save_file(stored, HERE / "operations.safetensors")


# ---- the other direction: what lora_np writes, opened by PEFT and transformers

PATTERNS = {"rank_pattern": {"query": 3}, "alpha_pattern": {r"layer\.1\..*value": 7}, "use_rslora": True}
WRITTEN = {  # what: the model, the configuration, the pooling of a head of our own
    "BERT, classifier trained": ("bert", {"task_type": "SEQ_CLS"}, None),
    "BERT, patterns": ("bert", PATTERNS, None),
    "BERT, DoRA, patterns": ("bert", {"use_dora": True, **PATTERNS}, None),
    "BERT, mean-pooled head": ("bert_hidden", {"task_type": "SEQ_CLS"}, "mean"),
    "GPT-2": ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"]}, None),
    "ViT, all linear": ("vit", {"target_modules": "all-linear"}, None),
    "DistilBERT, classifier": ("distilbert", {"modules_to_save": ["pre_classifier", "classifier"]}, None),
    "ELECTRA, all linear": ("electra", {"target_modules": "all-linear", "task_type": "SEQ_CLS"}, None),
    "RoBERTa, patterns, classifier": ("roberta", {"modules_to_save": ["classifier"], **PATTERNS}, None),
    "XLM-R, classifier": ("xlm_roberta", {"task_type": "SEQ_CLS"}, None),
    "BERT, tokens": ("bert_tokens", {"task_type": "TOKEN_CLS"}, None),
    "ELECTRA, tokens": ("electra_tokens", {"target_modules": "all-linear", "modules_to_save": ["classifier"]}, None),
    "GPT-2, tokens": ("gpt2_tokens", {"task_type": "TOKEN_CLS"}, None),
    "GPT-2, score": ("gpt2_score", {"target_modules": ["c_attn", "mlp.c_proj"], "task_type": "SEQ_CLS"}, None),
    "BERT, regression": ("bert_regression", {"task_type": "SEQ_CLS"}, None),
    "RoBERTa, several labels": ("roberta_labels", {"task_type": "SEQ_CLS"}, None),
    "BERT, mean-pooled head, (IA)^3": ("bert_hidden", {"config": "IA3Config", "task_type": "SEQ_CLS"}, "mean"),
    "GPT-2, (IA)^3": ("gpt2", {"config": "IA3Config"}, None),
    "ViT, (IA)^3, classifier": (
        "vit",
        {"config": "IA3Config", "feedforward_modules": ["output.dense", "value"], "modules_to_save": ["classifier"]},
        None,
    ),
    "BERT, VeRA, classifier": ("bert", {"config": "VeraConfig", "r": 12, "task_type": "SEQ_CLS"}, None),
    "GPT-2, VeRA": ("gpt2", {"config": "VeraConfig", "r": 5, "target_modules": ["c_attn", "mlp.c_proj"]}, None),
    "ViT, VeRA, all linear": ("vit", {"config": "VeraConfig", "r": 2, "target_modules": "all-linear"}, None),
    "ViT, patterns, classifier": ("vit", {"modules_to_save": ["classifier"], **PATTERNS}, None),
    "BERT, LoHa": ("bert", {"config": "LoHaConfig", "r": 3, "alpha": 5, "rank_pattern": {"query": 2}}, None),
    "BERT, LoKr": (
        "bert",
        {"config": "LoKrConfig", "r": 2, "alpha": 5, "decompose_both": True, "rank_pattern": {"query": 3}},
        None,
    ),
    "ViT, LoKr": ("vit", {"config": "LoKrConfig", "r": 1, "alpha": 3, "task_type": "SEQ_CLS"}, None),
    "ViT, LoHa": ("vit", {"config": "LoHaConfig", "r": 2, "alpha": 5, "modules_to_save": ["classifier"]}, None),
}


def written_by_us(what):
    """Return a model of ours with an adapter, all of whose trained arrays are random."""
    name, options, pooling = WRITTEN[what]
    rng = np.random.default_rng([SEED, *what.encode()])
    base = lnp.load_pretrained(HERE / name, dtype=np.float64)
    if pooling:
        base = lnp.with_head(base, labels=3, pooling=pooling, rng=rng)
    options = {**options} if "config" in options else {"r": 2, "lora_alpha": 5, **options}
    lora = lnp.inject(base, getattr(lnp, options.pop("config", "LoRAConfig"))(**options), rng)
    for array in lnp.parameters(lora, trainable_only=True).values():
        array[...] = 0.3 * rng.standard_normal(array.shape)
    return lora


def adapter_in_peft(what, inputs):
    """Return the relative error of our adapter in PEFT. A warning is an error."""
    name = WRITTEN[what][0]
    lora = written_by_us(what)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NOT_OURS)
        lnp.save_adapter(lora, folder)
        model = PeftModel.from_pretrained(opened(name, HERE / name), folder).eval()
    return {"adapter in PEFT": difference(lora, model, what, inputs)}


def merged_in_transformers(what, inputs):
    """Return the relative error of our merged model in transformers."""
    lora = written_by_us(what)
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_model(lnp.merge(bare(lora, what)), folder)
        model = opened(WRITTEN[what][0], folder)
    return {"merged, in transformers": difference(lora, model, what, inputs)}


def bare(lora, what):
    """Return the model without a head of our own, which transformers does not have: the hidden states compare."""
    return replace(lora, head=None) if WRITTEN[what][2] else lora


def opened(name, folder):
    """Return the model in a folder, opened by transformers; no tensor may be missing, unexpected or misshapen."""
    model, info = MODELS[name][0].from_pretrained(
        folder, dtype=torch.float64, output_loading_info=True, **attention_of(name)
    )
    odd = [key for keys in info.values() for key in keys if not str(key).startswith("pooler.")]
    if odd:  # (a bare BERT's pooler is no part of its hidden states)
        raise ValueError(f"transformers opens the model but reports {odd}")
    return model.eval()


def difference(lora, model, what, inputs):
    name = WRITTEN[what][0]
    batch = models.make_batch(name, inputs)
    output = models.in_given_order(name, batch, bare(lora, what).forward(batch)[0])
    with torch.no_grad():
        return models.relative_error(output, run(model, name, inputs).numpy())


# ---- all of it


def measure(inputs):
    """Yield (what, largest relative error, its bound), one a row of the table."""
    for dtype, bound in models.TOLERANCE.items():
        for names, errors_of in (
            (MODELS, models.model_errors),
            (models.LABELLED, models.loss_errors),
            (ADAPTERS, models.adapter_errors),
        ):
            for name in names:
                errors = attempt(errors_of, name, dtype)
                for first, words in (
                    ("gradient of ", "gradients"),
                    ("loss's gradient of ", "gradients of the loss"),
                    ("step of ", "arrays after a step of AdamW"),
                ):
                    of_kind = [errors.pop(what) for what in list(errors) if what.startswith(first)]
                    if of_kind:
                        errors[f"{len(of_kind)} {words}"] = max(of_kind)
                yield from ((f"{name}, {dtype.__name__}: {what}", error, bound) for what, error in errors.items())
    for what, errors in (
        ("operations", operations.operation_errors()),
        ("AdamW", operations.adamw_errors()),
        ("LoRA+, two steps of PEFT's optimiser", operations.loraplus_errors()),
        ("LoRA-FA, two steps of PEFT's optimiser", operations.lorafa_errors()),
    ):
        yield what, max(errors.values()), operations.TOLERANCE
    for what in WRITTEN:
        for function in (adapter_in_peft, merged_in_transformers):
            for who, error in attempt(function, what, inputs[WRITTEN[what][0]]).items():
                yield f"by lora_np, {what}: {who}", error, models.TOLERANCE[np.float64]


MINILM = {
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
COUNTED = {  # method: its configuration, on a model of MiniLM's sizes
    "LoRA": {"r": 8, "target_modules": QUERY_VALUE},
    "DoRA": {"r": 8, "target_modules": QUERY_VALUE},
    "IA3": {},
    "VeRA": {"r": 256, "target_modules": QUERY_VALUE},
    "LoHa": {"r": 8, "target_modules": QUERY_VALUE},
    "LoKr": {"r": 8, "decompose_factor": 8, "target_modules": QUERY_VALUE},
}


def of_methods(rows):
    """Return what the page on the methods says: each one's numbers, and how near it comes to PEFT in float64."""
    rng, found = np.random.default_rng(0), {}
    base = lnp.with_head(lnp.bert(MINILM, rng=rng), labels=2, pooling="mean", rng=rng)
    of_adapter = {
        name: registered(
            "config", lnp.load_adapter(lnp.load_pretrained(HERE / name.split("/")[0]), HERE / name).adapter
        )
        for name in ADAPTERS
    }
    for name, method in METHODS.items():
        own = [adapter for adapter, kind in of_adapter.items() if kind is method]
        errors = [error for what, error, _ in rows if "float64" in what and what.split(",")[0] in own]
        config = method.config(**COUNTED[name])
        found[name] = {
            "config": method.config.__name__,
            "starts_as": method.starts_as,
            "settings": COUNTED[name],
            "trained": lnp.count_parameters(lnp.inject(base, config, rng)).trainable,
            "models": sorted({adapter.split("/")[0] for adapter in own}),
            "largest error": float(f"{max(errors):.1e}"),
        }
    return found


def attempt(function, name, *others):
    """Return {what: error} of a comparison; if it raises, it says why, and its error is infinite."""
    try:
        return function(name, *others)
    except (ValueError, AssertionError, KeyError, RuntimeError, Warning) as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return {f"{function.__name__.replace('_', ' ')}, not possible": float("inf")}


def main():
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", NOT_OURS)
    torch.manual_seed(SEED)
    inputs, first = {}, None
    for name in MODELS:
        shutil.rmtree(HERE / name, ignore_errors=True)
        base, inputs[name] = make_model(name)
        first = first or (base, inputs[name])  # BERT
        for adapter in ADAPTERS:
            if adapter.startswith(f"{name}/"):
                make_adapter(adapter, base, inputs[name])
    make_adamw()
    make_optimisers(*first)
    make_operations()
    for path in HERE.rglob("*.safetensors"):
        path.chmod(0o644)  # the library makes its files private
    rows = list(measure(inputs))
    for what, error, bound in rows:
        print(f"{what:75} {error:8.1e}  {'' if error < bound else f'TOO LARGE, the bound is {bound:.0e}'}")
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft, np)}
    results = {
        "versions": {"python": platform.python_version(), **versions},
        "methods": of_methods(rows),
        "largest relative errors, max|a - b| / max|b|": {what: float(f"{error:.1e}") for what, error, _ in rows},
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2).replace("Infinity", '"not possible"') + "\n")
    return int(not all(error < bound for _, error, bound in rows))


if __name__ == "__main__":
    sys.exit(main())
