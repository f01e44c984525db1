"""A wrong result beside the right one: as characters on a terminal, as a picture in a notebook."""

import base64
import sys

import numpy as np

from lora_np.course.words import en

SHADES, PLAIN = " ░▒▓█", " .+#@"
ROWS, COLUMNS = 12, 24  # of a block, at most


def show(name, excerpt):
    """Show an excerpt of a result where this program's output goes."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    text = blocks(name, excerpt, shades_of(sys.stdout))
    if not hasattr(shell, "kernel"):
        print(text)
        return
    from IPython.display import display

    from lora_np.course.pictures import draw_excerpt

    picture = draw_excerpt(name, excerpt)._repr_png_()
    display({"image/png": base64.b64encode(picture).decode(), "text/plain": text}, raw=True)


def shades_of(stream):
    """Return the shades that a stream can write."""
    try:
        SHADES.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return SHADES


def blocks(name, excerpt, shades=SHADES):
    """Return three blocks of characters, side by side: yours, expected, difference; a blank there is no difference.

    Of a large matrix they show a window with the worst entry in it.
    """
    rows, columns = (
        window(size, at, most) for size, at, most in zip(excerpt.off.shape, excerpt.worst, (ROWS, COLUMNS))
    )
    part = type(excerpt)(*(array[rows, columns] for array in excerpt[:3]), *excerpt[3:])
    (low, high), most, top = part.limits, part.apart.max(), len(shades) - 1
    levels = [np.rint((array - low) / (high - low) * top) for array in part[:2]]
    levels.append(np.ceil(part.apart / most * top))
    wide = 1 + (part.off.shape[1] <= COLUMNS // 2)
    drawn = [["|" + "".join(wide * shades[int(k)] for k in line) + "|" for line in level] for level in levels]
    captions = (en.YOURS, en.EXPECTED, en.DIFFERENCE)
    width = max(len(drawn[0][0]), *map(len, captions))
    lines = ["  ".join(f"{cell:<{width}}" for cell in line) for line in (captions, *zip(*drawn))]
    title = excerpt.name_of(name)
    if part.off.size < excerpt.off.size:
        spans = (f"{span.start} to {span.stop - 1}" for span in (rows, columns))
        title = en.PART.format(name=title, **dict(zip(("rows", "columns"), spans)))
    scale = en.SCALE.format(name=title, low=low, high=high, most=most, full=shades[-1])
    return "\n".join(f"    {line}".rstrip() for line in (*lines, scale))


def window(size, at, most):
    """Return the slice of at most so many entries around one."""
    start = max(0, min(at - most // 2, size - most))
    return slice(start, min(size, start + most))
