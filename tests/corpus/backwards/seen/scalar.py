"""Mistakes in the functions of single numbers: gelu, its tanh form, tanh."""

import math

import numpy as np
from corpus.drawing import sizes
from corpus.entries import wrong_backward

from lora_np import ops


def numbers(forward, name="x"):
    """Return a setting with one array of numbers on both sides of zero."""
    return lambda rng: (forward, {name: 1.3 * rng.standard_normal(sizes(rng, 2))}, {})


of_gelu, of_gelu_tanh, of_tanh = map(numbers, (ops.gelu_forward, ops.gelu_tanh_forward, ops.tanh_forward))


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def probability_forward(h):
    Phi = 0.5 * (1 + ops.erf(h / math.sqrt(2)))
    out = h * Phi
    return out, (h, Phi, out)


def quick_forward(h, alpha):
    """The approximation by a sigmoid."""
    s = 1 / (1 + np.exp(-alpha * h))
    return h * s, (h, s, alpha)


own_gelu = numbers(probability_forward, "h")


def quick(rng):
    return quick_forward, own_gelu(rng)[1], {"alpha": 1.702}


@wrong_backward("gelu", of_gelu, spoils=("x",), cause="wrong_derivative", also=("missing_term",))
def product_rule_forgotten(dy, cache):
    x, cdf = cache
    return dy * cdf


@wrong_backward("gelu", own_gelu, spoils=("h",), cause="missing_term", also=("wrong_derivative",))
def other_half_of_the_product_rule_forgotten(dout, cache):
    h, Phi, out = cache
    return dout * h * density(h)


@wrong_backward("gelu", of_gelu, spoils=("x",), cause="wrong_derivative")
def density_without_the_half(dy, cache):
    x, cdf = cache
    return dy * (cdf + x * np.exp(-x * x) / math.sqrt(2 * math.pi))


@wrong_backward("gelu", own_gelu, spoils=("h",), cause="wrong_derivative", also=("constant_factor",))
def density_not_normalised(dout, cache):
    h, Phi, out = cache
    return dout * (Phi + h * np.exp(-0.5 * h**2))


@wrong_backward("gelu", own_gelu, spoils=("h",), cause="wrong_derivative", also=("constant_factor",))
def root_of_two_inside_erf_forgotten(dout, cache):
    """d erf(z) / dz = 2 / sqrt(pi) exp(-z^2), and then comes z = h / sqrt(2)."""
    h, Phi, out = cache
    z = h / math.sqrt(2)
    derf = 2 / math.sqrt(math.pi) * np.exp(-z * z)
    return dout * (Phi + 0.5 * h * derf)


@wrong_backward("gelu", of_gelu, spoils=("x",), cause="sign")
def product_rule_with_a_minus(dy, cache):
    x, cdf = cache
    return dy * (cdf - x * density(x))


@wrong_backward("gelu", of_gelu, spoils=("x",), cause="wrong_derivative")
def derivative_of_the_tanh_form(dy, cache):
    """Three digits are right."""
    x, cdf = cache
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2))


@wrong_backward("gelu", of_gelu, spoils=("x",), cause="ignores_upstream")
def slope_alone(dy, cache):
    x, cdf = cache
    return cdf + x * density(x)


@wrong_backward("gelu", own_gelu, spoils=("h",), cause="wrong_cached_value")
def output_where_the_input_belongs(dout, cache):
    h, Phi, out = cache
    return dout * (Phi + out * density(out))


@wrong_backward("gelu", own_gelu, spoils=("h",), cause="elementwise_factor", also=("wrong_derivative",))
def passed_straight_through(dout, cache):
    return 1.0 * dout


@wrong_backward("gelu", quick, spoils=("h",), cause="wrong_derivative", also=("constant_factor",))
def inner_derivative_of_the_sigmoid_forgotten(dout, cache):
    h, s, alpha = cache
    return dout * (s + h * s * (1 - s))


@wrong_backward("gelu", quick, spoils=("h",), cause="wrong_derivative")
def sigmoid_squared(dout, cache):
    h, s, alpha = cache
    return dout * (s + alpha * h * (1 - s * s))


@wrong_backward("gelu", own_gelu, spoils=("backward",), cause="inplace")
def probability_reused_for_the_slope(dout, cache):
    h, Phi, out = cache
    Phi += h * density(h)
    return dout * Phi


C, K = math.sqrt(2 / math.pi), 0.044715


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="wrong_derivative", also=("constant_factor",))
def cube_without_its_three(dy, cache):
    x, t = cache
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * C * (1 + K * x * x))


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="elementwise_factor", also=("wrong_derivative",))
def inner_derivative_forgotten(dy, cache):
    x, t = cache
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t))


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="missing_term", also=("wrong_derivative",))
def t_taken_for_a_constant(dy, cache):
    x, t = cache
    return 0.5 * dy * (1 + t)


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="missing_term", also=("wrong_derivative",))
def derivative_of_the_cube_forgotten(dy, cache):
    x, t = cache
    left, right = 0.5 * (1 + t), 0.5 * x * (1 - t**2) * C
    return dy * (left + right)


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="constant_factor")
def half_forgotten(dy, cache):
    x, t = cache
    slope = (1 + t) + x * (1 - t**2) * C * (1 + 3 * K * x**2)
    return dy * slope


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="wrong_derivative")
def tanh_not_squared(dy, cache):
    x, t = cache
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t) * C * (1 + 3 * K * x**2))


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="sign", also=("wrong_derivative",))
def one_plus_t_squared_inside(dy, cache):
    x, t = cache
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 + t * t) * C * (1 + 3 * K * x * x))


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("x",), cause="wrong_derivative")
def derivative_of_the_exact_form(dy, cache):
    x, t = cache
    return dy * (0.5 * (1 + ops.erf(x / math.sqrt(2))) + x * density(x))


@wrong_backward("gelu_tanh", of_gelu_tanh, spoils=("backward",), cause="inplace")
def t_squared_in_place(dy, cache):
    x, t = cache
    left = 0.5 * (1 + t)
    t *= t
    return dy * (left + 0.5 * x * (1 - t) * C * (1 + 3 * K * x * x))


def tanh_forward(z):
    return np.tanh(z), z


own_tanh = numbers(tanh_forward, "z")


@wrong_backward("tanh", of_tanh, spoils=("x",), cause="wrong_derivative")
def one_minus_y(dy, cache):
    return dy * (1 - cache.y)


@wrong_backward("tanh", of_tanh, spoils=("x",), cause="wrong_derivative")
def as_of_the_sigmoid(dy, cache):
    (y,) = cache
    return dy * y * (1 - y)


@wrong_backward("tanh", own_tanh, spoils=("z",), cause="wrong_derivative")
def as_of_the_arc_tangent(grad, z):
    return grad / (1 + z**2)


@wrong_backward("tanh", own_tanh, spoils=("z",), cause="wrong_cached_value", also=("wrong_derivative",))
def z_where_the_output_belongs(grad, z):
    return grad * (1 - z**2)


@wrong_backward("tanh", of_tanh, spoils=("x",), cause="wrong_cached_value")
def tanh_of_the_output(dy, cache):
    return dy * (1 - np.tanh(cache.y) ** 2)


@wrong_backward("tanh", own_tanh, spoils=("z",), cause="sign", also=("wrong_derivative",))
def one_plus_y_squared(grad, z):
    return grad * (1 + np.tanh(z) ** 2)


@wrong_backward("tanh", of_tanh, spoils=("x",), cause="ignores_upstream")
def slope_of_tanh_alone(dy, cache):
    (y,) = cache
    dx = 1 - y**2
    return dx


@wrong_backward("tanh", own_tanh, spoils=("z",), cause="elementwise_factor", also=("wrong_derivative",))
def tanh_taken_for_the_identity(grad, z):
    return grad * np.ones_like(z)


@wrong_backward("tanh", of_tanh, spoils=("x",), cause="elementwise_factor", also=("wrong_derivative",))
def slope_applied_twice(dy, cache):
    (y,) = cache
    slope = 1 - y * y
    return dy * slope * slope


@wrong_backward("tanh", of_tanh, spoils=("backward",), cause="inplace")
def output_squared_in_place(dy, cache):
    (y,) = cache
    y **= 2
    return dy * (1 - y)
