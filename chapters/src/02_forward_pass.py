# %% [markdown]
# # 2. The forward pass
#
# After this chapter you can
#
# - follow an image through a transformer, from 64 pixels to ten numbers, and name the shape at each step;
# - write the four operations that do it: linear map, layer norm, GELU, attention;
# - put them together into a block, and the blocks into a model whose ten numbers agree with the library's within 1e-5;
# - run the pretrained model on your own operations;
# - say where the multiplications are, and so where LoRA belongs.
#
# **Needs:** chapter 1 for the parameter names only. Python, NumPy, the matrix product. **Time:** about 100 minutes.
# **Difficulty:** medium.
#
# **In 20 minutes:** read [From an image to tokens](#From-an-image-to-tokens) and [The linear map](#The-linear-map),
# write `linear_forward`, look at the tables in [Attention in the model](#Attention-in-the-model), and read
# [The block](#The-block).
#
# It prepares question 3 of the course, the five steps of LoRA: this is the step "forward" without LoRA. Chapter 5 adds
# it, and chapter 4 goes through all of this backwards.

# %% [markdown]
# ## The question
#
# Which digit is in the picture? The network answers with ten numbers, one for each digit; the greatest wins. What
# happens in between?
#
# Nothing mysterious: four operations, repeated. Whoever wants to add LoRA to a network, or derive its gradients, must
# know them well. So we write each one, and check in the end that we get the same ten numbers as the library.

# %% tags=["setup"]
import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.model.attention import join_heads, split_heads
from lora_np.model.tree import rebuild
from lora_np.ops.attention import AttentionCache
from lora_np.ops.gelu import GeluCache
from lora_np.ops.layer_norm import LayerNormCache
from lora_np.ops.linear import LinearCache

np.set_printoptions(precision=3, suppress=True)

# %%
model = lnp.load_pretrained("digits")
_, _, test = lnp.load_data("digits")  # 497 upright digits, held out of training
for name, array in lnp.parameters(model).items():
    if not name.startswith(("layer.1", "layer.2", "layer.3")):
        print(f"{name:28} {array.shape}")

# %% [markdown]
# These are all the arrays, but for layers 1 to 3, which have the same shapes as layer 0. The model is a small vision
# transformer (Dosovitskiy et al. 2020, arXiv:2010.11929). Its width is $d = 64$: at each point inside, 64 numbers
# describe one piece of the image.

# %% [markdown]
# ## From an image to tokens
#
# A transformer reads a sequence of **tokens**. In a text they are words or parts of words. In an image they are
# **patches**, small squares. Here is the cut on an image of $4 \times 4$, with patches of $2 \times 2$:

# %%
tiny = np.arange(16.0).reshape(1, 4, 4, 1)  # (images, rows, columns, channels)
patches, _ = ops.patches_forward(tiny, 2)
print(tiny[0, :, :, 0].astype(int))
print("its patches, one a row:")
print(patches[0].astype(int))

# %% [markdown]
# Ours are images of $8 \times 8$ with patches of $4 \times 4$. So an image becomes 4 rows of 16 pixels.
# `lnp.load_tokenizer` gives the function that cuts.

# %%
tokens = lnp.load_tokenizer("digits")
print("images", test.inputs.shape, "-> patches", tokens(test.inputs).shape)

# %% tags=["hide-input"]
# Draws an image and its four patches.
figure, axes = plt.subplots(
    1, 5, figsize=(8, 2), layout="constrained", width_ratios=(2, 1, 1, 1, 1)
)
axes[0].imshow(test.inputs[4], cmap="gray_r")
axes[0].axhline(3.5, color="tab:orange")
axes[0].axvline(3.5, color="tab:orange")
axes[0].set(title=f"an image of a {test.labels[4]}", xticks=[], yticks=[])
for k, ax in enumerate(axes[1:]):
    patch = tokens(test.inputs[4:5])[0, k].reshape(4, 4)
    ax.imshow(patch, cmap="gray_r", vmin=0, vmax=1)
    ax.set(title=f"patch {k}", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# *A digit, cut by a horizontal and a vertical line, and beside it the four patches: top left, top right, bottom left,
# bottom right.*
#
# Three small steps turn patches into the first hidden rows:
#
# 1. Each patch of 16 pixels is mapped to 64 numbers by one linear map, `embeddings.projection`.
# 2. In front of the four rows stands a fifth, the **class token**. It is no part of the image, just 64 trained numbers.
#    Its row will collect the answer.
# 3. To each row is added a row of `embeddings.position`, which says where in the image it lies.
#
# The network keeps the tokens of all images as **rows** of one matrix $(N, d)$: 2 images make $N = 2 \cdot 5 = 10$
# rows. Most operations treat each row by itself and need not know which image it belongs to.

# %% [markdown]
# ## The linear map
#
# $$ y = x W + b, \qquad x: (N, d_\text{in}),\; W: (d_\text{in}, d_\text{out}),\; b: (d_\text{out},),\;
#    y: (N, d_\text{out}). $$
#
# By hand: $x = (1, 2)$ and
#
# $$ W = \begin{pmatrix} 1 & 0 & 2 \\ 3 & 1 & 0 \end{pmatrix}, \quad b = (0, 0, 1): \qquad
#    y = (1 \cdot 1 + 2 \cdot 3,\; 1 \cdot 0 + 2 \cdot 1,\; 1 \cdot 2 + 2 \cdot 0 + 1) = (7, 2, 3). $$
#
# Each row of $x$ goes through the same $W$. The bias $b$ is added to each row, by broadcasting.
#
# A forward returns two things: the output, and a **cache** of what the backward of chapter 4 will need. For the linear
# map that is `LinearCache(x, W)`, a named tuple.
#
# What you keep is your own affair, here and in the exercises to come: a tuple of your own will do. `check` looks at y
# alone. (Only if you call it `LinearCache` it has to hold what that name promises.)
#
# ### Exercise: `linear_forward` ({{linear_forward}})
#
# Write `linear_forward(x, W, b=None)`. It returns y and the cache. Without a bias, `b` is `None`.


# %% exercise="linear_forward"
from lora_np.course.exercises.linear_forward import linear_forward

# %% check="linear_forward"
lnp.course.check("linear_forward", linear_forward)

# %% [markdown]
# From here on the notebook works with your `linear_forward`, and with the library's only while yours is not right yet.
# With it we can do the three steps. We take two images.

# %%
embed = model.embeddings
patches = tokens(test.inputs[:2])  # (2, 4, 16)
W, b = embed.projection.W, embed.projection.b
e, _ = linear_forward(patches.reshape(8, 16), W, b)  # (8, 64)
e = e.reshape(2, 4, 64)
first = np.tile(embed.class_token, (2, 1, 1))  # (2, 1, 64), the same for each image
x = np.concatenate([first, e], axis=1) + embed.position.table  # (2, 5, 64)
x = x.reshape(10, 64)

batch = lnp.Batch.of(patches)  # what the model takes: several inputs at once
arranged = embed.arrange(batch)
theirs, _ = embed.forward(arranged)
print("rows", x.shape, "as the library's:", np.allclose(x, theirs, atol=1e-5))
assert np.abs(x - theirs).max() < 1e-5
print("which rows belong together:", arranged.groups)

# %% [markdown]
# The library lays sequences end to end, without padding, and notes in **groups** which rows belong together: rows
# `start` to `stop` hold `n` sequences of `T` tokens each. All our images have 5 tokens, so there is one group.

# %% [markdown]
# ## Layer norm
#
# Rows grow and shrink on their way through the network. The layer norm brings each to the same scale: mean 0, variance
# 1, over the $d$ numbers of the row (Ba, Kiros and Hinton 2016, arXiv:1607.06450, section 3.1).
#
# By hand: the row $(1, 1, 5, 5)$ has the mean 3. Less the mean it is $(-2, -2, 2, 2)$. The mean of the squares, the
# variance, is 4, and its root is 2. So the row becomes $(-1, -1, 1, 1)$.
#
# Then each of the $d$ places gets a trained factor $\gamma$ and a trained shift $\beta$:
#
# $$ \hat x = \frac{x - \text{mean}(x)}{\sqrt{\text{mean}\big((x - \text{mean}(x))^2\big) + \varepsilon}}, \qquad
#    y = \gamma\, \hat x + \beta . $$
#
# - The means run over the row: $(N, d) \to (N, 1)$.
# - $\gamma$ and $\beta$ are $(d,)$ and serve all rows.
# - $\varepsilon$ is tiny and keeps a constant row from dividing by zero. It stands *under* the root.
#
# The cache is `LayerNormCache(xhat, inverse_std, gamma)` with the shapes $(N, d)$, $(N, 1)$, $(d,)$; `inverse_std` is
# one over the root.
#
# ### Exercise: `layer_norm_forward` ({{layer_norm_forward}})
#
# Write `layer_norm_forward(x, gamma, beta, eps)`. It returns y and the cache. A row may lie far from 0, all of it near
# 10,000, say: y must keep its digits there.


# %% exercise="layer_norm_forward"
from lora_np.course.exercises.layer_norm_forward import layer_norm_forward

# %% check="layer_norm_forward"
lnp.course.check("layer_norm_forward", layer_norm_forward)

# %% [markdown]
# Two changes of a row go unnoticed: adding a constant, and multiplying by a positive one.

# %%
row = np.array([[1.0, 1.0, 5.0, 5.0]])
for changed in (row, row + 100, 7 * row):
    y, _ = layer_norm_forward(changed, np.ones(4), np.zeros(4), 1e-12)
    print(changed[0], "->", y[0])

# %% [markdown]
# ## GELU
#
# Linear maps in a row are one linear map: $(x W_1) W_2 = x (W_1 W_2)$. To gain anything, something bent must stand
# between them. Here it is the GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415):
#
# $$ \text{gelu}(x) = x\, \Phi(x), \qquad \Phi(x) = \tfrac12 \Big(1 + \text{erf}\big(x / \sqrt 2\big)\Big). $$
#
# $\Phi(x)$ is the probability that a standard normal number lies below $x$. So a large positive number passes, a large
# negative one is held back, and in between it is a matter of degree. By hand: $\Phi(0) = 0.5$, so $\text{gelu}(0) = 0$.
# $\Phi(1) \approx 0.841$, so $\text{gelu}(1) \approx 0.841$ and $\text{gelu}(-1) \approx -1 \cdot 0.159 = -0.159$.
#
# NumPy has no erf. The library does: `ops.erf(x)`, entry by entry.
#
# ### Exercise: `gelu_forward` ({{gelu_forward}})
#
# Write `gelu_forward(x)`, for an x of any shape. It returns y and the cache `GeluCache(x, cdf)`, where `cdf` is
# $\Phi(x)$.
#
# A float32 x must give a float32 y: models compute in float32. `np.sqrt(2)` is a float64 and would make y one, too.
# `2**0.5` is a plain number and leaves y alone.


# %% exercise="gelu_forward"
from lora_np.course.exercises.gelu_forward import gelu_forward

# %% check="gelu_forward"
lnp.course.check("gelu_forward", gelu_forward)

# %% [markdown]
# <details><summary>Before you look: can a larger x give a smaller output?</summary>
#
# Yes, left of about -0.75. Far to the left the share that passes is so small that the product is near 0. From there
# the curve sinks to -0.17 before it rises. The ReLU never sinks.
#
# </details>

# %% tags=["hide-input"]
# Draws your GELU, Phi as the library's cache has it, and the ReLU.
z = np.linspace(-4, 4, 401)
exact, cdf = gelu_forward(z)[0], ops.gelu_forward(z)[1].cdf
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(z, exact, color="tab:blue", label="gelu(x)")
ax.plot(z, cdf, color="tab:orange", label="Phi(x), the share that passes")
relu = np.maximum(z, 0)
ax.plot(z, relu, color="black", linestyle=":", label="max(x, 0), the older ReLU")
ax.set(xlabel="x", ylabel="output", ylim=(-0.6, 3))
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# *The GELU over x: near zero on the far left, a shallow dip below zero around x = -0.75, then rising towards the line
# y = x. Phi rises from 0 to 1. The ReLU has a corner at zero where the GELU is smooth.*

# %% [markdown]
# ## Attention
#
# So far each row minds its own business. But a digit cannot be read patch by patch: the patches must talk. This is
# what **attention** is for, and it is the only place where rows of one image mix.
#
# Each token asks a question (its **query**), holds up a label (its **key**), and has something to say (its **value**).
# It compares its query with all keys and turns the scores into shares that sum to one. Then it takes the mean of the
# values with these shares.
#
# By hand, with two tokens and one number each. Queries $Q = (\ln 3,\; 0)$, keys $K = (1,\; 0)$, values $V = (8,\; 0)$.
#
# 1. **Scores**, query times key. First token: $(\ln 3 \cdot 1,\; \ln 3 \cdot 0) = (\ln 3, 0)$. Second: $(0, 0)$.
# 2. **Shares**, by the softmax: take $e$ to the power of each, divide by the sum. First: $(3, 1) / 4 = (0.75, 0.25)$.
#    Second: $(1, 1) / 2 = (0.5, 0.5)$.
# 3. **Output**, mean of the values. First: $0.75 \cdot 8 + 0.25 \cdot 0 = 6$. Second: $0.5 \cdot 8 = 4$.
#
# In general, for one sequence of $T$ tokens, whose queries and keys have $d_k$ numbers each (Vaswani et al. 2017,
# arXiv:1706.03762, equation 1):
#
# $$ S = \frac{Q K^T}{\sqrt{d_k}}, \qquad P_{tu} = \frac{e^{S_{tu}}}{\sum_v e^{S_{tv}}}, \qquad O = P V . $$
#
# - $S$ and $P$ are $(T, T)$: token $t$ looks at token $u$. Each row of $P$ sums to one.
# - A score is a sum of $d_k$ products. As long as these are as good as random and independent, of mean 0 and of size
#   about 1, their sum has a size of about $\sqrt{d_k}$: most of them cancel. (If they all agreed, it would be $d_k$.)
#   Dividing by $\sqrt{d_k}$ keeps the scores from growing with $d_k$.
#
# **Heads.** One mean for each token says little. So the $d = 64$ numbers of a row are cut into 4 heads of $d_k = 16$,
# and each head attends by itself. All arrays get two axes in front: $n$ sequences, $h$ heads. $Q$ is $(n, h, T, d_k)$.
#
# **Two options.** `visible`, boolean, says which keys a query may see. Where it is false, the score counts as $-\infty$
# and the share is 0. Language models hide the future this way. `mask` is for dropout: it comes ready made, shaped as
# $P$, and multiplies $P$ before the product with $V$. Our model needs neither: `None`.

# %% [markdown]
# ### The softmax must not overflow
#
# $e^{1000}$ is too large for a computer. But a constant taken from all scores of a row cancels in the fraction. So
# take away the greatest: then the largest power is $e^0 = 1$.

# %%
scores = np.array([1000.0, 999.0])
with np.errstate(over="ignore", invalid="ignore"):
    print("plain:", np.exp(scores) / np.exp(scores).sum())
safe = np.exp(scores - scores.max())
print("safe: ", safe / safe.sum())

# %% [markdown]
# ### Exercise: `attention_forward` ({{attention_forward}})
#
# Write `attention_forward(Q, K, V, visible=None, mask=None)`. It returns O and the cache
# `AttentionCache(Q, K, V, P, mask)`, with `P` before dropout.
#
# The shapes may be more general than in our model: T queries may look at U keys, and values may have another size than
# keys. `Q` is (n, h, T, d_k), `K` (n, h, U, d_k), `V` (n, h, U, d_v), `P` (n, h, T, U). `visible` has the shape of P or
# broadcasts to it. d_k is the last size of Q; for its root, take `** 0.5` again.


# %% exercise="attention_forward"
from lora_np.course.exercises.attention_forward import attention_forward

# %% check="attention_forward"
lnp.course.check("attention_forward", attention_forward)

# %% [markdown]
# ### A ritual: with and without the root
#
# Whoever writes an attention prints two numbers first: how large the scores are, and how large the greatest share of a
# row is. Here queries and keys are random, of size about 1, and each query sees five keys.

# %%
rng = np.random.default_rng(0)
print("       without the root        with the root")
print("d_k    score  top share       score  top share")
for d_k in (4, 16, 64, 256):
    queries, keys = rng.standard_normal((2, 2000, 5, d_k))
    plain, line = queries @ keys.swapaxes(1, 2), f"{d_k:3}"  # (2000, 5, 5)
    for scores in (plain, plain / d_k**0.5):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        share = powers / powers.sum(axis=-1, keepdims=True)
        line += f"{scores.std():9.1f} {share.max(axis=-1).mean():10.2f}   "
    print(line.rstrip())

# %% [markdown]
# With the root the two numbers stay, whatever $d_k$ is. Without it the scores grow as $\sqrt{d_k}$, and soon one key
# takes nearly the whole row. Such a row is hard to train: where a share is almost 1 or almost 0, a small change of the
# scores hardly moves it, so hardly any gradient comes back (chapter 4).

# %% [markdown]
# Our example, and the same with the future hidden. With $n = h = 1$ the arrays are $(1, 1, 2, 1)$.

# %%
Q = np.array([np.log(3), 0.0]).reshape(1, 1, 2, 1)
K, V = np.array([1.0, 0.0]).reshape(Q.shape), np.array([8.0, 0.0]).reshape(Q.shape)
for label, visible in (("all visible", None), ("no future", np.tri(2, dtype=bool))):
    O, _ = attention_forward(Q, K, V, visible)
    _, cache = ops.attention_forward(Q, K, V, visible)  # the library's cache has P
    print(f"{label}: output {O.ravel()}, shares")
    print(cache.P[0, 0])

# %% [markdown]
# ## Attention in the model
#
# Four linear maps surround the operation: `query`, `key` and `value` make $Q$, $K$, $V$ out of the rows, and
# `output` mixes what the heads found. Between rows and heads there is a change of view. It goes in two moves:
#
# $$ (n T,\; d) \;\to\; (n, T, h, d_k) \;\to\; (n, h, T, d_k), \qquad d_k = d / h. $$
#
# The first only reads the row as $h$ pieces. The second swaps two axes. `split_heads` does both, `join_heads` goes the
# way back.

# %%
block = model.layer[0]
a = block.attention
normed, _ = block.norm1.forward(x)  # the rows of our two images, normalised
roles = (a.query, a.key, a.value)
rows = [linear_forward(normed, node.W, node.b)[0] for node in roles]  # (10, 64) each
Q, K, V = (split_heads(r, n=2, T=5, heads=4) for r in rows)  # (2, 4, 5, 16) each
O, _ = attention_forward(Q, K, V)
y, _ = linear_forward(join_heads(O), a.output.W, a.output.b)  # (10, 64)

theirs, _ = a.forward(normed, arranged.groups)
print("rows", y.shape, "as the library's:", np.allclose(y, theirs, atol=1e-5))
shares = ops.attention_forward(Q, K, V)[1].P
print("heads", Q.shape, "and their shares", shares.shape)
assert np.abs(y - theirs).max() < 1e-5

# %% [markdown]
# What do the heads look at? The shares of the first image:

# %% [markdown]
# <details><summary>Before you look: each row of such a table sums to one. Does each column, too?</summary>
#
# No. The softmax runs along the row: each token has one unit of attention to give. A token may get a great deal from
# all of them, or next to nothing.
#
# </details>

# %% tags=["hide-input", "picture"]
# Draws the image with its patches, and a table of shares for each head.
figure, axes = plt.subplots(1, 5, figsize=(11, 2.9), layout="constrained")
axes[0].imshow(test.inputs[0], cmap="gray_r", alpha=0.4)
axes[0].axhline(3.5, color="tab:orange")
axes[0].axvline(3.5, color="tab:orange")
for k in range(4):
    place = 1.5 + 4 * (k % 2), 1.5 + 4 * (k // 2)
    axes[0].text(*place, k, color="tab:orange", fontsize=16, ha="center", va="center")
axes[0].set(title="the four patches", xticks=[], yticks=[])
labels = ["class", "patch 0", "patch 1", "patch 2", "patch 3"]
for head, ax in enumerate(axes[1:]):
    ax.imshow(shares[0, head], cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(5, 5):
        share = shares[0, head, row, column]
        colour = "white" if share > 0.6 else "black"
        look = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
        ax.text(column, row, f"{share:.2f}".lstrip("0"), **look)
    ax.set(title=f"head {head}", xlabel="looks at")
    ax.set_xticks(range(5), labels, rotation=90)
    ax.set_yticks(range(5), labels if head == 0 else [])
axes[1].set_ylabel("this token")
plt.show()
# of the class token, in heads 0, 1 and 3:
assert shares[0, [0, 1, 3], 0].argmax(axis=1).tolist() == [3, 2, 1]

# %% [markdown]
# *Left the image, a 0, with the numbers of its patches. Beside it four tables of 5 x 5, one a head: which share of its
# attention each token (row) gives to each token (column). A row sums to 1, and has one or a few dark cells. The heads
# differ: the class token looks mostly at patch 2 in head 0, at patch 1 in head 1, at patch 0 in
# head 3.*

# %% [markdown]
# ## The block
#
# A layer of the model is a **block** of two halves. The first lets the rows talk, the second works on each row by
# itself:
#
# $$ h = x + \text{attention}(\text{norm}_1(x)), \qquad y = h + \text{mlp}(\text{norm}_2(h)) . $$
#
# - Neither half replaces $x$. Each *adds* to it. This is the **residual path**: what came in is still there at the end.
# - The norm comes first, inside the half. This is called *pre-norm*. BERT has the norm after the sum, *post-norm*.
# - The **MLP** is three steps: the linear map `up` from 64 to 128, GELU, the linear map `down` back to 64.
#
# Every part of the library's model is a small object with a `forward` that returns output and cache:
# `block.norm1.forward(x)`, `block.attention.forward(x, groups)`, `block.norm2.forward(x)`, `block.mlp.forward(x)`.
# Attention alone needs the groups. You have done by hand what the first three do; this is the fourth:

# %%
m = block.mlp
h, _ = linear_forward(x, m.up.W, m.up.b)  # (10, 128)
g, _ = gelu_forward(h)  # (10, 128)
y, _ = linear_forward(g, m.down.W, m.down.b)  # (10, 64)
theirs, _ = m.forward(x)
print(x.shape, "->", h.shape, "->", y.shape)
print("as the library's:", np.allclose(y, theirs, atol=1e-5))
assert np.abs(y - theirs).max() < 1e-5

# %% [markdown]
# ### Exercise: `block_forward` ({{block_forward}})
#
# Write `block_forward(block, x, groups)`: the two formulas, with the parts of `block`. Return `(y, cache)`. The cache
# may be anything, such as a tuple of the caches of the parts.


# %% exercise="block_forward"
from lora_np.course.exercises.block_forward import block_forward

# %% check="block_forward"
lnp.course.check("block_forward", block_forward)

# %% [markdown]
# ## The whole model
#
# Now all of it, for the 497 test images at once: embed, four blocks, a last norm, then one linear map from the class
# token of each image to ten numbers, the **logits**.

# %%
batch = lnp.Batch.of(tokens(test.inputs))
arranged = model.embeddings.arrange(batch)
x, _ = model.embeddings.forward(arranged)  # (2485, 64)
states = [x]
for block in model.layer:
    x, _ = block_forward(block, x, arranged.groups)
    states.append(x)


# %%
def read_out(x):
    """From hidden rows to logits: last norm, class token of each image, classifier."""
    norm, last = model.norm, model.head.classifier
    x, _ = layer_norm_forward(x, norm.gamma, norm.beta, norm.eps)
    first, _ = ops.pool_first_forward(x, arranged.groups)  # (497, 64): one row an image
    return linear_forward(first, last.W, last.b)[0]


logits = read_out(x)
theirs, _ = model.forward(batch)
agree = np.allclose(logits, theirs, atol=1e-5)
print("logits", logits.shape, "agree with the library's to 1e-5:", agree)
print("image 0:", logits[0].astype(np.float64).round(2))
print("-> digit", logits[0].argmax(), "label", test.labels[0])
assert np.abs(logits - theirs).max() < 1e-5

# %% [markdown]
# Why 1e-5, and not exactly? The numbers are float32, with about 7 digits. A sum in another order is rounded
# differently. The same model in float64 shows how much rounding there is in all:

# %%
double = batch._replace(content=batch.content.astype(np.float64))
exact, _ = lnp.astype(model, np.float64).forward(double)
below = np.abs(theirs - exact).max() < 5e-5
print("float32 differs from float64 by less than 5e-5:", below)
assert 1e-7 < np.abs(theirs - exact).max() < 5e-5

# %% [markdown]
# We kept the rows after each block. What would the classifier say, if we stopped earlier?

# %% [markdown]
# <details><summary>Before you look: how many of ten images does the classifier read rightly before the first block,
# and how many after two of the four?</summary>
#
# Before the first block one of ten, by luck: the class token has not met the image yet. After two blocks more than
# eight. Each block adds to the same rows, so what the first ones found can be read already.
#
# </details>

# %% tags=["measured"]
right = [100 * (read_out(x).argmax(axis=1) == test.labels).mean() for x in states]
print("accuracy after 0, 1, 2, 3, 4 blocks, %:", *(f"{a:.1f}" for a in right))
assert right[0] < 20 and 35 < right[1] < 65 and 75 < right[2] < 92
assert right[3] > 95 and right[4] > 97.5

# %% tags=["hide-input", "measured"]
# Draws the accuracy over the number of blocks.
figure, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
ax.plot(range(5), right, "o-", color="tab:blue", label="read after so many blocks")
ax.axhline(10, color="black", linestyle=":", label="guessing")
ax.set(xlabel="blocks gone through", xticks=range(5))
ax.set(ylabel="test accuracy, %", ylim=(0, 105))
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# *Accuracy over the number of blocks: at the level of guessing before the first, about one half after one block, then
# rising to nearly all after four.*
#
# Before the first block the class token has not seen the image, so the model says the same digit for each. Each block
# lets the class token gather more. We may read it out early because of the residual path: a block does not replace
# what is there, it adds to it.
#
# And on digits that are turned and inverted?

# %% tags=["measured"]
mixed = lnp.load_data("digits-mixed")[2]
shifted, _ = model.forward(lnp.Batch.of(tokens(mixed.inputs)))
share = (shifted.argmax(axis=1) == mixed.labels).mean()
print(f"test accuracy, upright: {right[4]:.1f} %")
print(f"turned and inverted:    {100 * share:.1f} %")
assert 0.18 < share < 0.27

# %% [markdown]
# There is the gap that LoRA is to close in chapter 6.

# %% [markdown]
# ## Your code runs the model
#
# So far your functions met the model one at a time, and inside the blocks the library's parts still did the work.
# `lnp.course.assemble` puts yours into *every* node: the same arrays, and your code in between. Where an answer of
# yours is missing or not right, the library's stays, and the list says so.
#
# Your right answers are kept as text in `my_answers.py`, beside this notebook. Read it, and edit it if you like: each
# answer is checked again before it is used. The chapters to come use it.

# %%
mine = lnp.course.assemble(model)
print(mine)

# %% [markdown]
# Five operations are the exercises of this chapter. The other nine are those of chapter 4: all the ways back, and the
# loss. Now the test images, once through your code:

# %% tags=["measured"]
logits, _ = mine.model.forward(batch)
share = (logits.argmax(axis=1) == test.labels).mean()
print(f"{100 * share:.1f} % of the {len(test)} test images are read rightly")
assert share > 0.975

# %% [markdown]
# And number by number: a *stage* is what one part of the model gives. What does your code give there, and what the
# library's? Both run in float64, so that hardly anything is lost to rounding. If a stage differed, the first one would
# be named.

# %% tags=["measured"]
comparison = mine.compare(lnp.Batch.of(tokens(test.inputs[:20])))
print(comparison)
assert comparison.first is None

# %% [markdown]
# ## Where the multiplications are
#
# A linear map costs $N d_\text{in} d_\text{out}$ multiplications. In attention, $Q K^T$ and $P V$ cost $T^2 d$ each for
# every sequence and layer, all heads together. Count both, for one image, and for a text of 512 tokens in a model of
# the size of BERT-base:


# %%
def multiplications(T, d, inner, layers):
    """For one sequence, in the linear maps of the blocks and in attention."""
    linear = T * (4 * d * d + 2 * d * inner)  # query, key, value, output; up, down
    attention = 2 * T * T * d
    return layers * linear, layers * attention


print("               linear maps     attention   share of linear maps")
for label, *sizes in ("our image", 5, 64, 128, 4), ("512 tokens", 512, 768, 3072, 12):
    linear, attention = multiplications(*sizes)
    share = 100 * linear / (linear + attention)
    print(f"{label:10} {linear:15,d} {attention:13,d} {share:10.1f} %")

arrays = lnp.parameters(model)
weights = [W.size for name, W in arrays.items() if name[:5] == "layer" and W.ndim == 2]
held = 100 * sum(weights) / lnp.count_parameters(model).total
print(f"the {len(weights)} matrices hold {held:.0f} % of the parameters")

# %% [markdown]
# The linear maps are nearly everything. They hold nearly all the numbers, too. So this is where LoRA goes: beside all
# six linear maps of a block, or some of them. The line `y = x @ W + b` is the one that chapter 5 changes.

# %% [markdown]
# ## Mistakes that raise no error
#
# Each of these has the right shapes. We put three of them into the model, one by one, and look at the logits and at the
# accuracy; the fourth is shown on a small array. `rebuild` makes a copy of the model in which some parts are replaced.


# %%
def transposed(path, node):  # W of query, key and value is square: W.T fits as well
    square = path.endswith(("query", "key", "value"))
    return dataclasses.replace(node, W=node.W.T) if square else node


def divided_by_d_minus_1(_, node):  # the "unbiased" variance: xhat shrinks so
    shrunk = np.float32((63 / 64) ** 0.5)
    norm = hasattr(node, "eps")
    return dataclasses.replace(node, gamma=node.gamma * shrunk) if norm else node


def other_gelu(_, node):  # the tanh form, an approximation that GPT-2 was trained with
    mlp = hasattr(node, "activation")
    return dataclasses.replace(node, activation="gelu_new") if mlp else node


# %% tags=["measured"]
def mistake(change):
    """How far the logits move, and the accuracy, if `change` replaces each part."""
    wrong, _ = rebuild(model, change).forward(batch)
    return np.abs(wrong - theirs).max(), (wrong.argmax(axis=1) == test.labels).mean()


changes = (transposed, divided_by_d_minus_1, other_gelu)
mistakes = {change.__name__: mistake(change) for change in changes}
print("                       logits move by   accuracy")
for name, (distance, share) in mistakes.items():
    print(f"{name:22} {distance:14.3f} {100 * share:10.1f} %")


# %% tags=["measured"]
def heads_without_swap(rows, n, T, heads):  # the right shape, the wrong numbers
    return rows.reshape(n, heads, T, -1)


rows = np.arange(8).reshape(2, 4)  # one image, two tokens: 0 1 2 3 and 4 5 6 7
print("two heads, right:", split_heads(rows, 1, 2, 2).tolist())
print("two heads, wrong:", heads_without_swap(rows, 1, 2, 2).tolist())
assert mistakes["transposed"][1] < 0.3
assert 0.01 < mistakes["divided_by_d_minus_1"][0] < 0.5
assert 1e-4 < mistakes["other_gelu"][0] < 0.02
assert min(mistakes["divided_by_d_minus_1"][1], mistakes["other_gelu"][1]) > 0.975

# %% [markdown]
# The transposed weights ruin the model, and you would notice. The other two move the logits a little and leave the
# accuracy as it is. You would not notice, until you compare with somebody else's numbers. So compare **logits**, not
# accuracy.
#
# The fourth mistake is in the split into heads. In the wrong one, the first head holds all of token 0, cut in two, and
# nothing of token 1.

# %% [markdown]
# ## What you built
#
# - `linear_forward`, `layer_norm_forward`, `gelu_forward` and `attention_forward` are in `lora_np.ops`. These give the
#   same numbers as yours, but for rounding, and name the shapes that do not fit. Where something else is faster, their
#   code differs: rows are summed by a matrix product, results are written over arrays that nobody needs any more, and
#   float32 has its own erf. Read yours first, and theirs beside it.
# - `block_forward` is `PreNormBlock.forward` in `lora_np.model.blocks`.
# - The whole is `Transformer.forward` in `lora_np.model.transformer`.

# %% [markdown]
# ## Traps met in real projects
#
# - **Heads without the swap.** FuxiCTR split heads by a reshape alone, and three of its models were hit
#   (reczoo/FuxiCTR, issue 30). In jsbaan/transformer-from-scratch the swap was missing on the way back, and the
#   training test still passed: the task was so easy that the network learned around the bug (pull request 6).
# - **Another variance.** The Annotated Transformer calls `x.std(-1)`, which in PyTorch divides by $d - 1$, and adds
#   epsilon outside the root. The paper and `nn.LayerNorm` do neither (harvardnlp/annotated-transformer, issue 122).
#   BERT-pytorch copied it (codertimo/BERT-pytorch, issue 30).
# - **Which GELU.** Weights trained with the tanh form were run with the exact one in pocket-tts, where the difference
#   was too small to be heard (kyutai-labs/pocket-tts, pull request 278), and in NVIDIA's bridge for Gemma
#   (NVIDIA-NeMo/Megatron-Bridge, pull request 4661).
# - **A query that sees nothing.** If all keys of a query are hidden, its shares are 0 / 0. In PyTorch that gives NaN,
#   and NaN gradients for everything (pytorch/pytorch, issue 41508). The library here refuses such a mask with a
#   sentence.
# - **W or its transposed.** PyTorch's `nn.Linear` keeps $W$ as (d_out, d_in), GPT-2's `Conv1D` as (d_in, d_out). PEFT
#   has an option for just this, `fan_in_fan_out`. An early version guessed it from the number of target modules, and
#   warned its users of a choice they had not made (huggingface/peft, issues 155 and 324).

# %% [markdown]
# ## Can you say it?
#
# <details><summary>1. All scores of one query rise by 5. How do its shares change? And if all its scores are
# doubled?</summary>
#
# Raised by 5: not at all, as the factor e^5 stands above and below in the fraction. Doubled: the differences double,
# so the largest share grows and the others shrink.
#
# </details>
#
# <details><summary>2. The input of a pre-norm block is doubled. Does its attention half add something else than
# before?</summary>
#
# No. The norm at its beginning takes the factor out, but for the tiny epsilon, so attention sees the same rows. Only
# the straight path carries the doubled input.
#
# </details>
#
# <details><summary>3. You change one image of a batch. Which logits move, and why no others?</summary>
#
# Those of this image alone. Linear map, norm and GELU treat each row by itself, and attention mixes the rows of one
# sequence only.
#
# </details>

# %% [markdown]
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** Leave out `embeddings.position`. What accuracy is left? What happens to the logits if you also shuffle the
# patches of each image?
#
# <details><summary>An answer</summary>
#
# With the table set to zeros, 45 % of the upright test images are still read rightly. And now the order of the patches
# is nothing to the model: shuffled, the logits are the same but for rounding (7e-6 at most). Attention is a weighted
# mean, and a mean does not know the order of its terms. Only the position rows told the patches apart. With them, the
# same shuffled images give 44 %.
#
# </details>
#
# **2.** The class token gathers the answer. What if you classify the mean of the four patch rows instead, without any
# training?
#
# <details><summary>An answer</summary>
#
# 67 % of the test images, where the class token gives 98.8 %. One patch row alone gives 37 to 60 %, the mean of all
# five rows 85 %. Nobody trained these rows for the classifier. But all rows pass through the same blocks and look at
# each other, so much of the answer stands in them as well.
#
# </details>
#
# **3.** From which number of tokens on does attention cost more than the linear maps, in a model of the size of
# BERT-base?
#
# <details><summary>An answer</summary>
#
# A block's linear maps cost T (4 d^2 + 2 d * 4 d) = 12 T d^2, attention costs 2 T^2 d. They are equal at T = 6 d =
# 4,608 tokens. BERT reads 512 at most, and there the linear maps cost nine times as much as attention.
#
# </details>
