"""Remember what a cache, or an argument, looked like, and tell what has changed since, however it is nested."""

from numbers import Number
from types import ModuleType

import numpy as np


def snapshot(value):
    """Remember every leaf by its path, arrays as copies."""
    return {path: leaf.copy() if isinstance(leaf, np.ndarray) else leaf for path, leaf in leaves(value)}


def differences(before, value):
    """List the paths whose leaf is no longer what the snapshot says, bit for bit, and those that came or went."""
    after = dict(leaves(value))
    kept = {path for path in before if path in after and _same(before[path], after[path])}
    return [path for path in {**before, **after} if path not in kept]


def leaves(value, path="", parents=()):
    """Yield (path, array or plain value) for all that is in tuples, lists, dicts and objects with attributes."""
    numbers = isinstance(value, np.ndarray) and value.dtype != object
    if numbers or value is None or isinstance(value, (Number, str, bytes)):
        yield path, value
    elif id(value) not in parents and not isinstance(value, (type, ModuleType)):  # a structure may contain itself
        for name, child in children(value):
            yield from leaves(child, path + name, (*parents, id(value)))


def children(value):
    """Return (how it is got at, child) for what is in a tuple, list, dict, array of objects, or object."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", child) for key, child in value.items()]
    if hasattr(value, "_fields"):
        return [(f".{name}", child) for name, child in zip(value._fields, value)]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [(f"[{i}]", child) for i, child in enumerate(value)]
    names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a is b or a == b or repr(a) == repr(b)  # a nan equals its like only when written out
