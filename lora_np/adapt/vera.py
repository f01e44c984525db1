"""VeRA: a detour through two random matrices that are never trained and that all nodes share; only how strongly each
of its r inner and d_out outer features counts is trained.

    y = x W + b + (((x A) * lambda_d) B) * lambda_b,      A (d_in, r),  B (r, d_out)  frozen,  the same in every node

Forward
    (1)  y0 = x W + b            the pretrained map; W and b are frozen
    (2)  z = x * mask            dropout on the detour's input only
    (3)  u = z A                 r random features of each row
    (4)  v = u * lambda_d        each by a number of its own
    (5)  h = v B                 mixed at random into d_out
    (6)  y = y0 + h * lambda_b   each by a number of its own, and added

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (6)  Nudge h_nj: y_nj moves by lambda_b_j, so dh = dy * lambda_b. The one lambda_b_j serves all N rows:
         dlambda_b_j = sum_n dy_nj h_nj. y0 receives dy unchanged.
    (5)  A linear map with a frozen weight: dv = dh B^T, and there is no dB.
    (4)  As (6): du = dv * lambda_d, dlambda_d_k = sum_n dv_nk u_nk.
    (3)  A linear map with a frozen weight: dz = du A^T, and there is no dA.
    (2)  dx receives dz * mask from the detour.
    (1)  dx receives dy W^T from the pretrained map; the two add. There is no dW and no db.

Let G = z^T dy, the gradient by which full fine-tuning would change W. Then
    dlambda_d_k = (A^T G diag(lambda_b) B^T)_kk    and    dlambda_b_j = (B^T diag(lambda_d) A^T G)_jj :
where LoRA sees two thin projections of G, VeRA sees two diagonals. It never forms these products.

At the start lambda_b = 0: y = y0, and only lambda_b moves at first; lambda_d = d_initial, not 0, or nothing would.

What it costs. A node trains r + d_out numbers, LoRA r (d_in + d_out): on query and value of MiniLM 7,680 of VeRA's with
r = 256, or 73,728 of LoRA's with r = 8. That is no less *work*: steps (3) and (5) are LoRA's, with the larger r, so
with 32 times the multiplications of r = 8. Nor is it less to keep: A and B are 196,608 numbers there, in memory and in
the file. And r is no rank that W must have: it is how many random features there are to choose from, and may exceed
d_in and d_out.

A and B are one array each, in memory and in a file, as large as the largest of the adapted maps asks for. A node takes
the first d_in rows of A and the first d_out columns of B. They are drawn from `projection_prng_key` alone: uniform,
in +-sqrt(6 / d_in) and +-sqrt(6 / r) of the whole arrays, as PEFT does. Its generator draws others of the same key, so
the file holds them (save_projection); one that relies on the key is refused.

>>> import lora_np as lnp
>>> base = lnp.load_pretrained("digits")
>>> model = lnp.inject(base, lnp.VeraConfig(r=100))
>>> lnp.count_parameters(base).total, lnp.count_parameters(model)  # 4 layers, query and value: 8 (100 + 64) trained
(136138, ParameterCount(total=150250, trainable=1312))
>>> model.layer[0].attention.query.A is model.layer[3].attention.value.A  # 64 x 100, once
True

Source: Kopiczko, Blankevoort, Asano 2023, arXiv:2310.11454 (VeRA), section 3.1, equation 2: h = W_0 x + L_b B L_d A x.
"""

import math
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, Shared, register
from lora_np.files import is_number, is_whole
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import dropout_mask, linear_forward
from lora_np.ops.fit import fit


class VeraLinearCache(NamedTuple):
    u: np.ndarray  # (N, r)  random features of the input
    h: np.ndarray  # (N, d_out)  what the detour adds, before lambda_b
    W: np.ndarray  # (d_in, d_out)
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    lambda_d: np.ndarray  # (r,)
    lambda_b: np.ndarray  # (d_out,)
    mask: np.ndarray  # (N, d_in)  or None


def vera_linear_forward(x, W, b, A, B, lambda_d, lambda_b, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out), b (d_out,) or None, A (d_in, r) and
    B (r, d_out), trained lambda_d (r,) and lambda_b (d_out,).

    `mask` (N, d_in) is a dropout mask already divided by 1 - p, or None.

    Raises
    ------
    ValueError
        If the sizes do not fit (PEFT's vera_A and vera_B are the transposes of A and B).
    """
    fit(
        "vera_linear",
        "x (N, d_in), W (d_in, d_out), A (d_in, r), B (r, d_out), lambda_d (r,), lambda_b (d_out,),"
        " mask (N, d_in) or None",
        *(x, W, A, B, lambda_d, lambda_b, mask),
    )
    y0, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    z = x if mask is None else x * mask  # (N, d_in)  (2)
    u = z @ A  # (N, r)  (3)
    v = u * lambda_d  # (N, r)  (4)
    h = v @ B  # (N, d_out)  (5)
    y = y0 + h * lambda_b  # (N, d_out)  (6)
    return y, VeraLinearCache(u, h, W, A, B, lambda_d, lambda_b, mask)


def vera_linear_backward(dy, cache, needs=("x", "lambda_d", "lambda_b")):
    """Return dx (N, d_in), dlambda_d (r,), dlambda_b (d_out,); None for those that `needs` does not name.

    There is no dW, no db, no dA and no dB.
    """
    u, h, W, A, B, lambda_d, lambda_b, mask = cache
    fit("vera_linear_backward", "dy (N, d_out), h (N, d_out), mask (N, d_in) or None", dy, h, mask)
    dx = dlambda_d = dlambda_b = None
    if "lambda_b" in needs:
        dlambda_b = (dy * h).sum(axis=0)  # (d_out,)  (6)
    if "lambda_d" in needs or "x" in needs:
        dh = dy * lambda_b  # (N, d_out)
        dv = dh @ B.T  # (N, r)  (5)
    if "lambda_d" in needs:
        dlambda_d = (dv * u).sum(axis=0)  # (r,)  (4)
    if "x" in needs:
        du = dv * lambda_d  # (N, r)
        dz = du @ A.T  # (N, d_in)  (3)
        dx = dz if mask is None else dz * mask  # (N, d_in)  (2)
        dx = dx + dy @ W.T  # (N, d_in)  (1)
    return dx, dlambda_d, dlambda_b


@dataclass(frozen=True)
class VeraConfig(PeftOptions):
    """What to adapt, and how; names, meanings and defaults are PEFT's, whose other options may stand at their defaults.

    Parameters
    ----------
    r : int
        How many random features the detour goes through. They cost little to train, so there are many.
    projection_prng_key : int
        Draws the projections A and B that all nodes share; nothing else is drawn.
    vera_dropout : float
        Probability of dropout on the detour's input.
    d_initial : float
        lambda_d at the start.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        What is adapted, and trained beside: see `PeftOptions`. Without targets it is query and value (GPT-2: c_attn).
        (PEFT's `VeraConfig` has no exclude_modules.)

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    r: int = 256
    projection_prng_key: int = 0
    vera_dropout: float = 0.0
    d_initial: float = 0.1
    _: KW_ONLY
    peft_type: InitVar[str] = "VERA"
    save_projection: InitVar[bool] = True
    init_weights: InitVar[bool] = True  # PEFT's False: lambda_b = 1, lambda_d random, so not the base at first

    CONSTANTS = {"bias": "none", "save_projection": True}
    FIELDS = {
        "r": (is_whole, "a positive integer"),
        "projection_prng_key": (lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
        "vera_dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
        "d_initial": (lambda value: is_number(value) and abs(value) < 1e30, "a number"),
        "init_weights": (lambda value: value is None or isinstance(value, bool), "true or false"),
        "save_projection": (
            lambda value: value is True,
            "true: without its projections, vera_A and vera_B, only PyTorch's generator can draw them again from the"
            " key; let PEFT save the adapter once more, with save_projection=True",
        ),
    }


@dataclass
class VeraLinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # all d_in or more rows of the shared one, by r
    B: np.ndarray  # r by all d_out or more columns of the shared one
    lambda_d: np.ndarray  # (r,)
    lambda_b: np.ndarray  # (d_out,)
    dropout: float = 0.0  # of the detour's input
    hf: str = ""
    trainable: tuple[str, ...] = ("lambda_d", "lambda_b")
    FROZEN = ("W", "b")
    SHARED = ("A", "B")

    def projections(self):
        """Return this node's part of A, (d_in, r), and of B, (r, d_out): views."""
        d_in, d_out = self.W.shape
        return self.A[:d_in], self.B[:, :d_out]

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        return vera_linear_forward(x, self.W, self.b, *self.projections(), self.lambda_d, self.lambda_b, mask)

    def backward(self, dy, cache, needs_dx=True):
        dx, dlambda_d, dlambda_b = vera_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(lambda_d=dlambda_d, lambda_b=dlambda_b)


def shapes(d_in, d_out, config):
    return {"lambda_d": (config.r,), "lambda_b": (d_out,)}  # r + d_out numbers, whatever d_in is


def start(path, node, config, rng):
    """Return {"lambda_d": ..., "lambda_b": ...} for a Linear at its start: the second is zero, the first is not."""
    if config.d_initial == 0:
        raise ValueError("d_initial = 0 beside lambda_b = 0 would never learn anything; choose a number such as 0.1.")
    dtype = node.W.dtype
    return {"lambda_d": np.full(config.r, config.d_initial, dtype), "lambda_b": np.zeros(node.W.shape[1], dtype)}


def projection_shapes(sizes, config):
    """Return the shapes of A and B, of which maps of all these sizes, [(d_in, d_out), ...], can take their parts."""
    return {"A": (max(d_in for d_in, _ in sizes), config.r), "B": (config.r, max(d_out for _, d_out in sizes))}


def draw_projections(shapes, config, dtype):
    """Return {"A": ..., "B": ...}, a function of the key: each uniform, with the variance 2 / (its rows)."""
    rng = np.random.default_rng(config.projection_prng_key % 2**64)  # a negative one is one, too
    bound = {name: math.sqrt(6.0 / shape[0]) for name, shape in shapes.items()}  # He et al. 2015, as PEFT has it
    return {name: rng.uniform(-bound[name], bound[name], shape).astype(dtype) for name, shape in shapes.items()}


def add_detour(node, config, arrays):
    """Return the VeraLinear for a Linear: its own W and b, and beside them the two vectors and what is shared."""
    return VeraLinear(node.W, node.b, **arrays, dropout=config.vera_dropout, hf=node.hf)


def differs(node, config):
    return "" if len(node.lambda_d) == config.r else f"r = {len(node.lambda_d)}"


def dense(node):
    """Return the Linear with W + A diag(lambda_d) B diag(lambda_b): the sum is taken in float64 and rounded once."""
    A, B = node.projections()
    W = node.W + ((A.astype(np.float64) * node.lambda_d) @ B) * node.lambda_b
    return Linear(locked(W.astype(node.W.dtype)), node.b, node.hf)


VERA = Method(
    name="VeRA",
    config=VeraConfig,
    node=VeraLinear,
    shapes=shapes,
    start=start,
    wrap=add_detour,
    differs=differs,
    dense=dense,
    adds=True,
    tensors={"lambda_d": ("vera_lambda_d", False), "lambda_b": ("vera_lambda_b", False)},
    shared=Shared(
        shapes=projection_shapes,
        start=draw_projections,
        tensors={"A": ("base_model.vera_A", True), "B": ("base_model.vera_B", True)},
    ),
)
register(VERA)
