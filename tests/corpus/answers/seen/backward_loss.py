"""Answers to the exercises of chapter 4, third part: the backwards of cross entropy and of a block."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

from lora_np import ops
from lora_np.ops import dropout_backward


@wrong_answer("cross_entropy_backward", cause="mask_ignored")
def ignored_rows_not_zeroed(dloss, cache):
    p, q, divisor = cache
    return dloss * (p - q) / divisor


@wrong_answer("cross_entropy_backward", cause="mean_vs_sum", also=("constant_factor",))
def mean_forgotten(dloss, cache):
    p, q, divisor = cache
    dlogits = dloss * (p - q)
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="ignores_upstream")
def dloss_forgotten(dloss, cache):
    p, q, divisor = cache
    dlogits = (p - q) / divisor
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="sign")
def q_minus_p(dloss, cache):
    p, q, divisor = cache
    dlogits = dloss * (q - p) / divisor
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def mean_over_every_row(dloss, cache):
    p, q, divisor = cache
    dlogits = dloss * (p - q) / p.shape[0]
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="constant_factor", also=("mean_vs_sum",))
def mean_over_every_entry(dloss, cache):
    p, q, divisor = cache
    dlogits = dloss * (p - q) / p.size
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="inplace")
def subtracted_in_the_cache(dloss, cache):
    p, q, divisor = cache
    p[q > 0] -= q[q > 0]
    dlogits = p * (dloss / divisor)
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="missing_term", also=("missing_path",))
def target_only(dloss, cache):
    p, q, divisor = cache
    return -dloss * q / divisor


@wrong_answer("cross_entropy_backward", cause="wrong_cached_value", also=("wrong_derivative",))
def softmax_of_the_probabilities(dloss, cache):
    p, q, divisor = cache
    e = np.exp(p)
    dlogits = dloss * (e / e.sum(axis=1, keepdims=True) - q) / divisor
    dlogits[q.sum(axis=1) == 0] = 0
    return dlogits


@wrong_answer("cross_entropy_backward", cause="dtype")
def weights_in_double(dloss, cache):
    p, q, divisor = cache
    weight = np.where(q.any(axis=1, keepdims=True), 1.0, 0.0).astype(float)
    return (p - q) * weight * (dloss / divisor)


@wrong_answer("cross_entropy_backward", cause="wrong_derivative", also=("missing_path",))
def gradient_of_the_probabilities_only(dloss, cache):
    p, q, divisor = cache
    return np.where(q > 0, -q / p, 0) * dloss / divisor


@wrong_answer("cross_entropy_backward", cause="missing_path", also=("missing_term",))
def only_the_label_entries(dloss, cache):
    p, q, divisor = cache
    dlogits = np.zeros_like(p)
    rows = np.flatnonzero(q.any(axis=1))
    labels = q[rows].argmax(axis=1)
    dlogits[rows, labels] = dloss / divisor * (p[rows, labels] - q[rows, labels])
    return dlogits


@wrong_answer("cross_entropy_backward", cause="zero_gradient")
def loss_gradient_printed(dloss, cache):
    p, q, divisor = cache
    print((p - q) * q.any(axis=1, keepdims=True) * (dloss / divisor))


@right_answer("cross_entropy_backward")
def row_weights_from_q(dloss, cache):
    p, q, divisor = cache
    return dloss / divisor * (np.einsum("nj,nk->nk", q, p) - q)


@right_answer("cross_entropy_backward")
def softmax_jacobian_after_logarithm(dloss, cache):
    p, q, divisor = cache
    dp = np.divide(-q, p) * (dloss / divisor)
    return p * (dp - (p * dp).sum(axis=1, keepdims=True))


@right_answer("cross_entropy_backward")
def label_by_label(dloss, cache):
    p, q, divisor = cache
    out = np.empty_like(p)
    for n in range(p.shape[0]):
        counts = bool(q[n].max() > 0)
        for j in range(p.shape[1]):
            out[n, j] = dloss * (p[n, j] - q[n, j]) / divisor if counts else 0
    return out


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def attention_residual_forgotten(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    dx, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dx, grads


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def mlp_residual_forgotten(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dh, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="missing_path", also=("missing_term", "wrong_cached_value"))
def dy_for_dh_at_the_end(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    da, grads["attention"] = block.attention.backward(dy + dm, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dy + da, grads


@wrong_answer("block_backward", cause="extra_term")
def dy_added_again(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dy + dh + da, grads


@wrong_answer("block_backward", cause="missing_path", also=("missing_term", "wrong_cached_value"))
def attention_given_dy(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    da, grads["attention"] = block.attention.backward(dy, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dy + dm + da, grads


@wrong_answer("block_backward", cause=None)
def norm1_not_gone_through(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped", also=("wrong_cached_value",))
def caches_of_the_norms_exchanged(block, dy, cache):
    c_norm2, c_attention, c_drop1, c_norm1, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped")
def names_of_the_norms_exchanged(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm1"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm2"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="zero_gradient", also=("shape",))
def grads_of_mlp_dropped(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, _ = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped", also=("shape",))
def grads_before_dx(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return grads, dh + da


@wrong_answer("block_backward", cause="inplace")
def accumulated_in_dy(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dy += dm
    da, grads["attention"] = block.attention.backward(dy, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    dy += da
    return dy, grads


@wrong_answer("block_backward", cause="mean_vs_sum", also=("constant_factor",))
def mean_of_the_two_ways(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = (dy + dm) / 2
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return (dh + da) / 2, grads


@right_answer("block_backward")
def halves_in_a_loop(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    dh, grads = dy, {}
    for norm, c_norm, part, c_part in (("norm2", c_norm2, "mlp", c_mlp), ("norm1", c_norm1, "attention", c_attention)):
        inner, grads[part] = getattr(block, part).backward(dh, c_part, True)
        inner, grads[norm] = getattr(block, norm).backward(inner, c_norm, True)
        dh = np.add(inner, dh)
    return [dh, grads]


@right_answer("block_backward")
def norms_by_the_operation(block, dy, cache):
    def norm(node, d, c):
        dx, dgamma, dbeta = ops.layer_norm_backward(d, c)
        return dx, {name: g for name, g in (("gamma", dgamma), ("beta", dbeta)) if name in node.trainable}

    d1, in_mlp = block.mlp.backward(dropout_backward(dy, cache[5]), cache[4])
    d2, in_norm2 = norm(block.norm2, d1, cache[3])
    d3, in_attention = block.attention.backward(dropout_backward(d2 + dy, cache[2]), cache[1])
    d4, in_norm1 = norm(block.norm1, d3, cache[0])
    return d4 + d2 + dy, {"norm1": in_norm1, "attention": in_attention, "norm2": in_norm2, "mlp": in_mlp}


@right_answer("block_backward")
def mlp_part_by_part(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, (c_up, c_a, c_down), _ = cache
    grads = {"mlp": {}}
    d, grads["mlp"]["down"] = block.mlp.down.backward(dy, c_down)
    slope = ops.gelu_tanh_backward if hasattr(c_a, "t") else ops.gelu_backward
    d, grads["mlp"]["up"] = block.mlp.up.backward(slope(d, c_a), c_up)
    d, grads["norm2"] = block.norm2.backward(d, c_norm2)
    paths = [dy, d]
    d, grads["attention"] = block.attention.backward(sum(paths), c_attention)
    d, grads["norm1"] = block.norm1.backward(d, c_norm1)
    return sum([d, *paths]), grads
