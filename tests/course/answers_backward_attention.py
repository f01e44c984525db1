"""Answers to the exercises of chapter 4, second part: the backwards of softmax and attention."""

import math

import numpy as np
from answers_parts import Right, Wrong


def diagonal_only(dP, P):
    return dP * P * (1 - P)


def softmax_sum_over_columns(dP, P):
    return P * (dP - (P * dP).sum(axis=0, keepdims=True))


def softmax_mean_for_sum(dP, P):
    return P * (dP - (P * dP).mean(axis=-1, keepdims=True))


def outer_p_missing(dP, P):
    return dP - (P * dP).sum(axis=-1, keepdims=True)


def inner_p_missing(dP, P):
    return P * (dP - dP.sum(axis=-1, keepdims=True))


def sum_added(dP, P):
    return P * (dP + (P * dP).sum(axis=-1, keepdims=True))


def sum_missing(dP, P):
    return P * dP


def sum_not_times_p(dP, P):
    return P * dP - (P * dP).sum(axis=-1, keepdims=True)


def softmax_into_the_upstream(dP, P):
    dP -= (P * dP).sum(axis=-1, keepdims=True)
    dP *= P
    return dP


def slope_of_softmax_alone(dP, P):
    return P - P * P


def one_sum_for_all(dP, P):
    return P * (dP - np.sum(P * dP))


def jacobian_in_double(dP, P):
    n = P.shape[-1]
    J = P[..., :, None] * (np.eye(n) - P[..., None, :])
    return (J @ dP[..., None])[..., 0]


def softmax_returns_nothing(dP, P):
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))  # noqa: F841


def row_by_row(dP, P):
    dS = np.empty_like(P)
    for i in np.ndindex(P.shape[:-1]):
        p = P[i]
        dS[i] = (np.diag(p) - np.outer(p, p)) @ dP[i]
    return dS


def two_parts(dP, P):
    weighted = P * dP
    return weighted - np.einsum("...u,...->...u", P, np.einsum("...u->...", weighted))


def jacobian_of_all_rows(dP, P):
    flat, upstream = P.reshape(-1, P.shape[-1]), dP.reshape(-1, P.shape[-1])
    J = np.eye(flat.shape[1], dtype=P.dtype) * flat[:, None, :] - np.einsum("ku,kv->kuv", flat, flat)
    return np.einsum("kuv,ku->kv", J, upstream).reshape(P.shape)


def scale_missing_on_the_way_back(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True))
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def scale_missing_for_the_keys(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True))
    return dS @ K / math.sqrt(Q.shape[3]), dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def scale_without_root(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / Q.shape[3]
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def values_met_p(dO, cache):
    Q, K, V, P, mask = cache
    dV = P.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


def dropout_not_undone(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dV = D.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


def softmax_as_sigmoid(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (1 - P) * dP / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def keys_not_transposed(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS @ Q, D.swapaxes(2, 3) @ dO


def sum_over_the_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=2, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def keys_before_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS.swapaxes(2, 3) @ Q, dS @ K, D.swapaxes(2, 3) @ dO


def softmax_of_the_dropped(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = D * (dP - (D * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def softmax_step_skipped(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dS = dO @ V.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if mask is not None:
        dS = dS * mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def cached_weights_overwritten(dO, cache):
    Q, K, V, P, mask = cache
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP *= mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    if mask is not None:
        P *= mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


def queries_met_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ Q, dS.swapaxes(2, 3) @ K, D.swapaxes(2, 3) @ dO


def backward_with_root_of_numpy(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / np.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def row_sum_forgotten(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * dP / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


def row_sums_from_the_output(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    delta = (dO * (D @ V)).sum(axis=-1, keepdims=True)
    dD = dO @ V.swapaxes(-1, -2)
    dS = P * ((dD if mask is None else dD * mask) - delta)
    scale = Q.shape[-1] ** -0.5
    return dS @ (scale * K), dS.swapaxes(-1, -2) @ (scale * Q), D.swapaxes(-1, -2) @ dO


def einsum_for_every_product(dO, cache):
    Q, K, V, P, mask = cache
    keep = np.ones_like(P) if mask is None else mask
    dV = np.einsum("nhtu,nhtu,nhte->nhue", P, keep, dO)
    dP = np.einsum("nhte,nhue,nhtu->nhtu", dO, V, keep)
    dS = P * dP - P * np.einsum("nhtu,nhtu->nht", P, dP)[..., None]
    dQ, dK = np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q)
    return [dQ / math.sqrt(Q.shape[3]), dK / math.sqrt(Q.shape[3]), dV]


def query_after_query(dO, cache):
    Q, K, V, P, mask = cache
    scale = 1 / math.sqrt(Q.shape[3])
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    for i in np.ndindex(Q.shape[:3]):
        n, h, t = i
        keep = 1 if mask is None else mask[i]
        dV[n, h] += np.outer(P[i] * keep, dO[i])
        dp = (V[n, h] @ dO[i]) * keep
        ds = (np.diag(P[i]) - np.outer(P[i], P[i])) @ dp * scale
        dQ[i] = ds @ K[n, h]
        dK[n, h] += np.outer(ds, Q[i])
    return dQ, dK, dV


WRONG = [
    Wrong("softmax_backward", diagonal_only, "missing_term", ("wrong_derivative",)),
    Wrong("softmax_backward", softmax_sum_over_columns, "reduction_axis"),
    Wrong("softmax_backward", softmax_mean_for_sum, "mean_vs_sum"),
    Wrong("softmax_backward", outer_p_missing, "elementwise_factor"),
    Wrong("softmax_backward", inner_p_missing, "elementwise_factor"),
    Wrong("softmax_backward", sum_added, "sign"),
    Wrong("softmax_backward", sum_missing, "missing_term", ("missing_path",)),
    Wrong("softmax_backward", sum_not_times_p, "elementwise_factor", ("factor_order",)),
    Wrong("softmax_backward", softmax_into_the_upstream, "inplace"),
    Wrong("softmax_backward", slope_of_softmax_alone, "ignores_upstream"),
    Wrong("softmax_backward", one_sum_for_all, "reduction_axis"),
    Wrong("softmax_backward", jacobian_in_double, "dtype"),
    Wrong("softmax_backward", softmax_returns_nothing, "zero_gradient"),
    Wrong("attention_backward", scale_missing_on_the_way_back, "constant_factor"),
    Wrong("attention_backward", scale_missing_for_the_keys, "constant_factor"),
    Wrong("attention_backward", scale_without_root, "constant_factor"),
    Wrong("attention_backward", values_met_p, "mask_ignored", ("wrong_cached_value", "elementwise_factor")),
    Wrong("attention_backward", dropout_not_undone, "mask_ignored", ("elementwise_factor",)),
    Wrong("attention_backward", softmax_as_sigmoid, "missing_term", ("wrong_derivative",)),
    Wrong("attention_backward", keys_not_transposed, "transpose"),
    Wrong("attention_backward", sum_over_the_queries, "reduction_axis"),
    Wrong("attention_backward", keys_before_queries, "swapped"),
    Wrong("attention_backward", softmax_of_the_dropped, "wrong_cached_value", ("elementwise_factor",)),
    Wrong("attention_backward", softmax_step_skipped, "wrong_derivative", ("missing_term",)),
    Wrong("attention_backward", cached_weights_overwritten, "inplace"),
    Wrong("attention_backward", queries_met_queries, "wrong_cached_value", ("swapped",)),
    Wrong("attention_backward", backward_with_root_of_numpy, "dtype"),
    Wrong("attention_backward", row_sum_forgotten, "missing_term", ("missing_path",)),
]
RIGHT = [
    Right("softmax_backward", row_by_row),
    Right("softmax_backward", two_parts),
    Right("softmax_backward", jacobian_of_all_rows),
    Right("attention_backward", row_sums_from_the_output),
    Right("attention_backward", einsum_for_every_product),
    Right("attention_backward", query_after_query),
]
