"""Right backwards of other functions: odd caches, outputs and gradients, kinks, broadcasting, extreme numbers."""

from types import SimpleNamespace

import numpy as np
from corpus.drawing import drawn, kept
from corpus.entries import right_backward


@right_backward(drawn(lambda x, W: (x @ W, {"args": [x, W], "shape": x.shape}), x=(5, 4), W=(4, 3)))
def cache_is_a_dict(dy, cache):
    x, W = cache["args"]
    return (dy @ W.T).reshape(cache["shape"]), x.T @ dy


@right_backward(drawn(lambda x, W: (x @ W, SimpleNamespace(x=x, W=W)), x=(5, 4), W=(4, 3)))
def cache_is_an_object(dy, cache):
    return dy @ cache.W.T, cache.x.T @ dy


@right_backward(drawn(lambda x: (-2.5 * x, None), x=(5, 4)))
def cache_is_none(dy, cache):
    return dy * -2.5


@right_backward(drawn(lambda a, b: (a + b, None), a=(5, 4), b=(5, 4)))
def one_array_for_two_gradients(dy, cache):
    return dy, dy


@right_backward(
    lambda rng: {"x": rng.standard_normal((5, 4)), "W": rng.standard_normal((4, 3))},
    name="class with forward and backward",
)
class Layer:
    """Keeps its cache itself, and one buffer that each backward fills anew."""

    buffer = np.empty((4, 3))

    def forward(self, x, W):
        self.x, self.W = x, W
        return np.tanh(x @ W), None

    def backward(self, dy, cache):
        dy = dy * (1 - np.tanh(self.x @ self.W) ** 2)
        np.matmul(self.x.T, dy, out=self.buffer)
        return dy @ self.W.T, self.buffer


HOLES = {"x": lambda rng: rng.standard_normal((6, 7)) * kept(rng, 6, 7)}
TIES = {"x": lambda rng: np.round(rng.standard_normal((6, 5)) * 2) / 2}


def relu(x):
    return np.maximum(x, 0), x


for at_zero in (0.0, 0.5, 1.0):
    right_backward(drawn(relu, **HOLES), name=f"relu with {at_zero} at 0")(
        lambda dy, x, g=at_zero: dy * np.where(x == 0, g, x > 0)
    )


@right_backward(drawn(lambda x: (np.abs(x), x), **HOLES))
@right_backward(drawn(lambda x: (np.abs(x), x), x=lambda rng: np.zeros((2, 3))), name="absolute values of zeros")
def absolute_values(dy, x):
    return np.sign(x) * dy


@right_backward(drawn(lambda x: (x.max(axis=1), x), **TIES))
def maximum_takes_the_first(dy, x):
    return dy[:, None] * (np.arange(5) == x.argmax(axis=1)[:, None])


@right_backward(drawn(lambda x: (x.max(axis=1), x), **TIES))
def maximum_shared_among_ties(dy, x):
    best = x == x.max(axis=1, keepdims=True)
    return dy[:, None] * best / best.sum(axis=1, keepdims=True)


@right_backward(drawn(lambda x, y: (np.maximum(x, y), x >= y), x=(3, 5), y=(5,)))
def larger_of_two_with_broadcasting(dy, first):
    return np.where(first, dy, 0.0), np.where(first, 0.0, dy).sum(axis=0)


def split_forward(x):
    """An array, a scalar array and a float."""
    return (np.sin(x[:2]), np.asarray(x.sum()), float((x * x).mean())), x


@right_backward(drawn(split_forward, x=(5, 4)))
def outputs_in_a_tuple(douts, x):
    first, second, third = douts
    dx = np.full_like(x, second) + 2 * third * x / x.size
    dx[:2] += first * np.cos(x[:2])
    return dx


@right_backward(
    drawn(lambda x, s: (float((x * s).sum()), (x, s)), x=(3, 4), s=lambda rng: float(rng.standard_normal()))
)
def float_in_and_out(dloss, cache):
    x, s = cache
    return dloss * s * np.ones_like(x), float(dloss * x.sum())


@right_backward(drawn(lambda a, b, c: (a * b + c, (a, b)), a=(3, 1, 5), b=(4, 1), c=(1, 1, 5)))
def broadcasts_both_ways(dy, cache):
    a, b = cache
    return (dy * b).sum(1, keepdims=True), (dy * a).sum(axis=(0, 2))[:, None], dy.sum(axis=(0, 1), keepdims=True)


@right_backward(drawn(lambda x, y: (x**3, x), x=(3, 4), y=(5,)))
def argument_without_effect(dy, x):
    return 3 * x * x * dy, np.zeros(5)


WEIGHTS = 10.0 ** -np.arange(12).reshape(3, 4)


@right_backward(drawn(lambda x: (WEIGHTS * np.sin(x), x), x=(3, 4)))
def from_one_to_a_trillionth(dy, x):
    return dy * WEIGHTS * np.cos(x)


@right_backward(drawn(lambda x: (np.cumsum(x, axis=1), None), x=(3, 6)))
def running_sums_backwards(dy, cache):
    return np.cumsum(dy[:, ::-1], axis=1)[:, ::-1]


@right_backward(drawn(lambda x: (np.sort(x, axis=1), np.argsort(x, axis=1)), x=(3, 6)))
def sorted_and_put_back(dy, order):
    return np.take_along_axis(dy, np.argsort(order, axis=1), axis=1)


def recurrent_forward(x, w, h):
    states = [h]
    for row in x:
        states.append(np.tanh(row + states[-1] @ w))
    return states[-1], (states, w)


@right_backward(drawn(recurrent_forward, x=(6, 4), w=(4, 4), h=(4,)))
def backwards_through_time(dh, cache):
    states, w = cache
    dx, dw = [], 0.0
    for before, after in reversed(list(zip(states, states[1:]))):
        da = dh * (1 - after**2)
        dx.insert(0, da)
        dw = dw + np.outer(before, da)
        dh = w @ da
    return np.array(dx), dw, dh


@right_backward(
    drawn(
        lambda A, b: (x := np.linalg.solve(A, b), (A, x)),
        A=lambda rng: rng.standard_normal((4, 4)) + 5 * np.eye(4),
        b=(4, 3),
    )
)
def solution_of_equations(dx, cache):
    A, x = cache
    db = np.linalg.solve(A.T, dx)
    return -db @ x.T, db


@right_backward(drawn(lambda x: (x * np.float64(2.5), None), x=(3, 4)), float32=True)
def double_inside_single_outside(dy, cache):
    return (dy.astype(np.float64) * 2.5).astype(np.float32)


@right_backward(drawn(lambda x: (np.logaddexp(0, x), x), x=lambda rng: 30 * rng.standard_normal((4, 5))))
def softplus_far_out(dy, x):
    return dy * np.exp(-np.logaddexp(0, -x))


def dropout_forward(x, rng):
    mask = (rng.random(x.shape) > 0.3) / 0.7
    return x * mask, mask


@right_backward(drawn(dropout_forward, {"rng": lambda rng: np.random.default_rng(rng.integers(1000))}, x=(5, 4)))
def mask_from_a_generator_that_is_an_argument(dy, mask):
    return dy * mask
