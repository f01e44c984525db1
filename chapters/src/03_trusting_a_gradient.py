# %% [markdown]
# # 3. Trusting a gradient
#
# In the next chapter you write backward passes by hand. Here you build the tool that says whether they are right.
#
# After this chapter you can
#
# - compute a derivative by numbers alone, and say how far to trust it;
# - choose the step of a difference formula from its order, instead of guessing;
# - check every gradient of a function with array arguments, and a large one with a single move;
# - tell a right gradient from a wrong one by the size of its error, and read the report of a check.
#
# **Needs:** chapter 2, derivatives, Taylor's formula. **Time:** about 80 minutes. **Difficulty:** medium.
#
# **In 20 minutes:** read [Would you notice?](#Would-you-notice?) and
# [One number: the slope by hand](#One-number:-the-slope-by-hand), write `choose_step`, look at the figure in
# [How large an error is too large?](#How-large-an-error-is-too-large?), and read
# [The judge of this course](#The-judge-of-this-course).
#
# It prepares question 3 of the course, the five steps of LoRA: step three is the gradients of the low-rank matrices,
# and everything rests on those being right.

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.gradcheck import check, mutants, numeric_gradients
from lora_np.ops.cases import cases

plt.rcParams["figure.figsize"] = (6.5, 3.6)
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## Would you notice?
#
# A wrong forward shows when you compare its numbers with somebody else's, as in chapter 2. A gradient of your own has
# no such numbers beside it. Does a wrong one show by itself? Let us make one and watch.
#
# The network below reads digits: linear, layer norm, GELU, linear. Its loss is the cross entropy: small when the right
# digit gets a high probability (chapter 4). One of the two backward passes of the layer norm is right. The other
# forgets that the mean and the standard deviation are themselves functions of the input.

# %%
train, _, _ = lnp.load_data("digits")
images = train.inputs.reshape(len(train), 64).astype(np.float64)


def forgetful_backward(dy, cache):
    """Treat the mean and the standard deviation as constants."""
    return cache.inverse_std * cache.gamma * dy, None, None


def losses(norm_backward, steps=120, lr=0.5):
    rng, found = np.random.default_rng(0), []
    W1, W2 = rng.standard_normal((64, 32)) / 8, rng.standard_normal((32, 10)) / 6
    for _ in range(steps):
        h, c1 = ops.linear_forward(images, W1)
        n, c2 = ops.layer_norm_forward(h, np.ones(32), np.zeros(32), 1e-5)
        a, c3 = ops.gelu_forward(n)
        logits, c4 = ops.linear_forward(a, W2)
        loss, c5 = ops.cross_entropy_forward(logits, train.labels)
        found.append(loss)
        da, dW2, _ = ops.linear_backward(ops.cross_entropy_backward(1.0, c5), c4)
        dh = norm_backward(ops.gelu_backward(da, c3), c2)[0]
        W1, W2 = W1 - lr * ops.linear_backward(dh, c1)[1], W2 - lr * dW2
    return np.array(found)


# %% [markdown]
# <details><summary>Before you look: will the loss fall at all with the wrong backward? And which of the two curves
# will be the smoother one?</summary>
#
# It falls to less than a fifth, and it is the smoother one. The gradient of W2 does not pass through the norm and is
# right. That of W1 begins close to the right direction and later stands nearly across it, but never against it.
#
# </details>

# %% tags=["measured"]
curves = {"A": losses(forgetful_backward), "B": losses(ops.layer_norm_backward)}
for name, curve in curves.items():
    print(f"{name}: loss {curve[0]:.1f} at the start, {curve[-1]:.1f} at the end")
assert curves["A"][-1] < 0.2 * curves["A"][0] and curves["A"][-1] > 2 * curves["B"][-1]

# %% tags=["hide-input", "measured"]
# Draws the two losses over the steps.
for (name, curve), colour in zip(curves.items(), ("tab:orange", "tab:blue")):
    plt.plot(curve, color=colour)
    look = {"color": colour, "va": "center", "fontsize": 12}
    plt.annotate(f" {name}", (len(curve) - 1, curve[-1]), **look)
plt.gca().set(xlabel="step", ylabel="training loss", ylim=(0, None))
plt.title("Which backward is wrong?")
plt.show()

# %% [markdown]
# *Two loss curves that both fall from above 2 towards 0. Curve A falls smoothly. Curve B has bumps, falls faster and
# ends lower.*
#
# A is the wrong one, the smooth one. Its loss still falls to less than a fifth. Seen alone, it looks like a network
# that learns, only a little slowly. So "the loss goes down" proves nothing. We need a judge that does not depend on
# training.

# %% [markdown]
# ## One number: the slope by hand
#
# Take $f(x) = x^3$ at $x = 2$. The derivative is $3 x^2 = 12$. Pretend that we do not know it.
#
# A derivative is how much $f$ moves for a small nudge $h$, divided by $h$. With $h = 0.1$ we have
# $f(2.1) = 9.261$ and $f(1.9) = 6.859$. Two formulas:
#
# $$\text{forward:} \quad \frac{f(x + h) - f(x)}{h} = \frac{9.261 - 8}{0.1} = 12.61, \quad \text{error } 0.61;$$
#
# $$\text{central:} \quad \frac{f(x + h) - f(x - h)}{2h} = \frac{9.261 - 6.859}{0.2} = 12.01, \quad
# \text{error } 0.01.$$
#
# One step to each side is far better than one step to the right. Taylor's formula says why:
#
# $$f(x \pm h) = f \pm h f' + \tfrac{h^2}{2} f'' \pm \tfrac{h^3}{6} f''' + \dots$$
#
# In the difference of the two, the terms with even powers cancel. What is left of the error is about
# $\tfrac{h^2}{6} f'''$. Here $f''' = 6$, and $\tfrac{0.01}{6} \cdot 6 = 0.01$. The forward formula keeps
# $\tfrac{h}{2} f''$ as well. Here $f'' = 6x = 12$, and $0.05 \cdot 12 = 0.6$.
#
# The power of $h$ in the error is called the **order**: 1 for forward, 2 for central.


# %%
def forward_difference(f, x, h):
    return (f(x + h) - f(x)) / h


def central_difference(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


def cube(x):
    return x**3


print(f"forward {forward_difference(cube, 2.0, 0.1):.3f}")
print(f"central {central_difference(cube, 2.0, 0.1):.3f}")

# %% [markdown]
# ## Order 4, for two more evaluations
#
# Do the central difference twice, with $h$ and with $2h$:
#
# $$\text{near} = f' + c\,h^2 + \dots \qquad \text{wide} = f' + c\,(2h)^2 + \dots = f' + 4 c\,h^2 + \dots$$
#
# Two equations, two unknowns: $f'$ and $c$. Take the combination in which $c$ drops out:
#
# $$\frac{4\,\text{near} - \text{wide}}{3} = f' + \text{terms of } h^4.$$
#
# By hand, at $x = 2$ with $h = 0.1$: near $= 12.01$, wide $= (10.648 - 5.832) / 0.4 = 12.04$, and
# $(48.04 - 12.04) / 3 = 12$. (Exactly, because the fifth derivative of a cube is zero.) This trick is Richardson's
# extrapolation.


# %%
def order_four(f, x, h):
    near, wide = central_difference(f, x, h), central_difference(f, x, 2 * h)
    return (4 * near - wide) / 3


print(f"order 4 {order_four(cube, 2.0, 0.1):.3f}")

# %% [markdown]
# ## Why not simply take a tiny h?
#
# Because $f(x + h)$ and $f(x - h)$ become nearly equal. A float64 holds about 16 digits. If the first 12 digits of two
# numbers agree, their difference has 4 digits left. So the error has two parts:
#
# $$\text{error}(h) \approx \underbrace{h^p}_{\text{formula of order } p}
# + \underbrace{\varepsilon / h}_{\text{rounding}}, \qquad \varepsilon = 2.2 \cdot 10^{-16},$$
#
# if $f$, $x$ and the derivatives are all of size about 1. The first part wants a small $h$, the second a large one.
# (For a large $x$, take $h$ times $|x|$: the step is *relative*.)

# %% [markdown]
# ### Exercise: choose the step ({{choose_step}})
#
# Write `choose_step(order)`. It returns the $h$ at which the error is about least, in float64, for a formula of the
# given order. Use $\varepsilon$ itself, `np.finfo(float).eps`, and leave out constant factors such as 2 or $p$.


# %% exercise="choose_step"
from lora_np.course.exercises.choose_step import choose_step

# %% check="choose_step"
lnp.course.check("choose_step", choose_step)

# %% [markdown]
# With that $h$, both parts are $\varepsilon^{p / (p + 1)}$. That is the best that such a formula can do. The table also
# shows float32, where $\varepsilon = 1.2 \cdot 10^{-7}$.

# %%
print("order   best step   best error   best error in float32")
for p in (1, 2, 4):
    eps, eps32 = 2.0**-52, 2.0**-23
    step, best, best32 = (
        eps ** (1 / (p + 1)),
        eps ** (p / (p + 1)),
        eps32 ** (p / (p + 1)),
    )
    print(f"{p:5} {step:11.0e} {best:12.0e} {best32:15.0e}")

# %% [markdown]
# Two lessons. The higher the order, the *larger* the best step. And in float32 even order 4 leaves about five digits:
# **check gradients in float64**, whatever you train in.

# %% [markdown]
# ## A way without subtraction: the complex step
#
# Nudge $x$ in the imaginary direction: $(2 + ih)^3 = 8 + 12\,ih - 6h^2 - i h^3$. The imaginary part, divided by $h$, is
# $12 - h^2$. Nothing was subtracted, so nothing cancels, and $h = 10^{-20}$ is fine. In general
#
# $$f'(x) = \frac{\operatorname{Im} f(x + ih)}{h} + \text{terms of } h^2.$$
#
# (Squire and Trapp 1998, SIAM Review 40(1): a short paper, worth reading.)


# %%
def complex_step(f, x, h=1e-20):
    return f(x + 1j * h).imag / h


print("cube:         ", complex_step(cube, 2.0))
print("with np.abs:  ", complex_step(lambda x: np.abs(x) ** 3, 2.0))

# %% [markdown]
# The second line is the catch. $|x|^3$ at 2 has the slope 12 too, but `np.abs` of a complex number is real. The
# imaginary part is lost, and the answer 0 is wrong without any warning. The same happens with `.real`, `np.var` and
# `np.linalg.norm`. So use the complex step as a second opinion, beside a difference.
#
# Now all four on $f(x) = e^{\sin x}$ at $x = 1$, over the whole range of $h$.


# %% [markdown]
# <details><summary>Before you look: follow the curves to the far left, to tiny h. Is order 4 still better than order 1
# there?</summary>
#
# No. There the error is rounding, about eps / h, and no formula that subtracts escapes it. A higher order helps on the
# right arm only. The complex step does not subtract, and stays flat.
#
# </details>


# %%
def f(x):
    return np.exp(np.sin(x))


slope = np.cos(1.0) * np.exp(np.sin(1.0))
formulas = {1: forward_difference, 2: central_difference, 4: order_four}
steps = np.logspace(-15, -0.5, 200)


def errors(formula):
    return [max(abs(formula(f, 1.0, h) - slope) / slope, 1e-17) for h in steps]


# %% tags=["hide-input"]
# Draws the error of each formula over the step, and where choose_step puts the step.
for (p, formula), colour in zip(formulas.items(), ("tab:orange", "tab:blue", "black")):
    plt.loglog(steps, errors(formula), color=colour, label=f"order {p}")
    plt.axvline(choose_step(p), color=colour, linestyle=":")
plt.loglog(steps, errors(complex_step), "--", color="tab:gray", label="complex")
plt.gca().set(xlabel="step h", ylabel="relative error", ylim=(5e-18, 10))
plt.title("dotted: choose_step of 1, 2 and 4")
plt.legend(ncol=2, loc="lower right")
plt.show()

# %% [markdown]
# *Error against step on two logarithmic axes: orders 1, 2 and 4 each make a V whose bottom is near the dotted line and
# lies lower the higher the order; the complex step, dashed, falls along order 2 and then stays flat near 1e-16.*
#
# Read it from right to left. The right arm of each V is the formula: its steepness is the order. The left arm is
# rounding, and it is the same for all. It looks ragged because rounding is as good as random. The rule of
# `choose_step`, which knows nothing of $f$, lands near the bottom each time.

# %%
print("order   predicted, about   below 30 times that")
for p, formula in formulas.items():
    h = choose_step(p)
    off, predicted = abs(formula(f, 1.0, h) - slope) / slope, h**p
    print(f"{p:5} {predicted:18.0e}   {off < 30 * predicted}")
    assert off < 30 * predicted

# %% [markdown]
# ## From a number to arrays
#
# An operation takes arrays and returns an array. Which derivative do we want? The one that training needs: that of a
# single number, the loss. Let $Y$ be the output, and let $dY$, of the same shape, say how the loss answers to each
# entry of $Y$. Then near the present point, the loss moves as
#
# $$\ell = \sum_{n, j} Y_{nj}\, dY_{nj}.$$
#
# A backward is a function that gets $dY$, called the **upstream gradient**, and returns the derivatives of $\ell$ with
# respect to the inputs. Each gradient has the shape of its input.
#
# To check one, draw $dY$ at random, and move the inputs entry by entry.

# %% [markdown]
# ### Exercise: the numerical gradient ({{numerical_gradient}})
#
# Write `numerical_gradient(function, x)`. `x` is a float64 array of any shape, `function(x)` a number. Return the
# gradient, an array shaped like `x`, by central differences of order 4. Leave `x` as you found it.


# %% exercise="numerical_gradient"
from lora_np.course.exercises.numerical_gradient import numerical_gradient

# %% check="numerical_gradient"
lnp.course.check("numerical_gradient", numerical_gradient)

# %% [markdown]
# `lora_np.gradcheck.numeric_gradients` is the same idea with more care. It moves each named input in turn, and tries
# other steps where the first is not good enough. Let it judge the linear map.

# %%
rng = np.random.default_rng(0)
shapes = {"x": (5, 4), "W": (4, 3), "b": (3,)}
inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
dy = rng.standard_normal((5, 3))  # the upstream gradient
y, cache = ops.linear_forward(**inputs)
numeric = numeric_gradients(ops.linear_forward, inputs, dy)


def error(given, numeric):
    """Return the largest difference, relative to the largest entry."""
    return np.abs(given - numeric).max() / np.abs(numeric).max()


for name, given in zip(inputs, ops.linear_backward(dy, cache)):
    agrees = error(given, numeric[name]) < 1e-10
    print(f"d{name:2} {given.shape!s:7} agrees to 1e-10: {agrees}")
    assert agrees

# %% [markdown]
# ## How large an error is too large?
#
# Let us measure it. `mutants` takes a right backward and puts one mistake into it: a sign, a factor, an axis, a wrong
# array. It keeps only those that change a gradient by more than $10^{-4}$. For six operations we compare the right
# backward and every mutant with the numerical gradient.


# %%
def largest_error(backward, case, upstream, numeric):
    given = backward(upstream, case.forward(**case.inputs, **case.fixed)[1])
    given = given if isinstance(given, tuple) else (given,)
    return max(error(g, n) for g, n in zip(given, numeric.values()))


# %% tags=["setup"]
# Inputs for each operation, by name.
examples = {case.name: case for case in cases(np.random.default_rng(0))}

# %%
found = {}
for op in ("linear", "gelu", "layer_norm", "attention", "lora_linear", "cross_entropy"):
    case = examples[op]
    output, _ = case.forward(**case.inputs, **case.fixed)
    upstream = rng.standard_normal(output.shape) if output.ndim else 0.7
    numeric = numeric_gradients(case.forward, case.inputs, upstream, case.fixed)
    right = largest_error(case.backward, case, upstream, numeric)
    with np.errstate(all="ignore"):  # some mistakes overflow
        backwards = [mutant.backward for mutant in mutants(case, seed=0)]
        wrong = [largest_error(b, case, upstream, numeric) for b in backwards]
    found[op] = right, wrong
assert max(right for right, _ in found.values()) < 1e-8
assert min(min(wrong) for _, wrong in found.values()) > 1e-3
assert sum(len(wrong) for _, wrong in found.values()) > 200

# %% [markdown]
# <details><summary>Before you look: how far apart will the worst right gradient and the best wrong one be: a factor of
# 10, of 1,000, or more?</summary>
#
# More than 100,000: the right ones lie below 1e-8, the wrong ones above 1e-3. A mistake changes a formula, and
# rounding changes a last digit.
#
# </details>

# %% tags=["hide-input", "picture"]
# Draws the errors of the right backwards, and of those with one mistake.
for row, (right, wrong) in enumerate(found.values()):
    errors_of_wrong, place = np.minimum(wrong, 1e3), np.full(len(wrong), row)
    plt.plot(errors_of_wrong, place, "|", color="tab:orange", markersize=14)
    plt.plot(max(right, 1e-17), row, "o", color="tab:blue")
plt.axvline(1e-7, color="black", linestyle=":")
plt.xscale("log")
plt.ylim(-0.5, len(found) - 0.5)
names = [f"{op} ({len(wrong)} wrong)" for op, (_, wrong) in found.items()]
plt.yticks(range(len(found)), names)
plt.xlabel("largest relative error of any gradient (above 1000: drawn at 1000)")
plt.title("blue: right    orange: one mistake each    dotted: 1e-7", fontsize=10)
plt.show()

# %% [markdown]
# *Six rows on a logarithmic axis: a blue point per operation far to the left, below 1e-8, and hundreds of orange
# strokes to the right, above 1e-3, most of them near 1; the dotted line at 1e-7 runs through the empty gap.*
#
# Right and wrong lie many powers of ten apart. A tolerance of $10^{-7}$ sits in the gap. Nobody needs a tolerance of
# 1 % here. And an error of $10^{-3}$ is not "nearly right": it is a bug that you have not found yet.

# %% [markdown]
# ## A large array: one move for all entries
#
# An array with a million entries needs four million evaluations. There is a shortcut. Move *all* entries at once, along
# a random direction $V$. By the chain rule the loss has the slope $\sum_{ij} dW_{ij} V_{ij}$. Compare this one number
# with the difference formula along the line $W + tV$. A wrong entry anywhere shifts the sum.

# %%
x, W = rng.standard_normal((6, 64)), rng.standard_normal((64, 256))
dy, V = rng.standard_normal((6, 256)), rng.standard_normal((64, 256))
_, dW, _ = ops.linear_backward(dy, ops.linear_forward(x, W)[1])


def loss_along(t):
    return np.sum(ops.linear_forward(x, W + t * V)[0] * dy)


slope = order_four(loss_along, 0.0, 1e-3)
damaged = dW.copy()
damaged[3, 7] *= 1.01  # one of 16,384 entries, wrong by one percent
for name, gradient in (("right", dW), ("damaged", damaged)):
    off = abs(np.sum(gradient * V) - slope) / np.linalg.norm(gradient)
    print(f"{name:8} agrees to 1e-10: {off < 1e-10}")
print(f"evaluations: 4 in place of {4 * W.size:,}")

# %% [markdown]
# When the operation is linear, no step size is needed at all. Write $J$ for the operation, $J^T$ for its backward, and
# $\langle a, b \rangle$ for the sum of the products of the entries. For *any* $v$ and $u$
#
# $$\langle u,\; J v \rangle = \langle J^T u,\; v \rangle.$$
#
# Both sides are the answer of the loss, with upstream $u$, to the nudge $v$: first by the forward, then by the
# backward. This is the **adjoint test**. Cutting an image into patches only moves numbers about, so it is linear, and
# here is its whole test:

# %%
v = rng.standard_normal((3, 4, 6, 2))  # images
u = rng.standard_normal((3, 6, 8))  # something like their patches
forward, cache = ops.patches_forward(v, size=2)
left, right = np.sum(u * forward), np.sum(ops.patches_backward(u, cache) * v)
print(f"{left:.6f} and {right:.6f}")
assert abs(left - right) < 1e-12

# %% [markdown]
# With the first idea, a direction for each array, the gradients of a whole model cost about a hundred evaluations, not
# half a million. `lnp.check_model` does it for the model of chapter 2, with every parameter trained:

# %%
model = lnp.unfreeze(lnp.load_pretrained("digits"), "all")
tokens = lnp.load_tokenizer("digits")
report = lnp.check_model(model, lnp.Batch.of(tokens(train.inputs[:2])))
count = lnp.count_parameters(model).trainable
print(f"{count:,} gradients in {len(report.rows)} arrays; all are right: {report.ok}")

# %% [markdown]
# ## The judge of this course
#
# `lora_np.gradcheck.check` puts all of this together. It takes the forward, the backward, and the inputs by name. It
# draws the upstream itself. Here each row is divided by its sum. The backward treats the sum as a constant, as curve A
# did with the mean and the standard deviation:


# %%
def share_forward(x):
    total = x.sum(axis=1, keepdims=True)
    return x / total, (x, total)


def constant_sum(dy, cache):
    x, total = cache
    return dy / total


print(check(share_forward, constant_sum, {"x": rng.uniform(1, 2, (3, 4))}))

# %% [markdown]
# The table says which gradient is wrong and where it is worst. The last line is a guess at the cause: the check tries
# the usual mistakes, and looks which one explains the numbers. It begins with two labels, a group and a cause in it.
# There are five groups: contract, factor, term, layout, value. `term` means that a part of the sum is wrong. Of these
# `missing_path` is the case in which the input reaches the output in several ways, and one of them is left out: here
# $x$ is above the line, and in the sum below it. (`lora_np.gradcheck.CAUSES` has all labels.) After the labels stands
# the line whose way is missing. Below, both ways are there:


# %%
def both_ways(dy, cache):
    x, total = cache
    return dy / total - (dy * x).sum(axis=1, keepdims=True) / total**2


print(check(share_forward, both_ways, {"x": rng.uniform(1, 2, (3, 4))}))

# %% [markdown]
# What no such check can see: it compares the backward with *your* forward. If the forward computes the wrong thing, a
# right backward of it passes. And a check can be made at a point where it cannot fail. Chapter 4 shows such points,
# once you have two backwards of your own, and then sends you after bugs in those of others.

# %% [markdown]
# ## What you built
#
# - `numerical_gradient` is the idea of `lora_np.gradcheck.numeric_gradients`. The package's version also notices noise
#   and kinks, and tells how sure it is (read `lora_np/gradcheck/verdict/slopes.py`).
# - The comparison with a random upstream is `lora_np.gradcheck.check`.
# - One move for all entries is `lora_np.gradcheck.check_parameters`, which `lnp.check_model` applies to a model.
# - `lora_np.gradcheck.mutants` is an endless supply of exercises: `mutant.source` is a wrong function,
#   `mutant.sentence` its solution.
#
# ## Traps met in real projects
#
# - **tt-metal** (Tenstorrent; issue 53204, pull request 53215): a layer norm backward took the mean away twice. The
#   loss still fell. The test could not see it: it allowed an absolute error of 0.5 on gradients of size about 1.
# - **PyTorch**: the documentation of `torch.autograd.gradcheck` says that its defaults are made for double precision,
#   and that the check will likely fail on float32 inputs. Cast before you check.
# - **Chainer** (issue 3541): from one commit on, wrong gradients passed the gradient check of its tests. So test the
#   test: break a backward on purpose, and see that it is caught.
#
# ## Can you say it?
#
# <details><summary>1. Float64, a good step, and your gradient differs from the numerical one by 0.1 %. Is that good
# enough?</summary>
#
# No. Right gradients agree to about 1e-8 or better here. A difference of 1e-3 is a hundred thousand times that: a bug,
# or a kink of the function nearby.
#
# </details>
#
# <details><summary>2. A central difference in float64 with h = 1e-12, everything of size 1: about how many digits are
# right?</summary>
#
# About four. The formula's own error, about h squared, is nothing, but rounding costs eps / h = 2e-16 / 1e-12 = 2e-4.
#
# </details>
#
# <details><summary>3. Your forward computes the wrong formula, and your backward is the right derivative of it. What
# does the check say?</summary>
#
# It passes. It compares the backward with the forward that it is given. Only somebody else's numbers can tell you
# about the forward, as in chapter 2.
#
# </details>
#
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** ReLU has a kink at 0. What do forward, backward and central differences say there, and what should a check do?
#
# <details><summary>An answer</summary>
#
# Forward says 1, backward 0, central 1/2, for every step h. None of them is wrong: there is no derivative at 0, and
# each value from 0 to 1 is a fair convention (a *subgradient*). So a check should look at both sides. Where the slopes
# differ it should say so, and take any value between them. `check` does: a ReLU's backward may return 0, 1/2 or 1 at 0;
# if it returns 7, the report says "numeric between 0 and ... (a kink)". In practice random inputs hardly ever hit a
# kink. But a step that is too large *crosses* one: another reason for a small h.
#
# </details>
#
# **2.** The direction $V$ was random. Can you build a wrong gradient that a *given* direction does not see?
#
# <details><summary>An answer</summary>
#
# Yes: add anything that is at right angles to V. Take a random N, and `E = N - V * (N * V).sum() / (V * V).sum()`. Then
# `(E * V).sum()` is 0, so dW + E has the same slope along V. For a dW of 64 x 256 such a gradient was wrong by 100 % of
# its size, and the slopes agreed to 4e-16. A second direction saw it at once. So draw V *after* the gradient is
# written: nobody can be at right angles to a direction that is not chosen yet, except with probability 0.
#
# </details>
#
# **3.** Dropout draws random numbers. How can a forward with dropout be checked at all?
#
# <details><summary>An answer</summary>
#
# Draw the mask once, outside, and hand it in as a fixed argument. Then the forward is an ordinary function of its
# inputs: the same call gives the same output. That is why the operations of this course take a `mask` and never draw
# one. (Setting the generator's seed anew inside each call works, too, but hides the draw in the function.) And take a
# mask that has zeros and ones *divided by 1 - p*, not all ones: else a backward that forgets the mask passes.
#
# </details>
