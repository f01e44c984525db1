"""Answers that are not compared number by number: factors with the right product, a model, a random draw.

Each judge has the results, the right ones and the arguments, and yields (output, cause or None, sentence).
"""

import numpy as np

from lora_np.adapt.lora import LoRALinear
from lora_np.gradcheck.suspect import close
from lora_np.model.batch import Batch
from lora_np.model.nodes import Linear
from lora_np.model.tree import flatten, walk


def largest(a, b):
    return f"the largest difference is {np.max(np.abs(a - b)):.1e}"


def numbers_of_product(results):
    return dict.fromkeys("AB", results["A"] @ results["B"])


def numbers_of_block(results):
    grads = flatten(results["grads"])
    return {"dx": results["dx"], "grads": np.concatenate([grads[name].ravel() for name in sorted(grads)])}


def numbers_of_merged(results):
    return {"model": np.concatenate([node.W.ravel() for node in nodes(results["model"], Linear).values()])}


def product(given, right, arguments):
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
    elif mine.dtype != W.dtype:
        yield "A", "dtype", f"A @ B has the dtype {mine.dtype}, expected {W.dtype}, that of W"


def combined(given, right, arguments):
    A, B, wanted = given["A"], given["B"], right["A"] @ right["B"]
    if np.ndim(A) != 2 or np.ndim(B) != 2 or A.shape[1] != B.shape[0] or (A.shape[0], B.shape[1]) != wanted.shape:
        yield "A", "shape", f"A {np.shape(A)} and B {np.shape(B)} do not make a matrix {wanted.shape}"
    elif not close(A @ B, wanted, 1e-4 if wanted.dtype == np.float32 else 1e-9):
        yield "B", None, f"A @ B is not the sum of the scaled updates: {largest(A @ B, wanted)}"
    elif (A @ B).dtype != wanted.dtype:
        yield "A", "dtype", f"A @ B has the dtype {(A @ B).dtype}, expected {wanted.dtype}, that of the adapters"


def init(given, right, arguments):
    A, B = given["A"], given["B"]
    bound = 1 / np.sqrt(arguments["d_in"])
    shapes = (arguments["d_in"], arguments["r"]), (arguments["r"], arguments["d_out"])
    for (name, matrix), shape in zip(given.items(), shapes):
        if np.shape(matrix) != shape:
            yield name, "shape", f"{name} has the shape {np.shape(matrix)}, expected {shape}"
            return
        if np.asarray(matrix).dtype != arguments["dtype"]:
            yield name, "dtype", f"{name} has the dtype {matrix.dtype}, expected {np.dtype(arguments['dtype'])}"
    if np.any(B) and not np.any(A):
        yield "B", "swapped", "A is zero and B random; it is B that starts at zero"
    elif np.any(B):
        yield "B", "extra_term", "B is not zero, so the first output is not that of the base model"
    elif not np.any(A):
        yield "A", "zero_gradient", "A and B are both zero: then both have a gradient of zero, and nothing ever learns"
    elif np.max(np.abs(A)) > bound or np.max(np.abs(A)) < 0.8 * bound or np.mean(A < 0) < 0.3 or np.mean(A < 0) > 0.7:
        size = f"its entries lie between {A.min():.3f} and {A.max():.3f}"
        yield "A", "constant_factor", f"A is not drawn from U(-1/sqrt(d_in), 1/sqrt(d_in)) = +-{bound:.3f}: {size}"


def block(given, right, arguments):
    if isinstance(given["dx"], dict):
        yield "dx", "swapped", "it returns (grads, dx), expected (dx, grads)"
        return
    tolerance = 1e-4 if arguments["dy"].dtype == np.float32 else 1e-9
    if np.shape(given["dx"]) != right["dx"].shape or not close(given["dx"], right["dx"], tolerance):
        yield "dx", None, "dx is wrong: x goes two ways in each half of the block, and the two gradients are added"
    mine, wanted = flatten(given["grads"]), flatten(right["grads"])
    for name, gradient in wanted.items():
        if name not in mine:
            yield "grads", "zero_gradient", f"grads lacks {name}; it is nested like the block"
            return
        if mine[name] is None or np.shape(mine[name]) != gradient.shape or not close(mine[name], gradient, tolerance):
            yield "grads", None, f"grads: the gradient of {name} is wrong"
            return


def nodes(model, kind):
    return {path: node for path, node in walk(model) if isinstance(node, kind)}


def inject(given, right, arguments):
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
        elif np.any(own.B) and not np.any(own.A):
            yield "model", "swapped", f"{path}.A is zero and B random; it is B that starts at zero"
        elif np.any(own.B):
            yield "model", "extra_term", f"{path}.B is not zero, so the new model does not start from the base"
        elif (own.A.shape, own.B.shape) != (node.A.shape, node.B.shape):
            exchanged = own.A.shape == (node.B.shape[1], node.A.shape[1])
            cause = "transpose" if own.A.shape == node.A.shape[::-1] else "swapped" if exchanged else "shape"
            words = f"{path}.A has the shape {own.A.shape} and B {own.B.shape}"
            yield "model", cause, f"{words}, expected (d_in, r) = {node.A.shape} and (r, d_out) = {node.B.shape}"
        elif abs(own.scale / node.scale - 1) > 1e-6:
            formula = "lora_alpha / sqrt(r)" if arguments["config"].use_rslora else "lora_alpha / r"
            yield "model", "constant_factor", f"{path}.scale is {own.scale:g}, expected {formula} = {node.scale:g}"
        elif not np.any(own.A):
            yield "model", "zero_gradient", f"{path}.A is zero like B: then nothing ever learns"
        elif own.A.dtype != node.A.dtype or own.B.dtype != node.B.dtype:
            yield "model", "dtype", f"{path}.A has the dtype {own.A.dtype}, expected {node.A.dtype}, that of W"
        elif own.dropout != node.dropout:
            yield (
                "model",
                "mask_ignored",
                f"{path}.dropout is {own.dropout:g}, but the configuration says {node.dropout:g}",
            )
        elif own.hf != node.hf:
            yield "model", None, f"{path}.hf is {own.hf!r}, expected {node.hf!r}: hand on the node's own, for the files"
        elif any(other is not own and np.shares_memory(other.A, own.A) for other in mine.values()):
            yield "model", None, f"{path}.A is also that of another node; each needs its own"
        else:
            continue
        return
    yield from same_outputs(given, base, "the base model, as B is zero")
    if given.adapter != arguments["config"]:
        words = (
            "its .adapter is not the configuration, without which nobody can save it: dataclasses.replace(model, ...)"
        )
        yield "model", None, words


def same_outputs(model, other, whose):
    """Compare two models on a batch of images."""
    rng, dtype = np.random.default_rng(0), other.head.classifier.b.dtype
    batch = Batch.of([rng.standard_normal((9, 8)).astype(dtype) for _ in range(3)])
    mine, wanted = model.forward(batch)[0], other.forward(batch)[0]
    if not close(mine, wanted, 1e-4 if dtype == np.float32 else 1e-9):
        yield "model", "missing_term", f"its outputs are not those of {whose}: {largest(mine, wanted)}; is a bias lost?"


def merge(given, right, arguments):
    lora, given, right = arguments["model"], given["model"], right["model"]
    if not isinstance(given, type(lora)):
        yield "model", None, f"merge returns {type(given).__name__}, expected a new Transformer"
        return
    if not nodes(lora, LoRALinear):
        yield "model", "inplace", "the given model was changed; rebuild makes a new one"
        return
    if nodes(given, LoRALinear):
        path, node = next(iter(nodes(given, LoRALinear).items()))
        if np.array_equal(node.W, nodes(lora, LoRALinear)[path].W):
            yield "model", "missing_path", f"{path} still has its detour, and its W has not changed"
        else:
            yield "model", "extra_term", f"{path} still has its detour, so the update counts twice"
        return
    mine, wanted = nodes(given, Linear), nodes(right, Linear)
    for path, node in nodes(lora, LoRALinear).items():
        W, target = mine[path].W, wanted[path].W
        if W.dtype != target.dtype:
            yield "model", "dtype", f"{path}.W has the dtype {W.dtype}, expected {target.dtype}"
            return
        if W.shape != target.shape or not close(W, target, 1e-6 if W.dtype == np.float32 else 1e-12):
            update = node.A @ node.B
            square = update.shape[0] == update.shape[1]
            guesses = (
                ("constant_factor", "the scale is missing", node.W + update),
                ("constant_factor", "the scale is there twice", node.W + node.scale**2 * update),
                ("sign", "the update is subtracted", node.W - node.scale * update),
                ("missing_term", "it has not changed", node.W),
                ("missing_term", "W is missing, it is the update alone", node.scale * update),
                ("factor_order", "the scale multiplies W, too", node.scale * (node.W + update)),
                ("factor_order", "the scale multiplies W, and not the update", node.scale * node.W + update),
                ("transpose", "the update is transposed", node.W + node.scale * update.T if square else None),
            )
            fitting = [(c, f": {words}") for c, words, guess in guesses if guess is not None and close(W, guess, 1e-5)]
            cause, words = fitting[0] if fitting else (None, "")
            yield "model", cause, f"{path}.W is not W + scale * A B{words}"
            return
    yield from same_outputs(given, lora, "the adapted model")
    if given.adapter is not None:
        yield "model", None, "its .adapter is still there: dataclasses.replace(model, adapter=None), as nothing is left"


def train(given, right, arguments):
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
