"""Options of a recipe: a field that says all of itself, and the fields that the methods of adaptation bring along.

Whatever is registered in `adapt/` is a method here, by its name in lower case; each option of its configuration is an
option of a run, with the default and the words that the configuration has.
"""

import dataclasses
import functools
import operator
import re
from typing import Any

from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import METHODS

IN_ORDER = sorted(METHODS, key=lambda name: name != "LoRA")  # which is the default, and comes first
ADAPTED = {  # as one types them
    re.sub(r"\W+", "-", name.lower()): METHODS[name] for name in IN_ORDER if not METHODS[name].option_of
}
LATER, NONE = object(), object()  # defaults: one that is known when the model is; and to have none, None itself


def option(words: str, default: Any = None, said: str | None = None, most: int | None = None) -> Any:
    """Return a field of a recipe; one that is not given is None until its default is looked up.

    `words` are the help of its option. `default` may be a dict by the kind of data, the method, the data or "other",
    and its values may be dicts, too; where it has no entry, the field has no meaning. A NONE stays away from files.
    `said` is the default in words, if the table does not say it well. More than `most` has no sense, and would take
    forever to refuse itself; what is too small, the plan says.
    """
    known = {"default": default, "said": in_words(default) if said is None else said, "most": most}
    return dataclasses.field(default=None, metadata={"words": words, **known})


def in_words(default):
    """Return a table of defaults as a person reads it: "8, texts 16", or "images: lora 0.005, ...; texts: ..."."""
    if isinstance(default, list):
        return " ".join(default)
    if default is NONE:
        return "none"
    if isinstance(default, (str, bool)):
        return default if isinstance(default, str) else str(default).lower()
    if not isinstance(default, dict):
        return f"{default:g}"
    parts = {}
    for name, value in default.items():
        parts.setdefault(in_words(value), []).append(name)
    if len(parts) == 1 and default.keys() <= ADAPTED.keys():
        return next(iter(parts))
    if any(isinstance(value, dict) for value in default.values()):
        return "; ".join(f"{', '.join(names)}: {words}" for words, names in parts.items())
    return ", ".join(words if names == ["images"] else f"{' '.join(names)} {words}" for words, names in parts.items())


# What nobody has to say: the run knows it, or only files of PEFT have it.
KNOWN = ("task_type", "total_step", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
COMMON = {known.name for known in dataclasses.fields(PeftOptions)}  # these come last
# What was chosen here for a method's own options, on dev; all else is as its configuration has it.
CHOSEN = {
    "r": dict.fromkeys(("lora", "dora"), {"images": 4, "texts": 8}),
    "lora_alpha": dict.fromkeys(("lora", "dora"), {"images": 8.0, "texts": 16.0}),
    **dict.fromkeys(("init_lora_weights", "bias", "lora_bias"), {"lora": NONE}),  # as in the paper
    "target_modules": {
        name: {"images": "all-linear", "texts": ["query", "value"]}
        for name, method in ADAPTED.items()
        if not method.config.TARGETS
    },
}
WORDS = {
    "target_modules": "all-linear, names such as query value, or one regular expression for whole names",
    "init_lora_weights": "where A and B start: gaussian, orthogonal, mirrored, pissa, pissa_niter_4 or olora",
}


def with_options_of_methods(cls):
    """Give a recipe a field for each option that the configuration of a method has, behind `method`; in words, as its
    docstring has it."""
    own = {}  # option -> {method: its field}
    for name, method in ADAPTED.items():
        for known in sorted(options_of(method), key=lambda known: known.name in COMMON):
            if known.name not in KNOWN:
                own.setdefault(known.name, {})[name] = known
    hints = {}
    for name, by_method in own.items():
        hints[name] = functools.reduce(operator.or_, (known.type for known in by_method.values()), type(None))
        chosen = CHOSEN.get(name, {})
        default = {method: chosen.get(method, default_of(known)) for method, known in by_method.items()}
        setattr(cls, name, option(words_of(name, by_method), default))
    before = list(cls.__annotations__)
    place = before.index("method") + 1
    order = [*before[:place], *hints, *before[place:]]
    cls.__annotations__ = {name: hints.get(name, cls.__annotations__.get(name)) for name in order}
    return cls


def options_of(method):
    """Return the fields of a configuration, and those by which it becomes that of another method."""
    return {known.name: known for kind in kinds_of(method) for known in dataclasses.fields(kind)}.values()


def kinds_of(method):
    return [method.config, *(other.config for other in METHODS.values() if other.option_of == method.name)]


def default_of(known):
    """Return the default of a configuration's field."""
    value = known.default if known.default_factory is dataclasses.MISSING else known.default_factory()
    return NONE if value in (None, {}, dataclasses.MISSING) else value


def words_of(name, methods):
    """Return what an option does, by the first sentence that the docstring of a method's configuration has of it; of
    those that say something else, by their names."""
    said = {}
    for method in methods:
        kinds = [kind for first in kinds_of(ADAPTED[method]) for kind in first.__mro__ if issubclass(kind, PeftOptions)]
        texts = [kind.__doc__ or "" for kind in kinds]
        line = rf"^    (?:\w+, )*{name}(?:, \w+)* : .*\n((?:        .*\n)+)"
        found = next((found[1] for text in texts if (found := re.search(line, text, re.MULTILINE))), "")
        sentence = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(found.split()))[0]
        said.setdefault(WORDS.get(name) or sentence[:1].lower() + sentence[1:], []).append(method)
    first, *others = said
    return "; ".join([first, *(f"{', '.join(said[words])}: {words}" for words in others)]).replace("%", "%%")
