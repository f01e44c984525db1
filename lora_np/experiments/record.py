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
from typing import get_args, get_origin

import numpy as np

import lora_np
from lora_np.datasets.splits import content_hash
from lora_np.experiments.recipe import FIELDS, NONE, Recipe, kinds_of
from lora_np.files import read_json, write_json
from lora_np.model.tree import fingerprint
from lora_np.train.checkpoints import check_run, load_checkpoint, save_checkpoint

RUN, CHECKPOINT, METRICS = "run.json", "checkpoint.safetensors", "metrics.json"
SAVE_EVERY = 10.0  # seconds between two checkpoints


class RunThere(ValueError):
    """The folder of a new run holds one already."""


def is_interrupted(folder):
    """Return whether there is a run in a folder that can be resumed (or is at work)."""
    return (Path(folder) / RUN).exists() and not (Path(folder) / METRICS).exists()


def check_folder(recipe, folder, resume):
    """Raise unless a folder holds this run, interrupted, or for a new one none."""
    if not resume:
        if any((folder / name).exists() for name in (RUN, CHECKPOINT, METRICS)):
            raise RunThere(f"{folder} holds a run already; choose another folder, or go on with it by resume=True.")
        return
    check_run(folder / RUN, read_recipe(folder).identity(), recipe.identity())
    if (folder / METRICS).exists():
        (folder / CHECKPOINT).unlink(missing_ok=True)  # killed just before it was removed
        raise ValueError(
            f"the run in {folder} is complete; there is nothing to resume. Its results are in {folder / METRICS}."
        )


def read_recipe(folder, kind: type[Recipe] = Recipe) -> Recipe:
    """Return the recipe of the run in a folder, complete and each field of its kind.

    Raises
    ------
    ValueError
        If there is none, or it is damaged.
    """
    path = Path(folder) / RUN
    values = read_json(path)

    def checked(name):
        value = values.get(name)
        if not any(is_of(value, hint) for hint in kinds_of(name)):
            raise ValueError(
                f"{path} has {name} = {value!r}; it is damaged or was written by another version. Start a new run."
            )
        return value

    given = {name: checked(name) for name in ("method", "data", "model")}
    usual = kind(**given)
    defaults = {name: usual.default(name) for name in FIELDS if name not in given}
    meant = (name for name, default in defaults.items() if default is not None)
    return kind(**given, **{name: checked(name) for name in meant if name in values or defaults[name] is not NONE})


def is_of(value, kind):
    """Return whether a value out of a file is of a field's kind; JSON has one kind of numbers."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(type(part) is get_args(kind)[0] for part in value)
    return type(value) in ((int, float) if kind is float else (kind,))


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
        interval = found.get("interval")
        shares = [found.get("accuracy"), *(interval if isinstance(interval, list) else [])]
        others = [found[name] for name in ("f1", "f1_macro", "mcc") if name in found]  # which old records lack
        numbers = all(type(number) in (int, float) and -1 <= number <= 1 for number in (*shares, *others))
        if len(shares) != 3 or not numbers or min(shares) < 0:
            raise ValueError(
                f"{path} has {when} = {str(metrics.get(when))[:100]!r}; expected an accuracy and its interval, shares"
                " in 0..1, and F1 and MCC up to 1: it is damaged or from another version."
            )
    return metrics


class Checkpoint:
    """The history of a run in progress, and its file, which no other run can take for its own."""

    def __init__(self, folder, identity, keep_best=False):
        self.path, self.identity, self.saved = folder / CHECKPOINT, identity, time.monotonic()
        self.history = {"loss": [], "lr": [], "dev": [], "dev_before": None, **({"dev_loss": []} if keep_best else {})}

    def load(self, training):
        """Put a training and the history where the run was, if anything had been saved."""
        if self.path.exists():
            mine, self.history = self.history, load_checkpoint(training, self.path, self.identity)
            if not is_history(self.history, training.done, mine.keys()):
                raise ValueError(f"the record in {self.path} is damaged; delete that file to start the run anew.")

    def is_due(self):
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, training):
        save_checkpoint(training, self.path, self.history, self.identity)
        self.saved = time.monotonic()

    def complete(self, record):
        """Write the record of the run that has ended: there is nothing to resume."""
        write_json(self.path.with_name(METRICS), record)
        self.path.unlink(missing_ok=True)


def is_history(history, steps, names=frozenset(("loss", "lr", "dev", "dev_before"))):
    """Return whether a checkpoint's history is one of so many steps, in finite numbers; without a dev nothing is said
    of it."""
    if not isinstance(history, dict) or history.keys() != names:
        return False
    dev = history["dev"]
    if not isinstance(dev, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in dev):
        return False
    if not all(isinstance(history[name], list) and len(history[name]) == steps for name in ("loss", "lr")):
        return False
    losses = history.get("dev_loss", [0.0] * len(dev))
    if not isinstance(losses, list) or len(losses) != len(dev):
        return False
    before = [history["dev_before"]] if dev or history["dev_before"] is not None else []
    numbers = [*history["loss"], *history["lr"], *(number for pair in dev for number in pair), *losses, *before]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def origins(recipe, data, tokens, base):
    """Return a hash of each thing that a run stands on, by the name that a user has for it."""
    model, texts, ids = recipe.model, recipe.kind == "texts", hashlib.sha256()
    files = ", ".join(filter(None, (recipe.data, recipe.dev, recipe.test)))
    for part in tokens.values() if texts else ():  # patches need no hash: they are the images themselves
        for row in part:
            ids.update(row.astype("<i8").tobytes() + b".")
    drawn = ("head",) if texts else ()  # the head of a text model comes from the seed
    return {
        f"the data {files} (inputs, labels or classes)": content_hash(data.values()),
        f"the tokenizer of the model {model}": ids.hexdigest(),
        f"the weights of the model {model}": fingerprint(base, skip=drawn),
        f"the configuration of the model {model}": hashlib.sha256(json.dumps(base.config).encode()).hexdigest(),
    }


def write_run(folder, recipe, stands_on):
    """Write what a run is, before its first step."""
    write_json(folder / RUN, {**recipe.options(), "origins": stands_on, "versions": versions()})


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
