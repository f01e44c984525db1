"""MPNet's attention: the table of distances, which all layers share."""

import dataclasses

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.model import relative
from lora_np.model.relative import bias_backward, biased_attention_forward, buckets
from lora_np.model.tree import with_arrays
from lora_np.ops import attention_backward, attention_forward

rng = np.random.default_rng
# Where transformers' bucket changes, for a key that many tokens before the query.
FIRST = [*range(9), 12, 16, 23, 32, 46, 64, 91]


def test_distances_lie_in_the_buckets_of_transformers():
    rows = buckets(600)
    assert rows.shape == (600, 600)
    before = np.searchsorted(FIRST, np.arange(600), side="right") - 1
    assert np.array_equal(rows[599, ::-1], before)
    assert np.array_equal(rows[0], np.where(np.arange(600) > 0, 16 + before, 0))
    assert np.array_equal(rows[300], np.concatenate([rows[599, 299:], rows[0, 1:300]]))
    assert rows.max() == 31 and buckets(1).tolist() == [[0]]


def drawn(*shape, seed=0):
    return rng([seed, *shape]).normal(size=shape)


def test_without_a_bias_it_is_plain_attention_and_the_gradients_of_the_rest_are_its():
    Q, K, V = drawn(2, 3, 4, 5), drawn(2, 3, 7, 5), drawn(2, 3, 7, 6)
    mask = (drawn(2, 3, 4, 7) > -1) / 0.8
    O, cache = biased_attention_forward(Q, K, V, np.zeros((3, 4, 7)), mask)
    expected, plain = attention_forward(Q, K, V, None, mask)
    np.testing.assert_allclose(O, expected, rtol=1e-14)
    for ours, theirs in zip(attention_backward(O, cache), attention_backward(O, plain)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_the_gradients_with_a_bias_are_those_of_numbers():
    arrays = [drawn(2, 3, 4, 5), drawn(2, 3, 7, 5), drawn(2, 3, 7, 6), drawn(3, 4, 7)]
    mask, dO = (drawn(2, 3, 4, 7) > -1) / 0.8, drawn(2, 3, 4, 6, seed=1)
    cache = biased_attention_forward(*arrays, mask)[1]
    gradients = [*attention_backward(dO, cache), bias_backward(dO, cache)]
    for k, (array, gradient) in enumerate(zip(arrays, gradients)):
        direction = drawn(*array.shape, seed=k + 2)
        nudged = [a + 1e-20j * direction if j == k else a for j, a in enumerate(arrays)]
        slope = np.vdot(dO, biased_attention_forward(*nudged, mask)[0].imag) / 1e-20
        assert gradient.shape == array.shape and slope == pytest.approx(np.vdot(gradient, direction), rel=1e-12)


def test_a_table_that_is_frozen_costs_no_backward_and_one_that_is_trained_alone_has_the_whole_gradient(monkeypatch):
    calls, right = [], relative.bias_backward
    monkeypatch.setattr(relative, "bias_backward", lambda *given: calls.append(1) or right(*given))
    batch = tiny.batch("mpnet")
    model = lnp.freeze(tiny.build("mpnet"))
    whole, alone = lnp.unfreeze(model, "all"), lnp.unfreeze(model, "relative")
    lora = lnp.inject(model, lnp.LoRAConfig(r=2), rng(0))
    output, cache = lora.forward(batch)
    lora.backward(output, cache)
    assert not calls and lora.relative.table is model.relative.table
    grads = [one.backward(output, one.forward(batch)[1]) for one in (whole, alone)]
    assert list(grads[1]) == ["relative.table"] and calls
    assert np.array_equal(grads[0]["relative.table"], grads[1]["relative.table"])
    assert {k.split(".")[0] for k in grads[0]} == {"embeddings", "layer", "head", "relative"}


def test_the_same_table_is_added_in_every_layer():
    model = lnp.unfreeze(lnp.freeze(tiny.build("mpnet")), "relative")
    batch = tiny.batch("mpnet")
    output, cache = model.forward(batch)
    grad = model.backward(output, cache)["relative.table"]
    parts = []
    for k in range(len(model.layer)):
        others = tuple(
            b if j == k else dataclasses.replace(b, attention=Deaf(b.attention)) for j, b in enumerate(model.layer)
        )
        one = dataclasses.replace(model, layer=others)
        out, c = one.forward(batch)
        assert np.array_equal(out, output)
        parts.append(one.backward(output, c)["relative.table"])
    assert all(part.any() for part in parts)
    np.testing.assert_allclose(sum(parts), grad, rtol=1e-12, atol=1e-15)
    moved = with_arrays(model, {"relative.table": np.asarray(model.relative.table) + 0.1 * drawn(32, 3)})
    assert not np.allclose(moved.forward(batch)[0], output)


class Deaf:
    """An attention of which the table's gradient is lost."""

    def __init__(self, attention):
        self.attention, self.trainable = attention, ()

    def forward(self, *given):
        return self.attention.forward(*given)

    def backward(self, *given):
        dx, grads = self.attention.backward(*given)
        return dx, {**grads, "bias": 0 * grads["bias"]}


@pytest.mark.parametrize("changed", [{"relative_attention_num_buckets": 16}, {"pad_token_id": 0}])
def test_what_transformers_takes_for_granted_is_asked_for(changed):
    ((name, value),) = changed.items()
    with pytest.raises(ValueError, match=f"{name} = {value}; only"):
        lnp.mpnet({**tiny.MPNET, **changed}, rng=rng(0))
