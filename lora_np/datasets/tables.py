"""People's own texts, or pairs of texts, with labels: .tsv, .csv and .jsonl files."""

import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np

from lora_np.datasets.splits import SPLIT_SEED, same_text, split, text_datasets
from lora_np.files import printable

FORMATS = (".tsv", ".csv", ".jsonl")
# What the columns of texts are called: of a pair as tokenizers of Hugging Face have it, or as GLUE's files.
TEXTS = (("text", "text_pair"), ("sentence1", "sentence2"), ("text",))
INTEGER = r"[+-]?\d{1,18}"
QUOTED = r'"(?:[^"]|"")*"'  # a cell in quotation marks, those within doubled
LEAST_ROWS = 10  # so that dev and test have one each
FILES = " or ".join((", ".join(FORMATS[:-1]), FORMATS[-1]))


def read_text(path):
    """Return the text of a file in UTF-8, with or without a mark at its start."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a {FILES} file with the columns text and label.")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02x}; save it with the encoding"
            " UTF-8."
        ) from error


def is_table(name):
    """Return whether data of this name are a file of one's own."""
    return isinstance(name, (str, os.PathLike)) and Path(name).suffix.lower() in FORMATS


def load_table(path):
    """Return train, dev and test (80, 10 and 10 % of the rows, stratified by label) of one file.

    It is UTF-8. In a .tsv or .csv file the first row names the columns: text, label, and others that are not read; with
    a second text, text_pair (or sentence1 and sentence2, as GLUE has it), the model reads both. A .csv file is quoted
    as the csv module does. In a .tsv file each line is a row: no text holds a tab or a line break, and quotation marks
    are read as they stand, unless they stand around cells throughout and are doubled within, as pandas writes them. In
    a .jsonl file each line is an object with these names. Labels are names or integers, of any number of classes;
    integers are put in the order of their values, names in the order of the alphabet. Nothing is left out; copies of a
    text come into one part. A ValueError names a row that cannot be used.
    """
    rows = read_table(path)
    labels, classes = numbered(path, rows)
    if len(rows) < LEAST_ROWS:
        raise ValueError(
            f"{path} has {len(rows)} rows; at least {LEAST_ROWS} are needed to train, choose (dev) and test."
        )
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


def load_tables(train, dev, test):
    """Return train, dev and test, each a file as `load_table` describes it, whole and in its order; dev is empty if it
    is None. Their classes are those of train: a ValueError names a row of another label."""
    rows = read_table(train)
    labels, classes = numbered(train, rows)
    return dataset(rows, labels, classes), *(load_whole(path, classes, train, rows) for path in (dev, test))


def load_whole(path, classes, of, like=None):
    """Return all of a file, the labels of which are some of the classes `of` a file or a model; it has pairs if the
    rows have that it is to be `like`."""
    rows = [] if path is None else read_table(path)
    if rows and like and (isinstance(rows[0][1], tuple) != isinstance(like[0][1], tuple)):
        one, two = ("pairs", "single texts") if isinstance(like[0][1], tuple) else ("single texts", "pairs")
        raise ValueError(f"{of} has {one}, but {path} has {two}; give both the same columns.")
    return dataset(rows, numbered(path, rows, classes, of)[0], classes)


def dataset(rows, labels, classes):
    return text_datasets([text for _, text, _ in rows], labels, classes, [slice(None)])[0]


def numbered(path, rows, classes=None, of=None):
    """Return the labels of a table's rows by number, and the names of the classes: those given, which are `of` what a
    sentence says, or its own."""
    names = [label for _, _, label in rows]
    whole = all(re.fullmatch(INTEGER, name) for name in classes or names)
    names = [str(int(name)) if whole and re.fullmatch(INTEGER, name) else name for name in names]
    own = tuple(sorted(set(names), key=int if whole else None)) if classes is None else tuple(classes)
    if len(own) < 2:
        raise ValueError(f"{path} has one class only, {own[0]!r}; a classifier needs at least two.")
    number = {name: k for k, name in enumerate(own)}
    for (row, _, _), name in zip(rows, names):
        if name not in number:
            known = printable(", ".join(own), 200)
            raise ValueError(
                f"row {row} of {path} has the label {name!r}, which {of} lacks: its classes are {known}; correct the"
                " label, leave the row out, or train with such rows, too."
            )
    return np.array([number[name] for name in names], np.intp), own


def read_table(path):
    """Return (row, text or pair of texts, label) of each row of a table; the row that names the columns is row 1."""
    if not is_table(path):
        raise ValueError(f"{path} is not named as a table is; expected a {FILES} file with the columns text and label.")
    content, kind = read_text(path), Path(path).suffix.lower()
    if "\0" in content:
        row = content.count("\n", 0, content.index("\0")) + 1
        raise ValueError(f"line {row} of {path} holds a NUL, which no text does; save it with the encoding UTF-8.")
    records = {".tsv": tab_separated, ".csv": comma_separated, ".jsonl": json_lines}[kind](path, content)
    header = [name.strip().lower() for name in records[0][1]] if records else []
    wanted = (*next((texts for texts in TEXTS if set(texts) <= {*header}), TEXTS[-1]), "label")
    for name in wanted:
        if header.count(name) != 1:
            found = printable(", ".join(filter(None, header)) or "nothing", 200)
            raise ValueError(
                f"{path} has {header.count(name) or 'no'} column{'s' * (header.count(name) > 1)} {name} in its"
                f" first row ({found}); expected text and label, once each (of pairs text, text_pair and label)."
            )
    columns = {name: header.index(name) for name in wanted}
    rows = [(row, *checked(path, row, cells, header, columns)) for row, cells in records[1:] if cells]
    if not rows:
        raise ValueError(f"{path} has no rows below its first, which names the columns.")
    if kind == ".csv":
        look_for_swallowed(path, records[1:], len(header), columns["label"])
    return rows


def json_lines(path, content):
    """Return (row, cells) of each line of a .jsonl file, an object each, below the names that the first has."""
    records = []
    for row, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"row {row} of {path} is not JSON ({error}); expected an object a line.") from error
        if not isinstance(found, dict):
            raise ValueError(f'row {row} of {path} is not an object; expected {{"text": ..., "label": ...}}.')
        found = {name.strip().lower(): value for name, value in found.items()}
        records = records or [(0, list(found))]
        for name in {"label"}.union(*TEXTS) & found.keys():
            kinds = (str, int) if name == "label" else (str,)
            if type(found[name]) not in kinds:
                what = "a text or an integer" if name == "label" else "a text"
                raise ValueError(f"row {row} of {path} has the {name} {found[name]!r:.60}; expected {what}.")
        records.append((row, [str(found.get(name, "")) for name in records[0][1]]))
    return records


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
    """Return the text of a row, or its pair of texts, and the label."""
    if len(cells) != len(header):
        way = "a text in a .tsv file holds no tab and no line break: replace them by spaces, or save the table as .csv"
        if Path(path).suffix.lower() != ".tsv":
            way = "a text that holds the delimiter stands in quotation marks"
        raise ValueError(
            f"row {row} of {path} has {len(cells)} cell{'s' * (len(cells) > 1)}, but its first row has {len(header)};"
            f" {way}."
        )
    *texts, label = (cells[column].strip() for column in columns.values())
    for name, cell in zip(columns, (*texts, label)):
        if not cell:
            raise ValueError(f"row {row} of {path} has an empty {name}; fill it in, or remove the row.")
    return texts[0] if len(texts) == 1 else tuple(texts), label
