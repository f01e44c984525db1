"""Adapter folders as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.

What a method of adaptation calls its arrays there, and which lie transposed, is in its table of `tensors`; it is
applied here alone. A classifier that transformers has no class for lies beside, in head.safetensors and head.json, and
`load_adapter` insists on it: an adapter without its head would fall to chance without a word.

The metadata of adapter_model.safetensors, which PEFT passes over, say what the adapter depends on: the weights of its
base, the settings in adapter_config.json, the head, and how many tokens of a text it was trained to read.
"""

from lora_np.formats.peft.several import load_adapters, save_adapters
from lora_np.formats.peft.tensors import load_adapter, save_adapter

__all__ = ["load_adapter", "load_adapters", "save_adapter", "save_adapters"]
