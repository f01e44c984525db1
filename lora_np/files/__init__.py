"""Reading and writing files so that a mistake or a crash harms nothing that is on disk already.

What is written goes to temporary files in the same folder, which are renamed over the old ones when all of them are
complete; a reader sees an old file or a new one, never half of one. A temporary file is locked while its writer lives,
so that the next writer can tell, and remove, what a killed one has left. The arrays' own format is in `safetensors`.
"""

import contextlib
import glob
import importlib
import json
import os
import secrets
import shutil
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path


def write_bytes(path, data):
    """Write a file whole or not at all; the errors are those of `write_together`."""
    write_together({path: [data]})


def write_together(contents):
    """Write files that belong together, {path: pieces of bytes}: none takes its place before all are complete on the
    disk; then they are renamed in this order. An OSError names the file, if the disk is full or the folder read-only.
    """
    parts, held = {}, contextlib.ExitStack()
    try:
        for path, pieces in contents.items():
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            file = held.enter_context(part.open("xb"))  # made with the permissions that the user's umask leaves
            parts[path] = part
            with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
                lock(file.fileno())
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, part)
            if os.name == "nt":  # an open file cannot be renamed there
                file.close()
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise OSError(
            f"{path} could not be written: {error.strerror or error}; what was there before is unchanged. Choose"
            " another folder or make room."
        ) from error
    finally:
        held.close()
        for part in parts.values():
            part.unlink(missing_ok=True)


def sweep(path):
    """Remove the temporary files of a path whose writers were killed: those that nobody holds locked."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        with contextlib.suppress(OSError), open(left, "rb+") as file:
            lock(file.fileno())
            left.unlink()


def lock(file):
    """Lock an open file, given by its number, for this process alone, or raise an OSError at once.

    The system unlocks it when it is closed, or the process ends, by any way.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def json_bytes(value):
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path, value):
    write_bytes(path, json_bytes(value))


def read_json(path):
    """Return the object in a JSON file; a ValueError names the file if it is missing or damaged."""
    return parse_json(existing(path).read_bytes(), path)


def existing(path):
    """Return a Path; a ValueError names it if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a folder that holds {path.name}.")
    return path


def parse_json(data, path):
    """Return the object that bytes hold as JSON, strictly: each name once, numbers that are numbers, whole characters.
    Of anything else a ValueError says that `path` holds it."""

    def constant(name):
        raise ValueError(f"{name} is no number in JSON")

    def once(pairs):
        return renamed(pairs, str, path)

    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode()  # half a character, written as an escape, could not go out again
    except NamedTwice:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not valid JSON ({reason}); it is damaged or not what its name says.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, but an object with named entries was expected.")
    return value


def check_fields(values, expected, path, sentence="expected {}."):
    """Raise a ValueError that names the file and the field, unless each field that is there is what is expected:
    for a field, (a test of its value, what passes it, in words, for the end of the sentence)."""
    for name, (fits, words) in expected.items():
        if name in values and not fits(values[name]):
            raise ValueError(f"{path} has {name} = {shown(values[name])}; {sentence.format(words)}")


@contextmanager
def about(path):
    """Let what is said of a file be one short line that names it: a file may hold anything, also in its names."""
    try:
        yield
    except ValueError as error:
        text = printable(str(error))
        raise ValueError(text if printable(str(path)) in text else f"{path}: {text}") from error


def printable(text, longest=600):
    """Return a text without line breaks and other control characters, its middle left out if it is very long."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 4 :]}"


def shown(value):
    """Return what a value looks like in Python, at most 80 letters of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in a list in a list
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_whole(value):
    """Return whether a value is an integer above zero that some array could have for a size."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 < value < 2**62


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_names(value):
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def package(name, what):
    """Return a package that is there only where somebody needs it; else a ValueError says `what` needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{what} needs the package {name}, which is not here; install it: pip install {name}"
        ) from error


class NamedTwice(ValueError):
    """A file holds one name twice."""


def renamed(named, rename, path):
    """Return {rename(name): value} for (name, value) out of a file; a NamedTwice if two names become one."""
    new = {}
    for name, value in named:
        if (key := rename(name)) in new:
            raise NamedTwice(
                f"{path} holds {key!r} twice, so that nobody can tell which is meant; make the file again."
            )
        new[key] = value
    return new


def folder_bytes(folder, *names):
    """Return the bytes on disk of the named files of a folder; all its files if none is named."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and (not names or path.name in names))
