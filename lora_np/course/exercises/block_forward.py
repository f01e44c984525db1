"""Chapter 2: attention and MLP, each after a norm and beside a way past it."""

from lora_np.course.draws import drawn
from lora_np.course.models import GROUPS, adapted_model, frozen_model
from lora_np.model.blocks import PreNormBlock

CHAPTER, PLACE, MINUTES, LEVEL = 2, 5, 15, "medium"
OUTPUTS = ("y", "cache")
HINTS = (
    "A pre-norm block adds twice, x + attention(norm1(x)), and to that mlp(norm2(...)): four calls and two sums.",
    "`block.norm1.forward(x)` returns the rows and a cache; `block.attention.forward` takes the groups, too.",
    "The second sum adds to h, not to x, and the second norm takes h.",
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
    "there is one sequence": lambda groups, **_: len(groups) == 1 and groups[0][2] == 1,
    "all sequences have one length": lambda groups, **_: len(groups) == 1,
    "sequences have different lengths": lambda groups, **_: len(groups) > 1,
    "a sequence has a single token": lambda groups, **_: any(T == 1 for *_, T in groups),
    "the block has an adapter": lambda block, **_: hasattr(block.attention.query, "A"),
}
SEQUENCES = (GROUPS, ((0, 5, 1, 5),), ((0, 9, 3, 3),), ((0, 6, 1, 6), (6, 10, 4, 1)), GROUPS, GROUPS)


def draw(rng, dtype, trial):
    model = adapted_model(rng, dtype, trial) if trial == 4 else frozen_model(rng, dtype)
    groups = SEQUENCES[trial]
    return {"block": model.layer[trial % 2], "x": drawn(rng, dtype, groups[-1][1], 12), "groups": groups}


SLIPS = """
factor_order: the norm comes after the sum, as in BERT; this block normalises first (pre-norm)
    a, c_norm1 = block.norm1.forward(x) => a = x
    h = x + a => h, c_norm1 = block.norm1.forward(x + a)
    m, c_norm2 = block.norm2.forward(h) => m = h
    return h + m, (c_norm1, c_attention, c_norm2, c_mlp) => return block.norm2.forward(h + m)[0], None
wrong_cached_value: what is added to is x itself, not norm1(x)
    h = x + a => h = block.norm1.forward(x)[0] + a
wrong_cached_value: what is added to is h itself, not norm2(h)
    return h + m => return block.norm2.forward(h)[0] + m
wrong_cached_value: what is added to is the block's x and h themselves, not their norms
    h = x + a => h = block.norm1.forward(x)[0] + a
    return h + m => return block.norm2.forward(h)[0] + m
missing_path: the way past the attention is missing: x + attention(...)
    h = x + a => h = a
missing_path: the way past the MLP is missing: h + mlp(...)
    return h + m => return m
missing_path: both ways past are missing
    h = x + a => h = a
    return h + m => return m
wrong_cached_value: the second sum adds to h, not to x once more
    return h + m => return x + m
extra_term: x is in h already; it is added once more
    return h + m => return x + h + m
wrong_cached_value: the MLP receives norm2(h), what comes out of the first half; here it receives x
    norm2.forward(h) => norm2.forward(x)
wrong_cached_value: the MLP receives norm2(h), h = x + a; here it receives the attention's output alone
    norm2.forward(h) => norm2.forward(a)
swapped: the two norms are exchanged
    block.norm1. => block.normX.
    block.norm2. => block.norm1.
    block.normX. => block.norm2.
wrong_cached_value: norm1 serves both halves; the second one is norm2
    block.norm2. => block.norm1.
wrong_cached_value: norm2 serves both halves; the first one is norm1
    block.norm1. => block.norm2.
missing_term: norm1 is left out
    a, c_norm1 = block.norm1.forward(x) => a, c_norm1 = x, None
missing_term: norm2 is left out
    m, c_norm2 = block.norm2.forward(h) => m, c_norm2 = h, None
missing_term: both norms are left out
    a, c_norm1 = block.norm1.forward(x) => a, c_norm1 = x, None
    m, c_norm2 = block.norm2.forward(h) => m, c_norm2 = h, None
missing_term: the MLP is left out
    return h + m => return h
missing_term: the attention is left out
    h = x + a => h = x
factor_order: the halves are exchanged: attention first, then the MLP
    block.attention.forward(a, groups) => block.mlp.forward(a)
    block.mlp.forward(m) => block.attention.forward(m, groups)
factor_order: the halves are exchanged, with their norms: attention first, then the MLP
    block.norm1. => block.normX.
    block.norm2. => block.norm1.
    block.normX. => block.norm2.
    block.attention.forward(a, groups) => block.mlp.forward(a)
    block.mlp.forward(m) => block.attention.forward(m, groups)
wrong_derivative: the activation between the two maps of the MLP is left out
    block.mlp.forward(m) => block.mlp.down.forward(block.mlp.up.forward(m)[0])
mask_ignored: all rows attend to each other; a sequence sees itself only, which `groups` says
    (a, groups) => (a, ((0, len(x), 1, len(x)),))
"""
