"""DistilBERT: half of BERT's layers, taught by it; no token types, no pooler.

Source: Sanh et al. 2019, arXiv:1910.01108.
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


def distilbert_block(make, config, name):
    d = config["dim"]
    attention = Attention(
        query=make.linear(d, d, f"{name}.attention.q_lin"),
        key=make.linear(d, d, f"{name}.attention.k_lin"),
        value=make.linear(d, d, f"{name}.attention.v_lin"),
        output=make.linear(d, d, f"{name}.attention.out_lin"),
        heads=check_heads(d, config["n_heads"]),
    )
    mlp = make.mlp(d, config["hidden_dim"], f"{name}.ffn.lin1", f"{name}.ffn.lin2")
    norms = (make.norm(d, f"{name}.{norm}") for norm in ("sa_layer_norm", "output_layer_norm"))
    return PostNormBlock(attention, next(norms), mlp, next(norms))


def distilbert(
    config: dict, labels: int | None = None, rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32
) -> Transformer:
    """Return a DistilBERT, wholly frozen; its classifier, if it has one, reads the first token.

    Parameters
    ----------
    config, labels, rng, dtype
        As for `bert`, with DistilBERT's words: dim, hidden_dim, n_layers, n_heads, ...
    """
    make = DISTILBERT.maker(config, rng, dtype, labels)
    d = config["dim"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], d, "embeddings.position_embeddings"),
        type=None,
        norm=make.norm(d, "embeddings.LayerNorm"),
    )
    layer = tuple(distilbert_block(make, config, f"transformer.layer.{k}") for k in range(config["n_layers"]))
    head = None
    if labels:
        lower, upper = DISTILBERT.head
        head = ClassifierHead(make.linear(d, d, lower), make.linear(d, labels, upper), "first", DISTILBERT.bend)
    return freeze(Transformer(embeddings, layer, None, head, dict(config), DISTILBERT.prefix if labels else ""))


DISTILBERT = Architecture(
    model_type="distilbert",
    build=distilbert,
    counts="vocab_size dim n_layers n_heads hidden_dim max_position_embeddings",
    epsilon=1e-12,
    activation="activation",
    prefix="distilbert.",
    bare="DistilBertModel",
    with_head="DistilBertForSequenceClassification",
    tokens="DistilBertForTokenClassification",
    encoders=("DistilBertForMaskedLM",),
    head=("pre_classifier", "classifier"),
    bend="relu",
    outside=("pre_classifier", "classifier", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    extras=r"embeddings\.position_ids|vocab_\w+\..*",
    copies={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    targets=("q_lin", "v_lin"),
)
register(DISTILBERT)
