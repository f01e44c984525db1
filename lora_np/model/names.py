"""Which nodes a user means: PEFT's rules for names, on Hugging Face's module names and on ours.

A list holds names or ends of names (`attention.self.query`, `query`); one string is a regular expression that must
match a whole Hugging Face name. A name that matches nothing is an error that lists the nearest ones, never a silent
no-op.
"""

import re

from lora_np.model import architectures
from lora_np.model.nodes import Linear
from lora_np.model.tree import nearest, walk


def hf_name(model, path, node):
    """Return a node's full name in Hugging Face's module tree; "" for a node that has none there."""
    name = getattr(node, "hf", "")
    return f"{model.hf_prefix}{name}" if name and path != "head.classifier" else name


def hf_names(model, path, node):
    """Return the names that a node has had in Hugging Face's module tree: that of model files, and PEFT's of today."""
    name = hf_name(model, path, node)
    return tuple(dict.fromkeys((name, to_peft(model, name))))


def to_peft(model, name):
    """Return what PEFT's files call the module or tensor that has this name in model files."""
    for old, new in architectures.of(model.config).renamed:
        name = exchanged(name, old, new)
    return name


def from_peft(model, name):
    """Undo `to_peft`; the files of PEFT with transformers 4 have the names of model files already."""
    for old, new in architectures.of(model.config).renamed:
        name = exchanged(name, new, old)
    return name


def exchanged(name, old, new):
    """Return a name with `new` in the place of `old`, whole parts between dots; those in a layer follow its number."""
    return re.sub(rf"(?<![^.]){re.escape(old)}(?=\.\d)|(?<=\d\.){re.escape(old)}(?![^.])", new, name)


def is_named(wanted, path, names):
    """Return whether `wanted`, a regular expression or a list of ends of names, means the node."""
    if isinstance(wanted, str):
        return any(re.fullmatch(wanted, name) for name in names)
    return any(name == target or name.endswith(f".{target}") for target in wanted for name in (*names, path))


def by_pattern(patterns, names, default):
    """Return what the first pattern says that matches the end of one of the names, else the default; PEFT's rule."""
    found = (value for key, value in patterns.items() for name in names if re.match(rf"(.*\.)?({key})$", name))
    return next(found, default)


def select(wanted, names, option):
    """Return the paths that `wanted` means among `names`, {path: Hugging Face names}; each part must mean something.

    Raises
    ------
    ValueError
        If a name (or the regular expression) matches nothing; `option` says where it was given.
    """
    for part in [wanted] if isinstance(wanted, str) else wanted:
        if not any(is_named(wanted if isinstance(wanted, str) else [part], *named) for named in names.items()):
            raise ValueError(f"{option}: {part!r} matches nothing; {nearest(part, ends(names))}")
    return [path for path, hf in names.items() if is_named(wanted, path, hf)]


def select_linear(model, targets, exclude=None, layers=None, whole=()):
    """Return {path: full Hugging Face names} of the linear nodes to adapt, in order.

    Parameters
    ----------
    model : Transformer
    targets : str or list of str
        "all-linear" (all but the head), a regular expression, or names.
    exclude : str or list of str, optional
        Taken out of these, by the same rules.
    layers : list of int, optional
        Only these layers; not with a regular expression, which names its layers itself.
    whole : list of str
        Paths of nodes that are trained whole, and therefore not adapted.
    """
    names = {path: hf_names(model, path, node) for path, node in walk(model) if isinstance(node, Linear)}
    names.pop("embeddings.projection", None)  # transformers has a convolution there, whose adapter has another shape
    if targets == "all-linear":
        chosen = [path for path in names if path != "head.classifier"]
    else:
        chosen = select(targets, names, "target_modules")
    if layers is not None:
        unknown = [layer for layer in layers if layer not in range(len(model.layer))]
        if unknown:
            raise ValueError(
                f"layers_to_transform: there is no layer {unknown[0]}; the model has {len(model.layer)} layers, from 0."
            )
        chosen = [path for path in chosen if layer_number(path) in layers or is_full(targets, names[path])]
    if exclude:
        left_out = select(exclude, {path: names[path] for path in chosen}, "exclude_modules")
        chosen = [path for path in chosen if path not in left_out]
    chosen = [path for path in chosen if not any(f"{path}.".startswith(f"{parent}.") for parent in whole)]
    if not chosen:
        raise ValueError(
            f"no linear node is left to adapt: target_modules is {targets!r}, layers_to_transform {layers!r},"
            f" exclude_modules {exclude!r}, and what is trained whole is not adapted: {list(whole)}."
        )
    return {path: names[path] for path in chosen}


def is_full(targets, names):
    """Return whether a list holds one of the names whole: PEFT takes such a node whatever its layer."""
    return not isinstance(targets, str) and any(name in targets for name in names)


def layer_number(path):
    match = re.match(r"layer\.(\d+)\.", path)
    return int(match[1]) if match else None


def ends(names):
    """Return the ends of names by which one could ask for them, the short ones first."""
    full = {name for path, hf in names.items() for name in (path, *hf) if name}
    return sorted({".".join(name.split(".")[-k:]) for name in full for k in (1, 2, 3)}, key=len)
