"""What an answer is tried on: random arguments at which no known mistake hides.

All sizes differ and are above 1, scale is not 1, B is not 0, masks are on, some labels are ignored. Each function
returns the arguments by name, in order, for a generator and a dtype. The judges compare what a plain comparison cannot.
"""

import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.gradcheck.suspect import close
from lora_np.lora import LoRALinear
from lora_np.model.batch import Batch
from lora_np.model.build import vit
from lora_np.model.nodes import Linear
from lora_np.model.tree import flatten, parameters, walk, with_arrays

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
    return inputs, {"visible": visible, "mask": dropout(rng, dtype, n, h, T, U)}


def cross_entropy(rng, dtype):
    n, classes = 6, 4
    labels = rng.integers(0, classes, n)
    labels[rng.integers(n)] = -100
    return {"logits": 1.5 * drawn(rng, dtype, n, classes)}, {"labels": labels}


def lora_linear(rng, dtype):
    """`lora_linear_forward` has W and b between its inputs; the forward of the exercise takes them by name."""
    n, d_in, d_out, r = sizes(rng, 4)
    inputs = {"x": drawn(rng, dtype, n, d_in), "A": drawn(rng, dtype, d_in, r), "B": drawn(rng, dtype, r, d_out)}
    fixed = {"W": drawn(rng, dtype, d_in, d_out), "b": drawn(rng, dtype, d_out), "scale": 1.7}
    return inputs, {**fixed, "mask": dropout(rng, dtype, n, d_in)}


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
    d_in, d_out = rng.permutation([7, 10])
    decay = (0.6 ** np.arange(d_out)).astype(dtype)
    return {"W": drawn(rng, dtype, d_in, d_out) * decay, "error": float(rng.uniform(0.05, 0.6))}


def scalar_function(rng, dtype):
    a, b = drawn(rng, np.float64, 4, 3), drawn(rng, np.float64, 3)

    def function(x):
        return float(np.sum(np.tanh(x * a) @ b) + 0.3 * np.sum(x**3))

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
    ranks, scales = (2, 3, 4), (0.5, 1.7, 2.0)
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
    return lnp.LoRAConfig(r=3, lora_alpha=5, target_modules=["query", "value", "intermediate.dense"])


def model(rng, dtype):
    base = frozen_model(rng, dtype)
    return {"model": lnp.inject(base, config(rng), rng) if rng.random() < 0.7 else base}


def inject(rng, dtype):
    seed = int(rng.integers(1000))
    return {"model": frozen_model(rng, dtype), "config": config(rng), "rng": np.random.default_rng(seed)}


def adapted(rng, dtype):
    return {"model": moved(lnp.inject(frozen_model(rng, dtype), config(rng), rng), rng)}


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


# What is compared in another way than number by number. Each yields (output, cause or None, sentence).


def largest(a, b):
    return f"the largest difference is {np.max(np.abs(a - b)):.1e}"


def judge_product(given, right, arguments):
    """Any two factors of the right sizes will do, if their product is right."""
    W, r = arguments["W"], arguments["r"]
    shapes = (W.shape[0], r), (r, W.shape[1])
    for (name, matrix), shape in zip(given.items(), shapes):
        if np.shape(matrix) != shape:
            yield name, "shape", f"{name} has the shape {np.shape(matrix)}, expected {shape}"
            return
    mine, best = (result["A"] @ result["B"] for result in (given, right))
    if not close(mine, best, 1e-4 if W.dtype == np.float32 else 1e-9):
        yield "A", None, f"A @ B is not the best approximation of rank {r}: {largest(mine, best)}"


def judge_combined(given, right, arguments):
    A, B, wanted = given["A"], given["B"], right["A"] @ right["B"]
    if np.ndim(A) != 2 or np.ndim(B) != 2 or A.shape[1] != B.shape[0] or (A.shape[0], B.shape[1]) != wanted.shape:
        yield "A", "shape", f"A {np.shape(A)} and B {np.shape(B)} do not make a matrix {wanted.shape}"
    elif not close(A @ B, wanted, 1e-4 if wanted.dtype == np.float32 else 1e-9):
        found = arguments["adapters"]
        plain = sum(a @ b for a, b, _ in found)
        words = ": the scales are missing" if close(A @ B, plain, 1e-5) else f": {largest(A @ B, wanted)}"
        cause = "elementwise_factor" if close(A @ B, plain, 1e-5) else None
        yield "B", cause, f"A @ B is not the sum of the scaled updates{words}"


def judge_init(given, right, arguments):
    A, B = given["A"], given["B"]
    bound = 1 / np.sqrt(arguments["d_in"])
    shapes = (arguments["d_in"], arguments["r"]), (arguments["r"], arguments["d_out"])
    for (name, matrix), shape in zip(given.items(), shapes):
        if np.shape(matrix) != shape:
            yield name, "shape", f"{name} has the shape {np.shape(matrix)}, expected {shape}"
            return
        if np.asarray(matrix).dtype != arguments["dtype"]:
            yield name, "dtype", f"{name} has the dtype {matrix.dtype}, expected {np.dtype(arguments['dtype'])}"
    if np.any(B):
        yield "B", "extra_term", "B is not zero, so the first output is not that of the base model"
    if not np.any(A):
        yield "A", "zero_gradient", "A and B are both zero: then both have a gradient of zero, and nothing ever learns"
    elif np.max(np.abs(A)) > bound or np.max(np.abs(A)) < 0.8 * bound or np.mean(A < 0) < 0.3 or np.mean(A < 0) > 0.7:
        size = f"its entries lie between {A.min():.3f} and {A.max():.3f}"
        yield "A", "constant_factor", f"A is not drawn from U(-1/sqrt(d_in), 1/sqrt(d_in)) = +-{bound:.3f}: {size}"


def judge_block(given, right, arguments):
    tolerance = 1e-4 if arguments["dy"].dtype == np.float32 else 1e-9
    if np.shape(given["dx"]) != right["dx"].shape or not close(given["dx"], right["dx"], tolerance):
        yield "dx", None, "dx is wrong: x goes two ways in each half of the block, and the two gradients are added"
    mine, wanted = flatten(given["grads"]), flatten(right["grads"])
    for name, gradient in wanted.items():
        if name not in mine:
            yield "grads", "missing_path", f"grads lacks {name}; it is nested like the block"
            return
        if mine[name] is None or np.shape(mine[name]) != gradient.shape or not close(mine[name], gradient, tolerance):
            yield "grads", None, f"grads: the gradient of {name} is wrong"
            return


def nodes(model, kind):
    return {path: node for path, node in walk(model) if isinstance(node, kind)}


def judge_inject(given, right, arguments):
    base, given, right = arguments["model"], given["model"], right["model"]
    if not isinstance(given, type(base)):
        yield "model", None, f"inject returns {type(given).__name__}, expected a new Transformer"
        return
    mine, wanted = nodes(given, LoRALinear), nodes(right, LoRALinear)
    if nodes(base, LoRALinear):
        yield "model", "inplace", "the given model was changed; rebuild makes a new one"
    elif mine.keys() != wanted.keys():
        odd = sorted(mine.keys() ^ wanted.keys())
        yield "model", "missing_path", f"the adapted nodes are not those of the configuration: look at {odd[0]}"
    for path, node in wanted.items() if mine.keys() == wanted.keys() else ():
        own = mine[path]
        if not np.shares_memory(own.W, node.W):
            yield "model", "inplace", f"{path}.W is a copy; the frozen weight is shared with the base model"
        elif np.any(own.B):
            yield "model", "extra_term", f"{path}.B is not zero, so the new model does not start from the base"
        elif own.A.shape != node.A.shape:
            yield "model", "shape", f"{path}.A has the shape {own.A.shape}, expected {node.A.shape}"
        elif abs(own.scale / node.scale - 1) > 1e-6:
            yield "model", "constant_factor", f"{path}.scale is {own.scale:g}, expected lora_alpha / r = {node.scale:g}"
        elif not np.any(own.A):
            yield "model", "zero_gradient", f"{path}.A is zero like B: then nothing ever learns"
        else:
            continue
        return


def judge_merge(given, right, arguments):
    lora, given, right = arguments["model"], given["model"], right["model"]
    if not isinstance(given, type(lora)):
        yield "model", None, f"merge returns {type(given).__name__}, expected a new Transformer"
        return
    if not nodes(lora, LoRALinear):
        yield "model", "inplace", "the given model was changed; rebuild makes a new one"
        return
    if nodes(given, LoRALinear):
        yield "model", "missing_path", f"{next(iter(nodes(given, LoRALinear)))} still has its detour"
        return
    mine, wanted = nodes(given, Linear), nodes(right, Linear)
    for path, node in nodes(lora, LoRALinear).items():
        W, target = mine[path].W, wanted[path].W
        if W.dtype != target.dtype:
            yield "model", "dtype", f"{path}.W has the dtype {W.dtype}, expected {target.dtype}"
            return
        if W.shape != target.shape or not close(W, target, 1e-6 if W.dtype == np.float32 else 1e-12):
            update = node.A @ node.B
            causes = {
                "constant_factor": node.W + update,
                "sign": node.W - node.scale * update,
                "missing_term": node.W,
            }
            cause = next((c for c, guess in causes.items() if W.shape == guess.shape and close(W, guess, 1e-5)), None)
            words = {"constant_factor": ": the scale is missing", "missing_term": ": it has not changed"}
            yield "model", cause, f"{path}.W is not W + scale * A B{words.get(cause, '')}"
            return


def judge_train(given, right, arguments):
    given, right = given["losses"], np.asarray(right["losses"])
    losses = np.asarray(given, float) if given is not None else np.zeros(0)
    if losses.shape != right.shape:
        yield "losses", "shape", f"train returns {losses.size} losses, expected one for each of {len(right)} batches"
    elif not close(losses, right, 1e-6):
        k = int(np.argmax(np.abs(losses - right) > 1e-6 * np.abs(right)))
        first = "the loss before any step" if k == 0 else f"the loss after step {k}"
        same = k > 0 and np.allclose(losses[k:], losses[0])
        words = "; was a step taken?" if same else ""
        yield "losses", None, f"{first} is {losses[k]:.6f}, expected {right[k]:.6f}{words}"
