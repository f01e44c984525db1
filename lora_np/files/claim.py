"""A folder that is written into: tried before the work begins, and held by one process alone while it lasts."""

import contextlib
import os
import re
from pathlib import Path

from lora_np.files import lock

LOCK = ".lora_np-lock"
PART = r"\..+\.(json|safetensors|png|npz)\.\w{8}\.part"  # what `lora_np.files` writes into before it renames


@contextlib.contextmanager
def claimed(folder, note=None):
    """Make a folder if need be and hold it for this process alone; made for nothing, it goes again.

    An OSError says that it cannot be made or written, a ValueError that another process holds it (one that was killed
    holds nothing); `note` is told, in one sentence, that it lies where nothing can be locked.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock_file(folder, note)
    except OSError as error:
        remove_empty(made)
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}); name another folder, or make this one writable."
        ) from error
    try:
        with contextlib.suppress(OSError):
            for left in (*folder.glob(".*.part"), *folder.glob("*/.*.part")):  # of a run that was killed
                if re.fullmatch(PART, left.name):
                    left.unlink()
        yield folder
    finally:
        if os.name == "nt":  # an open file cannot be removed there
            os.close(file)
        with contextlib.suppress(OSError):
            os.unlink(folder / LOCK)
        if os.name != "nt":
            os.close(file)
        remove_empty(made)


def lock_file(folder, note=None):
    """Return the lock file of a folder, open and locked."""
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(file)
        except (BlockingIOError, PermissionError) as error:
            os.close(file)
            raise ValueError(
                f"another process is at work in {folder}; wait for its end, or choose another folder."
            ) from error
        except OSError as error:
            if note:
                note(f"{folder} lies where nothing can be locked ({error.strerror}); start no second run there")
            return file
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # its holder removed it just before it was locked here: make a new one


def remove_empty(folders):
    """Remove those folders, the deepest first, that hold nothing."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
