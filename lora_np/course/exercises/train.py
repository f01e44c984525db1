"""Chapter 6: the loop, one step a batch."""

import numpy as np

import lora_np as lnp
from lora_np.course.findings import Finding
from lora_np.course.models import adapted_model, frozen_model, patch_rows, trained
from lora_np.gradcheck import close

CHAPTER, PLACE, MINUTES, LEVEL = 6, 3, 10, "easy"
OUTPUTS = ("losses", "model")
CHANGES = ("model",)
HINTS = (
    "The optimiser is made once, before the loop: it must remember m and v from step to step.",
    "In the loop each call needs what another one returns: find the one that needs only the batch, and begin there.",
    "Forward gives logits and a cache, the loss needs the logits, the backward both caches, the step its gradients.",
)


def train(model, batches, lr):
    """Take one AdamW step for each (batch, labels), and return the list of losses."""
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


BRANCHES = {
    "an adapter is trained": lambda model, **_: any(name.endswith(".A") for name in trained(model)),
    "no adapter is trained": lambda model, **_: not any(name.endswith(".A") for name in trained(model)),
    "the head alone is trained": lambda model, **_: all(name.startswith("head") for name in trained(model)),
    "everything is trained": lambda model, **_: len(trained(model)) == len(lnp.parameters(model)),
    "there is one batch": lambda batches, **_: len(batches) == 1,
    "the batches differ in size": lambda batches, **_: len({len(labels) for _, labels in batches}) > 1,
    "a batch has one image": lambda batches, **_: any(len(labels) == 1 for _, labels in batches),
    "a batch comes twice": lambda batches, **_: len({id(batch) for batch, _ in batches}) < len(batches),
}


def draw(rng, dtype, trial):
    model = adapted_model(rng, dtype, trial)
    if trial in (1, 3):
        model = lnp.unfreeze(frozen_model(rng, dtype), "head" if trial == 1 else "all")
    counts = {0: (4, 4, 4, 4), 2: (3, 5, 2), 3: (4, 1), 4: (5,)}.get(trial, (2, 3, 1, 2, 2))
    batches = [(lnp.Batch.of(patch_rows(rng, n, dtype)), rng.integers(0, 3, n)) for n in counts]
    if trial == 2:
        batches.append(batches[0])
    return {"model": model, "batches": batches, "lr": (0.02, 0.1, 0.005, 0.01, 0.02, 0.03)[trial]}


def numbers(results):
    return {"losses": np.asarray(results["losses"], float)}


KINDS = {
    "model": (
        "missing_term",
        "the losses are right, but the model is not the trained one: a step belongs to the last batch, too, and all"
        " steps to the given model's own arrays, not to those of a copy",
    ),
    "count": ("shape", "train returns {given} losses, expected one for each of {expected} batches"),
    "float": ("dtype", "a loss is {given}, expected a Python float: float(loss)"),
    "first": (None, "the loss before any step is {given:.6f}, expected {expected:.6f}"),
    "later": (None, "the loss after {steps} is {given:.6f}, expected {expected:.6f}"),
}


def judge(given, right, arguments):
    if other := [loss for loss in np.atleast_1d(np.array(given["losses"], object)) if not isinstance(loss, float)]:
        yield Finding("float", "losses", {"given": type(other[0]).__name__})
    mine, wanted = (np.concatenate([p.ravel() for p in trained(r["model"]).values()]) for r in (given, right))
    given, right = np.asarray(given["losses"], float), np.asarray(right["losses"])
    if given.shape != right.shape:
        yield Finding("count", "losses", {"given": given.size, "expected": len(right)})
    tolerance = 1e-3 if arguments["model"].head.classifier.W.dtype == np.float32 else 1e-6
    if not close(given, right, tolerance):
        k = int(np.argmax(~(np.abs(given - right) <= tolerance * np.abs(right))))
        values = {"steps": f"{k} step{'s' * (k > 1)}", "given": given[k], "expected": right[k]}
        yield Finding("later" if k else "first", "losses", values)
    if not close(mine, wanted, tolerance):
        yield Finding("model", "model")


SLIPS = """
mean_vs_sum: the loss is a sum over the batch; cross_entropy_forward's mean is asked for
    (logits, labels) => (logits, labels, reduction="sum")
sign: the gradients are those of minus the loss: the steps go uphill
    backward(1.0, c) => backward(-1.0, c)
constant_factor: the upstream number of the loss is 1.0, not the loss itself
    backward(1.0, c) => backward(float(loss), c)
constant_factor: lr is not handed to AdamW
    lr=lr) => lr=1e-3)
constant_factor: lr is not handed to AdamW
    lr=lr) => lr=1e-2)
constant_factor: lr is not handed to AdamW
    lr=lr) => lr=1e-4)
missing_term: weight_decay is 0; leave AdamW's own
    lr=lr) => lr=lr, weight_decay=0.0)
not_accumulated: a new AdamW for each batch has forgotten its running means; make one before the loop
    logits, cache = => optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr); logits, cache =
other: plain gradient descent, p -= lr * g; AdamW is asked for
    optimiser.step( => g = (
    losses.append( => [p.__isub__(lr * g[name]) for name, p in lnp.parameters(model, True).items()]; losses.append(
other: no step is taken between the losses; one belongs to each batch
    optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache)) => pass
other: the loss is that after the step; take it before
    losses.append(float(loss)) => losses.append(float(lnp.cross_entropy_forward(model.forward(batch)[0], labels)[0]))
extra_term: two steps are taken for each batch
    optimiser.step( => g = (
    losses.append( => optimiser.step(g); optimiser.step(g); losses.append(
other: a step is taken on the first batch only
    optimiser.step( => losses or optimiser.step(
other: the learning rate shrinks from step to step; it is lr at each
    losses.append( => optimiser.lr *= 1 - 1 / len(batches); losses.append(
"""
