"""A third trial suite: the same mistakes in other layers and other hands, and right backwards in unusual forms."""

import fresh_batch_group
import fresh_cells
import fresh_conv_pool
import fresh_logsoftmax_cosine
import fresh_right_formulas
import fresh_right_layers
import fresh_rms_swiglu
import fresh_rope_bilinear
import fresh_scalars_losses
import fresh_weighted_mean
from suite_parts import CAUSES, Right, Wrong

WRONG = [
    *fresh_rms_swiglu.WRONG,
    *fresh_rope_bilinear.WRONG,
    *fresh_batch_group.WRONG,
    *fresh_conv_pool.WRONG,
    *fresh_logsoftmax_cosine.WRONG,
    *fresh_cells.WRONG,
    *fresh_scalars_losses.WRONG,
    *fresh_weighted_mean.WRONG,
]
RIGHT = [*fresh_right_layers.RIGHT, *fresh_right_formulas.RIGHT]

__all__ = ["CAUSES", "RIGHT", "WRONG", "Right", "Wrong"]
