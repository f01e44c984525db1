"""The verdict of a gradient check, as data and as a table that a person can read."""

import functools
import html
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

HEAD = ("gradient of", "shape", "error", "tolerance", "verdict")


class Row(NamedTuple):
    """One gradient's verdict. Error and tolerance are those of its worst entry, relative to that entry's scale."""

    argument: str
    shape: tuple
    error: float  # inf where there was no gradient to compare
    tolerance: float
    verdict: str  # "ok", "wrong", "vacuous" or "not resolved"
    where: tuple | None = None  # the index of the worst entry; None for a scalar, a direction, or no gradient
    given: float | None = None
    numeric: float | None = None


@dataclass(repr=False)
class Report:
    """What a gradient check found. ``print`` it, or ask ``ok``.

    Attributes
    ----------
    rows : list of Row
        One per gradient, in the order of the inputs.
    failures : dict of str to list of str
        Sentences by argument, or under ``"backward"`` or ``"forward"`` what concerns no single argument. Empty when all
        is well.
    notes : list of str
        What is no failure but should be known: vacuous rows, entries drawn at random from a large array.
    """

    rows: list[Row]
    failures: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    explain: object = field(default=list, compare=False)  # explain() returns the diagnosis
    pairs: dict = field(default_factory=dict, compare=False)  # argument: (given, numeric), arrays of its shape

    @functools.cached_property
    def diagnosis(self):
        """The likely causes of the failures, a list of Diagnosis, the best first. It is sought when first asked for."""
        return self.explain()

    @property
    def ok(self) -> bool:
        """Is every gradient right, as far as can be told, and the backward well-behaved?"""
        return not self.failures

    @property
    def max_error(self) -> float:
        """The largest error of any row, relative to the scale of its entry."""
        return max((row.error for row in self.rows), default=0.0)

    def __bool__(self):
        return self.ok  # so that `assert check(...)` means what it says

    def __str__(self):
        below = ["\n".join(lines) for lines in self._sentences() if lines]
        return "\n\n".join([self._headline(), _table(self.rows, worst=not self.ok), *below])

    __repr__ = __str__

    def _sentences(self):
        """Return three lists: what fails, the likeliest cause of each failure, and the notes."""
        said, first = [sentence for found in self.failures.values() for sentence in found], {}
        for argument, cause, group, sentence in self.diagnosis:
            repeated = sentence in said
            first.setdefault(argument, f"likely cause: {group}, {cause}" + ("" if repeated else f": {sentence}"))
        return said, list(first.values()), [f"note: {note}" for note in self.notes]

    def _repr_html_(self):
        """Show the report in a notebook: the table with a colour for each verdict, then the sentences."""
        colour = {"ok": "#0072b2", "vacuous": "#777777", "not resolved": "#e69f00", "wrong": "#d55e00"}
        lines = []
        for row in self.rows:
            cells = (row.argument, row.shape, _short(row.error), _short(row.tolerance))
            verdict = f'<td style="color:{colour[row.verdict]};font-weight:bold">{row.verdict}</td>'
            lines.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + verdict)
        head = "".join(f"<th>{name}</th>" for name in HEAD)
        table = f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
        below = "".join(f"<p>{html.escape(line)}</p>" for lines in self._sentences() for line in lines)
        return f"<p><b>{html.escape(self._headline())}</b></p>{table}{below}"

    def plot(self):
        """Draw the given gradients over the numerical ones, and where they differ; needs matplotlib.

        Returns
        -------
        matplotlib.figure.Figure
            A row for each gradient that was compared entry by entry. Left: an entry is a point, right ones lie on the
            line. Right: each entry's error, the gradient seen as a matrix.

        Raises
        ------
        ValueError
            If no gradient was compared entry by entry.
        """
        if not self.pairs:
            raise ValueError("no gradient was compared entry by entry, so there is nothing to draw; print the report.")
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(8, 3 * len(self.pairs)), layout="constrained")
        axes = figure.subplots(len(self.pairs), 2, squeeze=False)
        for (points, image), (name, (given, numeric)) in zip(axes, self.pairs.items()):
            ends = [float(min(given.min(), numeric.min())), float(max(given.max(), numeric.max()))]
            points.plot(ends, ends, color="0.7", linewidth=1)
            points.plot(numeric.reshape(-1), given.reshape(-1), "o", color="#0072b2", markersize=3)
            points.set(xlabel=f"numerical d{name}", ylabel="yours", title=f"d{name}")
            error = np.atleast_2d(np.abs(given - numeric))
            error = error.reshape(len(error), -1)
            largest = max(error.max(), 1e-7 * np.abs(numeric).max())  # rounding is not to shine
            drawn = image.imshow(error, cmap="viridis", aspect="auto", vmin=0.0, vmax=largest or 1.0)
            image.set(title=f"error of d{name}", xlabel="column", ylabel="row")
            for axis in (image.xaxis, image.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            figure.colorbar(drawn, ax=image)
        return figure

    def _headline(self):
        bad = sum(row.verdict in ("wrong", "not resolved") for row in self.rows)
        gradients = "1 gradient" if len(self.rows) == 1 else f"{len(self.rows)} gradients"
        if self.ok:
            return f"Gradient check passed: {gradients}, largest error {self.max_error:.1e} of its scale."
        if bad == 0:
            return f"Gradient check FAILED, though the numbers of {gradients} are right."
        return f"Gradient check FAILED: {bad} of {gradients}."


def _table(rows, worst):
    """Lay the rows out in columns; the worst entries are shown only where there is something to look for."""
    lines = [(*HEAD, *(("worst at", "yours", "numeric") * worst))]
    for row in rows:
        cells = [row.argument, str(row.shape), _short(row.error), _short(row.tolerance), row.verdict]
        if worst and row.given is not None and (row.verdict == "not resolved" or row.error > row.tolerance):
            cells += ["-" if row.where is None else bracketed(row.where), *distinct(row.given, row.numeric)]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
    return "\n".join("  ".join(["", *map(str.ljust, line, widths)]).rstrip() for line in lines)


def _short(x):
    return f"{x:.1e}" if x < float("inf") else "-"


def bracketed(index):
    """Write an index as it is typed, ``[2, 1]``."""
    return "[" + ", ".join(str(i) for i in index) + "]"


def distinct(a, b):
    """Write two numbers with four digits, or as many as it takes to tell them apart and one more."""
    if f"{a:.4g}" != f"{b:.4g}" or a == b:
        return f"{a:.4g}", f"{b:.4g}"
    digits = next(digits for digits in range(5, 18) if f"{a:.{digits}g}" != f"{b:.{digits}g}")
    return f"{a:.{digits + 1}g}", f"{b:.{digits + 1}g}"
