"""More answers to the exercises that derive, written by somebody who saw their text alone."""

import math
from functools import reduce
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


@wrong_answer("mlp_backward", cause="missing_term", also=("missing_path", "wrong_derivative"))
def gelu_by_its_cdf_alone(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    x, cdf = c_gelu
    da, g2 = mlp.down.backward(dy, c_down)
    dh = da * cdf
    dx, g1 = mlp.up.backward(dh, c_up)
    return dx, {"up": g1, "down": g2}


@wrong_answer("mlp_backward", cause="sign", also=("wrong_derivative",))
def density_taken_away(mlp, dy, cache):
    c_up, (h, cdf), c_down = cache
    grads = {}
    da, grads["down"] = mlp.down.backward(dy, c_down)
    density = np.exp(-0.5 * h**2) / math.sqrt(2 * math.pi)
    dx, grads["up"] = mlp.up.backward(da * (cdf - h * density), c_up)
    return dx, grads


@wrong_answer("mlp_backward", cause="wrong_derivative")
def derivative_of_the_tanh_form(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    h = c_gelu[0]
    da, down = mlp.down.backward(dy, c_down)
    _, c_tanh = ops.gelu_tanh_forward(h)
    dh = ops.gelu_tanh_backward(da, c_tanh)
    dx, up = mlp.up.backward(dh, c_up)
    return dx, {"up": up, "down": down}


@wrong_answer("mlp_backward", cause="inplace")
def slope_added_into_the_cached_cdf(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    h, slope = c_gelu
    slope += h * np.exp(-0.5 * h * h) / math.sqrt(2.0 * math.pi)
    da, down = mlp.down.backward(dy, c_down)
    dx, up = mlp.up.backward(da * slope, c_up)
    return dx, {"up": up, "down": down}


@wrong_answer("mlp_backward", cause=None, also=("shape",))
def gradients_of_both_parts_in_one_flat_dict(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    grads = {}
    da, g = mlp.down.backward(dy, c_down)
    grads.update(g)
    dx, g = mlp.up.backward(ops.gelu_backward(da, c_gelu), c_up)
    grads.update(g)
    return dx, grads


@wrong_answer("mlp_backward", cause="dtype")
def density_divided_by_a_numpy_float64(mlp, dy, cache):
    c_up, c_gelu, c_down = cache
    x, cdf = c_gelu.x, c_gelu.cdf
    da, g_down = mlp.down.backward(dy, c_down)
    phi = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    dh = da * (cdf + x * phi)
    dx, g_up = mlp.up.backward(dh, c_up)
    return dx, {"up": g_up, "down": g_down}


@wrong_answer("mlp_backward", cause="wrong_cached_value", also=("wrong_derivative", "swapped"))
def gelu_cache_read_in_the_other_order(mlp, dy, cache):
    c_up, (cdf, x), c_down = cache
    da, down = mlp.down.backward(dy, c_down)
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    dx, up = mlp.up.backward(da * (cdf + x * density), c_up)
    return dx, {"up": up, "down": down}


@right_answer("mlp_backward")
def mlp_from_the_end_of_a_list(mlp, dy, cache):
    caches = list(cache)
    d, grads = dy, {}
    d, grads["down"] = mlp.down.backward(d, caches.pop())
    d = ops.gelu_backward(d, caches.pop())
    d, grads["up"] = mlp.up.backward(d, caches.pop())
    return d, grads


@right_answer("mlp_backward")
def mlp_with_the_slope_of_gelu_first(mlp, dy, cache):
    """The slope is the gradient of a one."""
    c_up, c_gelu, c_down = cache
    slope = ops.gelu_backward(np.ones_like(c_gelu.x), c_gelu)
    da, down = mlp.down.backward(dy, c_down)
    dx, up = mlp.up.backward(slope * da, c_up)
    return dx, {"up": up, "down": down}


@right_answer("mlp_backward")
def mlp_with_the_normal_density_in_one_exponent(mlp, dy, cache):
    up_cache, gelu_cache, down_cache = cache
    h, cdf = gelu_cache
    log_root = 0.5 * math.log(2.0 * math.pi)
    result = {}
    d, result["down"] = mlp.down.backward(dy, down_cache)
    d = d * cdf + d * h * np.exp(-0.5 * h * h - log_root)
    d, result["up"] = mlp.up.backward(d, up_cache)
    return d, {"up": result["up"], "down": result["down"]}


# ------------------------------------------------------------------------------------------ rms_norm_backward


@wrong_answer("rms_norm_backward", cause="wrong_cached_value", also=("elementwise_factor",))
def xhat_where_x_belongs(dy, cache):
    xhat, r, gamma = cache
    d = xhat.shape[1]
    dxhat = dy * gamma
    dr = np.sum(dxhat * xhat, axis=1, keepdims=True)
    dx = dxhat * r - dr * r**3 * xhat / d
    return dx, np.sum(dy * xhat, axis=0)


@wrong_answer("rms_norm_backward", cause="reduction_axis")
def mean_over_the_rows(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    dx = inverse_rms * (dxhat - xhat * (dxhat * xhat).mean(axis=0, keepdims=True))
    return dx, (dy * xhat).sum(axis=0)


@wrong_answer("rms_norm_backward", cause="elementwise_factor")
def divided_by_the_inverse(dy, cache):
    xhat, rms, gamma = cache
    g = dy * gamma
    dx = (g - xhat * (g * xhat).mean(axis=1, keepdims=True)) / rms
    dgamma = (dy * xhat).sum(axis=0)
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="mean_vs_sum", also=("constant_factor",))
def dgamma_as_a_mean(dy, cache):
    xhat, inverse_rms, gamma = cache
    dgamma = np.mean(dy * xhat, axis=0)
    dxhat = dy * gamma
    along = np.mean(dxhat * xhat, axis=1)[:, None]
    return inverse_rms * (dxhat - xhat * along), dgamma


@wrong_answer("rms_norm_backward", cause="constant_factor")
def power_rule_without_its_half(dy, cache):
    xhat, r, gamma = cache
    x = xhat / r
    dxhat = dy * gamma
    dr = (dxhat * x).sum(axis=1, keepdims=True)
    dms = -(r**3) * dr
    dx = r * dxhat + dms * 2.0 * x / x.shape[1]
    return dx, (dy * xhat).sum(axis=0)


@wrong_answer("rms_norm_backward", cause="inplace")
def gamma_multiplied_into_dy(dy, cache):
    xhat, inverse_rms, gamma = cache
    dgamma = (dy * xhat).sum(axis=0)
    dy *= gamma
    dx = inverse_rms * (dy - xhat * (dy * xhat).mean(axis=1, keepdims=True))
    return dx, dgamma


@wrong_answer("rms_norm_backward", cause="ignores_upstream")
def dy_left_out_of_the_second_path(dy, cache):
    xhat, inverse_rms, gamma = cache
    dxhat = gamma * dy
    second = xhat * (gamma * xhat).mean(axis=1, keepdims=True)
    dx = inverse_rms * (dxhat - second)
    return dx, (dy * xhat).sum(axis=0)


@right_answer("rms_norm_backward")
def rms_with_two_named_paths(dy, cache):
    xhat, inverse_rms, gamma = cache
    n_entries = xhat.shape[-1]
    dgamma = np.add.reduce(dy * xhat, axis=0)
    up = dy * gamma
    direct = up * inverse_rms
    through_the_scale = -inverse_rms * xhat / n_entries * np.add.reduce(up * xhat, axis=-1, keepdims=True)
    return direct + through_the_scale, dgamma


@right_answer("rms_norm_backward")
def rms_as_a_projection_in_a_batch_of_matrices(dy, cache):
    xhat, inverse_rms, gamma = cache
    d = gamma.size
    P = np.eye(d, dtype=xhat.dtype) - xhat[:, :, None] * xhat[:, None, :] / d
    dx = (P @ (dy * gamma)[:, :, None])[:, :, 0] * inverse_rms
    return dx, np.diagonal(dy.T @ xhat).copy()


@right_answer("rms_norm_backward")
def rms_with_plain_loops_over_the_entries(dy, cache):
    xhat, inverse_rms, gamma = cache
    N, d = dy.shape
    dx, dgamma = np.zeros_like(dy), np.zeros_like(gamma)
    for n in range(N):
        along = sum(gamma[i] * dy[n, i] * xhat[n, i] for i in range(d)) / d
        for i in range(d):
            dx[n, i] = inverse_rms[n, 0] * (gamma[i] * dy[n, i] - xhat[n, i] * along)
            dgamma[i] += dy[n, i] * xhat[n, i]
    return dx, dgamma


# ----------------------------------------------------------------------------------- attention_layer_backward


@wrong_answer("attention_layer_backward", cause="shape", also=("reduction_axis",))
def ways_laid_side_by_side(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx_q, grads["query"] = attention.query.backward(dQ, c_query)
    dx_k, grads["key"] = attention.key.backward(dK, c_key)
    dx_v, grads["value"] = attention.value.backward(dV, c_value)
    return np.concatenate([dx_q, dx_k, dx_v], axis=1), grads


@wrong_answer("attention_layer_backward", cause="wrong_cached_value", also=("swapped",))
def caches_of_key_and_value_exchanged(attention, dy, cache):
    c_query, c_value, c_key, c_heads, c_output = cache
    dO, g_o = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx, g_q = attention.query.backward(dQ, c_query)
    part_k, g_k = attention.key.backward(dK, c_key)
    part_v, g_v = attention.value.backward(dV, c_value)
    return dx + part_k + part_v, {"output": g_o, "query": g_q, "key": g_k, "value": g_v}


@wrong_answer("attention_layer_backward", cause="zero_gradient", also=("shape",))
def gradients_of_output_not_returned(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, _ = attention.output.backward(dy, c_output)
    grads, dx = {}, 0.0
    ways = zip(("query", "key", "value"), heads_backward(dO, c_heads, attention, "QKV"), (c_query, c_key, c_value))
    for name, d, c in ways:
        part, grads[name] = getattr(attention, name).backward(d, c)
        dx = dx + part
    return dx, grads


@wrong_answer("attention_layer_backward", cause="missing_path", also=("missing_term",))
def way_through_the_value_left_out_of_dx(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx_q, grads["query"] = attention.query.backward(dQ, c_query)
    dx_k, grads["key"] = attention.key.backward(dK, c_key)
    grads["value"] = attention.value.backward(dV, c_value)[1]
    return dx_q + dx_k, grads


@wrong_answer("attention_layer_backward", cause="constant_factor")
def scores_scaled_once_more(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    d_head = dy.shape[1] // attention.heads
    dO, output = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dQ, dK = dQ / math.sqrt(d_head), dK / math.sqrt(d_head)
    dx1, query = attention.query.backward(dQ, c_query)
    dx2, key = attention.key.backward(dK, c_key)
    dx3, value = attention.value.backward(dV, c_value)
    return dx1 + dx2 + dx3, dict(output=output, query=query, key=key, value=value)


@wrong_answer("attention_layer_backward", cause="inplace")
def dx_added_up_in_the_memory_of_dy(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = {}
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx = dy
    dx[:] = 0
    for name, d, c in [("query", dQ, c_query), ("key", dK, c_key), ("value", dV, c_value)]:
        part, grads[name] = getattr(attention, name).backward(d, c)
        dx += part
    return dx, grads


@wrong_answer("attention_layer_backward", cause="reduction_axis", also=("shape",))
def summed_over_all_axes(attention, dy, cache):
    *c_ways, c_heads, c_output = cache
    names = "query", "key", "value"
    dO, g = attention.output.backward(dy, c_output)
    grads, parts = {"output": g}, []
    for name, d, c in zip(names, heads_backward(dO, c_heads, attention, "QKV"), c_ways):
        part, grads[name] = getattr(attention, name).backward(d, c)
        parts.append(part)
    return np.sum(parts), grads


@right_answer("attention_layer_backward")
def attention_by_sum_of_a_dict(attention, dy, cache):
    names = ("query", "key", "value")
    dO, output = attention.output.backward(dy, cache[4])
    dH = dict(zip(names, heads_backward(dO, cache[3], attention, "QKV")))
    pairs = {name: getattr(attention, name).backward(dH[name], cache[k]) for k, name in enumerate(names)}
    grads = {name: pair[1] for name, pair in pairs.items()}
    return sum(pair[0] for pair in pairs.values()), {"output": output, **grads}


@right_answer("attention_layer_backward")
def attention_with_reduce(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    dO, g_o = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    ways = (
        attention.query.backward(dQ, c_query),
        attention.key.backward(dK, c_key),
        attention.value.backward(dV, c_value),
    )
    parts, (g_q, g_k, g_v) = zip(*ways)
    return reduce(np.add, parts), {"output": g_o, "query": g_q, "key": g_k, "value": g_v}


@right_answer("attention_layer_backward")
def attention_into_fresh_zeros(attention, dy, cache):
    c_query, c_key, c_value, c_heads, c_output = cache
    grads = dict.fromkeys(("output", "query", "key", "value"))
    dO, grads["output"] = attention.output.backward(dy, c_output)
    dQ, dK, dV = heads_backward(dO, c_heads, attention, "QKV")
    dx = np.zeros_like(dy)
    for key, upstream, c in (("value", dV, c_value), ("query", dQ, c_query), ("key", dK, c_key)):
        back, grads[key] = getattr(attention, key).backward(upstream, c, needs_dx=True)
        dx += back
    return dx, grads


# -------------------------------------------------------------------------------------- cross_entropy_forward


@wrong_answer("cross_entropy_forward", cause="reduction_axis")
def softmax_down_the_columns(logits, labels):
    counts = labels != -100
    z = logits - logits.max(axis=0, keepdims=True)
    total = np.exp(z).sum(axis=0, keepdims=True)
    logp = z - np.log(total)
    q = np.zeros_like(logits)
    q[counts, labels[counts]] = 1
    divisor = int(counts.sum())
    loss = -(q * logp).sum() / divisor
    return loss, CrossEntropyCache(np.exp(logp), q, divisor)


@wrong_answer("cross_entropy_forward", cause="mask_ignored")
def rows_that_do_not_count_labelled_0(logits, labels):
    counts = labels != -100
    j = np.where(counts, labels, 0)
    rows = np.arange(len(labels))
    z = logits - logits.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    q = np.zeros_like(logits)
    q[rows, j] = 1
    divisor = int(counts.sum())
    return -logp[rows, j].sum() / divisor, CrossEntropyCache(np.exp(logp), q, divisor)


@wrong_answer("cross_entropy_forward", cause="wrong_cached_value")
def logarithms_kept_for_the_probabilities(logits, labels):
    rows = np.flatnonzero(labels != -100)
    z = logits - logits.max(axis=1, keepdims=True)
    p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    q = np.zeros_like(p)
    q[rows, labels[rows]] = 1
    loss = -p[rows, labels[rows]].mean()
    return loss, CrossEntropyCache(p, q, len(rows))


@wrong_answer("cross_entropy_forward", cause="inplace")
def greatest_taken_out_of_the_logits_themselves(logits, labels):
    logits -= logits.max(axis=1, keepdims=True)
    e = np.exp(logits)
    s = e.sum(axis=1, keepdims=True)
    counts = labels != -100
    q = np.zeros_like(e)
    q[counts, labels[counts]] = 1
    n = int(counts.sum())
    loss = (np.log(s)[counts, 0] - logits[counts, labels[counts]]).sum() / n
    return loss, CrossEntropyCache(e / s, q, n)


@wrong_answer("cross_entropy_forward", cause="dtype")
def targets_out_of_an_eye_of_float64(logits, labels):
    N, L = logits.shape
    counts = labels != -100
    m = logits.max(axis=1, keepdims=True)
    logp = (logits - m) - np.log(np.exp(logits - m).sum(axis=1, keepdims=True))
    q = np.eye(L)[np.where(counts, labels, 0)] * counts[:, None]
    divisor = int(counts.sum())
    loss = -np.sum(q * logp) / divisor
    return loss, CrossEntropyCache(np.exp(logp), q, divisor)


@wrong_answer("cross_entropy_forward", cause="missing_term")
def greatest_not_put_back(logits, labels):
    counts = labels != -100
    m = np.max(logits, axis=1, keepdims=True)
    e = np.exp(logits - m)
    lse = np.log(e.sum(axis=1))
    losses = lse[counts] - logits[counts, labels[counts]]
    q = np.zeros_like(logits)
    q[counts, labels[counts]] = 1.0
    return losses.mean(), CrossEntropyCache(e / e.sum(axis=1, keepdims=True), q, int(counts.sum()))


@wrong_answer("cross_entropy_forward", cause="constant_factor")
def surprise_counted_in_bits(logits, labels):
    counts = labels != -100
    z = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1, keepdims=True)
    rows = np.flatnonzero(counts)
    bits = np.log2(total[rows, 0]) - z[rows, labels[rows]] / math.log(2)
    q = np.zeros_like(e)
    q[rows, labels[rows]] = 1
    return bits.mean(), CrossEntropyCache(e / total, q, rows.size)


@right_answer("cross_entropy_forward")
def entropy_with_logaddexp(logits, labels):
    lse = np.logaddexp.reduce(logits, axis=1)
    p = np.exp(logits - lse[:, None])
    counts = labels != -100
    q = np.zeros_like(p)
    q[counts, labels[counts]] = 1
    divisor = int(np.sum(counts))
    loss = np.sum(lse[counts] - logits[counts, labels[counts]]) / divisor
    return loss, CrossEntropyCache(p, q, divisor)


@right_answer("cross_entropy_forward")
def entropy_of_the_counting_rows_first(logits, labels):
    mine = labels != -100
    j = labels[mine]
    z = logits - logits.max(axis=1)[:, None]
    e = np.exp(z)
    p = e / np.sum(e, axis=1, keepdims=True)
    q = (labels[:, None] == np.arange(logits.shape[1])).astype(logits.dtype)
    picked = np.take_along_axis(z[mine], j[:, None], axis=1).ravel()
    losses = np.log(e[mine].sum(axis=1)) - picked
    return np.mean(losses), CrossEntropyCache(p, q, len(j))


@right_answer("cross_entropy_forward")
def entropy_with_a_sum_over_the_targets(logits, labels):
    z = logits - np.amax(logits, axis=-1, keepdims=True)
    exp_z = np.exp(z)
    total = np.einsum("nl->n", exp_z)[:, None]
    q = np.zeros_like(logits)
    for n in range(len(labels)):
        if labels[n] >= 0:
            q[n, labels[n]] = 1
    divisor = int(q.sum())
    loss = np.einsum("nl,nl->", q, np.log(total) - z) / divisor
    return loss, CrossEntropyCache(exp_z / total, q, divisor)


# ----------------------------------------------------------------------------------------------- never_trained


@wrong_answer("never_trained", cause=None)
def biases_of_query_key_and_value(model):
    ends = tuple(f"attention.{part}.b" for part in ("query", "key", "value"))
    return [name for name in lnp.parameters(model, trainable_only=True) if name.endswith(ends)]


@wrong_answer("never_trained", cause=None)
def frozen_ones_listed_too(model):
    return [name for name in lnp.parameters(model) if name.endswith("attention.key.b")]


@wrong_answer("never_trained", cause=None)
def return_at_the_first_find(model):
    found = []
    for name in lnp.parameters(model, trainable_only=True):
        if name.endswith(".key.b"):
            found.append(name)
            return found
    return found


@wrong_answer("never_trained", cause="inplace")
def given_models_arrays_moved(model):
    rng = np.random.default_rng(0)
    arrays = lnp.parameters(model, trainable_only=True)
    for array in arrays.values():
        array += (0.1 * rng.standard_normal(array.shape)).astype(array.dtype)
    emb = model.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    double = lnp.astype(model, np.float64)
    out, cache = double.forward(lnp.Batch.of(rng.standard_normal((4, T, len(emb.projection.W)))))
    grads = double.backward(rng.standard_normal(out.shape), cache)
    return [name for name in arrays if np.abs(grads[name]).max() < 1e-11]


@wrong_answer("never_trained", cause=None, also=("reduction_axis",))
def sum_of_the_gradient_in_place_of_its_size(model):
    rng = np.random.default_rng(4)
    copy = lnp.astype(model, np.float64)
    for array in lnp.parameters(copy, trainable_only=True).values():
        array += 0.1 * rng.standard_normal(array.shape)
    emb = copy.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    output, cache = copy.forward(lnp.Batch.of(rng.standard_normal((5, T, len(emb.projection.W)))))
    _, c_loss = lnp.cross_entropy_forward(output, np.arange(len(output)) % output.shape[1])
    grads = copy.backward(lnp.cross_entropy_backward(1.0, c_loss), cache)
    return [name for name, g in grads.items() if abs(g.sum()) < 1e-10]


@wrong_answer("never_trained", cause=None)
def list_built_and_not_returned(model):
    names = []
    for name in lnp.parameters(model, trainable_only=True):
        if ".attention.key." in name and name[-2:] == ".b":
            names.append(name)


@wrong_answer("never_trained", cause="zero_gradient")
def upstream_of_zeros(model):
    rng = np.random.default_rng(5)
    emb = model.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    images = rng.standard_normal((3, T, len(emb.projection.W))).astype(model.dtype)
    output, cache = model.forward(lnp.Batch.of(images))
    grads = model.backward(np.zeros_like(output), cache)
    return [name for name, g in grads.items() if not np.abs(g).max() > 1e-6]


@right_answer("never_trained")
def by_the_fields_of_the_attention_nodes(model):
    """A key bias adds q . b to every score of a row, which softmax takes away."""
    found = []
    for k, block in enumerate(model.layer):
        key = getattr(block.attention, "key", None)
        if key is not None and "b" in key.trainable:
            found.append(f"layer.{k}.attention.key.b")
    return found


@right_answer("never_trained")
def by_trial_against_the_size_of_what_is_added_up(model):
    rng = np.random.default_rng(11)
    copy = lnp.astype(model, np.float64)
    live = lnp.parameters(copy, trainable_only=True)
    candidates = list(live)
    for trial in range(4):
        for array in live.values():
            array += rng.uniform(-0.2, 0.2, array.shape)
        emb = copy.embeddings
        T = len(emb.position.table) - (emb.class_token is not None)
        images = 2.0 * rng.standard_normal((2 + trial, T, len(emb.projection.W)))
        output, cache = copy.forward(lnp.Batch.of(list(images)))
        upstream = rng.standard_normal(output.shape)
        grads = copy.backward(upstream, cache)
        limit = 1e-12 * np.abs(upstream).sum()
        candidates = [name for name in candidates if np.linalg.norm(grads[name]) < limit]
    return candidates


@right_answer("never_trained")
def by_steps_of_training_that_move_nothing(model):
    """Train a copy for some steps of noise, and look which arrays stay where they were."""
    rng = np.random.default_rng(7)
    copy = lnp.astype(model, np.float64)
    arrays = lnp.parameters(copy, trainable_only=True)
    start = {name: array.copy() for name, array in arrays.items()}
    emb = copy.embeddings
    T = len(emb.position.table) - (emb.class_token is not None)
    for _ in range(6):
        output, cache = copy.forward(lnp.Batch.of(rng.standard_normal((3, T, len(emb.projection.W)))))
        for name, g in copy.backward(rng.standard_normal(output.shape), cache).items():
            arrays[name] -= 0.05 * g
    return [name for name in arrays if np.allclose(arrays[name], start[name], rtol=0.0, atol=1e-12)]


# ------------------------------------------------------------------------------------------------------ bitfit


@wrong_answer("bitfit", cause=None)
def positions_counted_as_biases(model):
    names = [name for name in lnp.parameters(model) if name.endswith((".b", ".beta", "position.table", "class_token"))]
    return lnp.unfreeze(model, names)


@wrong_answer("bitfit", cause=None)
def new_model_thrown_away(model):
    lnp.unfreeze(model, ["*.b", "*.beta"])
    return model


@wrong_answer("bitfit", cause=None)
def new_model_not_returned(model):
    new = lnp.unfreeze(model, ["*.b", "*.beta"])
    assert lnp.count_parameters(new).trainable > 0


@wrong_answer("bitfit", cause=None)
def every_array_with_one_axis(model):
    return lnp.unfreeze(model, [name for name, array in lnp.parameters(model).items() if array.ndim == 1])


@wrong_answer("bitfit", cause=None)
def below_and_above_the_layers_forgotten(model):
    return lnp.unfreeze(model, ["layer.*.b", "layer.*.beta", "head.*.b"])


@wrong_answer("bitfit", cause=None, also=("not_accumulated",))
def each_time_from_the_frozen_model(model):
    for pattern in ("*.b", "*.beta"):
        new = lnp.unfreeze(model, pattern)
    return new


@wrong_answer("bitfit", cause=None)
def biases_of_the_mlp_left_out(model):
    names = [n for n in lnp.parameters(model) if n.endswith(".b") and ".mlp." not in n]
    names += [n for n in lnp.parameters(model) if n.endswith(".beta")]
    return lnp.unfreeze(model, names)


@right_answer("bitfit")
def bitfit_by_a_set_of_last_names(model):
    names = [name for name in lnp.parameters(model) if name.rpartition(".")[2] in {"b", "beta"}]
    return lnp.unfreeze(model, set(names))


@right_answer("bitfit")
def bitfit_with_reduce(model):
    return reduce(lnp.unfreeze, ("*.b", "*.beta"), model)


@right_answer("bitfit")
def bitfit_by_walking_the_nodes(model):
    from lora_np.model.tree import walk

    names = []
    for path, node in walk(model):
        for field in ("b", "beta"):
            if isinstance(getattr(node, field, None), np.ndarray):
                names.append(f"{path}.{field}")
    return lnp.unfreeze(model, names)


# ------------------------------------------------------------------------------------------- pool_mean_forward


@wrong_answer("pool_mean_forward", cause="shape")
def groups_not_laid_end_to_end(x, groups):
    y = []
    for start, stop, n, T in groups:
        y.append(x[start:stop].reshape(n, T, -1).mean(axis=1))
    return np.stack(y), PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause=None, also=("shape",))
def cache_of_the_mean_forgotten(x, groups):
    return np.concatenate([x[a:b].reshape(n, T, -1).mean(axis=1) for a, b, n, T in groups])


@wrong_answer("pool_mean_forward", cause="wrong_cached_value")
def rows_of_y_kept_for_those_of_x(x, groups):
    y = np.vstack([x[a:b].reshape(n, T, x.shape[1]).mean(axis=1) for a, b, n, T in groups])
    return y, PoolCache(groups, y.shape[0])


@wrong_answer("pool_mean_forward", cause="dtype")
def means_written_into_float64(x, groups):
    y = np.zeros((sum(n for _, _, n, _ in groups), x.shape[1]))
    s = 0
    for start, stop, n, T in groups:
        y[s : s + n] = x[start:stop].reshape(n, T, -1).mean(axis=1)
        s += n
    return y, PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="constant_factor")
def divided_by_the_longest_length(x, groups):
    longest = max(T for _, _, _, T in groups)
    sums = [x[start:stop].reshape(n, T, -1).sum(axis=1) for start, stop, n, T in groups]
    return np.concatenate(sums) / longest, PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause=None)
def all_sentences_as_long_as_the_first(x, groups):
    T = groups[0][3]
    y = x.reshape(-1, T, x.shape[1]).mean(axis=1)
    return y, PoolCache(groups, len(x))


@wrong_answer("pool_mean_forward", cause="inplace")
def rows_of_x_divided_in_place(x, groups):
    y = []
    for start, stop, n, T in groups:
        rows = x[start:stop].reshape(n, T, -1)
        rows /= T
        y.append(rows.sum(axis=1))
    return np.concatenate(y), PoolCache(groups, len(x))


@right_answer("pool_mean_forward")
def pool_with_einsum(x, groups):
    parts = [np.einsum("ntd->nd", x[a:b].reshape(n, T, x.shape[1])) / T for a, b, n, T in groups]
    return np.concatenate(parts, axis=0), PoolCache(groups, len(x))


@right_answer("pool_mean_forward")
def pool_by_adding_at_the_sentences_number(x, groups):
    lengths = [T for _, _, n, T in groups for _ in range(n)]
    number = np.repeat(np.arange(len(lengths)), lengths)
    y = np.zeros((len(lengths), x.shape[1]), dtype=x.dtype)
    np.add.at(y, number, x)
    y /= np.array(lengths, dtype=x.dtype)[:, None]
    return y, PoolCache(groups, x.shape[0])


@right_answer("pool_mean_forward")
def pool_by_splitting_the_rows(x, groups):
    y = []
    for start, stop, n, T in groups:
        for sentence in np.split(x[start:stop], n):
            y.append(sum(sentence) / T)
    return np.array(y), PoolCache(groups, len(x))


# ------------------------------------------------------------------------------------------ pool_mean_backward


@wrong_answer("pool_mean_backward", cause="shape")
def one_row_a_sentence_not_one_a_piece(dy, cache):
    groups, rows = cache
    lengths = np.array([T for _, _, n, T in groups for _ in range(n)], dy.dtype)
    return dy / lengths[:, None]


@wrong_answer("pool_mean_backward", cause="inplace")
def dy_divided_in_place(dy, cache):
    groups, rows = cache
    dx = np.empty((rows, dy.shape[1]), dy.dtype)
    s = 0
    for start, stop, n, T in groups:
        block = dy[s : s + n]
        block /= T
        dx[start:stop] = np.repeat(block, T, axis=0)
        s += n
    return dx


@wrong_answer("pool_mean_backward", cause="constant_factor")
def divided_by_all_the_rows(dy, cache):
    groups, rows = cache
    lengths = np.concatenate([[T] * n for _, _, n, T in groups])
    return np.repeat(dy / rows, lengths, axis=0)


@wrong_answer("pool_mean_backward", cause=None, also=("not_accumulated", "shape"))
def last_group_alone_returned(dy, cache):
    s = 0
    for start, stop, n, T in cache.groups:
        dx = np.repeat(dy[s : s + n] / T, T, axis=0)
        s += n
    return dx


@wrong_answer("pool_mean_backward", cause="zero_gradient")
def dx_filled_and_not_returned(dy, cache):
    groups, rows = cache
    dx = np.zeros((rows, dy.shape[1]), dy.dtype)
    s = 0
    for start, stop, n, T in groups:
        for k in range(n):
            dx[start + k * T : start + (k + 1) * T] = dy[s] / T
            s += 1


@wrong_answer("pool_mean_backward", cause="ignores_upstream")
def share_of_each_piece_without_dy(dy, cache):
    groups, rows = cache
    dx = np.ones((rows, dy.shape[1]), dy.dtype)
    for start, stop, n, T in groups:
        dx[start:stop] /= T
    return dx


@wrong_answer("pool_mean_backward", cause="missing_path", also=("missing_term",))
def last_piece_of_each_sentence_left_out(dy, cache):
    dx = np.zeros((cache.rows, dy.shape[1]), dtype=dy.dtype)
    s = 0
    for start, stop, n, T in cache.groups:
        for first in range(start, stop, T):
            dx[first : first + T - 1] = dy[s] / T
            s += 1
    return dx


@right_answer("pool_mean_backward")
def unpool_by_broadcasting(dy, cache):
    groups, rows = cache
    d = dy.shape[1]
    parts, s = [], 0
    for _, _, n, T in groups:
        parts.append(np.broadcast_to(dy[s : s + n, None] / T, (n, T, d)).reshape(n * T, d))
        s += n
    return np.concatenate(parts)


@right_answer("pool_mean_backward")
def unpool_with_einsum(dy, cache):
    dx = np.zeros((cache.rows, dy.shape[1]), dtype=dy.dtype)
    first = 0
    for start, stop, n, T in cache.groups:
        share = np.full(T, 1 / T, dtype=dy.dtype)
        dx[start:stop] = np.einsum("t,nd->ntd", share, dy[first : first + n]).reshape(n * T, -1)
        first += n
    return dx


@right_answer("pool_mean_backward")
def unpool_with_an_iterator_over_dy(dy, cache):
    upstream = iter(dy)
    rows = []
    for _, _, n, T in cache.groups:
        for _ in range(n):
            row = next(upstream) / T
            rows.extend([row] * T)
    return np.array(rows)


# ------------------------------------------------------------------------------------------- paired_comparison


@wrong_answer("paired_comparison", cause=None, also=("constant_factor",))
def numbers_of_sentences_not_shares(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    n = a + b
    p = min(1.0, 2 * sum(math.comb(n, k) for k in range(max(a, b), n + 1)) / 2**n)
    return int(first.sum()) - int(second.sum()), p


@wrong_answer("paired_comparison", cause=None)
def chances_in_floats_that_overflow(first, second):
    a = int(np.sum(first & ~second))
    b = int(np.sum(second & ~first))
    n, m = a + b, max(a, b)
    p = sum(math.comb(n, k) * 0.5**k * 0.5 ** (n - k) for k in range(m, n + 1))
    return first.mean() - second.mean(), min(1.0, 2.0 * p)


@wrong_answer("paired_comparison", cause="constant_factor")
def share_of_the_sentences_that_differ(first, second):
    differ = first ^ second
    n = int(differ.sum())
    a = int((first & differ).sum())
    p = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(2 * a - n)) / 2**n
    return (2 * a - n) / max(n, 1), p


@wrong_answer("paired_comparison", cause="swapped")
def p_before_the_difference(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    n = a + b
    p = min(1.0, sum(math.comb(n, k) for k in range(min(a, b) + 1)) * 2 / 2**n)
    return p, first.mean() - second.mean()


@wrong_answer("paired_comparison", cause=None)
def booleans_subtracted(first, second):
    difference = first - second
    a, b = int((difference > 0).sum()), int((difference < 0).sum())
    n = a + b
    p = min(1.0, 2 * sum(math.comb(n, k) for k in range(max(a, b), n + 1)) / 2**n)
    return difference.mean(), p


@wrong_answer("paired_comparison", cause=None)
def tail_above_the_first_even_where_it_lost(first, second):
    wins = int((first & ~second).sum())
    n = int((first != second).sum())
    tail = 0
    for k in range(wins, n + 1):
        tail += math.comb(n, k)
    return first.mean() - second.mean(), min(1.0, 2 * tail / 2**n)


@wrong_answer("paired_comparison", cause="missing_term")
def most_uneven_split_forgotten(first, second):
    a = int((first & ~second).sum())
    b = int((second & ~first).sum())
    n = a + b
    tail = sum(math.comb(n, k) for k in range(max(a, b), n))
    p = min(1.0, 2 * tail / 2**n)
    return first.mean() - second.mean(), p


@right_answer("paired_comparison")
def coins_one_after_the_other(first, second):
    """The distribution of the number of heads, one coin after another."""
    a = int(np.sum(first & ~second))
    b = int(np.sum(~first & second))
    n = a + b
    chance = np.ones(1)
    for _ in range(n):
        chance = 0.5 * (np.append(chance, 0.0) + np.append(0.0, chance))
    uneven = np.abs(2 * np.arange(n + 1) - n) >= abs(a - b)
    return float(first.mean() - second.mean()), float(chance[uneven].sum())


@right_answer("paired_comparison")
def coins_by_recursion_of_the_binomials(first, second):
    more, less = int(np.sum(first > second)), int(np.sum(first < second))
    n, few = more + less, min(more, less)
    ways, total = 1, 1
    for k in range(few):
        ways = ways * (n - k) // (k + 1)
        total += ways
    p = 1.0 if more == less else 2 * total / 2**n
    return (more - less) / len(first), p


@right_answer("paired_comparison")
def coins_by_both_tails(first, second):
    right = list(zip(np.asarray(first).tolist(), np.asarray(second).tolist()))
    alone_1 = right.count((True, False))
    alone_2 = right.count((False, True))
    coins = alone_1 + alone_2
    low, high = sorted((alone_1, alone_2))
    ways = [math.comb(coins, k) for k in range(coins + 1)]
    counted = sum(ways) if low == high else sum(ways[: low + 1]) + sum(ways[high:])
    return np.mean(first) - np.mean(second), counted / 2**coins
