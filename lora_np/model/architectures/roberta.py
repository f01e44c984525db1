"""RoBERTa and XLM-R: BERT without token types, trained longer. A text's positions begin after those of padding.

Sources: Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2019, arXiv:1911.02116.
"""

import dataclasses

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.bert import BERT, bert_block
from lora_np.model.embeddings import TokenEmbeddings
from lora_np.model.heads import ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def roberta(
    config: dict, labels: int | None = None, rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32
) -> Transformer:
    """Return a RoBERTa or an XLM-R, wholly frozen; its classifier, if it has one, reads the first token.

    Parameters
    ----------
    config, labels, rng, dtype
        As for `bert`. `pad_token_id` (1 if it is missing) says how many rows of positions no text uses.
    """
    kind = XLM_ROBERTA if config.get("model_type") == XLM_ROBERTA.model_type else ROBERTA
    make = kind.maker(config, rng, dtype, labels)
    d = config["hidden_size"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], d, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], d, "embeddings.position_embeddings"),
        type=make.table(config["type_vocab_size"], d, "embeddings.token_type_embeddings"),
        norm=make.norm(d, "embeddings.LayerNorm"),
        first=kind.first_position(config),
    )
    layer = tuple(bert_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    head = None
    if labels:
        head = ClassifierHead(make.linear(d, d, kind.head[0]), make.linear(d, labels, kind.head[1]), "first")
    return freeze(Transformer(embeddings, layer, None, head, dict(config), kind.prefix if labels else ""))


ROBERTA = Architecture(
    model_type="roberta",
    build=roberta,
    counts=BERT.counts,
    epsilon=BERT.epsilon,
    activation=BERT.activation,
    fixed=BERT.fixed,
    prefix="roberta.",
    bare="RobertaModel",
    with_head="RobertaForSequenceClassification",
    tokens="RobertaForTokenClassification",
    encoders=("RobertaForMaskedLM",),
    head=("classifier.dense", "classifier.out_proj"),
    outside=("classifier", "lm_head"),
    extras=r"embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias)|lm_head\..*",
    copies={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
    targets=BERT.targets,
    padding=1,
)
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    bare="XLMRobertaModel",
    with_head="XLMRobertaForSequenceClassification",
    tokens="XLMRobertaForTokenClassification",
    encoders=("XLMRobertaForMaskedLM",),
)
register(ROBERTA)
register(XLM_ROBERTA)
