"""Chapter 6, first part: answers of learners, written without sight of the rules."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np.ops import cross_entropy_backward, cross_entropy_forward
from lora_np.train.optimisers import adamw_step

# adamw_step


@wrong_answer("adamw_step", cause="constant_factor")
def adamw_means_not_corrected(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p -= lr * weight_decay * p
    m[...] = b1 * m + (1 - b1) * g
    v[...] = b2 * v + (1 - b2) * g**2
    p -= lr * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause="constant_factor", also=("wrong_cached_value",))
def adamw_counts_steps_from_zero(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p *= 1 - lr * weight_decay
    m *= b1
    m += (1 - b1) * g
    v *= b2
    v += (1 - b2) * g * g
    mhat, vhat = m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
    p -= lr * mhat / (np.sqrt(vhat) + eps)


@wrong_answer("adamw_step", cause="extra_term", also=("missing_term", "factor_order", "wrong_cached_value"))
def adamw_decay_in_the_gradient(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    g = g + weight_decay * p
    np.multiply(m, b1, out=m)
    m += (1 - b1) * g
    np.multiply(v, b2, out=v)
    v += (1 - b2) * g**2
    p -= lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


@wrong_answer("adamw_step", cause="wrong_derivative", also=("factor_order",))
def adamw_eps_under_the_root(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1.0 - lr * weight_decay
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    v += (1.0 - beta2) * g * g
    mhat = m / (1.0 - beta1**t)
    vhat = v / (1.0 - beta2**t)
    p -= lr * mhat / np.sqrt(vhat + eps)


@wrong_answer("adamw_step", cause="wrong_cached_value")
def adamw_second_mean_of_m(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p -= lr * weight_decay * p
    m *= b1
    m += (1 - b1) * g
    v *= b2
    v += (1 - b2) * m * m
    p -= lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps)


@wrong_answer("adamw_step", cause="constant_factor", also=("inplace",))
def adamw_corrects_for_good(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p *= 1 - lr * weight_decay
    m *= b1
    m += (1 - b1) * g
    m /= 1 - b1**t
    v *= b2
    v += (1 - b2) * g**2
    p -= lr * m / (np.sqrt(v / (1 - b2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def adamw_decay_without_rate(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    m[:] = m * b1 + g * (1 - b1)
    v[:] = v * b2 + g * g * (1 - b2)
    update = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    p *= 1 - weight_decay
    p -= lr * update


@wrong_answer("adamw_step", cause="inplace")
def adamw_squares_the_callers_g(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p *= 1 - lr * weight_decay
    m *= b1
    m += (1 - b1) * g
    g *= g
    v *= b2
    v += (1 - b2) * g
    p -= lr * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


@right_answer("adamw_step")
def adamw_by_blends(p, g, m, v, t, lr, betas, eps, weight_decay):
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (np.square(g) - v)
    denominator = np.sqrt(v) / math.sqrt(1 - betas[1] ** t) + eps
    np.subtract(p * (1 - lr * weight_decay), lr / (1 - betas[0] ** t) * m / denominator, out=p)


@right_answer("adamw_step")
def adamw_entry_by_entry(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    for i in np.ndindex(p.shape):
        m[i] = b1 * float(m[i]) + (1 - b1) * float(g[i])
        v[i] = b2 * float(v[i]) + (1 - b2) * float(g[i]) ** 2
        mhat, vhat = float(m[i]) / (1 - b1**t), float(v[i]) / (1 - b2**t)
        p[i] = float(p[i]) * (1 - lr * weight_decay) - lr * mhat / (math.sqrt(vhat) + eps)


@right_answer("adamw_step")
def adamw_new_arrays_copied_back(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    new_m = b1 * m + (1 - b1) * g
    new_v = b2 * v + (1 - b2) * g * g
    step = new_m / (1 - b1**t) / ((new_v / (1 - b2**t)) ** 0.5 + eps)
    new_p = p - lr * (step + weight_decay * p)
    for old, new in ((p, new_p), (m, new_m), (v, new_v)):
        np.copyto(old, new)


# train


@wrong_answer("train", cause="not_accumulated", also=("wrong_cached_value",))
def train_optimiser_every_time(model, batches, lr):
    losses = []
    for batch, labels in batches:
        optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        grads = model.backward(lnp.cross_entropy_backward(1.0, c), cache)
        optimiser.step(grads)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="wrong_cached_value")
def train_loss_after_the_step(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, True), lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        _, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        logits, _ = model.forward(batch)
        losses.append(float(lnp.cross_entropy_forward(logits, labels)[0]))
    return losses


@wrong_answer("train", cause="extra_term", also=("wrong_cached_value",))
def train_gradients_pile_up(model, batches, lr):
    trained = lnp.parameters(model, trainable_only=True)
    opt = lnp.AdamW(trained, lr=lr)
    total = {name: np.zeros_like(p) for name, p in trained.items()}
    losses = []
    for x, y in batches:
        out, cache = model.forward(x)
        loss, loss_cache = cross_entropy_forward(out, y)
        for name, g in model.backward(cross_entropy_backward(1.0, loss_cache), cache).items():
            total[name] += g
        opt.step(total)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="zero_gradient", also=("missing_term",))
def train_never_steps(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.grads = model.backward(lnp.cross_entropy_backward(1.0, c), cache)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="shape")
def train_returns_the_last_loss(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
    return float(loss)


@wrong_answer("train", cause="mean_vs_sum", also=("wrong_cached_value", "extra_term"))
def train_running_mean_of_losses(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr)
    losses, total = [], 0.0
    for k, (batch, labels) in enumerate(batches, start=1):
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        total += float(loss)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(total / k)
    return losses


@wrong_answer("train", cause="mean_vs_sum", also=("constant_factor",))
def train_sums_over_the_batch(model, batches, lr):
    losses = []
    opt = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels, reduction="sum")
        opt.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="sign")
def train_uphill(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        grads = model.backward(lnp.cross_entropy_backward(-1.0, c), cache)
        optimiser.step(grads)
        losses.append(float(loss))
    return losses


@right_answer("train")
def train_in_functions(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, True), lr)

    def step(batch, labels):
        logits, cache = model.forward(batch)
        loss, c = cross_entropy_forward(logits, labels)
        dlogits = cross_entropy_backward(1.0, c)
        optimiser.step(grads=model.backward(dlogits, cache))
        return loss.item()

    return [step(*pair) for pair in batches]


@right_answer("train")
def train_with_own_state(model, batches, lr):
    trained = lnp.parameters(model, trainable_only=True)
    state = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in trained.items()}
    losses = []
    for t, (batch, labels) in enumerate(batches, 1):
        logits, cache = model.forward(batch)
        loss, c = cross_entropy_forward(logits, labels)
        losses += [float(loss)]
        for name, g in model.backward(cross_entropy_backward(1.0, c), cache).items():
            adamw_step(trained[name], g, *state[name], t, lr, (0.9, 0.999), 1e-8, 0.01)
    return losses


@right_answer("train")
def train_gradient_by_hand(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    while len(losses) < len(batches):
        batch, labels = batches[len(losses)]
        z, cache = model.forward(batch)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        losses.append(float(-np.log(p[rows, labels]).mean()))
        p[rows, labels] -= 1
        optimiser.step(model.backward(p / len(labels), cache))
    return losses
