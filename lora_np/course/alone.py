"""Grading that a notebook's cells cannot overwrite: they run once more, in a fresh interpreter, and are watched there.

A test in a notebook stands in the process in which the answer has run, so a cell that says `lnp.course.check = ...`
passes it. Here the judge is loaded first. It stops when a cell has changed something of it, of lora_np or of NumPy, and
an answer that calls the library's function for the same thing is not taken. This is no prison: Python has none, and
whoever looks for the judge's own frames finds them.
"""

import contextlib
import importlib
import inspect
import json
import linecache
import os
import pkgutil
import re
import secrets
import subprocess
import sys
import tempfile
import types

from lora_np.course.exercise import all_exercises, find
from lora_np.course.judging import PACKAGE, check

GUARDED = ("lora_np", "numpy", "builtins")
START = "import sys; sys.path[:] = [*filter(None, sys.path), {!r}]; from lora_np.course.alone import main; main()"
CELL = "<cell {}>"
NEVER = "it was never reached: a cell before it ends the program, or runs too long"
CHANGED = "a cell before it has changed {}, by which answers are judged; take that out"
CALLS = "it calls {}, the library's own function for this; write it yourself"


def judged_alone(cells, folder=".", seconds=600):
    """Return {exercise: "", or why it is not right} of a notebook's code cells.

    Of each cell come the exercise that it tests, "" if it is no test, and its text. They run in the notebook's folder.
    """
    key = secrets.token_hex()
    own = {"LORA_NP_ANSWERS": "", "NBGRADER_EXECUTION": "autograde", "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", START.format(os.path.dirname(PACKAGE))]
    settings = {"env": {**os.environ, **own}, "timeout": seconds}
    settings["input"] = json.dumps([key, cells, os.path.abspath(folder)]).encode()
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as told:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, cwd=empty, stdout=told, stderr=subprocess.DEVNULL, **settings)
        told.seek(0)
        lines = told.read().decode(errors="replace").split("\n")
    verdicts = dict(json.loads(line.removeprefix(key)) for line in lines if line.startswith(key))
    return {name: verdicts.get(name, NEVER) for name, _ in cells if name}


def state():
    """Return what the judge consists of: {(module, name, ...): what stands there} of all that is loaded now."""
    found = {}
    for module, holder in list(sys.modules.items()):
        if module.split(".")[0] in GUARDED:
            for name, value in list(vars(holder).items()):
                if module.startswith("lora_np") or callable(value):
                    found[module, name] = identity(value)
                if isinstance(value, type) and value.__module__ == module:
                    found |= {(module, f"{name}.{own}"): identity(part) for own, part in vars(value).items()}
    return found


def identity(value):
    return id(value), id(getattr(value, "__code__", None))


def changed(before):
    """Return the first thing that is not as it was, "" if all is."""
    now = state()
    return next((".".join(place) for place, value in before.items() if now.get(place) != value), "")


def judged(name, function):
    """Return why an answer is not right, "" if it is."""
    ours = [find(name).solution, find(name).library]
    codes = {inspect.unwrap(one).__code__: one.__name__ for one in ours if hasattr(one, "__code__")}
    called = []

    def watch(frame, event, _):
        if event == "call" and frame.f_code in codes and frame.f_back.f_code.co_filename.startswith(CELL[:6]):
            called.append(codes[frame.f_code])

    sys.setprofile(watch)
    try:
        verdict = check(name, function)
    except (TypeError, ValueError) as error:
        return str(error)
    finally:
        sys.setprofile(None)
    if called:
        return CALLS.format(called[0])
    return "" if verdict.ok else verdict.sentences[0]


def main():
    key, cells, folder = json.loads(sys.stdin.read())
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for module in pkgutil.walk_packages([PACKAGE], "lora_np."):
        if module.name.split(".")[1] in ("course", "gradcheck", "ops", "model"):
            importlib.import_module(module.name)
    known, before, judge, altered = all_exercises(), state(), judged, ""
    os.chdir(folder)
    sys.path.append(folder)
    sys.modules["__main__"] = notebook = types.ModuleType("__main__")
    for number, (name, text) in enumerate(cells):
        if name:
            given, mine = known.get(name), vars(notebook).get(name)
            sentence = altered and CHANGED.format(altered) or judge(name, mine)
            altered = altered or changed(before) or ("the exercise" if given not in (None, find(name)) else "")
            sentence = sentence or altered and CHANGED.format(altered)
            print(key + json.dumps([name, sentence]), file=report, flush=True)
        else:
            run(re.sub(r"^[%!].*", "", text, flags=re.MULTILINE), CELL.format(number), vars(notebook))
            altered = altered or changed(before)


def run(text, name, names):
    """Run a cell; what it raises stops nothing, as in nbgrader."""
    linecache.cache[name] = len(text), None, text.splitlines(True), name
    with contextlib.suppress(BaseException):
        exec(compile(text, name, "exec"), names)
