"""Answers to the exercises of chapter 4, second part: the backwards of softmax and attention."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer


@wrong_answer("softmax_backward", cause="missing_term", also=("wrong_derivative",))
def diagonal_only(dP, P):
    return dP * P * (1 - P)


@wrong_answer("softmax_backward", cause="reduction_axis")
def softmax_sum_over_columns(dP, P):
    return P * (dP - (P * dP).sum(axis=0, keepdims=True))


@wrong_answer("softmax_backward", cause="mean_vs_sum")
def softmax_mean_for_sum(dP, P):
    return P * (dP - (P * dP).mean(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="elementwise_factor")
def outer_p_missing(dP, P):
    return dP - (P * dP).sum(axis=-1, keepdims=True)


@wrong_answer("softmax_backward", cause="elementwise_factor")
def inner_p_missing(dP, P):
    return P * (dP - dP.sum(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="sign")
def sum_added(dP, P):
    return P * (dP + (P * dP).sum(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="missing_term", also=("missing_path",))
def sum_missing(dP, P):
    return P * dP


@wrong_answer("softmax_backward", cause="elementwise_factor", also=("factor_order",))
def sum_not_times_p(dP, P):
    return P * dP - (P * dP).sum(axis=-1, keepdims=True)


@wrong_answer("softmax_backward", cause="inplace")
def softmax_into_the_upstream(dP, P):
    dP -= (P * dP).sum(axis=-1, keepdims=True)
    dP *= P
    return dP


@wrong_answer("softmax_backward", cause="ignores_upstream")
def slope_of_softmax_alone(dP, P):
    return P - P * P


@wrong_answer("softmax_backward", cause="reduction_axis")
def one_sum_for_all(dP, P):
    return P * (dP - np.sum(P * dP))


@wrong_answer("softmax_backward", cause="dtype")
def jacobian_in_double(dP, P):
    n = P.shape[-1]
    J = P[..., :, None] * (np.eye(n) - P[..., None, :])
    return (J @ dP[..., None])[..., 0]


@wrong_answer("softmax_backward", cause="zero_gradient")
def softmax_returns_nothing(dP, P):
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))  # noqa: F841


@right_answer("softmax_backward")
def row_by_row(dP, P):
    dS = np.empty_like(P)
    for i in np.ndindex(P.shape[:-1]):
        p = P[i]
        dS[i] = (np.diag(p) - np.outer(p, p)) @ dP[i]
    return dS


@right_answer("softmax_backward")
def two_parts(dP, P):
    weighted = P * dP
    return weighted - np.einsum("...u,...->...u", P, np.einsum("...u->...", weighted))


@right_answer("softmax_backward")
def jacobian_of_all_rows(dP, P):
    flat, upstream = P.reshape(-1, P.shape[-1]), dP.reshape(-1, P.shape[-1])
    J = np.eye(flat.shape[1], dtype=P.dtype) * flat[:, None, :] - np.einsum("ku,kv->kuv", flat, flat)
    return np.einsum("kuv,ku->kv", J, upstream).reshape(P.shape)


@wrong_answer("attention_backward", cause="constant_factor")
def scale_missing_on_the_way_back(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True))
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="constant_factor")
def scale_missing_for_the_keys(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True))
    return dS @ K / math.sqrt(Q.shape[3]), dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="constant_factor")
def scale_without_root(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / Q.shape[3]
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="mask_ignored", also=("wrong_cached_value", "elementwise_factor"))
def values_met_p(dO, cache):
    Q, K, V, P, mask = cache
    dV = P.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="mask_ignored", also=("elementwise_factor",))
def dropout_not_undone(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dV = D.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="missing_term", also=("wrong_derivative",))
def softmax_as_sigmoid(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (1 - P) * dP / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="transpose")
def keys_not_transposed(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="reduction_axis")
def sum_over_the_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=2, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="swapped")
def keys_before_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS.swapaxes(2, 3) @ Q, dS @ K, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def softmax_of_the_dropped(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = D * (dP - (D * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="wrong_derivative", also=("missing_term",))
def softmax_step_skipped(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dS = dO @ V.swapaxes(2, 3) / math.sqrt(Q.shape[3])
    if mask is not None:
        dS = dS * mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="inplace")
def cached_weights_overwritten(dO, cache):
    Q, K, V, P, mask = cache
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP *= mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    if mask is not None:
        P *= mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="wrong_cached_value", also=("swapped",))
def queries_met_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / math.sqrt(Q.shape[3])
    return dS @ Q, dS.swapaxes(2, 3) @ K, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="dtype")
def backward_with_root_of_numpy(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / np.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="missing_term", also=("missing_path",))
def row_sum_forgotten(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * dP / math.sqrt(Q.shape[3])
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@right_answer("attention_backward")
def row_sums_from_the_output(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    delta = (dO * (D @ V)).sum(axis=-1, keepdims=True)
    dD = dO @ V.swapaxes(-1, -2)
    dS = P * ((dD if mask is None else dD * mask) - delta)
    scale = Q.shape[-1] ** -0.5
    return dS @ (scale * K), dS.swapaxes(-1, -2) @ (scale * Q), D.swapaxes(-1, -2) @ dO


@right_answer("attention_backward")
def einsum_for_every_product(dO, cache):
    Q, K, V, P, mask = cache
    keep = np.ones_like(P) if mask is None else mask
    dV = np.einsum("nhtu,nhtu,nhte->nhue", P, keep, dO)
    dP = np.einsum("nhte,nhue,nhtu->nhtu", dO, V, keep)
    dS = P * dP - P * np.einsum("nhtu,nhtu->nht", P, dP)[..., None]
    dQ, dK = np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q)
    return [dQ / math.sqrt(Q.shape[3]), dK / math.sqrt(Q.shape[3]), dV]


@right_answer("attention_backward")
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
