"""Names in PEFT's files, and whether the file's tensors and its settings name the same maps."""

import re

import numpy as np

from lora_np.adapt.targets import around, by_pattern, from_peft, hf_names, is_full, is_named, layer_number, to_peft
from lora_np.formats.huggingface import standard
from lora_np.model import architectures
from lora_np.model.tree import walk

ROOT = "base_model.model."  # PEFT's wrappers around the model
OUTER = "base_model."  # and the outer one alone, where no module of the model is wrapped


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


def all_nodes(model):
    """Return {path: node} of a model, what lies aside with it: there is the pooler of one without a head."""
    return {**dict(walk(model)), **model.aside}


def canonical(model, name):
    """Return a tensor's name in an adapter file without the wrappers' prefixes, in the names that our nodes carry."""
    return from_peft(model, standard(name.removeprefix(ROOT), architectures.of(model.config)))


def translated(patterns, names):
    """Return patterns that give the new names what `patterns` give the old, for {old: new}."""
    if all(old == new for old, new in names.items()):
        return patterns
    found = {new: by_pattern(patterns, (old, new), None) for old, new in names.items()}
    return {re.escape(new): value for new, value in found.items() if value is not None}


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


def check_complete(settings, model, targets, folder, adapts):
    """Raise if target_modules means nodes of the model, of those that the method `adapts`, which the file has not.

    Only those of the layers count, and names that mean nothing else: the adapter may have been trained on a model with
    another head.
    """
    wanted, prefix = settings.get("target_modules") or [], architectures.of(model.config).prefix
    if isinstance(wanted, list):
        wanted = [name.removeprefix(prefix) for name in wanted]
    elif wanted.lower() == "all-linear":
        wanted = ".*"
    left_out, layers = settings.get("exclude_modules") or [], settings.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    whole = [canonical(model, name) for name in settings.get("modules_to_save") or []]
    names, missing = {}, []
    for path, node in all_nodes(model).items():
        if adapts(path, node) and node.hf:
            named = (*hf_names(model, path, node), node.hf, to_peft(model, node.hf))
            chosen = not layers or layer_number(path) in layers or is_full(wanted, named)
            if chosen and not is_named(left_out, path, named) and not is_named(whole, path, around(named)):
                names[path] = named
                if path not in targets and layer_number(path) is not None and is_named(wanted, path, named):
                    missing.append(path)
    for name in wanted if isinstance(wanted, list) else ():
        meant = [path for path, named in names.items() if is_named([name], path, named)]
        missing += [] if set(meant) & {*targets, *missing} else meant
    if missing:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} has nothing for {len(missing)} of the modules that target_modules"
            f" names, {', '.join(names[path][0] for path in missing[:3])} among them; it is incomplete."
        )
