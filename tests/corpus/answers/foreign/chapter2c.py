import numpy as np
from corpus.entries import right_answer, wrong_answer

# block_forward(block, x, groups)


@wrong_answer("block_forward", cause="missing_term", also=("missing_path",))
def block_without_second_sum(block, x, groups):
    "The second half replaces h."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="missing_term", also=("missing_path",))
def block_without_first_sum(block, x, groups):
    "The first half replaces x."
    a, c1 = block.norm1.forward(x)
    h, c2 = block.attention.forward(a, groups)
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def block_adds_to_x(block, x, groups):
    "The second sum adds to x, not to h."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return x + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def block_second_norm_of_x(block, x, groups):
    "The second norm takes x: both halves run side by side."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    m, c3 = block.norm2.forward(x)
    m, c4 = block.mlp.forward(m)
    return x + a + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="wrong_cached_value")
def block_adds_to_the_normed(block, x, groups):
    "The residual path starts behind the norm, since x is overwritten."
    x, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(x, groups)
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="factor_order")
def block_post_norm(block, x, groups):
    "The norms stand behind the sums, as in BERT."
    a, c1 = block.attention.forward(x, groups)
    h, c2 = block.norm1.forward(x + a)
    m, c3 = block.mlp.forward(h)
    y, c4 = block.norm2.forward(h + m)
    return y, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="swapped")
def block_norms_swapped(block, x, groups):
    "norm2 stands before the attention, norm1 before the MLP."
    a, c1 = block.norm2.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.norm1.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="inplace")
def block_adds_in_place(block, x, groups):
    "h is the caller's x, which is changed in place."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x
    h += a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="shape")
def block_pair_not_unpacked(block, x, groups):
    "The pair that a forward returns is handed on whole: raises."
    a = block.norm1.forward(x)
    a = block.attention.forward(a, groups)
    h = x + a
    m = block.mlp.forward(block.norm2.forward(h))
    return h + m, (a, m)


@wrong_answer("block_forward", cause=None)
def block_without_cache(block, x, groups):
    "Returns y alone."
    h = x + block.attention.forward(block.norm1.forward(x)[0], groups)[0]
    return h + block.mlp.forward(block.norm2.forward(h)[0])[0]


@wrong_answer("block_forward", cause=None)
def block_all_rows_one_sequence(block, x, groups):
    "All rows are taken for one sequence: images look at each other."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, ((0, len(x), 1, len(x)),))
    h = x + a
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause=None)
def block_first_group_only(block, x, groups):
    "Only the first group takes part in the attention: right where all sequences have one length."
    a, c1 = block.norm1.forward(x)
    start, stop, n, T = groups[0]
    h = x.copy()
    found, c2 = block.attention.forward(a[start:stop], ((0, stop - start, n, T),))
    h[start:stop] += found
    m, c3 = block.norm2.forward(h)
    m, c4 = block.mlp.forward(m)
    return h + m, (c1, c2, c3, c4)


@wrong_answer("block_forward", cause="missing_term")
def block_without_second_norm(block, x, groups):
    "norm2 is left out."
    a, c1 = block.norm1.forward(x)
    a, c2 = block.attention.forward(a, groups)
    h = x + a
    m, c3 = block.mlp.forward(h)
    return h + m, (c1, c2, c3)


@right_answer("block_forward")
def block_with_helper(block, x, groups):
    "A helper for a half, and a list as the cache."
    cache = []

    def half(x, norm, part, *more):
        inner, c = norm.forward(x)
        cache.append(c)
        inner, c = part.forward(inner, *more)
        cache.append(c)
        return x + inner

    h = half(x, block.norm1, block.attention, groups)
    return half(h, block.norm2, block.mlp), cache


@right_answer("block_forward")
def block_with_dict(block, x, groups):
    "A dict as the cache, and keywords."
    cache = {}
    normed, cache["norm1"] = block.norm1.forward(x=x)
    attended, cache["attention"] = block.attention.forward(x=normed, groups=groups)
    h = np.add(x, attended)
    normed, cache["norm2"] = block.norm2.forward(x=h)
    y, cache["mlp"] = block.mlp.forward(x=normed)
    y += h
    return y, cache


@right_answer("block_forward")
def block_by_loop(block, x, groups):
    "A loop over the two halves; the sum is collected in a copy of x."
    y, cache = x.copy(), ()
    for norm, part in ((block.norm1, block.attention), (block.norm2, block.mlp)):
        inner, c_norm = norm.forward(y)
        inner, c_part = part.forward(inner, groups) if part is block.attention else part.forward(inner)
        y = y + inner
        cache += (c_norm, c_part)
    return y, cache


@right_answer("block_forward")
def block_in_two_lines(block, x, groups):
    "No cache of the parts: it may be anything."
    h = x + block.attention.forward(block.norm1.forward(x)[0], groups)[0]
    return h + block.mlp.forward(block.norm2.forward(h)[0])[0], (x, h)
