"""A model that runs on the learner's functions: `assemble` puts them into its nodes, and says whose each one is."""

import contextlib
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np

import lora_np
from lora_np import ops
from lora_np.course.compared import BACKWARD, FORWARD, LOSS, Comparison, recorded, stages
from lora_np.course.draws import drawn
from lora_np.course.exercise import Trial, all_exercises, find
from lora_np.course.judging import is_right
from lora_np.course.kept import kept, unreadable
from lora_np.course.yours import CROSS_ENTROPY, LIBRARY, Operation, fields_of, place_of, plain
from lora_np.formats.pretrained import load_pretrained
from lora_np.model.batch import Batch
from lora_np.model.heads import ClassifierHead
from lora_np.model.transformer import Transformer
from lora_np.model.tree import astype, rebuild, unfreeze, walk
from lora_np.train import optimisers

YOURS, MISSING = "yours", "the library's: no right answer yet"
WRONG = "the library's: yours is not right; its check says why"
BROKEN = "the library's: your text in my_answers.py does not run"
TRAINING = ("lora_init", "inject", "adamw_step", "train", "merge")  # what an adapter needs beside


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
        rows = [f"  {name:26}{said}" for name, said in self.whose.items()]
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
