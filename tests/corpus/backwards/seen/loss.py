"""Mistakes in the cross entropy."""

import numpy as np
from corpus.drawing import single
from corpus.entries import wrong_backward

from lora_np import ops


def labelled(**fixed):
    """Return a setting of cross_entropy with ids that repeat and one row ignored."""

    def setting(rng):
        labels = np.insert(repeated_labels(rng), rng.integers(7), -100)
        return ops.cross_entropy_forward, {"logits": rng.standard_normal((7, 5))}, {"labels": labels, **fixed}

    return setting


def repeated_labels(rng):
    return rng.integers(0, 5, 6)


mean, total, smoothed = labelled(), labelled(reduction="sum"), labelled(label_smoothing=0.2)


def nll_forward(z, target, smooth=0.0, temperature=1.6):
    """No row is ignored; soft targets as a matrix."""
    s = z / temperature
    e = np.exp(s - s.real.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    hot = np.eye(z.shape[1])[target]
    soft = (1 - smooth) * hot + smooth / z.shape[1]
    return -(soft * np.log(p)).sum() / len(z), {
        "e": e,
        "p": p,
        "hot": hot,
        "soft": soft,
        "T": temperature,
        "e_": smooth,
    }


def nll(rng):
    return nll_forward, {"z": rng.standard_normal((6, 5))}, {"target": repeated_labels(rng), "smooth": 0.3}


def plain_forward(scores, y):
    p = np.exp(scores - scores.real.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y]).mean(), (scores, p, y)


def plain(rng):
    return plain_forward, {"scores": rng.standard_normal((6, 5))}, {"y": repeated_labels(rng)}


def plain_single(rng):
    forward, inputs, fixed = plain(rng)
    return forward, single(inputs), fixed


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="mean_vs_sum")
def not_divided_by_n(dloss, cache):
    scores, p, y = cache
    d = p.copy()
    d[np.arange(len(y)), y] -= 1
    return d * dloss


@wrong_backward("cross_entropy", total, spoils=("logits",), cause="mean_vs_sum")
def divided_though_it_is_the_sum(dloss, cache):
    p, q, divisor = cache
    count = q.any(axis=1).sum()
    return dloss * (p - q) * q.any(axis=1, keepdims=True) / count


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="mean_vs_sum")
def averaged_over_classes_too(dloss, cache):
    return dloss * (cache["p"] - cache["soft"]) / cache["T"] / cache["p"].size


@wrong_backward(
    "cross_entropy", mean, spoils=("logits",), cause="mean_vs_sum", also=("mask_ignored", "constant_factor")
)
def ignored_rows_counted(dloss, cache):
    p, q, _ = cache
    return dloss * np.where(q.any(axis=1)[:, None], p - q, 0) / len(p)


@wrong_backward("cross_entropy", mean, spoils=("logits",), cause="mask_ignored")
def ignored_rows_get_their_p(dloss, cache):
    p, q, divisor = cache
    return dloss * (p - q) / divisor


@wrong_backward("cross_entropy", total, spoils=("logits",), cause="mask_ignored")
def ignored_rows_get_the_first_class(dloss, cache):
    p, q, _ = cache
    dlogits = p.copy()
    dlogits[np.arange(len(p)), q.argmax(axis=1)] -= 1
    return dloss * dlogits


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="sign")
def target_minus_probability(dloss, cache):
    scores, p, y = cache
    d = -p
    d[np.arange(len(y)), y] += 1
    return dloss * d / len(y)


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="ignores_upstream")
def the_loss_is_the_end(dloss, cache):
    """It seldom is: somebody weighs it, or adds it up over steps."""
    scores, p, y = cache
    d = p.copy()
    d[range(len(y)), y] -= 1
    return d / len(y)


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="missing_path")
def log_without_its_normaliser(dloss, cache):
    return -dloss * cache["soft"] / len(cache["p"]) / cache["T"]


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="missing_term")
def one_not_subtracted(dloss, cache):
    scores, p, y = cache
    return dloss * p / len(y)


@wrong_backward("cross_entropy", plain, spoils=("backward",), cause="inplace")
def one_subtracted_in_the_cache(dloss, cache):
    scores, p, y = cache
    p[np.arange(len(y)), y] -= 1
    return dloss * p / len(y)


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="wrong_cached_value")
def hard_target_for_the_soft_one(dloss, cache):
    return dloss * (cache["p"] - cache["hot"]) / len(cache["p"]) / cache["T"]


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="missing_term")
def smoothing_left_out_of_the_other_classes(dloss, cache):
    p, hot, e = cache["p"], cache["hot"], cache["e_"]
    return dloss * (p - (1 - e) * hot) / len(p) / cache["T"]


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="constant_factor")
def one_minus_e_forgotten(dloss, cache):
    p, hot, e = cache["p"], cache["hot"], cache["e_"]
    return dloss * (p - hot - e / p.shape[1]) / len(p) / cache["T"]


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="constant_factor")
def temperature_forgotten(dloss, cache):
    return dloss * (cache["p"] - cache["soft"]) / len(cache["p"])


@wrong_backward("cross_entropy", nll, spoils=("z",), cause="wrong_cached_value", also=("elementwise_factor",))
def exponentials_not_divided(dloss, cache):
    return dloss / len(cache["e"]) * (cache["e"] - cache["soft"]) / cache["T"]


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="wrong_cached_value")
def log_probabilities_for_probabilities(dloss, cache):
    scores, p, y = cache
    d = np.log(p)
    d[np.arange(len(y)), y] -= 1
    return dloss / len(y) * d


@wrong_backward("cross_entropy", plain_single, spoils=("scores",), cause="dtype")
def one_hot_of_doubles(dloss, cache):
    scores, p, y = cache
    hot = np.eye(p.shape[1])[y]
    return dloss * (p - hot) / len(y)


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="reduction_axis")
def softmax_over_the_rows(dloss, cache):
    scores, _, y = cache
    e = np.exp(scores)
    d = e / e.sum(axis=0)
    d[np.arange(len(y)), y] -= 1
    return dloss * d / len(y)


@wrong_backward("cross_entropy", mean, spoils=("logits",), cause="elementwise_factor")
def slope_of_the_sigmoid_on_top(dloss, cache):
    p, q, divisor = cache
    rows = q.any(axis=1, keepdims=True)
    return dloss / divisor * rows * (p - q) * p * (1 - p)


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="wrong_derivative", also=("elementwise_factor",))
def log_without_one_over_p(dloss, cache):
    scores, p, y = cache
    dp = np.zeros_like(p)
    dp[np.arange(len(y)), y] = -dloss / len(y)
    return p * (dp - (p * dp).sum(axis=1, keepdims=True))


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="shape")
def only_the_right_class(dloss, cache):
    scores, p, y = cache
    return dloss * (p[np.arange(len(y)), y] - 1) / len(y)


@wrong_backward("cross_entropy", smoothed, spoils=("logits",), cause="zero_gradient")
def weight_by_integer_division(dloss, cache):
    p, q, divisor = cache
    weight = q.any(axis=1).astype(int) // divisor
    return dloss * (p - q) * weight[:, None]


@wrong_backward("cross_entropy", smoothed, spoils=("logits",), cause="extra_term")
def penalty_on_large_probabilities(dloss, cache):
    p, q, divisor = cache
    rows = q.any(axis=1, keepdims=True)
    return rows * (dloss * (p - q) / divisor + 0.01 * p)


@wrong_backward("cross_entropy", plain, spoils=("scores",), cause="sign")
def softmax_sum_added(dloss, cache):
    scores, p, y = cache
    dp = np.zeros_like(p)
    rows = np.arange(len(y))
    dp[rows, y] = -dloss / len(y) / p[rows, y]
    return p * (dp + (p * dp).sum(axis=1, keepdims=True))


def weighted_forward(scores, y, weights):
    """Rare classes weigh more."""
    _, (_, p, _) = plain_forward(scores, y)
    w = weights[y]
    return -(w * np.log(p[np.arange(len(y)), y])).sum() / w.sum(), (p, y, weights)


def weighted(rng):
    _, inputs, fixed = plain(rng)
    return weighted_forward, inputs, {**fixed, "weights": rng.uniform(0.4, 3.0, 5)}


@wrong_backward("cross_entropy", weighted, spoils=("scores",), cause="factor_order")
def weights_by_column(dloss, cache):
    p, y, weights = cache
    d = p.copy()
    d[np.arange(len(y)), y] -= 1
    return dloss * weights * d / weights[y].sum()


@wrong_backward("cross_entropy", weighted, spoils=("scores",), cause="elementwise_factor")
def weights_in_the_mean_only(dloss, cache):
    p, y, weights = cache
    d = p - np.eye(len(weights))[y]
    return dloss * d / weights[y].sum()


@wrong_backward(
    "cross_entropy", lambda rng: {"scores": rng.standard_normal((6, 5))}, spoils=("backward",), cause="nondeterministic"
)
class Momentum:
    """What an optimiser does, done in the wrong place."""

    y, velocity = np.array([3, 0, 1, 3, 4, 0]), 0.0

    def forward(self, scores):
        return plain_forward(scores, self.y)

    def backward(self, dloss, cache):
        scores, p, y = cache
        self.velocity = 0.9 * self.velocity + dloss * (p - np.eye(p.shape[1])[y]) / len(y)
        return self.velocity
