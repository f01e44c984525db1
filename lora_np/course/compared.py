"""A model on a learner's functions beside the library's, stage by stage: the first stage that differs is named."""

import copy
from typing import NamedTuple

import numpy as np

from lora_np.course.yours import place_of
from lora_np.model.tree import flatten, rebuild, walk

FORWARD, BACKWARD = "forward", "backward"
LOSS = "the loss"


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
        run = next((name for name in exercises[::-1] if name in assembled.answers), "")
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
