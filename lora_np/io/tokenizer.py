"""Texts as token ids, by the tokenizer.json of a model folder."""

from pathlib import Path

import numpy as np

MAX_LENGTH = 128
AT_ONCE = 512  # texts: the library's result holds 5 kB of each, of which the ids are a twentieth


class TextTokenizer:
    """Turns texts into the ids that a BERT reads: [CLS], the pieces of the words, [SEP].

    What the file says of padding and truncation is switched off: batches here have no padding, and truncation is
    counted. Nothing changes after it is made, so threads can share one.
    """

    def __init__(self, folder, config):
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"there is no file {path}; a model that reads texts needs its tokenizer.")
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f"{path} cannot be read ({error}); it is damaged or not a tokenizer.") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.longest, vocabulary = config.get("max_position_embeddings"), config.get("vocab_size")
        ids = self.tokenizer.get_vocab(with_added_tokens=True).values()
        if not ids or max(ids) >= vocabulary:
            raise ValueError(
                f"{path} does not fit its model: its ids go up to {max(ids, default='none')}, but the model has"
                f" {vocabulary} tokens (0 to {vocabulary - 1}); take the tokenizer that belongs to the model."
            )
        self.special = self.tokenizer.num_special_tokens_to_add(False)
        if self.special != 2:
            raise ValueError(
                f"{path} does not fit its model: it puts {self.special} special tokens around a text, but a BERT reads"
                " two, [CLS] and [SEP]; take the tokenizer that belongs to the model."
            )
        self.trained = config.get("max_seq_length")
        if self.trained is not None and not self.fits(self.trained):
            raise ValueError(
                f"{path.with_name('config.json')} has max_seq_length = {self.trained!r}, the tokens of a text that the"
                f" model was trained with; expected an integer between {self.special + 1} and {self.longest}."
            )
        self.usual = min(MAX_LENGTH, self.longest) if self.trained is None else self.trained

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
        texts = list(texts)
        for k, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise ValueError(f"row {k} of {len(texts)} is of type {type(text).__name__}; expected a text.")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"row {k} of {len(texts)} was not read as UTF-8: it holds half a character."
                ) from error
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
