"""What turns raw inputs into tokens: texts into ids, by the tokenizer.json of a model folder, images into patches."""

import math
import os
import re
from pathlib import Path

import numpy as np

from lora_np.files import check_fields, existing, is_number, is_whole, package, read_json, write_bytes
from lora_np.formats.e5s1 import packed_file, packed_tokenizer, read_packed
from lora_np.formats.pretrained import model_folder
from lora_np.model import architectures
from lora_np.ops import patches_forward

PREPROCESSOR = "preprocessor_config.json"
PROCESSORS = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor")
KINDS = ("image_processor_type", "feature_extractor_type")
NEUTRAL = ("resample", "processor_class", "input_data_format", "default_to_square")  # change no image of the right size
SWITCHES = {"do_resize": True, "do_rescale": True, "do_normalize": True}
DEFAULTS = {**SWITCHES, "size": 224, "rescale_factor": 1 / 255, "image_mean": 0.5, "image_std": 0.5}
NEEDED = {  # in config.json, by what a model reads
    "images": ("image_size", "patch_size", "num_channels"),
    "texts": ("vocab_size", "max_position_embeddings"),
}
MAX_LENGTH = 128
AT_ONCE = 512  # texts: the library's result holds 5 kB of each, of which the ids are a twentieth


class TextTokenizer:
    """Turns texts into the ids that a BERT reads: [CLS], the pieces of the words, [SEP].

    What the file says of padding and truncation is switched off: batches here have no padding, and truncation is
    counted. Nothing changes after it is made, so threads can share one.
    """

    def __init__(self, tokenizer, config, path):
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        vocabulary = config.get("vocab_size")
        self.longest = config.get("max_position_embeddings") - architectures.of(config).first_position(config)
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        if not ids or max(ids) >= vocabulary:
            raise ValueError(
                f"{path} does not fit its model: its ids go up to {max(ids, default='none')}, but the model has"
                f" {vocabulary} tokens (0 to {vocabulary - 1}); take the tokenizer that belongs to the model."
            )
        self.special = self.tokenizer.num_special_tokens_to_add(False)
        if self.special != 2:
            raise ValueError(
                f"{path} does not fit its model: it puts {self.special} special tokens around a text, but such a model"
                " reads two, as [CLS] and [SEP]; take the tokenizer that belongs to the model."
            )
        self.trained = config.get("max_seq_length")
        if self.trained is not None and not self.fits(self.trained):
            raise ValueError(
                f"{path.with_name('config.json')} has max_seq_length = {self.trained!r}, the tokens of a text that the"
                f" model was trained with; expected an integer between {self.special + 1} and {self.longest}."
            )
        self.usual = min(MAX_LENGTH, self.longest) if self.trained is None else self.trained

    @classmethod
    def of_folder(cls, folder, config):
        path = existing(Path(folder) / "tokenizer.json")
        Tokenizer = package("tokenizers", "a model that reads texts").Tokenizer
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"{path} cannot be read ({error}); it is damaged or not a tokenizer.") from error
        return cls(tokenizer, config, path)

    def __call__(self, texts, max_length=None):
        """Return the ids of each text, at most `max_length` of them; a longer text loses its end, but not its [SEP].

        Parameters
        ----------
        texts : sequence of str
        max_length : int, optional
            With [CLS] and [SEP]. If it is not given, as many as the model of this folder was trained with, if its
            config.json says so (max_seq_length); else 128, or as many as the model has positions if these are fewer.

        Returns
        -------
        list of integer arrays

        Raises
        ------
        ValueError
            If a text is empty (the sentence names its row, from 1), or the model cannot read so many ids.
        """
        return self.counted(texts, max_length)[0]

    def truncated(self, texts, max_length=None):
        """Return how many of the texts lose their end."""
        return self.counted(texts, max_length)[1]

    def counted(self, texts, max_length=None):
        """Return the ids of each text, and how many texts lose their end: both from one reading."""
        max_length = self.checked(max_length)
        whole = self.whole(texts)
        cut = (ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]] for ids in whole)
        return [np.array(ids, np.intp) for ids in cut], sum(len(ids) > max_length for ids in whole)

    def whole(self, texts):
        """Return all ids of each text, as lists."""
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, but got one text; put it into a list.")
        if not np.iterable(texts):
            raise ValueError(f"expected a list of texts, but got {texts!r:.60}.")
        texts = list(texts)
        for k, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise ValueError(f"row {k} of {len(texts)} is of type {type(text).__name__}; expected a text.")
            if re.search(r"[\ud800-\udfff]", text):
                raise ValueError(f"row {k} of {len(texts)} was not read as UTF-8: it holds half a character.")
        some = (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
        found = [encoding.ids for part in some for encoding in self.tokenizer.encode_batch(part)]
        for k, ids in enumerate(found, 1):
            if len(ids) <= self.special:
                raise ValueError(
                    f"row {k} of {len(texts)} is empty, or holds nothing that the tokenizer reads; write a text there"
                    " or leave it out."
                )
        return found

    def checked(self, max_length):
        if max_length is None:
            return self.usual
        if not self.fits(max_length):
            raise ValueError(
                f"max_length must be an integer between {self.special + 1} and {self.longest}, the positions that the"
                f" model has, but it is {max_length!r}."
            )
        return int(max_length)

    def fits(self, length):
        """Return whether the model reads that many tokens, of which two are [CLS] and [SEP]."""
        return isinstance(length, (int, np.integer)) and self.special < length <= self.longest


def copy_tokenizer(source, folder):
    """Copy what turns raw inputs into tokens, if the model has it in files, beside a model that was made from it."""
    if packed := packed_file(model_folder(source)):
        tokenizer = packed_tokenizer(read_packed(packed))
        return write_bytes(Path(folder) / "tokenizer.json", tokenizer.to_str().encode())
    for name in ("tokenizer.json", PREPROCESSOR):
        path = model_folder(source) / name
        if path.exists():
            write_bytes(Path(folder) / name, path.read_bytes())


def load_tokenizer(source: str | os.PathLike) -> "TextTokenizer | PatchTokenizer":
    """Return the function that turns a model's raw inputs into the sequences of a batch.

    Parameters
    ----------
    source : str or path
        As for `load_pretrained`. An image model's tokens are its patches.

    Returns
    -------
    callable
        Of a ViT: images (n, H, W) or (n, H, W, C) with values in 0..1 -> patches (n, T, P), normalised as the folder's
        preprocessor_config.json says, if there is one. Of a BERT: texts and
        `max_length` (128) -> a list of arrays of ids; its method `truncated` counts the texts that are too long.

    Raises
    ------
    ValueError
        If the model reads neither, or its tokenizer is missing, damaged or another model's.
    """
    folder = model_folder(source)
    if path := packed_file(folder):
        packed = read_packed(path)
        return TextTokenizer(packed_tokenizer(packed), packed.config, path)
    config = read_json(folder / "config.json")
    reads = architectures.of(config, source).reads
    if reads not in NEEDED:
        raise ValueError(
            f"{source} is a model of type {config['model_type']!r}, which has no tokenizer here; give token ids to"
            " Batch.of yourself."
        )
    needed = {name: config.get(name) for name in NEEDED[reads]}
    check_fields(needed, dict.fromkeys(needed, (is_whole, "an integer above zero")), folder / "config.json")
    if reads == "texts":
        return TextTokenizer.of_folder(folder, config)
    return PatchTokenizer(*needed.values(), *normalisation(folder, *needed.values()))


class PatchTokenizer:
    """Cuts images into patches, the tokens of a vision transformer.

    Each channel is taken less its mean and divided by its deviation first, where they are given.
    """

    def __init__(self, image_size, patch_size, channels, mean=None, std=None):
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.mean, self.std = mean, std

    def __call__(self, images):
        images = np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[1:] != expected or images.dtype.kind != "f" or not np.isfinite(images).all():
            raise ValueError(
                f"expected finite float images of shape (n, {expected[0]}, {expected[1]}) with {expected[2]}"
                f" channel(s), but got {images.shape}, {images.dtype}; resize and cut them before."
            )
        if images.size and not 0.0 <= images.min() <= images.max() <= 1.0:
            raise ValueError(
                f"expected images with values in 0..1, but they run from {images.min():g} to {images.max():g}; divide"
                " by the greatest value that a pixel can have, such as 255."
            )
        if self.mean is not None:
            images = (images - np.array(self.mean, images.dtype)) / np.array(self.std, images.dtype)
        return patches_forward(images, self.patch_size)[0]


def normalisation(folder, side, _, channels):
    """Return the mean and the deviation of each channel by which a folder's images are normalised, or (None, None).

    The file is that of transformers' ViTImageProcessor, its defaults are ours. It rescales numbers in 0..255 to 0..1,
    where images here begin; it resizes images, which is left to those who have them. Whatever else it asks for is
    refused by a ValueError.
    """
    path = Path(folder) / PREPROCESSOR
    if not path.exists():
        return None, None
    given = {**DEFAULTS, **{name: value for name, value in read_json(path).items() if value is not None}}

    def is_size(value):
        right = value in (side, {"height": side, "width": side})
        return not isinstance(value, bool) and (right or not given["do_resize"])

    def is_factor(value):
        return not given["do_rescale"] or (is_number(value) and math.isclose(value, 1 / 255, rel_tol=1e-6))

    def numbers(least):
        def fits(value):
            each = of_each(value, channels)
            right = len(each) == channels and all(is_number(x) and least <= x <= 1.0 for x in each)
            return right or not given["do_normalize"]

        return fits, f"{channels} number(s) from {least:g} to 1, as images have values in 0..1,"

    expected = {
        **dict.fromkeys(KINDS, (lambda value: value in PROCESSORS, " or ".join(PROCESSORS))),
        **dict.fromkeys(SWITCHES, (lambda value: isinstance(value, bool), "true or false")),
        "size": (is_size, f"the {side} x {side} of config.json"),
        "rescale_factor": (is_factor, "1/255"),
        "image_mean": numbers(0.0),
        "image_std": numbers(1e-6),
        **dict.fromkeys(NEUTRAL, (lambda value: True, "anything")),
    }
    other = (lambda value: value is False, "a setting of ViTImageProcessor")
    way_out = " is read here. Prepare the images as it says, give them to Batch.of as patches, and take the file away."
    check_fields(given, {**dict.fromkeys(given, other), **expected}, path, "only {}" + way_out)
    if not given["do_normalize"]:
        return None, None
    return tuple(of_each(given[name], channels) for name in ("image_mean", "image_std"))


def of_each(value, channels):
    return value if isinstance(value, list) else [value] * channels
