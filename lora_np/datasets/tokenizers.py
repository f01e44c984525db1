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
from lora_np.ops.cross_entropy import IGNORED

PREPROCESSOR = "preprocessor_config.json"
PROCESSORS = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor")
KINDS = ("image_processor_type", "feature_extractor_type")
NEUTRAL = ("resample", "processor_class", "input_data_format", "default_to_square")  # change no image of the right size
SWITCHES = {"do_resize": True, "do_rescale": True, "do_normalize": True}
DEFAULTS = {**SWITCHES, "size": 224, "rescale_factor": 1 / 255, "image_mean": 0.5, "image_std": 0.5}
NEEDED = {  # in config.json, by what a model reads; those of them that its architecture has
    "images": ("image_size", "patch_size", "num_channels"),
    "texts": ("vocab_size", "max_position_embeddings", "type_vocab_size"),
}
MAX_LENGTH = 128
AT_ONCE = 512  # texts: the library's result holds 5 kB of each, of which the ids are a twentieth


class TextTokenizer:
    """Turns texts into the ids that a BERT reads: [CLS], the pieces of the words, [SEP]; for a pair, two texts.

    Where [SEP] and the types of a pair stand, the file says: RoBERTa has two between the texts, and no types.

    What the file says of padding and truncation is switched off: batches here have no padding, and truncation is
    counted. Nothing changes after it is made, so threads can share one.
    """

    def __init__(self, tokenizer, config, path):
        self.tokenizer, self.path = tokenizer, path
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        vocabulary, kind = config.get("vocab_size"), architectures.of(config)
        self.longest = config.get("max_position_embeddings") - kind.first_position(config)
        self.typed = "type_vocab_size" in kind.needed and config["type_vocab_size"] > 1  # else it tells none apart
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

    def __call__(self, texts, pairs=None, max_length=None):
        """Return the tokens of each text, or of each text with its pair, at most `max_length` of them.

        Parameters
        ----------
        texts : sequence of str
        pairs : sequence of str, optional
            The second text of each row, where a model reads two: a question and its answer, say.
        max_length : int, optional
            With [CLS] and [SEP]. If it is not given, as many as the model of this folder was trained with, if its
            config.json says so (max_seq_length); else 128, or as many as the model has positions if these are fewer.
            What is too long loses its end, but no [SEP]; of two texts the longer one does, until they are of one
            length, then both in turn ("longest_first").

        Returns
        -------
        list of integer arrays
            One a row, for `Batch.of`: ids (T,); or (T, 2), each token's id and its type, of pairs for a model that
            has types.

        Raises
        ------
        ValueError
            If a text is empty (the sentence names its row, from 1), there is not one pair a text, or the model cannot
            read so many ids.
        """
        return self.counted(texts, pairs, max_length)[0]

    def truncated(self, texts, pairs=None, max_length=None):
        """Return how many of the rows lose an end."""
        return self.counted(texts, pairs, max_length)[1]

    def counted(self, texts, pairs=None, max_length=None):
        """Return the tokens of each row, and how many rows lose an end: both from one reading."""
        max_length = self.checked(max_length, pairs is not None)
        found, cut = [], 0
        for encoding in self.read(texts, pairs):
            tokens = np.array(encoding.ids, np.intp)
            if pairs is not None and self.typed:
                tokens = np.stack([tokens, np.array(encoding.type_ids, np.intp)], axis=1)
            if len(tokens) > max_length:
                tokens, cut = tokens[kept(encoding.sequence_ids, max_length)], cut + 1
            found.append(tokens)
        return found, cut

    def read(self, texts, pairs=None):
        """Yield what the library says of each row, whole."""
        if is_whole(pairs):  # whoever means a length
            raise ValueError(f"pairs: expected a list of texts, but got {pairs}; write max_length={pairs}.")
        columns = [readable(texts)] + ([] if pairs is None else [readable(pairs, "pairs: ")])
        if len({*map(len, columns)}) > 1:
            raise ValueError(
                f"there are {len(columns[0])} texts and {len(columns[1])} pairs; give two lists of one length."
            )
        if pairs is not None and self.tokenizer.num_special_tokens_to_add(True) <= self.special:
            raise ValueError(
                f"{self.path} puts nothing between the two texts of a pair; the post_processor of a model that reads"
                " pairs has a template for them, as transformers writes it."
            )
        rows = columns[0] if pairs is None else list(zip(*columns))
        for start in range(0, len(rows), AT_ONCE):
            for k, encoding in enumerate(self.tokenizer.encode_batch(rows[start : start + AT_ONCE]), start + 1):
                full = [True] if len(encoding) > self.special else [False]
                if pairs is not None:
                    full = [number in encoding.sequence_ids for number in (0, 1)]
                if not all(full):
                    raise ValueError(
                        f"{('', 'the pair of ')[full.index(False)]}row {k} of {len(rows)} is empty, or holds nothing"
                        " that the tokenizer reads; write a text there or leave it out."
                    )
                yield encoding

    def words(self, rows, max_length=None):
        """Return the tokens of each row of words, and which of them stand for a word: its first piece does.

        Parameters
        ----------
        rows : sequence of sequences of str
            Texts that are cut into words already, each of which has a label.
        max_length : int, optional
            As in a call: a row that is too long loses its last words.

        Returns
        -------
        tokens : list of integer arrays (T,)
        words : list of integer arrays (T,)
            At the first piece of a word its number in the row, 0, 1, ...; -1 at its others, [CLS] and [SEP]. See
            `labels_of_tokens` and `labels_of_words`.

        Raises
        ------
        ValueError
            If a row has no words, one of them is empty, or the tokenizer reads a word in a text in another way than
            one that stands alone: then it needs `add_prefix_space`.
        """
        max_length, rows = self.checked(max_length), list(rows)
        whole = [readable(row, f"row {k} of {len(rows)}: ", "word") for k, row in enumerate(rows, 1)]
        if self.tokenizer.encode(["a", "a"], is_pretokenized=True).ids != self.tokenizer.encode("a a").ids:
            raise ValueError(
                f"{self.path} reads a word that stands alone in another way than in a text; write the file anew with"
                " add_prefix_space=True, as transformers asks for with words."
            )
        tokens, words = [], []
        for start in range(0, len(whole), AT_ONCE):
            part = whole[start : start + AT_ONCE]
            for k, encoding in enumerate(self.tokenizer.encode_batch(part, is_pretokenized=True), start):
                owner = np.array([-1 if word is None else word for word in encoding.word_ids])
                if gone := set(range(max(1, len(whole[k])))) - set(owner.tolist()):
                    raise ValueError(
                        f"word {min(gone) + 1} of row {k + 1} is not there, or holds nothing that the tokenizer reads;"
                        " leave it out."
                    )
                stays = kept(encoding.sequence_ids, max_length)
                first = np.append(True, owner[1:] != owner[:-1])
                tokens.append(np.array(encoding.ids, np.intp)[stays])
                words.append(np.where(first, owner, -1)[stays])
        return tokens, words

    def checked(self, max_length, pairs=False):
        if max_length is None:
            return self.usual
        if not self.fits(max_length, pairs):
            raise ValueError(
                f"max_length must be an integer between {self.least(pairs)} and {self.longest}, the positions that the"
                f" model has, but it is {max_length!r}."
            )
        return int(max_length)

    def least(self, pairs=False):
        """Return the length at which one token of each text is left, beside [CLS] and [SEP]."""
        return self.tokenizer.num_special_tokens_to_add(pairs) + 1 + pairs

    def fits(self, length, pairs=False):
        """Return whether the model reads that many tokens, [CLS] and [SEP] among them."""
        return isinstance(length, (int, np.integer)) and self.least(pairs) <= length <= self.longest


def labels_of_tokens(labels, words):
    """Return an array of labels for the tokens of each row: a word's at its first piece, -100 elsewhere.

    Parameters
    ----------
    labels : sequence of integer arrays
        Of each row, one a word.
    words : list of integer arrays
        From the tokenizer's `words`.
    """
    return [np.where(places < 0, IGNORED, np.asarray(row)[places]) for row, places in zip(labels, words, strict=True)]


def labels_of_words(answers, words):
    """Return what was said of the words of each row, out of what was said of its tokens; words cut off are left out."""
    return [np.asarray(row)[places >= 0] for row, places in zip(answers, words, strict=True)]


def readable(texts, what="", each="row"):
    """Return a list of texts; raise if one of them is none, by its number. `what` they are begins the sentence."""
    if isinstance(texts, str) or not hasattr(texts, "__iter__"):
        raise ValueError(f"{what}expected a list of texts, but got {texts!r:.60}; put texts into a list.")
    texts = list(texts)
    for k, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise ValueError(f"{what}{each} {k} of {len(texts)} is of type {type(text).__name__}; expected a text.")
        if re.search(r"[\ud800-\udfff]", text):
            raise ValueError(f"{what}{each} {k} of {len(texts)} was not read as UTF-8: it holds half a character.")
    return texts


def kept(owners, length):
    """Return which tokens of a row stay, a boolean array, so that `length` are left: all special ones, whose owner is
    None, and the beginnings of its texts, 0 and 1. The longer text loses its end first, as in transformers'
    "longest_first"."""
    owners = np.array([-1 if owner is None else owner for owner in owners])
    sizes, left = [int((owners == text).sum()) for text in (0, 1)], length - int((owners < 0).sum())
    shorter = min(*sizes, left // 2)
    stays = owners < 0
    for text, size in zip((0, 1), (left - shorter, shorter) if sizes[0] > sizes[1] else (shorter, left - shorter)):
        stays[np.flatnonzero(owners == text)[:size]] = True
    return stays


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
        `pairs=None`, `max_length` (128) -> a list of arrays of ids (of pairs: ids and types); its method `truncated`
        counts the texts that are too long.

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
    kind = architectures.of(config, source)
    if kind.reads not in NEEDED:
        raise ValueError(
            f"{source} is a model of type {config['model_type']!r}, which has no tokenizer here; give token ids to"
            " Batch.of yourself."
        )
    needed = {name: config.get(name) for name in NEEDED[kind.reads] if name in kind.needed}
    check_fields(needed, dict.fromkeys(needed, (is_whole, "an integer above zero")), folder / "config.json")
    if kind.reads == "texts":
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
