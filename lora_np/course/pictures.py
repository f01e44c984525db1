"""Pictures: the ways through an operation, its graph once for each way; and a wrong result beside the right one.

matplotlib is loaded when one is drawn.
"""

import io
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lora_np.course.words import en

LIT, PALE = "tab:orange", "0.72"
WIDTH, HEIGHT = 0.65, 0.6  # inches between two columns, and two rows, of boxes


@dataclass
class Picture:
    """A matplotlib figure that a notebook shows, also before pyplot is imported there."""

    figure: object

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


class Graph(NamedTuple):
    """A graph of values, and the ways through it.

    Attributes
    ----------
    columns : int
        Of panels.
    boxes : dict
        {name: (column, row, what is written in the box, shape)}.
    arrows : str
        Of the way forward, "x-c c-y".
    paths : dict
        {title: names along the way}.
    """

    columns: int
    boxes: dict
    arrows: str
    paths: dict


GRAPHS = {
    "layer_norm": Graph(
        columns=2,
        boxes={
            "x": (0, 0, "x", "(N, d)"),
            "mean": (1, 1, "mean", "(N, 1)"),
            "c": (2, 0, "c", "(N, d)"),
            "inverse_std": (3, 1, r"$\sigma^{-1}$", "(N, 1)"),
            "xhat": (4, 0, r"$\hat{x}$", "(N, d)"),
            "gamma": (5, 1, r"$\gamma$, $\beta$", "(d,)"),
            "y": (6, 0, "y", "(N, d)"),
        },
        arrows="x-mean x-c mean-c c-inverse_std c-xhat inverse_std-xhat xhat-y gamma-y",
        paths={
            "1: straight on": "x c xhat y",
            "2: by the mean": "x mean c xhat y",
            "3: by the spread": "x c inverse_std xhat y",
            "4: by both": "x mean c inverse_std xhat y",
        },
    ),
    "softmax": Graph(
        columns=2,
        boxes={
            "S": (0, 0, "S", "(N, U)"),
            "E": (1.5, 0, r"$e^S$", "(N, U)"),
            "Z": (3, 1, "sum", "(N, 1)"),
            "P": (4.5, 0, "P", "(N, U)"),
        },
        arrows="S-E E-Z E-P Z-P",
        paths={
            "1: the numerator": "S E P",
            "2: the sum": "S E Z P",
        },
    ),
    "attention": Graph(
        columns=1,
        boxes={
            "Q": (0, 1, "Q", "(n, h, T, d_k)"),
            "K": (0, 0, "K", "(n, h, U, d_k)"),
            "S": (2.2, 1, "S", "(n, h, T, U)"),
            "P": (4.4, 1, "P", "(n, h, T, U)"),
            "D": (6.6, 1, "D", "(n, h, T, U)"),
            "V": (6.6, 0, "V", "(n, h, U, d_v)"),
            "O": (8.8, 1, "O", "(n, h, T, d_v)"),
        },
        arrows="Q-S K-S S-P P-D D-O V-O",
        paths={
            "from V, one step": "V O",
            "from Q, four steps": "Q S P D O",
            "from K, four steps": "K S P D O",
        },
    ),
    "block": Graph(
        columns=2,
        boxes={
            "x": (0, 0, "x", "(N, d)"),
            "norm1": (0.9, 1, "norm 1", "(N, d)"),
            "a": (2.1, 1, "attention", "(N, d)"),
            "h": (3, 0, "h", "(N, d)"),
            "norm2": (3.9, 1, "norm 2", "(N, d)"),
            "m": (5.1, 1, "MLP", "(N, d)"),
            "y": (6, 0, "y", "(N, d)"),
        },
        arrows="x-norm1 norm1-a a-h x-h h-norm2 norm2-m m-y h-y",
        paths={
            "1: past both": "x h y",
            "2: through the MLP": "x h norm2 m y",
            "3: through the attention": "x norm1 a h y",
            "4: through both": "x norm1 a h norm2 m y",
        },
    ),
}


def draw_paths(name, **arrays):
    """Draw an operation as a graph of its values, a panel for each way through it, the way lit.

    Parameters
    ----------
    name : str
        "layer_norm", "softmax", "attention" or "block".
    **arrays : arrays
        Of the graph's boxes, by name: sizes are then written in place of letters.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If there is no such graph, or an array does not fit it.
    """
    from matplotlib.figure import Figure

    if name not in GRAPHS:
        raise ValueError(f"there is no graph {name!r}; expected one of {', '.join(GRAPHS)}")
    graph = GRAPHS[name]
    sizes = sizes_of(graph, arrays)
    across = max(column for column, *_ in graph.boxes.values())
    rows = -(-len(graph.paths) // graph.columns)
    panel = ((across + 1.3) * WIDTH, 2 * HEIGHT + 0.35)
    figure = Figure(figsize=(graph.columns * panel[0], rows * panel[1]), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, graph.columns)).reshape(-1)
    for axis, (title, path) in zip(axes, graph.paths.items()):
        axis.set(xlim=(-0.65, across + 0.65), ylim=(-0.45, 1.45))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
        draw(axis, graph, path.split(), sizes)
    return Picture(figure)


def sizes_of(graph, arrays):
    """Return {letter: size}, as the shapes of the given arrays tell them."""
    sizes = {}
    for name, array in arrays.items():
        if name not in graph.boxes:
            raise ValueError(f"the graph has no box {name!r}; expected some of {', '.join(graph.boxes)}")
        shape = graph.boxes[name][3]
        letters = re.findall(r"\w+", shape)
        told = dict(zip(letters, np.shape(array)))
        if len(letters) != np.ndim(array) or any(sizes.get(letter, size) != size for letter, size in told.items()):
            raise ValueError(f"{name} has the shape {np.shape(array)}, expected {shape}, with one size for each letter")
        sizes |= {letter: size for letter, size in told.items() if letter != "1"}
    return sizes


def draw(axis, graph, path, sizes):
    """Draw the graph with one way lit, its arrows turned: so gradients go."""
    drawn = {}
    for name, (column, row, text, shape) in graph.boxes.items():
        lit = name in path
        look = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": LIT if lit else PALE}
        shape = re.sub(r"\w+", lambda letter: str(sizes.get(letter[0], letter[0])), shape)
        text = axis.text(
            *(column, row, f"{text}\n{shape}"),
            ha="center",
            va="center",
            fontsize=8.5,
            color="black" if lit else "0.5",
            bbox=look | {"linewidth": 2.0 if lit else 1.0},
        )
        drawn[name] = text
    for arrow in graph.arrows.split():
        start, end = arrow.split("-")
        lit = (start, end) in zip(path, path[1:])
        here, there = (end, start) if lit else (start, end)
        axis.annotate(
            "",
            xy=graph.boxes[there][:2],
            xytext=graph.boxes[here][:2],
            arrowprops={
                "arrowstyle": "-|>" if lit else "->",
                "color": LIT if lit else PALE,
                "linewidth": 2.4 if lit else 1.0,
                "patchA": drawn[here].get_bbox_patch(),
                "patchB": drawn[there].get_bbox_patch(),
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def draw_excerpt(name, excerpt):
    """Draw a result that is wrong: yours, what was expected, and how far apart they are; the worst entry is framed.

    Parameters
    ----------
    name : str
        Of the result.
    excerpt : lora_np.course.findings.Excerpt

    Returns
    -------
    Picture
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    low, high = excerpt.limits
    apart = np.ma.masked_where(~excerpt.off, excerpt.apart)
    panels = (
        (en.YOURS, excerpt.given, "viridis", low, high),
        (en.EXPECTED, excerpt.expected, "viridis", low, high),
        (en.DIFFERENCE, apart, "Greys", -0.15 * apart.max(), apart.max()),  # the smallest is no white
    )
    figure = Figure(figsize=(7.5, 2.3), layout="constrained")
    axes = figure.subplots(1, 3)
    (row, column), line = excerpt.worst, 2.0 if apart.size <= 300 else 0.7
    frame = {"fill": False, "edgecolor": LIT, "linewidth": line, "clip_on": False}
    for axis, (title, array, colours, least, most) in zip(axes, panels):
        image = axis.imshow(array, cmap=colours, vmin=least, vmax=most, aspect="auto")
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
        axis.set_title(title, fontsize=10)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        if axis is not axes[0]:
            bar = figure.colorbar(image, ax=axes[:2] if axis is axes[1] else axis)
            bar.ax.set_ylim(low if axis is axes[1] else 0.0, most)
    axes[0].set_ylabel(excerpt.name_of(name))
    return Picture(figure)
