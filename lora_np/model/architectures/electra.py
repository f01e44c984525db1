"""ELECTRA: BERT whose embeddings are narrower than its hidden rows, and which has no pooler.

Source: Clark et al. 2020, arXiv:2003.10555.
"""

import numpy as np
from numpy.typing import DTypeLike

from lora_np.model.architectures.architecture import Architecture, register
from lora_np.model.architectures.bert import BERT, bert_block
from lora_np.model.embeddings import TokenEmbeddings
from lora_np.model.heads import ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import freeze


def electra(
    config: dict, labels: int | None = None, rng: np.random.Generator | None = None, dtype: DTypeLike = np.float32
) -> Transformer:
    """Return an ELECTRA, wholly frozen; its classifier, if it has one, reads the first token.

    Parameters
    ----------
    config, labels, rng, dtype
        As for `bert`. Embeddings of `embedding_size` numbers are mapped to `hidden_size` if that is another number.
    """
    make = ELECTRA.maker(config, rng, dtype, labels)
    e, d = config["embedding_size"], config["hidden_size"]
    embeddings = TokenEmbeddings(
        word=make.table(config["vocab_size"], e, "embeddings.word_embeddings"),
        position=make.table(config["max_position_embeddings"], e, "embeddings.position_embeddings"),
        type=make.table(config["type_vocab_size"], e, "embeddings.token_type_embeddings"),
        norm=make.norm(e, "embeddings.LayerNorm"),
        to_hidden=make.linear(e, d, "embeddings_project") if e != d else None,
    )
    layer = tuple(bert_block(make, config, f"encoder.layer.{k}") for k in range(config["num_hidden_layers"]))
    head = None
    if labels:
        lower, upper = ELECTRA.head
        head = ClassifierHead(make.linear(d, d, lower), make.linear(d, labels, upper), "first", ELECTRA.bend)
    return freeze(Transformer(embeddings, layer, None, head, dict(config), ELECTRA.prefix if labels else ""))


ELECTRA = Architecture(
    model_type="electra",
    build=electra,
    counts=f"{BERT.counts} embedding_size",
    epsilon=BERT.epsilon,
    activation=BERT.activation,
    fixed=BERT.fixed,
    prefix="electra.",
    bare="ElectraModel",
    with_head="ElectraForSequenceClassification",
    tokens="ElectraForTokenClassification",
    encoders=("ElectraForPreTraining", "ElectraForMaskedLM"),
    head=("classifier.dense", "classifier.out_proj"),
    bend="gelu",
    outside=("classifier", "discriminator_predictions", "generator_predictions", "generator_lm_head"),
    extras=r"embeddings\.position_ids|discriminator_predictions\..*|generator_\w+\..*",
    copies={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    targets=BERT.targets,
)
register(ELECTRA)
