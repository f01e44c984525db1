"""Embedding: each id takes its row, scaled; each position in the text adds a row of its own."""

import numpy as np

from lora_np.course.draws import drawn

OUTPUTS = ("dtable", "dplace")
NAMES = ("table place ids scale", "words order tokens factor", "E P t c")


def forward(table, place, ids, scale):
    """Return y (N, d) and the cache; table (V, d), place (L, d), ids (N,)."""
    y = scale * table[ids] + place[: len(ids)]
    return y, ((table.shape, place.shape), ids, scale)


def embedding_backward(dy, cache):
    """Return dtable (V, d) and dplace (L, d)."""
    shapes, ids, scale = cache
    dtable = np.zeros(shapes[0], dy.dtype)
    np.add.at(dtable, ids, scale * dy)
    dplace = np.zeros(shapes[1], dy.dtype)
    dplace[: len(ids)] = dy
    return dtable, dplace


def draw(rng, dtype, trial):
    ids = np.array([3, 1, 3, 0, 6, 1, 3])[: 7 - trial]
    return {"table": drawn(rng, dtype, 9, 3), "place": drawn(rng, dtype, 8, 3)}, {"ids": ids, "scale": 1.7}


SLIPS = """
constant_factor: a row is multiplied by scale, so what comes back is multiplied, too, not divided
    scale * dy => dy / scale
constant_factor: the scaling belongs to dtable alone
    dplace[: len(ids)] = dy => dplace[: len(ids)] = scale * dy
other: the first len(ids) positions are used, not the last ones
    dplace[: len(ids)] = dy => dplace[-len(ids) :] = dy
other: the rows of dy arrive in the wrong order
    dplace[: len(ids)] = dy => dplace[: len(ids)] = dy[::-1]
sign: dy is taken away where it belongs to be added
    scale * dy => -scale * dy
"""
HIDDEN = {
    "no id stands twice": """
not_accumulated: a row that is used several times collects all its dy; this keeps the last one alone
    np.add.at(dtable, ids, scale * dy) => dtable[ids] = scale * dy
""",
    "scale = 1": """
constant_factor: scale is missing in dtable
    scale * dy => dy
""",
    "the ids are 0, 1, 2, ...": """
other: row n of y takes row n of place, whatever id stands there
    dplace[: len(ids)] = dy => dplace[ids] = dy
""",
}
UPSTREAM = """
ignores_upstream: this counts how often an id is used; what is to be added up is dy
    scale * dy => scale
"""
UNLUCKY = {
    "no id stands twice": lambda values: values | {"ids": np.array([3, 1, 0, 6])},
    "scale = 1": lambda values: values | {"scale": 1.0},
    "the ids are 0, 1, 2, ...": lambda values: values | {"ids": np.arange(len(values["ids"]))},
}
