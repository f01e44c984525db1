"""NF4: 4 bits a number, on levels that a normal distribution uses equally often; QLoRA's format.

Weights of a trained network are nearly normal. Sixteen levels at equal distances would leave the outer ones idle; a
level for each sixteenth of the probability is at work as often as any other.

The levels. Let Q be the quantile function of N(0, 1). A symmetric choice of 16 quantiles has no zero, which must stay
exact (padding, pruned weights), so the halves differ by one level: 8 for zero and below, 9 for zero and above, which
share the zero. Quantiles of 0 and 1 are infinite: the outermost lie delta inside, the mean of half a step of either
half, delta = (1/32 + 1/30) / 2:
    below    -Q(p)  for the first 7 of 8 values p, evenly from 1 - delta to 1/2         (the eighth is the zero)
    above     Q(p)  for the first 8 of 9 values p, evenly from 1 - delta to 1/2         (the ninth is the zero)
    all divided by the largest, Q(1 - delta) = 1.848, so that they go from -1 to 1.
QLoRA's own table has 1 - delta with seven digits and the p in float32. So has ours: then all its bits are the same.

A block of 64 numbers of a row has one scale, its largest size:
    (1)  a = max |w|,  code = the level nearest to w / a          |w' - w| <= a gap / 2, gap = 1 - 0.696 at the widest

Double quantisation. The a of a block in float32 would be half a bit a number. They are alike, and go to 8 bits:
    (2)  mean of all a of the matrix, subtracted; in blocks of 256 of them s = max |a - mean|
    (3)  code = the nearest of 256 values to (a - mean) / s. They are a floating point of 8 bits: each decade 10^-i, for
         i = 0 to 6, is cut into 2^(6-i) equal parts, whose middles are values: +-10^-i (0.1 + 0.9 (k + 1/2) / 2^(6-i))
         for k = 0 to 2^(6-i) - 1; with 0 and 1 that makes 256. So small differences keep their digits.
    (4)  a' = s value + mean,  w' = a' level
A number takes 4 + 8/64 + 32/(64 * 256) = 4.127 bits, 7.75 times less than in float32.

Where rows are whole blocks (64 divides C), codes and scales are those of bitsandbytes for the tensor (d_out, d_in); it
also lets a block run on into the next row, here a row's last block is filled up with zeros.

Sources: Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, sections 2 and 3, appendix E; the 256 values are those of
Dettmers et al. 2021, arXiv:2110.02861, section 1.3; delta as in bitsandbytes (`create_normal_map`).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lora_np.compress.matrix import FrozenMatrix, float_matrix, in_blocks

BLOCK, OUTER_BLOCK = 64, 256


def levels():
    """Return the 16 levels, in order."""
    outermost, Q = float(np.float32(round(1 - (1 / 32 + 1 / 30) / 2, 7))), NormalDist().inv_cdf
    below = [-Q(p) for p in np.linspace(outermost, 0.5, 8).astype(np.float32)[:-1]]
    above = [Q(p) for p in np.linspace(outermost, 0.5, 9).astype(np.float32)[:-1]]
    return np.array(sorted([*below, 0.0, *above]), np.float32) / np.float32(Q(outermost))


def dynamic_values():
    """Return the 256 values of an 8-bit code for scales, in order."""
    decades = [10.0**-i * (0.1 + 0.9 * (np.arange(2 ** (6 - i)) + 0.5) / 2 ** (6 - i)) for i in range(7)]
    positive = np.concatenate(decades)
    return np.sort(np.concatenate([-positive, [0.0], positive, [1.0]])).astype(np.float32)


LEVELS = levels()
VALUES = dynamic_values()
# Byte -> its two levels, the first number's code in the upper half. Seen as one item of 8 bytes, they are looked up at
# once, and 30 times as fast as rows of two.
PAIRS = np.stack([np.repeat(LEVELS, 16), np.tile(LEVELS, 16)], axis=1).view(np.uint64).reshape(256)


@dataclass(frozen=True, eq=False, repr=False)
class NF4(FrozenMatrix):
    """A matrix in blocks of 64 numbers of 4 bits, whose scales are quantised once more."""

    codes: np.ndarray  # (R, B, 32)  uint8, two numbers each; B = ceil(C / 64)
    scales: np.ndarray  # (R, B)  uint8
    outer: np.ndarray  # (G,)  float32, a scale for 256 scales, which are counted row by row; G = ceil(R B / 256)
    mean: np.ndarray  # (1,)  float32

    @classmethod
    def of(cls, M):
        dtype, M = float_matrix(M, "nf4")
        w = in_blocks(M, BLOCK)  # (R, B, 64)
        a = np.abs(w).max(axis=-1)  # (R, B)  (1)
        codes = nearest(w / np.where(a, a, 1)[..., None], LEVELS)  # (R, B, 64)
        mean = np.float32(math.fsum(a.flat) / a.size)  # (2), the same whatever the order
        rest = np.zeros(-(-a.size // OUTER_BLOCK) * OUTER_BLOCK, np.float32)  # (256 G,)
        rest[: a.size] = (a - mean).flat
        rest = rest.reshape(-1, OUTER_BLOCK)  # (G, 256)
        s = np.abs(rest).max(axis=1)  # (G,)
        scales = nearest(rest / np.where(s, s, 1)[:, None], VALUES)  # (3)
        scales = scales.reshape(-1)[: a.size].reshape(a.shape)  # (R, B)
        return cls(codes[..., ::2] << 4 | codes[..., 1::2], scales, s, mean[None], columns=M.shape[1], dtype=dtype)

    def decoded(self, rows):
        codes, (R, B) = self.codes[rows], self.scales.shape
        places = B * np.arange(R)[rows][:, None] + np.arange(B)  # (n, B)
        a = VALUES[self.scales[rows]] * self.outer[places // OUTER_BLOCK] + self.mean  # (n, B)  (4)
        w = PAIRS.take(codes).view(np.float32)  # (n, B, 64)
        w *= a[..., None]
        return w.reshape(len(a), B * BLOCK)[:, : self.columns]


def nearest(numbers, values):
    """Return for each number which of the ordered values is nearest: how many of the middles lie below it."""
    middles = (values[1:] + values[:-1]) / 2
    if len(values) > 16:
        return np.searchsorted(middles, numbers).astype(np.uint8)
    found = np.zeros(numbers.shape, np.uint8)
    for middle in middles:  # of few, comparing with each is quicker than a search
        found += numbers > middle
    return found
