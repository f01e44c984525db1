"""Mistakes in attention of many heads, behind the forward of lora_np.ops."""

import math

import numpy as np
from suite_parts import collector, dropout_mask

from lora_np import ops

WRONG = []
attention = collector(WRONG, "attention")


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


def softmax_wrong(setting, cause, also="", arguments="Q K"):
    """Collect what is wrong in one line only: from dP to dS, before the division by sqrt(d)."""

    def keep(line):
        def backward(dO, cache):
            Q, K, V, P, mask = cache
            D = P if mask is None else P * mask
            dV = np.einsum("nhtu,nhtv->nhuv", D, dO)
            dD = np.einsum("nhtv,nhuv->nhtu", dO, V)
            dS = line(dD, P, mask) / math.sqrt(Q.shape[-1])
            return np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q), dV

        attention(setting, arguments, cause, also, line.__name__)(backward)
        return line

    return keep


@softmax_wrong(of_ops, "missing_path")
def normaliser_forgotten(dP, P, _):
    return P * dP


@softmax_wrong(of_ops, "wrong_derivative", "missing_path")
def softmax_as_if_it_were_a_sigmoid(dP, P, _):
    return dP * P * (1 - P)


@softmax_wrong(of_ops, "elementwise_factor")
def p_in_front_forgotten(dP, P, _):
    return dP - (P * dP).sum(axis=-1, keepdims=True)


@softmax_wrong(of_ops, "elementwise_factor")
def p_in_front_of_one_term_only(dP, P, _):
    return P * dP - np.sum(P * dP, -1, keepdims=True)


@softmax_wrong(to_itself, "elementwise_factor")
def p_in_the_sum_forgotten(dP, P, _):
    return P * (dP - dP.sum(axis=-1, keepdims=True))


@softmax_wrong(to_itself, "sign")
def normaliser_added(dP, P, _):
    return P * (dP + (P * dP).sum(axis=-1, keepdims=True))


@softmax_wrong(of_ops, "mean_vs_sum")
def mean_along_the_row(dP, P, _):
    return P * (dP - (P * dP).mean(axis=-1, keepdims=True))


@softmax_wrong(of_ops, "reduction_axis")
def sum_over_queries(dP, P, _):
    return P * (dP - (P * dP).sum(axis=2, keepdims=True))


@softmax_wrong(to_itself, "reduction_axis")
def sum_over_the_whole_head(dP, P, _):
    return P * (dP - (P * dP).sum(axis=(2, 3), keepdims=True))


@softmax_wrong(dropped, "mask_ignored")
def dropout_forgotten_in_dp(dD, P, mask):
    return P * (dD - (P * dD).sum(axis=-1, keepdims=True))


@softmax_wrong(causal, "factor_order")
def mask_after_the_softmax(dD, P, mask):
    return P * (dD - (P * dD).sum(axis=-1, keepdims=True)) * mask


@softmax_wrong(dropped, "elementwise_factor", "constant_factor")
def mask_twice_in_dp(dD, P, mask):
    dP = dD * mask * mask
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


@softmax_wrong(dropped, "wrong_cached_value", "elementwise_factor")
def d_for_p_in_the_softmax(dD, P, mask):
    dP, D = dD * mask, P * mask
    return D * (dP - (D * dP).sum(axis=-1, keepdims=True))


@attention(of_ops, "Q K", "constant_factor")
def root_of_d_forgotten(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (dP * P).sum(3, keepdims=True))
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@attention(to_itself, "Q", "constant_factor")
def root_of_d_twice(dO, cache):
    Q, K, V, P, _ = cache
    c = 1 / math.sqrt(Q.shape[3])
    dP = dO @ V.swapaxes(2, 3)
    dS = c * P * (dP - (dP * P).sum(3, keepdims=True))
    dQ = c * dS @ K
    return dQ, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@attention(to_itself, "V", "transpose")
def weights_not_transposed_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dV = P @ dO
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@attention(to_itself, "K", "transpose")
def scores_not_transposed_for_keys(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS @ Q, P.swapaxes(2, 3) @ dO


@attention(to_itself, "Q", "wrong_cached_value")
def queries_times_queries(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ Q, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@attention(to_itself, "Q K", "wrong_cached_value")
def keys_taken_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dP = np.matmul(dO, K.swapaxes(-1, -2))
    dS = (dP - (P * dP).sum(-1, keepdims=True)) * P / math.sqrt(Q.shape[-1])
    return dS @ K, np.matmul(dS.swapaxes(-1, -2), Q), np.matmul(P.swapaxes(-1, -2), dO)


@attention(to_itself, "Q K", "swapped")
def keys_before_queries(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    dQ, dK, dV = dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO
    return dK, dQ, dV


@attention(dropped, "backward", "inplace")
def weights_masked_in_the_cache(dO, cache):
    Q, K, V, P, mask = cache
    dP = (dO @ V.swapaxes(2, 3)) * mask
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    P *= mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@attention(dropped, "backward", "nondeterministic")
def other_weights_dropped(dO, cache):
    Q, K, V, P, mask = cache
    mask = (np.random.default_rng().random(P.shape) > 0.3) / 0.7
    dP = (dO @ V.swapaxes(2, 3)) * mask
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * mask).swapaxes(2, 3) @ dO


@attention(to_itself, "K", "zero_gradient")
def keys_never_filled_in(dO, cache):
    Q, K, V, P, _ = cache
    dK = np.zeros_like(K)
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    for n in range(len(Q)):
        dK[[n]][0] += dS[n].swapaxes(1, 2) @ Q[n]
    return dS @ K, dK, P.swapaxes(2, 3) @ dO


@attention(of_ops, "V", "ignores_upstream")
def column_sums_for_values(dO, cache):
    Q, K, V, P, _ = cache
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(3, keepdims=True)) / math.sqrt(Q.shape[3])
    dV = P.sum(axis=2)[..., None] * np.ones_like(V)
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV
