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

Source of GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

import math
from typing import NamedTuple

import numpy as np

from lora_np.ops.erf import erf
from lora_np.ops.fit import fit

C, K = math.sqrt(2.0 / math.pi), 0.044715  # of the tanh form


class GeluCache(NamedTuple):
    x: np.ndarray  # (N, d)
    cdf: np.ndarray  # (N, d)


class GeluTanhCache(NamedTuple):
    x: np.ndarray  # (N, d)
    t: np.ndarray  # (N, d)


def gelu_forward(x):
    """Return y and the cache, for x of any shape; exact form."""
    fit("gelu", "x (...)", x)
    cdf = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))  # (N, d)  (1)
    y = x * cdf  # (N, d)  (2)
    return y, GeluCache(x, cdf)


def gelu_backward(dy, cache):
    """Return dx."""
    x, cdf = cache
    fit("gelu_backward", "dy (...), x (...)", dy, x)
    density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)  # (N, d)
    dx = dy * (cdf + x * density)  # (N, d)  (2) (1)
    return dx


def gelu_tanh_forward(x):
    """Return y and the cache, for x of any shape; tanh form."""
    fit("gelu_tanh", "x (...)", x)
    t = np.tanh(C * (x + K * (x * x * x)))  # (N, d)  (1)
    y = 0.5 * x * (1.0 + t)  # (N, d)  (2)
    return y, GeluTanhCache(x, t)


def gelu_tanh_backward(dy, cache):
    """Return dx."""
    x, t = cache
    fit("gelu_tanh_backward", "dy (...), x (...)", dy, x)
    inner = C * (1.0 + 3.0 * K * (x * x))  # (N, d)
    dx = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)  # (N, d)  (2) (1)
    return dx
