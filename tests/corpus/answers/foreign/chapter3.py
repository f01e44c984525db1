import math
import sys

import numpy as np
from corpus.entries import right_answer, wrong_answer

# choose_step(order)


@wrong_answer("choose_step", cause=None)
def step_integer_division(order):
    "1 // (order + 1) is 0, so h is 1."
    return np.finfo(np.float64).eps ** (1 // (order + 1))


@wrong_answer("choose_step", cause=None)
def step_root_of_order(order):
    "The power is 1 / order: the falling part is taken for a constant."
    return float(np.finfo(np.float64).eps) ** (1 / order)


@wrong_answer("choose_step", cause=None)
def step_best_error(order):
    "Returns the error at the best step, not the step."
    return float(np.finfo(np.float64).eps) ** (order / (order + 1))


@wrong_answer("choose_step", cause=None)
def step_of_float32(order):
    "eps of float32."
    return float(np.finfo(np.float32).eps) ** (1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def step_of_forward_difference(order):
    "The root of eps, whatever the order."
    return float(np.finfo(np.float64).eps) ** 0.5


@wrong_answer("choose_step", cause=None)
def step_from_a_table(order):
    "Knows the three orders of the text; another one raises."
    eps = float(np.finfo(np.float64).eps)
    return {1: eps ** (1 / 2), 2: eps ** (1 / 3), 4: eps ** (1 / 5)}[order]


@wrong_answer("choose_step", cause=None)
def step_missing_branch(order):
    "Orders above 4 return nothing."
    eps = float(np.finfo(np.float64).eps)
    if order == 1:
        return eps**0.5
    if order == 2:
        return eps ** (1 / 3)
    if order <= 4:
        return eps ** (1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def step_without_brackets(order):
    "1 / order + 1 is not 1 / (order + 1)."
    return float(np.finfo(np.float64).eps) ** (1 / order + 1)


@wrong_answer("choose_step", cause=None)
def step_from_the_smallest_number(order):
    "finfo.tiny is the smallest normal number, not the distance of numbers near 1."
    return float(np.finfo(np.float64).tiny) ** (1 / (order + 1))


@wrong_answer("choose_step", cause=None)
def step_eps_itself(order):
    "The smallest step that moves anything."
    return float(np.finfo(np.float64).eps)


@wrong_answer("choose_step", cause=None)
def step_printed(order):
    "Prints the step and returns nothing."
    print(np.finfo(np.float64).eps ** (1 / (order + 1)))


@wrong_answer("choose_step", cause="constant_factor")
def step_divided_by_the_order(order):
    "A quotient in place of a root."
    return float(np.finfo(np.float64).eps) / (order + 1)


@right_answer("choose_step")
def step_by_powers_of_two(order):
    "eps is 2 ** -52."
    return 2.0 ** (-52 / (order + 1))


@right_answer("choose_step")
def step_by_logarithm(order):
    "exp of a part of the logarithm."
    return math.exp(math.log(sys.float_info.epsilon) / (order + 1))


@right_answer("choose_step")
def step_by_numpy_power(order):
    "np.power, with eps as the distance of 1 from the next number; a NumPy number is returned."
    return np.power(np.spacing(1.0), np.reciprocal(np.float64(order) + 1))


@right_answer("choose_step")
def step_by_bisection(order):
    "Looks for the h at which both parts of the error are equal."
    low, high = 0.0, 1.0
    for _ in range(200):
        h = (low + high) / 2
        if h**order < np.finfo(float).eps / h:
            low = h
        else:
            high = h
    return high
