"""A batch: sequences laid end to end, without padding.

Position-wise operations see all N tokens as rows. Attention needs whole sequences: the sequences are sorted by
length, and those of one length T form a group whose rows are viewed as (n, T, ...). Half of an ordinary padded batch
of short texts is padding; here every row is a real token.
"""

from typing import NamedTuple

import numpy as np


class Group(NamedTuple):
    start: int
    stop: int  # rows start to stop of the batch
    n: int  # hold n sequences
    T: int  # of T tokens each


class Batch(NamedTuple):
    content: np.ndarray  # (N,) token ids, or (N, P) patches
    position: np.ndarray  # (N,) place of the token in its sequence
    type: np.ndarray  # (N,) BERT's token type
    groups: tuple  # of Group, in the order of the rows
    order: np.ndarray  # (S,) order[k] is the place in the given list of the sequence that was laid k-th

    @classmethod
    def of(cls, sequences, types=None):
        """Lay sequences end to end, sorted by length.

        Parameters
        ----------
        sequences : list of arrays, or one array
            Token ids (T,), or patches (T, P) of an image, one entry a sequence. Lengths may differ.
        types : list of arrays (T,), optional
            Token types, for models that have them; default all 0.

        Raises
        ------
        ValueError
            If there is no sequence, one is empty, or the kinds are mixed.
        """
        if not hasattr(sequences, "__len__"):
            raise ValueError(f"Batch.of takes a list of sequences, but it was given {sequences!r}.")
        rows = [np.asarray(sequence) for sequence in sequences]
        for k, row in enumerate(rows):
            if (
                row.ndim not in (1, 2)
                or not len(row)
                or row.shape[1:] != rows[0].shape[1:]
                or row.dtype.kind not in ("iu" if row.ndim == 1 else "fc")
            ):
                raise ValueError(
                    f"sequence {k} has shape {row.shape} and dtype {row.dtype}; expected token ids (T,), integers, or"
                    " patches (T, P), floats, T at least 1, of one width P."
                )
        if not rows:
            raise ValueError("a batch needs at least one sequence, but the list is empty.")
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(lengths, kind="stable")
        content = np.concatenate([rows[k] for k in order])
        if types is None:
            type_ = np.zeros(len(content), np.intp)
        else:
            if [np.shape(type_) for type_ in types] != [(length,) for length in lengths]:
                raise ValueError(
                    f"types have the lengths {[np.size(type_) for type_ in types][:5]}, but the sequences have"
                    f" {lengths.tolist()[:5]} tokens; give one type for each token."
                )
            type_ = np.concatenate([np.asarray(types[k]) for k in order])
        return cls(content, *_layout(lengths[order]), order)._replace(type=type_)

    def with_class_row(self):
        """Return the batch with a row of zeros in front of each sequence: the place of a class token."""
        lengths = np.concatenate([np.full(group.n, group.T) for group in self.groups])
        position, type_, groups = _layout(lengths + 1)
        content = np.zeros((len(position), *self.content.shape[1:]), self.content.dtype)
        content[position > 0] = self.content
        return Batch(content, position, type_, groups, self.order)

    def pack(self, sequences):
        """Return rows (N, ...) in packed order out of a list of arrays (T, ...) in the order given to `of`."""
        return np.concatenate([np.asarray(sequences[k]) for k in self.order])

    def unpack(self, rows):
        """Return a list of arrays (T, ...) in the order given to `of` out of rows (N, ...) in packed order."""
        parts = [part for start, stop, n, T in self.groups for part in rows[start:stop].reshape(n, T, *rows.shape[1:])]
        return [parts[k] for k in np.argsort(self.order)]


def _layout(lengths):
    """Return position, type and groups for sorted lengths."""
    position = np.concatenate([np.arange(T) for T in lengths])
    groups, start = [], 0
    for T, n in zip(*np.unique(lengths, return_counts=True)):
        groups.append(Group(start, start + int(n * T), int(n), int(T)))
        start += int(n * T)
    return position, np.zeros(len(position), np.intp), tuple(groups)
