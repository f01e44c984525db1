"""Mistakes in softplus, ELU, SiLU and swish, in the Huber loss, and in distillation at a temperature."""

import numpy as np
from corpus.drawing import dropout_mask, kept, sizes
from corpus.entries import wrong_backward


def sig(x):
    return 1 / (1 + np.exp(-x))


def apart(rng, *shape):
    x = rng.standard_normal(shape)
    return x + 0.1 * np.sign(x)


def softplus_forward(x, beta):
    y = np.logaddexp(0, beta * x) / beta
    return y, (x, y, beta)


def soft(rng):
    return softplus_forward, {"x": apart(rng, *sizes(rng, 2))}, {"beta": 1.7}


def elu_forward(x, alpha):
    y = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    return y, {"x": x, "alpha": alpha, "y": y}


def elu(rng):
    return elu_forward, {"x": apart(rng, *sizes(rng, 2))}, {"alpha": 0.6}


def elu_slopes_forward(x, alpha):
    neg, e = x <= 0, np.exp(x)
    return np.where(neg, alpha * (e - 1), x), (neg, e, alpha)


def elu_slopes(rng):
    n, d = sizes(rng, 2)
    return elu_slopes_forward, {"x": apart(rng, n, d), "alpha": rng.uniform(0.4, 1.8, d)}, {}


def swish_forward(x, beta):
    s = sig(beta * x)
    return x * s, (x, beta, s)


def swish(rng):
    n, d = sizes(rng, 2)
    return swish_forward, {"x": apart(rng, n, d), "beta": rng.uniform(0.5, 2, d)}, {}


def silu_dropout_forward(x, mask):
    s = sig(x)
    return x * s * mask, (x, s, mask)


def silu_dropout(rng):
    n, d = sizes(rng, 2)
    return silu_dropout_forward, {"x": apart(rng, n, d)}, {"mask": dropout_mask(rng, n, d)}


@wrong_backward("smooth unit", soft, spoils=("x",), cause="constant_factor")
def softplus_multiplies_by_beta(dy, cache):
    x, y, beta = cache
    return dy * beta * sig(beta * x)


@wrong_backward("smooth unit", soft, spoils=("x",), cause="wrong_cached_value")
def softplus_takes_its_slope_at_the_output(dy, cache):
    x, y, beta = cache
    return dy / (1.0 + np.exp(-beta * y))


@wrong_backward("smooth unit", soft, spoils=("x",), cause="wrong_derivative")
def softplus_falls_where_it_should_rise(dy, cache):
    x, y, beta = cache
    return dy / (1.0 + np.exp(beta * x))


@wrong_backward("smooth unit", elu, spoils=("x",), cause="missing_term", also=("wrong_derivative",))
def elu_gives_its_output_without_alpha(dy, m):
    slope = np.ones_like(m["x"])
    low = m["x"] <= 0
    slope[low] = m["y"][low]
    return dy * slope


@wrong_backward("smooth unit", elu, spoils=("backward",), cause="inplace")
def elu_scales_the_upstream_gradient_where_it_lies(dy, m):
    low = m["x"] <= 0
    dy[low] *= m["alpha"] * np.exp(m["x"][low])
    return dy


@wrong_backward("smooth unit", elu, spoils=("x",), cause="ignores_upstream", also=("wrong_cached_value",))
def elu_branches_on_the_sign_of_the_gradient(dy, m):
    slope = np.where(dy > 0, 1.0, m["y"] + m["alpha"])
    return dy * slope


@wrong_backward("smooth unit", elu_slopes, spoils=("alpha",), cause="mask_ignored")
def the_slopes_are_moved_by_positive_entries(dy, cache):
    neg, e, alpha = cache
    return np.where(neg, dy * alpha * e, dy), (dy * (e - 1)).sum(axis=0)


@wrong_backward("smooth unit", swish, spoils=("beta",), cause="elementwise_factor", also=("wrong_derivative",))
def beta_sees_x_once_only(dy, cache):
    x, beta, s = cache
    ds = dy * x
    return dy * (s + beta * x * s * (1 - s)), (ds * s * (1 - s)).sum(axis=0)


@wrong_backward("smooth unit", swish, spoils=("x",), cause="missing_term", also=("wrong_derivative", "missing_path"))
def the_product_rule_stops_half_way(dy, cache):
    x, beta, s = cache
    dx = dy * x * beta * s * (1 - s)
    dbeta = np.zeros_like(beta)
    for n in range(len(x)):
        dbeta += dy[n] * x[n] ** 2 * s[n] * (1 - s[n])
    return dx, dbeta


@wrong_backward("smooth unit", silu_dropout, spoils=("backward",), cause="nondeterministic")
def entries_are_dropped_anew_on_the_way_back(dy, cache):
    x, s, mask = cache
    mask = (np.random.default_rng().random(x.shape) > 0.3) / 0.7
    return dy * mask * s * (1 + x * (1 - s))


@wrong_backward("smooth unit", silu_dropout, spoils=("x",), cause="mask_ignored", also=("elementwise_factor",))
def dropped_entries_get_a_gradient(dy, cache):
    x, s, mask = cache
    y = x * s
    return dy * (y + s * (1 - y))


def huber_forward(pred, target, weight, delta):
    e = pred - target
    a = np.abs(e)
    each = np.where(a <= delta, 0.5 * e**2, delta * (a - 0.5 * delta))
    return (weight * each).mean(), (pred, target, e, weight, delta)


def fitted(rng):
    n, d = sizes(rng, 2)
    inputs = {"pred": 1.2 * rng.standard_normal((n, d)), "target": rng.standard_normal((n, d))}
    return huber_forward, inputs, {"weight": kept(rng, n, d) * rng.uniform(0.5, 2, (n, d)), "delta": 0.7}


@wrong_backward("huber", fitted, spoils=("pred", "target"), cause="constant_factor", also=("wrong_derivative",))
def the_linear_part_has_slope_one(dloss, cache):
    pred, target, e, weight, delta = cache
    g = np.where(np.abs(e) <= delta, e, np.sign(e)) * weight * dloss / e.size
    return g, -g


@wrong_backward("huber", fitted, spoils=("pred", "target"), cause="sign", also=("wrong_derivative",))
def the_linear_part_always_rises(dloss, cache):
    pred, target, e, weight, delta = cache
    g = np.empty_like(e)
    inside = np.abs(e) <= delta
    g[inside] = e[inside]
    g[~inside] = delta
    g *= weight * dloss / e.size
    return g, -g


@wrong_backward("huber", fitted, spoils=("pred", "target"), cause="mean_vs_sum", also=("constant_factor",))
def the_mean_is_taken_for_a_sum(dloss, cache):
    pred, target, e, weight, delta = cache
    g = dloss * weight * np.clip(e, -delta, delta)
    return g, -g


@wrong_backward("huber", fitted, spoils=("target",), cause="sign")
def the_target_goes_along_with_the_prediction(dloss, cache):
    pred, target, e, weight, delta = cache
    g = dloss * weight * np.clip(e, -delta, delta) / e.size
    return g, g.copy()


@wrong_backward("huber", fitted, spoils=("target",), cause="zero_gradient")
def the_target_is_taken_for_data(dloss, cache):
    pred, target, e, weight, delta = cache
    return dloss * weight * np.clip(e, -delta, delta) / e.size, np.zeros_like(target)


@wrong_backward("huber", fitted, spoils=("pred", "target"), cause="wrong_cached_value")
def the_branch_is_chosen_by_the_prediction(dloss, cache):
    pred, target, e, weight, delta = cache
    g = np.where(np.abs(pred) <= delta, e, delta * np.sign(e)) * weight * (dloss / e.size)
    return g, -g


@wrong_backward("huber", fitted, spoils=("target",), cause="sign", also=("mean_vs_sum", "constant_factor"))
def the_target_lacks_its_minus_and_the_mean(dloss, cache):
    pred, target, e, weight, delta = cache
    g = dloss * weight * np.clip(e, -delta, delta)
    return g / e.size, g


def softmax(z):
    w = np.exp(z - z.max(axis=-1, keepdims=True))
    return w / w.sum(axis=-1, keepdims=True)


def kl_forward(student, teacher, tau):
    q, p = softmax(student / tau), softmax(teacher / tau)
    loss = tau**2 * np.sum(p * (np.log(p) - np.log(q))) / len(q)
    return loss, {"q": q, "p": p, "student": student, "tau": tau}


def taught(rng):
    shape = sizes(rng, 2)
    inputs = {"student": 1.4 * rng.standard_normal(shape), "teacher": 1.8 * rng.standard_normal(shape)}
    return kl_forward, inputs, {"tau": 3.0}


def d_teacher(dloss, m):
    ratio = np.log(m["p"]) - np.log(m["q"])
    return dloss * m["tau"] / len(ratio) * m["p"] * (ratio - (m["p"] * ratio).sum(1, keepdims=True))


@wrong_backward("distillation", taught, spoils=("student",), cause="constant_factor")
def the_inner_temperature_is_forgotten(dloss, m):
    dz = m["tau"] ** 2 * (m["q"] - m["p"]) / m["q"].shape[0]
    return dloss * dz, d_teacher(dloss, m)


@wrong_backward("distillation", taught, spoils=("student",), cause="wrong_cached_value")
def the_student_is_seen_at_temperature_one(dloss, m):
    q = softmax(m["student"])
    return dloss * m["tau"] * (q - m["p"]) / len(q), d_teacher(dloss, m)


@wrong_backward("distillation", taught, spoils=("student",), cause="sign")
def the_student_is_driven_away(dloss, m):
    return dloss * m["tau"] * (m["p"] - m["q"]) / len(m["p"]), d_teacher(dloss, m)


@wrong_backward("distillation", taught, spoils=("teacher",), cause="missing_path", also=("missing_term",))
def the_teacher_is_not_normalised(dloss, m):
    p, q, tau = m["p"], m["q"], m["tau"]
    dt = np.zeros_like(p)
    for n in range(len(p)):
        dt[n] += dloss * tau * p[n] * np.log(p[n] / q[n]) / len(p)
    return dloss * tau * (q - p) / len(p), dt


@wrong_backward("distillation", taught, spoils=("student",), cause="mean_vs_sum", also=("constant_factor",))
def the_rows_are_not_averaged(dloss, m):
    return dloss * m["tau"] * (m["q"] - m["p"]), d_teacher(dloss, m)
