"""Kinds of mistakes, each of which a verdict names by its cause, in words that lead to the place."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import pytest

import lora_np as lnp
from lora_np import ops
from lora_np.adapt.lora import LoRALinear
from lora_np.model.tree import rebuild
from lora_np.ops.attention import AttentionCache
from lora_np.ops.cross_entropy import CrossEntropyCache
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache

KINDS = []


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))


def told(exercise, cause, words):
    """Note a wrong answer, the cause that is to be named, and words that the verdict is to have."""

    def note(function):
        KINDS.append(pytest.param(exercise, function, cause, words, id=function.__name__))
        return function

    return note


@told("gelu_forward", "factor_order", "with `0.5 * (1.0 + ops.erf(x * 0.5 ** 0.5))` in place of `1.0 + 0.5 *")
def a_bracket(x):
    cdf = 1.0 + 0.5 * ops.erf(x * 0.5**0.5)
    return x * cdf, GeluCache(x, cdf)


@told("gelu_forward", "factor_order", "with `ops.erf(x / math.sqrt(2))` in place of `ops.erf(x) / math.sqrt(2)`")
def a_bracket_of_a_call(x):
    cdf = 0.5 * (1 + ops.erf(x) / math.sqrt(2))
    return x * cdf, GeluCache(x, cdf)


@told("accuracy_interval", "factor_order", "with `z ** 2 / (2 * n)` in place of `z ** 2 / 2 * n`")
def a_bracket_where_z_is_rounded(correct, total):
    z, p, n = 1.96, correct / total, total
    middle = (p + z**2 / 2 * n) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


@told("adamw_step", "wrong_cached_value", "below `v += ")
def a_line_too_early(p, g, m, v, t, lr, betas, eps, weight_decay):
    p *= 1 - lr * weight_decay
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)


@told("cross_entropy_backward", "reduction_axis", "with `q.any(axis=1, keepdims=True)` in place of `q.any(axis=1)`")
def a_reduction_that_is_no_sum(dloss, cache):
    p, q, divisor = cache
    return (p - q) * q.any(axis=1) * (dloss / divisor)


@told("cross_entropy_forward", "reduction_axis", "in `every sum, mean or maximum`")
def another_axis_everywhere(logits, labels):
    counts = labels != -100
    z = logits - logits.max(axis=0, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=0, keepdims=True))
    q = np.zeros_like(logits)
    q[counts, labels[counts]] = 1
    return -(q * log_p).sum() / counts.sum(), CrossEntropyCache(np.exp(log_p), q, int(counts.sum()))


@told("low_rank_approximation", "transpose", "with `A[:, i]` in place of `A[i]`")
def an_index_along_another_axis(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    A = U[:, :r].copy()
    for i in range(r):
        A[i] *= s[i]
    return A, Vt[:r]


@told("low_rank_approximation", "wrong_cached_value", "with `s[:r]` in place of `s[r - 1]`")
def an_index_for_a_slice(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r] * s[r - 1], Vt[:r]


@told("pool_mean_backward", "missing_term", "with `dx[first:first + T]` in place of `dx[first:first + T - 1]`")
def a_slice_that_ends_too_early(dy, cache):
    dx, s = np.zeros((cache.rows, dy.shape[1]), dtype=dy.dtype), 0
    for start, stop, _, T in cache.groups:
        for first in range(start, stop, T):
            dx[first : first + T - 1] = dy[s] / T
            s += 1
    return dx


@told("combine_adapters", "swapped", "return A first, then B")
def results_in_the_other_order(adapters):
    return np.concatenate([B for _, B, _ in adapters]), np.concatenate([s * A for A, _, s in adapters], axis=1)


@told("mlp_backward", "wrong_cached_value", "with `c_up, c_gelu, c_down = cache` in place of `c_down, c_gelu, c_up")
def caches_in_another_order(mlp, dy, cache):
    c_down, c_gelu, c_up = cache
    da, down = mlp.down.backward(dy, c_down)
    dx, up = mlp.up.backward(ops.gelu_backward(da, c_gelu), c_up)
    return dx, {"up": up, "down": down}


@told("gelu_forward", "swapped", "cache.x holds what belongs in cache.cdf")
def fields_exchanged(x):
    cdf = 0.5 * (1.0 + ops.erf(x * 0.5**0.5))
    return x * cdf, GeluCache(cdf, x)


@told("layer_norm_forward", "shape", "cache.inverse_std has the shape (4,), expected (4, 1)")
def a_field_without_its_axis(x, gamma, beta, eps):
    centred = x - x.mean(axis=1, keepdims=True)
    inverse_std = 1.0 / np.sqrt((centred * centred).mean(axis=1) + eps)
    xhat = centred * inverse_std[:, None]
    return gamma * xhat + beta, LayerNormCache(xhat, inverse_std, gamma)


class PoolCache(NamedTuple):
    groups: tuple
    rows: int


@told("pool_mean_forward", "wrong_cached_value", "cache.rows is not what the backward expects there")
def a_cache_of_ones_own_by_the_same_name(x, groups):
    y = np.concatenate([x[a:b].reshape(n, T, -1).mean(axis=1) for a, b, n, T in groups])
    return y, PoolCache(groups, len(y))


@told("block_forward", "shape", "a forward or backward of ours returns two things")
def a_pair_that_is_added(block, x, groups):
    h = x + block.attention.forward(block.norm1.forward(x)[0], groups)
    return h + block.mlp.forward(block.norm2.forward(h)[0])[0], None


@told("block_forward", "shape", "a forward or backward of ours returns two things")
def a_pair_that_is_handed_on(block, x, groups):
    h = x + block.attention.forward(block.norm1.forward(x), groups)[0]
    return h + block.mlp.forward(block.norm2.forward(h)[0])[0], None


@told("gelu_forward", "shape", "on the left of =")
def two_axes_and_no_more(x):
    rows, columns = x.shape
    cdf = 0.5 * (1.0 + ops.erf(x.reshape(rows * columns) * 0.5**0.5)).reshape(rows, columns)
    return x * cdf, GeluCache(x, cdf)


@told("numerical_gradient", "shape", "function is called with the shape (12,), but x has (4, 3)")
def a_function_that_gets_a_flat_array(function, x):
    flat, h = x.ravel(), 1e-3
    steps = h * np.eye(flat.size)
    return np.array([(function(flat + step) - function(flat - step)) / (2 * h) for step in steps]).reshape(x.shape)


@told("numerical_gradient", "zero_gradient", "gradient is zero everywhere")
def a_view_that_is_a_copy(function, x):
    x = np.array(x, dtype=np.float64)
    flat, gradient = x.reshape(-1), np.zeros(x.size)
    for i, kept in enumerate(flat.copy()):
        h, f = 7e-4 * max(1.0, abs(kept)), []
        for k in (-2, -1, 1, 2):
            flat[i] = kept + k * h
            f.append(function(x))
        flat[i] = kept
        gradient[i] = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * h)
    return gradient.reshape(x.shape)


@told("rms_norm_backward", "ignores_upstream", "with `gamma * xhat * dy` in place of `gamma * xhat`")
def a_term_without_the_upstream(dy, cache):
    xhat, inverse_rms, gamma = cache
    along = (gamma * xhat).mean(axis=1, keepdims=True)
    return inverse_rms * (gamma * dy - xhat * along), (dy * xhat).sum(axis=0)


def shares(correct, total, z=1.959963984540054):
    p, below = correct / total, 1 + z * z / total
    middle, half = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (middle - half) / below, (middle + half) / below


@told("accuracy_interval", "constant_factor", "low is in percent, and rounded")
def rounded_percents(correct, total):
    return tuple(round(100 * share) for share in shares(correct, total))


@told("accuracy_interval", "constant_factor", "low is 1000 times what it should be, on all inputs")
def per_mille(correct, total):
    return tuple(1000 * share for share in shares(correct, total))


@told("count_parameters", "zero_gradient", "it is zero for other arguments, too")
def none_is_trained(model):
    return sum(array.size for array in lnp.parameters(model).values()), 0


@told("block_backward", "shape", "grads has the keys")
def one_dict_for_all_parts(block, dy, cache):
    dx, grads = block.backward(dy, cache)
    return dx, {f"{part}.{name}": array for part, found in grads.items() for name, array in found.items()}


@told("train", "dtype", "a loss is float32, expected a Python float")
def losses_of_numpy(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(loss)
    return losses


@told("linear_forward", "shape", "this happens only where b is None")
def nothing_without_a_bias(x, W, b=None):
    if b is not None:
        return x @ W + b, None


@told("attention_forward", None, "this happens only where the largest score of a row is hidden")
def hidden_after_the_maximum(Q, K, V, visible=None, mask=None):
    S = Q @ K.swapaxes(2, 3) / Q.shape[3] ** 0.5
    E = np.exp(S - S.max(axis=3, keepdims=True))
    if visible is not None:
        E = np.where(visible, E, 0.0)
    P = E / E.sum(axis=3, keepdims=True)
    D = P if mask is None else P * mask
    return D @ V, AttentionCache(Q, K, V, P, mask)


@pytest.mark.parametrize(("exercise", "function", "cause", "words"), KINDS)
def test_a_kind_of_mistake_is_named(exercise, function, cause, words):
    verdict = lnp.course.check(exercise, function)
    assert not verdict.ok and verdict.cause == cause and words in str(verdict), verdict


def test_where_nothing_is_summed_no_sum_is_blamed():
    verdict = lnp.course.check("linear_forward", lambda x, W, b=None: (x if b is None else (x + b) @ W, None))
    assert "could not be broadcast" in str(verdict) and "keepdims" not in str(verdict)


def test_what_returns_too_little_gets_no_cause_of_numbers():
    verdict = lnp.course.check("linear_forward", nothing_without_a_bias)
    assert "likely" not in str(verdict)


def test_a_partial_of_a_function_of_ours_is_no_answer():
    assert "the function of lora_np itself" in str(
        lnp.course.check("gelu_forward", functools.partial(ops.gelu_forward))
    )


def test_a_field_that_is_no_number_is_said_as_it_is():
    """A sentence that expects a number ended in a traceback: hf stood where dropout belongs."""

    def exchanged(model, config, rng):
        def change(_, node):
            return dataclasses.replace(node, dropout=node.hf) if isinstance(node, LoRALinear) else node

        return rebuild(lnp.inject(model, config, rng), change)

    verdict = lnp.course.check("inject", exchanged)
    assert not verdict.ok and "dropout is 'encoder.layer.0." in str(verdict), verdict
