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

erf. For z >= 0, erf(z) = 1 - exp(-z^2) R(t) with t = 1 - 2 K / (z + K): the polynomial R approximates the smooth
function exp(z^2) erfc(z), in a variable that maps 0..infinity to -1..1. Its derivative is the true one to the same
accuracy; that of the common formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7) is not. Negative x by erf(-z) =
-erf(z). The branch looks at x.real alone: the function is analytic on both sides, and a complex step runs through it.

Source of GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

import math
from typing import NamedTuple

import numpy as np

K = 3.0
# The powers of R, highest first, by tests/reference/erf_coefficients.py: fitted up to z = 6 (3 in float32), as beyond
# it exp(-z^2) hides the error, and cut where the rest is below the rounding of the dtype.
R_DOUBLE = (
    -1.0900613244973601e-8, -1.0844083035615776e-7, -3.9426309698842185e-7, -3.8725371423054204e-7,
    1.2461765162669376e-6, 2.1472348129566096e-6, -7.9634202954910102e-6, -1.2860553347339446e-5,
    6.4054184292970034e-5, 4.5254771695162493e-5, -5.9706180907702603e-4, 7.0774649623049852e-4,
    4.2691363305443869e-3, -2.4392499321153912e-2, 7.1665837197929877e-2, -0.15011593650073252,
    0.2456038017123321, -0.32623356004303746, 0.17900115118138995,
)  # fmt: skip
R_SINGLE = (
    2.3770759919422891e-3, 6.3145088990664104e-3, -2.3005116037311324e-2, 7.2209776172692773e-2,
    -0.14999656282335812, 0.24561695989128969, -0.3262329978887462, 0.17900115517561169,
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
    sign = np.copysign(1.0, x.real)
    t = x * sign  # z
    t += K
    np.divide(-2.0 * K, t, out=t)
    t += 1.0
    powers = R_SINGLE if x.dtype == np.float32 else R_DOUBLE
    y = powers[0] * t
    y += powers[1]
    for coefficient in powers[2:]:  # Horner's rule, in place
        y *= t
        y += coefficient
    y *= np.exp(-(x * x))
    np.subtract(1.0, y, out=y)
    y *= sign
    return y


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
