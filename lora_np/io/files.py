"""Reading and writing files so that a mistake or a crash harms nothing that is on disk already.

What is written goes to a temporary file in the same folder and is renamed over the old one when it is complete; a
reader sees the old file or the new, never half of one.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy


def write_bytes(path, data):
    """Write a file whole or not at all.

    Raises
    ------
    OSError
        With a sentence that names the file, if the disk is full or the folder cannot be written.
    """
    path, part = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            part = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # temporary files are private by default; results are for sharing
        os.replace(part, path)
    except BaseException as error:
        if part is not None and os.path.exists(part):
            os.unlink(part)
        if isinstance(error, OSError):
            raise OSError(
                f"{path} could not be written: {error.strerror or error}; what was there before is unchanged. Choose"
                " another folder or make room."
            ) from error
        raise


def write_json(path, value):
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path):
    """Return the object in a JSON file; a ValueError names the file if it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a folder that holds {path.name}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it is damaged or not what its name says.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, but an object with named entries was expected.")
    return value


def write_safetensors(path, tensors, metadata=None):
    """Write arrays by name; the metadata holds strings by name."""
    contiguous = {
        name: np.ascontiguousarray(array) for name, array in tensors.items()
    }  # the library writes memory as it lies
    write_bytes(path, safetensors.numpy.save(contiguous, metadata or {"format": "pt"}))


def read_safetensors(path):
    """Return (arrays by name, metadata); the errors are those of TensorFile."""
    file = TensorFile(path)
    return dict(file), file.metadata


class TensorFile(Mapping):
    """The arrays of a safetensors file by name; each is read when it is asked for, and held by who asked alone.

    Attributes
    ----------
    shapes : dict of str to tuple
    metadata : dict of str to str

    Raises
    ------
    ValueError
        If the file is missing, truncated or damaged, names a tensor twice, or (on reading) holds a dtype that NumPy
        lacks.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"there is no file {path}; expected a folder that holds {self.path.name}.")
        with self.opened() as file:
            self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (the handle is no dict)
            self.metadata = file.metadata() or {}
        with self.path.open("rb") as file:  # the library lets the same entry stand twice; its bounds are checked by now
            header = file.read(int.from_bytes(file.read(8), "little"))
        json.loads(header, object_pairs_hook=lambda pairs: renamed(pairs, str, path))

    @contextmanager
    def opened(self):
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                yield file
        except (safetensors.SafetensorError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error}); it is truncated, damaged, or stored in a dtype that NumPy does"
                " not have. Fetch or make it again."
            ) from error

    def __getitem__(self, name):
        if name not in self.shapes:
            raise KeyError(name)
        with self.opened() as file:  # anew each time: while a handle is open, what was read through it stays in memory
            return file.get_tensor(name)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


def renamed(named, rename, path):
    """Return {rename(name): value} for (name, value) out of a file; a ValueError if two names become one."""
    new = {}
    for name, value in named:
        if (key := rename(name)) in new:
            raise ValueError(
                f"{path} holds {key!r} twice, so that nobody can tell which is meant; make the file again."
            )
        new[key] = value
    return new
