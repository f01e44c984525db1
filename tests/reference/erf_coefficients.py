"""Print the coefficients of `lora_np.ops.gelu.erf`:  python tests/reference/erf_coefficients.py   (needs mpmath).

With s = 1 / (z + K) and t = 1 - 2 K s in [-1, 1), the function P(t) = (z + K) exp(z^2) erfc(z) is smooth on z >= 0 and
tends to 1 / sqrt(pi). Its Chebyshev series is cut where the rest is below the rounding of the dtype, and rewritten in
powers of t. 40 digits are carried throughout.
"""

import mpmath as mp

K, NODES = mp.mpf(5) / 2, 120


def chebyshev_coefficients(degree):
    """Coefficients of the interpolant at the NODES Chebyshev points, up to `degree`."""
    points = [mp.cos(mp.pi * (k + mp.mpf(1) / 2) / NODES) for k in range(NODES)]
    z = [K * (1 + t) / (1 - t) for t in points]
    values = [mp.erfc(v) * mp.exp(v * v) * (v + K) for v in z]
    angles = [mp.pi * (k + mp.mpf(1) / 2) / NODES for k in range(NODES)]
    series = [2 / mp.mpf(NODES) * mp.fsum(f * mp.cos(j * a) for f, a in zip(values, angles)) for j in range(degree + 1)]
    series[0] /= 2
    return series


def powers(series):
    """The same polynomial in powers of t, lowest first, by T_{j+1} = 2 t T_j - T_{j-1}."""
    size = len(series)
    previous, current = [mp.mpf(1)] + [mp.mpf(0)] * (size - 1), [mp.mpf(0), mp.mpf(1)] + [mp.mpf(0)] * (size - 2)
    total = [series[0] * p + series[1] * c for p, c in zip(previous, current)]
    for coefficient in series[2:]:
        shifted = [mp.mpf(0)] + [2 * c for c in current[:-1]]
        previous, current = current, [a - b for a, b in zip(shifted, previous)]
        total = [t + coefficient * c for t, c in zip(total, current)]
    return total


if __name__ == "__main__":
    mp.mp.dps = 40
    for name, degree in (("float64", 24), ("float32", 10)):
        print(f"{name}, highest power first:")
        print(", ".join(mp.nstr(c, 17) for c in reversed(powers(chebyshev_coefficients(degree)))))
