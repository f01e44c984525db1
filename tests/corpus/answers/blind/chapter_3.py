"""Answers to the exercises of chapter 3, by somebody who saw their text alone."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer


@wrong_answer("choose_step", cause=None)
def brackets_of_the_exponent_forgotten(order):
    eps = np.finfo(np.float64).eps
    return eps**1 / (order + 1)


@wrong_answer("choose_step", cause=None)
def the_least_error_and_not_its_step(order):
    return float(np.finfo(np.float64).eps ** (order / (order + 1)))


@wrong_answer("choose_step", cause=None)
def exponent_by_whole_division(order):
    p = order
    return float(np.finfo(float).eps) ** (1 // (p + 1))


@right_answer("choose_step")
def by_logarithms(order):
    return math.exp(math.log(math.ulp(1.0)) / (1 + order))


@wrong_answer("numerical_gradient", cause="inplace", also=("zero_gradient",))
def four_names_for_one_array(function, x):
    gradient = np.zeros_like(x)
    step = np.finfo(np.float64).eps ** (1 / 5)
    for index in np.ndindex(x.shape):
        h = step * max(1.0, abs(x[index]))

        def moved(amount, index=index):
            point = x
            point[index] += amount
            return point

        points = [moved(k * h) for k in (-2, -1, 1, 2)]
        far_left, left, right, far_right = (function(point) for point in points)
        gradient[index] = (far_left - 8 * left + 8 * right - far_right) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="constant_factor")
def wide_difference_over_the_narrow_distance(function, x):
    work = x.copy()
    out = np.empty(x.shape)
    for idx in np.ndindex(*x.shape):
        old = x[idx]
        h = 2.2e-16**0.2 * max(abs(old), 1)
        f = {}
        for k in (-2, -1, 1, 2):
            work[idx] = old + k * h
            f[k] = function(work)
        work[idx] = old
        near = (f[1] - f[-1]) / (2 * h)
        wide = (f[2] - f[-2]) / (2 * h)
        out[idx] = (4 * near - wide) / 3
    return out


@wrong_answer("numerical_gradient", cause="reduction_axis")
def a_whole_row_is_nudged_at_once(function, x):
    h = np.finfo(np.float64).eps ** 0.2
    gradient = np.zeros_like(x)
    for i in range(x.shape[0]):
        values = []
        for k in (-2, -1, 1, 2):
            nudged = x.copy()
            nudged[i] = x[i] + k * h
            values.append(function(nudged))
        gradient[i] = np.dot(values, (1, -8, 8, -1)) / (12 * h)
    return gradient


@right_answer("numerical_gradient")
def richardson_on_one_hot_steps(function, x):
    base = np.array(x, dtype=np.float64)
    steps = 2.0 ** (-52 / 5) * np.maximum(1, np.abs(base))

    def slope(place, h):
        hot = np.zeros(base.size)
        hot[place] = h
        hot = hot.reshape(base.shape)
        return (float(function(base + hot)) - float(function(base - hot))) / (2 * h)

    flat = [(4 * slope(k, h) - slope(k, 2 * h)) / 3 for k, h in enumerate(steps.ravel())]
    return np.array(flat).reshape(base.shape)
