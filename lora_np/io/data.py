"""Every dataset by its name, or by its file."""

from lora_np.io.digits import DOMAINS, load_digits


def load_data(name="digits"):
    """Return train, dev and test.

    Parameters
    ----------
    name : str
        Images, embedded: "digits" as scanned; "digits-rotated", turned by 90 degrees; "digits-inverted", ink and paper
        exchanged; "digits-mixed": each image of dev and test turned by its own random multiple of 90 degrees and a
        random half of them inverted, each image of train in all eight ways.

    Returns
    -------
    tuple of three Dataset
        Each with every class in its share; the same rows in every run. Digits: 1,000 images (mixed: 8,000), 300 and
        497.

    Raises
    ------
    ValueError
        If there is no such dataset.
    """
    if name in DOMAINS:
        return load_digits(name)
    raise ValueError(f"there are no data named {name!r}; expected one of {', '.join(DOMAINS)}.")
