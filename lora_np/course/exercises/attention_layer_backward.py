"""Chapter 4: the way back through the attention layer, where x went three ways."""

import lora_np as lnp
from lora_np.course.draws import drawn
from lora_np.course.exercises.block_backward import KINDS, judge, numbers  # noqa: F401 - dx and grads, as there
from lora_np.course.models import GROUPS, frozen_model
from lora_np.model.attention import Attention, heads_backward
from lora_np.model.tree import parameters

CHAPTER, PLACE, MINUTES, LEVEL = 4, 8, 20, "medium"
OUTPUTS = ("dx", "grads")
HINTS = (
    "How many arrows leave x in the forward? As many gradients come back, and they meet in x.",
    "Each of query, key and value gets its own gradient of heads_backward, and returns a part of dx.",
)
library = Attention.backward


def attention_layer_backward(attention, dy, cache):
    """Return dx (N, d) and the gradients of the parameters, a dict by part."""
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    from_query, grads["query"] = attention.query.backward(dQ, c_query)
    from_key, grads["key"] = attention.key.backward(dK, c_key)
    from_value, grads["value"] = attention.value.backward(dV, c_value)
    return from_query + from_key + from_value, grads


BRANCHES = {
    "there is one sequence": lambda cache, **_: len(cache[3]) == 1,
    "sequences have different lengths": lambda cache, **_: len(cache[3]) > 1,
    "x has more rows than columns": lambda dy, **_: dy.shape[0] > dy.shape[1],
    "x has fewer rows than columns": lambda dy, **_: dy.shape[0] < dy.shape[1],
}


def draw(rng, dtype, trial):
    groups = {1: ((0, 5, 1, 5),), 3: ((0, 6, 2, 3), (6, 9, 3, 1))}.get(trial, GROUPS)
    whole = frozen_model(rng, dtype)
    names = [name for name in parameters(whole) if ".attention." in name]
    attention = lnp.unfreeze(whole, names).layer[trial % 2].attention
    y, cache = attention.forward(drawn(rng, dtype, groups[-1][1], 12), groups)
    return {"attention": attention, "dy": drawn(rng, dtype, *y.shape), "cache": cache}


SLIPS = """
missing_path: x went three ways: what comes back through the value is missing in dx
    from_query + from_key + from_value => from_query + from_key
missing_path: x went three ways: what comes back through the key is missing in dx
    from_query + from_key + from_value => from_query + from_value
missing_path: x went three ways: what comes back through the query is missing in dx
    from_query + from_key + from_value => from_key + from_value
missing_path: x went three ways; here dx is what comes back through the value alone
    from_query + from_key + from_value => from_value
missing_path: x went three ways; here dx is what comes back through the query alone
    from_query + from_key + from_value => from_query
mean_vs_sum: what comes back on three ways is added, not averaged
    from_query + from_key + from_value => (from_query + from_key + from_value) / 3
extra_term: what comes past the attention belongs to the block; here it is added already
    from_query + from_key + from_value => dy + from_query + from_key + from_value
missing_term: the output map is not gone through: the heads receive dO, not dy
    heads_backward(dO, => heads_backward(dy,
swapped: dQ and dK are exchanged
    dQ, dK, dV = => dK, dQ, dV =
swapped: dK and dV are exchanged
    dQ, dK, dV = => dQ, dV, dK =
swapped: dQ and dV are exchanged
    dQ, dK, dV = => dV, dK, dQ =
"""
