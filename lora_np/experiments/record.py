"""What a run keeps in its folder, and how it is read again: nothing in these files is trusted.

`run.json` holds the recipe, and hashes of all that the run stands on; `checkpoint.safetensors` the state of the
training and its history, until the run is complete; `metrics.json` the results. `adapter` or `model` is what was made.
"""

import hashlib
import json
import math
import platform
import time
from pathlib import Path

import numpy as np

import lora_np
from lora_np.datasets.splits import content_hash
from lora_np.experiments.recipe import FIELDS, Recipe, kinds_of
from lora_np.files import is_names, read_json
from lora_np.model.tree import fingerprint
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint

RUN, CHECKPOINT, METRICS = "run.json", "checkpoint.safetensors", "metrics.json"
HISTORY = {"loss", "lr", "dev", "dev_before"}
SAVE_EVERY = 10.0  # seconds between two checkpoints


def holds_run(folder):
    """Return whether there is a run in a folder, complete or not."""
    return any((Path(folder) / name).exists() for name in (RUN, CHECKPOINT, METRICS))


def is_interrupted(folder):
    """Return whether there is a run in a folder that can be resumed (or is at work)."""
    return (Path(folder) / RUN).exists() and not (Path(folder) / METRICS).exists()


def read_recipe(folder, kind: type[Recipe] = Recipe) -> Recipe:
    """Return the recipe of the run in a folder, complete and each field of its kind.

    Raises
    ------
    ValueError
        If there is none, or it is damaged.
    """
    path = Path(folder) / RUN
    values = read_json(path)
    for name in ("method", "data", "model"):
        if not isinstance(values.get(name), str):
            raise ValueError(f"{path} has {name} = {values.get(name)!r}; it is damaged. Start a new run.")
    given = {name: values[name] for name in ("method", "data", "model")}
    usual = kind(**given)
    for name in FIELDS:
        if usual.default(name) is not None:
            given[name] = values.get(name)
            if not any(is_of(given[name], kind) for kind in kinds_of(name)):
                raise ValueError(
                    f"{path} has {name} = {given[name]!r}; it is damaged or was written by another version. Start a"
                    " new run."
                )
    return kind(**given)


def is_of(value, kind):
    """Return whether a value out of a file is of a field's kind; JSON has one kind of numbers."""
    return is_names(value) if kind == list[str] else type(value) in ((int, float) if kind is float else (kind,))


def read_metrics(folder) -> dict:
    """Return the results of the run in a folder.

    Raises
    ------
    ValueError
        If there are none, or their accuracies are damaged.
    """
    path = Path(folder) / METRICS
    metrics = read_json(path)
    for when in ("before", "after"):
        found = metrics.get(when) if isinstance(metrics.get(when), dict) else {}
        interval = found.get("interval") if isinstance(found.get("interval"), list) else []
        shares = [found.get("accuracy"), *interval]
        if len(shares) != 3 or not all(type(share) in (int, float) and 0 <= share <= 1 for share in shares):
            raise ValueError(
                f"{path} has {when} = {str(metrics.get(when))[:100]}; expected an accuracy and its interval, shares in"
                " 0..1: it is damaged or from another version."
            )
    return metrics


class Checkpoint:
    """The file of a run in progress, which no other run can take for its own."""

    def __init__(self, folder, identity):
        self.path, self.identity, self.saved = folder / CHECKPOINT, identity, time.monotonic()

    def load(self, training):
        """Put a training where the run was, and return its history; None if nothing had been saved."""
        if not self.path.exists():
            return None
        history = load_checkpoint(training, self.path, self.identity)
        if not is_history(history, training.done):
            raise ValueError(f"the record in {self.path} is damaged; delete that file to start the run anew.")
        return history

    def is_due(self):
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, training, history):
        save_checkpoint(training, self.path, history, self.identity)
        self.saved = time.monotonic()


def is_history(history, steps):
    """Return whether a checkpoint's history is one of so many steps, in finite numbers."""
    if not isinstance(history, dict) or history.keys() != HISTORY:
        return False
    dev = history["dev"]
    if not isinstance(dev, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in dev):
        return False
    if not all(isinstance(history[name], list) and len(history[name]) == steps for name in ("loss", "lr")):
        return False
    numbers = [*history["loss"], *history["lr"], *(number for pair in dev for number in pair), history["dev_before"]]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def origins(recipe, data, tokens, base):
    """Return a hash of each thing that a run stands on, by the name that a user has for it.

    Parameters
    ----------
    recipe : Recipe
    data : dict of str to Dataset
    tokens : dict of str to list of arrays
        The patches of images need no hash: they are the images themselves.
    base : Transformer
    """
    model, texts, ids = recipe.model, recipe.kind == "texts", hashlib.sha256()
    for part in tokens.values() if texts else ():
        for row in part:
            ids.update(row.astype("<i8").tobytes() + b".")
    drawn = ("head",) if texts else ()  # the head of a text model comes from the seed
    return {
        f"the data {recipe.data} (inputs, labels or classes)": content_hash(data.values()),
        f"the tokenizer of the model {model}": ids.hexdigest(),
        f"the weights of the model {model}": fingerprint(base, skip=drawn),
        f"the configuration of the model {model}": hashlib.sha256(json.dumps(base.config).encode()).hexdigest(),
    }


def check_origins(folder, mine):
    """Raise if what a run says of its origins is no longer so; return what a user has to know, or None."""
    path = Path(folder) / RUN
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
    if before == versions():
        return None
    was, now = (", ".join(f"{name} {number}" for name, number in some.items()) for some in (before, versions()))
    return f"begun with {was}, resumed with {now}: the last digits may differ from an unbroken run"


def versions():
    return {"lora_np": lora_np.__version__, "numpy": np.__version__, "python": platform.python_version()}
