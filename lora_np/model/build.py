"""BERT, GPT-2 and ViT, each the same Transformer put together in its own way. Read the three
functions as three columns.

A configuration is a dict with the words of Hugging Face's config.json. Each node that holds parameters carries its
Hugging Face module name, `hf`. All weights are (d_in, d_out). Models start frozen and without dropout: see `unfreeze`
and `with_dropout`.

Sources: Devlin et al. 2018, arXiv:1810.04805 (BERT); Radford et al. 2019, "Language models are unsupervised multitask
learners" (GPT-2); Dosovitskiy et al. 2020, arXiv:2010.11929 (ViT). Matrices start from N(0, initializer_range^2),
0.02 unless the configuration says otherwise.
"""

import dataclasses
import math
from numbers import Integral

import numpy as np

from lora_np.model.attention import Attention, FusedAttention
from lora_np.model.blocks import PostNormBlock, PreNormBlock
from lora_np.model.embeddings import PatchEmbeddings, TokenEmbeddings
from lora_np.model.heads import POOLING, ClassifierHead, TiedHead
from lora_np.model.mlp import ACTIVATIONS, MLP
from lora_np.model.nodes import Embedding, LayerNorm, Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import check_dtype, freeze, rebuild, unfreeze
from lora_np.ops.dropout import probability
from lora_np.ops.fit import number

ENCODER = "hidden_size num_hidden_layers num_attention_heads intermediate_size"  # what BERT and ViT both count


class Maker:
    """Makes arrays: random ones by `rng`, or, without it, NaN for `io` to replace by those of a file."""

    def __init__(self, config, rng, dtype, eps=None):
        self.std, self.rng, self.dtype, self.eps = config.get("initializer_range", 0.02), rng, check_dtype(dtype), eps
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng must be a generator, numpy.random.default_rng(seed), or None, but it is {rng!r}.")
        for name, value in (
            ("initializer_range", self.std),
            ("the epsilon of layer norm", 1.0 if eps is None else eps),
        ):
            if not 0.0 < number(name, value) < math.inf:
                raise ValueError(f"{name} must be a positive number, but it is {value!r}.")

    def matrix(self, *shape):
        if self.rng is None:
            return np.broadcast_to(np.array(np.nan, self.dtype), shape)  # takes no memory
        return (self.std * self.rng.standard_normal(shape)).astype(self.dtype)

    def linear(self, d_in, d_out, hf, bias=True):
        return Linear(self.matrix(d_in, d_out), np.zeros(d_out, self.dtype) if bias else None, hf)

    def norm(self, d, hf):
        return LayerNorm(np.ones(d, self.dtype), np.zeros(d, self.dtype), self.eps, hf)

    def table(self, rows, d, hf):
        return Embedding(self.matrix(rows, d), hf)


def bert_block(make, config, name):
    d, inner = config["hidden_size"], config["intermediate_size"]
    attention = Attention(
        query=make.linear(d, d, f"{name}.attention.self.query"),
        key=make.linear(d, d, f"{name}.attention.self.key"),
        value=make.linear(d, d, f"{name}.attention.self.value"),
        output=make.linear(d, d, f"{name}.attention.output.dense"),
        heads=check_heads(d, config["num_attention_heads"]),
    )
    norm1 = make.norm(d, f"{name}.attention.output.LayerNorm")
    mlp = MLP(
        make.linear(d, inner, f"{name}.intermediate.dense"),
        make.linear(inner, d, f"{name}.output.dense"),
        activation(config["hidden_act"]),
    )
    return PostNormBlock(attention, norm1, mlp, make.norm(d, f"{name}.output.LayerNorm"))


def bert(config, labels=None, pooler=False, rng=None, dtype=np.float32):
    """Return a BERT: bidirectional, norms after each half, token types; optional pooler and classifier.

    Parameters
    ----------
    config : dict
        The words of Hugging Face's config.json, with `model_type`: hidden_size, ...
    labels : int, optional
        Number of classes of a classifier on the pooler, as `BertForSequenceClassification` has it; None: no classifier.
    pooler : bool
        Keep the pooler without a classifier: the output is one row a sequence.
    rng : numpy.random.Generator, optional
        Draws the matrices; without it they are NaN, for `io` to replace.
    dtype : numpy dtype

    Returns
    -------
    Transformer
        Wholly frozen; see `unfreeze`.
    """
    check_config(config, f"vocab_size max_position_embeddings type_vocab_size {ENCODER}", labels=labels)
    d = config["hidden_size"]
    make = Maker(config, rng, dtype, config["layer_norm_eps"])
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], d, "embeddings.position_embeddings"),
        type=make.table(config["type_vocab_size"], d, "embeddings.token_type_embeddings"),
        norm=make.norm(d, "embeddings.LayerNorm"),
    )
    layer = tuple(bert_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    head = None
    if pooler or labels is not None:
        classifier = None if labels is None else make.linear(d, labels, "classifier")
        head = ClassifierHead(make.linear(d, d, "pooler.dense"), classifier, "first")
    prefix = "" if labels is None else "bert."
    return freeze(Transformer(embeddings, layer, None, head, dict(config), prefix))


def gpt_block(make, config, name):
    d, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    attention = FusedAttention(
        c_attn=make.linear(d, 3 * d, f"{name}.attn.c_attn"),
        output=make.linear(d, d, f"{name}.attn.c_proj"),
        heads=check_heads(d, config["n_head"]),
    )
    mlp = MLP(
        make.linear(d, inner, f"{name}.mlp.c_fc"),
        make.linear(inner, d, f"{name}.mlp.c_proj"),
        activation(config["activation_function"]),
    )
    return PreNormBlock(make.norm(d, f"{name}.ln_1"), attention, make.norm(d, f"{name}.ln_2"), mlp)


def gpt(config, lm_head=True, rng=None, dtype=np.float32):
    """Return a GPT-2: causal, norms before each half, one fused map for Q, K, V; `lm_head` is tied to the words.

    Parameters
    ----------
    config : dict
        The words of Hugging Face's config.json, with `model_type`: n_embd, ...
    lm_head : bool
        Whether the output is logits over the words, or hidden rows.
    rng : numpy.random.Generator, optional
        Draws the matrices; without it they are NaN, for `io` to replace.
    dtype : numpy dtype

    Returns
    -------
    Transformer
        Wholly frozen; see `unfreeze`.
    """
    check_config(config, "vocab_size n_positions n_embd n_layer n_head", n_inner=config.get("n_inner"))
    d = config["n_embd"]
    make = Maker(config, rng, dtype, config["layer_norm_epsilon"])
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "wte"),
        position=make.table(config["n_positions"], d, "wpe"),
        type=None,
        norm=None,
    )
    layer = tuple(gpt_block(make, config, f"h.{k}") for k in range(config["n_layer"]))
    head = TiedHead() if lm_head else None
    prefix = "transformer." if lm_head else ""
    return freeze(Transformer(embeddings, layer, make.norm(d, "ln_f"), head, dict(config), prefix))


def vit_block(make, config, name):
    d, inner, bias = config["hidden_size"], config["intermediate_size"], config.get("qkv_bias", True)
    attention = Attention(
        query=make.linear(d, d, f"{name}.attention.attention.query", bias),
        key=make.linear(d, d, f"{name}.attention.attention.key", bias),
        value=make.linear(d, d, f"{name}.attention.attention.value", bias),
        output=make.linear(d, d, f"{name}.attention.output.dense"),
        heads=check_heads(d, config["num_attention_heads"]),
    )
    mlp = MLP(
        make.linear(d, inner, f"{name}.intermediate.dense"),
        make.linear(inner, d, f"{name}.output.dense"),
        activation(config["hidden_act"]),
    )
    norm1, norm2 = make.norm(d, f"{name}.layernorm_before"), make.norm(d, f"{name}.layernorm_after")
    return PreNormBlock(norm1, attention, norm2, mlp)


def vit(config, labels=None, rng=None, dtype=np.float32):
    """Return a ViT: patches, norms before each half, a class token (`"class_token": false`, our word: the mean).

    Parameters
    ----------
    config : dict
        The words of Hugging Face's config.json, with `model_type`: hidden_size, ...
    labels : int, optional
        Number of classes of a classifier; None: no classifier.
    rng : numpy.random.Generator, optional
        Draws the matrices; without it they are NaN, for `io` to replace.
    dtype : numpy dtype

    Returns
    -------
    Transformer
        Wholly frozen; see `unfreeze`.
    """
    check_config(config, f"image_size patch_size num_channels {ENCODER}", labels=labels)
    d = config["hidden_size"]
    make = Maker(config, rng, dtype, config["layer_norm_eps"])
    class_token = config.get("class_token", True)
    patch, patches = config["patch_size"], (config["image_size"] // config["patch_size"]) ** 2
    embeddings = PatchEmbeddings(
        projection=make.linear(config["num_channels"] * patch**2, d, "embeddings.patch_embeddings.projection"),
        class_token=make.matrix(1, d) if class_token else None,
        position=make.table(patches + class_token, d, "embeddings.position_embeddings"),
        hf="embeddings",
    )
    layer = tuple(vit_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    head = None
    if labels is not None:
        head = ClassifierHead(None, make.linear(d, labels, "classifier"), "first" if class_token else "mean")
    prefix = "" if labels is None else "vit."
    return freeze(Transformer(embeddings, layer, make.norm(d, "layernorm"), head, dict(config), prefix))


def with_head(model, labels, pooling="mean", rng=None):
    """Return a new model with a new, trained classifier on top, in place of any head it had; the rest is shared.

    Parameters
    ----------
    model : Transformer
    labels : int
        Number of classes.
    pooling : {"mean", "first", "pooler"}
        What is classified: the mean of a sequence's tokens, its first token, or BERT's pooler over the first token
        (if the model has one).
    rng : numpy.random.Generator
        Draws the classifier's weights from N(0, initializer_range^2); its bias starts at zero.

    Raises
    ------
    ValueError
        If labels is not a positive integer, the pooling is unknown, there is no pooler, or `rng` is missing.
    """
    pooler = getattr(model.head, "pooler", None)
    if pooling not in (*POOLING, "pooler") or (pooling == "pooler" and pooler is None):
        raise ValueError(
            f"pooling must be 'mean' or 'first' (or 'pooler', for a model that has one), but it is {pooling!r}."
        )
    if not is_count(labels) or not isinstance(rng, np.random.Generator):
        raise ValueError(
            "with_head needs labels, a positive integer, and rng, numpy.random.default_rng(seed); it was given"
            f" {labels!r} and {rng!r}."
        )
    last = model.layer[-1].mlp.down.W
    make = Maker(model.config, rng, last.dtype)
    # Only the pooler's is a class of transformers, BertForSequenceClassification: it has a name there.
    native, first = ("bert.", "first") if pooling == "pooler" else ("", pooling)
    classifier = make.linear(last.shape[1], labels, "classifier" if native else "")
    head = ClassifierHead(pooler if native else None, freeze(classifier), first)
    return unfreeze(dataclasses.replace(model, head=head, hf_prefix=native), "head.classifier")


def with_dropout(model, p):
    """Return a new model with dropout where BERT has it: embeddings, attention weights, both halves' outputs."""
    p = probability(p)
    base = (TokenEmbeddings, PatchEmbeddings, Attention, FusedAttention, PostNormBlock, PreNormBlock)
    return rebuild(model, lambda _, node: dataclasses.replace(node, dropout=p) if isinstance(node, base) else node)


def check_config(config, names, **optional):
    """Raise ValueError unless a configuration counts by positive integers, and its switches are true or false."""
    if not isinstance(config, dict):
        raise ValueError(f"a configuration is a dict with the words of config.json, but it is {config!r}.")
    counts = {name: config.get(name, "missing") for name in names.split()}
    for name, value in {**counts, **{name: value for name, value in optional.items() if value is not None}}.items():
        if not is_count(value):
            raise ValueError(f"{name} must be a positive integer, but it is {value!r}.")
    for name in ("class_token", "qkv_bias"):
        if not isinstance(config.get(name, True), bool):
            raise ValueError(f"{name} must be true or false, but it is {config[name]!r}.")
    if counts.get("image_size", 0) % counts.get("patch_size", 1):
        raise ValueError(f"patches of {counts['patch_size']} do not fill images of {counts['image_size']}.")


def is_count(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def activation(name):
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not known here; expected one of {', '.join(ACTIVATIONS)}.")
    return name


def check_heads(d, heads):
    if d % heads:
        raise ValueError(f"a hidden size of {d} cannot be split into {heads} equal heads.")
    return heads
