"""Magnitude pruning: the smallest weights become zero, the others stay as they are.

    (1)  keep the n = round(density R C) numbers of largest |w|; where some are equal, those that come first
    (2)  a bit for each number says whether it is kept; the kept ones lie end to end, row by row

No other choice of n numbers is nearer to M in the Frobenius norm: what is lost is the sum of w^2 over the others.

Bytes, not time. A product of ordinary arrays multiplies zeros as fast as any number, so here a band is filled with its
zeros again and nothing is gained; only products that go from index to index skip zeros, and pay where few are left. How
it is stored decides the bytes: 1 bit for each and 32 for each kept number beat 32 for all below a density of 31/32; two
indices of 32 bits for each kept number, as in a list of (row, column, value), only below 1/3.

Source: Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626 (which trains on afterwards).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.compress.matrix import FrozenMatrix, check_matrix


@dataclass(frozen=True, eq=False, repr=False)
class Pruned(FrozenMatrix):
    """A matrix of which the largest numbers are kept, and a bit for each that says where they are."""

    mask: np.ndarray  # (R, P)  uint8, 8 numbers each; P = ceil(C / 8)
    starts: np.ndarray  # (R,)  int64, where a row's numbers begin
    kept: np.ndarray  # (n,)  in the dtype of the original

    @classmethod
    def of(cls, M, density=0.5):
        """Return M (R, C) with that share of its numbers, the largest, and zeros in the place of the others."""
        check_matrix(M, "pruned")
        if not 0 < density <= 1:
            raise ValueError(f"density is the share of numbers that are kept, above 0 and up to 1, not {density!r}.")
        count = max(1, round(density * M.size))
        order = np.argsort(-np.abs(M), axis=None, kind="stable")  # (1)
        is_kept = np.zeros(M.size, bool)
        is_kept[order[:count]] = True
        is_kept = is_kept.reshape(M.shape)  # (R, C)
        counts = is_kept.sum(axis=1)  # (R,)
        kept = M[is_kept]  # (n,)  (2)
        return cls(np.packbits(is_kept, axis=1), counts.cumsum() - counts, kept, columns=M.shape[1], dtype=M.dtype)

    def decoded(self, rows):
        is_kept = np.unpackbits(self.mask[rows], axis=1, count=self.columns).view(bool)  # (R, C)
        places = self.starts[rows][:, None] + is_kept.cumsum(axis=1, dtype=np.int32) - 1  # (R, C)
        return self.kept.take(places, mode="clip") * is_kept  # reading for all and multiplying is quicker than choosing
