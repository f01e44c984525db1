"""PEFT's spelling of what is here under another name, for those who come from there.

    >>> import lora_np as lnp
    >>> config = lnp.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], inference_mode=False)
    >>> model = lnp.get_peft_model(lnp.load_pretrained("digits"), config)
    >>> lnp.print_trainable_parameters(model)
    trainable params: 4,096 || all params: 140,234 || trainable%: 2.9208

Options of PEFT's `LoraConfig` that have no part in the mathematics may stand at their neutral values; see
`adapt/config.py`. `PeftModel.from_pretrained(model, folder)` is `lnp.load_adapter`, `model.save_pretrained(folder)` is
`lnp.save_adapter(model, folder)`, `model.merge_and_unload()` is `lnp.merge(model)`; what has several adapters is
`lnp.Adapters`.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from lora_np.adapt.config import LoRAConfig as LoraConfig  # noqa: F401
from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import inject
from lora_np.model.batch import Batch
from lora_np.model.transformer import Transformer
from lora_np.model.tree import count_parameters


def get_peft_model(
    model: Transformer,
    peft_config: PeftOptions,
    adapter_name: str = "default",
    *,
    seed: int = 0,
    data: Sequence[Batch] | None = None,
) -> Transformer:
    """Return `inject(model, peft_config, rng, data)`: a new model, while PEFT changes the one that it is given.

    PEFT draws from PyTorch's generator; here what is drawn is a function of `seed`. EVA looks at `data` at once, where
    PEFT waits for `initialize_lora_eva_weights(model, data)`.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, but it is {seed!r}.")
    if adapter_name != "default":
        raise ValueError(
            f"one model has one adapter, without a name, but adapter_name is {adapter_name!r}; several by name are"
            f" lnp.Adapters(model).add_adapter({adapter_name!r}, config, rng)."
        )
    return inject(model, peft_config, np.random.default_rng(seed), data)


def print_trainable_parameters(model: Transformer) -> None:
    """Print PEFT's sentence on a model's size. A head that is trained counts once; PEFT keeps the old one, too."""
    total, trained = count_parameters(model)
    print(f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {100 * trained / total:.4f}")
