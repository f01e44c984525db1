import numpy as np
from corpus.entries import right_answer, wrong_answer

# layer_norm_backward(dy, cache)


def mean(rows):
    return rows.mean(axis=-1, keepdims=True)


@wrong_answer("layer_norm_backward", cause="missing_path", also=("missing_term",))
def norm_statistics_constant(dy, cache):
    "Mean and standard deviation are taken for constants."
    xhat, inverse_std, gamma = cache
    return inverse_std * gamma * dy, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="missing_path", also=("missing_term",))
def norm_std_constant(dy, cache):
    "The standard deviation is taken for a constant."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    return inverse_std * (dxhat - mean(dxhat)), (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="missing_path", also=("missing_term",))
def norm_mean_constant(dy, cache):
    "The mean is taken for a constant."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    return inverse_std * (dxhat - xhat * mean(dxhat * xhat)), (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="factor_order")
def norm_gamma_at_the_end(dy, cache):
    "gamma is multiplied in after the means."
    xhat, inverse_std, gamma = cache
    dx = gamma * inverse_std * (dy - mean(dy) - xhat * mean(dy * xhat))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def norm_dgamma_with_gamma(dy, cache):
    "dgamma is formed of dxhat."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
    return dx, (dxhat * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def norm_without_inverse_std(dy, cache):
    "inverse_std is missing."
    xhat, _, gamma = cache
    dxhat = gamma * dy
    return dxhat - mean(dxhat) - xhat * mean(dxhat * xhat), (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="mean_vs_sum")
def norm_sum_along_xhat(dy, cache):
    "A sum in place of the second mean."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - mean(dxhat) - xhat * (dxhat * xhat).sum(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="mean_vs_sum")
def norm_parameters_as_means(dy, cache):
    "dgamma and dbeta are means over the rows."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
    return dx, (dy * xhat).mean(axis=0), dy.mean(axis=0)


@wrong_answer("layer_norm_backward", cause="reduction_axis")
def norm_means_over_the_batch(dy, cache):
    "Both means run over the batch."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - dxhat.mean(axis=0) - xhat * (dxhat * xhat).mean(axis=0))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="sign")
def norm_projection_added(dy, cache):
    "The last term is added."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - mean(dxhat) + xhat * mean(dxhat * xhat))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def norm_output_in_place_of_xhat(dy, cache):
    "gamma * xhat stands where xhat belongs in dx."
    xhat, inverse_std, gamma = cache
    dxhat, scaled = gamma * dy, gamma * xhat
    dx = inverse_std * (dxhat - mean(dxhat) - scaled * mean(dy * scaled))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)


@wrong_answer("layer_norm_backward", cause="swapped")
def norm_dbeta_before_dgamma(dy, cache):
    "dbeta is returned before dgamma."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
    return dx, dy.sum(axis=0), (dy * xhat).sum(axis=0)


@wrong_answer("layer_norm_backward", cause="inplace")
def norm_upstream_in_place(dy, cache):
    "The sums are right, but then dy is multiplied in place."
    xhat, inverse_std, gamma = cache
    dgamma, dbeta = np.einsum("nd,nd->d", dy, xhat), dy.sum(axis=0)
    dxhat = dy
    dxhat *= gamma
    return inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)), dgamma, dbeta


@wrong_answer("layer_norm_backward", cause="constant_factor")
def norm_divided_by_d_less_one(dy, cache):
    "The second mean divides by d - 1."
    xhat, inverse_std, gamma = cache
    dxhat = gamma * dy
    along = (dxhat * xhat).sum(axis=-1, keepdims=True) / (dy.shape[-1] - 1)
    return inverse_std * (dxhat - mean(dxhat) - xhat * along), (dy * xhat).sum(axis=0), dy.sum(axis=0)


@right_answer("layer_norm_backward")
def norm_step_by_step(dy, cache):
    "Through c, the standard deviation and the mean, one after the other."
    xhat, inverse_std, gamma = cache
    d = xhat.shape[1]
    dxhat = dy * gamma
    c = xhat / inverse_std
    d_inverse = (dxhat * c).sum(axis=1, keepdims=True)
    dc = inverse_std * dxhat - d_inverse * inverse_std**3 * c / d
    return dc - dc.mean(axis=1, keepdims=True), np.sum(xhat * dy, axis=0), np.sum(dy, axis=0)


@right_answer("layer_norm_backward")
def norm_by_tables(dy, cache):
    "The whole table of derivatives for each row."
    xhat, inverse_std, gamma = cache
    d = dy.shape[-1]
    table = np.eye(d, dtype=dy.dtype) - (1 + xhat[:, :, None] * xhat[:, None, :]) / d
    dx = np.einsum("nij,nj->ni", table * inverse_std[:, :, None], gamma * dy)
    return dx, np.einsum("nj,nj->j", dy, xhat), np.einsum("nj->j", dy)


@right_answer("layer_norm_backward")
def norm_rows_in_a_loop(dy, cache):
    "A comprehension over the rows."
    rows = [
        s * (g - g.mean() - h * np.dot(g, h) / g.size)
        for g, h, s in zip(dy * cache.gamma, cache.xhat, cache.inverse_std)
    ]
    return np.array(rows), sum(dy * cache.xhat), sum(dy)


@right_answer("layer_norm_backward")
def norm_by_projection(dy, cache):
    "Takes away the mean first, then what lies along xhat; the order does not matter."
    xhat, inverse_std, gamma = cache
    g = gamma * dy
    g = g - np.average(g, axis=1, keepdims=True)
    g = g - xhat * np.vecdot(g, xhat, axis=1)[:, None] / xhat.shape[1]
    return g * inverse_std, np.vecdot(dy, xhat, axis=0), dy.sum(0)


# softmax_backward(dP, P)


@wrong_answer("softmax_backward", cause="missing_path", also=("not_accumulated", "missing_term"))
def softmax_own_score_only(dP, P):
    "Each probability answers to its own score alone."
    return dP * P * (1 - P)


@wrong_answer("softmax_backward", cause="missing_term")
def softmax_numerator_only(dP, P):
    "The path through the sum is left out."
    return P * dP


@wrong_answer("softmax_backward", cause="elementwise_factor")
def softmax_sum_without_p(dP, P):
    "The sum is that of dP, not of P * dP."
    return P * (dP - dP.sum(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="elementwise_factor")
def softmax_without_p_in_front(dP, P):
    "P in front of the bracket is missing."
    return dP - (P * dP).sum(axis=-1, keepdims=True)


@wrong_answer("softmax_backward", cause="factor_order", also=("elementwise_factor",))
def softmax_p_on_one_term(dP, P):
    "P multiplies the first term alone."
    return P * dP - (P * dP).sum(axis=-1, keepdims=True)


@wrong_answer("softmax_backward", cause="mean_vs_sum")
def softmax_mean(dP, P):
    "A mean in place of the sum."
    return P * (dP - (P * dP).mean(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="reduction_axis")
def softmax_second_axis(dP, P):
    "Sums over axis 1: the last one for matrices only."
    return P * (dP - (P * dP).sum(axis=1, keepdims=True))


@wrong_answer("softmax_backward", cause="reduction_axis")
def softmax_sum_of_everything(dP, P):
    "Sums over all axes: right for a single row."
    return P * (dP - (P * dP).sum())


@wrong_answer("softmax_backward", cause="reduction_axis")
def softmax_without_keepdims(dP, P):
    "keepdims is missing: raises, or is wrong, unless there is one row."
    return P * (dP - (P * dP).sum(axis=-1))


@wrong_answer("softmax_backward", cause="shape")
def softmax_matrices_only(dP, P):
    "Tables for the rows of a matrix: raises for another number of axes."
    rows, width = P.shape
    dS = np.zeros_like(P)
    for n in range(rows):
        dS[n] = (np.diag(P[n]) - np.outer(P[n], P[n])) @ dP[n]
    return dS


@wrong_answer("softmax_backward", cause="inplace")
def softmax_in_place(dP, P):
    "dP is changed in place."
    dP -= (P * dP).sum(axis=-1, keepdims=True)
    return P * dP


@wrong_answer("softmax_backward", cause="sign")
def softmax_sum_added(dP, P):
    "The sum is added."
    return P * (dP + (P * dP).sum(axis=-1, keepdims=True))


@wrong_answer("softmax_backward", cause="wrong_derivative")
def softmax_minus_target(dP, P):
    "p - q, the gradient of the cross entropy."
    return P - dP


@right_answer("softmax_backward")
def softmax_by_tables(dP, P):
    "The table for each row, with any number of axes in front."
    table = P[..., :, None] * np.eye(P.shape[-1], dtype=P.dtype) - P[..., :, None] * P[..., None, :]
    return np.einsum("...uv,...u->...v", table, dP)


@right_answer("softmax_backward")
def softmax_by_flat_rows(dP, P):
    "All rows under each other, in a loop."
    width = P.shape[-1]
    p, g = P.reshape(-1, width), dP.reshape(-1, width)
    rows = [row * (up - row @ up) for row, up in zip(p, g)]
    return np.stack(rows).reshape(P.shape)


@right_answer("softmax_backward")
def softmax_by_product(dP, P):
    "Two terms, the sum by a matrix product with ones."
    weighted = np.multiply(P, dP)
    ones = np.ones((P.shape[-1], 1), P.dtype)
    return weighted - P * (weighted @ ones)


@right_answer("softmax_backward")
def softmax_transposed(dP, P):
    "The last axis is brought to the front, and back."
    p, g = np.moveaxis(P, -1, 0), np.moveaxis(dP, -1, 0)
    inner = np.add.reduce(p * g, axis=0)
    return np.moveaxis(p * g - p * inner, 0, -1)
