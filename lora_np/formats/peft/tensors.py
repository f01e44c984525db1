"""adapter_model.safetensors: an adapter's arrays are written, and put onto a base."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np

from lora_np.adapt.methods import adapt, check_plain, registered, sizes, tensors_of
from lora_np.adapt.targets import HEADS, hf_name, to_peft
from lora_np.files import about, check_fields, parse_json, renamed
from lora_np.formats.huggingface import (
    HEAD_MARK,
    check_finite,
    file_names,
    from_file,
    has_own_head,
    held,
    load_head,
    opened,
    to_file,
    with_token_head,
    write_folder,
)
from lora_np.formats.peft.config import (
    adapted,
    check_carried,
    checked_settings,
    mapped_class,
    method_in,
    our_config,
    own_settings,
    peft_config,
    saved_whole,
)
from lora_np.formats.peft.names import OUTER, ROOT, all_nodes, canonical, unwrapped
from lora_np.model import architectures
from lora_np.model.architectures.architecture import TOKEN_CLASSIFIER
from lora_np.model.heads import ClassifierHead, TiedHead, TokenHead
from lora_np.model.nodes import Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import fingerprint, freeze, lies_in, locked, parameters, rebuild, unfreeze, with_arrays

# In the metadata.
BASE_MARK, LENGTH_MARK, OURS_MARK = "lora_np_base_sha256", "lora_np_max_seq_length", "lora_np_options"
CONVERTED_MARK = "lora_np_converted"


def save_adapter(model: Transformer, folder: str | os.PathLike, base: str | os.PathLike | None = None) -> None:
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
    write_prepared(model, folder, *prepared(model, base))


def write_prepared(model, folder, tensors, content, fields, marks):
    write_folder(model, folder, "adapter_model.safetensors", tensors, "adapter_config.json", content, fields, **marks)


def prepared(model, base):
    """Return what a folder is to hold: tensors, the content of adapter_config.json, which of its fields the metadata
    are to agree with, and what these say beside; raise as `save_adapter` does."""
    check_carried(model)
    if not isinstance(base, (str, Path, type(None))):
        raise ValueError(f"base must be the name or the folder of the base model, but it is {base!r}.")
    saved, method = saved_whole(model), registered("config", model.adapter)
    tensors, covered, marks, root = {}, set(), {}, OUTER if method.together else ROOT
    held = method.as_saved(model)
    if registered("config", held.adapter) is not method:
        own = peft_config(model, saved, None)
        marks[CONVERTED_MARK] = json.dumps({name: own[name] for name in own_settings(method.config)})
    model = held
    for path, node in adapted(model).items():
        for name, (theirs, transposed) in tensors_of(node).items():
            array = getattr(node, name)
            key = theirs if method.together else f"{ROOT}{to_peft(model, hf_name(model, path, node))}.{theirs}"
            array = array.T if transposed else array
            tensors[key] = np.concatenate([tensors[key], array], axis=1) if key in tensors else array
            covered.add(f"{path}.{name}")
    tensors |= shared_tensors(model)
    for path, (name, array) in whole(model, saved).items():
        tensors[f"{root}{to_peft(model, name)}"] = to_file(model, path, array)
        covered.add(path)
    if "embeddings.word" in saved and isinstance(model.head, TiedHead):
        tensors[f"{ROOT}lm_head.weight"] = model.embeddings.word.table  # the output is the same, also in PEFT
    for name in parameters(model, trainable_only=True):
        if name not in covered and not (has_own_head(model) and name.startswith("head.")):
            raise ValueError(
                f"{name} is trained, but an adapter folder would not hold it; name its node in the configuration's"
                " modules_to_save."
            )
    check_finite(tensors)
    marks[BASE_MARK] = base_hash(model, saved)
    if length := model.config.get("max_seq_length"):
        marks[LENGTH_MARK] = str(length)
    content = peft_config(model, saved, None if base is None else str(base))
    kind = method.config
    if kind.OURS:
        marks[OURS_MARK] = json.dumps({name: getattr(model.adapter, name) for name in kind.OURS})
    return tensors, content, kind.FIELDS, marks


def shared_tensors(model):
    """Return what the nodes of an adapter share, {its name in PEFT's files: tensor as it lies there}."""
    shared, nodes, found = registered("config", model.adapter).shared, adapted(model), {}
    for name, (theirs, transposed) in shared.tensors.items() if shared else ():
        (first, array), *others = ((path, getattr(node, name)) for path, node in nodes.items())
        for path, other in others:
            if other is not array and not np.array_equal(other, array):
                raise ValueError(
                    f"{path}.{name} is another array than {first}.{name}, but a file holds one for all nodes; put the"
                    " same into each."
                )
        found[theirs] = array.T if transposed else array
    return found


def base_hash(model, saved):
    """Return a hash of the base under an adapter: all that the adapter's folder does not hold itself."""
    held = [*saved, *model.adapter.beside(model)]
    return fingerprint(model, [*held, "head"] if has_own_head(model) else held)


def whole(model, saved):
    """Return {parameter: (its name in a file, the array)} for the nodes that are saved whole, and what is trained of
    others."""
    live, found = parameters(model), {}
    for path, name in file_names(model).items():
        if lies_in(path, [*saved, *model.adapter.beside(model)]):
            found[path] = architectures.of(model.config).qualified(name, model.hf_prefix), live[path]
    return found


def load_adapter(model: Transformer, folder: str | os.PathLike) -> Transformer:
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
    folder = Path(folder)
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    with about(folder):
        settings = checked_settings(path, architectures.of(model.config))
        file = opened(weights, settings, path)
        if HEAD_MARK in file.metadata:
            model = load_head(model, folder, file.metadata)
            model = unfreeze(model, "head.classifier") if file.metadata[HEAD_MARK] == "trained" else model
        root = OUTER if method_in(settings).together else ROOT
        names = renamed(unwrapped(file, weights), lambda name: canonical(model, name.removeprefix(root)), weights)
        shapes = {name: file.shapes[theirs] for name, theirs in names.items()}
        model = with_vocabulary(with_classifier(model, settings, shapes, weights), shapes)
        prefix = architectures.of(model.config).prefix
        if model.head is None and any(name.startswith(f"{ROOT}{prefix}") for name in file):
            # It was trained below a head; our file is to say so, too.
            model = dataclasses.replace(model, hf_prefix=prefix)
        config, targets, beside = our_config(settings, model, names, folder)
        config = dataclasses.replace(config, **ours(file.metadata, config, weights))
        taken = {name: file[theirs] for name, theirs in names.items()}
        if isinstance(model.head, TiedHead):
            take_tied(taken, model, weights)
        lora, new = put_on(model, config, targets, taken, weights), {}
        saved = saved_whole(lora)
        for parameter, (name, array) in whole(lora, saved).items():
            key = name.removeprefix(lora.hf_prefix)
            new[parameter] = from_file(lora, parameter, take(taken, key, weights), array.dtype, f"{key} in {weights}")
        if config.beside(lora):
            taken.pop("pooler.dense.bias", None)  # that of a pooler which has no part in the output
        if taken:
            raise ValueError(
                f"{weights} holds the tensor {next(iter(taken))}, which matches nothing in this model; the adapter"
                " belongs to another base."
            )
        base = base_hash(lora, saved)
        if file.metadata.get(BASE_MARK, base) != base:
            raise ValueError(
                f"the adapter in {folder} was trained on other weights or settings than these; load it onto its own"
                f" base ({settings.get('base_model_name_or_path') or 'not named'}), which it must not have been merged"
                " into yet, and which must be compressed again if it was (QLoRA, LoftQ)."
            )
        if CONVERTED_MARK in file.metadata:
            lora = restored(lora, model, settings, file.metadata, names, folder)
    length = file.metadata.get(LENGTH_MARK, "")
    if re.fullmatch(r"[1-9]\d{0,8}", length):
        lora = dataclasses.replace(lora, config={**lora.config, "max_seq_length": int(length)})
    # What the file holds whole and does not train is frozen again.
    return rebuild(with_arrays(lora, new), lambda path, node: freeze(node) if path in beside else node)


def restored(lora, model, settings, metadata, names, folder):
    """Return the model as it was adapted when it was saved, by a method that PEFT's files hold as another's."""
    weights = folder / "adapter_model.safetensors"
    own = parse_json(metadata[CONVERTED_MARK].encode(), f"{CONVERTED_MARK} in {weights}")
    method = method_in({**settings, **own})
    if not method.restored or own.keys() != set(own_settings(method.config)):
        raise ValueError(f"{CONVERTED_MARK} in {weights} is {own!r:.80}, of which nothing here makes an adapter.")
    check_fields(own, method.config.FIELDS, weights)
    config, _, _ = our_config({**settings, **own}, model, names, folder)
    return method.restored(lora, config)


def ours(metadata, config, path):
    """Return the fields of a configuration that PEFT does not have, as the metadata of a file say."""
    found = parse_json(metadata.get(OURS_MARK, "{}").encode(), f"{OURS_MARK} in {path}")
    unknown = (lambda _: False, f"nothing here but {', '.join(config.OURS) or 'what adapter_config.json has'}")
    check_fields(found, {name: config.FIELDS[name] if name in config.OURS else unknown for name in found}, path)
    return found


def with_classifier(model, settings, shapes, path):
    """Return the model with a place for the classifier that an adapter brings along, if the model has none of its size.

    PEFT's usual way with task_type="SEQ_CLS" starts from a bare model, whose classifier transformers draws at random:
    the trained one lies in the adapter.
    """
    kind, aside = architectures.of(model.config), dict(model.aside)
    asked = set(settings.get("modules_to_save") or []) & set(HEADS)
    brought = {name for name in shapes if kind.is_outside(name)}
    if has_own_head(model) or not (asked or brought):
        return model
    said = settings.get("task_type") or mapped_class(settings)
    of_tokens = kind.tokens and (said in ("TOKEN_CLS", kind.tokens) if said else isinstance(model.head, TokenHead))
    *lower, top = [TOKEN_CLASSIFIER] if of_tokens else kind.head
    if len(shapes.get(f"{top}.weight", ())) != 2:
        plain = {f"{module}.{part}" for module in (*lower, top) for part in ("weight", "bias")}
        if brought - plain or model.head is not None:  # it is adapted
            return model
        raise ValueError(f"{path} lacks the tensor {top}.weight, the head that the adapter was trained with.")
    d, dtype = model.hidden_size, model.dtype
    labels = shapes[f"{top}.weight"][0]
    fitting = TokenHead if of_tokens else ClassifierHead
    if isinstance(model.head, fitting) and labels == model.head.classifier.W.shape[1]:
        return model
    config = {name: value for name, value in model.config.items() if name not in ("id2label", "label2id")}
    if of_tokens:
        return dataclasses.replace(with_token_head(model, labels), config=config)

    def place_of(outputs, hf, bias=True):
        return freeze(Linear(np.zeros((d, outputs), dtype), np.zeros(outputs, dtype) if bias else None, hf))

    pooler = None
    for module in lower:
        pooler = getattr(model.head, "pooler", None)
        if module == "pooler.dense":
            pooler = aside.pop("pooler", pooler)
        if pooler is None and f"{module}.weight" not in shapes:
            raise ValueError(
                f"the adapter of {path} classifies what the map {module} of {kind.with_head} says, but neither it nor"
                " this base holds that; load it onto the base that it was trained on."
            )
        pooler = pooler or place_of(d, module)
    pooling = kind.pooled_in(config)
    padding = config.get("pad_token_id") if pooling == "last" else None
    head = ClassifierHead(pooler, place_of(labels, top, kind.biased), pooling, kind.bend, padding)
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


def take_tied(tensors, model, path):
    """Leave out the output of GPT-2, which is its table of words once more; another output is refused."""
    table = tensors.get("wte.weight", model.embeddings.word.table)
    if "lm_head.weight" in tensors and not np.array_equal(tensors.pop("lm_head.weight"), table):
        raise ValueError(
            f"{path} holds an output matrix of its own (lm_head.weight), but here GPT-2's output is its table of words;"
            " merge that adapter in PEFT, or train it on linear maps alone."
        )


def put_on(model, config, targets, tensors, path):
    """Return the model with the adapted nodes whose arrays are in `tensors`, out of which they are taken."""
    method, nodes = registered("config", config), all_nodes(model)

    def taken(key, shape, transposed):
        return held(take(tensors, key, path), shape, model.dtype, f"{key} in {path}", transposed)

    common = method.shared
    shapes = common.shapes([sizes(nodes[place]) for place in targets], config) if common else {}
    shared = {
        name: locked(taken(common.tensors[name][0], shape, common.tensors[name][1])) for name, shape in shapes.items()
    }

    beside = side_by_side(method, config, nodes, targets, taken) if method.together else {}

    def replace(place, node):
        mine, own = beside.get(place, {}), config.at(targets[place])
        for name, shape in method.shapes(*sizes(node), own).items():
            if name not in mine:
                theirs, transposed = method.tensors[name]
                mine[name] = taken(f"{node.hf}.{theirs}", shape, transposed)
        return method.wrap(node, own, {**mine, **shared})

    lora = adapt(model, config, targets, replace)
    aside = {name: replace(name, node) if name in targets else node for name, node in model.aside.items()}
    return dataclasses.replace(lora, aside=aside)


def side_by_side(method, config, nodes, targets, taken):
    """Return {place: {field: array}} out of the one tensor in which all arrays lie side by side."""
    shapes = {place: method.shapes(*sizes(nodes[place]), config.at(names)) for place, names in targets.items()}
    flat = [(place, name, shape) for place, own in shapes.items() for name, shape in own.items()]
    key, _ = method.tensors[flat[0][1]]
    widths = [shape[1] for *_, shape in flat]
    parts = np.split(taken(key, (flat[0][2][0], sum(widths)), False), np.cumsum(widths)[:-1], axis=1)
    found = {place: {} for place in shapes}
    for (place, name, _), part in zip(flat, parts):
        found[place][name] = np.ascontiguousarray(part)
    return found


def take(tensors, key, path):
    if key not in tensors:
        raise ValueError(f"{path} lacks the tensor {key}; the adapter is incomplete.")
    return tensors.pop(key)
