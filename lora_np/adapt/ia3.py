"""(IA)^3: what goes through a frozen linear map is multiplied, feature by feature, by trained numbers l, 1 at first.

Of most maps it is the output that is scaled, in a transformer those of key and value; of others, the second map of an
MLP, it is the input. In PEFT these others are the `feedforward_modules`.

Outputs scaled, l (d_out,)
    (1)  h = x W + b             the pretrained map; W and b are frozen
    (2)  y = h * l               each of the outputs by a number of its own: the bias is scaled with them

Backward. Write dy for the gradient of the loss with respect to y.
    (2)  y_nj = h_nj l_j. Nudge h_nj: y_nj moves by l_j, so dh = dy * l. The one l_j serves all N rows:
         dl_j = sum_n dy_nj h_nj.
    (1)  A linear map: dx = dh W^T. W and b are frozen: there is no dW and no db.

Inputs scaled, l (d_in,)
    (1)  z = x * l               each of the inputs by a number of its own
    (2)  y = z W + b             the pretrained map; its bias is not scaled

Backward
    (2)  A linear map: dz = dy W^T; no dW, no db.
    (1)  As above, one step earlier: dx = dz * l, and dl_i = sum_n dz_ni x_ni. So l needs the product dy W^T even where
         nobody wants dx; that of scaled outputs needs no matrix product at all.

Both are linear maps again, W' = W diag(l) with b' = b * l, or W' = diag(l) W with b' = b, so they are merged without
a sum, by one multiplication of each entry, and cost nothing afterwards. Let G = x^T dy, the gradient by which full
fine-tuning would change W'. Then
    dl_j = sum_i W_ij G_ij + b_j sum_n dy_nj    and    dl_i = sum_j W_ij G_ij :
of the d_in d_out numbers in G, l sees one for each column of W, or for each row: that of G along the column itself.

An l of 0 switches its feature off, and nothing divides by it: its own gradient does not vanish for that, so it may
come back (of two zeros in series neither does). There is no way back from a merged 0, nor a need for one: the model
before is still there (PEFT's `unmerge` divides by l + 1e-8). Mind weight decay: it draws l to 0 and not to 1, so that
it fades the *pretrained* features out; leave it at 0 for this method.

>>> import lora_np as lnp
>>> base = lnp.load_pretrained("digits")
>>> model = lnp.inject(base, lnp.IA3Config(target_modules=["key", "value", "output.dense"]))
>>> lnp.count_parameters(model)
ParameterCount(total=137418, trainable=1280)
>>> model.layer[0].attention.key.l.shape, model.layer[0].mlp.down.l.shape  # outputs, inputs
((1, 64), (128, 1))

Source: Liu et al. 2022, arXiv:2205.05638, section 3.3 ("(IA)^3"): l_k, l_v on keys and values, l_ff inside the MLP. T5,
which they adapt, has no biases; with them, this is what PEFT computes.
"""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import Method, register
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import locked
from lora_np.ops import linear_forward
from lora_np.ops.fit import fit


class ScaledOutputCache(NamedTuple):
    h: np.ndarray  # (N, d_out)  the output before it is scaled
    W: np.ndarray  # (d_in, d_out)
    l: np.ndarray  # (d_out,)


def scaled_output_forward(x, W, b, l):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, l (d_out,).

    Raises
    ------
    ValueError
        If the sizes do not fit.
    """
    fit("scaled_output", "x (N, d_in), W (d_in, d_out), l (d_out,)", x, W, l)
    h, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    y = h * l  # (N, d_out)  (2)
    return y, ScaledOutputCache(h, W, l)


def scaled_output_backward(dy, cache, needs=("x", "l")):
    """Return dx (N, d_in), dl (d_out,); None for those that `needs` does not name. There is no dW and no db."""
    h, W, l = cache
    fit("scaled_output_backward", "dy (N, d_out), h (N, d_out)", dy, h)
    dx = dl = None
    if "l" in needs:
        dl = (dy * h).sum(axis=0)  # (d_out,)  (2)
    if "x" in needs:
        dh = dy * l  # (N, d_out)
        dx = dh @ W.T  # (N, d_in)  (1)
    return dx, dl


class ScaledInputCache(NamedTuple):
    x: np.ndarray  # (N, d_in)
    W: np.ndarray  # (d_in, d_out)
    l: np.ndarray  # (d_in,)


def scaled_input_forward(x, W, b, l):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, l (d_in,).

    Raises
    ------
    ValueError
        If the sizes do not fit.
    """
    fit("scaled_input", "x (N, d_in), W (d_in, d_out), l (d_in,)", x, W, l)
    z = x * l  # (N, d_in)  (1)
    y, _ = linear_forward(z, W, b)  # (N, d_out)  (2)
    return y, ScaledInputCache(x, W, l)


def scaled_input_backward(dy, cache, needs=("x", "l")):
    """Return dx (N, d_in), dl (d_in,); None for those that `needs` does not name. There is no dW and no db."""
    x, W, l = cache
    fit("scaled_input_backward", "dy (N, d_out), x (N, d_in), W (d_in, d_out)", dy, x, W)
    dx = dl = dz = None
    if needs:
        dz = dy @ W.T  # (N, d_in)  (2)
    if "l" in needs:
        dl = (dz * x).sum(axis=0)  # (d_in,)  (1)
    if "x" in needs:
        dx = dz * l  # (N, d_in)
    return dx, dl


@dataclass(frozen=True, kw_only=True)
class IA3Config(PeftOptions):
    """What to scale; names, meanings and defaults are PEFT's, whose other options may stand at their defaults.

    Parameters
    ----------
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        What is adapted, and trained beside: see `PeftOptions`. Without targets it is key, value and output.dense
        (GPT-2: c_attn and mlp.c_proj). Of a BERT or ViT the last means two maps, attention.output.dense, too, which
        the paper leaves out: exclude_modules does so here. (PEFT's `IA3Config` has no layers_to_transform.)
    feedforward_modules : list of str, str or None
        Those of them whose input is scaled, not the output: ends of their Hugging Face names (also within a word), or a
        regular expression for the whole name. None: output.dense and mlp.c_proj; []: none of them.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    feedforward_modules: Sequence[str] | set[str] | str | None = None
    peft_type: InitVar[str] = "IA3"
    init_ia3_weights: InitVar[bool] = True  # PEFT's False starts from random numbers, so not from the base

    TARGETS = {
        "bert": ("key", "value", "output.dense"),
        "roberta": ("key", "value", "output.dense"),
        "gpt2": ("c_attn", "mlp.c_proj"),
        "vit": ("key", "value", "output.dense"),  # of which PEFT has no default
    }
    PARTS = {"feedforward_modules": ("output.dense", "mlp.c_proj")}
    FIELDS = {"init_ia3_weights": (lambda value: value is None or isinstance(value, bool), "true or false")}


@dataclass
class IA3Linear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    l: np.ndarray  # (1, d_out) or (d_in, 1)  so that W * l is the map in one, and l.T what PEFT's files hold
    feedforward: bool  # whether the input is scaled
    hf: str = ""
    trainable: tuple[str, ...] = ("l",)
    FROZEN = ("W", "b")

    def forward(self, x, rng=None):
        forward = scaled_input_forward if self.feedforward else scaled_output_forward
        return forward(x, self.W, self.b, self.l.reshape(-1))

    def backward(self, dy, cache, needs_dx=True):
        backward = scaled_input_backward if self.feedforward else scaled_output_backward
        dx, dl = backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(l=None if dl is None else dl.reshape(self.l.shape))


def shapes(d_in, d_out, config):
    return {"l": (d_in, 1) if config.feedforward_modules else (1, d_out)}  # as many numbers as there are features


def start(path, node, config, rng):
    return {name: np.ones(shape, node.W.dtype) for name, shape in shapes(*node.W.shape, config).items()}


def scale(node, config, arrays):
    """Return the IA3Linear for a Linear: its own W and b, with l beside them."""
    return IA3Linear(node.W, node.b, arrays["l"], bool(config.feedforward_modules), node.hf)


def differs(node, config):
    words = ("a scaled output", "a scaled input")
    return "" if node.feedforward == bool(config.feedforward_modules) else words[node.feedforward]


def dense(node):
    """Return the Linear with W * l, and b * l where the output is scaled; each entry is rounded once."""
    scaled = node.b is not None and not node.feedforward
    return Linear(locked(node.W * node.l), locked(node.b * node.l[0]) if scaled else node.b, node.hf)


IA3 = Method(
    name="IA3",
    config=IA3Config,
    node=IA3Linear,
    shapes=shapes,
    start=start,
    wrap=scale,
    differs=differs,
    dense=dense,
    tensors={"l": ("ia3_l", True)},
)
register(IA3)
