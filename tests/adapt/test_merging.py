"""Merging to the floats of files with its cost for the update, and subtracting an adapter again."""

import dataclasses
import doctest
import json

import numpy as np
import pytest
import tiny
from adapt.test_methods import content, frozen, outputs, trained

import lora_np as lnp
from lora_np.adapt import merging
from lora_np.adapt.methods import METHODS, adapted_nodes
from lora_np.adapt.rounding import CODES, FLOATS, rounded, rounding_of
from lora_np.files.safetensors import TensorFile
from lora_np.model.nodes import Linear
from lora_np.model.tree import freeze, with_arrays

rng = np.random.default_rng
MERGEABLE = [name for name, method in METHODS.items() if not isinstance(method.dense, str)]


def test_the_examples_are_true():
    assert not doctest.testmod(merging).failed


def exact_sums(model):
    """Return {parameter: W + dW, rounded to float64 alone} of the merged model."""
    return lnp.parameters(lnp.merge(lnp.astype(model, np.float64)))


# ---- merging


@pytest.mark.parametrize("name", MERGEABLE)
def test_each_number_of_a_merged_model_is_rounded_once(name):
    dtype = FLOATS[MERGEABLE.index(name) % 3]
    base = frozen("bert mean head", np.float32)
    model = trained(METHODS[name], base)
    before = content(model)
    merged, sums = lnp.merge(model, dtype), exact_sums(model)
    live = lnp.parameters(merged)
    assert live.keys() == sums.keys() and merged.dtype == np.float32 and merged.adapter is None
    for key, array in live.items():
        assert array.dtype == np.float32 and np.array_equal(array, rounded(sums[key], dtype)), key
        assert not array.flags.writeable
    assert content(model) == before and merged.config["dtype"] == dtype and "dtype" not in model.config
    assert lnp.count_parameters(merged).trainable == 0


@pytest.mark.parametrize(
    "name, dtype, said", [("bert", "bfloat16", "torch_dtype"), ("vit", "float16", "dtype"), ("gpt", "float32", "dtype")]
)
def test_a_merged_model_is_written_in_its_dtype_and_comes_back_to_the_bit(name, dtype, said, tmp_path):
    model = tiny.adapted(name, np.float32)
    model = dataclasses.replace(model, config={**model.config, said: "float32"})
    merged = lnp.merge(model, dtype)
    lnp.save_model(merged, tmp_path)
    kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    assert {entry.dtype for entry in TensorFile(tmp_path / "model.safetensors").entries.values()} == {kind}
    assert json.loads((tmp_path / "config.json").read_text())[said] == dtype
    again = lnp.load_pretrained(tmp_path)
    assert content(again) == content(merged)
    assert np.array_equal(outputs(again, name), outputs(merged, name))


def test_what_was_on_the_grid_already_is_shared_and_without_a_dtype_all_is_as_it_was():
    model = tiny.adapted("bert", np.float32, target_modules=["query"])
    table = rounded(model.embeddings.word.table, "bfloat16")
    model = freeze(with_arrays(model, {"embeddings.word.table": table}), "embeddings.word.table")
    merged = lnp.merge(model, "bfloat16")
    assert merged.embeddings.word.table is model.embeddings.word.table
    assert merged.layer[0].attention.key.W is not model.layer[0].attention.key.W
    plain = lnp.merge(model)
    assert plain.config is model.config and plain.layer[0].attention.key is model.layer[0].attention.key
    assert content(plain) == content(lnp.merge(model, None))


def test_what_lies_aside_is_merged_and_rounded_too(tmp_path):
    with_pooler = freeze(tiny.build("bert pooler", np.float32))
    lnp.save_model(dataclasses.replace(with_pooler, config={**with_pooler.config}), tmp_path / "whole")
    base = dataclasses.replace(with_pooler, head=None, hf_prefix="", aside={"pooler": with_pooler.head.pooler})
    adapter = trained(METHODS["LoRA"], freeze(tiny.build("bert", np.float32)))
    pooler = adapter.layer[0].attention.query
    detour = dataclasses.replace(pooler, W=base.aside["pooler"].W, b=base.aside["pooler"].b, hf="pooler.dense")
    model = dataclasses.replace(adapter, aside={"pooler": detour})
    merged = lnp.merge(model, "bfloat16")
    exact = detour.W.astype(np.float64) + detour.scale * (detour.A.astype(np.float64) @ detour.B)
    assert np.array_equal(merged.aside["pooler"].W, rounded(exact, "bfloat16"))
    report = lnp.merge_report(model, "bfloat16")
    assert report.rows["pooler.W"] == rounding_of(detour.W, exact - detour.W, "bfloat16")
    back = lnp.subtract(lnp.merge(model), model)
    np.testing.assert_allclose(back.aside["pooler"].W, base.aside["pooler"].W, rtol=0, atol=1e-6)


def test_a_compressed_base_is_merged_as_its_decoded_numbers():
    model = lnp.compress_model(tiny.adapted("bert", np.float32, target_modules=["query"]), "nf4", ["query"])
    for dtype in (*FLOATS, "nf4"):
        one, other = (lnp.merge_report(each, dtype) for each in (model, lnp.decompress_model(model)))
        assert one.rows == other.rows
    merged = lnp.merge(model, "bfloat16")
    assert isinstance(merged.layer[0].attention.query.W, np.ndarray)
    rest = lnp.compress_model(model, "int8", ["key"])
    with pytest.raises(ValueError, match=r"layer\.0\.attention\.key\.W is compressed \(Int8.*merge decompress_model"):
        lnp.merge(rest, "float16")
    assert isinstance(lnp.merge(lnp.decompress_model(rest), "float16").layer[0].attention.key, Linear)


# ---- the report


@pytest.mark.parametrize("name", MERGEABLE)
def test_the_report_says_what_merging_did_to_the_update(name):
    base = frozen("gpt", np.float32)
    model, live = trained(METHODS[name], base), lnp.parameters(base)
    sums = exact_sums(model)
    for dtype in ("float32", "bfloat16"):
        report, merged = lnp.merge_report(model, dtype), lnp.parameters(lnp.merge(model, dtype))
        changed = {key for key in live if not np.array_equal(sums[key], live[key])}
        assert report.dtype == dtype and set(report.rows) == changed
        lost, all_dW = [], []
        for key, row in report.rows.items():
            before = rounded(live[key], dtype).astype(np.float64)
            dW = sums[key] - live[key]
            lost.append(merged[key] - before - dW)
            all_dW.append(dW)
            assert row.error == pytest.approx(np.linalg.norm(lost[-1]) / np.linalg.norm(dW), rel=1e-6)
            assert row.unchanged == np.mean(merged[key] == before)
        whole = (np.linalg.norm(np.concatenate([array.ravel() for array in parts])) for parts in (lost, all_dW))
        assert report.total.error == pytest.approx(next(whole) / next(whole), rel=1e-6)
        assert report.total.entries == sum(live[key].size for key in changed)


def test_the_report_reads_as_a_table_and_knows_small_bases():
    model = tiny.adapted("bert", np.float32, target_modules=["query"])
    errors = {dtype: lnp.merge_report(model, dtype).total.error for dtype in (*FLOATS, *CODES)}
    assert errors["float32"] < 1e-6 < errors["float16"] < errors["bfloat16"] < errors["int8"] < errors["nf4"]
    lines = str(lnp.merge_report(model, "bfloat16")).splitlines()
    assert [line.split()[0] for line in lines] == [
        "merged", "layer.0.attention.query.W", "layer.1.attention.query.W", "all",
    ]  # fmt: skip
    assert len({len(line) for line in lines}) == 1 and all(line.count("%") == 3 for line in lines[1:])


# ---- subtracting


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_method_adds_the_same_to_any_weight_or_says_that_it_does_not(name):
    method, base = METHODS[name], frozen("bert")
    model = trained(method, base)
    nodes = [node for node in adapted_nodes(model).values() if hasattr(node, "W")]
    updates = [
        [method.dense(n).W - n.W for n in (node, dataclasses.replace(node, W=node.W[::-1] + 1))] for node in nodes
    ]
    same = all(np.allclose(*pair, rtol=0, atol=1e-12) for pair in updates)
    old, new = lnp.parameters(base), lnp.parameters(lnp.merge(model))
    alone = all(np.array_equal(array, new[key]) for key, array in old.items() if not key.endswith(".W"))
    assert method.adds == (same and alone)
    if not method.adds:
        with pytest.raises(ValueError, match="subtract"):
            lnp.subtract(lnp.merge(model), model)


def half_a_unit(array):
    return np.spacing(np.abs(array)).astype(np.float64) / 2


@pytest.mark.parametrize("name", [name for name in MERGEABLE if METHODS[name].adds])
def test_what_was_added_is_subtracted_but_for_two_roundings(name):
    base = frozen("bert mean head", np.float32)
    model = trained(METHODS[name], base)
    merged = lnp.merge(model)
    before = content(merged)
    back = lnp.subtract(merged, model)
    assert content(merged) == before and lnp.count_parameters(back).trainable == 0
    old, between, new = (lnp.parameters(one) for one in (base, merged, back))
    differ = 0
    for key, array in new.items():
        assert array.dtype == np.float32 and not array.flags.writeable
        bound = half_a_unit(between[key]) + half_a_unit(array)
        distance = np.abs(array.astype(np.float64) - old[key])
        assert (distance <= bound).all()
        differ += (distance > 0).sum()
        if between[key] is old[key]:
            assert array is old[key]
    assert differ, "not exactly the base"
    lost = lnp.merge_report(model, "float32").total
    squares = sum(
        float(((new[key].astype(np.float64) - old[key]) ** 2).sum()) for key in lnp.merge_report(model, "float32").rows
    )
    assert np.sqrt(squares / lost.update) < 2 * lost.error  # of one more rounding, of the same kind


def test_of_two_adapters_one_is_subtracted():
    base = frozen("bert", np.float32)
    first = trained(METHODS["LoRA"], base, seed=1)
    second = trained(METHODS["LoRA"], lnp.merge(first), seed=2)
    alone = trained(METHODS["LoRA"], base, seed=2)
    found = lnp.parameters(lnp.subtract(lnp.merge(second), first))
    for key, array in lnp.parameters(lnp.merge(alone)).items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-6)


def test_an_adapter_may_stand_on_the_merged_model_itself():
    base = frozen("gpt", np.float32)
    model = trained(METHODS["LoRA"], base)
    merged = lnp.merge(model)
    on_merged = with_arrays(
        model, {key: array for key, array in lnp.parameters(merged).items() if key in lnp.parameters(model)}
    )
    assert content(lnp.subtract(merged, on_merged)) == content(lnp.subtract(merged, model))


def test_what_cannot_be_subtracted_or_merged_is_refused_by_a_sentence():
    base, lora = frozen("bert", np.float32), tiny.adapted("bert", np.float32)
    merged = lnp.merge(lora)
    with pytest.raises(ValueError, match="merged model first and one with the adapter second, but the first has one"):
        lnp.subtract(lora, merged)
    with pytest.raises(ValueError, match="this model has no adapter"):
        lnp.subtract(merged, base)
    with pytest.raises(ValueError, match="this model has no adapter"):
        lnp.merge_report(base, "float16")
    for name in ("DoRA", "IA3"):
        with pytest.raises(ValueError, match=f"{name} does more than to add to weights"):
            lnp.subtract(merged, trained(METHODS[name], base))
    with pytest.raises(
        ValueError, match=r"the adapter changes layer\.0\.attention\.query\.W \(12, 12\), but the merged"
    ):
        lnp.subtract(frozen("gpt", np.float32), lora)
    for dtype in ("nf4", "float64", "half"):
        with pytest.raises(ValueError, match=f"merged to one of float32, float16, bfloat16.*dtype is '{dtype}'"):
            lnp.merge(lora, dtype)
    with pytest.raises(ValueError, match="rounded to one of float32.*dtype is 'float64'"):
        lnp.merge_report(lora, "float64")
    assert content(lnp.merge(lora, np.float16)) == content(lnp.merge(lora, "float16"))
    assert lnp.merge(lora, np.dtype("float16")).config["dtype"] == lnp.merge_report(lora, np.float16).dtype == "float16"
    for dtype in (np.float64, [1]):
        with pytest.raises(ValueError, match="merged to one of float32"):
            lnp.merge(lora, dtype)
    large = with_arrays(lora, {"layer.1.attention.query.A": np.full((12, 2), 1e6, np.float32)})
    for call in (lnp.merge, lnp.merge_report):
        with pytest.raises(ValueError, match=r"layer\.1\.attention\.query\.W: .* is beyond float16"):
            call(large, "float16")
    broken = with_arrays(lora, {"layer.1.attention.query.A": np.full((12, 2), np.nan, np.float32)})
    for call in (lnp.merge, lnp.merge_report):
        with pytest.raises(ValueError, match=r"query\.W: NaN or infinity is among the numbers .* rounded to bfloat16"):
            call(broken, "bfloat16")


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_peft_merges_a_stored_base_to_the_same_bits(dtype, tmp_path):
    """But for sums that float32, in which PEFT adds, rounds to the middle between two numbers of the dtype."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    from transformers import AutoModel

    lnp.save_model(lnp.merge(tiny.adapted("bert", np.float32), dtype), tmp_path / "base")  # stored in that dtype
    base = lnp.load_pretrained(tmp_path / "base")
    model = trained(METHODS["LoRA"], base)
    lnp.save_adapter(model, tmp_path / "adapter")
    lnp.save_model(lnp.merge(model, dtype), tmp_path / "merged")
    ours = AutoModel.from_pretrained(tmp_path / "merged", dtype="auto")
    theirs = AutoModel.from_pretrained(tmp_path / "base", dtype="auto")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").merge_and_unload()
    assert str(ours.dtype) == str(theirs.dtype) == f"torch.{dtype}"
    theirs, differ = theirs.state_dict(), 0
    for key, array in ours.state_dict().items():
        differ += int((array != theirs[key]).sum()) if not key.startswith("pooler") else 0  # which ours does not have
    assert differ <= 2
