"""The numerical gradient of anybody's function: which way each line moves, and what its step is measured by.

The derivative along a line, and how far it can be trusted, is the matter of `slopes`.
"""

import numpy as np

from .calls import Answering, evaluator, flat, widened
from .noise import noise_level
from .slopes import Outputs, slopes_along


def sizes_of(x):
    """Return the natural size of each entry of x, which its step is measured by.

    That is |x_i|, but not less than a tenth of the root mean square of its row (last axis): an entry that happens to be
    near zero is still one of a population. A row of zeros takes the whole array's, an array of zeros takes 1.
    """
    x = np.asarray(x, dtype=np.float64)
    rows = np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) if x.ndim else np.abs(x)
    whole = float(np.sqrt(np.mean(x * x))) or 1.0
    return np.maximum(np.abs(x), 0.1 * np.where(rows > 0, rows, whole))


def outputs_at(evaluate, values, doutput):
    """Evaluate the outputs, and their noise, once for all the derivatives to come.

    `evaluate` goes from a dict of float64 inputs to all outputs as one vector; `values` are the inputs.
    """
    start = evaluate(values)
    return Outputs(start, flat(doutput), noise_level(evaluate, values, start))


def entry_slopes(evaluate, values, name, entries, outputs, rtol=1e-7):
    """Differentiate with respect to single entries (flat indices) of one input."""
    x = np.array(values[name], dtype=np.float64, order="C")
    positions = entries.tolist()

    def move(i, t):
        if not isinstance(values[name], np.ndarray):
            return evaluate({**values, name: values[name] + t})
        moved = x.astype(complex) if isinstance(t, complex) else x  # no copy for each of thousands of moves
        line = moved.reshape(-1)  # a view
        kept = line[positions[i]]
        line[positions[i]] = kept + t
        try:
            return evaluate({**values, name: moved})
        finally:
            line[positions[i]] = kept

    return slopes_along(move, outputs, sizes_of(x).reshape(-1)[entries], rtol)


def random_direction(rng, gradient, sizes):
    """Draw a direction of the array's own size.

    Its signs are those of the given gradient: else the sum over entries could cancel and hide an error in proportion.
    """
    return np.asarray(np.copysign(np.abs(rng.standard_normal(np.shape(gradient))), gradient) * sizes)


def direction_slope(evaluate, values, directions, weights, outputs, rtol=1e-7):
    """Differentiate along one direction that moves some whole arrays at once, each by its weight: a few forwards."""

    def move(_, t):
        moved = {name: np.asarray(values[name] + (t * weight) * directions[name]) for name, weight in weights.items()}
        return evaluate({**values, **moved})

    return slopes_along(move, outputs, np.ones(1), rtol)


def numeric_gradients(forward, inputs, doutput, fixed={}):  # noqa: B006 - never changed
    """Return the numerical gradient of sum(output * doutput) for every input.

    Parameters
    ----------
    forward : callable
        ``forward(**inputs, **fixed)`` returns ``(output, cache)``, as for `check`.
    inputs : dict of str to array or float
    doutput : array, float or tuple of arrays
        The upstream gradient, shaped like the output.
    fixed : dict
        Further arguments, not differentiated.

    Returns
    -------
    dict of str to float64 array
        Where the function has a kink, the middle between its two slopes.
    """
    evaluate, values, gradients = evaluator(Answering(forward), fixed, pure=False), widened(inputs), {}
    outputs = outputs_at(evaluate, values, doutput)
    for name, x in values.items():
        slopes = entry_slopes(evaluate, values, name, np.arange(np.size(x)), outputs)
        gradients[name] = ((slopes.low + slopes.high) / 2).reshape(np.shape(x))
    return gradients
