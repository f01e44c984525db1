"""adapter_config.json: what is written there, what is taken out of it, and what is refused."""

import dataclasses
import re

from lora_np.adapt.config import AFTERWARDS, TASKS, PeftOptions, check_neutral, marks, options
from lora_np.adapt.methods import METHODS, registered
from lora_np.adapt.targets import (
    HEADS,
    WITH_HEAD,
    around,
    check_untied,
    hf_name,
    hf_names,
    is_part,
    targets_of,
    to_peft,
    trained_whole,
)
from lora_np.files import check_fields, is_names, read_json
from lora_np.formats.huggingface import check_class, file_names, has_own_head
from lora_np.formats.peft.names import ROOT, all_nodes, canonical, check_complete, check_named, translated
from lora_np.model import architectures
from lora_np.model.heads import TiedHead, TokenHead
from lora_np.model.tree import is_trainable, nearest

SETTINGS = "adapter_config.json"
OF_TARGETS = [field.name for field in dataclasses.fields(PeftOptions)]
TEXT = (lambda value: value is None or isinstance(value, str), "a text or null")
MEANT = (
    lambda value: value is None or is_pattern(value) or is_names(value),
    "a list of names, or a regular expression",
)
FIELDS = {  # of every method; its own are in its configuration
    "target_modules": MEANT,
    "exclude_modules": MEANT,
    "modules_to_save": (lambda value: value is None or is_names(value), "a list of names or null"),
    "layers_to_transform": (lambda value: value is None or are_layers(value), "a layer's number or a list of them"),
    "base_model_name_or_path": TEXT,
    "peft_type": TEXT,
    "auto_mapping": (lambda value: value is None or isinstance(value, dict), "names of classes or null"),
    "task_type": (lambda value: value in TASKS, f"one whose head is computed here, {', '.join(map(repr, TASKS[1:]))}"),
}


def are_layers(value):
    return all(type(layer) is int and layer >= 0 for layer in (value if isinstance(value, list) else [value]))


def is_pattern(value):
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, OverflowError, RecursionError):
        return False


def own_settings(kind):
    """Return the names of what a configuration says beside what is adapted, in adapter_config.json."""
    return [field.name for field in dataclasses.fields(kind) if field.name not in (*OF_TARGETS, *kind.OURS)]


def method_in(settings):
    """Return the registered method of an adapter_config.json: the one with the most of its marks there."""
    kind = settings.get("peft_type", PeftOptions.peft_type)
    known = [method for method in METHODS.values() if method.config.peft_type == kind] or METHODS.values()
    fitting = [method for method in known if method.config.is_meant(settings, PeftOptions)]
    return max(fitting or [METHODS["LoRA"]], key=lambda method: len(marks(method.config)))


def check_carried(model):
    """Raise unless a model's nodes are adapted, and in the way that the configuration it carries says."""
    nodes = adapted(model)
    if not nodes:
        raise ValueError(
            "this model has no adapter to save; make one by inject, or save the whole model by save_model."
        )
    config = model.adapter
    for path, node in nodes.items():
        method = registered("node", node)
        if registered("config", config) is not method:
            raise ValueError(
                f"this model is adapted, but its field adapter is {config!r}, not the {method.config.__name__} by which"
                " inject made it; put that back by dataclasses.replace(model, adapter=config)."
            )
        if found := method.differs(node, config.at(hf_names(model, path, node))):
            raise ValueError(
                f"{path} has {found}, but the configuration that the model carries says otherwise ({config}); a file"
                " would hold another adapter than this. Inject with a configuration that says what you want."
            )


def adapted(model):
    """Return {path: node} of the adapted nodes."""
    return {path: node for path, node in all_nodes(model).items() if registered("node", node)}


def saved_whole(model):
    """Return the paths of the nodes that are saved whole; a head of our own lies in files of its own."""
    paths = trained_whole(model, model.adapter)
    return [path for path in paths if path != "head.classifier" or not has_own_head(model)]


def peft_config(model, saved, base):
    """Return the content of adapter_config.json. The targets stand there by their full names; what is saved whole but
    not trained does not stand there, as PEFT has it with the table of a larger vocabulary."""
    config, nodes = model.adapter, all_nodes(model)
    names = {path: hf_name(model, path, node) for path, node in nodes.items()}
    targets = {names[path]: to_peft(model, names[path]) for path in adapted(model)}
    whole = [to_peft(model, names[path]) for path in saved if is_trainable(nodes[path])]
    parts = {new: config.at((old, new)) for old, new in targets.items()}
    on_own_head = config.task_type in WITH_HEAD and "head.classifier" not in saved
    # Without a task nobody could tell a classifier of tokens from one of sequences, which is called the same.
    task = "TOKEN_CLS" if isinstance(model.head, TokenHead) and "head.classifier" in saved else config.task_type
    task = None if on_own_head else task
    if task is None and registered("config", config).together:  # without one PEFT would leave the virtual tokens out
        task = "CAUSAL_LM" if isinstance(model.head, TiedHead) else "FEATURE_EXTRACTION"
    content = {
        "peft_type": config.peft_type,
        "task_type": task,
        "base_model_name_or_path": base,
        "target_modules": list(targets.values()),
        "modules_to_save": wrapped(model, whole) or None,
        "fan_in_fan_out": not architectures.of(model.config).transposed,
        "inference_mode": True,
        **config.CONSTANTS,
        **marks(type(config)),
        **{name: getattr(config, name) for name in own_settings(type(config))},
        **{name: translated(getattr(config, name), targets) for name in config.PATTERNS.values()},
        **{name: [new for new, part in parts.items() if getattr(part, name)] for name in config.PARTS},
    }
    return {name: value for name, value in content.items() if name not in config.LACKS}


def wrapped(model, names):
    """Return what PEFT wraps to train these modules whole: all maps of a head are one module."""
    parts = [part for part in architectures.of(model.config).head if part.partition(".")[0] in HEADS]
    whole = set(parts) <= set(names)
    return list(dict.fromkeys(name.partition(".")[0] if whole and name in parts else name for name in names))


def check_one(folder):
    """Raise if a folder holds several adapters by name, and none in its root."""
    if not (folder / SETTINGS).is_file() and (named := sorted(folder.glob(f"*/{SETTINGS}"))):
        raise ValueError(
            f"{folder} holds no {SETTINGS}, but adapters by name: {', '.join(p.parent.name for p in named)}; give"
            f" the folder of one, such as {named[0].parent}."
        )


def checked_settings(path, kind):
    """Return the content of an adapter_config.json, each field of its kind and none that asks for another adapter."""
    check_one(path.parent)
    settings = read_json(path)
    ours, way_out = method_in(settings).config, "it is another kind of adapter, which PEFT can merge into its base"
    check_fields(settings, {**FIELDS, **dict.fromkeys(ours.PARTS, MEANT), **ours.FIELDS}, path)
    check_neutral(settings, {*AFTERWARDS, *ours.FIELDS}, f"{path}: ", way_out, ours)
    for name in settings.keys() - {*own_settings(ours), *OF_TARGETS, *options(ours)}:
        if settings[name]:
            raise ValueError(
                f"{path} has {name} = {settings[name]!r}, which is not known here, so nobody can say what it changes;"
                " remove it if it changes nothing."
            )
    mapped = mapped_class(settings)
    # A wrapper's class says nothing of the head.
    if isinstance(mapped, str) and mapped.lower().startswith(kind.model_type):
        check_class(mapped, kind, f"the adapter of {path}: its base")
    return settings


def mapped_class(settings):
    """Return the class of transformers that PEFT names where no task does."""
    return (settings.get("auto_mapping") or {}).get("base_model_class")


def our_config(settings, model, names, folder):
    """Return the configuration in an adapter file, {path: its names} of the adapted nodes, and the paths of nodes that
    the file holds whole but does not train; `names` are its tensors, {ours: theirs}."""
    path, nodes, method = folder / "adapter_config.json", all_nodes(model), method_in(settings)
    paths = {node.hf: place for place, node in nodes.items() if getattr(node, "hf", "")}
    targets, own, ends = {}, {}, [theirs for theirs, _ in method.tensors.values()]
    given = {name: settings[name] for name in own_settings(method.config) if name in settings}
    if method.together and ends[0] in names:
        targets = targets_of(model, method.config(**given))
    for name, theirs in names.items() if not method.together else ():
        end = next((end for end in ends if name.endswith(f".{end}")), None)
        if end is None:
            continue
        module = name.removesuffix(f".{end}")
        place = paths.get(module)
        if not method.config.adapts(place, nodes.get(place)):
            raise ValueError(
                f"{folder} adapts {module}, which is no {method.config.ADAPTS} of this model; {nearest(module, paths)}"
            )
        targets[place] = hf_names(model, place, nodes[place])
        theirs = theirs.removeprefix(ROOT).removesuffix(f".{end}")
        own[theirs] = theirs if theirs in targets[place] else targets[place][0]
    if not targets:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} holds no {ends[0].removesuffix('.weight')}; expected an"
            f" adapter of {method.name} as PEFT saves it."
        )
    if not method.together:
        check_complete(settings, model, targets, folder, method.config.adapts)
        check_named(settings, model, own, folder)
    for name, default in method.config.PARTS.items():
        part = default if given.get(name) is None else given[name]
        given[name] = [new for old, new in own.items() if is_part(part, (old,))]
    # With a task_type that has a head PEFT writes every usual name of a head, whether the model has it or not.
    saved = [canonical(model, name) for name in settings.get("modules_to_save") or []]
    saved = [name for name in saved if name not in HEADS or any(name in around((hf,)) for hf in paths)]
    check_untied(model, saved)
    native = model.head is not None and not has_own_head(model)
    try:
        for name in method.config.PATTERNS.values():
            given[name] = translated(given.get(name) or {}, own)
        config = method.config(
            **given,
            target_modules=None if method.together else [names_[0] for names_ in targets.values()],
            modules_to_save=saved or None,
            task_type=settings.get("task_type") if native else None,
        )
        covered = trained_whole(model, config)
    except (ValueError, re.error) as error:
        raise ValueError(f"{path}: {error}") from error
    in_files, single = file_names(model), config.beside(model)
    whole = [name for parameter, name in in_files.items() if name in names and parameter not in single]
    in_file = [paths.get(name.rpartition(".")[0]) for name in whole]
    beside = [path_ for path_ in dict.fromkeys(in_file) if path_ is not None and path_ not in covered]
    return config if not beside else dataclasses.replace(config, modules_to_save=[*saved, *beside]), targets, beside
