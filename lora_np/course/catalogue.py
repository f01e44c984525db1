"""The exercises: what each rebuilds, where it stands, and hints from the vague to the plain."""

import inspect
from dataclasses import dataclass

from lora_np import compress, ops
from lora_np.adapt import lora
from lora_np.course import judges, reference, trials
from lora_np.model.blocks import PreNormBlock
from lora_np.model.tree import count_parameters
from lora_np.train.optimisers import adamw_step


@dataclass(frozen=True)
class Exercise:
    name: str
    chapter: int
    minutes: int
    level: str  # easy, medium or hard
    reference: object  # the function that the exercise rebuilds
    draw: object  # draw(rng, dtype) returns its arguments in order, by name
    outputs: tuple  # names of what it returns, in order
    hints: tuple
    judge: object = None  # judge(given, right, arguments) yields (output, cause, sentence); None: number by number
    numbers: object = dict  # numbers(results) returns arrays by output, which a likely cause is sought for
    forward: object = None  # of a backward: then `draw` draws (inputs, fixed) of this
    changes: tuple = ()  # arguments that an answer is meant to change in place
    lent: tuple = ()  # arguments that it may change while it runs, if it puts them back
    tolerance: float = None  # relative; None: a few roundings of the dtype
    refused: object = None  # refused(rng, dtype) returns arguments that ask for a ValueError, and a sentence on it
    seek: bool = False  # is the mistake there, and to be found? Then a verdict names its cause, but not its place
    parameters: tuple = ()  # the names of the arguments, where the reference has more

    @property
    def signature(self):
        names = self.parameters or tuple(inspect.signature(self.reference).parameters)
        return f"{self.name}({', '.join(names)})"


def backward(name, chapter, minutes, level, op, outputs, hints, alias=None):
    """Return the exercise of the backward of an operation."""
    return Exercise(
        alias or f"{op}_backward",
        chapter,
        minutes,
        level,
        getattr(ops, f"{op}_backward"),
        getattr(trials, op),
        outputs,
        hints,
        forward=getattr(ops, f"{op}_forward"),
        parameters=(name, "cache"),
        seek=alias is not None,
    )


EXERCISES = [
    Exercise(
        "low_rank_approximation", 1, 10, "easy", compress.low_rank_approximation, trials.matrix_and_rank, ("A", "B"),
        ("np.linalg.svd(W, full_matrices=False) gives U, s and Vt, the largest singular values first.",
         "Keep r columns of U, r numbers of s and r rows of Vt. Put s into one of the two, or its root into both."),
        judge=judges.product, numbers=judges.numbers_of_product,
    ),
    Exercise(
        "rank_for_error", 1, 10, "medium", compress.rank_for_error, trials.matrix_and_error, ("r",),
        ("What a rank r leaves out is the root of the sum of the squares of the other singular values.",
         "Divide by the root of the sum of all squares, and take the first r that is within the error."),
    ),
    Exercise(
        "count_parameters", 1, 5, "easy", count_parameters, trials.model, ("total", "trainable"),
        ("lnp.parameters(model) is a dict of arrays; array.size counts entries.",
         "Call it a second time with trainable_only=True."),
    ),
    Exercise(
        "linear_forward", 2, 5, "easy", ops.linear_forward, trials.linear_call, ("y",),
        ("Each row of x goes through W: which of the two stands left?", "x @ W has shape (N, d_out). b may be None."),
    ),
    Exercise(
        "layer_norm_forward", 2, 10, "easy", ops.layer_norm_forward, trials.layer_norm_call, ("y",),
        ("Mean and variance are those of each row: axis=-1, keepdims=True.",
         "eps stands inside the root. gamma multiplies and beta is added after the division."),
    ),
    Exercise(
        "gelu_forward", 2, 5, "easy", ops.gelu_forward, trials.gelu_call, ("y",),
        ("The normal distribution function is (1 + erf(x / sqrt(2))) / 2; lora_np.ops.erf takes arrays.",
         "y is x times that."),
    ),
    Exercise(
        "attention_forward", 2, 20, "medium", ops.attention_forward, trials.attention_call, ("O",),
        ("Scores are Q times K with its last two axes exchanged, over the root of the last size of Q.",
         "Where `visible` is False, put -np.inf before the softmax. `mask` multiplies the weights after it."),
    ),
    Exercise(
        "block_forward", 2, 15, "medium", PreNormBlock.forward, trials.block_call, ("y",),
        ("A pre-norm block adds twice: x + attention(norm1(x)), and to that mlp(norm2(...)).",
         "block.norm1.forward(x) returns the rows and a cache; block.attention.forward takes the groups, too."),
        parameters=("block", "x", "groups"),
    ),
    Exercise(
        "numerical_gradient", 3, 15, "medium", reference.numerical_gradient, trials.scalar_function, ("gradient",),
        ("Move one entry at a time: by -2h, -h, h and 2h, the others as they are.",
         "(f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / (12 h). Work on a copy of x, and put each entry back."),
        tolerance=1e-9, lent=("x",),
    ),
    Exercise(
        "choose_step", 3, 5, "easy", reference.choose_step, trials.order, ("h",),
        ("The error of the formula grows as h ** order, that of rounding as eps / h.",
         "The two are equal where h ** (order + 1) = eps."),
    ),
    backward("dy", 3, 15, "medium", "layer_norm", ("dx", "dgamma", "dbeta"),
             ("Which of the three gradients is wrong? The check says it.",
              "gamma differs from entry to entry, so it cannot wait until a mean has been taken."),
             "debug_layer_norm_backward"),
    backward("dy", 3, 15, "medium", "lora_linear", ("dx", "dA", "dB"),
             ("Follow the shapes: dA is (d_in, r), dB is (r, d_out).",
              "x goes two ways: through W, and through A and B. Both come back into dx."),
             "debug_lora_linear_backward"),
    backward("dloss", 3, 15, "medium", "cross_entropy", ("dlogits",),
             ("The gradient of a row is the probability given minus the one asked for, times the weight of the row.",
              "Which rows count, and what is the mean taken over?"),
             "debug_cross_entropy_backward"),
    backward("dy", 4, 10, "easy", "linear", ("dx", "dW", "db"),
             ("Each gradient has the shape of its variable; only one order of the factors fits.",
              "dx = dy W^T, dW = x^T dy; b serves every row, so its gradient is a sum over rows.")),
    backward("dy", 4, 10, "easy", "gelu", ("dx",),
             ("y is a product of two functions of x: two terms.",
              "The derivative of the distribution function is the density exp(-x^2 / 2) / sqrt(2 pi).")),
    backward("dy", 4, 25, "hard", "layer_norm", ("dx", "dgamma", "dbeta"),
             ("dxhat = gamma * dy. x reaches xhat on three ways: itself, through the mean, through the deviation.",
              "dx = inverse_std * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)), the means over each row.")),
    Exercise(
        "softmax_backward", 4, 15, "medium", reference.softmax_backward, trials.softmax, ("dS",),
        ("Adding a constant to a row of S changes nothing: each row of dS sums to zero.",
         "dS = P * (dP - the sum of P * dP over the row)."),
    ),
    backward("dO", 4, 25, "hard", "attention", ("dQ", "dK", "dV"),
             ("Undo the steps from the last to the first: product, mask, softmax, scaled product.",
              "It is P * mask that met V. The root of d belongs into dQ and into dK.")),
    backward("dloss", 4, 15, "medium", "cross_entropy", ("dlogits",),
             ("Softmax and logarithm together: the probability given minus the one asked for.",
              "(p - q) * weight * dloss, with the weight of each row as a column.")),
    Exercise(
        "block_backward", 4, 25, "hard", PreNormBlock.backward, trials.block_back, ("dx", "grads"),
        ("x goes two ways in each half: past it and through it. What comes back on the two is added.",
         "The cache holds those of norm1, attention, drop1, norm2, mlp and drop2, in this order."),
        judge=judges.block, numbers=judges.numbers_of_block, parameters=("block", "dy", "cache"),
    ),
    Exercise(
        "lora_linear_forward", 5, 10, "easy", ops.lora_linear_forward, trials.lora_call, ("y",),
        ("The detour is scale * (x A) B, beside x W + b.", "The dropout mask multiplies x in the detour only."),
    ),
    backward("dy", 5, 20, "medium", "lora_linear", ("dx", "dA", "dB"),
             ("Write the detour as u = z A and scale * u B, and go back through the two products.",
              "du = scale * dy B^T; dA = z^T du; dB = scale * u^T dy. dx has a part from W and one from the detour.")),
    Exercise(
        "lora_init", 5, 5, "easy", lora.lora_init, trials.init, ("A", "B"),
        ("B is zero, so that the first output is the base model's.",
         "A is uniform between -1/sqrt(d_in) and 1/sqrt(d_in): rng.uniform, then .astype(dtype)."),
        judge=judges.init,
    ),
    Exercise(
        "adamw_step", 6, 15, "medium", adamw_step, trials.adamw, ("p", "m", "v"),
        ("p, m and v are changed in place: p *= ..., m += ...; nothing is returned.",
         "Decay first: p *= 1 - lr * weight_decay. The means are divided by 1 - beta ** t before they are used."),
        changes=("p", "m", "v"),
    ),
    Exercise(
        "inject", 6, 20, "hard", lora.inject, trials.inject, ("model",),
        ("lora.targets_of(model, config) names the nodes; tree.rebuild(model, change) makes a new model.",
         "change(path, node) returns a LoRALinear with the node's own W and b for a target, else the node."),
        judge=judges.inject,
    ),
    Exercise(
        "train", 6, 15, "medium", reference.train, trials.train, ("losses",),
        ("Forward, loss, gradient of the loss, backward, step: five lines for each batch.",
         "Make one AdamW before the loop: it remembers its running means from step to step."),
        judge=judges.train, changes=("model",),
    ),
    Exercise(
        "merge", 7, 15, "medium", lora.merge, trials.adapted, ("model",),
        ("tree.rebuild(model, change) with a change that turns a LoRALinear into a Linear.",
         "W + scale * A B; add in float64 and round once. The old model must stay as it is."),
        judge=judges.merge, numbers=judges.numbers_of_merged, refused=trials.nothing_to_merge,
    ),
    Exercise(
        "combine_adapters", 7, 10, "medium", reference.combine_adapters, trials.adapters, ("A", "B"),
        ("(A1 + A2)(B1 + B2) has cross terms that nobody trained. Blocks side by side have none.",
         "Concatenate the A along the rank, and the scaled B along the rank."),
        judge=judges.combined, numbers=judges.numbers_of_product,
    ),
    Exercise(
        "accuracy_interval", 8, 15, "medium", reference.accuracy_interval, trials.counts, ("low", "high"),
        ("Wilson's middle is not the share itself, but is drawn towards 1/2 by z^2 / (2 n).",
         "Both the middle and the half width are divided by 1 + z^2 / n; z is 1.959963984540054."),
        tolerance=1e-4,
    ),
]  # fmt: skip
BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
