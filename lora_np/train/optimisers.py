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

from lora_np.ops.fit import described, is_float, number


class NonFiniteLoss(ValueError):
    """The loss or a gradient is NaN or infinite; the parameters are still those of the last good step."""


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

    def __init__(
        self,
        parameters: dict[str, np.ndarray],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        if not isinstance(parameters, dict) or not all(map(is_real, parameters.values())):
            raise ValueError(
                "AdamW steps a dict of floating-point arrays by name, but it was given"
                f" {described(parameters)}; pass lnp.parameters(model, trainable_only=True)."
            )
        frozen = [name for name, array in parameters.items() if not array.flags.writeable]
        if not parameters or frozen:
            raise ValueError(
                "AdamW needs trainable arrays, but"
                f" {'none were given' if not parameters else frozen[0] + ' is frozen (read-only)'}; pass"
                " lnp.parameters(model, trainable_only=True) of a model with an adapter or after unfreeze."
            )
        self.parameters, self.lr, self.betas, self.eps, self.weight_decay = parameters, lr, betas, eps, weight_decay
        self._check_rates()
        self.t = 0  # steps taken
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def step(self, grads: dict[str, np.ndarray]) -> None:
        """Take one step along `grads`, which must name exactly the parameters.

        Raises
        ------
        ValueError
            If the gradients do not fit the parameters, or one is not finite (NonFiniteLoss). Nothing has been stepped
            then.
        """
        self._check_rates()
        self._check_gradients(grads)
        self.t += 1
        for name, p in self.parameters.items():
            m, v = self.m[name], self.v[name]
            adamw_step(p, grads[name], m, v, self.t, self.lr, self.betas, self.eps, self.weight_decay)

    def _check_rates(self):
        betas = self.betas if isinstance(self.betas, (tuple, list)) and len(self.betas) == 2 else (None, None)
        rates = (self.lr, self.eps, self.weight_decay, *betas)
        for name, value in zip(("lr", "eps", "weight_decay", "beta1", "beta2"), rates):
            value = number(name, value)
            if not 0 <= value < (1 if "beta" in name else math.inf) or (name == "eps" and value == 0):
                raise ValueError(
                    "AdamW needs finite numbers lr >= 0, eps > 0, weight_decay >= 0 and two betas, 0 <= beta < 1, but"
                    f" got lr {self.lr}, eps {self.eps}, weight_decay {self.weight_decay} and betas {self.betas}."
                )

    def _check_gradients(self, grads):
        if not isinstance(grads, dict):
            raise ValueError(f"step takes the dict that model.backward returns, but it was given {described(grads)}.")
        if grads.keys() != self.parameters.keys():
            odd = sorted(grads.keys() ^ self.parameters.keys())
            raise ValueError(
                f"the gradients do not belong to the parameters of this optimiser: {', '.join(odd[:3])} is in one of"
                " them only."
            )
        for name, p in self.parameters.items():
            if not is_real(grads[name]) or grads[name].shape != p.shape:
                raise ValueError(
                    f"the gradient of {name} must be floats of its shape, {p.shape}, but it is"
                    f" {described(grads[name])}; nothing has been stepped."
                )
            if not np.isfinite(grads[name]).all():
                raise NonFiniteLoss(
                    f"the gradient of {name} is not finite at step {self.t + 1}; try a lower learning rate than"
                    f" {self.lr}."
                )


def is_real(array):
    return is_float(array) and array.dtype.kind == "f"


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
