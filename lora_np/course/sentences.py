"""What is said of one result, beside the right one, and of an error."""

from numbers import Number

import numpy as np

TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 2e-5}  # relative to the largest entry


def difference(name, given, right, tolerance=None):
    """Return a sentence if a result is not what it should be, None if it is within a relative tolerance."""
    if given is None:
        return f"{name} is None: is the return missing?"
    if not isinstance(given, (np.ndarray, Number)):
        return f"{name} is {type(given).__name__}, expected {described_type(right)}"
    mine, wanted = np.asarray(given), np.asarray(right)
    if mine.shape != wanted.shape:
        return f"{name} has the shape {mine.shape}, expected {wanted.shape}"
    if not np.isfinite(mine).all():
        return f"{name} is not finite in {np.sum(~np.isfinite(mine))} of {mine.size} entries"
    if isinstance(right, np.ndarray) and mine.dtype != wanted.dtype:
        return f"{name} has the dtype {mine.dtype}, expected {wanted.dtype}, that of the arguments"
    off = np.abs(mine - wanted) > (tolerance or TOLERANCE.get(wanted.dtype, 1e-9)) * max(np.max(np.abs(wanted)), 1e-300)
    if not off.any():
        return None
    if not mine.ndim:
        digits = 6 if f"{mine:.6g}" != f"{wanted:.6g}" else 12
        return f"{name} is {mine:.{digits}g}, expected {wanted:.{digits}g}"
    at = np.unravel_index(np.argmax(np.abs(mine - wanted)), mine.shape)
    where = ", ".join(map(str, at))
    digits = 4 if f"{mine[at]:.4g}" != f"{wanted[at]:.4g}" else 10
    worst = f"at [{where}] it is {mine[at]:.{digits}g}, expected {wanted[at]:.{digits}g}"
    return f"{name} is wrong in {off.sum()} of {mine.size} entries; {worst}"


def described_type(right):
    return f"an array {right.shape}" if isinstance(right, np.ndarray) else type(right).__name__


def described(value):
    if value is None:
        return "None (is the return missing?)"
    return f"{len(value)} results" if isinstance(value, (tuple, list)) else type(value).__name__


def widening(sentence):
    """Say what makes float64 out of float32, if that is what a sentence complains of."""
    if "float64, expected float32" not in sentence:
        return ""
    return "likely cause: np.sqrt(2), or an array made without a dtype, is float64; math.sqrt(2) keeps float32"


def of_raise(sentence):
    """Return (cause, sentence) for what NumPy, or an operation of ours, says of sizes that do not fit."""
    if "core dimension" in sentence or "not aligned" in sentence or " needs " in sentence:
        return "transpose", "likely cause: two matrices do not meet; transpose one of them, or exchange the two"
    if "could not be broadcast" in sentence:
        words = "a sum or mean over another axis, or one without keepdims=True, leaves two arrays that do not fit"
        return "reduction_axis", f"likely cause: {words}"
    if "must match exactly" in sentence:
        return "shape", "likely cause: the arrays are set side by side along another axis than the one they differ in"
    return None
