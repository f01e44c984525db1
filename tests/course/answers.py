"""Answers to the exercises as learners write them: wrong ones, each with its cause, and right ones that look odd."""

import answers_attention
import answers_backward
import answers_backward_attention
import answers_backward_loss
import answers_debug
import answers_forward
import answers_inject
import answers_interval
import answers_lora
import answers_lora_backward
import answers_low_rank
import answers_merging
import answers_numeric
import answers_optimiser
import answers_training
from answers_parts import Right, Wrong

PARTS = [
    answers_low_rank,
    answers_forward,
    answers_attention,
    answers_numeric,
    answers_debug,
    answers_backward,
    answers_backward_attention,
    answers_backward_loss,
    answers_lora,
    answers_lora_backward,
    answers_optimiser,
    answers_training,
    answers_inject,
    answers_merging,
    answers_interval,
]
WRONG = [wrong for part in PARTS for wrong in part.WRONG]
RIGHT = [right for part in PARTS for right in part.RIGHT]

__all__ = ["RIGHT", "WRONG", "Right", "Wrong"]
