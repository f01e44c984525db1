"""Chapter 4: the two halves of a pre-norm block on the way back, where x and h went two ways each."""

import numpy as np

import lora_np as lnp
from lora_np.course.draws import drawn
from lora_np.course.findings import TOLERANCE, Finding, difference
from lora_np.course.models import GROUPS, frozen_model
from lora_np.model.blocks import PreNormBlock
from lora_np.model.tree import flatten, parameters

CHAPTER, PLACE, MINUTES, LEVEL = 4, 11, 25, "hard"
OUTPUTS = ("dx", "grads")
HINTS = (
    "x goes two ways in each half: past it and through it. What comes back on the two is added.",
    "The cache holds those of norm1, attention, drop1, norm2, mlp and drop2, in this order.",
    "Last step first: through block.mlp, then through block.norm2. Each time keep the dict under its key.",
    "Then dh = dy + what came out of norm2. Only now go through block.attention, with dh as upstream.",
)
library = PreNormBlock.backward


def block_backward(block, dy, cache):
    """Return dx (N, d) and the gradients of the parameters, a dict by part."""
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


BRANCHES = {
    "x has more rows than columns": lambda dy, **_: dy.shape[0] > dy.shape[1],
    "x has fewer rows than columns": lambda dy, **_: dy.shape[0] < dy.shape[1],
}


def draw(rng, dtype, trial):
    groups = {1: ((0, 4, 2, 2),), 3: ((0, 5, 1, 5),), 4: ((0, 6, 2, 3), (6, 9, 3, 1))}.get(trial, GROUPS)
    whole = frozen_model(rng, dtype)
    block = lnp.unfreeze(whole, [name for name in parameters(whole) if name.startswith("layer.0")]).layer[0]
    y, cache = block.forward(drawn(rng, dtype, groups[-1][1], 12), groups)
    return {"block": block, "dy": drawn(rng, dtype, *y.shape), "cache": cache}


def numbers(results):
    grads = flatten(results["grads"])
    return {"dx": results["dx"], "grads": np.concatenate([grads[name].ravel() for name in sorted(grads)])}


KINDS = {
    "exchanged": ("swapped", "it returns (grads, dx), expected (dx, grads)"),
    "flat": ("shape", "grads has the keys {given}, expected {expected}, and below each the dict of that part"),
    "lacks": ("zero_gradient", "grads lacks {path}; it is nested like the block"),
    "more": (None, "grads holds {path}, which is no parameter of the block"),
}


def judge(given, right, arguments):
    if isinstance(given["dx"], dict):
        yield Finding("exchanged", "dx")
    if found := difference("dx", given["dx"], right["dx"]):
        yield found
    parts = [list(grads) for grads in (given["grads"], right["grads"])]
    if set(parts[0]).isdisjoint(parts[1]):
        yield Finding("flat", "grads", {"given": parts[0][:3], "expected": parts[1]})
    mine, wanted = flatten(given["grads"]), flatten(right["grads"])
    size = max(np.max(np.abs(gradient)) for gradient in wanted.values())
    for path, gradient in wanted.items():
        if path not in mine:
            yield Finding("lacks", "grads", {"path": path})
        own = max(np.max(np.abs(gradient)), 1e-300)  # key's b has none: all that is there are roundings
        if found := difference("grads", mine[path], gradient, TOLERANCE[gradient.dtype] * size / own):
            yield Finding(found.kind, "grads", {**found.values, "name": f"grads.{path}"})
    for path in mine:
        if path not in wanted:
            yield Finding("more", "grads", {"path": path})


SLIPS = """
missing_path: h went two ways: dh lacks what came past the MLP, dy
    dh = dy + dm => dh = dm
missing_path: h went two ways: dh lacks what came through the MLP
    dh = dy + dm => dh = dy
missing_path: x went two ways: dx lacks what came past the attention, dh
    return dh + da => return da
missing_path: x went two ways: dx lacks what came through the attention
    return dh + da => return dh
missing_path: both ways past are missing: dh = dy + ..., dx = dh + ...
    dh = dy + dm => dh = dm
    return dh + da => return da
missing_path: what came past the attention is dh, with both its parts; here it is dy alone
    return dh + da => return dy + da
missing_path: the attention receives dh, with both its parts; here it receives dy alone
    block.attention.backward(dh, => block.attention.backward(dy,
missing_path: the attention receives dh = dy + dm; here it receives dm alone
    block.attention.backward(dh, => block.attention.backward(dm,
extra_term: dy is in dh already; it is added once more
    return dh + da => return dy + dh + da
swapped: the caches of the two norms are exchanged
    block.norm2.backward(dm, c_norm2) => block.norm2.backward(dm, c_norm1)
    block.norm1.backward(da, c_norm1) => block.norm1.backward(da, c_norm2)
swapped: the gradients of the two norms are stored under each other's name
    grads["norm2"] => grads["norm"]
    grads["norm1"] => grads["norm2"]
    grads["norm"] => grads["norm1"]
missing_term: norm1 is not gone through on the way to x
    da, grads["norm1"] = block.norm1.backward(da, c_norm1) => grads["norm1"] = block.norm1.backward(da, c_norm1)[1]
missing_term: norm2 is not gone through on the way to h
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2) => grads["norm2"] = block.norm2.backward(dm, c_norm2)[1]
mean_vs_sum: what comes back on two ways is added, not averaged
    dh = dy + dm => dh = (dy + dm) / 2
    return dh + da => return (dh + da) / 2
factor_order: the sums go back before the norms, as where a norm follows the sum; here it lies inside each half
    dm, grads["norm2"] = block.norm2.backward(dm, => dh, grads["norm2"] = block.norm2.backward(dy + dm,
    dh = dy + dm => pass
    da, grads["norm1"] = block.norm1.backward(da, => da, grads["norm1"] = block.norm1.backward(dh + da,
    return dh + da => return da
constant_factor: the upstream gradient that enters the MLP is dy as it is
    block.mlp.backward(dy, => block.mlp.backward(2 * dy,
"""
