"""Adapter folders as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.

PEFT's `lora_A` is (r, d_in) and its `lora_B` (d_out, r), our A and B transposed; they exist in this file alone. A
classifier that transformers has no class for lies beside, in head.safetensors and head.json, and `load_adapter`
insists on it: an adapter without its head would fall to chance without a word.

The metadata of adapter_model.safetensors, which PEFT passes over, say what the adapter depends on: the weights of its
base, the settings in adapter_config.json, the head, and how many tokens of a text it was trained to read.
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np

from lora_np.adapt.lora import (
    HEADS,
    TASKS,
    LoRAConfig,
    LoRALinear,
    adapt,
    around,
    check_plain,
    check_untied,
    scale_of,
    trained_whole,
)
from lora_np.adapt.peft_options import AFTERWARDS, OPTIONS, check_neutral
from lora_np.files import (
    about,
    check_fields,
    is_names,
    is_number,
    is_whole,
    json_bytes,
    read_json,
    renamed,
    write_together,
)
from lora_np.files.safetensors import open_weights, safetensors_pieces
from lora_np.formats.huggingface import (
    HEAD_MARK,
    SETTINGS,
    check_class,
    check_finite,
    check_settings,
    file_names,
    from_file,
    has_own_head,
    head_files,
    head_mark,
    held,
    load_head,
    remove_old_head,
    standard,
    to_file,
)
from lora_np.model import architectures
from lora_np.model.heads import ClassifierHead, TiedHead
from lora_np.model.names import by_pattern, from_peft, hf_name, hf_names, is_full, is_named, layer_number, to_peft
from lora_np.model.nodes import Linear
from lora_np.model.tree import arrays, fingerprint, freeze, is_trainable, nearest, parameters, rebuild, unfreeze, walk

OURS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern")
OF_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "task_type")
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights
BASE_MARK, LENGTH_MARK = "lora_np_base_sha256", "lora_np_max_seq_length"  # in the metadata


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


def save_adapter(model, folder, base=None):
    """Write the adapter of a model in PEFT's format; the base model is not written.

    Parameters
    ----------
    model : Transformer
        Made by `inject`.
    folder : path
    base : str or path, optional
        The name or folder of the base model, for `base_model_name_or_path`.

    Raises
    ------
    ValueError
        If there is no adapter, something else was trained that the folder would not hold, a number is not finite, or a
        head.json of something else lies in the folder. Nothing has been written then.
    """
    check_carried(model)
    if not isinstance(base, (str, Path, type(None))):
        raise ValueError(f"base must be the name or the folder of the base model, but it is {base!r}.")
    folder = Path(folder)
    saved = saved_whole(model)
    tensors, covered = {}, set()
    for path, node in detours(model):
        name = f"base_model.model.{to_peft(model, hf_name(model, path, node))}"
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = node.A.T, node.B.T
        covered |= {f"{path}.A", f"{path}.B"}
    for path, (name, array) in whole(model, saved).items():
        tensors[f"base_model.model.{to_peft(model, name)}"] = to_file(model, path, array)
        covered.add(path)
    if "embeddings.word" in saved and isinstance(model.head, TiedHead):
        tensors["base_model.model.lm_head.weight"] = model.embeddings.word.table  # the output is the same, also in PEFT
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
    check_finite(tensors)
    settings, head = peft_config(model, saved, None if base is None else str(base)), head_files(model, folder)
    metadata = {"format": "pt", BASE_MARK: base_hash(model, saved), **head_mark(model, head)}
    metadata[SETTINGS] = json.dumps({name: settings[name] for name in OURS})
    if model.config.get("max_seq_length"):
        metadata[LENGTH_MARK] = str(model.config["max_seq_length"])
    write_together(
        {
            **head,
            folder / "adapter_model.safetensors": safetensors_pieces(tensors, metadata),
            folder / "adapter_config.json": [json_bytes(settings)],
        }
    )
    remove_old_head(model, folder)


def detours(model):
    """Yield (path, node) of the adapted nodes; the pooler of a model without a head lies aside."""
    for path, node in (*walk(model), *model.aside.items()):
        if isinstance(node, LoRALinear):
            yield path, node


def check_carried(model):
    """Raise unless a model's nodes are adapted, and in the way that the configuration it carries says."""
    config = model.adapter
    if not any(detours(model)):
        raise ValueError(
            "this model has no LoRA adapter to save; make one by inject, or save the whole model by save_model."
        )
    if not isinstance(config, LoRAConfig):
        raise ValueError(
            f"this model is adapted, but its field adapter is {config!r}, not the LoRAConfig by which inject made it;"
            " put that back by dataclasses.replace(model, adapter=config)."
        )
    for path, node in detours(model):
        names, r = hf_names(model, path, node), node.A.shape[1]
        if (by_pattern(config.rank_pattern, names, config.r), scale_of(config, names, r)) != (r, node.scale):
            raise ValueError(
                f"{path} has r = {r} and the scale {node.scale:g}, but the configuration that the model carries says"
                f" otherwise ({config}); a file would hold another adapter than this. Inject with a configuration that"
                " says what you want."
            )


def saved_whole(model):
    """Return the paths of the nodes that are saved whole; a head of our own lies in files of its own."""
    own = ["head.classifier"] if has_own_head(model) else []
    return [path for path in trained_whole(model, model.adapter) if path not in own]


def base_hash(model, saved):
    """Return a hash of the base under an adapter: all that the adapter's folder does not hold itself."""
    return fingerprint(model, [*saved, "head"] if has_own_head(model) else saved)


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
    """Return the content of adapter_config.json. The targets stand there by their full names; what is saved whole but
    not trained does not stand there, as PEFT has it with the table of a larger vocabulary."""
    config, nodes = model.adapter, dict(walk(model))
    names = {
        path: hf_name(model, path, node) for path, node in (*walk(model), *model.aside.items()) if hasattr(node, "hf")
    }
    targets = {names[path]: to_peft(model, names[path]) for path, _ in detours(model)}
    on_own_head = config.task_type == "SEQ_CLS" and "head.classifier" not in saved
    return {
        "peft_type": "LORA",
        "task_type": None if on_own_head else config.task_type,
        "base_model_name_or_path": base,
        "target_modules": list(targets.values()),
        "modules_to_save": [to_peft(model, names[path]) for path in saved if is_trainable(nodes[path])] or None,
        "bias": "none",
        "fan_in_fan_out": not architectures.of(model.config).transposed,
        "inference_mode": True,
        **{name: getattr(config, name) for name in OURS},
        **{name: translated(getattr(config, name), targets) for name in ("rank_pattern", "alpha_pattern")},
    }


def load_adapter(model, folder):
    """Return a new model: `model` with the adapter of a PEFT folder on it, ready to use or to train further.

    What PEFT reads is read: a rank above that of a matrix, patterns that match nothing, a classifier for a base without
    one, embeddings that were saved with the adapter, also for a larger vocabulary.

    Parameters
    ----------
    model : Transformer
        The base, without an adapter.
    folder : path

    Raises
    ------
    ValueError
        If a file is missing or damaged, PEFT's settings go beyond plain LoRA, a tensor matches nothing, is missing, has
        the wrong shape or is not finite, the head is missing, or the adapter was trained on another base.
    """
    check_plain(model)
    with about(Path(folder)):
        return read_adapter(model, Path(folder))


def read_adapter(model, folder):
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    settings = checked_settings(path, architectures.of(model.config))
    file = open_weights(weights)
    check_settings(settings, file.metadata, path)
    if HEAD_MARK in file.metadata:
        model = load_head(model, folder, file.metadata)
        model = unfreeze(model, "head.classifier") if file.metadata[HEAD_MARK] == "trained" else model
    names = renamed(unwrapped(file, weights), lambda name: canonical(model, name), weights)
    shapes = {name: file.shapes[theirs] for name, theirs in names.items()}
    model = with_vocabulary(with_classifier(model, settings, shapes, weights), shapes)
    prefix = architectures.of(model.config).prefix
    if model.head is None and any(name.startswith(f"base_model.model.{prefix}") for name in file):
        model = dataclasses.replace(model, hf_prefix=prefix)  # it was trained below a head; our file is to say so, too
    config, targets, beside = our_config(settings, model, names, folder)
    taken = {name: file[theirs] for name, theirs in names.items()}
    if isinstance(model.head, TiedHead):
        take_tied(taken, model, weights)
    lora, new = put_on(model, config, targets, taken, weights), {}
    saved = saved_whole(lora)
    for parameter, (name, array) in whole(lora, saved).items():
        key = name.removeprefix(lora.hf_prefix)
        new[parameter] = from_file(lora, parameter, take(taken, key, weights), array.dtype, f"{key} in {weights}")
    if taken:
        raise ValueError(
            f"{weights} holds the tensor {next(iter(taken))}, which matches nothing in this model; the adapter belongs"
            " to another base."
        )
    if file.metadata.get(BASE_MARK, base_hash(lora, saved)) != base_hash(lora, saved):
        raise ValueError(
            f"the adapter in {folder} was trained on other weights or settings than these; load it onto its own base"
            f" ({settings.get('base_model_name_or_path') or 'not named'}), which it must not have been merged into yet."
        )
    return finished(lora, new, beside, file.metadata)


def checked_settings(path, kind):
    """Return the content of an adapter_config.json, each field of its kind and none that asks for another adapter."""
    if not path.is_file() and (named := sorted(path.parent.glob(f"*/{path.name}"))):
        raise ValueError(
            f"{path.parent} holds no {path.name}, but adapters by name: {', '.join(p.parent.name for p in named)}; give"
            f" the folder of one, such as {named[0].parent}."
        )
    settings = read_json(path)
    check_fields(settings, FIELDS, path)
    check_neutral(
        settings, AFTERWARDS, f"{path}: ", "it is another kind of adapter, which PEFT can merge into its base"
    )
    for name in settings.keys() - {*OURS, *OF_TARGETS, *OPTIONS}:
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


def unwrapped(file, path):
    """Yield (name, name in the file) of its tensors, without what PEFT's wrapper adds where a table of words is both
    trained and saved for its size: the trained one once more, and the one before the training."""
    for name in file:
        plain = re.sub(r"\.modules_to_save\.(?=\w+$)", ".", name)
        if plain != name and plain in file:
            if not np.array_equal(file[plain], file[name]):
                raise ValueError(f"{path} holds {plain} twice, with other numbers; nobody can tell which is meant.")
        elif ".original_module." not in name:
            yield plain, name


def canonical(model, name):
    """Return a tensor's name in an adapter file without the wrappers' prefixes, in the names that our nodes carry."""
    return from_peft(model, standard(name.removeprefix("base_model.model."), architectures.of(model.config)))


def translated(patterns, names):
    """Return patterns that give the new names what `patterns` give the old, for {old: new}."""
    if all(old == new for old, new in names.items()):
        return patterns
    found = {new: by_pattern(patterns, (old, new), None) for old, new in names.items()}
    return {re.escape(new): value for new, value in found.items() if value is not None}


def with_classifier(model, settings, shapes, path):
    """Return the model with a place for the classifier that an adapter brings along, if the model has none of its size.

    PEFT's usual way with task_type="SEQ_CLS" starts from a bare model, whose classifier transformers draws at random:
    the trained one lies in the adapter.
    """
    kind, aside = architectures.of(model.config), dict(model.aside)
    asked = set(settings.get("modules_to_save") or []) & set(HEADS)
    if has_own_head(model) or kind.tied or not (asked or any(name.startswith("classifier.") for name in shapes)):
        return model
    if len(shapes.get("classifier.weight", ())) != 2:
        if any(name.startswith("classifier.lora_A") for name in shapes) or model.head is not None:
            return model
        raise ValueError(f"{path} lacks the tensor classifier.weight, the head that the adapter was trained with.")
    d, dtype = model.hidden_size, model.dtype
    labels = shapes["classifier.weight"][0]
    if model.head is not None and labels == model.head.classifier.W.shape[1]:
        return model
    classifier = freeze(Linear(np.zeros((d, labels), dtype), np.zeros(labels, dtype), "classifier"))
    if kind.pooled:
        pooler = aside.pop("pooler", getattr(model.head, "pooler", None))
        if pooler is None and "pooler.dense.weight" not in shapes:
            raise ValueError(
                f"the adapter of {path} classifies what BERT's pooler says, but neither it nor this base holds a"
                " pooler; load it onto the base that it was trained on."
            )
        pooler = pooler or freeze(Linear(np.zeros((d, d), dtype), np.zeros(d, dtype), "pooler.dense"))
        head = ClassifierHead(pooler, classifier, "first")
    else:
        head = ClassifierHead(None, classifier, "mean" if model.embeddings.class_token is None else "first")
    config = {name: value for name, value in model.config.items() if name not in ("id2label", "label2id")}
    return dataclasses.replace(model, head=head, hf_prefix=kind.prefix, aside=aside, config=config)


def with_vocabulary(model, shapes):
    """Return the model with a place for the table of words that an adapter brings along, if it has other rows."""
    table = getattr(getattr(model.embeddings, "word", None), "table", None)
    shape = table is not None and shapes.get(file_names(model)["embeddings.word.table"])
    if not shape or len(shape) != 2 or shape[0] == len(table) or shape[1] != table.shape[1]:
        return model
    word = dataclasses.replace(model.embeddings.word, table=np.zeros(shape, table.dtype))
    embeddings = dataclasses.replace(model.embeddings, word=freeze(word))
    return dataclasses.replace(model, embeddings=embeddings, config={**model.config, "vocab_size": shape[0]})


def our_config(settings, model, names, folder):
    """Return the LoRAConfig of an adapter file, {path: its names} of the adapted nodes, and the paths of the nodes that
    the file holds whole but does not train; `names` are its tensors, {ours: theirs}."""
    path, nodes = folder / "adapter_config.json", {**dict(walk(model)), **model.aside}
    paths = {node.hf: path_ for path_, node in nodes.items() if getattr(node, "hf", "")}
    targets, own = {}, {}
    for name in names:
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            node = nodes.get(paths.get(module))
            if not isinstance(node, Linear) or paths[module] == "embeddings.projection":
                raise ValueError(
                    f"{folder} adapts {module}, which is no linear map of this model; {nearest(module, paths)}"
                )
            targets[paths[module]] = hf_names(model, paths[module], node)
            theirs = names[name].removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            own[theirs] = theirs if theirs in targets[paths[module]] else targets[paths[module]][0]
    if not targets:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} holds no lora_A; expected a LoRA adapter as PEFT saves it."
        )
    check_complete(settings, model, targets, folder)
    check_named(settings, model, own, folder)
    given = {name: settings[name] for name in OURS if settings.get(name) is not None}
    for name in ("rank_pattern", "alpha_pattern"):
        given[name] = translated(given.get(name, {}), own)
    # PEFT's task_type="SEQ_CLS" writes every usual name of a head, whether the model has it or not.
    saved = [canonical(model, name) for name in settings.get("modules_to_save") or []]
    saved = [name for name in saved if name not in HEADS or name in paths]
    check_untied(model, saved)
    native = model.head is not None and not has_own_head(model)
    try:
        config = LoRAConfig(
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


def check_named(settings, model, theirs, folder):
    """Raise if the file has matrices for a map that target_modules does not name: PEFT would pass them over."""
    wanted, left_out = settings.get("target_modules"), settings.get("exclude_modules") or []
    if wanted is None or (isinstance(wanted, str) and wanted.lower() == "all-linear"):
        return
    for name in theirs:
        names = (name, to_peft(model, name), from_peft(model, name))
        if not is_named(wanted, names[0], names) or is_named(left_out, names[0], names):
            raise ValueError(
                f"{folder / 'adapter_model.safetensors'} adapts {name}, which target_modules in adapter_config.json"
                " does not name, or exclude_modules does; the two do not belong together."
            )


def check_complete(settings, model, targets, folder):
    """Raise if target_modules means linear maps of the model for which the file has no matrices.

    Only those of the layers count, and names that mean nothing else: the adapter may have been trained on a model with
    another head.
    """
    wanted, kind = settings.get("target_modules"), architectures.of(model.config)
    nodes = (*walk(model), *model.aside.items())
    linear = {path: node for path, node in nodes if isinstance(node, Linear) and node.hf}
    names = {path: (*hf_names(model, path, node), node.hf, to_peft(model, node.hf)) for path, node in linear.items()}
    if isinstance(wanted, list):
        wanted = [name.removeprefix(kind.prefix) for name in wanted]
    elif wanted is None or wanted.lower() == "all-linear":
        wanted = None if wanted is None else ".*"
    layers = settings.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    whole_ = [canonical(model, name) for name in settings.get("modules_to_save") or []]
    try:
        names = {
            path: named
            for path, named in names.items()
            if not is_named(settings.get("exclude_modules") or [], path, named)
            and not is_named(whole_, path, around(named))
            and (not layers or layer_number(path) in layers or is_full(wanted or (), named))
        }
        missing = [
            path
            for path, named in names.items()
            if path not in targets
            and layer_number(path) is not None
            and wanted is not None
            and is_named(wanted, path, named)
        ]
        for name in wanted if isinstance(wanted, list) else ():
            meant = [path for path, named in names.items() if is_named([name], path, named)]
            missing += [] if set(meant) & {*targets, *missing} else meant
    except re.error as error:
        raise ValueError(f"{folder / 'adapter_config.json'}: target_modules or exclude_modules ({error}).") from error
    if missing:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} has no matrices for {len(missing)} of the maps that target_modules"
            f" names, {', '.join(names[path][0] for path in missing[:3])} among them; it is incomplete."
        )


def take_tied(tensors, model, path):
    """Leave out the output of GPT-2, which is its table of words once more; another output is refused."""
    table = tensors.get("wte.weight", model.embeddings.word.table)
    if "lm_head.weight" in tensors and not np.array_equal(tensors.pop("lm_head.weight"), table):
        raise ValueError(
            f"{path} holds an output matrix of its own (lm_head.weight), but here GPT-2's output is its table of words;"
            " merge that adapter in PEFT, or train it on linear maps alone."
        )


def put_on(model, config, targets, tensors, path):
    """Return the model with the detours whose matrices are in `tensors`, out of which they are taken."""

    def detour(place, node):
        (d_in, d_out), names = node.W.shape, targets[place]
        r = by_pattern(config.rank_pattern, names, config.r)
        keys = (f"{node.hf}.lora_A.weight", f"{node.hf}.lora_B.weight")
        A = held(take(tensors, keys[0], path), (r, d_in), (d_in, r), model.dtype, f"{keys[0]} in {path}", True)
        B = held(take(tensors, keys[1], path), (d_out, r), (r, d_out), model.dtype, f"{keys[1]} in {path}", True)
        return LoRALinear(node.W, node.b, A, B, scale_of(config, names, r), config.lora_dropout, node.hf)

    lora = adapt(model, config, targets, detour)
    aside = {name: detour(name, node) if name in targets else node for name, node in model.aside.items()}
    return dataclasses.replace(lora, aside=aside)


def take(tensors, key, path):
    if key not in tensors:
        raise ValueError(f"{path} lacks the tensor {key}; the adapter is incomplete.")
    return tensors.pop(key)


def finished(model, new, beside, metadata):
    """Return the model with the arrays that a file holds whole; those that it does not train are frozen again."""

    def change(path, node):
        mine = {name: new[f"{path}.{name}"] for name in arrays(node) if f"{path}.{name}" in new}
        node = dataclasses.replace(node, **mine)
        return freeze(node) if path in beside else node

    model = rebuild(model, change)
    length = metadata.get(LENGTH_MARK, "")
    if re.fullmatch(r"[1-9]\d{0,8}", length):
        model = dataclasses.replace(model, config={**model.config, "max_seq_length": int(length)})
    return model
