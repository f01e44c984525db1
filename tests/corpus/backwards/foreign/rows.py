"""Mistakes in log-softmax and in max pooling."""

import numpy as np
from corpus.drawing import kept, single, sizes
from corpus.entries import wrong_backward


def plain_forward(z):
    shifted = z - z.real.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logp, logp


def rows_of(rng):
    return {"z": 1.3 * rng.standard_normal(sizes(rng, 2))}


def plain(rng):
    return plain_forward, rows_of(rng), {}


def plain_single(rng):
    return plain_forward, single(rows_of(rng)), {}


def warm_forward(scores, T, keep):
    """A temperature, three axes, and entries that do not take part."""
    scaled = scores / T
    e = np.exp(scaled - scaled.real.max(-1, keepdims=True)) * keep
    total = e.sum(-1, keepdims=True)
    logp = np.where(keep, np.log(np.where(keep, e, 1) / total), 0)
    return logp, {"p": e / total, "T": T, "keep": keep, "scores": scores}


def warm(rng):
    shape = sizes(rng, 3)
    keep = kept(rng, *shape)
    keep[..., :2] = True
    return warm_forward, {"scores": rng.standard_normal(shape)}, {"T": 1.7, "keep": keep}


@wrong_backward("log_softmax", plain, spoils=("z",), cause="wrong_derivative")
def derivative_of_the_softmax(dy, logp):
    p = np.exp(logp)
    return p * (dy - (dy * p).sum(axis=1, keepdims=True))


@wrong_backward("log_softmax", plain, spoils=("z",), cause="ignores_upstream", also=("elementwise_factor",))
def p_not_weighed_as_if_one_target_had_the_one(dy, logp):
    return dy - np.exp(logp)


@wrong_backward("log_softmax", plain, spoils=("z",), cause="missing_path", also=("missing_term",))
def normaliser_taken_for_a_constant(dy, logp):
    return dy.copy()


@wrong_backward("log_softmax", plain, spoils=("z",), cause="reduction_axis")
def summed_over_the_rows(dy, logp):
    return dy - np.exp(logp) * dy.sum(axis=0)


@wrong_backward("log_softmax", warm, spoils=("scores",), cause="reduction_axis")
def summed_over_everything(grad, cache):
    d = grad * cache["keep"]
    return (d - cache["p"] * d.sum()) / cache["T"]


@wrong_backward("log_softmax", warm, spoils=("scores",), cause="mean_vs_sum")
def mean_over_the_classes(grad, cache):
    d = grad * cache["keep"]
    return (d - cache["p"] * d.mean(axis=-1, keepdims=True)) / cache["T"]


@wrong_backward("log_softmax", plain, spoils=("z",), cause="wrong_cached_value", also=("wrong_derivative",))
def logarithm_for_the_probability(dy, logp):
    return dy - logp * dy.sum(axis=1, keepdims=True)


@wrong_backward("log_softmax", plain, spoils=("z",), cause="sign")
def normaliser_added(dy, logp):
    return dy + np.exp(logp) * dy.sum(axis=1, keepdims=True)


@wrong_backward("log_softmax", warm, spoils=("scores",), cause="constant_factor")
def temperature_forgotten(grad, cache):
    d = grad * cache["keep"]
    return d - cache["p"] * d.sum(axis=-1, keepdims=True)


@wrong_backward("log_softmax", warm, spoils=("scores",), cause="mask_ignored")
def masked_entries_pull_along(grad, cache):
    return (grad - cache["p"] * grad.sum(axis=-1, keepdims=True)) / cache["T"]


@wrong_backward("log_softmax", plain, spoils=("z",), cause="factor_order")
def p_inside_the_sum(dy, logp):
    return dy - np.sum(np.exp(logp) * dy, axis=1, keepdims=True)


@wrong_backward("log_softmax", plain, spoils=("z",), cause="extra_term")
def maximum_differentiated_on_one_side_only(dy, logp):
    """Once it is subtracted and once it is added: either both or none."""
    total = dy.sum(axis=1)
    dz = dy - np.exp(logp) * total[:, None]
    dz[np.arange(len(dz)), logp.argmax(axis=1)] -= total
    return dz


@wrong_backward("log_softmax", plain, spoils=("backward",), cause="inplace")
def probability_written_over_its_logarithm(dy, logp):
    p = np.exp(logp, out=logp)
    return dy - p * dy.sum(axis=1, keepdims=True)


@wrong_backward("log_softmax", plain_single, spoils=("z",), cause="dtype")
def rows_in_a_double_buffer(dy, logp):
    dz = np.empty(dy.shape)
    for i, (up, row) in enumerate(zip(dy, logp)):
        dz[i] = up - np.exp(row) * up.sum()
    return dz


@wrong_backward("log_softmax", rows_of, spoils=("z",), cause="not_accumulated")
class JacobianColumnByColumn:
    def forward(self, z):
        self.p = np.exp(z - z.real.max(axis=1, keepdims=True))
        self.p = self.p / self.p.sum(axis=1, keepdims=True)
        return np.log(self.p), None

    def backward(self, dy, cache):
        dz = np.zeros_like(dy)
        for j in range(dy.shape[1]):
            dz = dy[:, [j]] * (np.eye(dy.shape[1])[j] - self.p)
        return dz


def windows_forward(x, k):
    """Blocks of k steps side by side: x (n, c, T)."""
    n, c, T = x.shape
    blocks = x.reshape(n, c, T // k, k)
    best = blocks.real.argmax(axis=-1)
    return np.take_along_axis(blocks, best[..., None], -1)[..., 0], {"x": x, "k": k, "best": best, "blocks": blocks}


def windows(rng):
    return windows_forward, {"x": rng.standard_normal((6, 5, 12))}, {"k": 3}


def overlap_forward(x, size, stride):
    starts = range(0, x.shape[1] - size + 1, stride)
    at = np.stack([s + x[:, s : s + size].real.argmax(axis=1) for s in starts], axis=1)
    return np.take_along_axis(x, at, axis=1), (at, x)


def overlap(rng):
    """Spikes that are the greatest of several windows."""
    x = rng.standard_normal((3, 11))
    x[:, 5] += 6
    return overlap_forward, {"x": x}, {"size": 5, "stride": 2}


def image_forward(img):
    """Blocks of 2 by 3 pixels; channels last."""
    n, h, w, c = img.shape
    blocks = img.reshape(n, h // 2, 2, w // 3, 3, c)
    out = blocks.max(axis=(2, 4))
    return out, (img.shape, blocks == out[:, :, None, :, None], blocks, out)


def image(rng):
    return image_forward, {"img": rng.standard_normal((3, 8, 6, 5))}, {}


def image_single(rng):
    return image_forward, single(image(rng)[1]), {}


def over_time_forward(h, keep):
    """The greatest over the tokens that are no padding."""
    filled = np.where(keep[:, :, None], h, -1e9)
    return filled.max(axis=1), (h, keep, filled)


def over_time(rng):
    h, keep = rng.standard_normal((4, 6, 3)), kept(rng, 4, 6)
    keep[:, 0], keep[:, -1] = True, False
    h[:, -1] += 4
    return over_time_forward, {"h": h}, {"keep": keep}


def put(dout, cache):
    dblocks = np.zeros_like(cache["blocks"])
    np.put_along_axis(dblocks, cache["best"][..., None], dout[..., None], axis=-1)
    return dblocks.reshape(cache["x"].shape)


@wrong_backward("max_pool", windows, spoils=("x",), cause="mask_ignored")
def every_entry_of_the_window_gets_it(dout, cache):
    return np.repeat(dout, cache["k"], axis=-1)


@wrong_backward("max_pool", image, spoils=("img",), cause="wrong_derivative")
def as_in_average_pooling(grad, cache):
    shape, hit, blocks, out = cache
    share = grad[:, :, None, :, None] / 6
    return np.broadcast_to(share, blocks.shape).reshape(shape)


@wrong_backward("max_pool", overlap, spoils=("x",), cause="not_accumulated")
def winner_of_several_windows_paid_once(dy, cache):
    at, x = cache
    dx = np.zeros_like(x)
    np.put_along_axis(dx, at, dy, axis=1)
    return dx


@wrong_backward("max_pool", overlap, spoils=("x",), cause="not_accumulated")
def indexed_addition_counts_once(dy, cache):
    at, x = cache
    dx = np.zeros_like(x)
    dx[np.arange(len(x))[:, None], at] += dy
    return dx


@wrong_backward("max_pool", windows, spoils=("x",), cause="zero_gradient")
def assigned_to_a_copy(dout, cache):
    dblocks = np.zeros_like(cache["blocks"])
    np.take_along_axis(dblocks, cache["best"][..., None], axis=-1)[..., 0] = dout
    return dblocks.reshape(cache["x"].shape)


@wrong_backward("max_pool", windows, spoils=("x",), cause="transpose")
def blocks_tiled_instead_of_side_by_side(dout, cache):
    n, c, T = cache["x"].shape
    dblocks = np.zeros_like(cache["blocks"])
    np.put_along_axis(dblocks, cache["best"][..., None], dout[..., None], axis=-1)
    return dblocks.swapaxes(2, 3).reshape(n, c, T)


@wrong_backward("max_pool", image, spoils=("img",), cause="transpose")
def blocks_reshaped_without_their_order(grad, cache):
    shape, hit, blocks, out = cache
    dblocks = grad[:, :, :, None, None] * hit.transpose(0, 1, 3, 2, 4, 5)
    return dblocks.reshape(shape)


@wrong_backward("max_pool", image, spoils=("img",), cause="ignores_upstream")
def one_where_the_maximum_is(grad, cache):
    shape, hit, _, _ = cache
    return hit.astype(float).reshape(shape)


@wrong_backward("max_pool", image, spoils=("img",), cause="elementwise_factor")
def times_the_maximum_itself(grad, cache):
    shape, hit, blocks, out = cache
    return (hit * (grad * out)[:, :, None, :, None]).reshape(shape)


@wrong_backward("max_pool", image, spoils=("img",), cause="wrong_cached_value")
def smallest_instead_of_greatest(grad, cache):
    shape, _, blocks, _ = cache
    hit = blocks == blocks.min(axis=(2, 4), keepdims=True)
    return (hit * grad[:, :, None, :, None]).reshape(shape)


@wrong_backward("max_pool", windows, spoils=("x",), cause="reduction_axis", also=("wrong_cached_value",))
def maximum_over_the_whole_row(dout, cache):
    x = cache["x"]
    hit = x == x.max(axis=-1, keepdims=True)
    return hit * np.repeat(dout, cache["k"], axis=-1)


@wrong_backward("max_pool", over_time, spoils=("h",), cause="mask_ignored", also=("wrong_cached_value",))
def padding_may_win(dout, cache):
    h, keep, filled = cache
    hit = h == h.max(axis=1, keepdims=True)
    return hit * dout[:, None]


@wrong_backward("max_pool", over_time, spoils=("h",), cause="constant_factor", also=("mean_vs_sum",))
def divided_by_the_tokens_as_in_the_mean(dout, cache):
    h, keep, filled = cache
    hit = filled == filled.max(axis=1, keepdims=True)
    return np.where(hit, dout[:, None] / h.shape[1], 0)


@wrong_backward("max_pool", over_time, spoils=("h",), cause="shape")
def winners_only(dout, cache):
    h, keep, filled = cache
    return dout[:, None]


@wrong_backward("max_pool", windows, spoils=("backward",), cause="inplace")
def positions_made_flat_in_the_cache(dout, cache):
    best, k = cache["best"], cache["k"]
    best += k * np.arange(best.shape[-1])
    dx = np.zeros_like(cache["x"])
    np.put_along_axis(dx, best, dout, axis=-1)
    return dx


@wrong_backward("max_pool", image_single, spoils=("img",), cause="dtype")
def mask_turned_into_doubles(grad, cache):
    shape, hit, _, _ = cache
    return (hit.astype(float) * grad[:, :, None, :, None]).reshape(shape)
