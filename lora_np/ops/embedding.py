"""Embedding: row `ids[n]` of a table becomes row n of the output.

Forward   (1)  y_n = table[ids_n]
Backward  (1)  Nudge row v of the table: every y_n with ids_n = v moves along. So dtable_v is the sum of dy_n over all
               n with ids_n = v. An id that occurs k times collects k rows: the plain assignment `dtable[ids] = dy`
               would keep the last one only.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import described, fit


class EmbeddingCache(NamedTuple):
    ids: np.ndarray  # (N,)
    shape: tuple  # of the table


def embedding_forward(table, ids):
    """Return y (N, d) and the cache, for table (V, d) and integer ids (N,) in 0..V-1.

    Raises
    ------
    ValueError
        If the table is not (V, d), or ids are not N integers or lie outside the table (NumPy alone would read -1 as the
        last row).
    """
    fit("embedding", "table (V, d)", table)
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be an array (N,) of integers, but they are {described(ids)}.")
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        raise ValueError(
            f"ids run from {ids.min()} to {ids.max()}, but the table has rows 0 to {len(table) - 1}; the ids belong to"
            " another table."
        )
    y = table[ids]  # (N, d)  (1)
    return y, EmbeddingCache(ids, table.shape)


def embedding_backward(dy, cache):
    """Return dtable (V, d)."""
    ids, shape = cache
    fit("embedding_backward", "dy (N, d)", dy, N=len(ids), d=shape[1])
    dtable = np.zeros(shape, dy.dtype)  # (V, d)
    np.add.at(dtable, ids, dy)  # (1)
    return dtable
