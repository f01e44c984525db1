"""Models of compressed matrices compute what their dense twins compute, and adapters over them are as before."""

import dataclasses

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.compress import FORMATS, FrozenMatrix
from lora_np.model.tree import fingerprint, freeze, walk, with_arrays
from lora_np.train.evaluate import accuracy, predict
from lora_np.train.memory import bytes_by_kind, parameter_bytes

OPTIONS = {"low_rank": {"r": 4}, "pruned": {"density": 0.5}}
ALL = pytest.mark.parametrize("form", FORMATS)
MODELS = pytest.mark.parametrize("name", ["bert mean head", "gpt", "vit"])
LORA = lnp.LoRAConfig(r=2, lora_alpha=3.0, lora_dropout=0.1, target_modules="all-linear")


def small(name, form, dtype=np.float64, **given):
    base = freeze(tiny.build(name, dtype))
    return lnp.compress_model(base, form, **{"embeddings": name != "vit", **OPTIONS.get(form, {}), **given})


def compressed_names(model):
    return {name for name, array in lnp.parameters(model).items() if isinstance(array, FrozenMatrix)}


def outputs(model, name):
    batch = tiny.batch(name)
    content = batch.content.astype(model.dtype) if name == "vit" else batch.content
    return model.forward(batch._replace(content=content))[0]


def distance(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def with_lora(base, seed=3):
    lora, rng = lnp.inject(base, LORA, np.random.default_rng(seed)), np.random.default_rng(seed + 1)
    live = lnp.parameters(lora, trainable_only=True)
    return with_arrays(lora, {k: (a + 0.2 * rng.standard_normal(a.shape)).astype(a.dtype) for k, a in live.items()})


@ALL
@MODELS
def test_it_computes_what_its_dense_twin_computes(form, name):
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-4)):
        model = small(name, form, dtype)
        dense = lnp.decompress_model(model)
        assert distance(outputs(model, name), outputs(dense, name)) <= bound
        assert outputs(model, name).dtype == dtype and not compressed_names(dense)
        assert (
            lnp.count_parameters(model) == lnp.count_parameters(dense) == (lnp.count_parameters(tiny.build(name))[0], 0)
        )
        assert not any(array.flags.writeable for array in lnp.parameters(dense).values())


@ALL
@MODELS
def test_every_gradient_over_it_is_proven(form, name):
    model = lnp.inject(small(name, form), LORA, np.random.default_rng(3))
    report = lnp.check_model(model, tiny.batch(name))
    assert report.ok and len(report.rows) >= 12, report


def test_what_is_compressed():
    base = tiny.build("bert mean head", np.float32)  # with a head that is trained
    linear = {f"layer.{k}.{end}.W" for k in range(2) for end in ends(base)}
    assert compressed_names(lnp.compress_model(base, "int8")) == linear
    model = lnp.compress_model(base, "int8", ["query", "attention.value"], embeddings=True)
    chosen = {f"layer.{k}.attention.{end}.W" for k in range(2) for end in ("query", "value")}
    assert compressed_names(model) == chosen | {"embeddings.word.table"}
    lora = with_lora(freeze(base))
    assert compressed_names(lnp.compress_model(lora, "nf4")) == linear  # under an adapter, too
    ours, theirs = lnp.parameters(base), lnp.parameters(model)
    assert all(theirs[name] is array for name, array in ours.items() if name not in chosen | {"embeddings.word.table"})
    assert not compressed_names(base)
    assert compressed_names(lnp.compress_model(base, "int8", "all-linear")) == linear
    image = lnp.compress_model(tiny.build("vit"), "int8", ["embeddings.projection"])
    assert compressed_names(image) == {"embeddings.projection.W"}


def test_a_row_is_an_output_of_a_map_and_a_word_of_a_table():
    base = freeze(tiny.build("bert mean head", np.float32))
    dense, held = (lnp.parameters(m) for m in (base, lnp.compress_model(base, "int8", embeddings=True)))
    for name in compressed_names(lnp.compress_model(base, "int8", embeddings=True)):
        sizes = np.abs(dense[name]).max(axis=0 if name.endswith(".W") else 1)
        assert np.allclose(held[name].scale[:, 0], sizes / 127, rtol=1e-6), name


def ends(model):
    return [path for path, node in walk(model.layer[0]) if hasattr(node, "W")]


def test_nothing_of_it_is_trained():
    model = small("bert mean head", "int8", np.float32)
    for name in ("all", "layer.0", "layer.0.attention.query.W", "embeddings", "*.W"):
        with pytest.raises(ValueError, match=r"(\.W|\.table) is compressed and never trained"):
            lnp.unfreeze(model, name)
    biases = lnp.unfreeze(model, "*.b")
    assert all(name.endswith(".b") for name in lnp.parameters(biases, trainable_only=True))
    assert lnp.check_model(lnp.astype(biases, np.float64), tiny.batch("bert")).ok
    with pytest.raises(ValueError, match=r"but embeddings\.word\.table is frozen"):
        lnp.AdamW(lnp.parameters(model), lr=1e-3)
    lora = lnp.inject(model, LORA, np.random.default_rng(0))
    before = {name: part.tobytes() for name, part in all_parts(lora)}
    optimiser = lnp.AdamW(lnp.parameters(lora, trainable_only=True), lr=0.1)
    for _ in range(3):
        output, cache = lora.forward(tiny.batch("bert"))
        optimiser.step(lora.backward(output, cache))
    assert not np.array_equal(outputs(lora, "bert mean head"), outputs(model, "bert mean head"))
    assert {name: part.tobytes() for name, part in all_parts(lora)} == before


def all_parts(model):
    for name in compressed_names(model):
        for part, array in lnp.parameters(model)[name].parts().items():
            yield f"{name}.{part}", array


@ALL
def test_another_dtype_keeps_the_numbers(form):
    model = small("gpt", form, np.float32)
    wide = lnp.astype(model, np.float64)
    assert wide.dtype == np.float64 and fingerprint(wide) == fingerprint(model)
    for name in compressed_names(model):
        mine, theirs = lnp.parameters(model)[name], lnp.parameters(wide)[name]
        assert theirs.dtype == np.float64 and all(
            a is b for a, b in zip(mine.parts().values(), theirs.parts().values())
        )
        assert form == "low_rank" or np.array_equal(mine.dense(), theirs.dense())


def test_a_merged_model_is_dense_and_rounded_once():
    base = small("bert mean head", "nf4", np.float32, embeddings=False)
    lora = with_lora(base)
    merged, node = lnp.merge(lora), dict(walk(lora))["layer.0.attention.query"]
    update = node.scale * (node.A.astype(np.float64) @ node.B)
    exact = node.W.dense().astype(np.float64) + update
    W = dict(walk(merged))["layer.0.attention.query"].W
    assert isinstance(W, np.ndarray) and not W.flags.writeable and np.array_equal(W, exact.astype(np.float32))
    assert not compressed_names(merged)
    assert distance(outputs(merged, "bert mean head"), outputs(lora, "bert mean head")) < 1e-4
    again = lnp.compress_model(merged, "nf4")  # what PEFT has after its merge: most of a small update may be gone
    assert distance(outputs(again, "bert mean head"), outputs(lora, "bert mean head")) > 1e-3


def test_an_adapter_knows_its_compressed_base(tmp_path):
    dense = freeze(tiny.build("bert mean head", np.float32))
    base = lnp.compress_model(dense, "nf4")
    lora = with_lora(base)
    lnp.save_adapter(lora, tmp_path)
    again = lnp.load_adapter(lnp.compress_model(dense, "nf4"), tmp_path)
    assert np.array_equal(outputs(again, "bert mean head"), outputs(lora, "bert mean head"))
    name = "layer.1.attention.key.W"
    moved = with_arrays(dense, {name: 1.5 * lnp.parameters(dense)[name]})  # the same codes, in larger steps
    for other in (
        dense,
        *(lnp.compress_model(*given) for given in ((dense, "int8"), (dense, "nf4", ["query"]), (moved, "nf4"))),
    ):
        with pytest.raises(ValueError, match="was trained on other weights .* compressed again if it was"):
            lnp.load_adapter(other, tmp_path)


def test_a_fingerprint_tells_transposed_from_not():
    base = small("bert mean head", "int8", np.float32)
    node = base.layer[0].attention.query
    turned = dataclasses.replace(node, W=node.W.T)
    attention = dataclasses.replace(base.layer[0].attention, query=turned)
    block = dataclasses.replace(base.layer[0], attention=attention)
    assert node.W.shape == turned.W.shape
    assert fingerprint(dataclasses.replace(base, layer=(block, *base.layer[1:]))) != fingerprint(base)


def test_a_model_is_saved_dense(tmp_path):
    model = small("bert mean head", "q4_0", np.float32)
    with pytest.raises(ValueError, match=r"word\.table is compressed \(Q4_0\(23 x .*; save decompress_model\(model\)"):
        lnp.save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())
    lnp.save_model(lnp.decompress_model(model), tmp_path)
    again = lnp.load_pretrained(tmp_path)
    for name in compressed_names(model):
        assert np.array_equal(lnp.parameters(again)[name], lnp.parameters(model)[name].dense())


def test_what_cannot_be_compressed():
    base, free = freeze(tiny.build("bert mean head", np.float32)), lnp.unfreeze(tiny.build("bert"), "layer.0")
    for words, call in (
        ("one of low_rank, .*, q8_0, but form is 'int4'", lambda: lnp.compress_model(base, "int4")),
        ("target_modules: 'querry' matches nothing", lambda: lnp.compress_model(base, "int8", ["querry"])),
        ("W is trained; only what is frozen", lambda: lnp.compress_model(free, "int8", ["query"])),
        (r"W is compressed already \(Int8\)", lambda: lnp.compress_model(small("bert", "int8"), "nf4")),
        ("nf4 does not take the options", lambda: lnp.compress_model(base, "nf4", bits=3)),
        ("low_rank does not take the options", lambda: lnp.compress_model(base, "low_rank")),
        (r"layer\.0\.attention\.query\.W: a matrix .* has ranks", lambda: lnp.compress_model(base, "low_rank", r=99)),
        ("nothing is left", lambda: lnp.compress_model(lnp.unfreeze(base, "layer"), "int8")),
        ("this model has none", lambda: lnp.compress_model(tiny.build("vit"), "int8", embeddings=True)),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert "layer.0.attention.query.W" not in compressed_names(lnp.compress_model(free, "int8"))


# ---- the model of digits


EXPECTED = {  # right of 497 held-out images, in percent: what is printed below, with room for another machine
    "low_rank": (60, 72),
    "pruned": (95.5, 97.6),
    "int8": (98.4, 99.0),
    "nf4": (98.0, 99.0),
    "q4_0": (98.0, 99.0),
    "q4_1": (98.0, 99.0),
    "q8_0": (98.4, 99.0),
}


def test_accuracy_and_bytes_of_the_model_of_digits(capsys):
    base, data = lnp.load_pretrained("digits"), lnp.load_data("digits")[2]
    rows = list(lnp.load_tokenizer("digits")(data.inputs))
    before = accuracy(predict(base, rows), data.labels)
    lines = [f"float32    {before:.1%}  {parameter_bytes(base):,} bytes"]
    assert lnp.count_parameters(base).total == 136_138
    for form, (low, high) in EXPECTED.items():
        model = lnp.compress_model(base, form, **({"r": 16} if form == "low_rank" else {}))
        right, held = accuracy(predict(model, rows), data.labels), parameter_bytes(model)
        lines.append(f"{form:<10} {right:.1%}  {held:,} bytes")
        assert low <= 100 * right <= high and lnp.count_parameters(model).total == 136_138
        assert held < 0.6 * parameter_bytes(base)
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_bytes_of_a_step():
    """A compressed base's arrays are weights, and none of them is counted as an activation."""
    base, rows = lnp.load_pretrained("digits"), [np.zeros((4, 16), np.float32)] * 3
    held = {}
    for form in (None, "int8"):
        model = lnp.inject(lnp.compress_model(base, form) if form else base, lnp.LoRAConfig(), np.random.default_rng(0))
        optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=1e-3)
        held[form] = bytes_by_kind(model, optimiser, rows)
        assert held[form]["weights"] == parameter_bytes(model)
    assert held[None]["weights"] - held["int8"]["weights"] == 3 * 131_072 - 4 * sum(rows_of(base))
    assert held[None]["activations"] == held["int8"]["activations"]


def rows_of(model):
    """Return the rows of each matrix as it is held: the outputs of each linear map of the blocks."""
    return [node.W.shape[1] for k in range(len(model.layer)) for _, node in walk(model.layer[k]) if hasattr(node, "W")]
