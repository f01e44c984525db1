"""Answers to the exercises that derive, written by somebody who saw their text alone."""

import dataclasses
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np import ops
from lora_np.model.attention import heads_backward


class CrossEntropyCache(NamedTuple):
    p: np.ndarray
    q: np.ndarray
    divisor: int


class PoolCache(NamedTuple):
    groups: tuple
    rows: int


# ---------------------------------------------------------------------------------------------- mlp_backward


@wrong_answer("mlp_backward", cause="elementwise_factor", also=("wrong_derivative", "missing_path"))
def gelu_left_out(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    da, g_down = mlp.down.backward(dy, c_down)
    dx, g_up = mlp.up.backward(da, c_up)
    return dx, {"up": g_up, "down": g_down}


@wrong_answer("mlp_backward", cause="ignores_upstream", also=("wrong_derivative",))
def gelu_forward_of_the_gradient(mlp, dy, cache):
    grads = {}
    da, grads["down"] = mlp.down.backward(dy, cache[2])
    dh, _ = ops.gelu_forward(da)
    dx, grads["up"] = mlp.up.backward(dh, cache[0])
    return dx, grads


@wrong_answer("mlp_backward", cause=None)
def first_step_first(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    dh, up_grads = mlp.up.backward(dy, c_up)
    da = ops.gelu_backward(dh, c_gelu)
    dx, down_grads = mlp.down.backward(da, c_down)
    return dx, {"up": up_grads, "down": down_grads}


@wrong_answer("mlp_backward", cause=None)
def pair_of_down_not_unpacked(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    da = mlp.down.backward(dy, c_down)
    dh = ops.gelu_backward(da, c_gelu)
    dx, up = mlp.up.backward(dh, c_up)
    return dx, {"up": up, "down": da[1]}


@wrong_answer("mlp_backward", cause="swapped")
def up_and_down_exchanged_in_the_dict(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    da, first = mlp.down.backward(dy, c_down)
    dx, second = mlp.up.backward(ops.gelu_backward(da, c_gelu), c_up)
    return dx, dict(zip(("up", "down"), (first, second)))


@wrong_answer("mlp_backward", cause="shape", also=("zero_gradient",))
def only_dx_of_the_mlp(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    d = mlp.down.backward(dy, c_down)[0]
    d = ops.gelu_backward(d, c_gelu)
    d = mlp.up.backward(d, c_up)[0]
    return d


@wrong_answer("mlp_backward", cause="extra_term")
def residual_path_added_to_the_mlp(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    grads = {}
    da, grads["down"] = mlp.down.backward(dy, c_down)
    dh = ops.gelu_backward(da, c_gelu)
    dx, grads["up"] = mlp.up.backward(dh, c_up)
    return dy + dx, grads


@right_answer("mlp_backward")
def mlp_line_by_line(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    da, grads_down = mlp.down.backward(dy, c_down)
    dh = ops.gelu_backward(da, c_gelu)
    dx, grads_up = mlp.up.backward(dh, c_up)
    return dx, {"up": grads_up, "down": grads_down}


@right_answer("mlp_backward")
def mlp_steps_in_a_loop(mlp, dy, cache):
    grads = {}

    def through(name):
        def step(d, c):
            d, grads[name] = getattr(mlp, name).backward(d, c)
            return d

        return step

    d = dy
    for step, c in zip((through("down"), ops.gelu_backward, through("up")), reversed(cache)):
        d = step(d, c)
    return d, grads


@right_answer("mlp_backward")
def mlp_with_the_derivative_of_gelu_by_hand(mlp, dy, cache):
    c_up, (h, cdf), c_down = cache
    da, down = mlp.down.backward(dy, c_down)
    pdf = np.exp(-h * h / 2) / math.sqrt(2 * math.pi)
    slope = cdf + h * pdf
    dx, up = mlp.up.backward(da * slope, c_up)
    return dx, {"down": down, "up": up}


@right_answer("mlp_backward")
def mlp_in_two_lines(mlp, dy, cache):
    da, down = mlp.down.backward(dy, cache[-1], needs_dx=True)
    dx, up = mlp.up.backward(ops.gelu_backward(dy=da, cache=cache[1]), cache[0], needs_dx=True)
    return (dx, dict(up=up, down=down))


# ------------------------------------------------------------------------------------------ rms_norm_backward


@wrong_answer("rms_norm_backward", cause="extra_term")
def mean_taken_away_as_in_layer_norm(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = dy * gamma
    m1 = dxhat.mean(axis=1, keepdims=True)
    m2 = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = inverse_rms * (dxhat - m1 - xhat * m2)
    return dx, (dy * xhat).sum(axis=0)


@wrong_answer("rms_norm_backward", cause="elementwise_factor")
def gamma_forgotten_in_dx(dy, cache):
    xhat, inverse_rms, _ = cache
    along = (dy * xhat).mean(axis=1, keepdims=True)
    dx = (dy - along * xhat) * inverse_rms
    dgamma = np.sum(dy * xhat, axis=0)
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="mean_vs_sum", also=("constant_factor",))
def sum_along_xhat_in_place_of_the_mean(dy, cache):
    xhat, r, gamma = cache.xhat, cache.inverse_rms, cache.gamma
    g = dy * gamma
    dx = r * (g - xhat * np.sum(g * xhat, axis=1, keepdims=True))
    return dx, np.einsum("nd,nd->d", dy, xhat)


@wrong_answer("rms_norm_backward", cause="sign")
def plus_for_the_second_path(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    direct = dxhat * inverse_rms
    d_inverse = (dxhat * xhat).mean(axis=1, keepdims=True)
    dx = direct + inverse_rms * xhat * d_inverse
    return dx, (dy * xhat).sum(0)


@wrong_answer("rms_norm_backward", cause="reduction_axis", also=("shape",))
def dgamma_summed_along_the_row(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    dgamma = (dy * xhat).sum(axis=1)
    dx = inverse_rms * (dxhat - xhat * (dxhat * xhat).mean(axis=1, keepdims=True))
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="missing_path", also=("missing_term",))
def rms_taken_for_a_constant(dy, cache):
    xhat, inverse_rms, gamma = cache
    dgamma = (dy * xhat).sum(axis=0)
    dxhat = dy * gamma
    dx = dxhat * inverse_rms
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="factor_order")
def gamma_multiplied_at_the_very_end(dy, cache):
    xhat, inverse_rms, gamma = cache
    proj = np.mean(dy * xhat, axis=-1, keepdims=True)
    return gamma * inverse_rms * (dy - xhat * proj), np.sum(dy * xhat, axis=0)


@right_answer("rms_norm_backward")
def rms_in_the_short_form(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    dx = inverse_rms * (dxhat - xhat * (dxhat * xhat).mean(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)


@right_answer("rms_norm_backward")
def rms_step_by_step_with_x_itself(dy, cache):
    xhat, r, gamma = cache
    x = xhat / r
    d = x.shape[1]
    dxhat = gamma * dy
    dgamma = (dy * xhat).sum(axis=0)
    dr = (dxhat * x).sum(axis=1, keepdims=True)
    dmean = dr * (-0.5) * r**3
    dx = dxhat * r + dmean * 2 * x / d
    return dx, dgamma


@right_answer("rms_norm_backward")
def rms_row_by_row_with_its_jacobian(dy, cache):
    xhat, inverse_rms, gamma = cache
    N, d = xhat.shape
    dx = np.empty_like(xhat)
    dgamma = np.zeros_like(gamma)
    for n in range(N):
        jacobian = inverse_rms[n, 0] * (np.eye(d, dtype=xhat.dtype) - np.outer(xhat[n], xhat[n]) / d)
        dx[n] = jacobian @ (gamma * dy[n])
        dgamma += dy[n] * xhat[n]
    return dx, dgamma


@right_answer("rms_norm_backward")
def rms_with_einsum(dy, cache):
    d = cache.gamma.shape[0]
    g = np.einsum("nd,d->nd", dy, cache.gamma)
    along = np.einsum("nd,nd->n", g, cache.xhat)[:, None] / d
    dx = np.einsum("nd,no->nd", g - along * cache.xhat, cache.inverse_rms)
    dgamma = np.einsum("nd,nd->d", dy, cache.xhat)
    return dx, dgamma


# ----------------------------------------------------------------------------------- attention_layer_backward


@wrong_answer("attention_layer_backward", cause="missing_path")
def only_the_way_through_the_query(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx, grads["query"] = attention.query.backward(dQ, c_query)
    _, grads["key"] = attention.key.backward(dK, c_key)
    _, grads["value"] = attention.value.backward(dV, c_value)
    return dx, grads


@wrong_answer("attention_layer_backward", cause="missing_path", also=("not_accumulated",))
def dx_overwritten_in_the_loop(attention, dy, cache):
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, cache[4])
    for name, d, c in zip(("query", "key", "value"), heads_backward(dO, cache[3], attention, "QKV"), cache):
        dx, grads[name] = getattr(attention, name).backward(d, c)
    return dx, grads


@wrong_answer("attention_layer_backward", cause="swapped")
def dQ_given_to_key_and_dK_to_query(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, g_output = attention.output.backward(dy, c_output)
    dK, dQ, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx_q, g_query = attention.query.backward(dQ, c_query)
    dx_k, g_key = attention.key.backward(dK, c_key)
    dx_v, g_value = attention.value.backward(dV, c_value)
    return dx_q + dx_k + dx_v, {"output": g_output, "query": g_query, "key": g_key, "value": g_value}


@wrong_answer("attention_layer_backward", cause="mean_vs_sum", also=("constant_factor",))
def mean_of_the_three_ways(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, out = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    a, q = attention.query.backward(dQ, c_query)
    b, k = attention.key.backward(dK, c_key)
    c, v = attention.value.backward(dV, c_value)
    dx = np.mean([a, b, c], axis=0)
    return dx, {"output": out, "query": q, "key": k, "value": v}


@wrong_answer("attention_layer_backward", cause=None)
def pair_of_output_not_unpacked(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dxq, gq = attention.query.backward(dQ, c_query)
    dxk, gk = attention.key.backward(dK, c_key)
    dxv, gv = attention.value.backward(dV, c_value)
    return dxq + dxk + dxv, {"output": dO[1], "query": gq, "key": gk, "value": gv}


@wrong_answer("attention_layer_backward", cause=None, also=("missing_path", "wrong_cached_value"))
def dy_sent_into_the_heads(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    _, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dy, c_heads, attention, "QKV")
    dx_q, grads["query"] = attention.query.backward(dQ, c_query)
    dx_k, grads["key"] = attention.key.backward(dK, c_key)
    dx_v, grads["value"] = attention.value.backward(dV, c_value)
    dx = dx_q + dx_k + dx_v
    return dx, grads


@wrong_answer("attention_layer_backward", cause="extra_term")
def residual_path_added_to_the_attention(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dx = dy.copy()
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    for name, dH, c in (("query", dQ, c_query), ("key", dK, c_key), ("value", dV, c_value)):
        part, grads[name] = getattr(attention, name).backward(dH, c)
        dx += part
    return dx, grads


@right_answer("attention_layer_backward")
def attention_arrow_by_arrow(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx_q, grads["query"] = attention.query.backward(dQ, c_query)
    dx_k, grads["key"] = attention.key.backward(dK, c_key)
    dx_v, grads["value"] = attention.value.backward(dV, c_value)
    return dx_q + dx_k + dx_v, grads


@right_answer("attention_layer_backward")
def attention_in_a_loop_from_zero(attention, dy, cache):
    *c_ways, c_heads, c_output = cache
    dO, g = attention.output.backward(dy, c_output)
    grads = {"output": g}
    dx = 0
    for name, d, c in zip(["query", "key", "value"], heads_backward(dO, c_heads, attention, "QKV"), c_ways):
        part, grads[name] = getattr(attention, name).backward(d, c)
        dx = dx + part
    return dx, grads


@right_answer("attention_layer_backward")
def attention_summed_in_a_stack(attention, dy, cache):
    dO, output = attention.output.backward(dy, cache[-1])
    dH = heads_backward(dO, cache[-2], attention, "QKV")
    nodes = (attention.query, attention.key, attention.value)
    pairs = [node.backward(d, c) for node, d, c in zip(nodes, dH, cache[:3])]
    dx = np.stack([pair[0] for pair in pairs]).sum(axis=0)
    return dx, {"query": pairs[0][1], "key": pairs[1][1], "value": pairs[2][1], "output": output}


@right_answer("attention_layer_backward")
def attention_with_the_value_way_first(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, g_out = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    total, g_value = attention.value.backward(dV, c_value)
    more, g_key = attention.key.backward(dK, c_key)
    total = total + more
    more, g_query = attention.query.backward(dQ, c_query)
    total = total + more
    return total, {"output": g_out, "value": g_value, "key": g_key, "query": g_query}


# -------------------------------------------------------------------------------------- cross_entropy_forward


@wrong_answer("cross_entropy_forward", cause=None)
def softmax_without_taking_the_greatest_away(logits, labels):
    counts = labels != -100
    e = np.exp(logits)
    p = e / e.sum(axis=1, keepdims=True)
    q = np.zeros_like(p)
    q[np.flatnonzero(counts), labels[counts]] = 1
    divisor = int(counts.sum())
    loss = -(np.log(p[counts, labels[counts]])).sum() / divisor
    return loss, CrossEntropyCache(p, q, divisor)


@wrong_answer("cross_entropy_forward", cause=None)
def logarithm_of_a_probability_that_is_0(logits, labels):
    rows = np.flatnonzero(labels != -100)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    q = np.zeros_like(p)
    q[rows, labels[rows]] = 1.0
    loss = -np.log(p[rows, labels[rows]]).mean()
    return loss, CrossEntropyCache(p, q, len(rows))


@wrong_answer("cross_entropy_forward", cause="constant_factor", also=("mask_ignored", "mean_vs_sum"))
def divided_by_all_rows(logits, labels):
    z = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    logp = z - np.log(total)
    q = np.zeros_like(logits)
    for n, label in enumerate(labels):
        if label != -100:
            q[n, label] = 1
    divisor = len(labels)
    loss = -(q * logp).sum() / divisor
    return loss, CrossEntropyCache(np.exp(logp), q, divisor)


@wrong_answer("cross_entropy_forward", cause="reduction_axis")
def greatest_of_the_whole_batch_taken_away(logits, labels):
    ok = labels != -100
    z = logits - np.max(logits)
    e = np.exp(z)
    s = e.sum(axis=1, keepdims=True)
    logp = z - np.log(s)
    q = np.zeros_like(logits)
    q[np.where(ok)[0], labels[ok]] = 1
    n = int(ok.sum())
    return -logp[ok, labels[ok]].sum() / n, CrossEntropyCache(e / s, q, n)


@wrong_answer("cross_entropy_forward", cause=None, also=("extra_term",))
def small_number_added_inside_the_logarithm(logits, labels):
    counts = labels != -100
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    q = np.zeros_like(p)
    q[counts, labels[counts]] = 1
    divisor = int(counts.sum())
    loss = -(q * np.log(p + 1e-12)).sum() / divisor
    return loss, CrossEntropyCache(p, q, divisor)


@wrong_answer("cross_entropy_forward", cause="sign")
def log_likelihood_without_its_minus(logits, labels):
    keep = np.nonzero(labels != -100)[0]
    z = logits - logits.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    q = np.zeros(logits.shape, logits.dtype)
    q[keep, labels[keep]] = 1
    loss = logp[keep, labels[keep]].mean()
    return loss, CrossEntropyCache(np.exp(logp), q, keep.size)


@wrong_answer("cross_entropy_forward", cause="mean_vs_sum", also=("constant_factor",))
def summed_over_the_rows_that_count(logits, labels):
    counts = labels != -100
    m = logits.max(axis=1, keepdims=True)
    e = np.exp(logits - m)
    total = e.sum(axis=1, keepdims=True)
    losses = (np.log(total) + m)[counts, 0] - logits[counts, labels[counts]]
    q = np.zeros_like(logits)
    q[counts, labels[counts]] = 1
    return losses.sum(), CrossEntropyCache(e / total, q, int(np.count_nonzero(counts)))


@right_answer("cross_entropy_forward")
def entropy_by_picking_the_logp(logits, labels):
    rows = np.flatnonzero(labels != -100)
    z = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1, keepdims=True)
    logp = z - np.log(total)
    q = np.zeros_like(logits)
    q[rows, labels[rows]] = 1
    loss = -logp[rows, labels[rows]].mean()
    return loss, CrossEntropyCache(e / total, q, len(rows))


@right_answer("cross_entropy_forward")
def entropy_row_by_row(logits, labels):
    N, L = logits.shape
    p = np.zeros((N, L), dtype=logits.dtype)
    q = np.zeros((N, L), dtype=logits.dtype)
    losses = []
    for n in range(N):
        shifted = logits[n] - logits[n].max()
        e = np.exp(shifted)
        p[n] = e / e.sum()
        if labels[n] == -100:
            continue
        q[n, labels[n]] = 1
        losses.append(np.log(e.sum()) - shifted[labels[n]])
    loss = np.array(losses, dtype=logits.dtype).mean()
    return loss, CrossEntropyCache(p, q, len(losses))


@right_answer("cross_entropy_forward")
def entropy_as_the_log_of_a_sum_of_differences(logits, labels):
    """The loss is log sum_k exp(z_k - z_j); only the greatest difference is taken out."""
    counts = labels != -100
    j = np.where(counts, labels, 0)
    difference = logits - np.take_along_axis(logits, j[:, None], axis=1)
    top = difference.max(axis=1, keepdims=True)
    e = np.exp(difference - top)
    total = e.sum(axis=1, keepdims=True)
    losses = (top + np.log(total))[:, 0]
    q = (np.arange(logits.shape[1]) == j[:, None]) & counts[:, None]
    divisor = int(counts.sum())
    return losses[counts].sum() / divisor, CrossEntropyCache(e / total, q.astype(logits.dtype), divisor)


@right_answer("cross_entropy_forward")
def entropy_with_helpers(logits, labels):
    def log_softmax(z):
        z = z - np.max(z, axis=-1, keepdims=True)
        return z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))

    def one_hot(valid):
        q = np.zeros(logits.shape, dtype=logits.dtype)
        q[valid, labels[valid]] = 1.0
        return q

    valid = labels != -100
    logp = log_softmax(logits)
    q = one_hot(valid)
    divisor = valid.sum()
    loss = -np.where(q > 0, logp, 0).sum() / int(divisor)
    return loss, CrossEntropyCache(p=np.exp(logp), q=q, divisor=divisor)


# ----------------------------------------------------------------------------------------------- never_trained


@wrong_answer("never_trained", cause=None)
def gradients_compared_with_an_exact_zero(model):
    rng = np.random.default_rng(0)
    copy = lnp.astype(model, np.float64)
    for array in lnp.parameters(copy, trainable_only=True).values():
        array += 0.1 * rng.standard_normal(array.shape)
    emb = copy.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    images = rng.standard_normal((4, T, len(emb.projection.W)))
    output, cache = copy.forward(lnp.Batch.of(images))
    grads = copy.backward(rng.standard_normal(output.shape), cache)
    return [name for name, g in grads.items() if np.all(g == 0)]


@wrong_answer("never_trained", cause=None)
def weights_of_the_key_too(model):
    names = lnp.parameters(model, trainable_only=True)
    return [name for name in names if ".key." in name]


@wrong_answer("never_trained", cause=None)
def gradients_of_the_first_step_alone(model):
    rng = np.random.default_rng(1)
    m = lnp.astype(model, np.float64)
    emb = m.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    images = rng.standard_normal((4, T, len(emb.projection.W)))
    output, cache = m.forward(lnp.Batch.of(images))
    grads = m.backward(rng.standard_normal(output.shape), cache)
    return [name for name in grads if np.abs(grads[name]).max() < 1e-12]


@wrong_answer("never_trained", cause=None)
def limit_of_a_thousandth(model):
    rng = np.random.default_rng(2)
    emb = model.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    batch = lnp.Batch.of(rng.standard_normal((8, T, len(emb.projection.W))).astype(model.dtype))
    output, cache = model.forward(batch)
    grads = model.backward(rng.standard_normal(output.shape).astype(model.dtype) / output.size, cache)
    return [name for name, g in grads.items() if np.abs(g).max() < 1e-3]


@wrong_answer("never_trained", cause=None)
def names_of_two_layers_written_down(model):
    return ["layer.0.attention.key.b", "layer.1.attention.key.b"]


@wrong_answer("never_trained", cause=None)
def what_is_frozen(model):
    trained = lnp.parameters(model, trainable_only=True)
    return [name for name in lnp.parameters(model) if name not in trained]


@wrong_answer("never_trained", cause="swapped")
def biases_of_the_query(model):
    found = []
    for name in lnp.parameters(model, trainable_only=True):
        if name.endswith("attention.query.b"):
            found.append(name)
    return found


@right_answer("never_trained")
def by_trial_in_float64_at_a_random_point(model):
    rng = np.random.default_rng(0)
    copy = lnp.astype(model, np.float64)
    for array in lnp.parameters(copy, trainable_only=True).values():
        array += 0.1 * rng.standard_normal(array.shape)
    largest = dict.fromkeys(lnp.parameters(copy, trainable_only=True), 0.0)
    for _ in range(3):
        emb = copy.embeddings
        T = len(emb.position.table) - (emb.class_token is not None)
        images = rng.standard_normal((4, T, len(emb.projection.W)))
        output, cache = copy.forward(lnp.Batch.of(images))
        for name, g in copy.backward(rng.standard_normal(output.shape), cache).items():
            largest[name] = max(largest[name], np.abs(g).max())
    return [name for name, size in largest.items() if size < 1e-11]


@right_answer("never_trained")
def by_the_name_of_the_key_bias(model):
    """It adds one number to all scores of a query, and softmax does not see that."""
    return [name for name in lnp.parameters(model, trainable_only=True) if name.endswith(".attention.key.b")]


@right_answer("never_trained")
def by_nudging_each_array(model):
    """No gradient at all: what can be moved far without moving the output is never trained."""
    rng = np.random.default_rng(3)
    copy = lnp.astype(model, np.float64)
    live = lnp.parameters(copy, trainable_only=True)
    for array in live.values():
        array += 0.1 * rng.standard_normal(array.shape)
    emb = copy.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    images = rng.standard_normal((4, T, len(emb.projection.W)))
    batch = lnp.Batch.of(images)
    before, _ = copy.forward(batch, keep=False)
    idle = []
    for name, array in live.items():
        kept = array.copy()
        array += 0.5 * rng.standard_normal(array.shape)
        after, _ = copy.forward(batch, keep=False)
        array[...] = kept
        if np.abs(after - before).max() < 1e-10:
            idle.append(name)
    return idle


@right_answer("never_trained")
def by_trial_with_several_models_and_an_intersection(model):
    idle = set(lnp.parameters(model, trainable_only=True))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        other = lnp.astype(model, np.float64)
        for array in lnp.parameters(other, trainable_only=True).values():
            array[...] = rng.normal(0.0, 0.3, array.shape)
        emb = other.embeddings
        T = len(emb.position.table) - (emb.class_token is not None)
        images = rng.standard_normal((3, T, len(emb.projection.W)))
        y, cache = other.forward(lnp.Batch.of(images))
        grads = other.backward(rng.normal(size=y.shape), cache)
        idle &= {name for name in grads if np.allclose(grads[name], 0, rtol=0, atol=1e-10)}
    return sorted(idle)


# ------------------------------------------------------------------------------------------------------ bitfit


@wrong_answer("bitfit", cause=None)
def layer_norms_forgotten(model):
    return lnp.unfreeze(model, "*.b")


@wrong_answer("bitfit", cause=None)
def any_name_with_a_b(model):
    return lnp.unfreeze(model, "*b*")


@wrong_answer("bitfit", cause=None)
def gammas_of_the_norms_too(model):
    return lnp.unfreeze(model, ["*.b", "*norm*"])


@wrong_answer("bitfit", cause="inplace")
def given_model_changed(model):
    def visit(node):
        names = [f.name for f in dataclasses.fields(node)]
        node.trainable = tuple(n for n in names if n in ("b", "beta") and getattr(node, n) is not None)
        for n in node.trainable:
            setattr(node, n, getattr(node, n).copy())
        for n in names:
            value = getattr(node, n)
            for child in value if isinstance(value, tuple) else (value,):
                if dataclasses.is_dataclass(child) and hasattr(child, "trainable"):
                    visit(child)

    visit(model)
    return model


@wrong_answer("bitfit", cause=None)
def head_left_out(model):
    names = [n for n in lnp.parameters(model) if n.endswith((".b", ".beta")) and not n.startswith("head")]
    return lnp.unfreeze(model, names)


@wrong_answer("bitfit", cause=None)
def whole_head_trained(model):
    patterns = ["*.b", "*.beta", "head"]
    new = lnp.unfreeze(model, patterns)
    return new


@wrong_answer("bitfit", cause=None)
def marked_as_trained_but_still_read_only(model):
    from lora_np.model.tree import arrays, rebuild

    def change(path, node):
        mine = tuple(name for name in arrays(node) if name in ("b", "beta"))
        return dataclasses.replace(node, trainable=mine)

    return rebuild(model, change)


@right_answer("bitfit")
def bitfit_by_two_patterns(model):
    return lnp.unfreeze(model, ["*.b", "*.beta"])


@right_answer("bitfit")
def bitfit_by_a_list_of_names(model):
    biases = []
    for name in lnp.parameters(model):
        last = name.split(".")[-1]
        if last == "b" or last == "beta":
            biases.append(name)
    return lnp.unfreeze(model, biases)


@right_answer("bitfit")
def bitfit_one_after_the_other(model):
    new = model
    for name in lnp.parameters(model):
        if name.endswith((".b", ".beta")):
            new = lnp.unfreeze(new, name)
    return new


@right_answer("bitfit")
def bitfit_by_rebuilding_the_tree(model):
    from lora_np.model.tree import arrays, rebuild

    def change(path, node):
        mine = {name: array.copy() for name, array in arrays(node).items() if name in ("b", "beta")}
        return dataclasses.replace(node, trainable=tuple(mine), **mine)

    return rebuild(model, change)


# ------------------------------------------------------------------------------------------- pool_mean_forward


@wrong_answer("pool_mean_forward", cause="mean_vs_sum", also=("constant_factor",))
def summed_over_the_pieces(x, groups):
    y = np.concatenate([x[start:stop].reshape(n, T, -1).sum(axis=1) for start, stop, n, T in groups])
    return y, PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="reduction_axis")
def mean_over_the_sentences(x, groups):
    parts = []
    for start, stop, n, T in groups:
        parts.append(x[start:stop].reshape(n, T, x.shape[1]).mean(axis=0))
    return np.vstack(parts), PoolCache(groups, x.shape[0])


@wrong_answer("pool_mean_forward", cause="reduction_axis", also=("shape",))
def one_row_a_group(x, groups):
    y = np.stack([x[start:stop].mean(axis=0) for start, stop, _, _ in groups])
    return y, PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="transpose")
def sentences_and_pieces_exchanged(x, groups):
    d = x.shape[1]
    y = [x[a:b].reshape(T, n, d).mean(axis=0) for a, b, n, T in groups]
    return np.concatenate(y, axis=0), PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause=None, also=("shape", "not_accumulated"))
def returned_inside_the_loop(x, groups):
    rows = []
    for start, stop, n, T in groups:
        for s in range(n):
            rows.append(x[start + s * T : start + (s + 1) * T].mean(axis=0))
        return np.array(rows), PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="constant_factor")
def divided_by_the_number_of_sentences(x, groups):
    y = []
    for start, stop, n, T in groups:
        y.append(x[start:stop].reshape(n, T, -1).sum(axis=1) / n)
    return np.concatenate(y), PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="missing_term")
def first_piece_left_out_of_the_mean(x, groups):
    S, d = sum(g[2] for g in groups), x.shape[1]
    y = np.zeros((S, d), x.dtype)
    s = 0
    for start, stop, n, T in groups:
        for k in range(n):
            rows = x[start + k * T + 1 : start + (k + 1) * T]
            y[s] = rows.sum(axis=0) / T
            s += 1
    return y, PoolCache(groups, len(x))


@right_answer("pool_mean_forward")
def pool_by_reshape(x, groups):
    y = np.concatenate([x[start:stop].reshape(n, T, -1).mean(axis=1) for start, stop, n, T in groups])
    return y, PoolCache(groups, len(x))


@right_answer("pool_mean_forward")
def pool_with_two_loops(x, groups):
    y = np.zeros((sum(n for _, _, n, _ in groups), x.shape[1]), x.dtype)
    s = 0
    for start, stop, n, T in groups:
        for first in range(start, stop, T):
            y[s] = x[first : first + T].mean(axis=0)
            s += 1
    return y, PoolCache(groups=groups, rows=x.shape[0])


@right_answer("pool_mean_forward")
def pool_by_a_matrix(x, groups):
    S = sum(group[2] for group in groups)
    M = np.zeros((S, len(x)), x.dtype)
    s = 0
    for start, _, n, T in groups:
        for k in range(n):
            M[s, start + k * T : start + (k + 1) * T] = 1 / T
            s += 1
    return M @ x, PoolCache(groups, len(x))


@right_answer("pool_mean_forward")
def pool_by_reduceat(x, groups):
    starts = [start + k * T for start, _, n, T in groups for k in range(n)]
    lengths = [T for _, _, n, T in groups for _ in range(n)]
    sums = np.add.reduceat(x, starts, axis=0)
    return sums / np.array(lengths, x.dtype)[:, None], PoolCache(tuple(groups), len(x))


# ------------------------------------------------------------------------------------------ pool_mean_backward


@wrong_answer("pool_mean_backward", cause="mean_vs_sum", also=("constant_factor",))
def not_divided_by_the_pieces(dy, cache):
    groups, rows = cache
    dx = np.empty((rows, dy.shape[1]), dy.dtype)
    s = 0
    for start, stop, n, T in groups:
        dx[start:stop] = np.repeat(dy[s : s + n], T, axis=0)
        s += n
    return dx


@wrong_answer("pool_mean_backward", cause="transpose")
def tiled_where_each_row_is_repeated(dy, cache):
    groups, rows = cache
    parts, s = [], 0
    for _, _, n, T in groups:
        parts.append(np.tile(dy[s : s + n] / T, (T, 1)))
        s += n
    return np.concatenate(parts)


@wrong_answer("pool_mean_backward", cause=None, also=("wrong_cached_value",))
def rows_of_dy_counted_as_rows_of_x(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]), dy.dtype)
    for start, stop, n, T in groups:
        dx[start:stop] = np.repeat(dy[start : start + n], T, axis=0) / T
    return dx


@wrong_answer("pool_mean_backward", cause=None, also=("wrong_cached_value",))
def counter_of_sentences_not_moved_on(dy, cache):
    dx = np.zeros((cache.rows, dy.shape[1]), dtype=dy.dtype)
    first = 0
    for start, stop, n, T in cache.groups:
        for k in range(n):
            dx[start + k * T : start + (k + 1) * T] = dy[first + k] / T
    return dx


@wrong_answer("pool_mean_backward", cause="missing_path", also=("zero_gradient",))
def first_piece_alone_gets_a_share(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]), dy.dtype)
    s = 0
    for start, stop, n, T in groups:
        dx[start:stop:T] = dy[s : s + n] / T
        s += n
    return dx


@wrong_answer("pool_mean_backward", cause="constant_factor")
def share_of_the_sentences_in_place_of_the_pieces(dy, cache):
    groups, rows = cache
    parts, s = [], 0
    for start, stop, n, T in groups:
        block = dy[s : s + n, None, :] / n
        parts.append(np.broadcast_to(block, (n, T, dy.shape[1])).reshape(n * T, -1))
        s += n
    return np.concatenate(parts)


@wrong_answer("pool_mean_backward", cause="dtype")
def zeros_of_float64_for_dx(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]))
    s = 0
    for start, stop, n, T in groups:
        for k in range(n):
            dx[start + k * T : start + k * T + T] += dy[s] / T
            s += 1
    return dx


@right_answer("pool_mean_backward")
def unpool_by_repeat(dy, cache):
    groups, rows = cache
    dx = np.empty((rows, dy.shape[1]), dy.dtype)
    first = 0
    for start, stop, n, T in groups:
        dx[start:stop] = np.repeat(dy[first : first + n] / T, T, axis=0)
        first += n
    return dx


@right_answer("pool_mean_backward")
def unpool_sentence_by_sentence(dy, cache):
    dx = np.zeros((cache.rows, dy.shape[1]), dtype=dy.dtype)
    s = 0
    for start, stop, n, T in cache.groups:
        for first in range(start, stop, T):
            dx[first : first + T] = dy[s] / T
            s += 1
    return dx


@right_answer("pool_mean_backward")
def unpool_by_the_matrix_transposed(dy, cache):
    M = np.zeros((len(dy), cache.rows), dy.dtype)
    s = 0
    for start, _, n, T in cache.groups:
        for k in range(n):
            M[s, start + k * T : start + (k + 1) * T] = 1.0 / T
            s += 1
    return M.T @ dy


@right_answer("pool_mean_backward")
def unpool_by_indices(dy, cache):
    groups, rows = cache
    lengths = np.concatenate([np.full(n, T) for _, _, n, T in groups])
    sentence = np.repeat(np.arange(len(lengths)), lengths)
    return (dy / lengths[:, None].astype(dy.dtype))[sentence]


# ------------------------------------------------------------------------------------------- paired_comparison


@wrong_answer("paired_comparison", cause="constant_factor")
def one_side_alone(first, second):
    a = int(np.sum(first & ~second))
    b = int(np.sum(second & ~first))
    n = a + b
    p = sum(math.comb(n, k) for k in range(max(a, b), n + 1)) / 2**n
    return first.mean() - second.mean(), p


@wrong_answer("paired_comparison", cause=None, also=("extra_term",))
def doubled_beyond_1(first, second):
    a = int((first & ~second).sum())
    b = int((~first & second).sum())
    n = a + b
    tail = sum(math.comb(n, k) for k in range(max(a, b), n + 1))
    return float(first.mean() - second.mean()), 2 * tail / 2**n


@wrong_answer("paired_comparison", cause=None)
def coins_for_all_sentences(first, second):
    n = len(first)
    wins = int(np.sum(first & ~second))
    losses = int(np.sum(second & ~first))
    p = min(1.0, 2 * sum(math.comb(n, k) for k in range(max(wins, losses), n + 1)) / 2**n)
    return np.mean(first) - np.mean(second), p


@wrong_answer("paired_comparison", cause="missing_term")
def the_split_seen_not_counted(first, second):
    a, b = int((first > second).sum()), int((second > first).sum())
    n = a + b
    seen = abs(a - b)
    ways = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) > seen)
    return first.mean() - second.mean(), ways / 2**n


@wrong_answer("paired_comparison", cause="missing_term")
def the_very_split_alone(first, second):
    a = int(np.count_nonzero(first & ~second))
    b = int(np.count_nonzero(~first & second))
    ways = math.comb(a + b, a) if a == b else 2 * math.comb(a + b, a)
    return first.mean() - second.mean(), ways / 2 ** (a + b)


@wrong_answer("paired_comparison", cause=None)
def normal_curve_for_the_coins(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    difference = first.mean() - second.mean()
    if a + b == 0:
        return difference, 1.0
    z = abs(a - b) / math.sqrt(a + b)
    return difference, math.erfc(z / math.sqrt(2))


@wrong_answer("paired_comparison", cause="sign")
def difference_without_its_sign(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    n = a + b
    p = min(1, 2 * sum(math.comb(n, k) for k in range(min(a, b) + 1)) / 2**n)
    return abs(first.mean() - second.mean()), p


@right_answer("paired_comparison")
def coins_in_whole_numbers(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    n = a + b
    tail = sum(math.comb(n, k) for k in range(max(a, b), n + 1))
    return first.mean() - second.mean(), min(1.0, 2 * tail / 2**n)


@right_answer("paired_comparison")
def coins_by_their_distance_from_the_middle(first, second):
    first, second = np.asarray(first), np.asarray(second)
    a = int(np.count_nonzero(first > second))
    b = int(np.count_nonzero(second > first))
    n = a + b
    ways = sum(math.comb(n, k) for k in range(n + 1) if abs(k - (n - k)) >= abs(a - b))
    return (a - b) / len(first), ways / 2**n


@right_answer("paired_comparison")
def coins_as_fractions(first, second):
    alone = [0, 0]
    for x, y in zip(first, second):
        if x and not y:
            alone[0] += 1
        elif y and not x:
            alone[1] += 1
    n = sum(alone)
    p = Fraction(sum(math.comb(n, k) for k in range(min(alone) + 1)) * 2, 2**n)
    return float(np.mean(first)) - float(np.mean(second)), float(min(p, Fraction(1)))


@right_answer("paired_comparison")
def coins_less_the_even_splits(first, second):
    """One minus the chance of a split that is less uneven."""
    differ = first != second
    n = int(differ.sum())
    wins = int(first[differ].sum())
    low, high = min(wins, n - wins), max(wins, n - wins)
    inside = sum(math.comb(n, k) for k in range(low + 1, high))
    return (int(first.sum()) - int(second.sum())) / first.size, (2**n - inside) / 2**n
