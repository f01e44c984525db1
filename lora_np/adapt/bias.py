"""LoRA with trained biases: those of the adapted maps or of the whole model (`bias`), and one of its own (`lora_bias`).

    y = x W + bias + scale * ((x A) B + lora_bias),      bias, lora_bias (d_out,)

LoRA's steps (1) to (4) are those of `ops/lora_linear.py`, with `bias` in the place of b, which stays as it was; and

    (5)  y <- y + scale * lora_bias

Backward. Both serve all N rows, so
    (5)  dlora_bias = scale * sum_n dy_n
    (1)  dbias = sum_n dy_n

and all else is LoRA's. At the start bias = b and lora_bias = 0: the base's bits.

They are the same freedom twice, at two rates: y moves by dbias, or by scale * dlora_bias. `lora_bias` is for adapters
that were cut out of a trained model; it is merged into b as scale * lora_bias.

`bias="lora_only"` trains `bias` of each adapted map. `bias="all"` trains, beside, the b of all other linear maps, and
the beta of all norms, in the model itself: as `modules_to_save` does it, copies. (A head of our own is no part of it:
it is trained whole, or not at all.) A file holds them all under PEFT's names.

>>> import numpy as np
>>> import lora_np as lnp
>>> base = lnp.load_pretrained("digits")
>>> for bias in ("none", "lora_only", "all"):
...     model = lnp.inject(base, lnp.LoRAConfig(r=4, bias=bias), np.random.default_rng(0))
...     print(bias, lnp.count_parameters(model).trainable)  # of 8 maps; of all maps and 9 norms
none 4096
lora_only 4608
all 6538

Source: PEFT 0.21, `tuners/lora` and `tuners/tuners_utils.py`; Ben Zaken et al. 2021, arXiv:2106.10199 (biases).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.adapt import lora
from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.lora import LoRALinear
from lora_np.adapt.methods import Method, register
from lora_np.model.nodes import LayerNorm, Linear
from lora_np.model.tree import join, locked, walk


@dataclass(frozen=True)
class BiasedLoRAConfig(LoRAConfig):
    """What LoRAConfig takes; LoRAConfig(bias="all") or (lora_bias=True), PEFT's spelling, is one of these.

    Parameters
    ----------
    bias : str
        "none"; "lora_only": the biases of the adapted maps are trained; "all": those of all maps and norms.
    lora_bias : bool
        The detour has a bias of its own.
    """

    bias: str = "none"
    lora_bias: bool = False

    FIELDS = {
        **LoRAConfig.FIELDS,
        "bias": (lambda value: value in ("none", "all", "lora_only"), "'none', 'all' or 'lora_only'"),
        "lora_bias": (lambda value: isinstance(value, bool), "true or false"),
    }

    @classmethod
    def is_meant(cls, given, above):
        return given.get("peft_type", "LORA") == "LORA" and (
            given.get("bias") not in (None, "none") or given.get("lora_bias") not in (None, False)
        )

    def beside(self, model):
        """Return the names of the biases that bias="all" trains in nodes that are not adapted."""
        if self.bias != "all":
            return []
        kinds = {Linear: "b", LayerNorm: "beta"}
        found = ((path, node, kinds.get(type(node))) for path, node in walk(model) if getattr(node, "hf", ""))
        return [join(path, name) for path, node, name in found if name and getattr(node, name) is not None]


@dataclass
class BiasedLoRALinear(LoRALinear):
    bias: np.ndarray | None = None  # (d_out,) in the place of b
    lora_bias: np.ndarray | None = None  # (d_out,)

    def forward(self, x, rng=None):
        y, cache = self.base().forward(x, rng)
        return (y if self.lora_bias is None else y + self.scale * self.lora_bias), cache  # (5)

    def backward(self, dy, cache, needs_dx=True):
        dx, found = super().backward(dy, cache, needs_dx)
        if "bias" in self.trainable:
            found["bias"] = dy.sum(axis=0)  # (d_out,)  (1)
        if "lora_bias" in self.trainable:
            found["lora_bias"] = self.scale * dy.sum(axis=0)  # (d_out,)  (5)
        return dx, found

    def base(self):
        """Return the LoRALinear with `bias` for its b."""
        b = self.b if self.bias is None else self.bias
        kept = tuple(name for name in self.trainable if name in ("A", "B"))
        return LoRALinear(self.W, b, self.A, self.B, self.scale, self.dropout, self.hf, kept)


def shapes(d_in, d_out, config):
    return {**lora.shapes(d_in, d_out, config), **dict.fromkeys(asked(config), (d_out,))}


def asked(config):
    """Return which of the two biases a configuration asks for."""
    return ("bias",) * (config.bias != "none") + ("lora_bias",) * config.lora_bias


def start(path, node, config, rng):
    if node.b is None:
        raise ValueError(
            f"{path} has no bias: bias={config.bias!r} cannot train it, nor could lora_bias be merged into it; leave"
            " that map out by exclude_modules."
        )
    of_base = {"bias": node.b, "lora_bias": np.zeros_like(node.b)}
    return {**lora.start(path, node, config, rng), **{name: of_base[name].copy() for name in asked(config)}}


def wrap(node, config, arrays):
    plain = lora.add_detour(node, config, arrays)
    biases = {name: arrays[name] for name in asked(config)}
    return BiasedLoRALinear(**{**vars(plain), "trainable": ("A", "B", *biases), **biases})


def differs(node, config):
    has = tuple(name for name in ("bias", "lora_bias") if getattr(node, name) is not None)
    return lora.differs(node, config) if has == asked(config) else f"{' and '.join(has) or 'no bias'} trained"


def dense(node):
    """Return the Linear with W + scale * A B and bias + scale * lora_bias: taken in float64, rounded once."""
    plain = lora.dense(node.base())
    b = plain.b.astype(np.float64)
    b = b if node.lora_bias is None else b + node.scale * node.lora_bias
    return Linear(plain.W, locked(b.astype(plain.b.dtype)), node.hf)


BIASED_LORA = Method(
    name="LoRA with biases",
    config=BiasedLoRAConfig,
    node=BiasedLoRALinear,
    shapes=shapes,
    start=start,
    wrap=wrap,
    differs=differs,
    dense=dense,
    tensors={**lora.LORA.tensors, "bias": ("base_layer.bias", False), "lora_bias": ("lora_B.bias", False)},
    option_of="LoRA",
)
register(BIASED_LORA)
