"""Adapter folders as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.

PEFT's `lora_A` is (r, d_in) and its `lora_B` (d_out, r), our A and B transposed; they exist in this file alone. A
classifier that transformers has no class for lies beside, in head.safetensors and head.json, and `load_adapter`
insists on it: an adapter without its head would fall to chance without a word.
"""

import hashlib
import re
from pathlib import Path

import numpy as np

from lora_np.io.files import read_json, read_safetensors, renamed, write_json, write_safetensors
from lora_np.io.huggingface import PREFIX, file_names, from_file, has_own_head, load_head, save_own_head, to_file
from lora_np.lora import HEADS, LoRAConfig, LoRALinear, by_pattern, inject, trained_whole
from lora_np.model.names import hf_name
from lora_np.model.tree import is_trainable, nearest, parameters, unfreeze, walk, with_arrays

OURS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern")
# Settings of PEFT that change the mathematics, and the only value that is supported here.
UNSUPPORTED = {
    "peft_type": "LORA",
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "use_qalora": False,
    "use_bdlora": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "target_parameters": None,
}
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights
# In the metadata of adapter_model.safetensors, which PEFT passes over:
HEAD_MARK = "lora_np_head"  # there is a head.safetensors, "trained" or "frozen"
BASE_MARK = "lora_np_base"  # a hash of the weights that were adapted
# transformers 5 renamed ViT's modules, and PEFT's files follow it; model files kept the old names. Here (old, new).
VIT_RENAMED = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)


def save_adapter(model, folder, base=None):
    """Write the adapter of a model in PEFT's format; the base model is not written.

    Parameters
    ----------
    model : Transformer
        Made by `inject`.
    folder : path
    base : str, optional
        The name or folder of the base model, for `base_model_name_or_path`.

    Raises
    ------
    ValueError
        If there is no adapter, or something else was trained that the folder would not hold.
    """
    if model.adapter is None:
        raise ValueError(
            "this model has no LoRA adapter to save; make one by inject, or save the whole model by save_model."
        )
    folder = Path(folder)
    saved = [
        path for path in trained_whole(model, model.adapter) if not (has_own_head(model) and path == "head.classifier")
    ]
    tensors, covered = {}, set()
    for path, node in walk(model):
        if isinstance(node, LoRALinear):
            name = f"base_model.model.{to_peft(model, hf_name(model, path, node))}"
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = node.A.T, node.B.T
            covered |= {f"{path}.A", f"{path}.B"}
    for path, (name, array) in whole(model, saved).items():
        tensors[f"base_model.model.{to_peft(model, name)}"] = to_file(model, path, array)
        covered.add(path)
    lost = [
        name
        for name in parameters(model, trainable_only=True)
        if name not in covered and not (has_own_head(model) and name.startswith("head."))
    ]
    if lost:
        raise ValueError(
            f"{lost[0]} is trained, but an adapter folder would not hold it; name its node in the configuration's"
            " modules_to_save."
        )
    metadata = {"format": "pt", BASE_MARK: fingerprint(model)}
    if has_own_head(model):
        metadata[HEAD_MARK] = "trained" if is_trainable(model.head) else "frozen"
    save_own_head(model, folder)
    write_safetensors(folder / "adapter_model.safetensors", tensors, metadata)
    write_json(folder / "adapter_config.json", peft_config(model, saved, base))


def fingerprint(model):
    """Return a hash of the weights under the detours, in float32: an adapter is worth nothing on other weights."""
    digest = hashlib.sha256()
    for _, node in walk(model):
        if isinstance(node, LoRALinear):
            digest.update(np.ascontiguousarray(node.W, "<f4").tobytes())
    return digest.hexdigest()


def whole(model, saved):
    """Return {parameter: (its name in a file, the array)} for the nodes that are saved whole."""
    live = parameters(model)
    chosen = {
        path: name for path, name in file_names(model).items() if any(path.startswith(f"{node}.") for node in saved)
    }
    return {
        path: (name if path.startswith("head.classifier.") else model.hf_prefix + name, live[path])
        for path, name in chosen.items()
    }


def peft_config(model, saved, base):
    """Return the content of adapter_config.json. The targets stand there by their full names."""
    config = model.adapter
    nodes = dict(walk(model))
    names = {path: hf_name(model, path, node) for path, node in nodes.items()}
    targets = {names[path]: to_peft(model, names[path]) for path, node in nodes.items() if isinstance(node, LoRALinear)}
    return {
        "peft_type": "LORA",
        "task_type": config.task_type if "head.classifier" in saved else None,
        "base_model_name_or_path": base,
        "target_modules": list(targets.values()),
        "modules_to_save": [to_peft(model, names[path]) for path in saved] or None,
        "bias": "none",
        "fan_in_fan_out": model.config["model_type"] == "gpt2",
        "inference_mode": True,
        **{name: getattr(config, name) for name in OURS},
        **{name: translated(getattr(config, name), targets) for name in ("rank_pattern", "alpha_pattern")},
    }


def load_adapter(model, folder):
    """Return a new model: `model` with the adapter of a PEFT folder injected, ready to use or to train further.

    Parameters
    ----------
    model : Transformer
        The base, without an adapter.
    folder : path

    Raises
    ------
    ValueError
        If a file is missing or damaged, PEFT's settings go beyond plain LoRA, a tensor matches nothing, has the wrong
        shape or is not finite, or the head is missing.
    """
    folder = Path(folder)
    settings = read_json(folder / "adapter_config.json")
    for name, value in UNSUPPORTED.items():
        if settings.get(name, value) not in (value, None, [], {}):
            raise ValueError(
                f"{folder / 'adapter_config.json'} has {name} = {settings[name]!r}; only {value!r} is supported here."
            )
    if str(settings.get("init_lora_weights")).lower().startswith(CHANGES_BASE):
        raise ValueError(
            f"the adapter in {folder} was started by {settings['init_lora_weights']}, which changes the base weights,"
            " too; let PEFT convert it to plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)."
        )
    tensors, metadata = read_safetensors(folder / "adapter_model.safetensors")
    if HEAD_MARK in metadata:
        model = load_head(model, folder)
        model = unfreeze(model, "head.classifier") if metadata[HEAD_MARK] == "trained" else model
    adapted = [re.sub(r"^base_model\.model\.|\.lora_A\.weight$", "", name) for name in tensors if ".lora_A." in name]
    tensors = renamed(tensors.items(), lambda name: canonical(model, name), folder / "adapter_model.safetensors")
    config = our_config(settings, model, tensors, adapted, folder)
    # The values drawn here are all replaced below.
    lora = inject(model, config, np.random.default_rng(0))
    if metadata.get(BASE_MARK, fingerprint(lora)) != fingerprint(lora):
        raise ValueError(
            f"the adapter in {folder} was trained on other weights than these; load it onto its own base"
            f" ({settings.get('base_model_name_or_path') or 'not named'}), which it must not have been merged into yet."
        )
    new = {}
    for path, node in walk(lora):
        if isinstance(node, LoRALinear):
            for field, key in (("A", f"{node.hf}.lora_A.weight"), ("B", f"{node.hf}.lora_B.weight")):
                new[f"{path}.{field}"] = matrix(tensors, key, getattr(node, field), folder)
    for path, (name, array) in whole(lora, trained_whole(lora, config)).items():
        key = name.removeprefix(lora.hf_prefix)
        new[path] = from_file(lora, path, key, take(tensors, key, folder), array.dtype)
    if tensors:
        raise ValueError(
            f"{folder} holds the tensor {next(iter(tensors))}, which matches nothing in this model; the adapter belongs"
            " to another base."
        )
    return with_arrays(lora, new)


def canonical(model, name):
    """Return a tensor's name in an adapter file without the wrappers' prefixes, in the names that our nodes carry."""
    name = name.removeprefix("base_model.model.").removeprefix(PREFIX[model.config["model_type"]])
    return from_peft(model, name)


def to_peft(model, name):
    """Return what PEFT's files call the module or tensor that has this name in model files; see VIT_RENAMED."""
    if model.config["model_type"] == "vit":
        name = re.sub(r"\bencoder\.layer\.(?=\d)", "layers.", name)
        for old, new in VIT_RENAMED:
            name = re.sub(rf"(?<=\d\.){re.escape(old)}\b", new, name)
    return name


def from_peft(model, name):
    """Undo `to_peft`; the files of PEFT with transformers 4 have the names of model files already."""
    if model.config["model_type"] == "vit":
        name = re.sub(r"\blayers\.(?=\d)", "encoder.layer.", name)
        for old, new in VIT_RENAMED:
            name = re.sub(rf"(?<=\d\.){re.escape(new)}\b", old, name)
    return name


def translated(patterns, names):
    """Return patterns that give the new names what `patterns` give the old, for {old: new}."""
    if all(old == new for old, new in names.items()):
        return patterns
    found = {new: by_pattern(patterns, old, None) for old, new in names.items()}
    return {re.escape(new): value for new, value in found.items() if value is not None}


def our_config(settings, model, tensors, adapted, folder):
    """Return the LoRAConfig of an adapter file. Its targets are the nodes with a lora_A, in its words `adapted`."""
    modules = {hf_name(model, path, node): node.hf for path, node in walk(model) if getattr(node, "hf", "")}
    given = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    for name in given:
        if name not in modules.values():
            raise ValueError(
                f"{folder} adapts {name}, which this model does not have; {nearest(name, modules.values())}"
            )
    targets = [name for name, hf in modules.items() if hf in given]
    if not targets:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} holds no lora_A; expected a LoRA adapter as PEFT saves it."
        )
    known = {name: settings[name] for name in OURS if settings.get(name) is not None}
    for name in ("rank_pattern", "alpha_pattern"):
        if name in known:
            known[name] = translated(known[name], {theirs: from_peft(model, theirs) for theirs in adapted})
    # PEFT's task_type="SEQ_CLS" writes every usual name of a head, whether the model has it or not.
    saved = [from_peft(model, name) for name in settings.get("modules_to_save") or []]
    saved = [name for name in saved if name in modules or name not in HEADS] or None
    native = model.head is not None and not has_own_head(model)
    return LoRAConfig(
        **known, target_modules=targets, modules_to_save=saved, task_type=settings.get("task_type") if native else None
    )


def take(tensors, key, folder):
    if key not in tensors:
        raise ValueError(f"{folder / 'adapter_model.safetensors'} lacks the tensor {key}; the adapter is incomplete.")
    return tensors.pop(key)


def matrix(tensors, key, mine, folder):
    """Return the transposed lora_A or lora_B, checked."""
    tensor = take(tensors, key, folder)
    if tensor.shape != mine.shape[::-1] or tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise ValueError(
            f"the tensor {key} in {folder} is {tensor.shape} of dtype {tensor.dtype}; expected {mine.shape[::-1]}"
            " finite floats for this base and r."
        )
    return np.array(tensor.T, mine.dtype, order="C")
