"""Saving a run in progress, and going on from there to the same bits.

One safetensors file holds the trainable arrays, the optimiser's two moments and, in its metadata, how many steps were
taken and what was recorded on the way. It is replaced whole.
"""

import json
from pathlib import Path

from lora_np.io.safetensors import read_safetensors, write_safetensors

KINDS = ("parameter", "m", "v")


def save_checkpoint(training, path, history):
    """Write the state of a `Training` and a JSON-serialisable record of its past."""
    tensors = {f"{kind}/{name}": array for kind, arrays in _state(training).items() for name, array in arrays.items()}
    write_safetensors(path, tensors, {"step": str(training.done), "history": json.dumps(history)})


def load_checkpoint(training, path):
    """Put a `Training` where the saved one was, in place, and return the record of its past.

    Raises
    ------
    ValueError
        If the file is damaged or belongs to another run; nothing is changed then.
    """
    tensors, metadata = read_safetensors(path)
    state = _state(training)
    expected = {f"{kind}/{name}": array for kind, arrays in state.items() for name, array in arrays.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        mine, theirs = expected.get(name), tensors.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            raise ValueError(
                f"{Path(path)} does not fit this run: {name} is missing, additional, or of another shape or dtype; it"
                " was saved by another configuration."
            )
    try:
        step, history = int(metadata["step"]), json.loads(metadata["history"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{Path(path)} is no checkpoint of a run ({error!r}).") from error
    if not 0 <= step <= training.total:
        raise ValueError(f"{Path(path)} says that {step} steps were taken, but this run has {training.total}.")
    for name, array in expected.items():
        array[...] = tensors[name]
    training.done = training.optimiser.t = step
    return history


def _state(training):
    return dict(zip(KINDS, (training.optimiser.parameters, training.optimiser.m, training.optimiser.v)))
