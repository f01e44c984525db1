# %% [markdown]
# # 6. Fine-tuning
#
# After this chapter you can
#
# - write AdamW, the optimiser, and say why its step hardly depends on the size of the gradient;
# - put a LoRA detour beside every linear map of a pretrained model;
# - train it on images that the model fails on, by your own code from the first operation to the last;
# - measure what that costs, against three other ways: train the head alone, the biases alone, everything.
#
# **Needs** chapters 4 and 5. **Time** 110 minutes; the cells run for about two minutes. **Difficulty** medium.
#
# **In 20 minutes:** [The question](#The-question), [A place for the new numbers](#A-place-for-the-new-numbers), [Four
# ways to adapt, side by side](#Four-ways-to-adapt,-side-by-side) and [When is LoRA the right
# tool?](#When-is-LoRA-the-right-tool?), without the exercises.
#
# Of the course's eight questions (the link stands at the top) the chapter answers five: what LoRA is good and bad at
# (2), the step "update" of its five steps (3), how it compares with other light ways to fine-tune (5), a code example
# that runs (7), and what it does for images when you have only a laptop (8).

# %% tags=["setup"]
import dataclasses
import functools
import time
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import lora_np as lnp
from lora_np import ops
from lora_np.adapt.lora import LoRALinear, lora_init, lora_scale
from lora_np.adapt.targets import targets_of
from lora_np.model.tree import rebuild
from lora_np.train.backends.threads import worker_pool
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.features import features, head_alone
from lora_np.train.loop import Plan, Training

_ = threadpool_limits(1)  # more BLAS threads would only wait: our matrices are small

# %% [markdown]
# ## The question
#
# Somebody gives you a model that reads handwritten digits. It is right on nearly every upright image. Your images are
# turned by 0, 90, 180 or 270 degrees, and half of them are white on black. What does the model say to them?

# %%
base = lnp.load_pretrained("digits")  # frozen: its arrays cannot be written
tokens = lnp.load_tokenizer("digits")  # an image's tokens are its patches
upright = lnp.load_data("digits")[2]
train_set, dev, test = lnp.load_data("digits-mixed")
train_rows, dev_rows = list(tokens(train_set.inputs)), list(tokens(dev.inputs))
test_rows, upright_rows = list(tokens(test.inputs)), list(tokens(upright.inputs))
before = predict(base, test_rows)

on_upright = accuracy(predict(base, upright_rows), upright.labels)
print(f"upright images  {on_upright:.1%} right")
print(f"your images     {accuracy(before, test.labels):.1%} right")


# %% tags=["hide-input"]
# Draws sixteen test images, and above each what a model says to it.
picked = np.random.default_rng(1).permutation(len(test))[:16]


def show_predictions(logits):
    figure, axes = plt.subplots(2, 8, figsize=(9, 3.5), layout="constrained")
    for ax, row in zip(axes.flat, picked):
        said, label = logits[row].argmax(), test.labels[row]
        ax.imshow(test.inputs[row], cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], xlabel=f"true: {label}")
        mark, color = ("", "tab:blue") if said == label else ("  x", "tab:orange")
        ax.set_title(f"says {said}{mark}", color=color)
    plt.show()


show_predictions(before)

# %% [markdown]
# *Sixteen test images drawn at random, turned and partly inverted. Above each stands the model's answer, blue if it
# is right, orange and with a cross if it is wrong. Most are wrong.*
#
# You have 8,000 labelled images of the new kind, and a laptop. Two smaller sets are held out: `dev`, for choices on the
# way, and `test`, for the end. The plan has four parts: an optimiser, a place for the new numbers, a loop, and an
# honest account of the cost.

# %% [markdown]
# ## AdamW, by hand
#
# Take one parameter $p = 1$ and the learning rate $\eta = 0.1$. Two batches give the gradients $2$ and $-1$.
#
# Plain gradient descent would step by $\eta g$: first $0.2$ down, then $0.1$ up. Two things are wrong with that:
#
# - A gradient is that of 64 images. Take 64 others, and it is another one. What we want is what many batches agree on.
# - One rate has to serve all parameters. But the gradients of one may be a thousand times as large as those of another.
#
# AdamW keeps two running means for each parameter. The first, $m$, follows the gradient $g$: what differs from batch to
# batch averages out, and what stays the same remains. The second, $v$, follows the *square* of $g$. Its root says how
# large this parameter's gradients usually are.
#
# A **running mean** needs no list of what came before. Of itself it keeps the share $\beta$, and to that it adds the
# share $1 - \beta$ of the newest number. For $m$ the share is $\beta_1 = 0.9$, so it reaches back about ten steps; for
# $v$ it is $\beta_2 = 0.999$, about a thousand. Both start at zero. After the first gradient, which is $2$:
#
# $$m = 0.9 \cdot 0 + 0.1 \cdot 2 = 0.2, \qquad v = 0.999 \cdot 0 + 0.001 \cdot 2^2 = 0.004.$$
#
# **At first both are too small.** The only gradient so far is $2$, and $m$ says $0.2$. That is because a proper mean
# has weights that add up to one. Here the newest gradient has the weight $0.1$, the one before it $0.1 \cdot 0.9$, and
# so on: after one step they add up to $0.1$, after two to $0.19$, after $t$ steps to $1 - \beta_1^t$. The rest of the
# weight lies on the zero that we began with. So divide by what the weights add up to, $m$ by its sum and $v$ by its
# own. The results are called $\hat m$ and $\hat v$. After the first step $\hat m = 0.2 / 0.1 = 2$ and
# $\hat v = 0.004 / 0.001 = 4$: the gradient and its square.
#
# Only the step uses $\hat m$ and $\hat v$. What is kept for the next step is $m$ and $v$ as they were.
#
# **The step** goes against $\hat m$, and takes what is usual for this parameter as its unit: $\hat m$ is divided by the
# root of $\hat v$. A parameter that has never had a gradient would divide zero by zero, so a tiny
# $\varepsilon = 10^{-8}$ is added to the root. The first step of our $p$ is $0.1 \cdot 2 / \sqrt 4 = 0.1$ down, to
# $0.9$.
#
# Do the second step on paper, with the gradient $-1$. Four digits are enough.
#
# <details><summary>Compare with yours</summary>
#
# m = 0.9 · 0.2 + 0.1 · (-1) = 0.08, and v = 0.999 · 0.004 + 0.001 · 1 = 0.004996. Divided by 0.19 and by 0.001999
# they are 0.4211 and 2.499. The root of 2.499 is 1.581, so the step is 0.1 · 0.4211 / 1.581 = 0.0266 down: p = 0.8734.
#
# The gradient pointed the other way, and p still went down a little: the mean remembers the first gradient.
#
# </details>
#
# For an array all of this happens entry by entry: $p$, $g$, $m$ and $v$ have one shape.
#
# One thing is missing: **weight decay**. Before the step each parameter loses the share $\eta \lambda$ of itself,
# whatever the gradient says. With $\lambda = 0.01$ our $p = 1$ would first become $0.999$.
#
# This is the W in the name. The older Adam adds $\lambda p$ to the gradient instead. Then the decay goes through $m$
# and $v$ too, and is divided by $\sqrt{\hat v}$: a parameter with large gradients hardly decays, and one with small
# gradients decays much. Kept apart from the gradient, the decay is the same for all (Loshchilov and Hutter 2017,
# arXiv:1711.05101, algorithm 2).
#
# With LoRA, decay has another meaning than usual. It pulls $A$ and $B$ to zero, so it pulls the model back to its
# base. In full fine-tuning the same decay pulls $W$ to zero, away from the base.

# %% [markdown]
# ### Exercise: one step of AdamW ({{adamw_step}})
#
# Write the step with weight decay, in place: the caller's arrays `p`, `m` and `v` must change, and nothing is returned.
# `betas` is the pair $(\beta_1, \beta_2)$, `eps` is $\varepsilon$, `weight_decay` is $\lambda$, and `t` counts from 1.


# %% exercise="adamw_step"
from lora_np.course.exercises.adamw_step import adamw_step

# %% check="adamw_step"
lnp.course.check("adamw_step", adamw_step)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# ```python
# p *= 1 - lr * weight_decay  # whatever the gradient says
# m *= beta1
# m += (1 - beta1) * g
# v *= beta2
# v += (1 - beta2) * g**2
# m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
# p -= lr * m_hat / (np.sqrt(v_hat) + eps)
# ```
#
# </details>
#
# The two steps from above, by the function:

# %%
p, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
print("t    g       m       v       p")
for t, g in ((1, np.array([2.0])), (2, np.array([-1.0]))):
    adamw_step(p, g, m, v, t, lr=0.1, **options)
    print(f"{t}  {g[0]:4.1f}  {m[0]:6.3f}  {v[0]:6.4f}  {p[0]:6.4f}")

# %% [markdown]
# ### The step does not care how large the gradient is
#
# Multiply every gradient by 1,000. Then $\hat m$ grows by 1,000, $\sqrt{\hat v}$ too, and their quotient stays.

# %%
gradients = np.random.default_rng(0).standard_normal((20, 5))
for factor in (1, 1000):
    p, m, v = np.zeros(5), np.zeros(5), np.zeros(5)
    for t, g in enumerate(factor * gradients, 1):
        adamw_step(p, g, m, v, t, lr=0.01, **options)
    print(f"gradients times {factor:4d}: p =", p.round(3))

# %% [markdown]
# For LoRA this matters. The scale $s$, `lora_alpha / r`, multiplies the gradients of $A$ and $B$ (chapter 5). With
# plain gradient descent, twice the scale doubles the steps of $A$ and $B$, and $s A B$ doubles that once more. With
# AdamW the steps stay as they are, and only the second effect is left.
#
# The price: $m$ and $v$ are two more numbers for each trained parameter. Fewer trained parameters, less memory.

# %% [markdown]
# ## A place for the new numbers
#
# A model in `lora_np` is a tree of small objects, the *nodes*. Its leaves are linear maps, layer norms, embeddings.
# Injecting LoRA means: build the same tree again, but put a `LoRALinear` where a `Linear` was. The new node holds the
# *same* $W$ and $b$, and two new matrices $A$ and $B$.
#
# This model has 4 layers. Each has six linear maps: query, key, value and output are $64 \times 64$; the MLP's are
# $64 \times 128$ and $128 \times 64$. With rank $r = 4$, a map of $d_{in} \times d_{out}$ gets
# $r\,(d_{in} + d_{out})$ new numbers. Together:
#
# $$4 \cdot \big( 4 \cdot 4\,(64 + 64) + 2 \cdot 4\,(64 + 128) \big) = 14{,}336.$$

# %%
# all-linear: every linear map but the head
config = lnp.LoRAConfig(r=4, lora_alpha=8, target_modules="all-linear")
targets = targets_of(base, config)
print(len(targets), "maps are adapted. Those of the first layer:")
for path in list(targets)[:6]:
    print(" ", path)

# %% [markdown]
# Three helpers do the clerical work:
#
# - `targets_of(model, config)` returns a dict. Its keys are the paths of the nodes to adapt.
# - `rebuild(model, change)` visits every node and returns a new tree. It calls `change(path, node)`, and what that
#   returns takes the node's place.
# - `LoRALinear(W, b, A, B, scale, dropout, hf)` is the new node. `hf` is the node's name in Hugging Face's files; hand
#   it on as it is.
#
# ### Exercise: inject ({{inject}})
#
# Return a new model with a `LoRALinear` at each target. Target by target, in the order of `targets_of`, draw $A$ and
# $B$ with `lora_init(d_in, d_out, r, rng, dtype)`, in the dtype of W, and take the scale from `lora_scale(r,
# lora_alpha, use_rslora)`. The new model's field `adapter` must hold the config; `dataclasses.replace(model,
# adapter=config)` returns such a model. The config has the fields `r`, `lora_alpha`, `use_rslora` and `lora_dropout`,
# the probability of dropout.


# %% exercise="inject"
from lora_np.course.exercises.inject import inject

# %% check="inject"
lnp.course.check("inject", inject)

# %% [markdown]
# Two things must hold. At the start $B = 0$, so the adapted model says exactly what the base says. And $W$ is not
# copied: both models look at the same memory.

# %%
lora = inject(base, config, np.random.default_rng(0))
same = np.array_equal(predict(lora, test_rows), before)
query, its_base = (each.layer[0].attention.query for each in (lora, base))
shared = np.shares_memory(query.W, its_base.W)
print(f"the same logits, to the bit: {same}; the same W, in memory: {shared}")
assert same and shared
total, trained = lnp.count_parameters(lora)
print(f"{trained:,} of {total:,} parameters are trained")

# %% [markdown]
# ## One step, and then many
#
# Before anything is trained: is this model's backward right? `check_model` compares every trained array with numerical
# derivatives, as chapter 3 did, on a copy in float64.

# %%
report = lnp.check_model(lora, lnp.Batch.of(train_rows[:4]))
right = report.ok and report.max_error < 1e-9
print(f"{len(report.rows)} gradients, each right within 1e-09: {right}")
assert right

# %% [markdown]
# ### Exercise: train ({{train}})
#
# One training step is: forward, loss, backward, update. Write the loop. `batches` is a list of `(batch, labels)`. Take
# one step for each, by AdamW, on the parameters that are trained, with the defaults of `lnp.AdamW` and the given `lr`.
# Return the losses, each as a Python float.
#
# You have all parts. In the order of the alphabet:
#
# | call | what it returns |
# | --- | --- |
# | `lnp.AdamW(arrays, lr=lr)` | an optimiser: it holds the arrays of this dict, and an $m$ and a $v$ for each |
# | `lnp.cross_entropy_backward(1.0, c)` | the gradient of the loss by the logits |
# | `lnp.cross_entropy_forward(logits, labels)` | the mean loss of a batch, and a cache `c` |
# | `lnp.parameters(model, trainable_only=True)` | a dict of the arrays that are trained |
# | `model.backward(dlogits, cache)` | a dict of gradients, with the same names |
# | `model.forward(batch)` | the logits, and a cache |
# | `optimiser.step(grads)` | nothing: it moves its arrays, in place |


# %% exercise="train"
from lora_np.course.exercises.train import train

# %% check="train"
lnp.course.check("train", train)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# ```python
# optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=lr)
# losses = []
# for batch, labels in batches:
#     logits, cache = model.forward(batch)
#     loss, c = lnp.cross_entropy_forward(logits, labels)
#     grads = model.backward(lnp.cross_entropy_backward(1.0, c), cache)
#     optimiser.step(grads)
#     losses.append(float(loss))
# return losses
# ```
#
# The optimiser stands before the loop: it must remember its means from step to step.
#
# </details>
#
# What does the very first step do? Here are its gradients, before anything has moved:

# %%
batch, labels = lnp.Batch.of(train_rows[:64]), train_set.labels[:64]
logits, cache = lora.forward(batch)
loss, c = lnp.cross_entropy_forward(logits, labels)
grads = lora.backward(lnp.cross_entropy_backward(1.0, c), cache)

zero = {key: not gradient.any() for key, gradient in grads.items()}
print(f"{len(zero)} arrays have a gradient; that of {sum(zero.values())} is zero")
name = "layer.0.attention.query"
print(f"dA of {name} is zero: {zero[name + '.A']}   dB is zero: {zero[name + '.B']}")

# %% [markdown]
# There are 48 gradients, one for each $A$ and each $B$, and none for any $W$. In this first step every $dA$ is zero,
# because $dA$ has the factor $B^T$ and $B = 0$ (chapter 5). $B$ moves first, and from the second step on both move.

# %% [markdown]
# ## Two rituals before a long run
#
# Both take seconds. They find many of the faults that would cost hours.
#
# **The loss at the start.** A model that knows nothing gives each of the ten digits a tenth. Its loss is
# $-\ln \tfrac{1}{10} = \ln 10$. Compare with it what you are about to train: a fresh, random head, and the model as it
# was loaded.

# %%
fresh = lnp.with_head(base, labels=10, pooling="first", rng=np.random.default_rng(0))
answers = {
    "all logits zero": np.zeros((len(dev), 10)),
    "a fresh head": predict(fresh, dev_rows),
    "the model as loaded": predict(base, dev_rows),
}
print(f"ln 10 = {np.log(10):.2f}")
for what, logits in answers.items():
    print(f"{what:20} loss {lnp.cross_entropy_forward(logits, dev.labels)[0]:.2f}")
at_start = accuracy(answers["the model as loaded"], dev.labels)  # for a figure below

# %% [markdown]
# The fresh head starts a little above $\ln 10$, because its random logits are not quite equal. If yours starts at 20,
# its weights are too large. If it starts at 0.5, it has seen the labels. The loaded model is worse than one that knows
# nothing: on your images it is sure of itself, and wrong.
#
# **Overfit eight images.** Any loop that works can learn eight images by heart. Take one small batch, again and again.
# And once more with labels that are moved on by one image, so that most of them are false:

# %% tags=["measured"]
chosen = np.random.default_rng(1).permutation(len(train_rows))[:8]
eight, truth = lnp.Batch.of([train_rows[k] for k in chosen]), train_set.labels[chosen]
for what, given in (("true labels", truth), ("false labels", np.roll(truth, 1))):
    learner = inject(base, config, np.random.default_rng(0))
    losses = train(learner, [(eight, given)] * 60, lr=5e-3)
    print(f"{what:12} loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    assert losses[0] > 2 and losses[-1] < 0.1

# %% [markdown]
# So gradients, optimiser and adapter work together. A loss that stays high would say: something that should move does
# not, or the labels do not belong to the images in the same way in each step. But the second line is a warning. False
# labels are learned by heart just as well: the ritual tests your loop, not your data.
#
# Why not 0? The head is frozen, and the last layer norm gives it rows of a fixed size. So the right logit cannot grow
# without end. With this head we found no row that brings the loss below 0.03.

# %% [markdown]
# ## Your code trains the adapter
#
# Now all that you have written meets: `assemble` puts your operations of chapters 2, 4 and 5 into the model that your
# `inject` has made. Your loop trains it, and where the loop asks for an AdamW step or for the gradient of the loss, it
# gets yours.

# %%
mine = lnp.course.assemble(inject(base, config, np.random.default_rng(0)))
print(mine)

# %% [markdown]
# One pass over the 8,000 images, 64 at a time, in a random order. It takes some seconds, on a slow machine half a
# minute: your backwards also compute the gradients of what is frozen, and the library leaves these out.

# %% tags=["measured"]
order, batches = np.random.default_rng(0).permutation(len(train_rows)), []
for rows in np.split(order, 125):
    images = lnp.Batch.of([train_rows[k] for k in rows])
    batches.append((images, train_set.labels[rows]))
start = time.perf_counter()
losses = mine.train(batches, lr=5e-3)
seconds = time.perf_counter() - start
first, last = np.mean(losses[:10]), np.mean(losses[-10:])
print(f"{seconds:.0f} s, loss {first:.2f} -> {last:.2f}")
share = accuracy(predict(mine.model, test_rows), test.labels)
print(f"right before: {accuracy(before, test.labels):.1%}")
print(f"after one epoch by your own code: {share:.1%}")
assert share > 0.6

# %% [markdown]
# ## A rival: biases alone
#
# LoRA is not the only light way. **BitFit** (Ben Zaken, Ravfogel and Goldberg 2021, arXiv:2106.10199) trains the biases
# that are there, and nothing else: no new arrays, no rank to choose.
#
# ### Exercise: `bitfit` ({{bitfit}})
#
# The given model is frozen. Return a new one in which every bias is trained, and nothing else; `lnp.unfreeze(model,
# names)` makes it. Which arrays are biases? All that are added, and multiply nothing, in the linear maps (that of
# `embeddings`, too), in the head, and in the layer norms. (The tables of `embeddings`, for a place or for the class
# token, are no biases.)


# %% exercise="bitfit"
from lora_np.course.exercises.bitfit import bitfit

# %% check="bitfit"
lnp.course.check("bitfit", bitfit)

# %% [markdown]
# ## Four ways to adapt, side by side
#
# From here on we use `Training` of `lora_np`. It has your loop inside, and it adds what one does in practice:
# each epoch goes through the images in a new order, the learning rate rises for a few steps and then falls to zero, and
# two threads share a batch.
#
# - **Head**: only the last linear map, from 64 numbers to 10 classes, is trained.
# - **BitFit**: only the biases are trained.
# - **LoRA**: only the detours are trained. The head stays frozen.
# - **Full**: every parameter is trained.
#
# Each way has its own learning rate, chosen by its accuracy on the dev images: a comparison at one common rate would
# favour the way that this rate happens to suit. LoRA's is five times that of full fine-tuning.

# %%
models = {
    "head": lnp.unfreeze(base, "head.classifier"),
    "BitFit": bitfit(base),
    "LoRA": inject(base, config, np.random.default_rng(0)),
    "full": lnp.unfreeze(base, "all"),
}
rates = {"head": 5e-2, "BitFit": 2e-2, "LoRA": 5e-3, "full": 1e-3}


def fit(model, rows, dev_rows, lr):
    """Train for four epochs; return each step's loss, and dev's accuracy by epoch."""
    plan = Plan(lr=lr, epochs=4, batch_size=64, shares=2)
    losses, shares = [], []
    for step in Training(model, rows, train_set.labels, plan).steps():
        losses.append(step.loss)
        if step.ends_epoch:
            shares.append(accuracy(predict(model, dev_rows), dev.labels))
    return losses, shares


# %% [markdown]
# The head can be trained in a cheaper way. Below it nothing moves, so what the network says of an image is the same in
# every epoch. Ask it once, keep the answers (the *features*), and train a model that is a head and nothing else. It
# shares its arrays with `models["head"]`, so both learn. (`worker_pool(2)` lends two threads for the asking.)

# %% [markdown]
# <details><summary>Before you look: BitFit trains biases in all layers, the head alone trains one map, LoRA a tenth of
# all numbers. In which order will the four end?</summary>
#
# Full fine-tuning and LoRA end close together, above 90 %. Far below come the head and, no better, BitFit, although it
# reaches into every layer: a bias shifts what a map gives, and cannot turn it.
#
# </details>

# %% [markdown]
# The next cell is the longest of the chapter: twelve epochs through the whole network. It takes about a minute, on a
# slow machine two. A line appears as soon as one of the four is done; the head's is there at once.

# %% tags=["measured"]
with worker_pool(2) as run:
    head_rows = features(models["head"], train_rows, run)
    head_dev = features(models["head"], dev_rows, run)
inputs = {name: (model, train_rows, dev_rows) for name, model in models.items()}
inputs["head"] = head_alone(models["head"]), head_rows, head_dev
curves, first, last = {}, {}, {}
for name in models:
    losses, shares = curves[name] = fit(*inputs[name], rates[name])
    first[name], last[name] = np.mean(losses[:125]), np.mean(losses[-125:])
    percent = "  ".join(f"{share:.1%}" for share in shares)
    print(f"{name:6}  mean loss in epoch 1: {first[name]:.2f}   dev:  {percent}")
on_dev = {name: shares[-1] for name, (_, shares) in curves.items()}
assert 0.5 < on_dev["head"] < 0.65 and min(on_dev["LoRA"], on_dev["full"]) > 0.9
assert 0.45 < on_dev["BitFit"] < on_dev["LoRA"] - 0.2
assert first["full"] < first["LoRA"] and last["full"] < last["LoRA"]

# %% tags=["hide-input"]
# Draws the loss by step, and the accuracy on dev by epoch.
LOOKS = (":", "black"), ("-.", "tab:green"), ("-", "tab:orange"), ("--", "tab:blue")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for (name, (losses, shares)), (style, color) in zip(curves.items(), LOOKS):
    smooth = np.convolve(losses, np.full(15, 1 / 15), "valid")
    left.plot(np.arange(len(smooth)) + 8, smooth, style, color=color, label=name)
    percent = 100 * np.array([at_start, *shares])
    right.plot(range(5), percent, style, color=color, marker="o")
left.set(xlabel="step (125 are one epoch)", ylabel="loss, mean of 15 steps")
left.set_ylim(0, None)
right.set(xlabel="epoch", ylabel="accuracy on dev, %", ylim=(0, 100), xticks=range(5))
left.legend(frameon=False)
plt.show()

# %% [markdown]
# *Left: the training loss of the four ways by step. The head's and BitFit's stay high; LoRA's and full fine-tuning's
# fall, full first. Right: the accuracy on dev. The head and BitFit stop between 50 and 65 %; LoRA and full fine-tuning
# end close together, above 90 %.*
#
# BitFit does no better here than the head alone; on the test images below it does worse. A bias shifts what a map
# gives, and turns nothing. On texts, with larger models and little data, its authors found it close to full
# fine-tuning. Which rival is near depends on the task.
#
# Now the test images, which were held out of training:

# %% tags=["measured"]
after = {name: predict(model, test_rows) for name, model in models.items()}
right = {name: accuracy(logits, test.labels) for name, logits in after.items()}
print(f"nothing        0 trained   {accuracy(before, test.labels):.1%} right")
for name, model in models.items():
    trained = lnp.count_parameters(model).trainable
    print(f"{name:7} {trained:8,} trained   {right[name]:.1%} right")
assert right["LoRA"] > right["head"] + 0.2
assert abs(right["LoRA"] - right["full"]) < 0.05

# %% tags=["picture", "measured"]
show_predictions(after["LoRA"])
assert (after["LoRA"].argmax(axis=1) == test.labels)[picked].mean() > 0.8

# %% [markdown]
# *The same sixteen images after LoRA: nearly all answers are right.*
#
# LoRA trains about a tenth of the numbers and comes within a few points of full fine-tuning. The head alone does not:
# the features that it gets were made for upright images.
#
# This is one run of each, so read it with care. With 497 test images a difference of one or two points means nothing;
# chapter 8 computes how much it takes. The project's README has the mean of three longer runs, ± half the distance
# between the best and the worst, in percent: the head <!-- mixed_head -->60.4 ± 0.5<!-- / -->,
# LoRA <!-- mixed_lora -->93.7 ± 0.8<!-- / -->, full fine-tuning <!-- mixed_full -->94.6 ± 1.2<!-- / -->.

# %% [markdown]
# ## What it costs: memory
#
# Four things lie in memory while a model is trained:
#
# 1. all weights, frozen or not: 4 bytes a number in float32;
# 2. a gradient for each trained number: 4 bytes;
# 3. AdamW's $m$ and $v$ for each trained number: 8 bytes;
# 4. the cache: what the forward keeps for the backward. It grows with the batch.
#
# The first three are arithmetic. The cache we measure: how much more Python holds after a forward than before. The head
# is measured as it was trained, on features: it keeps one row for each image. (The features of all 8,000 images lie in
# memory as well: $8{,}000 \cdot 64 \cdot 4$ bytes, 2 MB.)


# %% [markdown]
# <details><summary>Before you look: LoRA trains about a tenth of the numbers. Will all its memory be a tenth of full
# fine-tuning's, a half, or hardly less?</summary>
#
# Hardly less: about four fifths. Gradients and AdamW's means shrink to a tenth. But here the cache is the largest
# part, and LoRA on every map keeps the same inputs for its backward.
#
# </details>


# %%
def cache_bytes(model, batch):
    tracemalloc.start()
    kept = model.forward(batch)  # logits and cache; alive until the function ends
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == 2
    return held


# %% tags=["measured"]
narrow = lnp.LoRAConfig(r=4, lora_alpha=8, target_modules=["query", "value"])
shown = {**models, "LoRA q, v": inject(base, narrow, np.random.default_rng(0))}
memory = {}
for name, model in shown.items():
    total, trained = lnp.count_parameters(model)
    inputs = model, batch
    if name == "head":
        inputs = head_alone(model), lnp.Batch.of(head_rows[:64])
    cache = cache_bytes(*inputs)
    memory[name] = np.array([4 * total, 4 * trained, 8 * trained, cache]) / 1e6
print("MB         weights  gradients  m and v   cache")
for name, parts in memory.items():
    print(f"{name:9}" + "".join(f"{part:9.2f}" for part in parts))
caches = {name: parts[3] for name, parts in memory.items()}
assert caches.pop("head") < 0.05 and min(caches.values()) > 3
assert memory["LoRA"][2] < memory["full"][2] / 8
assert abs(caches["LoRA"] / caches["full"] - 1) < 0.1
assert caches["BitFit"] < caches["LoRA q, v"]
assert 0.67 < caches["LoRA q, v"] / caches["full"] < 0.8

# %% tags=["hide-input"]
# Draws the memory of each way as a bar.
figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
edge = np.zeros(len(memory))
for k, part in enumerate(("weights", "gradients", "m and v", "cache")):
    width = np.array([parts[k] for parts in memory.values()])
    colour = plt.cm.viridis(k / 3.3)
    ax.barh(list(memory), width, left=edge, color=colour, edgecolor="white", label=part)
    edge += width
ax.set(xlabel="MB, batch of 64 images")
ax.invert_yaxis()
ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

# %% [markdown]
# *Memory in training, one bar for each way, and one for LoRA on query and value only. The head's bar is hardly more
# than the weights. In each of the others the cache is the largest part. LoRA on all maps has almost no gradients, m and
# v, but a cache as large as that of full fine-tuning.*
#
# So LoRA saves nearly all of parts 2 and 3. Of part 4 it saves nothing as long as it sits on every map: the gradient
# $dA = x^T du$ needs the same $x$ as $dW = x^T dy$ does. On query and value alone the other four maps of a layer are
# frozen, and need not keep their $x$: the cache is about a quarter smaller. BitFit keeps least: the gradient of a bias,
# the sum of the rows of $dy$, needs no $x$ at all.
#
# Here the model is tiny and the batch is large, so the cache rules. In a large model with a small batch the other three
# parts rule. For them there is nothing to measure, only to multiply:

# %%
for what, total, trained in (
    ("BERT of chapter 8, full", 22_566_146, 22_566_146),
    ("BERT of chapter 8, LoRA", 22_639_874, 74_498),
    ("7 billion numbers, full", 7_000_000_000, 7_000_000_000),
    ("the same, LoRA of 0.1 %", 7_007_000_000, 7_000_000),
):
    megabytes = (4 * total + 12 * trained) / 1e6
    print(f"{what:24} weights, gradients, m and v: {megabytes:8,.0f} MB")

# %% [markdown]
# About a quarter is left, and nearly all of it is frozen weights. To make these smaller as well, one stores them in
# fewer bits. That is another idea, and it goes well with this one (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

# %% [markdown]
# ## What it costs: time
#
# Some say that LoRA trains faster, some that it trains longer. Count multiplications for one linear map
# $d \times d$ and $N$ rows, forward and backward:
#
# | | full | LoRA |
# | --- | --- | --- |
# | forward, $xW$ | $N d^2$ | $N d^2$ |
# | backward, $dx = dy\, W^T$ | $N d^2$ | $N d^2$ |
# | backward, $dW = x^T dy$ | $N d^2$ | none |
# | the detour, six thin products | none | $6 N d r$ |
#
# The quotient is
#
# $$\frac{2 N d^2 + 6 N d r}{3 N d^2} = \frac23 + \frac{2r}{d}.$$
#
# So LoRA saves at most one third, and the narrower the map, the less. Does the clock agree? We take turns between the
# two and keep the shortest of many times, because any single one may be disturbed by another program.


# %%
def full_map(x, W, A, B, dy):
    _, cache = ops.linear_forward(x, W, None)
    ops.linear_backward(dy, cache)


def lora_map(x, W, A, B, dy):
    _, cache = ops.lora_linear_forward(x, W, None, A, B, 2.0)
    ops.lora_linear_backward(dy, cache)


def shortest(functions, inputs, repeats):
    """Call the functions in turn, and return the shortest time of each in seconds."""
    best = np.full(len(functions), np.inf)
    for _ in range(repeats):
        for k, function in enumerate(functions):
            began = time.perf_counter()
            function(*inputs)
            best[k] = min(best[k], time.perf_counter() - began)
    return best


# %% [markdown]
# <details><summary>Before you look: the count promises up to a third. Will LoRA be the faster one at d = 64, a map as
# narrow as ours?</summary>
#
# Hardly ever. With r = 8 the count itself promises only 2/3 + 16/64 = 0.92. And six more calls on thin arrays cost
# time of their own, which no multiplication explains.
#
# </details>

# %% tags=["measured"]
widths, r, N = np.array([64, 128, 256, 512, 1024]), 8, 256
rng, quotients = np.random.default_rng(0), []
for d in widths:
    x, dy = rng.standard_normal((2, N, d), dtype=np.float32)
    W = rng.standard_normal((d, d), dtype=np.float32)
    A, B = W[:, :r].copy(), W[:r].copy()
    full_time, lora_time = shortest([full_map, lora_map], (x, W, A, B, dy), repeats=20)
    quotients.append(lora_time / full_time)
print("d              ", *(f"{d:5}" for d in widths))
print("LoRA over full ", *(f"{quotient:5.2f}" for quotient in quotients))
assert quotients[-1] < min(1, quotients[0])

# %% tags=["hide-input"]
# Draws the measured quotient of the times, and the one that was counted.
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(widths, quotients, "o-", color="tab:orange", label="measured time")
counted = 2 / 3 + 2 * r / widths
ax.plot(widths, counted, "--", color="black", label="multiplications, 2/3 + 2r/d")
ax.axhline(1, color="tab:blue", linewidth=1, label="full fine-tuning")
ax.set(xscale="log", xlabel="width d of the linear map")
ax.set(ylim=(0, 1.6), ylabel="LoRA over full")
ax.set_xticks(widths, widths)
ax.minorticks_off()
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# *Time of LoRA over time of full fine-tuning, for one linear map, by its width. On narrow maps LoRA is no faster;
# on wide ones the time comes down to near the black curve, which counts multiplications.*
#
# Now the whole model, which has $d = 64$: forward, and forward with backward.


# %% tags=["measured"]
def forward(model):
    return model.forward(batch)


def both(model):
    logits, cache = model.forward(batch)
    _, c = lnp.cross_entropy_forward(logits, labels)
    model.backward(lnp.cross_entropy_backward(1.0, c), cache)


names = ("head", "LoRA", "full")
seconds = {}
for what in (forward, both):
    calls = [functools.partial(what, models[name]) for name in names]
    seconds[what.__name__] = shortest(calls, (), repeats=40)
print("full = 1                   head   LoRA   full")
for what, times in seconds.items():
    print(f"{what:24}" + "".join(f"{t / times[2]:7.2f}" for t in times))
forwards = seconds["forward"][1] / seconds["forward"][0]
print(f"LoRA's forward over the head's: {forwards:.2f}")
assert 0.9 < forwards < 1.7
assert 0.6 < seconds["both"][1] / seconds["both"][2] < 1.7

# %% [markdown]
# In this small model a LoRA step takes about as long as a full one. (The head's step is that through the whole network.
# As it was trained above, on features, it costs next to nothing.) Now compare the forwards of LoRA and of the head,
# which computes what the base computes. LoRA's is slower: where 24 products were, there are 72, though two of three are
# thin. The last line says by how much. (On a machine that is busy with something else, so small a difference may not
# show.) That cost stays with the model after training, until the adapter is merged (next chapter).
#
# So there are two answers to "does training take longer?":
#
# - **A step**: up to a third shorter on wide maps, no shorter on narrow ones.
# - **The number of steps**: look at the loss curves again. Full fine-tuning is ahead all the way. On this task LoRA
#   takes more steps to the same loss.

# %% [markdown]
# ## When is LoRA the right tool?
#
# From what you have measured:
#
# | it is good at | it is not good at |
# | --- | --- |
# | near full fine-tuning in accuracy, with a tenth of the numbers | better accuracy than full fine-tuning |
# | almost no gradients, $m$ and $v$ in memory | the cache: no smaller if every map is adapted |
# | the base is untouched, and shared | the base must still be in memory, whole |
# | few numbers to keep and to send: 57 kB here | speed on narrow maps; a slower forward until merged |
#
# If the features of the frozen model suffice, the head alone is cheaper than anything else. Try it first. Here it was
# not enough.

# %% [markdown]
# ## What you built
#
# - `adamw_step` is `lora_np.train.optimisers.adamw_step`; `AdamW` calls it for each array.
# - `inject` is `lora_np.inject`. That one also checks its input, and can train a new head along (chapter 8).
# - `train` is the heart of `lora_np.train.loop.Training`.
# - `python -m lora_np finetune` trains three of the four ways in one command: `--method lora`, `head` or `full`.
#   `bitfit` is a line of `lnp.unfreeze`.
#
# ## Traps met in real projects
#
# - **B never moves.** To save memory, many people switch on *gradient checkpointing*: activations are not kept, but
#   computed a second time. In one form of it in PyTorch, a block whose input needs no gradient gets none at all. With
#   LoRA the embeddings are frozen, so that is the case. PEFT issue 137 shows the error message, and the remedy
#   `enable_input_require_grads()`. In open-unlearning (issue 178) there was no error: the layers were just not trained.
#   The test is short: after training, is any $B$ still zero?
# - **Full fine-tuning's learning rate.** In PEFT issue 622 LoRA came out 4 to 6 % below full fine-tuning. The
#   maintainers' answers there and in issue 1948: train longer, and use a higher rate than for full fine-tuning.
# - **The optimiser was made too early.** An optimiser holds the arrays that it was given. One that is made before
#   `inject` knows nothing of $A$ and $B$. Here `AdamW` refuses frozen arrays, and gradients that are not its own.
#
# ## Can you say it?
#
# <details><summary>1. The rate is 0.01, there is no decay, and it is AdamW's first step. How far does a parameter move
# whose gradient is 3, and one whose gradient is 0.003?</summary>
#
# Both by 0.01. After one step the corrected means are the gradient and its square, so the quotient is 1, whatever the
# size (as long as it is far above epsilon).
#
# </details>
#
# <details><summary>2. A fresh head with 100 classes shows a loss of 20 before the first step. What should it be, and
# what do you suspect?</summary>
#
# About ln 100 = 4.6. At 20 it is sure and wrong: its weights are too large, or what it gets is not on the scale that
# it expects.
#
# </details>
#
# <details><summary>3. The head alone was trained on features that were computed once. Why does this not work for
# LoRA?</summary>
#
# Features can be kept as long as nothing below them moves. LoRA sits in the layers below: each step changes what comes
# out of them.
#
# </details>
#
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** Take 64 images in place of 8,000, and enough epochs for about 100 steps. Which of the four ways suffers most?
#
# <details><summary>An answer</summary>
#
# Full fine-tuning and LoRA: each falls by some fifty points. One run of 100 steps on 64 images:
#
# | | right of the 64 | right of the test images |
# | --- | ---: | ---: |
# | head | 98 % | 33 % |
# | BitFit | 86 % | 27 % |
# | LoRA | 100 % | 41 % |
# | full | 100 % | 42 % |
#
# They know the 64 images by heart. They are still ahead. That few trained numbers protect against few examples is often
# said; here they do not. (Before any training it was 22.5 %.)
#
# </details>
#
# **2.** Give LoRA the learning rate of full fine-tuning. How much does it lose after four epochs?
#
# <details><summary>An answer</summary>
#
# 21 points: 71 % of the test images at 1e-3, where 5e-3 gives 93 %. It is not that LoRA cannot do more. It has not
# arrived yet. Whoever compares methods at one common rate compares the rates.
#
# </details>
#
# **3.** Try $r = 1$ and $r = 16$. By how much does the accuracy change, and is that more than chance?
#
# <details><summary>An answer</summary>
#
# With `lora_alpha` at twice the rank, one run of each: 80.7 % at r = 1 (3,584 numbers), 92.8 % at r = 4 (14,336),
# 95.8 % at r = 16 (57,344). Chapter 8 has the tool to judge it, the paired comparison on the same 497 images. Between r
# = 1 and r = 4, 15 are read rightly by r = 1 alone and 75 by r = 4 alone: p = 1e-10. Between r = 4 and r = 16 the split
# is 7 to 22: p = 0.008. Both are more than chance, as far as the choice of test images goes. Another seed moves the
# accuracy by about a point, and that is not in here.
#
# </details>
