"""Prompt and prefix tuning: what virtual tokens are to the words, the places that they take, and how they start."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tiny
from adapt.test_methods import frozen
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.adapt import prefix, prompt
from lora_np.gradcheck import check
from lora_np.model.tree import with_arrays

MINILM = {
    **tiny.BERT,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}
CONFIGS = {"prompt": lnp.PromptTuningConfig, "prefix": lnp.PrefixTuningConfig}
rng = np.random.default_rng
v = 3


def virtual(kind, name="bert", dtype=np.float64, **options):
    return lnp.inject(frozen(name, dtype), CONFIGS[kind](num_virtual_tokens=v, **options), rng(1))


# ---- the mathematics


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, True)])
def test_the_backward_of_attention_with_a_prefix_is_right(causal, masked):
    n, h, T, d = 2, 3, 4, 5
    random = rng(0)
    given = {name: random.standard_normal((n, h, T, d)) for name in "QKV"}
    given |= {name: random.standard_normal((v, h * d)) for name in ("P_K", "P_V")}
    fixed = {"visible": np.tri(T, v + T, v, dtype=bool) if causal else None, "mask": None}
    if masked:
        fixed["mask"] = (random.random((n, h, T, v + T)) < 0.7) / 0.7
    report = check(prefix.prefixed_forward, prefix.prefixed_backward, given, fixed, rng(1))
    assert report.ok and {row.argument for row in report.rows} >= given.keys(), report


@pytest.mark.parametrize("needs", [(), ("P_K",), ("P_V",), ("Q",), ("K", "P_V"), ("Q", "K", "V", "P_K", "P_V")])
def test_of_a_prefix_what_is_asked_for_is_returned(needs):
    random = rng(0)
    Q, K, V = (random.standard_normal((2, 2, 4, 5)) for _ in "QKV")
    P_K, P_V = random.standard_normal((2, v, 10))
    O, cache = prefix.prefixed_forward(Q, K, V, None, None, P_K, P_V)
    every = prefix.prefixed_backward(O, cache)
    for name, found, expected in zip(("Q", "K", "V", "P_K", "P_V"), prefix.prefixed_backward(O, cache, needs), every):
        assert (found is not None) == (name in needs) and (found is None or np.array_equal(found, expected))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "name", ["bert pooler", "gpt", *(pytest.param(name, marks=pytest.mark.thorough) for name in tiny.OTHERS)]
)
def test_every_gradient_is_proven(kind, name):
    model = tiny.build(name)
    if (kind, name) == ("prefix", "mpnet"):
        with pytest.raises(ValueError, match="has no attention by scores alone, which is what PrefixTuningConfig"):
            lnp.inject(model, CONFIGS[kind](num_virtual_tokens=2), rng(0))
        return
    model = lnp.inject(model, CONFIGS[kind](num_virtual_tokens=2), rng(0))
    assert lnp.check_model(model, tiny.batch(name)).ok


def test_words_between_prompts_are_words_between_words():
    """A prompt of rows that words have is those words in front of each text."""
    for name in ("bert", "gpt"):
        model, ids = virtual("prompt", name), [7, 3, 11]
        model = with_arrays(model, {"embeddings.word.prompt": model.embeddings.word.table[ids]})
        texts = tiny.sequences(name)[1:]
        mine = lnp.Batch.of(texts).unpack(model.forward(lnp.Batch.of(texts))[0])
        longer = lnp.Batch.of([np.concatenate([ids, text]) for text in texts])
        theirs = longer.unpack(frozen(name).forward(longer)[0])
        assert all(np.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(mine, theirs))


def test_a_prefix_of_keys_and_values_that_words_have_is_those_words_read_before():
    """Of a causal model: what was read is not changed by what follows."""
    base, model, ids = frozen("gpt hidden"), virtual("prefix", "gpt hidden"), np.array([7, 3, 11])
    x, new = base.embeddings.forward(lnp.Batch.of([ids]))[0], {}
    groups = lnp.Batch.of([ids]).groups
    for k, block in enumerate(base.layer):
        QKV = block.attention.c_attn.forward(block.norm1.forward(x)[0])[0]
        new[f"layer.{k}.attention.prefix_key"], new[f"layer.{k}.attention.prefix_value"] = np.split(QKV, 3, axis=1)[1:]
        x, _ = block.forward(x, groups)
    texts = tiny.sequences("gpt")
    mine = lnp.Batch.of(texts).unpack(with_arrays(model, new).forward(lnp.Batch.of(texts))[0])
    longer = lnp.Batch.of([np.concatenate([ids, text]) for text in texts])
    theirs = longer.unpack(base.forward(longer)[0])
    assert all(np.allclose(a, b[v:], rtol=1e-11, atol=1e-12) for a, b in zip(mine, theirs))


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_text_has_its_own_output_whatever_the_order(kind):
    model, texts = virtual(kind), tiny.sequences("bert")
    batch = lnp.Batch.of(texts)
    together = batch.unpack(model.forward(batch)[0])
    for text, rows in zip(texts, together):
        assert len(rows) == len(text) + (v if kind == "prompt" else 0)
        assert np.allclose(rows, model.forward(lnp.Batch.of([text]))[0], rtol=1e-11)


def test_the_mean_is_over_virtual_tokens_too_and_the_first_is_one():
    hidden = frozen("bert mean head")
    model = virtual("prompt", "bert mean head")
    batch = tiny.batch("bert")
    rows = batch.unpack(dataclasses.replace(model, head=None).forward(batch)[0])
    classifier = hidden.head.classifier
    expected = np.stack([part.mean(axis=0) for part in rows]) @ classifier.W + classifier.b
    assert np.allclose(model.forward(batch)[0], expected, rtol=1e-12)
    model = virtual("prompt", "bert pooler")
    rows = batch.unpack(dataclasses.replace(model, head=None).forward(batch)[0])
    head = model.head
    expected = np.tanh(np.stack([part[0] for part in rows]) @ head.pooler.W + head.pooler.b)
    assert np.allclose(model.forward(batch)[0], expected @ head.classifier.W + head.classifier.b, rtol=1e-12)


def test_token_types_stay_with_their_words():
    model, rows = virtual("prompt"), tiny.sequences("bert")
    types = [rng(3).integers(0, 2, len(row)) for row in rows]
    arranged = model.embeddings.arrange(lnp.Batch.of(rows, types))
    for given, laid in zip(types, arranged.unpack(arranged.type)):
        assert np.array_equal(laid, [*[0] * v, *given])


# ---- places


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", ["bert", "gpt", "roberta"])
def test_virtual_tokens_take_places_and_what_is_too_long_is_told(kind, name):
    base = tiny.build(name)  # 9 positions
    model = lnp.inject(base, CONFIGS[kind](num_virtual_tokens=v), rng(0))
    model.forward(lnp.Batch.of([np.full(6, 5)]))
    model.forward(lnp.Batch.of([np.full(2, 5)]))
    words = {"prompt": "a sequence has 7 tokens, but the model has 6 positions beside its 3 virtual tokens; cut it",
             "prefix": "a sequence has 7 tokens, but the model has 6 positions; cut it"}[kind]  # fmt: skip
    with pytest.raises(ValueError, match=words):
        model.forward(lnp.Batch.of([np.full(7, 5)]))
    base.forward(lnp.Batch.of([np.full(9, 5)]))


def test_too_many_virtual_tokens_leave_no_place():
    with pytest.raises(ValueError, match="num_virtual_tokens = 9 leaves no position for a text: the model has 9"):
        lnp.inject(tiny.build("bert"), lnp.PrefixTuningConfig(num_virtual_tokens=9), rng(0))
    model = lnp.inject(tiny.build("bert"), lnp.PromptTuningConfig(num_virtual_tokens=9), rng(0))
    with pytest.raises(ValueError, match="a sequence has 1 tokens, but the model has 0 positions beside its 9 virtual"):
        model.forward(lnp.Batch.of([np.array([1])]))


def test_a_vit_has_a_prefix_and_keeps_its_places_and_no_prompt():
    base = frozen("vit")
    model = lnp.inject(base, lnp.PrefixTuningConfig(num_virtual_tokens=50), rng(0))
    assert type(model.embeddings.position) is type(base.embeddings.position)
    model.forward(tiny.batch("vit"))
    with pytest.raises(ValueError, match="this model has no table of words, which is what PromptTuningConfig adapts"):
        virtual("prompt", "vit")


def test_unpack_takes_no_other_number_of_rows():
    batch = lnp.Batch.of(tiny.sequences("bert"))
    for rows in (1, 19, 21, 24, 26):
        with pytest.raises(ValueError, match=r"unpack needs 20 rows, .* it was given an array of shape"):
            batch.unpack(np.zeros((rows, 2)))
    assert [len(part) for part in batch.unpack(np.zeros((35, 2)))] == [8, 5, 10, 8, 4]


@pytest.mark.parametrize(("kind", "trained"), [("prompt", 8_450), ("prefix", 92_930)])
def test_the_counts_on_minilm(kind, trained):
    model = lnp.with_head(lnp.bert(MINILM, rng=rng(0)), labels=2, pooling="mean", rng=rng(0))
    model = lnp.inject(model, CONFIGS[kind](task_type="SEQ_CLS"), rng(0))
    assert lnp.count_parameters(model).trainable == trained
    if kind == "prefix":
        model.embeddings.forward(model.embeddings.arrange(lnp.Batch.of([np.full(492, 5)])))
        with pytest.raises(ValueError, match="has 493 tokens, but the model has 492 positions"):
            model.embeddings.arrange(lnp.Batch.of([np.full(493, 5)]))


# ---- how they start


def test_the_starts():
    model = virtual("prompt", prompt_tuning_init="SAMPLE_VOCAB")
    word = model.embeddings.word
    assert all((word.table == row).all(axis=1).any() for row in word.prompt) and not np.shares_memory(
        word.table, word.prompt
    )
    assert len(np.unique(word.prompt, axis=0)) > 1
    big = lnp.inject(lnp.bert(MINILM, rng=rng(0)), lnp.PromptTuningConfig(num_virtual_tokens=50), rng(0))
    assert abs(big.embeddings.word.prompt.std() - 1) < 0.02
    zero = lnp.inject(frozen("gpt"), lnp.PrefixTuningConfig(init_weights="zero", num_virtual_tokens=2))
    assert not zero.layer[0].attention.prefix_key.any() and not zero.layer[1].attention.prefix_value.any()
    drawn = virtual("prefix", "gpt")
    assert not np.array_equal(drawn.layer[0].attention.prefix_key, drawn.layer[0].attention.prefix_value)


def test_a_start_from_a_text_is_refused_by_the_way_to_make_it(tmp_path):
    with pytest.raises(ValueError, match=r"'TEXT' needs a tokenizer.*word.prompt\[:\] = word.table\[numpy.resize"):
        virtual("prompt", prompt_tuning_init="TEXT", prompt_tuning_init_text="one two", tokenizer_name_or_path="x")
    model = virtual("prompt", dtype=np.float32)
    said = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "one two", "tokenizer_name_or_path": "x"}
    carried = dataclasses.replace(model.adapter, **said, tokenizer_kwargs={"use_fast": True})
    lnp.save_adapter(dataclasses.replace(model, adapter=carried), tmp_path)
    again = lnp.load_adapter(frozen("bert", np.float32), tmp_path)  # of one that is trained it says nothing
    assert again.adapter.prompt_tuning_init_text == "one two"


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_a_generator_it_says_so_and_a_merge_says_why_there_is_none(kind):
    with pytest.raises(
        ValueError, match=r"drawn at random, so inject needs numpy.random.default_rng\(seed\), not None"
    ):
        lnp.inject(frozen("bert"), CONFIGS[kind](num_virtual_tokens=v))
    with pytest.raises(ValueError, match="cannot be merged: .* no weight holds them; keep the model as it is"):
        lnp.merge(virtual(kind))


@pytest.mark.parametrize(
    ("kind", "option", "words"),
    [
        ("prompt", {"num_virtual_tokens": None}, "num_virtual_tokens must be a positive integer, but it is None"),
        ("prompt", {"prompt_tuning_init": "ZERO"}, "prompt_tuning_init must be one of RANDOM, SAMPLE_VOCAB, TEXT"),
        ("prefix", {"init_weights": "one"}, "init_weights must be zero or null, but it is 'one'"),
        ("prefix", {"prefix_projection": True}, "prefix_projection = True is not supported here, only False is"),
        ("prefix", {"encoder_hidden_size": 8}, "encoder_hidden_size = 8 is not supported here"),
        ("prefix", {"num_transformer_submodules": 2}, "num_transformer_submodules = 2 is not supported here"),
        ("prompt", {"bias": "all"}, "bias = 'all' is not supported here"),
    ],
)
def test_what_is_not_here_is_refused_by_name(kind, option, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        CONFIGS[kind](**option)


# ---- dropout, freezing, files


def test_dropout_of_attention_falls_on_the_prefix_too_and_with_dropout_sets_it():
    model = lnp.with_dropout(virtual("prefix", "gpt"), 0.5)
    assert model.layer[0].attention.dropout == 0.5
    value = {f"layer.{k}.attention.prefix_value": np.full((v, 12), 1e6) for k in range(2)}
    model, batch = with_arrays(model, value), lnp.Batch.of([np.array([5])])
    # Of one query that sees v + 1 keys: if only words could be dropped, the prefix would always come through.
    attended = [model.layer[0].attention.forward(np.ones((1, 12)), batch.groups, rng(s))[1][1][0][2] for s in range(3)]
    assert all(cache.attention.mask.shape == (1, 3, 1, v + 1) for cache in attended)
    assert any((cache.attention.mask[..., :v] == 0).any() for cache in attended)


@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_below_the_lowest_prefix_nothing_is_computed(name, monkeypatch):
    model, asked = virtual("prefix", name), []
    right = prefix.attention_backward
    monkeypatch.setattr(
        prefix, "attention_backward", lambda dO, c, needs: asked.append(set(needs)) or right(dO, c, needs)
    )
    output, cache = model.forward(lnp.Batch.of([np.array([4, 5])]))
    model.backward(output, cache)
    assert asked == [{"Q", "K", "V"}, {"K", "V"}]
    one = lnp.freeze(model, "*.prefix_key")
    output, cache = one.forward(lnp.Batch.of([np.array([4, 5])]))
    mine, theirs = (
        one.backward(output, cache),
        model.backward(output, model.forward(lnp.Batch.of([np.array([4, 5])]))[1]),
    )
    assert asked[-3] == {"V"} and list(mine) == [key for key in theirs if key.endswith("value")]
    assert all(np.array_equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_without_its_tensor_or_with_another_number_of_tokens_is_refused(kind, tmp_path):
    lnp.save_adapter(virtual(kind, dtype=np.float32), tmp_path)
    shape = {"prompt": (v, 12), "prefix": (v, 2 * 2 * 12)}[kind]
    assert load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"].shape == shape
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    assert settings["task_type"] == "FEATURE_EXTRACTION" and "target_modules" not in settings
    path.write_text(json.dumps({**settings, "num_virtual_tokens": 4}))
    with pytest.raises(ValueError, match="num_virtual_tokens = 4, but the arrays beside it were saved with 3"):
        lnp.load_adapter(frozen("bert", np.float32), tmp_path)
    lnp.save_adapter(tiny.adapted("bert", np.float32), tmp_path)
    path.write_text(json.dumps({**settings}))
    with pytest.raises(ValueError):
        lnp.load_adapter(frozen("bert", np.float32), tmp_path)


def test_a_projected_prefix_of_peft_is_read_as_what_it_gives(tmp_path):
    model = virtual("prefix", dtype=np.float32)
    lnp.save_adapter(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = {**json.loads(path.read_text()), "prefix_projection": True, "encoder_hidden_size": 7, "token_dim": 12}
    path.write_text(json.dumps(settings))
    again = lnp.load_adapter(frozen("bert", np.float32), tmp_path)
    batch = tiny.batch("bert")
    assert np.array_equal(again.forward(batch)[0], model.forward(batch)[0])


def test_prompts_are_of_the_words_width_in_electra():
    assert prompt.shapes(23, 8, lnp.PromptTuningConfig()) == {"prompt": (20, 8)}
    model = lnp.inject(tiny.build("electra"), lnp.PromptTuningConfig(num_virtual_tokens=2), rng(0))
    assert model.embeddings.word.prompt.shape == (2, 8)
