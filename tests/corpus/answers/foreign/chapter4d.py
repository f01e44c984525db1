import numpy as np
from corpus.entries import right_answer, wrong_answer

# block_backward(block, dy, cache)


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def block_back_without_straight_way_below(block, dy, cache):
    "x's straight way is left out."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm2 = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, attention = block.attention.backward(dh, ca)
    dx, norm1 = block.norm1.backward(da, c1)
    return dx, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="missing_path", also=("missing_term",))
def block_back_without_straight_way_above(block, dy, cache):
    "h's straight way is left out."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dh, norm2 = block.norm2.backward(dm, c2)
    da, attention = block.attention.backward(dh, ca)
    da, norm1 = block.norm1.backward(da, c1)
    return dh + da, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="wrong_cached_value", also=("missing_path", "missing_term"))
def block_back_upstream_is_dy(block, dy, cache):
    "The attention gets dy as its upstream, not dh."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm2 = block.norm2.backward(dm, c2)
    da, attention = block.attention.backward(dy, ca)
    da, norm1 = block.norm1.backward(da, c1)
    return dy + dm + da, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="missing_term", also=("missing_path", "wrong_cached_value"))
def block_back_adds_to_dy(block, dy, cache):
    "dx = dy + da: what came through the MLP is lost on the straight way."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm2 = block.norm2.backward(dm, c2)
    da, attention = block.attention.backward(dy + dm, ca)
    da, norm1 = block.norm1.backward(da, c1)
    return dy + da, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="extra_term")
def block_back_dy_twice(block, dy, cache):
    "dy is added at both forks, though dh has it already."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm2 = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, attention = block.attention.backward(dh, ca)
    da, norm1 = block.norm1.backward(da, c1)
    return dy + dh + da, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="inplace")
def block_back_in_place(block, dy, cache):
    "dh is the caller's dy, added to in place."
    c1, ca, _, c2, cm, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cm)
    dm, grads["norm2"] = block.norm2.backward(dm, c2)
    dh = dy
    dh += dm
    da, grads["attention"] = block.attention.backward(dh, ca)
    da, grads["norm1"] = block.norm1.backward(da, c1)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped")
def block_back_keys_swapped(block, dy, cache):
    "The gradients of the two norms stand under each other's key."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm1 = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, attention = block.attention.backward(dh, ca)
    da, norm2 = block.norm1.backward(da, c1)
    return dh + da, {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}


@wrong_answer("block_backward", cause="zero_gradient")
def block_back_norms_left_out(block, dy, cache):
    "The norms' gradients are thrown away."
    c1, ca, _, c2, cm, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cm)
    dm, _ = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, ca)
    da, _ = block.norm1.backward(da, c1)
    return dh + da, grads


@wrong_answer("block_backward", cause="swapped", also=("shape",))
def block_back_pair_swapped(block, dy, cache):
    "The dict is returned before dx."
    c1, ca, _, c2, cm, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cm)
    dm, grads["norm2"] = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, ca)
    da, grads["norm1"] = block.norm1.backward(da, c1)
    return grads, dh + da


@wrong_answer("block_backward", cause=None)
def block_back_cache_of_four(block, dy, cache):
    "Unpacks four entries: raises, as the cache has six."
    c1, ca, c2, cm = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cm)
    dm, grads["norm2"] = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, grads["attention"] = block.attention.backward(dh, ca)
    da, grads["norm1"] = block.norm1.backward(da, c1)
    return dh + da, grads


@wrong_answer("block_backward", cause="shape")
def block_back_flat_dict(block, dy, cache):
    "All gradients in one dict, under names with points."
    c1, ca, _, c2, cm, _ = cache
    dm, mlp = block.mlp.backward(dy, cm)
    dm, norm2 = block.norm2.backward(dm, c2)
    dh = dy + dm
    da, attention = block.attention.backward(dh, ca)
    da, norm1 = block.norm1.backward(da, c1)
    parts = {"mlp": mlp, "norm2": norm2, "attention": attention, "norm1": norm1}
    return dh + da, {f"{part}.{name}": value for part, grads in parts.items() for name, value in grads.items()}


@wrong_answer("block_backward", cause="factor_order")
def block_back_post_norm(block, dy, cache):
    "The sums are taken before the norms on the way back, as if the norm came after them."
    c1, ca, _, c2, cm, _ = cache
    grads = {}
    dm, grads["mlp"] = block.mlp.backward(dy, cm)
    dh, grads["norm2"] = block.norm2.backward(dy + dm, c2)
    da, grads["attention"] = block.attention.backward(dh, ca)
    dx, grads["norm1"] = block.norm1.backward(dh + da, c1)
    return dx, grads


@right_answer("block_backward")
def block_back_by_loop(block, dy, cache):
    "A loop over the two halves, in keys and places."
    grads, d = {}, dy
    for part, norm, at in (("mlp", "norm2", 4), ("attention", "norm1", 1)):
        inner, grads[part] = getattr(block, part).backward(d, cache[at])
        inner, grads[norm] = getattr(block, norm).backward(inner, cache[{"norm2": 3, "norm1": 0}[norm]])
        d = d + inner
    return d, grads


@right_answer("block_backward")
def block_back_with_helper(block, dy, cache):
    "A helper for a half; the dict is put together in another order."
    c_norm1, c_attention, c_drop1, c_norm2, c_mlp, c_drop2 = cache

    def half(upstream, part, c_part, norm, c_norm):
        inside, part_grads = part.backward(upstream, c_part)
        inside, norm_grads = norm.backward(inside, c_norm)
        return np.add(upstream, inside), part_grads, norm_grads

    dh, mlp, norm2 = half(dy, block.mlp, c_mlp, block.norm2, c_norm2)
    dx, attention, norm1 = half(dh, block.attention, c_attention, block.norm1, c_norm1)
    return dx, dict(norm1=norm1, attention=attention, norm2=norm2, mlp=mlp)


@right_answer("block_backward")
def block_back_three_summands(block, dy, cache):
    "The three ways to x are added up at the end."
    grads = dict.fromkeys(("mlp", "norm2", "attention", "norm1"))
    above, grads["mlp"] = block.mlp.backward(dy, cache[-2])
    above, grads["norm2"] = block.norm2.backward(above, cache[-3])
    below, grads["attention"] = block.attention.backward(above + dy, cache[1])
    below, grads["norm1"] = block.norm1.backward(below, cache[0])
    return sum([dy, above, below]), grads


@right_answer("block_backward")
def block_back_on_a_copy(block, dy, cache):
    "A copy of dy is added to in place."
    (c_norm1, c_attention, _), (c_norm2, c_mlp, _) = cache[:3], cache[3:]
    total, parts = dy.copy(), []
    m, grads = block.mlp.backward(total.copy(), c_mlp)
    parts.append(("mlp", grads))
    m, grads = block.norm2.backward(m, c_norm2)
    parts.append(("norm2", grads))
    total += m
    a, grads = block.attention.backward(total.copy(), c_attention)
    parts.append(("attention", grads))
    a, grads = block.norm1.backward(a, c_norm1)
    parts.append(("norm1", grads))
    total += a
    return total, dict(parts)
