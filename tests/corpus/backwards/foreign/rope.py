"""Mistakes in rotary positions."""

import numpy as np
from corpus.drawing import single
from corpus.entries import wrong_backward


def rotate_half(v):
    """Llama's layout: the partner of feature i is feature i + d / 2."""
    first, second = np.split(v, 2, axis=-1)
    return np.concatenate([-second, first], axis=-1)


def angles(positions, half, base=50.0):
    return positions[:, None] * base ** -(np.arange(half) / half)


def places(rng, count):
    """Positions out of order and without zero, as for packed sequences."""
    return 1 + rng.permutation(count + 4)[:count]


def halves_forward(x, positions):
    angle = angles(positions, x.shape[-1] // 2)
    cos, sin = (np.concatenate([f(angle)] * 2, axis=-1) for f in (np.cos, np.sin))
    return x * cos + rotate_half(x) * sin, (cos, sin)


def halves(rng):
    return halves_forward, {"x": rng.standard_normal((4, 5, 6))}, {"positions": places(rng, 5)}


def pairs_forward(q, pos, scale):
    """The first paper's layout, features 2i and 2i + 1, and a scale for long contexts."""
    angle = angles(pos, q.shape[-1] // 2)
    cos, sin = np.cos(angle), np.sin(angle)
    even, odd = q[..., ::2], q[..., 1::2]
    turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return scale * turned.reshape(q.shape), {"cos": cos, "sin": sin, "scale": scale, "pos": pos}


def pairs(rng):
    return pairs_forward, {"q": rng.standard_normal((3, 5, 8))}, {"pos": places(rng, 5), "scale": 1.3}


def pairs_single(rng):
    forward, inputs, fixed = pairs(rng)
    return forward, single(inputs), fixed


def partial_forward(x, positions, width):
    """Only the first features turn."""
    turned, tables = halves_forward(x[..., :width], positions)
    return np.concatenate([turned, x[..., width:]], axis=-1), (tables, width)


def partial(rng):
    return partial_forward, {"x": rng.standard_normal((7, 5, 10))}, {"positions": places(rng, 5), "width": 6}


def learned_forward(z, theta, positions):
    """Frequencies that are learned; z holds pairs on its last axis."""
    angle = positions[:, None] * theta
    c, s = np.cos(angle), np.sin(angle)
    u, v = z[..., 0], z[..., 1]
    return np.stack([u * c - v * s, u * s + v * c], axis=-1), (u, v, c, s, positions)


def learned(rng):
    theta = rng.uniform(0.3, 1.2, 4)
    return learned_forward, {"z": rng.standard_normal((5, 4, 2)), "theta": theta}, {"positions": places(rng, 5)}


def scores_forward(q, k, pos):
    """Some heads of queries share one head of keys."""
    (turned_q, tables), (turned_k, _) = halves_forward(q, pos), halves_forward(k, pos)
    return turned_q @ turned_k.T, (turned_q, turned_k, *tables)


def scores(rng):
    inputs = {"q": rng.standard_normal((4, 5, 6)), "k": rng.standard_normal((5, 6))}
    return scores_forward, inputs, {"pos": places(rng, 5)}


def both_forward(q, k, pos):
    (turned_q, tables), (turned_k, _) = halves_forward(q, pos), halves_forward(k, pos)
    return (turned_q, turned_k), tables


def both(rng):
    inputs = {name: rng.standard_normal((4, 5, 6)) for name in "qk"}
    return both_forward, inputs, {"pos": places(rng, 5)}


def unrotate(d, cos, sin):
    return d * cos - rotate_half(d) * sin


def back_pairs(dout, cache):
    even, odd = dout[..., ::2] * cache["scale"], dout[..., 1::2] * cache["scale"]
    return even * cache["cos"] + odd * cache["sin"], odd * cache["cos"] - even * cache["sin"]


def back_z(dy, c, s):
    return np.stack([dy[..., 0] * c + dy[..., 1] * s, dy[..., 1] * c - dy[..., 0] * s], axis=-1)


@wrong_backward("rope", halves, spoils=("x",), cause="transpose", also=("sign",))
def turned_once_more_in_the_same_direction(dy, cache):
    cos, sin = cache
    return dy * cos + rotate_half(dy) * sin


@wrong_backward("rope", halves, spoils=("x",), cause="missing_term", also=("missing_path",))
def partner_forgotten(dy, cache):
    cos, sin = cache
    return dy * cos


@wrong_backward("rope", pairs, spoils=("q",), cause="transpose")
def pairs_put_back_as_halves(dout, cache):
    return np.concatenate(back_pairs(dout, cache), axis=-1)


@wrong_backward("rope", pairs, spoils=("q",), cause="wrong_cached_value")
def counted_from_zero(dout, cache):
    """The rows of a packed batch do not stand in order."""
    angle = angles(np.arange(dout.shape[1]), dout.shape[2] // 2)
    tables = {**cache, "cos": np.cos(angle), "sin": np.sin(angle)}
    return np.stack(back_pairs(dout, tables), axis=-1).reshape(dout.shape)


@wrong_backward("rope", halves, spoils=("x",), cause="wrong_cached_value")
def sine_and_cosine_unpacked_in_the_other_order(dy, cache):
    sin, cos = cache
    return unrotate(dy, cos, sin)


@wrong_backward("rope", partial, spoils=("x",), cause="missing_path", also=("missing_term",))
def features_that_do_not_turn_get_nothing(grad, cache):
    tables, width = cache
    dx = np.zeros_like(grad)
    dx[..., :width] = unrotate(grad[..., :width], *tables)
    return dx


@wrong_backward("rope", partial, spoils=("x",), cause="shape")
def features_that_do_not_turn_left_out(grad, cache):
    tables, width = cache
    return unrotate(grad[..., :width], *tables)


@wrong_backward("rope", learned, spoils=("z",), cause="sign")
def plus_in_both_rows(dy, cache):
    u, v, c, s, positions = cache
    dz = np.empty_like(dy)
    dz[..., 0] = c * dy[..., 0] + s * dy[..., 1]
    dz[..., 1] = c * dy[..., 1] + s * dy[..., 0]
    dangle = dy[..., 0] * (-u * s - v * c) + dy[..., 1] * (u * c - v * s)
    return dz, positions @ dangle


@wrong_backward("rope", pairs, spoils=("q",), cause="constant_factor")
def scale_for_long_contexts_forgotten(dout, cache):
    back = back_pairs(dout, {**cache, "scale": 1})
    return np.stack(back, axis=-1).reshape(dout.shape)


@wrong_backward("rope", pairs, spoils=("q",), cause="wrong_cached_value")
def even_ones_already_overwritten(dout, cache):
    dq = cache["scale"] * dout
    dq[..., ::2] = dq[..., ::2] * cache["cos"] + dq[..., 1::2] * cache["sin"]
    dq[..., 1::2] = dq[..., 1::2] * cache["cos"] - dq[..., ::2] * cache["sin"]
    return dq


@wrong_backward("rope", pairs, spoils=("backward",), cause="inplace")
def turned_back_in_its_own_memory(dout, cache):
    dout[..., ::2], dout[..., 1::2] = back_pairs(dout, cache)
    return dout


@wrong_backward("rope", scores, spoils=("k",), cause="not_accumulated")
def keys_shared_by_heads_take_the_last(dscores, cache):
    turned_q, turned_k, cos, sin = cache
    dq = np.empty_like(turned_q)
    for h, d in enumerate(dscores):
        dq[h] = unrotate(d @ turned_k, cos, sin)
        dk = unrotate(d.T @ turned_q[h], cos, sin)
    return dq, dk


@wrong_backward("rope", scores, spoils=("k",), cause="mean_vs_sum", also=("constant_factor",))
def keys_averaged_over_heads(dscores, cache):
    turned_q, turned_k, cos, sin = cache
    dk = np.einsum("hqk,hqd->hkd", dscores, turned_q).mean(axis=0)
    return unrotate(dscores @ turned_k, cos, sin), unrotate(dk, cos, sin)


@wrong_backward("rope", both, spoils=("q", "k"), cause="swapped")
def keys_before_queries(douts, tables):
    dq, dk = (unrotate(d, *tables) for d in douts)
    return dk, dq


@wrong_backward("rope", both, spoils=("k",), cause="zero_gradient")
def only_queries_are_turned_back(douts, tables):
    dq = unrotate(douts[0], *tables)
    return dq, np.zeros_like(dq)


@wrong_backward("rope", learned, spoils=("theta",), cause="elementwise_factor")
def position_is_the_inner_derivative(dy, cache):
    u, v, c, s, positions = cache
    dangle = dy[..., 0] * (-u * s - v * c) + dy[..., 1] * (u * c - v * s)
    return back_z(dy, c, s), dangle.sum(axis=0)


@wrong_backward("rope", learned, spoils=("theta",), cause="factor_order")
def positions_summed_on_their_own(dy, cache):
    u, v, c, s, positions = cache
    dangle = dy[..., 0] * (-u * s - v * c) + dy[..., 1] * (u * c - v * s)
    return back_z(dy, c, s), positions.sum() * dangle.sum(axis=0)


@wrong_backward("rope", learned, spoils=("theta",), cause="missing_path", also=("missing_term",))
def frequency_moves_the_second_of_a_pair_too(dy, cache):
    u, v, c, s, positions = cache
    dangle = dy[..., 0] * (-u * s - v * c)
    return back_z(dy, c, s), positions @ dangle


@wrong_backward("rope", pairs_single, spoils=("q",), cause="dtype")
def tables_in_double_precision(dout, cache):
    """The forward has them in double precision as well, and nobody looks at an output's dtype."""
    return np.stack(back_pairs(dout, cache), axis=-1).reshape(dout.shape)
