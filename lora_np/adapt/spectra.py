"""The singular values of an update, out of its two factors, and the nearest update of a smaller rank.

An update dW = A B, A (d_in, r) and B (r, d_out), is far larger than what it is made of, and so is its SVD. With the
thin factorisations A = Q_A R_A and B^T = Q_B R_B, columns of Q_A and of Q_B orthonormal,
    dW = Q_A (R_A R_B^T) Q_B^T.
The middle is at most r x r. Let its SVD be u diag(s) v^T; then U = Q_A u and V = Q_B v have orthonormal columns, too,
    dW = (Q_A u) diag(s) (Q_B v)^T,
which is the SVD of dW. It takes (d_in + d_out) r^2 multiplications and no array of d_in x d_out numbers.

The energy of dW is |dW|^2 = s_1^2 + s_2^2 + ... in the Frobenius norm. The first r terms of the SVD are the matrix of
rank r nearest to dW (see `compress/low_rank.py`), and hold (s_1^2 + ... + s_r^2) / |dW|^2 of it.

Source: Golub and Van Loan, "Matrix Computations", 4th edition, 5.2 (QR) and 2.4 (SVD).
"""

from dataclasses import dataclass

import numpy as np

from lora_np.adapt.report import aligned, percent
from lora_np.compress.low_rank import leading_factors, smallest_rank
from lora_np.files import is_number, is_whole


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


@dataclass(frozen=True)
class Kept:
    """How much of an update a smaller rank holds."""

    r: int
    held: float  # of the energy
    energy: float  # of the whole update

    @property
    def share(self) -> float:
        """Of the energy; 1 if there is no update."""
        return self.held / self.energy if self.energy else 1.0


def nearest_of_rank(U, s, Vt, r=None, energy=None):
    """Return A (d_in, r), B (r, d_out) and what is Kept: the leading terms of an SVD.

    Parameters
    ----------
    U, s, Vt : array (d_in, k), (k,), (k, d_out)
    r : int, optional
        The rank; k, if that is smaller.
    energy : float, optional
        Or the smallest rank that holds this share of the energy, but 1 at least.
    """
    check_asked(r, energy)
    if energy is not None:
        r = max(1, smallest_rank(s, 1 - energy))
    r = min(int(r), len(s))
    squares = s * s
    A, B = leading_factors(U, s, Vt, r)
    return A, B, Kept(r, float(squares[:r].sum()), float(squares.sum()))


def check_asked(r, energy):
    """Raise unless either a rank or a share of the energy was asked for."""
    if (r is None) == (energy is None):
        raise ValueError(
            "name either r, the rank, or energy, the share of the update's squares that is to be kept, such as 0.9;"
            f" they are r = {r!r} and energy = {energy!r}."
        )
    if r is not None and not is_whole(r):
        raise ValueError(f"r must be a positive integer, but it is {r!r}.")
    if energy is not None and not (is_number(energy) and 0 < energy <= 1):
        raise ValueError(f"energy must be a share above 0 and up to 1, but it is {energy!r}.")


@dataclass(frozen=True, repr=False)
class RankReport:
    """How much of an update an adapter of smaller rank holds; `print` it.

    Attributes
    ----------
    rows : dict of str to Kept
        By adapted node: its rank `r`, and the `share` of the energy that it holds.
    left_out : tuple of str
        Parameters of which nothing is held, as was asked.
    """

    rows: dict[str, Kept]
    left_out: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the energy of all adapted nodes together."""
        held, energy = (sum(getattr(row, name) for row in self.rows.values()) for name in ("held", "energy"))
        return Kept(0, held, energy).share

    def __str__(self):
        rows = [
            ("of the update", "rank", "kept"),
            *((name, str(row.r), percent(row.share)) for name, row in self.rows.items()),
        ]
        text = aligned([*rows, ("all", "", percent(self.share))])
        return f"{text}\nleft out: {', '.join(self.left_out)}" if self.left_out else text

    __repr__ = __str__
