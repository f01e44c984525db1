"""Q4_0, Q4_1 and Q8_0: the blocks of GGML, of which the models for llama.cpp are made, byte for byte.

Each row is cut into blocks of 32 numbers w_0 to w_31. A block holds a scale d in float16, and 32 codes; `BLOCK` of each
class is its layout, so bytes of a GGUF file are used as they are: `Q4_0.from_bytes(data, (R, C))`.
                                                    decoded                  bytes     bits a number
    Q4_0   d, 16 bytes of two codes 0 to 15         d (q - 8)                2 + 16    4.5
    Q4_1   d, m, 16 bytes of two codes 0 to 15      d q + m                  4 + 16    5
    Q8_0   d, 32 codes -128 to 127                  d q                      2 + 32    8.5
Byte k of the two-code formats has q_k in its lower half and q_(k+16) in its upper half.

How codes are chosen, as llama.cpp does:
    Q4_0   the w of largest |w| becomes q = 0, so d = -w / 8 (its sign says which end of the scale that is); then
           q = min(15, floor(w / d + 8.5)). |w' - w| <= |d| / 2, but |d| at the other end, where q = 16 does not exist.
    Q4_1   d = (max - min) / 15 and m = min, q = floor((w - m) / d + 0.5): |w' - w| <= d / 2.
    Q8_0   d = max |w| / 127, q = round(w / d), halves away from zero: |w' - w| <= d / 2.
To each comes the rounding of d and m to float16, 2^-11 of their size: codes are chosen with the d before it.

GGML has whole blocks only. Here a row may end in a part of one, filled up with zeros.

Source: https://github.com/ggml-org/ggml, src/ggml-common.h (`block_q4_0`, ...) and src/ggml-quants.c
(`quantize_row_q4_0_ref`, `dequantize_row_q4_0`, ...).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from lora_np.compress.matrix import FrozenMatrix, float_matrix, in_blocks

SIZE = 32


@dataclass(frozen=True, eq=False, repr=False)
class Blocks(FrozenMatrix):
    """A matrix in blocks of 32 numbers, as they lie in a GGUF file."""

    blocks: np.ndarray  # (R, B)  each a BLOCK, B = ceil(C / 32)

    BLOCK = np.dtype([])

    @classmethod
    def from_bytes(cls, data: bytes | np.ndarray, shape: tuple[int, int], dtype: DTypeLike = np.float32):
        """Return the matrix (R, C) whose blocks are these bytes; memory that cannot be written is not copied.

        Parameters
        ----------
        data : bytes, or array of uint8
            R ceil(C / 32) blocks. A tensor (d_out, d_in) of a GGUF file is that of x @ W.T, so `.T` of this is W.
        shape : (int, int)
        dtype : numpy dtype
            To compute in.
        """
        R, C = shape
        count, given = -(-C // SIZE), len(np.frombuffer(data, np.uint8))
        if given != R * count * cls.BLOCK.itemsize:
            raise ValueError(
                f"a {cls.__name__} matrix of {R} x {C} takes {R} x {count} blocks of {cls.BLOCK.itemsize} bytes,"
                f" {R * count * cls.BLOCK.itemsize} in all, but {given} were given."
            )
        return cls(np.frombuffer(data, cls.BLOCK).reshape(R, count), columns=C, dtype=np.dtype(dtype))

    @classmethod
    def of(cls, M):
        dtype, M = float_matrix(M, cls.__name__)
        blocks = cls.coded(in_blocks(M, SIZE))  # (R, B)
        if any(not np.isfinite(blocks[name]).all() for name in blocks.dtype.names if name != "q"):
            raise ValueError(f"a scale of {cls.__name__} is float16, which ends at 65,504; this matrix needs more.")
        return cls(blocks, columns=M.shape[1], dtype=dtype)

    def decoded(self, rows):
        blocks = self.blocks[rows]
        return self.numbers(blocks).reshape(len(blocks), blocks.shape[1] * SIZE)[:, : self.columns]


class Q4_0(Blocks):
    BLOCK = np.dtype([("d", "<f2"), ("q", "u1", 16)])

    @classmethod
    def coded(cls, w):
        w_max = np.take_along_axis(w, np.abs(w).argmax(axis=-1)[..., None], axis=-1)  # (R, B, 1)
        d = w_max / np.float32(-8)
        return filled(cls.BLOCK, q=in_halves(w * inverse(d) + np.float32(8.5)), d=d)

    @staticmethod
    def numbers(blocks):
        steps = (from_halves(blocks["q"]) - np.uint8(8)).view(np.int8)  # (R, B, 32)
        return np.multiply(steps, wide(blocks["d"]), dtype=np.float32)


class Q4_1(Blocks):
    BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])

    @classmethod
    def coded(cls, w):
        m = w.min(axis=-1, keepdims=True)  # (R, B, 1)
        d = (w.max(axis=-1, keepdims=True) - m) / np.float32(15)
        return filled(cls.BLOCK, q=in_halves((w - m) * inverse(d) + np.float32(0.5)), d=d, m=m)

    @staticmethod
    def numbers(blocks):
        w = np.multiply(from_halves(blocks["q"]), wide(blocks["d"]), dtype=np.float32)  # (R, B, 32)
        w += wide(blocks["m"])
        return w


class Q8_0(Blocks):
    BLOCK = np.dtype([("d", "<f2"), ("q", "i1", 32)])

    @classmethod
    def coded(cls, w):
        d = np.abs(w).max(axis=-1, keepdims=True) / np.float32(127)  # (R, B, 1)
        steps = w * inverse(d)  # (R, B, 32)
        whole = np.trunc(steps)
        return filled(cls.BLOCK, q=whole + np.trunc(2 * (steps - whole)), d=d)

    @staticmethod
    def numbers(blocks):
        return np.multiply(blocks["q"], wide(blocks["d"]), dtype=np.float32)


def inverse(d):
    """Return 1 / d, and 0 for a block of zeros."""
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def wide(d):
    return d.astype(np.float32)[..., None]  # (R, B, 1)


def in_halves(codes):
    """Return bytes (R, B, 16) of codes (R, B, 32), which are cut to whole numbers up to 15."""
    codes = np.minimum(codes, 15).astype(np.uint8)
    return codes[..., :16] | codes[..., 16:] << 4


def from_halves(q):
    """Return the codes (R, B, 32) that lie in bytes (R, B, 16)."""
    return np.concatenate([q & 15, q >> 4], axis=-1)


def filled(layout, q, **floats):
    """Return blocks (R, B) of a layout, with these codes, and floats (R, B, 1)."""
    blocks = np.empty(q.shape[:2], layout)
    blocks["q"] = q
    with np.errstate(over="ignore"):  # it becomes infinite, and is named
        for name, value in floats.items():
            blocks[name] = value[..., 0]
    return blocks
