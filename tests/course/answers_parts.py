"""What the lists of answers are made of."""

from typing import NamedTuple


class Wrong(NamedTuple):
    exercise: str
    function: object
    cause: object  # the label of lora_np.gradcheck.causes that a teacher would give, or None where none fits
    also: tuple = ()  # labels that say the same


class Right(NamedTuple):
    exercise: str
    function: object
