"""Backwards of losses, rotations, products and elementwise functions that are right, though they look odd."""

import numpy as np
from corpus.drawing import drawn, kept
from corpus.entries import right_backward


def angles(length, half):
    return np.arange(1, length + 1)[:, None] * 25.0 ** (-np.arange(half) / half)


def pairs_forward(x, theta):
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = np.cos(theta), np.sin(theta)
    return np.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(x.shape), theta


@right_backward(drawn(pairs_forward, fixed={"theta": angles(5, 4)}, x=(3, 5, 8)))
def rope_by_complex_numbers(dy, theta):
    turned = dy.view(np.complex128) * np.exp(-1j * theta)
    return turned.view(np.float64)


@right_backward(drawn(pairs_forward, fixed={"theta": angles(7, 3)}, x=(4, 7, 6)))
def rope_by_the_forward_at_the_negative_angle(dy, theta):
    return pairs_forward(dy, -theta)[:1]


def bilinear_forward(x, z, W, b):
    return np.einsum("ni,kij,nj->nk", x, W, z) + b, (x, z, W)


@right_backward(drawn(bilinear_forward, x=(4, 3), z=(4, 6), W=(5, 3, 6), b=(5,)))
def bilinear_by_kronecker_products(dy, cache):
    x, z, W = cache
    K, i, j = W.shape
    rows = np.stack([np.kron(p, q) for p, q in zip(x, z)])
    M = (dy @ W.reshape(K, -1)).reshape(-1, i, j)
    return np.squeeze(M @ z[..., None], 2), np.squeeze(x[:, None] @ M, 1), (dy.T @ rows).reshape(W.shape), dy.sum(0)


def log_softmax_forward(z):
    logp = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    return logp.astype(z.dtype), logp


@right_backward(drawn(log_softmax_forward, z=(5, 6)))
def log_softmax_by_a_jacobian_for_each_row(dy, logp):
    C = dy.shape[1]
    J = np.eye(C) - np.exp(logp)[:, None, :]
    return np.einsum("nc,ncj->nj", dy, J)


@right_backward(drawn(log_softmax_forward, z=(4, 7)), float32=True)
def log_softmax_by_a_loop_over_classes(dy, logp):
    dz = np.array(dy)
    for j in range(dy.shape[1]):
        dz -= dy[:, j : j + 1] * np.exp(logp)
    return dz


def nll_forward(z, target, weight):
    logp = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    w = weight[target]
    return -(w * logp[np.arange(len(z)), target]).sum() / w.sum(), (logp, target, w)


@right_backward(
    drawn(
        nll_forward,
        fixed={"target": np.array([1, 0, 3, 1, 3, 2, 1]), "weight": np.array([0.4, 1.3, 2.0, 0.7, 1.1])},
        z=(7, 5),
    )
)
def weighted_nll_by_odds(dloss, cache):
    logp, target, w = cache
    rows = np.arange(len(w))
    dz = np.exp(logp)
    dz[rows, target] = np.expm1(logp[rows, target])
    return dloss * (w / w.sum())[:, None] * dz


def cosine_forward(a, b):
    dot, na, nb = (a * b).sum(1), np.sqrt((a * a).sum(1)), np.sqrt((b * b).sum(1))
    return dot / (na * nb), (a, b, dot, na, nb)


@right_backward(drawn(cosine_forward, a=(5, 4), b=(5, 4)))
def cosine_as_the_quotient_rule_has_it(ds, cache):
    a, b, dot, na, nb = cache
    ddot, dna, dnb = ds / (na * nb), -ds * dot / (na**2 * nb), -ds * dot / (na * nb**2)
    da = ddot[:, None] * b + (dna / na)[:, None] * a
    db = ddot[:, None] * a + (dnb / nb)[:, None] * b
    return da, db


def swish_forward(x, beta):
    y = x / (1 + np.exp(-beta * x))
    return y, (x, beta, y)


@right_backward(
    drawn(swish_forward, x=lambda rng: 0.2 + rng.uniform(0, 2, (4, 5)), beta=lambda rng: rng.uniform(0.5, 2, 5))
)
def swish_from_its_output(dy, cache):
    x, beta, y = cache
    s = y / x
    return dy * (s + beta * y * (1 - s)), (dy * y * (x - y)).sum(0)


def elu_forward(x, alpha):
    y = np.where(x > 0, x, alpha * np.expm1(x))
    return y, (y, alpha)


def apart(rng):
    x = rng.standard_normal((6, 4))
    return x + 0.1 * np.sign(x)


@right_backward(drawn(elu_forward, fixed={"alpha": 0.7}, x=apart))
def elu_that_branches_on_its_output(dy, cache):
    y, alpha = cache
    return dy * ((y > 0) + (y <= 0) * (np.minimum(y, 0) + alpha))


def huber_forward(pred, target, delta):
    e = pred - target
    q = np.clip(e, -delta, delta)
    return np.mean(q * (e - 0.5 * q)), (q, e.size)


@right_backward(drawn(huber_forward, fixed={"delta": 0.8}, pred=(4, 6), target=(4, 6)))
def huber_by_clipping(dloss, cache):
    q, count = cache
    g = q * (dloss / count)
    return g, np.negative(g)


def log_probabilities(z):
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


def kl_forward(student, teacher, tau):
    lq, lp = log_probabilities(student / tau), log_probabilities(teacher / tau)
    return tau * tau * (np.exp(lp) * (lp - lq)).sum() / len(lq), (lq, lp, tau)


@right_backward(drawn(kl_forward, fixed={"tau": 2.5}, student=(5, 6), teacher=(5, 6)))
def distillation_with_a_one_that_cancels(dloss, cache):
    lq, lp, tau = cache
    p = np.exp(lp)
    dp = lp - lq + 1
    dteacher = p * (dp - np.einsum("nc,nc->n", p, dp)[:, None])
    scale = dloss * tau / len(p)
    return scale * (np.exp(lq) - p), scale * dteacher


def masked_mean_forward(x, w, mask):
    m = w * mask
    total = m.sum(1)
    return (m[..., None] * x).sum(1) / total[:, None], (x, m, mask, total)


def positive(rng):
    return rng.uniform(0.3, 1.5, (3, 7))


@right_backward(
    drawn(masked_mean_forward, fixed={"mask": lambda rng: kept(rng, 3, 7).astype(float)}, x=(3, 7, 5), w=positive)
)
def weighted_mean_term_by_term(dy, cache):
    x, m, mask, total = cache
    dx, dw = np.zeros_like(x), np.zeros_like(m)
    for b, t in np.argwhere(mask):
        dx[b, t] = m[b, t] / total[b] * dy[b]
        for s in np.flatnonzero(mask[b]):
            dw[b, t] += m[b, s] * dy[b] @ (x[b, t] - x[b, s]) / total[b] ** 2
    return dx, dw


def mean_forward(x):
    return x.mean(axis=1), x.shape


@right_backward(drawn(mean_forward, x=(4, 7, 3)))
def plain_mean_as_a_view_that_cannot_be_written(dy, shape):
    return np.broadcast_to(dy[:, None] / shape[1], shape)
