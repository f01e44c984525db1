"""Train, dev and test in files of one's own, pairs of texts, and lines of JSON."""

import json

import pytest

import lora_np as lnp
from lora_np.datasets.splits import columns, content_hash, repeated
from lora_np.datasets.tables import load_whole


def write(path, rows, header=("text", "label")):
    """Write rows in the way that the name of a file says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(header, row))) for row in rows]
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


TRAIN = [("a good film", "yes"), ("a bad one", "no"), ("so so", "maybe")]
PAIRS = [("is it good", "it is", "yes"), ("is it bad", "it is not", "no")]


@pytest.fixture
def files(tmp_path):
    """Return a function that writes three parts and loads them."""

    def load(train, dev, test, names=("train.tsv", "dev.csv", "test.jsonl"), header=("text", "label")):
        paths = [
            write(tmp_path / name, rows, header) if rows else None for name, rows in zip(names, (train, dev, test))
        ]
        return lnp.load_data(paths[0], dev=paths[1], test=paths[2])

    return load


def test_three_files_are_taken_whole_and_in_their_order_with_the_classes_of_train(files):
    train, dev, test = files(TRAIN, [("x", "yes")], [("y", "no"), ("a good film", "maybe"), ("z", "no")])
    assert [list(part.inputs) for part in (train, dev, test)] == [
        [text for text, _ in TRAIN], ["x"], ["y", "a good film", "z"],
    ]  # fmt: skip
    assert train.classes == dev.classes == test.classes == ("maybe", "no", "yes")
    assert [part.labels.tolist() for part in (train, dev, test)] == [[2, 1, 0], [2], [1, 0, 1]]


def test_without_a_dev_that_part_is_empty_but_there(files):
    _, dev, test = files(TRAIN, None, TRAIN[:1])
    assert len(dev) == 0 and dev.inputs.shape == (0,) and dev.classes == test.classes
    assert columns(dev.inputs) == ([], None)


def test_integers_are_one_label_however_they_are_written(files):
    _, dev, test = files([("a", "+1"), ("b", "0"), ("c", "10")], [("d", "01")], [("e", 10), ("f", 0)])
    assert dev.classes == ("0", "1", "10") and dev.labels.tolist() == [1] and test.labels.tolist() == [2, 0]


@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("label", ["Yes", "perhaps", "2"])
def test_a_label_that_train_lacks_names_its_file_and_row(part, label, files):
    parts = [TRAIN, TRAIN, TRAIN]
    parts[part] = [*TRAIN, ("one more", label)]
    with pytest.raises(ValueError) as error:
        files(*parts)
    row, name = (5, "dev.csv") if part == 1 else (4, "test.jsonl")  # a table's first row names the columns
    assert f"row {row} of " in str(error.value) and name in str(error.value) and "\n" not in str(error.value)
    assert f"the label {label!r}, which" in str(
        error.value
    ) and "train.tsv lacks: its classes are maybe, no, yes" in str(error.value)


@pytest.mark.parametrize("header", [("text", "text_pair", "label"), ("Sentence1", "sentence2 ", "label")])
def test_pairs_are_two_columns(header, files, tmp_path):
    names = ("train.tsv", "dev.csv", "test.tsv")
    train, dev, test = files(PAIRS, PAIRS[:1], PAIRS[1:], names, header)
    assert list(train.inputs) == [("is it good", "it is"), ("is it bad", "it is not")] and train.inputs.shape == (2,)
    assert columns(train.inputs) == (["is it good", "is it bad"], ["it is", "it is not"])
    assert list(test.inputs[[0]]) == [("is it bad", "it is not")] and dev.labels.tolist() == [1]
    many = write(tmp_path / "one.csv", [(f"q {k}", f"a {k}", "ab"[k % 2]) for k in range(40)], header)
    assert [len(part) for part in lnp.load_data(many)] == [32, 4, 4]


def test_pairs_with_the_same_texts_in_other_columns_are_other_data(files):
    header, names = ("text", "text_pair", "label"), ("a.tsv", "b.tsv", "c.tsv")
    one = files([("a", "b c", "x"), ("d", "e", "y")], None, [("a", "b", "x")], names, header)
    other = files([("a b", "c", "x"), ("d", "e", "y")], None, [("a", "b", "x")], names, header)
    single = files([("a b c", "x"), ("d e", "y")], None, [("a b", "x")], names)
    assert len({content_hash(parts) for parts in (one, other, single)}) == 3


def test_texts_that_stand_in_two_files_are_counted(files):
    train = [("A good  film", "yes"), ("bad", "no"), ("other", "no"), ("other", "no"), ("Bad", "no")]
    test = [("a good film", "yes"), ("a GOOD film", "yes"), ("bad", "no"), ("new", "no")]
    parts = files(train, [("BAD", "no"), ("new", "yes")], test)
    assert repeated(*parts) == {"dev in train": 1, "test in train": 3, "test in dev": 2}
    assert repeated(*files(train, None, [("fresh", "no")])) == {}
    pairs, header = [("a", "b", "x"), ("c", "d", "y")], ("text", "text_pair", "label")
    parts = files(pairs, None, [("A", "b", "x"), ("b", "a", "x")], ("a.tsv", "b.tsv", "c.tsv"), header)
    assert repeated(*parts) == {"test in train": 1}


def test_a_file_alone_is_read_with_the_classes_of_a_model(tmp_path):
    path = write(tmp_path / "test.tsv", [("a", "no"), ("b", "no")])
    assert load_whole(path, ["no", "yes"], "the model").labels.tolist() == [0, 0]
    with pytest.raises(ValueError, match="row 2 of .*'no', which the model lacks: its classes are bad, good;"):
        load_whole(path, ["bad", "good"], "the model")


@pytest.mark.parametrize(
    ("line", "received"),
    [
        ("{", "row 2 of .* is not JSON"),
        ("[" * 100_000, "row 2 of .* is not JSON"),
        ('["a", "b"]', "row 2 of .* is not an object"),
        ('{"text": 5, "label": "a"}', "row 2 of .* has the text 5; expected a text"),
        ('{"text": "x", "label": 1.5}', "row 2 of .* has the label 1.5; expected a text or an integer"),
        ('{"text": "x", "label": true}', "row 2 of .* has the label True"),
        ('{"text": "x", "label": null}', "row 2 of .* has the label None"),
        ('{"text": "x"}', "row 2 of .* has an empty label"),
        ('{"label": "a"}', "row 2 of .* has an empty text"),
        ('{"text": " ", "label": "a"}', "row 2 of .* has an empty text"),
    ],
)
def test_lines_of_json_that_cannot_be_used_are_named(line, received, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "first", "label": "b"}\n' + line + "\n")
    with pytest.raises(ValueError, match=received) as error:
        lnp.load_data(path)
    assert "own.jsonl" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_lines_of_json_hold_any_text(tmp_path):
    rows = [(f'row {k} "marked"\twith\na line \u2028 \u00e9', k % 2, k) for k in range(20)]
    parts = lnp.load_data(write(tmp_path / "own.jsonl", rows, ("text", "LABEL", "id")))
    assert sorted(text for part in parts for text in part.inputs) == sorted(text for text, _, _ in rows)
    assert parts[0].classes == ("0", "1")


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ({"dev": "dev.tsv"}, "there is no test"),
        ({"test": "test.tsv", "name": "movie-reviews"}, "the data to train on are 'movie-reviews'"),
        ({"test": "nowhere.tsv"}, "there is no file .*nowhere.tsv"),
        ({"test": "own.txt"}, "own.txt is not named as a table is; expected a .tsv, .csv or .jsonl file"),
        ({"test": "pairs.tsv"}, "train.tsv has single texts, but pairs.tsv has pairs"),
        ({"test": "train.tsv", "name": "pairs.tsv"}, "pairs.tsv has pairs, but train.tsv has single texts"),
        ({"test": "train.tsv", "name": "one.tsv"}, "one.tsv has one class only, 'yes'"),
        ({"test": "half.tsv"}, "half.tsv has no column text in its first row .text_pair, label.*of pairs text,"),
        ({"test": "empty.tsv"}, "row 3 of empty.tsv has an empty text_pair"),
    ],
)
def test_files_that_do_not_go_together_are_named(given, received, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = ("text", "text_pair", "label")
    write(tmp_path / "train.tsv", TRAIN)
    write(tmp_path / "one.tsv", TRAIN[:1])
    write(tmp_path / "pairs.tsv", PAIRS, pairs)
    write(tmp_path / "half.tsv", TRAIN, pairs[1:])
    write(tmp_path / "empty.tsv", [PAIRS[0], ("only one", "", "no")], pairs)
    (tmp_path / "own.txt").write_text("text\tlabel\na\tyes\n")
    with pytest.raises(ValueError, match=received) as error:
        lnp.load_data(**{"name": "train.tsv", **given})
    assert "\n" not in str(error.value)
