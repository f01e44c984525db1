"""Chapter 1: the matrix of rank r that is nearest to another."""

import numpy as np

from lora_np import compress
from lora_np.course.draws import drawn
from lora_np.course.findings import Finding
from lora_np.course.models import largest, same_numbers

CHAPTER, PLACE, MINUTES, LEVEL = 1, 1, 10, "easy"
OUTPUTS = ("A", "B")
HINTS = (
    "`np.linalg.svd(W, full_matrices=False)` gives U, s and Vt, the largest singular values first.",
    "Keep r columns of U, r numbers of s and r rows of Vt. Put s into one of the two factors, or its root into both.",
    "`U[:, :r] * s[:r]` multiplies column k by s[k], by broadcasting.",
)
library = compress.low_rank_approximation


def low_rank_approximation(W, r):
    """Return A (d_in, r) and B (r, d_out), whose product is nearest to W."""
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[:r], Vt[:r]


BRANCHES = {
    "W has more rows than columns": lambda W, **_: W.shape[0] > W.shape[1],
    "W has more columns than rows": lambda W, **_: W.shape[0] < W.shape[1],
    "W is square": lambda W, **_: W.shape[0] == W.shape[1],
    "r is 1": lambda r, **_: r == 1,
    "r is above 1": lambda r, **_: r > 1,
    "r is the smaller side of W": lambda W, r: r == min(W.shape),
}


def draw(rng, dtype, trial):
    if trial == 1:  # the chapter's example
        return {"W": np.array([[2, 1], [1, 2]], dtype), "r": 1}
    d_in, d_out, r = ((9, 6, 2), (6, 9, 3), (7, 7, 4), (5, 8, 1), (4, 6, 4), (9, 6, 3))[trial]
    return {"W": drawn(rng, dtype, d_in, d_out), "r": r}


def numbers(results):
    return dict.fromkeys("AB", results["A"] @ results["B"])


KINDS = {"product": (None, "A @ B is not the best approximation of rank {r}: the largest difference is {largest}")}


def judge(given, right, arguments):
    """Any two factors of the right sizes will do, if their product is right."""
    for name, matrix in right.items():
        if np.shape(given[name]) != matrix.shape:
            yield Finding("shape", name, {"given": np.shape(given[name]), "expected": matrix.shape})
    mine, best = (numbers(results)["A"] for results in (given, right))
    if not same_numbers(mine, best):
        yield Finding("product", "A", {"r": arguments["r"], "largest": largest(mine, best)})


SLIPS = """
elementwise_factor: the singular values are left out of both factors
    U[:, :r] * s[:r] => U[:, :r]
elementwise_factor: each singular value is in the product twice; put it into one factor, or its root into both
    Vt[:r] => s[:r, None] * Vt[:r]
elementwise_factor: the root of each singular value is in one factor only; its other half is missing
    * s[:r] => * np.sqrt(s[:r])
wrong_cached_value: these are the smallest singular values; they come last, the largest first
    U[:, :r] * s[:r], Vt[:r] => U[:, -r:] * s[-r:], Vt[-r:]
transpose: np.linalg.svd gives V transposed already: take its first r rows
    Vt[:r] => Vt[:, :r].T
transpose: the singular vectors are the columns of U, not its rows
    U[:, :r] => U[:r].T
extra_term: the columns are centred first, as in PCA; W itself is approximated
    svd(W, => svd(W - W.mean(axis=0),
"""
