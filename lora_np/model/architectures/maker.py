"""What all architectures are put together of."""

import numpy as np

from lora_np.model.mlp import ACTIVATIONS, MLP
from lora_np.model.nodes import Embedding, LayerNorm, Linear
from lora_np.model.tree import check_dtype
from lora_np.ops.dropout import check_generator


class Maker:
    """Makes nodes: random ones by `rng`, or, without it, of NaN, for the arrays of a file to take their place."""

    def __init__(self, config, rng, dtype, eps=None, activation=None):
        self.std, self.rng, self.dtype = config.get("initializer_range", 0.02), rng, check_dtype(dtype)
        self.eps, self.activation = eps, activation
        check_generator(rng)

    def matrix(self, *shape):
        if self.rng is None:
            return np.full(shape, np.nan, self.dtype)
        return (self.std * self.rng.standard_normal(shape)).astype(self.dtype)

    def linear(self, d_in, d_out, hf, bias=True):
        return Linear(self.matrix(d_in, d_out), np.zeros(d_out, self.dtype) if bias else None, hf)

    def norm(self, d, hf):
        return LayerNorm(np.ones(d, self.dtype), np.zeros(d, self.dtype), self.eps, hf)

    def table(self, rows, d, hf):
        return Embedding(self.matrix(rows, d), hf)

    def mlp(self, d, inner, up, down):
        name = self.activation
        if name not in ACTIVATIONS:
            raise ValueError(f"the activation {name!r} is not known here; expected one of {', '.join(ACTIVATIONS)}.")
        return MLP(self.linear(d, inner, up), self.linear(inner, d, down), name)


def check_heads(d, heads):
    if d % heads:
        raise ValueError(f"a hidden size of {d} cannot be split into {heads} equal heads.")
    return heads
