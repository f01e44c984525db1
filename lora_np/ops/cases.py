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

    x, W, b = draw(5, 4), draw(4, 3), draw(3)
    groups = ((0, 4, 2, 2), (4, 10, 2, 3))
    heads = {"Q": draw(2, 3, 4, 5), "K": draw(2, 3, 4, 5), "V": draw(2, 3, 4, 6)}
    longer = {"Q": draw(2, 3, 4, 5), "K": draw(2, 3, 7, 5), "V": draw(2, 3, 7, 6)}
    partial = rng.random((2, 1, 4, 7)) < 0.6
    partial[..., 0] = True
    logits, labels = draw(6, 4), np.array([3, 0, -100, 1, 3, 2])
    detour = {"A": draw(4, 2), "B": draw(2, 3)}
    lora = {"W": W, "b": b, "scale": 1.7, "mask": mask(5, 4)}

    def lora_forward(x, A, B, W, b, scale, mask):
        return ops.lora_linear_forward(x, W, b, A, B, scale, mask)

    def without_db(dy, cache):
        return ops.linear_backward(dy, cache, ("x", "W"))[:2]

    return [
        Case("linear", ops.linear_forward, ops.linear_backward, {"x": x, "W": W, "b": b}, {}),
        Case("linear, no bias", ops.linear_forward, without_db, {"x": x, "W": W}, {}),
        Case("lora_linear", lora_forward, ops.lora_linear_backward, {"x": x, **detour}, lora),
        Case(
            "lora_linear, no dropout",
            lora_forward,
            ops.lora_linear_backward,
            {"x": x, **detour},
            {**lora, "b": None, "mask": None},
        ),
        Case(
            "layer_norm",
            ops.layer_norm_forward,
            ops.layer_norm_backward,
            {"x": draw(5, 7), "gamma": draw(7), "beta": draw(7)},
            {"eps": 1e-5},
        ),
        Case("gelu", ops.gelu_forward, ops.gelu_backward, {"x": 2.0 * draw(6, 5)}, {}),
        Case("gelu_tanh", ops.gelu_tanh_forward, ops.gelu_tanh_backward, {"x": 2.0 * draw(6, 5)}, {}),
        Case("tanh", ops.tanh_forward, ops.tanh_backward, {"x": draw(6, 5)}, {}),
        Case("attention", ops.attention_forward, ops.attention_backward, heads, {}),
        Case("attention, dropout", ops.attention_forward, ops.attention_backward, heads, {"mask": mask(2, 3, 4, 4)}),
        Case(
            "attention, causal",
            ops.attention_forward,
            ops.attention_backward,
            heads,
            {"visible": np.tri(4, dtype=bool), "mask": mask(2, 3, 4, 4)},
        ),
        Case(
            "attention, partial",
            ops.attention_forward,
            ops.attention_backward,
            longer,
            {"visible": partial, "mask": mask(2, 3, 4, 7)},
        ),
        Case(
            "embedding",
            ops.embedding_forward,
            ops.embedding_backward,
            {"table": draw(6, 3)},
            {"ids": np.array([4, 1, 4, 0, 1, 4, 5])},
        ),
        Case("patches", ops.patches_forward, ops.patches_backward, {"images": draw(3, 4, 6, 2)}, {"size": 2}),
        Case("dropout", ops.dropout_forward, ops.dropout_backward, {"x": draw(6, 5)}, {"mask": mask(6, 5)}),
        Case("pool_mean", ops.pool_mean_forward, ops.pool_mean_backward, {"x": draw(10, 3)}, {"groups": groups}),
        Case("pool_first", ops.pool_first_forward, ops.pool_first_backward, {"x": draw(10, 3)}, {"groups": groups}),
        Case(
            "cross_entropy",
            ops.cross_entropy_forward,
            ops.cross_entropy_backward,
            {"logits": logits},
            {"labels": labels},
        ),
        Case(
            "cross_entropy, sum",
            ops.cross_entropy_forward,
            ops.cross_entropy_backward,
            {"logits": logits},
            {"labels": labels, "reduction": "sum"},
        ),
        Case(
            "cross_entropy, smoothed",
            ops.cross_entropy_forward,
            ops.cross_entropy_backward,
            {"logits": logits},
            {"labels": labels, "label_smoothing": 0.2},
        ),
    ]
