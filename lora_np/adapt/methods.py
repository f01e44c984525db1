"""The methods of adaptation: what each declares, and `inject` and `merge`, which work for all of them.

A method is one file: a configuration, a node that stands in a `Linear`'s place, and a `Method` that says the rest,
registered at the file's end. `adapt/__init__.py` names the file. `lora.py` is the first; tests/adapt/test_methods.py
holds each to what it declares.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lora_np.adapt.config import LoRAConfig
from lora_np.adapt.targets import by_pattern, check_untied, targets_of, trained_whole
from lora_np.model.transformer import Transformer
from lora_np.model.tree import is_node, locked, rebuild, unfreeze, walk

METHODS = {}  # by name


@dataclass(frozen=True)
class Method:
    """What a method of adaptation declares. `config` is here the configuration of one node; see `PeftOptions.at`.

    Parameters
    ----------
    name : str
        For sentences.
    config, node : type
        The class of its configuration, a `PeftOptions`, and of its nodes, which have the signatures of `Linear`.
    shapes : callable
        `(d_in, d_out, config)` -> {field: shape} of what a node trains: how many numbers that is, too.
    start : callable
        `(path, node, config, rng)` -> {field: array} at the start, for a `Linear`.
    wrap : callable
        `(node, config, arrays)` -> its node around that `Linear`, with these arrays: those of the start, or a file's.
    differs : callable
        `(node, config)` -> in what a node is other than its configuration says, in words; "" if in nothing.
    dense : callable or str
        `(node)` -> the `Linear` that computes the same; or the sentence why there is none.
    tensors : dict
        Field -> (the end of its name in PEFT's files, whether it lies transposed there).
    starts_as : str
        What an adapted model computes at first: "the base's bits", "the base's but for rounding", or "something else".
    after_step : callable, optional
        `(model, step, gradients)`: what must happen in place between two steps of the optimiser.
    """

    name: str
    config: type
    node: type
    shapes: Callable
    start: Callable
    wrap: Callable
    differs: Callable
    dense: Callable | str
    tensors: dict
    starts_as: str = "the base's bits"
    after_step: Callable | None = None

    def replace(self, path, node, config, rng):
        """Return this method's node, at its start, for the `Linear` at a path."""
        return self.wrap(node, config, self.start(path, node, config, rng))


def register(method):
    METHODS[method.name] = method


def registered(role, value):
    """Return the method whose `role`, "config" or "node", is the class of a value; None if there is none."""
    return next((m for kind in type(value).__mro__ for m in METHODS.values() if getattr(m, role) is kind), None)


def adapted_nodes(model):
    """Return {path: node} of the nodes that stand in a `Linear`'s place."""
    return {path: node for path, node in walk(model) if registered("node", node)}


def is_adapted(model):
    """Return whether some node of a model is adapted."""
    return bool(adapted_nodes(model))


def check_plain(model):
    for node in adapted_nodes(model).values():
        name = registered("node", node).name
        raise ValueError(f"this model has a {name} adapter already; merge it first, or adapt the model without it.")


def inject(model: Transformer, config: LoRAConfig, rng: np.random.Generator) -> Transformer:
    """Return a new model with a LoRA detour beside each targeted linear node; at first it computes what `model`
    computes, to the bit.

    Parameters
    ----------
    model : Transformer
        Its arrays are shared, not copied. Must have no adapter yet.
    config : LoRAConfig
        Or the configuration of another method of `adapt/`.
    rng : numpy.random.Generator
        Draws A from U(-1/sqrt(d_in), 1/sqrt(d_in)), as PEFT does; B starts at zero.

    Raises
    ------
    ValueError
        If the model has an adapter, a name matches nothing (the nearest names are listed), or r exceeds a matrix.
    """
    method = registered("config", config)
    if method is None or not hasattr(model, "adapter"):
        known = " or a ".join(known.config.__name__ for known in METHODS.values())
        raise ValueError(
            f"inject takes a model and a {known}, in this order, but was given {model!r:.60} and {config!r:.60}."
        )
    check_plain(model)
    check_untied(model, config.modules_to_save)
    targets = targets_of(model, config)
    for key in (key for patterns in config.PATTERNS.values() for key in getattr(config, patterns)):
        if not any(by_pattern({key: True}, names, False) for names in targets.values()):
            options = " or ".join(config.PATTERNS.values())
            raise ValueError(f"{options}: {key!r} matches none of the adapted nodes.")

    return adapt(model, config, targets, lambda path, node: method.replace(path, node, config.at(targets[path]), rng))


def adapt(model, config, targets, replace):
    """Return a new model with `replace(path, node)` in place of each node of `targets`; what the configuration names to
    be trained whole is unfrozen."""

    def change(path, node):
        if path in targets and node.trainable:
            raise ValueError(
                f"{path} is trained itself ({', '.join(node.trainable)}), and {registered('config', config).name} is"
                " for frozen weights; do not unfreeze what you adapt."
            )
        return replace(path, node) if path in targets else node

    saved = trained_whole(model, config)
    adapted = dataclasses.replace(rebuild(model, change), adapter=config)
    return unfreeze(adapted, saved) if saved else adapted


def merge(model: Transformer) -> Transformer:
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
        If there is no adapter to merge: merging twice would do nothing the second time, and hides a mistake. Or if its
        method cannot be merged.
    """
    if not is_adapted(model):
        names = " or ".join(METHODS)
        raise ValueError(f"this model has no {names} adapter to merge; it is a plain model, or was merged already.")

    def change(_, node):
        if method := registered("node", node):
            if isinstance(method.dense, str):
                raise ValueError(method.dense)
            return method.dense(node)
        mine = {name: locked(getattr(node, name).copy()) for name in node.trainable}
        return dataclasses.replace(node, trainable=(), **mine) if mine else node

    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    return dataclasses.replace(rebuild(model, change), adapter=None, aside=aside)


def after_step(model, step, gradients):
    """Let the method of a model do, in place, what it must between two steps of the optimiser."""
    method = registered("config", getattr(model, "adapter", None))
    if method and method.after_step:
        method.after_step(model, step, gradients)
