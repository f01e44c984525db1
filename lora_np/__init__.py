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
    "mpnet": "lora_np.model.architectures",
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
    "save_adapters": "lora_np.formats.peft",
    "load_adapters": "lora_np.formats.peft",
    "AdamW": "lora_np.train.optimisers",
    "LoRAConfig": "lora_np.adapt.config",
    "AdaLoraConfig": "lora_np.adapt.adalora",
    "BiasedLoRAConfig": "lora_np.adapt.bias",
    "BitFitConfig": "lora_np.adapt.bitfit",
    "LNTuningConfig": "lora_np.adapt.ln_tuning",
    "PrefixTuningConfig": "lora_np.adapt.prefix",
    "PromptTuningConfig": "lora_np.adapt.prompt",
    "BottleneckConfig": "lora_np.adapt.bottleneck",
    "HoulsbyConfig": "lora_np.adapt.bottleneck",
    "PfeifferConfig": "lora_np.adapt.bottleneck",
    "IA3Config": "lora_np.adapt.ia3",
    "VeraConfig": "lora_np.adapt.vera",
    "DoRAConfig": "lora_np.adapt.dora",
    "LoHaConfig": "lora_np.adapt.loha",
    "LoKrConfig": "lora_np.adapt.lokr",
    "EvaConfig": "lora_np.adapt.eva",
    "LoftQConfig": "lora_np.adapt.starts",
    "inject": "lora_np.adapt.methods",
    "merge": "lora_np.adapt.methods",
    "Adapters": "lora_np.adapt.several",
    "weighted_adapter": "lora_np.adapt.combine",
    "LoraConfig": "lora_np.adapt.spelling",
    "get_peft_model": "lora_np.adapt.spelling",
    "print_trainable_parameters": "lora_np.adapt.spelling",
    "merge_report": "lora_np.adapt.merging",
    "subtract": "lora_np.adapt.merging",
    "extract": "lora_np.adapt.extraction",
    "resize": "lora_np.adapt.ranks",
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
