"""Where a model and its tokenizer come from: a name or a folder."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from lora_np.io.files import read_json
from lora_np.io.huggingface import load_folder
from lora_np.ops import patches_forward

EMBEDDED = ("digits",)


def model_folder(source):
    """Return the folder of a model, given its name or the folder itself."""
    if str(source) in EMBEDDED:
        with as_file(files("lora_np") / "data" / str(source)) as folder:
            return Path(folder)
    if not Path(source).is_dir():
        raise ValueError(
            f"there is no model {str(source)!r}; expected {', '.join(map(repr, EMBEDDED))} or a folder with config.json"
            " and model.safetensors."
        )
    return Path(source)


def load_pretrained(source, dtype=np.float32):
    """Return a pretrained model, wholly frozen: its arrays are read-only.

    Parameters
    ----------
    source : str or path
        "digits", the embedded model, or a Hugging Face model folder (BERT, GPT-2, ViT).
    dtype : numpy dtype
        float32 to train, float64 to verify.

    Raises
    ------
    ValueError
        If there is no such model, or its files are damaged or describe another architecture.
    """
    return load_folder(model_folder(source), dtype)[0]


def load_tokenizer(source):
    """Return the function that turns a model's raw inputs into the sequences of a batch.

    Parameters
    ----------
    source : str or path
        As for `load_pretrained`. An image model's tokens are its patches.

    Returns
    -------
    callable
        Images (n, H, W) or (n, H, W, C) with values in 0..1 -> patches (n, T, P).
    """
    config = read_json(model_folder(source) / "config.json")
    if config.get("model_type") != "vit":
        raise ValueError(
            f"{source} is a model of type {config.get('model_type')!r}; only image models (vit) cut their inputs here,"
            " give token ids to Batch.of yourself."
        )
    return PatchTokenizer(config["image_size"], config["patch_size"], config["num_channels"])


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
