"""Mistakes in softplus, in leaky relus, and in sums over groups."""

import numpy as np
from corpus.drawing import repeated, single, sizes
from corpus.entries import wrong_backward


def softplus_forward(x, beta):
    out = np.log(1 + np.exp(beta * x)) / beta
    return out, (x, beta, out)


def sharp(rng):
    return softplus_forward, {"x": 1.3 * rng.standard_normal(sizes(rng, 2))}, {"beta": 1.7}


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


@wrong_backward("softplus", sharp, spoils=("x",), cause="constant_factor")
def inner_slope_without_the_outer(dy, cache):
    x, beta, out = cache
    return dy * beta * sigmoid(beta * x)


@wrong_backward("softplus", sharp, spoils=("x",), cause="wrong_derivative")
def sigmoid_derived_once_more(dy, cache):
    x, beta, out = cache
    s = sigmoid(beta * x)
    return dy * s * (1 - s)


@wrong_backward("softplus", sharp, spoils=("x",), cause="sign", also=("wrong_derivative",))
def minus_in_the_exponent_lost(dy, cache):
    x, beta, out = cache
    return dy / (1 + np.exp(beta * x))


@wrong_backward("softplus", sharp, spoils=("x",), cause="wrong_cached_value")
def sigmoid_of_the_output(dy, cache):
    x, beta, out = cache
    return dy * sigmoid(beta * out)


@wrong_backward("softplus", sharp, spoils=("x",), cause="wrong_derivative", also=("elementwise_factor",))
def logarithm_forgotten(dy, cache):
    x, beta, out = cache
    return dy * np.exp(beta * x)


@wrong_backward("softplus", sharp, spoils=("x",), cause="ignores_upstream")
def the_slope_and_no_more(dy, cache):
    x, beta, out = cache
    return sigmoid(beta * x)


def prelu_forward(x, alpha):
    """A slope for each feature, to be learned."""
    return np.where(x.real > 0, x, alpha * x), (x, alpha)


def prelu(rng):
    n, d = sizes(rng, 2)
    return prelu_forward, {"x": rng.standard_normal((n, d)), "alpha": rng.uniform(0.1, 0.6, d)}, {}


def prelu_single(rng):
    return prelu_forward, single(prelu(rng)[1]), {}


def below(dy, x):
    return (dy * x * (x < 0)).sum(axis=0)


@wrong_backward("leaky_relu", prelu, spoils=("x",), cause="wrong_derivative", also=("missing_term",))
def as_of_the_plain_relu(dy, cache):
    x, alpha = cache
    return dy * (x > 0), below(dy, x)


@wrong_backward("leaky_relu", prelu, spoils=("x",), cause="wrong_derivative")
def slopes_on_the_wrong_sides(dy, cache):
    x, alpha = cache
    return dy * np.where(x > 0, alpha, 1), below(dy, x)


@wrong_backward("leaky_relu", prelu, spoils=("alpha",), cause="mask_ignored", also=("elementwise_factor",))
def alpha_sees_both_sides(dy, cache):
    x, alpha = cache
    dalpha = np.einsum("nd,nd->d", dy, x)
    return np.where(x > 0, dy, alpha * dy), dalpha


@wrong_backward("leaky_relu", prelu, spoils=("alpha",), cause="shape", also=("reduction_axis",))
def alpha_for_each_entry(dy, cache):
    x, alpha = cache
    return dy * np.where(x > 0, 1, alpha), dy * np.minimum(x, 0)


@wrong_backward("leaky_relu", prelu, spoils=("alpha",), cause="elementwise_factor")
def indicator_without_x(dy, cache):
    x, alpha = cache
    return dy * np.where(x > 0, 1, alpha), np.sum(dy * (x < 0), axis=0)


@wrong_backward("leaky_relu", prelu, spoils=("alpha",), cause="wrong_cached_value", also=("elementwise_factor",))
def output_for_x(dy, cache):
    x, alpha = cache
    out = np.where(x > 0, x, alpha * x)
    return dy * np.where(x > 0, 1, alpha), below(dy, out)


@wrong_backward("leaky_relu", prelu, spoils=("backward",), cause="inplace")
def upstream_damped_in_place(dy, cache):
    x, alpha = cache
    dalpha = below(dy, x)
    dy[x < 0] *= np.broadcast_to(alpha, x.shape)[x < 0]
    return dy, dalpha


@wrong_backward("leaky_relu", prelu_single, spoils=("x",), cause="dtype")
def slopes_as_doubles(dy, cache):
    x, alpha = cache
    slopes = np.ones(x.shape)
    for column, a in enumerate(alpha):
        slopes[x[:, column] < 0, column] = a
    return dy * slopes, below(dy, x)


def group_forward(rows, w, ids, count):
    """Rows with weights, added up by their group; -1 is no group."""
    out = np.zeros((count, rows.shape[1]), np.result_type(rows, w))
    member = ids >= 0
    np.add.at(out, ids[member], w[member, None] * rows[member])
    return out, (rows, w, ids, count)


def grouped(rng):
    n, count, d = 11, 5, 4
    ids = repeated(rng, n, count)
    ids[rng.permutation(n)[:2]] = -1
    ids[rng.permutation(np.flatnonzero(ids >= 0))[0]] = count - 1
    inputs = {"rows": rng.standard_normal((n, d)), "w": rng.uniform(0.4, 2.2, n)}
    return group_forward, inputs, {"ids": ids, "count": count}


def mean_forward(msg, weight, dst, nodes):
    """The weighted mean of the messages that reach a node."""
    hot = np.eye(nodes)[dst].T
    total = hot @ weight
    out = (hot * weight) @ msg / total[:, None]
    return out, {"msg": msg, "weight": weight, "dst": dst, "total": total, "out": out}


def averaged(rng):
    dst = rng.permutation(np.concatenate([np.arange(5), rng.integers(0, 5, 6)]))
    inputs = {"msg": rng.standard_normal((11, 4)), "weight": rng.uniform(0.4, 2.2, 11)}
    return mean_forward, inputs, {"dst": dst, "nodes": 5}


def gathered(dy, ids):
    return np.where(ids[:, None] >= 0, dy[ids], 0)


@wrong_backward("group_sum", grouped, spoils=("rows", "w"), cause="mask_ignored")
def minus_one_reads_the_last_group(dy, cache):
    rows, w, ids, _ = cache
    g = dy[ids]
    return w[:, None] * g, (g * rows).sum(axis=1)


@wrong_backward("group_sum", grouped, spoils=("rows",), cause="elementwise_factor")
def weights_forgotten(dy, cache):
    rows, w, ids, _ = cache
    g = gathered(dy, ids)
    return g, (g * rows).sum(axis=1)


@wrong_backward("group_sum", grouped, spoils=("rows",), cause="mean_vs_sum", also=("elementwise_factor",))
def shared_among_the_members(dy, cache):
    rows, w, ids, count = cache
    g = gathered(dy, ids)
    members = np.bincount(ids[ids >= 0], minlength=count)
    return w[:, None] * g / np.maximum(members, 1)[ids][:, None], (g * rows).sum(axis=1)


@wrong_backward("group_sum", grouped, spoils=("rows",), cause="not_accumulated", also=("mask_ignored",))
def one_member_for_each_group(dy, cache):
    rows, w, ids, count = cache
    drows = np.zeros_like(rows)
    for k in range(count):
        members = np.flatnonzero(ids == k)
        if len(members):
            drows[members[0]] = w[members[0]] * dy[k]
    return drows, (gathered(dy, ids) * rows).sum(axis=1)


@wrong_backward("group_sum", grouped, spoils=("w",), cause="mean_vs_sum")
def weight_takes_the_mean_over_features(dy, cache):
    rows, w, ids, _ = cache
    g = gathered(dy, ids)
    return w[:, None] * g, np.mean(g * rows, axis=1)


@wrong_backward("group_sum", averaged, spoils=("weight",), cause="missing_path", also=("missing_term",))
def total_taken_for_a_constant(grad, cache):
    g = grad[cache["dst"]] / cache["total"][cache["dst"]][:, None]
    return cache["weight"][:, None] * g, np.einsum("ed,ed->e", g, cache["msg"])


@wrong_backward("group_sum", averaged, spoils=("msg", "weight"), cause="wrong_cached_value")
def messages_taken_to_come_sorted(grad, cache):
    dst = np.sort(cache["dst"])
    g = grad[dst] / cache["total"][dst][:, None]
    return cache["weight"][:, None] * g, (g * (cache["msg"] - cache["out"][dst])).sum(axis=1)


@wrong_backward("group_sum", averaged, spoils=("weight",), cause="sign")
def mean_added_to_the_message(grad, cache):
    dst = cache["dst"]
    g = grad[dst] / cache["total"][dst][:, None]
    return cache["weight"][:, None] * g, (g * (cache["msg"] + cache["out"][dst])).sum(axis=1)


@wrong_backward("group_sum", averaged, spoils=("weight",), cause="wrong_derivative", also=("elementwise_factor",))
def quotient_rule_without_its_square(grad, cache):
    dst, total, msg = cache["dst"], cache["total"][cache["dst"]], cache["msg"]
    sums = cache["out"][dst] * total[:, None]
    inner = msg / total[:, None] - sums / total[:, None]
    return cache["weight"][:, None] * grad[dst] / total[:, None], (grad[dst] * inner).sum(axis=1)
