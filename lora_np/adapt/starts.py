"""Where LoRA starts: other values of `init_lora_weights` than True, by PEFT's names, and one of our own.

What an adapter computes at first is W + scale * A B, and that is to be W. LoRA has B = 0. The others:

    value             A (d_in, r)                     B (r, d_out)                      starts as
    "gaussian"        N(0, 1/r^2)                     0                                 the base, to the bit
    "mirrored"        0                               U(-1/sqrt(d_out), 1/sqrt(d_out))  the base, to the bit; it is ours
    "orthogonal"      G Q1 / 10                       Q2^T G' / 10                      the base, but for rounding
    "eva"             directions of the inputs        0                                 the base, to the bit: `eva.py`
    False             U(-1/sqrt(d_in), 1/sqrt(d_in))  U(-1/sqrt(r), 1/sqrt(r))          something else
    "pissa", "olora"  of W, see below                 of W                              the base, but for rounding
    "loftq"           of W - Q, see below             of W - Q                          near to the base

"mirrored" is LoRA's start with the roles exchanged: dA = scale * G B^T moves first, and B later (G = z^T dy, as in
`ops/lora_linear.py`). Its rows of B are drawn for d_out outputs as LoRA's columns of A are for d_in inputs. In
"orthogonal" the rows of Q1 and Q2 are the odd and the even rows of one orthogonal (r, r), so Q1 Q2^T = 0 and A B = 0,
though both have gradients from the first step on; r must be even.

Starts out of W. PiSSA takes the r largest singular values of W = U S V^T, OLoRA the first r columns of Q and rows of R
in W^T = Q R:

    PiSSA   A0 = U_r (S_r / scale)^(1/2),   B0 = (S_r / scale)^(1/2) V_r^T          scale * A0 B0 = U_r S_r V_r^T
    OLoRA   A0 = R_r^T,   B0 = Q_r^T                                                (not divided by the scale)

so that A, B start where W is large, and what is frozen is W - scale * A0 B0. "pissa_niter_N" finds U_r, S_r, V_r by N
iterations from random vectors, cheap for a large W and a little off; the start is as exact. PEFT writes the difference
into the base's memory; the base is lost then, up to rounding, and two adapters on it disturb each other. Here W stays,
and the node, a `ShiftedLoRALinear`, holds A0 and B0 beside it:

    y = x W + b + scale * (z A B - x A0 B0)

At the start both products are the same, and their difference is 0. Disabled or removed, the base has its own bits.
And as A B - A0 B0 = [A, A0] [B; -B0], it is a plain LoRA of rank 2r over the unchanged base: that is what
`save_adapter` writes and PEFT reads, as its `path_initial_model_for_weight_conversion` has it. Read here, it is a
ShiftedLoRALinear again, to the bit, and can be trained further; `to_plain(model)` is the plain one. A run that goes on
from a checkpoint makes A0 and B0 out of W again. A folder in which PEFT left A and B unconverted is read too, with A0
and B0 made out of W anew, as PEFT does; not that of "pissa_niter_N", whose random vectors are in no file.

Forward
    (1)  y0 = x W + b                              the pretrained map; W and b are frozen
    (2)  z = x * mask                              dropout, of the trained detour alone
    (3)  u = z A,  u0 = x A0
    (4)  y = y0 + (scale * u B - scale * u0 B0)
Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (4)  As LoRA: dB = scale * u^T dy, du = scale * dy B^T. u0 receives du0 = -scale * dy B0^T; B0 is frozen.
    (3)  dA = z^T du, dz = du A^T. x receives du0 A0^T; A0 is frozen.
    (2)  dx receives dz * mask.
    (1)  dx receives dy W^T.

LoftQ. QLoRA starts from Q, the compressed W, and what is lost there is lost. LoftQ lets the detour give back what it
can, in `loftq_iter` rounds:
    (1)  Q = compressed(W - scale * A B)           A B = 0 in the first; 4 bits: NF4, 8 bits: int8
    (2)  scale * A B = the r largest singular values of W - Q, A and B with the root of each
PEFT leaves the scale away in (2), so that its start is off unless lora_alpha = r; there the numbers are the same, but
for NF4's scales, which are quantised once more here. Q is a base of its own. After one round it is what
`compress_model(model, "nf4", targets)` gives, and the adapter is loaded onto that. After more it is in this model
alone: save that merged.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> base = lnp.load_pretrained("digits")
    >>> pissa = lnp.inject(base, lnp.LoRAConfig(r=4, init_lora_weights="pissa"))
    >>> lora = lnp.inject(base, lnp.LoRAConfig(r=4, init_lora_weights="mirrored"), np.random.default_rng(0))
    >>> batch = lnp.Batch.of(np.random.default_rng(0).random((3, 4, 16), dtype=np.float32))
    >>> [bool(np.abs(one.forward(batch)[0] - base.forward(batch)[0]).max() < 1e-5) for one in (pissa, lora)]
    [True, True]
    >>> lnp.count_parameters(pissa).trainable, lnp.count_parameters(lora).trainable
    (4096, 4096)

Sources: Meng et al. 2024, arXiv:2404.02948 (PiSSA), equations 2 to 4, and its appendix on conversion; Büyükakyüz 2024,
arXiv:2406.01775 (OLoRA), algorithm 1; Li et al. 2023, arXiv:2310.08659 (LoftQ), algorithm 1; Hayou et al. 2024,
arXiv:2406.08447 (which of A and B is zero); Halko et al. 2011, arXiv:0909.4061, algorithms 4.4 and 5.1 (random
vectors); datta0.github.io/posts/rethink-lora-init ("orthogonal"); PEFT 0.21, `tuners/lora/layer.py`.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lora_np.adapt import eva, lora
from lora_np.adapt.compressed import compressed
from lora_np.adapt.config import LoRAConfig, marks
from lora_np.adapt.eva import EvaConfig, as_options
from lora_np.adapt.lora import LoRALinear, lora_scale
from lora_np.adapt.methods import Method, copies, register
from lora_np.adapt.targets import hf_names
from lora_np.compress import FrozenMatrix
from lora_np.files import is_whole
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import is_node, locked, rebuild, walk
from lora_np.ops import dropout_mask, linear_forward
from lora_np.ops.fit import fit, number

# ---- starts that leave W alone


def drawn(d_in, d_out, r, rng):
    return uniform(rng, d_in, (d_in, r)), uniform(rng, r, (r, d_out))


def gaussian(d_in, d_out, r, rng):
    return rng.standard_normal((d_in, r)) / r, np.zeros((r, d_out))


def mirrored(d_in, d_out, r, rng):
    return np.zeros((d_in, r)), uniform(rng, d_out, (r, d_out))


def orthogonal(d_in, d_out, r, rng):
    if r % 2:
        raise ValueError(f'init_lora_weights="orthogonal" halves the rank, but r = {r}; choose an even one.')
    Q, _ = np.linalg.qr(rng.standard_normal((r, r)))
    A = rng.standard_normal((d_in, r // 2)) @ Q[0::2] / 10.0
    return A, Q[1::2].T @ rng.standard_normal((r // 2, d_out)) / 10.0


def uniform(rng, fan, shape):
    return rng.uniform(-1.0 / math.sqrt(fan), 1.0 / math.sqrt(fan), shape)


DRAWN = {False: drawn, "gaussian": gaussian, "mirrored": mirrored, "orthogonal": orthogonal}
STARTS_AS = {  # as a `Method` has it; beside those of the configurations that follow
    False: "something else",
    "gaussian": "the base's bits",
    "mirrored": "the base's bits",
    "orthogonal": "the base's but for rounding",
    "eva": "the base's bits",
    "loftq": "something else",
}
OUT_OF_W = r"pissa(_niter_\d{1,4})?|olora"
OF_W_IN_WORDS = '"pissa", "pissa_niter_N" or "olora", or in a new LoRAConfig another start'
KNOWN = (
    'False, "gaussian", "mirrored", "orthogonal", "eva" or "loftq", or in a new LoRAConfig True, "pissa",'
    ' "pissa_niter_N" or "olora"'
)


@dataclass(frozen=True)
class LoftQConfig:
    """How LoftQ compresses: to 4 or 8 bits, in so many rounds. Names and defaults are PEFT's."""

    loftq_bits: int = 4
    loftq_iter: int = 1

    def __post_init__(self):
        if not is_whole(self.loftq_bits) or self.loftq_bits not in FORM:
            raise ValueError(f"loftq_bits must be 4 or 8, but it is {self.loftq_bits!r}.")
        if not is_whole(self.loftq_iter):
            raise ValueError(f"loftq_iter must be a positive integer, but it is {self.loftq_iter!r}.")


FORM = {4: "nf4", 8: "int8"}


@dataclass(frozen=True)
class StartedLoRAConfig(LoRAConfig):
    """What LoRAConfig makes of an init_lora_weights that leaves W alone; adapted, a model carries a LoRAConfig."""

    init_lora_weights: bool | str = field(default=False, kw_only=True)
    eva_config: EvaConfig | None = field(default=None, kw_only=True)
    loftq_config: LoftQConfig | None = field(default=None, kw_only=True)

    FIELDS = {
        **LoRAConfig.FIELDS,
        "init_lora_weights": (lambda value: isinstance(value, (bool, str)) and value in STARTS_AS, KNOWN),
    }
    GOES_WITH = {"use_dora": "init_lora_weights=True"}
    OF_START = {"eva_config": ("eva", EvaConfig), "loftq_config": ("loftq", LoftQConfig)}

    @classmethod
    def is_meant(cls, given, above):
        value = given.get("init_lora_weights")
        return above is LoRAConfig and value is not None and value is not True and not is_out_of_W(value)

    def __post_init__(self, *peft):
        if isinstance(self.init_lora_weights, str):
            self.hold(init_lora_weights=self.init_lora_weights.lower())
        super().__post_init__(*peft)
        for option, (start, kind) in self.OF_START.items():
            given = getattr(self, option)
            if given and self.init_lora_weights != start:
                raise ValueError(
                    f'{option} goes with init_lora_weights="{start}", but that is {self.init_lora_weights!r}.'
                )
            if self.init_lora_weights == start:
                self.hold(**{option: as_options(kind, given or {})})

    def begin(self, model, targets, rng, data):
        kept = {option.name: getattr(self, option.name) for option in dataclasses.fields(LoRAConfig)}
        plain, nodes = LoRAConfig(**kept), dict(walk(model))
        if self.init_lora_weights == "eva":
            return eva.begin(model, plain, self.eva_config, targets, data)
        super().begin(model, targets, rng, data)
        return plain, {path: self.started(path, nodes[path], plain.at(names), rng) for path, names in targets.items()}

    def started(self, path, node, config, rng):
        """Return the LoRALinear for a Linear, with another start than LoRA's."""
        lora.check_rank(path, node, config.r)
        if self.init_lora_weights == "loftq":
            W, A, B = loftq(path, node, config, self.loftq_config)
            node = dataclasses.replace(node, W=W)
        else:
            lora.check_generator(rng)
            A, B = DRAWN[self.init_lora_weights](*node.W.shape, config.r, rng)
        return lora.add_detour(node, config, {"A": A.astype(node.W.dtype), "B": B.astype(node.W.dtype)})


def loftq(path, node, config, how):
    """Return the compressed Q, A (d_in, r) and B (r, d_out)."""
    if isinstance(node.W, FrozenMatrix):
        raise ValueError(f"loftq compresses W itself, but that of {path} is compressed already; give the dense model.")
    scale, W, update = scale_of(config), node.W.astype(np.float64), 0.0
    for _ in range(how.loftq_iter):
        Q = compressed((W - update).astype(node.W.dtype), FORM[how.loftq_bits], True, f"{path}.W", {})  # (1)
        A, B = largest(W - Q.dense(), config.r, scale)  # (2)
        update = scale * (A @ B)
    return Q, A, B


# ---- starts out of W, which is shifted by them


class ShiftedLoRALinearCache(NamedTuple):
    z: np.ndarray  # (N, d_in)  the input after dropout; None if A is frozen
    u: np.ndarray  # (N, r)
    W: np.ndarray  # (d_in, d_out)
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    A0: np.ndarray  # (d_in, r)
    B0: np.ndarray  # (r, d_out)
    scale: float
    mask: np.ndarray  # (N, d_in)  or None


def shifted_lora_linear_forward(x, W, b, A, B, A0, B0, scale, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out), b (d_out,) or None, A0 (d_in, r), B0
    (r, d_out), and A (d_in, r), B (r, d_out).

    `scale` is a Python float, lora_alpha / r; `mask` (N, d_in) is a dropout mask already divided by 1 - p, or None.

    Raises
    ------
    ValueError
        If the sizes do not fit, or scale is no number.
    """
    spec = (
        "x (N, d_in), W (d_in, d_out), A (d_in, r), B (r, d_out), A0 (d_in, r), B0 (r, d_out), mask (N, d_in) or None"
    )
    fit("shifted_lora_linear", spec, x, W, A, B, A0, B0, mask)
    scale = number("scale", scale)
    y0, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    z = x if mask is None else x * mask  # (N, d_in)  (2)
    u = z @ A  # (N, r)  (3)
    u0 = x @ A0  # (N, r)
    y = y0 + ((scale * u) @ B - (scale * u0) @ B0)  # (N, d_out)  (4)
    return y, ShiftedLoRALinearCache(z, u, W, A, B, A0, B0, scale, mask)


def shifted_lora_linear_backward(dy, cache, needs=("x", "A", "B")):
    """Return dx (N, d_in), dA (d_in, r), dB (r, d_out); None for those that `needs` does not name.

    There is no dW, no db, no dA0 and no dB0. `cache.z` may be None when "A" is not needed.
    """
    z, u, W, A, B, A0, B0, scale, mask = cache
    spec = "dy (N, d_out), z (N, d_in) or None, W (d_in, d_out), mask (N, d_in) or None"
    fit("shifted_lora_linear_backward", spec, dy, z, W, mask)
    dx = dA = dB = None
    if "B" in needs:
        dB = scale * (u.T @ dy)  # (r, d_out)  (4)
    if "A" in needs or "x" in needs:
        du = scale * (dy @ B.T)  # (N, r)
    if "A" in needs:
        dA = z.T @ du  # (d_in, r)  (3)
    if "x" in needs:
        dz = du @ A.T  # (N, d_in)
        dx = dz if mask is None else dz * mask  # (N, d_in)  (2)
        du0 = -scale * (dy @ B0.T)  # (N, r)  (4)
        dx = dx + du0 @ A0.T + dy @ W.T  # (N, d_in)  (3) and (1)
    return dx, dA, dB


def is_out_of_W(value):
    return isinstance(value, str) and re.fullmatch(OUT_OF_W, value.lower()) is not None


@dataclass(frozen=True)
class ShiftedLoRAConfig(LoRAConfig):
    """What LoRAConfig makes of init_lora_weights="pissa", "pissa_niter_N" or "olora"."""

    init_lora_weights: str = field(default="pissa", kw_only=True)

    FIELDS = {**LoRAConfig.FIELDS, "init_lora_weights": (is_out_of_W, OF_W_IN_WORDS)}
    GOES_WITH = {**LoRAConfig.GOES_WITH, "use_dora": "init_lora_weights=True"}

    @classmethod
    def is_meant(cls, given, above):
        others = {name: mark for name, mark in marks(cls, above).items() if name != "init_lora_weights"}
        return is_out_of_W(given.get("init_lora_weights")) and others.items() <= given.items()

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        self.hold(init_lora_weights=self.init_lora_weights.lower())


@dataclass
class ShiftedLoRALinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    A0: np.ndarray  # (d_in, r)  A at the start, frozen
    B0: np.ndarray  # (r, d_out)  B at the start, frozen
    scale: float
    dropout: float = 0.0  # of the trained detour's input
    hf: str = ""
    trainable: tuple[str, ...] = ("A", "B")
    FROZEN = ("W", "b")
    HELD = ("A0", "B0")

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        W, b, A, B, A0, B0 = self.W, self.b, self.A, self.B, self.A0, self.B0
        y, cache = shifted_lora_linear_forward(x, W, b, A, B, A0, B0, self.scale, mask)
        return y, cache if "A" in self.trainable else cache._replace(z=None)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB = shifted_lora_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A=dA, B=dB)


def scale_of(config):
    return lora_scale(config.r, config.lora_alpha, config.use_rslora)


def largest(W, r, scale, svd=np.linalg.svd):
    """Return A (d_in, r), B (r, d_out): scale * A B is W with its r largest singular values alone."""
    U, S, Vh = svd(W, full_matrices=False)
    root = np.sqrt(S[:r] / scale)
    return U[:, :r] * root, root[:, None] * Vh[:r]


def random_svd(r, iterations, rng):
    """Return a function that finds r singular values and vectors of W (d_in, d_out), nearly the largest, out of r
    random vectors; the more iterations, the nearer."""

    def svd(W, full_matrices):
        M = W if W.shape[0] > W.shape[1] else W.T
        Q, _ = np.linalg.qr(M @ rng.standard_normal((M.shape[1], r)))
        for _ in range(iterations):
            Q, _ = np.linalg.qr(M @ np.linalg.qr(M.T @ Q)[0])
        U, S, Vh = np.linalg.svd(Q.T @ M, full_matrices=full_matrices)
        return (Q @ U, S, Vh) if M is W else (Vh.T, S, (Q @ U).T)

    return svd


def out_of_W(path, node, config, rng):
    """Return A0 (d_in, r) and B0 (r, d_out), in W's dtype."""
    lora.check_rank(path, node, config.r)
    W, (name, _, iterations) = np.asarray(node.W, np.float64), config.init_lora_weights.partition("_niter_")
    if not np.isfinite(W).all():
        raise ValueError(f"a start out of W needs finite numbers, but {path}.W holds others.")
    if name == "olora":
        Q, R = np.linalg.qr(W.T)
        A0, B0 = R[: config.r].T, Q[:, : config.r].T
    elif iterations:
        lora.check_generator(rng)
        A0, B0 = largest(W, config.r, scale_of(config), random_svd(config.r, int(iterations), rng))
    else:
        A0, B0 = largest(W, config.r, scale_of(config))
    return [np.ascontiguousarray(array, node.W.dtype) for array in (A0, B0)]


def start(path, node, config, rng):
    """Return {"A": ..., "B": ..., "A0": ..., "B0": ...} for a Linear at its start."""
    A0, B0 = out_of_W(path, node, config, rng)
    return {"A": A0.copy(), "B": B0.copy(), "A0": A0, "B0": B0}


def wrap(node, config, arrays):
    """Return the ShiftedLoRALinear for a Linear. A folder of PEFT has A and B alone: A0 and B0 are made anew."""
    if "A0" not in arrays:
        if "niter" in config.init_lora_weights:
            raise ValueError(
                f"init_lora_weights = {config.init_lora_weights!r} starts from random vectors, which are in no file;"
                " let PEFT convert it to plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)."
            )
        A0, B0 = out_of_W(node.hf, node, config, None)
        arrays = {**arrays, "A0": A0, "B0": B0}
    A0, B0, scale = locked(arrays["A0"]), locked(arrays["B0"]), scale_of(config)
    return ShiftedLoRALinear(node.W, node.b, arrays["A"], arrays["B"], A0, B0, scale, config.lora_dropout, node.hf)


def dense(node):
    """Return the Linear with W + scale * (A B - A0 B0): computed in float64 and rounded once."""
    A, A0 = node.A.astype(np.float64), node.A0.astype(np.float64)
    W = node.W + node.scale * (A @ node.B - A0 @ node.B0)
    return Linear(locked(W.astype(node.W.dtype)), node.b, node.hf)


def changed(model, kind, config, change):
    """Return the model with another configuration, and `change(node, that of one node)` in the place of each node of
    a kind; of what else is trained it has copies."""

    def among(path, node):
        if type(node) is not kind:
            return dataclasses.replace(node, **copies(node)) if node.trainable else node
        return change(Linear(node.W, node.b, node.hf), config.at(hf_names(model, path, node)), node)

    aside = {name: among(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    return dataclasses.replace(rebuild(model, among), adapter=config, aside=aside)


def to_plain(model):
    """Return the model with plain LoRA of rank 2r, [A, A0] [B; -B0], over the unchanged base: it computes the same."""
    kept = {option.name: getattr(model.adapter, option.name) for option in dataclasses.fields(LoRAConfig)}
    twice = math.sqrt(2.0) if model.adapter.use_rslora else 2.0  # so that the scale stays
    kept |= {"r": 2 * kept["r"], "lora_alpha": twice * kept["lora_alpha"]}
    for patterns, factor in (("rank_pattern", 2), ("alpha_pattern", twice)):
        kept[patterns] = {name: factor * value for name, value in kept[patterns].items()}

    def joined(linear, config, node):
        A, B = np.concatenate([node.A, node.A0], axis=1), np.concatenate([node.B, -node.B0])
        both = {name: a if name in node.trainable else locked(a) for name, a in (("A", A), ("B", B))}
        return dataclasses.replace(lora.add_detour(linear, config, both), trainable=node.trainable)

    return changed(model, ShiftedLoRALinear, LoRAConfig(**kept), joined)


def from_plain(model, config):
    """Undo `to_plain`, with the configuration that the model had."""

    def parted(linear, config, node):
        r = config.r
        if node.A.shape[1] != 2 * r:
            raise ValueError(f"{node.hf} has rank {node.A.shape[1]}, but its start and r = {r} make {2 * r}.")
        if not math.isclose(node.scale, scale_of(config)):
            raise ValueError(f"{node.hf} has the scale {node.scale:g}, but its start had {scale_of(config):g}.")
        parts = {"A": node.A[:, :r], "B": node.B[:r], "A0": node.A[:, r:], "B0": -node.B[r:]}
        return wrap(linear, config, {name: part.copy() for name, part in parts.items()})

    return changed(model, LoRALinear, config, parted)


SHIFTED = Method(
    name="PiSSA or OLoRA",
    config=ShiftedLoRAConfig,
    node=ShiftedLoRALinear,
    shapes=lora.shapes,
    start=start,
    wrap=wrap,
    differs=lora.differs,
    dense=dense,
    adds=True,
    tensors=lora.LORA.tensors,
    starts_as="the base's but for rounding",
    as_saved=to_plain,
    option_of="LoRA",
    restored=from_plain,
)
register(SHIFTED)
