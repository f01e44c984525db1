"""What the trial suite is made of: its two kinds of entry, how they are collected, and arrays that hide nothing."""

from typing import NamedTuple

import numpy as np

CAUSES = (
    *("inplace", "nondeterministic", "dtype", "shape", "zero_gradient", "ignores_upstream", "swapped"),
    *("constant_factor", "mean_vs_sum", "elementwise_factor", "factor_order"),
    *("sign", "missing_term", "extra_term", "missing_path"),
    *("transpose", "reduction_axis", "not_accumulated", "mask_ignored"),
    *("wrong_cached_value", "wrong_derivative"),
)


class Wrong(NamedTuple):
    """A mistake that people make."""

    name: str
    op: str
    make: object  # make(rng) returns (forward, backward, inputs, fixed)
    arguments: tuple  # those whose gradient is wrong; "backward" or "forward" where the call is
    cause: str
    also: tuple = ()  # other labels that say the same


class Right(NamedTuple):
    """A backward that is right, though it may not look so."""

    name: str
    make: object  # make(rng) returns (forward, backward, inputs, fixed)


def collector(found, op):
    """Return a decorator that puts a backward into the list `found`, named as the function is.

    Its arguments are the setting (`setting(rng)` returns (forward, inputs, fixed)), the wrong arguments in one string,
    the cause, and other right labels in one string.
    """

    def wrong(setting, arguments, cause, also="", name=None):
        def keep(backward):
            def make(rng):
                forward, inputs, fixed = setting(rng)
                return forward, backward, inputs, fixed

            words = (name or backward.__name__).replace("_", " ")
            found.append(Wrong(f"{op}: {words}", op, make, tuple(arguments.split()), cause, tuple(also.split())))
            return backward

        return keep

    return wrong


def layer_collector(found, op):
    """The same for a class with the methods forward and backward: each trial gets an object of its own."""

    def wrong(inputs_of, arguments, cause, also=""):
        def keep(Layer):
            def make(rng):
                layer, inputs = Layer(), inputs_of(rng)
                return layer.forward, layer.backward, inputs, {}

            words = "".join(f" {c.lower()}" if c.isupper() else c for c in Layer.__name__).strip()
            found.append(Wrong(f"{op}: {words}", op, make, tuple(arguments.split()), cause, tuple(also.split())))
            return Layer

        return keep

    return wrong


def sizes(rng, count):
    """Draw different sizes. None is 2 or a square above 4, so that no size looks like a 2 or a root of another."""
    return rng.permutation([3, 4, 5, 6, 7])[:count].tolist()


def kept(rng, *shape):
    """Draw a boolean array of which 3 in 10 entries are False."""
    count = int(np.prod(shape))
    return (rng.permutation(count) >= 0.3 * count).reshape(shape)


def dropout_mask(rng, *shape):
    """Draw a dropout mask for p = 0.3, already divided by 1 - p."""
    return kept(rng, *shape) / 0.7


def repeated(rng, count, below):
    """Draw more ids than there are: some occur twice or more, and the last one never does."""
    assert count >= below
    return rng.integers(0, below - 1, count)


def single(inputs):
    """Cast the inputs to float32."""
    return {name: x.astype(np.float32) for name, x in inputs.items()}


def right_collector(found):
    """Return a decorator that puts a right backward into the list `found`.

    Inputs are given by their shapes or by functions of rng; fixed arguments as they are, or by functions of rng.
    """

    def right(forward, fixed=None, dtype=np.float64, name=None, **inputs):
        def cast(x):
            return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

        def keep(backward):
            def make(rng):
                drawn = {key: cast(x(rng) if callable(x) else rng.standard_normal(x)) for key, x in inputs.items()}
                return (
                    forward,
                    backward,
                    drawn,
                    {k: cast(x(rng) if callable(x) else x) for k, x in (fixed or {}).items()},
                )

            words = (name or backward.__name__).replace("_", " ")
            found.append(Right(words + " in float32" * (dtype == np.float32), make))
            return backward

        return keep

    return right
