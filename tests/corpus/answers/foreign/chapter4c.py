import numpy as np
from corpus.entries import right_answer, wrong_answer

# attention_backward(dO, cache)


def softmax_back(dP, P):
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


@wrong_answer("attention_backward", cause="mask_ignored")
def attention_back_without_mask(dO, cache):
    "The mask is not looked at."
    Q, K, V, P, mask = cache
    dV = P.swapaxes(2, 3) @ dO
    dS = softmax_back(dO @ V.swapaxes(2, 3), P) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="mask_ignored", also=("wrong_cached_value",))
def attention_back_dv_of_p(dO, cache):
    "dV is formed of P, not of what was left after dropout."
    Q, K, V, P, mask = cache
    dV = P.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = softmax_back(dP, P) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="mask_ignored")
def attention_back_mask_for_dv_only(dO, cache):
    "The mask is applied for dV, but not on the way to the scores."
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dS = softmax_back(dO @ V.swapaxes(2, 3), P) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def attention_back_softmax_of_d(dO, cache):
    "The softmax's backward works with the weights after dropout."
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP = dP * mask
    dS = softmax_back(dP, D) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause=None)
def attention_back_mask_needed(dO, cache):
    "Fails where the mask is None."
    Q, K, V, P, mask = cache
    dV = (P * mask).swapaxes(2, 3) @ dO
    dS = softmax_back((dO @ V.swapaxes(2, 3)) * mask, P) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="constant_factor")
def attention_back_without_root(dO, cache):
    "The root of d_k is missing."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P)
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="constant_factor")
def attention_back_root_for_dq_only(dO, cache):
    "dQ is divided by the root, dK is not."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P)
    return dS @ K / Q.shape[3] ** 0.5, dS.swapaxes(2, 3) @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="constant_factor")
def attention_back_root_of_value_size(dO, cache):
    "The root of the values' size: the same only where keys and values have one size."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P) / V.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="missing_term", also=("missing_path",))
def attention_back_without_softmax(dO, cache):
    "P * dP for dS: the sum in the softmax is left out."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = P * (dO @ V.swapaxes(2, 3)) * m / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="transpose")
def attention_back_scores_not_turned(dO, cache):
    "dK by dS itself: fits for as many queries as keys only."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P) / Q.shape[3] ** 0.5
    return dS @ K, dS @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="transpose")
def attention_back_weights_not_turned(dO, cache):
    "dV by the weights as they are: a token's value gets what it looked at."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P) / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * m) @ dO


@wrong_answer("attention_backward", cause="swapped")
def attention_back_keys_first(dO, cache):
    "dK is returned before dQ."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P) / Q.shape[3] ** 0.5
    return dS.swapaxes(2, 3) @ Q, dS @ K, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="inplace")
def attention_back_weights_in_place(dO, cache):
    "The cached P is multiplied by the mask in place, after its last use."
    Q, K, V, P, mask = cache
    dP = dO @ V.swapaxes(2, 3)
    if mask is not None:
        dP *= mask
    dS = softmax_back(dP, P) / Q.shape[3] ** 0.5
    if mask is not None:
        P *= mask
    return dS @ K, dS.swapaxes(2, 3) @ Q, P.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause="extra_term", also=("elementwise_factor",))
def attention_back_hides_by_the_mask(dO, cache):
    "Where dropout took a weight away, dS is set to zero, too."
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dS = softmax_back(dO @ V.swapaxes(2, 3) * m, P) / Q.shape[3] ** 0.5
    if mask is not None:
        dS = np.where(mask == 0, 0.0, dS).astype(dS.dtype)
    return dS @ K, dS.swapaxes(2, 3) @ Q, (P * m).swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause=None)
def attention_back_return_in_the_branch(dO, cache):
    "Returns with a mask only."
    Q, K, V, P, mask = cache
    if mask is not None:
        D = P * mask
        dS = softmax_back(dO @ V.swapaxes(2, 3) * mask, P) / Q.shape[3] ** 0.5
        return dS @ K, dS.swapaxes(2, 3) @ Q, D.swapaxes(2, 3) @ dO


@wrong_answer("attention_backward", cause=None)
def attention_back_not_written(dO, cache):
    "Handed in as it was."
    raise NotImplementedError("replace this line")


@right_answer("attention_backward")
def attention_back_by_einsum(dO, cache):
    "einsum."
    Q, K, V, P, mask = cache
    D = P if mask is None else np.multiply(P, mask)
    dV = np.einsum("nhtu,nhtv->nhuv", D, dO)
    dP = np.einsum("nhtv,nhuv->nhtu", dO, V)
    if mask is not None:
        dP *= mask
    dS = P * dP - P * np.einsum("nhtu,nhtu->nht", P, dP)[..., None]
    root = Q.shape[-1] ** -0.5
    return np.einsum("nhtu,nhud->nhtd", dS, K) * root, np.einsum("nhtu,nhtd->nhud", dS, Q) * root, dV


@right_answer("attention_backward")
def attention_back_by_head(dO, cache):
    "A loop over sequences and heads."
    Q, K, V, P, mask = cache
    dQ, dK, dV = np.empty_like(Q), np.empty_like(K), np.empty_like(V)
    for at in np.ndindex(*Q.shape[:2]):
        m = np.ones_like(P[at]) if mask is None else mask[at]
        dV[at] = (P[at] * m).T @ dO[at]
        dP = (dO[at] @ V[at].T) * m
        dS = P[at] * (dP - np.sum(P[at] * dP, axis=1)[:, None])
        dQ[at] = dS @ K[at] / Q.shape[3] ** 0.5
        dK[at] = dS.T @ Q[at] / Q.shape[3] ** 0.5
    return dQ, dK, dV


@right_answer("attention_backward")
def attention_back_by_output(dO, cache):
    "The sum of the softmax as the sum of dO * O, and the root on Q and K."
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    O = D @ V
    dP = dO @ np.swapaxes(V, -1, -2)
    dS = (D * dP) - P * (dO * O).sum(axis=-1, keepdims=True)
    d = Q.shape[-1]
    return dS @ (K / d**0.5), np.swapaxes(dS, -1, -2) @ (Q / d**0.5), np.swapaxes(D, -1, -2) @ dO


@right_answer("attention_backward")
def attention_back_with_helper(dO, cache):
    "A helper for the two products, and names from the cache."

    def product_backward(dy, x, W):
        return np.matmul(dy, W.transpose(0, 1, 3, 2)), np.matmul(x.transpose(0, 1, 3, 2), dy)

    factor = 1.0 if cache.mask is None else cache.mask
    dD, dV = product_backward(dO, cache.P * factor, cache.V)
    dP = dD * factor
    dS = softmax_back(dP, cache.P) / cache.K.shape[-1] ** 0.5
    dQ, dKt = product_backward(dS, cache.Q, cache.K.transpose(0, 1, 3, 2))
    return dQ, dKt.transpose(0, 1, 3, 2), dV


# cross_entropy_backward(dloss, cache)


@wrong_answer("cross_entropy_backward", cause="mask_ignored")
def entropy_ignored_rows_count(dloss, cache):
    "Ignored rows get the gradient p."
    p, q, divisor = cache
    return (p - q) * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="ignores_upstream")
def entropy_without_upstream(dloss, cache):
    "The upstream number is not multiplied in."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) / divisor


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def entropy_without_divisor(dloss, cache):
    "Not divided by the number of rows."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) * dloss


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def entropy_divided_by_all_rows(dloss, cache):
    "Divides by all rows, the ignored ones too."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) * dloss / p.shape[0]


@wrong_answer("cross_entropy_backward", cause="mean_vs_sum")
def entropy_always_the_mean(dloss, cache):
    "Counts the rows anew: wrong where the loss is a sum."
    p, q, divisor = cache
    counts = q.any(axis=1, keepdims=True)
    return (p - q) * counts * dloss / max(1, np.count_nonzero(counts))


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def entropy_divided_by_all_entries(dloss, cache):
    "A mean over all entries of (p - q)."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1, keepdims=True) * dloss / (divisor * p.shape[1])


@wrong_answer("cross_entropy_backward", cause="missing_path", also=("missing_term",))
def entropy_right_class_only(dloss, cache):
    "Only the logit of the right class gets a gradient."
    p, q, divisor = cache
    return np.where(q > 0, p - q, 0.0).astype(p.dtype) * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="sign")
def entropy_target_minus_given(dloss, cache):
    "q - p."
    p, q, divisor = cache
    return (q - p) * q.any(axis=1, keepdims=True) * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="wrong_derivative")
def entropy_with_respect_to_p(dloss, cache):
    "-q / p: the gradient of the probabilities, not of the logits."
    p, q, divisor = cache
    return -q / p * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause=None)
def entropy_of_hard_labels(dloss, cache):
    "Takes the largest target for one: wrong for smoothed labels."
    p, q, divisor = cache
    dlogits = p.copy()
    counts = q.any(axis=1)
    rows = np.flatnonzero(counts)
    dlogits[rows, q[rows].argmax(axis=1)] -= 1.0
    dlogits[~counts] = 0.0
    return dlogits * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="inplace")
def entropy_in_place(dloss, cache):
    "The cached probabilities are changed in place."
    p, q, divisor = cache
    p -= q
    p[~q.any(axis=1)] = 0.0
    return p * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="mask_ignored")
def entropy_positive_rows_of_p(dloss, cache):
    "Asks which rows of p count, and p is never zero."
    p, q, divisor = cache
    return (p - q) * p.any(axis=1, keepdims=True) * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="reduction_axis")
def entropy_counts_without_keepdims(dloss, cache):
    "The counting rows lie along the classes: raises, or is wrong for as many rows as classes."
    p, q, divisor = cache
    return (p - q) * q.any(axis=1) * (dloss / divisor)


@right_answer("cross_entropy_backward")
def entropy_by_loop(dloss, cache):
    "Entry by entry, in Python numbers."
    p, q, divisor = cache
    dlogits = np.zeros(p.shape, p.dtype)
    for n in range(p.shape[0]):
        if not any(q[n]):
            continue
        for j in range(p.shape[1]):
            dlogits[n, j] = float(dloss) / divisor * (float(p[n, j]) - float(q[n, j]))
    return dlogits


@right_answer("cross_entropy_backward")
def entropy_by_row_sums(dloss, cache):
    "p times the sum of the row's targets, one or zero."
    p, q, divisor = cache
    return dloss * (p * q.sum(axis=1, keepdims=True).round() - q) / divisor


@right_answer("cross_entropy_backward")
def entropy_by_copy(dloss, cache):
    "A copy, with the ignored rows set to zero."
    dlogits = cache.p.copy()
    dlogits -= cache.q
    dlogits[(cache.q == 0).all(axis=1)] = 0
    dlogits *= dloss
    dlogits /= cache.divisor
    return dlogits


@right_answer("cross_entropy_backward")
def entropy_by_matrix(dloss, cache):
    "A diagonal matrix that weighs the rows."
    p, q, divisor = cache
    weights = np.diag(np.any(q, axis=1).astype(p.dtype)) * (dloss / divisor)
    return (weights @ (p - q)).astype(p.dtype, copy=False)
