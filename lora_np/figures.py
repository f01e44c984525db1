"""Every picture that a run draws, as PNG.

The colours are those of Okabe and Ito 2008, which a colour-blind reader can tell apart; text is ASCII.
"""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lora_np.files import write_bytes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def save(figure, path):
    """Write a figure as a PNG that does not name the program that drew it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def draw_curves(losses, accuracies, before, title, path):
    """Draw the loss of each step, and the accuracy on dev: pairs (step, accuracy), and what it was before the first, or
    none and None."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color=GREY, linewidth=0.7, label="each batch")
    if len(losses) >= 20:
        width = max(5, len(losses) // 30)
        smooth = np.convolve(losses, np.full(width, 1.0 / width), "valid")
        left.plot(steps[width // 2 :][: len(smooth)], smooth, color=BLUE, linewidth=2, label=f"mean of {width} batches")
    left.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    left.legend(frameon=False)
    if before is not None:
        at, values = zip((0, before), *accuracies)
        right.plot(at, [100 * value for value in values], color=ORANGE, marker=".", label="while it is trained")
        right.axhline(100 * before, color=GREY, linestyle="--", label="before")
        right.legend(frameon=False, loc="lower right")
    right.set(xlabel="step", ylabel="accuracy on dev, %" if accuracies else "there is no dev", ylim=(0, 100))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save(figure, path)


def draw_predictions(images, labels, before, after, classes, title, path):
    """Draw images (n, H, W) in 0..1, each with its true label and those predicted before and after (n,), and framed in
    a colour that says whether the latter is right."""
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    wide, high, above = 1.25, 1.65, 0.35  # of a cell, and of the title, in inches
    figure = Figure(figsize=(wide * columns, high * rows + above))
    figure.suptitle(title, y=1 - 0.1 / figure.get_figheight(), va="top")
    # One axes for all, in inches: an axes an image, each with ticks to lay out, takes five times as long.
    ax = figure.add_axes((0, 0, 1, 1))
    for n, (image, label, old, new) in enumerate(zip(images, labels, before, after)):
        x, y = wide * (n % columns) + 0.1, high * (n // columns) + above + 0.3
        side, colour = wide - 0.2, GREEN if new == label else ORANGE
        ax.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0, extent=(x, x + side, y + side, y))
        ax.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=colour, linewidth=2))
        said = {"fontsize": 11, "color": colour}
        ax.text(x + side / 2, y - 0.06, f"{classes[old]} -> {classes[new]}", ha="center", va="bottom", **said)
        ax.text(x + side / 2, y + side + 0.05, f"true: {classes[label]}", ha="center", va="top", fontsize=9)
    ax.set(xlim=(0, wide * columns), ylim=(high * rows + above, 0), aspect="equal")
    ax.axis("off")
    save(figure, path)
