"""Chapter 4: the way back through the feed-forward half of a block."""

import lora_np as lnp
from lora_np import ops
from lora_np.course.draws import drawn
from lora_np.course.exercises.block_backward import KINDS, judge, numbers  # noqa: F401 - dx and grads, as there
from lora_np.course.models import frozen_model
from lora_np.model.mlp import MLP
from lora_np.model.tree import parameters

CHAPTER, PLACE, MINUTES, LEVEL = 4, 3, 10, "easy"
OUTPUTS = ("dx", "grads")
HINTS = (
    "The forward went up, gelu, down; so go back through down, then gelu, then up.",
    "mlp.down.backward(dy, c_down) returns a pair: what it hands down, and the gradients of its own arrays.",
)
library = MLP.backward


def mlp_backward(mlp, dy, cache):
    """Return dx (N, d) and the gradients of the parameters, a dict by part."""
    c_up, c_gelu, c_down = cache
    grads = {}
    dbent, grads["down"] = mlp.down.backward(dy, c_down)
    dwide = ops.gelu_backward(dbent, c_gelu)
    dx, grads["up"] = mlp.up.backward(dwide, c_up)
    return dx, grads


BRANCHES = {
    "x has one row": lambda dy, **_: len(dy) == 1,
    "x has more rows than columns": lambda dy, **_: dy.shape[0] > dy.shape[1],
    "x has fewer rows than columns": lambda dy, **_: 1 < dy.shape[0] < dy.shape[1],
}


def draw(rng, dtype, trial):
    whole = frozen_model(rng, dtype)
    mlp = lnp.unfreeze(whole, [name for name in parameters(whole) if ".mlp." in name]).layer[trial % 2].mlp
    rows = {1: 1, 3: 20}.get(trial, 5)
    y, cache = mlp.forward(drawn(rng, dtype, rows, 12))
    return {"mlp": mlp, "dy": drawn(rng, dtype, *y.shape), "cache": cache}


SLIPS = """
elementwise_factor: gelu is not gone through on the way down
    ops.gelu_backward(dbent, c_gelu) => dbent
swapped: the gradients of up and down are stored under each other's name
    grads["down"] => grads["other"]
    grads["up"] => grads["down"]
    grads["other"] => grads["up"]
extra_term: what comes past the MLP belongs to the block; here it is added already
    return dx, grads => return dx + dy, grads
constant_factor: the upstream gradient that enters down is dy as it is
    mlp.down.backward(dy, => mlp.down.backward(2 * dy,
wrong_derivative: here gelu is applied to the gradient; what multiplies dbent is its slope at wide
    ops.gelu_backward(dbent, c_gelu) => ops.gelu_forward(dbent)[0]
wrong_cached_value: gelu_backward gives a gradient already; the chain rule does not multiply by dbent once more
    ops.gelu_backward(dbent, c_gelu) => dbent * ops.gelu_backward(dbent, c_gelu)
wrong_derivative: this is the slope of the form with tanh, an approximation; the forward took the exact one
    ops.gelu_backward(dbent, c_gelu) => ops.gelu_tanh_backward(dbent, ops.gelu_tanh_forward(c_gelu.x)[1])
wrong_derivative: this is the slope of ReLU, 0 or 1; the forward took gelu
    ops.gelu_backward(dbent, c_gelu) => dbent * (c_gelu.x > 0)
wrong_derivative: what multiplies dbent is the slope of gelu, not Phi alone
    ops.gelu_backward(dbent, c_gelu) => dbent * c_gelu.cdf
"""
