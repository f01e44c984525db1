"""Answers to the exercises of chapter 6, first part: a step of AdamW."""

import math

import numpy as np
from corpus.entries import right_answer, wrong_answer


@wrong_answer("adamw_step", cause=None)
def decay_in_the_gradient(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    g = g + weight_decay * p
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    mhat, vhat = m / (1 - beta1**t), v / (1 - beta2**t)
    p -= lr * mhat / (np.sqrt(vhat) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def no_correction_of_m(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * m / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def no_correction_at_all(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    p -= lr * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause=None)
def eps_under_the_root(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t) + eps)


@wrong_answer("adamw_step", cause="factor_order")
def eps_before_the_correction(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    p -= size * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause=None)
def names_bound_anew(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p = p - lr * weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause=None)
def moments_bound_anew(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def decay_without_lr(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="missing_term")
def decay_forgotten(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="sign")
def uphill(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p += lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def momentum_as_in_sgd(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="elementwise_factor")
def gradient_not_squared(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * np.abs(g)
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="swapped")
def betas_exchanged(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta2, beta1 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause=None, also=("inplace",))
def corrected_means_kept(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)
    v[...] = (beta2 * v + (1 - beta2) * g**2) / (1 - beta2**t)
    p -= lr * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause="inplace")
def gradient_squared_in_place(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m *= beta1
    m += (1 - beta1) * g
    g *= g
    v *= beta2
    v += (1 - beta2) * g
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="reduction_axis", also=("mean_vs_sum",))
def one_number_for_v(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * np.mean(g**2)
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def steps_counted_from_zero(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p *= 1 - lr * weight_decay
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g**2
    p -= lr * (m / (1 - beta1 ** (t + 1))) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + eps)


@right_answer("adamw_step")
def decay_and_step_in_one(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    np.copyto(m, m + (1 - beta1) * (g - m))
    np.copyto(v, v + (1 - beta2) * (g * g - v))
    mhat, vhat = m / (1 - beta1**t), v / (1 - beta2**t)
    p[...] = p - lr * (mhat / (eps + np.sqrt(vhat)) + weight_decay * p)
    return p, m, v


@right_answer("adamw_step")
def one_entry_at_a_time(p, g, m, v, t, lr, betas, eps, weight_decay):
    for i in np.ndindex(p.shape):
        m[i] = betas[0] * m[i] + (1 - betas[0]) * g[i]
        v[i] = betas[1] * v[i] + (1 - betas[1]) * g[i] ** 2
        step = m[i] / (1 - betas[0] ** t) / (math.sqrt(v[i] / (1 - betas[1] ** t)) + eps)
        p[i] -= lr * weight_decay * p[i] + lr * step


@right_answer("adamw_step")
def torch_order(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    np.multiply(p, 1 - lr * weight_decay, out=p)
    np.add(beta1 * m, (1 - beta1) * g, out=m)
    np.add(beta2 * v, (1 - beta2) * np.square(g), out=v)
    denominator = np.sqrt(v) / math.sqrt(1 - math.pow(beta2, t)) + eps
    np.subtract(p, lr / (1 - math.pow(beta1, t)) * (m / denominator), out=p)
