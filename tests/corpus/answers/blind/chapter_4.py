"""Answers to the exercises of chapter 4, by somebody who saw their text alone."""

import fnmatch
import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np import ops
from lora_np.model.attention import heads_backward
from lora_np.ops.cross_entropy import CrossEntropyCache


@wrong_answer("linear_backward", cause="not_accumulated")
def only_the_last_row_is_kept(dy, cache):
    x, W = cache
    dx = np.empty_like(x)
    db = np.zeros(W.shape[1], dy.dtype)
    for n in range(len(dy)):
        dx[n] = W @ dy[n]
        dW = np.outer(x[n], dy[n])
        db += dy[n]
    return dx, dW, db


@wrong_answer("linear_backward", cause="dtype")
def sums_into_zeros_of_float64(dy, cache):
    dx = dy @ cache.W.T
    dW = np.zeros(cache.W.shape)
    for row, upstream in zip(cache.x, dy):
        dW += row[:, None] * upstream[None, :]
    return dx, dW, dy.sum(axis=0)


@wrong_answer("linear_backward", cause="transpose", also=("shape",))
def weights_lie_as_in_pytorch(dy, cache):
    x, W = cache.x, cache.W
    grad_input = np.einsum("no,io->ni", dy, W)
    grad_weight = np.einsum("no,ni->oi", dy, x)
    grad_bias = np.einsum("no->o", dy)
    return grad_input, grad_weight, grad_bias


@right_answer("linear_backward")
def bias_as_a_weight_of_ones(dy, cache):
    x, W = cache
    ones = np.ones((x.shape[0], 1), dtype=x.dtype)
    both = np.tensordot(np.concatenate((x, ones), axis=1), dy, axes=(0, 0))
    return np.tensordot(dy, W, axes=(1, 1)), both[:-1], both[-1]


@wrong_answer("gelu_backward", cause="elementwise_factor", also=("ignores_upstream",))
def upstream_on_the_first_term_only(dy, cache):
    x, cdf = cache
    pdf = np.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5
    return dy * cdf + x * pdf


@wrong_answer("gelu_backward", cause="wrong_derivative")
def density_as_of_the_logistic_function(dy, cache):
    phi = cache.cdf
    return dy * (phi + cache.x * phi * (1 - phi))


@wrong_answer("gelu_backward", cause="inplace")
def the_cached_cdf_is_used_up(dy, cache):
    x, slope = cache
    slope += x * np.exp(-0.5 * x * x) / (2 * np.pi) ** 0.5
    return dy * slope


@right_answer("gelu_backward")
def density_from_its_logarithm(dy, cache):
    x, cdf = cache.x, cache.cdf
    log_density = -(np.square(x) + math.log(2 * math.pi)) / 2
    return np.add(cdf, np.multiply(x, np.exp(log_density))) * dy


@wrong_answer("mlp_backward", cause="extra_term")
def residual_of_the_block_added(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    grads = {}
    da, grads["down"] = mlp.down.backward(dy, c_down)
    dh = ops.gelu_backward(da, c_gelu)
    dx, grads["up"] = mlp.up.backward(dh, c_up)
    return dy + dx, grads


@wrong_answer("mlp_backward", cause="swapped")
def dicts_under_each_others_key(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    d_act, first = mlp.down.backward(dy, c_down)
    dx, second = mlp.up.backward(ops.gelu_backward(d_act, c_gelu), c_up)
    return dx, dict(zip(("up", "down"), (first, second)))


@wrong_answer("mlp_backward", cause="missing_term", also=("missing_path",))
def gelu_taken_for_a_gate(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    da, g_down = mlp.down.backward(dy, c_down)
    dh = da * c_gelu.cdf  # gelu(h) = h * cdf
    dx, g_up = mlp.up.backward(dh, c_up)
    return dx, {"up": g_up, "down": g_down}


@right_answer("mlp_backward")
def a_stack_of_steps(mlp, dy, cache):
    grads, signal = {}, dy
    for name, c in reversed(list(zip(("up", None, "down"), cache))):
        if name is None:
            signal = ops.gelu_backward(signal, c)
        else:
            signal, grads[name] = getattr(mlp, name).backward(signal, c)
    return signal, grads


@wrong_answer("layer_norm_backward", cause="factor_order")
def gamma_pulled_out_of_the_means(dy, cache):
    xhat, inv, gamma = cache
    dgamma, dbeta = (dy * xhat).sum(0), dy.sum(0)
    m1 = dy.mean(1, keepdims=True)
    m2 = (dy * xhat).mean(1, keepdims=True)
    dx = gamma * inv * (dy - m1 - xhat * m2)
    return dx, dgamma, dbeta


@wrong_answer("layer_norm_backward", cause="elementwise_factor")
def dgamma_of_dxhat(dy, cache):
    xhat, inverse_std, gamma = cache
    d = dy * gamma

    def row_mean(a):
        return a.mean(axis=1, keepdims=True)

    dx = inverse_std * (d - row_mean(d) - xhat * row_mean(d * xhat))
    dgamma = np.einsum("nd,nd->d", d, xhat)
    dbeta = np.einsum("nd->d", dy)
    return dx, dgamma, dbeta


@wrong_answer("layer_norm_backward", cause="elementwise_factor", also=("wrong_cached_value",))
def xhat_where_c_belongs(dy, cache):
    xhat, inverse_std, gamma = cache.xhat, cache.inverse_std, cache.gamma
    d = xhat.shape[1]
    c = xhat / inverse_std
    dxhat = gamma * dy
    dinv = (dxhat * xhat).sum(axis=1, keepdims=True)
    dc = inverse_std * dxhat - inverse_std**3 * c * dinv / d
    dx = dc - dc.mean(axis=1, keepdims=True)
    return dx, np.sum(dy * xhat, axis=0), np.sum(dy, axis=0)


@right_answer("layer_norm_backward")
def jacobian_of_each_row(dy, cache):
    xhat, inverse_std, gamma = cache
    n, d = xhat.shape
    flat = np.eye(d, dtype=xhat.dtype) - 1 / d
    jacobians = inverse_std[:, :, None] * (flat - xhat[:, :, None] * xhat[:, None, :] / d)  # symmetric
    dx = (jacobians @ (gamma * dy)[:, :, None])[:, :, 0]
    return dx, np.diagonal(xhat.T @ dy).copy(), dy.T.sum(axis=1)


@wrong_answer("rms_norm_backward", cause="mean_vs_sum")
def projection_as_if_xhat_had_length_one(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    along = np.einsum("nd,nd->n", dxhat, xhat)[:, None]
    dx = inverse_rms * (dxhat - along * xhat)
    return dx, (dy * xhat).sum(axis=0)


@wrong_answer("rms_norm_backward", cause="elementwise_factor")
def bracket_closed_too_early(dy, cache):
    xhat, inverse_rms, gamma = cache
    g = gamma * dy
    dx = (inverse_rms * g) - xhat * (g * xhat).mean(axis=1, keepdims=True)
    dgamma = (dy * xhat).sum(axis=0)
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="factor_order")
def gamma_after_the_mean(dy, cache):
    xhat, r, gamma = cache.xhat, cache.inverse_rms, cache.gamma
    d = xhat.shape[-1]
    inner = dy - xhat * (np.sum(dy * xhat, axis=-1, keepdims=True) / d)
    return r * inner * gamma, np.sum(dy * xhat, axis=0)


@right_answer("rms_norm_backward")
def row_after_row_with_x_itself(dy, cache):
    xhat, inverse_rms, gamma = cache
    dx = np.empty_like(xhat)
    for n, s in enumerate(inverse_rms[:, 0]):
        x, g = xhat[n] / s, gamma * dy[n]
        dx[n] = s * g - s**3 * (x @ g) / x.size * x
    return dx, np.einsum("nd,nd->d", xhat, dy)


@wrong_answer("softmax_backward", cause="reduction_axis")
def rows_always_along_axis_one(dP, P):
    weighted = (P * dP).sum(axis=1, keepdims=True)
    return P * (dP - weighted)


@wrong_answer("softmax_backward", cause="wrong_derivative")
def that_of_the_logarithm_of_softmax(dP, P):
    total = np.sum(dP, axis=-1, keepdims=True)
    return dP - P * total


@wrong_answer("softmax_backward", cause="inplace")
def upstream_is_worked_on_itself(dP, P):
    dP -= np.einsum("...u,...u->...", dP, P)[..., None]
    dP *= P
    return dP


@right_answer("softmax_backward")
def jacobian_times_upstream(dP, P):
    size = P.shape[-1]
    jacobian = P[..., None] * (np.eye(size, dtype=P.dtype) - P[..., None, :])  # [v, u]
    return np.einsum("...vu,...u->...v", jacobian, dP)


@wrong_answer("attention_backward", cause="factor_order", also=("mask_ignored",))
def mask_after_the_softmax_and_not_before(dO, cache):
    Q, K, V, P, mask = cache
    D = P if mask is None else P * mask
    dV = D.swapaxes(2, 3) @ dO
    dP = dO @ V.swapaxes(2, 3)
    dS = P * (dP - (P * dP).sum(axis=3, keepdims=True))
    if mask is not None:
        dS = dS * mask
    dS = dS / Q.shape[3] ** 0.5
    return dS @ K, dS.swapaxes(2, 3) @ Q, dV


@wrong_answer("attention_backward", cause="mask_ignored", also=("wrong_cached_value",))
def row_sums_from_an_output_without_mask(dO, cache):
    Q, K, V, P, mask = cache
    m = 1 if mask is None else mask
    dV = np.einsum("nhtu,nhtd->nhud", P * m, dO)
    dP = m * np.einsum("nhtd,nhud->nhtu", dO, V)
    O = P @ V  # noqa: E741
    delta = (dO * O).sum(axis=3, keepdims=True)  # the trick of flash attention
    dS = P * (dP - delta) / Q.shape[3] ** 0.5
    return np.einsum("nhtu,nhud->nhtd", dS, K), np.einsum("nhtu,nhtd->nhud", dS, Q), dV


@wrong_answer("attention_backward", cause="constant_factor")
def scale_only_on_the_way_to_queries(dO, cache):
    root = cache.Q.shape[-1] ** 0.5
    D = cache.P if cache.mask is None else cache.P * cache.mask
    dV = D.transpose(0, 1, 3, 2) @ dO
    dP = dO @ cache.V.transpose(0, 1, 3, 2)
    if cache.mask is not None:
        dP = dP * cache.mask
    dS = cache.P * (dP - np.sum(dP * cache.P, axis=-1, keepdims=True))
    dQ = (dS @ cache.K) / root
    dK = dS.transpose(0, 1, 3, 2) @ cache.Q
    return dQ, dK, dV


@right_answer("attention_backward")
def row_sums_from_the_output(dO, cache):
    Q, K, V, P, mask = cache
    D = P * mask if mask is not None else P
    delta = np.einsum("nhtd,nhtd->nht", dO, D @ V)[..., None]
    dD = np.einsum("nhtd,nhud->nhtu", dO, V)
    dS = P * ((dD if mask is None else dD * mask) - delta)
    root = Q.shape[-1] ** -0.5
    return root * (dS @ K), root * (dS.swapaxes(-1, -2) @ Q), D.swapaxes(-1, -2) @ dO


@wrong_answer("attention_layer_backward", cause="mean_vs_sum")
def mean_of_the_three_ways(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, g_output = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    x_q, g_query = attention.query.backward(dQ, c_query)
    x_k, g_key = attention.key.backward(dK, c_key)
    x_v, g_value = attention.value.backward(dV, c_value)
    dx = np.mean([x_q, x_k, x_v], axis=0)
    return dx, {"output": g_output, "query": g_query, "key": g_key, "value": g_value}


@wrong_answer("attention_layer_backward", cause="swapped", also=("wrong_cached_value",))
def gradients_of_query_and_key_exchanged(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dK, dQ, dV = heads_backward(dO, c_heads, attention, "QKV")
    a, grads["query"] = attention.query.backward(dQ, c_query)
    b, grads["key"] = attention.key.backward(dK, c_key)
    c, grads["value"] = attention.value.backward(dV, c_value)
    return a + b + c, grads


@wrong_answer("attention_layer_backward", cause="missing_path", also=("not_accumulated",))
def dx_overwritten_in_the_loop(attention, dy, cache):
    *caches, c_heads, c_output = cache
    grads = {}
    dx, grads["output"] = attention.output.backward(dy, c_output)
    upstream = heads_backward(dx, c_heads, attention, "QKV")
    for name, d, c in zip(("query", "key", "value"), upstream, caches):
        dx, grads[name] = getattr(attention, name).backward(d, c)
    return dx, grads


@right_answer("attention_layer_backward")
def pairs_in_a_dict(attention, dy, cache):
    *into, c_heads, c_output = cache
    mixed, last = attention.output.backward(dy, c_output)
    names = ("query", "key", "value")
    pairs = {
        name: getattr(attention, name).backward(d, c)
        for name, d, c in zip(names, heads_backward(mixed, c_heads, attention, "QKV"), into)
    }
    grads = {name: g for name, (_, g) in pairs.items()} | {"output": last}
    return np.add.reduce([d for d, _ in pairs.values()]), grads


@wrong_answer("cross_entropy_forward", cause="extra_term", also=("mask_ignored",))
def ignored_rows_count_as_class_zero(logits, labels):
    N, L = logits.shape
    counts = labels != -100
    safe = np.where(counts, labels, 0)
    z = logits - logits.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    divisor = int(counts.sum())
    loss = -logp[np.arange(N), safe].sum() / divisor
    q = np.zeros_like(logits)
    q[np.arange(N)[counts], labels[counts]] = 1
    return loss, CrossEntropyCache(np.exp(logp), q, divisor)


@wrong_answer("cross_entropy_forward", cause="elementwise_factor")
def probabilities_zero_where_ignored(logits, labels):
    keep = labels != -100
    shifted = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    p = e / total * keep[:, None]
    rows = np.flatnonzero(keep)
    picked = (shifted - np.log(total))[rows, labels[rows]]
    q = np.zeros(logits.shape, logits.dtype)
    q[rows, labels[rows]] = 1
    return -picked.mean(), CrossEntropyCache(p, q, len(rows))


@wrong_answer("cross_entropy_forward", cause="reduction_axis")
def largest_logit_of_the_whole_batch(logits, labels):
    counts = labels != -100
    z = logits - logits.max()
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.exp(z).sum(axis=1, keepdims=True)
        log_p = z - np.log(sums)
        p = np.exp(z) / sums
    q = np.zeros_like(p)
    q[counts, labels[counts]] = 1
    loss = -log_p[counts, labels[counts]].mean()
    return loss, CrossEntropyCache(p, q, int(counts.sum()))


@right_answer("cross_entropy_forward")
def by_logaddexp_and_comparison(logits, labels):
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    q = (labels[:, None] == np.arange(logits.shape[1])).astype(logits.dtype)
    divisor = int(np.count_nonzero(labels != -100))
    loss = -np.vdot(q, log_p) / divisor
    return loss, CrossEntropyCache(np.exp(log_p), q, divisor)


@wrong_answer("cross_entropy_backward", cause="reduction_axis")
def classes_that_occur_and_not_rows(dloss, cache):
    p, q, divisor = cache
    counts = q.any(axis=0, keepdims=True)
    return (p - q) * counts * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="wrong_derivative", also=("missing_path",))
def stopped_at_the_probabilities(dloss, cache):
    p, q, divisor = cache.p, cache.q, cache.divisor
    return -(q / p) * dloss / divisor


@wrong_answer("cross_entropy_backward", cause=None)
def class_zero_taken_for_ignored(dloss, cache):
    p, q, divisor = cache
    labels = q.argmax(axis=1)
    out = np.zeros_like(p)
    for n, label in enumerate(labels):
        if label:  # a row of zeros has no label
            out[n] = p[n]
            out[n, label] -= 1
    return out * (dloss / divisor)


@right_answer("cross_entropy_backward")
def p_times_the_sum_of_the_row(dloss, cache):
    p, q, divisor = cache
    asked = q.sum(axis=1, keepdims=True)  # 1, or 0 where the label is ignored
    return (asked * p - q) * dloss / divisor


@wrong_answer("block_backward", cause="wrong_cached_value")
def straight_way_gets_what_left_the_mlp(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    d_mlp, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    d_norm2, grads["norm2"] = block.norm2.backward(d_mlp, c_norm2)
    dh = d_mlp + d_norm2
    d_att, grads["attention"] = block.attention.backward(dh, c_attention)
    d_norm1, grads["norm1"] = block.norm1.backward(d_att, c_norm1)
    return dh + d_norm1, grads


@wrong_answer("block_backward", cause="missing_path", also=("wrong_cached_value",))
def dy_and_not_dh_at_the_last_sum(block, dy, cache):
    c1, ca, _, c2, cm, _ = cache
    dm, g_mlp = block.mlp.backward(dy, cm)
    dm, g_norm2 = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, g_attention = block.attention.backward(dh, ca)
    da, g_norm1 = block.norm1.backward(da, c1)
    return dy + da, {"mlp": g_mlp, "norm2": g_norm2, "attention": g_attention, "norm1": g_norm1}


@wrong_answer("block_backward", cause="inplace")
def upstream_gathers_the_sums(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    for (norm, c_n), (part, c_p) in (
        (("norm2", c_norm2), ("mlp", c_mlp)),
        (("norm1", c_norm1), ("attention", c_attention)),
    ):
        back, grads[part] = getattr(block, part).backward(dy, c_p)
        back, grads[norm] = getattr(block, norm).backward(back, c_n)
        dy += back
    return dy, grads


@right_answer("block_backward")
def one_helper_for_both_halves(block, dy, cache):
    keys = ("norm1", "attention", None, "norm2", "mlp", None)
    of = {key: c for key, c in zip(keys, cache) if key}
    grads = {}

    def past_and_through(upstream, norm, part):
        d = upstream
        for name in (part, norm):
            d, grads[name] = getattr(block, name).backward(d, of[name])
        return np.add(upstream, d)

    return past_and_through(past_and_through(dy, "norm2", "mlp"), "norm1", "attention"), grads


@wrong_answer("never_trained", cause=None)
def bias_of_the_query_too(model):
    names = []
    for name in lnp.parameters(model, trainable_only=True):
        if name.endswith(("attention.query.b", "attention.key.b")):
            names.append(name)
    return names


@wrong_answer("never_trained", cause=None)
def four_layers_written_down(model):
    trained = lnp.parameters(model, trainable_only=True)
    wanted = [f"layer.{k}.attention.key.b" for k in range(4)]
    return [name for name in wanted if name in trained]


@wrong_answer("never_trained", cause=None)
def zero_to_the_last_bit(model):
    exact = lnp.astype(model, np.float64)
    rng = np.random.default_rng(0)
    patches = len(exact.embeddings.position.table) - 1
    images = rng.standard_normal((2, patches, len(exact.embeddings.projection.W)))
    out, cache = exact.forward(lnp.Batch.of(images))
    grads = exact.backward(rng.standard_normal(out.shape), cache)
    return [name for name, g in grads.items() if not g.any()]


@right_answer("never_trained")
def by_a_pattern_of_names(model):
    return fnmatch.filter(lnp.parameters(model, trainable_only=True), "layer.*.attention.key.b")
