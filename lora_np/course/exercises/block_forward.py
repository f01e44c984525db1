"""Chapter 2: the two halves of a pre-norm block, with the way past each."""

from lora_np.course.draws import drawn
from lora_np.course.models import GROUPS, frozen_model
from lora_np.model.blocks import PreNormBlock

CHAPTER, PLACE, MINUTES, LEVEL = 2, 5, 15, "medium"
OUTPUTS = ("y", "cache")
HINTS = (
    "A pre-norm block adds twice: x + attention(norm1(x)), and to that mlp(norm2(...)).",
    "block.norm1.forward(x) returns the rows and a cache; block.attention.forward takes the groups, too.",
)
library = PreNormBlock.forward


def block_forward(block, x, groups):
    """Return y (N, d) and a cache, for a PreNormBlock without dropout."""
    a, c_norm1 = block.norm1.forward(x)
    a, c_attention = block.attention.forward(a, groups)
    h = x + a
    m, c_norm2 = block.norm2.forward(h)
    m, c_mlp = block.mlp.forward(m)
    return h + m, (c_norm1, c_attention, c_norm2, c_mlp)


BRANCHES = {
    "there is one sequence": lambda groups, **_: sum(n for _, _, n, _ in groups) == 1,
    "there is one group": lambda groups, **_: len(groups) == 1,
    "there are groups of different lengths": lambda groups, **_: len({T for *_, T in groups}) > 1,
    "a sequence has one token": lambda groups, **_: any(T == 1 for *_, T in groups),
}


def draw(rng, dtype, trial):
    groups = {1: ((0, 10, 2, 5),), 3: ((0, 5, 1, 5),), 4: ((0, 6, 2, 3), (6, 9, 3, 1))}.get(trial, GROUPS)
    return {"block": frozen_model(rng, dtype).layer[0], "x": drawn(rng, dtype, groups[-1][1], 12), "groups": groups}


PAST1, PAST2 = "h = x + a", "return h + m"
EXCHANGED = ("norm1.", "norm_."), ("norm2.", "norm1."), ("norm_.", "norm2.")
HALVES = (
    ("block.attention.forward(a, groups)", "block.mlp.forward(a)"),
    ("block.mlp.forward(m)", "block.attention.forward(m, groups)"),
)
SLIPS = [
    (
        "factor_order",
        "the norm comes after the sum, as in BERT; this block normalises first (pre-norm)",
        ("a, c_norm1 = block.norm1.forward(x)", "a = x"),
        (PAST1, "h, c_norm1 = block.norm1.forward(x + a)"),
        ("m, c_norm2 = block.norm2.forward(h)", "m = h"),
        (PAST2 + ",", "return block.norm2.forward(h + m)[0],"),
        ("c_norm2, ", ""),
    ),
    (
        "wrong_cached_value",
        "what is added to is x itself, not norm1(x)",
        (PAST1, "h = block.norm1.forward(x)[0] + a"),
    ),
    (
        "wrong_cached_value",
        "what is added to is h itself, not norm2(h)",
        (PAST2, "return block.norm2.forward(h)[0] + m"),
    ),
    (
        "wrong_cached_value",
        "what is added to is the block's x and h themselves, not their norms",
        (PAST1, "h = block.norm1.forward(x)[0] + a"),
        (PAST2, "return block.norm2.forward(h)[0] + m"),
    ),
    ("missing_path", "the way past the attention is missing: x + attention(...)", (PAST1, "h = a")),
    ("missing_path", "the way past the MLP is missing: h + mlp(...)", (PAST2, "return m")),
    ("missing_path", "both ways past are missing", (PAST1, "h = a"), (PAST2, "return m")),
    ("wrong_cached_value", "the second sum adds to h, not to x once more", (PAST2, "return x + m")),
    ("extra_term", "x is in h already; it is added once more", (PAST2, "return x + h + m")),
    (
        "wrong_cached_value",
        "the MLP receives norm2(h), what comes out of the first half; here it receives x",
        ("norm2.forward(h)", "norm2.forward(x)"),
    ),
    (
        "wrong_cached_value",
        "the MLP receives norm2(h), h = x + a; here it receives the attention's output alone",
        ("norm2.forward(h)", "norm2.forward(a)"),
    ),
    ("swapped", "the two norms are exchanged", *EXCHANGED),
    ("wrong_cached_value", "norm1 serves both halves; the second one is norm2", ("norm2.", "norm1.")),
    ("wrong_cached_value", "norm2 serves both halves; the first one is norm1", ("norm1.", "norm2.")),
    ("missing_term", "norm1 is left out", ("block.norm1.forward(x)", "x, None")),
    ("missing_term", "norm2 is left out", ("block.norm2.forward(h)", "h, None")),
    (
        "missing_term",
        "both norms are left out",
        ("block.norm1.forward(x)", "x, None"),
        ("block.norm2.forward(h)", "h, None"),
    ),
    ("missing_term", "the MLP is left out", (PAST2, "return h")),
    ("missing_term", "the attention is left out", (PAST1, "h = x")),
    ("factor_order", "the halves are exchanged: attention first, then the MLP", *HALVES),
    ("factor_order", "the halves are exchanged, with their norms: attention first, then the MLP", *EXCHANGED, *HALVES),
    (
        "wrong_derivative",
        "the activation between the two maps of the MLP is left out",
        ("block.mlp.forward(m)", "block.mlp.down.forward(block.mlp.up.forward(m)[0])"),
    ),
    (
        "mask_ignored",
        "all rows attend to each other; a sequence sees itself only, which `groups` says",
        ("(a, groups)", "(a, ((0, len(x), 1, len(x)),))"),
    ),
]
