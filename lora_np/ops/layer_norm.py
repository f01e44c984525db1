"""Layer normalisation of each row.

Forward, the means running over the d entries of a row
    (1)  centred = x - mean(x)                                 of a constant row exactly 0, so that y = beta
    (2)  inverse_std = (mean(centred^2) + eps)^(-1/2)
    (3)  xhat = centred * inverse_std
    (4)  y = gamma * xhat + beta

Backward, from the last step to the first. Write dy for the gradient of the loss with respect to y.
    (4)  gamma and beta serve all rows: dbeta = sum_n dy, dgamma = sum_n dy * xhat. xhat receives dxhat = gamma * dy.
         gamma belongs here, before any mean is taken: it differs from entry to entry, so it does not commute with a
         mean.
    (3)  centred receives dxhat * inverse_std directly; inverse_std receives sum_i dxhat_i centred_i.
    (2)  d inverse_std / d centred_i = -inverse_std^3 centred_i / d. With centred = xhat / inverse_std, the second
         path gives -inverse_std * xhat_i * mean(dxhat * xhat).
    (1)  Taking away the mean of x takes away the mean of the gradient; the mean of the term of (2) is zero already,
         as xhat has mean zero.
Together:  dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).
So dx is dxhat without its part along the constant vector and its part along xhat: the two directions in which nudging
x changes nothing (but for eps).

Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3.1.
"""

import math
from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit, number
from lora_np.ops.rows import centre, row_mean

LEAST = 1e-37  # that float32 holds with all its digits


class LayerNormCache(NamedTuple):
    xhat: np.ndarray  # (N, d)
    inverse_std: np.ndarray  # (N, 1)
    gamma: np.ndarray  # (d,)


def layer_norm_forward(x, gamma, beta, eps):
    """Return y (N, d) and the cache, for x (N, d), gamma (d,), beta (d,); eps is a Python float (BERT and ViT 1e-12,
    GPT 1e-5).

    Raises
    ------
    ValueError
        If gamma or beta do not have one entry for each entry of a row, or eps is not a positive number.
    """
    fit("layer_norm", "x (N, d), gamma (d,), beta (d,)", x, gamma, beta)
    eps = number("eps", eps)
    if not LEAST <= eps < math.inf:  # a constant row would be divided by zero
        raise ValueError(f"eps must be a positive number, at least {LEAST}, but it is {eps}.")
    centred = centre(x)  # (N, d)  (1)
    variance = row_mean(centred * centred)  # (N, 1)
    inverse_std = 1.0 / np.sqrt(variance + eps)  # (N, 1)  (2)
    xhat = centred * inverse_std  # (N, d)  (3)
    y = gamma * xhat + beta  # (N, d)  (4)
    return y, LayerNormCache(xhat, inverse_std, gamma)


def layer_norm_backward(dy, cache, needs=("x", "gamma", "beta")):
    """Return dx (N, d), dgamma (d,), dbeta (d,); None for those that `needs` does not name."""
    xhat, inverse_std, gamma = cache
    fit("layer_norm_backward", "dy (N, d), xhat (N, d), gamma (d,)", dy, xhat, gamma)
    dx = dgamma = dbeta = None
    if "beta" in needs:
        dbeta = dy.sum(axis=0)  # (d,)  (4)
    if "gamma" in needs:
        dgamma = (dy * xhat).sum(axis=0)  # (d,)
    if "x" in needs:
        dxhat = gamma * dy  # (N, d)
        along_xhat = row_mean(dxhat * xhat)  # (N, 1)
        dx = inverse_std * (dxhat - row_mean(dxhat) - xhat * along_xhat)  # (N, d)  (3) (2) (1)
    return dx, dgamma, dbeta
