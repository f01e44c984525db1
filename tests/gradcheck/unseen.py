"""The third suite, the blind one: no rule was made, and no entry looked at, with the two together in sight."""

import unseen_batch_group
import unseen_cells
import unseen_conv_pool
import unseen_logsoftmax_cosine
import unseen_right_formulas
import unseen_right_layers
import unseen_rms_swiglu
import unseen_rope_bilinear
import unseen_scalars_losses
import unseen_weighted_mean
from suite_parts import CAUSES, Right, Wrong

WRONG = [
    *unseen_rms_swiglu.WRONG,
    *unseen_rope_bilinear.WRONG,
    *unseen_batch_group.WRONG,
    *unseen_conv_pool.WRONG,
    *unseen_logsoftmax_cosine.WRONG,
    *unseen_cells.WRONG,
    *unseen_scalars_losses.WRONG,
    *unseen_weighted_mean.WRONG,
]
RIGHT = [*unseen_right_layers.RIGHT, *unseen_right_formulas.RIGHT]

__all__ = ["CAUSES", "RIGHT", "WRONG", "Right", "Wrong"]
