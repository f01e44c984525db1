"""What must hold of any model: order, independence of the batch, frozen memory, work that is not done."""

import dataclasses

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np import ops
from lora_np.model import attention
from lora_np.model.tree import fingerprint, with_arrays


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_sequence_alone_equals_the_same_sequence_in_a_batch(name):
    model, rows = tiny.build(name), tiny.sequences(name)
    together = lnp.Batch.of(rows)
    outputs = tiny.sublists(model.forward(together)[0], together)
    for row, output in zip(rows, outputs):
        alone = lnp.Batch.of([row])
        assert np.allclose(tiny.sublists(model.forward(alone)[0], alone)[0], output, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["bert mean head", "bert pooler"])
def test_logits_and_gradients_keep_the_order_in_which_sequences_were_given(name):
    """Unequal lengths, a label for each sequence, shuffled: the loss and the gradients stay, the logits move along."""
    model, rows = lnp.unfreeze(tiny.build(name), "all"), tiny.sequences(name)
    labels = np.array([2, 0, 1, 2, 0])
    results = []
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        logits, cache = model.forward(lnp.Batch.of([rows[k] for k in order]))
        loss, c = lnp.cross_entropy_forward(logits, labels[order])
        results.append((loss, logits[np.argsort(order)], model.backward(lnp.cross_entropy_backward(1.0, c), cache)))
    assert np.allclose(results[0][1], results[1][1], rtol=1e-11)
    assert np.isclose(results[0][0], results[1][0], rtol=1e-12)
    for key, gradient in results[0][2].items():
        assert np.allclose(gradient, results[1][2][key], rtol=1e-9, atol=1e-13), key


def test_pack_and_unpack_undo_each_other():
    rows = tiny.sequences("bert")
    batch = lnp.Batch.of(rows)
    values = [np.random.default_rng(k).standard_normal((len(row), 3)) for k, row in enumerate(rows)]
    packed = batch.pack(values)
    assert packed.shape == (sum(map(len, rows)), 3)
    for given, back in zip(values, batch.unpack(packed)):
        assert np.array_equal(given, back)
    assert np.array_equal(batch.pack(rows), batch.content)


def test_causal_attention_does_not_look_ahead():
    model, ids = tiny.build("gpt"), np.arange(7)
    first, _ = model.forward(lnp.Batch.of([ids]))
    changed = ids.copy()
    changed[5:] = 20
    second, _ = model.forward(lnp.Batch.of([changed]))
    assert np.array_equal(first[:5], second[:5])
    assert not np.allclose(first[5:], second[5:])


def test_attention_in_pieces_equals_attention_at_once(monkeypatch):
    model = lnp.unfreeze(tiny.build("bert mean head"), "all")
    batch = lnp.Batch.of([np.arange(6)] * 4 + [np.arange(3)])
    outcomes = []
    for bound in (2**18, 1):
        monkeypatch.setattr(attention, "MAX_SCORES", bound)
        logits, cache = model.forward(batch)
        outcomes.append((logits, model.backward(np.ones_like(logits), cache)))
    assert np.allclose(outcomes[0][0], outcomes[1][0], rtol=1e-12)
    assert all(np.allclose(g, outcomes[1][1][key], rtol=1e-9, atol=1e-13) for key, g in outcomes[0][1].items())


def test_dropout_depends_on_the_generator_and_is_off_without_one():
    model, batch = tiny.build("bert mean head", dropout=0.3), tiny.batch("bert")
    with_masks = [model.forward(batch, np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert np.array_equal(with_masks[0], with_masks[1])
    assert not np.allclose(with_masks[0], with_masks[2])
    assert np.array_equal(model.forward(batch)[0], lnp.with_dropout(model, 0.0).forward(batch)[0])


@pytest.mark.parametrize("name", ["bert", "gpt", "vit"])
def test_base_dropout_acts_in_four_places(name):
    places = [node.dropout for node in nodes(tiny.build(name, dropout=0.25)) if hasattr(node, "dropout")]
    assert len(places) == 1 + 2 * 2  # the embeddings; in each of two layers the attention and the block
    assert set(places) == {0.25}


def test_an_adapter_keeps_its_own_dropout_under_that_of_the_base():
    model = lnp.with_dropout(tiny.adapted("bert", dropout=0.1, target_modules=["query"]), 0.3)
    own = [hasattr(node, "FROZEN") for node in nodes(model) if getattr(node, "dropout", None) == 0.1]
    assert own == [True, True]  # the two queries; all others have the base's


def nodes(model):
    from lora_np.model.tree import walk

    return [node for _, node in walk(model)]


def test_frozen_arrays_cannot_be_written_and_own_their_memory():
    model = lnp.load_pretrained("digits")
    for key, array in lnp.parameters(model).items():
        assert array.flags.owndata, key
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    assert lnp.count_parameters(model).trainable == 0


def test_what_is_locked_cannot_be_written_through_another_name():
    from lora_np.model.tree import freeze

    memory = np.ones((2, 12))
    model = with_arrays(lnp.bert({**tiny.BERT, "type_vocab_size": 2}), {"embeddings.type.table": memory[:]})
    frozen = freeze(model)
    memory[...] = 5.0
    assert (frozen.embeddings.type.table == 1.0).all()
    assert frozen.embeddings.type.table.base is None


def test_training_leaves_every_frozen_array_in_place():
    model = tiny.adapted("bert mean head", np.float32)
    frozen = {k: v for k, v in lnp.parameters(model).items() if k not in lnp.parameters(model, trainable_only=True)}
    copies = {key: array.copy() for key, array in frozen.items()}
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=0.1)
    for _ in range(3):
        logits, cache = model.forward(tiny.batch("bert"))
        optimiser.step(model.backward(np.ones_like(logits), cache))
    for key, array in frozen.items():
        assert lnp.parameters(model)[key] is array
        assert np.array_equal(array, copies[key]), key


def test_unfreeze_copies_what_it_names_and_shares_the_rest():
    model = tiny.build("bert")
    new = lnp.unfreeze(model, ["layer.1.mlp", "embeddings.word.table", "*.norm1.gamma"])
    expected = {
        "embeddings.word.table",
        *(f"layer.1.mlp.{m}.{f}" for m in ("up", "down") for f in "Wb"),
        *(f"layer.{k}.norm1.gamma" for k in range(2)),
    }
    old = lnp.parameters(model)
    assert set(lnp.parameters(new, trainable_only=True)) == expected
    for key, array in lnp.parameters(new).items():
        assert (array is old[key]) == (key not in expected)
        assert array.flags.writeable == (key in expected)
        assert np.array_equal(array, old[key])
    again = lnp.unfreeze(new, "layer.1.norm2")  # what was trained already is kept, not copied again
    assert lnp.parameters(again)["embeddings.word.table"] is lnp.parameters(new)["embeddings.word.table"]
    with pytest.raises(ValueError, match=r"'layer.1.mpl'.*layer\.1\.mlp"):
        lnp.unfreeze(model, ["layer.1.mpl"])


class Counter:
    """Counts matrix products of rows with weights by wrapping the operations that nodes call."""

    def __init__(self, monkeypatch):
        self.calls = {}
        from lora_np.adapt import lora
        from lora_np.model import heads, nodes

        for module in (nodes, heads, lora):
            if hasattr(module, "linear_backward"):
                monkeypatch.setattr(module, "linear_backward", self.wrap(ops.linear_backward, ("x", "W", "b")))
            if hasattr(module, "lora_linear_backward"):
                monkeypatch.setattr(
                    module, "lora_linear_backward", self.wrap(ops.lora_linear_backward, ("x", "A", "B"))
                )
        monkeypatch.setattr(attention, "attention_backward", self.wrap(ops.attention_backward, ("Q", "K", "V")))

    def wrap(self, function, default):
        def counted(dy, cache, needs=default):
            for name in needs:
                key = (function.__name__.removesuffix("_backward"), name)
                self.calls[key] = self.calls.get(key, 0) + 1
            return function(dy, cache, needs)

        return counted


def products(model, monkeypatch, name="bert"):
    counter = Counter(monkeypatch)
    output, cache = model.forward(lnp.Batch.of([np.arange(5)] * 3) if name != "vit" else tiny.batch("vit"))
    model.backward(np.ones_like(output), cache)
    return counter.calls


def test_frozen_means_not_computed_with_lora_on_query_and_value(monkeypatch):
    model = tiny.adapted("bert mean head", target_modules=["query", "value"], task_type="SEQ_CLS")
    # Two layers. Layer 0: nothing below is trained, so query and value return no dx, and key is not entered at all.
    assert products(model, monkeypatch) == {
        ("linear", "W"): 1,  # the classifier
        ("linear", "b"): 1,
        ("linear", "x"): 1 + 2 * 3 + 1,  # classifier; output, up, down of both layers; key of layer 1
        ("lora_linear", "x"): 2,
        ("lora_linear", "A"): 4,
        ("lora_linear", "B"): 4,
        ("attention", "Q"): 2,
        ("attention", "K"): 1,
        ("attention", "V"): 2,
    }


def test_training_the_head_alone_never_enters_the_blocks(monkeypatch):
    model = lnp.unfreeze(tiny.build("bert mean head"), "head")
    assert products(model, monkeypatch) == {("linear", "W"): 1, ("linear", "b"): 1}


def test_the_backward_stops_at_the_lowest_trained_array(monkeypatch):
    model = lnp.unfreeze(tiny.build("bert mean head"), "layer.1.mlp.up.b")
    # The classifier, which with_head trains, and down return dx; then up's bias is reached, and nothing below.
    assert products(model, monkeypatch) == {("linear", "x"): 2, ("linear", "W"): 1, ("linear", "b"): 2}


def test_a_frozen_linear_keeps_no_input():
    model = tiny.build("bert")
    _, cache = model.layer[0].mlp.up.forward(np.ones((2, 12)))
    assert cache.x is None
    _, cache = lnp.unfreeze(model, "layer.0.mlp.up.W").layer[0].mlp.up.forward(np.ones((2, 12)))
    assert cache.x is not None


def test_gpt_counts_its_tied_table_once_and_adds_both_uses():
    model = lnp.unfreeze(tiny.build("gpt"), "embeddings.word")
    assert list(lnp.parameters(model, trainable_only=True)) == ["embeddings.word.table"]
    batch = tiny.batch("gpt")
    output, cache = model.forward(batch)
    both = model.backward(np.ones_like(output), cache)["embeddings.word.table"]
    hidden = dataclasses.replace(model, head=None)
    rows, c = hidden.forward(batch)
    table = model.embeddings.word.table
    embedding_use = hidden.backward(np.ones_like(output) @ table, c)["embeddings.word.table"]
    output_use = np.ones_like(output).T @ rows
    assert np.allclose(both, embedding_use + output_use, rtol=1e-11)


def test_backward_leaves_the_cache_and_can_be_called_twice():
    model = lnp.unfreeze(tiny.build("bert mean head", dropout=0.2), "all")
    logits, cache = model.forward(tiny.batch("bert"), np.random.default_rng(0))
    dlogits = np.random.default_rng(1).standard_normal(logits.shape)
    first = {key: gradient.copy() for key, gradient in model.backward(dlogits, cache).items()}
    assert all(np.array_equal(first[key], gradient) for key, gradient in model.backward(dlogits, cache).items())


def test_astype_keeps_what_is_frozen_frozen():
    model = tiny.adapted("bert", np.float32)
    double = lnp.astype(model, np.float64)
    trained = lnp.parameters(double, trainable_only=True)
    for key, array in lnp.parameters(double).items():
        assert array.dtype == np.float64
        assert array.flags.writeable == (key in trained)
    assert all(array.dtype == np.float32 for array in lnp.parameters(model).values())


@pytest.mark.parametrize("name", tiny.NAMES)
def test_float32_stays_float32(name):
    model = lnp.unfreeze(
        tiny.adapted(name, np.float32, dropout=0.1), ["head"] if "head" in name or "vit" in name else []
    )
    batch = tiny.batch(name)
    if name.startswith("vit"):
        batch = batch._replace(content=batch.content.astype(np.float32))
    output, cache = model.forward(batch, np.random.default_rng(0))
    assert output.dtype == np.float32
    grads = model.backward(np.ones_like(output), cache)
    assert {gradient.dtype for gradient in grads.values()} == {np.dtype(np.float32)}


def test_count_parameters():
    model = tiny.adapted("bert", r=2, target_modules=["query"])
    count = lnp.count_parameters(model)
    assert count.trainable == 2 * 2 * (12 + 12)
    assert count.total == sum(array.size for array in lnp.parameters(model).values())


def test_with_arrays_refuses_another_shape():
    with pytest.raises(ValueError, match=r"layer\.0\.norm1\.gamma.*\(12,\).*\(3,\)"):
        with_arrays(tiny.build("bert"), {"layer.0.norm1.gamma": np.ones(3)})


@pytest.mark.parametrize(
    ("call", "received"),
    [
        (lambda: lnp.Batch.of([]), "empty"),
        (lambda: lnp.Batch.of([[1, 2], []]), r"sequence 1 has shape \(0,\)"),
        (lambda: lnp.Batch.of([[1.5, 2.0]]), "float64"),
        (lambda: lnp.Batch.of([[1, 2]], types=[[0]]), r"lengths \[1\]"),
        (lambda: lnp.Batch.of([[1, 2, 3], [4]], types=[[0], [1, 1, 1]]), r"\[1, 3\].*\[3, 1\]"),
        (lambda: lnp.Batch.of([np.ones((2, 3)), np.ones((2, 4))]), "one width"),
        (lambda: lnp.Batch.of(5), "given 5"),
        (lambda: lnp.unfreeze(tiny.adapted("bert"), "layer.0.attention.query.W"), "stays frozen"),
        (lambda: tiny.build("bert").forward(lnp.Batch.of([np.arange(10)])), "10 tokens.*9 positions"),
        (lambda: tiny.build("bert").forward(lnp.Batch.of([np.ones((2, 3))])), "token ids"),
        (lambda: tiny.build("vit").forward(lnp.Batch.of([np.arange(3)])), "patches of 8"),
        (lambda: tiny.build("vit").forward(lnp.Batch.of([np.ones((8, 8))])), "10 tokens.*has 9"),
        (lambda: tiny.build("bert").forward(lnp.Batch.of([[3, 23]])), "rows 0 to 22"),
        (lambda: lnp.with_head(tiny.build("bert"), 3, "pooler", np.random.default_rng(0)), "'pooler'"),
        (lambda: lnp.with_head(tiny.build("bert"), 3, "max", np.random.default_rng(0)), "'max'"),
        (lambda: lnp.with_head(tiny.build("bert"), 0, "mean", np.random.default_rng(0)), "given 0"),
        (lambda: lnp.with_head(tiny.build("bert"), 2), "None"),
        (lambda: lnp.with_dropout(tiny.build("bert"), 1.0), "1.0"),
        (lambda: lnp.bert({**tiny.BERT, "hidden_act": "swish"}), "'swish'.*gelu"),
        (lambda: lnp.bert({**tiny.BERT, "num_attention_heads": 5}), "12 .* 5"),
    ],
)
def test_bad_input_is_named(call, received):
    with pytest.raises(ValueError, match=received):
        call()


def test_a_fingerprint_tells_weights_apart_and_looks_through_a_detour():
    model = tiny.build("bert mean head", np.float32)
    config = lnp.LoRAConfig(r=2, target_modules="all-linear")
    whole = fingerprint(model)
    assert fingerprint(lnp.inject(model, config, np.random.default_rng(0))) == whole
    assert fingerprint(lnp.astype(model, np.float64)) == whole and len(whole) == 64
    for name, array in lnp.parameters(model).items():
        moved = with_arrays(model, {name: array + np.float32(1e-3)})
        assert fingerprint(moved) != whole
        assert fingerprint(moved, skip=("head",)) == fingerprint(model, ("head",)) or not name.startswith("head.")
        assert fingerprint(moved, [name]) == fingerprint(model, [name])
    assert fingerprint(model, ["hea"]) == whole and fingerprint(model, ["layer.0"]) != whole
