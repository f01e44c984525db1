"""Does a returned gradient fit the variable it belongs to? Shape and dtype, before any number is compared."""

import numpy as np

from lora_np.gradcheck.calls import is_scalar, located


def freeze(returned):
    """Copy the gradients at once: the next call may write into the same buffers."""
    if isinstance(returned, (tuple, list)):
        return tuple(freeze(item) for item in returned)
    return returned.copy() if isinstance(returned, np.ndarray) else returned


def by_name(returned, names):
    """Pair the gradients that a backward returned with the names of its inputs."""
    return dict(zip(names, returned if isinstance(returned, (tuple, list)) else (returned,)))


def misplaced(label, gradient, variable):
    """Say what is wrong with a gradient as an object.

    Returns
    -------
    sentence : str or None
    comparable : bool
        Can its numbers be compared nevertheless?
    """
    if gradient is None:
        return f"{label}: is None; return an array, or move the argument to `fixed` if it needs no gradient", False
    if not isinstance(gradient, (np.ndarray, np.number, float, int)):
        return f"{label}: is a {type(gradient).__name__}, expected an array", False
    array, shape = np.asarray(gradient), np.shape(variable)
    if array.dtype.kind not in "fiu":
        return f"{label}: has dtype {array.dtype}, expected real floating-point numbers", False
    if array.shape != shape:
        larger = array.size > np.size(variable)
        advice = "sum over the axes along which it was broadcast" if larger else "do not leave it to broadcasting"
        return f"{label}: has shape {array.shape}, expected {shape} as its variable has; {advice}", False
    bad = ~np.isfinite(array)
    if np.any(bad):
        return f"{label}: is not finite{located(bad)}", False
    if is_scalar(variable):
        return (None if array.dtype.kind == "f" else f"{label}: has dtype {array.dtype}, expected a float"), True
    if array.dtype != variable.dtype and type(gradient) is not float:  # Python's float takes any precision
        return f"{label}: has dtype {array.dtype}, expected {variable.dtype} as its variable has", True
    return None, True
