"""What chapters call: `check(name, function)` says whether an answer is right, and why not.

    >>> lnp.course.check("linear_backward", linear_backward)

`check(name, backward, forward=mine)` checks a pair with a cache of one's own; `check(name, function, hint=1)` shows a
hint; `exercises()` lists all exercises, and which have been solved; `assemble(model)` puts the right answers into a
model; `bug(level, seed)` hands out a wrong backward, to be mended; `draw_paths("softmax")` draws the ways through an
operation; `register(path)` takes a teacher's own exercise.
"""

import lora_np.course.exercises  # noqa: F401 - the folder, before a function takes its name
from lora_np.course.assembled import Assembled, assemble
from lora_np.course.bugs import Task, bug
from lora_np.course.exercise import Exercise, all_exercises
from lora_np.course.judging import check
from lora_np.course.pictures import draw_paths
from lora_np.course.progress import solved
from lora_np.course.rules import register
from lora_np.course.verdict import Verdict

__all__ = [
    "Assembled",
    "Exercise",
    "Listing",
    "Task",
    "Verdict",
    "assemble",
    "bug",
    "check",
    "draw_paths",
    "exercises",
    "register",
]


class Listing(tuple):
    """The exercises as a tuple, which prints as a table."""

    def __repr__(self):
        done = solved()
        rows = [f"{'':5}{'chapter':9}{'minutes':9}{'level':8}exercise"]
        for e in self:
            rows.append(f"{'done' if e.name in done else '':5}{e.chapter:<9}{e.minutes:<9}{e.level:8}{e.signature}")
        return "\n".join([*rows, f"{len(done & {e.name for e in self})} of {len(self)} solved"])


def exercises() -> Listing:
    """Return all exercises in order; printed, a table with chapter, minutes, level, signature and progress."""
    return Listing(all_exercises().values())
