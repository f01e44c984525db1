"""adapter_config.json: what is written there, what is taken out of it, and what is refused."""

import dataclasses

from lora_np.adapt.config import AFTERWARDS, OPTIONS, TASKS, PeftOptions, check_neutral, options
from lora_np.adapt.methods import METHODS, registered
from lora_np.adapt.targets import HEADS, check_untied, hf_name, hf_names, to_peft, trained_whole
from lora_np.files import check_fields, is_names, is_number, is_whole, read_json
from lora_np.formats.huggingface import check_class, file_names, has_own_head
from lora_np.formats.peft.names import ROOT, canonical, check_complete, check_named, translated
from lora_np.model import architectures
from lora_np.model.nodes import Linear
from lora_np.model.tree import is_trainable, nearest, walk

OF_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "task_type")
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights

OR_NULL = "or null"
FIELDS = {
    "r": (is_whole, "a positive integer"),
    "lora_alpha": (lambda value: is_number(value) and 0 < value < 1e30, "a positive number"),
    "lora_dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "use_rslora": (lambda value: value is None or isinstance(value, bool), f"true, false {OR_NULL}"),
    "target_modules": (
        lambda value: value is None or isinstance(value, str) or is_names(value),
        "a list of names, or one text",
    ),
    "exclude_modules": (
        lambda value: value is None or isinstance(value, str) or is_names(value),
        "a list of names, or one text",
    ),
    "modules_to_save": (lambda value: value is None or is_names(value), f"a list of names {OR_NULL}"),
    "layers_to_transform": (
        lambda value: value is None or are_layers(value),
        f"a layer's number, a list of them {OR_NULL}",
    ),
    "rank_pattern": (
        lambda value: value is None or is_by_name(value, is_whole),
        f"positive integers by name {OR_NULL}",
    ),
    "alpha_pattern": (lambda value: value is None or is_by_name(value, is_number), f"numbers by name {OR_NULL}"),
    "base_model_name_or_path": (lambda value: value is None or isinstance(value, str), f"a text {OR_NULL}"),
    "task_type": (lambda value: value is None or isinstance(value, str), f"a text {OR_NULL}"),
    "peft_type": (lambda value: value is None or isinstance(value, str), f"a text {OR_NULL}"),
    "auto_mapping": (lambda value: value is None or isinstance(value, dict), f"names of classes {OR_NULL}"),
}


def are_layers(value):
    return all(type(layer) is int and layer >= 0 for layer in (value if isinstance(value, list) else [value]))


def is_by_name(value, fits):
    return isinstance(value, dict) and all(map(fits, value.values()))


def own_settings(kind):
    """Return the names of what a configuration says beside what is adapted."""
    return [field.name for field in dataclasses.fields(kind) if field.name not in OF_TARGETS]


def marks(kind):
    """Return the options by whose values a file tells a method from LoRA."""
    return {name: getattr(kind, name) for name in OPTIONS if getattr(kind, name) != getattr(PeftOptions, name)}


def method_in(settings):
    """Return the registered method of an adapter_config.json: the one with the most of its marks there."""
    fitting = [method for method in METHODS.values() if marks(method.config).items() <= settings.items()]
    return max(fitting, key=lambda method: len(marks(method.config)))


def check_carried(model):
    """Raise unless a model's nodes are adapted, and in the way that the configuration it carries says."""
    config = model.adapter
    if not any(adapted(model)):
        raise ValueError(
            "this model has no LoRA adapter to save; make one by inject, or save the whole model by save_model."
        )
    for path, node in adapted(model):
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
    """Yield (path, node) of the adapted nodes; the pooler of a model without a head lies aside."""
    for path, node in (*walk(model), *model.aside.items()):
        if registered("node", node):
            yield path, node


def saved_whole(model):
    """Return the paths of the nodes that are saved whole; a head of our own lies in files of its own."""
    own = ["head.classifier"] if has_own_head(model) else []
    return [path for path in trained_whole(model, model.adapter) if path not in own]


def peft_config(model, saved, base):
    """Return the content of adapter_config.json. The targets stand there by their full names; what is saved whole but
    not trained does not stand there, as PEFT has it with the table of a larger vocabulary."""
    config, nodes = model.adapter, dict(walk(model))
    names = {
        path: hf_name(model, path, node) for path, node in (*walk(model), *model.aside.items()) if hasattr(node, "hf")
    }
    targets = {names[path]: to_peft(model, names[path]) for path, _ in adapted(model)}
    on_own_head = config.task_type == "SEQ_CLS" and "head.classifier" not in saved
    return {
        "peft_type": config.peft_type,
        "task_type": None if on_own_head else config.task_type,
        "base_model_name_or_path": base,
        "target_modules": list(targets.values()),
        "modules_to_save": [to_peft(model, names[path]) for path in saved if is_trainable(nodes[path])] or None,
        "bias": "none",
        "fan_in_fan_out": not architectures.of(model.config).transposed,
        "inference_mode": True,
        **marks(type(config)),
        **{name: getattr(config, name) for name in own_settings(type(config))},
        **{name: translated(getattr(config, name), targets) for name in config.PATTERNS.values()},
    }


def checked_settings(path, kind):
    """Return the content of an adapter_config.json, each field of its kind and none that asks for another adapter."""
    if not path.is_file() and (named := sorted(path.parent.glob(f"*/{path.name}"))):
        raise ValueError(
            f"{path.parent} holds no {path.name}, but adapters by name: {', '.join(p.parent.name for p in named)}; give"
            f" the folder of one, such as {named[0].parent}."
        )
    settings = read_json(path)
    check_fields(settings, FIELDS, path)
    ours, way_out = method_in(settings).config, "it is another kind of adapter, which PEFT can merge into its base"
    check_neutral(settings, AFTERWARDS, f"{path}: ", way_out, ours)
    for name in settings.keys() - {*own_settings(ours), *OF_TARGETS, *options(ours)}:
        if settings[name]:
            raise ValueError(
                f"{path} has {name} = {settings[name]!r}, which is not known here, so nobody can say what it changes;"
                " remove it if it changes nothing."
            )
    if str(settings.get("init_lora_weights")).lower().startswith(CHANGES_BASE):
        raise ValueError(
            f"the adapter of {path} was started by {settings['init_lora_weights']}, which changes the base weights,"
            " too; let PEFT convert it to plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)."
        )
    if settings.get("task_type") not in TASKS:
        raise ValueError(
            f"{path} has task_type = {settings['task_type']!r}, a head that is not computed here; expected one of"
            f" {', '.join(map(repr, TASKS[1:]))}."
        )
    mapped = (settings.get("auto_mapping") or {}).get("base_model_class")
    # A wrapper's class says nothing of the head.
    if isinstance(mapped, str) and mapped.lower().startswith(kind.model_type):
        check_class(mapped, kind, f"the adapter of {path}: its base")
    return settings


def our_config(settings, model, names, folder):
    """Return the configuration in an adapter file, {path: its names} of the adapted nodes, and the paths of nodes that
    the file holds whole but does not train; `names` are its tensors, {ours: theirs}."""
    path, nodes = folder / "adapter_config.json", {**dict(walk(model)), **model.aside}
    paths = {node.hf: path_ for path_, node in nodes.items() if getattr(node, "hf", "")}
    targets, own, method = {}, {}, method_in(settings)
    first = next(theirs for theirs, _ in method.tensors.values())
    for name in names:
        if name.endswith(f".{first}"):
            module = name.removesuffix(f".{first}")
            node = nodes.get(paths.get(module))
            if not isinstance(node, Linear) or paths[module] == "embeddings.projection":
                raise ValueError(
                    f"{folder} adapts {module}, which is no linear map of this model; {nearest(module, paths)}"
                )
            targets[paths[module]] = hf_names(model, paths[module], node)
            theirs = names[name].removeprefix(ROOT).removesuffix(f".{first}")
            own[theirs] = theirs if theirs in targets[paths[module]] else targets[paths[module]][0]
    if not targets:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} holds no {first.removesuffix('.weight')}; expected a {method.name}"
            " adapter as PEFT saves it."
        )
    check_complete(settings, model, targets, folder)
    check_named(settings, model, own, folder)
    given = {name: settings[name] for name in own_settings(method.config) if settings.get(name) is not None}
    for name in method.config.PATTERNS.values():
        given[name] = translated(given.get(name, {}), own)
    # PEFT's task_type="SEQ_CLS" writes every usual name of a head, whether the model has it or not.
    saved = [canonical(model, name) for name in settings.get("modules_to_save") or []]
    saved = [name for name in saved if name not in HEADS or name in paths]
    check_untied(model, saved)
    native = model.head is not None and not has_own_head(model)
    try:
        config = method.config(
            **given,
            target_modules=[names_[0] for names_ in targets.values()],
            modules_to_save=saved or None,
            task_type=settings.get("task_type") if native else None,
        )
        covered = trained_whole(model, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    in_file = [paths.get(name.rpartition(".")[0]) for name in names if name in file_names(model).values()]
    beside = [path_ for path_ in dict.fromkeys(in_file) if path_ is not None and path_ not in covered]
    return config if not beside else dataclasses.replace(config, modules_to_save=[*saved, *beside]), targets, beside
