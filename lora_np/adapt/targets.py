"""Which nodes a user means: PEFT's rules for names, on Hugging Face's module names and on ours.

A list holds names or ends of names (`attention.self.query`, `query`); one string is a regular expression that must
match a whole Hugging Face name. A name that matches nothing is an error that lists the nearest ones, never a silent
no-op.
"""

import re

from lora_np.model import architectures
from lora_np.model.heads import TiedHead, TokenHead
from lora_np.model.nodes import Linear
from lora_np.model.tree import lies_in, nearest, walk

WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS")  # values of task_type that ask for the head to be trained and saved, too
HEADS = ("classifier", "score")  # what PEFT looks for then


def hf_name(model, path, node):
    """Return a node's full name in Hugging Face's module tree; "" for a node that has none there."""
    name = getattr(node, "hf", "")
    return architectures.of(model.config).qualified(name, model.hf_prefix) if name else name


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


def is_part(wanted, names):
    """Return whether `wanted`, a regular expression or a list of ends of names, names a node that is adapted; PEFT's
    rule for `feedforward_modules`, by which an end need not begin at a dot."""
    if isinstance(wanted, str):
        return any(re.fullmatch(wanted, name) for name in names)
    return any(name.endswith(tuple(wanted)) for name in names)


def check_part(config, option, targets):
    """Raise unless each name that an option of PARTS was given means one of the targets, {path: full names}."""
    given = getattr(config, option)
    for part in [given] if isinstance(given, str) else given or ():
        if not any(is_part(given if isinstance(given, str) else [part], names) for names in targets.values()):
            known = {name for names in targets.values() for name in names}
            raise ValueError(f"{option}: {part!r} means none of the adapted nodes; {nearest(part, known)}")


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


def targets_of(model, config):
    """Return {path: full Hugging Face names} of the nodes that a configuration adapts, in order."""
    targets, exclude, layers = config.target_modules, config.exclude_modules, config.layers_to_transform
    if targets is None:
        kind = architectures.of(model.config)
        targets = config.TARGETS.get(kind.model_type, kind.targets)
    nodes = {path: node for path, node in walk(model) if config.adapts(path, node)}
    names = {path: hf_names(model, path, node) for path, node in nodes.items()}
    linear = [path for path, node in nodes.items() if isinstance(node, Linear) and path != "head.classifier"]
    if not names or targets == ():
        raise ValueError(f"this model has no {config.ADAPTS}, which is what {type(config).__name__} adapts.")
    chosen = linear if targets == "all-linear" and linear else select(targets, names, "target_modules")
    if layers is not None:
        count = len(model.layer)
        for layer in layers:
            if layer not in range(count):
                raise ValueError(
                    f"layers_to_transform: there is no layer {layer}; the model has {count} layers, from 0."
                )
        chosen = [path for path in chosen if layer_number(path) in layers or is_full(targets, names[path])]
    if exclude:
        left_out = select(exclude, {path: names[path] for path in chosen}, "exclude_modules")
        chosen = [path for path in chosen if path not in left_out]
    whole = trained_whole(model, config)
    chosen = [path for path in chosen if not lies_in(path, whole)]
    if not chosen:
        raise ValueError(
            f"no {config.ADAPTS} is left to adapt: target_modules is {targets!r}, layers_to_transform {layers!r},"
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


def trained_whole(model, config):
    """Return the paths of the nodes that modules_to_save and task_type ask to train whole."""
    known = ((path, node) for path, node in walk(model) if getattr(node, "hf", "") or path == "head.classifier")
    # A node that files have no name for is none; a name may also be that of a module around it.
    nodes = {path: around(hf_names(model, path, node)) for path, node in known}
    wanted = list(config.modules_to_save or [])
    paths = select(wanted, nodes, "modules_to_save")
    if (task := config.task_type) in WITH_HEAD:
        of_tokens = isinstance(model.head, TokenHead)
        if "head.classifier" not in nodes or of_tokens != (task == "TOKEN_CLS"):
            what, has = ("tokens", 'pooling="tokens"') if task == "TOKEN_CLS" else ("sequences", "the pooling you want")
            raise ValueError(
                f"task_type={task!r} trains a classifier of {what}, but the model has none; add one by"
                f" with_head(model, labels, {has}, rng)."
            )
        paths.append("head.classifier")
        wanted.append(HEADS[0])
    # PEFT compares ends of names without a look at the dots: "classifier" means DistilBERT's pre_classifier, too.
    paths += [path for path, names in nodes.items() if any(name.endswith(tuple(wanted)) for name in names)]
    return list(dict.fromkeys(paths))


def around(names):
    """Return names, and those of all modules that they lie in."""
    return tuple(dict.fromkeys(name.rsplit(".", k)[0] for name in names for k in range(name.count(".") + 1)))


def check_untied(model, names):
    """Raise if modules_to_save names GPT-2's table of words, which is its output, too."""
    if not isinstance(model.head, TiedHead):
        return
    table = hf_names(model, "embeddings.word", model.embeddings.word)
    if is_named(names or (), "embeddings.word", table):
        raise ValueError(
            f"modules_to_save = {names!r} names GPT-2's table of words (wte), which is its output, too: PEFT would"
            " train a copy of it and leave the output as it was, here it is one; adapt linear nodes, or unfreeze the"
            " table and save the whole model."
        )
