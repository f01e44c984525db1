"""Chapter 1: the smallest rank that is good enough."""

import numpy as np

from lora_np import compress
from lora_np.course.draws import drawn

CHAPTER, PLACE, MINUTES, LEVEL = 1, 2, 10, "medium"
OUTPUTS = ("r",)
TRIALS = 8
HINTS = (
    "What a rank r leaves out is the root of the sum of the squares of the other singular values.",
    "Divide by the root of the sum of all squares, and take the first r that is within the error.",
)
library = compress.rank_for_error


def rank_for_error(W, error):
    """Return the smallest rank whose best approximation is within `error` of W, relative in the Frobenius norm."""
    energy = np.linalg.svd(W, compute_uv=False).astype(np.float64) ** 2
    for r in range(len(energy)):
        if energy[r:].sum() <= error**2 * energy.sum():
            return r
    return len(energy)


BRANCHES = {
    "the error is 1 or more": lambda error, **_: error >= 1,
    "the error is 1": lambda error, **_: error == 1,
    "W has a lower rank than its sides": lambda W, **_: np.linalg.matrix_rank(W) < min(W.shape),
    "all singular values are needed": lambda W, error: rank_for_error(W, error) == min(W.shape),
    "a rank is just good enough": lambda W, error: rank_for_error(W, error) < rank_for_error(W, error * (1 - 1e-6)),
    "d_in is larger than d_out": lambda W, **_: W.shape[0] > W.shape[1],
    "d_out is larger than d_in": lambda W, **_: W.shape[0] < W.shape[1],
}


def draw(rng, dtype, trial):
    """Return, on trials 0 and 7, an error for which squares, and their root, matter: other sums give another rank."""
    if trial == 1:  # the chapter's example, and a little more than just enough, which some sums round away
        return {"W": np.diag(np.array([4, 2, 2, 1], dtype)), "error": 0.6 * (1 + 1e-6)}
    if trial == 2:  # to the bit, however it is added up: rank 3 leaves out 16 of 64
        return {"W": np.diag(np.full(4, 4, dtype)), "error": 0.5}
    if trial in (3, 4, 5, 6):
        W = drawn(rng, dtype, *(((5, 4), (4, 6), (3, 5), (6, 4))[trial - 3]))
        if trial == 6:
            W[:, 2:] = W[:, :2] @ np.array([[1, 2], [-1, 1]], dtype)
        return {"W": W, "error": (1.4, 1e-6, 1.0, 1e-6)[trial - 3]}
    while True:
        d_in, d_out = (17, 22) if trial else (22, 17)
        W = drawn(rng, dtype, d_in, d_out) * (np.arange(1.0, d_out + 1) ** -rng.uniform(0.3, 2)).astype(dtype)
        s, error = np.linalg.svd(W, compute_uv=False), float(rng.uniform(0.05, 0.6))
        ranks = []
        for power, bound in ((2, error * error), (1, error), (2, error)):
            lost = np.append(np.cumsum(s[::-1] ** power)[::-1], 0)
            ranks.append(int(np.argmax(lost <= bound * lost[0])))
        ranks.append(int(np.argmax(np.append(s, 0) <= error * s[0])))  # as in the spectral norm
        if ranks[0] not in ranks[1:]:
            return {"W": W, "error": error}


SLIPS = [
    (
        "missing_term",
        "it is one too few",
        ("return r\n", "return r - 1\n"),
        ("return len(energy)", "return len(energy) - 1"),
    ),
    (
        "elementwise_factor",
        "the singular values are not squared",
        (".astype(np.float64) ** 2", ""),
        ("error**2", "error"),
    ),
    ("elementwise_factor", "the singular values are not squared", (".astype(np.float64) ** 2", "")),
    ("constant_factor", "sums of squares are compared with the error; square it, too", ("error**2", "error")),
    ("constant_factor", "the error is relative: compare with error times the norm of W", (" * energy.sum()", "")),
    (
        "constant_factor",
        "the error is relative: compare with error times the norm of W",
        ("error**2 * energy.sum()", "error"),
    ),
    (
        "extra_term",
        "it is one too many",
        ("return r\n", "return r + 1\n"),
        ("return len(energy)", "return len(energy) + 1"),
    ),
    (None, "what is just within the error is good enough: <=, not <", ("<=", "<")),
    ("wrong_cached_value", "the error is what is left out, not what is kept", ("error**2", "(1 - error) ** 2")),
    ("wrong_cached_value", "the error is what is left out, not what is kept", ("error**2", "(1 - error**2)")),
    (
        "wrong_cached_value",
        "this looks at one singular value at a time, as the spectral norm does; all that are left out count",
        ("energy[r:].sum()", "energy[r]"),
        ("energy.sum()", "energy[0]"),
    ),
    (
        "wrong_cached_value",
        "this looks at one singular value at a time; all that are left out count",
        ("energy[r:].sum()", "energy[r]"),
    ),
    ("mean_vs_sum", "a mean of squares is compared with a sum", ("energy[r:].sum()", "energy[r:].mean()")),
    (
        "mean_vs_sum",
        "a mean over all entries is compared with a sum",
        ("energy[r:].sum()", "energy[r:].sum() / W.size"),
    ),
    (
        None,
        "it is the largest rank; the smallest one that is within the error is asked for",
        ("if energy", "if False and energy"),
    ),
]
