"""The error function, which NumPy does not have: one erf serves both dtypes, each to its rounding.

In float64: for z >= 0, erf(z) = 1 - exp(-z^2) R(t) with t = 1 - 2 K / (z + K): the polynomial R approximates the smooth
function exp(z^2) erfc(z), in a variable that maps 0..infinity to -1..1. Its derivative is the true one to the same
accuracy; that of the common formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7) is not. Negative x by erf(-z) =
-erf(z). The branch looks at x.real alone: the function is analytic on both sides, and a complex step runs through it.

In float32: erf(x) = tanh(x P(x^2)), P a polynomial. GELU's tanh form (`gelu`) is this with a P of degree 1, good to
4e-4; degree 6 reaches the rounding of float32.

Two idioms of speed, with what a step of MiniLM would take longer without them (`tests/benchmarks/idioms.py`): a formula
of its own for float32, 4 to 9 %; Horner's rule in place, 2 % on an idle machine, 5 % on a busy one.
"""

import numpy as np

from lora_np.ops.fit import fit

K = 3.0
# Coefficients, highest power first, by tests/reference/erf_coefficients.py. R is fitted up to z = 6, as beyond it
# exp(-z^2) hides the error; P up to 4, as beyond it erf is 1 but for 2e-8, which tanh of a growing P gives, too.
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


def erf(x):
    """Return the error function of each entry.

    The absolute error is below 1e-15 in float64 and 2e-7 in float32, a few roundings.

    Complex x is meant for the complex step: accurate near the real axis.
    """
    fit("erf", "x (...)", x)
    if x.dtype == np.float32:
        with np.errstate(over="ignore"):  # tanh of infinity is 1, as it should be
            return np.tanh(x * horner(P_SINGLE, x * x))
    sign = np.copysign(1.0, x.real)
    z = x * sign
    return sign * (1.0 - np.exp(-(z * z)) * horner(R_DOUBLE, 1.0 - 2.0 * K / (z + K)))


def horner(coefficients, t):
    """Return a polynomial of t, highest power first; in place: half of its time would go into new arrays."""
    y = coefficients[0] * t + coefficients[1]
    for coefficient in coefficients[2:]:
        y *= t
        y += coefficient
    return y
