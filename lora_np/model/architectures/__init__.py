"""The families of models, one file each: add one here, and everybody knows it. Read their builders as columns."""

from lora_np.model.architectures.bert import BERT, bert
from lora_np.model.architectures.gpt2 import GPT2, gpt
from lora_np.model.architectures.vit import VIT, vit

__all__ = ["ARCHITECTURES", "bert", "gpt", "of", "vit"]

ARCHITECTURES = {one.model_type: one for one in (BERT, GPT2, VIT)}


def of(config, where="the configuration"):
    """Return the Architecture that a configuration is of, or raise a ValueError that lists those known."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"{where} holds a model of type {kind!r}; expected one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[kind]
