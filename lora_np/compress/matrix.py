"""A frozen matrix in less memory than its numbers take: what the formats of this package have in common.

A format holds a matrix M (R, C) row by row, and can give any rows of it as ordinary floats. Products never hold the
whole of M that way: they take a band of rows at a time, small enough to stay in the processor's cache until it has
been multiplied.
    (1)  x M    = sum over the bands of  x[:, band] M[band]
    (2)  x M^T    has in its columns `band`  x M[band]^T
What a band costs to make does not depend on how many rows x has, so the more rows, the nearer to a dense product.

A linear map's W (d_in, d_out) is held as M = W^T, `Int8.of(W.T).T`: a row is then what goes into one output, as in the
files of models, in bitsandbytes and in GGUF. `x @ W` is (2) and the backward's `dy @ W.T` is (1). A table of words
(V, d) is held as it stands, a word a row: looking words up makes their rows alone, and a tied head, x table^T, is (2).

The numbers that a format gives are the matrix: a float64 copy of a model computes with exactly them, so that gradients
over a compressed base can be proven. The matrix itself gets none: it is frozen, and cannot be written.
"""

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

BAND_BYTES = 2**19  # of the floats of one band; larger ones gain nothing (tests/benchmarks/compress.py --bands)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FrozenMatrix:
    """What stands in the place of an array that is only multiplied with: `x @ W`, `dy @ W.T`, `table[ids]`.

    A format is a subclass: its fields that are arrays are what it holds, the first with M's rows along its first axis;
    the classmethod `of(M)` makes one, and `decoded(rows)` gives rows of M, a slice of them or integers, in floats. In
    sums and other products it acts as its `dense()`, which `np.asarray` makes of it; NumPy's ufuncs refuse it.
    """

    columns: int  # C
    dtype: np.dtype = np.dtype(np.float32)  # of the numbers it gives; what it holds stays as it is
    transposed: bool = False  # whether M^T is meant

    __array_ufunc__ = None  # NumPy leaves `x @ W` and `x + W` to the methods below
    flags = SimpleNamespace(writeable=False)  # as an array has them
    ndim = 2

    def __post_init__(self):
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        for name, array in self.parts().items():
            object.__setattr__(self, name, unwritable(array))

    def parts(self):
        """Return the arrays that are held, by name: what is saved and hashed."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if isinstance(value, np.ndarray)}

    def row_count(self):
        """Return R."""
        return len(next(iter(self.parts().values())))

    @property
    def shape(self) -> tuple[int, int]:
        R, C = self.row_count(), self.columns
        return (C, R) if self.transposed else (R, C)

    @property
    def size(self) -> int:
        """How many numbers it stands for, as of an array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return sum(array.nbytes for array in self.parts().values())

    @property
    def T(self):
        return dataclasses.replace(self, transposed=not self.transposed)

    def astype(self, dtype):
        """Return the same numbers, to be computed with in another dtype; what is held is shared."""
        return dataclasses.replace(self, dtype=dtype)

    def bands(self):
        """Yield slices of M's rows."""
        step = max(1, BAND_BYTES // (self.columns * self.dtype.itemsize))
        return (slice(k, k + step) for k in range(0, self.row_count(), step))

    def taken(self, rows):
        """Return rows of M in its dtype."""
        return self.decoded(rows).astype(self.dtype, copy=False)

    def times(self, x):
        """Return x M, for x (..., R)."""
        y = np.zeros((*x.shape[:-1], self.columns), np.result_type(x.dtype, self.dtype))
        for band in self.bands():
            y += x[..., band] @ self.taken(band)  # (1)
        return y

    def times_transposed(self, x):
        """Return x M^T, for x (..., C)."""
        y = np.empty((*x.shape[:-1], self.row_count()), np.result_type(x.dtype, self.dtype))
        for band in self.bands():
            y[..., band] = x @ self.taken(band).T  # (2)
        return y

    def __rmatmul__(self, x):
        x = np.asarray(x)
        if not x.ndim or x.shape[-1] != self.shape[0]:
            raise ValueError(f"x @ W needs x (..., d_in) and W (d_in, d_out), but they are {x.shape} and {self.shape}.")
        return (self.times_transposed if self.transposed else self.times)(x)

    def rows(self, ids: np.ndarray | slice) -> np.ndarray:
        """Return rows as an array, for integers (N,) or a slice."""
        if not self.transposed:
            return self.taken(ids)
        return np.concatenate([self.taken(band)[:, ids] for band in self.bands()]).T

    __getitem__ = rows

    def dense(self) -> np.ndarray:
        """Return the whole matrix as an array."""
        M = self.taken(slice(None))
        return np.ascontiguousarray(M.T if self.transposed else M)

    def __array__(self, dtype=None, copy=None):
        return self.dense() if dtype is None else self.dense().astype(dtype, copy=False)

    def __add__(self, other):  # W + scale * A B, of a merge
        return self.dense() + other

    def __sub__(self, other):
        return self.dense() - other

    def __rsub__(self, other):
        return other - self.dense()

    def __mul__(self, other):
        return self.dense() * other

    __radd__, __rmul__ = __add__, __mul__

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}, {self.dtype}, {self.nbytes:,} bytes)"


def unwritable(array):
    """Return the array read-only; a copy, if it is a view of memory that could be written through another name."""
    if array.flags.writeable:
        array = array if array.flags.owndata else array.copy()
        array.flags.writeable = False
    return array


def float_matrix(M, what):
    """Return the dtype of M (R, C), and M in float32, of which codes are made: in float64 they would be others."""
    check_matrix(M, what)
    return M.dtype, M.astype(np.float32, copy=False)


def check_matrix(M, what):
    """Raise unless M is a matrix of finite floats; a sentence begins with `what` takes it."""
    if not isinstance(M, np.ndarray) or M.ndim != 2 or M.dtype not in (np.float32, np.float64) or not M.size:
        given = f"{M.shape} {M.dtype}" if isinstance(M, np.ndarray) else f"of type {type(M).__name__}"
        raise ValueError(f"{what} takes a matrix of float32 or float64, but was given an array {given}.")
    if not (np.abs(M) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{what} takes finite numbers of float32, but the matrix holds NaN, infinity or larger ones.")


def in_blocks(M, size):
    """Return M (R, C) in blocks along its rows, (R, ceil(C / size), size), the last one filled up with zeros."""
    R, C = M.shape
    count = -(-C // size)
    return np.pad(M, ((0, 0), (0, count * size - C))).reshape(R, count, size)
