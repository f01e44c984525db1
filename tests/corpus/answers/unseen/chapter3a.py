"""Chapter 3, first part: answers of learners, written without sight of the rules."""

import math
import sys

import numpy as np
from corpus.entries import right_answer, wrong_answer

EPS = float(np.finfo(np.float64).eps)

# numerical_gradient


@wrong_answer("numerical_gradient", cause="wrong_derivative", also=("missing_term",))
def gradient_one_sided(function, x):
    x = np.array(x, dtype=float)
    gradient, h, base = np.zeros_like(x), 1e-6, function(x)
    for index in np.ndindex(*x.shape):
        old = x[index]
        x[index] = old + h
        gradient[index] = (function(x) - base) / h
        x[index] = old
    return gradient


@wrong_answer("numerical_gradient", cause="missing_term", also=("constant_factor",))
def gradient_without_outer_points(function, x):
    x = x.astype(np.float64)
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        h = EPS**0.2 * max(1.0, abs(old))
        x[i] = old + h
        up = function(x)
        x[i] = old - h
        down = function(x)
        x[i] = old
        gradient[i] = (8 * up - 8 * down) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="constant_factor")
def gradient_divides_by_six(function, x):
    g, h = np.zeros(x.shape), 1e-3
    for index in np.ndindex(x.shape):
        E = np.zeros(x.shape)
        E[index] = h
        f = [function(x + k * E) for k in (-2, -1, 1, 2)]
        g[index] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (6 * h)
    return g


@wrong_answer("numerical_gradient", cause="inplace", also=("wrong_cached_value",))
def gradient_entries_left_moved(function, x):
    g = np.zeros_like(x)
    h = EPS**0.2
    for index in np.ndindex(x.shape):
        start, f = x[index], {}
        for k in (-2, -1, 1, 2):
            x[index] = start + k * h
            f[k] = function(x)
        g[index] = (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * h)
    return g


@wrong_answer("numerical_gradient", cause="sign", also=("swapped",))
def gradient_backwards(function, x):
    x = np.array(x, dtype=np.float64)
    h, g = 7e-4, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept, f = x[i], []
        for k in (2, 1, -1, -2):
            x[i] = kept + k * h
            f.append(function(x))
        x[i] = kept
        g[i] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    return g


@wrong_answer("numerical_gradient", cause="reduction_axis", also=("mean_vs_sum", "extra_term"))
def gradient_moves_everything(function, x):
    h = EPS**0.2
    g = np.empty_like(x)
    for index in np.ndindex(x.shape):
        near = (function(x + h) - function(x - h)) / (2 * h)
        wide = (function(x + 2 * h) - function(x - 2 * h)) / (4 * h)
        g[index] = (4 * near - wide) / 3
    return g


@wrong_answer("numerical_gradient", cause="elementwise_factor", also=("constant_factor",))
def gradient_divides_by_the_bare_step(function, x):
    x = np.array(x, dtype=np.float64)
    h, gradient = EPS**0.2, np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        step = h * max(1.0, abs(kept))
        f = []
        for k in (-2, -1, 1, 2):
            x[index] = kept + k * step
            f.append(function(x))
        x[index] = kept
        gradient[index] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="dtype")
def gradient_in_single(function, x):
    x = np.array(x, dtype=np.float32)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept, f = x[index], []
        for k in (-2, -1, 1, 2):
            x[index] = kept + k * 1e-2
            f.append(function(x))
        x[index] = kept
        gradient[index] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * 1e-2)
    return gradient


@right_answer("numerical_gradient")
def gradient_of_order_six(function, x):
    h, g = 2e-3, np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        E = np.zeros(x.shape)
        E[index] = h

        def slope(k, E=E):
            return (function(x + k * E) - function(x - k * E)) / (2 * k * h)

        g[index] = 1.5 * slope(1) - 0.6 * slope(2) + 0.1 * slope(3)
    return g


@right_answer("numerical_gradient")
def gradient_on_the_flat_array(function, x):
    flat = x.astype(np.float64).ravel()
    f = lambda v: function(v.reshape(x.shape))  # noqa: E731
    directions = np.eye(flat.size) * (EPS**0.2 * np.maximum(1, np.abs(flat)))[:, None]
    out = [(8 * (f(flat + e) - f(flat - e)) - f(flat + 2 * e) + f(flat - 2 * e)) / (12 * e.max()) for e in directions]
    return np.array(out).reshape(x.shape)


@right_answer("numerical_gradient")
def gradient_in_the_array_itself(function, x):
    g = np.zeros(x.shape)
    with np.nditer(g, flags=["multi_index"], op_flags=["writeonly"]) as places:
        for place in places:
            index, total = places.multi_index, 0.0
            kept = x[index]
            for k, weight in zip((-2, -1, 1, 2), (1, -8, 8, -1)):
                x[index] = kept + k * 5e-4
                total += weight * function(x)
            x[index] = kept
            place[...] = total / (12 * 5e-4)
    return g


# choose_step


@wrong_answer("choose_step", cause="missing_term", also=("wrong_derivative",))
def step_without_plus_one(order):
    return EPS ** (1 / order)


@wrong_answer("choose_step", cause="factor_order", also=("wrong_derivative",))
def step_bracket_forgotten(order):
    return np.finfo(np.float64).eps ** (1 / order + 1)


@wrong_answer("choose_step", cause="wrong_derivative")
def step_root_as_product(order):
    return sys.float_info.epsilon * (1 / (order + 1))


@wrong_answer("choose_step", cause="wrong_cached_value", also=("constant_factor", "dtype"))
def step_of_single_precision(order):
    eps = np.finfo(np.float32).eps
    return float(eps) ** (1 / (order + 1))


@wrong_answer("choose_step", cause="wrong_derivative", also=("dtype",))
def step_whole_division(order):
    return EPS ** (1 // (order + 1))


@wrong_answer("choose_step", cause="sign", also=("wrong_derivative",))
def step_negative_exponent(order):
    return EPS ** (-1 / (order + 1))


@wrong_answer("choose_step", cause="wrong_derivative")
def step_power_in_place_of_root(order):
    exponent = order + 1
    return math.pow(EPS, exponent)


@wrong_answer("choose_step", cause="wrong_cached_value", also=("wrong_derivative",))
def step_error_in_place_of_step(order):
    h = EPS ** (1 / (order + 1))
    return h**order


@right_answer("choose_step")
def step_by_logarithms(order):
    return math.exp(math.log(sys.float_info.epsilon) / (order + 1))


@right_answer("choose_step")
def step_by_halving_an_interval(order):
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if middle ** (order + 1) < EPS else (low, middle)
    return high


@right_answer("choose_step")
def step_as_power_of_two(order):
    return 2.0 ** (-52 / (order + 1))
