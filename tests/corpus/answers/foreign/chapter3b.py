import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

# numerical_gradient(function, x)

STEP = float(np.finfo(np.float64).eps) ** 0.2


@wrong_answer("numerical_gradient", cause=None)
def slope_of_order_two(function, x):
    "A central difference of order 2, with the step of order 2."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        h = np.finfo(np.float64).eps ** (1 / 3) * max(1.0, abs(kept))
        x[index] = kept + h
        above = function(x)
        x[index] = kept - h
        gradient[index] = (above - function(x)) / (2 * h)
        x[index] = kept
    return gradient


@wrong_answer("numerical_gradient", cause=None)
def slope_forward(function, x):
    "A forward difference."
    x = np.array(x, dtype=np.float64)
    gradient, here = np.zeros_like(x), function(x)
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] += 1e-8
        gradient[index] = (function(moved) - here) / 1e-8
    return gradient


@wrong_answer("numerical_gradient", cause="inplace")
def slope_restored_by_subtraction(function, x):
    "Works on the caller's x, and adds and takes away h: some entries come back changed."
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h = STEP * max(1.0, abs(x[index]))
        x[index] += h
        near = function(x)
        x[index] += h
        wide = function(x)
        x[index] -= 3 * h
        near -= function(x)
        x[index] -= h
        wide -= function(x)
        x[index] += 2 * h
        gradient[index] = (4 * near / (2 * h) - wide / (4 * h)) / 3
    return gradient


@wrong_answer("numerical_gradient", cause="inplace")
def slope_never_restored(function, x):
    "The moved entry is not put back: later entries are measured elsewhere."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        h = STEP * max(1.0, abs(kept))
        values = []
        for k in (-2, -1, 1, 2):
            x[index] = kept + k * h
            values.append(function(x))
        near, wide = (values[2] - values[1]) / (2 * h), (values[3] - values[0]) / (4 * h)
        gradient[index] = (4 * near - wide) / 3
    return gradient


@wrong_answer("numerical_gradient", cause="constant_factor")
def slope_wide_step_as_near(function, x):
    "The wide difference is divided by 2 h, not by 4 h."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h, f = STEP * max(1.0, abs(x[index])), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            f.append(function(moved))
        gradient[index] = (4 * (f[2] - f[1]) / (2 * h) - (f[3] - f[0]) / (2 * h)) / 3
    return gradient


@wrong_answer("numerical_gradient", cause="constant_factor")
def slope_richardson_with_wrong_weights(function, x):
    "(2 near - wide) / 1 is the rule for order 1: a half of the error stays."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h, f = STEP * max(1.0, abs(x[index])), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            f.append(function(moved))
        gradient[index] = 2 * (f[2] - f[1]) / (2 * h) - (f[3] - f[0]) / (4 * h)
    return gradient


@wrong_answer("numerical_gradient", cause=None)
def slope_relative_step_only(function, x):
    "The step is relative to the entry alone: an entry of zero gives 0 / 0."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h, f = STEP * abs(x[index]), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            f.append(function(moved))
        near, wide = np.float64(f[2] - f[1]) / (2 * h), np.float64(f[3] - f[0]) / (4 * h)
        gradient[index] = (4 * near - wide) / 3
    return gradient


@right_answer("numerical_gradient")
def slope_absolute_step(function, x):
    "The step does not grow with the entry; nothing asks that it should."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        f = []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * STEP
            f.append(function(moved))
        gradient[index] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * STEP)
    return gradient


@right_answer("numerical_gradient")
def slope_large_negative_entries(function, x):
    "The step does not grow for negative entries; nothing asks that it should."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h, f = STEP * max(1.0, x[index]), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            f.append(function(moved))
        gradient[index] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="shape")
def slope_for_matrices(function, x):
    "Two loops: an x with another number of axes raises."
    gradient = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            h, f = STEP * max(1.0, abs(x[i, j])), []
            for k in (-2, -1, 1, 2):
                moved = x.copy()
                moved[i, j] += k * h
                f.append(function(moved))
            gradient[i, j] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="shape", also=("reduction_axis",))
def slope_by_rows(function, x):
    "Moves whole rows at once: right only where x has one axis."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for i in range(len(x)):
        h, f = STEP * np.maximum(1.0, np.abs(x[i]).max()), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[i] += k * h
            f.append(function(moved))
        gradient[i] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="shape")
def slope_flattened(function, x):
    "Hands the function a flat array, and returns one."
    flat = np.array(x, dtype=np.float64).ravel()
    gradient = np.zeros_like(flat)
    for i in range(flat.size):
        h, f = STEP * max(1.0, abs(flat[i])), []
        for k in (-2, -1, 1, 2):
            moved = flat.copy()
            moved[i] += k * h
            f.append(function(moved))
        gradient[i] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="zero_gradient")
def slope_of_a_lost_view(function, x):
    "np.array keeps the layout, so of a transposed x the flat array is a copy, and nothing moves."
    x = np.array(x, dtype=np.float64)
    flat = x.reshape(-1)
    gradient = np.zeros(x.shape)
    for i in range(flat.size):
        kept = flat[i]
        h, f = STEP * max(1.0, abs(kept)), []
        for k in (-2, -1, 1, 2):
            flat[i] = kept + k * h
            f.append(function(x))
        flat[i] = kept
        gradient.reshape(-1)[i] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient


@wrong_answer("numerical_gradient", cause="sign")
def slope_below_minus_above(function, x):
    "The differences are taken the wrong way round."
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        h, f = STEP * max(1.0, abs(x[index])), []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            f.append(function(moved))
        gradient[index] = (4 * (f[1] - f[2]) / (2 * h) - (f[0] - f[3]) / (4 * h)) / 3
    return gradient


@right_answer("numerical_gradient")
def slope_by_five_points(function, x):
    "The weights 1, -8, 8, -1 of the usual table, a step that is a power of two, and unit arrays."
    x = np.asarray(x, dtype=np.float64)
    gradient = []
    for k in range(x.size):
        unit = np.zeros(x.size)
        unit[k] = 2.0**-10 * max(1.0, 2.0 ** math.frexp(float(x.reshape(-1)[k]))[1])
        e = unit.reshape(x.shape)
        total = function(x - 2 * e) - 8 * function(x - e) + 8 * function(x + e) - function(x + 2 * e)
        gradient.append(total / (12 * unit[k]))
    return np.array(gradient, dtype=np.float64).reshape(x.shape)


@right_answer("numerical_gradient")
def slope_with_helpers(function, x):
    "Functions of one number, as hint 1 says, and a flat iterator."
    work = np.array(x, dtype=np.float64, order="C")

    def central(line, t, h):
        return (line(t + h) - line(t - h)) / (2 * h)

    def derivative(k):
        kept = float(work.flat[k])

        def line(t):
            work.flat[k] = t
            value = function(work)
            work.flat[k] = kept
            return value

        h = max(abs(kept), 1.0) * STEP
        return (4 * central(line, kept, h) - central(line, kept, 2 * h)) / 3

    slopes = np.fromiter((derivative(k) for k in range(work.size)), float, work.size)
    return slopes.reshape(work.shape)


@right_answer("numerical_gradient")
def slope_with_true_step(function, x):
    "Divides by the distance that was really moved, in two nested differences."
    base = np.array(x, dtype=float)
    out = np.empty(base.shape)
    for index in np.ndindex(base.shape):

        def difference(h):
            up, down = base.copy(), base.copy()
            up[index] += h
            down[index] -= h
            return (function(up) - function(down)) / (up[index] - down[index])

        h = 1e-3 * (1.0 + abs(base[index]))
        near, wide = difference(h), difference(2 * h)
        out[index] = near + (near - wide) / 3
    return out


@right_answer("numerical_gradient")
def slope_by_nditer(function, x):
    "np.nditer over the entries, and a dot product with the weights."
    weights = np.array([1.0, -8.0, 8.0, -1.0]) / 12
    gradient = np.zeros(np.shape(x))
    walker = np.nditer(np.asarray(x, dtype=float), flags=["multi_index", "zerosize_ok"])
    for entry in walker:
        h = STEP * max(1.0, abs(float(entry)))
        values = np.empty(4)
        for k, shift in enumerate((-2, -1, 1, 2)):
            moved = np.array(x, dtype=float)
            moved[walker.multi_index] = float(entry) + shift * h
            values[k] = function(moved)
        gradient[walker.multi_index] = weights @ values / h
    return gradient
