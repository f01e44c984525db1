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

The verdict rests on the given functions and on numbers, and knows no operation by its name. Two parts do know those of
`lora_np.ops`, which is therefore imported, too: `mutants`, which puts mistakes into them, and `dictionary`, which looks
whether a wrong gradient is that of one of them with a mistake in it.

Read `check` first; then `structure` and `laws` (what a backward must be), `slopes` (the numerical derivative, and how
far it can be trusted), `compare` (the tolerance) and `diagnose` (the cause: rules about numbers, and
edits of sources).
"""

from lora_np.gradcheck.assertion import assert_gradients
from lora_np.gradcheck.causes import CAUSES, Diagnosis
from lora_np.gradcheck.check import check
from lora_np.gradcheck.mutants import Mutant, mutants
from lora_np.gradcheck.oracles import numeric_gradients
from lora_np.gradcheck.parameters import check_parameters
from lora_np.gradcheck.report import Report, Row

__all__ = [
    "CAUSES",
    "Diagnosis",
    "Mutant",
    "Report",
    "Row",
    "assert_gradients",
    "check",
    "check_parameters",
    "mutants",
    "numeric_gradients",
]
