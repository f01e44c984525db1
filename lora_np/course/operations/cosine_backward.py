"""Cosine similarity: how far a row of x points where the row of z beside it points, whatever their lengths."""

from lora_np.course.draws import drawn, sizes

OUTPUTS = ("dx", "dz")
NAMES = ("x z u v nx nz", "query key q k nq nk", "a c p q na nc")


def forward(x, z):
    """Return y (N,) and the cache, for x (N, d) and z (N, d)."""
    nx = (x * x).sum(axis=1, keepdims=True) ** 0.5
    nz = (z * z).sum(axis=1, keepdims=True) ** 0.5
    u, v = x / nx, z / nz
    y = (u * v).sum(axis=1)
    return y, (u, v, nx, nz, y)


def cosine_backward(dy, cache):
    """Return dx (N, d) and dz (N, d)."""
    u, v, nx, nz, y = cache
    dy, y = dy[:, None], y[:, None]
    dx = dy * (v - y * u) / nx
    dz = dy * (u - y * v) / nz
    return dx, dz


def draw(rng, dtype, trial):
    n, d = sizes(rng, 2)
    return {"x": drawn(rng, dtype, n, d), "z": drawn(rng, dtype, n, d)}, {}


SLIPS = """
missing_path: the length of x depends on x, too: y u has to be taken away
    (v - y * u) => v
missing_path: the length of z depends on z, too: y v has to be taken away
    (u - y * v) => u
sign: a longer z makes y smaller, so this way is taken away
    (u - y * v) => (u + y * v)
elementwise_factor: the factor y is missing: only the part along u is to be taken away
    (v - y * u) => (v - u)
swapped: the two gradients are returned in the wrong order
    return dx, dz => return dz, dx
"""
HIDDEN = {
    "each row of x has the length 1": """
elementwise_factor: the division by the length of x is missing
    (v - y * u) / nx => (v - y * u)
elementwise_factor: x is divided by its length once, not by the square of it
    / nx => / nx**2
""",
    "the rows of x and z are equally long": """
wrong_cached_value: z was divided by its own length, not by that of x
    / nz => / nx
""",
}
UPSTREAM = """
ignores_upstream: dx does not depend on dy
    dx = dy * (v - y * u) => dx = (v - y * u)
ignores_upstream: dz does not depend on dy
    dz = dy * (u - y * v) => dz = (u - y * v)
"""


def of_length(values, name, length):
    rows = values[name]
    return values | {name: rows * (length / (rows * rows).sum(axis=1, keepdims=True) ** 0.5)}


UNLUCKY = {
    "each row of x has the length 1": lambda values: of_length(values, "x", 1.0),
    "the rows of x and z are equally long": lambda values: of_length(of_length(values, "x", 1.7), "z", 1.7),
}
