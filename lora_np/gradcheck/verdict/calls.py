"""Calling somebody else's functions: fresh arguments, one flat output, and plain words when something raises."""

import copy
import sysconfig
import traceback
from numbers import Number
from pathlib import Path

import numpy as np

HERE = str(Path(__file__).parents[1])
LIBRARIES = (str(Path(np.__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), "<frozen")

OWN_SEED = 0x6C6F7261


class Exited(ValueError):
    """Somebody's function has called sys.exit; its cause is the SystemExit."""


class Answering:
    """Somebody's function, in which sys.exit is an error like any other: it must not end a check without verdict."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args, **kwargs):
        try:
            return self.function(*args, **kwargs)
        except SystemExit as error:
            raise Exited(f"the function ends the program ({error!r}); let it return, or raise an exception") from error


def is_scalar(value):
    """Is it a float, Python's or NumPy's, rather than an array?"""
    return isinstance(value, (float, np.floating))


def parts_of(output):
    """Return the arrays and floats of an output as a tuple, also where it is just one."""
    return output if isinstance(output, tuple) else (output,)


def coarsest(values):
    """Return the least precise dtype among some arrays; floats follow the arrays."""
    dtypes = [value.dtype for value in values if isinstance(value, np.ndarray)]
    return max(dtypes, key=lambda dtype: np.finfo(dtype).eps, default=np.dtype(np.float64))


def copied(value):
    """Copy an array, or whatever it is; what cannot be copied is returned itself."""
    if isinstance(value, np.ndarray):
        return value.copy()
    try:
        return copy.deepcopy(value)
    except Exception:  # a lock, an open file: nothing that a derivative depends on
        return value


def fresh(values):
    """Return a dict with a copy of everything, so that no call sees what an earlier call did to its arguments.

    A random generator is copied with its state: a forward that is given one draws the same numbers every time.
    """
    return {name: copied(value) for name, value in values.items()}


def gradients_of(returned):
    """Return the gradients that a backward returned as a tuple or list, also where it is just one."""
    return returned if isinstance(returned, (tuple, list)) else (returned,)


def by_name(returned, names):
    """Pair the gradients that a backward returned with the names of its inputs."""
    return dict(zip(names, gradients_of(returned)))


def widened(value):
    """Cast floating-point arrays, also inside containers, to float64; leave ids, masks and settings alone."""
    if isinstance(value, np.ndarray):
        return np.array(value, dtype=np.float64 if value.dtype.kind == "f" else None)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, dict):
        return {key: widened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [widened(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return copied(value)


def flat(output):
    """Lay an output end to end in a new float64, or complex, vector."""
    # A copy always: an output may be a view of an input that the oracle is about to move.
    if isinstance(output, np.ndarray):
        return output.astype(complex if output.dtype.kind == "c" else float).reshape(-1)
    return np.concatenate([flat(np.asarray(part)) for part in parts_of(output)])


def forward_once(forward, inputs, fixed, when="at the given inputs"):
    """Call the forward and return (output, cache), or say in one sentence why there is nothing to check."""
    try:
        returned = forward(**inputs, **fixed)
    except Exception as error:
        words = f"the forward raises {when}: {in_words(error)}; a check needs inputs at which the forward runs"
        raise ValueError(words) from error
    if not isinstance(returned, tuple) or len(returned) != 2:
        received = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(f"the forward must return a pair (output, cache), not {received}; a cache may be None")
    validate_output(returned[0])
    return returned


def validate_output(output):
    """Refuse an output that has no derivative: not floating-point, empty, or not finite."""
    for i, part in enumerate(parts_of(output)):
        name = f"output {i} of the forward" if isinstance(output, tuple) else "the forward's output"
        if not is_scalar(part) and not (isinstance(part, np.ndarray) and part.dtype.kind == "f"):
            kind = f"an array of {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
            wanted = "expected a floating-point array or float; what has no gradient belongs in the cache"
            raise TypeError(f"{name} is {kind}, {wanted}")
        bad = ~np.isfinite(part)
        if np.any(bad):
            raise ValueError(f"{name} is not finite{located(bad)}; check at inputs where it is finite")
    if sum(np.size(part) for part in parts_of(output)) == 0:
        raise ValueError("the forward's output has no entries; check at inputs whose sizes are above zero")


def located(bad):
    """Say how many entries of an array are bad and where the first one is; nothing about a scalar."""
    if np.ndim(bad) == 0:
        return ""
    return f" in {np.sum(bad)} of {bad.size} entries, the first at {np.argwhere(bad)[0].tolist()}"


def generator(rng):
    """Return a generator; one from a number, or from None, that draws other numbers than the author's own does.

    People draw their inputs from `default_rng(0)`. An upstream from the same seed would be equal to the first of them,
    and along itself the gradient of anything normalised is zero.
    """
    return rng if isinstance(rng, np.random.Generator) else np.random.default_rng([OWN_SEED, rng or 0])


def draw_upstream(output, rng):
    """Draw a gradient for the output: normal numbers of its shape and dtype, a Python float for a float."""
    if isinstance(output, tuple):
        return tuple(draw_upstream(part, rng) for part in output)
    if is_scalar(output):
        return float(rng.standard_normal())
    return np.asarray(rng.standard_normal(output.shape), dtype=output.dtype)


def in_words(error, ours=HERE):
    """Say what was raised and on which line of the user's own code, without the path; what lies in `ours` is not."""
    error = error.__cause__ if isinstance(error, Exited) else error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)] or frames
    if not own:
        return text  # raised by the call itself: a missing or unexpected argument
    code = f": `{own[-1].line}`" if own[-1].line else ""
    return f"{text} (line {own[-1].lineno} of {Path(own[-1].filename).name}{code})"


def evaluator(forward, fixed, pure):
    """Return a function from inputs to all outputs as one float64 (or complex) vector, for the oracle.

    Copies of large arrays would cost more than many a forward, so arrays are shared between calls, unless the forward
    is known to change its arguments. Objects with a state, such as random generators, are copied for every call.
    """
    fixed = widened(fixed)
    stateless = (np.ndarray, Number, str, list, tuple, dict, type(None))
    shared = {name: value for name, value in fixed.items() if pure and isinstance(value, stateless)}
    others = {name: value for name, value in fixed.items() if name not in shared}

    def evaluate(inputs):
        return flat(forward(**(inputs if pure else fresh(inputs)), **shared, **fresh(others))[0])

    return evaluate
