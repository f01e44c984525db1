"""SwiGLU, as in the MLP of Llama (Shazeer 2020, arXiv:2002.05202): y = gate sigmoid(gate) up, entry by entry."""

import numpy as np

from lora_np.course.draws import any_shape, drawn

OUTPUTS = ("dgate", "dup")
NAMES = ("gate up sig", "left right prob", "u v w")


def forward(gate, up):
    """Return y and the cache; gate and up have the same shape."""
    sig = 1 / (1 + np.exp(-gate))
    y = gate * sig * up
    return y, (gate, up, sig)


def gate_backward(dy, cache):
    """Return dgate and dup."""
    gate, up, sig = cache
    dup = dy * gate * sig
    dswish = dy * up
    dgate = dswish * (sig + gate * sig * (1 - sig))
    return dgate, dup


def draw(rng, dtype, trial):
    shape = any_shape(rng, trial)
    return {"gate": drawn(rng, dtype, *shape), "up": drawn(rng, dtype, *shape)}, {}


SLIPS = """
missing_path: gate is used twice, as a factor and inside the sigmoid; the first way is missing
    (sig + gate * sig * (1 - sig)) => (gate * sig * (1 - sig))
missing_path: gate is used twice, as a factor and inside the sigmoid; the second way is missing
    (sig + gate * sig * (1 - sig)) => sig
wrong_derivative: that is the derivative of tanh; that of the sigmoid is sig (1 - sig)
    gate * sig * (1 - sig) => gate * (1 - sig * sig)
elementwise_factor: the factor gate of y is missing in dup
    dy * gate * sig => dy * sig
swapped: the two gradients are returned in the wrong order
    return dgate, dup => return dup, dgate
"""
HIDDEN = {
    "up = 1": """
elementwise_factor: the factor up of y is missing in dgate
    dswish = dy * up => dswish = dy
""",
    "gate = 0": """
wrong_derivative: the derivative of the sigmoid is sig (1 - sig); here sig is squared
    gate * sig * (1 - sig) => gate * sig * (1 - sig) * sig
""",
}
UPSTREAM = """
ignores_upstream: dup does not depend on dy
    dup = dy * gate * sig => dup = gate * sig
"""
UNLUCKY = {
    "up = 1": lambda values: values | {"up": np.ones_like(values["up"])},
    "gate = 0": lambda values: values | {"gate": np.zeros_like(values["gate"])},
}
