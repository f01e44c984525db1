"""Frozen matrices in less memory: what stands in a weight's place multiplies as it does (`x @ W`, `dy @ W.T`)."""

from lora_np.compress.ggml import Q4_0, Q4_1, Q8_0
from lora_np.compress.int8 import Int8
from lora_np.compress.low_rank import LowRank, low_rank_approximation, rank_for_error
from lora_np.compress.matrix import FrozenMatrix
from lora_np.compress.nf4 import NF4
from lora_np.compress.pruned import Pruned

FORMATS = {"low_rank": LowRank, "pruned": Pruned, "int8": Int8, "nf4": NF4, "q4_0": Q4_0, "q4_1": Q4_1, "q8_0": Q8_0}

__all__ = [
    "FORMATS",
    "FrozenMatrix",
    "Int8",
    "LowRank",
    "NF4",
    "Pruned",
    "Q4_0",
    "Q4_1",
    "Q8_0",
    "low_rank_approximation",
    "rank_for_error",
]
