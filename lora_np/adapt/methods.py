"""The methods of adaptation: what each declares, and `inject` and `merge`, which work for all of them.

A method is one file: a configuration, a node that stands in the place of a `Linear`, or of another that its
configuration `adapts`, and a `Method` that says the rest, registered at the file's end. `adapt/__init__.py` names the
file. `lora.py` is the first; tests/adapt/test_methods.py holds each to what it declares.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.rounding import checked_float, in_floats_of
from lora_np.adapt.targets import by_pattern, check_part, check_untied, targets_of, trained_whole
from lora_np.model.batch import Batch
from lora_np.model.transformer import Transformer
from lora_np.model.tree import arrays, astype, is_node, locked, parameters, rebuild, unfreeze, walk

METHODS = {}  # by name


@dataclass(frozen=True)
class Shared:
    """Frozen arrays that are the same in all nodes of an adapter: one in memory, in a count and in a file. They are
    fields of the nodes, whose class names them in SHARED; `wrap` is given them beside a start's arrays."""

    shapes: Callable  # `(sizes, config)` -> {field: shape}, for the (d_in, d_out) of all that is adapted
    start: Callable  # `(shapes, config, dtype)` -> {field: array}
    tensors: dict  # field -> (its whole name in PEFT's files, whether it lies transposed there)


class BetweenSteps:
    """What a method does in a model, in place, between two steps of a run. This one does nothing.

    `state` is what it has to remember, {name: array}; a checkpoint of the run holds it, and writes into it.
    """

    def __init__(self, model):
        self.state = {}

    def after_step(self, step, gradients):
        """Act after step 0, 1, ... of the optimiser, along these gradients."""


@dataclass(frozen=True)
class Method:
    """What a method of adaptation declares. `config` is, in these calls, that of one node; see `PeftOptions.at`."""

    name: str  # for sentences
    config: type  # of its configuration, a PeftOptions: what is adapted by default, and what may differ between nodes
    # Of its nodes, which have the signatures of those in whose place they stand, here called a `Linear`. What they hold
    # and never train, beside the base's FROZEN, its class names in HELD. If their backward takes something for a
    # constant, they have `as_differentiated()`, too: the node with that held, whose forward is what the backward is the
    # gradient of.
    node: type
    # `(d_in, d_out, config)`, or with what else `sizes` says, -> {field: shape} of what a node trains: how many numbers
    # that is, too.
    shapes: Callable
    start: Callable  # `(path, node, config, rng)` -> {field: array} at the start, for a `Linear`
    wrap: Callable  # `(node, config, arrays)` -> its node around that `Linear`, with a start's arrays, or a file's
    differs: Callable  # `(node, config)` -> in what a node is other than its configuration says, in words, or ""
    dense: Callable | str  # `(node)` -> the `Linear` that computes the same; or the sentence why there is none
    # field -> (the end of its name in PEFT's files, whether it lies transposed there). A node may lack some of them:
    # they are None in it, and not in its shapes.
    tensors: dict
    adds: bool = False  # whether it changes W alone, and adds the same whatever W is
    starts_as: str = "the base's bits"  # what it computes at first; or "the base's but for rounding", "something else"
    # Whether PEFT's files hold the arrays of all nodes side by side in one tensor; its whole name is that in `tensors`.
    together: bool = False
    shared: Shared | None = None  # what all its nodes hold together, beside what each trains
    as_saved: Callable = lambda model: model  # `(model)` -> the model that its files hold, which computes the same
    # If that is another method's: `(model, config)` -> the model again, from what was read as the other's.
    restored: Callable | None = None
    option_of: str = ""  # the method in whose name, and by whose options, a command asks for this one
    penalty: Callable = lambda model: (0.0, {})  # `(model)` -> what a run adds to its loss, and gradients by parameter
    between_steps: type[BetweenSteps] = BetweenSteps  # `(model)` -> what must happen between two steps of a run

    def replace(self, path, node, config, rng, shared=None):
        """Return this method's node, at its start, for the `Linear` at a path."""
        return self.wrap(node, config, {**self.start(path, node, config, rng), **(shared or {})})


def register(method):
    METHODS[method.name] = method


def registered(role, value):
    """Return the method whose `role`, "config" or "node", is the class of a value; None if there is none."""
    return next((m for kind in type(value).__mro__ for m in METHODS.values() if getattr(m, role) is kind), None)


def way_to_plain(method):
    """Return the end of a sentence that refuses a method: how its model becomes one of the method that files hold."""
    change = method.as_saved if method and method.restored else None
    return f"; {change.__module__}.{change.__name__}(model) is plain LoRA that computes the same" if change else ""


def tensors_of(node):
    """Return what its method's table of tensors says of those that a node has."""
    table = registered("node", node).tensors
    return {field: row for field, row in table.items() if getattr(node, field, None) is not None}


def adapted_nodes(model):
    """Return {path: node} of the nodes that stand in another's place."""
    return {path: node for path, node in walk(model) if registered("node", node)}


def sizes(node):
    """Return the sizes of a node that may be adapted: (d_in, d_out) of a linear one, (rows, d) of a table, (d,) of a
    norm or of attention."""
    own = [array.shape for array in arrays(node).values()]
    return own[0] if own else next(iter(parameters(node).values())).shape[:1]


def is_adapted(model):
    """Return whether some node of a model is adapted."""
    return bool(adapted_nodes(model))


def check_plain(model):
    for node in adapted_nodes(model).values():
        name = registered("node", node).name
        raise ValueError(f"this model has a {name} adapter already; merge it first, or adapt the model without it.")


def inject(
    model: Transformer,
    config: PeftOptions,
    rng: np.random.Generator | None = None,
    data: Sequence[Batch] | None = None,
) -> Transformer:
    """Return a new model in which a node of a method, such as LoRA's, stands in the place of each targeted linear one.

    With LoRA the new model computes at first what `model` computes, to the bit.

    Parameters
    ----------
    model : Transformer
        Without an adapter. Its frozen arrays are shared; of those that are trained, a head's, each new model has copies
        of its own, so that two adapters on one base do not train each other's.
    config : PeftOptions
        That of a method: a LoRAConfig, or another of `adapt/`.
    rng : numpy.random.Generator, optional
        Draws what the method draws at its start, if it does: LoRA's A from U(-1/sqrt(d_in), 1/sqrt(d_in)), as PEFT
        does; its B is zero. For other starts see `starts.py`.
    data : list of Batch, optional
        For a start that looks at data, init_lora_weights="eva".

    Raises
    ------
    ValueError
        If the model has an adapter, a name matches nothing (the nearest names are listed), what is to be adapted is
        trained itself, or the method cannot adapt it: LoRA's r exceeds a matrix.
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
    for option in config.PARTS:
        check_part(config, option, targets)

    nodes, shared = dict(walk(model)), {}
    if begun := config.begin(model, targets, rng, data):
        config, ready = begun
        return adapt(model, config, {path: targets[path] for path in ready}, lambda path, _: ready[path])
    if method.shared:
        shapes = method.shared.shapes([sizes(nodes[path]) for path in targets], config)
        shared = {name: locked(array) for name, array in method.shared.start(shapes, config, model.dtype).items()}

    def replace(path, node):
        return method.replace(path, node, config.at(targets[path]), rng, shared)

    return adapt(model, config, targets, replace)


def adapt(model, config, targets, replace):
    """Return a new model with `replace(path, node)` in place of each node of `targets`, copies of what was trained
    before, and unfrozen what the configuration names to be trained whole."""

    def change(path, node):
        if path not in targets:
            return dataclasses.replace(node, **copies(node)) if node.trainable else node
        if node.trainable:
            raise ValueError(
                f"{path} is trained itself ({', '.join(node.trainable)}), and {registered('config', config).name} is"
                " for frozen weights; do not unfreeze what you adapt."
            )
        return replace(path, node)

    new = dataclasses.replace(rebuild(model, change), adapter=config)
    return unfreeze(new, [*trained_whole(model, config), *config.beside(new)])


def copies(node):
    return {name: getattr(node, name).copy() for name in node.trainable}


def merge(model: Transformer, dtype: str | None = None) -> Transformer:
    """Return a new, wholly frozen model with the same outputs, but for rounding, and linear nodes in the places of the
    adapted ones; what was not trained is shared.

    LoRA's weight is W + scale * A B; the sum is taken in float64 and rounded once. Over a compressed W it is an
    ordinary array, where PEFT would compress it again.

    Parameters
    ----------
    model : Transformer
        With an adapter. It is still there afterwards, untouched.
    dtype : {"float32", "float16", "bfloat16"}, optional
        Round all numbers of the new model to the nearest of this dtype, in which `save_model` then writes it; it
        computes as before. Of the update less may be left than one thinks: ask `merge_report`.

    Raises
    ------
    ValueError
        If there is no adapter to merge: merging twice would do nothing the second time, and hides a mistake. Or if its
        method cannot be merged, a number is beyond the dtype, or a matrix that is not adapted is compressed.
    """
    if not is_adapted(model):
        raise ValueError("this model has no adapter to merge; it is a plain model, or was merged already.")
    dtype = checked_float(dtype)

    def change(path, node):
        if registered("node", node):
            merged = dense(node) if dtype is None else dense(astype(node, np.float64))
        else:
            mine = {name: locked(array) for name, array in copies(node).items()}
            merged = dataclasses.replace(node, trainable=(), **mine) if mine else node
        return merged if dtype is None else in_floats_of(merged, path, dtype, model.dtype)

    aside = {name: change(name, kept) if is_node(kept) else kept for name, kept in model.aside.items()}
    said = [name for name in ("dtype", "torch_dtype") if name in model.config] or ["dtype"]
    config = model.config if dtype is None else {**model.config, **dict.fromkeys(said, dtype)}
    return dataclasses.replace(rebuild(model, change), adapter=None, aside=aside, config=config)


def dense(node):
    """Return the `Linear` that computes the same as an adapted node; raise if its method has none."""
    plain = registered("node", node).dense
    if isinstance(plain, str):
        raise ValueError(plain)
    return plain(node)


def penalty(model):
    """Return what the method of a model adds to a loss, and the gradients of it by parameter; 0 and none without."""
    method = registered("config", getattr(model, "adapter", None))
    return method.penalty(model) if method else (0.0, {})


def between_steps(model):
    """Return what the method of a model has to do between two steps of a run that begins."""
    method = registered("config", getattr(model, "adapter", None))
    return (method.between_steps if method else BetweenSteps)(model)
