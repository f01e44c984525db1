"""BERT: bidirectional, a norm after each half of a block, token types.

Source: Devlin et al. 2018, arXiv:1810.04805.
"""

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.maker import check_heads
from lora_np.model.attention import Attention
from lora_np.model.blocks import PostNormBlock
from lora_np.model.embeddings import TokenEmbeddings
from lora_np.model.heads import ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def bert_block(make, config, name):
    d = config["hidden_size"]
    attention = Attention(
        query=make.linear(d, d, f"{name}.attention.self.query"),
        key=make.linear(d, d, f"{name}.attention.self.key"),
        value=make.linear(d, d, f"{name}.attention.self.value"),
        output=make.linear(d, d, f"{name}.attention.output.dense"),
        heads=check_heads(d, config["num_attention_heads"]),
    )
    norm1 = make.norm(d, f"{name}.attention.output.LayerNorm")
    mlp = make.mlp(d, config["intermediate_size"], f"{name}.intermediate.dense", f"{name}.output.dense")
    return PostNormBlock(attention, norm1, mlp, make.norm(d, f"{name}.output.LayerNorm"))


def bert(
    config: dict,
    labels: int | None = None,
    pooler: bool = False,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> Transformer:
    """Return a BERT, wholly frozen: bidirectional, norms after each half, token types; optional pooler and classifier.

    Parameters
    ----------
    config : dict
        The words of Hugging Face's config.json, with `model_type`: hidden_size, ...
    labels : int, optional
        Number of classes of a classifier on the pooler, as `BertForSequenceClassification` has it; None: no classifier.
    pooler : bool
        Keep the pooler without a classifier: the output is one row a sequence.
    rng : numpy.random.Generator, optional
        Draws the matrices; without it they are NaN, for a file's to take their place.
    dtype : numpy dtype
    """
    make = BERT.maker(config, rng, dtype, labels)
    d = config["hidden_size"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], d, "embeddings.position_embeddings"),
        type=make.table(config["type_vocab_size"], d, "embeddings.token_type_embeddings"),
        norm=make.norm(d, "embeddings.LayerNorm"),
    )
    layer = tuple(bert_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    head = None
    if pooler or labels:
        classifier = make.linear(d, labels, "classifier") if labels else None
        head = ClassifierHead(make.linear(d, d, "pooler.dense"), classifier, "first")
    return freeze(Transformer(embeddings, layer, None, head, dict(config), BERT.prefix if labels else ""))


BERT = Architecture(
    model_type="bert",
    build=bert,
    counts="vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
    " type_vocab_size",
    epsilon="layer_norm_eps",
    activation="hidden_act",
    fixed={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    prefix="bert.",
    bare="BertModel",
    with_head="BertForSequenceClassification",
    tokens="BertForTokenClassification",
    encoders=("BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction"),
    head=("pooler.dense", "classifier"),
    extras=r"embeddings\.position_ids|pooler\.dense\.(weight|bias)|cls\..*",
    copies={"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"},
    targets=("query", "value"),
)
register(BERT)
