"""LoHa: a frozen linear map whose update is the product, entry by entry, of two matrices of rank r.

    y = x (W + scale * (A1 B1) * (A2 B2)) + b,      A1, A2 (d_in, r),  B1, B2 (r, d_out),  scale = alpha / r

Here `*` is the product of entries (Hadamard's), and A B that of matrices. LoHa has twice LoRA's numbers and reaches the
square of its rank: entry (i, j) of the update is the sum over k and l of A1[i,k] A2[i,l] times B1[k,j] B2[l,j], that is
a sum of r^2 matrices of rank 1. LoRA with as many numbers has rank 2 r. (So LoHa is a LoRA of rank r^2, the columns of
whose A are all products of a column of A1 with one of A2, and whose B has the rows made in the same way.)

Forward
    (1)  S = scale * B1 * mask    the scale, and a mask (d_out,) over the outputs, or none
    (2)  P = A1 S,  Q = A2 B2     both of them dense, (d_in, d_out)
    (3)  V = W + P * Q            W is frozen
    (4)  y = x V + b              a linear map with another weight; b is frozen

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (4)  A linear map with weight V and input x: dV = x^T dy, and dx = dy V^T. There is no db.
    (3)  Nudge one entry of P: that entry of V moves by Q's times the nudge. So dP = dV * Q, and likewise dQ = dV * P.
         W is frozen: dV is only passed on.
    (2)  A linear map with weight S and input A1: dA1 = dP S^T, dS = A1^T dP. Likewise dA2 = dQ B2^T, dB2 = A2^T dQ.
    (1)  Each entry of B1 is multiplied by a constant: dB1 = scale * dS * mask.

The price: LoRA never forms x^T dy. Here entries of P and Q meet before x does, so dV is formed: N d_in d_out
multiplications, as many as if W itself were trained, and P, Q, V and dV are as large as W. LoHa saves what is stored
and what the optimiser keeps, neither work nor the memory of a moment. (As the LoRA of rank r^2 that it is, it would
take 3 N r^2 (d_in + d_out) beside the frozen map, which for d_in = d_out = d is no less once r^2 is d / 6: from r = 8
on for 384.) Three things keep it at that. The update is added to W before x meets them, so y and dx take one large
product each, not two; V is rounded, but by no more than x V is. Nothing dense is kept from the forward to the backward,
which computes P and Q anew, by 2 r d_in d_out multiplications: dP and dQ need them both, and dx needs V. And where only
dx is asked for, there is no dV.

At the start A2 = 0, so Q = 0, and V = W to the bit. Of the four only A2 moves at first: dP = dV * Q = 0, and dB2 = 0,
but dA2 = (dV * P) B2^T. Were P or B2 zero as well, nothing would ever learn.

The mask, in training alone, is PEFT's. With `rank_dropout` each output loses its update with that probability (no
dimension of the rank is dropped, whatever the name says), and the rest is divided by the share that is left. With
`module_dropout` the whole update is left out with that probability, and is not scaled otherwise. One mask holds for all
rows of a call. If no output is left, PEFT divides 0 by 0; here there is no update then.

PEFT has no LoHa for GPT-2, whose maps are of a class of their own there. Here they can have it, and we read its folder.

    >>> import numpy as np, lora_np as lnp
    >>> base = lnp.load_pretrained("digits")
    >>> model = lnp.inject(base, lnp.LoHaConfig(r=4, alpha=8), np.random.default_rng(0))
    >>> lnp.count_parameters(model).trainable  # 2 r (d_in + d_out), with d = 64, for query and value of 4 layers
    8192

Sources: Hyeon-Woo, Ye-Bin and Oh 2022, arXiv:2108.06098 (FedPara), propositions 1 and 2; Yeh et al. 2023,
arXiv:2309.14859 (LyCORIS), section 3; names, starts and dropouts: `LoHaConfig` and `LoHaLayer` of PEFT 0.21.
"""

import math
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions, are_by_name, is_positive
from lora_np.adapt.methods import Method, register
from lora_np.files import is_number, is_whole
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import linear_forward
from lora_np.ops.dropout import check_generator
from lora_np.ops.fit import fit, number

SHARE = (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
FLAG = (lambda value: isinstance(value, bool), "true or false")


class LoHaLinearCache(NamedTuple):
    x: np.ndarray  # (N, d_in)
    W: np.ndarray  # (d_in, d_out)
    A1: np.ndarray  # (d_in, r)
    B1: np.ndarray  # (r, d_out)
    A2: np.ndarray  # (d_in, r)
    B2: np.ndarray  # (r, d_out)
    scale: float
    mask: np.ndarray  # (d_out,)  or None


def loha_linear_forward(x, W, b, A1, B1, A2, B2, scale, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, A1 and A2
    (d_in, r), B1 and B2 (r, d_out).

    `scale` is a Python float, alpha / r; `mask` (d_out,) multiplies the update of each output, or is None.

    Raises
    ------
    ValueError
        If the sizes do not fit (PEFT's hada_w1_b and hada_w1_a are the transposes of A1 and B1), or scale is no number.
    """
    fit(
        "loha_linear",
        "x (N, d_in), W (d_in, d_out), A1 (d_in, r), B1 (r, d_out), A2 (d_in, r), B2 (r, d_out), mask (d_out,) or None",
        x,
        W,
        A1,
        B1,
        A2,
        B2,
        mask,
    )
    scale = number("scale", scale)
    P, Q = factors(A1, B1, A2, B2, scale, mask)  # (d_in, d_out), (d_in, d_out)  (1), (2)
    V = W + P * Q  # (d_in, d_out)  (3)
    y, _ = linear_forward(x, V, b)  # (N, d_out)  (4)
    return y, LoHaLinearCache(x, W, A1, B1, A2, B2, scale, mask)


def loha_linear_backward(dy, cache, needs=("x", "A1", "B1", "A2", "B2")):
    """Return dx (N, d_in), dA1 (d_in, r), dB1 (r, d_out), dA2 (d_in, r), dB2 (r, d_out); None for those that `needs`
    does not name. There is no dW and no db.
    """
    x, W, A1, B1, A2, B2, scale, mask = cache
    fit("loha_linear_backward", "dy (N, d_out), x (N, d_in), W (d_in, d_out)", dy, x, W)
    dx = dA1 = dB1 = dA2 = dB2 = None
    P, Q = factors(A1, B1, A2, B2, scale, mask)  # (d_in, d_out), (d_in, d_out)
    if "x" in needs:
        dx = dy @ (W + P * Q).T  # (N, d_in)  (4)
    if {"A1", "B1", "A2", "B2"}.intersection(needs):
        dV = x.T @ dy  # (d_in, d_out)  (4)
        dP, dQ = dV * Q, dV * P  # (d_in, d_out), (d_in, d_out)  (3)
    if "A1" in needs:
        dA1 = dP @ scaled(B1, scale, mask).T  # (d_in, r)  (2)
    if "B1" in needs:
        dB1 = scaled(A1.T @ dP, scale, mask)  # (r, d_out)  (2), (1)
    if "A2" in needs:
        dA2 = dQ @ B2.T  # (d_in, r)  (2)
    if "B2" in needs:
        dB2 = A2.T @ dQ  # (r, d_out)  (2)
    return dx, dA1, dB1, dA2, dB2


def factors(A1, B1, A2, B2, scale, mask):
    """Return P and Q, whose product of entries is the update, scale and mask in it."""
    return A1 @ scaled(B1, scale, mask), A2 @ B2


def scaled(B, scale, mask):
    return scale * B if mask is None else scale * B * mask


def update_mask(d_out, rank_dropout, module_dropout, rng, dtype, divided=True):
    """Return what multiplies the update of each output in training, (d_out,), or None where all is left as it is.

    Zeros, with the probability `module_dropout`; else zero for each output with the probability `rank_dropout`, and for
    the others 1 or, if it is to be `divided`, 1 over the share of the others.
    """
    check_generator(rng)
    if rng is None or not (rank_dropout or module_dropout):
        return None
    real = np.dtype(dtype).type(0).real.dtype
    if rng.random() < module_dropout:
        return np.zeros(d_out, real)
    left = rng.random(d_out, dtype=np.float32) >= rank_dropout  # float32, so that either dtype drops the same
    share = int(left.sum()) / d_out
    return left.astype(real) / (share if divided and share else 1.0)


@dataclass(frozen=True)
class LoHaConfig(PeftOptions):
    """What to adapt by LoHa, and how; names, meanings and defaults are PEFT's.

    Parameters
    ----------
    r : int
        Rank of each of the two matrices whose product of entries is the update; that has the rank r^2.
    alpha : float
        The update is scaled by alpha / r.
    rank_dropout : float
        Probability, in training, that an output is left without its update; what is left is scaled up.
    module_dropout : float
        Probability, in training, that a map is left without its update.
    init_weights : bool
        True: all but one of the four matrices are drawn, one is zero. False: it is drawn, too, and the model does not
        start as its base.
    rank_pattern, alpha_pattern : dict
        Name, or regular expression for the end of a name -> r or alpha of those nodes.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        What is adapted, and trained beside: see `PeftOptions`. Without targets it is query and value (GPT-2: c_attn).

    Raises
    ------
    ValueError
        If an option has no meaning, or is one of PEFT's for convolutions (use_effective_conv2d).
    """

    r: int = 8
    alpha: float = 8
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    init_weights: bool = True
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)

    peft_type: InitVar[str] = field(default="LOHA", kw_only=True)
    use_effective_conv2d: InitVar[bool] = field(default=False, kw_only=True)

    PATTERNS = {"r": "rank_pattern", "alpha": "alpha_pattern"}
    LACKS = ("fan_in_fan_out",)
    FIELDS = {
        "r": (is_whole, "a positive integer"),
        "alpha": (is_positive, "a positive number"),
        "rank_dropout": SHARE,
        "module_dropout": SHARE,
        "init_weights": FLAG,
        "rank_pattern": (lambda value: are_by_name(value, is_whole), "a dict of positive integers by name"),
        "alpha_pattern": (lambda value: are_by_name(value, is_positive), "a dict of positive numbers by name"),
    }

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        self.hold(rank_pattern=self.rank_pattern or {}, alpha_pattern=self.alpha_pattern or {})


@dataclass
class LoHaLinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A1: np.ndarray  # (d_in, r)
    B1: np.ndarray  # (r, d_out)
    A2: np.ndarray  # (d_in, r)
    B2: np.ndarray  # (r, d_out)
    scale: float
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    hf: str = ""
    trainable: tuple[str, ...] = ("A1", "B1", "A2", "B2")
    FROZEN = ("W", "b")  # never trained: there is no dW and no db

    def forward(self, x, rng=None):
        mask = update_mask(self.W.shape[1], self.rank_dropout, self.module_dropout, rng, x.dtype)
        return loha_linear_forward(x, self.W, self.b, self.A1, self.B1, self.A2, self.B2, self.scale, mask)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA1, dB1, dA2, dB2 = loha_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A1=dA1, B1=dB1, A2=dA2, B2=dB2)


def shapes(d_in, d_out, config):
    """2 r (d_in + d_out) numbers, twice LoRA's."""
    down, up = (d_in, config.r), (config.r, d_out)
    return {"A1": down, "B1": up, "A2": down, "B2": up}


def start(path, node, config, rng):
    """Return the four matrices for a Linear at their start: A2 is zero, the others are drawn."""
    d_in, d_out = node.W.shape
    if config.r > (most := min(d_in, d_out)):
        raise ValueError(
            f"r = {config.r} is more than the rank that {path} ({d_in} x {d_out}) can have; choose r <= {most} (from"
            f" r = {math.isqrt(most - 1) + 1} on LoHa can reach its full rank)."
        )
    return drawn(shapes(d_in, d_out, config), rng, node.W.dtype, zero=("A2",) if config.init_weights else ())


def drawn(shapes, rng, dtype, zero):
    """Return {name: array} of the given shapes (inputs, outputs), drawn from U(-1/sqrt(inputs), 1/sqrt(inputs)) as PEFT
    does, but for those that start at `zero`."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"inject needs a generator, numpy.random.default_rng(seed), but it was given {rng!r}.")
    bounds = {name: 0.0 if name in zero else 1.0 / math.sqrt(shape[0]) for name, shape in shapes.items()}
    return {name: rng.uniform(-bound, bound, shapes[name]).astype(dtype) for name, bound in bounds.items()}


def loha_scale(config):
    """Return alpha / r, as a number of float32: PEFT multiplies by that whatever the dtype, and float64 shows it."""
    return float(np.float32(config.alpha / config.r))


def wrap(node, config, arrays):
    scale = loha_scale(config)
    return LoHaLinear(
        node.W, node.b, **arrays, scale=scale, rank_dropout=config.rank_dropout, module_dropout=config.module_dropout,
        hf=node.hf,
    )  # fmt: skip


def differs(node, config):
    found = {"r": node.A1.shape[1], "the scale": node.scale, **dropouts(node)}
    asked = {"r": config.r, "the scale": loha_scale(config), **dropouts(config)}
    return "" if found == asked else ", ".join(f"{name} = {value:g}" for name, value in found.items())


def dropouts(held):
    return {"rank_dropout": held.rank_dropout, "module_dropout": held.module_dropout}


def dense(node):
    """Return the Linear with W + scale * (A1 B1) * (A2 B2): the sum is taken in float64 and rounded once."""
    exact = (array.astype(np.float64) for array in (node.A1, node.B1, node.A2, node.B2))
    P, Q = factors(*exact, node.scale, None)
    return Linear(locked((node.W + P * Q).astype(node.W.dtype)), node.b, node.hf)


LOHA = Method(
    name="LoHa",
    config=LoHaConfig,
    node=LoHaLinear,
    shapes=shapes,
    start=start,
    wrap=wrap,
    differs=differs,
    dense=dense,
    adds=True,
    # PEFT's matrix is (d_out, d_in), the product of its a and its b; ours is the transpose.
    tensors={
        "A1": ("hada_w1_b", True),
        "B1": ("hada_w1_a", True),
        "A2": ("hada_w2_b", True),
        "B2": ("hada_w2_a", True),
    },
)
register(LOHA)
