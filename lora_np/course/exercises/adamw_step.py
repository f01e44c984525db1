"""Chapter 6: one step of AdamW."""

import numpy as np

from lora_np.course.draws import any_shape, drawn
from lora_np.train import optimisers

CHAPTER, PLACE, MINUTES, LEVEL = 6, 1, 15, "medium"
OUTPUTS = ("p", "m", "v")
CHANGES = ("p", "m", "v")
HINTS = (
    "The order: the decay of p, then m, then v, then the step of p. Do it in numbers first, as on paper.",
    "`m = 0.9 * m` makes a new array, and the caller never sees it. `m *= 0.9` writes into the old one.",
    "The means are divided by 1 - beta ** t for this step only: do not write that back into m and v.",
)
library = optimisers.adamw_step


def adamw_step(p, g, m, v, t, lr, betas, eps, weight_decay):
    """Step p and its means m and v in place, along the gradient g; t = 1, 2, ..."""
    beta1, beta2 = betas
    p *= 1.0 - lr * weight_decay
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    v += (1.0 - beta2) * g * g
    p -= lr * (m / (1.0 - beta1**t)) / (np.sqrt(v / (1.0 - beta2**t)) + eps)


BRANCHES = {
    "t is 1": lambda t, **_: t == 1,
    "t is above 1": lambda t, **_: t > 1,
    "weight_decay is 0": lambda weight_decay, **_: weight_decay == 0,
    "weight_decay is not 0": lambda weight_decay, **_: weight_decay > 0,
    "beta1 is 0": lambda betas, **_: betas[0] == 0,
    "g and v are 0 in an entry": lambda g, v, **_: bool(((g == 0) & (v == 0)).any()),
    "p has one axis": lambda p, **_: p.ndim == 1,
    "p has two axes": lambda p, **_: p.ndim == 2,
    "p has three axes or more": lambda p, **_: p.ndim > 2,
}


def draw(rng, dtype, trial):
    shape = any_shape(rng, trial)
    p, g, m, v = (drawn(rng, dtype, *shape) for _ in range(4))
    v *= v
    if trial == 1:  # the chapter's first step
        p, g, m, v = (np.array([number], dtype) for number in (1, 2, 0, 0))
    if trial == 4:  # what has never had a gradient stays where it is
        g.reshape(-1)[0] = m.reshape(-1)[0] = v.reshape(-1)[0] = 0
    t = {1: 1, 3: 1, 4: 5000}.get(trial, int(rng.integers(2, 9)))
    lr, betas, eps, weight_decay = {
        1: (0.1, (0.9, 0.999), 1e-8, 0.0),
        2: (0.02, (0.0, 0.9), 1e-3, 0.0),
        3: (0.02, (0.8, 0.7), 1e-3, 0.1),
        4: (1.0, (0.9, 0.99), 1e-8, 0.5),
    }.get(trial, (0.02, (0.9, 0.99), 1e-3, 0.1))  # so large that their places show
    rates = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return {"p": p, "g": g, "m": m, "v": v, "t": t, **rates}


SLIPS = """
swapped: the two betas are exchanged: m has beta1, v has beta2
    beta1, beta2 = betas => beta2, beta1 = betas
constant_factor: the betas are given; here they are always 0.9 and 0.999
    = betas => = 0.9, 0.999
constant_factor: eps is given; here it is always 1e-8
    + eps) => + 1e-8)
constant_factor: weight_decay is given; here it is always 0.01
    lr * weight_decay => lr * 0.01
wrong_cached_value: v has beta1; it has beta2
    v *= beta2 => v *= beta1
    v += (1.0 - beta2) * g * g => v += (1.0 - beta1) * g * g
constant_factor: m and v are not divided by 1 - beta ** t
    (m / (1.0 - beta1**t)) => m
    v / (1.0 - beta2**t) => v
constant_factor: m is not divided by 1 - beta1 ** t
    (m / (1.0 - beta1**t)) => m
constant_factor: v is not divided by 1 - beta2 ** t
    v / (1.0 - beta2**t) => v
constant_factor: m and v are multiplied by 1 - beta ** t; divide by it
    (m / (1.0 - beta1**t)) => m * (1.0 - beta1**t)
    v / (1.0 - beta2**t) => v * (1.0 - beta2**t)
wrong_cached_value: v is divided by 1 - beta1 ** t; its own beta is beta2
    1.0 - beta2**t => 1.0 - beta1**t
constant_factor: the correction is 1 - beta ** t; the power is missing
    beta1**t => beta1
    beta2**t => beta2
constant_factor: the correction is 1 - beta ** t, not 1 - beta * t
    1**t => 1 * t
    2**t => 2 * t
constant_factor: t counts the steps from 1; here the power is t - 1
    **t => **(t - 1)
constant_factor: t counts the steps from 1 already; here the power is t + 1
    **t => **(t + 1)
inplace: the corrected means are for this step only; m and v keep what they are without the correction
    p -= lr * => m /= 1.0 - beta1**t; v /= 1.0 - beta2**t; p -= lr *
    (m / (1.0 - beta1**t)) => m
    v / (1.0 - beta2**t) => v
factor_order: eps is added to the root, not under it
    (np.sqrt(v / (1.0 - beta2**t)) + eps) => np.sqrt(v / (1.0 - beta2**t) + eps)
factor_order: eps is added after v has been corrected, not before
    (np.sqrt(v / (1.0 - beta2**t)) + eps) => ((np.sqrt(v) + eps) / np.sqrt(1.0 - beta2**t))
factor_order: eps is added to v under the root, before the correction
    (np.sqrt(v / (1.0 - beta2**t)) + eps) => np.sqrt((v + eps) / (1.0 - beta2**t))
missing_term: eps is missing
    + eps) => )
elementwise_factor: the root of v is missing
    (np.sqrt(v / (1.0 - beta2**t)) + eps) => (v / (1.0 - beta2**t) + eps)
elementwise_factor: m is not divided by the root of v
    / (np.sqrt(v / (1.0 - beta2**t)) + eps) =>
factor_order: the decay is added to the gradient, as in Adam with L2; AdamW shrinks p by itself
    p *= 1.0 - lr * weight_decay => g = g + weight_decay * p
constant_factor: the decay lacks lr: p *= 1 - lr * weight_decay
    lr * weight_decay => weight_decay
missing_term: the weight decay is missing
    p *= 1.0 - lr * weight_decay => pass
extra_term: the decay is there twice
    p *= 1.0 - lr * weight_decay => p *= (1.0 - lr * weight_decay) ** 2
sign: the decay makes p larger; it shrinks it
    1.0 - lr * weight => 1.0 + lr * weight
constant_factor: the decay leaves lr * weight_decay of p; it leaves 1 - lr * weight_decay
    1.0 - lr * weight => lr * weight
factor_order: the decay comes after the step and shrinks that, too; it comes first
    p *= 1.0 - lr * weight_decay => pass
    (np.sqrt(v / (1.0 - beta2**t)) + eps) => (np.sqrt(v / (1.0 - beta2**t)) + eps); p *= 1.0 - lr * weight_decay
constant_factor: m has beta1 times the old and 1 - beta1 times the new; the second factor is missing
    m += (1.0 - beta1) * g => m += g
constant_factor: v has beta2 times the old and 1 - beta2 times the new; the second factor is missing
    v += (1.0 - beta2) * g * g => v += g * g
constant_factor: the new part of m and v lacks 1 - beta
    m += (1.0 - beta1) * g => m += g
    v += (1.0 - beta2) * g * g => v += g * g
constant_factor: the old part of m lacks beta1
    m *= beta1 => pass
constant_factor: the old part of v lacks beta2
    v *= beta2 => pass
swapped: beta weighs the old mean and 1 - beta the new gradient; here it is the other way round
    = betas => = 1 - betas[0], 1 - betas[1]
swapped: beta weighs the old mean and 1 - beta the new gradient; here it is the other way round
    m *= beta1 => m *= 1 - beta1
    m += (1.0 - beta1) * g => m += beta1 * g
    v *= beta2 => v *= 1 - beta2
    v += (1.0 - beta2) * g * g => v += beta2 * g * g
elementwise_factor: v is the mean of g squared; the square is missing
    * g * g => * g
elementwise_factor: v is the mean of g squared; here it is that of the absolute value
    * g * g => * np.abs(g)
elementwise_factor: 1 - beta2 is squared with g; the square is of g alone
    v += (1.0 - beta2) * g * g => v += (1.0 - beta2) * g * g * (1 - beta2)
wrong_cached_value: v is the mean of g squared, not of m squared
    * g * g => * m * m
sign: the step goes uphill: p -= ...
    p -= lr * => p += lr *
constant_factor: the step lacks lr
    p -= lr * => p -=
wrong_cached_value: the step goes along m, not along g
    (m / (1.0 - beta1**t)) => g
reduction_axis: v is one number for all entries; each entry has its own
    * g * g => * np.mean(g * g)
factor_order: m is used for the step before g enters it
    m *= beta1 => old = m.copy(); m *= beta1
    (m / (1.0 - beta1**t)) => (old / (1.0 - beta1**t))
factor_order: v is used for the step before g enters it
    v *= beta2 => old = v.copy(); v *= beta2
    v / (1.0 - beta2**t) => old / (1.0 - beta2**t)
"""
