"""Model folders as Hugging Face's transformers writes and reads them: config.json and model.safetensors.

Files store a linear weight as (d_out, d_in), ours are (d_in, d_out): it is transposed here, once, and nowhere else.
GPT-2's files are the exception (its `Conv1D` is (d_in, d_out) already), and a patch projection is stored as the
convolution that it equals. A classifier that transformers has no class for (on mean-pooled tokens) lies beside in
head.safetensors and head.json.
"""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from lora_np.adapt.methods import is_adapted
from lora_np.compress import FrozenMatrix
from lora_np.files import (
    about,
    check_fields,
    is_names,
    is_whole,
    json_bytes,
    parse_json,
    read_json,
    renamed,
    shown,
    write_together,
)
from lora_np.files.safetensors import Raw, as_bfloat16, as_raw, open_weights, safetensors_pieces
from lora_np.model import architectures
from lora_np.model.architectures.architecture import PROBLEMS, TOKEN_CLASSIFIER
from lora_np.model.architectures.maker import Maker
from lora_np.model.heads import POOLING, ClassifierHead, TiedHead, TokenHead
from lora_np.model.nodes import Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, check_dtype, freeze, is_node, is_trainable, parameters, walk, with_arrays

SUFFIX = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "table": "weight", "class_token": "cls_token"}
# In the metadata of a safetensors file, which other programs pass over: what the files beside it must agree with.
SETTINGS = "lora_np_settings"  # some fields of the JSON file
HEAD_MARK, HEAD_HASH = "lora_np_head", "lora_np_head_sha256"  # there is a head, "trained" or "frozen", of this hash


def load_folder(folder, dtype=np.float32):
    """Return a wholly frozen model, and the names of what its file holds beside; the errors of `load_pretrained`."""
    folder, dtype = Path(folder), check_dtype(dtype)
    path, weights = folder / "config.json", folder / "model.safetensors"
    with about(folder):
        config = read_json(path)
        kind = architectures.of(config, folder)
        kind.check(config, path)
        file = opened(weights, config, path)
        names = renamed(((name, name) for name in file), lambda name: standard(name, kind), weights)
        shapes = {name: file.shapes[theirs] for name, theirs in names.items()}
        check_sizes(config, shapes, folder)
        model = build_empty(config, shapes, dtype, folder)
        new = {}
        for parameter, name in file_names(model).items():
            if name not in names:
                raise ValueError(
                    f"{weights} lacks the tensor {name}; it is incomplete or belongs to another configuration."
                )
            new[parameter] = from_file(model, parameter, file[names[name]], dtype, f"{name} in {weights}")
        aside, notes = beside(model, names, file, weights)
        model = dataclasses.replace(freeze(with_arrays(model, new)), aside=aside)
        if HEAD_MARK in file.metadata or (SETTINGS not in file.metadata and is_own_head(folder)):
            model = load_head(model, folder, file.metadata)
    return model, notes


def standard(name, kind):
    """Return a tensor's name without its class's prefix; old files call the parameters of a norm gamma and beta."""
    name = name.removeprefix(kind.prefix)
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def beside(model, names, file, path):
    """Return what a file holds beside the parameters, {name: node or tensor} to be saved again, and notes on it.

    `names` are all tensors of the file, {our name: theirs}.
    """
    kept, notes, kind, used = {}, [], architectures.of(model.config), {*file_names(model).values()}
    for name in sorted(names.keys() - used):
        table = kind.copies.get(name)
        if table in used and np.array_equal(file[names[name]], file[names[table]]):
            notes.append(f"{name} (a copy of {table})")
            continue
        if name == "lm_head.weight" and table in used:
            raise ValueError(
                f"{path} holds an output matrix of its own (lm_head); only GPT-2's tied output is supported."
            )
        if not re.fullmatch(kind.extras, name):
            raise ValueError(f"{path} holds an unexpected tensor {name}; its configuration describes another model.")
        kept[name] = file.raw(names[name])
        notes.append(name)
    d, dtype = model.hidden_size, model.dtype
    pooler = {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    if pooler.keys() <= kept.keys():  # a node: an adapter may change it
        W, b = (
            held(kept.pop(name).array(), s, dtype, f"the tensor {name} in {path}", True) for name, s in pooler.items()
        )
        kept["pooler"] = freeze(Linear(W, b, "pooler.dense"))
    return kept, notes


def check_sizes(config, shapes, folder):
    """Raise if a configuration asks for more than its file can hold, before memory is taken for it."""
    longest = max((axis for shape in shapes.values() for axis in shape), default=0)
    for name in ("n_inner", *architectures.of(config).counts.split()):
        bound = longest**2 if name == "image_size" else len(shapes) if "layer" in name else longest
        if (config.get(name) or 0) > bound:
            raise ValueError(
                f"{folder / 'config.json'} has {name} = {config[name]}, but no tensor in model.safetensors is of such a"
                " size; the two do not belong together."
            )


def build_empty(config, shapes, dtype, folder):
    """Return the model that the configuration describes, with the head of its class, if that is computed here."""
    kind, named = architectures.of(config), (config.get("architectures") or [None])[0]
    check_class(named, kind, folder)
    tied = {"lm_head": named in (kind.tied, None)} if kind.tied else {}
    top = TOKEN_CLASSIFIER if named == kind.tokens else kind.head[-1]
    labels, *_ = shapes.get(f"{top}.weight", (None,))
    pooled = all(f"{module}.weight" in shapes for module in kind.head[:-1])
    has_head = named in (kind.with_head, kind.tokens)
    if has_head != (labels is not None) if named else (labels is not None and not pooled):
        raise ValueError(
            f"{folder} holds {'no' if labels is None else 'a'} classifier and {'a' if pooled else 'no'} pooler, unlike"
            f" a {named or kind.with_head}; its configuration describes another model."
        )
    if named == kind.tokens:
        return with_token_head(kind.build(config, dtype=dtype, **tied), labels)
    return kind.build(config, labels=labels, dtype=dtype, **tied)


def with_token_head(model, labels):
    """Return the model with a place for a classifier of tokens, whose numbers a file holds."""
    place = Maker(model.config, None, model.dtype).linear(model.hidden_size, labels, TOKEN_CLASSIFIER)
    prefix = architectures.of(model.config).prefix
    return dataclasses.replace(model, head=freeze(TokenHead(place)), hf_prefix=prefix)


def check_class(named, kind, where):
    """Raise if a folder was made with a class of transformers whose head is not computed here."""
    computed = (*filter(None, (kind.with_head, kind.tokens, kind.tied)), kind.bare, *kind.encoders)
    if named is not None and named not in computed:
        raise ValueError(
            f"{where} holds a {named}, whose head is not computed here; expected one of {', '.join(computed)}. To use"
            f" the network below its head, write it anew by transformers' {kind.bare}."
        )


def opened(weights, content, path):
    """Return the arrays of a file; raise if its metadata say that it was written together with other settings than are
    in `content`, the JSON object of the file `path` beside it."""
    file = open_weights(weights)
    settings = parse_json(file.metadata[SETTINGS].encode(), path) if SETTINGS in file.metadata else {}
    for name, value in settings.items():
        if content.get(name) != value:
            raise ValueError(
                f"{path} has {name} = {shown(content.get(name))}, but the arrays beside it were saved with"
                f" {shown(value)}: it was changed, or a save was interrupted. Put {json.dumps(value)} there, or"
                " save both again."
            )
    return file


def file_names(model):
    """Return {parameter: its tensor in model.safetensors, without the class's prefix}."""
    names, own = {}, architectures.of(model.config).tensors
    for path, node in walk(model):
        for name in arrays(node) if getattr(node, "hf", "") else ():  # transformers may not have such a head
            names[f"{path}.{name}"] = own.get(f"{path}.{name}", f"{node.hf}.{SUFFIX.get(name, name)}")
    return names


def layout(model, path, shape):
    """Return the shape in which files store a parameter of our shape, and whether it lies transposed there."""
    kind = architectures.of(model.config)
    transposed = path == "head.classifier.W" or (path.endswith(".W") and kind.transposed)
    stored = kind.stored.get(path, lambda _, shape: shape[::-1] if transposed else shape)
    return stored(model.config, shape), transposed


def from_file(model, path, tensor, dtype, name):
    """Return a tensor of a file as the array of a parameter; a sentence calls it by `name`."""
    shape = parameters(model)[path].shape
    stored, transposed = layout(model, path, shape)
    return held(tensor, shape, dtype, f"the tensor {name}", transposed, stored)


def to_file(model, path, array):
    """Return the array of a parameter as files store it."""
    stored, transposed = layout(model, path, array.shape)
    return (array.T if transposed else array).reshape(stored)


def held(tensor, shape, dtype, what, transposed=False, stored=None):
    """Return a tensor of a file as an array of our shape and dtype, in memory of its own.

    A ValueError calls it `what`, if its shape is not the `stored` one (our own, transposed or not) or its numbers are
    not finite floats, before the cast or after it.
    """
    lies = shape[::-1] if transposed else shape
    if tensor.shape != (stored or lies) or tensor.dtype.kind != "f":
        raise ValueError(
            f"{what} is {tensor.shape} of dtype {tensor.dtype}, but the configuration asks for {stored or lies} floats."
        )
    rows = tensor.reshape(lies)
    with np.errstate(over="ignore", invalid="ignore"):
        new = np.array(rows.T if transposed else rows, dtype, order="C")
    if not np.isfinite(new).all():
        reason = (
            f"that are beyond {np.dtype(dtype).name}; load them with dtype=numpy.float64"
            if np.isfinite(tensor).all()
            else "that are not finite (NaN or infinity); the file is damaged, fetch or make it again"
        )
        raise ValueError(f"{what} holds numbers {reason}.")
    return new


def save_model(model: Transformer, folder: str | os.PathLike) -> None:
    """Write a model folder that `load_pretrained` opens, and transformers where it has a class for the head.

    What lay beside the parameters in the files that the model was loaded from (a pooler, a masked-language head) is
    written, too. A classifier on the mean of the tokens has no class there: it lies in head.safetensors and head.json,
    and transformers opens the network below it.

    Parameters
    ----------
    model : Transformer
        Without an adapter.
    folder : path
        Made if need be; files of these names in it are replaced.

    Raises
    ------
    ValueError
        If the model still has an adapter, a number is not finite, a matrix is compressed, or a head.json of something
        else lies in the folder.
    """
    if is_adapted(model):
        raise ValueError(
            "this model has an adapter; merge it first to save a whole model, or save the adapter by save_adapter."
        )
    check_dense(model)
    check_finite(parameters(model))
    tensors, dtype = in_dtype_of(model.config, file_tensors(model))
    settings = ("model_type", *architectures.of(model.config).needed)
    write_folder(model, folder, "model.safetensors", tensors, "config.json", file_config(model, dtype), settings)


def write_folder(model, folder, weights, tensors, description, content, settings, **marks):
    """Write tensors, the JSON object beside them and the head, if the model has one of our own: all files or none.

    The metadata of the tensors say which `settings` of the object they belong to, and which head; `marks` are more of
    them. A head of a model that lay in the folder before is removed.
    """
    folder = Path(folder)
    head = head_files(model, folder)
    metadata = {"format": "pt", SETTINGS: json.dumps({k: content[k] for k in settings if k in content}), **marks}
    if head:
        metadata[HEAD_MARK] = "trained" if is_trainable(model.head) else "frozen"
        metadata[HEAD_HASH] = hashlib.sha256(b"".join(head[folder / "head.safetensors"])).hexdigest()
    pieces = safetensors_pieces(tensors, metadata)
    write_together({**head, folder / weights: pieces, folder / description: [json_bytes(content)]})
    if not head and is_own_head(folder):
        for name in ("head.json", "head.safetensors"):
            (folder / name).unlink(missing_ok=True)


def has_other_head(model):
    """Return whether a head lies aside that transformers has a class for and nothing here computes with."""
    return any(architectures.of(model.config).is_outside(name) for name in model.aside)


def file_tensors(model):
    """Return what a model's file holds, {name there: tensor as it lies there}."""
    live = parameters(model)
    tensors = {name: to_file(model, path, live[path]) for path, name in file_names(model).items()}
    for name, kept in model.aside.items():
        tensors |= {"pooler.dense.weight": kept.W.T, "pooler.dense.bias": kept.b} if is_node(kept) else {name: kept}
    kind = architectures.of(model.config)
    prefix = kind.prefix if has_other_head(model) else model.hf_prefix
    return {kind.qualified(name, prefix): tensor for name, tensor in tensors.items()}


def file_config(model, dtype):
    """Return the content of a model's config.json: its own, with the class, dtype and number of labels of the file."""
    kind, config = architectures.of(model.config), dict(model.config)
    classifies = bool(getattr(getattr(model.head, "classifier", None), "hf", ""))
    if classifies or isinstance(model.head, TiedHead):
        of_head = {TokenHead: kind.tokens, TiedHead: kind.tied}
        config["architectures"] = [of_head.get(type(model.head), kind.with_head)]
    elif not has_other_head(model) or not config.get("architectures"):
        config["architectures"] = [kind.bare]
    labels = model.head.classifier.W.shape[1] if classifies else 0
    if classifies and len(config.get("id2label") or (0, 1)) != labels:  # two, for transformers
        config["id2label"] = {str(k): f"LABEL_{k}" for k in range(labels)}
        config["label2id"] = {name: int(k) for k, name in config["id2label"].items()}
    said = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"] * (dtype != "float32")
    return {**config, **dict.fromkeys(said, dtype)}


def in_dtype_of(config, tensors):
    """Return tensors, in the dtype that a configuration names if each of their numbers exists there, and its name.

    So what was loaded from half precision and not changed goes back as it was; what was trained or merged since stays
    as it is: rounded to bfloat16, most of a small update would be gone.
    """
    said = config.get("dtype") or config.get("torch_dtype")
    live = {name: array for name, array in tensors.items() if not isinstance(array, Raw)}
    own = next(iter(live.values())).dtype.name
    if said == own or said not in ("bfloat16", "float16", "float32"):
        return tensors, own
    with np.errstate(over="ignore"):
        halves = {k: as_bfloat16(a) if said == "bfloat16" else as_raw(k, a.astype(said)) for k, a in live.items()}
    same = all(np.array_equal(half.array(), live[name]) for name, half in halves.items())
    return ({**tensors, **halves}, said) if same else (tensors, own)


def check_dense(model):
    for name, array in parameters(model).items():
        if isinstance(array, FrozenMatrix):
            raise ValueError(
                f"{name} is compressed ({array!r}), but a model's file holds floats; save decompress_model(model), of"
                " the same numbers, or save what was compressed, and compress it again after loading."
            )


def check_finite(arrays_):
    for name, array in arrays_.items():
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(
                f"{name} holds NaN or infinity, and no file was written; go back to an earlier state of the training"
                " (a lower learning rate, a checkpoint)."
            )


def has_own_head(model):
    """Return whether the head is one that transformers has no class for, so that it lies in files of its own."""
    classifier = getattr(model.head, "classifier", None)
    return classifier is not None and not classifier.hf


def head_files(model, folder):
    """Return {path: pieces} of the files of a head of our own; {} for a model without one."""
    if not has_own_head(model):
        return {}
    head, weights, description = model.head, folder / "head.safetensors", folder / "head.json"
    if (weights.exists() or description.exists()) and not is_own_head(folder):
        raise ValueError(
            f"{folder} holds a head.json or head.safetensors that was not written by lora_np; nothing was written, as"
            " they would be lost. Choose another folder, or move them away."
        )
    check_finite({"head.classifier.W": head.classifier.W, "head.classifier.b": head.classifier.b})
    names = model.config.get("id2label") or {}
    classes = [str(names.get(k, names.get(str(k), k))) for k in range(len(head.classifier.b))]
    settings = {"pooling": head.pooling, "labels": len(classes)}
    if problem := model.config.get("problem_type"):
        settings["problem_type"] = problem
    metadata = {"format": "pt", SETTINGS: json.dumps(settings)}
    return {
        weights: safetensors_pieces({"weight": head.classifier.W.T, "bias": head.classifier.b}, metadata),
        description: [json_bytes({**settings, "classes": classes})],
    }


def is_own_head(folder):
    """Return whether the head.json in a folder is one of ours; a stranger's file of that name is left alone."""
    try:
        return {"pooling", "labels", "classes"} == read_json(folder / "head.json").keys() - {"problem_type"}
    except ValueError:
        return False


def load_head(model, folder, metadata):
    """Return a new model with the frozen head that lies in a folder's head.safetensors and head.json.

    `metadata` are those of the file that the head belongs to; a head of another save is refused.
    """
    folder = Path(folder)
    path, weights = folder / "head.json", folder / "head.safetensors"
    description = read_json(path)
    expected = {
        "labels": (is_whole, "the number of classes"),
        "pooling": (lambda value: value in tuple(POOLING), f"one of {', '.join(POOLING)}"),
        "problem_type": (lambda value: value in PROBLEMS, f"one of {', '.join(PROBLEMS)}"),
        "classes": (lambda value: is_names(value) and len(value) == description.get("labels"), "a name a class"),
    }
    check_fields(description, expected, path)
    file = opened(weights, description, path)
    if HEAD_HASH in metadata and hashlib.sha256(weights.read_bytes()).hexdigest() != metadata[HEAD_HASH]:
        raise ValueError(
            f"{weights} belongs to another save than the file beside it; take both from one, or save again."
        )
    labels, d, dtype = description.get("labels"), model.hidden_size, model.dtype
    if "pooling" not in description or file.shapes != {"weight": (labels, d), "bias": (labels,)}:
        raise ValueError(
            f"the head in {folder} (pooling {description.get('pooling')!r}, {file.shapes}) does not fit this model of"
            f" hidden size {d}."
        )
    W = held(file["weight"], (d, labels), dtype, f"the weight in {weights}", transposed=True)
    b = held(file["bias"], (labels,), dtype, f"the bias in {weights}")
    head = freeze(ClassifierHead(None, Linear(W, b), description["pooling"]))
    classes = description.get("classes", [str(k) for k in range(labels)])
    config = {name: value for name, value in model.config.items() if name != "problem_type"}
    config |= {"id2label": dict(enumerate(classes))}
    config |= {name: description[name] for name in ("problem_type",) if name in description}
    return dataclasses.replace(model, head=head, hf_prefix="", config=config)
