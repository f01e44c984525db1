"""A model is a tree of plain dataclasses; these functions walk it and build changed copies.

In a node, a field that holds an array is a parameter, a field that holds a node (or a tuple of nodes) is a child, and
the rest is settings. A path such as `layer.0.attention.query.W` names fields from the root down. Nothing here changes
a node: each function returns a new tree that shares what it did not change.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

Node = TypeVar("Node")  # whatever was given comes back: a Transformer, a block, a linear map


class ParameterCount(NamedTuple):
    total: int
    trainable: int


def is_node(value):
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "trainable")


def children(node):
    """Yield (path below the node, child), in the order of the fields."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if is_node(value):
            yield field.name, value
        elif isinstance(value, tuple) and value and all(map(is_node, value)):
            for k, child in enumerate(value):
                yield f"{field.name}.{k}", child


def arrays(node):
    """Return the node's own parameters by field name."""
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def walk(node, path=""):
    """Yield (path, node) for a node and all below it, top down, in the order of the fields."""
    yield path, node
    for name, child in children(node):
        yield from walk(child, f"{path}.{name}" if path else name)


def rebuild(node, change, path=""):
    """Return a new tree in which `change(path, node)` has replaced each node, from the leaves up."""
    new = {}
    for name, child in children(node):
        field, _, index = name.partition(".")
        replaced = rebuild(child, change, f"{path}.{name}" if path else name)
        if index:
            new[field] = new.get(field, ()) + (replaced,)
        else:
            new[field] = replaced
    changed = change(path, dataclasses.replace(node, **new) if new else node)
    if changed is None:  # which nobody means, and which would be told far from here
        raise TypeError(f"change returns None for {path or 'the model itself'}; end it with `return node`.")
    return changed


def parameters(model, trainable_only: bool = False) -> dict[str, np.ndarray]:
    """Return the live arrays of a model by name, in order.

    Parameters
    ----------
    model : node
    trainable_only : bool
        Leave out what is frozen.

    Returns
    -------
    dict of str to array
        The arrays themselves, not copies: an optimiser writes into them.
    """
    found = {}
    for path, node in walk(model):
        for name, array in arrays(node).items():
            if not trainable_only or name in node.trainable:
                found[f"{path}.{name}" if path else name] = array
    return found


def is_trainable(node):
    """Return whether any array of the node, or below it, is trained."""
    return bool(node.trainable) or any(is_trainable(child) for _, child in children(node))


def flatten(nested, path=""):
    """Return {"layer.0.attention.query.A": array, ...} for gradients nested like the model."""
    flat = {}
    for name, value in nested.items():
        name = f"{path}.{name}" if path else name
        flat.update(flatten(value, name) if isinstance(value, dict) else {name: value})
    return flat


def count_parameters(model) -> ParameterCount:
    """Return how many numbers a model holds, and how many of them are trained.

    Parameters
    ----------
    model : node

    Returns
    -------
    ParameterCount
        A named tuple `(total, trainable)`.
    """
    count = [sum(array.size for array in parameters(model, only).values()) for only in (False, True)]
    return ParameterCount(*count)


def with_arrays(model, new):
    """Return a new model that holds the arrays of `new` (by parameter name) in place of its own; shapes must agree."""

    def change(path, node):
        mine = {name: new[key] for name in arrays(node) if (key := f"{path}.{name}" if path else name) in new}
        for name, array in mine.items():
            if array.shape != getattr(node, name).shape:
                raise ValueError(
                    f"{path}.{name} has shape {getattr(node, name).shape}, but the new array has {array.shape}."
                )
        return dataclasses.replace(node, **mine) if mine else node

    return rebuild(model, change)


def freeze(model):
    """Return a new model in which nothing is trained and no array can be written.

    A writable array that is its own memory is locked in place, so that nobody can write through another name; a view
    is copied first.
    """

    def change(_, node):
        return dataclasses.replace(node, trainable=(), **{name: locked(array) for name, array in arrays(node).items()})

    return rebuild(model, change)


def locked(array):
    """Return the array read-only and owning its memory: a view of writable memory could be unlocked again."""
    array = array if array.flags.owndata else array.copy()
    array.flags.writeable = False
    return array


def unfreeze(model: Node, names: str | Iterable[str]) -> Node:
    """Return a new model in which the named parameters are trained.

    Parameters
    ----------
    model : node
    names : str or list of str
        Names of parameters (`head.classifier.b`), of nodes (`head`, `layer.0`: all below them), shell patterns over
        these (`*.b`), or "all".

    Returns
    -------
    node
        The named arrays are writable copies; all others are shared with `model` and stay as they were.

    Raises
    ------
    ValueError
        If a name matches nothing, or an array that stays frozen under a LoRA detour.
    """
    names = [names] if isinstance(names, str) else list(names)
    fixed = {f"{path}.{name}" for path, node in walk(model) for name in getattr(node, "FROZEN", ())}
    known, chosen = [name for name in parameters(model) if name not in fixed], set()
    for name in names:
        if name in fixed:
            raise ValueError(
                f"{name} lies under a LoRA detour and stays frozen; merge the adapter before you train it."
            )
        found = [key for key in known if name == "all" or fnmatchcase(key, name) or fnmatchcase(key, f"{name}.*")]
        if not found:
            raise ValueError(
                f"unfreeze found no parameter or node named {name!r};"
                f" {nearest(name, [*known, *(p for p, _ in walk(model) if p)])}"
            )
        chosen.update(found)

    def change(path, node):
        mine = {name: array for name, array in arrays(node).items() if (f"{path}.{name}" if path else name) in chosen}
        if not mine:
            return node
        trainable = tuple(name for name in arrays(node) if name in mine or name in node.trainable)
        return dataclasses.replace(
            node,
            trainable=trainable,
            **{name: array.copy() for name, array in mine.items() if name not in node.trainable},
        )

    return rebuild(model, change)


def astype(model: Node, dtype: DTypeLike) -> Node:
    """Return a copy of a model in another dtype; what is frozen is read-only there too.

    Parameters
    ----------
    model : node
    dtype : numpy dtype
        float32 to train, float64 to verify.

    Raises
    ------
    ValueError
        If it is another one.
    """
    dtype = check_dtype(dtype)

    def change(_, node):
        cast = {name: array.astype(dtype) for name, array in arrays(node).items()}
        return dataclasses.replace(
            node, **{name: a if name in node.trainable else locked(a) for name, a in cast.items()}
        )

    return rebuild(model, change)


def check_dtype(dtype):
    """Return a numpy dtype that models compute in, float32 or float64; raise ValueError for any other."""
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"dtype must be numpy.float32 or numpy.float64, but it is {dtype!r}.") from error
    if dtype is None or found not in (np.float32, np.float64):
        why = "; float16 ends at 65,504 and has three digits, enough to store a model and too few to compute with"
        raise ValueError(
            f"models compute in float32 (to train) or float64 (to verify), but dtype is {dtype!r}"
            f"{why if found == np.float16 else ''}."
        )
    return found


def nearest(name, known):
    """Return the sentence that lists the nearest existing names."""
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
    return f"the nearest that exist are {', '.join(close or sorted(known)[:5])}."


def settings(node):
    """Return the settings of a node that change what it computes, by name."""
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    kept = ("hf", "hf_prefix", "dropout", "scale")  # names, and what belongs to a run or an adapter
    return {name: v for name, v in values.items() if isinstance(v, (bool, int, float, str)) and name not in kept}


def fingerprint(model, skip=()):
    """Return a hash of what a model computes with: weights, in float32, and settings such as the number of heads.

    A LoRA detour does not count, nor does dropout: a base keeps its own under them.

    Parameters
    ----------
    model : node
    skip : collection of str
        Names of parameters, or of nodes with all below them, that are left out.

    Returns
    -------
    str
        The SHA-256 over names, shapes and values, in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, node in walk(model):
        if not any(f"{path}.".startswith(f"{left}.") for left in skip):
            digest.update(f"{path} {settings(node)} ".encode())
        for name in getattr(node, "FROZEN", arrays(node)):
            array, name = getattr(node, name), f"{path}.{name}" if path else name
            if array is None or any(name == left or name.startswith(f"{left}.") for left in skip):
                continue
            digest.update(f"{name} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()
