"""Chapter 7: two or more adapters as one, without cross terms."""

import numpy as np

from lora_np.course.draws import drawn, in_and_out
from lora_np.course.findings import Finding
from lora_np.course.models import largest, same_numbers

CHAPTER, PLACE, MINUTES, LEVEL = 7, 2, 10, "medium"
OUTPUTS = ("A", "B")
HINTS = (
    "(A1 + A2)(B1 + B2) has cross terms that nobody trained. Blocks side by side have none.",
    "`np.concatenate(list_of_arrays, axis=1)` sets arrays side by side, `axis=0` one above the other.",
    "The scales differ, so they cannot stay outside. Multiply each A by its own scale, and leave the B as it is.",
)


def combine_adapters(adapters):
    """Return (A, B) with A @ B the sum of scale * A_k @ B_k over all adapters."""
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=1)
    B = np.concatenate([B for _, B, _ in adapters], axis=0)
    return A, B


def ranks(adapters):
    return {len(B) for _, B, _ in adapters}


BRANCHES = {
    "there is one adapter": lambda adapters: len(adapters) == 1,
    "there are two adapters": lambda adapters: len(adapters) == 2,
    "there are more than two adapters": lambda adapters: len(adapters) > 2,
    "the ranks differ": lambda adapters: len(ranks(adapters)) > 1,
    "the ranks are equal": lambda adapters: len(ranks(adapters)) == 1 < len(adapters),
    "a rank is 1": lambda adapters: 1 in ranks(adapters),
    "the scales are all 1": lambda adapters: {scale for *_, scale in adapters} == {1.0},
    "the scales differ": lambda adapters: len({scale for *_, scale in adapters}) > 1,
    "d_in is larger than d_out": lambda adapters: len(adapters[0][0]) > adapters[0][1].shape[1],
    "d_out is larger than d_in": lambda adapters: len(adapters[0][0]) < adapters[0][1].shape[1],
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        columns = np.eye(2, dtype=dtype)
        return {"adapters": [(columns[:, [k]], columns[[k]], 1.0) for k in (0, 1)]}
    d_in, d_out = in_and_out(rng, trial)
    many = zip({0: (2, 3, 4), 2: (3, 3), 3: (4,), 4: (1, 1, 1, 1), 5: (2, 5)}[trial], (0.5, 1.7, 2.0, 0.3))
    return {"adapters": [(drawn(rng, dtype, d_in, r), drawn(rng, dtype, r, d_out), scale) for r, scale in many]}


def numbers(results):
    return dict.fromkeys("AB", results["A"] @ results["B"])


KINDS = {
    "ranks": ("shape", "{name} has the shape {given}, expected {expected}: the ranks of the adapters add up"),
    "product": (None, "A @ B is not the sum of the scaled updates: the largest difference is {largest}"),
}


def judge(given, right, arguments):
    """The order of the blocks, and where each scale goes, are free; so is the dtype, of which the text says nothing."""
    for name, matrix in right.items():
        if np.shape(given[name]) != matrix.shape:
            yield Finding("ranks", name, {"given": np.shape(given[name]), "expected": matrix.shape})
    mine, wanted = (numbers(results)["A"] for results in (given, right))
    if not same_numbers(mine, wanted):
        yield Finding("product", "A", {"largest": largest(mine, wanted)})


SLIPS = """
extra_term: (A1 + A2)(B1 + B2) has cross terms that belong to no adapter; set the blocks side by side
    np.concatenate([scale * A for A, _, scale in adapters], axis=1) => sum(scale * A for A, _, scale in adapters)
    np.concatenate([B for _, B, _ in adapters], axis=0) => sum(B for _, B, _ in adapters)
extra_term: (A1 + A2)(B1 + B2) has cross terms that belong to no adapter; set the blocks side by side
    np.concatenate([scale * A for A, _, scale in adapters], axis=1) => sum(A for A, _, _ in adapters)
    np.concatenate([B for _, B, _ in adapters], axis=0) => sum(scale * B for _, B, scale in adapters)
extra_term: (A1 + A2)(B1 + B2) has cross terms, and the scales are missing
    np.concatenate([scale * A for A, _, scale in adapters], axis=1) => sum(A for A, _, _ in adapters)
    np.concatenate([B for _, B, _ in adapters], axis=0) => sum(B for _, B, _ in adapters)
extra_term: (A1 + A2)(B1 + B2) has cross terms, and the scales are there twice
    np.concatenate([scale * A for A, _, scale in adapters], axis=1) => sum(scale * A for A, _, scale in adapters)
    np.concatenate([B for _, B, _ in adapters], axis=0) => sum(scale * B for _, B, scale in adapters)
constant_factor: the scales are missing
    scale * A => A
constant_factor: each scale is there twice
    scale * A => scale * scale * A
constant_factor: only the root of each scale is there; put the scale into one factor, or its root into both
    scale * A => np.sqrt(scale) * A
constant_factor: the first scale serves all; each adapter has its own
    scale * A => adapters[0][2] * A
constant_factor: the last scale serves all; each adapter has its own
    scale * A => adapters[-1][2] * A
constant_factor: the scales are averaged; each adapter has its own
    scale * A => sum(s for _, _, s in adapters) / len(adapters) * A
constant_factor: the scales are added up; each adapter has its own
    scale * A => sum(s for _, _, s in adapters) * A
constant_factor: the scales are multiplied with each other; each adapter has its own
    scale * A => np.prod([s for _, _, s in adapters]) * A
constant_factor: each scale is divided by the rank once more
    scale * A => scale / A.shape[1] * A
constant_factor: it is divided by the scale; the scale multiplies
    scale * A => A / scale
mean_vs_sum: this is the mean of the updates; their sum is asked for
    scale * A => scale * A / len(adapters)
swapped: A and B are in different orders, so that A of one adapter meets B of another
    B for _, B, _ in adapters => B for _, B, _ in adapters[::-1]
swapped: A and B are in different orders, so that A of one adapter meets B of another
    scale * A => A
    B for _, B, _ in adapters => scale * B for _, B, scale in adapters[::-1]
missing_term: only the last adapter is there
    in adapters => in adapters[-1:]
missing_term: only the first adapter is there
    in adapters => in adapters[:1]
missing_term: the last adapter is missing
    in adapters => in adapters[:-1]
missing_term: the first adapter is missing
    in adapters => in adapters[1:]
missing_term: only the first two adapters are there
    in adapters => in adapters[:2]
constant_factor: the first adapter has no scale
    scale * A => (1.0 if A is adapters[0][0] else scale) * A
constant_factor: only the first adapter has its scale
    scale * A => (scale if A is adapters[0][0] else 1.0) * A
"""
