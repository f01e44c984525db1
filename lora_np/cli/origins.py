"""What a run stands on: hashes of its data and its base, which an interrupted run must find again."""

import hashlib
import json
import platform

import numpy as np

import lora_np
from lora_np.cli.terminal import line
from lora_np.datasets.splits import content_hash
from lora_np.files import read_json
from lora_np.model.tree import fingerprint


def origins(options, data, tokens, base):
    """Return a hash of each thing that a run stands on, by the name that a user has for it.

    Parameters
    ----------
    options : dict
    data : dict of str to Dataset
    tokens : dict of str to list of arrays
        Empty for images, whose patches are the images themselves.
    base : Transformer
    """
    model, ids = options["model"], hashlib.sha256()
    for part in tokens.values():
        for row in part:
            ids.update(row.astype("<i8").tobytes() + b".")
    drawn = ("head",) if tokens else ()  # the head of a text model comes from the seed
    return {
        f"the data {options['data']} (inputs, labels or classes)": content_hash(data.values()),
        f"the tokenizer of the model {model}": ids.hexdigest(),
        f"the weights of the model {model}": fingerprint(base, skip=drawn),
        f"the configuration of the model {model}": hashlib.sha256(json.dumps(base.config).encode()).hexdigest(),
    }


def check_origins(path, mine):
    """Raise if what a run.json says of its origins is no longer so; say so if the software is another."""
    record = read_json(path)
    theirs, before = record.get("origins"), record.get("versions")
    if not isinstance(theirs, dict) or theirs.keys() != mine.keys() or not isinstance(before, dict):
        raise ValueError(
            f"{path} does not say what the run's data and model were; it is damaged or was written by another version."
            " Start a new run."
        )
    for name, found in mine.items():
        if theirs[name] != found:
            raise ValueError(
                f"{name} changed since the run in {path.parent} began, so this would no longer be that run; put back"
                " what was there, or start a new run."
            )
    if before != versions():
        was, now = (", ".join(f"{name} {number}" for name, number in some.items()) for some in (before, versions()))
        line("note", f"begun with {was}, resumed with {now}: the last digits may differ from an unbroken run")


def versions():
    return {"lora_np": lora_np.__version__, "numpy": np.__version__, "python": platform.python_version()}
