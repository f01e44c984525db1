"""8 bits a number: each row has a scale, and each of its entries is a whole number of steps of that size.

    (1)  scale_i = max_j |M_ij| / 127
    (2)  q_ij    = round(M_ij / scale_i)          -127 to 127, one byte
    (3)  M'_ij   = q_ij scale_i                   |M'_ij - M_ij| <= scale_i / 2

A row is what goes into one output of a linear map (M = W^T). Why this axis: an output whose weights are large has large
steps for itself alone; and as the scale is the same for all terms of the sum y_i = sum_j x_j q_ij scale_i, hardware can
sum in whole numbers and multiply once. For a table of words it is a scale a word. bitsandbytes' LLM.int8() has the same
codes and scales (its threshold for outliers, which concerns x and not W, is not here).

C bytes a row and 4 for the scale: a quarter of float32.

Source: Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 3.1 (vector-wise quantisation).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.compress.matrix import FrozenMatrix, float_matrix


@dataclass(frozen=True, eq=False, repr=False)
class Int8(FrozenMatrix):
    """A matrix of 8-bit whole numbers, with a scale for each row."""

    q: np.ndarray  # (R, C)  int8
    scale: np.ndarray  # (R, 1)  float32

    @classmethod
    def of(cls, M):
        dtype, M = float_matrix(M, "int8")
        scale = np.abs(M).max(axis=1, keepdims=True) / np.float32(127)  # (R, 1)  (1)
        q = np.rint(M / np.where(scale, scale, 1)).clip(-127, 127).astype(np.int8)  # (R, C)  (2)
        return cls(q, scale, columns=M.shape[1], dtype=dtype)

    def decoded(self, rows):
        return np.multiply(self.q[rows], self.scale[rows], dtype=np.float32)  # (3)
