"""People's own texts with labels: a .tsv or .csv file."""

import csv
import io
import re
from pathlib import Path

import numpy as np

from lora_np.datasets.splits import SPLIT_SEED, same_text, split, text_datasets
from lora_np.files import printable

COLUMNS = ("text", "label")
QUOTED = r'"(?:[^"]|"")*"'  # a cell in quotation marks, those within doubled
LEAST_ROWS = 10  # so that dev and test have one each


def read_text(path):
    """Return the text of a file in UTF-8, with or without a mark at its start."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a .tsv or .csv file with the columns text and label.")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02x}; save it with the encoding"
            " UTF-8."
        ) from error


def load_table(path):
    """Return train, dev and test (80, 10 and 10 % of the rows, stratified by label) of a .tsv or .csv file.

    It is UTF-8, its first row naming the columns: text, label, and others that are not read. A .csv file is quoted as
    the csv module does. In a .tsv file each line is a row: no text holds a tab or a line break, and quotation marks are
    read as they stand, unless they stand around cells throughout and are doubled within, as pandas writes them. Labels
    are names or integers, of any number of classes; integers are put in the order of their values, names in the order
    of the alphabet. Nothing is left out; copies of a text come into one part. A ValueError names a row that cannot be
    used.
    """
    rows = read_table(path)
    names = [label for _, _, label in rows]
    whole = all(re.fullmatch(r"[+-]?\d{1,18}", name) for name in names)
    names = [str(int(name)) for name in names] if whole else names
    classes = tuple(sorted(set(names), key=int if whole else None))
    if len(classes) < 2:
        raise ValueError(f"{path} has one class only, {classes[0]!r}; a classifier needs at least two.")
    if len(rows) < LEAST_ROWS:
        raise ValueError(
            f"{path} has {len(rows)} rows; at least {LEAST_ROWS} are needed to train, choose (dev) and test."
        )
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.intp)
    tenth = max(1, round(len(rows) / 10))
    copies = [same_text(text) for _, text, _ in rows]
    parts = split(labels, (len(rows) - 2 * tenth, tenth, tenth), SPLIT_SEED, copies)
    for part, its_rows in zip(("train", "dev", "test"), parts):
        if not len(its_rows):
            raise ValueError(f"{path} repeats so few texts so often that none is left for {part}; add different texts.")
    for k in np.unique(labels[np.concatenate(parts[1:])]):
        if k not in labels[parts[0]]:
            row = rows[int(np.argmax(labels == k))][0]
            raise ValueError(
                f"the label {classes[k]!r} of {path} (row {row}) has too few different texts: dev or test has it and"
                " train lacks it; give it at least three, or leave it out."
            )
    return text_datasets([text for _, text, _ in rows], labels, classes, parts)


def read_table(path):
    """Return (row, text, label) of each row of a table; the row that names the columns is row 1."""
    content = read_text(path)
    if "\0" in content:
        row = content.count("\n", 0, content.index("\0")) + 1
        raise ValueError(f"line {row} of {path} holds a NUL, which no text does; save it with the encoding UTF-8.")
    tabs = Path(path).suffix.lower() == ".tsv"
    records = tab_separated(path, content) if tabs else comma_separated(path, content)
    header = [name.strip().lower() for name in records[0][1]] if records else []
    for name in COLUMNS:
        if header.count(name) != 1:
            found = printable(", ".join(filter(None, header)) or "nothing", 200)
            raise ValueError(
                f"{path} has {header.count(name) or 'no'} column{'s' * (header.count(name) > 1)} {name} in its"
                f" first row ({found}); expected text and label, once each."
            )
    columns = [header.index(name) for name in COLUMNS]
    rows = [(row, *checked(path, row, cells, header, columns)) for row, cells in records[1:] if cells]
    if not rows:
        raise ValueError(f"{path} has no rows below its first, which names the columns.")
    if not tabs:
        look_for_swallowed(path, records[1:], len(header), columns[1])
    return rows


def comma_separated(path, content):
    """Return (row, cells) of each row of a .csv file, quoted as the csv module does; a text may have several lines."""
    records, limit = [], csv.field_size_limit(max(len(content), 1))  # a text may be as long as the file
    try:
        for cells in csv.reader(io.StringIO(content, newline=""), strict=True):
            records.append((len(records) + 1, cells))
    except csv.Error as error:
        raise ValueError(
            f"row {len(records) + 1} of {path} cannot be read ({error}); a text with a quotation mark or a comma in it"
            " stands in quotation marks, and those within are doubled."
        ) from error
    finally:
        csv.field_size_limit(limit)
    return records


def look_for_swallowed(path, records, columns, place):
    """Raise if each line of a row is a row by itself: a quotation mark at the start of a text took them all for one."""
    labels = {cells[place] for _, cells in records if cells}
    for row, cells in records:
        lines = [line.split(",") for line in re.split(r"\r\n?|\n", ",".join(cells))]
        if len(lines) > 1 and all(len(line) == columns and line[place] in labels for line in lines):
            raise ValueError(
                f"the text of row {row} of {path} begins with a quotation mark and goes on over {len(lines)} lines, of"
                " which each looks like a row of its own; put a text that begins with a quotation mark into quotation"
                " marks, and double those within."
            )


def tab_separated(path, content):
    """Return (row, cells) of each line of a .tsv file; no cell holds a tab or a line break.

    Some programs write a text with a quotation mark in it (pandas), or every text, in quotation marks and double those
    within; others write all texts as they stand. One file is of one kind: a mark that no program of the first kind
    would write shows that it is of the second.
    """
    lines = content.split("\n") if "\n" in content else content.split("\r")
    records = [(row, line.rstrip("\r").split("\t") if line.strip("\r") else []) for row, line in enumerate(lines, 1)]
    for row, cells in records:
        if any("\r" in cell for cell in cells):
            raise ValueError(
                f"row {row} of {path} holds a carriage return inside a cell; a text in a .tsv file has no line break:"
                " replace it by a space, or save the table as .csv."
            )
    marked = [(row, cell, re.fullmatch(QUOTED, cell)) for row, cells in records for cell in cells if '"' in cell]
    # Rows that only a program of the one kind, or of the other, would write.
    quoted = [row for row, cell, whole in marked if whole and (row == 1 or '"' in cell[1:-1])]
    literal = [row for row, _, whole in marked if not whole]
    if quoted and literal:
        raise ValueError(
            f"row {literal[0]} of {path} has a quotation mark that is neither around a whole cell nor doubled, but row"
            f" {quoted[0]} has a cell in quotation marks; write all texts as they stand or all in quotation marks,"
            " with those within doubled, and no tab or line break in any."
        )
    if literal:
        return records
    return [
        (row, [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in cells])
        for row, cells in records
    ]


def checked(path, row, cells, header, columns):
    """Return text and label of a row."""
    if len(cells) != len(header):
        way = "a text in a .tsv file holds no tab and no line break: replace them by spaces, or save the table as .csv"
        if Path(path).suffix.lower() != ".tsv":
            way = "a text that holds the delimiter stands in quotation marks"
        raise ValueError(
            f"row {row} of {path} has {len(cells)} cell{'s' * (len(cells) > 1)}, but its first row has {len(header)};"
            f" {way}."
        )
    found = [cells[column].strip() for column in columns]
    for name, cell in zip(COLUMNS, found):
        if not cell:
            raise ValueError(f"row {row} of {path} has an empty {name}; fill it in, or remove the row.")
    return found
