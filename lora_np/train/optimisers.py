"""AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2), written out as PyTorch does it.

One step, for each array p with gradient g:
    (1)  p <- p - lr * weight_decay * p                       decay, apart from the gradient
    (2)  m <- beta1 m + (1 - beta1) g                         running mean of g
    (3)  v <- beta2 v + (1 - beta2) g^2                       running mean of g^2
    (4)  p <- p - lr * mhat / (sqrt(vhat) + eps)              mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t): both
         start at zero
"""

import math

import numpy as np


class AdamW:
    """Steps the given arrays in place.

    Parameters
    ----------
    parameters : dict of str to array
        `lnp.parameters(model, trainable_only=True)`: the live arrays.
    lr : float
        Learning rate; may be set anew before each step.
    betas : tuple of two floats
    eps : float
    weight_decay : float

    Raises
    ------
    ValueError
        If there is nothing to train, an array is read-only, or a rate is out of range.
    """

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        frozen = [name for name, array in parameters.items() if not array.flags.writeable]
        if not parameters or frozen:
            raise ValueError(
                "AdamW needs trainable arrays, but"
                f" {'none were given' if not parameters else frozen[0] + ' is frozen (read-only)'}; pass"
                " lnp.parameters(model, trainable_only=True) of a model with an adapter or after unfreeze."
            )
        if not (lr >= 0 and eps > 0 and weight_decay >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(
                f"AdamW needs lr >= 0, eps > 0, weight_decay >= 0 and 0 <= beta < 1, but got {lr}, {eps},"
                f" {weight_decay} and {betas}."
            )
        self.parameters, self.lr, self.betas, self.eps, self.weight_decay = parameters, lr, betas, eps, weight_decay
        self.t = 0  # steps taken
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def step(self, grads):
        """Take one step along `grads`, which must name exactly the parameters."""
        if grads.keys() != self.parameters.keys():
            odd = sorted(grads.keys() ^ self.parameters.keys())
            raise ValueError(
                f"the gradients do not belong to the parameters of this optimiser: {', '.join(odd[:3])} is in one of"
                " them only."
            )
        self.t += 1
        for name, p in self.parameters.items():
            m, v = self.m[name], self.v[name]
            adamw_step(p, grads[name], m, v, self.t, self.lr, self.betas, self.eps, self.weight_decay)


def adamw_step(p, g, m, v, t, lr, betas, eps, weight_decay):
    """Step one array p and its running means m and v in place, along the gradient g; t counts the steps from 1."""
    beta1, beta2 = betas
    size = lr / (1.0 - beta1**t)
    root = 1.0 / math.sqrt(1.0 - beta2**t)
    p *= 1.0 - lr * weight_decay  # (1)
    m *= beta1  # (2)
    m += (1.0 - beta1) * g
    v *= beta2  # (3)
    v += (1.0 - beta2) * (g * g)
    p -= size * m / (np.sqrt(v) * root + eps)  # (4)
