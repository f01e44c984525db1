# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. The LoRA layer
#
# After this chapter you can
#
# - say what LoRA makes small (the *update* of a weight) and what it leaves alone (the weight);
# - write the forward and the backward of a LoRA layer, and prove the backward;
# - say which product is never computed, and count what that saves;
# - explain why `B` begins at zero, and why `A` must not;
# - say what `lora_alpha` and `r` do together.
#
# **Needs** chapters 1 (low rank), 3 (checking a gradient) and 4 (the backward of a linear map).
# **Time** about 70 minutes. **Difficulty** medium.
#
# **In 20 minutes:** [One row, by hand](#One-row,-by-hand), [Forward: four steps](#Forward:-four-steps), [The
# scale](#The-scale) and [In the whole model](#In-the-whole-model), without the exercises.
#
# The chapter answers what LoRA is and why it suits scarce resources, names its first limits, and does three of its five
# steps: decompose, go forward, take the gradients of the two thin matrices.

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.adapt.lora import lora_scale
from lora_np.compress import low_rank_approximation
from lora_np.model.tree import with_arrays
from lora_np.ops.lora_linear import LoRALinearCache

np.set_printoptions(precision=3, suppress=True)
BLUE, ORANGE = "tab:blue", "tab:orange"

# %% [markdown]
# ## The question
#
# A linear map of the digits model has a weight `W` of 64 x 64 = 4,096 numbers. Fine-tuning changes all of them.
# For each it needs a gradient, and the usual optimiser, AdamW (chapter 6), keeps two running means of it: three more
# arrays as large as `W`.
#
# Chapter 1 looked at what fine-tuning did: the change of `W` had few strong directions. `W` itself did not.
# So do not train 4,096 numbers and find out afterwards that the change was thin. **Make it thin from the start.**
# Freeze `W`. Train a change that is a product of two thin matrices:
#
# $$W \;\to\; W + s\,A B, \qquad A:\,(d_{in}, r), \quad B:\,(r, d_{out}), \quad s \text{ a number.}$$
#
# That is LoRA, "low-rank adaptation" (Hu et al. 2021, arXiv:2106.09685, section 4.1).

# %% [markdown]
# ## One row, by hand
#
# One input of three numbers, two outputs, rank one. As in the other chapters an input is a *row*, so the map is `x W`,
# and `W` has the shape (inputs, outputs). Do it on paper first.
# The detour goes *down* from 3 numbers to 1, and *up* again to 2.

# %%
x = np.array([[1.0, 2.0, 3.0]])  # (1, 3)
W = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (3, 2)  frozen
A = np.array([[1.0], [0.0], [1.0]])  # (3, 1)
B = np.array([[2.0, -1.0]])  # (1, 2)
s = 0.5

print("x W              =", x @ W)
print("x A              =", x @ A, "    down")
print("(x A) B          =", (x @ A) @ B, "  up")
print("x W + s (x A) B  =", x @ W + s * (x @ A) @ B)

# %% [markdown]
# The same answer comes from one changed weight. But then `A B` has to be formed, as large as `W`.
# The detour never forms it.

# %%
print("s A B =", *(s * A @ B), sep="\n")
print("x (W + s A B) =", x @ (W + s * A @ B))

# %% [markdown]
# ## What is thin? Not the weight
#
# "LoRA decomposes the model's parameters" is a common sentence, and it is wrong.
# Try it: replace each of the model's 24 weights by its best approximation of rank 4 (chapter 1).
# First the model as it is, on the test digits:

# %% tags=["measured"]
model = lnp.load_pretrained("digits")
test = lnp.load_data("digits")[2]
batch = lnp.Batch.of(lnp.load_tokenizer("digits")(test.inputs))


def accuracy(model):
    """Return the share of the test digits that a model names rightly."""
    logits, _ = model.forward(batch)
    return (logits.argmax(axis=1) == test.labels).mean()


print(f"the model: {accuracy(model):.1%}")

# %% [markdown]
# Two helpers of the library come in. `with_arrays` returns a copy of the model in which some arrays are replaced: here
# the weights, by thin ones. `inject` returns a model with all its weights, and beside each of them stands a change
# `s A B` of rank `r`. The number `s` is `lora_alpha / r`, here 2 (more of it under "The scale"). Nothing is trained
# yet, so the change is still zero.

# %% tags=["measured"]
config = lnp.LoRAConfig(r=4, lora_alpha=8, target_modules="all-linear")
lora = lnp.inject(model, config, np.random.default_rng(0))

thin = {}
for name, weight in lnp.parameters(lora).items():
    if name.endswith(".W") and name.startswith("layer."):
        left, right = low_rank_approximation(weight, 4)
        thin[name] = left @ right
cut = with_arrays(model, thin)

print(f"its {len(thin)} weights cut to rank 4:       {accuracy(cut):6.1%}")
print(f"its weights, and a change of rank 4: {accuracy(lora):6.1%}")
assert len(thin) == 24 and accuracy(cut) < 0.2
assert accuracy(lora) == accuracy(model) > 0.97

# %% [markdown]
# Cutting the weights ruins the model; guessing would be right in about 10 %. What it knows is spread over many
# directions.
# LoRA throws nothing away. It keeps every weight whole, and says only that the **change** is thin.
# For the 64 x 64 weights, that is this picture, drawn to scale.

# %% tags=["hide-input", "picture"]
# Draws W, A and B to scale.
fig, ax = plt.subplots(figsize=(7, 3))
boxes = (
    (0, 0, 64, 64, "0.8", "W: 64 x 64 = 4096, frozen"),
    (106, 0, 4, 64, BLUE, "A: 64 x 4 = 256"),
    (140, 30, 64, 4, ORANGE, "B: 4 x 64 = 256"),
)
for left, bottom, width, height, color, text in boxes:
    ax.add_patch(plt.Rectangle((left, bottom), width, height, color=color))
    ax.text(left + width / 2, -5, text, ha="center", va="top")
for place, sign in ((84, "+   s"), (125, "@")):
    ax.text(place, 32, sign, ha="center", va="center", fontsize=14)
ax.set(xlim=(-8, 212), ylim=(-14, 66), aspect="equal")
ax.axis("off")
plt.show()

# %% [markdown]
# *The frozen weight as a grey square; beside it the narrow column A and the flat row B, which together hold an eighth
# of its numbers.*

# %% [markdown]
# ## Forward: four steps
#
# For a batch of $N$ rows, where $\odot$ multiplies entry by entry:
#
# | | step | shape | |
# | --- | --- | --- | --- |
# | (1) | $y_0 = x W + b$ | $(N, d_{out})$ | the pretrained map, frozen |
# | (2) | $z = x \odot \text{mask}$ | $(N, d_{in})$ | dropout on the detour's input only; without a mask $z = x$ |
# | (3) | $u = z A$ | $(N, r)$ | down |
# | (4) | $y = y_0 + s\, u B$ | $(N, d_{out})$ | up, scaled, added |
#
# *Dropout* is used in training only: a random share $p$ of the entries is set to zero, and the others are divided by
# $1 - p$. The mask holds these factors, 0 or $1 / (1 - p)$, one for each entry of $x$. So the mean over all masks stays
# what it was.
#
# By hand, with the row from above and $p = \tfrac12$: the factors are 0 and 2. The masks $(2, 0, 2)$ and $(0, 2, 0)$
# are as likely as each other. What is $y$ with each of the two, and what is the mean of both?

# %%
for mask in ([2.0, 0, 2], [0, 2.0, 0]):
    z = x * mask
    print("z =", z, " y =", x @ W + s * (z @ A) @ B)

# %% [markdown]
# The two $y$ differ a lot: $(12, 1)$ and $(4, 5)$. Their mean is $(8, 3)$, which is $y$ without dropout. And $x W$ is
# the same in both, as the mask acts on the detour alone.
#
# The backward will want some results of the four steps again. They go into the cache:
#
# | field of `LoRALinearCache` | shape | |
# | --- | --- | --- |
# | `z` | $(N, d_{in})$ | step 2 |
# | `u` | $(N, r)$ | step 3 |
# | `W`, `A`, `B` | | as given |
# | `scale` | | a float |
# | `mask` | $(N, d_{in})$ or `None` | as given |

# %% [markdown]
# ### Exercise: the forward ({{lora_linear_forward}})
#
# Write the four steps. `b` may be `None`, and so may `mask`.


# %% exercise="lora_linear_forward"
from lora_np.course.exercises.lora_linear_forward import lora_linear_forward

# %% check="lora_linear_forward"
lnp.course.check("lora_linear_forward", lora_linear_forward)

# %% [markdown]
# ## Backward: undo the steps
#
# Write `dy` for the gradient of the loss with respect to `y`: how much the loss moves when an entry of `y` is nudged.
# One rule of chapter 4 is enough: a linear map $y = x W$ has $dW = x^T dy$ and $dx = dy\, W^T$.
# Go from the last step to the first, with four questions.
#
# - **(4)** $y = y_0 + s\, u B$. `B` is the weight of a linear map. What is the input of this map? So what is $dB$, and
#   what goes on to $u$? Where does $s$ stand in each? And what does the other summand, $y_0$, receive?
# - **(3)** $u = z A$. `A` is the weight of a linear map, too. What is its input, and what its upstream gradient?
# - **(2)** $z = x \odot \text{mask}$. What comes back to $x$ by the detour?
# - **(1)** $y_0 = x W + b$. What comes back to $x$ by the pretrained map? Both paths began at the same $x$. So what is
#   $dx$?
#
# There is no `dW` and no `db`: both are frozen. But `W` still takes part, because `dx` goes through it to the layers
# below.
#
# The example by hand again, without a mask, with `dy = [1, 1]`: find `dB`, `du`, `dA` and `dx` on paper. Then compare
# with the library.

# %%
_, cache = ops.lora_linear_forward(x, W, None, A, B, s)
dx, dA, dB = ops.lora_linear_backward(np.array([[1.0, 1.0]]), cache)
print("dB =", dB)
print("dA =", dA.T, " (written as a row)")
print("dx =", dx)

# %% [markdown]
# ### Exercise: the backward ({{lora_linear_backward}})
#
# Write it for any mask and scale. Return `dx`, `dA`, `dB`.


# %% exercise="lora_linear_backward"
from lora_np.course.exercises.lora_linear_backward import lora_linear_backward

# %% check="lora_linear_backward"
lnp.course.check("lora_linear_backward", lora_linear_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# - (4) The input of this map is s u. So `dB = scale * u.T @ dy`, and to u goes `du = scale * dy @ B.T`. The other
#   summand receives dy as it is.
# - (3) The input is z, the upstream gradient is du: `dA = z.T @ du`, and `dz = du @ A.T`.
# - (2) The detour sends `dz * mask` back to x.
# - (1) The pretrained map sends `dy @ W.T`. Where the paths meet, they add: `dx = dz * mask + dy @ W.T`.
#
# By hand: u = 4, so dB = 0.5 · 4 · (1, 1) = (2, 2). du = 0.5 · (2 - 1) = 0.5, so dA = 0.5 · (1, 2, 3). W sends back
# (1, 1, 2) and the detour 0.5 · (1, 0, 1): dx = (1.5, 1, 2.5).
#
# </details>

# %% [markdown]
# ## Prove it
#
# `lnp.gradcheck.check` nudges each entry of `x`, `A` and `B` and compares (chapter 3). `B` must not be zero here, nor
# `scale` one. With `B = 0`, `dA` is zero, and a backward that returned zeros for it would pass.

# %%
rng = np.random.default_rng(5)
shapes = {"x": (5, 4), "A": (4, 2), "B": (2, 3)}
inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
fixed = {"W": rng.standard_normal((4, 3)), "b": rng.standard_normal(3), "scale": 1.7}
fixed["mask"] = ops.dropout_mask((5, 4), 0.3, rng, np.float64)

check = lnp.gradcheck.check
report = check(ops.lora_linear_forward, lora_linear_backward, inputs, fixed)
for row in report.rows:
    print(f"d{row.argument} {row.shape}: {row.verdict}")
assert report.ok

# %% [markdown]
# ## The product that is never computed
#
# Full fine-tuning would need the gradient of `W`. Without a mask, so with $z = x$, it is $G = z^T dy$, of shape
# $(d_{in}, d_{out})$.
# Put the steps of the backward together:
#
# $$dB = s\, u^T dy = s\,(zA)^T dy = s\, A^T G, \qquad dA = z^T du = s\, z^T dy\, B^T = s\, G B^T.$$
#
# So LoRA sees $G$ through two thin windows, $A$ and $B$. What lies outside both windows, it does not see in this step.
# And nobody has to form $G$: $u^T dy$ and $z^T du$ give the same numbers.

# %%
x2, A2, B2 = inputs["x"], inputs["A"], inputs["B"]
dy2 = rng.standard_normal((5, 3))
_, cache = ops.lora_linear_forward(x2, fixed["W"], None, A2, B2, 1.7)
_, dA, dB = lora_linear_backward(dy2, cache)

G = x2.T @ dy2  # only to compare
assert np.abs(dA - 1.7 * G @ B2.T).max() < 1e-12
assert np.abs(dB - 1.7 * A2.T @ G).max() < 1e-12
print("dA = s G B^T and dB = s A^T G: largest difference below 1e-12")

# %% [markdown]
# ### What one step does to the weight
#
# Full fine-tuning moves the weight by $-\eta\, G$, with $\eta$ the learning rate. What does LoRA move it by? One step
# makes $A - \eta\, dA$ of $A$, and $B - \eta\, dB$ of $B$. Multiply out:
#
# $$s\,(A - \eta\, dA)(B - \eta\, dB) = s A B - \eta\, s\,(A\, dB + dA\, B) + \eta^2 s\, dA\, dB.$$
#
# Put in $dB = s A^T G$ and $dA = s\, G B^T$. To first order in $\eta$, $s A B$ moves by
#
# $$-\eta\; s^2 \left( A A^T G + G B^T B \right).$$
#
# This is $G$, seen through the two windows. $A A^T G$ has only columns that $A$ can make, and $G B^T B$ only rows that
# $B$ can make. Each is of rank $r$ at most. (And $s$ counts twice: doubling it makes the step four times as large.)
#
# A check: what the formula leaves out must shrink with $\eta^2$.

# %%
seen = A2 @ A2.T @ G + G @ B2.T @ B2
for eta in (1e-2, 1e-3, 1e-4):
    moved = 1.7 * (A2 - eta * dA) @ (B2 - eta * dB) - 1.7 * A2 @ B2
    rest = np.abs(moved + eta * 1.7**2 * seen).max()
    print(f"eta {eta:.0e}: moved by {np.abs(moved).max():.1e}, left out {rest:.1e}")

# %% [markdown]
# <details><summary>Before you look: the columns of A are the columns 3 and 4 of the identity (the first is 0), the rows
# of B its rows 6 and 7. Which entries of G does the step see?</summary>
#
# The rows 3 and 4 of G, through A, and its columns 6 and 7, through B: a cross. The four entries where they meet
# count twice. All others may be as large as they like: this step does not see them.
#
# </details>

# %% tags=["hide-input"]
# Draws what two pairs of A and B see of a G, and what they do not see.
draw = np.random.default_rng(2)
G3, unit = draw.standard_normal((12, 16)), np.eye(16)
slanted = [np.linalg.qr(draw.standard_normal((n, 2)))[0] for n in G3.shape]
pairs = {
    "along the axes": (unit[:12, 3:5], unit[6:8]),
    "in any direction": (slanted[0], slanted[1].T),
}
titles = ("$G$", "$A A^T G$", "$G B^T B$", "the sum", "seen by neither")
fig, axes = plt.subplots(2, 5, figsize=(9.6, 3.3), layout="constrained")
for row, (name, (A3, B3)) in zip(axes, pairs.items()):
    left, right = A3 @ A3.T @ G3, G3 @ B3.T @ B3
    rest = G3 - left - right + A3 @ A3.T @ right
    for ax, title, part in zip(row, titles, (G3, left, right, left + right, rest)):
        image = ax.imshow(part, cmap="RdBu", vmin=-3, vmax=3)
        ax.set(xticks=[], yticks=[], title=title)
    row[0].set_ylabel(name)
    assert max(np.abs(A3.T @ rest).max(), np.abs(rest @ B3.T).max()) < 1e-12
fig.colorbar(image, ax=axes)
plt.show()

# %% [markdown]
# *Two rows of five tables: G; what A sees of it; what B sees; the sum; the rest. Above, with A and B along the axes, A
# sees two rows, B two columns, and the sum is a cross, which the rest lacks. Below, with A and B in any direction, both
# parts lie thinly over the whole table.*
#
# At the start of LoRA $B$ is zero. Then the second window is shut, and the first step sees $A A^T G$ alone. But the
# windows move: $A$ and $B$ change with each step. So what is not seen now may be seen later.

# %% [markdown]
# ## Count it
#
# How much does that save? Do not guess: let the arrays count. This kind of array behaves as any other, but notes
# the multiplications of each product: rows, times inner size, times columns.


# %%
class Counted(np.ndarray):
    """An array that counts the multiplications of matrix products."""

    total = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul:
            (rows, inner), (_, columns) = (array.shape for array in inputs)
            Counted.total += rows * inner * columns
        plain = [a.view(np.ndarray) if isinstance(a, Counted) else a for a in inputs]
        return getattr(ufunc, method)(*plain, **options).view(Counted)


def count(forward, backward, N, sizes):
    """Return the multiplications of forward and backward, in units of N * d * d."""
    arrays = [np.ones(size).view(Counted) for size in sizes]
    x, dy = (np.ones((N, sizes[0][0])).view(Counted) for _ in range(2))
    totals = [Counted.total]
    _, cache = forward(x, arrays)
    totals.append(Counted.total)
    backward(dy, cache)
    totals.append(Counted.total)
    return np.diff(totals) / (N * sizes[0][0] ** 2)


# %%
def full_step(d, N=8):
    def forward(x, arrays):
        return ops.linear_forward(x, *arrays)

    return count(forward, ops.linear_backward, N, [(d, d)])


def lora_step(d, r, N=8):
    def forward(x, arrays):
        W, A, B = arrays
        return ops.lora_linear_forward(x, W, None, A, B, 2.0)

    return count(forward, ops.lora_linear_backward, N, [(d, d), (d, r), (r, d)])


print("              forward  backward  together    trained")
for d, r in ((64, 4), (768, 8)):
    for name, (there, back), trained in (
        (f"d {d:3}  full", full_step(d), d * d),
        (f"d {d:3}  r = {r}", lora_step(d, r), 2 * d * r),
    ):
        print(f"{name}  {there:7.3f}  {back:8.3f}  {there + back:8.3f}  {trained:9,}")

# %% [markdown]
# The unit is one product of the batch with `W`. Read the table twice.
#
# **What shrinks: the trained numbers.** 512 in place of 4,096 at $d = 64$; 12,288 in place of 589,824 at $d = 768$.
# The gradient, AdamW's two means and the file on disk shrink with them. This is what suits scarce memory.
#
# **What hardly shrinks: the work.** Full training takes three products with $d \times d$ matrices: $xW$, $dx$, $dW$.
# LoRA drops $dW$ and adds six thin ones, two forward ($zA$, $uB$) and four backward ($dB$, $du$, $dA$, $dz$):
#
# $$\frac{\text{LoRA}}{\text{full}} = \frac{2 + 6\,r/d}{3} \qquad \text{for square weights.}$$
#
# So one layer saves at most a third of the multiplications, and from $r = d/6$ on it saves none.
# Seconds are another matter: chapter 6 measures them.

# %%
ranks = np.array([1, 2, 4, 8, 12, 16, 24])
ratio = [lora_step(64, r).sum() / full_step(64).sum() for r in ranks]
assert np.allclose(ratio, (2 + 6 * ranks / 64) / 3)

# %% tags=["hide-input"]
# Draws the counted multiplications, and the line of the formula.
line = np.linspace(0, 25)
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(line, (2 + 6 * line / 64) / 3, color=BLUE, label="(2 + 6 r / d) / 3")
ax.plot(ranks, ratio, "o", color=BLUE, label="counted, d = 64")
ax.axhline(1, color="black", linestyle="--", label="full fine-tuning")
ax.axvline(64 / 6, color="0.6", linestyle=":", label="r = d / 6")
ax.set(xlabel="rank r", ylabel="multiplications, full = 1", ylim=(0, 1.6))
ax.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# *The counted multiplications of a LoRA step lie on a straight line: two thirds of full fine-tuning at rank near zero,
# equal to it at a sixth of the width, above it beyond.*

# %% [markdown]
# ## Where to begin
#
# `A` and `B` need starting values. Four choices come to mind. Look at the gradients first, with $dA = s\,G B^T$ and
# $dB = s\,A^T G$:
#
# | start | change $s A B$ | $dA$ | $dB$ |
# | --- | --- | --- | --- |
# | `A` random, `B` zero | 0 | 0 | not 0 |
# | `A` zero, `B` random | 0 | not 0 | 0 |
# | both zero | 0 | 0 | 0 |
# | both random | not 0 | not 0 | not 0 |
#
# Row three never moves. Row four does not begin at the model that you loaded.
# Let us see it: a small problem whose best answer is `W` plus a change of rank 2.

# %%
rng = np.random.default_rng(0)
x3, W3 = rng.standard_normal((64, 12)), rng.standard_normal((12, 8))
change = 0.3 * rng.standard_normal((12, 2)) @ rng.standard_normal((2, 8))
target = x3 @ (W3 + change)


def descend(A, B, steps=150, lr=0.5):
    """Return the losses of plain gradient descent on A and B."""
    A, B, losses = A.copy(), B.copy(), []
    for _ in range(steps):
        y, cache = ops.lora_linear_forward(x3, W3, None, A, B, 1.0)
        error = y - target
        losses.append((error * error).mean())
        _, dA, dB = lora_linear_backward(2 * error / error.size, cache)
        A -= lr * dA
        B -= lr * dB
    return losses


# %% [markdown]
# <details><summary>Before you look: which of the four curves stays flat? And will "both random", which does not begin
# at the loaded model, end higher than the others?</summary>
#
# "Both zero" stays flat: both gradients are zero. "Both random" begins higher and then falls as the others do. In this
# small problem nothing is lost by it. A pretrained model is a start that one wants to keep.
#
# </details>

# %%
A0, B0 = rng.uniform(-0.5, 0.5, (12, 2)), rng.uniform(-0.5, 0.5, (2, 8))
starts = {
    "A random, B zero": (A0, 0 * B0),
    "A zero, B random": (0 * A0, B0),
    "both zero": (0 * A0, 0 * B0),
    "both random": (A0, B0),
}
curves = {name: descend(*start) for name, start in starts.items()}
print("loss after step     0       20      100")
for name, losses in curves.items():
    print(f"{name:16} {losses[0]:.2e} {losses[20]:.2e} {losses[100]:.2e}")

# %% tags=["hide-input"]
# Draws the loss over the steps, from each of the four starts.
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
looks = ((BLUE, "-"), (BLUE, "--"), ("black", "-"), (ORANGE, "-"))
for (name, losses), (color, style) in zip(curves.items(), looks):
    ax.semilogy(losses, color=color, linestyle=style, label=name)
ax.set(xlabel="step", ylabel="loss", ylim=(1e-7, 10))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# *Loss over 150 steps: with both matrices zero the curve stays flat at the base model's loss; the other three fall, and
# only "both random" begins somewhere else.*

# %% [markdown]
# Both mixed starts work. (Which of them is ahead depends on the draw and the rate: do not read a ranking into one
# run.) LoRA takes the first: `A` random, `B` zero. Then the first forward is the base model to the
# bit, and training starts from what the model can do already.
# In the first step only `B` moves. From the second on, `B` is not zero, and `A` moves too.
#
# How large should `A` be? The paper draws from a normal distribution. PEFT draws from the uniform one between
# $-1/\sqrt{d_{in}}$ and $1/\sqrt{d_{in}}$, as PyTorch does for any linear layer. We do as PEFT does.

# %% [markdown]
# ### Exercise: the start ({{lora_init}})
#
# Return `A` and `B` as PEFT starts them, in the given dtype. `rng` is a NumPy generator.


# %% exercise="lora_init"
from lora_np.course.exercises.lora_init import lora_init

# %% check="lora_init"
lnp.course.check("lora_init", lora_init)

# %% [markdown]
# ## The scale
#
# $s$ is not trained. One chooses `lora_alpha`, and $s$ is `lora_alpha / r`.
#
# It acts like a learning rate for the change. The forward has $s$ once, and so has the gradient `dB`.
# Plain gradient descent feels both: twice the scale, four times the first change of the map.
# AdamW divides by the gradient's size, so it feels only one.


# %%
def first_change(scale, adam):
    """Return how far one step from B = 0 moves the map: the norm of scale * A B."""
    A, B = A0.copy(), np.zeros((2, 8))
    y, cache = ops.lora_linear_forward(x3, W3, None, A, B, scale)
    _, dA, dB = lora_linear_backward(2 * (y - target) / y.size, cache)
    if adam:
        lnp.AdamW({"A": A, "B": B}, lr=0.01, weight_decay=0.0).step({"A": dA, "B": dB})
    else:
        A, B = A - 0.01 * dA, B - 0.01 * dB
    return np.linalg.norm(scale * A @ B)


print("scale  gradient descent  AdamW     (change by the first step, scale 1 = 1)")
for scale in (1.0, 2.0, 4.0):
    plain = first_change(scale, adam=False) / first_change(1.0, adam=False)
    adam = first_change(scale, adam=True) / first_change(1.0, adam=True)
    print(f"{scale:5.0f}  {plain:16.3f}  {adam:5.3f}")

# %% [markdown]
# Why divide by $r$? $AB$ is a sum of $r$ terms, one for each column of `A` with its row of `B`.
# More terms make a larger sum; the division holds against it. The paper's reason: one can change $r$ without looking
# for a new learning rate (section 4.1).
#
# The price: if you raise $r$ from 4 to 16 and leave `lora_alpha` at 8, the scale falls from 2 to 0.5.
# Kalajdzievski 2023 (arXiv:2312.03732) finds $1/r$ too strong at large $r$, and divides by $\sqrt r$: "rsLoRA".

# %%
for r in (4, 16, 64):
    plain, by_root = lora_scale(r, 8, False), lora_scale(r, 8, True)
    print(f"r = {r:2}, lora_alpha = 8:  alpha / r = {plain:5.3f}", end="")
    print(f"   alpha / sqrt(r) = {by_root:5.3f}")

# %% [markdown]
# ## In the whole model
#
# `lnp.inject` puts such a layer in the place of each of the 24 linear maps. We called it near the top, and `lora` is
# what it returned.
# The weights were not copied. The start is the base model to the bit. And in the first step only the `B`s move.

# %%
total, trainable = lnp.count_parameters(lora)
print(f"{trainable:,} of {total:,} numbers are trained: {trainable / total:.1%}")
query, old = lora.layer[0].attention.query, model.layer[0].attention.query
print("the same memory for W:", np.shares_memory(query.W, old.W))
logits, cache = lora.forward(batch)
print("the same logits, to the bit:", np.array_equal(logits, model.forward(batch)[0]))

# only to look at gradients, nothing is trained here
_, kept = lnp.cross_entropy_forward(logits, test.labels)
grads = lora.backward(lnp.cross_entropy_backward(1.0, kept), cache)
for letter in "AB":
    moves = [grads[name].any() for name in grads if name.endswith(f".{letter}")]
    print(f"gradients of {letter} that are not zero: {sum(moves)} of {len(moves)}")

# %% [markdown]
# ## What you built
#
# | here | in the package |
# | --- | --- |
# | the forward | `lora_np.ops.lora_linear_forward` |
# | the backward | `lora_np.ops.lora_linear_backward`, which can also leave out what nobody needs (`needs`) |
# | the start | `lora_np.adapt.lora.lora_init` |
# | the scale | `lora_np.adapt.lora.lora_scale` |
# | the layer that holds it all | `lora_np.adapt.lora.LoRALinear`, put in place by `lnp.inject` |
#
# Advantages so far: few trained numbers, so little memory for gradients, means and files; the base stays as it was.
# Limits so far: at most a third of the multiplications goes; the forward does more work than before, until the detour
# is merged (chapter 7); and a change that needs many directions does not fit.

# %% [markdown]
# ## Traps met in real projects
#
# - **`B` drawn at random.** FastVideo (pull request 781) drew `B` after it had been set to zero. Training then began at
#   a disturbed model: row four of our table.
# - **Both zero.** In ReLoRA's code (`Guitaricet/relora`, issue 18) readers found both factors set to zero in one
#   branch, and asked whether such a layer can ever learn. Row three: it cannot, unless one of them is drawn again.
# - **A comment that says the opposite.** `loralib` (`microsoft/LoRA`, issues 42 and 98) starts embeddings with `A` zero
#   and `B` random, while its comment said the reverse. It is harmless, as rows one and two show. But it was reported
#   again and again.
# - **The scale lost on the way.** FastVideo (pull request 870) merged without `lora_alpha / r`; diffusers (issue 6087)
#   did not store `lora_alpha` and loaded with another. No error is raised: the adapter is only too strong or too weak.
#
# ## Can you say it?
#
# <details><summary>1. In the very first step, which of A and B moves, and why?</summary>
#
# B alone. dA = s G B^T has the factor B, which is zero. dB = s A^T G has the factor A, which is random.
#
# </details>
#
# <details><summary>2. W is frozen, so somebody drops it from the backward: dx = du A^T. What happens to the layers
# below in the first step?</summary>
#
# They learn nothing. With B = 0, du is zero, so dx is zero as well. The term dy W^T is what carries the gradient down.
# (Frozen means that W gets no gradient, not that none passes through it.)
#
# </details>
#
# <details><summary>3. A layer trains 2 % of its numbers. Is its step fifty times as fast?</summary>
#
# No. Of three large products, forward, dx and dW, one falls away, and six thin ones come on top. So at most a third is
# saved. What shrinks to 2 % is the memory for gradients and for AdamW's means.
#
# </details>
#
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** Run the table of the scale for `r` = 2, 8, 32 on a wider layer, with `alpha / r` and with `alpha / sqrt(r)`.
# Which rule keeps AdamW's first change the same size?
#
# <details><summary>An answer</summary>
#
# `alpha / sqrt(r)`. On a layer of 256 x 128, a mean of five draws, as multiples of the change at r = 2:
#
# | | r = 2 | r = 8 | r = 32 |
# | --- | ---: | ---: | ---: |
# | AdamW, alpha / r | 1 | 0.51 | 0.26 |
# | AdamW, alpha / sqrt(r) | 1 | 1.01 | 1.03 |
# | gradient descent, alpha / r | 1 | 0.13 | 0.016 |
# | gradient descent, alpha / sqrt(r) | 1 | 0.54 | 0.25 |
#
# In the first step each entry of B moves by the rate, up or down. A B is then a sum of r terms whose signs are as good
# as random, and such a sum grows as the root of r. Gradient descent has the scale twice, and a rule for it would be
# another one. This is the first step only. In training, alpha / r asks for a higher rate as r grows.
#
# </details>
#
# **2.** `A` zero and `B` random learned as well. Does it matter which of the two is zero when training is long and the
# learning rate high? (Hayou et al. 2024, arXiv:2406.08447, compare them.)
#
# <details><summary>An answer</summary>
#
# Yes. Two epochs of chapter 6's task from each start, one run each:
#
# | AdamW's rate | A random, B zero | A zero, B random |
# | ---: | ---: | ---: |
# | 0.005 | 85 % | 87 % |
# | 0.02 | 75 % | 47 % |
# | 0.05 | 11 % | 13 % |
#
# At the rate that the chapter takes, the two are equal, but for chance. At four times this rate the second one suffers
# more, and at ten times nothing learns from either. That is what Hayou et al. find: with A random and B zero a higher
# rate is possible before training becomes unstable.
#
# </details>
#
# **3.** `(A R, R^-1 B)` gives the same layer for every invertible `R` (r x r). Does gradient descent take the same path
# from both?
#
# <details><summary>An answer</summary>
#
# Only for an orthogonal R, a rotation with or without a reflection. The gradients are dA = s G B^T and dB = s A^T G, so
# a step changes A B by about -η s (A A^T G + G B^T B). With A R in place of A, the first part is A R R^T A^T G: the
# same only if R R^T is the unit matrix. Tried from the start "both random" above, at the loss after step 100: 1.1e-6 as
# it was, the same to 12 digits with a rotation, 3.3e-3 with R = 2. AdamW is choosier still: it divides entry by entry,
# so a rotation gives another path (the loss at step 50 was 0.025 in place of 0.039), and only a swap of columns, or a
# change of their signs, gives the same. The *function* does not know R. The *training* does.
#
# </details>
