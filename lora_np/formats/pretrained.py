"""Where a pretrained model comes from: a name, a folder or the hub."""

import os
import re
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lora_np.fetch import fetch_e5, fetch_hub, fetch_minilm
from lora_np.formats.e5s1 import load_packed, packed_file
from lora_np.formats.huggingface import load_folder
from lora_np.model.transformer import Transformer

NAMED = ("digits", "minilm", "e5")
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name


def model_folder(source):
    """Return the folder of a model, given its name, the folder itself or its id on the hub."""
    check_source(source)
    if source == "digits":
        with as_file(files("lora_np") / "data" / source) as folder:
            return Path(folder)
    if source == "minilm":
        return fetch_minilm()
    if source == "e5":
        return fetch_e5()
    return Path(source) if Path(source).is_dir() else fetch_hub(source)


def check_source(source):
    """Raise ValueError if this names no model; nothing is fetched. A Path is a folder, never the name of a model."""
    named = isinstance(source, str) and (source in NAMED or re.fullmatch(HUB_ID, source))
    if not named and not (isinstance(source, (str, os.PathLike)) and Path(source).is_dir()):
        shown = repr(str(source)) if isinstance(source, (str, os.PathLike)) else repr(source)
        raise ValueError(
            f"there is no model {shown}; expected 'digits', 'minilm', 'e5', a folder with config.json and"
            " model.safetensors, or an id owner/name on the Hugging Face hub."
        )


def load_pretrained(source: str | os.PathLike, dtype: DTypeLike = np.float32) -> Transformer:
    """Return a pretrained model, wholly frozen: its arrays are read-only.

    Parameters
    ----------
    source : str or path
        "digits", the embedded model; "minilm", a BERT that is fetched once; "e5", another, multilingual-e5-small, which
        reads Chinese and ninety-odd more languages and whose matrices stay in 4 bits; a Hugging Face model folder of
        one of the families in `model/architectures/`; or the id of one on the hub, owner/name.
    dtype : numpy dtype
        float32 to train, float64 to verify.

    Raises
    ------
    ValueError
        If there is no such model, it cannot be fetched, or its files are damaged or describe another architecture.
    """
    return load_model(model_folder(source), dtype)[0]


def load_model(folder, dtype=np.float32):
    """Return the model of a folder, and the names of what its file holds beside."""
    packed = packed_file(folder)
    return load_folder(folder, dtype) if packed is None else (load_packed(packed, dtype), [])
