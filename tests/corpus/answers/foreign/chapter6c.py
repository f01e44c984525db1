import copy

from corpus.entries import right_answer, wrong_answer

import lora_np as lnp

# train(model, batches, lr)


@wrong_answer("train", cause=None)
def train_optimiser_in_the_loop(model, batches, lr):
    "A new optimiser for each batch: it remembers nothing."
    losses = []
    for batch, labels in batches:
        optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_without_step(model, batches, lr):
    "No step is taken."
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        model.backward(lnp.cross_entropy_backward(1.0, c), cache)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_numpy_losses(model, batches, lr):
    "The losses are NumPy numbers, not Python floats."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(loss)
    return losses


@wrong_answer("train", cause=None)
def train_usual_rate(model, batches, lr):
    "lr is ignored."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=5e-3)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_without_weight_decay(model, batches, lr):
    "The weight decay is switched off, which is not the default."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr, weight_decay=0.0)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_all_parameters(model, batches, lr):
    "The optimiser is given the frozen arrays, too: raises."
    optimiser = lnp.AdamW(lnp.parameters(model), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_detours_only(model, batches, lr):
    "Picks A and B by name: fails where a head or another array is trained, too."
    arrays = {name: a for name, a in lnp.parameters(model).items() if name.endswith((".A", ".B"))}
    optimiser = lnp.AdamW(arrays, lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_loss_after_the_step(model, batches, lr):
    "The loss is measured after the step."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        _, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        loss, _ = lnp.cross_entropy_forward(model.forward(batch)[0], labels)
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_return_in_the_loop(model, batches, lr):
    "Returns after the first batch."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
        return losses


@wrong_answer("train", cause=None)
def train_mean_loss(model, batches, lr):
    "Returns the mean of the losses."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    total = 0.0
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        total += float(loss)
    return total / len(batches)


@wrong_answer("train", cause="not_accumulated")
def train_one_step_at_the_end(model, batches, lr):
    "Adds up the gradients of all batches, and takes a single step."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses, total = [], {}
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        for name, g in model.backward(lnp.cross_entropy_backward(1.0, c), cache).items():
            total[name] = total.get(name, 0) + g
        losses.append(float(loss))
    optimiser.step(total)
    return losses


@wrong_answer("train", cause=None)
def train_a_copy(model, batches, lr):
    "Trains a deep copy: the losses are right, the caller's model has learned nothing."
    model = copy.deepcopy(model)
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_rate_falls(model, batches, lr):
    "The rate falls to zero over the batches."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for k, (batch, labels) in enumerate(batches):
        optimiser.lr = lr * (1 - k / len(batches))
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        losses.append(float(loss))
    return losses


@wrong_answer("train", cause=None)
def train_returns_nothing(model, batches, lr):
    "Trains well, and returns nothing."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        _, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))


@wrong_answer("train", cause="constant_factor")
def train_upstream_is_the_loss(model, batches, lr):
    "The loss itself is passed as the upstream gradient, where 1.0 belongs."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(float(loss), c), cache))
        losses.append(float(loss))
    return losses


@right_answer("train")
def train_with_helper(model, batches, lr):
    "A helper for one step, and a list comprehension."
    optimiser = lnp.AdamW(parameters=lnp.parameters(model, True), lr=lr)

    def step(batch, labels):
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        return float(loss)

    return [step(batch, labels) for batch, labels in batches]


@right_answer("train")
def train_by_index(model, batches, lr):
    "An index, item() in place of float(), and the defaults written out."
    optimiser = lnp.AdamW(
        lnp.parameters(model, trainable_only=True), lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01
    )
    losses = [0.0] * len(batches)
    for k in range(len(batches)):
        logits, cache = model.forward(batches[k][0])
        loss, c = lnp.cross_entropy_forward(logits, batches[k][1])
        losses[k] = loss.item()
        grads = model.backward(lnp.ops.cross_entropy_backward(1.0, c), cache)
        optimiser.step(grads)
    return losses


@right_answer("train")
def train_with_gradient_by_hand(model, batches, lr):
    "The gradient of the logits from the probabilities in the cache."
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        counts = c.q.any(axis=1, keepdims=True)
        optimiser.step(model.backward((c.p - c.q) * counts / c.divisor, cache))
        losses += [float(loss)]
    return losses


@right_answer("train")
def train_by_generator(model, batches, lr):
    "A generator of the losses, which list runs through."

    def run():
        optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
        for batch, labels in batches:
            logits, cache = model.forward(batch)
            loss, c = lnp.cross_entropy_forward(logits, labels)
            optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
            yield float(loss)

    return list(run())
