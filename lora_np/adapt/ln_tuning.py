"""Layer norms alone: of a pretrained model nothing is trained but copies of its norms' gamma and beta.

    y = weight * xhat + bias,      xhat as in `ops/layer_norm.py`; at first weight = gamma and bias = beta

Nothing new is computed: forward and backward are those of the layer norm, steps (1) to (4) there, at weight and bias in
the place of gamma and beta, which stay as they were:

    dweight = sum_n dy_n * xhat_n,      dbias = sum_n dy_n.

Both take one pass over dy each and no matrix product; what costs time is the way down to the lowest norm. `merge` puts
weight and bias in the place of gamma and beta: a layer norm again.

What it costs: 2 d numbers a norm, 26 of MiniLM's 13: 9,984. `lnp.unfreeze(model, names)` trains the same ones in the
model itself; this is for a folder of their own, in PEFT's form, and for several of them on one base.

>>> import lora_np as lnp
>>> base = lnp.load_pretrained("digits")
>>> model = lnp.inject(base, lnp.LNTuningConfig())
>>> lnp.count_parameters(model).trainable  # 4 layers of two norms, and one behind them, 64 wide
1152
>>> lnp.merge(model).layer[0].norm1.gamma is base.layer[0].norm1.gamma
False

Source: Zhao et al. 2023, arXiv:2312.11420; PEFT 0.21, `tuners/ln_tuning`.
"""

from dataclasses import InitVar, dataclass

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, register
from lora_np.model.architectures.architecture import ARCHITECTURES
from lora_np.model.nodes import LayerNorm, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import layer_norm_backward, layer_norm_forward


@dataclass(frozen=True, kw_only=True)
class LNTuningConfig(PeftOptions):
    """Which norms are trained; names and meanings are PEFT's, whose other options may stand at their defaults.

    Parameters
    ----------
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        Which norms, and what is trained beside: see `PeftOptions`. Without targets it is all norms, as in PEFT's table
        for GPT-2; for BERT and ViT PEFT has none. (PEFT would copy modules of any kind, its "all-linear" linear maps;
        that is `modules_to_save`. And its `LNTuningConfig` has no layers_to_transform.)

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    peft_type: InitVar[str] = "LN_TUNING"

    ADAPTS = "layer norm"
    TARGETS = dict.fromkeys(ARCHITECTURES, ".+")
    LACKS = ("fan_in_fan_out",)

    @staticmethod
    def adapts(path, node):
        return isinstance(node, LayerNorm)


@dataclass
class TunedLayerNorm:
    gamma: np.ndarray  # (d,)  frozen
    beta: np.ndarray  # (d,)  frozen
    eps: float
    weight: np.ndarray  # (d,)  in the place of gamma
    bias: np.ndarray  # (d,)  in the place of beta
    hf: str = ""
    trainable: tuple[str, ...] = ("weight", "bias")
    FROZEN = ("gamma", "beta", "eps")

    def forward(self, x):
        return layer_norm_forward(x, self.weight, self.bias, self.eps)

    def backward(self, dy, cache, needs_dx=True):
        asked = {"weight": "gamma", "bias": "beta", "x": "x"}  # the names of the operation
        dx, dweight, dbias = layer_norm_backward(dy, cache, [asked[name] for name in needs(self, needs_dx)])
        return dx, gradients(weight=dweight, bias=dbias)


def shapes(d, config):
    return {"weight": (d,), "bias": (d,)}


def start(path, node, config, rng):
    return {"weight": node.gamma.copy(), "bias": node.beta.copy()}


def beside(node, config, arrays):
    """Return the TunedLayerNorm for a LayerNorm: its own gamma and beta, and what is trained in their place."""
    return TunedLayerNorm(node.gamma, node.beta, node.eps, **arrays, hf=node.hf)


def dense(node):
    return LayerNorm(locked(node.weight.copy()), locked(node.bias.copy()), node.eps, node.hf)


LN_TUNING = Method(
    name="LN-tuning",
    config=LNTuningConfig,
    node=TunedLayerNorm,
    shapes=shapes,
    start=start,
    wrap=beside,
    differs=lambda node, config: "",
    dense=dense,
    tensors={"weight": ("ln_tuning_layers.weight", False), "bias": ("ln_tuning_layers.bias", False)},
)
register(LN_TUNING)
