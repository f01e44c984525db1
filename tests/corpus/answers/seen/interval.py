"""Answers to the exercise of chapter 8: the interval of an accuracy."""

import math
from statistics import NormalDist

from corpus.entries import right_answer, wrong_answer

Z = 1.959963984540054


@wrong_answer("accuracy_interval", cause=None)
def normal_approximation(correct, total):
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total)
    return p - half, p + half


@wrong_answer("accuracy_interval", cause="constant_factor")
def ninety_percent(correct, total):
    z, p = 1.6448536269514722, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause=None, also=("constant_factor",))
def total_not_squared(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="constant_factor")
def not_divided(correct, total):
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return p + Z**2 / (2 * total) - half, p + Z**2 / (2 * total) + half


@wrong_answer("accuracy_interval", cause="factor_order", also=("constant_factor",))
def half_not_divided(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="missing_term")
def around_the_share(correct, total):
    p = correct / total
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return p - half, p + half


@wrong_answer("accuracy_interval", cause=None)
def middle_and_half(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    return middle, Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))


@wrong_answer("accuracy_interval", cause="swapped", also=("sign",))
def high_before_low(correct, total):
    p = correct / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle + half, middle - half


@wrong_answer("accuracy_interval", cause="constant_factor")
def in_percent(correct, total):
    p = 100 * correct / total
    middle = (p + 100 * Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (100 - p) / total + (100 * Z) ** 2 / (4 * total**2))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause=None)
def whole_division(correct, total):
    p = correct // total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause=None)
def two_more_of_each(correct, total):
    p = (correct + 2) / (total + 4)
    half = Z * math.sqrt(p * (1 - p) / (total + 4))
    return p - half, p + half


@wrong_answer("accuracy_interval", cause=None)
def of_the_example(correct, total):
    return 0.711171, 0.866633


@right_answer("accuracy_interval")
def roots_of_the_quadratic(correct, total):
    p = correct / total
    a, b, c = 1 + Z * Z / total, -(2 * p + Z * Z / total), p * p
    root = math.sqrt(b * b - 4 * a * c)
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


@right_answer("accuracy_interval")
def in_counts(correct, total):
    z = NormalDist().inv_cdf(0.975)
    wrong = total - correct
    half = z * math.sqrt(correct * wrong / total + z**2 / 4)
    return (correct + z**2 / 2 - half) / (total + z**2), (correct + z**2 / 2 + half) / (total + z**2)


@right_answer("accuracy_interval")
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
