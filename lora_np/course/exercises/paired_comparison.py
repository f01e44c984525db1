"""Chapter 8: is one classifier better than another, on the same samples?"""

import math

import numpy as np

CHAPTER, PLACE, MINUTES, LEVEL = 8, 4, 20, "hard"
OUTPUTS = ("difference", "p")
HINTS = (
    "Samples on which both are right, or both wrong, say nothing about which is better. Count the others.",
    "If both were equally good, each of the n others would fall to either side like a coin.",
    "p = 2 * sum of comb(n, k) for k = 0 ... the smaller count, / 2**n, and at most 1.",
)
TOLERANCE = 1e-9


def paired_comparison(first, second):
    """Return how much larger the share of the first is, and the two-sided p."""
    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    n, fewer = better + worse, min(better, worse)
    p = min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    return (better - worse) / len(first), p


def split(first, second):
    return int((first & ~second).sum()), int((second & ~first).sum())


BRANCHES = {
    "the two never differ": lambda first, second: split(first, second) == (0, 0),
    "each is as often better": lambda first, second: split(first, second)[0] == split(first, second)[1] > 0,
    "the first is more often better": lambda first, second: split(first, second)[0] > split(first, second)[1],
    "the second is more often better": lambda first, second: split(first, second)[0] < split(first, second)[1],
    "one is never better": lambda first, second: min(split(first, second)) == 0 < max(split(first, second)),
    "so many differ that 2**n is no float": lambda first, second: sum(split(first, second)) > 1100,
}


def draw(rng, dtype, trial):
    better, worse, n = {0: (9, 4, 40), 1: (8, 2, 20), 2: (0, 0, 12), 3: (5, 5, 33), 4: (0, 6, 30), 5: (640, 560, 1500)}[
        trial
    ]
    first, second = rng.random(n) < 0.7, np.zeros(n, bool)
    second[:] = first
    places = rng.choice(n, better + worse, replace=False)
    first[places[:better]], second[places[:better]] = True, False
    first[places[better:]], second[places[better:]] = False, True
    return {"first": first, "second": second}


SLIPS = """
sign: the difference is that of the first less that of the second
    better - worse) => worse - better)
constant_factor: the difference is of shares: divide by the number of samples, not by that of the ones that differ
    / len(first) => / max(n, 1)
constant_factor: the test is two-sided: twice the tail
    min(1.0, 2 * sum => min(1.0, sum
constant_factor: p is at most 1
    min(1.0, 2 => float(2
missing_term: the tail ends with the count itself: range(fewer + 1)
    range(fewer + 1) => range(fewer)
missing_term: this is the chance of just this count; the tail has those below, too
    sum(math.comb(n, k) for k in range(fewer + 1)) => math.comb(n, fewer)
other: samples on which both agree say nothing; n counts those that differ
    2**n => 2**len(first)
other: samples on which both agree say nothing; n counts those that differ
    n, fewer = better + worse, => n, fewer = len(first),
other: samples on which both agree say nothing; n counts those that differ
    n, fewer = better + worse, min(better, worse) => n, fewer = len(first), len(first) - max(better, worse)
constant_factor: the difference is of shares: divide by the number of samples
    / len(first) =>
missing_term: the tail is that of the one that is better less often, whichever of the two it is
    range(fewer + 1) => range(worse + 1)
missing_term: the tail is that of the one that is better less often, whichever of the two it is
    range(fewer + 1) => range(better + 1)
"""
