"""What the exercises rebuild and the package has under another name, or as part of something larger."""

import numpy as np

from lora_np.model.tree import parameters
from lora_np.ops import cross_entropy_backward, cross_entropy_forward
from lora_np.train.evaluate import wilson_interval
from lora_np.train.optimisers import AdamW


def numerical_gradient(function, x):
    """Return the gradient of function(x) -> float at an array x: four points for each entry, an error of order h^4."""
    gradient, h = np.zeros_like(x), 1e-3
    for index in np.ndindex(x.shape):
        values = []
        for k in (-2, -1, 1, 2):
            moved = x.copy()
            moved[index] += k * h
            values.append(function(moved))
        gradient[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return gradient


def choose_step(order):
    """Return the relative step of a formula of that order: its error h^order is that of rounding, eps / h."""
    return float(np.finfo(np.float64).eps) ** (1 / (order + 1))


def softmax_backward(dP, P):
    """Return dS for P = softmax of the rows of S: step (2) of `lora_np.ops.attention`."""
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


def train(model, batches, lr):
    """Take one AdamW step for each (batch, labels), and return the losses before the steps."""
    optimiser, losses = AdamW(parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


def combine_adapters(adapters):
    """Return A (d_in, r1 + r2 + ...) and B with A B the sum of scale_k A_k B_k: blocks side by side, no cross terms."""
    A = np.concatenate([A for A, _, _ in adapters], axis=1)
    return A, np.concatenate([scale * B for _, B, scale in adapters], axis=0)


def accuracy_interval(correct, total):
    """Return the 95 % interval of Wilson (1927) for a share of `correct` in `total` independent trials."""
    return wilson_interval(correct / total, total)
