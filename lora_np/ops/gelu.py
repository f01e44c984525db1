"""GELU: each entry times the probability that a standard normal variable lies below it.

Exact form (BERT, ViT), with Phi the normal distribution function and phi its density
    (1)  cdf = Phi(x) = (1 + erf(x / sqrt(2))) / 2
    (2)  y = x * cdf
Backward, by the product rule: both factors hold the same x, so two paths add.
    (2)  x receives dy * cdf directly; cdf receives dy * x.
    (1)  Phi' = phi, phi(x) = exp(-x^2 / 2) / sqrt(2 pi).     Together: dx = dy * (cdf + x * phi(x)).

Tanh form (GPT-2's `gelu_new`; section 2 of the paper), c = sqrt(2 / pi) and k = 0.044715
    (1)  t = tanh(c (x + k x^3))
    (2)  y = x * (1 + t) / 2
Backward, with tanh' = 1 - tanh^2 and the inner derivative c (1 + 3 k x^2):
    dx = dy * ((1 + t) / 2 + x * (1 - t^2) * c * (1 + 3 k x^2) / 2).

erf. For z >= 0, erf(z) = 1 - exp(-z^2) * s * P(1 - 2 K s) with s = 1 / (z + K): the polynomial P approximates the
smooth function (z + K) exp(z^2) erfc(z), in a variable that maps 0..infinity to -1..1. Its derivative is the true
one to the same accuracy; that of the common formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7) is not. Negative x
by erf(-z) = -erf(z). The branch looks at x.real alone: the function is analytic on both sides, and a complex step runs
through it.

Source of GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

import math
from typing import NamedTuple

import numpy as np

K = 2.5
# The powers of P, highest first, by tests/reference/erf_coefficients.py: cut where the rest is below the rounding of
# the dtype.
P_DOUBLE = (
    -1.1394337576305021e-9, -3.4673885145664284e-11, 1.1361665461077835e-8, 6.4620395213359134e-9,
    -5.3689273590814678e-8, -7.4199560653435425e-8, 1.3921099556569646e-7, 4.5426326692975919e-7,
    -6.7454190934086882e-9, -1.9681374208778159e-6, -2.3319948528866094e-6, 6.7573805604299532e-6,
    1.8244308800215586e-5, -1.953333845777584e-5, -1.1260482456045285e-4, 5.8308058735361604e-5,
    7.0269372335338916e-4, -4.3920830010581551e-4, -4.8187855232053772e-3, 8.3930443047621702e-3,
    2.836155013199473e-2, -0.17125114524611905, 0.45391411664809603, -0.80465184943914819, 1.0540318203057179,
)  # fmt: skip
P_SINGLE = (
    -7.016012918068769e-5, 2.7007129819848785e-5, 6.5929080948296056e-4, -4.1392498498616348e-4,
    -4.7973611656686531e-3, 8.3831318739811466e-3, 2.8356676182515604e-2, -0.17124948742894022,
    0.45391452618771409, -0.80465192882794603, 1.0540318146978153,
)  # fmt: skip
# Entries worked on at once, half a megabyte in float32. Smaller blocks fit a nearer cache, but at each pass NumPy hands
# Python's lock on, and two threads wait for each other: with 8192 entries they took longer together than one alone.
BLOCK = 131072


class GeluCache(NamedTuple):
    x: np.ndarray  # (N, d)
    cdf: np.ndarray  # (N, d)


class GeluTanhCache(NamedTuple):
    x: np.ndarray  # (N, d)
    t: np.ndarray  # (N, d)


def erf(x):
    """Return the error function of each entry.

    The absolute error is below 1e-15 in float64 and 5e-7 in float32, a few roundings.

    Complex x is meant for the complex step: accurate near the real axis.
    """
    out = np.empty(x.shape, x.dtype)
    flat, flat_out = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        flat_out[start : start + BLOCK] = _erf_block(flat[start : start + BLOCK])
    return out


def _erf_block(x):
    sign = (x.real >= 0).astype(x.real.dtype)
    sign *= 2  # 0 and 1 ...
    sign -= 1  # ... to -1 and 1
    z = x * sign
    s = 1.0 / (z + K)
    t = 1.0 - (2.0 * K) * s
    powers = P_SINGLE if x.dtype == np.float32 else P_DOUBLE
    p = powers[0] * t + powers[1]
    for coefficient in powers[2:]:  # Horner's rule, in place
        p *= t
        p += coefficient
    p *= s
    p *= np.exp(-z * z)
    return sign * (1.0 - p)


def gelu_forward(x):
    """Return y and the cache, for x of any shape; exact form."""
    cdf = 0.5 * (1.0 + erf(x * math.sqrt(0.5)))  # (N, d)  (1)
    y = x * cdf  # (N, d)  (2)
    return y, GeluCache(x, cdf)


def gelu_backward(dy, cache):
    """Return dx."""
    x, cdf = cache
    density = np.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))  # (N, d)
    dx = dy * (cdf + x * density)  # (N, d)  (2) (1)
    return dx


def gelu_tanh_forward(x):
    """Return y and the cache, for x of any shape; tanh form."""
    t = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x)))  # (N, d)  (1)
    y = 0.5 * x * (1.0 + t)  # (N, d)  (2)
    return y, GeluTanhCache(x, t)


def gelu_tanh_backward(dy, cache):
    """Return dx."""
    x, t = cache
    inner = math.sqrt(2.0 / math.pi) * (1.0 + (3.0 * 0.044715) * (x * x))  # (N, d)
    dx = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)  # (N, d)  (2) (1)
    return dx
