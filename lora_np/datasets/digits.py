"""The embedded handwritten digits, and the shifted domains that a model pretrained on them fails on.

Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0; the 1,797 images of its test set, 8 x 8 pixels with values 0 to 16, in the
order in which scikit-learn's `load_digits` has them.
"""

from importlib.resources import files

import numpy as np

from lora_np.datasets.splits import SHIFT, Dataset, split

# Of the split and of each image's shift. It is not a run's seed: every run sees the same data.
SPLIT_SEED = 20211016
SIZES = (1000, 300, 497)  # train, dev, test
# Quarter turns, and whether ink and paper are exchanged. The first three ways are domains of their own.
WAYS = ((0, False), (1, False), (0, True), (1, True), (2, False), (2, True), (3, False), (3, True))
DOMAINS = ("digits", "digits-rotated", "digits-inverted", "digits-mixed")


def load_digits(name):
    """Return train, dev and test of one of the DOMAINS, as `load_data` describes them."""
    with (files("lora_np") / "data" / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        images, labels = stored["images"].astype(np.float32) / 16.0, stored["labels"].astype(np.intp)
    classes = tuple(str(digit) for digit in range(10))
    rng = np.random.default_rng([SPLIT_SEED, SHIFT])
    own = rng.integers(0, len(WAYS), len(images))  # of the eight ways, an image's own
    parts = []
    for k, rows in enumerate(split(labels, SIZES, SPLIT_SEED)):
        if name != "digits-mixed":
            ways = [np.full(len(rows), DOMAINS.index(name))]
        elif k == 0:
            ways = [np.full(len(rows), way) for way in range(len(WAYS))]
        else:
            ways = [own[rows]]
        shown = [shifted(images[rows], way) for way in ways]
        parts.append(Dataset(np.concatenate(shown), np.tile(labels[rows], len(ways)), classes))
    return tuple(parts)


def shifted(images, ways):
    """Return each image (H, W), turned and inverted in its way."""
    result = [np.rot90(image, WAYS[way][0]) for image, way in zip(images, ways)]
    return np.stack([1.0 - image if WAYS[way][1] else image for image, way in zip(result, ways)])
