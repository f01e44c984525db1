"""A tiny BERT with a tokenizer of its own, and a table of texts, for the tests of the commands."""

import json
import shutil

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import lora_np as lnp

GOOD, BAD, REST = ["good", "great", "fine"], ["bad", "poor", "dull"], ["the", "film", "was", "a", "plot", "cast"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *REST]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Return a folder with a model and a table whose label is told by one word."""
    folder = tmp_path_factory.mktemp("texts")
    lnp.save_model(tiny.build("bert", np.float32), folder / "model")
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    rng = np.random.default_rng(0)
    rows = []
    for k in range(240):
        words = [*rng.choice(REST, 3), (GOOD, BAD)[k % 2][k % 3], *rng.choice(REST, k % 3)]
        rows.append(f"{' '.join(rng.permutation(words))}\t{('liked', 'disliked')[k % 2]}")
    (folder / "own.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def parts(place, tmp_path_factory):
    """Return a folder with that table in three: train.tsv, dev.csv, a sixth of whose labels are wrong, so that sure
    answers cost more and more there, and test.jsonl, of whose 40 texts three stand in train, too."""
    folder = tmp_path_factory.mktemp("parts")
    lines = (place / "own.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = list({text: (text, label) for text, label in (line.split("\t") for line in lines)}.values())
    train, dev, test = rows[:80], rows[80:120], [*rows[120:157], *rows[:3]]
    other = {"liked": "disliked", "disliked": "liked"}
    dev = [(text, label if k % 6 else other[label]) for k, (text, label) in enumerate(dev)]
    for name, mark, some in (("train.tsv", "\t", train), ("dev.csv", ",", dev)):
        (folder / name).write_text("\n".join(map(mark.join, [("text", "label"), *some])), encoding="utf-8")
    objects = [json.dumps({"text": text, "label": label}) for text, label in test]
    (folder / "test.jsonl").write_text("\n".join(objects), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def classifier(place, tmp_path_factory):
    """Return the folder of that model with a head that tells two classes apart."""
    folder = tmp_path_factory.mktemp("classifier") / "model"
    head = lnp.with_head(lnp.load_pretrained(place / "model"), 2, "mean", np.random.default_rng(0))
    lnp.save_model(head, folder)
    shutil.copy(place / "model" / "tokenizer.json", folder)
    return folder
