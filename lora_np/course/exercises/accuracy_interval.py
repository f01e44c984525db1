"""Chapter 8: how sure a measured share is."""

import math

import numpy as np

from lora_np.course.findings import Finding, difference
from lora_np.train.evaluate import wilson_interval

CHAPTER, PLACE, MINUTES, LEVEL = 8, 3, 15, "medium"
OUTPUTS = ("low", "high")
HINTS = (
    "With share = correct / total the inequality is a p^2 - b p + c <= 0: read off a, b and c. The ends are its roots.",
    "The roots are (b - root) / (2 a) and (b + root) / (2 a), with root = sqrt(b^2 - 4 a c).",
    "By hand: 8 of 10 gives 0.490 and 0.943. With 0 of 10 the lower end is 0.",
)
TOLERANCE = 1e-4  # 1.96 is as good
ALIKE = 1e-3  # of two slips, as 1.645 is as good for 90 %


def library(correct, total):
    return wilson_interval(correct / total, total, 1.959963984540054)


def accuracy_interval(correct, total):
    """Return (low, high), the 95 % Wilson interval of a share."""
    z = 1.959963984540054
    share = correct / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    below = 1 + z * z / total
    return (middle - half) / below, (middle + half) / below


BRANCHES = {
    "nothing is right": lambda correct, **_: correct == 0,
    "all is right": lambda correct, total: correct == total,
    "total is 1": lambda total, **_: total == 1,
    "more than half is right": lambda correct, total: total / 2 < correct < total,
    "less than half is right": lambda correct, total: 0 < correct < total / 2,
    "total is large": lambda total, **_: total > 1000,
}


def draw(rng, dtype, trial):
    total = int(rng.integers(20, 90))
    correct, total = ((total * 2 // 3, total), (8, 10), (0, total), (total // 5, total), (1, 1), (2900, 4000))[trial]
    return {"correct": correct, "total": total}


def numbers(results):
    low, high = results["low"], results["high"]
    return {"low": np.array([low, high]), "high": np.array([high, low])}  # an end may be 0, but for rounding


def judge(given, right, arguments):
    for name, value in right.items():
        found = difference(name, given[name], value, np.inf)  # shape and type: a share has an absolute error
        if found is None and abs(given[name] - value) > TOLERANCE:
            found = Finding("number", name, {"given": given[name], "expected": value})
        if found:
            yield found


SLIPS = """
swapped: low and high are returned in each other's place
    return (middle - half) / below, (middle + half) / below => return (middle + half) / below, (middle - half) / below
other: these are the middle and the half width; low and high are asked for
    return (middle - half) / below, (middle + half) / below => return middle / below, half / below
constant_factor: z is 1.96 for 95 %; this is that of 90 %
    z = 1.959963984540054 => z = 1.6448536269514722
constant_factor: z is 1.96 for 95 %; this is that of 99 %
    z = 1.959963984540054 => z = 2.5758293035489004
constant_factor: z is 1.96 for 95 %, not 2
    z = 1.959963984540054 => z = 2.0
constant_factor: z is 1.96 for 95 %, not 1
    z = 1.959963984540054 => z = 1.0
constant_factor: neither the middle nor the half width is divided by 1 + z^2 / n
    below = 1 + z * z / total => below = 1
factor_order: the half width is not divided by 1 + z^2 / n
    return (middle - half) / below, (middle + half) / below => return middle / below - half, middle / below + half
factor_order: the middle is not divided by 1 + z^2 / n
    return (middle - half) / below, (middle + half) / below => return middle - half / below, middle + half / below
missing_term: the middle is the share itself; Wilson's is drawn towards 1/2
    return (middle - half) / below, (middle + half) / below => return share - half / below, share + half / below
missing_term: the middle lacks z^2 / (2 n)
    share + z * z / (2 * total) => share
missing_term: the root lacks z^2 / (4 n^2)
    + z * z / (4 * total * total) =>
constant_factor: the middle has z^2 / (2 n); the 2 is missing
    / (2 * total) => / total
constant_factor: the root has z^2 / (4 n^2); the 4 is missing
    (4 * total * total) => (total * total)
constant_factor: the root has z^2 / (4 n^2); n is not squared
    (4 * total * total) => (4 * total)
constant_factor: the root has z^2 / (4 n^2); the 4 is a 2
    (4 * total * total) => (2 * total * total)
constant_factor: z is not squared in z^2 / n
    z * z => z
sign: the divisor is 1 + z^2 / n
    below = 1 + z * z / total => below = 1 - z * z / total
sign: the middle is drawn towards 1/2: z^2 / (2 n) is added
    share + z => share - z
missing_term: this is the interval around the share itself, share +- z sqrt(share (1 - share) / n), not Wilson's
    share + z * z / (2 * total) => share
    math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) => math.sqrt(share * (1 - share) / total)
    below = 1 + z * z / total => below = 1
missing_term: this is the interval around the share itself, cut off at 0 and 1, not Wilson's
    below = 1 + z * z / total => half = z * math.sqrt(share * (1 - share) / total)
    return (middle - half) / below, (middle + half) / below => return max(share - half, 0.0), min(share + half, 1.0)
constant_factor: z is missing before the root
    half = z * => half =
wrong_derivative: the root is missing in the half width
    math.sqrt(share => (share
elementwise_factor: the variance of a share is share * (1 - share); the second factor is missing
    share * (1 - share) => share
constant_factor: it is in percent; a share lies between 0 and 1
    below = 1 + z * z / total => below = (1 + z * z / total) / 100
constant_factor: the roots of a p^2 - b p + c are divided by 2 a; the 2 is missing
    below = 1 + z * z / total => below = (1 + z * z / total) / 2
sign: both ends have the sign of -b; the inequality has - b p, so its roots are (b -+ root) / (2 a)
    return (middle - half) / below, (middle + half) / below => return (-middle - half) / below, (half - middle) / below
other: two more of each kind (Agresti and Coull) come near; Wilson's interval is asked for
    share = correct / total => correct, total = correct + 2, total + 4; share = correct / total
    + z * z / (2 * total) =>
    + z * z / (4 * total * total) =>
    below = 1 + z * z / total => below = 1
"""
