"""Print the coefficients of `lora_np.ops.erf`:  python tests/reference/erf_coefficients.py   (needs mpmath).

float64. With t = 1 - 2 K / (z + K), the function R(t) = exp(z^2) erfc(z) is smooth on z >= 0. Its Chebyshev series on
0 <= z <= `end` is cut where the rest, times exp(-z^2), is below the rounding, and rewritten in powers of t. Beyond
`end` that factor makes the error vanish. 40 digits are carried throughout.

float32. P(u) approximates atanh(erf(z)) / z with u = z^2, the error weighted by z (1 - erf(z)^2): what it does to erf.
Least squares, weighted anew where the error is largest until it is even (Lawson 1961).
"""

import mpmath as mp
import numpy as np

K, NODES = mp.mpf(3), 120


def chebyshev_coefficients(degree, centre, half):
    """Coefficients of the interpolant at the NODES Chebyshev points of centre +- half, up to `degree`."""
    angles = [mp.pi * (k + mp.mpf(1) / 2) / NODES for k in range(NODES)]
    z = [K * (1 + t) / (1 - t) for t in (centre + half * mp.cos(angle) for angle in angles)]
    values = [mp.erfc(v) * mp.exp(v * v) for v in z]
    series = [2 / mp.mpf(NODES) * mp.fsum(f * mp.cos(j * a) for f, a in zip(values, angles)) for j in range(degree + 1)]
    series[0] /= 2
    return series


def powers(series, centre, half):
    """The same polynomial in powers of t, lowest first: u = (t - centre) / half, and T_{j+1} = 2 u T_j - T_{j-1}."""
    size = len(series)

    def times_u(p):
        return [(a - centre * b) / half for a, b in zip([mp.mpf(0), *p[:-1]], p)]

    previous = [mp.mpf(1)] + [mp.mpf(0)] * (size - 1)
    current = times_u(previous)
    total = [series[0] * p + series[1] * c for p, c in zip(previous, current)]
    for coefficient in series[2:]:
        previous, current = current, [2 * a - b for a, b in zip(times_u(current), previous)]
        total = [t + coefficient * c for t, c in zip(total, current)]
    return total


def even_fit(degree, end, points=1500, rounds=300):
    """Return P, lowest power first, and the largest error that it makes in erf."""
    u = 0.5 * end**2 * (1 - np.cos(np.linspace(0, np.pi, points)[1:]))
    z = np.sqrt(u)
    exact = [mp.erf(mp.mpf(v)) for v in z]
    wanted = np.array([float(mp.atanh(e)) for e in exact]) / z
    slope = z * np.array([float(1 - e * e) for e in exact])
    basis = np.polynomial.chebyshev.chebvander(2 * u / end**2 - 1, degree)
    weights = np.ones(len(u))
    for _ in range(rounds):
        root = np.sqrt(weights) * slope
        found = np.linalg.lstsq(basis * root[:, None], wanted * root, rcond=None)[0]
        error = np.abs(basis @ found - wanted) * slope
        weights *= error / error.max() + 1e-3
        weights /= weights.sum()
    polynomial = np.polynomial.Chebyshev(found, domain=(0, end**2)).convert(kind=np.polynomial.Polynomial)
    return polynomial.coef, error.max()


if __name__ == "__main__":
    mp.mp.dps = 40
    end, degree = 6, 18
    last = 1 - 2 * K / (end + K)
    centre, half = (last - 1) / 2, (last + 1) / 2
    print("float64, R, highest power first:")
    series = chebyshev_coefficients(degree, centre, half)
    print(", ".join(mp.nstr(c, 17) for c in reversed(powers(series, centre, half))))
    coefficients, largest = even_fit(6, 4)
    print(f"float32, P, highest power first (error {largest:.1e}):")
    print(", ".join(f"{c:.8g}" for c in coefficients[::-1]))
