"""The mean square of a difference, over the rows that count, as a student is drawn to a teacher."""

import numpy as np

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dguess", "dtarget")
NAMES = ("guess target counts error", "student teacher used gap", "u v m r")


def forward(guess, target, counts):
    """Return the loss and the cache; counts (N,) is False where a row is left out."""
    error = guess - target
    number = int(counts.sum()) * guess.shape[1]
    loss = (counts[:, None] * error**2).sum() / number
    return loss, (error, counts, number)


def squared_error_backward(dloss, cache):
    """Return dguess and dtarget, both (N, d)."""
    error, counts, number = cache
    dguess = dloss * 2 * error * counts[:, None] / number
    dtarget = -dguess
    return dguess, dtarget


def draw(rng, dtype, trial):
    n, d = sizes(rng, 2)
    counts = rng.random(n) < 0.6
    counts[:2] = True, False
    return {"guess": drawn(rng, dtype, n, d), "target": drawn(rng, dtype, n, d)}, {"counts": counts}


SLIPS = """
constant_factor: the derivative of a square has a factor of 2
    2 * error => error
sign: target is taken away from guess, so its gradient has the other sign
    -dguess => dguess
mean_vs_sum: the loss is a mean, so it is divided by the number of entries
    counts[:, None] / number => counts[:, None]
wrong_derivative: the derivative of error squared is 2 error; this is one power too many
    2 * error => 2 * error**2
missing_term: target moves the loss as much as guess does, the other way
    -dguess => np.zeros_like(dguess)
"""
HIDDEN = {
    "no row is left out": """
mask_ignored: a row that is left out has no gradient
    error * counts[:, None] / number => error / number
constant_factor: the mean is over the entries that count, not over all
    / number => / error.size
""",
    "d = 1": """
constant_factor: the mean is over all columns, too; this divides by the number of rows alone
    / number => / int(counts.sum())
""",
}
UPSTREAM = """
ignores_upstream: the upstream number is missing
    dloss * 2 => 2
"""
UNLUCKY = {
    "no row is left out": lambda values: values | {"counts": np.ones_like(values["counts"])},
    "d = 1": lambda values: values | {name: values[name][:, :1] for name in ("guess", "target")},
}
