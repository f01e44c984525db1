"""GPT-2: causal, a norm before each half of a block, one fused map for Q, K and V, words tied to the output.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners".
"""

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.maker import check_heads
from lora_np.model.attention import FusedAttention
from lora_np.model.blocks import PreNormBlock
from lora_np.model.embeddings import TokenEmbeddings
from lora_np.model.heads import ClassifierHead, TiedHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def gpt_block(make, config, name):
    d = config["n_embd"]
    attention = FusedAttention(
        c_attn=make.linear(d, 3 * d, f"{name}.attn.c_attn"),
        output=make.linear(d, d, f"{name}.attn.c_proj"),
        heads=check_heads(d, config["n_head"]),
    )
    mlp = make.mlp(d, config.get("n_inner") or 4 * d, f"{name}.mlp.c_fc", f"{name}.mlp.c_proj")
    return PreNormBlock(make.norm(d, f"{name}.ln_1"), attention, make.norm(d, f"{name}.ln_2"), mlp)


def gpt(
    config: dict,
    lm_head: bool = True,
    labels: int | None = None,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> Transformer:
    """Return a GPT-2, wholly frozen: causal, norms before each half, one map for Q, K, V, output tied to the words.

    Parameters
    ----------
    lm_head : bool
        Whether the output is logits over the words, or hidden rows.
    labels : int, optional
        Number of classes of a classifier that reads the last token, in the place of either.
    config, rng, dtype
        As for `bert`.
    """
    make = GPT2.maker(config, rng, dtype, labels)
    d = config["n_embd"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "wte"),
        position=make.table(config["n_positions"], d, "wpe"),
        type=None,
        norm=None,
    )
    layer = tuple(gpt_block(make, config, f"h.{k}") for k in range(config["n_layer"]))
    head: ClassifierHead | TiedHead | None = TiedHead() if lm_head else None
    if labels:
        score = make.linear(d, labels, GPT2.head[-1], GPT2.biased)
        head = ClassifierHead(None, score, GPT2.pooled, padding=config.get("pad_token_id"))
    prefix = GPT2.prefix if head else ""
    return freeze(Transformer(embeddings, layer, make.norm(d, "ln_f"), head, dict(config), prefix))


GPT2 = Architecture(
    model_type="gpt2",
    build=gpt,
    counts="vocab_size n_embd n_layer n_head n_positions",
    epsilon="layer_norm_epsilon",
    activation="activation_function",
    fixed={
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    },
    prefix="transformer.",
    bare="GPT2Model",
    with_head="GPT2ForSequenceClassification",
    tokens="GPT2ForTokenClassification",
    head=("score",),
    pooled="last",
    biased=False,
    outside=("score", "classifier"),
    tied="GPT2LMHeadModel",
    transposed=False,
    extras=r"h\.\d+\.attn\.(masked_)?bias",
    copies={"lm_head.weight": "wte.weight"},
    targets=("c_attn",),
    reads="ids",
)
register(GPT2)
