"""English: a sentence for each kind of finding."""

import string

import numpy as np

from lora_np.gradcheck import CAUSES

RIGHT, NOT_RIGHT = "right.", "not right yet."
YOURS, EXPECTED, DIFFERENCE = "yours", "expected", "difference"
SCALE = "{name}: a blank is {low:.3g}, {full} is {high:.3g}; of the difference, a blank is none, {full} is {most:.2g}"
PART = "{name}, rows {rows}, columns {columns}"
HINT = "hint {number}: {words}"
NOT_KEPT = "but its text is not kept for the next chapter: {reason}"
BUGS = {
    1: "The forward is right. The backward has one slip. Mend it, and call task.check with yours.",
    2: "The forward is right. The backward has one slip. Its author compared it where {point}, and all agreed there.",
    3: "The forward is right. The backward has one slip or two. Mend it, and call task.check with yours.",
}
BUG_SHOWN = "the whole report: print(lnp.gradcheck.check(task.forward, yours, task.inputs, task.fixed))"
HIDES = "This hides where {point}."
NEXT_HINT = "a hint: lnp.course.check({name!r}, {name}, hint={hint})"


def kept(file, borrowed):
    more = f", with the course's own {' and '.join(borrowed)}, as yours was not right yet" if borrowed else ""
    return f"kept in {file}, for the chapters to come{more}"


class Shown(string.Formatter):
    """Puts values into sentences; what is no number, where one is expected, as Python writes it."""

    def format_field(self, value, spec):
        try:
            return super().format_field(value, spec)
        except (TypeError, ValueError):
            return f"{value!r:.60}"


def tell(finding, exercise):
    """Return the sentence of a finding; the exercise's own words come first."""
    _, words = exercise.kinds.get(finding.kind) or (None, SENTENCES[finding.kind])
    values = {"name": finding.argument, **finding.values}
    return words(**values) if callable(words) else Shown().format(words, **values)


def described(value):
    if value is None:
        return "None (is the return missing?)"
    return f"{len(value)} results" if isinstance(value, (tuple, list)) else type(value).__name__


def of_type(name, given, expected):
    wanted = f"an array {expected.shape}" if isinstance(expected, np.ndarray) else type(expected).__name__
    return f"{name} is {type(given).__name__}, expected {wanted}"


def count(name, given, expected):
    return f"it returns {described(given)}, expected ({', '.join(expected)})"


def dtype(name, given, expected):
    more = (
        "; np.sqrt(2), or an array made without a dtype, is float64, math.sqrt(2) keeps float32"
        if (given, expected) == (np.float64, np.float32)
        else ""
    )
    return f"{name} has the dtype {given}, expected {expected}, that of the arguments{more}"


def number(name, given, expected):
    digits = 6 if f"{given:.6g}" != f"{expected:.6g}" else 12
    return f"{name} is {given:.{digits}g}, expected {expected:.{digits}g}"


def entries(name, given, expected, at, count, of):
    digits = 4 if f"{given:.4g}" != f"{expected:.4g}" else 10
    where = f"at [{', '.join(map(str, at))}] it is {given:.{digits}g}, expected {expected:.{digits}g}"
    return f"{name} is wrong in {count} of {of} entries; {where}"


def zero(name, given, expected, at, count, of):
    return f"{name} is zero everywhere; at [{', '.join(map(str, at))}] it should be {expected:.4g}"


def cache(name, field, holds, wrong, cause):
    words = f"holds what belongs in cache.{holds}" if holds else "is not what the backward expects there"
    if wrong.kind in ("shape", "dtype") and not holds:
        words = f"has the {wrong.kind} {wrong.values['given']}, expected {wrong.values['expected']}"
    return f"the result is right, but cache.{field} {words}"


def rounded(name, unit, cause):
    return f"{name} is {'in percent, and ' if unit > 1 else ''}rounded; return the number as it is"


def slips(name, words, cause):
    return f"likely {'one slip' if len(words) == 1 else 'two slips'}: {'; and '.join(words)}"


def diagnosis(name, cause, words=None):
    return f"likely cause ({CAUSES[cause][0]}): {words or CAUSES[cause][1]}"


def verified(name, trials, single):
    more = ", one of them in float32" if single else ""
    return f"verified on {trials} inputs{more}, against the course's own solution"


SENTENCES = {
    "unanswered": "it is still to be written: put your code in place of the line that raises NotImplementedError",
    "library": "this is the function of lora_np itself, or the course's own solution, with which the notebook went on;"
    " run the cell of your answer, then this one",
    "exits": "it ends the whole program, by {error}; return a result, or raise a ValueError, in place of exit(), quit()"
    " or sys.exit()",
    "raises": "it raises {error}",
    "call": "it is called as {signature}, but {error}",
    "none": "{name} is None: is the return missing?",
    "type": of_type,
    "count": count,
    "shape": "{name} has the shape {given}, expected {expected}",
    "infinite": "{name} is not finite in {count} of {of} entries",
    "dtype": dtype,
    "number": number,
    "zero": zero,
    "entries": entries,
    "inplace": "it changes its argument {name} in place; work on a copy",
    "read-only": "it changes an argument in place; work on a copy: {error}",
    "unchanged": "{name} has not changed: write into it, by += or [...] =; a new array of that name is another",
    "cache": cache,
    "forward": "your forward gives another y",
    "together": "it reads what your own {forward} keeps; the two were verified together",
    "gradient": "{words}",
    "nondeterministic": "two calls with equal generators differ: draw from {generator}, and from nothing else",
    "generator": "another generator gives the same: draw from {generator}",
    "nothing": "it returns None, expected ({expected}): is the return missing?",
    "unusable": "{name} has not the form that is asked for",
    "not refused": "{words}: raise a ValueError, but it raises nothing",
    "refused otherwise": "{words}: raise a ValueError, but it raises {error}",
    "always zero": "it is zero for other arguments, too",
    "written down": "it is the same for other arguments: is it the result of an example, written down?",
    "reversed": "likely cause: the results come in the other order; return {results[0]} first, then {results[1]}",
    "factor": "likely cause: {name} is {factor:.6g} times what it should be, on all inputs",
    "rounded": rounded,
    "branch": "elsewhere it is right: this happens only where {branch}",
    "slips": slips,
    "diagnosis": diagnosis,
    "sizes": "likely cause: two matrices do not meet; transpose one of them, or exchange the two",
    "broadcast": "likely cause: a sum or mean over another axis, or one without keepdims=True, leaves two arrays that"
    " do not fit",
    "entry by entry": "likely cause: `*` multiplies entry by entry; the product of two matrices is `@`",
    "stacked": "likely cause: np.stack makes a new axis, and needs equal shapes; np.concatenate joins along an axis"
    " that is there, along which they may differ",
    "boolean": "likely cause: a boolean array in [...] is not broadcast; np.where(condition, a, b) does that",
    "pair": "likely cause: a pair stands where an array belongs; a forward or backward of ours returns two things:"
    " unpack them, or take [0]",
    "unpacked": "likely cause: the names on the left of = are not as many as what stands on the right; count the parts,"
    " or the axes, which may be others in another call",
    "axes": "likely cause: here an array has another number of axes; shape[-1] and axis=-1 are the last one's,"
    " however many there are",
    "square": "likely cause: eigenvalues, inverses and determinants are those of square matrices; singular values are"
    " those of any",
    "side by side": "likely cause: the arrays are set side by side along another axis than the one they differ in",
    "truth": "likely cause: an array is neither true nor false; ask `is not None`",
    "verified": verified,
    "proven": "verified against numerical derivatives on {trials} inputs: {double} in float64, to {rtol:.0e}, and one"
    " in float32, where rounding may cost {loss:.0e}",
}
