"""Which exercises have been answered rightly: kept beside what was fetched, so that the next notebook knows."""

import contextlib
import json

from lora_np.fetch import cache_folder
from lora_np.files import write_bytes

FILE = "course.json"


def solved():
    """Return the names of the exercises that were right once."""
    try:
        return set(json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))["solved"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # none yet, or a damaged file: the next right answer writes it anew
        return set()


def remember(name, ok):
    """Note a right answer. Where that cannot be kept, the exercise is just as right."""
    known = solved()
    if ok and name not in known:
        with contextlib.suppress(OSError, ValueError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            text = json.dumps({"solved": sorted({*known, name})}, indent=1)
            write_bytes(cache_folder() / FILE, text.encode())
