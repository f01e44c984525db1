"""Mistakes in RMS norm."""

from typing import NamedTuple

import numpy as np
from corpus.drawing import single, sizes
from corpus.entries import wrong_backward


def plain_forward(x, g, eps):
    r = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    xhat = x * r
    return xhat * g, (x, g, r, xhat)


def rows_of(rng):
    n, d = sizes(rng, 2)
    x = rng.standard_normal((n, d)) * rng.uniform(0.4, 2.5, (n, 1))
    return {"x": x, "g": rng.standard_normal(d)}


def plain(rng):
    return plain_forward, rows_of(rng), {"eps": 1e-5}


def plain_single(rng):
    return plain_forward, single(rows_of(rng)), {"eps": 1e-5}


def llama_forward(weight, hidden, eps=1e-6):
    """Three axes, the weight first."""
    variance = (hidden**2).mean(axis=-1, keepdims=True)
    inv = (variance + eps) ** -0.5
    return weight * (hidden * inv), {"weight": weight, "hidden": hidden, "variance": variance, "inv": inv, "eps": eps}


def llama(rng):
    b, t, d = sizes(rng, 3)
    hidden = rng.standard_normal((b, t, d)) * rng.uniform(0.4, 2.5, (b, t, 1))
    return llama_forward, {"weight": rng.standard_normal(d), "hidden": hidden}, {}


class Kept(NamedTuple):
    x: np.ndarray
    gain: np.ndarray
    ms: np.ndarray
    rms: np.ndarray


def steps_forward(x, gain):
    """In steps, each to be walked back on its own."""
    ms = np.square(x).sum(axis=1, keepdims=True) / x.shape[1] + 1e-5
    root = np.sqrt(ms)
    return x / root * gain, Kept(x, gain, ms, root)


def steps(rng):
    inputs = rows_of(rng)
    return steps_forward, {"x": inputs["x"], "gain": inputs["g"]}, {}


def pull(dhat, hat, scale):
    """The gradient through the normalisation itself."""
    return scale * (dhat - hat * (dhat * hat).mean(axis=-1, keepdims=True))


@wrong_backward("rms_norm", plain, spoils=("x",), cause="missing_path")
def rms_taken_for_a_constant(dy, cache):
    x, g, r, xhat = cache
    return dy * g * r, (dy * xhat).sum(axis=0)


@wrong_backward("rms_norm", steps, spoils=("x",), cause="missing_path")
def only_the_way_through_the_rms(grad, kept):
    dxhat = grad * kept.gain
    droot = -(dxhat * kept.x).sum(axis=1, keepdims=True) / kept.rms**2
    dms = droot / (2 * kept.rms)
    dx = 2 * kept.x * dms / kept.x.shape[1]
    return dx, np.sum(grad * kept.x / kept.rms, axis=0)


@wrong_backward("rms_norm", plain, spoils=("x",), cause="factor_order")
def gain_after_the_mean(dy, cache):
    x, g, r, xhat = cache
    return g * pull(dy, xhat, r), np.einsum("nd,nd->d", dy, xhat)


@wrong_backward("rms_norm", llama, spoils=("hidden",), cause="factor_order")
def weight_outside_the_mean_only(dout, cache):
    w, inv = cache["weight"], cache["inv"]
    hat = cache["hidden"] * inv
    dhidden = inv * (w * dout - hat * w * (dout * hat).mean(-1, keepdims=True))
    return (dout * hat).sum((0, 1)), dhidden


@wrong_backward("rms_norm", plain, spoils=("x",), cause="mean_vs_sum")
def sum_over_the_row_for_its_mean(dy, cache):
    x, g, r, xhat = cache
    dxhat = dy * g
    dx = r * (dxhat - xhat * np.sum(dxhat * xhat, axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)


@wrong_backward("rms_norm", llama, spoils=("weight",), cause="mean_vs_sum")
def weight_averaged_over_tokens(dout, cache):
    hat = cache["hidden"] * cache["inv"]
    return np.mean(dout * hat, axis=(0, 1)), pull(dout * cache["weight"], hat, cache["inv"])


@wrong_backward("rms_norm", plain, spoils=("x",), cause="reduction_axis")
def mean_over_the_batch(dy, cache):
    x, g, r, xhat = cache
    dxhat = dy * g
    dx = r * (dxhat - xhat * (dxhat * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0)


@wrong_backward("rms_norm", llama, spoils=("hidden",), cause="reduction_axis")
def mean_over_tokens_and_features(dout, cache):
    hat = cache["hidden"] * cache["inv"]
    dhat = dout * cache["weight"]
    dhidden = cache["inv"] * (dhat - hat * np.mean(dhat * hat, axis=(1, 2), keepdims=True))
    return np.einsum("btd,btd->d", dout, hat), dhidden


@wrong_backward("rms_norm", plain, spoils=("x",), cause="extra_term")
def mean_subtracted_as_in_layer_norm(dy, cache):
    x, g, r, xhat = cache
    dxhat = dy * g
    dx = r * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)


@wrong_backward("rms_norm", plain, spoils=("g",), cause="wrong_cached_value", also=("elementwise_factor",))
def x_before_it_is_normalised(dy, cache):
    x, g, r, xhat = cache
    return pull(dy * g, xhat, r), (dy * x).sum(axis=0)


@wrong_backward("rms_norm", llama, spoils=("weight",), cause="wrong_cached_value")
def output_for_the_normalised(dout, cache):
    hat = cache["hidden"] * cache["inv"]
    out = hat * cache["weight"]
    dweight = (dout * out).reshape(-1, out.shape[-1]).sum(axis=0)
    return dweight, pull(dout * cache["weight"], hat, cache["inv"])


@wrong_backward("rms_norm", steps, spoils=("x",), cause="sign")
def minus_of_the_inverse_forgotten(grad, kept):
    dxhat = grad * kept.gain
    droot = (dxhat * kept.x).sum(axis=1, keepdims=True) / kept.rms**2
    dms = 0.5 * droot / kept.rms
    dx = dxhat / kept.rms + dms * 2 * kept.x / kept.x.shape[1]
    return dx, np.sum(grad * kept.x / kept.rms, axis=0)


@wrong_backward("rms_norm", llama, spoils=("hidden",), cause="wrong_derivative")
def power_not_lowered(dout, cache):
    """The derivative of v ** -0.5 has v ** -1.5."""
    w, h, inv, v = cache["weight"], cache["hidden"], cache["inv"], cache["variance"] + cache["eps"]
    dvariance = -0.5 * v**-0.5 * (dout * w * h).sum(axis=-1, keepdims=True)
    dhidden = dout * w * inv + dvariance * 2 * h / h.shape[-1]
    return (dout * h * inv).sum(axis=(0, 1)), dhidden


@wrong_backward("rms_norm", steps, spoils=("x",), cause="constant_factor", also=("wrong_derivative",))
def root_without_its_half(grad, kept):
    dxhat = grad * kept.gain
    droot = -(dxhat * kept.x).sum(axis=1, keepdims=True) / kept.rms**2
    dms = droot / kept.rms
    dx = dxhat / kept.rms + 2 * kept.x * dms / kept.x.shape[1]
    return dx, np.sum(grad * kept.x / kept.rms, axis=0)


@wrong_backward("rms_norm", plain, spoils=("x",), cause="elementwise_factor")
def gain_nowhere_in_dx(dy, cache):
    x, g, r, xhat = cache
    return pull(dy, xhat, r), (dy * xhat).sum(axis=0)


@wrong_backward("rms_norm", llama, spoils=("weight",), cause="ignores_upstream")
def normalised_summed_for_the_weight(dout, cache):
    hat = cache["hidden"] * cache["inv"]
    dweight = hat.sum(axis=(0, 1))
    return dweight, pull(dout * cache["weight"], hat, cache["inv"])


@wrong_backward("rms_norm", llama, spoils=("weight",), cause="shape", also=("reduction_axis",))
def weight_summed_over_sequences_only(dout, cache):
    hat = cache["hidden"] * cache["inv"]
    return (dout * hat).sum(axis=0), pull(dout * cache["weight"], hat, cache["inv"])


@wrong_backward("rms_norm", plain, spoils=("x", "g"), cause="swapped")
def gain_first(dy, cache):
    x, g, r, xhat = cache
    dg = (dy * xhat).sum(axis=0)
    dx = pull(dy * g, xhat, r)
    return dg, dx


@wrong_backward("rms_norm", plain_single, spoils=("g",), cause="dtype")
def gain_collected_in_doubles(dy, cache):
    x, g, r, xhat = cache
    dg = np.zeros(g.shape)
    for i in range(dy.shape[0]):
        dg += dy[i] * xhat[i]
    return pull(dy * g, xhat, r), dg


@wrong_backward("rms_norm", rows_of, spoils=("backward",), cause="inplace")
class NormalisedOverwritten:
    def forward(self, x, g):
        self.rms = np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
        self.gain = g
        return x / self.rms * g, x / self.rms

    def backward(self, dout, xhat):
        dg = (dout * xhat).sum(axis=0)
        dxhat = dout * self.gain
        inner = (dxhat * xhat).mean(axis=1, keepdims=True)
        xhat *= inner
        return (dxhat - xhat) / self.rms, dg


@wrong_backward("rms_norm", rows_of, spoils=("g",), cause="not_accumulated")
class RowAfterRow:
    def forward(self, x, g):
        self.rms = np.sqrt((x**2).mean(axis=1) + 1e-5)
        return x / self.rms[:, None] * g, (x, g)

    def backward(self, dout, cache):
        x, g = cache
        dx = []
        for row, up, rms in zip(x, dout, self.rms):
            hat = row / rms
            dg = up * hat
            dx.append((up * g - hat * np.mean(up * g * hat)) / rms)
        return np.stack(dx), dg
