"""A bilinear form: how well a row of x fits the row of z beside it, by a square matrix M: y = x M z, a number a row."""

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dM", "dz")
NAMES = ("x M z", "u W v", "left S right")


def forward(x, M, z):
    """Return y (N,) and the cache, for x (N, d), M (d, d), z (N, d)."""
    seen = z @ M.T
    y = (x * seen).sum(axis=1)
    return y, (x, M, z, seen)


def bilinear_backward(dy, cache):
    """Return dx (N, d), dM (d, d), dz (N, d)."""
    x, M, z, seen = cache
    dx = dy[:, None] * seen
    dseen = dy[:, None] * x
    dM = dseen.T @ z
    dz = dseen @ M
    return dx, dM, dz


def draw(rng, dtype, trial):
    n, d = sizes(rng, 2)
    return {"x": drawn(rng, dtype, n, d), "M": drawn(rng, dtype, d, d), "z": drawn(rng, dtype, n, d)}, {}


SLIPS = """
wrong_cached_value: seen meets x in y, so what it receives is dy times x
    dseen = dy[:, None] * x => dseen = dy[:, None] * seen
wrong_cached_value: x meets seen in y, not z
    dx = dy[:, None] * seen => dx = dy[:, None] * z
wrong_cached_value: z was multiplied by M; the matrix takes z, not what came of it
    dseen.T @ z => dseen.T @ seen
swapped: dx and dz are returned in the wrong order
    return dx, dM, dz => return dz, dM, dx
"""
HIDDEN = {
    "M is symmetric": """
transpose: the forward multiplies by the transpose of M, so the way back multiplies by M itself
    dseen @ M => dseen @ M.T
""",
    "z is x": """
transpose: dM is transposed: row i of M belongs to x, column j to z
    dseen.T @ z => z.T @ dseen
""",
    "N = 1": """
mean_vs_sum: M serves all rows, so its gradient is a sum over them
    dseen.T @ z => dseen.T @ z / len(z)
""",
}
UPSTREAM = """
ignores_upstream: dx does not depend on dy
    dx = dy[:, None] * seen => dx = seen
ignores_upstream: what x and M hand on does not depend on dy
    dseen = dy[:, None] * x => dseen = x
"""
UNLUCKY = {
    "M is symmetric": lambda values: values | {"M": values["M"] + values["M"].T},
    "z is x": lambda values: values | {"z": values["x"]},
    "N = 1": lambda values: values | {name: values[name][:1] for name in ("x", "z")},
}
