"""Answers to the exercises of chapter 6, second part: a training loop."""

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np import ops
from lora_np.train.optimisers import adamw_step


@wrong_answer("train", cause=None)
def loss_after_the_step(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        _, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(ops.cross_entropy_forward(model.forward(batch)[0], labels)[0]))
    return losses


@wrong_answer("train", cause=None, also=("not_accumulated",))
def optimiser_made_anew(model, batches, lr):
    losses = []
    for batch, labels in batches:
        optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr)
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def plain_gradient_descent(model, batches, lr):
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        grads = model.backward(ops.cross_entropy_backward(1.0, c), cache)
        for name, p in lnp.parameters(model, trainable_only=True).items():
            p -= lr * grads[name]
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="mean_vs_sum")
def summed_losses(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels, reduction="sum")
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def everything_trained(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None, also=("shape",))
def last_loss_only(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr)
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
    return float(loss)


@wrong_answer("train", cause=None)
def no_step_taken(model, batches, lr):
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        model.backward(ops.cross_entropy_backward(1.0, c), cache)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="constant_factor")
def own_learning_rate(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=1e-3), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="missing_term")
def no_weight_decay(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr, weight_decay=0.0)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="mean_vs_sum", also=("shape",))
def mean_of_the_losses(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return [sum(losses) / len(losses)]


@wrong_answer("train", cause="sign")
def gradients_uphill(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(-ops.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause="constant_factor")
def loss_as_upstream(model, batches, lr):
    optimiser, losses = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(ops.cross_entropy_backward(float(loss), c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def one_step_for_all(model, batches, lr):
    optimiser, losses, total = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr), [], None
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        grads = model.backward(ops.cross_entropy_backward(1.0, c), cache)
        total = grads if total is None else {name: total[name] + g for name, g in grads.items()}
        losses.append(float(loss))
    optimiser.step(total)
    return losses


@right_answer("train")
def steps_written_out(model, batches, lr):
    live = lnp.parameters(model, trainable_only=True)
    m, v = ({name: np.zeros_like(p) for name, p in live.items()} for _ in range(2))
    losses = []
    for t, (batch, labels) in enumerate(batches, start=1):
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        losses.append(loss.item())
        grads = model.backward(ops.cross_entropy_backward(1.0, c), cache)
        for name in live:
            adamw_step(live[name], grads[name], m[name], v[name], t, lr, (0.9, 0.999), 1e-8, 0.01)
    return losses


@right_answer("train")
def loss_by_hand(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr)

    def one(batch, labels):
        logits, cache = model.forward(batch)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(p[rows, labels]).mean()
        p[rows, labels] -= 1
        optimiser.step(model.backward(p / len(labels), cache))
        return loss.item()

    return [one(*pair) for pair in batches]


@right_answer("train")
def step_with_the_defaults_spelt_out(model, batches, lr):
    trainable = {name: lnp.parameters(model)[name] for name in lnp.parameters(model, True)}
    optimiser = lnp.AdamW(trainable, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = [0.0] * len(batches)
    for k in range(len(batches)):
        batch, labels = batches[k]
        logits, cache = model.forward(batch)
        loss, c = ops.cross_entropy_forward(logits, labels)
        losses[k] = float(loss)
        grads = model.backward(ops.cross_entropy_backward(1, c), cache)
        optimiser.step(dict(reversed(grads.items())))
    return losses
