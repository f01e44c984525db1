"""Mistakes in log-softmax, in the negative log-likelihood, and in cosine similarity with a contrastive loss."""

import numpy as np
from corpus.drawing import kept, sizes
from corpus.entries import wrong_backward


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def ls_forward(z):
    logp = log_softmax(z)
    return logp, (z, logp)


def logits(rng):
    return ls_forward, {"z": 1.3 * rng.standard_normal(sizes(rng, 2))}, {}


def weighted_forward(z, weight):
    logp = log_softmax(z)
    return weight * logp, {"logp": logp, "weight": weight}


def weighted(rng):
    n, c = sizes(rng, 2)
    return weighted_forward, {"z": rng.standard_normal((n, c)), "weight": rng.uniform(0.3, 2.5, c)}, {}


@wrong_backward("log softmax", logits, spoils=("z",), cause="ignores_upstream", also=("elementwise_factor",))
def the_softmax_is_subtracted_as_it_is(dy, cache):
    z, logp = cache
    return dy - np.exp(logp)


@wrong_backward("log softmax", logits, spoils=("z",), cause="reduction_axis")
def the_gradient_of_the_normaliser_is_not_summed(dy, cache):
    p = np.exp(cache[1])
    return dy - p * dy


@wrong_backward("log softmax", logits, spoils=("z",), cause="wrong_cached_value")
def the_logarithms_stand_for_the_probabilities(dy, cache):
    _, logp = cache
    return (dy - logp * np.sum(dy, axis=-1, keepdims=True),)


@wrong_backward("log softmax", logits, spoils=("z",), cause="reduction_axis")
def the_sum_runs_down_the_columns(dy, cache):
    p = np.exp(cache[1])
    total = np.sum(dy, axis=0)
    return dy - p * total


@wrong_backward("log softmax", logits, spoils=("z",), cause="wrong_derivative")
def the_jacobian_is_that_of_the_softmax(dy, cache):
    p = np.exp(cache[1])
    dz = np.empty_like(p)
    for i in range(len(p)):
        J = np.diag(p[i]) - np.outer(p[i], p[i])
        dz[i] = J @ dy[i]
    return dz


@wrong_backward("log softmax", weighted, spoils=("z",), cause="factor_order")
def the_weights_are_multiplied_after_the_sum(dy, m):
    p = np.exp(m["logp"])
    dz = m["weight"] * (dy - p * dy.sum(1, keepdims=True))
    return dz, np.einsum("nc,nc->c", dy, m["logp"])


@wrong_backward("log softmax", weighted, spoils=("z",), cause="missing_path", also=("missing_term",))
def the_normaliser_is_taken_for_a_constant(dy, m):
    return dy * m["weight"], (dy * m["logp"]).sum(0)


def nll_forward(z, target, valid):
    logp = log_softmax(z)
    rows = np.arange(len(z))
    count = valid.sum()
    loss = -np.sum(logp[rows, target] * valid) / count
    return loss, {"p": np.exp(logp), "target": target, "valid": valid, "rows": rows, "count": count}


def classified(rng):
    n, c = 7, int(rng.choice([4, 5, 6]))
    return nll_forward, {"z": rng.standard_normal((n, c))}, {"target": rng.integers(0, c, n), "valid": kept(rng, n)}


def one_hot(m):
    return np.eye(m["p"].shape[1])[m["target"]]


@wrong_backward("nll", classified, spoils=("z",), cause="constant_factor")
def all_rows_are_counted(dloss, m):
    return dloss * (m["p"] - one_hot(m)) * m["valid"][:, None] / len(m["rows"])


@wrong_backward("nll", classified, spoils=("z",), cause="mask_ignored")
def rows_that_do_not_count_get_a_gradient(dloss, m):
    dz = m["p"].copy()
    dz[m["rows"], m["target"]] -= 1
    return dz * (dloss / m["count"])


@wrong_backward("nll", classified, spoils=("z",), cause="missing_term", also=("missing_path",))
def the_softmax_is_missing(dloss, m):
    dz = np.zeros_like(m["p"])
    dz[m["rows"], m["target"]] = -dloss / m["count"] * m["valid"]
    return dz


@wrong_backward("nll", classified, spoils=("z",), cause="ignores_upstream")
def the_gradient_is_that_of_a_lone_loss(dloss, m):
    dz = m["p"] - one_hot(m)
    return np.where(m["valid"][:, None], dz, 0) / m["count"]


@wrong_backward("nll", classified, spoils=("backward",), cause="inplace")
def the_one_is_taken_from_the_cached_probabilities(dloss, m):
    dz = m["p"]
    dz[m["rows"], m["target"]] -= 1
    return dz * m["valid"][:, None] * dloss / m["count"]


def unit(a):
    norm = np.linalg.norm(a, axis=1, keepdims=True)
    return a / norm, norm


def rows_forward(a, b):
    ua, na = unit(a)
    ub, nb = unit(b)
    return (ua * ub).sum(axis=1), (a, b, ua, ub, na, nb)


def pairs(rng):
    n, d = sizes(rng, 2)
    return rows_forward, {"a": 0.6 * rng.standard_normal((n, d)), "b": 1.5 * rng.standard_normal((n, d))}, {}


def gram_forward(x):
    u, norm = unit(x)
    return u @ u.T, (x, u, norm)


def alone(rng):
    return gram_forward, {"x": 1.4 * rng.standard_normal(sizes(rng, 2))}, {}


def clip_forward(a, b, tau):
    ua, na = unit(a)
    ub, nb = unit(b)
    S = ua @ ub.T / tau
    loss = -(np.trace(log_softmax(S)) + np.trace(log_softmax(S.T))) / (2 * len(S))
    return loss, {"ua": ua, "ub": ub, "na": na, "nb": nb, "S": S, "tau": tau}


def clip(rng):
    n, d = sizes(rng, 2)
    inputs = {"a": 1.5 * rng.standard_normal((n, d)), "b": 0.7 * rng.standard_normal((n, d))}
    return clip_forward, inputs, {"tau": 0.3}


def through_unit(du, u, norm):
    return (du - u * (du * u).sum(axis=1, keepdims=True)) / norm


def d_scores(dloss, S):
    eye = np.eye(len(S))
    rows, cols = np.exp(log_softmax(S)) - eye, (np.exp(log_softmax(S.T)) - eye).T
    return dloss * (rows + cols) / (2 * len(S))


@wrong_backward("cosine", pairs, spoils=("a", "b"), cause="missing_path", also=("missing_term",))
def the_norms_are_taken_for_constants(ds, cache):
    a, b, ua, ub, na, nb = cache
    return ds[:, None] * ub / na, ds[:, None] * ua / nb


@wrong_backward("cosine", pairs, spoils=("a",), cause="wrong_cached_value", also=("elementwise_factor",))
def the_projection_is_onto_a_row_that_is_not_normed(ds, cache):
    a, b, ua, ub, na, nb = cache
    cos = (ua * ub).sum(1)
    da, db = np.zeros_like(a), np.zeros_like(b)
    for i in range(len(a)):
        da[i] = ds[i] * (ub[i] - cos[i] * a[i]) / na[i]
        db[i] = ds[i] * (ua[i] - cos[i] * ub[i]) / nb[i]
    return da, db


@wrong_backward("cosine", pairs, spoils=("b",), cause="sign")
def the_projection_is_added(ds, cache):
    a, b, ua, ub, na, nb = cache
    dua, dub = ds[:, None] * ub, ds[:, None] * ua
    db = (dub + ub * np.sum(dub * ub, axis=1, keepdims=True)) / nb
    return through_unit(dua, ua, na), db


@wrong_backward("cosine", pairs, spoils=("b",), cause="elementwise_factor")
def the_row_is_divided_by_its_norm_twice(ds, cache):
    a, b, ua, ub, na, nb = cache
    da = through_unit(ds[:, None] * ub, ua, na)
    db = through_unit(ds[:, None] * ua, ub, nb) / nb
    return da, db


@wrong_backward("cosine", alone, spoils=("x",), cause="missing_path", also=("missing_term",))
def a_row_is_only_on_the_left(dS, cache):
    x, u, norm = cache
    return through_unit(dS @ u, u, norm)


@wrong_backward("cosine", alone, spoils=("x",), cause="reduction_axis")
def the_projection_runs_over_rows(dS, cache):
    x, u, norm = cache
    du = (dS + dS.T) @ u
    return (du - u * np.sum(du * u, axis=0, keepdims=True)) / norm


@wrong_backward("cosine", clip, spoils=("a", "b"), cause="constant_factor")
def the_temperature_is_forgotten(dloss, m):
    dS = d_scores(dloss, m["S"])
    return through_unit(dS @ m["ub"], m["ua"], m["na"]), through_unit(dS.T @ m["ua"], m["ub"], m["nb"])


@wrong_backward("cosine", clip, spoils=("b",), cause="transpose")
def the_second_tower_uses_the_scores_as_they_lie(dloss, m):
    dcos = d_scores(dloss, m["S"]) / m["tau"]
    dua, dub = np.einsum("ij,jd->id", dcos, m["ub"]), np.einsum("ji,id->jd", dcos, m["ua"])
    return through_unit(dua, m["ua"], m["na"]), through_unit(dub, m["ub"], m["nb"])


@wrong_backward("cosine", clip, spoils=("a", "b"), cause="missing_path", also=("missing_term",))
def the_loss_of_the_columns_is_forgotten(dloss, m):
    n = len(m["S"])
    p = np.exp(log_softmax(m["S"]))
    dcos = dloss * (p - np.eye(n)) / (2 * n) / m["tau"]
    return through_unit(dcos @ m["ub"], m["ua"], m["na"]), through_unit(dcos.T @ m["ua"], m["ub"], m["nb"])


@wrong_backward("cosine", clip, spoils=("a",), cause="missing_path", also=("missing_term", "constant_factor"))
def the_temperature_and_the_norm_are_forgotten(dloss, m):
    dS = d_scores(dloss, m["S"])
    da = dS @ m["ub"] / m["na"]
    return da, through_unit(dS.T @ m["ua"], m["ub"], m["nb"]) / m["tau"]
