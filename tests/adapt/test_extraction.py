"""An adapter out of two full models."""

import dataclasses
import doctest
import json

import numpy as np
import pytest
import tiny
from adapt.test_methods import content, distance, outputs, trained

import lora_np as lnp
from lora_np.adapt import extraction
from lora_np.adapt.methods import METHODS, adapted_nodes
from lora_np.adapt.targets import targets_of
from lora_np.model.tree import freeze, with_arrays

rng = np.random.default_rng


def frozen(name, dtype=np.float64):
    return lnp.freeze(tiny.build(name, dtype))


MODELS = ("bert pooler", "gpt", "vit", *(pytest.param(name, marks=pytest.mark.thorough) for name in tiny.OTHERS))


def test_the_examples_are_true():
    assert not doctest.testmod(extraction).failed


def maps_of(model):
    return [f"{path}.W" for path in targets_of(model, lnp.LoRAConfig(target_modules="all-linear"))]


def tuned(base, names, size=0.1, seed=0):
    """Return a model with the named arrays moved, as training would."""
    live, draw = lnp.parameters(base), rng(seed)
    return freeze(
        with_arrays(base, {n: live[n] + size * draw.normal(size=live[n].shape).astype(live[n].dtype) for n in names})
    )


def product(node):
    return node.scale * (node.A.astype(np.float64) @ node.B)


# ---- the laws


@pytest.mark.parametrize("name", MODELS)
def test_the_full_rank_reproduces_any_update(name):
    base = frozen(name)
    other = tuned(base, maps_of(base))
    before = content(base), content(other)
    for asked in ({"r": 1000}, {"energy": 1.0}):
        model, report = lnp.extract(base, other, **asked)
        assert report.share == pytest.approx(1.0, abs=1e-12) and set(report.rows) == set(adapted_nodes(model))
        merged = lnp.parameters(lnp.merge(model))
        for key, array in lnp.parameters(other).items():
            np.testing.assert_allclose(merged[key], array, rtol=0, atol=1e-13)
        assert distance(outputs(model, name), outputs(other, name)) < 1e-11
        assert all(node.scale == 1.0 and node.A.shape[1] == min(node.W.shape) for node in adapted_nodes(model).values())
    assert (content(base), content(other)) == before


@pytest.mark.parametrize("dtype, bound", [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", ["bert pooler", "gpt"])
def test_of_a_merged_adapter_the_update_comes_back(name, dtype, bound):
    model = tiny.adapted(name, dtype)  # r = 2, scale 1.5
    base = dataclasses.replace(frozen(name, dtype))
    base = with_arrays(base, {k: a for k, a in lnp.parameters(model).items() if k in lnp.parameters(base)})
    again, report = lnp.extract(base, lnp.merge(model), r=2)
    assert 1 - report.share < bound**2 * 100 and again.dtype == dtype
    for path, node in adapted_nodes(model).items():
        np.testing.assert_allclose(product(adapted_nodes(again)[path]), product(node), rtol=0, atol=bound)


def test_each_rank_is_the_best_and_holds_what_is_said():
    base = frozen("bert")
    other = tuned(base, maps_of(base))
    for r in (1, 3, 7):
        model, report = lnp.extract(base, other, r=r)
        lost = whole = 0.0
        for path, node in adapted_nodes(model).items():
            dW = lnp.parameters(other)[f"{path}.W"] - node.W
            s = np.linalg.svd(dW, compute_uv=False)
            squares = np.sum((dW - product(node)) ** 2), np.sum(dW**2)
            assert squares[0] == pytest.approx(np.sum(s[r:] ** 2), rel=1e-9)
            assert report.rows[path].r == r and report.rows[path].share == pytest.approx(1 - squares[0] / squares[1])
            np.testing.assert_allclose(np.linalg.norm(node.A), np.linalg.norm(node.B), rtol=1e-9)
            lost, whole = lost + squares[0], whole + squares[1]
        assert report.share == pytest.approx(1 - lost / whole)


def test_a_share_of_the_energy_gives_each_map_the_smallest_rank_that_holds_it():
    base = frozen("bert")
    other = tuned(base, maps_of(base))
    model, report = lnp.extract(base, other, energy=0.8)
    ranks = set()
    for path, node in adapted_nodes(model).items():
        s2 = np.linalg.svd(lnp.parameters(other)[f"{path}.W"] - node.W, compute_uv=False) ** 2
        r = node.A.shape[1]
        assert s2[: r - 1].sum() < 0.8 * s2.sum() <= s2[:r].sum() * (1 + 1e-12)
        assert report.rows[path].r == r and node.scale == 1.0
        ranks.add(r)
    assert len(ranks) > 1 and 0.8 <= report.share < 1


# ---- what is made of it


@pytest.mark.parametrize(
    "name, asked", [("bert mean head", {"r": 3}), ("gpt", {"energy": 0.7}), ("vit", {"energy": 0.7})]
)
def test_it_is_an_ordinary_adapter_which_files_hold_to_the_bit(name, asked, tmp_path):
    base = frozen(name, np.float32)
    model, report = lnp.extract(base, tuned(base, maps_of(base)), **asked)
    assert all(lnp.parameters(model)[key] is array for key, array in lnp.parameters(base).items())
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert content(again) == content(model) and np.array_equal(outputs(again, name), outputs(model, name))
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == settings["r"] and settings["alpha_pattern"] == settings["rank_pattern"]
    output, cache = model.forward(tiny.batch(name))
    assert set(model.backward(output, cache)) == set(lnp.parameters(model, trainable_only=True))


def test_what_differs_elsewhere_is_saved_whole_if_asked(tmp_path):
    base = frozen("bert pooler", np.float32)
    moved = ["head.classifier.W", "head.classifier.b", "layer.1.norm1.gamma", "layer.0.attention.key.W"]
    moved += ["layer.1.attention.query.b", "layer.1.attention.query.W"]
    other = tuned(base, moved)
    other = dataclasses.replace(other, config={**other.config, "id2label": {k: f"class {k}" for k in range(4)}})
    saved = ["LayerNorm", "classifier", "encoder.layer.1.attention.self.query"]
    model, report = lnp.extract(base, other, r=12, modules_to_save=saved)
    assert list(report.rows) == ["layer.0.attention.key"] and report.left_out == ()
    ours, theirs = lnp.parameters(model), lnp.parameters(other)
    live = lnp.parameters(model, trainable_only=True)
    for key in moved:
        assert key == "layer.0.attention.key.W" or (np.array_equal(ours[key], theirs[key]) and key in live), key
    np.testing.assert_allclose(
        lnp.parameters(lnp.merge(model))["layer.0.attention.key.W"], theirs["layer.0.attention.key.W"], atol=1e-6
    )
    assert model.config["id2label"][2] == "class 2"
    assert not np.shares_memory(ours["head.classifier.W"], theirs["head.classifier.W"])
    lnp.save_adapter(model, tmp_path)
    assert content(lnp.load_adapter(base, tmp_path)) == content(model)


def test_a_head_of_our_own_goes_along(tmp_path):
    base = frozen("bert mean head", np.float32)
    other = tuned(base, ["head.classifier.b", "layer.0.attention.key.W"])
    model, _ = lnp.extract(base, other, r=4, modules_to_save=["classifier"])
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(frozen("bert", np.float32), tmp_path)
    assert np.array_equal(again.head.classifier.b, other.head.classifier.b)


@pytest.mark.parametrize("pooler_aside", [True, False])
def test_a_head_that_the_base_does_not_have_is_saved_whole(pooler_aside, tmp_path):
    """The usual case: a classifier was trained on a bare model, whose pooler lies aside, if it has one."""
    whole = frozen("bert pooler", np.float32)
    pooler = {"pooler": whole.head.pooler} if pooler_aside else {}
    base = dataclasses.replace(whole, head=None, hf_prefix="", aside=pooler)
    other = tuned(whole, ["layer.0.attention.key.W", "head.classifier.b", "head.pooler.W"])
    before = content(base), content(other)
    with pytest.raises(ValueError, match="does not hold, head.classifier.W, head.classifier.b"):
        lnp.extract(base, other, r=12)
    with pytest.raises(ValueError, match="does not hold, head.classifier.W, head.classifier.b"):
        lnp.extract(base, other, r=12, left_out="head")
    saved = ["classifier"] if pooler_aside else ["classifier", "pooler"]
    if not pooler_aside:
        with pytest.raises(ValueError, match="does not hold, head.pooler.W, head.pooler.b"):
            lnp.extract(base, other, r=12, modules_to_save=["classifier"])
    model, report = lnp.extract(base, other, r=12, modules_to_save=saved)
    assert list(report.rows) == ["layer.0.attention.key", *(["head.pooler"] if pooler_aside else [])]
    assert distance(outputs(model, "bert"), outputs(other, "bert")) < 1e-5
    assert model.hf_prefix == "bert." and not model.aside
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert np.array_equal(outputs(again, "bert"), outputs(model, "bert"))
    assert (content(base), content(other)) == before and base.head is None


def test_a_head_of_other_classes_takes_the_place_of_the_bases(tmp_path):
    other = tuned(lnp.vit({**tiny.VIT}, labels=7, rng=rng(0), dtype=np.float32), ["layer.0.attention.key.W"])
    base = dataclasses.replace(tuned(other, ["layer.0.attention.key.W"]), head=frozen("vit", np.float32).head)
    model, report = lnp.extract(base, other, r=3, modules_to_save=["classifier"])
    assert list(report.rows) == ["layer.0.attention.key"] and model.head.classifier.W.shape[1] == 7
    assert not np.shares_memory(model.head.classifier.W, other.head.classifier.W)
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert np.array_equal(outputs(again, "vit"), outputs(model, "vit"))


def test_what_is_left_out_is_named_and_stays_the_bases():
    base = frozen("bert", np.float32)
    moved = ["layer.0.attention.key.W", "layer.1.mlp.first.W", "layer.1.norm1.gamma", "embeddings.word.table"]
    names = [name if name in lnp.parameters(base) else maps_of(base)[-1] for name in moved]
    other = tuned(base, names)
    model, report = lnp.extract(base, other, r=4, left_out=["*.gamma", "embeddings", names[1]])
    assert list(report.rows) == ["layer.0.attention.key"]
    assert report.left_out == tuple(sorted(names[1:]))
    assert str(report).splitlines()[-1] == f"left out: {', '.join(sorted(names[1:]))}"
    assert all(lnp.parameters(model)[name] is lnp.parameters(base)[name] for name in names[1:])


def test_over_a_compressed_base_the_adapter_makes_up_for_what_that_lost():
    whole = frozen("bert")
    small = lnp.compress_model(whole, "nf4")
    model, report = lnp.extract(small, whole, r=1000)
    assert (
        len(report.rows) == len(maps_of(whole)) and model.layer[0].attention.query.W is small.layer[0].attention.query.W
    )
    assert (
        distance(outputs(model, "bert"), outputs(whole, "bert"))
        < 1e-11
        < distance(outputs(small, "bert"), outputs(whole, "bert"))
    )


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("asked", [{"r": 3}, {"energy": 0.7}])
def test_peft_reads_it(asked, tmp_path):
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel

    base = frozen("bert", np.float32)
    model, _ = lnp.extract(
        base, tuned(base, [*maps_of(base), "layer.1.norm1.beta"]), modules_to_save=["LayerNorm"], **asked
    )
    model, _ = lnp.resize(model, r=2)
    lnp.save_model(base, tmp_path / "base")
    lnp.save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "ours").eval()
    batch = tiny.batch("bert")
    for ids, kinds, ours in zip(*map(batch.unpack, (batch.content, batch.type, model.forward(batch)[0]))):
        with torch.no_grad():
            given = {"input_ids": torch.tensor(ids[None]), "token_type_ids": torch.tensor(kinds[None])}
            assert distance(ours, theirs(**given).last_hidden_state[0].numpy()) < 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    assert content(lnp.load_adapter(base, tmp_path / "theirs")) == content(model)


# ---- what cannot be had


def test_what_an_adapter_would_not_hold_is_refused_by_name():
    base = frozen("bert pooler", np.float32)
    elsewhere = [
        "head.classifier.b",
        "layer.0.norm2.beta",
        "layer.0.attention.query.b",
        "embeddings.position.table",
        "embeddings.norm.gamma",
    ]
    for name in elsewhere:
        with pytest.raises(
            ValueError, match=rf"differ in 1 arrays that LoRA on linear maps does not hold, {name} among"
        ):
            lnp.extract(base, tuned(base, [name, "layer.0.attention.key.W"]), r=2)
    with pytest.raises(ValueError, match="differ in 5 arrays .*embeddings.norm.gamma, .*modules_to_save.*left_out"):
        lnp.extract(base, tuned(base, elsewhere), r=2)
    with pytest.raises(ValueError, match="GPT-2's table of words"):
        lnp.extract(frozen("gpt"), frozen("gpt"), r=2, modules_to_save=["wte"])
    for other in (base, tuned(base, ["head.classifier.b"])):
        with pytest.raises(ValueError, match="no linear map of the tuned model differs"):
            lnp.extract(base, other, r=2, modules_to_save=["classifier"])


def test_models_that_are_not_one_architecture_are_refused():
    base = frozen("bert", np.float32)
    with pytest.raises(ValueError, match="of one kind, but these are bert and vit"):
        lnp.extract(base, frozen("vit", np.float32), r=2)
    with pytest.raises(ValueError, match="head is ClassifierHead .* in the base and nothing in the tuned model"):
        lnp.extract(frozen("bert pooler", np.float32), base, r=2)
    longer = lnp.bert({**tiny.BERT, "vocab_size": 29}, rng=rng(0), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"embeddings\.word is Embedding table=\(23, 12\) in the base and .*\(29, 12\)"
    ):
        lnp.extract(base, longer, r=2)
    deeper = lnp.bert({**tiny.BERT, "num_hidden_layers": 3}, rng=rng(0), dtype=np.float32)
    with pytest.raises(ValueError, match=r"layer\.2 is nothing in the base and PostNormBlock"):
        lnp.extract(base, deeper, r=2)
    other = lnp.bert({**tiny.BERT, "num_attention_heads": 4}, rng=rng(0), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"layer\.0\.attention is .*heads=3.* in the base and .*heads=4.* in the tuned model\.$"
    ):
        lnp.extract(base, other, r=2)
    lora = trained(METHODS["LoRA"], base)
    with pytest.raises(ValueError, match="has a LoRA adapter already"):
        lnp.extract(base, lora, r=2)
    with pytest.raises(ValueError, match="takes a base and a tuned model, but one of them is 'digits'"):
        lnp.extract(base, "digits", r=2)
    with pytest.raises(ValueError, match="base is of float32 and the tuned model of float64, so all .* by astype"):
        lnp.extract(base, tuned(frozen("bert"), ["layer.0.attention.key.W"]), r=2)
    broken = tuned(base, ["layer.0.attention.key.W"], size=np.nan)
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.key\.W holds NaN"):
        lnp.extract(base, broken, r=2)


@pytest.mark.parametrize(
    "asked, words",
    [
        ({}, "name either r, the rank, or energy"),
        ({"r": 2, "energy": 0.5}, "name either r.* they are r = 2 and energy = 0.5"),
        ({"r": 0}, "r must be a positive integer, but it is 0"),
        ({"r": 0.9}, "r must be a positive integer, but it is 0.9"),
        ({"energy": 0}, "energy must be a share above 0 and up to 1, but it is 0"),
        ({"energy": 90}, "energy must be a share above 0 and up to 1, but it is 90"),
        ({"energy": "0.9"}, "energy must be a share"),
        ({"r": 2, "modules_to_save": ["norms"]}, "modules_to_save: 'norms' matches nothing"),
        ({"r": 2, "left_out": "norms"}, "left_out found no parameter or node named 'norms'"),
        ({"r": 2, "left_out": 3}, r"left_out takes a name or a list of names, but one of them is \[3\]"),
        ({"r": 2, "left_out": [None]}, "left_out takes a name or a list of names"),
        ({"r": 2, "left_out": b"norms"}, "left_out takes a name or a list of names"),
    ],
)
def test_bad_requests_are_one_sentence(asked, words):
    base = frozen("bert")
    with pytest.raises(ValueError, match=words):
        lnp.extract(base, tuned(base, maps_of(base)), **asked)
    if "left_out" not in asked and "modules_to_save" not in asked:
        with pytest.raises(ValueError, match=words):
            lnp.resize(tiny.adapted("bert"), **asked)
