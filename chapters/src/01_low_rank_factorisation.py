# %% [markdown]
# # 1. Low-rank factorisation
#
# After this chapter you can
#
# - write a matrix as a product of two thin ones, and say how many numbers that saves;
# - find the best product of a given rank, and say how wrong it is before you compute it;
# - show by measurement that a trained weight is *not* of low rank, and that what fine-tuning changes comes nearer;
# - count what LoRA trains, by hand and by code.
#
# **Needs:** Python, NumPy, the matrix product. **Time:** about 60 minutes. **Difficulty:** easy.
#
# **In 20 minutes:** read [How many numbers](#How-many-numbers) and
# [Which directions matter most](#Which-directions-matter-most), write `low_rank_approximation`, and look at the last
# figure, in [Does it matter for the answers?](#Does-it-matter-for-the-answers?), with the text below it.
#
# It answers the first half of question 1 of the course (the README lists the eight): what LoRA is, and why it suits
# scarce resources. Chapter 5 answers the other half.

# %% [markdown]
# ## The question
#
# A pretrained network knows one task. You need it for another one. The direct way is to train all its numbers further.
# That gives a second network, as large as the first. Ten tasks give ten of them.
#
# But how much did training really change? If the *change* can be written down with few numbers, then we can keep one
# large network and ten small changes. Better: we can train the small change and nothing else.
#
# A change of a matrix is itself a matrix. So we ask: when can a matrix be written with few numbers?

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import lora_np as lnp
from lora_np.model.tree import with_arrays
from lora_np.train.loop import Plan, Training

threadpool_limits(1)  # on small matrices more threads only wait for each other
np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## A table that is smaller than it looks
#
# A shop sells three goods in four sizes. Price = price of the good times factor of the size.

# %%
good = np.array([1.0, 2.0, 5.0])
size = np.array([1.0, 2.0, 3.0, 10.0])
prices = np.outer(good, size)  # prices[i, j] = good[i] * size[j]
print(prices)

# %% [markdown]
# The table has 12 numbers. Seven of them are enough: 3 for the goods, 4 for the sizes. Every row is a multiple of
# `size`. Such a matrix has **rank 1**.
#
# As a matrix product it is a column times a row: $(3 \times 1)$ times $(1 \times 4)$.
#
# Now the shop cuts one price: the second good in the largest size costs 15 instead of 20. The second row is no longer
# a multiple of the others. A second column times row repairs it:

# %%
A = np.array([[1.0, 0.0], [2.0, 1.0], [5.0, 0.0]])  # (3, 2)
B = np.array([[1.0, 2.0, 3.0, 10.0], [0.0, 0.0, 0.0, -5.0]])  # (2, 4)
print(A @ B)
print("rank", np.linalg.matrix_rank(A @ B))

# %% [markdown]
# The rank is 2 now. And the saving is gone: $A$ and $B$ hold $6 + 8 = 14$ numbers, more than the 12 of the table.
# A factorisation pays only if the rank is small *compared with the sides*.

# %% [markdown]
# ## How many numbers
#
# In general, for $W$ with $d_\text{in}$ rows and $d_\text{out}$ columns:
#
# $$ W = A B, \qquad A: (d_\text{in}, r), \quad B: (r, d_\text{out}). $$
#
# - $W$ holds $d_\text{in}\, d_\text{out}$ numbers.
# - $A$ and $B$ hold $r\,(d_\text{in} + d_\text{out})$ numbers.
# - They are fewer as long as $r < d_\text{in} d_\text{out} / (d_\text{in} + d_\text{out})$. For a square matrix this
#   means $r < d / 2$.
#
# The product has at most rank $r$: each of its columns is a sum of the $r$ columns of $A$.
#
# For a square matrix the share is $2 r d / d^2 = 2r / d$. The larger the matrix, the smaller the share:

# %%
print("    d     numbers of W   of A and B, r = 8   share")
for d in (64, 768, 4096):
    print(f"{d:5d} {d * d:16,d} {8 * (d + d):19,d} {100 * 2 * 8 / d:6.1f} %")

# %% [markdown]
# 64 is the width of the small model of this course, 768 that of BERT-base, 4096 that of the first 7-billion language
# models. Remember the first line: on a toy the saving looks modest, because the matrices are small.

# %% [markdown]
# ## Which directions matter most
#
# Few matrices are *exactly* of low rank. Many are *nearly* so. To see how nearly, we take a matrix apart into
# rank-1 pieces, the largest first. Here is one that can be taken apart by hand:
#
# $$ W = \begin{pmatrix} 2 & 1 \\ 1 & 2 \end{pmatrix}. $$
#
# Send two vectors through it. $(1, 1)$ comes back as $(3, 3)$: same direction, three times as long. $(1, -1)$ comes
# back as $(1, -1)$: unchanged. So $W$ stretches one direction by 3, and the direction across by 1. Written with
# vectors of length one, $u_1 = (1, 1)/\sqrt 2$ and $u_2 = (1, -1)/\sqrt 2$:
#
# $$ W = 3\, u_1 u_1^T + 1\, u_2 u_2^T
#      = \begin{pmatrix} 1.5 & 1.5 \\ 1.5 & 1.5 \end{pmatrix}
#      + \begin{pmatrix} 0.5 & -0.5 \\ -0.5 & 0.5 \end{pmatrix}. $$
#
# The first piece is the best that one column times one row can do. What is missing is the second piece. Its size is
# the root of the sum of its squares, $\sqrt{4 \cdot 0.25} = 1$: exactly the stretch that we left out.
#
# This works for every matrix, square or not. It is called the **singular value decomposition**, SVD:
#
# $$ W = U \,\text{diag}(s)\, V^T = \sum_{k=1}^{m} s_k\, u_k v_k^T, \qquad s_1 \ge s_2 \ge \dots \ge s_m \ge 0. $$
#
# - $m$ is the smaller side of $W$.
# - $U$ $(d_\text{in}, m)$ and $V$ $(d_\text{out}, m)$ have the columns $u_k$ and $v_k$. They are orthonormal: of length
#   one, at right angles to each other.
# - The **singular values** $s_k$ say how much each piece stretches. The rank is the number of those that are not zero.

# %%
W = np.array([[2.0, 1.0], [1.0, 2.0]])
U, s, Vt = np.linalg.svd(W, full_matrices=False)
first = s[0] * np.outer(U[:, 0], Vt[0])
print("singular values", s)
print("first piece\n", first, sep="")
print("what is missing has size", np.linalg.norm(W - first).round(3))

# %% [markdown]
# NumPy returns $V$ transposed: the vectors $v_k$ are the *rows* of `Vt`.

# %% [markdown]
# ### A matrix that also turns
#
# That $W$ was symmetric, and so a special case: the directions that went in came out again. Most matrices turn, too:
#
# $$ M = \begin{pmatrix} 0.6 & 0 \\ 0.8 & 1 \end{pmatrix}. $$
#
# As everywhere in this course a vector is a row, and $x$ becomes $x M$. By hand: $(1, 3)$ becomes $(3, 3)$, and
# $(3, -1)$ becomes $(1, -1)$. The two stand at right angles before, and at right angles after. But both have turned.
# They had the same length, $\sqrt{10}$. Now the first is three times as long as the second, $\sqrt{18}$ against
# $\sqrt 2$. So $s_1 = \sqrt{18 / 10} = 1.342$ and $s_2 = \sqrt{2 / 10} = 0.447$.
#
# <details><summary>Before you look: the vectors of length one end on a circle. What does M make of it?</summary>
#
# An ellipse. Its longest radius is s_1 long and lies along v_1, its shortest is s_2 long and lies along v_2. Of all
# pairs at right angles, u_1 and u_2 are the only ones, but for their signs, that M leaves at right angles.
#
# </details>

# %%
M = np.array([[0.6, 0.0], [0.8, 1.0]])
u = np.array([[1.0, 3.0], [3.0, -1.0]]) / np.sqrt(10)  # one vector a row
print("lengths after M  ", np.linalg.norm(u @ M, axis=1))
print("singular values  ", np.linalg.svd(M, compute_uv=False))

# %% tags=["hide-input"]
# Draws the circle of all vectors of length one, and the ellipse that M makes of it.
turn = np.radians(np.arange(361))
circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)  # (361, 2)
colours = "tab:blue", "tab:orange"
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
for ax, factor, names in (
    (axes[0], np.eye(2), ("$u_1$", "$u_2$")),
    (axes[1], M, ("$s_1 v_1$", "$s_2 v_2$")),
):
    ax.plot(*(circle @ factor).T, color="black")
    for end in factor:  # where the two axes go
        look = {"arrowstyle": "-|>", "color": "0.6"}
        ax.annotate("", end, (0, 0), arrowprops=look)
    for end, name, colour in zip(u @ factor, names, colours):
        look = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.5}
        ax.annotate("", end, (0, 0), arrowprops=look)
        place = end * (1 + 0.28 / np.linalg.norm(end))
        ax.text(*place, name, color=colour, ha="center", va="center", fontsize=12)
    ax.set(aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
axes[0].set_title("before: $x$")
axes[1].set_title(r"after: $x\,M$")
plt.show()

# %% [markdown]
# *Left the unit circle with two arrows at right angles, u1 and u2. Right the ellipse that the matrix makes of it: the
# blue arrow has become its longest radius, the orange one its shortest, still at right angles. The thin grey pair along
# the axes has lost its right angle.*
#
# So the SVD says of any matrix: there are directions $u_k$, at right angles, that come out as $s_k$ times $v_k$, at
# right angles again. The piece $s_k\, u_k v_k^T$ takes what $x$ has of $u_k$, and lays $s_k$ times as much along $v_k$.
# Leave out the second piece, and the ellipse becomes flat: a line along $v_1$.

# %% [markdown]
# ## Why nothing is better
#
# The size of a matrix here is the **Frobenius norm**, the root of the sum of its squares. The pieces are at right
# angles to each other and piece $k$ has the size $s_k$, so $\|W\| = \sqrt{s_1^2 + s_2^2 + \dots}$. For our matrix:
# $4 + 1 + 1 + 4 = 10 = 3^2 + 1^2$.
#
# **Claim** (Eckart and Young 1936): of all matrices of rank $r$, none is nearer to $W$ than the sum of the first $r$
# pieces of the SVD. Its error is the size of what is left out, $\sqrt{s_{r+1}^2 + s_{r+2}^2 + \dots}$.
#
# **Why.** Four short steps.
#
# 1. Any matrix of rank $r$ is $Q C$, where the $r$ columns of $Q$ $(d_\text{in}, r)$ are orthonormal.
# 2. For a given $Q$ the nearest is the projection of $W$ on these columns, $C = Q^T W$. A projection and what it
#    leaves out are at right angles, so Pythagoras holds: $\text{error}^2 = \|W\|^2 - \|Q^T W\|^2$. So we want
#    $\|Q^T W\|$ as large as possible.
# 3. Put in the SVD: $Q^T W = \sum_k s_k\, (Q^T u_k)\, v_k^T$. The $v_k$ are orthonormal, so
#    $\|Q^T W\|^2 = \sum_k s_k^2\, w_k$ with $w_k = \|Q^T u_k\|^2$. A projection makes no vector longer. So each $w_k$
#    is at most 1, and all together, $\|Q^T U\|^2$, are at most $\|Q\|^2 = r$.
# 4. So we hand out a total weight of $r$, at most 1 to each $s_k^2$. The best is to give 1 to the $r$ largest. That is
#    $Q = (u_1, \dots, u_r)$.
#
# For our matrix of two rows and $r = 1$, $Q$ is a single direction, that is, one angle. We can try them all.

# %% [markdown]
# <details><summary>Before you look: the best direction leaves an error of 1. Which direction is the worst, and how
# large is its error?</summary>
#
# The direction across, at 135 degrees, with the error 3. It keeps the piece of size 1 and loses the one of size 3.
#
# </details>

# %%
angle = np.radians(np.arange(0, 181))
Q = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (181, 2): one direction a row
error = np.sqrt((W**2).sum() - ((Q @ W) ** 2).sum(axis=1))
best = np.degrees(angle[error.argmin()])
print("smallest error", error.min().round(3), "at", best.round(), "degrees")

# %% tags=["hide-input"]
# Draws the error over the angle.
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(np.degrees(angle), error, color="tab:blue")
ax.plot(45, 1, "o", color="black", label="first direction of the SVD")
ax.axhline(1, color="tab:orange", linestyle="--", label="second singular value")
ax.set(xlabel="angle of the one direction kept, degrees", xticks=range(0, 181, 45))
ax.set(ylabel="error", ylim=(0, 3.2))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *A curve of the error over the angle of the direction that is kept: it is lowest, 1, at 45 degrees, where the SVD puts
# its first direction, and highest, 3, at 135 degrees.*

# %% [markdown]
# ## Exercise: the best factors ({{low_rank_approximation}})
#
# Write `low_rank_approximation(W, r)`, for a W of any two sides. It returns `A` (d_in, r) and `B` (r, d_out), whose
# product is the matrix of rank r nearest to W.
#
# The factors are not unique: `2 * A` and `B / 2` have the same product. Only the product is checked.


# %% exercise="low_rank_approximation"
from lora_np.course.exercises.low_rank_approximation import low_rank_approximation

# %% check="low_rank_approximation"
lnp.course.check("low_rank_approximation", low_rank_approximation)

# %% [markdown]
# ## An image is a matrix, too
#
# Here is a handwritten digit of 8 x 8 pixels, and its best approximations. (`lnp.course.check(...)` tries your
# function, and its `.function` is yours if it is right, else the course's own. So the notebook goes on either way.)

# %% [markdown]
# <details><summary>Before you look: the image has 8 x 8 = 64 pixels. From which rank on will you know the digit, and
# do the factors still hold fewer numbers there?</summary>
#
# Most people know it at rank 2 or 3. Rank r costs 16 r numbers, so rank 3 still saves a quarter. From rank 4 on
# nothing is saved.
#
# </details>

# %%
image = lnp.load_data("digits")[0].inputs[5].astype(np.float64)
factors = {r: low_rank_approximation(image, r) for r in (1, 2, 3, 4, 8)}

# %% tags=["hide-input"]
# Draws the product of the factors for each rank.
figure, axes = plt.subplots(1, 5, figsize=(9, 2.4), layout="constrained")
for ax, (r, (A, B)) in zip(axes, factors.items()):
    lost = 100 * np.linalg.norm(image - A @ B) / np.linalg.norm(image)
    ax.imshow(A @ B, cmap="gray_r", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=f"rank {r}")
    ax.set_xlabel(f"error {lost:.0f} %\n{A.size + B.size} numbers")
plt.show()

# %% [markdown]
# *Five pictures of one digit, at rank 1, 2, 3, 4 and 8: a smear at rank 1, hardly different from the original from
# rank 4 on.*
#
# At rank 4 the factors hold 64 numbers, as many as the image has pixels. That is the break-even, $d / 2$. At rank 8
# the image is exact, and costs twice its size.

# %% [markdown]
# ## Exercise: how much rank is needed ({{rank_for_error}})
#
# Write `rank_for_error(W, error)`. It returns the smallest r whose best approximation is within `error` of W, relative
# to the size of W. So `error=0.1` means: what is left out has at most a tenth of the norm of W.
# An error of 1 or more needs no rank at all: return 0.
#
# By hand first: W has the singular values 4, 2, 2, 1, so the squares are 16, 4, 4, 1 with sum 25. Which rank is needed
# for an error of 0.6? Leaving out the last three loses 9 of 25, a relative error of 3 / 5. So r = 1 is just enough.


# %% exercise="rank_for_error"
from lora_np.course.exercises.rank_for_error import rank_for_error

# %% check="rank_for_error"
lnp.course.check("rank_for_error", rank_for_error)

# %% [markdown]
# ## Are trained weights of low rank?
#
# Now a real network: the small vision transformer that comes with this course. It reads the digits. Its 24 large
# matrices lie in four layers, six in each (chapter 2 says what each does):

# %%
base = lnp.load_pretrained("digits")
weights = lnp.parameters(base)  # {name: array}
names = [n for n in weights if n.startswith("layer") and weights[n].ndim == 2]
for name in names[:6]:
    print(f"{name:28} {weights[name].shape}")
print("...", len(names), "matrices in all")

# %% [markdown]
# What rank would they need? Beside each trained matrix we put one of random numbers. If the trained one needs clearly
# less, it has structure that a factorisation can use.

# %%
rng = np.random.default_rng(0)
print("rank needed for an error of   50 %  20 %  10 %")
for name in names[:6]:
    W = weights[name]
    noise = rng.standard_normal(W.shape)
    for label, M in ((name[8:], W), ("  random numbers", noise)):
        needed = [rank_for_error(M, e) for e in (0.5, 0.2, 0.1)]
        print(f"{label:28}", *(f"{r:5d}" for r in needed))
        assert needed[2] > 45

# %% [markdown]
# Hardly. At 10 % error (the last column) the trained matrices need most of their 64 directions, about as many as random
# numbers do. There is nothing to gain by factorising them: the break-even lies at rank 32 for the square ones, at 42
# for the others.
#
# So LoRA does **not** take the weights apart. This is a common misunderstanding.

# %% [markdown]
# ## Is the change of low rank?
#
# Now to the change. The network was trained on upright digits. We train it further, with *all* its numbers free, on
# digits that are turned and inverted. Then we subtract:
#
# $$ \Delta W = W_\text{after} - W_\text{before}. $$
#
# Two passes through the 8,000 training images are enough to see it. (How training works is the matter of
# chapters 4 and 6. The cell takes some seconds.)

# %% tags=["measured"]
train, dev, _ = lnp.load_data("digits-mixed")
tokens = lnp.load_tokenizer("digits")  # cuts images into patches


def accuracy(model):
    logits, _ = model.forward(lnp.Batch.of(tokens(dev.inputs)))
    return (logits.argmax(axis=1) == dev.labels).mean()


tuned = lnp.unfreeze(base, "all")  # a copy whose numbers may all be trained
plan = Plan(lr=0.002, epochs=2, batch_size=64)
run = Training(tuned, list(tokens(train.inputs)), train.labels, plan)
for _ in run.steps():  # each step changes the numbers of `tuned`
    pass
print("accuracy on turned and inverted digits")
print(f"before {accuracy(base):.0%}, after {accuracy(tuned):.0%}")
assert accuracy(base) < 0.35 and accuracy(tuned) > 0.85

# %% [markdown]
# Full fine-tuning works. Now compare three matrices of the same shape: the weight, its change (the **update**), and
# random numbers. The sum of the squared singular values is the **energy** of a matrix. Which share of it lies in the
# four strongest directions?

# %% [markdown]
# <details><summary>Before you look: which of the three has most of its energy in four directions? And which two are
# alike?</summary>
#
# The update has, in each of the 24 matrices. The weight is nearer to the random numbers: it began as such, and does a
# whole task. The update only adds a new one to it.
#
# </details>

# %% tags=["measured"]
updates = {name: lnp.parameters(tuned)[name] - weights[name] for name in names}


def energy(M):
    """The share of the energy in the first 1, 2, ... directions."""
    e = np.linalg.svd(M.astype(np.float64), compute_uv=False) ** 2
    return np.cumsum(e) / e.sum()


random = {name: rng.standard_normal(weights[name].shape) for name in names}
top = {name: [energy(M[name])[3] for M in (weights, updates, random)] for name in names}
print("share of the energy in the top 4 directions, mean of the 4 layers")
print("          weight   update   random numbers")
for kind in ("query", "key", "value", "output", "up", "down"):
    mean = np.mean([top[name] for name in names if f".{kind}." in name], axis=0)
    print(f"{kind:8} {mean[0]:7.2f} {mean[1]:8.2f} {mean[2]:8.2f}")
above = sum(update > weight for weight, update, _ in top.values())
print("update above weight in", above, "of 24 matrices")
assert all(u > max(w, r) for w, u, r in top.values())
assert 1.7 < np.mean([u / w for w, u, _ in top.values()]) < 2.4

# %% tags=["hide-input", "measured"]
# Draws the share of the energy: over the rank for one matrix, at rank 4 for all 24.
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(1, 1.5)
)
styles = (
    ("update", updates, "tab:blue", "o"),
    ("weight", weights, "tab:orange", "s"),
    ("random", random, "black", "_"),
)
for label, matrices, colour, marker in styles:
    line = "--" if label == "random" else "-"
    left.plot(range(1, 65), energy(matrices[names[0]]), line, color=colour, label=label)
    right.plot([energy(matrices[name])[3] for name in names], marker, color=colour)
left.axvline(4, color="gray", linewidth=0.8)
left.text(5, 0.04, "rank 4", color="gray", fontsize=9)
left.set(xlabel="directions kept (rank)", ylabel="share of the energy")
left.set(title="query of layer 0", ylim=(0, 1.02))
right.set(ylabel="share in the top 4 directions", ylim=(0, 0.8))
right.set_title("all 24 matrices")
kinds = [name.split(".")[-2] for name in names]
right.set_xticks(range(24), kinds, rotation=90, fontsize=8)
for layer in range(4):
    right.axvline(6 * layer - 0.5, color="gray", linewidth=0.8)
    right.text(6 * layer + 2.5, 0.74, f"layer {layer}", ha="center")
left.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Left: the share of the energy over the rank, for one matrix. The curve of the update rises well above those of the
# weight and of random numbers, which lie close together. Right: the share in the top four directions, for all
# matrices of the four layers, in the same colours. The update lies highest in each; weight and random numbers are
# nearer to each other.*
#
# The update has about twice as much of its energy in four directions as the weight has. It is not *of* low rank. It is
# clearly *nearer* to it, in all six kinds of matrix.
#
# Why should it be? There is a reason to expect it, though no proof. The base can do most of the work already. The
# new task asks for a few new responses to a few kinds of input, and each of these is one column times one row.
# Aghajanyan et al. (2020, arXiv:2012.13255) found that a fine-tuning task often needs far fewer free directions than
# the network has numbers. The LoRA paper starts from that remark (Hu et al. 2021, arXiv:2106.09685, section 4.1).

# %% [markdown]
# ## Does it matter for the answers?
#
# Energy is only bookkeeping. What counts is whether the network still answers right. So we cut the fine-tuned network
# down to rank $r$, in two ways:
#
# - **the weight cut:** each $W_\text{after}$ is replaced by its best approximation of rank $r$;
# - **the update cut:** $W_\text{before}$ stays as it is, and only $\Delta W$ is replaced by its best approximation of
#   rank $r$.
#
# Either way a new task costs two thin factors for each of the 24 matrices. (The second way needs the matrices
# $W_\text{before}$ beside them. But these are the base, which is stored once for all tasks.) All else (biases, norms,
# embeddings) stays as fine-tuning left it. We judge on the dev images, which were not trained on.


# %% [markdown]
# <details><summary>Before you look: at rank 8, how many images of ten will the network read rightly with the update
# cut, and how many with the weight cut?</summary>
#
# About eight with the update cut: what the update does lies mostly in few directions. About one with the weight cut,
# and one of ten is guessing: what the base knows is spread over nearly all directions.
#
# </details>


# %% tags=["measured"]
def cut(M, r):
    A, B = low_rank_approximation(M, r)
    return A @ B


ranks = (1, 2, 4, 8, 16, 32, 64)
after = lnp.parameters(tuned)
cut_weight, cut_update = [], []
for r in ranks:
    own = {name: cut(after[name], r) for name in names}
    change = {name: weights[name] + cut(updates[name], r) for name in names}
    cut_weight.append(accuracy(with_arrays(tuned, own)))
    cut_update.append(accuracy(with_arrays(tuned, change)))
print("rank             ", *(f"{r:5d}" for r in ranks))
print("weight cut, %    ", *(f"{100 * a:5.0f}" for a in cut_weight))
print("update cut, %    ", *(f"{100 * a:5.0f}" for a in cut_update))
assert 0.74 < cut_update[3] < 0.86 and max(cut_weight[:4]) < 0.2  # up to rank 8
assert cut_update[4] > accuracy(tuned) - 0.05 > cut_weight[4] + 0.3  # rank 16
assert cut_weight[5] > accuracy(tuned) - 0.2  # rank 32
assert cut_update[0] > accuracy(base)  # rank 1

# %% tags=["picture", "hide-input", "measured"]
# Draws the accuracy over the rank, for both cuts.
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
update, weight = ([100 * a for a in shares] for shares in (cut_update, cut_weight))
ax.plot(ranks, update, "o-", color="tab:blue", label="update cut to this rank")
ax.plot(ranks, weight, "s-", color="tab:orange", label="weight cut to this rank")
ax.axhline(100 * accuracy(base), color="black", linestyle=":", label="base, no update")
ax.set(xscale="log", xlabel="rank", ylabel="accuracy on dev, %", ylim=(0, 100))
ax.set_xticks(ranks, ranks)
ax.minorticks_off()
ax.legend(loc="upper left", bbox_to_anchor=(0.02, 0.98), fontsize=8)
plt.show()

# %% [markdown]
# *Accuracy over the rank, for the two cuts. The update cut starts above the base and is near its full height at rank
# 16. The weight cut stays near 10 %, that is near chance, up to rank 8, and comes near full height only at rank 32.*
#
# At rank 8 the update cut still answers about four of five right. The weight cut is hardly better than guessing.
# This is the reason for the formula of LoRA:
#
# $$ W_\text{new} = W + s\, A B . $$
#
# $W$ stays as it is, at full rank. Only the **update** is a product of thin factors. ($s$ is a fixed number, the scale;
# chapter 5 explains it.)
#
# Three things to keep in mind:
#
# - **LoRA does not cut.** It never computes a full $\Delta W$. It trains $A$ and $B$ themselves, so training can pick
#   the directions that help the answers. The cut picks those with the most energy. Chapter 6 trains them.
# - **A low rank is a limit.** At rank 1 or 2 the cut loses most of what was learned. How much rank a task needs is a
#   matter of trial.
# - **One small network proves little.** Ours was trained from random numbers on 1,000 images, and its weights still
#   look much like noise. The LoRA paper looks at GPT-3: on its tasks a very small rank is enough (section 7.2).

# %% [markdown]
# ## Exercise: count the parameters ({{count_parameters}})
#
# Write `count_parameters(model)`. It returns a pair `(total, trainable)`: how many numbers the model holds, and how
# many of them are trained.
#
# `lnp.parameters(model)` gives all arrays of a model in a dict. `lnp.parameters(model, trainable_only=True)` gives
# only those that are trained. A model as loaded is frozen: nothing in it is trained.


# %% exercise="count_parameters"
from lora_np.course.exercises.count_parameters import count_parameters

# %% check="count_parameters"
lnp.course.check("count_parameters", count_parameters)

# %% [markdown]
# ## What LoRA trains
#
# By hand first. A layer has four matrices $64 \times 64$ and two with the sides 64 and 128. One unit of rank costs
# the two sides together:
#
# $$ 4 \cdot (64 + 64) + 2 \cdot (64 + 128) = 896. $$
#
# Four layers: $4 \cdot 896 = 3584$ numbers for each unit of rank. At $r = 4$ that makes 14,336. `lnp.inject` puts $A$
# and $B$ beside the 24 matrices (you will write it in chapter 6), and the count agrees:

# %%
print("           all    trained   share trained")
print("base  {:10,d} {:10,d}".format(*lnp.count_parameters(base)))
for r in (1, 2, 4, 8):
    config = lnp.LoRAConfig(r=r, target_modules="all-linear")
    adapted = lnp.inject(base, config, np.random.default_rng(0))
    total, trainable = lnp.count_parameters(adapted)
    print(f"r = {r} {total:10,d} {trainable:10,d} {100 * trainable / total:8.1f} %")

# %% [markdown]
# This is what makes LoRA fit for scarce resources:
#
# - **Storage.** A new task costs the factors, not a second network. The base is stored once.
# - **Memory while training.** Each *trained* number needs a gradient and, with the usual optimiser, two running means.
#   A frozen number needs none of these.
# - **The base survives.** It is never written to. Take the factors away, and it is back.
#
# The time of a step is another matter: the big matrices are still multiplied, the thin ones come on top.
# Chapter 5 counts these operations, chapter 6 measures memory and time.

# %% [markdown]
# ## What you built
#
# - `low_rank_approximation` and `rank_for_error` are in `lora_np.compress`.
# - `count_parameters` is `lora_np.count_parameters`.
#
# And you measured why LoRA factorises the update and leaves the weight alone.

# %% [markdown]
# ## Traps met in real projects
#
# - **Factorising the weight itself.** A user of PEFT asked for it, tried it, and reported a large loss of quality
#   (huggingface/peft, issue 1270). You have seen why.
# - **The full SVD.** `np.linalg.svd` returns square $U$ and $V$ unless told `full_matrices=False`. For a tall matrix
#   $U$ is a giant: one user's would have taken 79.5 TiB (numpy/numpy, issue 27542). pyglotaran cured its hunger for
#   memory with this one argument (glotaran/pyglotaran, pull request 575).
# - **V or V transposed.** `torch.svd` returns $V$; `torch.linalg.svd` and NumPy return $V^T$ (PyTorch's documentation
#   of `torch.svd`). With a square matrix the wrong one raises no error. It just gives a wrong product.
# - **Counting packed numbers.** bitsandbytes packs two 4-bit numbers into one byte, so the plain count of a 4-bit model
#   is half of the truth, and the share "trained" looks twice as large (bitsandbytes, issue 834). PEFT had to double the
#   count for such layers (huggingface/peft, pull request 733).

# %% [markdown]
# ## Can you say it?
#
# <details><summary>1. W has 100 rows and 50 columns. Up to which rank do two thin factors hold fewer
# numbers?</summary>
#
# Up to rank 33. Rank r costs r (100 + 50) numbers, W has 5,000, and 5,000 / 150 = 33.3.
#
# </details>
#
# <details><summary>2. The singular values of W are 3, 2 and 1. How wrong is its best approximation of rank 1, and
# could a cleverer method do better?</summary>
#
# By the root of 4 + 1, so 2.24: the size of what is left out. No method does better, as all of rank 1 share out one
# unit of weight, and the largest piece is the best place for it.
#
# </details>
#
# <details><summary>3. Somebody says: "LoRA compresses the network to rank 8." What is wrong with that?</summary>
#
# The weights stay whole. Only their change has rank 8. Weights that are cut to rank 8 are hardly better than guessing,
# as you measured.
#
# </details>

# %% [markdown]
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** Train for six epochs in place of two. Does the update come nearer to low rank, or move away from it? And with a
# learning rate five times as small?
#
# <details><summary>An answer</summary>
#
# Away from it, while it grows. One run of each gave, as the mean of the 24 matrices:
#
# | epochs | learning rate | share in the top 4 directions | size, of that of W | accuracy on dev |
# | ---: | ---: | ---: | ---: | ---: |
# | 2 | 0.002 | 0.46 | 0.18 | 90 % |
# | 6 | 0.002 | 0.42 | 0.26 | 96 % |
# | 2 | 0.0004 | 0.55 | 0.06 | 75 % |
# | 6 | 0.0004 | 0.47 | 0.11 | 91 % |
#
# The first steps go in few directions. Later ones add others. So a small update is nearer to low rank than a large one,
# whether it is small by its rate or by its steps. The weights themselves stand at 0.23.
#
# </details>
#
# **2.** The cut takes the same rank for all 24 matrices. Given the right-hand figure above, how would you share out a
# fixed number of parameters?
#
# <details><summary>An answer</summary>
#
# The tempting way: take all directions of all 24 updates, sort them by energy per number that they cost, and keep the
# best until the numbers are spent. Then the query of layer 0 gets 6 directions where others get 5 or 10. It lost less
# energy by construction, and the answers were *worse*: 81 % in place of 82 % at the cost of rank 8, 41 in place of 48
# at that of rank 2, 29 in place of 35 at that of rank 1. Energy adds up over the matrices. What it is worth to the
# answers does not: a small update of an early layer can matter more than a large one elsewhere. To share out well one
# has to measure the loss, not the energy. (AdaLoRA does it while it trains: Zhang et al. 2023, arXiv:2303.10512.)
#
# </details>
#
# **3.** The best approximation treats all entries of $\Delta W$ alike. But some inputs are common and others never
# occur. What would you minimise instead?
#
# <details><summary>An answer</summary>
#
# The error of the *outputs* on inputs as they come: the size of X (D - A B), where the rows of X are inputs of this map
# and D is the change. It is solved by the same SVD. Let C be a square matrix with C^T C = X^T X, such as the R of a QR
# decomposition of X. Then |X M| = |C M| for every M. So take the best approximation of C D, and multiply its left
# factor by the inverse of C (the pseudo-inverse, if it has none). A direction that no input has then costs nothing, and
# gets nothing.
#
# </details>
