"""The learner's right answers, kept as text in a file beside the notebook: to be read, edited, and used further on.

The file is plain Python, one section for each answer. A section begins with a line `# %% name` and runs by itself: it
holds the function, the other functions of the notebook that it calls, and the imports of both. Nothing is pickled, and
grading never reads it.
"""

import builtins
import functools
import inspect
import os
import re
import symtable
import sys
import textwrap
import types
from pathlib import Path

from lora_np.course.progress import is_graded
from lora_np.files import write_bytes

VARIABLE, FILE = "LORA_NP_ANSWERS", "my_answers.py"
HEAD = '''\
"""Your right answers in this course. Read them, and edit them: each is checked again before it is used."""
'''
MARK = re.compile(r"^# %% (\w+)$", re.MULTILINE)
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class NotKept(Exception):
    """Why an answer's text does not run by itself, in a few words."""


def path():
    """Return where answers are kept: what the variable LORA_NP_ANSWERS says, or beside the notebook; None: nowhere."""
    said = os.environ.get(VARIABLE)
    if said is not None:
        return Path(said) if said else None
    return Path(FILE) if "ipykernel" in sys.modules and not is_graded() else None


SESSION = {}  # right answers of this process, {name: (function, its text or "")}


def sections():
    """Return the kept texts, {name: text}."""
    file = path()
    if file is None or not file.exists():
        return {}
    _, *parts = MARK.split(file.read_text(encoding="utf-8"))
    return {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2])}


def keep(name, function):
    """Keep a right answer, and its text; return the file's name where that is new, "" where nothing is written.

    It raises NotKept, with the reason, where the text does not run by itself.
    """
    SESSION[name] = function, ""
    file = path()
    if file is None:
        return ""
    text = text_of(function)
    if function.__name__ != name:
        text += f"\n\n\n{name} = {function.__name__}"
    SESSION[name] = function, text
    if sections().get(name) == text:
        return ""
    head = MARK.split(file.read_text(encoding="utf-8"))[0] if file.exists() else HEAD
    others = {other: text for other, text in sections().items() if other != name}
    try:
        write_bytes(file, document({**others, name: text}, head).encode())
    except OSError as error:
        raise NotKept(f"{file} cannot be written ({error})") from error
    return file.name


def document(texts, head=HEAD):
    """Return the text of a file that keeps answers, {name: text}."""
    return "\n\n\n".join([head.strip("\n"), *(f"# %% {name}\n{text}" for name, text in texts.items())]) + "\n"


def imported(name):
    """Return the names that a kept text takes from this package."""
    return set(re.findall(r"^from lora_np\.[\w.]+ import (\w+)$", sections().get(name, ""), re.MULTILINE))


def unreadable():
    """Return the exercises whose kept texts do not run, since somebody edited them."""
    return {name for name in sections() if kept(name) is None}


def kept(name):
    """Return a right answer: of this process, or the one that the kept text makes; None if there is none."""
    function, own = SESSION.get(name, (None, ""))
    text = sections().get(name, own)
    return function if text == own else _made(name, text)


@functools.cache
def _made(name, text):
    module = types.ModuleType(f"{Path(FILE).stem}.{name}")
    try:
        exec(compile(text, f"<{FILE}: {name}>", "exec"), module.__dict__)
    except Exception:  # edited, and not right any more: it is as if it were not there
        return None
    return getattr(module, name, None)


def text_of(function):
    """Return a text that defines a function and all that it needs, and runs by itself."""
    imports, constants, definitions, seen = {}, {}, [], set()

    def take(thing):
        if thing in seen:
            return
        seen.add(thing)
        if not isinstance(thing, (types.FunctionType, type)):
            raise NotKept(f"it is of type {type(thing).__name__}, and no function; write it with def")
        if thing.__name__ == "<lambda>":
            raise NotKept("it is a lambda, which has no lines of its own; write it with def")
        try:
            text = textwrap.dedent(inspect.getsource(thing)).strip("\n")
            needed = names_from_outside(symtable.symtable(text, FILE, "exec"))
        except (OSError, TypeError, SyntaxError) as error:
            raise NotKept(f"the text of {thing.__name__} cannot be read") from error
        around = {**getattr(thing, "__globals__", vars(sys.modules[thing.__module__])), **closed_over(thing)}
        for name in sorted(needed - set(vars(builtins))):
            if name not in around or name == thing.__name__:
                continue  # one of its own, or undefined
            value = around[name]
            if line := import_of(name, value, thing.__module__):
                imports[name] = line
            elif isinstance(value, (types.FunctionType, type)) and value.__module__ == thing.__module__:
                if value.__name__ != name:
                    raise NotKept(f"it calls {value.__name__} by another name, {name}")
                take(value)
            elif is_plain(value):
                constants[name] = f"{name} = {value!r}"
            else:
                kind = type(value).__name__
                raise NotKept(f"it uses {name}, a variable of the notebook ({kind}); make it an argument")
        definitions.append(text)

    take(function)
    first = "\n".join(
        [*sorted(imports.values(), key=lambda line: (line.startswith("from"), line)), *constants.values()]
    )
    return "\n\n\n".join([*([first] if first else []), *definitions])


def names_from_outside(table):
    """Return the names that a text reads and does not make itself."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}
    read = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    inner = list(table.get_children())
    while inner:
        table = inner.pop()
        inner += table.get_children()
        read |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return read - own


def closed_over(thing):
    try:
        return inspect.getclosurevars(thing).nonlocals
    except (TypeError, ValueError):  # a class
        return {}


def is_plain(value):
    return isinstance(value, PLAIN) or (type(value) is tuple and all(map(is_plain, value)))


def import_of(name, value, home):
    """Return the line that imports a value under a name, "" if it is no part of an installed module."""
    if isinstance(value, types.ModuleType):
        module, _, own = value.__name__.rpartition(".")
        return (f"from {module} import {own}" if module else f"import {own}") + ("" if own == name else f" as {name}")
    module, own = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module in (home, "__main__") or "." in own or not own:
        return ""
    if getattr(sys.modules.get(module), own, None) is not value:
        return ""
    return f"from {module} import {own}" + ("" if own == name else f" as {name}")
