"""Tiny models off every special point, for all tests: sizes differ, gammas are not 1, biases and B not 0."""

import numpy as np

import lora_np as lnp
from lora_np.course.models import VIT
from lora_np.model.tree import with_arrays

BERT = {
    "model_type": "bert",
    "vocab_size": 23,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
GPT = {
    "model_type": "gpt2",
    "vocab_size": 23,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 9,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
ELECTRA = {**BERT, "model_type": "electra", "embedding_size": 8}
ROBERTA = {**BERT, "model_type": "roberta", "max_position_embeddings": 11, "type_vocab_size": 1}
MPNET = {**BERT, "model_type": "mpnet", "max_position_embeddings": 11}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 23,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
    "max_position_embeddings": 9,
    "activation": "gelu",
}
OTHERS = {
    "electra": (lnp.electra, ELECTRA),
    "mpnet": (lnp.mpnet, MPNET),
    "roberta": (lnp.roberta, ROBERTA),
    "distilbert": (lnp.distilbert, DISTILBERT),
}
NAMES = ("bert", "bert pooler", "bert mean head", "gpt", "gpt hidden", "vit", "vit mean", *OTHERS)


def jitter(model, seed=0, size=0.2):
    """Return the model with every array moved; what is frozen stays frozen."""
    rng = np.random.default_rng(seed)
    old = lnp.parameters(model)
    moved = {name: (array + size * rng.standard_normal(array.shape)).astype(array.dtype) for name, array in old.items()}
    for name, array in moved.items():
        array.flags.writeable = old[name].flags.writeable
    return with_arrays(model, moved)


def build(name, dtype=np.float64, dropout=0.0):
    """Return a wholly frozen tiny model."""
    options = {"rng": np.random.default_rng(1), "dtype": dtype}
    if name == "bert":
        model = lnp.bert(BERT, **options)
    elif name == "bert pooler":
        model = lnp.bert(BERT, labels=4, **options)
    elif name == "bert mean head":
        model = lnp.with_head(lnp.bert(BERT, **options), labels=3, pooling="mean", rng=np.random.default_rng(2))
    elif name == "gpt":
        model = lnp.gpt(GPT, **options)
    elif name == "gpt hidden":
        model = lnp.gpt(GPT, lm_head=False, **options)
    elif name in OTHERS:
        family, config = OTHERS[name]
        model = family(config, labels=4, **options)
    else:
        model = lnp.vit(VIT if name == "vit" else {**VIT, "class_token": False}, labels=5, **options)
    return lnp.with_dropout(jitter(model), dropout)


def adapted(name, dtype=np.float64, dropout=0.0, **config):
    """Return a tiny model with LoRA, B not 0 and a scale that is not 1."""
    settings = {"r": 2, "lora_alpha": 3.0, "lora_dropout": dropout, "target_modules": "all-linear", **config}
    model = lnp.inject(build(name, dtype, dropout), lnp.LoRAConfig(**settings), np.random.default_rng(3))
    new = {}
    for key, array in lnp.parameters(model, trainable_only=True).items():
        new[key] = (array + 0.2 * np.random.default_rng(4).standard_normal(array.shape)).astype(array.dtype)
    return with_arrays(model, new)


def sequences(name, seed=5):
    """Return sequences of unequal lengths (images: equal ones), in no order of length."""
    rng = np.random.default_rng(seed)
    if name.startswith("vit"):
        return [rng.random((9, 8)) for _ in range(3)]
    ids = [rng.integers(0, 23, length) for length in (5, 2, 7, 5, 1)]
    return [np.where(row == 1, 2, row) for row in ids] if name in ("mpnet", "roberta") else ids  # 1 is its padding


def batch(name, seed=5):
    rows = sequences(name, seed)
    rng = np.random.default_rng(seed + 1)
    types = [rng.integers(0, 2, len(row)) for row in rows] if name.startswith(("bert", "electra")) else None
    return lnp.Batch.of(rows, types)


def sublists(model, keep):
    """Return the batch's outputs as one list entry a sequence, whatever the head."""
    return keep.unpack(model) if len(model) == len(keep.content) else list(model)
