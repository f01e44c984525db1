"""Datasets of texts: nothing leaks from train into test, and a table that cannot be used says which row is to blame."""

import csv

import numpy as np
import pytest

import lora_np as lnp
from lora_np import fetch
from lora_np.datasets import reviews, splits, tables
from lora_np.datasets.splits import Dataset, content_hash, split


def test_a_split_is_a_partition_of_exact_sizes_and_every_class_in_its_share():
    labels = np.random.default_rng(0).choice(3, 1000, p=[0.6, 0.3, 0.1])
    parts = split(labels, (700, 100, 200), 5)
    assert [len(part) for part in parts] == [700, 100, 200]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    for part in parts:
        share = np.bincount(labels[part], minlength=3) / len(part)
        assert np.abs(share - np.bincount(labels) / 1000).max() < 0.011
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(labels, (700, 100, 200), 5)))
    assert not np.array_equal(parts[2], split(labels, (700, 100, 200), 6)[2])


def test_a_split_keeps_documents_whole():
    rng = np.random.default_rng(1)
    documents = [f"d{k}" for k in rng.integers(0, 150, 2000)]
    labels = rng.integers(0, 2, 2000)
    parts = split(labels, (1600, 200, 200), 5, documents)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(2000))
    held = [{documents[row] for row in part} for part in parts]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    assert [abs(len(part) - size) <= 20 for part, size in zip(parts, (1600, 200, 200))] == [True] * 3
    single = split(labels, (1600, 200, 200), 5, range(2000))
    assert all(np.array_equal(a, b) for a, b in zip(single, split(labels, (1600, 200, 200), 5)))


@pytest.fixture
def domain(tmp_path, monkeypatch):
    """Return a function that puts rows in the place of a domain and loads it."""

    def load(name, rows):
        path = tmp_path / name
        path.write_bytes("".join(f"{id_}\t{rating}\t{words}\r\n" for id_, rating, words in rows).encode())
        monkeypatch.setattr(reviews, "fetch_sentences", lambda: {name: path})
        monkeypatch.setitem(reviews.SIZES, name, (20, 40))
        return reviews.load_reviews(name)

    return load


def everything(parts):
    return {words: int(label) for part in parts for words, label in zip(part.inputs, part.labels)}


def test_ratings_become_labels_and_what_teaches_nothing_is_dropped(domain):
    rows = [(k, (-1) ** k * 1.5, f"sentence {k} \u2028\x85 \u00e9") for k in range(200)]
    rows += [(300, "0.0", "rated zero"), (301, "-0.0", "rated minus zero"), (302, "0.05", "barely good")]
    rows += [(400, 1, "Twice the same."), (401, 2, "twice  the SAME."), (402, 1, "disputed"), (403, -1, "Disputed")]
    rows += [(404, 0, "zero, then good"), (405, 1, "zero, then good"), (406, 1, 'a "quoted" one\twith a tab')]
    parts = domain("movie-reviews", rows)
    found = everything(parts)
    assert sum(map(len, parts)) == len(found) == 204 and [len(part) for part in parts[1:]] == [20, 40]
    assert found["barely good"] == 1 and found["sentence 3 \u2028\x85 \u00e9"] == 0 and found["zero, then good"] == 1
    assert found["Twice the same."] == 1 and "twice  the SAME." not in found
    assert not {"rated zero", "rated minus zero", "disputed", "Disputed"} & found.keys()
    assert 'a "quoted" one\twith a tab' in found
    assert parts[0].classes == ("negative", "positive")
    assert type(parts[0].inputs[0]) is str and parts[0].inputs[:3].shape == (3,)


@pytest.mark.parametrize("name", ["amazon-reviews", "editorials"])
def test_documents_lie_on_one_side(name, domain):
    rows = [(f"{k // 6}_{k % 6}", 1 if k % 5 < 3 else -1, f"{k // 6}: sentence {k}") for k in range(600)]
    sides = [{words.split(":")[0] for words in part.inputs} for part in domain(name, rows)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_unknown_data_are_named():
    with pytest.raises(ValueError, match="'moovie-reviews'.*movie-reviews.*\\.csv"):
        lnp.load_data("moovie-reviews")
    for wrong in (None, 3, ["tweets"], {}, b"tweets", np.zeros(2)):
        with pytest.raises(ValueError, match="there are no data named .*; expected one of digits"):
            lnp.load_data(wrong)
    with pytest.raises(ValueError, match="no reviews named 'x'"):
        reviews.load_reviews("x")


FIGURES = {  # rows of the file, of train, dev and test, and of the positive among all
    "movie-reviews": (10605, (9005, 561, 1000), 5241),
    "amazon-reviews": (3708, (3000, 191, 409), 2120),
    "tweets": (4200, (3536, 200, 400), 2867),
    "editorials": (5190, (4133, 240, 505), 2178),
}


@pytest.mark.download
@pytest.mark.parametrize("name", FIGURES)
def test_the_real_domains(name):
    try:
        path = fetch.fetch_sentences()[name]
    except (ValueError, OSError) as error:
        pytest.skip(str(error))
    rows, *expected = FIGURES[name]
    lines = tables.read_text(path).split("\n")
    assert len(lines) == rows and not any("\ufffd" in line for line in lines)
    is_as_expected(name, *expected)


def is_as_expected(name, sizes, positive):
    """A partition without repeats, each class in its share, the same again."""
    parts = lnp.load_data(name)
    assert tuple(map(len, parts)) == sizes
    assert sum(part.labels.sum() for part in parts) == positive
    shares = [part.labels.mean() for part in parts]
    assert np.ptp(shares) < (0.06 if name in reviews.BY_DOCUMENT else 0.003)
    sides = [{splits.same_text(words) for words in part.inputs} for part in parts]
    assert sum(map(len, sides)) == len(set.union(*sides)) == sum(sizes)
    again = lnp.load_data(name)
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip(parts, again))


def test_chinese_reviews_are_distinct_and_on_one_side(tmp_path, monkeypatch):
    texts = {"negative": [f"差 {k}" for k in range(120)], "positive": [f"好 {k}" for k in range(100)]}
    both, repeated = ["都有", "Both  lines", "x"], {"negative": ["差  7", "差 8"], "positive": ["\u3000好 5 "]}
    lines = {name: [*own, *both, *repeated[name], *own[:50], ""] for name, own in texts.items()}
    lines["positive"][101] = "BOTH LINES"
    lines["negative"][3] = "\u3000差 3 "
    for name, rows in lines.items():
        (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.setattr(reviews, "fetch_chinese", lambda: {name: tmp_path / name for name in lines})
    monkeypatch.setitem(reviews.SIZES, "chinese-reviews", (20, 40))
    parts = lnp.load_data("chinese-reviews")
    assert list(map(len, parts)) == [160, 20, 40]
    assert everything(parts) == {text: k for k, name in enumerate(texts) for text in texts[name]}
    assert [part.labels.sum() for part in parts] == [73, 9, 18] and parts[0].classes == ("negative", "positive")


@pytest.mark.download
def test_the_real_chinese_reviews():
    try:
        paths = fetch.fetch_chinese()
    except (ValueError, OSError) as error:
        pytest.skip(str(error))
    found = [{line.strip() for line in tables.read_text(paths[name]).split("\n")} - {""} for name in reviews.CLASSES]
    footer = "免费注册 网站导航 宾馆索引 服务说明 关于携程 诚聘英才 代理合作 广告业务 联系我们"
    assert [*map(len, found), len(found[0] & found[1])] == [9078, 8379, 47] and footer in found[0] & found[1]
    is_as_expected("chinese-reviews", (15861, 500, 1000), 8330)


def table(path, rows, header=("text", "label")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


ROWS = [(f'row {k}, with a comma, a "mark" and\nanother line \u00e9', "abc"[k % 3]) for k in range(60)]


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "OWN.CSV"])
@pytest.mark.parametrize("as_text", [str, lambda path: path])
def test_a_table_of_ones_own(name, as_text, tmp_path):
    mine = [(words.replace("\n", " "), label) for words, label in ROWS] if name.endswith("tsv") else ROWS
    rows = [(k, *row) for k, row in enumerate(mine)]
    parts = lnp.load_data(as_text(table(tmp_path / name, rows, ("number", " Text", "LABEL "))))
    assert [len(part) for part in parts] == [48, 6, 6]
    assert all(part.classes == ("a", "b", "c") for part in parts)
    assert everything(parts) == {words: "abc".index(label) for words, label in mine}
    assert all(len(set(part.labels.tolist())) == 3 for part in parts)


def test_integers_are_ordered_by_value_and_names_by_the_alphabet(tmp_path):
    whole = [(f"row {k}", ["10", "9", "-1", "+9"][k % 4]) for k in range(40)]
    assert lnp.load_data(table(tmp_path / "a.csv", whole))[0].classes == ("-1", "9", "10")
    names = [(f"row {k}", ["10", "9", "1.5"][k % 3]) for k in range(40)]
    assert lnp.load_data(table(tmp_path / "b.csv", names))[0].classes == ("1.5", "10", "9")


def test_a_mark_at_the_start_other_line_ends_and_empty_lines(tmp_path):
    path = tmp_path / "own.csv"
    lines = [f"row {k} \u2028 \x85 end,{k % 2}" for k in range(20)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["text,label", "", *lines, "", ""]).encode())
    parts = lnp.load_data(path)
    assert sum(map(len, parts)) == 20 and "row 3 \u2028 \x85 end" in everything(parts)
    path.write_bytes("\r".join(["text,label", *lines]).encode())
    assert sum(map(len, lnp.load_data(path))) == 20


def test_long_texts_are_read_and_the_csv_module_is_left_as_it_was(tmp_path):
    limit = csv.field_size_limit()
    parts = lnp.load_data(table(tmp_path / "own.csv", [*ROWS, ("x" * 300_000, "a")]))
    assert max(len(words) for part in parts for words in part.inputs) == 300_000
    assert csv.field_size_limit() == limit


def test_copies_of_a_text_lie_on_one_side_and_stay(tmp_path):
    rows = [(f"Row {k % 40}" if k % 2 else f"row  {k % 40}", "ab"[k % 40 // 20]) for k in range(400)]
    parts = lnp.load_data(table(tmp_path / "own.csv", rows))
    assert sum(map(len, parts)) == 400
    sides = [{splits.same_text(words) for words in part.inputs} for part in parts]
    assert sum(map(len, sides)) == 40


LITERAL = [  # as they stand in files of films, of which most begin with no mark
    '"Unforgettable, said nobody',
    '"A masterpiece" is what it is not',
    'an end without a beginning"',
    '"whole"',
    "'single'",
    'in the "middle"',
    "form\x0cfeed \u2028 \x85 stay",
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("names", ["text label", "label text", "id text label"])
def test_marks_of_a_tsv_are_read_as_they_stand(names, first, end, tmp_path):
    """The csv module swallowed the rows from a mark at the start of a cell to one at the end of another."""
    texts = [*LITERAL, *(f"row {k}" for k in range(17))]
    rows = [{"text": words, "label": "ab"[k % 2], "id": str(k)} for k, words in enumerate(texts)]
    lines = ["\t".join(row[name] for name in names.split()) for row in (rows if first else rows[::-1])]
    path = tmp_path / "own.tsv"
    path.write_bytes(("\ufeff" + end.join(["\t".join(names.split()), *lines]) + end * 2).encode())
    assert everything(lnp.load_data(path)) == {row["text"]: "ab".index(row["label"]) for row in rows}


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_as_pandas_writes_it(quoting, tmp_path):
    texts = [
        '"Unforgettable", said "nobody"',
        '"',
        '""',
        '"whole"',
        "none",
        "a, comma",
        *(f"row {k}" for k in range(17)),
    ]
    rows = [(words, "ab"[k % 2]) for k, words in enumerate(texts)]
    with (tmp_path / "own.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows([("text", "label"), *rows])
    assert everything(lnp.load_data(tmp_path / "own.tsv")) == {words: "ab".index(label) for words, label in rows}


MORE = "".join(f"row {k}\t{'ab'[k % 2]}\n" for k in range(20))


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ('"one\nline"\ta\n', "row 22 of .* has 1 cell, .*no tab and no line break"),
        ('"one\tcell"\ta\n', "row 22 of .* has 3 cells, .*no tab and no line break"),
        ('"one\r\nline ""two"" "\ta\n', "row 22 of .* has 1 cell"),
        ('"a ""marked"" one"\ta\n"two\tb\n', "row 23 of .* neither .* but row 22"),
        ('"one\tb\nwords"\ta\n"a ""marked"" one"\ta\n', "row 22 of .* neither .* but row 24"),
        ("one\rtwo\ta\n", "row 22 of .* carriage return inside a cell"),
        ("one\x00\ta\n", "line 22 of .* holds a NUL"),
        ('""\ta\n', "row 22 of .* has an empty text|row 22"),
    ],
)
def test_rows_of_a_tsv_that_might_be_read_in_two_ways_are_named(rows, received, tmp_path):
    path = tmp_path / "own.tsv"
    path.write_bytes(f"text\tlabel\n{MORE}{rows}{MORE}".encode())
    with pytest.raises(ValueError, match=received) as caught:
        lnp.load_data(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        ["text,label", '"A good film,a', "another,b", 'he said",a'],
        ["label,text", 'a,"A good film', 'b,another"'],
        ["id,text,label", '0,"A good film,a', '1,another",b'],
    ],
)
def test_a_csv_that_swallows_rows_is_named(lines, tmp_path):
    names, *rows = lines
    own = [{"text": f"row {k}", "label": "ab"[k % 2], "id": "7"} for k in range(20)]
    more = [",".join(row[name] for name in names.split(",")) for row in own]
    (tmp_path / "own.csv").write_text("\n".join([names, *more, *rows]))
    with pytest.raises(ValueError, match="text of row 22 of .*own.csv begins with a quotation mark"):
        lnp.load_data(tmp_path / "own.csv")


def test_equal_data_have_equal_hashes_and_others_have_others():
    def hashed(texts=("a", "b\n"), labels=(0, 1), classes=("x", "y"), cut=1):
        inputs = np.array(texts, object)
        parts = (slice(cut), slice(cut, None))
        return content_hash([Dataset(inputs[p], np.array(labels)[p], classes) for p in parts])

    assert hashed() == hashed()
    others = [
        hashed(("a", "b")),
        hashed(labels=(1, 0)),
        hashed(classes=("y", "x")),
        hashed(cut=2),
        hashed(("ab", "\n")),
    ]
    assert len({hashed(), *others}) == 6
    images = lnp.load_data("digits")[1]
    moved = Dataset(images.inputs + np.float32(1e-3), images.labels, images.classes)
    assert content_hash([images]) != content_hash([moved])


def good(k):
    return "\n".join(f"row {j},{'ab'[j % 2]}" for j in range(k)).encode()


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"", r"no column text in its first row \(nothing\)"),
        (b"words,label\n" + good(20), r"no column text in its first row \(words, label\)"),
        (b"text,class\n" + good(20), "no column label"),
        (b"text,text,label\n", "2 columns text"),
        (b"text,label\n", "has no rows"),
        (b"text,label\n\n\n", "has no rows"),
        (b"text,label\n" + good(20) + b"\n,a\n", "row 22 of .* has an empty text"),
        (b"text,label\n" + good(20) + b"\n \t ,a\n", "row 22 of .* has an empty text"),
        (b"text,label\n" + good(20) + b"\nwords,\n", "row 22 of .* has an empty label"),
        (b"text,label\n" + good(20) + b"\nwords\n", "row 22 of .* has 1 cell, but its first row has 2"),
        (b"text,label\n" + good(20) + b"\nwords, more,a\n", "row 22 of .* has 3 cells"),
        (b"text,label\n" + good(20) + b'\n"never closed,a\nwords,b\n', "row 22 of .* cannot be read .*doubled"),
        (b"text,label\n" + good(20) + b'\n"a good" film,a\n', "row 22 of .* cannot be read .*doubled"),
        (b"text,label\n" + good(20) + b"\na\0film,a\n", "line 22 of .* holds a NUL"),
        (b"text,label\n" + b"x,a\ny,a\n" * 10, "one class only, 'a'"),
        (b"text,label\n" + good(9), "has 9 rows; at least 10"),
        (b"text,label\n" + good(20) + b"\ncaf\xe9,a\n", "not UTF-8: line 22 holds the byte 0xe9"),
        ("text,label\nwords,a\n".encode("utf-16"), "not UTF-8: line 1 holds the byte 0xff"),
        (b"text,label\n" + b"same,a\n" * 10 + b"same,b\n", "repeats so few texts"),
        (b"text,label\n" + b"\n".join(b"row %d,class %d" % (k, k) for k in range(30)), r"'class \d+' .*\(row \d+\).*"),
    ],
)
def test_tables_that_cannot_be_used_are_named(data, received, tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=received) as caught:
        lnp.load_data(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_that_train_lacks_names_its_row(tmp_path):
    """The row that is named is a row of the class that train lacks."""
    rows = [(f"row {k}", f"class {k}") for k in range(30)]
    with pytest.raises(ValueError, match="train lacks it") as caught:
        lnp.load_data(table(tmp_path / "own.csv", rows))
    words = str(caught.value).split()
    label, row = words[words.index("'class") + 1].strip("'"), words[words.index("(row") + 1].strip(")")
    assert int(row) == int(label) + 2


def test_no_file():
    with pytest.raises(ValueError, match=r"no file nowhere\.csv"):
        lnp.load_data("nowhere.csv")
