"""Chapter 4, third part: answers of learners, written without sight of the rules."""

from corpus.entries import right_answer, wrong_answer

from lora_np.ops import dropout_backward

# block_backward


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def block_straight_way_forgotten(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    g = {}
    dm, g["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, g["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dm + dy
    da, g["attention"] = block.attention.backward(dh, c_attention)
    dx, g["norm1"] = block.norm1.backward(da, c_norm1)
    return dx, g


@wrong_answer("block_backward", cause="wrong_cached_value", also=("missing_path", "missing_term"))
def block_attention_receives_dy(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    dn2, grads_mlp = block.mlp.backward(dy, c_mlp)
    dh, grads_norm2 = block.norm2.backward(dn2, c_norm2)
    dn1, grads_attention = block.attention.backward(dy, c_attention)
    dx, grads_norm1 = block.norm1.backward(dn1, c_norm1)
    grads = {"mlp": grads_mlp, "norm2": grads_norm2, "attention": grads_attention, "norm1": grads_norm1}
    return dy + dh + dx, grads


@wrong_answer("block_backward", cause="missing_term", also=("missing_path", "wrong_cached_value"))
def block_dy_past_the_attention(block, dy, cache):
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cache[4])
    dm, grads["norm2"] = block.norm2.backward(dm, cache[3])
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, cache[1])
    da, grads["norm1"] = block.norm1.backward(da, cache[0])
    return dy + da, grads


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def block_mlp_way_only(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    dh, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dh, grads["norm2"] = block.norm2.backward(dh, c_norm2)
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="wrong_cached_value", also=("swapped",))
def block_norm_caches_exchanged(block, dy, cache):
    c_norm2, c_attention, _, c_norm1, c_mlp, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped")
def block_norm_keys_exchanged(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    dm, mlp = block.mlp.backward(dy, c_mlp)
    dm, first = block.norm2.backward(dm, c_norm2)
    dh = dy + dm
    da, attention = block.attention.backward(dh, c_attention)
    da, second = block.norm1.backward(da, c_norm1)
    return dh + da, {"norm1": first, "attention": attention, "norm2": second, "mlp": mlp}


@wrong_answer("block_backward", cause="inplace")
def block_adds_into_dy(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dm, grads["norm2"] = block.norm2.backward(dm, c_norm2)
    dy += dm
    da, grads["attention"] = block.attention.backward(dy, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dy + da, grads


@wrong_answer("block_backward", cause="wrong_cached_value", also=("missing_path",))
def block_norm2_receives_dy(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, c_mlp)
    dn, grads["norm2"] = block.norm2.backward(dy, c_norm2)
    dh = dy + dn
    da, grads["attention"] = block.attention.backward(dh, c_attention)
    da, grads["norm1"] = block.norm1.backward(da, c_norm1)
    return dh + da, grads


@right_answer("block_backward")
def block_two_halves(block, dy, cache):
    c_norm1, c_attention, _, c_norm2, c_mlp, _ = cache
    grads = {}
    halves = [("norm2", "mlp", c_norm2, c_mlp), ("norm1", "attention", c_norm1, c_attention)]
    for norm, part, c_norm, c_part in halves:
        inner, grads[part] = getattr(block, part).backward(dy, c_part)
        inner, grads[norm] = getattr(block, norm).backward(inner, c_norm)
        dy = dy + inner
    return dy, grads


@right_answer("block_backward")
def block_with_dropout_steps(block, dy, cache):
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache
    dm, mlp = block.mlp.backward(dropout_backward(dy, c_drop2), c_mlp)
    through, norm2 = block.norm2.backward(dm, c_norm2)
    dh = through + dy
    da, attention = block.attention.backward(dropout_backward(dh, c_drop1), c_attention)
    back, norm1 = block.norm1.backward(da, c_norm1)
    return back + dh, {"norm1": norm1, "attention": attention, "norm2": norm2, "mlp": mlp}


@right_answer("block_backward")
def block_sums_three_ways(block, dy, cache):
    dm, mlp = block.mlp.backward(dy, cache[-2])
    dm, norm2 = block.norm2.backward(dm, cache[-3])
    da, attention = block.attention.backward(sum((dm, dy)), cache[1])
    da, norm1 = block.norm1.backward(da, cache[0])
    dx = dy.copy()
    for part in (dm, da):
        dx += part
    return dx, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}
