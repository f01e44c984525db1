"""Chapter 1: how large a rank is needed to be within an error."""

import numpy as np

from lora_np import compress
from lora_np.course.draws import drawn

CHAPTER, PLACE, MINUTES, LEVEL = 1, 2, 10, "medium"
OUTPUTS = ("r",)
HINTS = (
    "You need no approximation. The singular values alone tell all errors: `np.linalg.svd(W, compute_uv=False)`.",
    "For r = 0, 1, 2, ... the error squared is the sum of `s[r:] ** 2`, divided by the sum of all squares.",
    "A loop from r = 0 upwards may return at the first r that is good enough. Compare squares with squares.",
)
TRIALS = 9
library = compress.rank_for_error


def rank_for_error(W, error):
    """Return the smallest rank with an error of at most `error`, relative to W."""
    energy = np.linalg.svd(W, compute_uv=False).astype(np.float64) ** 2
    for r in range(len(energy)):
        if energy[r:].sum() <= error**2 * energy.sum():
            return r
    return len(energy)


def is_tie(W, error):
    """Is an error met exactly?"""
    energy = np.linalg.svd(W, compute_uv=False).astype(np.float64) ** 2
    return any(energy[r:].sum() == error**2 * energy.sum() for r in range(len(energy)))


BRANCHES = {
    "the error is 0, and no rank but the full one will do": lambda error, **_: error == 0,
    "the error is 1 or more, and no rank is needed": lambda error, **_: error >= 1,
    "the error is above 1": lambda error, **_: error > 1,
    "the error is exactly that of a rank": is_tie,
    "W has a lower rank than its sides": lambda W, **_: np.linalg.matrix_rank(W) < min(W.shape),
    "the error is between 0 and 1": lambda error, **_: 0 < error < 1,
    "W has more rows than columns": lambda W, **_: W.shape[0] > W.shape[1],
    "W has more columns than rows": lambda W, **_: W.shape[0] < W.shape[1],
}


def draw(rng, dtype, trial):
    """An error for which squares, and their root, matter; or one at an edge, with singular values that are exact."""
    if trial == 1:
        return {"W": 2 * np.eye(4, 6, dtype=dtype), "error": 0.5}
    if trial == 2:
        return {"W": drawn(rng, dtype, 5, 4), "error": float(rng.uniform(1.1, 2))}
    if trial in (3, 7):
        W = np.eye(3, 5, dtype=dtype) * np.array([2, 4, 1, 0, 0], dtype)
        return {"W": W if trial == 3 else W.T, "error": 0.0}
    if trial == 4:
        return {"W": np.diag(np.array([1, 4, 2], dtype)), "error": 1.0}
    if trial == 6:  # of rank 2
        return {"W": drawn(rng, dtype, 6, 2) @ drawn(rng, dtype, 2, 4), "error": 1e-4}
    if trial == 8:  # the chapter's example, but for a little, which some sums round away
        return {"W": np.diag(np.array([4, 2, 2, 1], dtype)), "error": 0.6 * (1 + 1e-6)}
    shape = sorted((17, 22), reverse=trial % 2 == 0)
    while True:
        W = drawn(rng, dtype, *shape) * (np.arange(1.0, shape[1] + 1) ** -rng.uniform(0.3, 2)).astype(dtype)
        s, error = np.linalg.svd(W, compute_uv=False), float(rng.uniform(0.05, 0.6))
        ranks = []
        for power, bound in ((2, error * error), (1, error), (2, error)):
            lost = np.append(np.cumsum(s[::-1] ** power)[::-1], 0)
            ranks.append(int(np.argmax(lost <= bound * lost[0])))
        ranks.append(int(np.argmax(np.append(s, 0) <= error * s[0])))  # as in the spectral norm
        if ranks[0] not in ranks[1:]:
            return {"W": W, "error": error}


SLIPS = """
missing_term: it is one too few
    return r => return r - 1
    return len(energy) => return len(energy) - 1
extra_term: it is one too many
    return r => return r + 1
    return len(energy) => return len(energy) + 1
extra_term: it is one too many where the error is above 0
    return r => return r + 1
missing_term: the search begins at rank 1; an error of 1 needs no rank at all: 0
    range(len => range(1, len
other: an error that is met exactly is within the error: compare by <=
    energy[r:].sum() <= error**2 * energy.sum() => energy[r:].sum() < error**2 * energy.sum()
other: where no smaller rank is within the error, as for an error of 0, it is the full one
    return len(energy) => return None
other: where no smaller rank is within the error, as for an error of 0, it is the full one
    return len(energy) => return 0
elementwise_factor: the singular values are not squared
    astype(np.float64) ** 2 => astype(np.float64)
elementwise_factor: the singular values are not squared
    astype(np.float64) ** 2 => astype(np.float64)
    error**2 => error
constant_factor: sums of squares are compared with the error; square it, too
    error**2 => error
constant_factor: the error is relative: compare with error times the norm of W
    error**2 * energy.sum() => error**2
constant_factor: the error is relative: compare with error times the norm of W
    error**2 * energy.sum() => error
wrong_cached_value: the error is what is left out, not what is kept
    error**2 * => (1 - error) ** 2 *
wrong_cached_value: the error is what is left out, not what is kept
    error**2 * => (1 - error**2) *
wrong_cached_value: this looks at one singular value at a time, as the spectral norm does; all that are left out count
    energy[r:].sum() <= error**2 * energy.sum() => energy[r] <= error**2 * energy[0]
missing_term: this looks at one singular value at a time; all that are left out count
    energy[r:].sum() => energy[r]
wrong_cached_value: the error is what is left out, the values from r on; here it is what is kept
    energy[r:].sum() => energy[:r].sum()
wrong_cached_value: the error is what is left out, the values from r on; here it is what is kept
    energy[r:].sum() <= error**2 * energy.sum() => energy[: r + 1].sum() >= error**2 * energy.sum()
mean_vs_sum: a mean of squares is compared with a sum
    energy[r:].sum() => energy[r:].mean()
mean_vs_sum: a mean of squares is compared with a sum
    energy[r:].sum() => energy[r:].sum() / len(energy)
mean_vs_sum: a mean over all entries is compared with a sum
    energy[r:].sum() => energy[r:].sum() / W.size
other: it is the largest rank; the smallest one that is within the error is asked for
    energy[r:].sum() <= error**2 * energy.sum() => False
"""
