"""Answers to the exercise of chapter 8: the interval of an accuracy."""

import math
from statistics import NormalDist

from answers_parts import Right, Wrong

Z = 1.959963984540054


def normal_approximation(correct, total):
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total)
    return p - half, p + half


def ninety_percent(correct, total):
    z, p = 1.6448536269514722, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return middle - half, middle + half


def total_not_squared(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total))
    return middle - half, middle + half


def not_divided(correct, total):
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return p + Z**2 / (2 * total) - half, p + Z**2 / (2 * total) + half


def half_not_divided(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle - half, middle + half


def around_the_share(correct, total):
    p = correct / total
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return p - half, p + half


def middle_and_half(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    return middle, Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))


def high_before_low(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle + half, middle - half


def in_percent(correct, total):
    p = 100 * correct / total
    middle = (p + 100 * Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (100 - p) / total + (100 * Z) ** 2 / (4 * total**2))
    return middle - half, middle + half


def whole_division(correct, total):
    p = correct // total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle - half, middle + half


def two_more_of_each(correct, total):
    p = (correct + 2) / (total + 4)
    half = Z * math.sqrt(p * (1 - p) / (total + 4))
    return p - half, p + half


def of_the_example(correct, total):
    return 0.711171, 0.866633


def roots_of_the_quadratic(correct, total):
    p = correct / total
    a, b, c = 1 + Z * Z / total, -(2 * p + Z * Z / total), p * p
    root = math.sqrt(b * b - 4 * a * c)
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def in_counts(correct, total):
    z = NormalDist().inv_cdf(0.975)
    wrong = total - correct
    half = z * math.sqrt(correct * wrong / total + z**2 / 4)
    return (correct + z**2 / 2 - half) / (total + z**2), (correct + z**2 / 2 + half) / (total + z**2)


def by_bisection(correct, total):
    p = correct / total

    def edge(inside, outside):
        for _ in range(200):
            x = (inside + outside) / 2
            if (p - x) ** 2 <= Z**2 * x * (1 - x) / total:
                inside = x
            else:
                outside = x
        return inside

    return edge(p, 0.0), edge(p, 1.0)


WRONG = [
    Wrong("accuracy_interval", normal_approximation, None),
    Wrong("accuracy_interval", ninety_percent, "constant_factor"),
    Wrong("accuracy_interval", total_not_squared, None, ("constant_factor",)),
    Wrong("accuracy_interval", not_divided, "constant_factor"),
    Wrong("accuracy_interval", half_not_divided, "factor_order", ("constant_factor",)),
    Wrong("accuracy_interval", around_the_share, "missing_term"),
    Wrong("accuracy_interval", middle_and_half, None),
    Wrong("accuracy_interval", high_before_low, "swapped", ("sign",)),
    Wrong("accuracy_interval", in_percent, "constant_factor"),
    Wrong("accuracy_interval", whole_division, None),
    Wrong("accuracy_interval", two_more_of_each, None),
    Wrong("accuracy_interval", of_the_example, None),
]
RIGHT = [
    Right("accuracy_interval", roots_of_the_quadratic),
    Right("accuracy_interval", in_counts),
    Right("accuracy_interval", by_bisection),
]
