"""Multi-head self-attention over a batch without padding: projections, heads, and the way back.

Forward
    (1)  Q, K, V = x through three linear maps (GPT: one fused map, cut in three)
    (2)  for each group of equal lengths, view the rows (n T, d) as (n, heads, T, d_head) and attend
    (3)  y = the heads side by side, through the output map
Backward: (3), (2), (1) in reverse. x went three ways in (1), so dx is the sum of three gradients.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lora_np.model.nodes import LinearNode, needs_below
from lora_np.model.tree import is_trainable
from lora_np.ops import attention_backward, attention_forward, dropout_mask
from lora_np.ops.fit import fit
from lora_np.ops.pooling import check_groups

MAX_SCORES = 2**18  # scores in one call of the operation: 1 MB in float32, about a second-level cache


@dataclass
class Attention:
    query: LinearNode
    key: LinearNode
    value: LinearNode
    output: LinearNode
    heads: int
    causal: bool = False
    dropout: float = 0.0  # of the attention weights
    trainable: tuple[str, ...] = ()
    attend: ClassVar[tuple] = (attention_forward, attention_backward)
    virtual: ClassVar[int] = 0  # keys that `attend` puts before those of a sequence

    def forward(self, x, groups, rng=None):
        Q, c_query = self.query.forward(x, rng)  # (1)
        K, c_key = self.key.forward(x, rng)
        V, c_value = self.value.forward(x, rng)
        O, c_heads = heads_forward(Q, K, V, groups, self, rng)  # (2)
        y, c_output = self.output.forward(O, rng)  # (3)
        return y, (c_query, c_key, c_value, c_heads, c_output)

    def backward(self, dy, cache, needs_dx=True):
        c_query, c_key, c_value, c_heads, c_output = cache
        below = {"Q": self.query, "K": self.key, "V": self.value}
        needs = tuple(name for name, node in below.items() if needs_dx or is_trainable(node))
        grads = {}
        dO, grads["output"] = self.output.backward(dy, c_output, bool(needs or self.trainable))  # (3)
        if dO is None:
            return None, grads
        dQ, dK, dV, *own = heads_backward(dO, c_heads, self, needs)  # (2)
        grads |= zip(self.trainable, own)
        dx = []
        for name, dH, c in (("query", dQ, c_query), ("key", dK, c_key), ("value", dV, c_value)):  # (1)
            if dH is not None:
                part, grads[name] = getattr(self, name).backward(dH, c, needs_dx)
                dx.append(part)
        return (dx[0] + dx[1] + dx[2] if needs_dx else None), grads  # x went three ways


@dataclass
class FusedAttention:
    c_attn: LinearNode  # (d, 3 d): query, key and value side by side, as GPT-2 stores them
    output: LinearNode
    heads: int
    causal: bool = True
    dropout: float = 0.0
    trainable: tuple[str, ...] = ()
    attend: ClassVar[tuple] = (attention_forward, attention_backward)
    virtual: ClassVar[int] = 0  # keys that `attend` puts before those of a sequence

    def forward(self, x, groups, rng=None):
        QKV, c_attn = self.c_attn.forward(x, rng)  # (1)
        O, c_heads = heads_forward(*np.split(QKV, 3, axis=1), groups, self, rng)  # (2)
        y, c_output = self.output.forward(O, rng)  # (3)
        return y, (c_attn, c_heads, c_output)

    def backward(self, dy, cache, needs_dx=True):
        c_attn, c_heads, c_output = cache
        to_x, to_QKV = needs_below(needs_dx, self.c_attn, self.output)
        grads = {}
        dO, grads["output"] = self.output.backward(dy, c_output, bool(to_QKV or self.trainable))  # (3)
        if dO is None:
            return None, grads
        dQ, dK, dV, *own = heads_backward(dO, c_heads, self, ("Q", "K", "V") if to_QKV else ())  # (2)
        grads |= zip(self.trainable, own)
        if not to_QKV:
            return None, grads
        dx, grads["c_attn"] = self.c_attn.backward(np.concatenate([dQ, dK, dV], axis=1), c_attn, to_x)  # (1)
        return dx, grads


def heads_forward(Q, K, V, groups, node, rng):
    """Return O (N, d) and the cache, for Q, K, V (N, d) in packed order; `node` has heads, causal, dropout, attend."""
    check_groups(groups, len(Q))
    O, caches = None, []
    for start, stop, n, T in pieces(groups, node.heads):
        rows = slice(start, stop)
        q, k, v = (split_heads(X[rows], n, T, node.heads) for X in (Q, K, V))
        keys = node.virtual + T
        # Which keys are seen, or what is added to the scores.
        bias = groups.bias(T) if hasattr(groups, "bias") else None
        visible = np.tri(T, keys, node.virtual, dtype=bool) if node.causal else bias
        mask = dropout_mask((n, node.heads, T, keys), node.dropout, rng, Q.dtype)
        o, cache = node.attend[0](q, k, v, visible, mask)
        O = np.empty(Q.shape, o.dtype) if O is None else O
        O[rows] = join_heads(o)
        caches.append((rows, q.shape, cache))
    return O, tuple(caches)


def heads_backward(dO, caches, node, needs):
    """Return dQ, dK, dV (N, d) in packed order, None for those that `needs` does not name; and what else `attend` has
    the gradients of, summed over the pieces."""
    fit("attention", "dO (N, d)", dO, N=caches[-1][0].stop)
    results, own = dict.fromkeys("QKV"), []
    for rows, (n, heads, T, _), cache in caches:
        gradients = node.attend[1](split_heads(dO[rows], n, T, heads), cache, needs)
        own.append(gradients[3:])
        for name, dH in zip("QKV", gradients):
            if name in needs:
                if results[name] is None:
                    results[name] = np.empty(dO.shape, dH.dtype)
                results[name][rows] = join_heads(dH)
    return [*results.values(), *map(sum, zip(*own))]


def pieces(groups, heads):
    """Yield the groups, cut so that the scores of a piece fit the cache; a very long sequence attends by itself."""
    for start, _, n, T in groups:
        step = max(1, MAX_SCORES // (heads * T * T))
        for first in range(0, n, step):
            count = min(step, n - first)
            yield start + first * T, start + (first + count) * T, count, T


def split_heads(rows, n, T, heads):
    """(n T, d) -> (n, heads, T, d_head), a view."""
    return rows.reshape(n, T, heads, -1).transpose(0, 2, 1, 3)


def join_heads(X):
    """(n, heads, T, d_head) -> (n T, d), the adjoint of `split_heads`."""
    n, heads, T, d_head = X.shape
    return X.transpose(0, 2, 1, 3).reshape(n * T, heads * d_head)
