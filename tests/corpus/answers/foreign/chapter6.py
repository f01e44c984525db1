import math

import numpy as np
from corpus.entries import right_answer, wrong_answer

# adamw_step(p, g, m, v, t, lr, betas, eps, weight_decay)


@wrong_answer("adamw_step", cause=None)
def adamw_new_arrays(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Makes new arrays: the caller's stay as they are."
    p = (1 - lr * weight_decay) * p
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    p = p - lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p, m, v


@wrong_answer("adamw_step", cause=None)
def adamw_means_not_in_place(p, g, m, v, t, lr, betas, eps, weight_decay):
    "p changes, but the caller's m and v do not: right for the first step's p."
    p *= 1 - lr * weight_decay
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


@wrong_answer("adamw_step", cause="missing_term")
def adamw_without_decay(p, g, m, v, t, lr, betas, eps, weight_decay):
    "weight_decay is ignored."
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


@wrong_answer("adamw_step", cause="factor_order")
def adamw_decay_after_the_step(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Shrinks the stepped parameter, so the step shrinks as well."
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    p *= 1 - lr * weight_decay


@wrong_answer("adamw_step", cause="factor_order")
def adamw_as_adam(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Adam: the decay is added to the gradient."
    g = g + weight_decay * p
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def adamw_decay_without_rate(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The decay is not multiplied by the learning rate."
    p *= 1 - weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def adamw_not_corrected(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The means are not corrected."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause="wrong_cached_value", also=("inplace",))
def adamw_corrected_means_kept(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The corrected means are written back."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    m /= 1 - betas[0] ** t
    v /= 1 - betas[1] ** t
    p -= lr * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause="constant_factor")
def adamw_counts_from_zero(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Corrects for t + 1 steps."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** (t + 1)) / (np.sqrt(v / (1 - betas[1] ** (t + 1))) + eps)


@wrong_answer("adamw_step", cause=None)
def adamw_eps_under_the_root(p, g, m, v, t, lr, betas, eps, weight_decay):
    "eps stands under the root."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    p -= lr * m / (1 - betas[0] ** t) / np.sqrt(v / (1 - betas[1] ** t) + eps)


@wrong_answer("adamw_step", cause="factor_order")
def adamw_eps_before_the_correction(p, g, m, v, t, lr, betas, eps, weight_decay):
    "eps is added before the correction: it counts for more in the first steps."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)
    rate = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    p -= rate * m / (np.sqrt(v) + eps)


@wrong_answer("adamw_step", cause=None)
def adamw_usual_betas(p, g, m, v, t, lr, betas, eps, weight_decay):
    "0.9 and 0.999, whatever was given."
    p *= 1 - lr * weight_decay
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    p -= lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + eps)


@wrong_answer("adamw_step", cause="elementwise_factor")
def adamw_mean_of_absolute_values(p, g, m, v, t, lr, betas, eps, weight_decay):
    "v follows the absolute value, not the square, and the root is left out to match."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (np.abs(g) - v)
    p -= lr * m / (1 - betas[0] ** t) / (v / (1 - betas[1] ** t) + eps)


@wrong_answer("adamw_step", cause="inplace")
def adamw_squares_the_gradient(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The caller's g is squared in place."
    p *= 1 - lr * weight_decay
    m += (1 - betas[0]) * (g - m)
    g *= g
    v += (1 - betas[1]) * (g - v)
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


@wrong_answer("adamw_step", cause="wrong_cached_value")
def adamw_mean_of_before(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The step uses the means of before."
    p *= 1 - lr * weight_decay
    p -= lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)


@right_answer("adamw_step")
def adamw_decay_in_the_sum(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Decay and step are taken of the old p in one difference."
    b1, b2 = betas
    m[...] = b1 * m + (1 - b1) * g
    v[...] = b2 * v + (1 - b2) * g**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    p[...] = p - lr * weight_decay * p - lr * m_hat / (v_hat**0.5 + eps)


@right_answer("adamw_step")
def adamw_rate_and_eps_corrected(p, g, m, v, t, lr, betas, eps, weight_decay):
    "The correction goes into the rate, and into eps as well."
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (np.square(g) - v)
    root = math.sqrt(1 - betas[1] ** t)
    np.subtract(p, lr * weight_decay * p, out=p)
    np.subtract(p, lr * root / (1 - betas[0] ** t) * m / (np.sqrt(v) + eps * root), out=p)


@right_answer("adamw_step")
def adamw_entry_by_entry(p, g, m, v, t, lr, betas, eps, weight_decay):
    "A loop over the entries, in Python numbers."
    b1, b2 = betas
    for index in np.ndindex(p.shape):
        mi = b1 * float(m[index]) + (1 - b1) * float(g[index])
        vi = b2 * float(v[index]) + (1 - b2) * float(g[index]) ** 2
        step = lr * (mi / (1 - b1**t)) / (math.sqrt(vi / (1 - b2**t)) + eps)
        p[index] = float(p[index]) * (1 - lr * weight_decay) - step
        m[index], v[index] = mi, vi


@right_answer("adamw_step")
def adamw_copied_into(p, g, m, v, t, lr, betas, eps, weight_decay):
    "Computes new arrays in float64, and copies them into the old ones."
    P, G, M, V = (np.array(a, dtype=np.float64) for a in (p, g, m, v))
    M = np.average([M, G], axis=0, weights=[betas[0], 1 - betas[0]])
    V = np.average([V, G * G], axis=0, weights=[betas[1], 1 - betas[1]])
    P = P * (1 - lr * weight_decay) - lr * (M / (1 - betas[0] ** t)) / (np.sqrt(V / (1 - betas[1] ** t)) + eps)
    for old, new in ((p, P), (m, M), (v, V)):
        np.copyto(old, new, casting="same_kind")
