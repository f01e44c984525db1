"""Which exercises have been answered rightly: kept beside what was fetched, so that the next notebook knows."""

import contextlib
import json
import os

from lora_np.fetch import cache_folder
from lora_np.files import write_bytes

FILE = "course.json"


def solved():
    """Return the names of the exercises that were right once."""
    try:
        return set(json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))["solved"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: the next right answer writes it anew
        return set()


def remember(name):
    """Note a right answer, unless it is graded for somebody else. Where it cannot be kept, it is just as right."""
    known = solved()
    if name in known or os.environ.get("NBGRADER_EXECUTION") == "autograde":  # so nbgrader says whose it is
        return
    with contextlib.suppress(OSError, ValueError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        text = json.dumps({"solved": sorted({*known, name})}, indent=1)
        write_bytes(cache_folder() / FILE, text.encode())
