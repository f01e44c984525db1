"""Chapter 8: answers of learners, written without sight of the rules."""

import math
from statistics import NormalDist

import numpy as np
from corpus.entries import right_answer, wrong_answer

Z = 1.959963984540054

# accuracy_interval


@wrong_answer("accuracy_interval", cause="missing_term", also=("wrong_derivative",))
def interval_of_the_textbook(correct, total):
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total)
    return p - half, p + half


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_not_divided(correct, total):
    z, p = Z, correct / total
    middle = p + z**2 / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_half_width_not_divided(correct, total):
    p = correct / total
    below = 1 + Z * Z / total
    middle = (p + Z * Z / (2 * total)) / below
    half = Z * (p * (1 - p) / total + Z * Z / (4 * total * total)) ** 0.5
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="constant_factor", also=("wrong_cached_value",))
def interval_of_ninety_percent(correct, total):
    z, n = NormalDist().inv_cdf(0.95), total
    p = correct / n
    root = math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - z * root) / (1 + z * z / n), (p + z * z / (2 * n) + z * root) / (1 + z * z / n)


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_middle_not_halved(correct, total):
    n, p = total, correct / total
    zz = Z * Z / n
    middle = (p + zz) / (1 + zz)
    half = Z * math.sqrt(p * (1 - p) / n + zz / (4 * n)) / (1 + zz)
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="swapped", also=("sign",))
def interval_upper_end_first(correct, total):
    share = correct / total
    square = Z * Z / total
    root = Z * math.sqrt(share * (1 - share) / total + square / (4 * total))
    ends = [(share + square / 2 + s * root) / (1 + square) for s in (1, -1)]
    return ends[0], ends[1]


@wrong_answer("accuracy_interval", cause="wrong_cached_value", also=("swapped",))
def interval_of_the_errors(correct, total):
    share = (total - correct) / total
    middle = share + Z**2 / (2 * total)
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    below = 1 + Z**2 / total
    return (middle - half) / below, (middle + half) / below


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_in_percent(correct, total):
    n = total
    p = correct / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return 100 * (middle - half), 100 * (middle + half)


@right_answer("accuracy_interval")
def interval_by_the_quadratic(correct, total):
    z2, p = Z * Z, correct / total
    a, b, c = 1 + z2 / total, -(2 * p + z2 / total), p * p
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@right_answer("accuracy_interval")
def interval_by_polynomial_roots(correct, total):
    z2 = NormalDist().inv_cdf(0.975) ** 2
    low, high = sorted(np.roots([total + z2, -(2 * correct + z2), correct * correct / total]).real)
    return float(low), float(high)


@right_answer("accuracy_interval")
def interval_in_counts(correct, total):
    wrong, z2 = total - correct, Z**2
    middle = (correct + z2 / 2) / (total + z2)
    half = Z / (total + z2) * math.sqrt(correct * wrong / total + z2 / 4)
    return middle - half, middle + half
