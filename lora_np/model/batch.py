"""A batch: sequences laid end to end, without padding.

Position-wise operations see all N tokens as rows. Attention needs whole sequences: the sequences are sorted by
length, and those of one length T form a group whose rows are viewed as (n, T, ...). Half of an ordinary padded batch
of short texts is padding; here every row is a real token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lora_np.ops.pooling import check_groups


class Group(NamedTuple):
    start: int
    stop: int  # rows start to stop of the batch
    n: int  # hold n sequences
    T: int  # of T tokens each


class Batch(NamedTuple):
    content: np.ndarray  # (N,) token ids, or (N, P) patches
    position: np.ndarray  # (N,) place of the token in its sequence
    type: np.ndarray  # (N,) BERT's token type
    groups: tuple[Group, ...]  # in the order of the rows
    order: np.ndarray  # (S,) order[k] is the place in the given list of the sequence that was laid k-th

    @classmethod
    def of(cls, sequences: Sequence | np.ndarray, types: Sequence | None = None) -> "Batch":
        """Lay sequences end to end, sorted by length.

        Parameters
        ----------
        sequences : list of arrays, or one array
            Token ids (T,), or patches (T, P) of an image, one entry a sequence. Lengths may differ. Integers (T, 2) are
            each token's id and its type, as `load_tokenizer` gives them for pairs of texts.
        types : list of arrays (T,), optional
            Token types, for models that have them, if the ids come without; default all 0.

        Raises
        ------
        ValueError
            If there is no sequence, one is empty, or the kinds are mixed.
        """
        if not is_list(sequences):
            raise ValueError(f"Batch.of takes a list of sequences, but it was given {sequences!r}.")
        rows = [np.asarray(sequence) for sequence in sequences]
        if not rows:
            raise ValueError("a batch needs at least one sequence, but the list is empty.")
        if types is None and all(row.ndim == 2 and row.shape[1] == 2 and row.dtype.kind in "iu" for row in rows):
            rows, types = [row[:, 0] for row in rows], [row[:, 1] for row in rows]
        for k, row in enumerate(rows):
            if (
                row.ndim not in (1, 2)
                or not len(row)
                or row.shape[1:] != rows[0].shape[1:]
                or row.dtype.kind not in ("iu" if row.ndim == 1 else "fc")
                or (row.dtype == np.uint64 and row.max() > np.iinfo(np.intp).max)
            ):
                raise ValueError(
                    f"sequence {k} has shape {row.shape} and dtype {row.dtype}; expected token ids (T,), or ids and"
                    " types (T, 2) in all, integers, or patches (T, P), floats, T at least 1, of one width P."
                )
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(lengths, kind="stable")
        content = np.concatenate([rows[k] if rows[k].ndim == 2 else rows[k].astype(np.intp) for k in order])
        batch = cls(content, *_layout(lengths[order]), order)
        return batch if types is None else batch._replace(type=batch.pack(types))

    def with_rows(self, count: int) -> "Batch":
        """Return the batch with rows of zeros in front of each sequence: places of a class token, or virtual ones."""
        position, type_, groups = _layout(np.repeat([g.T + count for g in self.groups], [g.n for g in self.groups]))
        content = np.zeros((len(position), *self.content.shape[1:]), self.content.dtype)
        content[position >= count], type_[position >= count] = self.content, self.type
        return Batch(content, position, type_, groups, self.order)

    def pack(self, sequences: Sequence) -> np.ndarray:
        """Return rows (N, ...) in packed order out of a list of arrays (T, ...) in the order given to `of`.

        Raises
        ------
        ValueError
            If there is not one array a sequence, as long as that is.
        """
        rows = [np.asarray(sequence) for sequence in sequences] if is_list(sequences) else []
        given, lengths = [len(row) if row.ndim else 0 for row in rows], [len(p) for p in self.unpack(self.position)]
        if given != lengths or len({row.shape[1:] for row in rows}) > 1:
            raise ValueError(
                f"what is to be laid beside the tokens has the lengths {given[:5]}, but the sequences have"
                f" {lengths[:5]} tokens; give a list with one array a sequence, one entry a token, all of one width."
            )
        return np.concatenate([rows[k] for k in self.order])

    def unpack(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return a list of arrays (T, ...) in the order given to `of` out of rows (N, ...) in packed order.

        Rows of a model that put v tokens in front of each sequence, a class token or virtual ones, N + S v of them,
        give arrays (T + v, ...).

        Raises
        ------
        ValueError
            If there are neither N nor N + S v rows.
        """
        rows, own = np.asarray(rows), len(self.position)
        count, rest = divmod(len(rows) - own if rows.ndim else -1, len(self.order))
        if count > 0 and not rest:
            return self.with_rows(count).unpack(rows)
        if count or rest:
            raise ValueError(
                f"unpack needs {own} rows, one a token of this batch, or {own + len(self.order)} with a class token in"
                " front of each sequence, or as many more again for each virtual token, but it was given an array of"
                f" shape {rows.shape}; take the output of a model without a classifier for this very batch."
            )
        parts = [part for start, stop, n, T in self.groups for part in rows[start:stop].reshape(n, T, *rows.shape[1:])]
        return [parts[k] for k in np.argsort(self.order)]


def is_list(value):
    """Return whether a value can be read as a list of sequences."""
    scalar = isinstance(value, np.ndarray) and not value.ndim
    return hasattr(value, "__len__") and not scalar and not isinstance(value, (Batch, str, bytes, dict))


def check_batch(batch):
    """Raise ValueError unless this is a Batch whose parts belong together."""
    if not isinstance(batch, Batch):
        raise ValueError(
            f"a model reads a Batch, but it was given an object of type {type(batch).__name__}; lay sequences end to"
            " end by lora_np.Batch.of(sequences)."
        )
    rows = len(batch.content)
    check_groups(batch.groups, rows)
    sizes = len(batch.position), len(batch.type), len(batch.order)
    if sizes != (rows, rows, sum(n for _, _, n, _ in batch.groups)):
        raise ValueError(
            f"the parts of this batch do not belong together: {rows} tokens, but {sizes[0]} positions, {sizes[1]} types"
            f" and an order of {sizes[2]} sequences; make it anew by Batch.of."
        )


def _layout(lengths) -> tuple[np.ndarray, np.ndarray, tuple[Group, ...]]:
    """Return position, type and groups for sorted lengths."""
    position = np.concatenate([np.arange(T) for T in lengths])
    groups, start = [], 0
    for T, n in zip(*np.unique(lengths, return_counts=True)):
        groups.append(Group(start, start + int(n * T), int(n), int(T)))
        start += int(n * T)
    return position, np.zeros(len(position), np.intp), tuple(groups)
