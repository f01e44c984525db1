"""Right backwards of operations that the package does not have, in forms that look odd."""

import numpy as np
from corpus.backwards.foreign import batch, conv, products, rms, rope, rows, scalar, swiglu
from corpus.entries import right_backward


@right_backward(rms.plain)
@right_backward(rms.plain, float32=True)
def rms_norm_as_a_projection(dy, cache):
    """A matrix for each row: what is along x is taken away."""
    x, g, r, xhat = cache
    d = x.shape[1]
    jacobian = r[..., None] * (np.eye(d, dtype=x.dtype) - xhat[:, :, None] * xhat[:, None, :] / d)
    return np.einsum("nij,nj->ni", jacobian, dy * g), np.diagonal(xhat.T @ dy)


@right_backward(rms.llama)
def rms_norm_with_the_weight_divided_out(dout, cache):
    """The sum of dx * x is that of dy * y but for eps, and y / weight is what was normalised."""
    w, h, inv = cache["weight"], cache["hidden"], cache["inv"]
    y = w * h * inv
    dhidden = inv * w * dout - h * inv**2 * (dout * y).sum(-1, keepdims=True) / h.shape[-1]
    return ((dout * y) / w).sum((0, 1)), dhidden


@right_backward(swiglu.plain)
@right_backward(swiglu.plain, float32=True)
def swiglu_with_gate_and_up_in_one_matrix(dy, c):
    joined = np.concatenate([c.W_gate, c.W_up], axis=1)
    dh = dy @ c.W_down.T
    silu = c.a * c.s
    both = np.concatenate([dh * c.b * (c.s + silu - silu * c.s), dh * silu], axis=1)
    dW_gate, dW_up = np.split(c.x.T @ both, 2, axis=1)
    return both @ joined.T, dW_gate, dW_up, (silu * c.b).T @ dy


@right_backward(swiglu.torch)
def swish_from_its_own_value(grad, cache):
    """swish' = sigmoid + beta * swish * (1 - sigmoid); 1 - sigmoid as the sigmoid of the other side."""
    (w1, w2, w3), x, up, beta = cache["w"], cache["x"], cache["up"], cache["beta"]
    swish = cache["hidden"] / up
    other = 1 / (1 + np.exp(beta * cache["gate"]))
    dhidden = grad @ w2
    dgate = dhidden * up * (1 - other + beta * swish * other)
    dup = dhidden * swish
    return (x.T @ dgate).T, (cache["hidden"].T @ grad).T, (x.T @ dup).T, dup @ w3 + dgate @ w1


@right_backward(rope.halves)
def rotation_by_minus_the_angle(dy, cache):
    cos, sin = cache
    return rope.rotate_half(dy) * -sin + dy * cos


@right_backward(rope.pairs)
def rotation_as_complex_numbers(dout, cache):
    turned = dout[..., ::2] + 1j * dout[..., 1::2]
    back = turned * np.conj(cache["cos"] + 1j * cache["sin"]) * cache["scale"]
    return np.ascontiguousarray(back).view(np.float64)


@right_backward(rope.learned)
def frequencies_by_the_tangent(dy, cache):
    """Turning back first: the derivative of a rotation is the rotation and a right angle."""
    u, v, c, s, positions = cache
    back = rope.back_z(dy, c, s)
    return back, np.tensordot(positions, u * back[..., 1] - v * back[..., 0], axes=1)


@right_backward(batch.course)
@right_backward(batch.course, float32=True)
def batch_norm_in_one_line(dout, cache):
    xhat, gamma, xmu, ivar, var, eps, x = cache
    n, dgamma, dbeta = len(x), (dout * xhat).sum(axis=0), dout.sum(axis=0)
    return gamma * ivar / n * (n * dout - dbeta - xhat * dgamma), dgamma, dbeta


@right_backward(batch.course)
def batch_norm_without_the_way_through_the_mean_of_the_variance(dout, cache):
    """The variance does not move with the mean: the sum of the centred numbers is zero."""
    xhat, gamma, xmu, ivar, var, eps, x = cache
    dxhat = dout * gamma
    dvar = (dxhat * xmu).sum(axis=0) * -0.5 * (var + eps) ** -1.5
    dmu = -(dxhat.sum(axis=0) * ivar)
    return dxhat * ivar + (2 * dvar * xmu + dmu) / len(x), (dout * xhat).sum(axis=0), dout.sum(axis=0)


@right_backward(batch.images)
def batch_norm_with_the_channels_moved_to_the_front(d, c):
    """All but the channels is one long axis."""
    front = d.swapaxes(0, 1).reshape(d.shape[1], -1)
    hat = c.hat.swapaxes(0, 1).reshape(d.shape[1], -1)
    centred = front - front.mean(axis=1, keepdims=True)
    dx = (centred - hat * (centred * hat).mean(axis=1, keepdims=True)) * (c.gamma / c.std[0])[:, :, 0]
    n, channels, h, w = d.shape
    dx = dx.reshape(channels, n, h, w).swapaxes(0, 1)
    return dx, np.diag(front @ hat.T), front @ np.ones(front.shape[1])


@right_backward(conv.loops)
def convolution_as_a_sparse_matrix(dy, cache):
    """All the shifts as one array of zeros and ones."""
    x, w, stride = cache
    k, steps = w.shape[2], dy.shape[2]
    hit = np.zeros((steps, k, x.shape[2]))
    for t in range(steps):
        hit[t, np.arange(k), stride * t + np.arange(k)] = 1
    dx = np.einsum("not,ock,tkT->ncT", dy, w, hit, optimize=True)
    return dx, np.einsum("not,ncT,tkT->ock", dy, x, hit, optimize=True), np.einsum("not->o", dy)


@right_backward(conv.square)
@right_backward(conv.square, float32=True)
def full_convolution_with_the_flipped_kernel(dy, cache):
    x, w, _ = cache
    k = w.shape[2]
    padded = np.pad(dy, ((0, 0), (0, 0), (k - 1, k - 1)))
    dx = sum(w[:, :, k - 1 - i].T @ padded[:, :, i : i + x.shape[2]] for i in range(k))
    dw = np.stack([np.tensordot(dy, x[:, :, i : i + dy.shape[2]], axes=([0, 2], [0, 2])) for i in range(k)], axis=2)
    return dx, dw, dy.sum(2).sum(0)


@right_backward(rows.plain)
def log_softmax_by_its_jacobian(dy, logp):
    jacobian = np.eye(dy.shape[1]) - np.exp(logp)[:, None, :]
    return (dy[:, None, :] @ jacobian)[:, 0]


@right_backward(rows.warm)
def log_softmax_of_what_takes_part_only(grad, cache):
    dscores = np.zeros_like(grad)
    for at in np.ndindex(grad.shape[:-1]):
        part = cache["keep"][at]
        up, p = grad[at][part], cache["p"][at][part]
        dscores[at][part] = (up - p * np.sum(up)) / cache["T"]
    return dscores


@right_backward(rows.overlap)
def overlapping_maxima_by_counting(dy, cache):
    at, x = cache
    where = at + np.arange(len(x))[:, None] * x.shape[1]
    return np.bincount(where.reshape(-1), dy.reshape(-1), x.size).reshape(x.shape)


@right_backward(rows.image)
def maximum_by_the_sign_of_the_gap(grad, cache):
    shape, _, blocks, out = cache
    hit = 1 + np.sign(blocks - out[:, :, None, :, None])
    return np.reshape(hit * grad[:, :, None, :, None], shape)


@right_backward(products.quadratic)
def quadratic_form_with_a_symmetric_part(dout, cache):
    v, M = cache["v"], cache["M"]
    return 2 * dout[:, None] * (v @ ((M + M.T) / 2)), (v.T * dout) @ v


@right_backward(products.plain)
def bilinear_form_by_kronecker_rows(dy, cache):
    x, W, z = cache
    rows = (x[:, :, None] * z[:, None, :]).reshape(len(x), -1)
    return (dy * (W @ z.T)).T, (dy @ rows).reshape(W.shape), (dy * (W.T @ x.T)).T


@right_backward(products.weighted)
def mse_by_the_mask_twice(dloss, cache):
    r, keep = cache["r"], cache["keep"]
    return np.where(keep, (dloss / cache["count"]) * (r + r) * cache["weight"][:, None], 0.0)


@right_backward(scalar.sharp)
def softplus_by_a_tanh(dy, cache):
    x, beta, out = cache
    return 0.5 * dy * (1 + np.tanh(beta * x / 2))


@right_backward(scalar.sharp)
def softplus_from_its_output(dy, cache):
    x, beta, out = cache
    return -dy * np.expm1(-beta * out)


@right_backward(scalar.prelu)
def leaky_relu_as_a_mixture(dy, cache):
    x, alpha = cache
    positive = np.heaviside(x, 0.5)
    return dy * (alpha + (1 - alpha) * positive), ((x - np.abs(x)) / 2 * dy).sum(axis=0)


@right_backward(scalar.grouped)
def groups_as_a_matrix_of_zeros_and_ones(dy, cache):
    rows, w, ids, count = cache
    hot = (ids[:, None] == np.arange(count)).astype(float)
    return (hot * w[:, None]) @ dy, np.diagonal(hot @ dy @ rows.T)


@right_backward(scalar.averaged)
def weights_through_the_shares(grad, cache):
    """First to the shares, as a softmax over each group has them, then to what is shared."""
    dst, total, weight = cache["dst"], cache["total"], cache["weight"]
    share = weight / total[dst]
    dshare = (grad[dst] * cache["msg"]).sum(axis=1)
    mean = np.bincount(dst, dshare * share, len(total))
    return share[:, None] * grad[dst], (dshare - mean[dst]) / total[dst]
