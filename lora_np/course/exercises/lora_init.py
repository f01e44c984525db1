"""Chapter 5: how the two matrices of a detour start."""

import numpy as np

from lora_np.adapt import lora
from lora_np.course.draws import in_and_out
from lora_np.course.findings import Finding, difference

CHAPTER, PLACE, MINUTES, LEVEL = 5, 3, 5, "easy"
OUTPUTS = ("A", "B")
HINTS = (
    "B is zero, `np.zeros((r, d_out), dtype)`, so that the first output is the base model's.",
    "A is uniform between -1/sqrt(d_in) and 1/sqrt(d_in): rows of x have d_in entries, whatever r is.",
    "`rng.uniform(low, high, shape)` draws in float64. Change the dtype afterwards with `.astype(dtype)`.",
)
library = lora.lora_init


def lora_init(d_in, d_out, r, rng, dtype):
    """Return A (d_in, r), uniform within +-1/sqrt(d_in), and B (r, d_out), zero."""
    bound = 1.0 / np.sqrt(d_in)
    A = rng.uniform(-bound, bound, (d_in, r)).astype(dtype)
    return A, np.zeros((r, d_out), dtype)


BRANCHES = {
    "dtype is float32": lambda dtype, **_: dtype == np.float32,
    "dtype is float64": lambda dtype, **_: dtype == np.float64,
    "d_in is larger than d_out": lambda d_in, d_out, **_: d_in > d_out,
    "d_out is larger than d_in": lambda d_in, d_out, **_: d_in < d_out,
    "d_in is d_out": lambda d_in, d_out, **_: d_in == d_out,
    "r is 1": lambda r, **_: r == 1,
}


def draw(rng, dtype, trial):
    d_in, d_out = (20 * size for size in in_and_out(rng, trial))  # many entries, so that their bound shows
    r = int(rng.integers(5, 9))
    if trial == 3:
        d_in, d_out, r = 300, 400, 1
    if trial == 4:
        d_out = d_in
    return {"d_in": d_in, "d_out": d_out, "r": r, "rng": np.random.default_rng(rng.integers(1000)), "dtype": dtype}


KINDS = {
    "other way round": ("swapped", "A is zero and B random; it is B that starts at zero"),
    "B": ("extra_term", "B is not zero, so the first output is not that of the base model"),
    "zero": ("zero_gradient", "A and B are both zero: then both have a gradient of zero, and nothing ever learns"),
    "equal": (None, "A holds {count} different numbers in {of} entries; each is drawn by itself"),
    "one side": (None, "the entries of A lie between {low:.3f} and {high:.3f}; they are as often negative as positive"),
    "bound": (None, "A lies between {low:.3f} and {high:.3f}, expected U(-1/sqrt(d_in), 1/sqrt(d_in)), +-{bound:.3f}"),
    "spread": (None, "A is not uniform: its root mean square is {given:.3f}, expected 1/sqrt(3 d_in) = {expected:.3f}"),
}


def judge(given, right, arguments):
    for name, matrix in right.items():
        if found := difference(name, given[name], np.ones_like(matrix), np.inf):  # its form; the numbers are free
            yield found
    A, bound = given["A"], 1 / np.sqrt(arguments["d_in"])
    if np.any(given["B"]):
        yield Finding("B" if np.any(A) else "other way round", "B")
    if not np.any(A):
        yield Finding("zero", "A")
    low, high, spread, even = A.min(), A.max(), np.sqrt(np.mean(A * A)), bound / np.sqrt(3)
    if (count := len(np.unique(A))) < 0.9 * A.size:
        yield Finding("equal", "A", {"count": count, "of": A.size})
    if not 0.3 < np.mean(A < 0) < 0.7:
        yield Finding("one side", "A", {"low": low, "high": high})
    if not 0.9 * bound < max(-low, high) < 1.0001 * bound:
        yield Finding("bound", "A", {"bound": bound, "low": low, "high": high})
    if not 0.8 * even < spread < 1.2 * even:
        yield Finding("spread", "A", {"given": spread, "expected": even})


SLIPS = """
constant_factor: the bound is 1 / sqrt(d_in), not 1 / sqrt(r)
    1.0 / np.sqrt(d_in) => 1.0 / np.sqrt(r)
constant_factor: the bound is 1 / sqrt(d_in), not 1 / r
    1.0 / np.sqrt(d_in) => 1.0 / r
constant_factor: the root is missing in the bound: 1 / sqrt(d_in)
    1.0 / np.sqrt(d_in) => 1.0 / d_in
constant_factor: the bound is 1 / sqrt(d_in), not 1 / sqrt(d_out)
    1.0 / np.sqrt(d_in) => 1.0 / np.sqrt(d_out)
constant_factor: the bound is 1 / sqrt(d_in), not sqrt(d_in)
    1.0 / np.sqrt(d_in) => np.sqrt(d_in)
constant_factor: the bound is 1 / sqrt(d_in), not 1
    1.0 / np.sqrt(d_in) => 1.0
constant_factor: this is the bound of Xavier's start, sqrt(6 / (d_in + d_out)); PEFT's is 1 / sqrt(d_in)
    1.0 / np.sqrt(d_in) => np.sqrt(6 / (d_in + d_out))
constant_factor: the bound of a start for ReLU is sqrt(6 / d_in); PEFT's is 1 / sqrt(d_in)
    1.0 / np.sqrt(d_in) => np.sqrt(6 / d_in)
sign: A is drawn from 0 upwards; it lies on both sides of 0
    (-bound => (0
other: A is drawn from the normal distribution; PEFT's is the uniform one, rng.uniform
    rng.uniform(-bound, bound, (d_in, r)) => rng.normal(0, bound, (d_in, r))
"""
