"""What an answer is tried on: random arguments at which no known mistake hides.

All sizes differ and are above 1, scale is not 1, B is not 0, masks are on, some labels are ignored. Each function
returns the arguments by name, in order, for a generator and a dtype.
"""

import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.model.architectures import vit
from lora_np.model.batch import Batch
from lora_np.model.tree import parameters, with_arrays

VIT = {
    "model_type": "vit",
    "image_size": 6,
    "patch_size": 2,
    "num_channels": 2,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
GROUPS = ((0, 8, 2, 4), (8, 14, 2, 3))  # start, stop, n, T: two sequences of length 4, two of length 3


def sizes(rng, count):
    return rng.permutation([2, 3, 4, 5, 6, 7])[:count].tolist()


def drawn(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


def dropout(rng, dtype, *shape):
    return ops.dropout_mask(shape, 0.3, rng, dtype)


# For a backward: (inputs, fixed) of its forward.


def linear(rng, dtype):
    n, d_in, d_out = sizes(rng, 3)
    shapes = {"x": (n, d_in), "W": (d_in, d_out), "b": (d_out,)}
    return {name: drawn(rng, dtype, *shape) for name, shape in shapes.items()}, {}


def layer_norm(rng, dtype):
    n, d = sizes(rng, 1)[0], 5 + int(rng.integers(3))
    shapes = {"x": (n + 1, d), "gamma": (d,), "beta": (d,)}
    return {name: drawn(rng, dtype, *shape) for name, shape in shapes.items()}, {"eps": 1e-5}


def gelu(rng, dtype):
    return {"x": 2 * drawn(rng, dtype, *sizes(rng, 2))}, {}


def attention(rng, dtype):
    n, h, T, U, d = 2, 3, 4, 6, 5
    visible = rng.random((n, 1, T, U)) < 0.6
    visible[..., 0] = True
    inputs = {"Q": drawn(rng, dtype, n, h, T, d), "K": drawn(rng, dtype, n, h, U, d)}
    inputs["V"] = drawn(rng, dtype, n, h, U, 7)
    if rng.random() < 0.4:
        return inputs, {"visible": None, "mask": None}
    return inputs, {"visible": visible, "mask": dropout(rng, dtype, n, h, T, U)}


def cross_entropy(rng, dtype):
    n, classes = 6, 4
    labels = rng.integers(0, classes, n)
    labels[rng.integers(n)] = -100
    smoothing = {"label_smoothing": 0.2} if rng.random() < 0.5 else {}
    return {"logits": 1.5 * drawn(rng, dtype, n, classes)}, {"labels": labels, **smoothing}


def lora_linear(rng, dtype):
    """`lora_linear_forward` has W and b between its inputs; the forward of the exercise takes them by name."""
    n, d_in, d_out, r = sizes(rng, 4)
    inputs = {"x": drawn(rng, dtype, n, d_in), "A": drawn(rng, dtype, d_in, r), "B": drawn(rng, dtype, r, d_out)}
    fixed = {"W": drawn(rng, dtype, d_in, d_out), "b": drawn(rng, dtype, d_out), "scale": 1.7}
    return inputs, {**fixed, "mask": dropout(rng, dtype, n, d_in) if rng.random() < 0.6 else None}


# For any other function: its arguments.


def linear_call(rng, dtype):
    inputs = linear(rng, dtype)[0]
    return inputs if rng.random() < 0.7 else {**inputs, "b": None}


def layer_norm_call(rng, dtype):
    inputs, _ = layer_norm(rng, dtype)
    return {**inputs, "eps": 0.1}  # large, so that its place shows


def gelu_call(rng, dtype):
    return gelu(rng, dtype)[0]


def attention_call(rng, dtype):
    inputs, fixed = attention(rng, dtype)
    return {**inputs, **fixed}


def lora_call(rng, dtype):
    inputs, fixed = lora_linear(rng, dtype)
    order = ("x", "W", "b", "A", "B", "scale", "mask")
    return {name: {**inputs, **fixed}[name] for name in order}


def matrix_and_rank(rng, dtype):
    d_in, d_out = rng.permutation([6, 9])
    return {"W": drawn(rng, dtype, d_in, d_out), "r": int(rng.integers(2, 5))}


def matrix_and_error(rng, dtype):
    """Draw an error for which squares, and their root, matter: sums of singular values give another rank.

    Or one above 1, for which no rank is needed.
    """
    if rng.random() < 0.4:
        return {"W": drawn(rng, dtype, 5, 4), "error": float(rng.uniform(1.1, 2))}
    while True:
        d_in, d_out = rng.permutation([17, 22])
        W = drawn(rng, dtype, d_in, d_out) * (np.arange(1.0, d_out + 1) ** -rng.uniform(0.3, 2)).astype(dtype)
        s, error = np.linalg.svd(W, compute_uv=False), float(rng.uniform(0.05, 0.6))
        ranks = []
        for power, bound in ((2, error * error), (1, error), (2, error)):
            lost = np.append(np.cumsum(s[::-1] ** power)[::-1], 0)
            ranks.append(int(np.argmax(lost <= bound * lost[0])))
        ranks.append(int(np.argmax(np.append(s, 0) <= error * s[0])))  # as in the spectral norm
        if ranks[0] not in ranks[1:]:
            return {"W": W, "error": error}


def scalar_function(rng, dtype):
    a, b = drawn(rng, np.float64, 4, 3), drawn(rng, np.float64, 3)

    def function(x):
        return float(np.sum(np.tanh(3 * x * a) @ b) + 3 * np.sum(x**3) + 5 * np.sin(np.sum(x) / 4))  # entries meet

    return {"function": function, "x": drawn(rng, np.float64, 4, 3)}


def order(rng, dtype):
    return {"order": int(rng.choice([1, 2, 4, 6]))}


def softmax(rng, dtype):
    S = drawn(rng, dtype, *sizes(rng, 2))
    P = np.exp(S - S.max(axis=1, keepdims=True))
    return {"dP": drawn(rng, dtype, *S.shape), "P": P / P.sum(axis=1, keepdims=True)}


def init(rng, dtype):
    d_in, d_out, r = 40 + int(rng.integers(20)), 9, 4
    return {"d_in": d_in, "d_out": d_out, "r": r, "rng": np.random.default_rng(rng.integers(1000)), "dtype": dtype}


def adamw(rng, dtype):
    shape = sizes(rng, 2)
    p, g, m = (drawn(rng, dtype, *shape) for _ in range(3))
    hyper = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}
    return {"p": p, "g": g, "m": m, "v": drawn(rng, dtype, *shape) ** 2, "t": int(rng.integers(2, 9)), **hyper}


def adapters(rng, dtype):
    d_in, d_out = 7, 5
    ranks, scales = ((2, 3, 4), (3, 3, 3))[int(rng.integers(2))], (0.5, 1.7, 2.0)
    found = [(drawn(rng, dtype, d_in, r), drawn(rng, dtype, r, d_out), s) for r, s in zip(ranks, scales)]
    return {"adapters": found[: int(rng.integers(2, 4))]}


def counts(rng, dtype):
    total = int(rng.integers(50, 900))
    return {"correct": int(rng.integers(1, total)), "total": total}


def frozen_model(rng, dtype):
    return moved(vit(VIT, labels=3, rng=rng, dtype=dtype), rng)


def moved(model, rng):
    """Return a model off every special point: gammas are not 1, biases and B not 0."""
    new = {}
    for name, array in parameters(model).items():
        new[name] = (array + 0.2 * rng.standard_normal(array.shape)).astype(array.dtype)
        new[name].flags.writeable = array.flags.writeable
    return with_arrays(model, new)


def config(rng):
    rslora, targets = bool(rng.random() < 0.5), ["query", "value", "intermediate.dense"]
    return lnp.LoRAConfig(r=3, lora_alpha=5, target_modules=targets, lora_dropout=0.1, use_rslora=rslora)


def model(rng, dtype):
    base = frozen_model(rng, dtype)
    return {"model": lnp.inject(base, config(rng), rng) if rng.random() < 0.7 else base}


def inject(rng, dtype):
    seed = int(rng.integers(1000))
    return {"model": frozen_model(rng, dtype), "config": config(rng), "rng": np.random.default_rng(seed)}


def adapted(rng, dtype):
    return {"model": moved(lnp.inject(frozen_model(rng, dtype), config(rng), rng), rng)}


def nothing_to_merge(rng, dtype):
    return {"model": frozen_model(rng, dtype)}, "a model without an adapter has nothing to merge: raise a ValueError"


def patch_rows(rng, count):
    return [drawn(rng, np.float64, 9, 8) for _ in range(count)]


def train(rng, dtype):
    batches = [(Batch.of(patch_rows(rng, 4)), rng.integers(0, 3, 4)) for _ in range(4)]
    return {"model": adapted(rng, np.float64)["model"], "batches": batches, "lr": 0.02}


def block_call(rng, dtype):
    block = frozen_model(rng, dtype).layer[0]
    return {"block": block, "x": drawn(rng, dtype, 14, 12), "groups": GROUPS}


def block_back(rng, dtype):
    whole = frozen_model(rng, dtype)
    block = lnp.unfreeze(whole, [name for name in parameters(whole) if name.startswith("layer.0")]).layer[0]
    y, cache = block.forward(drawn(rng, dtype, 14, 12), GROUPS)
    return {"block": block, "dy": drawn(rng, dtype, *y.shape), "cache": cache}
