"""LoKr: a frozen linear map whose update is the Kronecker product of two small matrices.

    y = x W + b + scale * x (C1 kron C2),      C1 (m, p),  C2 (n, q),  m n = d_in,  p q = d_out,  scale = alpha / r

C1 kron C2 has a copy of C2 in the place of each entry of C1, multiplied by it: read j, from 0 to d_in - 1, as the pair
(j1, j2) with j = j1 n + j2, and i as (i1, i2) with i = i1 q + i2. Then its entry (j, i) is C1[j1,i1] C2[j2,i2]. Either
matrix may be a product of two, with r columns and rows between them: C1 = A1 B1, C2 = A2 B2.

The large matrix is never formed. Write a row x as the matrix X (m, n), X[j1,j2] = x[j1 n + j2], and its output as
Z (p, q) in the same way. Then
    Z[i1,i2] = sum over j of x[j] C1[j1,i1] C2[j2,i2] = sum over j1 of C1[j1,i1] (sum over j2 of X[j1,j2] C2[j2,i2]),
that is
    Z = C1^T X C2 = (C1^T (X A2)) B2.
It is a LoRA with the matrices A2 and B2 for each of the m pieces of x, and C1 that mixes the pieces in between.

Forward, where (4) and (6) are left out for a C1 or a C2 that is no product; A2 is then C2 itself, and s is q, else r
    (1)  y0 = x W + b            the pretrained map; W and b are frozen
    (2)  X = x as (N, m, n)      a view
    (3)  U = X A2                (N, m, s)
    (4)  C1 = A1 B1              (m, p), small unless decompose_factor is large
    (5)  V = C1^T U              (N, p, s): in each row of the batch, V[i1] is the sum over j1 of C1[j1,i1] U[j1]
    (6)  Z = V B2                (N, p, q)
    (7)  y = y0 + scale * z * mask,  z = Z as (N, d_out);  the mask (d_out,) is over the outputs, or there is none

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (7)  z is multiplied by constants: dz = scale * dy * mask, and dZ is dz as (N, p, q). y0 receives dy unchanged.
    (6)  A linear map of the last axis, with N p rows (V[i1] of each): dB2 = sum over them of V^T dZ, and dV = dZ B2^T.
    (5)  A linear map of the middle axis, with N s rows (a column of each U): C1[j1,i1] weighs U[j1] in V[i1], so
         dC1[j1,i1] = sum over them of U[j1] dV[i1], and dU = C1 dV.
    (4)  A linear map with weight B1 and input A1: dA1 = dC1 B1^T, dB1 = A1^T dC1.
    (3)  A linear map of the last axis, with N m rows (X[j1] of each): dA2 = sum over them of X^T dU, and dX = dU A2^T.
    (2)  dx receives dX, as (N, d_in), from the detour,
    (1)  and dy W^T from the pretrained map. W and b are frozen: there is no dW and no db.

In the code a map of the last axis, and a sum over all its rows, is a `tensordot`: one large product, where `X @ A2`
would be N small ones.

What it costs: N s (d_in + m p + d_out) multiplications where C2 is a product, about as many as LoRA of rank s, for
m p + r (n + q) numbers in the place of r (d_in + d_out): 832 for 6,144 in a map of 384 x 384 with r = 8 and factors of
8. The rank of a Kronecker product is the product of the ranks: here up to 64.

The sizes are PEFT's. `decompose_factor` is m, and p, where it divides d_in, and d_out. Where it does not, and for -1
everywhere, the smaller size is the largest divisor up to the square root (and up to the factor), and comes first. C2 is
a product if r < max(n, q) / 2, and so is C1, with `decompose_both`, if r < max(m, p) / 2. So what a node trains
depends on its sizes; a matrix that is no product has no use for r, but the scale is alpha / r all the same.

At the start C1 is zero, or B1 of its product, and so y = y0 to the bit; the rest is drawn. At first only what is zero
moves. init_weights="lycoris" has C2, or A2, zero in its place.

The mask, in training alone, is PEFT's: `update_mask` in loha.py, not divided unless `rank_dropout_scale` asks for it.
PEFT has no LoKr for GPT-2, whose maps are of a class of their own there. Here they can have it, and we read its folder.

    >>> import numpy as np, lora_np as lnp
    >>> base = lnp.load_pretrained("digits")
    >>> model = lnp.inject(base, lnp.LoKrConfig(r=4, decompose_factor=4), np.random.default_rng(0))
    >>> lnp.count_parameters(model).trainable  # 4 * 4 + 4 (16 + 16), for query and value (64 x 64) of 4 layers
    1152

Sources: Yeh et al. 2023, arXiv:2309.14859 (LyCORIS), section 3; names, sizes, starts and dropouts: `LoKrConfig` and
`LoKrLayer` of PEFT 0.21.
"""

import math
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.loha import FLAG, LoHaConfig, drawn, update_mask
from lora_np.adapt.methods import Method, register
from lora_np.files import is_whole
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import linear_forward
from lora_np.ops.fit import fit, number

TRAINED = ("C1", "A1", "B1", "C2", "A2", "B2")
STARTS = {True: ("C1", "B1"), "lycoris": ("C2", "A2"), False: ()}  # init_weights -> what is zero, of what there is


class LoKrLinearCache(NamedTuple):
    X: np.ndarray  # (N, m, n)
    U: np.ndarray  # (N, m, s)
    V: np.ndarray  # (N, p, s)
    W: np.ndarray  # (d_in, d_out)
    C1: np.ndarray  # (m, p)
    A1: np.ndarray  # (m, r)  or None
    B1: np.ndarray  # (r, p)  or None
    A2: np.ndarray  # (n, s)
    B2: np.ndarray  # (s, q)  or None
    scale: float
    mask: np.ndarray  # (d_out,)  or None


def lokr_linear_forward(x, W, b, C1, A1, B1, C2, A2, B2, scale, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, C1 (m, p) or,
    in its place, A1 (m, r) and B1 (r, p), and C2 (n, q) or, in its place, A2 (n, r) and B2 (r, q).

    `scale` is a Python float, alpha / r; `mask` (d_out,) multiplies the update of each output, or is None.

    Raises
    ------
    ValueError
        If the sizes do not fit (PEFT's matrices are the transposes of these), a factor is there twice or not at all, or
        scale is no number.
    """
    fit(
        "lokr_linear",
        "x (N, d_in), W (d_in, d_out), C1 (m, p) or None, A1 (m, r) or None, B1 (r, p) or None, C2 (n, q) or None,"
        " A2 (n, r) or None, B2 (r, q) or None, mask (d_out,) or None",
        x,
        W,
        C1,
        A1,
        B1,
        C2,
        A2,
        B2,
        mask,
    )
    check_factors(W.shape, (C1, A1, B1), (C2, A2, B2))
    scale = number("scale", scale)
    C1 = A1 @ B1 if C1 is None else C1  # (m, p)  (4)
    A2 = A2 if C2 is None else C2  # (n, s)
    y0, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    X = x.reshape(len(x), len(C1), len(A2))  # (N, m, n)  (2)
    U = np.tensordot(X, A2, 1)  # (N, m, s)  (3)
    V = C1.T @ U  # (N, p, s)  (5)
    Z = V if B2 is None else np.tensordot(V, B2, 1)  # (N, p, q)  (6)
    z = scale * Z.reshape(y0.shape)  # (N, d_out)
    y = y0 + (z if mask is None else z * mask)  # (N, d_out)  (7)
    return y, LoKrLinearCache(X, U, V, W, C1, A1, B1, A2, B2, scale, mask)


def lokr_linear_backward(dy, cache, needs=("x", *TRAINED)):
    """Return dx (N, d_in), dC1 (m, p), dA1 (m, r), dB1 (r, p), dC2 (n, q), dA2 (n, r), dB2 (r, q); None for those that
    `needs` does not name, or that are not there. There is no dW and no db.
    """
    X, U, V, W, C1, A1, B1, A2, B2, scale, mask = cache
    fit("lokr_linear_backward", "dy (N, d_out), W (d_in, d_out), X (N, m, n), V (N, p, s)", dy, W, X, V)
    dx = dC1 = dA1 = dB1 = dC2 = dA2 = dB2 = None
    N, p, s = V.shape
    dz = scale * dy if mask is None else scale * dy * mask  # (N, d_out)  (7)
    dZ = dz.reshape(N, p, dy.shape[1] // p)  # (N, p, q)
    if "B2" in needs and B2 is not None:
        dB2 = np.tensordot(V, dZ, ((0, 1), (0, 1)))  # (s, q)  (6)
    dV = dZ if B2 is None else np.tensordot(dZ, B2.T, 1)  # (N, p, s)
    if {"C1", "A1", "B1"}.intersection(needs):
        dC = np.tensordot(U, dV, ((0, 2), (0, 2)))  # (m, p)  (5)
        dC1 = dC if A1 is None and "C1" in needs else None  # (m, p)
        if A1 is not None and "A1" in needs:
            dA1 = dC @ B1.T  # (m, r)  (4)
        if A1 is not None and "B1" in needs:
            dB1 = A1.T @ dC  # (r, p)  (4)
    if {"C2", "A2", "x"}.intersection(needs):
        dU = C1 @ dV  # (N, m, s)  (5)
    if ("C2" if B2 is None else "A2") in needs:
        dM = np.tensordot(X, dU, ((0, 1), (0, 1)))  # (n, s)  (3)
        dC2, dA2 = (dM, None) if B2 is None else (None, dM)  # (n, q), (n, r)
    if "x" in needs:
        dX = np.tensordot(dU, A2.T, 1)  # (N, m, n)
        dx = dX.reshape(N, len(W)) + dy @ W.T  # (N, d_in)  (2), (1)
    return dx, dC1, dA1, dB1, dC2, dA2, dB2


def check_factors(shape, *factors):
    sizes = []
    for k, (C, A, B) in enumerate(factors, 1):
        if [M is None for M in (C, A, B)] not in ([False, True, True], [True, False, False]):
            raise ValueError(f"lokr_linear needs C{k}, or A{k} and B{k} in its place, and the others of these None.")
        sizes.append(C.shape if A is None else (len(A), B.shape[1]))
    (m, p), (n, q) = sizes
    if (m * n, p * q) != shape:
        raise ValueError(
            f"lokr_linear needs factors whose sizes multiply to those of W {shape}, but it was given"
            f" ({m}, {p}) and ({n}, {q}), whose Kronecker product is {(m * n, p * q)}."
        )


@dataclass(frozen=True)
class LoKrConfig(PeftOptions):
    """What to adapt by LoKr, and how; names, meanings and defaults are PEFT's.

    Parameters
    ----------
    r : int
        Rank of a factor that is large enough to be a product of two matrices: above 2 r. Of others it is not asked.
    alpha : float
        The update is scaled by alpha / r.
    rank_dropout : float
        Probability, in training, that an output is left without its update.
    module_dropout : float
        Probability, in training, that a map is left without its update.
    decompose_both : bool
        Let the first factor, too, be a product of two where it is large enough, not the second one alone.
    decompose_factor : int
        Size of the first factor, where it divides the map's; -1: the largest divisor up to the square root.
    rank_dropout_scale : bool
        Divide the updates that `rank_dropout` leaves by their share.
    init_weights : bool or "lycoris"
        True: the first factor starts at zero; "lycoris": the second does. False: neither, and the model does not start
        as its base.
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
    decompose_both: bool = False
    decompose_factor: int = -1
    rank_dropout_scale: bool = False
    init_weights: bool | str = True
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)

    peft_type: InitVar[str] = field(default="LOKR", kw_only=True)
    use_effective_conv2d: InitVar[bool] = field(default=False, kw_only=True)

    PATTERNS = {"r": "rank_pattern", "alpha": "alpha_pattern"}
    LACKS = ("fan_in_fan_out",)
    FIELDS = {
        **LoHaConfig.FIELDS,
        "decompose_both": FLAG,
        "decompose_factor": (lambda value: is_whole(value) or value == -1, "a positive integer, or -1"),
        "rank_dropout_scale": FLAG,
        "init_weights": (lambda value: isinstance(value, bool) or value == "lycoris", "true, false or 'lycoris'"),
    }

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        self.hold(rank_pattern=self.rank_pattern or {}, alpha_pattern=self.alpha_pattern or {})


@dataclass
class LoKrLinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    C1: np.ndarray | None  # (m, p)  or, in its place,
    A1: np.ndarray | None  # (m, r)
    B1: np.ndarray | None  # (r, p)
    C2: np.ndarray | None  # (n, q)  or, in its place,
    A2: np.ndarray | None  # (n, r)
    B2: np.ndarray | None  # (r, q)
    scale: float
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    rank_dropout_scale: bool = False
    hf: str = ""
    trainable: tuple[str, ...] = ()
    FROZEN = ("W", "b")  # never trained: there is no dW and no db

    def forward(self, x, rng=None):
        dropouts = self.rank_dropout, self.module_dropout, rng, x.dtype, self.rank_dropout_scale
        factors = (getattr(self, name) for name in TRAINED)
        return lokr_linear_forward(x, self.W, self.b, *factors, self.scale, update_mask(self.W.shape[1], *dropouts))

    def backward(self, dy, cache, needs_dx=True):
        dx, *found = lokr_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(**dict(zip(TRAINED, found)))


def split(size, factor):
    """Return two numbers whose product is a size: the factor first if it divides it, else the smaller one first."""
    if factor != -1 and size % factor == 0:
        return factor, size // factor
    root = math.isqrt(size)
    smaller = next(k for k in range(root if factor == -1 else min(root, factor), 0, -1) if size % k == 0)
    return smaller, size // smaller


def shapes(d_in, d_out, config):
    """m p + n q numbers, with r (m + p) for m p, or r (n + q) for n q, where r is below half of the larger side."""
    (m, n), (p, q), r = split(d_in, config.decompose_factor), split(d_out, config.decompose_factor), config.r
    first = {"A1": (m, r), "B1": (r, p)} if config.decompose_both and 2 * r < max(m, p) else {"C1": (m, p)}
    second = {"A2": (n, r), "B2": (r, q)} if 2 * r < max(n, q) else {"C2": (n, q)}
    return first | second


def start(path, node, config, rng):
    """Return {name: array} for a Linear at its start: one factor, or one part of it, is zero, the others are drawn."""
    return drawn(shapes(*node.W.shape, config), rng, node.W.dtype, zero=STARTS[config.init_weights])


def settings(config):
    own = "rank_dropout", "module_dropout", "rank_dropout_scale"
    return {"scale": float(config.alpha) / config.r, **{name: getattr(config, name) for name in own}}


def wrap(node, config, arrays):
    factors = {name: arrays.get(name) for name in TRAINED}
    trainable = tuple(name for name, array in factors.items() if array is not None)
    return LoKrLinear(node.W, node.b, **factors, **settings(config), hf=node.hf, trainable=trainable)


def differs(node, config):
    asked = settings(config) | shapes(*node.W.shape, config)
    found = {name: getattr(node, name) for name in settings(config)}
    found |= {name: getattr(node, name).shape for name in TRAINED if getattr(node, name) is not None}
    return "" if found == asked else ", ".join(f"{name} {value}" for name, value in found.items())


def dense(node):
    """Return the Linear with W + scale * (C1 kron C2): the sum is taken in float64 and rounded once."""
    C1, A1, B1, C2, A2, B2 = (None if M is None else M.astype(np.float64) for M in (getattr(node, f) for f in TRAINED))
    update = np.kron(A1 @ B1 if C1 is None else C1, A2 @ B2 if C2 is None else C2)
    return Linear(locked((node.W + node.scale * update).astype(node.W.dtype)), node.b, node.hf)


LOKR = Method(
    name="LoKr",
    config=LoKrConfig,
    node=LoKrLinear,
    shapes=shapes,
    start=start,
    wrap=wrap,
    differs=differs,
    dense=dense,
    adds=True,
    # PEFT's matrix is (d_out, d_in), and a product is its a times its b; ours are the transposes.
    tensors={
        "C1": ("lokr_w1", True),
        "A1": ("lokr_w1_b", True),
        "B1": ("lokr_w1_a", True),
        "C2": ("lokr_w2", True),
        "A2": ("lokr_w2_b", True),
        "B2": ("lokr_w2_a", True),
    },
)
register(LOKR)
