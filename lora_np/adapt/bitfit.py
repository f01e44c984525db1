"""BitFit: of a pretrained model nothing is trained but its biases, those of linear maps and of norms, each a copy.

    y = x W + bias,      or      y = gamma * xhat + bias :      bias = b, or beta, at first

Forward and backward are those of the linear map and of the layer norm, at `bias` in the place of b or beta, which stay
as they were. A bias serves all N rows, so dbias = sum_n dy_n: no matrix product, and no x is kept for it. The way
down to the lowest of them costs what it costs: dx = dy W^T in each map.

A bias moves every row by the same vector. What depends on the row, W has to do, and W does not change: so BitFit
can choose among features that are there (which side of GELU's bend they fall on, say), and make none. That of a key
has no gradient at all, but for rounding: a softmax ignores what is added to a whole row. (Adam makes steps of this
rounding. They change nothing, for the same reason.)

What it costs: d_out numbers a map, d a norm: on MiniLM 25,728. `lnp.unfreeze(model, names)` trains the same ones in the
model itself (chapter 6); this is for a folder of their own, and for several of them on one base. PEFT has no BitFit: a
folder is written in its form, of the peft_type BITFIT, which it refuses by that name.

>>> import lora_np as lnp
>>> base = lnp.load_pretrained("digits")
>>> model = lnp.inject(base, lnp.BitFitConfig())
>>> biases = {name for name in lnp.parameters(base) if name.endswith((".b", ".beta"))} - {"head.classifier.b"}
>>> lnp.count_parameters(model).trainable == sum(lnp.parameters(base)[name].size for name in biases)
True

Source: Ben Zaken, Ravfogel, Goldberg 2021, arXiv:2106.10199 (BitFit), section 3.
"""

from dataclasses import InitVar, dataclass

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, register
from lora_np.model.architectures.architecture import ARCHITECTURES
from lora_np.model.nodes import LayerNorm, Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import layer_norm_backward, layer_norm_forward, linear_backward, linear_forward


@dataclass(frozen=True, kw_only=True)
class BitFitConfig(PeftOptions):
    """Which biases are trained.

    Parameters
    ----------
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        Of which maps and norms, and what is trained beside: see `PeftOptions`. Without targets it is all that have a
        bias, but the classifier and what is part of it, which are trained whole or not at all.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    peft_type: InitVar[str] = "BITFIT"

    ADAPTS = "linear map or norm with a bias"
    TARGETS = dict.fromkeys(ARCHITECTURES, r"(?!.*classifier).+")

    @staticmethod
    def adapts(path, node):
        return isinstance(node, LayerNorm) or (isinstance(node, Linear) and node.b is not None)


class Biased:
    """What both nodes are, so that one method is known by either."""


@dataclass
class BiasedLinear(Biased):
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray  # (d_out,)  frozen
    bias: np.ndarray  # (d_out,)  in the place of b
    hf: str = ""
    trainable: tuple[str, ...] = ("bias",)
    FROZEN = ("W", "b")

    def forward(self, x, rng=None):
        y, cache = linear_forward(x, self.W, self.bias)
        return y, cache._replace(x=None)  # a frozen W never meets x again

    def backward(self, dy, cache, needs_dx=True):
        dx, _, dbias = linear_backward(dy, cache, by_operation(self, needs_dx, "b"))
        return dx, gradients(bias=dbias)

    def plain(self):
        return Linear(self.W, locked(self.bias.copy()), self.hf)


@dataclass
class BiasedLayerNorm(Biased):
    gamma: np.ndarray  # (d,)  frozen
    beta: np.ndarray  # (d,)  frozen
    eps: float
    bias: np.ndarray  # (d,)  in the place of beta
    hf: str = ""
    trainable: tuple[str, ...] = ("bias",)
    FROZEN = ("gamma", "beta", "eps")

    def forward(self, x):
        return layer_norm_forward(x, self.gamma, self.bias, self.eps)

    def backward(self, dy, cache, needs_dx=True):
        dx, _, dbias = layer_norm_backward(dy, cache, by_operation(self, needs_dx, "beta"))
        return dx, gradients(bias=dbias)

    def plain(self):
        return LayerNorm(self.gamma, locked(self.bias.copy()), self.eps, self.hf)


def by_operation(node, needs_dx, name):
    """Return what is needed, by the operation's names: it calls `bias` by another."""
    return [name if needed == "bias" else needed for needed in needs(node, needs_dx)]


def shapes(*sizes_and_config):
    *_, d_out, config = sizes_and_config  # of a linear map (d_in, d_out), of a norm (d,)
    return {"bias": (d_out,)}


def start(path, node, config, rng):
    return {"bias": (node.b if isinstance(node, Linear) else node.beta).copy()}


def beside(node, config, arrays):
    """Return the node for a Linear or a LayerNorm: its own arrays, and the bias that is trained in its bias's place."""
    if isinstance(node, Linear):
        return BiasedLinear(node.W, node.b, **arrays, hf=node.hf)
    return BiasedLayerNorm(node.gamma, node.beta, node.eps, **arrays, hf=node.hf)


BITFIT = Method(
    name="BitFit",
    config=BitFitConfig,
    node=Biased,
    shapes=shapes,
    start=start,
    wrap=beside,
    differs=lambda node, config: "",
    dense=lambda node: node.plain(),
    tensors={"bias": ("bitfit_bias", False)},
)
register(BITFIT)
