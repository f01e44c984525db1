"""The second suite: operations that the package does not have. The rules were made with it in sight."""

import foreign_batch
import foreign_conv
import foreign_products
import foreign_right
import foreign_rms
import foreign_rope
import foreign_rows
import foreign_scalar
import foreign_swiglu
from suite_parts import CAUSES, Right, Wrong

WRONG = [
    *foreign_rms.WRONG,
    *foreign_swiglu.WRONG,
    *foreign_rope.WRONG,
    *foreign_batch.WRONG,
    *foreign_conv.WRONG,
    *foreign_rows.WRONG,
    *foreign_products.WRONG,
    *foreign_scalar.WRONG,
]
RIGHT = foreign_right.RIGHT

__all__ = ["CAUSES", "RIGHT", "WRONG", "Right", "Wrong"]
