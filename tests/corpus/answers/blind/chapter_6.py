"""Answers to the exercises of chapter 6, by somebody who saw their text alone."""

import dataclasses

import numpy as np
from corpus.entries import right_answer, wrong_answer

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear, lora_init, lora_scale
from lora_np.adapt.targets import targets_of
from lora_np.model.tree import rebuild


@wrong_answer("adamw_step", cause="wrong_cached_value")
def v_of_the_mean_and_not_of_g(p, g, m, v, t, lr, betas, eps, weight_decay):
    b1, b2 = betas
    p *= 1 - lr * weight_decay
    m *= b1
    m += (1 - b1) * g
    v *= b2
    v += (1 - b2) * m**2
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)


@wrong_answer("adamw_step", cause="inplace")
def the_gradient_is_squared_for_good(p, g, m, v, t, lr, betas, eps, weight_decay):
    beta1, beta2 = betas
    p -= lr * weight_decay * p
    m[...] = beta1 * m + (1 - beta1) * g
    np.square(g, out=g)
    v[...] = beta2 * v + (1 - beta2) * g
    p -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


@wrong_answer("adamw_step", cause="constant_factor", also=("swapped",))
def each_mean_has_the_others_correction(p, g, m, v, t, lr, betas, eps, weight_decay):
    (b1, b2) = betas
    np.multiply(p, 1 - lr * weight_decay, out=p)
    m += (1 - b1) * (g - m)
    v += (1 - b2) * (g * g - v)
    c1, c2 = (1 - b**t for b in betas)
    p -= lr * (m / c2) / ((v / c1) ** 0.5 + eps)


@right_answer("adamw_step")
def corrections_in_the_step_size(p, g, m, v, t, lr, betas, eps, weight_decay):
    for mean, new, beta in ((m, g, betas[0]), (v, np.square(g), betas[1])):
        np.add(beta * mean, (1 - beta) * new, out=mean)
    c1, c2 = (1 - beta**t for beta in betas)
    step = (lr * c2**0.5 / c1) * m / (np.sqrt(v) + eps * c2**0.5)
    p[...] = (1 - lr * weight_decay) * p - step


@wrong_answer("inject", cause=None)
def a_new_generator_for_each_node(model, config, rng):
    targets = targets_of(model, config)
    scale = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in targets:
            return node
        rng = np.random.default_rng(0)
        A, B = lora_init(*node.W.shape, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("inject", cause="constant_factor", also=("swapped",))
def rank_and_alpha_exchanged(model, config, rng):
    targets = set(targets_of(model, config))

    def change(path, node):
        if path in targets:
            d_in, d_out = node.W.shape
            A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
            scale = lora_scale(config.lora_alpha, config.r, config.use_rslora)
            node = LoRALinear(node.W, node.b, A, B, scale, config.lora_dropout, node.hf)
        return node

    new = rebuild(model, change)
    return dataclasses.replace(new, adapter=config)


@wrong_answer("inject", cause=None)
def name_in_the_place_of_dropout(model, config, rng):
    where = targets_of(model, config)
    s = lora_scale(config.r, config.lora_alpha, config.use_rslora)

    def change(path, node):
        if path not in where:
            return node
        d_in, d_out = node.W.shape
        A, B = lora_init(d_in, d_out, config.r, rng, node.W.dtype)
        return LoRALinear(node.W, node.b, A, B, s, node.hf)

    return dataclasses.replace(rebuild(model, change), adapter=config)


@right_answer("inject")
def factors_drawn_before_the_walk(model, config, rng):
    arrays = lnp.parameters(model)
    factors = {}
    for path in targets_of(model, config):
        W = arrays[f"{path}.W"]
        factors[path] = dict(zip("AB", lora_init(W.shape[0], W.shape[1], config.r, rng, W.dtype)))
    how = {
        "scale": lora_scale(config.r, config.lora_alpha, config.use_rslora),
        "dropout": config.lora_dropout,
    }

    def change(path, node):
        return LoRALinear(W=node.W, b=node.b, hf=node.hf, **how, **factors[path]) if path in factors else node

    return dataclasses.replace(rebuild(model, change), adapter=config)


@wrong_answer("train", cause="wrong_cached_value")
def loss_measured_after_the_step(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        _, c = lnp.cross_entropy_forward(logits, labels)
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), cache))
        after, _ = model.forward(batch)
        losses.append(float(lnp.cross_entropy_forward(after, labels)[0]))
    return losses


@wrong_answer("train", cause="extra_term")
def gradients_never_set_to_zero(model, batches, lr):
    weights = lnp.parameters(model, trainable_only=True)
    opt = lnp.AdamW(weights, lr)
    total = {name: np.zeros_like(array) for name, array in weights.items()}
    history = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        history.append(float(loss))
        for name, gradient in model.backward(lnp.cross_entropy_backward(1.0, c), cache).items():
            total[name] += gradient
        opt.step(total)
    return history


@wrong_answer("train", cause="constant_factor")
def the_loss_as_its_own_upstream(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
    losses = []
    for batch, labels in batches:
        logits, cache = model.forward(batch)
        loss, c = lnp.cross_entropy_forward(logits, labels)
        dlogits = lnp.cross_entropy_backward(float(loss), c)
        grads = model.backward(dlogits, cache)
        optimiser.step(grads)
        losses.append(float(loss))
    return losses


@right_answer("train")
def one_function_for_a_step(model, batches, lr):
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr)

    def step(pair):
        logits, tape = model.forward(pair[0])
        loss, c = lnp.cross_entropy_forward(logits, pair[1])
        optimiser.step(model.backward(lnp.cross_entropy_backward(1.0, c), tape))
        return float(loss)

    return list(map(step, batches))


@wrong_answer("bitfit", cause=None)
def all_that_has_one_axis(model):
    return lnp.unfreeze(model, [name for name, a in lnp.parameters(model).items() if a.ndim == 1])


@wrong_answer("bitfit", cause=None)
def only_those_inside_the_layers(model):
    names = [n for n in lnp.parameters(model) if n.startswith("layer.") and n.endswith((".b", ".beta"))]
    return lnp.unfreeze(model, names)


@wrong_answer("bitfit", cause=None)
def the_new_model_is_thrown_away(model):
    biases = [name for name in lnp.parameters(model) if name.split(".")[-1] in {"b", "beta"}]
    lnp.unfreeze(model, biases)
    return model


@right_answer("bitfit")
def by_shell_patterns(model):
    return lnp.unfreeze(model, ("*.b", "*.beta"))
