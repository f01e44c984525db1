"""The training loop, a step at a time.

Whatever is random is a function of the seed and the step: no generator lives across steps. So a run that was
interrupted and resumed equals an unbroken one to the bit.
"""

import math
from dataclasses import dataclass

import numpy as np

from lora_np.model.tree import parameters
from lora_np.train.optimisers import AdamW
from lora_np.train.parallel import loss_and_gradients, worker_pool
from lora_np.train.schedules import linear_schedule

ORDER, DROPOUT, AUGMENT = 1, 2, 6  # purposes: the second number of a generator's seed
SORTED_TOGETHER = (
    50  # batches: neighbours in length, and yet other ones in each epoch; Hugging Face's Trainer has it so
)


@dataclass(frozen=True)
class Plan:
    """The numbers that decide a training run.

    `workers` and `max_tokens` are those of `parallel.loss_and_gradients`. With `group_by_length` the sequences of a
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
    workers: int = 1
    max_tokens: int = None
    group_by_length: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch_size", "workers", "max_tokens"):
            value = getattr(self, name)
            if (not isinstance(value, int) or value < 1) and not (name == "max_tokens" and value is None):
                raise ValueError(f"{name} must be a positive integer, but it is {value!r}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a positive number, but it is {self.lr!r}.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, but it is {self.seed!r}.")


@dataclass(frozen=True)
class Step:
    number: int  # 1, 2, ... of the whole run
    loss: float
    lr: float
    items: int  # sequences in the batch
    tokens: int
    ends_epoch: bool


class NonFiniteLoss(ValueError):
    """The loss or a gradient is NaN or infinite; the parameters are still those of the last good step."""


class Training:
    """A run in progress: a model's trainable arrays, their optimiser, and how far it is.

    Parameters
    ----------
    model : Transformer
        With a classifier and something to train; its trainable arrays are changed in place.
    sequences : list of arrays
        The training set, one entry an example.
    labels : array of int
    plan : Plan
    augment : callable, optional
        `augment(rows, rng)` returns the sequences of a batch in place of `[sequences[row] for row in rows]`.
    """

    def __init__(self, model, sequences, labels, plan, augment=None):
        self.model, self.sequences, self.labels, self.plan = model, sequences, np.asarray(labels), plan
        check_labels(self.labels, len(sequences), len(model.head.classifier.b))
        self.lengths = np.array([len(sequence) for sequence in sequences])
        self.augment = augment or (lambda rows, _: [sequences[row] for row in rows])
        self.optimiser = AdamW(parameters(model, trainable_only=True), lr=plan.lr, weight_decay=plan.weight_decay)
        self.steps_per_epoch = math.ceil(len(sequences) / plan.batch_size)
        self.total = plan.epochs * self.steps_per_epoch
        self.done = 0  # steps

    def rows(self, step):
        """Return which examples make the batch of step 0, 1, ...: each epoch goes once through a new order."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rng, size = np.random.default_rng([self.plan.seed, ORDER, epoch]), self.plan.batch_size
        order = rng.permutation(len(self.sequences))
        if self.plan.group_by_length:
            order = by_length(order, self.lengths, size * SORTED_TOGETHER)
            place = rng.permutation(self.steps_per_epoch)[place]
        return order[place * size : (place + 1) * size]

    def batch(self, step):
        """Return the sequences of step 0, 1, ..., augmented."""
        return self.augment(self.rows(step), np.random.default_rng([self.plan.seed, AUGMENT, step]))

    def steps(self):
        """Yield a Step after each step that was taken, from where the run stands to its end; between two, the run can
        be saved or left.

        Raises
        ------
        NonFiniteLoss
            Before the step is taken.
        """
        with worker_pool(self.plan.workers) as run:
            while self.done < self.total:
                rows, plan = self.rows(self.done), self.plan
                sequences = self.batch(self.done)
                key = (plan.seed, DROPOUT, self.done)
                loss, grads = loss_and_gradients(
                    self.model,
                    sequences,
                    self.labels[rows],
                    key,
                    plan.workers,
                    run,
                    plan.label_smoothing,
                    plan.max_tokens,
                )
                if not (math.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in grads.values())):
                    raise NonFiniteLoss(
                        f"the loss or a gradient is not finite at step {self.done + 1} (loss {loss}); try a lower"
                        f" learning rate than {self.plan.lr}."
                    )
                self.optimiser.lr = linear_schedule(self.done, self.total, self.plan.lr, self.plan.warmup)
                self.optimiser.step(grads)
                self.done += 1
                yield Step(
                    self.done,
                    loss,
                    self.optimiser.lr,
                    len(rows),
                    sum(map(len, sequences)),
                    self.done % self.steps_per_epoch == 0,
                )


def by_length(order, lengths, size):
    """Return an order in which each stretch of `size` is sorted by length."""
    stretches = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([stretch[np.argsort(lengths[stretch], kind="stable")] for stretch in stretches])


def check_labels(labels, sequences, classes):
    if not sequences or labels.shape != (sequences,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"training needs an integer label for each sequence, but there are {sequences} sequences, and labels of"
            f" shape {labels.shape} and dtype {labels.dtype}."
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but the classes are 0 to {classes - 1}.")
