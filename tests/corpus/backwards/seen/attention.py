"""Mistakes in attention of many heads, behind the forward of lora_np.ops."""

import math

import numpy as np
from corpus.drawing import dropout_mask
from corpus.entries import wrong_backward

from lora_np import ops


def heads(rng, T=4, U=7, d=5, d_v=6):
    draw = rng.standard_normal
    return {"Q": draw((2, 3, T, d)), "K": draw((2, 3, U, d)), "V": draw((2, 3, U, d_v))}


def of_ops(rng):
    return ops.attention_forward, heads(rng), {}


def to_itself(rng):
    """As many keys as queries, and values as wide as keys: every product fits."""
    return ops.attention_forward, heads(rng, U=4, d_v=5), {}


def dropped(rng):
    return ops.attention_forward, heads(rng), {"mask": dropout_mask(rng, 2, 3, 4, 7)}


def causal(rng):
    fixed = {"visible": np.tri(4, dtype=bool), "mask": dropout_mask(rng, 2, 3, 4, 4)}
    return ops.attention_forward, heads(rng, U=4), fixed


def in_one_line(line):
    """Return a backward from what is wrong in one line only: from dP to dS, before the division by sqrt(d)."""

    def backward(dO, cache):
        Q, K, V, P, mask = cache
        D = P if mask is None else P * mask
        dV = np.einsum("nhtu,nhtv->nhuv", D, dO)
        dD = np.einsum("nhtv,nhuv->nhtu", dO, V)
        dS = line(dD, P, mask) / math.sqrt(Q.shape[-1])
        return np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q), dV

    backward.__name__ = line.__name__
    return backward


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="missing_path")
@in_one_line
def normaliser_forgotten(dP, P, _):
    return P * dP


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="wrong_derivative", also=("missing_path",))
@in_one_line
def softmax_as_if_it_were_a_sigmoid(dP, P, _):
    return dP * P * (1 - P)


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="elementwise_factor")
@in_one_line
def p_in_front_forgotten(dP, P, _):
    return dP - (P * dP).sum(axis=-1, keepdims=True)


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="elementwise_factor")
@in_one_line
def p_in_front_of_one_term_only(dP, P, _):
    return P * dP - np.sum(P * dP, -1, keepdims=True)


@wrong_backward("attention", to_itself, spoils=("Q", "K"), cause="elementwise_factor")
@in_one_line
def p_in_the_sum_forgotten(dP, P, _):
    return P * (dP - dP.sum(axis=-1, keepdims=True))


@wrong_backward("attention", to_itself, spoils=("Q", "K"), cause="sign")
@in_one_line
def normaliser_added(dP, P, _):
    return P * (dP + (P * dP).sum(axis=-1, keepdims=True))


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="mean_vs_sum")
@in_one_line
def mean_along_the_row(dP, P, _):
    return P * (dP - (P * dP).mean(axis=-1, keepdims=True))


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="reduction_axis")
@in_one_line
def sum_over_queries(dP, P, _):
    return P * (dP - (P * dP).sum(axis=2, keepdims=True))


@wrong_backward("attention", to_itself, spoils=("Q", "K"), cause="reduction_axis")
@in_one_line
def sum_over_the_whole_head(dP, P, _):
    return P * (dP - (P * dP).sum(axis=(2, 3), keepdims=True))


@wrong_backward("attention", dropped, spoils=("Q", "K"), cause="mask_ignored")
@in_one_line
def dropout_forgotten_in_dp(dD, P, mask):
    return P * (dD - (P * dD).sum(axis=-1, keepdims=True))


@wrong_backward("attention", causal, spoils=("Q", "K"), cause="factor_order")
@in_one_line
def mask_after_the_softmax(dD, P, mask):
    return P * (dD - (P * dD).sum(axis=-1, keepdims=True)) * mask


@wrong_backward("attention", dropped, spoils=("Q", "K"), cause="elementwise_factor", also=("constant_factor",))
@in_one_line
def mask_twice_in_dp(dD, P, mask):
    dP = dD * mask * mask
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


@wrong_backward("attention", dropped, spoils=("Q", "K"), cause="wrong_cached_value", also=("elementwise_factor",))
@in_one_line
def d_for_p_in_the_softmax(dD, P, mask):
    dP, D = dD * mask, P * mask
    return D * (dP - (D * dP).sum(axis=-1, keepdims=True))


@wrong_backward("attention", of_ops, spoils=("Q", "K"), cause="constant_factor")
def root_of_d_forgotten(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (dP * P).sum(3, keepdims=True))
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", to_itself, spoils=("Q",), cause="constant_factor")
def root_of_d_twice(dO, cache):
    Q, K, V, P, _ = cache
    c = 1 / math.sqrt(Q.shape[3])
    dP = dO @ V.swapaxes(2, 3)
    dS = c * P * (dP - (dP * P).sum(3, keepdims=True))
    dQ = c * dS @ K
    return dQ, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", to_itself, spoils=("V",), cause="transpose")
def weights_not_transposed_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dV = P @ dO
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_backward("attention", to_itself, spoils=("K",), cause="transpose")
def scores_not_transposed_for_keys(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS @ Q, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", to_itself, spoils=("Q",), cause="wrong_cached_value")
def queries_times_queries(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ Q, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", to_itself, spoils=("Q", "K"), cause="wrong_cached_value")
def keys_taken_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dP = np.matmul(dO, K.swapaxes(-1, -2))
    dS = (dP - (P * dP).sum(-1, keepdims=True)) * P / math.sqrt(Q.shape[-1])
    return dS @ K, np.matmul(dS.swapaxes(-1, -2), Q), np.matmul(P.swapaxes(-1, -2), dO)


@wrong_backward("attention", to_itself, spoils=("Q", "K"), cause="swapped")
def keys_before_queries(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    dQ, dK, dV = dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO
    return dK, dQ, dV


@wrong_backward("attention", dropped, spoils=("backward",), cause="inplace")
def weights_masked_in_the_cache(dO, cache):
    Q, K, V, P, mask = cache
    dP = (dO @ V.swapaxes(2, 3)) * mask
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    P *= mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", dropped, spoils=("backward",), cause="nondeterministic")
def other_weights_dropped(dO, cache):
    Q, K, V, P, mask = cache
    mask = (np.random.default_rng().random(P.shape) > 0.3) / 0.7
    dP = (dO @ V.swapaxes(2, 3)) * mask
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * mask).swapaxes(2, 3) @ dO


@wrong_backward("attention", to_itself, spoils=("K",), cause="zero_gradient")
def keys_never_filled_in(dO, cache):
    Q, K, V, P, _ = cache
    dK = np.zeros_like(K)
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    for n in range(len(Q)):
        dK[[n]][0] += dS[n].swapaxes(1, 2) @ Q[n]
    return dS @ K, dK, P.swapaxes(2, 3) @ dO


@wrong_backward("attention", of_ops, spoils=("V",), cause="ignores_upstream")
def column_sums_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    dV = P.sum(axis=2)[..., None] * np.ones_like(V)
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV
