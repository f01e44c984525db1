"""LoRA on a model: which linear nodes get a low-rank detour, and how the detour is merged away again.

`inject` replaces a frozen `Linear` by a `LoRALinear` that holds the same W and b (the same memory) and two small
trained matrices A and B. `merge` replaces it by a `Linear` with W + scale * A B. Both return a new model; the old one
is still there, untouched. The mathematics of one node is in `ops/lora_linear.py`.

Sources: Hu et al. 2021, arXiv:2106.09685 (LoRA); Kalajdzievski 2023, arXiv:2312.03732 (scale by sqrt(r)). Names,
defaults and matching rules are those of PEFT's `LoraConfig`, so that configurations can be exchanged.
"""

import dataclasses
import math
import re
import sys
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np

from lora_np.adapt.peft_options import NOTES, OPTIONS, PeftOptions, check_neutral
from lora_np.model import architectures
from lora_np.model.heads import TiedHead
from lora_np.model.names import by_pattern, hf_names, is_named, select, select_linear
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import is_node, locked, rebuild, unfreeze, walk
from lora_np.ops import dropout_mask, lora_linear_backward, lora_linear_forward

TASKS = (None, "SEQ_CLS", "CAUSAL_LM", "FEATURE_EXTRACTION")
HEADS = ("classifier", "score")  # what PEFT looks for when task_type="SEQ_CLS" asks for the head to be trained too


@dataclass(frozen=True)
class LoRAConfig(PeftOptions):
    """What to adapt, and how; names, meanings and defaults are PEFT's, whose other options may stand at their defaults.

    Parameters
    ----------
    r : int
        Rank of the update.
    lora_alpha : float
        The update is scaled by lora_alpha / r.
    target_modules : list of str, str or None
        A list: names or the ends of names of linear nodes, Hugging Face's (`attention.self.query`; of a ViT the old
        and the new ones) or ours (`attention.query`). One string: a regular expression for the whole Hugging Face
        name; or "all-linear": all but the head. None: query and value (GPT-2: c_attn).
    exclude_modules : list of str, str or None
        What to leave out of that, by the same rules.
    lora_dropout : float
        Probability of dropout on the detour's input.
    use_rslora : bool
        Scale by lora_alpha / sqrt(r) instead.
    modules_to_save : list of str or None
        Nodes to train whole and to save with the adapter, such as ["classifier"].
    layers_to_transform : int, list of int or None
        Adapt only these layers (with a list of targets).
    rank_pattern, alpha_pattern : dict
        Name, or regular expression for the end of a name -> r or lora_alpha of those nodes.
    task_type : str or None
        "SEQ_CLS" trains and saves the classifier too.

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    r: int = 8
    lora_alpha: float = 8
    target_modules: object = None
    exclude_modules: object = None
    lora_dropout: float = 0.0
    use_rslora: bool = False
    modules_to_save: object = None
    layers_to_transform: object = None
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)
    task_type: str = None

    def __post_init__(self, *peft):
        check_neutral(dict(zip(OPTIONS, peft)), NOTES)
        for option in ("target_modules", "exclude_modules", "modules_to_save"):
            check_names(option, getattr(self, option), may_be_pattern=option != "modules_to_save")
        check_number("r", self.r, whole=True)
        check_number("lora_alpha", self.lora_alpha)
        for option, whole in (("rank_pattern", True), ("alpha_pattern", False)):
            check_patterns(option, getattr(self, option), whole)
        if not isinstance(self.lora_dropout, Real) or not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"lora_dropout must lie in 0 <= p < 1, but it is {self.lora_dropout!r}.")
        if not isinstance(self.use_rslora, (bool, np.bool_)):
            raise ValueError(f"use_rslora must be True or False, but it is {self.use_rslora!r}.")
        if self.task_type not in TASKS:
            raise ValueError(f"task_type must be one of {', '.join(map(repr, TASKS))}, but it is {self.task_type!r}.")
        layers = self.layers_to_transform
        layers = layers if isinstance(layers, (list, tuple)) else [] if layers is None else [layers]
        if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in layers):
            raise ValueError(f"layers_to_transform must be a layer's number or a list of them, but it is {layers!r}.")
        if layers and isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            raise ValueError("layers_to_transform goes with a list of names; a regular expression names layers itself.")
        self.hold(layers_to_transform=[int(layer) for layer in layers] or None)

    def hold(self, **given):
        """Keep numbers and texts as plain Python has them, which a file can hold: NumPy's and PEFT's are converted."""
        for option in ("r", "lora_alpha", "lora_dropout", "use_rslora"):
            given[option] = plain(getattr(self, option))
        for option in ("rank_pattern", "alpha_pattern"):
            given[option] = {key: plain(value) for key, value in getattr(self, option).items()}
        given["task_type"] = self.task_type and str(getattr(self.task_type, "value", self.task_type))
        for option, value in given.items():
            object.__setattr__(self, option, value)  # the dataclass is frozen for everybody else


def check_names(option, value, may_be_pattern=True):
    """Raise unless the value of an option is None, a list of names, or a regular expression that compiles."""
    if may_be_pattern and isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{option}: {value!r} is no regular expression ({error}); list names instead.") from error
    elif value is not None and not (isinstance(value, (list, tuple, set)) and all(isinstance(n, str) for n in value)):
        pattern = ", a regular expression" if may_be_pattern else ""
        raise ValueError(f"{option} must be a list of names{pattern} or None, but it is {value!r}.")


def check_number(option, value, whole=False):
    kind, expected = (Integral, "a positive integer") if whole else (Real, "a positive number")
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < plain(value) <= sys.float_info.max:
        raise ValueError(f"{option} must be {expected}, but it is {value!r:.60}.")


def check_patterns(option, patterns, whole):
    if not isinstance(patterns, dict):
        raise ValueError(f"{option} must be a dict of name -> number, but it is {patterns!r}.")
    for key, value in patterns.items():
        check_names(f"the key {key!r} of {option}", key)
        check_number(f"{option}[{key!r}]", value, whole)


def plain(number):
    return number.item() if isinstance(number, np.generic) else number


def lora_scale(r, lora_alpha, use_rslora):
    """Return what multiplies the update: defined here alone (a Python float, so that no dtype is widened)."""
    return float(lora_alpha) / (math.sqrt(r) if use_rslora else r)


def lora_init(d_in, d_out, r, rng, dtype):
    """Return A (d_in, r), drawn from U(-1/sqrt(d_in), 1/sqrt(d_in)) as PEFT does, and B (r, d_out), zero.

    So the first step starts from the base model: A B = 0. Were both zero, neither would have a gradient.
    """
    bound = 1.0 / math.sqrt(d_in)
    return rng.uniform(-bound, bound, (d_in, r)).astype(dtype), np.zeros((r, d_out), dtype)


@dataclass
class LoRALinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # (d_in, r)
    B: np.ndarray  # (r, d_out)
    scale: float
    dropout: float = 0.0  # of the detour's input
    hf: str = ""
    trainable: tuple[str, ...] = ("A", "B")
    FROZEN = ("W", "b")  # never trained: there is no dW and no db

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        return lora_linear_forward(x, self.W, self.b, self.A, self.B, self.scale, mask)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB = lora_linear_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A=dA, B=dB)


def is_adapted(model):
    """Return whether some node of a model has a detour."""
    return any(isinstance(node, LoRALinear) for _, node in walk(model))


def check_plain(model):
    if is_adapted(model):
        raise ValueError("this model has a LoRA adapter already; merge it first, or adapt the model without it.")


def inject(model, config, rng):
    """Return a new model with a LoRA detour beside each targeted linear node; at first it computes what `model`
    computes, to the bit.

    Parameters
    ----------
    model : Transformer
        Its arrays are shared, not copied. Must have no adapter yet.
    config : LoRAConfig
    rng : numpy.random.Generator
        Draws A from U(-1/sqrt(d_in), 1/sqrt(d_in)), as PEFT does; B starts at zero.

    Raises
    ------
    ValueError
        If the model has an adapter, a name matches nothing (the nearest names are listed), or r exceeds a matrix.
    """
    if not isinstance(config, LoRAConfig) or not hasattr(model, "adapter"):
        raise ValueError(
            f"inject takes a model and a LoRAConfig, in this order, but was given {model!r:.60} and {config!r:.60}."
        )
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"inject needs a generator for A, numpy.random.default_rng(seed), but it was given {rng!r}.")
    check_plain(model)
    check_untied(model, config.modules_to_save)
    targets = targets_of(model, config)
    for key in (*config.rank_pattern, *config.alpha_pattern):
        if not any(by_pattern({key: True}, names, False) for names in targets.values()):
            raise ValueError(f"rank_pattern or alpha_pattern: {key!r} matches none of the adapted nodes.")

    return adapt(model, config, targets, lambda path, node: add_detour(path, node, targets[path], config, rng))


def adapt(model, config, targets, detour):
    """Return a new model with `detour(path, node)` in place of each node of `targets`; what the configuration names to
    be trained whole is unfrozen."""

    def change(path, node):
        if path in targets and node.trainable:
            raise ValueError(
                f"{path} is trained itself ({', '.join(node.trainable)}), and LoRA is for frozen weights; do not"
                " unfreeze what you adapt."
            )
        return detour(path, node) if path in targets else node

    saved = trained_whole(model, config)
    adapted = dataclasses.replace(rebuild(model, change), adapter=config)
    return unfreeze(adapted, saved) if saved else adapted


def add_detour(path, node, names, config, rng):
    """Return the LoRALinear for a Linear; by its full Hugging Face `names` the patterns choose r and lora_alpha."""
    d_in, d_out = node.W.shape
    r = by_pattern(config.rank_pattern, names, config.r)
    if r > min(d_in, d_out):
        raise ValueError(
            f"r = {r} is more than the rank that {path} ({d_in} x {d_out}) can have; choose r <= {min(d_in, d_out)}."
        )
    A, B = lora_init(d_in, d_out, r, rng, node.W.dtype)
    return LoRALinear(node.W, node.b, A, B, scale_of(config, names, r), config.lora_dropout, node.hf)


def scale_of(config, names, r):
    return lora_scale(r, by_pattern(config.alpha_pattern, names, config.lora_alpha), config.use_rslora)


def targets_of(model, config):
    """Return {path: full Hugging Face names} of the linear nodes that a configuration adapts, in order."""
    targets = config.target_modules
    if targets is None:
        targets = list(architectures.of(model.config).targets)
    whole = trained_whole(model, config)
    return select_linear(model, targets, config.exclude_modules, config.layers_to_transform, whole)


def trained_whole(model, config):
    """Return the paths of the nodes that modules_to_save and task_type ask to train whole."""
    known = ((path, node) for path, node in walk(model) if getattr(node, "hf", "") or path == "head.classifier")
    # A node that files have no name for is none; a name may also be that of a module around it.
    nodes = {path: around(hf_names(model, path, node)) for path, node in known}
    paths = select(config.modules_to_save or [], nodes, "modules_to_save")
    if config.task_type == "SEQ_CLS":
        if "head.classifier" not in nodes:
            raise ValueError('task_type="SEQ_CLS" trains the classifier, but the model has none; add one by with_head.')
        paths.append("head.classifier")
    return list(dict.fromkeys(paths))


def around(names):
    """Return names, and those of all modules that they lie in."""
    return tuple(dict.fromkeys(name.rsplit(".", k)[0] for name in names for k in range(name.count(".") + 1)))


def check_untied(model, names):
    """Raise if modules_to_save names GPT-2's table of words, which is its output, too."""
    table = hf_names(model, "embeddings.word", model.embeddings.word) if isinstance(model.head, TiedHead) else ()
    if any(is_named([name], "embeddings.word", table) for name in names or ()) and table:
        raise ValueError(
            f"modules_to_save = {names!r} names GPT-2's table of words (wte), which is its output, too: PEFT would"
            " train a copy of it and leave the output as it was, here it is one; adapt linear nodes, or unfreeze the"
            " table and save the whole model."
        )


def merge(model):
    """Return a new, wholly frozen model in which each detour is added into its weight, W + scale * A B; everything
    else is shared.

    The sum is taken in float64 and rounded once.

    Parameters
    ----------
    model : Transformer
        With an adapter. It is still there afterwards, untouched.

    Returns
    -------
    Transformer
        Its outputs are those of `model` but for rounding.

    Raises
    ------
    ValueError
        If there is no adapter to merge: merging twice would do nothing the second time, and hides a mistake.
    """
    if not is_adapted(model):
        raise ValueError("this model has no LoRA adapter to merge; it is a plain model, or was merged already.")

    def change(_, node):
        if isinstance(node, LoRALinear):
            W = node.W + node.scale * (node.A.astype(np.float64) @ node.B)
            return Linear(locked(W.astype(node.W.dtype)), node.b, node.hf)
        mine = {name: locked(getattr(node, name).copy()) for name in node.trainable}
        return dataclasses.replace(node, trainable=(), **mine) if mine else node

    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    return dataclasses.replace(rebuild(model, change), adapter=None, aside=aside)
