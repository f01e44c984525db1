"""Mistakes in pooling."""

import numpy as np
from corpus.drawing import kept
from corpus.entries import wrong_backward

from lora_np import ops

GROUPS = ((0, 6, 2, 3), (6, 26, 4, 5))


def of_mean(rng):
    return ops.pool_mean_forward, {"x": rng.standard_normal((26, 7))}, {"groups": GROUPS}


def of_first(rng):
    return ops.pool_first_forward, {"x": rng.standard_normal((26, 7))}, {"groups": GROUPS}


def average_forward(tokens):
    return tokens.mean(axis=1), tokens.shape


def average(rng):
    return average_forward, {"tokens": rng.standard_normal((4, 5, 3))}, {}


def lengths_forward(tokens, keep):
    """The mean over the tokens that are no padding."""
    count = keep.sum(axis=1, keepdims=True)
    return (tokens * keep[:, :, None]).sum(axis=1) / count, (tokens.shape, keep, count)


def lengths(rng):
    keep = kept(rng, 4, 5)
    keep[:, 0], keep[0, -1] = True, False
    return lengths_forward, {"tokens": rng.standard_normal((4, 5, 3))}, {"keep": keep}


@wrong_backward("pool_mean", of_mean, spoils=("x",), cause="mean_vs_sum")
def repeated_but_not_divided(dy, cache):
    groups, rows = cache
    return np.concatenate([np.repeat(d, T, axis=0) for d, (_, _, n, T) in zip(np.split(dy, [2]), groups)])


@wrong_backward("pool_mean", average, spoils=("tokens",), cause="mean_vs_sum", also=("constant_factor",))
def divided_by_the_sequences_instead_of_tokens(dout, shape):
    n, T, d = shape
    return np.broadcast_to(dout[:, None] / n, shape)


@wrong_backward("pool_mean", average, spoils=("tokens",), cause="zero_gradient")
def integer_division(dout, shape):
    weight = 1 // shape[1]
    return np.ones(shape) * weight * dout[:, None, :]


@wrong_backward("pool_mean", of_mean, spoils=("x",), cause="transpose")
def tiled_instead_of_repeated(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]))
    first = 0
    for start, stop, n, T in groups:
        dx[start:stop] = np.tile(dy[first : first + n], (T, 1)) / T
        first += n
    return dx


@wrong_backward("pool_mean", lengths, spoils=("tokens",), cause="mask_ignored")
def padding_gets_its_share(dout, cache):
    shape, keep, count = cache
    return np.repeat((dout / count)[:, None], shape[1], axis=1)


@wrong_backward("pool_mean", average, spoils=("tokens",), cause="ignores_upstream")
def one_over_t(dout, shape):
    return np.full(shape, 1 / shape[1])


@wrong_backward("pool_mean", average, spoils=("tokens",), cause="shape")
def left_to_broadcasting(dout, shape):
    return dout[:, None, :] / shape[1]


@wrong_backward("pool_mean", lengths, spoils=("backward",), cause="inplace")
def upstream_divided_in_place(dout, cache):
    shape, keep, count = cache
    dout /= count
    return dout[:, None] * keep[:, :, None]


@wrong_backward("pool_first", of_first, spoils=("x",), cause="mean_vs_sum")
def divided_by_t_as_in_the_mean(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]))
    first = 0
    for start, stop, n, T in groups:
        dx[start:stop:T] = dy[first : first + n] / T
        first += n
    return dx


@wrong_backward("pool_first", of_first, spoils=("x",), cause="zero_gradient")
def assigned_to_a_selection_of_a_selection(dy, cache):
    groups, rows = cache
    dx, first = np.zeros((rows, dy.shape[1])), 0
    for start, stop, n, T in groups:
        dx[np.arange(start, stop)][::T] = dy[first : first + n]
        first += n
    return dx


def class_token_forward(hidden):
    return hidden[:, 0], hidden


def class_token(rng):
    return class_token_forward, {"hidden": rng.standard_normal((4, 5, 3))}, {}


@wrong_backward("pool_first", class_token, spoils=("hidden",), cause="shape")
def only_the_class_token(dout, hidden):
    return dout


@wrong_backward("pool_first", class_token, spoils=("hidden",), cause="extra_term", also=("mask_ignored",))
def other_tokens_get_it_too(dout, hidden):
    return np.repeat(dout[:, None], hidden.shape[1], axis=1)


@wrong_backward("pool_first", class_token, spoils=("hidden",), cause="inplace")
def input_recycled_as_the_gradient(dout, hidden):
    hidden[:] = 0
    hidden[:, 0] = dout
    return hidden


@wrong_backward("pool_first", class_token, spoils=("hidden",), cause="ignores_upstream")
def one_for_the_class_token(dout, hidden):
    dhidden = np.zeros_like(hidden)
    dhidden[:, 0] = 1
    return dhidden
