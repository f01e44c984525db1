"""A model is a tree of plain dataclasses; these functions walk it and build changed copies.

In a node, a field that holds an array is a parameter, a field that holds a node (or a tuple of nodes) is a child, and
the rest is settings. In an array's place may stand a compressed one (`lora_np/compress`), which is never trained. A
path such as `layer.0.attention.query.W` names fields from the root down. Nothing here changes a node: each function
returns a new tree that shares what it did not change.
"""

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from lora_np.compress import FrozenMatrix

Node = TypeVar("Node")  # whatever was given comes back: a Transformer, a block, a linear map


class ParameterCount(NamedTuple):
    total: int
    trainable: int


@functools.cache
def fields_of(kind):
    """Return the names of a node's fields, in order, and none for what is no node; each class is asked once."""
    names = tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()
    return names if hasattr(kind, "trainable") else ()


def is_node(value):
    return bool(fields_of(type(value)))


def values(node):
    return {name: getattr(node, name) for name in fields_of(type(node))}


def arrays(node):
    """Return the node's own parameters by field name."""
    return {name: value for name, value in values(node).items() if isinstance(value, (np.ndarray, FrozenMatrix))}


def children(node):
    """Yield (path below the node, child), in the order of the fields."""
    for name, value in values(node).items():
        if is_node(value):
            yield name, value
        elif isinstance(value, tuple) and all(map(is_node, value)):
            for k, child in enumerate(value):
                yield f"{name}.{k}", child


def join(path, name):
    return f"{path}.{name}" if path else name


def lies_in(name, nodes):
    """Return whether a name is one of these, or of something below one."""
    return any(f"{name}.".startswith(f"{node}.") for node in nodes)


def check_node(value):
    """Raise unless this is a model, or a part of one."""
    if not is_node(value):
        raise ValueError(
            f"a model was expected here, such as load_pretrained or inject returns, but this is {value!r:.60}"
            f"{'; take one of them by its name, adapters[name]' if hasattr(value, 'active_adapter') else ''}."
        )


def walk(node, path=""):
    """Yield (path, node) for a node and all below it, top down, in the order of the fields."""
    check_node(node)
    yield path, node
    for name, child in children(node):
        yield from walk(child, join(path, name))


def rebuild(node, change, path=""):
    """Return a new tree in which `change(path, node)` has replaced each node, from the leaves up."""
    check_node(node)
    new = {}
    for name, child in children(node):
        field, _, index = name.partition(".")
        changed = rebuild(child, change, join(path, name))
        new[field] = (*new.get(field, ()), changed) if index else changed
    changed = change(path, dataclasses.replace(node, **new) if new else node)
    if changed is None:  # which nobody means, and which would be told far from here
        raise TypeError(f"change returns None for {path or 'the model itself'}; end it with `return node`.")
    return changed


def parameters(model, trainable_only: bool = False) -> dict[str, np.ndarray]:
    """Return the live arrays of a model by name, in order: no copies, an optimiser writes into them.

    A compressed matrix stands there as such; `numpy.asarray` makes an array of it.

    Parameters
    ----------
    model : node
    trainable_only : bool
        Leave out what is frozen.
    """
    return {
        join(path, name): array
        for path, node in walk(model)
        for name, array in arrays(node).items()
        if not trainable_only or name in node.trainable
    }


def is_trainable(node):
    """Return whether any array of the node, or below it, is trained."""
    return bool(node.trainable) or any(is_trainable(child) for _, child in children(node))


def flatten(nested, path=""):
    """Return {"layer.0.attention.query.A": array, ...} for gradients nested like the model."""
    flat = {}
    for name, value in nested.items():
        name = join(path, name)
        flat |= flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat


def count_parameters(model) -> ParameterCount:
    """Return how many numbers a model holds, and how many of them are trained: `(total, trainable)`.

    An array that stands in several places, as an adapter's may, counts once; a compressed matrix as many as it stands
    for, and its bytes are its `nbytes`.
    """
    distinct = ({id(a): a.size for a in parameters(model, only).values()} for only in (False, True))
    return ParameterCount(*(sum(sizes.values()) for sizes in distinct))


def with_arrays(model, new):
    """Return a new model that holds the arrays of `new` (by parameter name) in place of its own; shapes must agree."""

    def change(path, node):
        mine = {name: new[key] for name in arrays(node) if (key := join(path, name)) in new}
        for name, array in mine.items():
            old = getattr(node, name).shape
            if array.shape != old:
                raise ValueError(f"{join(path, name)} has shape {old}, but the new array has {array.shape}.")
        return dataclasses.replace(node, **mine) if mine else node

    return rebuild(model, change)


def freeze(model: Node, names: str | Iterable[str] | None = None) -> Node:
    """Return a new model in which the named parameters are not trained, or nothing is, and no array of them can be
    written.

    Parameters
    ----------
    model : node
    names : str or list of str, optional
        As `unfreeze` takes them: `freeze(lora, "*.A")` leaves B to be trained; for the mirror see `adapt/lora_fa.py`,
        as A has no gradient while B is zero. Of those that were trained the new model has copies. Without names all is
        frozen, and a writable array that is its own memory is locked in place, so that nobody can write through
        another name; a view is copied first.

    Raises
    ------
    ValueError
        If a name matches nothing.
    """
    chosen = None if names is None else named(model, names, "freeze")

    def change(path, node):
        mine = {name: array for name, array in arrays(node).items() if chosen is None or join(path, name) in chosen}
        if chosen is not None:
            mine = {name: array.copy() for name, array in mine.items() if name in node.trainable}
        kept = tuple(name for name in node.trainable if chosen is not None and name not in mine)
        return dataclasses.replace(node, trainable=kept, **{name: locked(array) for name, array in mine.items()})

    return rebuild(model, change)


def named(model, names, who, fixed=()):
    """Return the parameters that names mean: their own, those of nodes above them, shell patterns, "all"."""
    known, chosen = [name for name in parameters(model) if name not in fixed], set()
    names = [names] if isinstance(names, str) else names
    names = list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{who} takes a name or a list of names, but one of them is {names!r:.60}.")
    for name in names:
        if name in fixed:
            raise ValueError(
                f"{name} lies under an adapter, or is shared by its nodes, and stays frozen; merge the adapter before"
                " you train it."
            )
        found = [key for key in known if name == "all" or fnmatchcase(key, name) or fnmatchcase(key, f"{name}.*")]
        if not found:
            raise ValueError(
                f"{who} found no parameter or node named {name!r};"
                f" {nearest(name, [*known, *(p for p, _ in walk(model) if p)])}"
            )
        chosen.update(found)
    return chosen


def locked(array):
    """Return the array read-only and owning its memory: a view of writable memory could be unlocked again."""
    if isinstance(array, FrozenMatrix):
        return array
    array = array if array.flags.owndata else array.copy()
    array.flags.writeable = False
    return array


def never_trained(node):
    """Return the names of an adapted node's arrays that are never trained: the base's, its own, and what its nodes
    share."""
    return *getattr(node, "FROZEN", ()), *getattr(node, "HELD", ()), *getattr(node, "SHARED", ())


def unfreeze(model: Node, names: str | Iterable[str]) -> Node:
    """Return a new model in which the named parameters are trained.

    Parameters
    ----------
    model : node
    names : str or list of str
        Names of parameters (`head.classifier.b`), of nodes (`head`, `layer.0`: all below them), shell patterns over
        these (`*.b`), or "all". These arrays are writable copies in the new model; all others are shared.

    Raises
    ------
    ValueError
        If a name matches nothing, or an array that stays frozen under an adapter, or is compressed.
    """
    fixed = {join(path, name) for path, node in walk(model) for name in never_trained(node)}
    chosen = named(model, names, "unfreeze", fixed)
    for key, array in parameters(model).items():
        if key in chosen and isinstance(array, FrozenMatrix):
            raise ValueError(
                f"{key} is compressed and never trained; train an adapter over it, name other arrays ('*.b'), or make"
                " the model dense by decompress_model."
            )

    def change(path, node):
        trainable = tuple(name for name in arrays(node) if name in node.trainable or join(path, name) in chosen)
        new = {name: getattr(node, name).copy() for name in trainable if name not in node.trainable}
        return dataclasses.replace(node, trainable=trainable, **new) if new else node

    return rebuild(model, change)


def astype(model: Node, dtype: DTypeLike) -> Node:
    """Return a copy of a model in another dtype, float32 to train or float64 to verify; ValueError for any other.

    What is frozen is read-only there too, and an array that stands in several places is one there, too.
    """
    dtype, made = check_dtype(dtype), {}

    def cast(array):
        if id(array) not in made:
            made[id(array)] = array.astype(dtype)
        return made[id(array)]

    def change(_, node):
        new = {name: cast(array) for name, array in arrays(node).items()}
        return dataclasses.replace(
            node, **{name: a if name in node.trainable else locked(a) for name, a in new.items()}
        )

    return rebuild(model, change)


def check_dtype(dtype):
    """Return a numpy dtype that models compute in, float32 or float64; raise ValueError for any other."""
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy reads None as float64
    except TypeError:
        found = None
    if found not in (np.float32, np.float64):
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
    """Return the settings of a node that change what it computes, by name; of an adapted one, those of the base."""
    others = ("hf", "hf_prefix", "dropout")  # names, and what belongs to a run
    known = {k: v for k, v in values(node).items() if isinstance(v, (bool, int, float, str)) and k not in others}
    return {k: v for k, v in known.items() if k in getattr(node, "FROZEN", known)}


def fingerprint(model, skip=()):
    """Return a hash of what a model computes with: weights, in float32, and settings such as the number of heads.

    An adapter does not count, nor does dropout: a base keeps its own under them. A compressed matrix counts by what it
    holds, whatever dtype it computes in.

    Parameters
    ----------
    model : node
    skip : collection of str
        Names of parameters, or of nodes with all below them, that are left out.
    """
    digest = hashlib.sha256()
    for path, node in walk(model):
        if not lies_in(path, skip):
            digest.update(f"{path} {settings(node)} ".encode())
        for name, array in arrays(node).items():
            if name not in getattr(node, "FROZEN", (name,)) or lies_in(name := join(path, name), skip):
                continue
            digest.update(f"{name} {array.shape} ".encode())
            if isinstance(array, FrozenMatrix):
                digest.update(f"{type(array).__name__} {array.transposed} ".encode())
                digest.update(b"".join(part.tobytes() for part in array.parts().values()))
            else:
                digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()
