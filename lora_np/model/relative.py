"""Attention that is told how far apart two tokens are: a number for each distance and head is added to the scores.

Forward, for query t and key u of one sequence, in each head h
    (1)  C_htu = table[bucket(u - t), h]     near distances have a row each, far ones share one with their like
    (2)  S = Q K^T / sqrt(d) + C             the rest is `ops/attention.py`
    (3)  P = softmax of each row, D = P * mask, O = D V

Backward, from the last step to the first
    (3)  dS as there: C changes what P is, and not how P depends on S, Q and K.
    (2)  C is added: dC = dS, summed over the sequences, which all have the same C.
    (1)  As in `ops/embedding.py`: a row of the table receives the sum of dC over all pairs in its bucket.

There is one table for all layers. So it is no part of a block: `Transformer.relative` holds it, hands the blocks their
groups with it, and its gradient is the sum of what reached it in each layer. If it is frozen nothing of that is
computed.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; Song et al. 2020, arXiv:2004.09297 (MPNet), section 2.
"""

import math
from dataclasses import dataclass

import numpy as np

from lora_np.model.attention import Attention, split_heads
from lora_np.ops import attention_backward
from lora_np.ops.attention import AttentionCache
from lora_np.ops.rows import row_sum, softmax

BUCKETS = 32  # as many for keys behind the query as for those before it
NEAR = 8  # distances with a bucket of their own


def buckets(T):
    """Return the row of the table for each query and key of a sequence, (T, T).

    Keys up to 7 tokens before the query have a row each. From 8 on, row 8 + k is for distances n of which k is the
    whole part of log2(n^2 / 64): 8 * 2^(k/2) <= n; the last, 15, for all from 91 on. Those of keys behind it follow.
    """
    n = np.arange(T)
    far = np.frexp(n * n // NEAR**2)[1] - 1  # k
    row = np.where(n < NEAR, n, np.minimum(NEAR + far, BUCKETS // 2 - 1))  # (T,)
    ahead = n - n[:, None]  # (T, T)  key less query
    return row[abs(ahead)] + (ahead > 0) * (BUCKETS // 2)


class PlacedGroups(tuple):
    """The groups of a batch, and the table that says what is added to their scores."""

    table: np.ndarray
    trained: bool  # is the table?

    def bias(self, T):
        """Return C (heads, T, T)."""
        return self.table[buckets(T)].transpose(2, 0, 1)  # (1)


@dataclass
class RelativePositions:
    """The table of all layers."""

    table: np.ndarray  # (buckets, heads)
    hf: str = ""
    trainable: tuple[str, ...] = ()

    def places(self, groups):
        """Return the groups of a batch as the blocks take them."""
        placed = PlacedGroups(groups)
        placed.table, placed.trained = self.table, bool(self.trainable)
        return placed

    def backward(self, layers):
        """Return the gradient, out of those of the blocks, from which it is taken away."""
        return {"table": sum(layer["attention"].pop("bias") for layer in layers)}


def biased_attention_forward(Q, K, V, bias, mask=None):
    """Return O (n, h, T, d_v) and the cache, as `attention_forward` does, with bias (h, T, U) added to the scores."""
    S = Q @ K.swapaxes(2, 3) / math.sqrt(Q.shape[3]) + bias  # (n, h, T, U)  (2)
    P = softmax(S)  # (n, h, T, U)  (3)
    D = P if mask is None else P * mask  # (n, h, T, U)
    return D @ V, AttentionCache(Q, K, V, P, mask)


def bias_backward(dO, cache):
    """Return the gradient of the bias, (h, T, U)."""
    _, _, V, P, mask = cache
    dD = dO @ V.swapaxes(2, 3)  # (n, h, T, U)
    dP = dD if mask is None else dD * mask  # (n, h, T, U)  (3)
    dS = P * (dP - row_sum(P * dP))  # (n, h, T, U)
    return dS.sum(axis=0)  # (h, T, U)  (2)


@dataclass
class RelativeAttention(Attention):
    attend = (biased_attention_forward, attention_backward)

    def forward(self, x, groups, rng=None):
        y, cache = super().forward(x, groups, rng)
        return y, (*cache, groups.table.shape if groups.trained else None)

    def backward(self, dy, cache, needs_dx=True):
        *cache, shape = cache
        dx, grads = super().backward(dy, cache, needs_dx)
        if shape is not None:
            *_, c_heads, c_output = cache
            dO, _ = self.output.backward(dy, c_output, True)  # once more, for the table alone
            grads["bias"] = np.zeros(shape, dO.dtype)
            for rows, (n, heads, T, _), c in c_heads:
                dC = bias_backward(split_heads(dO[rows], n, T, heads), c)
                np.add.at(grads["bias"], buckets(T), dC.transpose(1, 2, 0))  # (1)
        return dx, grads
