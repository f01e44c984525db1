"""What a run draws at random, by number: the second number of a generator's seed, `default_rng([seed, purpose, ...])`.

Two purposes never share a number, or two draws of one run would be the same. A number that was given out stays, or old
runs could not be repeated. NumPy takes [seed] and [seed, 0] for one seed, so no purpose is 0. Draws whose seed is not a
run's (of `check_model`, of the split of a dataset) count for themselves.
"""

from enum import IntEnum, unique


@unique
class Purpose(IntEnum):
    ORDER = 1  # of the examples, anew in each epoch
    DROPOUT = 2  # the masks of a step, by share and piece
    ADAPTER = 3  # LoRA's A
    EXAMPLES = 4  # that are shown at the end
    INITIAL = 5  # the numbers that pretraining begins with
    AUGMENT = 6  # what is done to the inputs of a step
    HEAD = 7  # a new classifier
