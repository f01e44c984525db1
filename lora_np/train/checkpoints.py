"""Saving a run in progress, and going on from there to the same bits.

One safetensors file holds the trainable arrays, the optimiser's two moments, what the method of adaptation remembers, a
copy of the best state so far if one is kept and, in its metadata, how many steps were taken and what was recorded on
the way. It is replaced whole.
"""

import json
from pathlib import Path

import numpy as np

from lora_np.adapt.methods import adapted_nodes
from lora_np.files import about
from lora_np.files.safetensors import read_safetensors, write_safetensors
from lora_np.model.tree import is_node, values


def save_checkpoint(training, path, history, run=None):
    """Write the state of a `Training`, a record of its past, and what the run is: both JSON-serialisable."""
    metadata = {"step": str(training.done), "history": json.dumps(history), "run": json.dumps(run)}
    metadata["factors"] = json.dumps(unusual(training.optimiser.factors))
    metadata["adapted"] = json.dumps(adapted_as(training.model))
    write_safetensors(path, state(training), metadata)


def load_checkpoint(training, path, run=None):
    """Put a `Training` where the saved one was, in place, and return the record of its past.

    `run` is what was given to `save_checkpoint`; without it, arrays of the same shapes are enough, if they are those of
    the same adapter.

    Raises
    ------
    ValueError
        If the file is damaged or belongs to another run; nothing is changed then.
    """
    with about(path):
        return restored(training, Path(path), run)


def restored(training, path, run):
    tensors, metadata = read_safetensors(path)
    expected = state(training)
    for name in sorted(expected.keys() | tensors.keys()):
        mine, theirs = expected.get(name), tensors.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            raise ValueError(
                f"{path} does not fit this run: {name} is missing, additional, or of another shape or dtype; it"
                " was saved by another configuration."
            )
        if not np.isfinite(theirs).all():
            raise ValueError(f"{path} holds {name} with numbers that are not finite; it is damaged, start a new run.")
        if name.startswith("v/") and (theirs < 0).any():
            raise ValueError(
                f"{path} holds {name}, means of squares, with some below 0; it is damaged, start a new run."
            )
    try:
        step, history = int(metadata["step"]), json.loads(metadata["history"])
        theirs, factors = json.loads(metadata.get("run", "null")), json.loads(metadata.get("factors", "{}"))
        mine = adapted_as(training.model)
        before = json.loads(metadata["adapted"]) if "adapted" in metadata else mine
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no checkpoint of a run ({error!r}).") from error
    check_factors(path, factors, unusual(training.optimiser.factors))
    check_adapted(path, before, mine)
    if run is not None:
        check_run(path, theirs, json.loads(json.dumps(run)))
    if not 0 <= step <= training.total:
        raise ValueError(f"{path} says that {step} steps were taken, but this run has {training.total}.")
    for name, array in expected.items():
        array[...] = tensors[name]
    training.done = training.optimiser.t = step
    return history


def check_run(path, theirs, mine):
    """Raise if the run that saved a checkpoint is not this one."""
    if not isinstance(theirs, dict):
        raise ValueError(f"the record in {path} is damaged; delete that file to start the run anew.")
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            raise ValueError(
                f"{path} was saved by a run with {name} = {theirs.get(name)!r}, but here it is"
                f" {mine.get(name)!r}; put that back, or start a new run."
            )


def adapted_as(model):
    """Return what an adapter's arrays depend on beside the base: {path: the kind and the numbers of its node}, and how
    it started, where that is held beside them."""
    nodes = adapted_nodes(model) if is_node(model) else {}
    found = {path: {"kind": type(node).__name__, **numbers_of(node)} for path, node in nodes.items()}
    start = getattr(getattr(model, "adapter", None), "init_lora_weights", True)
    return {**found, "start": start} if isinstance(start, str) else found


def numbers_of(node):
    return {name: x for name, x in values(node).items() if isinstance(x, (bool, int, float)) and name != "dropout"}


def check_adapted(path, theirs, mine):
    """Raise if the run that saved a checkpoint had another adapter, for which its arrays mean something else."""
    if not isinstance(theirs, dict):
        raise ValueError(f"what {path} says of its adapter is damaged; delete that file to start the run anew.")
    for name in sorted({*theirs, *mine}):
        if theirs.get(name) != mine.get(name):
            raise ValueError(
                f"{path} was saved by a run in which {name} was {theirs.get(name)!r}, but here it is"
                f" {mine.get(name)!r}; adapt the model as it was, or start a new run."
            )


def unusual(factors):
    """Return those factors of a learning rate that are not 1."""
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def check_factors(path, theirs, mine):
    """Raise if the arrays of a run had other learning rates beside each other than here."""
    if not isinstance(theirs, dict):
        raise ValueError(f"the learning rates' factors in {path} are damaged; delete that file to start the run anew.")
    for name in sorted({*theirs, *mine}):
        if theirs.get(name, 1.0) != mine.get(name, 1.0):
            raise ValueError(
                f"{path} was saved by a run in which lr_factors gave {name} {theirs.get(name, 1.0)} times the learning"
                f" rate, but here it has {mine.get(name, 1.0)} times; put that back, or start a new run."
            )


def state(training):
    """Return the live arrays of a training by their names in the file."""
    optimiser = training.optimiser
    kinds = {"parameter": optimiser.parameters, "m": optimiser.m, "v": optimiser.v}
    kinds |= {"method": training.between.state, "kept": training.kept}
    return {f"{kind}/{name}": array for kind, arrays in kinds.items() for name, array in arrays.items()}
