"""Answers to the exercises of chapter 3, first part: differences and their step."""

import itertools
import math
import sys

import numpy as np
from answers_parts import Right, Wrong

STEP = 7e-4  # about eps ** (1 / 5)


def forward_difference(function, x):
    h = 1e-6
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] += h
        grad[i] = (function(moved) - function(x)) / h
    return grad


def order_two(function, x):
    h = 1e-4
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (function(up) - function(down)) / (2 * h)
    return grad


def twelve_forgotten(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 1) - at(i, -1)) - (at(i, 2) - at(i, -2))) / (2 * STEP)
    return grad


def outer_pair_added(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 1) - at(i, -1)) + (at(i, 2) - at(i, -2))) / (12 * STEP)
    return grad


def weights_exchanged(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 2) - at(i, -2)) - (at(i, 1) - at(i, -1))) / (12 * STEP)
    return grad


def never_moved_back(function, x):
    grad = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        values = []
        for k in (-2, -1, 1, 2):
            x[i] += k * STEP
            values.append(function(x))
        a, b, c, d = values
        grad[i] = (a - 8 * b + 8 * c - d) / (12 * STEP)
    return grad


def all_at_once(function, x):
    h = STEP
    slope = (function(x - 2 * h) - 8 * function(x - h) + 8 * function(x + h) - function(x + 2 * h)) / (12 * h)
    return np.full_like(x, slope)


def step_as_small_as_can_be(function, x):
    h = 1e-12
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = h
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * h)
    return grad


def flat_result(function, x):
    slopes = []
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        slopes.append((8 * inner - outer) / (12 * STEP))
    return np.array(slopes)[None, :]


def whole_rows_moved(function, x):
    grad = np.zeros_like(x)
    for i in range(len(x)):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


def slopes_in_single(function, x):
    grad = np.zeros(x.shape, dtype=np.float32)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


def other_way_round(function, x):
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x - e) - function(x + e), function(x - 2 * e) - function(x + 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


def richardson(function, x):
    def central(direction, h):
        return (function(x + h * direction) - function(x - h * direction)) / (2 * h)

    slopes = []
    for row in np.eye(x.size):
        direction = row.reshape(x.shape)
        slopes.append((4 * central(direction, STEP) - central(direction, 2 * STEP)) / 3)
    return np.array(slopes).reshape(x.shape)


def moved_and_put_back(function, x):
    grad = np.empty_like(x)
    for i in itertools.product(*map(range, x.shape)):
        kept = x[i]
        h = STEP * max(1.0, abs(kept))
        total = 0.0
        for k, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            x[i] = kept + k * h
            total += weight * float(function(x))
        x[i] = kept
        grad[i] = total / (12 * h)
    return grad


def weights_from_a_linear_system(function, x):
    places = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    weights = np.linalg.solve(places[None, :] ** np.arange(5)[:, None], np.array([0.0, 1, 0, 0, 0]))
    flat = x.ravel()
    grad = np.zeros(x.size)
    for i in range(x.size):
        for place, weight in zip(places, weights):
            moved = flat.copy()
            moved[i] += place * STEP
            grad[i] += weight * function(moved.reshape(x.shape)) / STEP
    return grad.reshape(x.shape)


def always_the_root(order):
    return np.sqrt(np.finfo(float).eps)


def one_less(order):
    return np.finfo(np.float64).eps ** (1 / order)


def power_before_the_quotient(order):
    return np.finfo(np.float64).eps ** 1 / (order + 1)


def whole_quotient(order):
    return float(np.finfo(np.float64).eps) ** (1 // (order + 1))


def eps_of_single(order):
    return float(np.finfo(np.float32).eps) ** (1 / (order + 1))


def the_step_for_order_four(order):
    return 7.4e-4


def minus_in_the_exponent(order):
    return np.finfo(np.float64).eps ** (-1 / (order + 1))


def eps_itself(order):
    return float(np.finfo(np.float64).eps)


def order_over_order_plus_one(order):
    return float(np.finfo(np.float64).eps) ** (order / (order + 1))


def smallest_number(order):
    return float(np.finfo(np.float64).tiny) ** (1 / (order + 1))


def step_printed(order):
    print(np.finfo(np.float64).eps ** (1 / (order + 1)))


def by_logarithm(order):
    return math.exp(math.log(sys.float_info.epsilon) / (order + 1))


def power_of_two(order):
    return 2.0 ** (-52 / (order + 1))


def spacing_of_one(order):
    return np.power(np.spacing(1.0), np.reciprocal(order + 1.0))


WRONG = [
    Wrong("numerical_gradient", forward_difference, None),
    Wrong("numerical_gradient", order_two, None, ("missing_term",)),
    Wrong("numerical_gradient", twelve_forgotten, "constant_factor"),
    Wrong("numerical_gradient", outer_pair_added, "sign", ("constant_factor",)),
    Wrong("numerical_gradient", weights_exchanged, "swapped", ("constant_factor",)),
    Wrong("numerical_gradient", never_moved_back, "inplace"),
    Wrong("numerical_gradient", all_at_once, "reduction_axis"),
    Wrong("numerical_gradient", step_as_small_as_can_be, None),
    Wrong("numerical_gradient", flat_result, "shape"),
    Wrong("numerical_gradient", whole_rows_moved, "reduction_axis"),
    Wrong("numerical_gradient", slopes_in_single, "dtype"),
    Wrong("numerical_gradient", other_way_round, "sign"),
    Wrong("choose_step", always_the_root, None),
    Wrong("choose_step", one_less, None),
    Wrong("choose_step", power_before_the_quotient, None),
    Wrong("choose_step", whole_quotient, None),
    Wrong("choose_step", eps_of_single, "dtype"),
    Wrong("choose_step", the_step_for_order_four, None),
    Wrong("choose_step", minus_in_the_exponent, "sign"),
    Wrong("choose_step", eps_itself, None),
    Wrong("choose_step", order_over_order_plus_one, None),
    Wrong("choose_step", smallest_number, None),
    Wrong("choose_step", step_printed, None),
]
RIGHT = [
    Right("numerical_gradient", richardson),
    Right("numerical_gradient", moved_and_put_back),
    Right("numerical_gradient", weights_from_a_linear_system),
    Right("choose_step", by_logarithm),
    Right("choose_step", power_of_two),
    Right("choose_step", spacing_of_one),
]
