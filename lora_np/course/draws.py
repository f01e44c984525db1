"""What exercises draw their arguments with: sizes that differ, numbers off every special point."""

from lora_np import ops


def sizes(rng, count):
    """Return different sizes, all above 1."""
    return rng.permutation([2, 3, 4, 5, 6, 7])[:count].tolist()


def in_and_out(rng, trial):
    """Return d_in and d_out: on even trials the first is the larger one, on odd ones the second."""
    return sorted(sizes(rng, 2), reverse=trial % 2 == 0)


def any_shape(rng, trial):
    """Return a shape of one to four axes: 2 on trial 0, then 1, 3, 4, and over again."""
    return tuple(rng.permutation([2, 3, 4, 5])[: (2, 1, 3, 4)[trial % 4]].tolist())


def drawn(rng, dtype, *shape):
    """Return numbers from the normal distribution."""
    return rng.standard_normal(shape).astype(dtype)


def dropout(rng, dtype, *shape):
    """Return a dropout mask, divided by 1 - p already, that hides something."""
    mask = ops.dropout_mask(shape, 0.3, rng, dtype)
    mask.reshape(-1)[rng.integers(mask.size)] = 0
    return mask
