"""Mistakes in convolutions, along one axis and along two."""

import numpy as np
from corpus.drawing import single
from corpus.entries import wrong_backward
from numpy.lib.stride_tricks import sliding_window_view


def loops_forward(x, w, b, stride):
    """Along time, without padding: x (n, c, T), w (c_out, c, k)."""
    k = w.shape[2]
    steps = range((x.shape[2] - k) // stride + 1)
    columns = [np.einsum("nck,ock->no", x[:, :, t * stride : t * stride + k], w) + b for t in steps]
    return np.stack(columns, axis=2), (x, w, stride)


def drawn(rng, n, c, T, c_out, k):
    draw = rng.standard_normal
    return {"x": draw((n, c, T)), "w": draw((c_out, c, k)) / 2, "b": draw(c_out)}


def loops(rng):
    return loops_forward, drawn(rng, 3, 6, 11, 7, 5), {"stride": 2}


def square(rng):
    """As many channels out as in, one step at a time."""
    return loops_forward, drawn(rng, 5, 4, 9, 4, 3), {"stride": 1}


def loops_single(rng):
    forward, inputs, fixed = loops(rng)
    return forward, single(inputs), fixed


def image_forward(weight, bias, img, pad):
    """Along two axes, padded; the windows are kept."""
    padded = np.pad(img, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    out = np.tensordot(windows, weight, axes=([1, 4, 5], [1, 2, 3])) + bias
    return np.moveaxis(out, 3, 1), {"weight": weight, "padded": padded, "windows": windows, "pad": pad}


def image(rng):
    draw = rng.standard_normal
    inputs = {"weight": draw((8, 3, 4, 2)) / 2, "bias": draw(8), "img": draw((5, 3, 7, 6))}
    return image_forward, inputs, {"pad": 1}


def causal_forward(x, w, tril):
    """A kernel over whole rows of which a mask lets through the past; a residual connection around it."""
    kernel = w * tril
    return x + x @ kernel.T, (x, kernel, tril)


def causal(rng):
    return causal_forward, {"x": rng.standard_normal((4, 6)), "w": rng.standard_normal((6, 6))}, {"tril": np.tri(6)}


def depth_forward(signal, taps, gain):
    """A filter for each channel, and a gain for each."""
    windows = sliding_window_view(signal, taps.shape[1], axis=2)
    filtered = np.einsum("nctk,ck->nct", windows, taps)
    return gain * filtered, (windows, taps, gain, filtered)


def depth(rng):
    """The gain of the equalised learning rate, one number."""
    return (
        depth_forward,
        {"signal": rng.standard_normal((3, 4, 10)), "taps": rng.standard_normal((4, 5))},
        {"gain": 0.7},
    )


def scatter(d, w, length, stride):
    """The gradient of x, window by window."""
    k, dx = w.shape[2], np.zeros((d.shape[0], w.shape[1], length), d.dtype)
    for t in range(d.shape[2]):
        dx[:, :, t * stride : t * stride + k] += np.einsum("no,ock->nck", d[:, :, t], w)
    return dx


def correlate(d, x, k, stride):
    """The gradient of w, window by window."""
    return sum(np.einsum("no,nck->ock", d[:, :, t], x[:, :, t * stride : t * stride + k]) for t in range(d.shape[2]))


def image_back(dout, cache):
    weight, pad = cache["weight"], cache["pad"]
    dpadded = np.zeros_like(cache["padded"])
    H, W = dout.shape[2:]
    for i, j in np.ndindex(weight.shape[2:]):
        dpadded[:, :, i : i + H, j : j + W] += np.einsum("nohw,oc->nchw", dout, weight[:, :, i, j])
    return dpadded[:, :, pad:-pad, pad:-pad]


def depth_back(d, taps):
    k = taps.shape[1]
    padded = np.pad(d, ((0, 0), (0, 0), (k - 1, k - 1)))
    return np.einsum("nctk,ck->nct", sliding_window_view(padded, k, axis=2), taps[:, ::-1])


@wrong_backward("convolution", loops, spoils=("x",), cause="not_accumulated")
def overlapping_windows_overwrite(dy, cache):
    x, w, stride = cache
    k, dx = w.shape[2], np.zeros_like(x)
    for t in range(dy.shape[2]):
        dx[:, :, t * stride : t * stride + k] = np.tensordot(dy[:, :, t], w, axes=1)
    return dx, correlate(dy, x, k, stride), dy.sum(axis=(0, 2))


@wrong_backward("convolution", loops, spoils=("w",), cause="not_accumulated")
def kernel_of_the_last_window(dy, cache):
    x, w, stride = cache
    for t in range(dy.shape[2]):
        dw = np.einsum("no,nck->ock", dy[:, :, t], x[:, :, t * stride : t * stride + w.shape[2]])
    return scatter(dy, w, x.shape[2], stride), dw, dy.sum(axis=(0, 2))


@wrong_backward("convolution", square, spoils=("x",), cause="transpose")
def kernel_not_flipped(dy, cache):
    x, w, _ = cache
    k = w.shape[2]
    padded = np.pad(dy, ((0, 0), (0, 0), (k - 1, k - 1)))
    dx = np.einsum("notk,ock->nct", sliding_window_view(padded, k, axis=2), w)
    return dx, correlate(dy, x, k, 1), dy.sum(axis=(0, 2))


@wrong_backward("convolution", square, spoils=("x",), cause="transpose")
def channels_in_and_out_exchanged(dy, cache):
    x, w, stride = cache
    dx = scatter(dy, w.swapaxes(0, 1), x.shape[2], stride)
    return dx, correlate(dy, x, w.shape[2], stride), dy.sum(axis=(0, 2))


@wrong_backward("convolution", loops, spoils=("w",), cause="wrong_cached_value")
def stride_forgotten_when_reading_x(dy, cache):
    x, w, stride = cache
    dw = correlate(dy, x, w.shape[2], 1)
    return scatter(dy, w, x.shape[2], stride), dw, dy.sum(axis=(0, 2))


@wrong_backward("convolution", loops, spoils=("b",), cause="mean_vs_sum")
def bias_averaged_over_the_steps(dy, cache):
    x, w, stride = cache
    db = dy.sum(axis=0).mean(axis=1)
    return scatter(dy, w, x.shape[2], stride), correlate(dy, x, w.shape[2], stride), db


@wrong_backward("convolution", image, spoils=("weight", "bias"), cause="mean_vs_sum", also=("constant_factor",))
def averaged_over_images(dout, cache):
    n = dout.shape[0]
    dweight = np.einsum("nohw,nchwij->ocij", dout, cache["windows"]) / n
    return dweight, dout.sum(axis=(0, 2, 3)) / n, image_back(dout, cache)


@wrong_backward("convolution", image, spoils=("bias",), cause="reduction_axis", also=("shape",))
def bias_summed_over_the_channels(dout, cache):
    dweight = np.einsum("nohw,nchwij->ocij", dout, cache["windows"])
    return dweight, dout.sum(axis=(1, 2, 3)), image_back(dout, cache)


@wrong_backward("convolution", image, spoils=("img",), cause="shape")
def padding_not_cut_off(dout, cache):
    weight, dpadded = cache["weight"], np.zeros_like(cache["padded"])
    kh, kw = weight.shape[2:]
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            dpadded[:, :, i : i + kh, j : j + kw] += np.tensordot(dout[:, :, i, j], weight, axes=(1, 0))
    return np.einsum("nohw,nchwij->ocij", dout, cache["windows"]), dout.sum(axis=(0, 2, 3)), dpadded


@wrong_backward("convolution", image, spoils=("img",), cause="missing_term")
def last_column_of_the_kernel_missed(dout, cache):
    weight, pad = cache["weight"], cache["pad"]
    dpadded = np.zeros_like(cache["padded"])
    H, W = dout.shape[2:]
    kh, kw = weight.shape[2:]
    for i in range(kh):
        for j in range(kw - 1):
            dpadded[:, :, i : i + H, j : j + W] += np.einsum("nohw,oc->nchw", dout, weight[:, :, i, j])
    dimg = dpadded[:, :, pad:-pad, pad:-pad]
    return np.einsum("nohw,nchwij->ocij", dout, cache["windows"]), dout.sum(axis=(0, 2, 3)), dimg


@wrong_backward("convolution", image, spoils=("weight", "img"), cause="elementwise_factor")
def a_relu_of_the_next_layer(dout, cache):
    dbias = dout.sum(axis=(0, 2, 3))
    before = np.einsum("nchwij,ocij->nohw", cache["windows"], cache["weight"])
    dout = np.where(before > 0, dout, 0)
    return np.einsum("nohw,nchwij->ocij", dout, cache["windows"]), dbias, image_back(dout, cache)


@wrong_backward("convolution", image, spoils=("weight",), cause="sign")
def kernel_already_downhill(dout, cache):
    dweight = np.zeros_like(cache["weight"])
    for n in range(len(dout)):
        dweight -= np.tensordot(dout[n], cache["windows"][n], axes=([1, 2], [1, 2]))
    return dweight, dout.sum(axis=(0, 2, 3)), image_back(dout, cache)


@wrong_backward("convolution", image, spoils=("backward",), cause="inplace")
def padded_image_becomes_its_gradient(dout, cache):
    dweight = np.einsum("nohw,nchwij->ocij", dout, cache["windows"])
    weight, dpadded, pad = cache["weight"], cache["padded"], cache["pad"]
    dpadded.fill(0)
    H, W = dout.shape[2:]
    for i, j in np.ndindex(weight.shape[2:]):
        dpadded[:, :, i : i + H, j : j + W] += np.einsum("nohw,oc->nchw", dout, weight[:, :, i, j])
    dimg = dpadded[:, :, pad:-pad, pad:-pad]
    return dweight, dout.sum(axis=(0, 2, 3)), dimg


@wrong_backward("convolution", image, spoils=("bias", "img"), cause="swapped")
def image_before_bias(dout, cache):
    dweight = np.einsum("nohw,nchwij->ocij", dout, cache["windows"])
    return dweight, image_back(dout, cache), dout.sum(axis=(0, 2, 3))


@wrong_backward("convolution", loops, spoils=("b",), cause="ignores_upstream")
def bias_counts_windows(dy, cache):
    x, w, stride = cache
    n, c_out, steps = dy.shape
    db = np.ones(c_out) * n * steps
    return scatter(dy, w, x.shape[2], stride), correlate(dy, x, w.shape[2], stride), db


@wrong_backward("convolution", loops, spoils=("b",), cause="zero_gradient")
def sum_kept_under_another_name(dy, cache):
    x, w, stride = cache
    db = np.zeros(len(w))
    for of_example in dy:
        total = db + of_example.sum(axis=1)
    assert total.shape == db.shape
    return scatter(dy, w, x.shape[2], stride), correlate(dy, x, w.shape[2], stride), db


@wrong_backward("convolution", loops_single, spoils=("x",), cause="dtype")
def gradient_of_x_starts_as_doubles(dy, cache):
    x, w, stride = cache
    k, dx = w.shape[2], np.zeros(x.shape)
    for t in range(dy.shape[2]):
        dx[:, :, t * stride : t * stride + k] += np.tensordot(dy[:, :, t], w, axes=1)
    return dx, correlate(dy, x, k, stride), dy.sum(axis=(0, 2))


@wrong_backward("convolution", causal, spoils=("w",), cause="mask_ignored")
def future_of_the_kernel_learns(dy, cache):
    x, kernel, tril = cache
    return dy + dy @ kernel, dy.T @ x


@wrong_backward("convolution", causal, spoils=("x",), cause="missing_path", also=("missing_term",))
def way_around_the_filter_forgotten(dy, cache):
    x, kernel, tril = cache
    return dy @ kernel, (dy.T @ x) * tril


@wrong_backward("convolution", causal, spoils=("w",), cause="transpose")
def mask_on_the_other_side(dy, cache):
    """The triangle is cut off a gradient that lies the wrong way round."""
    x, kernel, tril = cache
    return dy + dy @ kernel, (x.T @ dy) * tril


@wrong_backward("convolution", depth, spoils=("taps",), cause="constant_factor")
def gain_not_in_the_gradient_of_the_taps(dy, cache):
    windows, taps, gain, _ = cache
    return depth_back(gain * dy, taps), np.einsum("nct,nctk->ck", dy, windows)


@wrong_backward("convolution", depth, spoils=("taps",), cause="reduction_axis")
def channels_run_together(dy, cache):
    windows, taps, gain, _ = cache
    dtaps = gain * np.einsum("nct,nmtk->ck", dy, windows)
    return gain * depth_back(dy, taps), dtaps


@wrong_backward("convolution", depth, spoils=("signal",), cause="extra_term")
def signal_passes_by_the_filter(dy, cache):
    windows, taps, gain, _ = cache
    dsignal = gain * depth_back(dy, taps)
    dsignal[:, :, : dy.shape[2]] += dy
    return dsignal, gain * np.einsum("nct,nctk->ck", dy, windows)


@wrong_backward("convolution", lambda rng: drawn(rng, 6, 4, 9, 5, 3), spoils=("backward",), cause="nondeterministic")
class KernelGradientGrows:
    dw = 0.0

    def forward(self, x, w, b):
        return loops_forward(x, w, b, 1)

    def backward(self, dy, cache):
        x, w, stride = cache
        self.dw = self.dw + correlate(dy, x, w.shape[2], stride)
        return scatter(dy, w, x.shape[2], stride), self.dw, dy.sum(axis=(0, 2))
