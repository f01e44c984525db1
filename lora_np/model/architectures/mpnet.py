"""MPNet: RoBERTa without token types, whose attention is also told how far apart two tokens are (`model/relative.py`).

Source: Song et al. 2020, arXiv:2004.09297.
"""

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.bert import BERT
from lora_np.model.architectures.maker import check_heads
from lora_np.model.blocks import PostNormBlock
from lora_np.model.embeddings import TokenEmbeddings
from lora_np.model.heads import ClassifierHead
from lora_np.model.relative import BUCKETS, RelativeAttention, RelativePositions
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def mpnet_block(make, config, name):
    d = config["hidden_size"]
    attention = RelativeAttention(
        query=make.linear(d, d, f"{name}.attention.attn.q"),
        key=make.linear(d, d, f"{name}.attention.attn.k"),
        value=make.linear(d, d, f"{name}.attention.attn.v"),
        output=make.linear(d, d, f"{name}.attention.attn.o"),
        heads=check_heads(d, config["num_attention_heads"]),
    )
    norm1 = make.norm(d, f"{name}.attention.LayerNorm")
    mlp = make.mlp(d, config["intermediate_size"], f"{name}.intermediate.dense", f"{name}.output.dense")
    return PostNormBlock(attention, norm1, mlp, make.norm(d, f"{name}.output.LayerNorm"))


def mpnet(
    config: dict, labels: int | None = None, rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32
) -> Transformer:
    """Return an MPNet, wholly frozen; its classifier, if it has one, reads the first token.

    Parameters
    ----------
    config, labels, rng, dtype
        As for `bert`.
    """
    make = MPNET.maker(config, rng, dtype, labels)
    d = config["hidden_size"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], d, "embeddings.position_embeddings"),
        type=None,
        norm=make.norm(d, "embeddings.LayerNorm"),
        first=MPNET.first_position(config),
    )
    layer = tuple(mpnet_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    heads = config["num_attention_heads"]
    relative = RelativePositions(make.matrix(BUCKETS, heads), "encoder.relative_attention_bias")
    head = None
    if labels:
        head = ClassifierHead(make.linear(d, d, MPNET.head[0]), make.linear(d, labels, MPNET.head[1]), "first")
    prefix = MPNET.prefix if labels else ""
    return freeze(Transformer(embeddings, layer, None, head, dict(config), prefix, relative=relative))


MPNET = Architecture(
    model_type="mpnet",
    build=mpnet,
    counts="vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings",
    epsilon=BERT.epsilon,
    activation=BERT.activation,
    fixed={"relative_attention_num_buckets": BUCKETS, "pad_token_id": 1},  # transformers' code has both as numbers
    prefix="mpnet.",
    bare="MPNetModel",
    with_head="MPNetForSequenceClassification",
    encoders=("MPNetForMaskedLM",),
    head=("classifier.dense", "classifier.out_proj"),
    outside=("classifier", "lm_head"),
    extras=r"embeddings\.position_ids|pooler\.dense\.(weight|bias)|lm_head\..*",
    copies={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
    targets=("q", "v"),
    padding=1,
)
register(MPNET)
