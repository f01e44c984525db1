"""Linear map: every row of x goes through the same matrix.

Forward
    (1)  h = x W
    (2)  y = h + b

Backward. Write dy for the gradient of the loss with respect to y.
    (2)  y_nj = h_nj + b_j, so dh = dy. The one b_j serves all N rows: db_j = sum_n dy_nj.
    (1)  h_nj = sum_i x_ni W_ij. Nudge x_ni: it moves h_nj by W_ij for every j, so dx_ni = sum_j dh_nj W_ij, that is
         dx = dh W^T. Nudge W_ij: it moves h_nj by x_ni in every row, so dW_ij = sum_n x_ni dh_nj, that is dW = x^T dh.
Each gradient has the shape of its variable; with three different sizes only one order of the factors fits.

Cost: (1), dx and dW take the same N d_in d_out multiplications each. A frozen W saves one of the three, and x need
not be kept.
"""

from typing import NamedTuple

import numpy as np

from lora_np.ops.fit import fit


class LinearCache(NamedTuple):
    x: np.ndarray  # (N, d_in)
    W: np.ndarray  # (d_in, d_out)


def linear_forward(x, W, b=None):
    """Return y (N, d_out) and the cache, for x (N, d_in), W (d_in, d_out) and b (d_out,) or None.

    Raises
    ------
    ValueError
        If the sizes do not fit: leading axes of x are to be flattened into rows, and files may hold W^T.
    """
    fit("linear", "x (N, d_in), W (d_in, d_out), b (d_out,) or None", x, W, b)
    y = x @ W  # (N, d_out)  (1)
    if b is not None:
        y = y + b  # (N, d_out)  (2)
    return y, LinearCache(x, W)


def linear_backward(dy, cache, needs=("x", "W", "b")):
    """Return dx (N, d_in), dW (d_in, d_out), db (d_out,); None for those that `needs` does not name.

    `cache.x` may be None when "W" is not needed.
    """
    x, W = cache
    fit("linear_backward", "dy (N, d_out), x (N, d_in) or None, W (d_in, d_out)", dy, x, W)
    db = dW = dx = None
    if "b" in needs:
        db = dy.sum(axis=0)  # (d_out,)  (2)
    if "W" in needs:
        dW = x.T @ dy  # (d_in, d_out)  (1)
    if "x" in needs:
        dx = dy @ W.T  # (N, d_in)
    return dx, dW, db
