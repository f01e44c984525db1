"""Several adapters on one base: in memory once, swapped, in one batch, and in one folder as PEFT writes it."""

import dataclasses
import doctest
from pathlib import Path

import numpy as np
import pytest
import test_reference_models as models
import tiny
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.adapt import several, spelling
from lora_np.model.tree import freeze, rebuild, with_arrays

FOLDER = models.FOLDER / "bert" / "several"
ADAPTERS = {  # in PEFT's words; tests/reference/make_references.py makes them
    "default": {"r": 2, "lora_alpha": 5, "target_modules": ["query", "value"]},
    "films": {"r": 2, "lora_alpha": 3, "target_modules": ["query", "key", "intermediate.dense"]},
    "songs": {"r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": ["query", "output.dense"]},
    "books": {
        "r": 3,
        "lora_alpha": 7,
        "target_modules": ["query", "value"],
        "rank_pattern": {r"layer\.1\..*value": 1},
        "alpha_pattern": {r"layer\.0\..*query": 4},
    },
}
# One for each sequence of the stored batch, of which the third has one token, so no gradient at its query.
NAMES = ["films", "__base__", "films", "default", "books", "songs"]


def stored_adapters():
    return lnp.load_adapters(lnp.load_pretrained(FOLDER.parent, dtype=np.float64), FOLDER / "adapters")


def batch_errors():
    """Return {what: relative error} of the output and all gradients of a batch with an adapter for each sequence."""
    given, stored = load_file(FOLDER.parent / "reference.safetensors"), load_file(FOLDER / "reference.safetensors")
    adapters, batch = stored_adapters(), models.make_batch("bert", given)
    output, cache = adapters.forward(batch, adapter_names=NAMES)
    errors = {"output": models.relative_error(output, stored["output"])}
    for name, grads in adapters.backward(given["doutput"], cache).items():
        names, transposed = models.names_in_peft(adapters[name])
        own = {
            f"gradient.{key[len(name) + 10 :]}": a for key, a in stored.items() if key.startswith(f"gradient.{name}.")
        }
        own_errors = models.gradient_errors("bert", grads, names, own, transposed)
        errors |= {f"{what}, {name}": error for what, error in own_errors.items()}
    return errors


def moved(model, seed):
    """Return a model whose trained arrays are far from their start."""
    rng, live = np.random.default_rng(seed), lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: (a + 0.3 * rng.standard_normal(a.shape)).astype(a.dtype) for k, a in live.items()})


CONFIGS = {
    "lora": lnp.LoRAConfig(r=3, lora_alpha=5, target_modules="all-linear"),
    "dora": lnp.DoRAConfig(r=2),
    "vera": lnp.VeraConfig(r=5),
    "ia3": lnp.IA3Config(),
}


def several_on(base, configs=CONFIGS):
    adapters = lnp.Adapters(base)
    for seed, (name, config) in enumerate(configs.items()):
        adapters[name] = moved(lnp.inject(base, config, np.random.default_rng(seed)), seed)
    return adapters


def plain_batch(name):
    """Return a batch of unequal lengths, and its sequences as a list of batches of one."""
    batch = tiny.batch(name)
    content, types = batch.unpack(batch.content), batch.unpack(batch.type)
    return batch, [lnp.Batch.of([c], [t]) for c, t in zip(content, types)]


def own(model):
    return {k: a.tobytes() for k, a in lnp.parameters(model, trainable_only=True).items()}


# ---- one batch


def test_each_sequence_of_a_batch_through_its_own_adapter_gives_the_numbers_of_peft():
    assert len(batch_errors()) == 1 + 2 * (4 + 6 + 6 + 4)
    models.assert_small(batch_errors(), 1e-9)


@pytest.mark.parametrize("name", ["bert", "bert mean head", "gpt", "gpt hidden", "vit", "vit hidden"])
def test_a_sequence_meets_nothing_but_its_own_adapter(name):
    base = freeze(tiny.build(name.replace("vit hidden", "vit"), dropout=0.0))
    if name == "vit hidden":  # a row more than patches a sequence
        base = dataclasses.replace(base, head=None)
    adapters = several_on(base)
    batch, alone = plain_batch("vit" if "vit" in name else name)
    names = [["lora", "__base__", "vera", "lora", "ia3", "dora", "vera"][k % 7] for k in range(len(alone))]
    names[-1] = names[0]  # not side by side
    output, cache = adapters.forward(batch, adapter_names=names)
    doutput = np.random.default_rng(0).standard_normal(output.shape)
    by_row = len(output) == len(alone)
    rows, upstream = (list(a[:, None]) if by_row else batch.unpack(a) for a in (output, doutput))
    grads, expected = adapters.backward(doutput, cache), {}
    for which, one, y, dy in zip(names, alone, rows, upstream):
        model = base if which == "__base__" else adapters[which]
        mine, c = model.forward(one)
        assert np.abs(mine - y).max() <= 1e-12 * np.abs(y).max()
        if which != "__base__":
            old = expected.get(which, {})
            expected[which] = {k: g + old.get(k, 0.0) for k, g in model.backward(dy, c).items()}
    assert grads.keys() == expected.keys() == set(names) - {"__base__"}
    for which, found in grads.items():
        assert list(found) == list(expected[which])
        largest = max(np.abs(g).max() for g in expected[which].values())
        assert all(np.abs(found[k] - g).max() <= 1e-11 * largest for k, g in expected[which].items())


def test_sequences_of_one_token_are_laid_where_they_belong_too():
    adapters = several_on(freeze(tiny.build("gpt hidden")))
    rows = [[3], [5, 2, 9], [7], [1]]
    output, _ = adapters.forward(lnp.Batch.of(rows), adapter_names=["lora", "__base__", "__base__", "lora"], keep=False)
    for row, found, name in zip(rows, lnp.Batch.of(rows).unpack(output), ["lora", None, None, "lora"]):
        model = adapters[name] if name else adapters.base
        assert np.allclose(model.forward(lnp.Batch.of([row]))[0], found, rtol=0, atol=1e-12)


def test_heads_of_their_own_and_dropout():
    """Two tasks on one base; the masks of one adapter are those that its model draws from the same generator."""
    base = lnp.with_head(freeze(tiny.build("bert", dropout=0.2)), labels=3, rng=np.random.default_rng(0))
    config = lnp.LoRAConfig(r=2, lora_dropout=0.3)
    adapters = several_on(base, {"films": config, "books": config})
    batch, _ = plain_batch("bert")
    names = ["books", "films"] * len(batch.order)
    names = names[: len(batch.order)]
    output, cache = adapters.forward(batch, np.random.default_rng(5), adapter_names=names)
    again, _ = adapters.forward(batch, np.random.default_rng(5), adapter_names=names)
    plain, _ = adapters.forward(batch, adapter_names=names)
    assert np.array_equal(output, again) and not np.array_equal(output, plain)
    grads = adapters.backward(np.ones_like(output), cache)
    assert "head.classifier.W" in grads["films"] and "head.classifier.W" in grads["books"]
    whole, c = adapters.forward(batch, np.random.default_rng(5))  # the active one for all
    expected, c1 = adapters["films"].forward(batch, np.random.default_rng(5))
    assert np.array_equal(whole, expected)
    found, right = adapters.backward(whole, c)["films"], adapters["films"].backward(whole, c1)
    assert all(np.array_equal(found[k], g) for k, g in right.items())


def test_what_cannot_be_one_batch_is_refused():
    adapters = several_on(freeze(tiny.build("bert")), {"lora": CONFIGS["lora"]})
    batch, _ = plain_batch("bert")
    many = ["lora"] * len(batch.order)
    with pytest.raises(ValueError, match=rf"one name for each of the {len(many)} sequences"):
        adapters.forward(batch, adapter_names=many[1:])
    with pytest.raises(ValueError, match="one name for each"):
        adapters.forward(batch, adapter_names="lora")
    with pytest.raises(ValueError, match="no adapter 'loar'; there are lora"):
        adapters.forward(batch, adapter_names=[*many[1:], "loar"])
    for odd in (3, [*many[1:], 3]):
        with pytest.raises(ValueError, match="one name for each"):
            adapters.forward(batch, adapter_names=odd)
    assert adapters.forward(batch, adapter_names=np.array(many))[0].shape == adapters.forward(batch)[0].shape
    with pytest.raises(ValueError, match=r"one name for each.*None"):
        adapters.forward(batch, adapter_names=[*many[1:], None])
    with_classifier = lnp.with_head(adapters.base, labels=3, rng=np.random.default_rng(0))
    adapters["head"] = lnp.inject(with_classifier, CONFIGS["lora"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="'lora' gives rows of .* 'head' of .* cannot stand in one array"):
        adapters.forward(batch, adapter_names=["head", *many[1:]][::-1])
    output, cache = adapters.forward(batch, adapter_names=many)
    with pytest.raises(ValueError, match="doutput is"):
        adapters.backward(output[1:], cache)
    for odd in (None, 3, adapters["lora"].forward(batch)[1]):
        with pytest.raises(ValueError, match="needs the cache of this object's forward"):
            adapters.backward(output, odd)
    with pytest.raises(ValueError, match="a model reads a Batch"):
        adapters.forward([[1, 2]])


# ---- the base, once


def test_twenty_adapters_cost_what_is_their_own():
    base = freeze(tiny.build("bert mean head", np.float32))
    config, rng = lnp.LoRAConfig(r=2), np.random.default_rng(0)
    adapters = lnp.Adapters(base)
    of_base = sum(array.nbytes for array in lnp.parameters(base).values())
    for k in range(20):
        adapters.add_adapter(f"a{k}", config, rng)
        count = lnp.count_parameters(adapters[f"a{k}"]).trainable
        assert adapters.nbytes()["__base__"] == of_base and adapters.nbytes()[f"a{k}"] == 4 * count
    assert sum(adapters.nbytes().values()) == of_base + 20 * 4 * count < 3 * of_base
    held = {id(array) for model in adapters.values() for array in lnp.parameters(model).values()}
    assert held >= {id(array) for array in lnp.parameters(base).values()}
    assert len(held) == len(lnp.parameters(base)) + 20 * len(lnp.parameters(adapters["a0"], trainable_only=True))


@pytest.mark.thorough
def test_twenty_adapters_on_a_model_of_the_size_of_minilm():
    config = {**tiny.BERT, "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    config |= {"intermediate_size": 1536, "max_position_embeddings": 512}
    adapters, rng = lnp.Adapters(freeze(lnp.bert(config, rng=np.random.default_rng(0)))), np.random.default_rng(1)
    for k in range(20):
        adapters.add_adapter(f"a{k}", lnp.LoRAConfig(r=8, target_modules=["query", "value"]), rng)
    held = adapters.nbytes()
    assert [held["__base__"] + held["a0"], sum(held.values())] == [90_556_416, 96_159_744]


def test_shared_projections_of_vera_count_once():
    adapters = several_on(freeze(tiny.build("bert", np.float32)), {"vera": CONFIGS["vera"]})
    total = lnp.count_parameters(adapters["vera"]).total - lnp.count_parameters(adapters.base).total
    assert adapters.nbytes()["vera"] == 4 * total


def test_the_base_can_be_compressed():
    base = lnp.compress_model(freeze(tiny.build("bert", np.float32)), "int8")
    adapters = several_on(base)
    assert adapters.nbytes()["__base__"] < sum(array.size for array in lnp.parameters(base).values()) * 4
    assert list(adapters) == list(CONFIGS)


def test_disabled_it_is_the_base_to_the_bit_also_after_training():
    base = freeze(tiny.build("bert mean head", np.float32))
    adapters = several_on(base)
    batch, _ = plain_batch("bert mean head")
    before, held = base.forward(batch)[0], own(adapters["dora"])
    output, cache = adapters.forward(batch)
    assert not np.array_equal(output, before)
    grads = adapters.backward(output, cache)
    assert list(grads) == ["lora"]
    lnp.AdamW(lnp.parameters(adapters["lora"], trainable_only=True), lr=0.1).step(grads["lora"])
    assert not np.array_equal(adapters.forward(batch)[0], output) and own(adapters["dora"]) == held
    with adapters.disable_adapter() as model:
        assert model is base and np.array_equal(adapters.forward(batch)[0], before)
        with adapters.disable_adapter():
            pass
        y, cache = adapters.forward(batch)
        assert np.array_equal(y, before) and adapters.backward(y, cache) == {}
    with pytest.raises(RuntimeError), adapters.disable_adapter():
        raise RuntimeError
    assert adapters.active_adapter == "lora"
    names = ["__base__"] * len(batch.order)
    assert np.array_equal(adapters.forward(batch, adapter_names=names)[0], before)


def test_an_adapter_on_another_base_is_refused():
    base = freeze(tiny.build("bert"))
    adapters = lnp.Adapters(base)
    copied = rebuild(base, lambda _, node: dataclasses.replace(node, **{k: a.copy() for k, a in several_arrays(node)}))
    for other, words in (
        (copied, "but has the same numbers"),
        (freeze(tiny.jitter(base, 9)), "nor are its numbers"),
        (freeze(tiny.build("bert", np.float32)), "nor are its numbers"),
    ):
        with pytest.raises(ValueError, match=f"'films' stands on another base: its embeddings.word.table .*{words}"):
            adapters["films"] = lnp.inject(other, CONFIGS["lora"], np.random.default_rng(0))
    one = lnp.inject(base, CONFIGS["lora"], np.random.default_rng(0))  # one matrix alone, under an adapter
    path = "layer.1.attention.value.W"
    with pytest.raises(ValueError, match=f"its {path} is not the array"):
        adapters["films"] = with_arrays(one, {path: lnp.parameters(one)[path].copy()})
    with pytest.raises(ValueError, match="with an adapter, made by inject"):
        adapters["films"] = base
    with pytest.raises(ValueError, match="with an adapter, made by inject"):
        adapters["films"] = lnp.merge(one)
    with pytest.raises(ValueError, match="has a LoRA adapter already"):
        lnp.Adapters(one)
    with pytest.raises(ValueError, match="takes the model that all adapters stand on"):
        lnp.Adapters("digits")
    assert not adapters and adapters.active_adapter is None


def several_arrays(node):
    return [(k, a) for k, a in vars(node).items() if isinstance(a, np.ndarray)]


def test_nodes_that_are_trained_whole_may_differ_from_the_base():
    base = freeze(tiny.build("bert pooler"))
    adapters = lnp.Adapters(base)
    adapters.add_adapter(
        "films", lnp.LoRAConfig(r=2, modules_to_save=["embeddings.word", "classifier"]), np.random.default_rng(0)
    )
    frozen = freeze(adapters["films"])  # held whole, and not trained any more
    adapters["films"] = frozen
    assert adapters["films"] is frozen


# ---- names


def test_names_and_what_is_active():
    base, rng = freeze(tiny.build("bert")), np.random.default_rng(0)
    adapters = lnp.Adapters(base, films=lnp.inject(base, CONFIGS["lora"], rng))
    adapters.add_adapter("books", CONFIGS["lora"], rng)
    assert repr(adapters) == "Adapters(films, books; active: films)" and adapters.active_adapter == "films"
    adapters.set_adapter("books")
    films = adapters["films"]
    adapters.rename_adapter("books", "影评")
    adapters.rename_adapter("films", "films")
    assert list(adapters) == ["films", "影评"] and adapters.active_adapter == "影评" and adapters["films"] is films
    with pytest.raises(ValueError, match="'films' already"):
        adapters.rename_adapter("影评", "films")
    with pytest.raises(ValueError, match="'films' already"):
        adapters.add_adapter("films", CONFIGS["lora"], rng)
    with pytest.raises(ValueError, match="one adapter is active at a time"):
        adapters.set_adapter(["films", "影评"])
    for action in (adapters.set_adapter, adapters.delete_adapter, lambda name: adapters.rename_adapter(name, "x")):
        for odd in ("filsm", None, {}):
            with pytest.raises(ValueError, match=f"no adapter {odd!r}; there are films, 影评"):
                action(odd)
    with pytest.raises(KeyError, match="no adapter 'filsm'"):
        adapters["filsm"]
    adapters.delete_adapter("影评")
    assert list(adapters) == ["films"] and "影评" not in adapters
    with pytest.raises(ValueError, match="no adapter is active; choose one by set_adapter, of films"):
        adapters.forward(tiny.batch("bert"))
    with pytest.raises(
        ValueError, match=r"layer.0.attention.query.A of 'more' is the very array of the adapter 'films'"
    ):
        adapters["more"] = films
    adapters["films"] = lnp.freeze(films, "*.A")  # what was changed by surgery is put back
    with pytest.raises(ValueError, match=r"query.B of 'more' is the very array"):
        adapters["more"] = adapters["films"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "__base__", "a ", " a", "a\\b", "a:b", "c\n", 3, None])
def test_a_name_that_cannot_be_a_folder_is_refused(name):
    adapters = lnp.Adapters(freeze(tiny.build("bert")))
    with pytest.raises(ValueError, match="saved in a folder of its name"):
        adapters.add_adapter(name, CONFIGS["lora"], np.random.default_rng(0))
    adapters.add_adapter("Films 2_a-b+c", CONFIGS["lora"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="saved in a folder of its name"):
        adapters.rename_adapter("Films 2_a-b+c", name)
    with pytest.raises(ValueError, match="saved in a folder of its name"):
        adapters.add_weighted_adapter(["Films 2_a-b+c"], [1.0], name)


# ---- in a folder


def test_saved_and_loaded_to_the_bit_in_the_folders_of_peft(tmp_path):
    base = lnp.with_head(freeze(tiny.build("bert", np.float32)), labels=3, rng=np.random.default_rng(0))
    config = lnp.LoRAConfig(r=2, lora_alpha=5, lora_dropout=0.1)
    adapters = several_on(base, {"films": config, "default": CONFIGS["dora"], "影评": CONFIGS["ia3"]})
    lnp.save_adapters(adapters, tmp_path, base="somewhere")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors")}
    weights = ("adapter_model.safetensors", "head.safetensors")
    assert found == {str(Path(name, file)) for name in ("", "films", "影评") for file in weights}
    again = lnp.load_adapters(base, tmp_path)
    assert list(again) == ["default", "films", "影评"] and again.active_adapter == "default"
    for name, model in adapters.items():
        assert own(again[name]) == own(model)
        assert again[name].adapter.lora_alpha == model.adapter.lora_alpha if name == "films" else True
    assert own(lnp.load_adapter(base, tmp_path / "films")) == own(adapters["films"])  # one alone
    assert list(lnp.load_adapters(base, tmp_path, ["films"])) == ["films"]
    assert {id(a) for a in lnp.parameters(again["films"]).values()} >= {
        id(a) for path, a in lnp.parameters(base).items() if not path.startswith("head")
    }


def test_a_frozen_head_of_a_folder_is_the_adapters_own(tmp_path):
    base = freeze(tiny.build("bert mean head", np.float32))
    adapters = several_on(base, {"films": CONFIGS["lora"]})
    lnp.save_adapters(adapters, tmp_path)
    again = lnp.load_adapters(base, tmp_path)
    batch, _ = plain_batch("bert mean head")
    assert again["films"].head.classifier.W is not base.head.classifier.W
    assert np.array_equal(again.forward(batch)[0], adapters.forward(batch)[0])


def test_all_are_saved_or_none(tmp_path):
    adapters = several_on(freeze(tiny.build("bert")), {"first": CONFIGS["lora"], "second": CONFIGS["lora"]})
    bad = adapters["second"]
    lnp.parameters(bad)["layer.1.attention.value.B"][0, 0] = np.nan
    with pytest.raises(ValueError, match="the adapter 'second': .*value.lora_B.weight holds NaN"):
        lnp.save_adapters(adapters, tmp_path)
    assert not list(tmp_path.iterdir())
    adapters.delete_adapter("second")
    adapters.add_adapter("First", CONFIGS["lora"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="'first' and 'First' would share a folder"):
        lnp.save_adapters(adapters, tmp_path)
    assert not list(tmp_path.iterdir())
    for nothing in (lnp.Adapters(adapters.base), adapters["first"]):
        with pytest.raises(ValueError, match="Adapters that hold at least one"):
            lnp.save_adapters(nothing, tmp_path)
    with pytest.raises(ValueError, match="list of names, or a folder that holds adapters"):
        lnp.load_adapters(adapters.base, tmp_path)
    with pytest.raises(ValueError, match="list of names"):
        lnp.load_adapters(adapters.base, tmp_path, "first")


def test_a_folder_that_says_default_twice(tmp_path):
    adapters = several_on(freeze(tiny.build("bert")), {"default": CONFIGS["lora"]})
    lnp.save_adapters(adapters, tmp_path / "default")
    assert list(lnp.load_adapters(adapters.base, tmp_path)) == ["default"]
    lnp.save_adapters(adapters, tmp_path)
    with pytest.raises(ValueError, match="in its root, which is called 'default', and one in a folder of that"):
        lnp.load_adapters(adapters.base, tmp_path)
    assert list(lnp.load_adapters(adapters.base, tmp_path, ["default"])) == ["default"]


def test_any_name_that_is_saved_is_loaded_again(tmp_path):
    base, names = freeze(tiny.build("bert")), ["base", "self", "models", "ß" * 100]
    lnp.save_adapters(several_on(base, dict.fromkeys(names, CONFIGS["ia3"])), tmp_path)
    assert list(lnp.load_adapters(base, tmp_path)) == sorted(names)
    with pytest.raises(ValueError, match="200 bytes at most, and not __base__; but it is 'aaa"):
        lnp.Adapters(base).add_adapter("a" * 201, CONFIGS["ia3"])
    for wrong in (3, True, {"base"}, [None], [3], np.zeros(2), b"base"):
        with pytest.raises(ValueError, match="load_adapters needs a list of names"):
            lnp.load_adapters(base, tmp_path, wrong)


def test_what_peft_saved_is_read_and_written_as_it_wrote_it(tmp_path):
    lnp.save_adapters(stored_adapters(), tmp_path)
    for path in (FOLDER / "adapters").rglob("*.safetensors"):
        models.assert_same_tensors(load_file(tmp_path / path.relative_to(FOLDER / "adapters")), load_file(path))


@pytest.mark.filterwarnings("error", "ignore:`is_gradient_checkpointing` is deprecated")
def test_peft_reads_what_is_saved_and_swaps_as_here(tmp_path):
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel

    base = freeze(tiny.build("bert", np.float32))
    lnp.save_model(base, tmp_path / "base")
    configs = {"default": CONFIGS["lora"], "films": lnp.LoRAConfig(r=3, lora_alpha=4, use_rslora=True)}
    adapters = several_on(base, configs)
    adapters.add_weighted_adapter(["default", "films"], [0.7, -0.4], "both", "cat")
    lnp.save_adapters(adapters, tmp_path / "adapters")
    theirs = AutoModel.from_pretrained(tmp_path / "base", dtype=torch.float64)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapters").eval()
    for name in ("films", "both"):
        theirs.load_adapter(tmp_path / "adapters" / name, adapter_name=name)
    theirs.double()
    ids = np.array([[3, 1, 4, 1, 5]])
    for name in adapters:
        theirs.set_adapter(name)
        with torch.no_grad():
            right = theirs(input_ids=torch.tensor(ids)).last_hidden_state[0].numpy()
        ours = lnp.astype(adapters[name], np.float64).forward(lnp.Batch.of(ids))[0]
        assert models.relative_error(ours, right) < 1e-9
    theirs.float().save_pretrained(tmp_path / "theirs")
    again = lnp.load_adapters(base, tmp_path / "theirs")
    assert set(again) == set(adapters) and all(own(again[name]) == own(adapters[name]) for name in adapters)


# ---- PEFT's spelling


def test_a_script_in_the_words_of_peft(capsys, tmp_path):
    base = lnp.with_head(freeze(tiny.build("bert", np.float32)), labels=3, rng=np.random.default_rng(0))
    config = lnp.LoraConfig(
        r=2, lora_alpha=4, target_modules=["query", "value"], lora_dropout=0.1, bias="none", task_type="SEQ_CLS",
        inference_mode=False, init_lora_weights=True, fan_in_fan_out=False, use_dora=False, modules_to_save=None,
    )  # fmt: skip
    model = lnp.get_peft_model(base, config)
    lnp.print_trainable_parameters(model)
    total, trained = lnp.count_parameters(model)
    said = capsys.readouterr().out
    assert (
        said == f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}\n"
    )
    again = lnp.get_peft_model(base, config, seed=0)
    assert own(again) == own(model) != own(lnp.get_peft_model(base, config, seed=1))
    with pytest.raises(
        ValueError, match=r"several by name are lnp.Adapters\(model\).add_adapter\('films', config, rng\)"
    ):
        lnp.get_peft_model(base, config, "films")
    assert isinstance(lnp.LoraConfig(use_dora=True), lnp.DoRAConfig)
    adapters = lnp.Adapters(base, default=model)
    adapters.add_adapter("films", lnp.LoraConfig(r=2), np.random.default_rng(3))
    adapters.set_adapter("films")
    with adapters.disable_adapter():
        adapters.forward(tiny.batch("bert"))
    adapters.delete_adapter("default")
    adapters.add_weighted_adapter(["films"], [1.0], "again", combination_type="svd")
    lnp.save_adapters(adapters, tmp_path)


def test_eva_sees_its_data_by_every_way_in_and_a_seed_is_a_number():
    base, data = freeze(tiny.build("bert")), [tiny.batch("bert")]
    config = lnp.LoraConfig(r=2, init_lora_weights="eva")
    adapters = lnp.Adapters(base)
    adapters.add_adapter("films", config, data=data)
    assert own(lnp.get_peft_model(base, config, data=data)) == own(adapters["films"])
    for seed in (-1, "1", 1.5, None, True, np.zeros(2)):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0, but it is"):
            lnp.get_peft_model(base, config, seed=seed, data=data)


def test_every_neutral_option_of_pefts_lora_config_is_taken():
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    given = peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS").to_dict()
    config = lnp.LoraConfig(**given)
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    assert own == {**own, **{name: given[name] for name in own if name in given}} and len(given) > 40


@pytest.mark.parametrize("module", [several, spelling], ids=lambda module: module.__name__)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.failed == 0 < found.attempted


def test_rows_of_virtual_tokens_do_not_stand_beside_others():
    base, rng = lnp.freeze(tiny.build("bert", np.float32)), np.random.default_rng(0)
    adapters = lnp.Adapters(base)
    adapters.add_adapter("prompt", lnp.PromptTuningConfig(num_virtual_tokens=1), rng)
    batch = lnp.Batch.of([np.arange(1, 4), np.arange(2, 6)])
    with pytest.raises(ValueError, match="'prompt' has virtual tokens, .* and '__base__' has fewer; run these"):
        adapters.forward(batch, adapter_names=["prompt", "__base__"])
    alone, _ = adapters.forward(batch, adapter_names=["prompt", "prompt"])
    assert len(alone) == 3 + 4 + 2
