"""Verify a hand-written backward of any NumPy function, with nothing but NumPy.

Read `check` first; then `structure` and `laws` (what a backward must be), `slopes` (the numerical derivative, and how
far it can be trusted) and `compare` (the tolerance).
"""

from lora_np.gradcheck.check import check
from lora_np.gradcheck.oracles import numeric_gradients
from lora_np.gradcheck.parameters import check_parameters
from lora_np.gradcheck.report import Report, Row

__all__ = ["Report", "Row", "check", "check_parameters", "numeric_gradients"]
