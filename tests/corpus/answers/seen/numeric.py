"""Answers to the exercises of chapter 3, first part: differences and their step."""

import itertools
import math
import sys

import numpy as np
from corpus.entries import right_answer, wrong_answer

STEP = 7e-4  # about eps ** (1 / 5)


@wrong_answer("numerical_gradient", cause=None)
def forward_difference(function, x):
    h = 1e-6
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] += h
        grad[i] = (function(moved) - function(x)) / h
    return grad


@wrong_answer("numerical_gradient", cause=None, also=("missing_term",))
def order_two(function, x):
    h = 1e-4
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (function(up) - function(down)) / (2 * h)
    return grad


@wrong_answer("numerical_gradient", cause="constant_factor")
def twelve_forgotten(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 1) - at(i, -1)) - (at(i, 2) - at(i, -2))) / (2 * STEP)
    return grad


@wrong_answer("numerical_gradient", cause="sign", also=("constant_factor",))
def outer_pair_added(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 1) - at(i, -1)) + (at(i, 2) - at(i, -2))) / (12 * STEP)
    return grad


@wrong_answer("numerical_gradient", cause="swapped", also=("constant_factor",))
def weights_exchanged(function, x):
    def at(i, k):
        moved = x.copy()
        moved[i] += k * STEP
        return function(moved)

    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        grad[i] = (8 * (at(i, 2) - at(i, -2)) - (at(i, 1) - at(i, -1))) / (12 * STEP)
    return grad


@wrong_answer("numerical_gradient", cause="inplace")
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


@wrong_answer("numerical_gradient", cause="reduction_axis")
def all_at_once(function, x):
    h = STEP
    slope = (function(x - 2 * h) - 8 * function(x - h) + 8 * function(x + h) - function(x + 2 * h)) / (12 * h)
    return np.full_like(x, slope)


@wrong_answer("numerical_gradient", cause=None)
def step_as_small_as_can_be(function, x):
    h = 1e-12
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = h
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * h)
    return grad


@wrong_answer("numerical_gradient", cause="shape")
def flat_result(function, x):
    slopes = []
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        slopes.append((8 * inner - outer) / (12 * STEP))
    return np.array(slopes)[None, :]


@wrong_answer("numerical_gradient", cause="reduction_axis")
def whole_rows_moved(function, x):
    grad = np.zeros_like(x)
    for i in range(len(x)):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


@wrong_answer("numerical_gradient", cause="dtype")
def slopes_in_single(function, x):
    grad = np.zeros(x.shape, dtype=np.float32)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x + e) - function(x - e), function(x + 2 * e) - function(x - 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


@wrong_answer("numerical_gradient", cause="sign")
def other_way_round(function, x):
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[i] = STEP
        inner, outer = function(x - e) - function(x + e), function(x - 2 * e) - function(x + 2 * e)
        grad[i] = (8 * inner - outer) / (12 * STEP)
    return grad


@right_answer("numerical_gradient")
def richardson(function, x):
    def central(direction, h):
        return (function(x + h * direction) - function(x - h * direction)) / (2 * h)

    slopes = []
    for row in np.eye(x.size):
        direction = row.reshape(x.shape)
        slopes.append((4 * central(direction, STEP) - central(direction, 2 * STEP)) / 3)
    return np.array(slopes).reshape(x.shape)


@right_answer("numerical_gradient")
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


@right_answer("numerical_gradient")
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


@wrong_answer("choose_step", cause=None)
def always_the_root(order):
    return np.sqrt(np.finfo(float).eps)


@wrong_answer("choose_step", cause=None)
def one_less(order):
    return np.finfo(np.float64).eps ** (1 / order)


@wrong_answer("choose_step", cause=None)
def power_before_the_quotient(order):
    return np.finfo(np.float64).eps ** 1 / (order + 1)


@wrong_answer("choose_step", cause=None)
def whole_quotient(order):
    return float(np.finfo(np.float64).eps) ** (1 // (order + 1))


@wrong_answer("choose_step", cause="dtype")
def eps_of_single(order):
    return float(np.finfo(np.float32).eps) ** (1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def the_step_for_order_four(order):
    return 7.4e-4


@wrong_answer("choose_step", cause="sign")
def minus_in_the_exponent(order):
    return np.finfo(np.float64).eps ** (-1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def eps_itself(order):
    return float(np.finfo(np.float64).eps)


@wrong_answer("choose_step", cause=None)
def order_over_order_plus_one(order):
    return float(np.finfo(np.float64).eps) ** (order / (order + 1))


@wrong_answer("choose_step", cause=None)
def smallest_number(order):
    return float(np.finfo(np.float64).tiny) ** (1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def step_printed(order):
    print(np.finfo(np.float64).eps ** (1 / (order + 1)))


@right_answer("choose_step")
def by_logarithm(order):
    return math.exp(math.log(sys.float_info.epsilon) / (order + 1))


@right_answer("choose_step")
def power_of_two(order):
    return 2.0 ** (-52 / (order + 1))


@right_answer("choose_step")
def spacing_of_one(order):
    return np.power(np.spacing(1.0), np.reciprocal(order + 1.0))
