"""What each operation asks of its arguments: numbers that can be computed with, in shapes that fit.

Left alone, NumPy would stretch one row over many, and round to whole numbers, without a word.
"""

import re
from functools import cache

import numpy as np


def fit(what, spec, *arrays, **sizes):
    """Raise unless the arrays are of floats or complex numbers, and their shapes are those of a specification.

    Parameters
    ----------
    what : str
        Who asks.
    spec : str
        Such as "x (N, d_in), W (d_in, d_out), b (d_out,) or None": one letter, one size. "(...)" is any shape, the
        same wherever it stands.
    *arrays : array or None
        In the order of `spec`.
    **sizes : int
        Sizes that are known before, by their letters.

    Raises
    ------
    ValueError
        Naming all shapes and dtypes.
    """
    known = dict(sizes)
    for (name, letters, optional), array in zip(parts(spec), arrays):
        if array is None and optional:
            continue
        if not is_float(array):
            raise ValueError(
                f"{what} computes with arrays of float32, float64 or complex numbers, but {name} is"
                f" {described(array)}; make it such an array, numpy.asarray({name}, numpy.float32)."
            )
        if not agrees(letters, array.shape, known):
            beside = "".join(f", {letter} = {size}" for letter, size in sizes.items())
            given = ", ".join(f"{name} {described(value)}" for (name, *_), value in zip(parts(spec), arrays))
            raise ValueError(f"{what} needs {spec}{beside}, but it was given {given}; equal letters are equal sizes.")


@cache
def parts(spec):
    """Return ((name, letters, whether it may be None), ...); the letters of "(...)" are None."""
    found = re.findall(r"(\w+) \(([^)]*)\)( or None)?", spec)
    return tuple((name, None if text == "..." else re.findall(r"\w+", text), bool(no)) for name, text, no in found)


def is_float(array):
    """Return whether an array can be computed with: float16 cannot, as it ends at 65,504 and has three digits."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "fc" and array.dtype.itemsize > 2


def agrees(letters, shape, known):
    """Return whether a shape has the sizes that are known by their letters; what is new becomes known."""
    if letters is None:
        return known.setdefault("...", shape) == shape
    return len(letters) == len(shape) and all(
        known.setdefault(letter, size) == size for letter, size in zip(letters, shape)
    )


def described(value):
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"


def number(name, value):
    """Return a Python float, which widens no array; raise ValueError unless the value is one real number."""
    if np.ndim(value) or np.asarray(value).dtype.kind not in "fiu":
        raise ValueError(f"{name} must be one real number, but it is {value!r}.")
    return float(value)
