"""How the commands speak: aligned lines, sizes a person can read, images as characters. Colour only on a terminal."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from lora_np.model.tree import count_parameters

SHADES = " .:-=+*#%@"


def heading(text):
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(f"\n\x1b[1m{text}\x1b[0m" if bold else f"\n{text}", flush=True)


def line(label, text, file=None):
    print(f"  {label:<12} {text}", flush=True, file=file)


def note(text):
    line("note", text)


def option(name):
    """Return how a field of a recipe is written here."""
    return f"--{name.replace('_', '-')}"


def command(*words):
    """Return one of our commands as it can be pasted into a shell, whatever the names of files are."""
    safe = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    whole = ["python", "-m", "lora_np", *safe]
    return subprocess.list2cmdline(whole) if os.name == "nt" else shlex.join(whole)


def json_line(value):
    """Return a value as JSON on one line, in letters that standard output has; else by their numbers."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text if len(text.splitlines()) == 1 else json.dumps(value)  # U+2028 ends a line for some readers


def size(bytes_):
    """1234567 -> '1.2 MB', in powers of 1,000 as file managers count."""
    for unit in ("bytes", "kB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.0f} {unit}" if unit == "bytes" or bytes_ >= 100 else f"{bytes_:.1f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.1f} GB"


def percent(share):
    return f"{100 * share:5.1f} %"


def accuracy_line(label, measured, classes=("class 0", "class 1")):
    """Print what `measured` returns: F1 is that of the second of two classes; old records lack it."""
    low, high = (100 * share for share in measured["interval"])
    names = {"f1": f"F1 of {classes[1]}", "f1_macro": "macro F1", "mcc": "MCC"}
    more = (f", {name} {measured[key]:.3f}" for key, name in names.items() if key in measured)
    line(label, f"{percent(measured['accuracy'])}   (95 % confidence: {low:.1f} to {high:.1f}){''.join(more)}")


def architecture(model):
    d, count = model.hidden_size, count_parameters(model).total
    return f"{model.config['model_type']}, {len(model.layer)} layers, d = {d}, {count:,} parameters"


def table(rows, header):
    """Print rows of strings under a header, each column as wide as its widest entry."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    for row in [header, *rows]:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def examples(inputs, captions):
    """Print images or texts with a caption each."""
    (pictures if np.ndim(inputs) == 3 else sentences)(inputs, captions)


def pictures(images, captions, columns=4):
    """Print images (n, H, W) in 0..1 as characters, side by side, a caption under each."""
    for first in range(0, len(images), columns):
        some = images[first : first + columns]
        levels = np.rint(some * (len(SHADES) - 1)).astype(int).clip(0, len(SHADES) - 1)
        print()
        for row in range(some.shape[1]):
            print("  " + "    ".join("".join(2 * SHADES[level] for level in image[row]) for image in levels).rstrip())
        padded = (f"{caption:<{2 * some.shape[2]}}" for caption in captions[first : first + columns])
        print("  " + "    ".join(padded).rstrip())


def sentences(texts, captions, width=100):
    """Print texts, one a line and cut to the width, each behind its caption."""
    longest = max(map(len, captions))
    for text, caption in zip(texts, captions):
        text = " ".join((text if isinstance(text, str) else " | ".join(text)).split())  # of a pair both
        print(f"  {caption:<{longest}}   {text if len(text) <= width else text[: width - 3] + '...'}")
