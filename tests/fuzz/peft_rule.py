"""Which modules PEFT adapts, stated anew in a few lines from the documentation of its LoraConfig.

A list: a module whose full name is in it, or ends with `.` and an entry. One string: a regular expression that the
full name must match; "all-linear": every linear module but the output layer. `layers_to_transform` keeps those whose
number is in it; PEFT asks this of names that *end* with an entry, not of those that *are* one.
"""

import re


def is_listed(name, wanted):
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == entry or name.endswith("." + entry) for entry in wanted)


def adapted(names, targets, exclude=None, layers=None, output=("classifier",)):
    """Return which of the linear modules `names` (full names) are adapted."""
    layers = [layers] if isinstance(layers, int) else layers
    chosen = []
    for name in names:
        if exclude and is_listed(name, exclude):
            continue
        if targets == "all-linear":
            found = name not in output
        else:
            found = is_listed(name, targets)
            if found and layers is not None and not (isinstance(targets, str) or name in targets):
                number = re.match(r".*?\.(?:layer|layers|h|block)\.(\d+)\.", "." + name)
                found = number is not None and int(number[1]) in layers
        if found:
            chosen.append(name)
    return chosen


def by_pattern(patterns, name, default):
    """Return r or lora_alpha of a module: the first pattern that its name ends with, as a regular expression."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
