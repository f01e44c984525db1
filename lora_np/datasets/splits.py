"""A part of a dataset, and how one is cut into parts."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

SPLIT_SEED = 20140601  # of texts; not a run's seed: every run sees the same data
SPLIT, SHIFT = 0, 1  # what is drawn: the second number of a generator's seed


@dataclass(frozen=True)
class Dataset:
    inputs: np.ndarray  # images (n, H, W) in 0..1, or texts (n,), Python strings, or pairs of them (n,), tuples
    labels: np.ndarray  # (n,) integers
    classes: tuple  # names by label

    def __len__(self):
        return len(self.labels)


def text_datasets(texts, labels, classes, parts):
    """Return a Dataset for each part: the rows of texts that it has."""
    inputs = np.array([*texts, None], object)[:-1]  # of Python strings, or tuples of two, as they are
    return tuple(Dataset(inputs[rows], labels[rows], classes) for rows in parts)


def same_text(text):
    """Return what two texts share, or two pairs of texts, that differ in case and white space only."""
    return " ".join(text.split()).casefold() if isinstance(text, str) else tuple(map(same_text, text))


def repeated(train, dev, test):
    """Return how many rows of dev and of test hold a text that stands in train, and of test one that stands in dev;
    without those of which there is none."""
    parts = {"train": train, "dev": dev, "test": test}
    texts = {name: [same_text(text) for text in part.inputs] for name, part in parts.items()}
    known = {name: set(found) for name, found in texts.items()}
    found = {
        f"{one} in {other}": sum(text in known[other] for text in texts[one])
        for one, other in (("dev", "train"), ("test", "train"), ("test", "dev"))
    }
    return {what: count for what, count in found.items() if count}


def columns(inputs):
    """Return the texts of a dataset, and those beside them if they are pairs, or None: what a tokenizer takes."""
    paired = len(inputs) and isinstance(inputs[0], tuple)
    return tuple(map(list, zip(*inputs))) if paired else (list(inputs), None)


def content_hash(parts):
    """Return the SHA-256 of all that some datasets hold: inputs, labels and classes, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps([part.classes, part.labels.tolist(), part.inputs.shape]).encode())
        texts = part.inputs.dtype == object
        digest.update(json.dumps(part.inputs.tolist()).encode() if texts else part.inputs.astype("<f4").tobytes())
    return digest.hexdigest()


def split(labels, sizes, seed, documents=None):
    """Return the row numbers of each part, ascending, every class in its share of the whole (stratified).

    `labels` are n integers, `sizes` the rows of each part, n together; the seed is not a run's: every run sees the same
    parts. Rows of one of the n `documents` come into one part, which comes as near to its size as they allow; a
    document counts to the class that most of its rows have. Without them each row stands for itself.
    """
    labels = np.asarray(labels)
    number = {}  # of a document
    documents = range(len(labels)) if documents is None else documents
    own = np.array([number.setdefault(document, len(number)) for document in documents])
    weight = np.bincount(own)
    counts = np.zeros((len(weight), labels.max() + 1), np.intp)
    np.add.at(counts, (own, labels), 1)
    classes = counts.argmax(axis=1)
    rng = np.random.default_rng([seed, SPLIT])
    shuffled = rng.permutation(len(weight))
    # Rank each document within its class, as a share of the class: cutting the order of these shares cuts every class
    # alike.
    share = np.empty(len(weight))
    for label in np.unique(classes):
        mine = shuffled[classes[shuffled] == label]
        before = np.cumsum(weight[mine]) - weight[mine]
        share[mine] = (before + rng.random()) / weight[mine].sum()
    order = np.argsort(share, kind="stable")
    middle = np.cumsum(weight[order]) - weight[order] / 2
    part = np.empty(len(weight), np.intp)
    part[order] = np.searchsorted(np.cumsum(sizes)[:-1], middle)
    return [np.flatnonzero(part[own] == k) for k in range(len(sizes))]
