"""AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2), written out as PyTorch does it.

One step, for each array p with gradient g:
    (1)  p <- p - lr * weight_decay * p                       decay, apart from the gradient
    (2)  m <- beta1 m + (1 - beta1) g                         running mean of g
    (3)  v <- beta2 v + (1 - beta2) g^2                       running mean of g^2
    (4)  p <- p - lr * mhat / (sqrt(vhat) + eps)              mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t): both
         start at zero

LoRA+ (Hayou et al. 2024, arXiv:2402.12354) lets B learn faster than A, by a factor of about 16. (4) moves each number
by about lr, whatever its gradient. W moves by scale * (dA B + A dB), and the paper asks, in the limit of wide layers,
that both terms change the outputs by as much as these are: the rate of A has to fall with the width, that of B has not.

    >>> import numpy as np
    >>> import lora_np as lnp
    >>> lora = lnp.inject(lnp.load_pretrained("digits"), lnp.LoRAConfig(), np.random.default_rng(0))
    >>> optimiser = AdamW(lnp.parameters(lora, trainable_only=True), lr=1e-3, lr_factors={"B": 16})
    >>> optimiser.rate("layer.0.attention.query.B")
    0.016
    >>> optimiser.lr = 5e-4  # a schedule sets lr; the factors multiply whatever it says
    >>> optimiser.rate("layer.0.attention.query.B"), optimiser.rate("layer.0.attention.query.A")
    (0.008, 0.0005)

PEFT's `create_loraplus_optimizer(loraplus_lr_ratio=16)` gives 16 times the rate to B and to every vector (a bias,
DoRA's m): `lr_factors={"B|b|m|gamma|beta": 16}`. It decays matrices alone, and nothing unless told to.
"""

import math

import numpy as np

from lora_np.adapt.config import check_names
from lora_np.adapt.targets import by_pattern, ends
from lora_np.model.tree import nearest
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
    lr_factors : dict, optional
        Name, or regular expression for the end of a name ("B", "query.B", r"head\\..*"), as in LoRA's rank_pattern ->
        what lr is multiplied by for those arrays, in (1) and in (4). The first pattern that matches counts.

    Raises
    ------
    ValueError
        If there is nothing to train, an array is read-only, a rate is out of range, or a pattern matches nothing or
        only what those before it do.
    """

    def __init__(
        self,
        parameters: dict[str, np.ndarray],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        lr_factors: dict[str, float] | None = None,
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
        self.factors = factors_of(list(parameters), {} if lr_factors is None else lr_factors)
        self.t = 0  # steps taken
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def rate(self, name: str) -> float:
        """Return the learning rate of an array by its name."""
        return self.lr * self.factors[name]

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
            adamw_step(p, grads[name], m, v, self.t, self.rate(name), self.betas, self.eps, self.weight_decay)

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


def factors_of(names, patterns):
    """Return {name: its factor}: what the first pattern says that matches the end of the name, else 1."""
    if not isinstance(patterns, dict) or not all(isinstance(key, str) for key in patterns):
        raise ValueError(
            f'lr_factors must be a dict of factors by name, such as {{"B": 16}}, but it is {patterns!r:.60}.'
        )
    for key, factor in patterns.items():
        check_names(f"the key {key!r} of lr_factors", key)
        if not 0 < number(f"lr_factors[{key!r}]", factor) < math.inf:
            raise ValueError(
                f"lr_factors[{key!r}] must be a finite number above 0, but it is {factor!r}; what is not to be trained,"
                " freeze (lnp.freeze)."
            )
    chosen = {name: by_pattern({key: key for key in patterns}, (name,), None) for name in names}
    for key in (key for key in patterns if key not in chosen.values()):
        if any(by_pattern({key: True}, (name,), False) for name in names):
            raise ValueError(f"lr_factors: what {key!r} matches, a pattern before it matches already; put it first.")
        raise ValueError(f"lr_factors: {key!r} matches nothing; {nearest(key, ends(dict.fromkeys(names, ())))}")
    return {name: float(patterns.get(key, 1.0)) for name, key in chosen.items()}


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
