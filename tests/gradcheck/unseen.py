"""The second suite: operations that the package does not have, written before anything that names causes."""

import unseen_batch
import unseen_conv
import unseen_products
import unseen_right
import unseen_rms
import unseen_rope
import unseen_rows
import unseen_scalar
import unseen_swiglu
from suite_parts import CAUSES, Right, Wrong

WRONG = [
    *unseen_rms.WRONG,
    *unseen_swiglu.WRONG,
    *unseen_rope.WRONG,
    *unseen_batch.WRONG,
    *unseen_conv.WRONG,
    *unseen_rows.WRONG,
    *unseen_products.WRONG,
    *unseen_scalar.WRONG,
]
RIGHT = unseen_right.RIGHT

__all__ = ["CAUSES", "RIGHT", "WRONG", "Right", "Wrong"]
