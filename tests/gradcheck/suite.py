"""The trial suite: what people get wrong in a backward, each with its cause, and what is right though it looks odd."""

import suite_right
import suite_right_forms
import suite_wrong_attention
import suite_wrong_heads
import suite_wrong_linear
import suite_wrong_lora
import suite_wrong_loss
import suite_wrong_norm
import suite_wrong_pooling
import suite_wrong_rows
import suite_wrong_scalar
from suite_parts import CAUSES, Right, Wrong

WRONG = [
    *suite_wrong_linear.WRONG,
    *suite_wrong_lora.WRONG,
    *suite_wrong_norm.WRONG,
    *suite_wrong_scalar.WRONG,
    *suite_wrong_attention.WRONG,
    *suite_wrong_heads.WRONG,
    *suite_wrong_rows.WRONG,
    *suite_wrong_pooling.WRONG,
    *suite_wrong_loss.WRONG,
]
RIGHT = [*suite_right.RIGHT, *suite_right_forms.RIGHT]

__all__ = ["CAUSES", "RIGHT", "WRONG", "Right", "Wrong"]
