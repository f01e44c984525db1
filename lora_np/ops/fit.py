"""What each operation asks of its arguments: numbers that can be computed with, in shapes that fit.

Left alone, NumPy would stretch one row over many, and round to whole numbers, without a word.
"""

import re
from functools import lru_cache

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
    if fits(spec, *[(a.shape, a.dtype) if is_array(a) else a is None for a in arrays], **sizes):
        return
    for (name, _, optional), array in zip(parts(spec), arrays):
        if not is_float(array) and not (optional and array is None):
            raise ValueError(
                f"{what} computes with arrays of float32, float64 or complex numbers, but {name} is"
                f" {described(array)}; make it such an array, numpy.asarray({name}, numpy.float32)."
            )
    beside = "".join(f", {letter} = {size}" for letter, size in sizes.items())
    given = ", ".join(f"{name} {described(value)}" for (name, *_), value in zip(parts(spec), arrays))
    raise ValueError(f"{what} needs {spec}{beside}, but it was given {given}; equal letters are equal sizes.")


@lru_cache(maxsize=4096)  # the same shapes come again and again: in each layer, at each step
def fits(spec, *given, **sizes):
    """Return whether (shape, dtype) pairs are those of a specification; in place of a pair, True stands for None."""
    for (_, letters, optional), pair in zip(parts(spec), given):
        if isinstance(pair, bool):
            if pair and optional:
                continue
            return False
        shape, dtype = pair
        if not is_computed_with(dtype) or len(shape) != len(letters or shape):
            return False
        for letter, size in zip(letters, shape) if letters is not None else [("...", shape)]:
            if sizes.setdefault(letter, size) != size:
                return False
    return True


@lru_cache
def parts(spec):
    """Return ((name, letters, whether it may be None), ...); the letters of "(...)" are None."""
    found = re.findall(r"(\w+) \(([^)]*)\)( or None)?", spec)
    return tuple((name, None if text == "..." else re.findall(r"\w+", text), bool(no)) for name, text, no in found)


def is_array(value):
    """Return whether it is an array, or a compressed matrix, which multiplies as one and can be had `dense()`."""
    return isinstance(value, np.ndarray) or hasattr(value, "dense")


def is_float(value):
    return is_array(value) and is_computed_with(value.dtype)


def is_computed_with(dtype):
    """Return whether we compute in a dtype: not in float16, which ends at 65,504 and has three digits."""
    return dtype.kind in "fc" and dtype.itemsize > 2


def described(value):
    if is_array(value):
        return f"{value.shape} {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"


def mean_or_sum(reduction, values):
    """Return what a sum over all values is divided by: 1, or for the mean their number, which must not be 0."""
    if reduction not in ("mean", "sum") or not values.size:
        raise ValueError(
            f"reduction must be 'mean' or 'sum', over at least one number, but it is {reduction!r}, over {values.size}."
        )
    return values.size if reduction == "mean" else 1


def number(name, value):
    """Return a Python float, which widens no array; raise ValueError unless the value is one real number."""
    if type(value) is float:
        return value
    if np.ndim(value) or np.asarray(value).dtype.kind not in "fiu":
        raise ValueError(f"{name} must be one real number, but it is {value!r}.")
    return float(value)
