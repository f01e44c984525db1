"""A model that runs on the learner's functions: `assemble` puts them into its nodes, and says whose each one is.

A node is replaced by one of the same kind with the same arrays, which calls an `Operation`: the learner's forward and
backward where they are right, the library's elsewhere. A pair counts as the learner's if the two are right *together*,
whatever lies in their cache. A forward alone gives the output, and the library's makes the cache; a backward alone gets
the library's cache. A learner's backward computes all gradients, and those of frozen arrays are dropped.
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from unittest import mock

import numpy as np

import lora_np
from lora_np import ops
from lora_np.adapt.lora import LoRALinear
from lora_np.course.draws import drawn
from lora_np.course.exercise import Trial, all_exercises, find
from lora_np.course.judging import is_right
from lora_np.course.kept import kept, unreadable
from lora_np.formats.pretrained import load_pretrained
from lora_np.model.attention import Attention
from lora_np.model.batch import Batch
from lora_np.model.blocks import PreNormBlock
from lora_np.model.heads import ClassifierHead
from lora_np.model.mlp import MLP
from lora_np.model.nodes import LayerNorm, Linear
from lora_np.model.transformer import Transformer
from lora_np.model.tree import astype, flatten, rebuild, unfreeze, walk
from lora_np.ops import dropout_mask
from lora_np.train import optimisers

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Operation:
    """A forward and its backward, as a node calls them.

    Attributes
    ----------
    library : tuple of two functions
        Its forward and backward.
    forward, backward : callable or None
        The learner's, where they are right.
    together : bool
        The learner's backward takes what the learner's forward keeps.
    """

    library: tuple
    forward: Callable | None = None
    backward: Callable | None = None
    together: bool = False

    def run(self, *arguments):
        """Return the output, and a cache for `back`."""
        if self.forward is None:
            return self.library[0](*arguments)
        y, cache = self.forward(*arguments)
        return y, (cache if self.together else self.library[0](*arguments)[1])

    def back(self, *arguments):
        return (self.backward or self.library[1])(*arguments)


def asked(node, needs_dx, dx, **gradients):
    """Return of a learner's gradients what a node's backward is asked for."""
    return (dx if needs_dx else None), {name: gradients[name] for name in node.trainable}


@dataclass
class YourLinear(Linear):
    operations: dict = field(default_factory=dict)

    def forward(self, x, rng=None):
        return self.operations["linear"].run(x, self.W, self.b)

    def backward(self, dy, cache, needs_dx=True):
        dx, dW, db = self.operations["linear"].back(dy, cache)
        return asked(self, needs_dx, dx, W=dW, b=db)


@dataclass
class YourLayerNorm(LayerNorm):
    operations: dict = field(default_factory=dict)

    def forward(self, x):
        return self.operations["layer_norm"].run(x, self.gamma, self.beta, self.eps)

    def backward(self, dy, cache, needs_dx=True):
        dx, dgamma, dbeta = self.operations["layer_norm"].back(dy, cache)
        return asked(self, needs_dx, dx, gamma=dgamma, beta=dbeta)


@dataclass
class YourLoRALinear(LoRALinear):
    operations: dict = field(default_factory=dict)

    def forward(self, x, rng=None):
        mask = dropout_mask(x.shape, self.dropout, rng, x.dtype)
        return self.operations["lora_linear"].run(x, self.W, self.b, self.A, self.B, self.scale, mask)

    def backward(self, dy, cache, needs_dx=True):
        dx, dA, dB = self.operations["lora_linear"].back(dy, cache)
        return asked(self, needs_dx, dx, A=dA, B=dB)


class OwnBackward:
    """A node of several parts whose backward is an exercise of its own, `BACKWARD`."""

    def backward(self, dy, cache, needs_dx=True):
        whole = self.operations[self.BACKWARD]
        if whole.backward is None:
            return super().backward(dy, cache, needs_dx)
        dx, grads = whole.backward(self, dy, cache)
        return (dx if needs_dx else None), grads


@dataclass
class YourMLP(OwnBackward, MLP):
    operations: dict = field(default_factory=dict)
    BACKWARD = "mlp"

    @property
    def bend(self):
        gelu = self.operations["gelu"]
        if self.operations["mlp"].backward is not None:  # which reads the library's cache
            gelu = replace(gelu, together=False)
        return gelu.run, gelu.back


@dataclass
class YourAttention(OwnBackward, Attention):
    operations: dict = field(default_factory=dict)
    BACKWARD = "attention_layer"

    @property
    def attend(self):
        attention = self.operations["attention"]
        return attention.run, lambda dO, cache, needs: attention.back(dO, cache)


@dataclass
class YourHead(ClassifierHead):
    operations: dict = field(default_factory=dict)
    pool = property(lambda self: (self.operations["pool_mean"].run, self.operations["pool_mean"].back))


@dataclass
class YourPreNormBlock(PreNormBlock):
    operations: dict = field(default_factory=dict)

    def forward(self, x, groups, rng=None):
        if rng is not None and drops(self):  # the exercises' blocks know no dropout
            return super().forward(x, groups, rng)
        y, cache = self.operations["block"].run(self, x, groups)
        return y, WithoutDropout(cache)

    def backward(self, dy, cache, needs_dx=True):
        if not isinstance(cache, WithoutDropout):
            return super().backward(dy, cache, needs_dx)
        dx, grads = self.operations["block"].back(self, dy, cache.kept)
        return (dx if needs_dx else None), grads


class WithoutDropout(NamedTuple):
    """What a forward has kept that drew no masks."""

    kept: object


def drops(node):
    return any(getattr(part, "dropout", 0) for _, part in walk(node))


KINDS = {  # of node: what takes its place, and its operations
    Linear: (YourLinear, "linear"),
    LayerNorm: (YourLayerNorm, "layer_norm"),
    LoRALinear: (YourLoRALinear, "lora_linear"),
    MLP: (YourMLP, "gelu", "mlp"),
    Attention: (YourAttention, "attention", "attention_layer"),
    PreNormBlock: (YourPreNormBlock, "block"),
    ClassifierHead: (YourHead, "pool_mean"),
}
LIBRARY = {
    "mlp": (MLP.forward, MLP.backward),
    "attention_layer": (Attention.forward, Attention.backward),
    "block": (PreNormBlock.forward, PreNormBlock.backward),
}
TRAINING = ("lora_init", "inject", "adamw_step", "train", "merge")  # what an adapter needs beside


def place_of(node):
    """Return (what takes a node's place, its operations ...), () for a node that no exercise asks for."""
    other = getattr(node, "activation", "gelu") != "gelu" or getattr(node, "pooling", "mean") != "mean"
    return () if other else next((KINDS[kind] for kind in KINDS if isinstance(node, kind)), ())


def assemble(model: Transformer | str = "digits", answers: dict[str, Callable] | None = None) -> "Assembled":
    """Put a learner's right answers into a model, in the place of the library's operations.

    Parameters
    ----------
    model : Transformer or str
        Any model, adapted or not, or what `lnp.load_pretrained` takes. It is not changed.
    answers : dict of str to callable, optional
        By exercise. Without it, those that `check` has found right: in this notebook, and in `my_answers.py` beside it.
        Each is checked again.

    Returns
    -------
    Assembled
        Printed, it says whose each operation is. `.model` is the model.

    Raises
    ------
    TypeError, ValueError
        If `model` is no model, or an answer no function of an exercise.
    """
    model = load_pretrained(model) if isinstance(model, str) else model
    if not isinstance(model, Transformer):
        raise TypeError(f"assemble takes a Transformer or the name of one, such as 'digits'; it was given {model!r}.")
    broken = set()
    if answers is None:
        broken = unreadable()
        answers = {name: function for name in all_exercises() if (function := kept(name)) is not None}
    for name, function in answers.items():
        find(name)
        if not callable(function):
            raise TypeError(f"answers[{name!r}] needs the function itself, but it is {function!r}.")
    names = {name for _, node in walk(model) for name in place_of(node)[1:]}
    loss = {"cross_entropy"} if isinstance(model.head, ClassifierHead) else set()
    used = [name for name in all_exercises() if name.rpartition("_")[0] in names | loss]
    used += [name for name in TRAINING if "lora_linear" in names]
    whose = dict.fromkeys(used, MISSING) | dict.fromkeys(broken & set(used), BROKEN)
    operations = {name: pair(name, answers, whose) for name in sorted(names | loss)}
    for name in set(TRAINING) & whose.keys() & answers.keys():
        whose[name] = YOURS if passes(name, answers[name]) else WRONG

    def change(_, node):
        kind, *own = place_of(node) or (type(node),)
        return kind(**fields_of(node), operations={name: operations[name] for name in own}) if own else node

    mine = {name: function for name, function in answers.items() if whose.get(name) == YOURS}
    return Assembled(rebuild(model, change), whose, mine, operations.get("cross_entropy", CROSS_ENTROPY))


def fields_of(node):
    """Return a node's fields, without the operations that another `assemble` has given it."""
    return {own.name: getattr(node, own.name) for own in dataclasses.fields(node) if own.name != "operations"}


def pair(name, answers, whose):
    """Return the Operation of a name, and note in `whose` whose its two functions are."""
    there, back = f"{name}_forward", f"{name}_backward"
    forward, backward = answers.get(there), answers.get(back)
    if forward is not None:
        whose[there] = YOURS if passes(there, forward) else WRONG
        forward = forward if whose[there] == YOURS else None
    together = False
    if backward is not None:
        together = forward is not None and passes(back, backward, forward)
        whose[back] = YOURS if together or passes(back, backward) else WRONG
        backward = backward if whose[back] == YOURS else None
    library = LIBRARY.get(name) or (getattr(ops, there), getattr(ops, back))
    return Operation(library, forward, backward, together)


YOURS, MISSING = "yours", "the library's: no right answer yet"
WRONG = "the library's: yours is not right; its check says why"
BROKEN = "the library's: your text in my_answers.py does not run"


@functools.cache
def passes(name, function, forward=None):
    """Is an answer right; a backward with what this forward keeps, if one is given?"""
    if name == "block_backward" and forward is not None:
        return blocks_fit(function, forward)
    return is_right(find(name), function, forward)


def blocks_fit(backward, forward):
    """Does a block's backward give the library's gradients, from what this forward keeps?"""
    exercise = find("block_forward")
    for number in range(exercise.trials):
        trial = Trial.of(exercise, number)
        block, x, groups = trial.arguments.values()
        block, dy = unfreeze(block, "all"), drawn(np.random.default_rng(number), trial.dtype, *x.shape)
        right = block.backward(dy, block.forward(x, groups)[1])
        try:
            given = backward(block, dy, forward(block, x, groups)[1])
            results = [dict(zip(("dx", "grads"), pair, strict=True)) for pair in (given, right)]
            if next(iter(find("block_backward").judge(*results, {})), None) is not None:
                return False
        except Exception:  # what one keeps, the other cannot read
            return False
    return True


@dataclass(repr=False)
class Assembled:
    """A model on a learner's functions.

    Attributes
    ----------
    model : Transformer
    whose : dict of str to str
        For each operation that the model runs: "yours", or "the library's" and why.
    answers : dict of str to callable
        The learner's, by exercise: those that are right.
    loss : Operation
        The cross entropy.
    """

    model: Transformer
    whose: dict
    answers: dict
    loss: Operation

    def __repr__(self):
        count = sum(said == YOURS for said in self.whose.values())
        rows = [f"  chapter {find(name).chapter}  {name:26}{said}" for name, said in self.whose.items()]
        return "\n".join([f"{count} of {len(self.whose)} operations are yours", *rows])

    def compare(self, batch: Batch, labels: np.ndarray | None = None) -> "Comparison":
        """Run it beside the library's model, in float64 and without dropout, and compare each stage.

        Parameters
        ----------
        batch : Batch
        labels : (S,) integers, optional
            With them the way back is compared too: from the gradient of the cross entropy at the logits, down to each
            trainable array.
        """
        if batch.content.dtype.kind == "f":
            batch = batch._replace(content=batch.content.astype(np.float64))
        mine, theirs = {}, {}
        own = recorded(astype(self.model, np.float64), mine)
        library = recorded(rebuild(astype(self.model, np.float64), plain), theirs)
        for model, log, loss in ((library, theirs, CROSS_ENTROPY), (own, mine, self.loss)):
            logits, cache = model.forward(batch)
            if labels is not None:
                log[LOSS, FORWARD] = value, kept = loss.run(logits, labels)
                log[LOSS, BACKWARD] = dlogits, _ = loss.back(1.0, kept), {}
                model.backward(dlogits, cache)
        return Comparison(tuple(stages(self, mine, theirs)))

    def train(self, batches: list, lr: float) -> list[float]:
        """Train the model in place by the learner's loop, whose AdamW and loss take the learner's functions.

        Parameters
        ----------
        batches : list of (Batch, labels)
        lr : float

        Returns
        -------
        list of float
            The losses.
        """
        loop = self.answers.get("train") or find("train").solution
        step = self.answers.get("adamw_step", optimisers.adamw_step)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(optimisers, "adamw_step", step))
            for home, name in itertools.product((lora_np, ops), ("cross_entropy_forward", "cross_entropy_backward")):
                function = self.loss.run if name.endswith(FORWARD) else self.loss.back
                stack.enter_context(mock.patch.object(home, name, function))
            return loop(self.model, batches, lr)


CROSS_ENTROPY = Operation((ops.cross_entropy_forward, ops.cross_entropy_backward))
LOSS = "the loss"


def plain(_, node):
    """Return the library's node in the place of one that runs a learner's operation."""
    kind = next((kind for kind, (yours, *_) in KINDS.items() if type(node) is yours), None)
    return kind(**fields_of(node)) if kind else node


def recorded(model, log):
    """Return a model that notes in `log` what each node's forward and backward return, by (path, direction)."""

    def change(path, node):
        kind = type(node)

        def forward(self, *arguments, **options):
            log[path, FORWARD] = kind.forward(self, *arguments, **options)
            return log[path, FORWARD]

        def backward(self, *arguments, **options):
            log[path, BACKWARD] = kind.backward(self, *arguments, **options)
            return log[path, BACKWARD]

        node = copy.copy(node)
        node.__class__ = type(kind.__name__, (kind,), {FORWARD: forward, BACKWARD: backward})
        return node

    return rebuild(model, change)


class Stage(NamedTuple):
    """What one node gave, one way.

    Attributes
    ----------
    name : str
        Of the node, such as "layer.0.norm1", or "the loss".
    way : str
        "forward" or "backward".
    operation : str
        The exercise whose answer it runs, "" where it runs none.
    error : float
        The largest difference from the library's, relative to the largest number of the stage; inf for another shape.
    """

    name: str
    way: str
    operation: str
    error: float

    @property
    def differs(self):
        return not self.error <= SAME


SAME = 1e-9


def stages(assembled, mine, theirs):
    """Yield the stages in the order in which the library comes through them."""
    operations = {path: place_of(node)[1:] for path, node in walk(assembled.model)} | {LOSS: ("cross_entropy",)}
    mine, theirs = ({key: arrays_of(key[1], result) for key, result in log.items()} for log in (mine, theirs))
    largest = max(np.max(np.abs(array)) for arrays in theirs.values() for array in arrays.values())
    for (path, way), wanted in theirs.items():
        exercises = [f"{name}_{way}" for name in operations[path]]
        run = next((name for name in exercises[::-1] if assembled.whose.get(name) == YOURS), "")
        given = mine.get((path, way), {})
        errors = [distance(given.get(name), array, largest) for name, array in wanted.items()]
        yield Stage(path or "the model", way, run, max(errors, default=0.0))


def distance(given, wanted, largest):
    """Return the largest difference relative to the largest number that is wanted, inf where there is another shape."""
    if np.shape(given) != np.shape(wanted):
        return np.inf
    size = max(np.max(np.abs(wanted), initial=0), 1e-6 * largest)  # a key's bias has a gradient of roundings alone
    return float(np.max(np.abs(given - wanted), initial=0) / size)


def arrays_of(way, result):
    """Return the arrays of what a node returned, by name: its output; or its dx, and the gradients below it."""
    if way == FORWARD:
        return {"output": result[0]}
    dx, grads = result if isinstance(result, tuple) else (None, result)
    return {**({} if dx is None else {"dx": dx}), **flatten(grads)}


class Comparison(NamedTuple):
    """A model on a learner's functions, and the library's, stage by stage; printed, the first that differs is named."""

    stages: tuple

    @property
    def first(self):
        """The first stage that differs, None if none does."""
        return next((stage for stage in self.stages if stage.differs), None)

    def __repr__(self):
        count, first = len(self.stages), self.first
        if first is None:
            largest = max(stage.error for stage in self.stages)
            said = f"the largest difference is {largest:.0e} of a stage's largest number" if largest else "to the bit"
            return f"all {count} stages agree; {said}"
        before = self.stages.index(first)
        by = f", by your {first.operation}" if first.operation else ""
        return (
            f"{before} of {count} stages agree; the first that differs is {first.name}, {first.way}{by}: by"
            f" {first.error:.1e} of its largest number"
        )
