"""What is left of an update when its sum with a weight is rounded to fewer digits.

A float of p bits lies at most |w| 2^-p from the number w that was rounded to it: float32 has p = 24, float16 11, and
bfloat16 8. The bound goes with w, the weight, and an update dW is small beside it. So what a merged weight loses is to
be measured by the update:

    error = |round(W + dW) - round(W) - dW| / |dW|        in the Frobenius norm

Neighbours are u = |w| 2^(1-p) apart at most. Where u is less than |dw|, a rounding is anything up to u / 2, and over
many entries about u / sqrt(12). Where |dw| is less than u / 2 and w itself is one of the floats, the sum is rounded
back to w: that entry did not change. Of a W that was rounded before (a model stored in bfloat16) the error is at most
1, and then nothing of the update is there. Else W's own rounding counts, too, and it may be more.

    >>> import numpy as np
    >>> W, dW = np.random.default_rng(0).normal(size=(2, 100, 100)) * [[[1.0]], [[0.01]]]
    >>> for dtype in ("float32", "float16", "bfloat16"):
    ...     found = rounding_of(W, dW, dtype)
    ...     print(f"{dtype:<9} {found.error:8.2%} lost, {found.unchanged:7.2%} of the entries as before")
    float32      0.00% lost,   0.00% of the entries as before
    float16      2.92% lost,   2.11% of the entries as before
    bfloat16    23.80% lost,  16.70% of the entries as before

The sum is taken in float64 and rounded once, to the nearest float, and of two that are as near to the even one. (PEFT
adds in float32 and rounds that: the same, but for sums that float32 rounds to the middle between two.)
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from lora_np.compress import FORMATS, FrozenMatrix
from lora_np.files.safetensors import as_bfloat16
from lora_np.model.tree import arrays, locked

FLOATS = ("float32", "float16", "bfloat16")
CODES = ("int8", "nf4", "q4_0", "q4_1", "q8_0")  # formats of matrices that ask for nothing more


@dataclass(frozen=True)
class Rounding:
    """What rounding made of an update: sums over its entries, so that those of its parts, or of many, can be added."""

    lost: float = 0.0  # of the squares of round(W + dW) - round(W) - dW
    update: float = 0.0  # of the squares of dW
    weight: float = 0.0  # of the squares of W
    same: int = 0  # the entries of which round(W + dW) is round(W)
    entries: int = 0

    @property
    def error(self) -> float:
        """What is lost, relative to the update; 0 if there is none."""
        return math.sqrt(self.lost / self.update) if self.update else 0.0

    @property
    def size(self) -> float:
        """The update, relative to the weight."""
        return math.sqrt(self.update / self.weight) if self.weight else math.inf

    @property
    def unchanged(self) -> float:
        """The share of the entries that are as they were before."""
        return self.same / self.entries if self.entries else 0.0

    def __add__(self, other):
        return Rounding(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def rounding_of(W, dW, dtype):
    """Return the Rounding of an update dW to W, arrays of one shape, in a dtype as `rounded` takes it.

    Of a matrix too large for that its rows can be given in parts (but for NF4, whose scales have one of their own).
    """
    W, dW = (np.asarray(array, np.float64) for array in (W, dW))
    before, after = (rounded(array, dtype).astype(np.float64) for array in (W, W + dW))
    lost = after - before - dW
    squares = (float(np.vdot(array, array)) for array in (lost, dW, W))
    return Rounding(*squares, int((after == before).sum()), W.size)


def rounded(array, dtype):
    """Return an array with each number rounded to the nearest of a dtype, that of bfloat16 in float32.

    Parameters
    ----------
    array : array
    dtype : str
        "float32", "float16" or "bfloat16"; or a format of `compress_model` without options, whose numbers are then
        those that a linear map's W (d_in, d_out) would be decoded to. What is no matrix stays as it is there.

    Raises
    ------
    ValueError
        If there is no such dtype, or a number is beyond it.
    """
    dtype = name_of(dtype)
    if dtype in CODES:
        return FORMATS[dtype].of(array.T).T.dense() if array.ndim == 2 else array
    if dtype not in FLOATS:
        raise ValueError(f"numbers are rounded to one of {', '.join((*FLOATS, *CODES))}, but dtype is {dtype!r}.")
    with np.errstate(over="ignore"):
        new = as_bfloat16(array).array() if dtype == "bfloat16" else array.astype(dtype)
    if not np.isfinite(array).all():
        raise ValueError(f"NaN or infinity is among the numbers that are to be rounded to {dtype}.")
    if not np.isfinite(new).all():
        raise ValueError(
            f"{np.abs(array).max():g} is beyond {dtype}; float16 ends at 65,504, bfloat16 and float32 at 3.4e38."
        )
    return new


def name_of(dtype):
    """Return the name of a dtype, which NumPy's may stand for; what is none stays as it is."""
    try:
        return dtype if dtype is None or isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        return dtype


def checked_float(dtype):
    """Return the name of a dtype that a model can be merged to, or None."""
    dtype = name_of(dtype)
    if dtype not in (None, *FLOATS):
        raise ValueError(
            f"a model is merged to one of {', '.join(FLOATS)}, or to its own with None, but dtype is {dtype!r}."
            f"{' compress_model(merge(model), form) compresses it again.' if dtype in CODES else ''}"
        )
    return dtype


def in_floats_of(node, path, dtype, own):
    """Return a node with each number rounded to the nearest of `dtype`, in arrays of the dtype `own`."""
    new = {}
    for name, array in arrays(node).items():
        if isinstance(array, FrozenMatrix):
            raise ValueError(
                f"{path}.{name} is compressed ({array!r}), so it is not rounded to {dtype}; merge"
                " decompress_model(model), or merge without a dtype."
            )
        try:
            near = rounded(array, dtype).astype(own)
        except ValueError as error:
            raise ValueError(f"{path}.{name}: {error}") from error
        new[name] = array if array.dtype == own and np.array_equal(near, array) else locked(near)
    return dataclasses.replace(node, **new)
