"""Mistakes in what only moves numbers about: embedding and patches."""

import math

import numpy as np
from corpus.drawing import repeated, single
from corpus.entries import wrong_backward

from lora_np import ops


def table(rng):
    return ops.embedding_forward, {"table": rng.standard_normal((6, 4))}, {"ids": repeated(rng, 9, 6)}


def table_single(rng):
    forward, inputs, fixed = table(rng)
    return forward, single(inputs), fixed


def lookup_forward(tokens, E):
    """Tokens (n, T); the vectors are enlarged by sqrt(d), as in the first transformer."""
    n, T = tokens.shape
    return E[tokens.ravel()].reshape(n, T, -1) * math.sqrt(E.shape[1]), (tokens, E)


def lookup(rng):
    return lookup_forward, {"E": rng.standard_normal((6, 5))}, {"tokens": repeated(rng, 12, 6).reshape(3, 4)}


def padded_forward(w, ids, pad):
    return w[ids] * (ids != pad)[:, None], (w.shape, ids, pad)


def padded(rng):
    ids = np.append(repeated(rng, 8, 6), [2, 2])
    return padded_forward, {"w": rng.standard_normal((6, 4))}, {"ids": ids, "pad": 2}


def positions_forward(word, position, ids):
    return word[ids] + position, (word.shape, ids)


def positions(rng):
    """Position has a row for each of the T columns of ids (n, T)."""
    inputs = {"word": rng.standard_normal((6, 5)), "position": rng.standard_normal((4, 5))}
    return positions_forward, inputs, {"ids": repeated(rng, 12, 6).reshape(3, 4)}


@wrong_backward("embedding", table, spoils=("table",), cause="not_accumulated")
def rows_assigned(dy, cache):
    ids, shape = cache
    dtable = np.zeros(shape)
    dtable[ids] = dy
    return dtable


@wrong_backward("embedding", table, spoils=("table",), cause="not_accumulated")
def plus_equals_with_repeated_ids(dy, cache):
    dtable = np.zeros(cache.shape)
    dtable[cache.ids] += dy
    return dtable


@wrong_backward("embedding", lookup, spoils=("E",), cause="not_accumulated")
def first_place_of_each_word(dout, cache):
    tokens, E = cache
    dE = np.zeros_like(E)
    words, places = np.unique(tokens, return_index=True)
    dE[words] = dout.reshape(-1, E.shape[1])[places] * math.sqrt(E.shape[1])
    return dE


@wrong_backward("embedding", table, spoils=("table",), cause="mean_vs_sum")
def averaged_over_the_places_of_an_id(dy, cache):
    ids, shape = cache
    dtable = np.zeros(shape)
    for v in set(ids.tolist()):
        dtable[v] = dy[ids == v].mean(axis=0)
    return dtable


@wrong_backward("embedding", lookup, spoils=("E",), cause="constant_factor")
def square_root_of_d_forgotten(dout, cache):
    tokens, E = cache
    dE = np.zeros_like(E)
    np.add.at(dE, tokens, dout)
    return dE


@wrong_backward("embedding", table_single, spoils=("table",), cause="dtype")
def table_of_doubles(dy, cache):
    ids, shape = cache
    dtable = np.zeros(shape)
    np.add.at(dtable, ids, dy)
    return dtable


@wrong_backward("embedding", table, spoils=("table",), cause="ignores_upstream")
def counts_of_ids(dy, cache):
    ids, shape = cache
    dtable = np.zeros(shape)
    np.add.at(dtable, ids, 1.0)
    return dtable


@wrong_backward("embedding", lookup, spoils=("E",), cause="zero_gradient")
def added_to_a_copy(dout, cache):
    tokens, E = cache
    dE = np.zeros_like(E)
    rows = dE[tokens]
    rows += dout * math.sqrt(E.shape[1])
    return dE


@wrong_backward("embedding", table, spoils=("table",), cause="shape")
def only_the_rows_that_occur(dy, cache):
    ids, shape = cache
    return np.array([dy[ids == v].sum(axis=0) for v in np.unique(ids)])


@wrong_backward("embedding", padded, spoils=("w",), cause="mask_ignored")
def padding_is_trained(dout, cache):
    shape, ids, pad = cache
    dw = np.zeros(shape)
    np.add.at(dw, ids, dout)
    return dw


@wrong_backward("embedding", positions, spoils=("position",), cause="reduction_axis", also=("shape",))
def positions_not_summed_over_sequences(dout, cache):
    shape, ids = cache
    dword = np.zeros(shape)
    np.add.at(dword, ids, dout)
    return dword, dout


@wrong_backward("embedding", positions, spoils=("position",), cause="not_accumulated")
def positions_of_the_last_sequence(dout, cache):
    shape, ids = cache
    dword = np.zeros(shape)
    for sequence, d in zip(ids, dout):
        np.add.at(dword, sequence, d)
        dposition = d
    return dword, dposition


@wrong_backward("embedding", positions, spoils=("word", "position"), cause="swapped")
def positions_before_words(dout, cache):
    shape, ids = cache
    dposition = dout.sum(axis=0)
    dword = np.zeros(shape)
    np.add.at(dword, ids, dout)
    return dposition, dword


@wrong_backward("embedding", lookup, spoils=("E",), cause="inplace")
def table_trained_at_once(dout, cache):
    tokens, E = cache
    dE = np.zeros_like(E)
    np.add.at(dE, tokens, dout * math.sqrt(E.shape[1]))
    E -= 0.01 * dE
    return dE


@wrong_backward(
    "embedding", lambda rng: {"table": rng.standard_normal((6, 4))}, spoils=("backward",), cause="nondeterministic"
)
class OneBufferForAll:
    ids = np.array([1, 4, 1, 0, 3, 1, 4])
    buffer = None

    def forward(self, table):
        return table[self.ids], table.shape

    def backward(self, dy, shape):
        self.buffer = np.zeros(shape) if self.buffer is None else self.buffer
        np.add.at(self.buffer, self.ids, dy)
        return self.buffer


def squares(rng):
    return ops.patches_forward, {"images": rng.standard_normal((7, 6, 8, 5))}, {"size": 2}


def squares_single(rng):
    forward, inputs, fixed = squares(rng)
    return forward, single(inputs), fixed


def unfold_forward(img, size, step):
    """Overlapping windows of a grey image: size is above step."""
    H, W = img.shape
    corners = [(i, j) for i in range(0, H - size + 1, step) for j in range(0, W - size + 1, step)]
    out = np.array([img[i : i + size, j : j + size].ravel() for i, j in corners])
    return out, (img.shape, corners, size)


def unfold(rng):
    return unfold_forward, {"img": rng.standard_normal((6, 10))}, {"size": 4, "step": 2}


def pixel_forward(images, size, largest):
    rows, _ = ops.patches_forward(images, size)
    return rows / largest, (images.shape, size, largest)


@wrong_backward("patches", squares, spoils=("images",), cause="transpose")
def reshaped_back_without_moving_axes(dy, cache):
    shape, size = cache
    return dy.reshape(shape)


@wrong_backward("patches", squares, spoils=("images",), cause="transpose")
def row_and_column_in_the_patch_mistaken(dy, cache):
    (n, H, W, C), s = cache
    grid = dy.reshape(n, H // s, W // s, C, s, s)
    return grid.transpose(0, 1, 5, 2, 4, 3).reshape(n, H, W, C)


@wrong_backward("patches", squares, spoils=("images",), cause="transpose")
def channels_taken_to_come_last(dy, cache):
    (n, H, W, C), s = cache
    grid = dy.reshape(n, H // s, W // s, s, s, C)
    return grid.swapaxes(2, 3).reshape(n, H, W, C)


@wrong_backward("patches", unfold, spoils=("img",), cause="not_accumulated")
def windows_overwrite_each_other(dout, cache):
    shape, corners, size = cache
    dimg = np.zeros(shape)
    for k, (i, j) in enumerate(corners):
        dimg[i : i + size, j : j + size] = dout[k].reshape(size, size)
    return dimg


@wrong_backward("patches", unfold, spoils=("img",), cause="mean_vs_sum")
def windows_averaged_where_they_overlap(dout, cache):
    shape, corners, size = cache
    dimg, times = np.zeros(shape), np.zeros(shape)
    for (i, j), d in zip(corners, dout):
        dimg[i : i + size, j : j + size] += d.reshape(size, size)
        times[i : i + size, j : j + size] += 1
    return dimg / np.maximum(times, 1)


@wrong_backward("patches", unfold, spoils=("img",), cause="transpose")
def windows_filled_by_column(dout, cache):
    shape, corners, size = cache
    dimg = np.zeros(shape)
    for (i, j), d in zip(corners, dout):
        dimg[i : i + size, j : j + size] += d.reshape(size, size, order="F")
    return dimg


@wrong_backward("patches", squares, spoils=("images",), cause="zero_gradient")
def written_into_a_copy(dy, cache):
    (n, H, W, C), s = cache
    dimages = np.zeros((n, H, W, C))
    grid = dimages.reshape(n, H // s, s, W // s, s, C).transpose(0, 1, 3, 5, 2, 4)
    rows = grid.reshape(dy.shape)  # a copy, as the axes have moved
    rows += dy
    return dimages


@wrong_backward("patches", squares, spoils=("images",), cause="shape")
def last_reshape_forgotten(dy, cache):
    (n, H, W, C), s = cache
    return dy.reshape(n, H // s, W // s, C, s, s).transpose(0, 1, 4, 2, 5, 3)


@wrong_backward("patches", squares_single, spoils=("images",), cause="dtype")
def image_of_doubles(dy, cache):
    (n, H, W, C), s = cache
    dimages = np.zeros((n, H, W, C))
    for t in range(dy.shape[1]):
        i, j = divmod(t, W // s)
        dimages[:, i * s : i * s + s, j * s : j * s + s] = dy[:, t].reshape(n, C, s, s).transpose(0, 2, 3, 1)
    return dimages


@wrong_backward(
    "patches",
    lambda rng: (pixel_forward, squares(rng)[1], {"size": 2, "largest": 2.55}),
    spoils=("images",),
    cause="constant_factor",
)
def pixels_not_divided(dy, cache):
    (n, H, W, C), s, largest = cache
    return dy.reshape(n, H // s, W // s, C, s, s).transpose(0, 1, 4, 2, 5, 3).reshape(n, H, W, C)
