"""Bottleneck adapters: behind a frozen linear map each row goes through a small MLP of its own, whose result is added.

    y = y0 + act(y0 W_down + b_down) W_up + b_up,      y0 = x W + b,      W_down (d, m),  W_up (m, d)

Forward
    (1)  y0 = x W + b              the pretrained map; W and b are frozen
    (2)  u = y0 W_down + b_down    down from d features to m
    (3)  a = act(u)                bent, or all of it would be one linear map more
    (4)  y = y0 + a W_up + b_up    up again, and added

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (4)  A linear map over a: dW_up = a^T dy, db_up = sum_n dy_n, da = dy W_up^T. y0 receives dy unchanged.
    (3)  du = da times the slope of act at u, entry by entry.
    (2)  A linear map over y0: dW_down = y0^T du, db_down = sum_n du_n. y0 receives du W_down^T, too; the two add.
    (1)  dx = dy0 W^T. There is no dW and no db.

LoRA's detour reads x and lies beside the map; this one reads y0 and lies behind it, so W_down and W_up meet no matrix
with which they could be multiplied: with the bend between them they stay, and cost their time, for good.

At the start W_up and both biases are zero and W_down is drawn as LoRA's A, U(-1/sqrt(d), 1/sqrt(d)), so y = y0 to the
bit, as "mam_adapter" of the `adapters` library has it. Houlsby et al. draw both matrices from N(0, 0.01^2) cut at two
deviations, and start near y0.

Where they stand. `HoulsbyConfig` puts two into each block, behind the output map of attention and behind that of the
MLP, and trains the two norms of the block, too; `PfeifferConfig` puts one, behind the MLP's. Both act before the
residual sum and the norm, and before the dropout of the base, behind which Houlsby et al. have theirs. Pfeiffer's down
map reads the row after the norm that follows, in the paper and in the `adapters` library ("pfeiffer",
original_ln_before=True); here it reads y0.

PEFT has none of these. A folder is written in its form, of the peft_type BOTTLENECK, which PEFT refuses by that name.

What it costs: 2 d m + m + d numbers a place. On MiniLM, m = 16, that is 12 places and 9,216 numbers of norms for
Houlsby, 161,472 in all, and 6 places, 76,128, for Pfeiffer.

>>> import numpy as np, lora_np as lnp
>>> base, rng = lnp.load_pretrained("digits"), np.random.default_rng(0)
>>> model = lnp.inject(base, lnp.PfeifferConfig(bottleneck_size=8), rng)
>>> lnp.count_parameters(model).trainable == 4 * (2 * 64 * 8 + 8 + 64)  # 4 layers, 64 wide
True
>>> model.layer[0].mlp.down.W_down.shape
(64, 8)

Source: Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2; Pfeiffer et al. 2020, arXiv:2005.00052, section
4.1, equation 1; He et al. 2021, arXiv:2110.04366, for the start.
"""

from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, register
from lora_np.files import is_whole
from lora_np.model.architectures.architecture import ARCHITECTURES
from lora_np.model.heads import BENDS
from lora_np.model.nodes import gradients, needs
from lora_np.ops import linear_forward
from lora_np.ops.fit import fit

ATTENTION, MLP_ = "attention.output", "mlp.down"  # by our names, which all architectures share
NORMS = ("norm1", "norm2")


class BottleneckCache(NamedTuple):
    y0: np.ndarray  # (N, d)  what the pretrained map gives
    a: np.ndarray  # (N, m)
    bent: Any  # of the bend
    W: np.ndarray  # (d_in, d)
    W_down: np.ndarray  # (d, m)
    W_up: np.ndarray  # (m, d)
    act: str  # the bend's name


def bottleneck_forward(x, W, b, W_down, b_down, W_up, b_up, act):
    """Return y (N, d) and the cache, for x (N, d_in), frozen W (d_in, d) and b (d,) or None, trained W_down (d, m),
    b_down (m,), W_up (m, d) and b_up (d,), and `act`, a name in BENDS.

    Raises
    ------
    ValueError
        If the sizes do not fit (files hold the transposes of W_down and W_up).
    """
    fit(
        "bottleneck",
        "x (N, d_in), W (d_in, d), W_down (d, m), b_down (m,), W_up (m, d), b_up (d,)",
        *(x, W, W_down, b_down, W_up, b_up),
    )
    y0, _ = linear_forward(x, W, b)  # (N, d)  (1)
    u = y0 @ W_down + b_down  # (N, m)  (2)
    a, bent = BENDS[act][0](u)  # (3)
    y = y0 + a @ W_up + b_up  # (N, d)  (4)
    return y, BottleneckCache(y0, a, bent, W, W_down, W_up, act)


def bottleneck_backward(dy, cache, needs=("x", "W_down", "b_down", "W_up", "b_up")):
    """Return dx (N, d_in), dW_down (d, m), db_down (m,), dW_up (m, d), db_up (d,); None for those that `needs` does not
    name. There is no dW and no db."""
    y0, a, bent, W, W_down, W_up, act = cache
    fit("bottleneck_backward", "dy (N, d), y0 (N, d)", dy, y0)
    dx = dW_down = db_down = dW_up = db_up = None
    if "b_up" in needs:
        db_up = dy.sum(axis=0)  # (d,)  (4)
    if "W_up" in needs:
        dW_up = a.T @ dy  # (m, d)
    if {"x", "W_down", "b_down"} & {*needs}:
        da = dy @ W_up.T  # (N, m)
        du = BENDS[act][1](da, bent)  # (N, m)  (3)
    if "b_down" in needs:
        db_down = du.sum(axis=0)  # (m,)  (2)
    if "W_down" in needs:
        dW_down = y0.T @ du  # (d, m)
    if "x" in needs:
        dy0 = dy + du @ W_down.T  # (N, d)  y0 went two ways
        dx = dy0 @ W.T  # (N, d_in)  (1)
    return dx, dW_down, db_down, dW_up, db_up


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(PeftOptions):
    """Where bottleneck adapters stand, and of which size. `HoulsbyConfig` and `PfeifferConfig` are the two that have
    names.

    Parameters
    ----------
    bottleneck_size : int
        m, the features between the two maps.
    non_linearity : {"relu", "gelu", "tanh"}
        The bend between them.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        Behind which maps one stands, and what is trained beside: see `PeftOptions`. Without targets it is behind the
        output maps of attention and MLP.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    bottleneck_size: int = 16
    non_linearity: str = "relu"
    peft_type: InitVar[str] = "BOTTLENECK"

    TARGETS = dict.fromkeys(ARCHITECTURES, (ATTENTION, MLP_))
    FIELDS = {
        "bottleneck_size": (is_whole, "a positive integer"),
        "non_linearity": (lambda value: value in tuple(BENDS), f"one of {', '.join(BENDS)}"),
    }


@dataclass(frozen=True, kw_only=True)
class HoulsbyConfig(BottleneckConfig):
    """Two adapters a block, behind attention and behind the MLP; the norms of these blocks are trained, too, and saved.

    Parameters
    ----------
    bottleneck_size, non_linearity, target_modules, ...
        As of `BottleneckConfig`; the bend is GELU.
    """

    non_linearity: str = "gelu"

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        layers = self.layers_to_transform
        norms = NORMS if layers is None else [f"layer.{k}.{norm}" for k in layers for norm in NORMS]
        self.hold(modules_to_save=[*dict.fromkeys([*(self.modules_to_save or ()), *norms])])


@dataclass(frozen=True, kw_only=True)
class PfeifferConfig(BottleneckConfig):
    """One adapter a block, behind the MLP.

    Parameters
    ----------
    bottleneck_size, non_linearity, target_modules, ...
        As of `BottleneckConfig`.
    """

    TARGETS = dict.fromkeys(ARCHITECTURES, (MLP_,))


@dataclass
class BottleneckLinear:
    W: np.ndarray  # (d_in, d)  frozen
    b: np.ndarray | None  # (d,) frozen
    W_down: np.ndarray  # (d, m)
    b_down: np.ndarray  # (m,)
    W_up: np.ndarray  # (m, d)
    b_up: np.ndarray  # (d,)
    act: str = "relu"
    hf: str = ""
    trainable: tuple[str, ...] = ("W_down", "b_down", "W_up", "b_up")
    FROZEN = ("W", "b")

    def forward(self, x, rng=None):
        return bottleneck_forward(x, self.W, self.b, self.W_down, self.b_down, self.W_up, self.b_up, self.act)

    def backward(self, dy, cache, needs_dx=True):
        dx, *found = bottleneck_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(**dict(zip(("W_down", "b_down", "W_up", "b_up"), found)))


def shapes(d_in, d_out, config):
    m = config.bottleneck_size
    return {"W_down": (d_out, m), "b_down": (m,), "W_up": (m, d_out), "b_up": (d_out,)}  # 2 d m + m + d numbers


def start(path, node, config, rng):
    """Return the arrays of an adapter behind a Linear at its start: W_down drawn, all else zero."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"W_down is drawn at random, so inject needs numpy.random.default_rng(seed), not {rng!r}.")
    dtype, found = node.W.dtype, shapes(*node.W.shape, config)
    bound = found["W_down"][0] ** -0.5
    W_down = rng.uniform(-bound, bound, found["W_down"]).astype(dtype)
    return {name: np.zeros(shape, dtype) for name, shape in found.items()} | {"W_down": W_down}


def set_behind(node, config, arrays):
    """Return the BottleneckLinear for a Linear: its own W and b, and the adapter behind them."""
    return BottleneckLinear(node.W, node.b, **arrays, act=config.non_linearity, hf=node.hf)


def differs(node, config):
    m = len(node.b_down)
    if m != config.bottleneck_size:
        return f"bottleneck_size = {m}"
    return "" if node.act == config.non_linearity else f"non_linearity = {node.act!r}"


BOTTLENECK = Method(
    name="bottleneck",
    config=BottleneckConfig,
    node=BottleneckLinear,
    shapes=shapes,
    start=start,
    wrap=set_behind,
    differs=differs,
    dense="a bottleneck adapter cannot be merged: the bend between its two maps makes it none that a matrix could hold;"
    " keep the model as it is, and its adapter by save_adapter.",
    tensors={
        "W_down": ("adapter_down.weight", True),
        "b_down": ("adapter_down.bias", False),
        "W_up": ("adapter_up.weight", True),
        "b_up": ("adapter_up.bias", False),
    },
)
register(BOTTLENECK)
