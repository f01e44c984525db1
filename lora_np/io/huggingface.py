"""Model folders as Hugging Face's transformers writes and reads them: config.json and model.safetensors.

Files store a linear weight as (d_out, d_in), ours are (d_in, d_out): it is transposed here, once, and nowhere else.
GPT-2's files are the exception (its `Conv1D` is (d_in, d_out) already), and a patch projection is stored as the
convolution that it equals. A classifier that transformers has no class for (on mean-pooled tokens) lies beside in
head.safetensors and head.json.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from lora_np.io.files import TensorFile, read_json, read_safetensors, renamed, write_json, write_safetensors
from lora_np.model.build import bert, gpt, vit
from lora_np.model.heads import POOLING, ClassifierHead
from lora_np.model.nodes import Linear
from lora_np.model.tree import arrays, freeze, walk, with_arrays

PREFIX = {"bert": "bert.", "gpt2": "transformer.", "vit": "vit."}
BUILD = {"bert": bert, "gpt2": gpt, "vit": vit}
CLASSES = {
    "bert.": "BertForSequenceClassification",
    "transformer.": "GPT2LMHeadModel",
    "vit.": "ViTForImageClassification",
}
BARE = {"bert": "BertModel", "gpt2": "GPT2Model", "vit": "ViTModel"}
# Tensors that are no parameters, or belong to a part that these models do not have.
KNOWN_EXTRAS = (
    r"embeddings\.position_ids|h\.\d+\.attn\.(masked_)?bias|pooler\.dense\.(weight|bias)|cls\..*|lm_head\.weight"
)
SUFFIX = {
    "W": ".weight",
    "b": ".bias",
    "gamma": ".weight",
    "beta": ".bias",
    "table": ".weight",
    "class_token": ".cls_token",
}


INTEGERS = {
    "bert": "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
    " type_vocab_size",
    "gpt2": "vocab_size n_embd n_layer n_head n_positions",
    "vit": "image_size patch_size num_channels hidden_size num_hidden_layers num_attention_heads intermediate_size",
}
OTHERS = {  # epsilon, activation
    "bert": ("layer_norm_eps", "hidden_act"),
    "gpt2": ("layer_norm_epsilon", "activation_function"),
    "vit": ("layer_norm_eps", "hidden_act"),
}
# Settings that change the mathematics, and the only value that is supported here.
FIXED = {
    "bert": {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    "gpt2": {
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    },
    "vit": {},
}


def load_folder(folder, dtype=np.float32):
    """Return a wholly frozen model and the names of the tensors in the file that it does not use.

    Parameters
    ----------
    folder : path
    dtype : numpy dtype
        What to hold the weights in.

    Raises
    ------
    ValueError
        If a file is missing or damaged, the architecture is not known, a tensor is missing, unexpected, of the wrong
        shape or not finite.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in BUILD:
        raise ValueError(f"{folder} holds a model of type {kind!r}; expected one of {', '.join(BUILD)}.")
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype must be a floating-point type such as numpy.float32, but it is {dtype!r}.")
    check_config(config, kind, folder / "config.json")
    weights = folder / "model.safetensors"
    file = TensorFile(weights)
    names = renamed(((name, name) for name in file), lambda name: name.removeprefix(PREFIX[kind]), weights)
    shapes = {name: file.shapes[whole] for name, whole in names.items()}
    check_sizes(config, shapes, folder)
    model = build_empty(config, shapes, dtype)
    wanted = file_names(model)
    extras = sorted(names.keys() - set(wanted.values()))
    for name in extras:
        if not re.fullmatch(KNOWN_EXTRAS, name):
            raise ValueError(f"{weights} holds an unexpected tensor {name}; its configuration describes another model.")
    if "lm_head.weight" in names and not (
        "wte.weight" in names and np.array_equal(file[names["lm_head.weight"]], file[names["wte.weight"]])
    ):
        raise ValueError(
            f"{folder} holds an output matrix of its own (lm_head); only GPT-2's tied output is supported."
        )
    new = {}
    for path, name in wanted.items():
        if name not in names:
            raise ValueError(
                f"{weights} lacks the tensor {name}; it is incomplete or belongs to another configuration."
            )
        new[path] = from_file(model, path, name, file[names[name]], dtype)
    model = freeze(with_arrays(model, new))
    return (load_head(model, folder) if (folder / "head.json").exists() else model), extras


def check_sizes(config, shapes, folder):
    """Raise if a configuration asks for more than its file can hold, before memory is taken for it."""
    longest = max((axis for shape in shapes.values() for axis in shape), default=0)
    for name in INTEGERS[config["model_type"]].split():
        bound = longest**2 if name == "image_size" else len(shapes) if "layer" in name else longest
        if config[name] > bound:
            raise ValueError(
                f"{folder / 'config.json'} has {name} = {config[name]}, but no tensor in model.safetensors is of such a"
                " size; the two do not belong together."
            )


def build_empty(config, shapes, dtype):
    """Return the model that the configuration describes, with a head if the file has one."""
    labels, *_ = shapes.get("classifier.weight", (None,))
    options = {} if config["model_type"] == "gpt2" else {"labels": labels}
    if config["model_type"] == "gpt2":
        options["lm_head"] = "GPT2Model" not in (config.get("architectures") or ())
    return BUILD[config["model_type"]](config, dtype=dtype, **options)


def check_config(config, kind, path):
    """Raise unless a configuration is complete and describes what is computed here."""
    integers, (epsilon, activation) = INTEGERS[kind].split(), OTHERS[kind]
    for name in (*integers, epsilon, activation):
        if name not in config:
            raise ValueError(f"{path} lacks {name!r}; it is not a complete configuration of a {kind} model.")
    for name in integers:
        if not isinstance(config[name], int) or isinstance(config[name], bool) or config[name] < 1:
            raise ValueError(f"{path} has {name} = {config[name]!r}; expected a positive integer.")
    if not isinstance(config[epsilon], (int, float)) or not 0 < config[epsilon] < 1:
        raise ValueError(f"{path} has {epsilon} = {config[epsilon]!r}; expected a small positive number.")
    if not isinstance(config[activation], str):
        raise ValueError(f"{path} has {activation} = {config[activation]!r}; expected a name.")
    for name, value in FIXED[kind].items():
        if config.get(name, value) not in (value, None):
            raise ValueError(f"{path} has {name} = {config[name]!r}; only {value!r} is supported here.")
    if kind == "vit" and config["image_size"] % config["patch_size"]:
        raise ValueError(f"{path}: patches of {config['patch_size']} do not fill images of {config['image_size']}.")


def file_names(model):
    """Return {parameter: its tensor in model.safetensors, without the class's prefix}."""
    names = {}
    for path, node in walk(model):
        for name in arrays(node):
            if not getattr(node, "hf", ""):
                continue  # a head that transformers does not have
            names[f"{path}.{name}"] = node.hf + SUFFIX.get(name, f".{name}")
    if model.config["model_type"] == "vit":
        names["embeddings.position.table"] = "embeddings.position_embeddings"  # a bare array there, not a module
    return names


def file_shape(model, path, array):
    """Return the shape in which a file stores a parameter."""
    if path == "embeddings.projection.W":
        return array.shape[1], model.config["num_channels"], model.config["patch_size"], model.config["patch_size"]
    if path == "embeddings.class_token" or (
        path == "embeddings.position.table" and model.config["model_type"] == "vit"
    ):
        return 1, *array.shape
    return array.shape[::-1] if is_transposed(model, path) else array.shape


def is_transposed(model, path):
    return path.endswith(".W") and not (model.config["model_type"] == "gpt2" and path != "head.classifier.W")


def from_file(model, path, name, tensor, dtype):
    """Return a tensor of a file as the array of a parameter."""
    node_path, _, field = path.rpartition(".")
    mine = getattr(dict(walk(model))[node_path], field)
    if tensor.shape != file_shape(model, path, mine) or tensor.dtype.kind != "f":
        raise ValueError(
            f"the tensor {name} is {tensor.shape} of dtype {tensor.dtype}, but the configuration asks for"
            f" {file_shape(model, path, mine)} floats."
        )
    if not np.isfinite(tensor).all():
        raise ValueError(
            f"the tensor {name} holds numbers that are not finite (NaN or infinity); the file is damaged, fetch or make"
            " it again."
        )
    rows = tensor.reshape(len(tensor), -1).T if is_transposed(model, path) else tensor.reshape(mine.shape)
    return np.array(rows, dtype, order="C")


def to_file(model, path, array):
    """Return the array of a parameter as files store it."""
    return (array.T if is_transposed(model, path) else array).reshape(file_shape(model, path, array))


def save_model(model, folder):
    """Write a model folder that transformers opens (where it has a class for the head), and `load_folder` always.

    Parameters
    ----------
    model : Transformer
        Without an adapter.
    folder : path
        Made if need be; files of these names in it are replaced.

    Raises
    ------
    ValueError
        If the model still has an adapter.
    """
    if model.adapter is not None:
        raise ValueError(
            "this model has a LoRA adapter; merge it first to save a whole model, or save the adapter alone by"
            " save_adapter."
        )
    folder = Path(folder)
    live = {f"{path}.{name}": array for path, node in walk(model) for name, array in arrays(node).items()}
    names = file_names(model)
    prefix = model.hf_prefix
    tensors = {
        (name if name.startswith("classifier.") else prefix + name): to_file(model, path, live[path])
        for path, name in names.items()
    }
    config = {**model.config, "architectures": [CLASSES.get(prefix, BARE[model.config["model_type"]])]}
    write_safetensors(folder / "model.safetensors", tensors)
    save_own_head(model, folder)
    write_json(folder / "config.json", config)  # last: a folder without it is not a model, so a broken write is seen


def has_own_head(model):
    """Return whether the head is one that transformers has no class for, so that it lies in files of its own."""
    return isinstance(model.head, ClassifierHead) and model.head.classifier is not None and not model.head.classifier.hf


def save_own_head(model, folder):
    """Write the files of a head of our own; take away those of a model that lay in the folder before."""
    head, folder = model.head, Path(folder)
    if has_own_head(model):
        write_safetensors(folder / "head.safetensors", {"weight": head.classifier.W.T, "bias": head.classifier.b})
        names = model.config.get("id2label") or {}
        classes = [str(names.get(k, names.get(str(k), k))) for k in range(len(head.classifier.b))]
        write_json(folder / "head.json", {"pooling": head.pooling, "labels": len(classes), "classes": classes})
    else:
        for name in ("head.safetensors", "head.json"):
            (folder / name).unlink(missing_ok=True)


def load_head(model, folder):
    """Return a new model with the frozen head that lies in a folder's head.safetensors and head.json."""
    folder = Path(folder)
    description = read_json(folder / "head.json")
    tensors, _ = read_safetensors(folder / "head.safetensors")
    d, labels = model.layer[-1].mlp.down.W.shape[1], description.get("labels")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if description.get("pooling") not in POOLING or shapes != {"weight": (labels, d), "bias": (labels,)}:
        raise ValueError(
            f"the head in {folder} (pooling {description.get('pooling')!r}, {shapes}) does not fit this model of hidden"
            f" size {d}."
        )
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{folder / 'head.safetensors'} holds numbers that are not finite; the file is damaged.")
    dtype = model.layer[-1].mlp.down.W.dtype
    classifier = Linear(np.array(tensors["weight"].T, dtype, order="C"), tensors["bias"].astype(dtype))
    head = freeze(ClassifierHead(None, classifier, description["pooling"]))
    config = {**model.config, "id2label": dict(enumerate(description.get("classes", range(labels))))}
    return dataclasses.replace(model, head=head, hf_prefix="", config=config)
