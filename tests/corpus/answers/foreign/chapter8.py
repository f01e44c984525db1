import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

Z = 1.959963984540054

# accuracy_interval(correct, total)


@wrong_answer("accuracy_interval", cause=None)
def interval_of_wald(correct, total):
    "The simple interval: share plus and minus z standard deviations."
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total)
    return p - half, p + half


@wrong_answer("accuracy_interval", cause=None)
def interval_of_wald_clipped(correct, total):
    "The simple interval, cut to 0 and 1: right at the lower end of 0 of n only."
    p = correct / total
    half = Z * math.sqrt(p * (1 - p) / total)
    return max(0.0, p - half), min(1.0, p + half)


@wrong_answer("accuracy_interval", cause="missing_term")
def interval_middle_not_moved(correct, total):
    "The middle is the share itself, divided."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / below
    return p / below - half, p / below + half


@wrong_answer("accuracy_interval", cause="missing_term")
def interval_root_of_one_term(correct, total):
    "z squared over 4 n squared is left out under the root."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    middle, half = (p + Z * Z / (2 * n)) / below, Z * math.sqrt(p * (1 - p) / n) / below
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="missing_term", also=("constant_factor",))
def interval_not_divided(correct, total):
    "The division by 1 + z squared / n is left out."
    p, n = correct / total, total
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="factor_order")
def interval_middle_not_divided(correct, total):
    "Only the half width is divided."
    p, n = correct / total, total
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    middle = p + Z * Z / (2 * n)
    return middle - half, middle + half


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_four_n(correct, total):
    "4 n in place of 4 n squared under the root."
    p, n = correct / total, total
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n))
    return (p + Z * Z / (2 * n) - half) / (1 + Z * Z / n), (p + Z * Z / (2 * n) + half) / (1 + Z * Z / n)


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_one_sided(correct, total):
    "z = 1.645, that of one side."
    z, p, n = 1.6448536269514722, correct / total, total
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - half) / (1 + z * z / n), (p + z * z / (2 * n) + half) / (1 + z * z / n)


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_z_of_two(correct, total):
    "z = 2, as a rule of thumb."
    z, p, n = 2.0, correct / total, total
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - half) / (1 + z * z / n), (p + z * z / (2 * n) + half) / (1 + z * z / n)


@wrong_answer("accuracy_interval", cause=None)
def interval_as_middle_and_half(correct, total):
    "Returns the middle and the half width."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    return (p + Z * Z / (2 * n)) / below, Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / below


@wrong_answer("accuracy_interval", cause="swapped")
def interval_high_first(correct, total):
    "The upper end comes first."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (middle + half) / below, (middle - half) / below


@wrong_answer("accuracy_interval", cause="constant_factor")
def interval_in_percent(correct, total):
    "In percent, rounded."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return round(100 * (middle - half) / below), round(100 * (middle + half) / below)


@wrong_answer("accuracy_interval", cause=None)
def interval_rounded(correct, total):
    "Rounded to two digits."
    p, n = correct / total, total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return round((middle - half) / below, 2), round((middle + half) / below, 2)


@wrong_answer("accuracy_interval", cause=None)
def interval_integer_division(correct, total):
    "The share by integer division: 0 unless all are right."
    p, n = correct // total, total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (middle - half) / below, (middle + half) / below


@wrong_answer("accuracy_interval", cause=None)
def interval_special_case(correct, total):
    "All right is taken for certain: returns 1 for both ends."
    if correct == total:
        return 1.0, 1.0
    p, n = correct / total, total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (middle - half) / below, (middle + half) / below


@wrong_answer("accuracy_interval", cause=None)
def interval_zero_divides(correct, total):
    "Divides by the share: fails where nothing is right."
    wrong_to_right = (total - correct) / correct
    p, n = 1 / (1 + wrong_to_right), total
    below = 1 + Z * Z / n
    middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (middle - half) / below, (middle + half) / below


@right_answer("accuracy_interval")
def interval_by_roots(correct, total):
    "The roots of the quadratic, by np.roots."
    share, per = correct / total, Z**2 / total
    low, high = sorted(np.roots([1 + per, -(2 * share + per), share**2]).real)
    return float(low), float(high)


@right_answer("accuracy_interval")
def interval_in_counts(correct, total):
    "Multiplied by n throughout: counts in place of shares."
    wrong = total - correct
    middle = correct + Z * Z / 2
    half = Z * math.sqrt(correct * wrong / total + Z * Z / 4)
    return (middle - half) / (total + Z * Z), (middle + half) / (total + Z * Z)


@right_answer("accuracy_interval")
def interval_with_stable_root(correct, total):
    "The upper root by the formula, the lower one from the product of both."
    p, t = correct / total, Z * Z / total
    high = (2 * p + t + math.sqrt(t * t + 4 * t * p * (1 - p))) / (2 * (1 + t))
    return p * p / ((1 + t) * high), high


@right_answer("accuracy_interval")
def interval_by_bisection(correct, total):
    "Looks for the ends of the inequality by bisection."
    share = correct / total

    def holds(p):
        return (share - p) ** 2 <= Z * Z * p * (1 - p) / total

    def border(inside, outside):
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if holds(middle) else (inside, middle)
        return inside

    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    return border(centre, 0.0), border(centre, 1.0)
