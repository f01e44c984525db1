"""Mistakes in a 2-D convolution, by loops and by columns, and in max pooling of signals and of images."""

import numpy as np
from corpus.drawing import single
from corpus.entries import wrong_backward
from numpy.lib.stride_tricks import sliding_window_view


def conv_forward(x, w, b, stride, pad):
    n, _, height, width = x.shape
    f, _, kh, kw = w.shape
    xp = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    ho, wo = (height + 2 * pad - kh) // stride + 1, (width + 2 * pad - kw) // stride + 1
    y = np.empty((n, f, ho, wo), x.dtype)
    for i in range(ho):
        for j in range(wo):
            patch = xp[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            y[:, :, i, j] = np.tensordot(patch, w, axes=((1, 2, 3), (1, 2, 3))) + b
    return y, (xp, w, stride, pad)


def strided(rng):
    shapes = {"x": (3, 4, 6, 7), "w": (5, 4, 3, 4), "b": (5,)}
    return conv_forward, {k: rng.standard_normal(s) for k, s in shapes.items()}, {"stride": 2, "pad": 1}


def strided_single(rng):
    forward, inputs, fixed = strided(rng)
    return forward, single(inputs), fixed


def square(rng):
    shapes = {"x": (4, 3, 6, 5), "w": (7, 3, 3, 3), "b": (7,)}
    return conv_forward, {k: rng.standard_normal(s) for k, s in shapes.items()}, {"stride": 1, "pad": 1}


def window(i, j, s, w):
    return (..., slice(i * s, i * s + w.shape[2]), slice(j * s, j * s + w.shape[3]))


def places(dy):
    return [(i, j) for i in range(dy.shape[2]) for j in range(dy.shape[3])]


@wrong_backward("conv", strided, spoils=("x",), cause="shape")
def the_padding_is_not_cut_off(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] += np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += np.tensordot(dy[:, :, i, j], xp[at], axes=(0, 0))
    return dxp, dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", strided, spoils=("x",), cause="not_accumulated")
def overlapping_windows_overwrite_each_other(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] = np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += np.tensordot(dy[:, :, i, j], xp[at], axes=(0, 0))
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", strided, spoils=("w",), cause="not_accumulated")
def the_kernel_keeps_the_last_image(dy, cache):
    xp, w, s, p = cache
    dxp = np.zeros_like(xp)
    for n in range(len(xp)):
        dw = np.zeros_like(w)
        for f in range(len(w)):
            for i, j in places(dy):
                at = window(i, j, s, w)
                dw[f] += dy[n, f, i, j] * xp[n][at]
                dxp[n][at] += dy[n, f, i, j] * w[f]
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", strided, spoils=("w",), cause="wrong_cached_value")
def the_kernel_sees_windows_without_their_stride(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i, j in places(dy):
        dxp[window(i, j, s, w)] += np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += np.tensordot(dy[:, :, i, j], xp[window(i, j, 1, w)], axes=(0, 0))
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", strided_single, spoils=("w",), cause="dtype")
def the_kernel_is_summed_in_a_double_buffer(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros(w.shape)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] += np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += np.tensordot(dy[:, :, i, j], xp[at], axes=(0, 0))
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", strided, spoils=("w",), cause="ignores_upstream")
def the_kernel_adds_up_the_windows_alone(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] += np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += xp[at].sum(axis=0)
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=(0, 2, 3))


@wrong_backward("conv", square, spoils=("x",), cause="transpose")
def the_kernel_is_turned_by_a_corner_on_the_way_back(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    turned = w.transpose(0, 1, 3, 2)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] += np.einsum("nf,fchw->nchw", dy[:, :, i, j], turned)
        dw += np.einsum("nf,nchw->fchw", dy[:, :, i, j], xp[at])
    return dxp[:, :, p:-p, p:-p], dw, np.einsum("nfij->f", dy)


@wrong_backward("conv", square, spoils=("w",), cause="mean_vs_sum", also=("constant_factor",))
def the_kernel_is_averaged_over_images(dy, cache):
    xp, w, s, p = cache
    views = sliding_window_view(xp, w.shape[2:], axis=(2, 3))
    dw = np.einsum("nfij,ncijhw->fchw", dy, views) / dy.shape[0]
    dyp = np.pad(dy, ((0, 0), (0, 0), (2, 2), (2, 2)))
    back = sliding_window_view(dyp, w.shape[2:], axis=(2, 3))
    dxp = np.einsum("nfijhw,fchw->ncij", back, w[:, :, ::-1, ::-1])
    return dxp[:, :, 1:-1, 1:-1], dw, dy.sum((0, 2, 3))


@wrong_backward("conv", square, spoils=("b",), cause="reduction_axis", also=("shape",))
def the_bias_is_summed_over_images_only(dy, cache):
    xp, w, s, p = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i, j in places(dy):
        at = window(i, j, s, w)
        dxp[at] += np.tensordot(dy[:, :, i, j], w, axes=1)
        dw += np.tensordot(dy[:, :, i, j].T, xp[at], axes=1)
    return dxp[:, :, p:-p, p:-p], dw, dy.sum(axis=0)


def columns_forward(x, w):
    n, c, height, width = x.shape
    f, _, kh, kw = w.shape
    ho, wo = height - kh + 1, width - kw + 1
    index = np.arange(x[0].size).reshape(x.shape[1:])
    index = sliding_window_view(index, (kh, kw), axis=(1, 2)).transpose(1, 2, 0, 3, 4).reshape(ho * wo, -1)
    cols = x.reshape(n, -1)[:, index]
    y = cols @ w.reshape(f, -1).T
    return y.transpose(0, 2, 1).reshape(n, f, ho, wo), {"cols": cols, "index": index, "w": w, "shape": x.shape}


def columned(rng):
    return columns_forward, {"x": rng.standard_normal((3, 4, 6, 5)), "w": rng.standard_normal((7, 4, 3, 3))}, {}


@wrong_backward("conv", columned, spoils=("x",), cause="not_accumulated")
def the_columns_are_put_back_by_plain_indexing(dy, m):
    n, f = dy.shape[:2]
    d = dy.reshape(n, f, -1).transpose(0, 2, 1)
    dcols = d @ m["w"].reshape(f, -1)
    dx = np.zeros((n, int(np.prod(m["shape"][1:]))))
    dx[:, m["index"]] += dcols
    dw = np.einsum("npf,npk->fk", d, m["cols"])
    return dx.reshape(m["shape"]), dw.reshape(m["w"].shape)


def signal_forward(x, size, stride):
    windows = sliding_window_view(x, size, axis=-1)[:, :, ::stride]
    which = windows.argmax(-1)
    return windows.max(-1), (which, x.shape, size, stride, windows)


def signals(rng):
    shape = (3, 4, 13)
    x = rng.permutation(np.prod(shape)).reshape(shape) / 40 - 1.7
    return signal_forward, {"x": x}, {"size": 5, "stride": 2}


def image_forward(x, k):
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // k, k, w // k, k).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // k, w // k, k * k)
    return blocks.max(-1), {"blocks": blocks, "arg": blocks.argmax(-1), "shape": x.shape, "k": k, "y": blocks.max(-1)}


def images(rng):
    shape = (4, 5, 6, 9)
    x = rng.permutation(np.prod(shape)).reshape(shape) / 300 - 1.6
    return image_forward, {"x": x}, {"k": 3}


def unblocked(dblocks, m):
    n, c, h, w = m["shape"]
    k = m["k"]
    return dblocks.reshape(n, c, h // k, w // k, k, k).transpose(0, 1, 2, 4, 3, 5).reshape(m["shape"])


@wrong_backward("max pool", signals, spoils=("x",), cause="not_accumulated")
def a_maximum_of_several_windows_keeps_the_last(dy, cache):
    which, shape, size, stride, _ = cache
    dx = np.zeros(shape)
    for n, c, i in np.ndindex(which.shape):
        dx[n, c, i * stride + which[n, c, i]] = dy[n, c, i]
    return dx


@wrong_backward(
    "max pool", signals, spoils=("x",), cause="not_accumulated", name="fancy indices that meet are added once"
)
def _(dy, cache):
    which, shape, size, stride, _ = cache
    at = which + stride * np.arange(which.shape[-1])
    n, c, _ = np.indices(which.shape)
    dx = np.zeros(shape)
    dx[n, c, at] += dy
    return (dx,)


@wrong_backward("max pool", signals, spoils=("x",), cause="wrong_cached_value")
def the_place_in_the_window_is_taken_for_the_place_in_the_signal(dy, cache):
    which, shape, size, stride, _ = cache
    dx = np.zeros(shape)
    n, c, _ = np.indices(which.shape)
    np.add.at(dx, (n, c, which), dy)
    return dx


@wrong_backward("max pool", signals, spoils=("x",), cause="mask_ignored", also=("wrong_derivative",))
def every_entry_of_the_window_gets_all(dy, cache):
    which, shape, size, stride, _ = cache
    dx = np.zeros(shape)
    for i in range(dy.shape[-1]):
        dx[:, :, i * stride : i * stride + size] += dy[:, :, i, None]
    return dx


@wrong_backward("max pool", signals, spoils=("x",), cause="constant_factor")
def the_gradient_is_divided_by_the_window(dy, cache):
    which, shape, size, stride, windows = cache
    hit = windows == windows.max(-1, keepdims=True)
    dx = np.zeros(shape)
    for i in range(dy.shape[-1]):
        dx[..., i * stride : i * stride + size] += hit[:, :, i] * dy[:, :, i, None] / size
    return dx


@wrong_backward("max pool", images, spoils=("x",), cause="elementwise_factor")
def the_maximum_itself_is_multiplied_in(dy, m):
    hit = m["blocks"] == m["y"][..., None]
    return unblocked(np.where(hit, m["blocks"] * dy[..., None], 0.0), m)


@wrong_backward("max pool", images, spoils=("x",), cause="transpose")
def rows_of_the_block_are_taken_for_columns(dy, m):
    k = m["k"]
    dx = np.zeros(m["shape"])
    for n, c, i, j in np.ndindex(dy.shape):
        col, row = divmod(m["arg"][n, c, i, j], k)
        dx[n, c, i * k + row, j * k + col] += dy[n, c, i, j]
    return dx


@wrong_backward("max pool", images, spoils=("x",), cause="ignores_upstream")
def the_mask_is_all_that_comes_back(dy, m):
    dblocks = np.zeros_like(m["blocks"])
    np.put_along_axis(dblocks, m["arg"][..., None], 1.0, axis=-1)
    return unblocked(dblocks, m)


@wrong_backward("max pool", images, spoils=("x",), cause="wrong_derivative", also=("mask_ignored",))
def the_maximum_is_differentiated_as_a_mean(dy, m):
    k = m["k"]
    return np.repeat(np.repeat(dy / k**2, k, axis=2), k, axis=3)
