"""What may happen when a file is damaged: it works, or it is refused in one sentence that names the file.

Everything else is a finding: another exception, a warning, a traceback, a sentence of two lines, memory without bound,
a hang.
"""

import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from lora_np.cli.commands import main

LONGEST = 1000  # characters of a sentence that a person still reads
MEMORY = 64_000_000  # bytes, far above what these small files need
PATIENCE = 60  # seconds until a call counts as a hang; a guard for the test itself, no measure of speed
SEED = int(os.environ.get("LORA_NP_FUZZ_SEED", 0))
LONG = pytest.param(int(os.environ.get("LORA_NP_FUZZ_ROUNDS", 10**6)), marks=pytest.mark.fuzz_long, id="long")


def short(rounds):
    """Return the parameters of a fuzzer: so many rounds by default, all (or LORA_NP_FUZZ_ROUNDS) with -m fuzz_long."""
    return pytest.mark.parametrize("rounds", [pytest.param(rounds, id="short"), LONG])


def generator(*words):
    """Return a generator that the words decide (their characters, not their hash, which differs by process)."""
    return np.random.default_rng([SEED, *(ord(letter) for word in words for letter in str(word))])


class Hang(BaseException):
    """No `except Exception` on the way swallows it."""


@contextlib.contextmanager
def patience():
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise Hang

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def bounded(findings, memory=True):
    """Note what was held at most (which makes Python slow); warnings are errors by pytest's own settings."""
    if not memory:
        with patience():
            yield
        return
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        with patience():
            yield
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        if peak > MEMORY:
            findings.append(f"{peak / 1e6:.0f} MB were held")


def place_of(error):
    """Return where in lora_np an exception passed last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}lora_np{os.sep}" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "nowhere in lora_np"


def faults_of(sentence, names):
    """Return what is wrong with a sentence that refuses a file of one of these names."""
    found = []
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in sentence):
        found.append("a control character or a line break stands in the sentence")
    if not any(str(name) in sentence for name in names):
        found.append("the sentence does not name the file")
    if len(sentence) > LONGEST:
        found.append("the sentence is too long")
    if not sentence.endswith("."):
        found.append("the sentence has no end")
    return found


def attempt(call, *names):
    """Return (value, findings): the value is None if `call` refused, and the findings are empty if it did so well."""
    findings, value = [], None
    try:
        with bounded(findings):
            value = call()
    except (KeyboardInterrupt, pytest.fail.Exception):
        raise
    except (ValueError, OSError) as error:
        findings += [f"{type(error).__name__} {place_of(error)}: {fault}" for fault in faults_of(str(error), names)]
    except BaseException as error:  # SystemExit and what a compiled library raises included
        findings.append(f"{type(error).__name__} {place_of(error)}")
    return value, findings


def command(argv, *names, stdin=b"", memory=True):
    """Run a command; return (what it printed, or None if it refused, findings)."""
    findings, code = [], None
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace"))
    old, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with bounded(findings, memory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in argv])
    except (KeyboardInterrupt, pytest.fail.Exception):
        raise
    except BaseException as error:
        findings.append(f"{argv[0]}: {type(error).__name__} {place_of(error)}")
    finally:
        sys.stdin = old
    shown, said = (text(stream) for stream in (out, err))
    if code == 2:
        findings += [f"{argv[0]}: {fault}" for fault in faults_of(said.strip("\n"), names)]
    elif code == 0 and any(not re.match(r"  (length|truncated|note) ", row) for row in said.splitlines()):
        findings.append(f"{argv[0]}: it worked, and yet said something on stderr")
    elif code not in (0, 2, None):
        findings.append(f"{argv[0]}: exit code {code}")
    return (shown if code == 0 else None), findings


@contextlib.contextmanager
def silence():
    """Throw away what is printed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def text(stream):
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace")


class Findings(dict):
    """Distinct findings, each with how often and its first example."""

    def add(self, found, what):
        for finding in found:
            count, first = self.get(finding, (0, what))
            self[finding] = count + 1, first

    def check(self):
        lines = [f"  {finding}   ({n} times, first: {what})" for finding, (n, what) in sorted(self.items())]
        if lines:
            pytest.fail(f"{len(lines)} distinct findings:\n" + "\n".join(lines), pytrace=False)
