"""What an edit of a backward's source means: as a fault of a right one, and as the repair of a wrong one."""

import contextlib

from .editor import Editor
from .edits_of_functions import all_edits

FACTOR = {
    "constant": "constant_factor",
    "minus": "sign",
    "count": "mean_vs_sum",
    "mask": "elementwise_factor",
    "array": "elementwise_factor",
}
MISSING = {**FACTOR, "mask": "mask_ignored"}
BOTH = {  # a cause by kind, or by kind and class
    "transpose": "transpose",
    "mean or sum": "mean_vs_sum",
    "axis": "reduction_axis",
    "move factor": "factor_order",
    "drop call": "wrong_derivative",
    "compare": "wrong_derivative",
    "exchange": "wrong_cached_value",
    "overwritten": "wrong_cached_value",
    "flip axes": "transpose",
    "range": "missing_term",
    "bracket": "factor_order",
    "move line": "wrong_cached_value",
    "size": "constant_factor",
    "scale": "constant_factor",
    "rename": {"array": "wrong_cached_value", "constant": "constant_factor"},
    "power": {**FACTOR, "array": "wrong_derivative"},
    "invert factor": FACTOR,
}
AS_FAULT = {
    **BOTH,
    "drop term": {"way": "missing_path", "term": "missing_term", "number": "constant_factor"},
    "drop factor": MISSING,
    "flip sign": "sign",
    "double factor": FACTOR,
    "drop reduction": "reduction_axis",
    "keep the last": "not_accumulated",
    "choose": "mask_ignored",
    "drop step": "mask_ignored",
}
AS_REPAIR = {
    **BOTH,
    "drop term": {"way": "extra_term", "term": "extra_term", "number": "constant_factor"},
    "drop factor": FACTOR,
    "put a name": "wrong_cached_value",
    "choose": "elementwise_factor",
    "wrap": {"array": "wrong_cached_value", "slope": "wrong_derivative"},
    "add factor": MISSING,
    "accumulate": {"loop": "not_accumulated", "way": "missing_path"},
}
ORDER = (  # the likeliest first; what several fit is named by the first
    *("flip sign", "transpose", "drop factor", "double factor", "power", "mean or sum", "axis", "drop reduction"),
    *("bracket", "size", "scale", "accumulate", "keep the last", "range", "drop term", "add factor"),
    *("rename", "exchange"),
    *("overwritten", "invert factor", "move factor", "flip axes", "compare", "choose", "drop step", "put a name"),
    *("wrap", "drop call", "move line"),
)


def meaning(edit, table):
    """Return the cause that an edit stands for, None if it stands for none."""
    found = table.get(edit.kind)
    return found.get(edit.what) if isinstance(found, dict) else found


def faults(function, *arguments):
    """Yield (cause, Edit) for each single edit of a right function, as it runs for some arguments."""
    yield from understood(function, arguments, AS_FAULT)


def repairs(function, *arguments):
    """Yield (cause, Edit) for each single edit that may make a wrong function right: the cause is what is wrong now."""
    yield from understood(function, arguments, AS_REPAIR)


def understood(function, arguments, table):
    editor = Editor(function)
    with contextlib.suppress(Exception):  # what has a value before it raises is seen
        editor.watch(*arguments)
    edits = [edit for part in editor.all() for edit in all_edits(part, additions=table is AS_REPAIR)]
    for edit in sorted(edits, key=lambda edit: ORDER.index(edit.kind)):
        if cause := meaning(edit, table):
            yield cause, edit
