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

erf in float32: erf(z) = tanh(z P(z^2)), P a polynomial. The tanh form above is this with a P of degree 1, good to 4e-4;
degree 6 reaches the rounding of float32. Phi(x) takes z = x / sqrt(2): its polynomial has the powers of 1/2 inside.

erf in float64: for z >= 0, erf(z) = 1 - exp(-z^2) R(t) with t = 1 - 2 K / (z + K): the polynomial R approximates the
smooth function exp(z^2) erfc(z), in a variable that maps 0..infinity to -1..1. Its derivative is the true one to the
same accuracy; that of the common formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7) is not. Negative x by erf(-z) =
-erf(z). The branch looks at x.real alone: the function is analytic on both sides, and a complex step runs through it.

Source of GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

import math
from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit

K = 3.0
# Coefficients, highest power first, by tests/reference/erf_coefficients.py. R is fitted up to z = 6, as beyond it
# exp(-z^2) hides the error; P up to z = 4, as beyond it erf is 1 but for 2e-8, which tanh of a growing P gives, too.
R_DOUBLE = (
    -1.0900613244973601e-8, -1.0844083035615776e-7, -3.9426309698842185e-7, -3.8725371423054204e-7,
    1.2461765162669376e-6, 2.1472348129566096e-6, -7.9634202954910102e-6, -1.2860553347339446e-5,
    6.4054184292970034e-5, 4.5254771695162493e-5, -5.9706180907702603e-4, 7.0774649623049852e-4,
    4.2691363305443869e-3, -2.4392499321153912e-2, 7.1665837197929877e-2, -0.15011593650073252,
    0.2456038017123321, -0.32623356004303746, 0.17900115118138995,
)  # fmt: skip
P_SINGLE = (
    1.5895050e-7, -5.9855567e-6, 8.9711932e-5, -6.2571817e-4, -1.8438501e-4, 1.0276548e-1, 1.1283797,
)  # fmt: skip
P_OF_X = tuple(c * 0.5 ** (6.5 - k) for k, c in enumerate(P_SINGLE))  # x P_OF_X(x^2) = z P(z^2) at z = x / sqrt(2)
# Entries worked on at once: half a megabyte in float32, so each pass finds what the one before left in a cache. Smaller
# blocks fit a nearer one, but at each pass NumPy hands Python's lock on, and two threads wait for each other: with 8192
# entries they took longer together than one alone.
BLOCK = 2**17


class GeluCache(NamedTuple):
    x: np.ndarray  # (N, d)
    cdf: np.ndarray  # (N, d)


class GeluTanhCache(NamedTuple):
    x: np.ndarray  # (N, d)
    t: np.ndarray  # (N, d)


def erf(x):
    """Return the error function of each entry.

    The absolute error is below 1e-15 in float64 and 2e-7 in float32, a few roundings.

    Complex x is meant for the complex step: accurate near the real axis.
    """
    fit("erf", "x (...)", x)
    return _in_blocks(_erf, x, 1)[0]


def _in_blocks(function, x, count):
    """Return `count` arrays of the shape of x, into which `function(x, *outs)` writes block by block."""
    outs = [np.empty(x.shape, x.dtype) for _ in range(count)]
    flat = [array.reshape(-1) for array in (x, *outs)]
    for start in range(0, x.size, BLOCK):
        function(*(array[start : start + BLOCK] for array in flat))
    return outs


def _normal_cdf(x, out, spare):
    if x.dtype == np.float32:
        _erf_single(x, P_OF_X, out, spare)
    else:
        _erf_double(x * math.sqrt(0.5), out)
    out += 1.0  # (1 + erf) / 2
    out *= 0.5


def _erf(x, out):
    if x.dtype == np.float32:
        _erf_single(x, P_SINGLE, out)
    else:
        _erf_double(x, out)


def _erf_single(x, coefficients, out, spare=None):
    with np.errstate(over="ignore"):  # tanh of infinity is 1, as it should be
        t = np.multiply(x, x, out=spare)
        _polynomial(coefficients, t, out)
        out *= x
    np.tanh(out, out=out)


def _erf_double(x, out):
    sign = np.copysign(1.0, x.real)
    t = x * sign  # z
    t += K
    np.divide(-2.0 * K, t, out=t)
    t += 1.0
    _polynomial(R_DOUBLE, t, out)
    out *= np.exp(-(x * x))
    np.subtract(1.0, out, out=out)
    out *= sign


def _polynomial(coefficients, t, out):
    """Horner's rule."""
    np.multiply(coefficients[0], t, out=out)
    out += coefficients[1]
    for coefficient in coefficients[2:]:
        out *= t
        out += coefficient


def gelu_forward(x):
    """Return y and the cache, for x of any shape; exact form."""
    fit("gelu", "x (...)", x)
    y, cdf = _in_blocks(_gelu, x, 2)  # (N, d), (N, d)
    return y, GeluCache(x, cdf)


def _gelu(x, y, cdf):
    _normal_cdf(x, cdf, spare=y)  # (1)  y is not written yet: a place to work
    np.multiply(x, cdf, out=y)  # (2)


def gelu_backward(dy, cache):
    """Return dx."""
    x, cdf = cache
    fit("gelu_backward", "dy (...), x (...)", dy, x)
    density = np.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))  # (N, d)
    dx = dy * (cdf + x * density)  # (N, d)  (2) (1)
    return dx


def gelu_tanh_forward(x):
    """Return y and the cache, for x of any shape; tanh form."""
    fit("gelu_tanh", "x (...)", x)
    t = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x)))  # (N, d)  (1)
    y = 0.5 * x * (1.0 + t)  # (N, d)  (2)
    return y, GeluTanhCache(x, t)


def gelu_tanh_backward(dy, cache):
    """Return dx."""
    x, t = cache
    fit("gelu_tanh_backward", "dy (...), x (...)", dy, x)
    inner = math.sqrt(2.0 / math.pi) * (1.0 + (3.0 * 0.044715) * (x * x))  # (N, d)
    dx = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)  # (N, d)  (2) (1)
    return dx
