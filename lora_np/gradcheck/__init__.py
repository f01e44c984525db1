"""Verify a hand-written backward of any NumPy function, and learn why it is wrong, with nothing but NumPy.

    from lora_np.gradcheck import check

    def square_forward(x, a):
        return a * x * x, (x, a)

    def square_backward(dy, cache):
        x, a = cache
        return 2 * x * dy, (x * x * dy).sum()

    print(check(square_forward, square_backward, {"x": np.array([0.5, -2.0, 3.0]), "a": 1.7}))

A layer written as a class, whose `forward` returns the output and a cache, is checked by its methods:
`check(layer.forward, layer.backward, {"x": x})`. One that keeps parameters, activations and gradients on itself takes
four more lines:

    def forward(x, W):
        layer.W = W
        return layer.forward(x), None

    def backward(dy, _):
        dx = layer.backward(dy)
        return dx, layer.dW

    print(check(forward, backward, {"x": x, "W": layer.W}))

In pytest, `assert_gradients` fails with the same report.

No operation is known by its name: all rests on the given functions and on numbers. Read `check` first, then the rooms:

verdict  is it right? `contract` (what a backward must be), `slopes` (the numerical derivative, and how far it can be
         trusted), `compare` (the tolerance)
causes   why is it wrong? `by_numbers` (rules about the gradients) and the edits of sources: `diagnose` asks them all

`verdict` imports nothing from `causes`; the two meet in `check`.
"""

from .causes import CAUSES, Diagnosis
from .causes.edits import faults
from .causes.mutants import Mutant, mutants
from .causes.suspect import ALIKE, close, ratio
from .causes.values import explain_values
from .check import assert_gradients, check
from .parameters import check_parameters
from .verdict.calls import LIBRARIES, by_name, draw_upstream, in_words
from .verdict.compare import FLOAT32_LOSS, TOLERANCE
from .verdict.oracles import numeric_gradients
from .verdict.report import Report, Row
from .verdict.snapshots import differences, leaves, snapshot

__all__ = [
    "ALIKE",
    "CAUSES",
    "FLOAT32_LOSS",
    "LIBRARIES",
    "TOLERANCE",
    "Diagnosis",
    "Mutant",
    "Report",
    "Row",
    "assert_gradients",
    "by_name",
    "check",
    "check_parameters",
    "close",
    "differences",
    "draw_upstream",
    "explain_values",
    "faults",
    "in_words",
    "leaves",
    "mutants",
    "numeric_gradients",
    "ratio",
    "snapshot",
]
