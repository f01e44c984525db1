"""Backwards of norms, convolution, pooling and cells that are right, though they are not what a book writes."""

import numpy as np
from corpus.drawing import drawn
from corpus.entries import right_backward
from numpy.lib.stride_tricks import sliding_window_view


def rms_forward(x, g):
    r = np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return (x / r * g).astype(x.dtype), (x, r, g)


@right_backward(drawn(rms_forward, x=(5, 7), g=(7,)))
def rms_norm_by_the_jacobian_of_each_row(dy, cache):
    x, r, g = cache
    dx = np.empty_like(x)
    for i, row in enumerate(x):
        J = np.eye(row.size) / r[i] - np.outer(row, row) / (row.size * r[i] ** 3)
        dx[i] = J.T @ (g * dy[i])
    return [dx, np.diag(dy.T @ (x / r)).copy()]


@right_backward(drawn(rms_forward, x=(3, 6), g=(6,)), float32=True)
def rms_norm_in_double_inside(dy, cache):
    x, r, g = (a.astype(np.float64) for a in cache)
    unit = x / r
    h = g * dy
    dx = (h - unit * (h * unit).mean(-1, keepdims=True)) / r
    return dx.astype(np.float32), (dy * unit).sum(0).astype(np.float32)


def bn_forward(x, gamma, beta):
    centred = x - x.mean(0)
    inv = (np.mean(centred**2, axis=0) + 1e-5) ** -0.5
    return centred * inv * gamma + beta, (centred, inv, gamma)


@right_backward(drawn(bn_forward, x=(7, 4), gamma=(4,), beta=(4,)))
def batch_norm_with_gamma_last_of_all(dy, cache):
    centred, inv, gamma = cache
    n = len(dy)
    dgamma, dbeta = ((dy * centred).sum(0) * inv, dy.sum(0))
    return gamma * (inv * (dy - (dbeta + centred * inv * dgamma) / n)), dgamma, dbeta


@right_backward(drawn(bn_forward, x=(5, 3), gamma=(3,), beta=(3,)))
def batch_norm_by_a_centring_matrix(dy, cache):
    centred, inv, gamma = cache
    n = dy.shape[0]
    C = np.eye(n) - 1 / n
    dcentred = dy * gamma * inv
    dcentred += -(inv**3) * gamma * centred * np.einsum("nc,nc->c", dy, centred) / n
    return C @ dcentred, np.einsum("nc,nc,c->c", dy, centred, inv), np.ones(n) @ dy


def gn_forward(x, gamma, beta, groups):
    n, c, length = x.shape
    xg = x.reshape(n, groups, -1)
    xhat = (xg - xg.mean(2, keepdims=True)) / np.sqrt(xg.var(2, keepdims=True) + 1e-5)
    istd = 1 / np.sqrt(xg.var(2, keepdims=True) + 1e-5)
    return gamma[:, None] * xhat.reshape(x.shape) + beta[:, None], (xhat, istd, gamma)


@right_backward(drawn(gn_forward, fixed={"groups": 3}, x=(4, 6, 5), gamma=(6,), beta=(6,)))
def group_norm_by_two_projections(dy, cache):
    xhat, istd, gamma = cache
    g = (dy * gamma[:, None]).reshape(xhat.shape)
    size = xhat.shape[-1]
    one = np.full_like(xhat, size**-0.5)
    along = xhat / np.sqrt(size)
    for direction in (one, along):
        g = g - direction * (g * direction).sum(-1, keepdims=True)
    by_channel = (dy * xhat.reshape(dy.shape)).sum(-1)
    return (istd * g).reshape(dy.shape), by_channel.sum(0), dy.sum(-1).sum(0)


def conv_forward(x, w, b, stride):
    views = sliding_window_view(x, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    y = np.einsum("ncijhw,fchw->nfij", views, w) + b[:, None, None]
    return y, (x, w, stride, views)


CONV = {"x": (3, 4, 7, 9), "w": (5, 4, 3, 3), "b": (5,)}


@right_backward(drawn(conv_forward, fixed={"stride": 2}, **CONV))
def convolution_by_shifts_of_the_kernel(dy, cache):
    x, w, s, views = cache
    dx, dw = np.zeros_like(x), np.empty_like(w)
    ho, wo = dy.shape[2:]
    for h in range(w.shape[2]):
        for v in range(w.shape[3]):
            at = np.s_[:, :, h : h + s * ho : s, v : v + s * wo : s]
            dx[at] += np.einsum("nfij,fc->ncij", dy, w[:, :, h, v])
            dw[:, :, h, v] = np.einsum("nfij,ncij->fc", dy, x[at])
    return dx, dw, dy.sum((0, 2, 3))


@right_backward(drawn(conv_forward, fixed={"stride": 2}, **CONV))
def convolution_with_a_turned_kernel_over_spread_gradients(dy, cache):
    x, w, s, views = cache
    kh, kw = w.shape[2:]
    spread = np.zeros((*dy.shape[:2], x.shape[2] + kh - 1, x.shape[3] + kw - 1))
    spread[:, :, kh - 1 : kh - 1 + s * dy.shape[2] : s, kw - 1 : kw - 1 + s * dy.shape[3] : s] = dy
    dx = np.einsum("nfijhw,fchw->ncij", sliding_window_view(spread, (kh, kw), axis=(2, 3)), np.flip(w, (2, 3)))
    return dx, np.tensordot(dy, views, axes=((0, 2, 3), (0, 2, 3))), np.einsum("nfij->f", dy)


def pool_forward(x, size, stride):
    views = sliding_window_view(x, size, axis=-1)[..., ::stride, :]
    at = views.argmax(-1) + stride * np.arange(views.shape[-2])
    return np.take_along_axis(x, at, axis=-1), (at, x.shape)


def levels(*shape):
    return lambda rng: rng.permutation(np.prod(shape)).reshape(shape) / 30 - 1.5


@right_backward(drawn(pool_forward, fixed={"size": 4, "stride": 1}, x=levels(3, 5, 8)))
def max_pool_by_bincount(dy, cache):
    at, shape = cache
    rows = np.arange(shape[0] * shape[1])[:, None] * shape[2]
    flat = (rows + at.reshape(len(rows), -1)).ravel()
    return np.bincount(flat, weights=dy.ravel(), minlength=np.prod(shape)).reshape(shape)


@right_backward(drawn(pool_forward, fixed={"size": 5, "stride": 3}, x=levels(4, 3, 14)))
def max_pool_by_a_one_hot_product(dy, cache):
    at, shape = cache
    return (np.einsum("nci,ncil->ncl", dy, np.eye(shape[-1])[at]),)


def sig(a):
    return 0.5 * (1 + np.tanh(0.5 * a))


def gru_forward(x, h, W, U):
    z = sig(x @ W[0] + h @ U[0])
    r = sig(x @ W[1] + h @ U[1])
    n = np.tanh(x @ W[2] + (r * h) @ U[2])
    return h + z * (n - h), (x, h, W, U)


@right_backward(drawn(gru_forward, x=(4, 3), h=(4, 5), W=(3, 3, 5), U=(3, 5, 5)))
def gru_that_computes_its_gates_again(dnew, cache):
    x, h, W, U = cache
    z, r = (sig(x @ W[i] + h @ U[i]) for i in range(2))
    n = np.tanh(x @ W[2] + (r * h) @ U[2])
    an = dnew * z * (1 + n) * (1 - n)
    drh = an @ U[2].T
    az, ar = dnew * (n - h) * (z - z**2), drh * h * (r - r**2)
    A = np.stack([az, ar, an])
    dh = dnew - z * dnew + drh * r + az @ U[0].T + ar @ U[1].T
    dW = np.einsum("nd,gnh->gdh", x, A)
    dU = np.stack([h.T @ az, h.T @ ar, (r * h).T @ an])
    return np.einsum("gnh,gdh->nd", A, W), dh, dW, dU


class Lstm:
    """One step; the gates share a matrix, and the state is a third input."""

    def forward(self, x, h, c, V):
        self.v, self.V, self.c = np.hstack([x, h]), V, c
        self.i, self.f, self.o = (sig(a) for a in np.split(self.v @ V[:, : 3 * h.shape[1]], 3, axis=1))
        self.g = np.tanh(self.v @ V[:, 3 * h.shape[1] :])
        self.c_new = self.f * c + self.i * self.g
        return (self.o * np.tanh(self.c_new), self.c_new), self

    def backward(self, dout, cache):
        (dh, dc), m = dout, cache
        t = np.tanh(m.c_new)
        dc = dc + dh * m.o / np.cosh(m.c_new) ** 2
        acts = [dc * m.g * m.i * (1 - m.i), dc * m.c * m.f * (1 - m.f), dh * t * m.o * (1 - m.o)]
        acts = np.hstack([*acts, dc * m.i * (1 - m.g * m.g)])
        dv = acts @ m.V.T
        return dv[:, : -dh.shape[1]], dv[:, -dh.shape[1] :], dc * m.f, m.v.T @ acts


def lstm_forward(x, h, c, V):
    return Lstm().forward(x, h, c, V)


@right_backward(drawn(lstm_forward, x=(5, 3), h=(5, 4), c=(5, 4), V=(7, 16)))
def lstm_step_with_its_object_as_the_cache(dout, cache):
    return cache.backward(dout, cache)


def ffn_forward(x, Wg, Wu, Wd):
    a, u = x @ Wg, x @ Wu
    return (a * sig(a) * u) @ Wd, {"x": x, "W": (Wg, Wu, Wd), "a": a, "u": u}


@right_backward(drawn(ffn_forward, x=lambda rng: rng.standard_normal((4, 3)), Wg=(3, 7), Wu=(3, 7), Wd=(7, 5)))
def swiglu_a_hidden_unit_at_a_time(dy, k):
    x, (Wg, Wu, Wd) = k["x"], k["W"]
    grads = [np.zeros_like(a) for a in (x, Wg, Wu, Wd)]
    for j in range(Wg.shape[1]):
        a, u = k["a"][:, j], k["u"][:, j]
        s = sig(a)
        dh = dy @ Wd[j]
        da, du = dh * u * (s + a * s * sig(-a)), dh * a * s
        grads[0] += np.outer(da, Wg[:, j]) + np.outer(du, Wu[:, j])
        grads[1][:, j] = da @ x
        grads[2][:, j] = du @ x
        grads[3][j] = (a * s * u) @ dy
    return grads
