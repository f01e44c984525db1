# %% [markdown]
# # 4. The backward pass
#
# The forward pass of chapter 2 ends in ten logits. From them and the right label comes one number, the **loss**: how
# wrong the answer is. Here you compute how the loss answers to every parameter.
#
# After this chapter you can
#
# - derive a gradient by asking one question: if I nudge this entry, what moves, and by how much?
# - write the backward of a linear map, GELU, layer norm, softmax, attention and cross entropy;
# - recognise a check that passes because it cannot fail, and find the bug in somebody else's backward;
# - derive some yourself: RMSNorm, the MLP, the attention layer with its three ways;
# - join them to the backward of a whole transformer block, with its two residual paths;
# - get every gradient of the pretrained model by your own code, and check it.
#
# **Needs:** chapters 2 and 3. **Time:** about 330 minutes, in two sittings; every exercise can be skipped.
# **Difficulty:** hard, but each step is small.
#
# - **First sitting**, about <!-- sitting_1 -->145<!-- / --> minutes: two rules; the linear map and GELU; a check that
#   cannot fail; how to find a bug; the MLP; layer norm and RMSNorm.
# - **[Second sitting](#Second-sitting)**, about <!-- sitting_2 -->185<!-- / --> minutes: softmax and attention; the
#   loss; the block; your code, backwards through the real model; what a gradient is good for.
#
# **In 20 minutes:** [Nudge one thing, follow it](#Nudge-one-thing,-follow-it), and the [linear map](#Linear-map) with
# its exercise. Chapter 5 needs no more.
#
# It answers a part of question 3 of the course: the step "gradients". What you derive for the linear map is what
# chapter 5 uses for the low-rank matrices.

# %% tags=["setup"]
import time

import matplotlib.pyplot as plt
import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.gradcheck import check, numeric_gradients
from lora_np.model.attention import heads_backward
from lora_np.ops.cross_entropy import CrossEntropyCache

plt.rcParams["figure.figsize"] = (6.5, 3.4)
plt.rcParams["figure.constrained_layout.use"] = True
BLUE, ORANGE = "tab:blue", "tab:orange"
rng = np.random.default_rng(0)

# %% [markdown]
# ## Why not by numbers?
#
# Chapter 3 computes any gradient with four evaluations of the loss for each parameter. Our small model has this many:

# %%
model = lnp.unfreeze(lnp.load_pretrained("digits"), "all")
total = lnp.count_parameters(model).total
print(f"{total:,} parameters, {4 * total:,} evaluations for one step of training")

# %% [markdown]
# Half a million forward passes for one step is out of the question. The backward pass gets all these numbers in one
# sweep. At the end of the chapter we measure what it costs.
#
# ## Nudge one thing, follow it
#
# Take one weight $w = 2$ and one input $x = 3$. The right answer is 5, and the loss is the square of the error:
#
# $$y = w x = 6, \qquad \ell = (y - 5)^2 = 1.$$
#
# Nudge $w$ by $0.01$. Follow it. First $y$ moves by $x \cdot 0.01 = 0.03$. Then $\ell$ moves by $2 (y - 5) = 2$ times
# that, $0.06$. So $\ell$ moves 6 times as much as $w$: its derivative with respect to $w$ is $2 \cdot 3 = 6$.
#
# **Rule 1: along a path, multiply.**
#
# Now a variable that is used twice, $y = x + w x$, again with $x = 3$, $w = 2$, so $y = 9$. Nudge $x$ by $0.01$. The
# direct way brings $0.01$, the way through $w x$ brings $0.02$. Both arrive at $y$: together $0.03$. So $y$ moves 3
# times as much as $x$.
#
# **Rule 2: where paths meet again, add.**
#
# These two rules are all of this chapter. The rest is bookkeeping.


# %%
def loss(w, x=3.0):
    return (w * x - 5.0) ** 2


def fork(x, w=2.0):
    return x + w * x


nudge = 1e-4
print(f"rule 1: {(loss(2.0 + nudge) - loss(2.0 - nudge)) / (2 * nudge):.3f}")
print(f"rule 2: {(fork(3.0 + nudge) - fork(3.0 - nudge)) / (2 * nudge):.3f}")

# %% [markdown]
# Why backwards, from the loss to the inputs? Because there is one loss and there are many inputs. Going backwards, we
# carry one array at a time: how the loss answers to the values *here*. Each operation turns the array for its output
# into the arrays for its inputs:

# %% tags=["hide-input", "picture"]
# Draws a chain of operations, and the gradients that go back along it.
figure, axis = plt.subplots(figsize=(6.5, 1.9))
centred = {"ha": "center", "va": "center", "fontsize": 12}
box = {"boxstyle": "round", "facecolor": "white"}
for k, name in enumerate(("input", "linear", "gelu", "linear", "loss")):
    axis.text(k, 0, name, bbox=box, **centred)


def arrow(start, end, color):
    look = {"arrowstyle": "->", "linewidth": 1.8, "color": color}
    axis.annotate("", end, start, arrowprops=look)


for k, name in enumerate(("x", "wide", "bent", "z")):
    arrow((k + 0.3, 0.12), (k + 0.7, 0.12), BLUE)
    arrow((k + 0.7, -0.12), (k + 0.3, -0.12), ORANGE)
    axis.text(k + 0.5, 0.27, name, color=BLUE, **centred)
    axis.text(k + 0.5, -0.32, f"d{name}", color=ORANGE, **centred)
for k in (1, 3):
    arrow((k, -0.25), (k, -0.75), ORANGE)
    axis.text(k, -0.9, "dW, db", color=ORANGE, **centred)
axis.set(xlim=(-0.4, 4.4), ylim=(-1.1, 0.5))
axis.axis("off")
plt.show()

# %% [markdown]
# *A chain of boxes input, linear, gelu, linear, loss: blue arrows carry values to the right, orange arrows carry
# gradients back to the left, and each linear box also hands out dW and db.*
#
# Three conventions, for all that follows:
#
# - $dX$ means "the gradient of the loss with respect to $X$". It has the **shape of** $X$. Always.
# - A forward returns `(output, cache)`. The cache holds what the backward will want to know.
# - A backward takes the gradient of the output (the *upstream* gradient) and the cache. It returns the gradients of the
#   inputs. It changes neither of the two.
#
# Each exercise is checked on six draws: the backward of an operation against numerical derivatives, as in chapter 3,
# the others against the course's own solution. The verdict says which. If your forward of chapter 2 keeps something
# else than the cache that is described here, your backward may read that: the two are then checked together.

# %% [markdown]
# ## Linear map
#
# $$y = x W + b, \qquad x\,(N, d_{in}),\; W\,(d_{in}, d_{out}),\; b\,(d_{out}),\; y\,(N, d_{out}).$$
#
# In entries: $y_{nj} = \sum_i x_{ni} W_{ij} + b_j$. Ask the question three times. Two answers are here:
#
# - Nudge $b_j$. It moves $y_{nj}$ in *every* row $n$, by the same amount. Add: $db_j = \sum_n dy_{nj}$.
# - Nudge $W_{ij}$. It moves $y_{nj}$ by $x_{ni}$, in every row. Add: $dW_{ij} = \sum_n x_{ni}\, dy_{nj}$.
# - Nudge $x_{ni}$. Which entries of $y$ does it move, and each by how much? This sum is yours.
#
# Then write each sum over a product as a matrix product. There is a check for free: with $N$, $d_{in}$ and $d_{out}$
# all different, only one order of the factors gives the right shape.
#
# By hand, with two rows, $d_{in} = 2$, $d_{out} = 1$ and $b = 0$:
#
# $$x = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \qquad W = \begin{pmatrix} 1 \\ 10 \end{pmatrix}, \qquad
# y = \begin{pmatrix} 21 \\ 43 \end{pmatrix}, \qquad \text{and let} \quad dy = \begin{pmatrix} 1 \\ -1 \end{pmatrix}.$$
#
# What does this $dy$ say? That the loss moves as $\ell = \sum_n y_n\, dy_n$ (chapter 3), which here is $21 - 43 = -22$.
# Nudge the first entry of $W$ by $0.1$: then $y = (21.1, 43.3)$ and $\ell = -22.2$. So $\ell$ moves $-2$ times as much
# as that entry. Do the sums give the same? For $W$ and $b$ they are
#
# $$dW = \begin{pmatrix} 1 \cdot 1 - 3 \cdot 1 \\ 2 \cdot 1 - 4 \cdot 1 \end{pmatrix}
# = \begin{pmatrix} -2 \\ -2 \end{pmatrix}, \qquad db = 1 - 1 = 0.$$
#
# What is $dx$? Work it out on paper, before you look at the library's numbers.

# %%
x, W, b = np.array([[1.0, 2], [3, 4]]), np.array([[1.0], [10]]), np.zeros(1)
dy = np.array([[1.0], [-1]])
y, cache = ops.linear_forward(x, W, b)
for name, gradient in zip(("dx", "dW", "db"), ops.linear_backward(dy, cache)):
    print(f"{name} = {gradient.tolist()}")

# %% [markdown]
# ### Exercise: `linear_backward` ({{linear_backward}})
#
# Return `dx, dW, db`. The cache has `x` (N, d_in) and `W` (d_in, d_out).


# %% exercise="linear_backward"
from lora_np.course.exercises.linear_backward import linear_backward

# %% check="linear_backward"
lnp.course.check("linear_backward", linear_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# An entry of x moves all entries of y in its row, each by its entry of W. Add: dx_ni = sum over j of dy_nj W_ij.
# So `dx = dy @ W.T`, `dW = x.T @ dy`, `db = dy.sum(axis=0)`.
#
# </details>
#
# Count the multiplications: $x W$ takes $N d_{in} d_{out}$. So does $dy\,W^T$, and so does $x^T dy$. The backward of a
# linear map does twice the work of its forward. If $W$ is frozen, $dW$ is not wanted, and one of the three falls away.
# Remember this for LoRA.

# %% [markdown]
# ## GELU: one variable, two paths
#
# $y = x\, \Phi(x)$, entry by entry. $\Phi$ is the normal distribution function. The same $x$ stands in both factors.
#
# - Through the first factor a nudge arrives multiplied by $\Phi(x)$.
# - What does it arrive multiplied by through the second? You need $\Phi'(x) = e^{-x^2 / 2} / \sqrt{2 \pi}$.
#
# By hand: at $x = 1$ the first path brings $\Phi(1) = 0.841$ and the second $0.242$, together $1.083$. At $x = -1$ they
# bring $0.159$ and $-0.242$, together $-0.083$.

# %% [markdown]
# ### Exercise: `gelu_backward` ({{gelu_backward}})
#
# Return `dx`. The cache has `x` and `cdf` (which is Phi of x), both of the shape of x. As in chapter 2, take `** 0.5`
# and not `np.sqrt` for the root of a plain number, so that float32 stays float32.


# %% exercise="gelu_backward"
from lora_np.course.exercises.gelu_backward import gelu_backward

# %% check="gelu_backward"
lnp.course.check("gelu_backward", gelu_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# `dx = dy * (cdf + x * density)`: through the second factor, the nudge arrives multiplied by x Phi'(x).
#
# </details>

# %% [markdown]
# <details><summary>Before you look: the first path alone, Phi, stays between 0 and 1. Does the whole
# derivative?</summary>
#
# No. The second path adds to it where x is positive and takes away where x is negative. So the derivative rises to
# 1.13 near x = 1.4 and falls to -0.13 near x = -1.4.
#
# </details>

# %% tags=["hide-input"]
# Draws GELU, and its derivative by your `gelu_backward`.
x = np.linspace(-4, 4, 201)
y, cache = ops.gelu_forward(x)
plt.plot(x, y, color="black", label="GELU")
slope = gelu_backward(np.ones_like(x), cache)
plt.plot(x, slope, color=BLUE, label="its derivative: both paths")
plt.plot(x, cache.cdf, "--", color=ORANGE, label="first path only")
plt.gca().set(xlabel="x", ylim=(-0.4, 2.2))
plt.legend()
plt.show()

# %% [markdown]
# *GELU follows zero on the left and x on the right; its derivative is lowest near x = -1.4, below zero, and highest
# near x = 1.4, above one, whereas the first path alone climbs smoothly from zero to one.*
#
# The dashed line is what you get when you forget one path. It has the right values far to the left, far to the right,
# and at zero. So it looks plausible, and it is wrong nearly everywhere in between.

# %% [markdown]
# ## A check that cannot fail
#
# Chapter 3 judges a backward by comparing it with numerical derivatives. The comparison is made at some inputs, with
# some upstream gradient. Who chooses them? Here is a linear map whose $db$ takes the first row of $dy$ alone. With
# *one* row of inputs, that is the sum over all rows.


# %%
def passes(forward, backward, inputs, upstream, fixed=None):
    """Compare each gradient with the numerical one."""
    fixed = fixed or {}
    given = backward(upstream, forward(**inputs, **fixed)[1])
    given = given if isinstance(given, tuple) else (given,)
    numeric = numeric_gradients(forward, inputs, upstream, fixed)
    pairs = zip(given, numeric.values())
    return all(np.allclose(*pair, rtol=1e-7, atol=1e-8) for pair in pairs)


def first_row(dy, cache):  # takes db from the first row alone
    dx, dW, _ = ops.linear_backward(dy, cache)
    return dx, dW, dy[0]


x, W, b = rng.standard_normal((5, 3)), rng.standard_normal((3, 3)), np.ones(3)
dy = rng.standard_normal((5, 3))
linear = {"x": x, "W": W, "b": b}
one_row = linear | {"x": x[:1]}
print("one row:  ", passes(ops.linear_forward, first_row, one_row, dy[:1]))
print("five rows:", passes(ops.linear_forward, first_row, linear, dy))

# %% [markdown]
# The first comparison is sharp, to seven digits, and says nothing. Such a point is **unlucky**. Five more wrong
# backwards, each of which passes somewhere:


# %%
def not_transposed(dy, cache):  # W where its transpose belongs
    _, dW, db = ops.linear_backward(dy, cache)
    return dy @ cache.W, dW, db


def one_path(dy, cache):  # GELU, the first path only
    return dy * cache.cdf


def last_use(dy, cache):  # a row of the table that is used twice keeps one dy
    dtable = np.zeros(cache.shape)
    dtable[cache.ids] = dy
    return dtable


def squares_forward(x):  # a loss: the mean of the squares
    return (x**2).mean(), x


def no_upstream(dloss, x):  # ignores what comes from above
    return 2 * x / x.size


# %%
def centre_forward(x):  # takes the mean away from each row
    return x - x.mean(axis=1, keepdims=True), None


def no_influence(dy, cache):  # claims that x moves nothing
    return np.zeros_like(dy)


# %% [markdown]
# And their unlucky points. None of them is exotic.
#
# | wrong backward | what is wrong | unlucky point | why it hides |
# | --- | --- | --- | --- |
# | `first_row` | db lacks the sum | one row | a sum of one |
# | `not_transposed` | W in place of its transpose | W is the identity | it is its own transpose |
# | `one_path` | the second path is missing | x = 0 | that path has the factor x |
# | `last_use` | a use overwrites another | no id stands twice | there is nothing to add up |
# | `no_upstream` | upstream ignored | upstream 1.0 | training never passes anything else |
# | `no_influence` | dx = 0 | upstream all ones | the entries of a centred row add up to 0, whatever x is |
#
# (`ops.embedding_forward` takes a row of a table for each id. So a table's row may be used several times.)

# %%
one, eye, table = np.ones((5, 3)), np.eye(3), {"table": W}
ids, twice = ({"ids": np.array(which)} for which in ([2, 0, 1], [2, 0, 2]))
identity = linear | {"W": eye}
# wrong backward: its forward; inputs, upstream and what is fixed, unlucky and ordinary
trials = {
    first_row: (ops.linear_forward, (one_row, dy[:1]), (linear, dy)),
    not_transposed: (ops.linear_forward, (identity, dy), (linear, dy)),
    one_path: (ops.gelu_forward, ({"x": 0 * x}, dy), ({"x": x}, dy)),
    last_use: (ops.embedding_forward, (table, dy[:3], ids), (table, dy[:3], twice)),
    no_upstream: (squares_forward, ({"x": x}, 1.0), ({"x": x}, 0.7)),
    no_influence: (centre_forward, ({"x": x}, one), ({"x": x}, dy)),
}
print(f"{'wrong backward':16} {'unlucky':8} {'ordinary':8}")
for wrong, (forward, *points) in trials.items():
    found = [passes(forward, wrong, *point) for point in points]
    unlucky, ordinary = ("passes" if passed else "caught" for passed in found)
    print(f"{wrong.__name__:16} {unlucky:8} {ordinary:8}")
    assert found == [True, False]

# %% [markdown]
# How far from such a point is far enough? Move away from three of them by a distance $\delta$: x is $\delta$ times a
# random x, W is the identity plus $\delta$ times a random matrix, the upstream is $1 + \delta$.


# %%
def off(wrong, right):
    return np.abs(wrong - right).max() / np.abs(right).max()


distances, random = np.logspace(-9, 0, 40), rng.standard_normal((3, 3))
errors = {"one_path": [], "not_transposed": [], "no_upstream": []}
for delta in distances:
    _, cache = ops.gelu_forward(delta * x)
    given, right = one_path(dy, cache), ops.gelu_backward(dy, cache)
    errors["one_path"].append(off(given, right))
    _, cache = ops.linear_forward(x, eye + delta * random, b)
    given, right = not_transposed(dy, cache)[0], ops.linear_backward(dy, cache)[0]
    errors["not_transposed"].append(off(given, right))
    given, right = no_upstream(1 + delta, x), (1 + delta) * 2 * x / x.size
    errors["no_upstream"].append(off(given, right))
far = distances > 1e-3
assert all(min(np.array(found)[far]) > 1e-4 for found in errors.values())

# %% tags=["hide-input"]
# Draws the three errors over the distance.
for (name, found), style in zip(errors.items(), ("-", "--", "-.")):
    plt.loglog(distances, found, style, label=name)
plt.axhline(1e-7, color="black", linestyle=":", label="tolerance")
plt.xlabel("distance from the unlucky point")
plt.ylabel("error of the gradient")
plt.legend()
plt.show()

# %% [markdown]
# *Three nearly straight lines on logarithmic axes, close together, rise from the lower left to the upper right; they
# cross the dotted line, the tolerance of 1e-7, where the distance is near 1e-7.*
#
# The error grows as the distance does. A thousandth is far enough: the error is then more than a thousand times above
# the tolerance. So a check is fooled only on such a point, or within about 1e-7 of it. But people are on it all the
# time: it is where parameters start.
#
# Hence a list to check by:
#
# - upstream random, not ones;
# - every parameter random: nothing that is 0 or 1, no identity;
# - all sizes different and above 1, so that a transposed array cannot fit by chance;
# - masks on, ids repeated, some rows left out: whatever the code has a branch for.
#
# `lora_np.gradcheck.check` draws the upstream itself. And where an input is special in a way that it knows, it moves
# away and looks again. Now it is given the unlucky inputs:

# %%
for wrong, (forward, unlucky, _) in trials.items():
    inputs, _, *fixed = unlucky
    report = check(forward, wrong, inputs, *fixed)
    print(f"{wrong.__name__:16} {'passes' if report.ok else 'caught'}")

report = check(ops.gelu_forward, one_path, {"x": 0 * x})
print("one_path:", report.failures["x"][0].split(";")[0])

# %% [markdown]
# Two pass even so. Only you know that ids may repeat, and that your matrix need not be the identity. So give a check
# ordinary inputs.

# %% [markdown]
# ## Find the bug
#
# `lnp.course.bug(level, seed)` hands out an operation that is no exercise of this course. Its forward is right, its
# backward is not. You need no derivation, only the two rules and a judge. A good order of work:
#
# 1. Which gradients are wrong, which are right? A right one clears the lines that it passed through.
# 2. At which special values does it become right? Set an input to 0 or to 1, one at a time.
# 3. Only then read the code.
#
# One together:

# %%
task = lnp.course.bug(1, seed=24)
print(task)

# %%
report = check(task.forward, task.backward, task.inputs, task.fixed)
print("wrong:", [*report.failures], "of", [*task.inputs])

zero = task.inputs | {"gate": np.zeros_like(task.inputs["gate"])}
dy = rng.standard_normal(zero["gate"].shape)
print("right where gate = 0:", passes(task.forward, task.backward, zero, dy))
assert [*report.failures] == ["gate"] and passes(task.forward, task.backward, zero, dy)

# %% [markdown]
# `dup` is right, so `gate` and `sig` are in order, and `dswish` or `dgate` is not. Where `gate` is 0, all is right: so
# something is missing that has `gate` as a factor. Now the code. The forward uses `gate` twice, as GELU does its $x$:
# as a factor, and inside the sigmoid. And `dgate` has the first path alone. The other goes through the sigmoid
# $\sigma$, whose derivative is $\sigma (1 - \sigma)$:


# %%
def mended(dy, cache):
    gate, up, sig = cache
    dswish = dy * up
    dgate = dswish * (sig + gate * sig * (1 - sig))
    return dgate, dy * gate * sig


verdict = task.check(mended)
assert verdict

# %% [markdown]
# ### Three for you (about 10 minutes each)
#
# Copy the text into a new cell, mend the backward, and hand it to `task.check`. It says what is wrong, and not why.
# `print(task.reveal())` is the solution. First, one slip:

# %%
task = lnp.course.bug(1, seed=6)
print(task)

# %%
task.check(task.backward)  # put yours in its place

# %% [markdown]
# Level 2: a slip that hides at an unlucky point. `task.unlucky` holds the inputs there, and what is fixed.

# %%
task = lnp.course.bug(2, seed=0)
print(task)

# %%
task.check(task.backward)  # put yours in its place

# %% [markdown]
# Level 3: two slips, or one that an upstream gradient of ones would hide. Mend what the check names, and check again.

# %%
task = lnp.course.bug(3, seed=7)
print(task)

# %%
task.check(task.backward)  # put yours in its place

# %% [markdown]
# More of them? Each seed is another text; after some dozens a fault comes again, in other names.

# %% [markdown]
# ## The MLP: three backwards in a row
#
# The second half of a block goes up, through GELU, and down:
#
# $$\text{wide} = \text{up}(x), \qquad \text{bent} = \text{gelu}(\text{wide}), \qquad y = \text{down}(\text{bent}).$$
#
# There is no fork in it. So this is rule 1, three times, last step first.
#
# `mlp.up` and `mlp.down` are nodes: `mlp.down.backward(dy, c_down)` returns the gradient of its input and a dict with
# the gradients of its own arrays.
#
# ### Exercise: `mlp_backward` ({{mlp_backward}})
#
# Return `(dx, grads)`, with `grads = {"up": ..., "down": ...}`. The cache is `(c_up, c_gelu, c_down)`. `c_gelu` is the
# `GeluCache(x, cdf)` of the exercise `gelu_backward`, and `ops.gelu_backward` reads it.


# %% exercise="mlp_backward"
from lora_np.course.exercises.mlp_backward import mlp_backward

# %% check="mlp_backward"
lnp.course.check("mlp_backward", mlp_backward)

# %% [markdown]
# ## Layer norm
#
# For each row of $d$ entries:
#
# $$c = x - \text{mean}(x), \qquad \sigma^{-1} = \left(\text{mean}(c^2) + \varepsilon\right)^{-1/2}, \qquad
# \hat x = c\, \sigma^{-1}, \qquad y = \gamma\, \hat x + \beta.$$
#
# <details><summary>Before you look: how many ways lead from x to y?</summary>
#
# Four. From x to c there are two: directly, and by the mean. From c to xhat there are two again: directly, and by the
# spread of the row. Two times two.
#
# </details>

# %%
lnp.course.draw_paths("layer_norm", x=np.zeros((4, 6)))  # any shape (N, d)

# %% [markdown]
# *The graph of layer norm, four times. In each panel one way from y back to x is lit by thick orange arrows: straight
# on; by the mean; by the spread; by both.*
#
# A grey arrow goes forward, an orange one back. Rule 1 multiplies along the orange arrows, and rule 2 adds up the four
# panels. Nobody walks the four ways one by one: from $y$ backwards, each box is visited once, and adds what arrives.
#
# Go back step by step. The first three steps are here, the last one is yours.
#
# 1. $\beta$ and $\gamma$ serve all rows, so add over rows: $d\beta = \sum_n dy$, $d\gamma = \sum_n dy\, \hat x$.
#    Onwards goes $d\hat x = \gamma\, dy$.
# 2. $c$ reaches $\hat x$ in two ways. Directly: $\sigma^{-1} d\hat x$. And through $\sigma^{-1}$, which every entry of
#    the row uses.
# 3. The second way. $\sigma^{-1}$ receives $\sum_j d\hat x_j\, c_j$. A nudge of $c_i$ moves $\sigma^2$ by $2 c_i / d$,
#    and so moves $\sigma^{-1} = (\sigma^2)^{-1/2}$ by $-\tfrac12 \sigma^{-3} \cdot 2 c_i / d = -\sigma^{-3} c_i / d$.
#    Multiply the two, and put in $c = \hat x\, \sigma$: $-\sigma^{-1}\, \hat x_i\, \text{mean}(d\hat x\, \hat x)$.
#    Add the two ways: $dc = \sigma^{-1} d\hat x - \sigma^{-1}\, \hat x\, \text{mean}(d\hat x\, \hat x)$.
# 4. $c = x - \text{mean}(x)$. A nudge of $x_i$ moves $c_i$ by 1, and every entry of $c$ by $-1/d$ through the mean.
#    What is $dx$ then, now that $dc$ is known? And one of the four ways brings nothing. Which?
#
# By hand, with three entries and $\gamma = 1$: $x = (1, 1, 4)$ has the mean 2, so $c = (-1, -1, 2)$, and $\sigma^2$ is
# $6 / 3 = 2$. Two changes of a row go unnoticed (chapter 2): a constant added to all entries, and $c$ made longer. So a
# nudge along $(1, 1, 1)$ or along $(-1, -1, 2)$ moves nothing, and $dx$ is at right angles to both. In three dimensions
# that leaves one direction: whatever $dy$ is, $dx$ is a multiple of $(1, -1, 0)$.
#
# Take $dy = (1, 0, 0)$. Then $d\hat x\, \hat x$ has the mean $-\tfrac13 \sigma^{-1}$. With $\sigma^{-2} = \tfrac12$,
# steps 2 and 3 give
#
# $$dc = \sigma^{-1} \left( (1, 0, 0) + \tfrac16 (-1, -1, 2) \right)
# = \sigma^{-1} \left( \tfrac56, -\tfrac16, \tfrac13 \right).$$
#
# Step 4 is yours. Then compare with the library:

# %%
row = np.array([[1.0, 1, 4]])
_, cache = ops.layer_norm_forward(row, np.ones(3), np.zeros(3), 1e-12)
for dy in ([1.0, 0, 0], [5.0, -2, 1]):
    dx, _, _ = ops.layer_norm_backward(np.array([dy]), cache)
    print(f"dy = {dy}: dx = {(dx[0].round(3) + 0.0).tolist()}")  # + 0.0: no -0.0

# %% [markdown]
# (A row of two entries would be a bad example: both directions are taken, so $dx$ is zero whatever $dy$ is.)

# %% [markdown]
# ### Exercise: `layer_norm_backward` ({{layer_norm_backward}})
#
# Return `dx, dgamma, dbeta`. The cache has `xhat` (N, d), `inverse_std` (N, 1), `gamma` (d,).


# %% exercise="layer_norm_backward"
from lora_np.course.exercises.layer_norm_backward import layer_norm_backward

# %% check="layer_norm_backward"
lnp.course.check("layer_norm_backward", layer_norm_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# `dx` is `dc` less the mean of `dc`. The term of step 3 has the mean zero already, as `xhat` has: the fourth way brings
# nothing. So with `dxhat = gamma * dy`, and the means over each row,
#
# `dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))`.
#
# By hand: the mean of `dc` is a third of `inverse_std`, so `dx = inverse_std * (1/2, -1/2, 0)`.
#
# </details>
#
# ### Now without a derivation
#
# Llama and its relatives have no layer norm but an **RMSNorm** (Zhang and Sennrich 2019, arXiv:1910.07467): a row is
# divided by its root mean square and multiplied by $\gamma$. No mean is taken away, and there is no $\beta$. In code:
#
# ```python
# inverse_rms = ((x * x).mean(axis=1, keepdims=True) + eps) ** -0.5
# xhat = x * inverse_rms
# y = gamma * xhat
# ```
#
# By hand, $\gamma = 1$: $x = (3, 4)$ has the root mean square $\sqrt{12.5} = 3.54$. A longer $x$ in the same direction
# gives the same $y$, but for $\varepsilon$. So a nudge along $x$ moves nothing, and $dx$ is at right angles to $x$,
# whatever $dy$ is. Use it to test yours: run the three lines on `x = [[3, 4]]` with a tiny `eps`, hand `(xhat,
# inverse_rms, gamma)` to your function, and `(dx * x).sum()` must be about 0.
#
# ### Exercise: `rms_norm_backward` ({{rms_norm_backward}})
#
# Derive it, with the four steps above as your model. Return `dx, dgamma`. The cache has `xhat` (N, d), `inverse_rms`
# (N, 1), `gamma` (d,).


# %% exercise="rms_norm_backward"
from lora_np.course.exercises.rms_norm_backward import rms_norm_backward

# %% check="rms_norm_backward"
lnp.course.check("rms_norm_backward", rms_norm_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# Nothing is taken away, so the way by the mean is not there, and step 4 falls away:
# `dx = inverse_rms * (dxhat - xhat * mean(dxhat * xhat))`, with `dxhat = gamma * dy`.
#
# </details>

# %% [markdown]
# ---
#
# ## Second sitting
#
# A good place for a break: the rest takes about <!-- sitting_2 -->185<!-- / --> minutes. So far you have two rules, a
# judge that you can trust, and the backward of every part that treats each row by itself. What is missing is the part
# where rows meet, attention; the loss; and the whole.
#
# **If you go on after a restart of the kernel**, you need nothing of the first sitting but the two cells at the top:
# the one that finds `lora_np`, and the one with the imports. Run these, then the cell below, and go on from here. Your
# right answers stand in `my_answers.py`, beside this notebook. The library reads them there when it puts your code into
# the model. The cell below lists them, as far as this model runs them (it has no RMSNorm).

# %%
model = lnp.unfreeze(lnp.load_pretrained("digits"), "all")  # as in the first sitting
rng = np.random.default_rng(4)
whose = lnp.course.assemble(model).whose
print("yours so far:", *(name for name in whose if whose[name] == "yours"), sep="\n  ")

# %% [markdown]
# ## Softmax
#
# One row of scores $S$ becomes probabilities $P_u = e^{S_u} / \sum_v e^{S_v}$.
#
# <details><summary>Before you look: how many ways lead from S to P?</summary>
#
# Two. The exponential goes into the numerator of its own entry, and into the sum, which divides all entries of the row.
#
# </details>

# %%
lnp.course.draw_paths("softmax", S=np.zeros((2, 3)))

# %% [markdown]
# *The graph of softmax, twice. The first way from P back to S passes the exponential alone, the second goes by the sum
# of the row.*
#
# Nudge one score $S_v$. Its own probability rises, and *all* others fall, because the sum in the denominator grew:
#
# $$\frac{\partial P_u}{\partial S_v} = P_u\, [u = v] - P_u P_v.$$
#
# Here $[u = v]$ is 1 if $u = v$, and 0 if not. The first term comes from the numerator, the second from the sum.
#
# By hand: $S = (0, \ln 3)$ gives $P = (\tfrac14, \tfrac34)$. Let $dP = (1, 0)$, so the loss answers to $P_0$ alone. A
# nudge of $S_0$ moves $P_0$ by $\tfrac14 - \tfrac1{16} = \tfrac3{16}$, a nudge of $S_1$ by $-\tfrac14 \cdot \tfrac34 =
# -\tfrac3{16}$. So $dS = (\tfrac3{16}, -\tfrac3{16})$. The two add to zero: raising all scores alike changes nothing.
#
# And for any $dP$? Follow the nudge of $S_v$ to all $P_u$, and add. Then look at what you have: one factor stands in
# both terms, and one sum is the same for all entries of the row. No table of derivatives has to be built.

# %% [markdown]
# ### Exercise: `softmax_backward` ({{softmax_backward}})
#
# `softmax_backward(dP, P)` returns `dS`. All three have the same shape, with any number of axes; the rows lie along the
# last.


# %% exercise="softmax_backward"
from lora_np.course.exercises.softmax_backward import softmax_backward

# %% check="softmax_backward"
lnp.course.check("softmax_backward", softmax_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# dS_v = sum over u of dP_u (P_u [u = v] - P_u P_v) = P_v dP_v - P_v (sum over u of P_u dP_u). The factor P_v stands in
# both terms, and the sum is one number for each row: `dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))`.
#
# </details>
#
# Layer norm and softmax are relatives: in both, every output of a row depends on every input of the row. To see it,
# draw the whole table of derivatives for one row of six entries: row $u$, column $v$ holds $\partial y_u / \partial
# x_v$. A backward multiplies by the transpose of this table, without ever building it.
#
# <details><summary>Before you look: which sign do the entries have, on the diagonal and off it?</summary>
#
# Softmax: positive on the diagonal, negative everywhere else, for a score that rises takes from all others. Layer norm:
# mostly so, too, as the mean takes from all. But each entry also moves the spread. Where two entries lie on different
# sides of the mean, far enough out, this raises the other by more than the mean takes: where the product of the two,
# normalised, is below -1.
#
# </details>

# %%
x = np.array([[2.0, -2.2, 0.3, 0.9, -0.4, 1.1]])
P = np.exp(x) / np.exp(x).sum()
_, cache = ops.layer_norm_forward(x, np.ones(6), np.zeros(6), 1e-12)
norm = [ops.layer_norm_backward(unit[None], cache)[0][0] for unit in np.eye(6)]
tables = {
    "layer norm (gamma = 1)": np.array(norm),
    "softmax": np.diag(P[0]) - P.T @ P,
}
# a constant that is added to all inputs moves no output
assert all(np.abs(table.sum(axis=1)).max() < 1e-12 for table in tables.values())

# %% tags=["hide-input"]
# Draws the two tables.
limit = max(np.abs(table).max() for table in tables.values())
figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.7), sharey=True)
for axis, (name, table) in zip(axes, tables.items()):
    image = axis.imshow(table, cmap="RdBu", vmin=-limit, vmax=limit)
    axis.set(title=name, xlabel="input", ylabel="output")
    for (u, v), entry in np.ndenumerate(table):
        color = "white" if abs(entry) > 0.6 * limit else "black"
        text = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
        axis.text(v, u, f"{entry:+.2f}", **text)
figure.colorbar(image, ax=axes)
plt.show()

# %% [markdown]
# *Two six by six tables of derivatives, blue where positive and red where negative, with the same limits. Both have a
# positive diagonal. Off it all of softmax is negative, and most of layer norm, but for two pairs of entries. Softmax is
# paler: none of its derivatives is above a quarter.*
#
# A formula with the diagonal alone would be a natural mistake: each output would answer to its own input only, and
# every other path would be lost.

# %% [markdown]
# ## Attention
#
# For each sequence and head by itself, with $T$ queries and $U$ keys:
#
# $$S = Q K^T / \sqrt{d_k}, \qquad P = \text{softmax}(S), \qquad D = P \odot \text{mask}, \qquad O = D V.$$
#
# The mask is dropout on the shares. There is nothing new here: two matrix products and a softmax.
#
# <details><summary>Before you look: which of Q, K and V has the shortest way to O?</summary>
#
# V: one product. Q and K take four steps. They meet in S, and go on together from there: so three of the four steps
# have to be gone back once only, for both.
#
# </details>

# %%
Q, V = np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 6, 7))  # n 2, h 3, T 4, U 6
lnp.course.draw_paths("attention", Q=Q, V=V)

# %% [markdown]
# *The graph of attention, three times: one step from O back to V; from O by D, P and S back to Q; the same way as far
# as S, and then to K.*
#
# Go back from $O$, a step at a time. You have undone each of them before:
#
# | step | it is like | your question |
# | --- | --- | --- |
# | $O = D V$ | $y = x W$ | which of the two is $x$ here, and which is $W$? |
# | $D = P \odot \text{mask}$ | a product, entry by entry | what does a nudge of $P_{tu}$ arrive multiplied by? |
# | $P = \text{softmax}(S)$ | the exercise before | is it $P$ or $D$ that stands in there? |
# | $S = Q K^T / \sqrt{d_k}$ | $y = x W$, with $W = K^T$ | where do the transpose and the root go? |
#
# By hand: one query, two keys, one number each. $Q = (1)$, $K = (0, \ln 3)$ and $V = (8, 0)$ give $S = (0, \ln 3)$ and
# $P = (\tfrac14, \tfrac34)$. Dropout takes out half of the shares and doubles the others. Let it take out the second:
# $\text{mask} = (2, 0)$. Then $D = (\tfrac12, 0)$ and $O = 4$. Let $dO = 1$, and find $dV$, $dD$, $dP$, $dS$, $dQ$ and
# $dK$ on paper, in this order. Here are the three that attention hands down:

# %%
Q = np.array([[[[1.0]]]])
K, V, mask = (np.array([[[[a], [b]]]]) for a, b in ((0, np.log(3)), (8.0, 0), (2.0, 0)))
O, cache = ops.attention_forward(Q, K, V, mask=mask.swapaxes(2, 3))
gradients = ops.attention_backward(np.ones((1, 1, 1, 1)), cache)
for name, gradient in zip(("dQ", "dK", "dV"), gradients):
    print(f"{name} = {gradient.ravel().round(3).tolist()}")

# %% [markdown]
# The second value was dropped, and gets nothing. Its key gets a gradient all the same: its share was in the sum that
# the softmax divides by. A key that a query may not *see* is another matter. There $P = 0$, so $dS$ is zero by itself:
# `visible` needs no line in the backward.

# %% [markdown]
# ### Exercise: `attention_backward` ({{attention_backward}})
#
# Return `dQ, dK, dV`. The cache has `Q` (n, h, T, d_k), `K` (n, h, U, d_k), `V` (n, h, U, d_v), `P` (n, h, T, U) and
# `mask`, shaped like P or `None`.


# %% exercise="attention_backward"
from lora_np.course.exercises.attention_backward import attention_backward

# %% check="attention_backward"
lnp.course.check("attention_backward", attention_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# With T for the transpose of the last two axes, in this order:
#
# - `dV = D.T @ dO` and `dD = dO @ V.T`, as for x W;
# - `dP = dD * mask`;
# - `dS = P * (dP - sum of P * dP)`, with P and not D, as P is what the softmax gave;
# - `dQ = dS @ K / root` and `dK = dS.T @ Q / root`, with `root = d_k ** 0.5`.
#
# By hand: dV = (1/2, 0), dD = (8, 0), dP = (16, 0). The sum of P dP is 4, so dS = (1/4 · 12, 3/4 · (-4)) = (3, -3).
# Then dQ = -3 ln 3 = -3.296 and dK = (3, -3).
#
# </details>
#
# Gradients flow back along the shares $P$. Below, token $u$ may be seen by token $t$ only if $u \le t$, as in GPT. We
# let the loss depend on the output of a single token $t$, and look at which values receive a gradient.

# %% [markdown]
# <details><summary>Before you look: the loss depends on the output of token t alone. Which values receive a gradient,
# and in which proportion?</summary>
#
# Those of token t and of the tokens before it, in proportion to the shares that t gave them. The output is the mean of
# the values with these shares, so a nudge of a value arrives times its share.
#
# </details>

# %%
Q, K, V = rng.standard_normal((3, 1, 1, 6, 4))
_, cache = ops.attention_forward(Q, K, V, visible=np.tri(6, dtype=bool))
received = np.zeros((6, 6))
for t in range(6):
    dO = np.zeros((1, 1, 6, 4))
    dO[0, 0, t] = 0.5  # a vector of length 1
    received[t] = np.linalg.norm(attention_backward(dO, cache)[2][0, 0], axis=1)
assert np.all(received[np.triu_indices(6, 1)] == 0)

# %% tags=["hide-input"]
# Draws the lengths of the gradients that the values receive.
figure, axis = plt.subplots(figsize=(4.6, 3.6))
figure.colorbar(axis.imshow(received, cmap="viridis"), ax=axis, label="length of dV")
axis.set(xlabel="value of token u", ylabel="loss depends on token t")
plt.show()

# %% [markdown]
# *A six by six table: only the lower triangle is lit, so a token's loss reaches itself and the tokens before it, and
# the first row gives everything to the first token.*
#
# No gradient reaches the future, to the bit. And this table is $P$ itself: $dV = P^T dO$, and $dO$ has one row that is
# not zero, of length 1.

# %% [markdown]
# ## The attention layer: a fork with three ways
#
# Around the operation stand four linear maps. In the forward of chapter 2, $x$ went into `query`, `key` and `value`;
# the heads attended; `output` mixed what they found. Draw the arrows, and go back along each.
#
# Two tools. `attention.query.backward(dQ, c_query)` returns a pair, as every node's does. And `heads_backward(dO,
# c_heads, attention, "QKV")`, of `lora_np.model.attention`, cuts the rows of each group into heads, goes back through
# attention as you did in the exercise before, and puts the heads side by side again. It returns `dQ, dK, dV` as rows
# (N, d); `"QKV"` says that all three are wanted. It takes the node, which knows how many heads there are.
#
# ### Exercise: `attention_layer_backward` ({{attention_layer_backward}})
#
# Return `(dx, grads)`, with `grads` a dict with the keys `"output"`, `"query"`, `"key"` and `"value"`. The cache is
# `(c_query, c_key, c_value, c_heads, c_output)`.


# %% exercise="attention_layer_backward"
from lora_np.course.exercises.attention_layer_backward import attention_layer_backward

# %% check="attention_layer_backward"
lnp.course.check("attention_layer_backward", attention_layer_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# First through `output`, then through the heads, then back along each of the three: `dx` is the sum of what `query`,
# `key` and `value` hand down.
#
# </details>

# %% [markdown]
# ## The loss, so that it does not overflow
#
# The loss of one row of logits $z$ with the right class $j$ is $-\log p_j$, with $p = \text{softmax}(z)$. It is the
# number that says how surprised the model was. For $z = (0, \ln 3)$ and class 0: $p = (\tfrac14, \tfrac34)$, and the
# loss is $\ln 4 = 1.386$.
#
# On a computer the plain way breaks twice. With logits of 1,000, $e^{1000}$ is infinite. With logits of $(1000, 0)$ and
# class 1, $p_1$ is rounded to 0, and $\log 0$ is $-\infty$; the right answer is 1,000. Find a form in which neither can
# happen.
#
# ### Exercise: `cross_entropy_forward` ({{cross_entropy_forward}})
#
# Return the loss, the mean over the rows that count, and the cache `CrossEntropyCache(p, q, divisor)`. A label of -100
# marks a row that does not count; at least one row always counts. `p` are the probabilities (N, L) of all rows, those
# that do not count too. `q` (N, L) is 1 at the label of each row that counts and 0 elsewhere. `divisor` is how many
# rows count.


# %% exercise="cross_entropy_forward"
from lora_np.course.exercises.cross_entropy_forward import cross_entropy_forward

# %% check="cross_entropy_forward"
lnp.course.check("cross_entropy_forward", cross_entropy_forward)

# %% [markdown]
# ## Cross entropy
#
# From logits $z$ to the loss, for each row: $p = \text{softmax}(z)$, $\text{loss} = -\sum_j q_j \log p_j$. The target
# $q$ is 1 for the right class and 0 elsewhere (or smoothed; it sums to 1). The loss of a batch is the mean over the
# rows that count.
#
# Since $\log p_j = z_j - \log \sum_k e^{z_k}$, a nudge of $z_i$ moves $\log p_j$ by $[i = j] - p_i$. Put this into the
# loss and add over $j$. The $q_j$ sum to 1, and all logarithms are gone: what is left for $dz_i$ is short.
#
# Two things remain. For a batch, each row is divided by the number of rows that count, and a row that is ignored gets
# zero.
#
# By hand: the row above, $z = (0, \ln 3)$ with class 0. A nudge of $z_0$ moves $-\log p_0$ by $-(1 - \tfrac14)$, a
# nudge of $z_1$ by $\tfrac34$. So $dz = (-\tfrac34, \tfrac34)$: a step against it pushes the first logit up, the second
# down.

# %%
z = np.array([[0.0, np.log(3.0)]])
loss, cache = ops.cross_entropy_forward(z, np.array([0]))
dz = ops.cross_entropy_backward(1.0, cache)
print(f"loss {loss:.3f}, dz {dz.round(3).tolist()}")

# %% [markdown]
# ### Exercise: `cross_entropy_backward` ({{cross_entropy_backward}})
#
# Return `dlogits` (N, L). The cache has `p` (N, L); `q` (N, L), a row of zeros where the label is to be ignored; and
# `divisor`, the number of rows that count (or 1, when the loss is a sum). `dloss` is the upstream number.


# %% exercise="cross_entropy_backward"
from lora_np.course.exercises.cross_entropy_backward import cross_entropy_backward

# %% check="cross_entropy_backward"
lnp.course.check("cross_entropy_backward", cross_entropy_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# dz_i = -(sum over j of q_j ([i = j] - p_i)) = p_i - q_i: the probability that was given, minus the one that was asked
# for. In code: `(p - q) * counts * (dloss / divisor)`, where `counts` is 1 for a row that counts and 0 for one that
# does not.
#
# </details>

# %% [markdown]
# ## A whole block
#
# The block of our model (pre-norm) is
#
# $$a = \text{attention}(\text{norm}_1(x)), \quad h = x + a, \quad m = \text{mlp}(\text{norm}_2(h)), \quad y = h + m.$$
#
# <details><summary>Before you look: how many ways lead from x to y? And through the four blocks of our model?</summary>
#
# Four: past the attention or through it, and then past the MLP or through it. Four blocks in a row have four times four
# times four times four of them, that is 256. A backward visits each box once all the same: where ways meet, it adds,
# and goes on with the sum.
#
# </details>

# %%
lnp.course.draw_paths("block", x=np.zeros((10, 64)))  # two images of 5 tokens

# %% [markdown]
# *The graph of a pre-norm block, four times: from y past both parts back to x, through the MLP only, through the
# attention only, and through both. All boxes have the same shape.*
#
# Go back from $y$. There are two forks, and rule 2 is the whole art.
#
# - $y = h + m$: what do $h$ and $m$ receive?
# - $h$ went two ways, straight to $y$, and through norm 2 and the MLP. What is $dh$ then?
# - The first half is built in the same way. In which order do you need the parts of it?
#
# By hand, with numbers in place of the parts: let the attention half give $a = 2 x$, and the MLP half $m = 3 h$. Then
# $h = 3 x$ and $y = 4 h = 12 x$, so $dx = 12\, dy$. By the four ways: past both brings 1, through the MLP 3, through
# the attention 2, through both $2 \cdot 3$. Together 12.
#
# The parts of a block are small objects with a backward each. You have written them all: `block.mlp.backward(dy,
# cache)` is your `mlp_backward`, `block.attention.backward` your `attention_layer_backward`, and the norms are nodes,
# too.

# %% [markdown]
# ### Exercise: `block_backward` ({{block_backward}})
#
# Return `(dx, grads)`, with `grads` a dict with the keys `"mlp"`, `"norm2"`, `"attention"` and `"norm1"`. The cache is
# that of the library's block, `(c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2)`: with two entries for dropout
# that your forward of chapter 2 need not have. There is no dropout here: leave `c_drop1` and `c_drop2` alone.


# %% exercise="block_backward"
from lora_np.course.exercises.block_backward import block_backward

# %% check="block_backward"
lnp.course.check("block_backward", block_backward)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# `dh = dy +` what comes back through the MLP and norm 2. Then `dx = dh +` what comes back through the attention and
# norm 1, with dh as its upstream. With the numbers above: dh = dy + 3 dy = 4 dy, and dx = 4 dy + 2 · 4 dy = 12 dy.
#
# </details>
#
# Note the straight way: $dy$ itself is a summand of $dx$. However deep the stack of blocks, the upstream gradient
# reaches the bottom undiminished by that way, and each block adds its own part to it.

# %% [markdown]
# ## Your code, backwards through the real model
#
# `lnp.course.assemble` puts your operations into the nodes of the pretrained model, as in chapter 2: now also the way
# back. A forward and a backward of yours that are right together run together.

# %%
mine = lnp.course.assemble(model)
print(mine)

# %% [markdown]
# Does it give the right gradients? First we compare with the library, node by node: the numbers on the way forward,
# the gradient that each node hands down, and those of its arrays. If one differed, the first would be named.

# %% tags=["measured"]
_, dev, _ = lnp.load_data("digits-mixed")
tokens = lnp.load_tokenizer("digits")
few, labels = lnp.Batch.of(tokens(dev.inputs[:20])), dev.labels[:20]
comparison = mine.compare(few, labels)
print(comparison)
assert comparison.first is None

# %% [markdown]
# But perhaps the library is wrong, too. So the check of chapter 3, for your model: the gradients of its 72 arrays
# against numerical derivatives along random directions, on two images.

# %%
report = lnp.check_model(mine.model, lnp.Batch.of(tokens(dev.inputs[:2])))
verdicts = [row.verdict for row in report.rows]
right, zero = (verdicts.count(verdict) for verdict in ("ok", "vacuous"))
print(f"your model: {right} of {len(verdicts)} gradients are right", end="")
print(f", and {zero} are zero, yours and the numerical ones")
assert report.ok, report

# %% [markdown]
# Four are zero whatever you do. Which, and why, is the next question.

# %% [markdown]
# ## Which array can never be trained?
#
# Every parameter of your model has a gradient now, and some training loops give each the same care. But there are
# arrays in this model whose gradient is zero: for every image, every label and every loss, and whatever numbers the
# other arrays hold. No loss can teach them anything. (If such an array moves in training all the same, it is by
# rounding, which AdamW's quotient makes large, or by weight decay.) Which are they?
#
# ### Exercise: `never_trained` ({{never_trained}})
#
# `never_trained(model)` returns a list of names out of `lnp.parameters(model, trainable_only=True)`, in any order, and
# leaves the model as it is. It gets any vision transformer with several tokens, the class token among them. Either find
# the names by trial, or see why, and go by the names.
#
# For a trial: `lnp.astype(model, np.float64)` is a copy in which zero, but for rounding, is far from any real gradient.
# Images can be random: `lnp.Batch.of(rng.standard_normal((2, patches, pixels)))` holds two, with `pixels =
# len(model.embeddings.projection.W)` and `patches = len(model.embeddings.position.table) - 1`, as one row is the class
# token's. Take a random upstream gradient. And mind adapters (chapter 5): an array that starts at zero can make
# another's gradient zero in the first step, and only then.


# %% exercise="never_trained"
from lora_np.course.exercises.never_trained import never_trained

# %% check="never_trained"
lnp.course.check("never_trained", never_trained)

# %% [markdown]
# <details><summary>Why? Think first.</summary>
#
# The bias of `key` adds the same vector to every key. So all scores of a query move by one number, the product of the
# query with this vector. The softmax does not see that. No output moves, so there is no gradient. The bias of `query`
# is different: it moves each score by its product with the key, which is another number for each key.
#
# </details>

# %% [markdown]
# ## What a gradient is good for
#
# Take 100 digits, most of them turned or inverted, which this model reads badly. One forward, one backward of your
# model, and every parameter has its gradient $g$. Now move all parameters a little against it: $\theta - \eta\, g$. To
# first order the loss must fall by $\eta\, |g|^2$, the sum over all entries. Does it?


# %%
def loss_of(model, batch, labels):
    logits, cache = model.forward(batch)
    loss, kept = ops.cross_entropy_forward(logits, labels)
    return loss, lambda: model.backward(cross_entropy_backward(1.0, kept), cache)


precise = lnp.astype(mine.model, np.float64)
images, labels = tokens(dev.inputs[:100]), dev.labels[:100]
batch = lnp.Batch.of(images.astype(np.float64))
before, backward = loss_of(precise, batch, labels)
gradients = backward()
squares = sum(np.sum(g**2) for g in gradients.values())
for eta in (1e-2, 1e-3, 1e-4):
    moved = lnp.astype(precise, np.float64)  # a copy
    for name, array in lnp.parameters(moved).items():
        array -= eta * gradients[name]
    after, _ = loss_of(moved, batch, labels)
    share = (before - after) / (eta * squares)
    print(f"eta {eta:.0e}: the loss fell by {share:.3f} of what was predicted")

# %% [markdown]
# With the largest step the loss is not a straight line any more. The smaller the step, the nearer to 1. So all these
# numbers are right *together*, as one direction. And the step is what training is: chapter 6 does it many
# times, with a better rule for the size.
#
# And the price? We time a forward and a backward of the library's model over 100 images, in float32, ten times, and
# take the medians.

# %% tags=["measured"]
batch, times = lnp.Batch.of(images), {"forward": [], "backward": []}
for _ in range(10):
    start = time.perf_counter()
    _, backward = loss_of(model, batch, labels)
    middle = time.perf_counter()
    backward()
    times["forward"].append(middle - start)
    times["backward"].append(time.perf_counter() - middle)
ratio = np.median(times["backward"]) / np.median(times["forward"])
print(f"a backward takes {ratio:.1f} times as long as a forward")
assert 0.4 < ratio < 5

# %% [markdown]
# All gradients for the price of a few forward passes at most, in place of half a million. That is why networks are
# trained backwards. (The count of two to one, above, was for the linear maps alone.)

# %% [markdown]
# ## A ritual: gradient norms, layer by layer
#
# When a network does not learn, practitioners first look at one number a layer: the norm of its gradient. Beside it
# stands the norm relative to that of the weights, which says how far a step of a given size would move the layer. You
# have all gradients of the model already:


# %%
def norm_of(part, arrays):
    """Return the norm of all arrays of a part together."""
    own = [array for name, array in arrays.items() if name.startswith(part)]
    return sum(np.sum(array**2) for array in own) ** 0.5


weights = lnp.parameters(precise)
print("part         gradient   relative to the weights")
for part in ("embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "head"):
    size = norm_of(part, gradients)
    print(f"{part:12} {size:8.2f} {size / norm_of(part, weights):12.2f}")

# %% [markdown]
# The six gradients are within a factor of four. They do not fade on the way down. From layer 3 to layer 0 they grow, as
# each block adds its own part to what the straight way brings. What should make you look closer: a layer whose norm is
# a thousand times smaller than its neighbour's (it hardly learns), a thousand times larger (it soon breaks), exactly
# zero (it is cut off), or NaN.

# %% [markdown]
# ## What you built
#
# - `linear_backward`, `gelu_backward`, `layer_norm_backward`, `attention_backward` and `cross_entropy_backward` are the
#   functions of the same names in `lora_np.ops`. There, an argument `needs` leaves out what nobody wants, and some
#   lines are written for speed.
# - `cross_entropy_forward` is `ops.cross_entropy_forward`, which also smooths labels and takes sums.
# - `mlp_backward` and `attention_layer_backward` are the methods `backward` of `lora_np.model.mlp.MLP` and of
#   `lora_np.model.attention.Attention`.
# - `softmax_backward` is two lines inside `lora_np.ops.attention_backward`, those that make `dS`.
# - `block_backward` is `PreNormBlock.backward` in `lora_np.model.blocks`, which also handles dropout and stops early
#   where nothing below is trained.
#
# ## Traps met in real projects
#
# - **Transformers** (pull request 34191): with gradient accumulation, each small batch was divided by its *own* number
#   of tokens. Small batches of different lengths then do not add up to the gradient of the large one. The divisor of
#   the cross entropy belongs to the whole batch.
# - **PyTorch** (issue 41508): a query whose keys are all masked gets 0 / 0 from the softmax. Even if nobody uses its
#   output, the backward multiplies zero by NaN, and NaN reaches the shared weights. `ops.attention_forward` refuses
#   such a mask.
# - **DeepSpeed** (pull request 692): a layer norm kernel read gamma and beta at the wrong index in its backward, and so
#   computed wrong gradients of gamma. Gammas that are all equal hide such a bug, as the unlucky points above hide
#   theirs.
#
# ## Can you say it?
#
# <details><summary>1. An array is used in three places of a forward. How many terms does its gradient have, and what
# becomes of them?</summary>
#
# Three, one for each way to the loss, and they are added: a nudge of the array arrives by all three. The x in front of
# query, key and value is such an array.
#
# </details>
#
# <details><summary>2. Why is db the sum over the rows of dy, and not the mean?</summary>
#
# A nudge of b moves every row by the same amount, and the loss answers to all of them together. If the loss is a mean
# over rows, the division is in dy already.
#
# </details>
#
# <details><summary>3. W is frozen. Which product of the linear backward falls away, and which must stay?</summary>
#
# dW = x^T dy falls away, as nobody wants it. dx = dy W^T must stay, or nothing below would get its gradient. It may go
# only if nothing below is trained.
#
# </details>
#
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** A cache costs memory. Which arrays of the block could the backward compute again from `x`, and what would it
# cost?
#
# <details><summary>An answer</summary>
#
# All of them: the block is a function of x. In the digits model the cache of a block is about 14 times as large as x.
# Whoever keeps x alone runs the forward of the block again in the backward. A step then costs two forwards and one
# backward; the backward is one to two times a forward, so it is a third to a half more. This is *gradient
# checkpointing*. A middle way keeps what is dear to compute (outputs of linear maps) and computes again what is cheap:
# xhat from x, mean and deviation, GELU's output from its input.
#
# </details>
#
# **2.** If all weights of a block are frozen, which of the products in its backward can be left out, and which cannot?
#
# <details><summary>An answer</summary>
#
# The six dW = x^T dy, a third of the work of the linear maps (forward, dx and dW cost the same), and with them the sums
# for db, dgamma and dbeta. Then the cache need not keep the inputs of the linear maps, either. What stays are the six
# dx = dy W^T, as what lies below may want its gradient, and the four products inside attention, which have no weights.
# If nothing below is trained, the whole backward of the block can go.
#
# </details>
#
# **3.** The backward of the backward: what would you have to write to get second derivatives?
#
# <details><summary>An answer</summary>
#
# A backward of each backward: dx = dy W^T is itself a function of dy and W, and each of its inputs needs a gradient.
# And the cache would have to count as an input, as it depends on x. That doubles the chapter, which is why libraries
# with automatic differentiation are liked. There is a cheap trick for one direction v, though: the backward is an
# analytic function, so feed it weights w + i h v and take the imaginary part, as in chapter 3. That gives the second
# derivatives times v (a Hessian-vector product) for one forward and one backward. On the digits model it agrees with
# the difference of two gradients to 4e-7, which is as good as the difference is.
#
# </details>
