"""DoRA: the direction of each output's weights is trained as LoRA trains a matrix, their length as a number of its own.

Column j of W holds the weights of output j. DoRA writes it as its length times its direction, and trains both: the
length is a number m_j; the direction is that of column j of V = W + scale * A B.

    y = x (m V / |V|) + b,      m (d_out,),  |V| (d_out,): the lengths of V's columns

At the start B = 0 and m = |W|, so the quotient is 1 and the map is the base's, to the bit.

Forward
    (1)  y0 = x W                      the pretrained map; W and b are frozen
    (2)  z = x * mask, z0 = z W        dropout; without it z0 = y0
    (3)  u = z A, h = z0 + scale * u B                         LoRA: h = z V
    (4)  V = W + scale * A B, n = |V|, n_j = sqrt(sum_i V_ij^2)
    (5)  g = m / n                     one number for each output
    (6)  y = y0 + (g h - z0) + b       what dropout takes away from x, (x - z) W, is not scaled; without dropout
                                       y = g h + b

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (6)  g_j serves all N rows: dg_j = sum_n dy_nj h_nj. Nudge h: dh = g dy. y0 receives dy, and z0 receives -dy.
    (5)  dm = dg / n, and dn = -dg m / n^2 = -dm g.
    (4)  Nudge V_ij: n_j moves by V_ij / n_j, so dV = dn V / n. V is W plus the product of A and B:
         dA = scale * dV B^T, dB = scale * A^T dV, to which (3) adds its own.
    (3)  As LoRA: dB += scale * u^T dh, du = scale * dh B^T, dA += z^T du, dz = du A^T. z0 receives dh, too:
         dz0 = dh - dy.
    (2)  dz += dz0 W^T, and dx receives dz * mask.
    (1)  dx receives dy W^T. Without dropout both meet at the same x, (dz0 + dy) W^T = dh W^T: one product.

The norm as a constant. The paper (section 4.3) and PEFT leave (4) out: n follows V forward, but on the way back it is
taken for a constant. That saves the two products with dV, and their memory. It is not the gradient of this function
but of the one whose n is given: `dora_forward(..., n=n)` computes that, and checks compare with it. What it changes:
let G = z^T dy, as in LoRA. Column j of what reaches V, by (3), is g_j G_j, and dm_j is G_j's part along V_j. With (4)
that part is taken away from it,

    dV_j = g_j (G_j - dm_j V_j / n_j) :

stretching V_j does nothing, as its length is divided away. With n constant A and B are moved along V_j as well, by
steps that (5) undoes. m has the same gradient both ways, and so has x. One direction of d_in is little if d_in is
large: on the tiny BERT of the tests 17 degrees lie between the two gradients of A, and 23 between those of B; on the
embedded digits model, 64 wide, 9 between those of B at the start. `exact_gradient=True` asks for the whole gradient.

Cost: (4) takes d_in r d_out multiplications at each forward, as many as LoRA's detour takes for d_in d_out / (d_in +
d_out) rows.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> model = lnp.load_pretrained("digits")
    >>> dora = lnp.inject(model, lnp.LoRAConfig(r=4, use_dora=True), np.random.default_rng(0))
    >>> dora.adapter.exact_gradient
    False
    >>> lnp.count_parameters(dora).trainable  # 8 maps, each r (64 + 64) + 64
    4608
    >>> images = np.random.default_rng(0).random((3, 4, 16), dtype=np.float32)
    >>> batch = lnp.Batch.of(images)
    >>> bool((dora.forward(batch)[0] == model.forward(batch)[0]).all())
    True

Source: Liu et al. 2024, arXiv:2402.09353, section 4: equation 5 (the forward), 6 (the gradient through the norm), 4.3
(the constant); PEFT 0.21, `tuners/lora/dora.py` (dropout).
"""

from dataclasses import InitVar, dataclass, replace
from typing import NamedTuple

import numpy as np

from lora_np.adapt import lora
from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.lora import lora_scale
from lora_np.adapt.methods import Method, register
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import dropout_mask, linear_forward
from lora_np.ops.fit import fit, number


class DoRACache(NamedTuple):
    z: np.ndarray  # (N, d_in)  the input after dropout; None if A is frozen
    u: np.ndarray  # (N, r)
    h: np.ndarray  # (N, d_out)
    W: np.ndarray  # (d_in, d_out)
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    g: np.ndarray  # (d_out,)
    n: np.ndarray  # (d_out,)
    V: np.ndarray  # (d_in, d_out)  or None: n is a constant
    scale: float
    mask: np.ndarray  # (N, d_in)  or None


def turned(W, A, B, scale):
    """Return V = W + scale * A B (d_in, d_out), whose columns have the directions."""
    return W + scale * (A @ B)


def lengths(V):
    """Return the length of each column of V (d_in, d_out), (d_out,)."""
    return np.sqrt((V * V).sum(axis=0))


def dora_forward(x, W, b, A, B, m, scale, mask=None, exact=False, n=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, A (d_in, r),
    B (r, d_out), m (d_out,).

    `scale` is a Python float, lora_alpha / r; `mask` (N, d_in) is a dropout mask already divided by 1 - p, or None.
    With `exact` the backward goes through the norm of V, without it takes the norm for a constant. If `n` (d_out,) is
    given, it stands in the norm's place and is one.

    Raises
    ------
    ValueError
        If the sizes do not fit, or scale is no number.
    """
    spec = "x (N, d_in), W (d_in, d_out), b (d_out,) or None, A (d_in, r), B (r, d_out), m (d_out,)"
    fit("dora", f"{spec}, mask (N, d_in) or None, n (d_out,) or None", x, W, b, A, B, m, mask, n)
    scale, V = number("scale", scale), None
    y0, _ = linear_forward(x, W)  # (N, d_out)  (1)
    z = x if mask is None else x * mask  # (N, d_in)  (2)
    z0 = y0 if mask is None else z @ W  # (N, d_out)
    u = z @ A  # (N, r)  (3)
    h = z0 + (scale * u) @ B  # (N, d_out)
    if n is None:
        V = turned(W, A, B, scale)  # (d_in, d_out)  (4)
        n = lengths(V)  # (d_out,)
    g = m / n  # (d_out,)  (5)
    y = y0 + (g * h - z0)  # (N, d_out)  (6)
    if b is not None:
        y = y + b  # (N, d_out)
    return y, DoRACache(z, u, h, W, A, B, g, n, V if exact else None, scale, mask)


def dora_backward(dy, cache, needs=("x", "A", "B", "m")):
    """Return dx (N, d_in), dA (d_in, r), dB (r, d_out), dm (d_out,); None for those that `needs` does not name.

    There is no dW and no db. `cache.z` may be None when "A" is not needed.
    """
    z, u, h, W, A, B, g, n, V, scale, mask = cache
    spec = "dy (N, d_out), z (N, d_in) or None, W (d_in, d_out), mask (N, d_in) or None"
    fit("dora_backward", spec, dy, z, W, mask)
    dx = dA = dB = dm = None
    through_norm = V is not None and ("A" in needs or "B" in needs)
    dh = dy * g  # (N, d_out)  (6)
    if "m" in needs or through_norm:
        dm = (dy * h).sum(axis=0) / n  # (d_out,)  (5)
    if "B" in needs:
        dB = scale * (u.T @ dh)  # (r, d_out)  (3)
    if "A" in needs or "x" in needs:
        du = scale * (dh @ B.T)  # (N, r)
    if "A" in needs:
        dA = z.T @ du  # (d_in, r)
    if through_norm:
        dV = V * (-(dm * g) / n)  # (d_in, d_out)  (4)
        dA = None if dA is None else dA + scale * (dV @ B.T)  # (d_in, r)
        dB = None if dB is None else dB + scale * (A.T @ dV)  # (r, d_out)
    if "x" in needs:
        dz = du @ A.T  # (N, d_in)  (3)
        if mask is None:
            dx = dz + dh @ W.T  # (N, d_in)  (2) and (1)
        else:
            dz = dz + (dh - dy) @ W.T  # (N, d_in)  (2)
            dx = dz * mask + dy @ W.T  # (N, d_in)  (1)
    return dx, dA, dB, dm if "m" in needs else None


@dataclass(frozen=True)
class DoRAConfig(LoRAConfig):
    """What LoRAConfig takes, and one thing of our own. LoRAConfig(use_dora=True), PEFT's spelling, is one of these.

    Parameters
    ----------
    exact_gradient : bool
        Let the gradient go through the norm, which paper and PEFT hold constant. PEFT has no such option: it is kept
        in the metadata of adapter_model.safetensors, which PEFT passes over and does not write again.
    """

    exact_gradient: bool = False

    use_dora: InitVar[bool] = True

    OURS = ("exact_gradient",)
    FIELDS = {**LoRAConfig.FIELDS, "exact_gradient": (lambda value: isinstance(value, bool), "true or false")}


@dataclass
class DoRALinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    m: np.ndarray  # (d_out,)
    scale: float
    dropout: float = 0.0  # of the input of all but the base's own output
    exact: bool = False  # whether the gradient goes through the norm
    n: np.ndarray | None = None  # (d_out,) in the norm's place, while a gradient is checked
    hf: str = ""
    trainable: tuple[str, ...] = ("A", "B", "m")
    FROZEN = ("W", "b", "n")

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        A, B, m = self.A, self.B, self.m
        y, cache = dora_forward(x, self.W, self.b, A, B, m, self.scale, mask, self.exact, self.n)
        return y, cache if "A" in self.trainable else cache._replace(z=None)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB, dm = dora_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A=dA, B=dB, m=dm)

    def as_differentiated(self):
        """Return the node that computes the function of which `backward` is the gradient: the norm is held."""
        return self if self.exact else replace(self, n=lengths(turned(self.W, self.A, self.B, self.scale)))


def shapes(d_in, d_out, config):
    return {**lora.shapes(d_in, d_out, config), "m": (d_out,)}  # r (d_in + d_out) + d_out numbers


def start(path, node, config, rng):
    """Return LoRA's A and B and the lengths of W's columns, computed as the forward does: m / n is 1, exactly."""
    found = lora.start(path, node, config, rng)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    return {**found, "m": lengths(turned(node.W, found["A"], found["B"], scale))}


def wrap(node, config, arrays):
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)
    n = lengths(turned(node.W, arrays["A"], arrays["B"], scale))
    if not n.all():
        raise ValueError(
            f"DoRA divides by the length of each output's weights, but {int((n == 0).sum())} of {len(n)} are zero in"
            f" {node.hf or 'a linear map'}, the first of output {int(n.argmin())}; leave that map out by"
            " exclude_modules, or adapt it by LoRA."
        )
    A, B, m = arrays["A"], arrays["B"], arrays["m"]
    return DoRALinear(node.W, node.b, A, B, m, scale, config.lora_dropout, config.exact_gradient, hf=node.hf)


def differs(node, config):
    if node.exact != config.exact_gradient:
        return f"exact_gradient = {node.exact}"
    return lora.differs(node, config)


def dense(node):
    """Return the Linear with m V / |V|: computed in float64 and rounded once."""
    V = turned(node.W, node.A.astype(np.float64), node.B, node.scale)
    return Linear(locked((V * (node.m / lengths(V))).astype(node.W.dtype)), node.b, node.hf)


DORA = Method(
    name="DoRA",
    config=DoRAConfig,
    node=DoRALinear,
    shapes=shapes,
    start=start,
    wrap=wrap,
    differs=differs,
    dense=dense,
    tensors={**lora.LORA.tensors, "m": ("lora_magnitude_vector", False)},
)
register(DORA)
