"""AdaLoRA: LoRA's update as a singular value decomposition, whose least important singular values are set to zero while
it is trained, over the whole model at once: maps that need little rank give it to those that need more.

    y = x W + b + scale * ((x A) * E) B,      A (d_in, r),  E (1, r),  B (r, d_out),  scale = lora_alpha / init_r

Triplet k is column k of A, number k of E and row k of B: a direction of the inputs, a singular value and a direction of
the outputs. Where E_k = 0 it adds nothing.

Forward
    (1)  y0 = x W + b              the pretrained map; W and b are frozen
    (2)  z = x * mask              dropout on the detour's input only
    (3)  u = z A                   what each row has along the r directions of the inputs
    (4)  v = u * E                 each by its singular value
    (5)  y = y0 + scale * v B      put along the r directions of the outputs, and added

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (5)  A linear map: dB = scale * v^T dy, dv = scale * dy B^T. y0 receives dy unchanged.
    (4)  The one E_k serves all N rows: dE_k = sum_n dv_nk u_nk, and du = dv * E.
    (3)  A linear map: dA = z^T du, dz = du A^T.
    (2)  dx receives dz * mask from the detour.
    (1)  dx receives dy W^T from the pretrained map; the two add. There is no dW and no db.

At the start E = 0 and A, B are drawn from N(0, 0.02^2): the base's bits, and only E has a gradient.

The penalty. E holds singular values only if A's columns and B's rows are orthonormal. The loss has beside it

    orth_reg_weight * the mean, over all A and B of the model, of n = |X^T X - I|,   X = A or B^T,   |M|^2 = sum M_ij^2

    (6)  G = X^T X - I             how far the r columns are from orthonormal
    (7)  n = |G|
    (7)  n moves by G_ij / n for G_ij: dG = dn G / n. Where n = 0, at its least, the gradient is taken as 0.
    (6)  X^T X is symmetric, and X stands in it twice: dX = X (dG + dG^T) = 2 X dG.

(The paper has n^2, whose gradient is 2 n times that; PEFT and the paper's own code have n.) `penalty` returns it, and a
run adds it to its loss: to the value that is told, and to the gradients.

The budget. After each step of the optimiser each trained number p with gradient g has
    (8)   a sensitivity            s = |p g|          how much the loss changes, to first order, if p is set to zero
    (9)   smoothed                 I <- beta1 I + (1 - beta1) s
    (10)  an uncertainty           U <- beta2 U + (1 - beta2) |s - I|
    (11)  a score                  I U                high where p matters, or where one cannot tell yet
and a triplet the score of its E plus the means of those of its column of A and its row of B. The budget falls from
init_r triplets a map to target_r a map, with t from 0 at step `tinit` to 1 at step `total_step - tfinal`, as

    budget = target + (1 - t)^3 (init - target) ;

at each `deltaT`-th step between, the E of all triplets but the `budget` best of the *model* are set to zero. They go on
to be trained and may come back, until at step total_step - tfinal it is settled: from then on they stay zero. Steps
count from 0.

What a run has to remember between two steps, I, U and what was settled, is the state of a `RankAllocator`: it belongs
to the run, like Adam's moments, and its checkpoints hold it.

A file does not hold what is zero: `save_adapter` leaves out each triplet whose E is 0 (unless all are, at the start),
and `rank_pattern` says which of the init_r are left, as in PEFT, which reads and writes the same. (PEFT leaves out what
was masked last, also if it has come back since; here the file computes what the model does.) A model that is loaded has
the smaller matrices. Its scale is still that of init_r. To be exact it is lora_alpha / (init_r + 1e-5), as PEFT has it;
there, neither rank nor alpha is another for single maps.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> config = lnp.AdaLoraConfig(init_r=6, target_r=2, total_step=10, tfinal=2, target_modules="all-linear")
    >>> model = lnp.inject(lnp.load_pretrained("digits"), config, np.random.default_rng(0))
    >>> images = np.random.default_rng(1).random((8, 4, 16), dtype=np.float32)
    >>> from lora_np.train.loop import Plan, Training
    >>> training = Training(model, list(images), np.arange(8) % 10, Plan(lr=1e-2, epochs=10, batch_size=8))
    >>> ranks = [sum(ranks_of(model).values()) for _ in training.steps()]
    >>> ranks, len(ranks_of(model))  # 6 a map at first, 2 in the end, over all 24 maps
    ([144, 112, 88, 71, 60, 53, 49, 48, 48, 48], 24)

Source: Zhang et al. 2023, arXiv:2303.10512 (AdaLoRA): section 3.1 (the form and the penalty, equation 4), 3.2 (the
scores: equations 7 to 10), 3.3 (the budget, equation 12); PEFT 0.21, `tuners/adalora` (the norm, and at which steps).
"""

from dataclasses import KW_ONLY, InitVar, dataclass, replace
from typing import NamedTuple

import numpy as np

from lora_np.adapt.config import PeftOptions, are_by_name, is_positive
from lora_np.adapt.methods import BetweenSteps, Method, adapted_nodes, register
from lora_np.adapt.targets import hf_name, hf_names, to_peft
from lora_np.files import is_number, is_whole
from lora_np.model.nodes import Linear, gradients, needs
from lora_np.model.tree import is_node, join, locked, rebuild
from lora_np.ops import dropout_mask, linear_forward
from lora_np.ops.fit import fit, number

SPREAD = 0.02  # the deviation of A and B at the start
SUFFIX = ".lora_E"  # of the names in rank_pattern
STEPS = (lambda value: type(value) is int and value >= 0, "a number of steps, 0 or more")
PASSED_OVER = (lambda value: True, "anything")


class AdaLoRACache(NamedTuple):
    z: np.ndarray  # (N, d_in)  the input after dropout; None if A is frozen
    u: np.ndarray  # (N, r)
    v: np.ndarray  # (N, r)
    W: np.ndarray  # (d_in, d_out)
    A: np.ndarray  # (d_in, r)
    E: np.ndarray  # (1, r)
    B: np.ndarray  # (r, d_out)
    scale: float
    mask: np.ndarray  # (N, d_in)  or None


def adalora_forward(x, W, b, A, E, B, scale, mask=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), frozen W (d_in, d_out) and b (d_out,) or None, A (d_in, r),
    E (1, r), B (r, d_out).

    `scale` is a Python float; `mask` (N, d_in) is a dropout mask already divided by 1 - p, or None.

    Raises
    ------
    ValueError
        If the sizes do not fit (PEFT's lora_A, lora_E and lora_B are the transposes), or scale is no number.
    """
    spec = "x (N, d_in), W (d_in, d_out), b (d_out,) or None, A (d_in, r), E (1, r), B (r, d_out)"
    fit("adalora", f"{spec}, mask (N, d_in) or None", x, W, b, A, E, B, mask)
    scale = number("scale", scale)
    y0, _ = linear_forward(x, W, b)  # (N, d_out)  (1)
    z = x if mask is None else x * mask  # (N, d_in)  (2)
    u = z @ A  # (N, r)  (3)
    v = u * E  # (N, r)  (4)
    y = y0 + (scale * v) @ B  # (N, d_out)  (5)
    return y, AdaLoRACache(z, u, v, W, A, E, B, scale, mask)


def adalora_backward(dy, cache, needs=("x", "A", "E", "B")):
    """Return dx (N, d_in), dA (d_in, r), dE (1, r), dB (r, d_out); None for those that `needs` does not name.

    There is no dW and no db. `cache.z` may be None when "A" is not needed.
    """
    z, u, v, W, A, E, B, scale, mask = cache
    spec = "dy (N, d_out), v (N, r), W (d_in, d_out), z (N, d_in) or None, mask (N, d_in) or None"
    fit("adalora_backward", spec, dy, v, W, z, mask)
    dx = dA = dE = dB = None
    if "B" in needs:
        dB = scale * (v.T @ dy)  # (r, d_out)  (5)
    if "E" in needs or "A" in needs or "x" in needs:
        dv = scale * (dy @ B.T)  # (N, r)
    if "E" in needs:
        dE = (dv * u).sum(axis=0, keepdims=True)  # (1, r)  (4)
    if "A" in needs or "x" in needs:
        du = dv * E  # (N, r)
    if "A" in needs:
        dA = z.T @ du  # (d_in, r)  (3)
    if "x" in needs:
        dz = du @ A.T  # (N, d_in)
        dx = dz if mask is None else dz * mask  # (N, d_in)  (2)
        dx = dx + dy @ W.T  # (N, d_in)  (1)
    return dx, dA, dE, dB


class OrthogonalityCache(NamedTuple):
    X: np.ndarray  # (d, r)
    G: np.ndarray  # (r, r)
    n: np.ndarray  # ()


def orthogonality_forward(X):
    """Return how far the columns of X (d, r) are from orthonormal, n = |X^T X - I|, and the cache."""
    G = X.T @ X - np.eye(X.shape[1], dtype=X.dtype)  # (r, r)  (6)
    n = np.sqrt((G * G).sum())  # ()  (7)
    return n, OrthogonalityCache(X, G, n)


def orthogonality_backward(dn, cache):
    """Return dX (d, r), for a number dn."""
    X, G, n = cache
    dG = G * (dn / n) if n else 0 * G  # (r, r)  (7)
    return 2 * (X @ dG)  # (d, r)  (6)


def penalty(model):
    """Return what a run adds to its loss, a float, and the gradients of it by parameter."""
    nodes, weight = adapted_nodes(model), model.adapter.orth_reg_weight
    value, found = 0.0, {}
    if weight:
        for path, node in nodes.items():
            for name, X in (("A", node.A), ("B", node.B.T)):
                n, cache = orthogonality_forward(X)
                share = weight / (2 * len(nodes))
                value += share * float(n)
                if name in node.trainable:
                    dX = orthogonality_backward(share, cache)
                    found[join(path, name)] = dX if name == "A" else dX.T
    return value, found


class RankAllocator(BetweenSteps):
    """After each step of a run: observes all triplets, and sets to zero those that the budget has no room for."""

    def __init__(self, model):
        nodes = adapted_nodes(model)
        self.config, self.nodes = model.adapter, {path: node for path, node in nodes.items() if "E" in node.trainable}
        self.state = {f"kept/{path}": np.ones_like(node.E) for path, node in self.nodes.items()}  # or 0, once settled
        for path, node in self.nodes.items():
            for name in node.trainable:
                for kind in ("sensitivity", "uncertainty"):
                    self.state[f"{kind}/{join(path, name)}"] = np.zeros_like(getattr(node, name))

    def after_step(self, step, gradients):
        config, last = self.config, self.config.total_step - self.config.tfinal
        if step < last:
            self.observe(gradients)
        if step == last or (config.tinit < step < last and step % config.deltaT == 0):
            self.choose(self.budget(step))
        if step >= last:
            for path, node in self.nodes.items():
                node.E[self.state[f"kept/{path}"] == 0] = 0.0

    def observe(self, gradients):
        """Update what is known of each trained number."""
        beta1, beta2 = self.config.beta1, self.config.beta2
        for path, node in self.nodes.items():
            for key in (join(path, name) for name in node.trainable):
                smooth, unsure = self.state[f"sensitivity/{key}"], self.state[f"uncertainty/{key}"]
                s = abs(getattr(node, key.rpartition(".")[2]) * gradients[key])  # (8)
                smooth[...] = beta1 * smooth + (1 - beta1) * s  # (9)
                unsure[...] = beta2 * unsure + (1 - beta2) * abs(s - smooth)  # (10)

    def budget(self, step):
        """Return how many triplets the whole model may have."""
        config, maps = self.config, len(self.nodes)
        first, last = config.init_r * maps, config.target_r * maps
        left = 1 - (step - config.tinit) / (config.total_step - config.tfinal - config.tinit)
        return int((first - last) * left**3 + last)

    def scores(self, path):
        """Return the score of each triplet of a node, (r,)."""

        def of(name):  # (11)
            zero, key = np.zeros_like(getattr(self.nodes[path], name)), join(path, name)  # what is frozen has none
            return self.state.get(f"sensitivity/{key}", zero) * self.state.get(f"uncertainty/{key}", zero)

        return of("E")[0] + (of("A").mean(axis=0) + of("B").mean(axis=1))

    def choose(self, budget):
        """Set the E of all triplets to zero but of the best ones; as PEFT, of what is as bad as the worst, too."""
        scores = {path: self.scores(path) for path in self.nodes}
        ranked = np.sort(np.concatenate([*scores.values()])) if scores else ()
        if budget >= len(ranked):
            return
        worst = ranked[len(ranked) - budget - 1]
        for path, node in self.nodes.items():
            kept = self.state[f"kept/{path}"]
            kept[0] = scores[path] > worst
            node.E[kept == 0] = 0.0


@dataclass(frozen=True)
class AdaLoraConfig(PeftOptions):
    """What to adapt, and how; names, meanings and defaults are PEFT's, whose other options may stand at their defaults.

    Parameters
    ----------
    target_r : int
        Triplets a map in the end, on average.
    init_r : int
        Triplets of each map at the start. (PEFT passes over `r`.)
    tinit : int
        Steps before the budget begins to fall.
    tfinal : int
        Last steps of `total_step`, in which it is settled which triplets are left.
    deltaT : int
        The budget is kept at each deltaT-th step.
    beta1, beta2 : float
        How slowly sensitivities and their uncertainties are smoothed, between 0 and 1.
    orth_reg_weight : float
        Weight of the penalty.
    total_step : int
        Steps of the whole run; must be given.
    rank_pattern : dict or None
        What training has found, as a file has it: name + ".lora_E" -> for each of init_r triplets, whether it is left.
    lora_alpha : float
        The update is scaled by lora_alpha / init_r.
    lora_dropout : float
        Probability of dropout on the detour's input.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, task_type
        What is adapted, and trained beside: see `PeftOptions`. Without targets it is query and value (GPT-2: c_attn).

    Raises
    ------
    ValueError
        If an option has no meaning: the sentence says what was received and what was expected.
    """

    target_r: int = 8
    init_r: int = 12
    tinit: int = 0
    tfinal: int = 0
    deltaT: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orth_reg_weight: float = 0.5
    total_step: int | None = None
    rank_pattern: dict | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    _: KW_ONLY
    peft_type: InitVar[str] = "ADALORA"
    r: InitVar[int] = 8  # PEFT has these three and passes over them
    use_rslora: InitVar[bool] = False
    alpha_pattern: InitVar[object] = None

    TARGETS = {"roberta": ("query", "key", "value", "dense")}
    CONSTANTS = {"bias": "none"}
    FIELDS = {
        "target_r": (is_whole, "a positive integer"),
        "init_r": (is_whole, "a positive integer"),
        "tinit": STEPS,
        "tfinal": STEPS,
        "deltaT": (is_whole, "a positive integer"),
        "beta1": (lambda value: is_number(value) and 0 < value < 1, "a number between 0 and 1"),
        "beta2": (lambda value: is_number(value) and 0 < value < 1, "a number between 0 and 1"),
        "orth_reg_weight": (lambda value: is_number(value) and 0 <= value < 1e30, "a number of at least 0"),
        "total_step": (is_whole, "how many steps the run has, a positive integer"),
        "rank_pattern": (lambda value: are_by_name(value, is_mask), "a dict of lists of true and false by name"),
        "lora_alpha": (is_positive, "a positive number"),
        "lora_dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
        "r": PASSED_OVER,
        "use_rslora": PASSED_OVER,
        "alpha_pattern": PASSED_OVER,
    }

    def __post_init__(self, *peft):
        super().__post_init__(*peft)
        self.hold(rank_pattern={key: list(kept) for key, kept in (self.rank_pattern or {}).items()} or None)
        if self.tinit >= self.total_step - self.tfinal:
            raise ValueError(
                f"tinit = {self.tinit} and tfinal = {self.tfinal} leave no steps of total_step = {self.total_step} in"
                " which the budget could fall; choose smaller ones."
            )
        for key, kept in (self.rank_pattern or {}).items():
            if len(kept) != self.init_r:
                raise ValueError(
                    f"rank_pattern says of {key} {len(kept)} times what is left, but init_r = {self.init_r}."
                )

    def at(self, names):
        """Return the configuration of one node alone: a rank_pattern then has this node's list, and no other."""
        own = super().at(names)
        if not self.rank_pattern:
            return own
        ours = [f".{name}" for name in names]
        theirs = {
            f".{key.removesuffix(SUFFIX)}": kept for key, kept in self.rank_pattern.items()
        }  # with a prefix or not
        found = (kept for key, kept in theirs.items() if any(key.endswith(n) or n.endswith(key) for n in ours))
        return replace(own, rank_pattern={names[0] + SUFFIX: next(found, [True] * self.init_r)})

    def kept(self):
        """Return, in the configuration of one node alone, which of its init_r triplets are left."""
        return next(iter(self.rank_pattern.values())) if self.rank_pattern else [True] * self.init_r


def is_mask(value):
    return isinstance(value, (list, tuple)) and all(isinstance(kept, bool) for kept in value)


@dataclass
class AdaLoRALinear:
    W: np.ndarray  # (d_in, d_out)  frozen
    b: np.ndarray | None  # (d_out,) frozen
    A: np.ndarray  # (d_in, r)
    E: np.ndarray  # (1, r)
    B: np.ndarray  # (r, d_out)
    scale: float
    dropout: float = 0.0  # of the detour's input
    hf: str = ""
    trainable: tuple[str, ...] = ("A", "E", "B")
    FROZEN = ("W", "b")

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        y, cache = adalora_forward(x, self.W, self.b, self.A, self.E, self.B, self.scale, mask)
        return y, cache if "A" in self.trainable else cache._replace(z=None)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dE, dB = adalora_backward(dy, cache, needs(self, needs_dx))
        return dx, gradients(A=dA, E=dE, B=dB)


def shapes(d_in, d_out, config):
    r = sum(config.kept())  # r (d_in + 1 + d_out) numbers
    return {"A": (d_in, r), "E": (1, r), "B": (r, d_out)}


def start(path, node, config, rng):
    """Return {"A": ..., "E": ..., "B": ...} for a Linear at its start: the second is zero."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(
            f"inject needs a generator for A and B, numpy.random.default_rng(seed), but it was given {rng!r}."
        )
    if config.rank_pattern:
        raise ValueError(
            "rank_pattern is what a run has found, and load_adapter takes it from a file; inject starts with init_r"
            " triplets everywhere: leave rank_pattern out."
        )
    if config.target_r > config.init_r:
        raise ValueError(
            f"target_r = {config.target_r} is more than init_r = {config.init_r}, from which the budget falls to it."
        )
    d_in, d_out = node.W.shape
    if config.init_r > min(d_in, d_out):
        raise ValueError(
            f"init_r = {config.init_r} is more than the rank that {path} ({d_in} x {d_out}) can have; choose init_r <="
            f" {min(d_in, d_out)}."
        )
    drawn = {name: SPREAD * rng.standard_normal(shape) for name, shape in shapes(d_in, d_out, config).items()}
    return {name: (0 * array if name == "E" else array).astype(node.W.dtype) for name, array in drawn.items()}


def scale_of(config):
    return config.lora_alpha / (config.init_r + 1e-5)


def add_detour(node, config, arrays):
    """Return the AdaLoRALinear for a Linear: its own W and b, and beside them the triplets."""
    return AdaLoRALinear(node.W, node.b, **arrays, scale=scale_of(config), dropout=config.lora_dropout, hf=node.hf)


def differs(node, config):
    r, left = node.E.shape[1], sum(config.kept())
    return "" if (r, node.scale) == (left, scale_of(config)) else f"{r} triplets and the scale {node.scale:g}"


def dense(node):
    """Return the Linear with W + scale * A diag(E) B: the sum is taken in float64 and rounded once."""
    W = node.W + node.scale * ((node.A.astype(np.float64) * node.E) @ node.B)
    return Linear(locked(W.astype(node.W.dtype)), node.b, node.hf)


def ranks_of(model):
    """Return {path: how many of its singular values are not zero} of the adapted nodes."""
    return {path: int((node.E != 0).sum()) for path, node in adapted_nodes(model).items()}


def without_zeros(model):
    """Return a model that computes the same without the triplets whose E is 0, whose configuration says so; at its
    start, where all are, the model itself."""
    aside = {name: node for name, node in model.aside.items() if is_node(node)}
    nodes = {**adapted_nodes(model), **{name: node for name, node in aside.items() if isinstance(node, AdaLoRALinear)}}
    alive = {path: node.E[0] != 0 for path, node in nodes.items()}
    if not any(left.any() for left in alive.values()) or all(left.all() for left in alive.values()):
        return model

    def pattern_of(path, node):
        left = iter(alive[path].tolist())
        return [kept and next(left) for kept in model.adapter.at(hf_names(model, path, node)).kept()]

    def change(path, node):
        if path not in alive:
            return node
        left = alive[path]
        mine = {"A": node.A[:, left], "E": node.E[:, left], "B": node.B[left]}
        return replace(node, **{name: a if name in node.trainable else locked(a) for name, a in mine.items()})

    pattern = {to_peft(model, hf_name(model, path, n)) + SUFFIX: pattern_of(path, n) for path, n in nodes.items()}
    found = replace(rebuild(model, change), adapter=replace(model.adapter, rank_pattern=pattern))
    return replace(found, aside={name: change(name, node) for name, node in model.aside.items()})


ADALORA = Method(
    name="AdaLoRA",
    config=AdaLoraConfig,
    node=AdaLoRALinear,
    shapes=shapes,
    start=start,
    wrap=add_detour,
    differs=differs,
    dense=dense,
    tensors={"A": ("lora_A", True), "E": ("lora_E", True), "B": ("lora_B", True)},
    as_saved=without_zeros,
    penalty=penalty,
    between_steps=RankAllocator,
    adds=True,
)
register(ADALORA)
