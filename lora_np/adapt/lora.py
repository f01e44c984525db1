"""LoRA: a frozen `Linear` gets a low-rank detour beside it, and the detour is merged away again.

A `LoRALinear` holds the same W and b (the same memory) and two small trained matrices A and B. Merged, it is a `Linear`
with W + scale * A B. The mathematics of one node is in `ops/lora_linear.py`; `inject` and `merge` in `methods.py` do
for a model what stands here for one node.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Kalajdzievski 2023, arXiv:2312.03732 (scale by sqrt(r)).
"""

import math
from dataclasses import dataclass

import numpy as np

from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.methods import Method, register
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import dropout_mask, lora_linear_backward, lora_linear_forward


def lora_scale(r, lora_alpha, use_rslora):
    """Return what multiplies the update: defined here alone (a Python float, so that no dtype is widened)."""
    return float(lora_alpha) / (math.sqrt(r) if use_rslora else r)


def lora_init(d_in, d_out, r, rng, dtype):
    """Return A (d_in, r), drawn from U(-1/sqrt(d_in), 1/sqrt(d_in)) as PEFT does, and B (r, d_out), zero.

    So the first step starts from the base model: A B = 0. Were both zero, neither would have a gradient.
    """
    bound = 1.0 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@dataclass
class LoRALinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    scale: float
    dropout: float = 0.0  # of the detour's input
    hf: str = ""
    trainable: tuple[str, ...] = ("A", "B")
    FROZEN = ("W", "b")  # never trained: there is no dW and no db

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        y, cache = lora_linear_forward(x, self.W, self.b, self.A, self.B, self.scale, mask)
        return y, cache if "A" in self.trainable else cache._replace(z=None)  # a frozen A never meets z again

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB = lora_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A=dA, B=dB)


def shapes(d_in, d_out, config):
    return {"A": (d_in, config.r), "B": (config.r, d_out)}  # r (d_in + d_out) numbers, beside d_in d_out frozen ones


def check_rank(path, node, r):
    d_in, d_out = node.W.shape
    if r > min(d_in, d_out):
        raise ValueError(
            f"r = {r} is more than the rank that {path} ({d_in} x {d_out}) can have; choose r <= {min(d_in, d_out)}."
        )


def check_generator(rng):
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"inject needs a generator for A, numpy.random.default_rng(seed), but it was given {rng!r}.")


def start(path, node, config, rng):
    """Return {"A": A, "B": B} for a Linear at its start."""
    check_generator(rng)
    check_rank(path, node, config.r)
    A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
    return {"A": A, "B": B}


def add_detour(node, config, arrays):
    """Return the LoRALinear for a Linear: its own W and b, with A and B beside them."""
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    return LoRALinear(node.W, node.b, arrays["A"], arrays["B"], scale, config.lora_dropout, node.hf)


def differs(node, config):
    r, scale = node.A.shape[1], lora_scale(config.r, config.lora_alpha, config.use_rslora)
    return "" if (r, node.scale) == (config.r, scale) else f"r = {r} and the scale {node.scale:g}"


def dense(node):
    """Return the Linear with W + scale * A B: the sum is taken in float64 and rounded once."""
    W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
    return Linear(locked(W.astype(node.W.dtype)), node.b, node.hf)


LORA = Method(
    name="LoRA",
    config=LoRAConfig,
    node=LoRALinear,
    shapes=shapes,
    start=start,
    wrap=add_detour,
    differs=differs,
    dense=dense,
    adds=True,
    tensors={"A": ("lora_A.weight", True), "B": ("lora_B.weight", True)},
)
register(LORA)
