"""For each operation, example inputs at which no known mistake hides: what `python -m lora_np gradcheck` and the
tests run.

All sizes differ and are above 1; gamma, B and scale are not 0 or 1; dropout and partial masks are on; ids repeat;
some labels are ignored.
"""

from typing import NamedTuple

import numpy as np

from lora_np import ops


class Case(NamedTuple):
    name: str
    forward: object
    backward: object
    inputs: dict  # differentiable, by the forward's argument names
    fixed: dict  # never differentiated


def cases(rng, dtype=np.float64):
    """Return a list of Case, with inputs drawn by `rng` in the given dtype."""

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def mask(*shape):
        return ops.dropout_mask(shape, 0.3, rng, dtype)

    def case(name, inputs, **fixed):
        op = name.split(",")[0]
        return Case(name, getattr(ops, f"{op}_forward"), getattr(ops, f"{op}_backward"), inputs, fixed)

    def without_db(dy, cache):
        return ops.linear_backward(dy, cache, ("x", "W"))[:2]

    x, W, b = draw(5, 4), draw(4, 3), draw(3)
    groups = ((0, 4, 2, 2), (4, 10, 2, 3))
    heads = {"Q": draw(2, 3, 4, 5), "K": draw(2, 3, 4, 5), "V": draw(2, 3, 4, 6)}
    longer = {"Q": draw(2, 3, 4, 5), "K": draw(2, 3, 7, 5), "V": draw(2, 3, 7, 6)}
    partial = rng.random((2, 1, 4, 7)) < 0.6
    partial[..., 0] = True
    logits, labels = {"logits": draw(6, 4)}, np.array([3, 0, -100, 1, 3, 2])
    answers = rng.permuted(np.array([[0.0, 1.0, 0.3, 1.0]] * 6, dtype), axis=1)  # no, yes, and one between
    lora = {"x": x, "A": draw(4, 2), "B": draw(2, 3)}
    dropped = mask(5, 4)

    return [
        case("linear", {"x": x, "W": W, "b": b}),
        case("linear, no bias", {"x": x, "W": W})._replace(backward=without_db),
        case("lora_linear", lora, W=W, b=b, scale=1.7, mask=dropped),
        case("lora_linear, no dropout", lora, W=W, b=None, scale=1.7, mask=None),
        case("layer_norm", {"x": draw(5, 7), "gamma": draw(7), "beta": draw(7)}, eps=1e-5),
        case("gelu", {"x": 2.0 * draw(6, 5)}),
        case("gelu_tanh", {"x": 2.0 * draw(6, 5)}),
        case("tanh", {"x": draw(6, 5)}),
        case("relu", {"x": draw(6, 5)}),
        case("attention", heads),
        case("attention, dropout", heads, mask=mask(2, 3, 4, 4)),
        case("attention, causal", heads, visible=np.tri(4, dtype=bool), mask=mask(2, 3, 4, 4)),
        case("attention, partial", longer, visible=partial, mask=mask(2, 3, 4, 7)),
        case("embedding", {"table": draw(6, 3)}, ids=np.array([4, 1, 4, 0, 1, 4, 5])),
        case("patches", {"images": draw(3, 4, 6, 2)}, size=2),
        case("dropout", {"x": draw(6, 5)}, mask=mask(6, 5)),
        case("pool_mean", {"x": draw(10, 3)}, groups=groups),
        case("pool_first", {"x": draw(10, 3)}, groups=groups),
        case("pool_last", {"x": draw(10, 3)}, groups=groups),
        case("cross_entropy", logits, labels=labels),
        case("cross_entropy, sum", logits, labels=labels, reduction="sum"),
        case("cross_entropy, smoothed", logits, labels=labels, label_smoothing=0.2),
        case("sigmoid_cross_entropy", logits, targets=answers),
        case("sigmoid_cross_entropy, sum", logits, targets=answers, reduction="sum"),
        case("squared_error", {"y": draw(6, 3)}, targets=draw(6, 3)),
        case("squared_error, sum", {"y": draw(6, 3)}, targets=draw(6, 3), reduction="sum"),
    ]
