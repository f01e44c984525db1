"""The training loop, a step at a time.

Whatever is random is a function of the seed and the step: no generator lives across steps. So a run that was
interrupted and resumed equals an unbroken one to the bit.
"""

import math
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from lora_np.adapt.methods import after_step
from lora_np.model.tree import parameters
from lora_np.ops.fit import number
from lora_np.train.backends.threads import cores, worker_pool
from lora_np.train.losses import as_rows, loss_of
from lora_np.train.optimisers import AdamW, NonFiniteLoss
from lora_np.train.purposes import Purpose
from lora_np.train.schedules import linear_schedule
from lora_np.train.step import loss_and_gradients

# Batches: neighbours in length, and yet other ones in each epoch. Hugging Face's Trainer has it so.
SORTED_TOGETHER = 50
RANGES = {  # of the numbers of a plan
    "lr": (lambda x: 0.0 < x < math.inf, "a positive number"),
    "weight_decay": (lambda x: 0.0 <= x < math.inf, "a number of at least 0"),
    "warmup": (lambda x: 0.0 <= x <= 1.0, "a share of the steps, 0 to 1"),
    "label_smoothing": (lambda x: 0.0 <= x < 1.0, "a share in 0 <= e < 1"),
}


@dataclass(frozen=True)
class Plan:
    """The numbers that decide a training run.

    `lr_factors` are those of `AdamW`: the rate of the schedule is multiplied by them.
    `shares` and `max_tokens` are those of `step.loss_and_gradients`. With `group_by_length` the sequences of a
    batch have neighbouring lengths; the order of the batches is random all the same.

    Raises
    ------
    ValueError
        If one of them has no meaning.
    """

    lr: float
    epochs: int
    batch_size: int
    seed: int = 0
    weight_decay: float = 0.01
    warmup: float = 0.06
    label_smoothing: float = 0.0
    shares: int = 1
    max_tokens: int | None = None
    group_by_length: bool = False
    lr_factors: dict = field(default_factory=dict)

    WHOLE = {"epochs": 1, "batch_size": 1, "shares": 1, "max_tokens": 1, "seed": 0}  # the least of each integer

    def __post_init__(self):
        for name, least in self.WHOLE.items():
            value = getattr(self, name)
            if name == "max_tokens" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                expected = "a positive integer" if least else "an integer of at least 0"
                raise ValueError(f"{name} must be {expected}, but it is {value!r}.")
            object.__setattr__(self, name, int(value))  # a plain number, which a file can hold
        for name, (fits, expected) in RANGES.items():
            value = number(name, getattr(self, name))
            if not fits(value):
                raise ValueError(f"{name} must be {expected}, but it is {value!r}.")
            object.__setattr__(self, name, value)
        if not isinstance(self.group_by_length, bool):
            raise ValueError(f"group_by_length must be True or False, but it is {self.group_by_length!r}.")


@dataclass(frozen=True)
class Step:
    number: int  # 1, 2, ... of the whole run
    loss: float
    lr: float
    items: int  # sequences in the batch
    tokens: int
    ends_epoch: bool


class Training:
    """A run in progress: a model's trainable arrays, their optimiser, and how far it is.

    Parameters
    ----------
    model : Transformer
        What the loss needs, and something to train; its trainable arrays are changed in place.
    sequences : list of arrays
        The training set, one entry an example.
    labels : array, list of arrays, or None
        What the loss takes, one entry an example.
    plan : Plan
    augment : callable, optional
        `augment(rows, rng)` returns the sequences of a batch in place of `[sequences[row] for row in rows]`.
    loss : Classification or another of `losses`, optional
        Without it, that of the model's head (`losses.loss_of`), with the plan's label smoothing. A GPT-2 with its own
        output takes `NextToken()`.
    precondition : callable, optional
        `precondition(model, gradients)` returns what the optimiser takes in the gradients' place, such as
        `lora_fa.projected`.

    Raises
    ------
    ValueError
        If the model has nothing to train, or the loss cannot be had of it, the sequences and the labels.
    """

    def __init__(self, model, sequences, labels, plan, augment=None, loss=None, precondition=None):
        self.model, self.sequences, self.plan = model, sequences, plan
        self.labels = as_rows(labels)
        self.loss = loss or loss_of(model, self.labels, plan.label_smoothing)
        self.loss.check(model, sequences, labels)
        self.precondition = precondition or (lambda _, gradients: gradients)
        self.lengths = np.array([len(sequence) for sequence in sequences])
        self.augment = augment or (lambda rows, _: [sequences[row] for row in rows])
        self.optimiser = AdamW(
            parameters(model, trainable_only=True),
            lr=plan.lr,
            weight_decay=plan.weight_decay,
            lr_factors=plan.lr_factors,
        )
        self.steps_per_epoch = math.ceil(len(sequences) / plan.batch_size)
        self.total = plan.epochs * self.steps_per_epoch
        self.done = 0  # steps

    def rows(self, step):
        """Return which examples make the batch of step 0, 1, ...: each epoch goes once through a new order."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rng, size = np.random.default_rng([self.plan.seed, Purpose.ORDER, epoch]), self.plan.batch_size
        order = rng.permutation(len(self.sequences))
        if self.plan.group_by_length:
            order = by_length(order, self.lengths, size * SORTED_TOGETHER)
            place = rng.permutation(self.steps_per_epoch)[place]
        return order[place * size : (place + 1) * size]

    def batch(self, step):
        """Return the sequences of step 0, 1, ..., augmented."""
        return self.augment(self.rows(step), np.random.default_rng([self.plan.seed, Purpose.AUGMENT, step]))

    def steps(self, workers=None):
        """Yield a Step after each step that was taken, from where the run stands to its end; between two, the run can
        be saved or left.

        Parameters
        ----------
        workers : int, optional
            Threads that compute the shares, all cores without it: no bit depends on them.

        Raises
        ------
        NonFiniteLoss
            Before the step is taken.
        """
        plan = self.plan
        with worker_pool(min(plan.shares, workers or cores())) as run:
            while self.done < self.total:
                sequences = self.batch(self.done)
                labels = self.labels if self.labels is None else self.labels[self.rows(self.done)]
                key = (plan.seed, Purpose.DROPOUT, self.done)
                loss, grads = loss_and_gradients(
                    self.model, sequences, labels, key, plan.shares, run, self.loss, plan.max_tokens
                )
                if not math.isfinite(loss):
                    raise NonFiniteLoss(
                        f"the loss is not finite at step {self.done + 1} (loss {loss}); try a lower learning rate than"
                        f" {plan.lr}."
                    )
                self.optimiser.lr = lr = linear_schedule(self.done, self.total, plan.lr, plan.warmup)
                self.optimiser.step(self.precondition(self.model, grads))
                after_step(self.model, self.done, grads)
                self.done += 1
                ends_epoch = self.done % self.steps_per_epoch == 0
                yield Step(self.done, loss, lr, len(sequences), sum(map(len, sequences)), ends_epoch)


def by_length(order, lengths, size):
    """Return an order in which each stretch of `size` is sorted by length."""
    stretches = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([stretch[np.argsort(lengths[stretch], kind="stable")] for stretch in stretches])
