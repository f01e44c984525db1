"""The singular values of an update, out of its two factors.

An update dW = A B, A (d_in, r) and B (r, d_out), is far larger than what it is made of, and so is its SVD. With the
thin factorisations A = Q_A R_A and B^T = Q_B R_B, columns of Q_A and of Q_B orthonormal,
    dW = Q_A (R_A R_B^T) Q_B^T.
The middle is at most r x r. Let its SVD be u diag(s) v^T; then U = Q_A u and V = Q_B v have orthonormal columns, too,
    dW = (Q_A u) diag(s) (Q_B v)^T,
which is the SVD of dW. It takes (d_in + d_out) r^2 multiplications and no array of d_in x d_out numbers.

Source: Golub and Van Loan, "Matrix Computations", 4th edition, 5.2 (QR) and 2.4 (SVD).
"""

import numpy as np


def svd_of_product(A, B):
    """Return U (d_in, k), s (k,) and Vt (k, d_out), the thin SVD of A B, in float64; k = min(d_in, r, d_out).

    The singular values s descend. Those of a product of smaller rank end with zeros, but for rounding: the vectors of
    these are orthonormal, too, and otherwise any.

    Parameters
    ----------
    A : array (d_in, r)
    B : array (r, d_out)
        A scale of the update belongs to one of them, or to s.

    Raises
    ------
    ValueError
        If they are no matrices that can be multiplied, or a number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> A, B = np.array([[3.0], [4.0]]), np.array([[0.0, 2.0, 0.0]])
    >>> U, s, Vt = svd_of_product(A, B)
    >>> s.tolist(), np.abs(U.T @ A).tolist()
    ([10.0], [[5.0]])
    """
    A, B = np.asarray(A), np.asarray(B)
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(f"an update needs A (d_in, r) and B (r, d_out), but they are {A.shape} and {B.shape}.")
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError("A or B holds numbers that are not finite (NaN or infinity), so A B has no singular values.")
    Q_A, R_A = np.linalg.qr(A.astype(np.float64))
    Q_B, R_B = np.linalg.qr(B.T.astype(np.float64))
    u, s, vt = np.linalg.svd(R_A @ R_B.T, full_matrices=False)
    return Q_A @ u, s, vt @ Q_B.T
