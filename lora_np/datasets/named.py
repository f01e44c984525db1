"""Every dataset by its name, or by its file."""

import os

from lora_np.datasets.digits import DOMAINS, load_digits
from lora_np.datasets.reviews import REVIEWS, load_reviews
from lora_np.datasets.splits import Dataset
from lora_np.datasets.tables import FILES, is_table, load_table, load_tables


def load_data(
    name: str | os.PathLike = "digits", dev: str | os.PathLike | None = None, test: str | os.PathLike | None = None
) -> tuple[Dataset, Dataset, Dataset]:
    """Return train, dev and test.

    Parameters
    ----------
    name : str or path
        Images, embedded: "digits" as scanned; "digits-rotated", turned by 90 degrees; "digits-inverted", ink and paper
        exchanged; "digits-mixed": each image of dev and test turned by its own random multiple of 90 degrees and a
        random half of them inverted, each image of train in all eight ways.
        Sentences rated by people, fetched once: "movie-reviews", "amazon-reviews", "tweets", "editorials", and
        "chinese-reviews", which are Chinese; their classes are negative and positive.
        Your own texts: a .tsv, .csv or .jsonl file in UTF-8 with the columns text and label; of pairs of texts with
        text, text_pair (or sentence1, sentence2) and label.
    dev, test : path, optional
        Files of your own, too; then `name` is the file to train on, and no file is split. Without dev that part is
        empty.

    Returns
    -------
    tuple of three Dataset
        Each with every class in its share; the same rows in every run. Digits: 1,000 images (mixed: 8,000), 300 and
        497. Movie reviews: 9,005 sentences, 561 and 1,000; Chinese reviews: 15,861, 500 and 1,000; one file: 80, 10
        and 10 % of its rows. They stand in the order of their source, which may be sorted by class: draw a subset at
        random, do not cut it off.

    Raises
    ------
    ValueError
        If there is no such dataset, it cannot be fetched, or a file cannot be used (the sentence names the row).
    """
    if not (dev is None and test is None):
        if test is None or not is_table(name):
            what = "there is no test" if test is None else f"the data to train on are {name!r:.60}"
            raise ValueError(f"dev and test go with a {FILES} file to train on and one to test on, but {what}.")
        return load_tables(name, dev, test)
    if isinstance(name, str) and name in DOMAINS:
        return load_digits(name)
    if isinstance(name, str) and name in REVIEWS:
        return load_reviews(name)
    if is_table(name):
        return load_table(name)
    shown = repr(str(name)) if isinstance(name, (str, os.PathLike)) else f"{name!r:.60}"
    raise ValueError(
        f"there are no data named {shown}; expected one of {', '.join((*DOMAINS, *REVIEWS))}, or a {FILES}"
        " file with the columns text and label."
    )
