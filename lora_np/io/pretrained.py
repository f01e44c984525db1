"""Where a model and its tokenizer come from: a name, a folder or the hub."""

import math
import os
import re
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from lora_np.io.fetch import fetch_hub, fetch_minilm
from lora_np.io.files import is_number, read_json, write_bytes
from lora_np.io.huggingface import load_folder
from lora_np.io.tokenizer import TextTokenizer
from lora_np.ops import patches_forward

EMBEDDED = ("digits",)
PREPROCESSOR = "preprocessor_config.json"
NEUTRAL = ("resample", "processor_class", "input_data_format", "default_to_square")  # change no image of the right size
PROCESSORS = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor")
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name


def model_folder(source):
    """Return the folder of a model, given its name, the folder itself or its id on the hub."""
    check_source(source)
    if source in EMBEDDED:
        with as_file(files("lora_np") / "data" / source) as folder:
            return Path(folder)
    if source == "minilm":
        return fetch_minilm()
    return Path(source) if Path(source).is_dir() else fetch_hub(source)


def check_source(source):
    """Raise ValueError if this names no model; nothing is fetched. A Path is a folder, never the name of a model."""
    named = isinstance(source, str) and (source in (*EMBEDDED, "minilm") or re.fullmatch(HUB_ID, source))
    if not named and not (isinstance(source, (str, os.PathLike)) and Path(source).is_dir()):
        shown = repr(str(source)) if isinstance(source, (str, os.PathLike)) else repr(source)
        raise ValueError(
            f"there is no model {shown}; expected 'digits', 'minilm', a folder with config.json and"
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
    """Copy what turns raw inputs into tokens, if the model has it in files, beside a model that was made from it."""
    for name in ("tokenizer.json", PREPROCESSOR):
        path = model_folder(source) / name
        if path.exists():
            write_bytes(Path(folder) / name, path.read_bytes())


def load_tokenizer(source):
    """Return the function that turns a model's raw inputs into the sequences of a batch.

    Parameters
    ----------
    source : str or path
        As for `load_pretrained`. An image model's tokens are its patches.

    Returns
    -------
    callable
        Of a ViT: images (n, H, W) or (n, H, W, C) with values in 0..1 -> patches (n, T, P), normalised as the folder's
        preprocessor_config.json says, if there is one. Of a BERT: texts and
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
    if kind == "bert":
        return TextTokenizer(folder, config)
    sizes = [config[name] for name in needed["vit"]]
    return PatchTokenizer(*sizes, *normalisation(folder, config))


class PatchTokenizer:
    """Cuts images into patches, the tokens of a vision transformer.

    Each channel is taken less its mean and divided by its deviation first, where they are given.
    """

    def __init__(self, image_size, patch_size, channels, mean=None, std=None):
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.mean, self.std = mean, std

    def __call__(self, images):
        images = np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[1:] != expected or images.dtype.kind != "f" or not np.isfinite(images).all():
            raise ValueError(
                f"expected finite float images of shape (n, {expected[0]}, {expected[1]}) with {expected[2]}"
                f" channel(s), but got {images.shape}, {images.dtype}; resize and cut them before."
            )
        if images.size and not 0.0 <= images.min() <= images.max() <= 1.0:
            raise ValueError(
                f"expected images with values in 0..1, but they run from {images.min():g} to {images.max():g}; divide"
                " by the greatest value that a pixel can have, such as 255."
            )
        if self.mean is not None:
            images = (images - np.array(self.mean, images.dtype)) / np.array(self.std, images.dtype)
        return patches_forward(images, self.patch_size)[0]


def normalisation(folder, config):
    """Return the mean and the deviation of each channel by which a folder's images are normalised, or (None, None).

    The file is that of transformers' ViTImageProcessor, its defaults are ours. It rescales numbers in 0..255 to 0..1,
    where images here begin; it resizes images, which is left to those who have them.

    Raises
    ------
    ValueError
        If the file asks for what is not done here, or what it says has no meaning.
    """
    path = Path(folder) / PREPROCESSOR
    if not path.exists():
        return None, None
    given = {name: value for name, value in read_json(path).items() if value is not None}

    def refuse(name, expected):
        raise ValueError(
            f"{path} has {name} = {given[name]!r}; only {expected} is read here. Prepare the images as it says, give"
            " them to Batch.of as patches, and take the file away."
        )

    kinds = [name for name in ("image_processor_type", "feature_extractor_type") if name in given]
    for name in kinds:
        if given[name] not in PROCESSORS:
            refuse(name, " or ".join(PROCESSORS))
    switches = {name: given.setdefault(name, True) for name in ("do_resize", "do_rescale", "do_normalize")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            refuse(name, "true or false")
    side = config["image_size"]
    size = given.setdefault("size", 224)
    if given["do_resize"] and size not in (side, {"height": side, "width": side}) or isinstance(size, bool):
        refuse("size", f"the {side} x {side} of config.json")
    factor = given.setdefault("rescale_factor", 1 / 255)
    if given["do_rescale"] and not (is_number(factor) and math.isclose(factor, 1 / 255, rel_tol=1e-6)):
        refuse("rescale_factor", "1/255")
    known = (*kinds, *switches, "size", "rescale_factor", "image_mean", "image_std", *NEUTRAL)
    for name in given:
        if name not in known and given[name] is not False:
            refuse(name, "a setting of ViTImageProcessor")
    if not given["do_normalize"]:
        return None, None
    return tuple(channels(name, given, config["num_channels"], refuse) for name in ("image_mean", "image_std"))


def channels(name, given, count, refuse):
    """Return a number for each channel."""
    value = given.setdefault(name, 0.5)
    numbers = value if isinstance(value, list) else [value] * count
    least = 0.0 if name == "image_mean" else 1e-6
    if len(numbers) != count or not all(is_number(x) and least <= x <= 1.0 for x in numbers):
        refuse(name, f"{count} number(s) from {least:g} to 1, as images have values in 0..1,")
    return numbers
