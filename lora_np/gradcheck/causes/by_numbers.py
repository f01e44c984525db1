"""What a wrong gradient can be, of whatever function: one rule each, from the certain to the likely.

A rule looks at a `Suspect` and one argument, and yields (cause, sentence). What it says it has seen in the numbers.
"""

import itertools

import numpy as np

from ..verdict.calls import fresh, is_scalar
from ..verdict.contract import listed
from .suspect import broadcast, close, orders, ratio


def zero(suspect, name):
    if not suspect.given[name].any():
        yield "zero_gradient", f"d{name} is zero everywhere, but {name} does have an effect"


def swapped(suspect, name):
    opposite = close(suspect.given[name], -suspect.truth(name))
    for other in suspect.given:
        if other != name and not opposite and close(suspect.given[name], suspect.truth(other)):
            yield "swapped", f"d{name} holds the gradient of {other}: return them in the order of the inputs"


def constant(suspect, name):
    """One factor for all entries; varying the scalars tells whose it is."""
    factor = ratio(suspect.given[name], suspect.truth(name))
    if factor is None:
        return
    if abs(factor + 1) < 1e-5:
        yield "sign", f"d{name} has the wrong sign"
        return
    for scalar, value in suspect.scalars().items():
        power = exponent(suspect, name, factor, scalar, value) if scalar != name and value else None
        if power is None:
            continue
        also = "its sign is wrong, and it is" if factor < 0 else "it is"
        words = f"has the factor {scalar} to the power {power:.2g} too much: {also}"
        if abs(power + 1) < 0.01:
            words = f"lacks the factor {scalar}: " + (also if factor < 0 else f"yours is right when {scalar} = 1, and")
        elif abs(power - 1) < 0.01:
            words = f"has the factor {scalar} once too often: {also}"
        yield "constant_factor", f"d{name} {words} off by {off(factor)} here"
        return


def exponent(suspect, name, factor, scalar, value):
    """Return the power of a scalar that the factor goes with, None if it does not."""
    try:
        there = {scalar: 1.3 * value}
        again = ratio(suspect.given_at(name, there), suspect.truth_at(name, there))
    except Exception:
        return None
    if again is None or again * factor <= 0:
        return None
    power = float(np.log(again / factor) / np.log(1.3))
    return power if abs(power) > 0.1 else None


def off(factor):
    size = abs(factor)
    return f"{size:.3g}" if size >= 1 else f"1/{1 / size:.3g}"


def counted(suspect, name):
    """One factor for all entries that no scalar explains: a length, or some other number."""
    factor = ratio(suspect.given[name], suspect.truth(name))
    if factor is None or abs(factor + 1) < 1e-5:
        return
    sign, size = ("its sign is wrong, and " if factor < 0 else ""), abs(factor)
    counts = suspect.counts()
    for count, words in counts.items():
        small, large = ("small", "a mean", "sum"), ("large", "a sum", "mean")
        for quotient, (how, yours, right) in ((size * count, small), (size / count, large)):
            if abs(quotient - 1) < 1e-5:
                reason = f"{yours} stands where the {right} belongs"
                yield "mean_vs_sum", f"{sign}d{name} is {count} times too {how}, {words}: {reason}"
    roots = [count for count in counts if abs(size * count**0.5 - 1) < 1e-5 or abs(size / count**0.5 - 1) < 1e-5]
    root = f", the root of {roots[0]}, {counts[roots[0]]}" if roots else ""
    yield "constant_factor", f"{sign}d{name} is off by {off(factor)} everywhere{root}"


def permuted(suspect, name):
    given, truth = suspect.given[name], suspect.truth(name)
    for order in orders(given):
        if close(given, truth.transpose(order)):
            words = f"it is the true gradient with the axes in the order {order}"
            yield "transpose", f"d{name} is right but for its axes: {words}"
        elif close(given, truth.transpose(order).reshape(given.shape)):
            yield "transpose", f"d{name} is right but for its axes: reshape it after a transpose, not before"
    for axis in range(given.ndim):
        if close(given, np.flip(truth, axis)):
            yield "transpose", f"d{name} runs backwards along axis {axis}"
            return


def scattered(suspect, name):
    given, truth = suspect.given[name], suspect.truth(name)
    if given.shape == truth.shape and close(np.sort(given, None), np.sort(truth, None)):
        yield "transpose", f"d{name} holds the right numbers, but not in their places"


def misshapen(suspect, name):
    """Another shape than the variable's, but the right numbers in it."""
    given, truth = suspect.given[name], suspect.truth(name)
    if given.shape == truth.shape:
        return
    shapes = f"d{name} has the shape {given.shape}, {name} has {truth.shape}"
    if given.size == truth.size and close(given.reshape(truth.shape), truth):
        yield "shape", f"the numbers are right, but {shapes}"
        return
    for order in orders(given):
        if close(given.transpose(order), truth):
            yield "transpose", f"d{name} is right but for its axes: transpose it, to the shape {truth.shape}"
            return
    for count in range(1, given.ndim + 1):
        for axes in itertools.combinations(range(given.ndim), count):
            total = given.sum(axis=axes)
            if total.size == truth.size and close(total.reshape(truth.shape), truth):
                over = ", ".join(map(str, axes))
                yield "reduction_axis", f"d{name} is not summed over axis {over}, along which {name} was broadcast"
                return
    if given.ndim == 0:
        yield "shape", f"{shapes}: one number for all entries"


def subset(suspect, name):
    """Right in some entries; what the others have in common tells why."""
    given, truth = suspect.given[name], suspect.truth(name)
    bad = np.abs(given - truth) > 1e-6 * np.max(np.abs(truth), initial=1e-300)
    if bad.all() or not bad.any() or not given.ndim:
        return
    silent = np.abs(truth) <= 1e-9 * np.max(np.abs(truth))
    if np.array_equal(bad, silent & (given != 0)):
        words = "what is masked or ignored must be zero there"
        yield "mask_ignored", f"d{name} is right but where the true gradient is zero: {words}"
        return
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    for other, ids in suspect.fixed.items():
        if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.size:
            values, times = np.unique(ids, return_counts=True)
            if set(rows) <= set(values[times > 1]):
                which = f"row{'s' * (len(rows) > 1)} {listed(map(str, rows))} of d{name}"
                words = f"the gradient of repeated {other} is not accumulated"
                yield "not_accumulated", f"{words}: {which} do not hold the sum of their uses"
                return
    if not given[bad].any():
        cause = "wrong_derivative" if suspect.is_entrywise(name) else "missing_path"
        words = f"right in {(~bad).sum()} of {bad.size} entries and zero in the others, which do have an effect"
        yield cause, f"d{name} is {words}"


def is_mask(x):
    """A dropout mask or the like: booleans, or zeros and one other value."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fb":
        return False
    return x.dtype == bool or (x.size > 3 and len(np.unique(x)) == 2 and bool((x == 0).any()))


def alternatives(suspect, name):
    """Yield (argument, other value, cause, words) for what a backward may have taken an argument for."""
    for other, x in suspect.arguments().items():
        if other == name:
            continue
        if is_scalar(x) and x != 1:
            yield other, 1.0, "constant_factor", f"with {other} = 1: the factor {other} is missing"
        elif is_mask(x):
            yield other, np.ones_like(x), "mask_ignored", f"without {other}: apply it on the way back, too"
        elif isinstance(x, np.ndarray) and x.dtype.kind == "f":
            yield other, np.ones_like(x), "elementwise_factor", f"with {other} = 1: {other} is missing as a factor"
            yield other, np.zeros_like(x), "missing_path", f"with {other} = 0: the way through {other} is missing"
            if x.ndim == 2 and x.shape[0] == x.shape[1]:
                words = f"with {other}.T in place of {other}: a transpose is missing, or one too many"
                yield other, x.T.copy(), "transpose", words


def modified(suspect, name):
    """The gradient is right, but of another function."""
    for other, value, cause, words in alternatives(suspect, name):
        if suspect.is_gradient(suspect.given[name], name, {other: value}):
            yield cause, f"d{name} is the gradient of the same function {words}"


def elementwise(suspect, name):
    """The quotient of the two is an array that is at hand."""
    given, truth = suspect.given[name], suspect.truth(name)
    if not given.ndim or not truth.any():
        return
    if close(np.abs(given), np.abs(truth)):
        yield "sign", f"d{name} has the wrong sign in {int((given * truth < 0).sum())} of {given.size} entries"
        return
    for other, x in suspect.tensors().items():
        cause = "mask_ignored" if is_mask(x) else "elementwise_factor"
        for t in [x] + ([x[:, None]] if x.ndim == 1 and given.ndim == 2 else []):
            if broadcast(t, given) != given.shape or np.ptp(t) == 0:
                continue
            with np.errstate(all="ignore"):
                if close(given, truth * t):
                    yield cause, f"d{name} has the factor {other} once too often"
                elif close(given * t, truth):
                    yield cause, f"d{name} lacks the factor {other}"


def weighted(suspect, name):
    """The gradient is right for another upstream: for the given one times something."""
    if not isinstance(suspect.doutput, np.ndarray):
        return
    y = suspect.forward(**fresh(suspect.inputs), **fresh(suspect.fixed))[0]
    with np.errstate(all="ignore"):
        slopes = {"exp(output)": np.exp(y), "(1 - output**2)": 1 - y * y, "output (1 - output)": y * (1 - y)}
        slopes |= {"1/output": 1 / y, "the sign of the output": np.sign(y)}
    factors = [(words, t, "wrong_derivative") for words, t in slopes.items()]
    factors += [("output", y, "elementwise_factor"), ("(output > 0)", y > 0, "elementwise_factor")]
    for other, t in suspect.tensors().items():
        if t.shape == y.shape and other != suspect.upstream:
            factors.append((other, t, "mask_ignored" if is_mask(t) else "elementwise_factor"))
    for words, t, cause in factors:
        if suspect.is_gradient(suspect.given[name], name, doutput=suspect.doutput * t):
            yield cause, f"d{name} is right for an upstream gradient that is multiplied by {words}"


def special(suspect, name):
    """The error vanishes at a special value of another argument: there the missing thing does nothing."""
    for other, x in suspect.arguments().items():
        if other == name or not (is_scalar(x) or (isinstance(x, np.ndarray) and x.dtype.kind in "fb")):
            continue
        one = np.ones_like(x) if isinstance(x, np.ndarray) else 1.0
        if not suspect.is_right(name, {other: one}):
            continue
        if is_mask(x):
            words = "somewhere on the way back it is not applied"
            yield "mask_ignored", f"d{name} is right only without {other}: {words}"
        elif suspect.is_right(name, {other: 2.0 * one}):
            words = f"{other} must multiply before the sum or mean is taken"
            yield "factor_order", f"d{name} is right only when {other} is the same everywhere: {words}"
        else:
            cause = "constant_factor" if is_scalar(x) else "elementwise_factor"
            words = f"{other} is missing as a factor in one of its terms"
            yield cause, f"d{name} is right only when {other} = 1: {words}"


def substituted(suspect, name):
    """Right as soon as another tensor stands in the cache."""
    tensors, cache = suspect.tensors(), suspect.cache()
    for k, item in enumerate(cache) if isinstance(cache, (tuple, list)) else ():
        if not isinstance(item, np.ndarray) or item.dtype.kind != "f":
            continue
        here = next((label for label, x in tensors.items() if np.array_equal(x, item)), f"cache[{k}]")
        for other, x in tensors.items():
            if x.shape != item.shape or np.array_equal(x, item):
                continue

            def change(cache, k=k, x=x):
                parts = [*cache[:k], x.copy(), *cache[k + 1 :]]
                return type(cache)(*parts) if hasattr(cache, "_fields") else type(cache)(parts)

            try:
                again = suspect.student(suspect.inputs, suspect.fixed, change=change)[name]
            except Exception:
                continue
            if close(again, suspect.truth(name)):
                yield "wrong_cached_value", f"d{name} is right with {other} in place of {here}"


def uses(suspect, name):
    """Does an entry move one place of the output only, where it has several?"""
    given, true, mine, theirs = suspect.reached(name)
    shape = np.shape(suspect.doutput)
    if not (theirs & ~mine).any() or not close(given, np.where(mine, true, 0)):
        return
    for axis in range(len(shape)):
        kept, all_of_them = (along(J, shape, axis) for J in (mine, theirs))
        if kept.max() == 1 < all_of_them.max():
            words = f"each entry has the gradient of one use only, along axis {axis} of the output: add them up"
            yield "not_accumulated", f"d{name} is not accumulated: {words}"
            return


def reach(suspect, name):
    """Which outputs an entry moves, beside which ones the learner lets it move."""
    *_, mine, theirs = suspect.reached(name)
    lost = theirs & ~mine
    if lost.sum() > 0.05 * theirs.sum() and not (mine & ~theirs).any():
        share = f"{int(lost.sum())} of {int(theirs.sum())} derivatives are zero in yours"
        if suspect.is_entrywise(name):
            yield "wrong_derivative", f"the derivative itself is wrong: {share}, and have a value"
            return
        yield "missing_path", f"d{name} leaves out a way from {name} to the output: {share}"


def along(reached, shape, axis):
    """Return along how many places of an axis of the output each entry has an effect."""
    others = tuple(k for k in range(len(shape)) if k != axis)
    return reached.reshape(*shape, -1).any(axis=others).sum(axis=0)


def farther(suspect, name):
    """The same, where the learner's entries move more than they do, or one each."""
    *_, mine, theirs = suspect.reached(name)
    if (mine & ~theirs).any() and not (theirs & ~mine).any():
        yield "extra_term", f"d{name} lets entries of the output count that do not depend on {name} there"
    elif np.array_equal(mine, theirs) and len(theirs) > 1 and theirs.sum(0).max() == theirs.sum(1).max() == 1:
        yield "wrong_derivative", f"each entry of {name} moves one entry of the output; the derivative itself is wrong"


FIRST = (zero, swapped, misshapen, constant)
SHAPES = (counted, permuted, uses, subset)
RULES = (reach, modified, elementwise, weighted, special, substituted)
LAST = (farther, scattered)
