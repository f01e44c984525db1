"""What all architectures are put together with: arrays, and the checks of what a configuration says."""

import numpy as np

from lora_np.model.mlp import ACTIVATIONS
from lora_np.model.nodes import Embedding, LayerNorm, Linear
from lora_np.model.tree import check_dtype


class Maker:
    """Makes arrays: random ones by `rng`, or, without it, NaN, for those of a file to take their place."""

    def __init__(self, config, rng, dtype, eps=None):
        self.std, self.rng, self.dtype, self.eps = config.get("initializer_range", 0.02), rng, check_dtype(dtype), eps
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng must be a generator, numpy.random.default_rng(seed), or None, but it is {rng!r}.")

    def matrix(self, *shape):
        if self.rng is None:
            return np.broadcast_to(np.array(np.nan, self.dtype), shape)  # takes no memory
        return (self.std * self.rng.standard_normal(shape)).astype(self.dtype)

    def linear(self, d_in, d_out, hf, bias=True):
        return Linear(self.matrix(d_in, d_out), np.zeros(d_out, self.dtype) if bias else None, hf)

    def norm(self, d, hf):
        return LayerNorm(np.ones(d, self.dtype), np.zeros(d, self.dtype), self.eps, hf)

    def table(self, rows, d, hf):
        return Embedding(self.matrix(rows, d), hf)


def activation(name):
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is not known here; expected one of {', '.join(ACTIVATIONS)}.")
    return name


def check_heads(d, heads):
    if d % heads:
        raise ValueError(f"a hidden size of {d} cannot be split into {heads} equal heads.")
    return heads
