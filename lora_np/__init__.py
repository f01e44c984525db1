"""LoRA from the inside: a transformer and its low-rank adaptation in NumPy, every derivative by hand and proven.

The public names stand below. They are loaded when they are first used: `import lora_np` loads NumPy only.
Start reading at `lora_np/ops/lora_linear.py`.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "ops": "lora_np.ops",
    "gradcheck": "lora_np.gradcheck",
    "course": "lora_np.course",
    "cross_entropy_forward": "lora_np.ops",
    "cross_entropy_backward": "lora_np.ops",
    "Batch": "lora_np.model.batch",
    "Transformer": "lora_np.model.transformer",
    "bert": "lora_np.model.architectures",
    "distilbert": "lora_np.model.architectures",
    "electra": "lora_np.model.architectures",
    "gpt": "lora_np.model.architectures",
    "roberta": "lora_np.model.architectures",
    "vit": "lora_np.model.architectures",
    "with_head": "lora_np.model.variants",
    "with_dropout": "lora_np.model.variants",
    "parameters": "lora_np.model.tree",
    "count_parameters": "lora_np.model.tree",
    "freeze": "lora_np.model.tree",
    "unfreeze": "lora_np.model.tree",
    "astype": "lora_np.model.tree",
    "check_model": "lora_np.model.check",
    "load_pretrained": "lora_np.formats.pretrained",
    "load_tokenizer": "lora_np.datasets.tokenizers",
    "load_data": "lora_np.datasets.named",
    "save_model": "lora_np.formats.huggingface",
    "save_adapter": "lora_np.formats.peft",
    "load_adapter": "lora_np.formats.peft",
    "AdamW": "lora_np.train.optimisers",
    "LoRAConfig": "lora_np.adapt.config",
    "AdaLoraConfig": "lora_np.adapt.adalora",
    "BiasedLoRAConfig": "lora_np.adapt.bias",
    "IA3Config": "lora_np.adapt.ia3",
    "VeraConfig": "lora_np.adapt.vera",
    "DoRAConfig": "lora_np.adapt.dora",
    "LoHaConfig": "lora_np.adapt.loha",
    "LoKrConfig": "lora_np.adapt.lokr",
    "inject": "lora_np.adapt.methods",
    "merge": "lora_np.adapt.methods",
    "compress_model": "lora_np.adapt.compressed",
    "decompress_model": "lora_np.adapt.compressed",
}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'lora_np' has no attribute {name!r}; its public names are {', '.join(__all__)}.")
    module = importlib.import_module(_HOME[name])
    value = module if _HOME[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value  # the next use finds it without asking
    return value


def __dir__():
    return sorted([*globals(), *__all__])
