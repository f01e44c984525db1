"""Damaged data: images in .npy files, tables of texts, files of one text a line."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from fuzz import mutations, valid
from fuzz.oracle import Findings, attempt, command, generator, short

import lora_np as lnp


def mutated(every, data, rounds, rng):
    flips = mutations.flips(data, rng, int(0.2 * min(rounds, len(every))))
    return mutations.sample(every, rounds - len(flips), rng) + flips


def answers(shown):
    return [json.loads(line) for line in shown.splitlines()]


@short(10)
def test_images(rounds, tmp_path, monkeypatch):
    """What NumPy reads as images in 0..1 is answered as the same images, written anew; everything else is refused."""
    monkeypatch.chdir(tmp_path)
    rng, findings, path = generator("npy"), Findings(), tmp_path / "own.npy"
    images, folder = rng.random((3, 8, 8)), valid.image_model(tmp_path)
    every = mutations.npy_mutations(images)
    for what, data in mutated(every, mutations.saved(images), rounds, rng):
        path.write_bytes(data)
        argv = ["predict", "--model", folder, "--json", "--images"]
        shown, found = command([*argv, path], path.name)
        if shown is not None and not found:
            found = [f"answers silently: {fault}" for fault in faults_of_images(argv, path, shown)]
        findings.add(found, what)
    findings.check()


def faults_of_images(argv, path, shown):
    try:
        read = np.load(path, allow_pickle=False)
    except Exception:
        yield "NumPy does not read the file"
        return
    if not isinstance(read, np.ndarray) or read.ndim not in (3, 4) or read.dtype.kind not in "f":
        yield "it holds no images"
        return
    if not np.isfinite(read).all() or read.min() < 0 or read.max() > 1:
        yield "its values are not in 0..1"
        return
    clean = path.with_name("clean.npy")
    np.save(clean, np.ascontiguousarray(read, np.float64))
    again, found = command([*argv, clean], clean.name)
    if found or answers(again) != answers(shown):
        yield "other answers than for the same numbers, written anew"


@short(37)
@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_tables(suffix, rounds, tmp_path):
    """A table that loads has each of its rows in one part, with the text and the label that stand there."""
    rng, findings = generator("table", suffix), Findings()
    path = valid.table(tmp_path, suffix)
    data = path.read_bytes()
    for what, new in mutated(
        mutations.text_mutations(data, rng, 10 * rounds if rounds < 1000 else 4000), data, rounds, rng
    ):
        path.write_bytes(new)
        parts, found = attempt(lambda: lnp.load_data(path), path)
        if parts is not None and not found:
            found = [f"loads silently: {fault}" for fault in faults_of_table(parts, new, suffix)]
        findings.add(found, what)
    findings.check()


def faults_of_table(parts, data, suffix):
    """Yield in what the parts of a dataset differ from its table; a line of a .tsv is a row."""
    text = data.decode("utf-8-sig")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rows = [
        row for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",") if row
    ]
    header, rows = [name.strip().lower() for name in rows[0]], rows[1:]
    found = [(x, part.classes[k]) for part in parts for x, k in zip(part.inputs, part.labels)]
    if suffix == ".tsv":
        if len(found) != sum(bool(line.strip()) for line in lines) - 1:
            yield "not as many rows as lines"
        if any("\n" in x or "\t" in x or "\r" in x for x, _ in found):
            yield "a cell holds a line break or a tab"
    elif len(found) != len(rows):
        yield "not as many rows as the csv module reads"
    if any("\x00" in x for pair in found for x in pair):  # Python 3.10 refuses it, later versions do not
        yield "a NUL in a text or label"
    k, label = header.index("text"), header.index("label")
    if not any('"' in line for line in lines):
        expected = sorted((row[k].strip(), row[label].strip()) for row in rows)
        names = {name for _, name in expected}
        if all(name.isalpha() for name in names) and sorted(found) != expected:
            yield "other texts or labels than the file's"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return valid.adapter(tmp_path_factory.mktemp("texts"), "bert mean head")


@short(10)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_texts(source, rounds, adapter, tmp_path, monkeypatch):
    """One answer a line, in order, each with the line as it stands: a newline ends a line, and nothing else does."""
    monkeypatch.chdir(tmp_path)
    rng, findings, path = generator("texts", source), Findings(), tmp_path / "own.txt"
    data = "".join(f"{word} film {k} é\n" for k, word in enumerate(["good", "bad", "dull", "a great"])).encode()
    for what, new in mutated(
        mutations.text_mutations(data, rng, 10 * rounds if rounds < 1000 else 4000), data, rounds, rng
    ):
        path.write_bytes(new)
        argv = ["predict", "--adapter", adapter, "--json", "--file", path if source == "file" else "-"]
        shown, found = command(argv, "own.txt", "standard input", "stdin", stdin=new)
        if shown is not None and not found:
            found = [f"answers silently: {fault}" for fault in faults_of_texts(new, shown)]
        findings.add(found, what)
    findings.check()


def faults_of_texts(data, shown):
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield "the file is not UTF-8"
        return
    lines = text.removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    found = [answer["text"] for answer in answers(shown)]
    if len(found) != len(lines):
        yield "not one answer a line"
    elif [x.strip() for x in found] != [x.strip() for x in lines]:
        yield "other texts than the file's"


def test_whole_runs_on_damaged_tables(tmp_path, monkeypatch):
    """`finetune` and `evaluate` say which table they cannot use; they leave no run behind."""
    monkeypatch.chdir(tmp_path)
    folder = valid.adapter(tmp_path, "bert mean head")
    rng, findings = generator("runs"), Findings()
    path = valid.table(tmp_path, ".tsv")
    data = path.read_bytes()
    for what, new in mutations.sample(mutations.whole_files(data), 6, rng):
        path.write_bytes(new)
        shown, found = command(["evaluate", "--adapter", folder, "--data", path], path.name)
        findings.add(found, what)
        argv = ["finetune", "--model", tmp_path / "model", "--data", path, "--epochs", "1", "--r", "1", "--out", "run"]
        shown, found = command(argv, path.name, memory=False)
        if shown is None and (tmp_path / "run").exists():
            found = [*found, "finetune: a folder is left behind"]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        findings.add(found, what)
    findings.check()
