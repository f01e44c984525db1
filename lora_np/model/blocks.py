"""One layer of a transformer: attention, then MLP, each added to its own input (the residual path).

BERT normalises after each addition (post-norm), GPT and ViT before each half (pre-norm). Wherever x goes two ways,
beside the half and through it, the backward adds two gradients.
"""

from dataclasses import dataclass

from lora_np.model.attention import Attention
from lora_np.model.mlp import MLP
from lora_np.model.nodes import LayerNorm, drop, needs_below
from lora_np.ops import dropout_backward


@dataclass
class PostNormBlock:
    """(1) a = drop(attention(x))   (2) h = norm1(x + a)   (3) m = drop(mlp(h))   (4) y = norm2(h + m)."""

    attention: Attention
    norm1: LayerNorm
    mlp: MLP
    norm2: LayerNorm
    dropout: float = 0.0
    trainable: tuple[str, ...] = ()

    def forward(self, x, groups, rng=None):
        a, c_attention = self.attention.forward(x, groups, rng)
        a, c_drop1 = drop(a, self.dropout, rng)  # (1)
        h, c_norm1 = self.norm1.forward(x + a)  # (2)
        m, c_mlp = self.mlp.forward(h, rng)
        m, c_drop2 = drop(m, self.dropout, rng)  # (3)
        y, c_norm2 = self.norm2.forward(h + m)  # (4)
        return y, (c_attention, c_drop1, c_norm1, c_mlp, c_drop2, c_norm2)

    def backward(self, dy, cache, needs_dx=True):
        c_attention, c_drop1, c_norm1, c_mlp, c_drop2, c_norm2 = cache
        to_x, to_a, to_h, to_m = needs_below(needs_dx, self.attention, self.norm1, self.mlp, self.norm2)
        grads = {}
        dsum2, grads["norm2"] = self.norm2.backward(dy, c_norm2, to_m)  # (4)
        if not to_m:
            return None, grads
        dh, grads["mlp"] = self.mlp.backward(dropout_backward(dsum2, c_drop2), c_mlp, to_h)  # (3)
        if not to_h:
            return None, grads
        dsum1, grads["norm1"] = self.norm1.backward(dsum2 + dh, c_norm1, to_a)  # (2)  h went two ways
        if not to_a:
            return None, grads
        dx, grads["attention"] = self.attention.backward(dropout_backward(dsum1, c_drop1), c_attention, to_x)  # (1)
        return (dsum1 + dx if to_x else None), grads  # x went two ways


@dataclass
class PreNormBlock:
    """(1) a = drop(attention(norm1(x)))   (2) h = x + a   (3) m = drop(mlp(norm2(h)))   (4) y = h + m."""

    norm1: LayerNorm
    attention: Attention
    norm2: LayerNorm
    mlp: MLP
    dropout: float = 0.0
    trainable: tuple[str, ...] = ()

    def forward(self, x, groups, rng=None):
        a, c_norm1 = self.norm1.forward(x)
        a, c_attention = self.attention.forward(a, groups, rng)
        a, c_drop1 = drop(a, self.dropout, rng)  # (1)
        h = x + a  # (2)
        m, c_norm2 = self.norm2.forward(h)
        m, c_mlp = self.mlp.forward(m, rng)
        m, c_drop2 = drop(m, self.dropout, rng)  # (3)
        return h + m, (c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2)  # (4)

    def backward(self, dy, cache, needs_dx=True):
        c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
        to_x, to_a, to_h, to_m = needs_below(needs_dx, self.norm1, self.attention, self.norm2, self.mlp)
        grads = {}
        dm, grads["mlp"] = self.mlp.backward(dropout_backward(dy, c_drop2), c_mlp, to_m)  # (4) (3)
        if not to_m:
            return None, grads
        dm, grads["norm2"] = self.norm2.backward(dm, c_norm2, to_h)
        if not to_h:
            return None, grads
        dh = dy + dm  # h went two ways
        da, grads["attention"] = self.attention.backward(dropout_backward(dh, c_drop1), c_attention, to_a)  # (2) (1)
        if not to_a:
            return None, grads
        da, grads["norm1"] = self.norm1.backward(da, c_norm1, to_x)
        return (dh + da if to_x else None), grads  # x went two ways
