"""Chapter 4, second part: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

# layer_norm_backward


@wrong_answer("layer_norm_backward", cause="reduction_axis")
def norm_means_over_the_batch(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    m1 = np.mean(dxhat, axis=0, keepdims=True)
    m2 = np.mean(dxhat * xhat, axis=0, keepdims=True)
    dx = inverse_std * (dxhat - m1 - xhat * m2)
    return dx, np.sum(dy * xhat, axis=0), np.sum(dy, axis=0)


@wrong_answer("layer_norm_backward", cause="missing_term", also=("missing_path",))
def norm_as_rms_norm(dy, cache):
    xhat, inverse_std, gamma = cache
    g = gamma * dy
    dx = (g - xhat * (g * xhat).mean(-1, keepdims=True)) * inverse_std
    return dx, (dy * xhat).sum(0), dy.sum(0)


@wrong_answer("layer_norm_backward", cause="missing_path", also=("missing_term",))
def norm_deviation_held_constant(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=1, keepdims=True))
    dgamma = np.einsum("nd,nd->d", dy, xhat)
    return dx, dgamma, dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="constant_factor", also=("mean_vs_sum", "wrong_cached_value"))
def norm_divides_by_the_rows(dy, cache):
    xhat, inverse_std, gamma = cache
    N = len(dy)
    dxhat = gamma * dy
    total = dxhat.sum(axis=1, keepdims=True)
    along = (dxhat * xhat).sum(axis=1, keepdims=True)
    dx = inverse_std * (dxhat - total / N - xhat * along / N)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="sign")
def norm_plus_along_xhat(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = dy * gamma
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True)
    dx = dx + xhat * np.mean(dxhat * xhat, axis=-1, keepdims=True)
    return dx * inverse_std, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="swapped")
def norm_parameters_exchanged(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dgamma = dy.sum(axis=0)
    dbeta = (dy * xhat).sum(axis=0)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True))
    return dx, dgamma, dbeta


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def norm_xhat_forgotten_outside(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along_xhat = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = inverse_std * (dxhat - dxhat.mean(axis=-1, keepdims=True) - along_xhat)
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="reduction_axis", also=("shape",))
def norm_gamma_per_row(dy, cache):
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    return dx, dy * xhat, dy.sum(0)


@right_answer("layer_norm_backward")
def norm_three_ways_added(dy, cache):
    xhat, inverse_std, gamma = cache
    d = xhat.shape[-1]
    centred = xhat / inverse_std
    dxhat = dy * gamma
    dvar = (dxhat * centred).sum(-1, keepdims=True) * -0.5 * inverse_std**3
    dmean = -(dxhat * inverse_std).sum(-1, keepdims=True) + dvar * (-2 / d) * centred.sum(-1, keepdims=True)
    dx = dxhat * inverse_std + dvar * 2 / d * centred + dmean / d
    return dx, (dy * xhat).sum(0), dy.sum(0)


@right_answer("layer_norm_backward")
def norm_as_least_squares(dy, cache):
    xhat, inverse_std, gamma = cache
    d = len(gamma)
    basis = np.stack([np.ones_like(xhat), xhat], axis=2)
    g = (dy * gamma)[:, :, None]
    rest = g - basis @ (basis.swapaxes(1, 2) @ g) / d
    return rest[:, :, 0] * inverse_std, np.diagonal(dy.T @ xhat).copy(), dy.T @ np.ones(len(dy), dy.dtype)


@right_answer("layer_norm_backward")
def norm_by_columns(dy, cache):
    g = (dy * cache.gamma).T
    xhat, inverse_std = cache.xhat.T, cache.inverse_std[:, 0]
    dx = inverse_std * (g - g.mean(axis=0) - xhat * (g * xhat).mean(axis=0))
    return dx.T, (dy.T * xhat).sum(axis=1), dy.T.sum(axis=1)


# cross_entropy_backward


@wrong_answer("cross_entropy_backward", cause="sign")
def entropy_asked_minus_given(dloss, cache):
    p, q, divisor = cache
    counts = q.any(axis=1)[:, None]
    return (q - p) * counts * dloss / divisor


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def entropy_mean_of_every_entry(dloss, cache):
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    dlogits = (p - q) * counts
    dlogits *= dloss / (divisor * p.shape[1])
    return dlogits


@wrong_answer("cross_entropy_backward", cause="wrong_cached_value")
def entropy_smoothing_forgotten(dloss, cache):
    p, q, divisor = cache
    target = np.zeros_like(p)
    rows = np.flatnonzero(q.any(axis=1))
    target[rows, q[rows].argmax(axis=1)] = 1
    return (p - target) * q.any(axis=1, keepdims=True) * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="wrong_derivative", also=("elementwise_factor",))
def entropy_through_the_softmax_again(dloss, cache):
    p, q, divisor = cache
    g = (p - q) * q.any(axis=1, keepdims=True) * (dloss / divisor)
    return p * (g - (p * g).sum(axis=1, keepdims=True))


@wrong_answer("cross_entropy_backward", cause="wrong_derivative", also=("missing_path",))
def entropy_stops_at_the_probabilities(dloss, cache):
    p, q, divisor = cache
    return -q / p * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="missing_term", also=("missing_path",))
def entropy_of_the_target_alone(dloss, cache):
    p, q, divisor = cache
    return -q * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause=None)
def entropy_breaks_at_an_ignored_row(dloss, cache):
    p, q, divisor = cache
    dlogits = np.zeros_like(p)
    for n in range(len(p)):
        if not q[n].any():
            break
        dlogits[n] = (p[n] - q[n]) * (dloss / divisor)
    return dlogits


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def entropy_divides_twice(dloss, cache):
    p, q, divisor = cache
    weight = q.any(axis=1, keepdims=True) * (1 / divisor)
    dlogits = weight.astype(p.dtype) * (p - q)
    return dloss * dlogits / divisor


@right_answer("cross_entropy_backward")
def entropy_in_a_loop(dloss, cache):
    p, q, divisor = cache
    dlogits = np.zeros_like(p)
    for n, target in enumerate(q):
        if target.sum() == 0:
            continue
        for j in range(len(target)):
            dlogits[n, j] = (p[n, j] - target[j]) * dloss / divisor
    return dlogits


@right_answer("cross_entropy_backward")
def entropy_chained(dloss, cache):
    p, q, divisor = cache
    dlogp = -q * (dloss / divisor)
    return dlogp - p * dlogp.sum(axis=1, keepdims=True)


@right_answer("cross_entropy_backward")
def entropy_zeroes_afterwards(dloss, cache):
    p, q, divisor = cache
    out = np.subtract(p, q)
    out *= dloss
    out /= divisor
    out[q.max(axis=1) == 0] = 0.0
    return out


# attention_backward


@wrong_answer("attention_backward", cause="mask_ignored", also=("wrong_cached_value", "elementwise_factor"))
def attend_values_meet_p(dO, cache):
    Q, K, V, P, mask = cache
    dV = P.swapaxes(-1, -2) @ dO
    dP = dO @ V.swapaxes(-1, -2)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - np.sum(P * dP, axis=-1, keepdims=True)) / math.sqrt(Q.shape[-1])
    return dS @ K, dS.swapaxes(-1, -2) @ Q, dV


@wrong_answer("attention_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def attend_softmax_of_dropped_weights(dO, cache):
    Q, K, V, P, mask = cache
    P = P if mask is None else P * mask
    dV = P.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="factor_order", also=("mask_ignored", "elementwise_factor"))
def attend_mask_after_the_softmax(dO, cache):
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dV = np.einsum("nhtu,nhtv->nhuv", P * m, dO)
    dP = np.einsum("nhtv,nhuv->nhtu", dO, V)
    dS = m * P * (dP - (P * dP).sum(axis=-1, keepdims=True)) * Q.shape[3] ** -0.5
    return np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q), dV


@wrong_answer("attention_backward", cause="constant_factor", also=("wrong_cached_value",))
def attend_root_of_the_values_size(dO, cache):
    Q, K, V, P, mask = cache
    d = V.shape[-1]
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3) * (1 if mask is None else mask)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True)) / math.sqrt(d)
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="constant_factor")
def attend_scales_queries_only(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dV = D.swapaxes(2, 3) @ dO
    dD = dO @ V.swapaxes(2, 3)
    dP = dD if mask is None else dD * mask
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    dQ = dS @ K / math.sqrt(Q.shape[3])
    dK = dS.swapaxes(2, 3) @ Q
    return dQ, dK, dV


@wrong_answer("attention_backward", cause="reduction_axis")
def attend_sums_over_queries(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    dP = dP if mask is None else dP * mask
    dS = P * (dP - (P * dP).sum(axis=2, keepdims=True)) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="mask_ignored", also=("elementwise_factor",))
def attend_forgets_mask_on_the_way(dO, cache):
    Q, K, V, P, mask = cache
    weights = P if mask is None else P * mask
    dV = weights.transpose(0, 1, 3, 2) @ dO
    dP = dO @ V.transpose(0, 1, 3, 2)
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    dS = dS / Q.shape[-1] ** 0.5
    return dS @ K, dS.transpose(0, 1, 3, 2) @ Q, dV


@wrong_answer("attention_backward", cause="transpose", also=("shape",))
def attend_keys_not_transposed(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    dP = dP if mask is None else dP * mask
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True)) / Q.shape[3] ** 0.5
    return dS @ K, dS @ Q, D.swapaxes(2, 3) @ dO


@right_answer("attention_backward")
def attend_head_by_head(dO, cache):
    Q, K, V, P, mask = cache
    dQ, dK, dV = (np.zeros_like(X) for X in (Q, K, V))
    for n, h in np.ndindex(Q.shape[:2]):
        p, m = P[n, h], 1 if mask is None else mask[n, h]
        dV[n, h] = (p * m).T @ dO[n, h]
        g = p * m * (dO[n, h] @ V[n, h].T)
        dS = (g - p * g.sum(axis=1)[:, None]) / math.sqrt(Q.shape[3])
        dQ[n, h], dK[n, h] = dS @ K[n, h], dS.T @ Q[n, h]
    return dQ, dK, dV


@right_answer("attention_backward")
def attend_row_sums_from_the_output(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    O = D @ V
    delta = (dO * O).sum(axis=-1, keepdims=True)
    dS = D * (dO @ V.swapaxes(2, 3)) - P * delta
    root = Q.shape[3] ** 0.5
    return dS @ (K / root), dS.swapaxes(2, 3) @ (Q / root), D.swapaxes(2, 3) @ dO


@right_answer("attention_backward")
def attend_by_matmul_out_of_order(dO, cache):
    dD = np.matmul(dO, np.moveaxis(cache.V, -1, -2))
    D = cache.P.copy()
    if cache.mask is not None:
        D, dD = D * cache.mask, dD * cache.mask
    dS = cache.P * dD
    dS = dS - cache.P * dS.sum(-1)[..., None]
    dK = np.matmul(np.moveaxis(dS, -1, -2), cache.Q) * cache.Q.shape[-1] ** -0.5
    dQ = np.matmul(dS, cache.K) * cache.K.shape[-1] ** -0.5
    return dQ, dK, np.matmul(np.moveaxis(D, -1, -2), dO)
