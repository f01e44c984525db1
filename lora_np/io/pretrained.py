"""Where a model and its tokenizer come from: a name, a folder or the hub."""

import re
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from lora_np.io.fetch import fetch_hub, fetch_minilm
from lora_np.io.files import read_json, write_bytes
from lora_np.io.huggingface import load_folder
from lora_np.io.tokenizer import TextTokenizer
from lora_np.ops import patches_forward

EMBEDDED = ("digits",)
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name


def model_folder(source):
    """Return the folder of a model, given its name, the folder itself or its id on the hub."""
    if str(source) in EMBEDDED:
        with as_file(files("lora_np") / "data" / str(source)) as folder:
            return Path(folder)
    check_source(source)
    if str(source) == "minilm":
        return fetch_minilm()
    return Path(source) if Path(source).is_dir() else fetch_hub(source)


def check_source(source):
    """Raise ValueError if this names no model; nothing is fetched."""
    known = str(source) in (*EMBEDDED, "minilm") or Path(source).is_dir()
    if not known and not (isinstance(source, str) and re.fullmatch(HUB_ID, source)):
        raise ValueError(
            f"there is no model {str(source)!r}; expected 'digits', 'minilm', a folder with config.json and"
            " model.safetensors, or an id owner/name on the Hugging Face hub."
        )


def load_pretrained(source, dtype=np.float32):
    """Return a pretrained model, wholly frozen: its arrays are read-only.

    Parameters
    ----------
    source : str or path
        "digits", the embedded model; "minilm", a BERT that is fetched once; a Hugging Face model folder (BERT, GPT-2,
        ViT); or the id of one on the hub, owner/name.
    dtype : numpy dtype
        float32 to train, float64 to verify.

    Raises
    ------
    ValueError
        If there is no such model, it cannot be fetched, or its files are damaged or describe another architecture.
    """
    return load_folder(model_folder(source), dtype)[0]


def copy_tokenizer(source, folder):
    """Copy the tokenizer of a model, if it has one in a file, beside a model that was made from it."""
    path = model_folder(source) / "tokenizer.json"
    if path.exists():
        write_bytes(Path(folder) / path.name, path.read_bytes())


def load_tokenizer(source):
    """Return the function that turns a model's raw inputs into the sequences of a batch.

    Parameters
    ----------
    source : str or path
        As for `load_pretrained`. An image model's tokens are its patches.

    Returns
    -------
    callable
        Of a ViT: images (n, H, W) or (n, H, W, C) with values in 0..1 -> patches (n, T, P). Of a BERT: texts and
        `max_length` (128) -> a list of arrays of ids; its method `truncated` counts the texts that are too long.

    Raises
    ------
    ValueError
        If the model reads neither, or its tokenizer is missing, damaged or another model's.
    """
    folder = model_folder(source)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    needed = {
        "vit": ("image_size", "patch_size", "num_channels"),
        "bert": ("vocab_size", "max_position_embeddings"),
    }
    if kind not in needed:
        raise ValueError(
            f"{source} is a model of type {kind!r}; only image models (vit) and text models (bert) have a tokenizer"
            " here, give token ids to Batch.of yourself."
        )
    for name in needed[kind]:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(
                f"{folder / 'config.json'} has {name} = {config.get(name)!r}; expected an integer above zero."
            )
    return TextTokenizer(folder, config) if kind == "bert" else PatchTokenizer(*(config[name] for name in needed[kind]))


class PatchTokenizer:
    """Cuts images into patches, the tokens of a vision transformer."""

    def __init__(self, image_size, patch_size, channels):
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels

    def __call__(self, images):
        images = np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[1:] != expected or images.dtype.kind != "f" or not np.isfinite(images).all():
            raise ValueError(
                f"expected finite float images of shape (n, {expected[0]}, {expected[1]}) with {expected[2]}"
                f" channel(s), but got {images.shape}, {images.dtype}."
            )
        return patches_forward(images, self.patch_size)[0]  # (n, T, P)
