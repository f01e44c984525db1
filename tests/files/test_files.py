"""Model and adapter folders: what is written can be read, and what is damaged says so; nothing on disk is lost."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np import files
from lora_np.files.safetensors import write_safetensors
from lora_np.formats.huggingface import load_folder
from lora_np.model.tree import freeze


def same(one, other):
    mine, theirs = lnp.parameters(one), lnp.parameters(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def outputs(model, name):
    batch = tiny.batch(name)
    return model.forward(batch._replace(content=batch.content.astype(np.float32)) if name.startswith("vit") else batch)[
        0
    ]


@pytest.mark.parametrize("name", [*tiny.NAMES])
def test_a_saved_model_comes_back_to_the_bit(name, tmp_path):
    model = tiny.build(name, np.float32)
    lnp.save_model(model, tmp_path / "model")
    back = lnp.load_pretrained(tmp_path / "model")
    assert same(model, back)
    assert np.array_equal(outputs(model, name), outputs(back, name))
    assert back.hf_prefix == model.hf_prefix
    assert lnp.count_parameters(back).trainable == 0
    assert all(not array.flags.writeable and array.flags.owndata for array in lnp.parameters(back).values())


def test_weights_are_transposed_on_disk_but_for_gpt2(tmp_path):
    for name, tensor, path in (
        ("bert", "encoder.layer.0.intermediate.dense.weight", "layer.0.mlp.up.W"),
        ("gpt hidden", "h.0.mlp.c_fc.weight", "layer.0.mlp.up.W"),
    ):
        model = tiny.build(name, np.float32)
        lnp.save_model(model, tmp_path / name)
        stored, mine = load_file(tmp_path / name / "model.safetensors")[tensor], lnp.parameters(model)[path]
        assert np.array_equal(stored, mine if name.startswith("gpt") else mine.T)


def test_known_extras_are_listed_and_unknown_ones_refused(tmp_path):
    model = tiny.build("bert", np.float32)
    lnp.save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["embeddings.position_ids"] = np.arange(9)[None]
    tensors["pooler.dense.weight"] = np.ones((12, 12), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    back, extras = load_folder(tmp_path)
    assert same(model, back)
    assert extras == ["embeddings.position_ids", "pooler.dense.weight"]
    tensors["encoder.layer.2.output.dense.bias"] = np.ones(12, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected tensor encoder\.layer\.2"):
        lnp.load_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "bert pooler", "bert mean head", "gpt", "vit"])
@pytest.mark.parametrize("whole", [(), ("layer.1.norm1",)])
def test_an_adapter_comes_back_to_the_bit(name, whole, tmp_path):
    """Saved, and loaded onto the base again; the head of ours lies beside it."""
    head = name in ("bert pooler", "bert mean head", "vit")
    config = {"task_type": "SEQ_CLS" if head else None, "modules_to_save": list(whole) or None, "lora_dropout": 0.1}
    model = tiny.adapted(
        name, np.float32, **{**config, "target_modules": ["c_attn"] if name == "gpt" else ["query", "mlp.up"]}
    )
    lnp.save_adapter(model, tmp_path / "adapter", "somewhere")
    base = lnp.bert(tiny.BERT) if name == "bert mean head" else tiny.build(name, np.float32)
    if name == "bert mean head":
        base = tiny.build("bert", np.float32)
        model = same_base(model, base)
        lnp.save_adapter(model, tmp_path / "adapter", "somewhere")
    back = lnp.load_adapter(base, tmp_path / "adapter")
    assert same(model, back)
    assert np.array_equal(outputs(model, name), outputs(back, name))
    assert (tmp_path / "adapter" / "head.json").exists() == (name == "bert mean head")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 2 and settings["lora_alpha"] == 3.0 and settings["base_model_name_or_path"] == "somewhere"
    expected = {key for key in lnp.parameters(model, trainable_only=True) if not key.startswith("head")}
    trained = {key for key in lnp.parameters(back, trainable_only=True) if not key.startswith("head")}
    assert trained == expected


def same_base(model, base):
    """Return the adapted model on the arrays of another base."""
    from lora_np.model.tree import with_arrays

    keys = lnp.parameters(model)
    return with_arrays(model, {key: array for key, array in lnp.parameters(base).items() if key in keys})


def test_peft_tensors_are_the_transposes(tmp_path):
    model = tiny.adapted("bert pooler", np.float32, target_modules=["query"])
    lnp.save_adapter(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    q = model.layer[0].attention.query
    name = "base_model.model.bert.encoder.layer.0.attention.self.query"
    assert np.array_equal(tensors[f"{name}.lora_A.weight"], q.A.T)
    assert np.array_equal(tensors[f"{name}.lora_B.weight"], q.B.T)
    assert len(tensors) == 4


def test_what_would_be_lost_is_not_saved_in_silence(tmp_path):
    model = lnp.unfreeze(tiny.adapted("bert pooler", np.float32), "head.classifier")
    with pytest.raises(ValueError, match=r"head\.classifier\.W.*modules_to_save"):
        lnp.save_adapter(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(ValueError, match="merge it first"):
        lnp.save_model(model, tmp_path / "model")
    with pytest.raises(ValueError, match="no adapter"):
        lnp.save_adapter(tiny.build("bert"), tmp_path / "adapter")


def test_a_folder_used_again_keeps_no_head_of_another_model(tmp_path):
    with_head = lnp.with_head(tiny.build("bert", np.float32), 3, "mean", np.random.default_rng(0))
    lnp.save_model(with_head, tmp_path / "model")
    lnp.save_model(tiny.build("bert", np.float32), tmp_path / "model")
    assert lnp.load_pretrained(tmp_path / "model").head is None
    config = lnp.LoRAConfig(r=2, task_type="SEQ_CLS")
    lnp.save_adapter(lnp.inject(with_head, config, np.random.default_rng(0)), tmp_path / "adapter")
    plain = lnp.inject(tiny.build("bert", np.float32), lnp.LoRAConfig(r=2), np.random.default_rng(0))
    lnp.save_adapter(plain, tmp_path / "adapter")
    assert lnp.load_adapter(tiny.build("bert", np.float32), tmp_path / "adapter").head is None


@pytest.mark.parametrize("trained", [True, False])
def test_a_head_of_ours_comes_back_trained_or_frozen_as_it_was(trained, tmp_path):
    base = tiny.build("bert", np.float32)
    model = lnp.with_head(base, 3, "mean", np.random.default_rng(0))
    model = model if trained else freeze(model)
    lora = lnp.inject(model, lnp.LoRAConfig(r=2), np.random.default_rng(1))
    lnp.save_adapter(lora, tmp_path)
    assert lnp.count_parameters(lnp.load_adapter(base, tmp_path)) == lnp.count_parameters(lora)


def test_an_adapter_knows_its_base_and_is_not_merged_twice(tmp_path):
    model = tiny.adapted("bert", np.float32)
    lnp.save_adapter(model, tmp_path, "the base")
    lnp.load_adapter(lnp.astype(tiny.build("bert", np.float32), np.float64), tmp_path)
    for other in (lnp.merge(model), tiny.jitter(tiny.build("bert", np.float32), 9)):
        with pytest.raises(ValueError, match="trained on other weights.*the base"):
            lnp.load_adapter(other, tmp_path)


@pytest.fixture
def saved(tmp_path):
    """Return a base, and the folder of an adapter with its own head."""
    base = tiny.build("bert", np.float32)
    model = lnp.with_head(base, 3, "mean", np.random.default_rng(0))
    lora = lnp.inject(model, lnp.LoRAConfig(r=2, task_type="SEQ_CLS"), np.random.default_rng(1))
    lnp.save_adapter(lora, tmp_path / "adapter")
    return base, tmp_path / "adapter"


def test_an_adapter_insists_on_its_head(saved):
    base, folder = saved
    (folder / "head.json").unlink()
    (folder / "head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"head\.json"):
        lnp.load_adapter(base, folder)


def edit(folder, **changes):
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))


def edit_tensors(folder, change=lambda tensors: None):
    """Change the tensors of an adapter; the file then says no more of the settings beside it, as one of PEFT's."""
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    # Not by the library: its version 0.4.3 writes a file without tensors that it cannot read itself.
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"lora_np_head": "trained"})


FIRST = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (lambda f: edit(f, use_dora=True), "use_dora = True"),
        (lambda f: edit(f, peft_type="IA3"), "IA3"),
        (lambda f: edit(f, bias="all"), "bias"),
        (lambda f: edit(f, r=3), r"\(2, 12\).*\(3, 12\)"),
        (lambda f: edit(f, r=0), "r = 0; expected a positive"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "list"),
        (lambda f: (f / "adapter_config.json").unlink(), "there is no file"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "there is no file"),
        (lambda f: os.truncate(f / "adapter_model.safetensors", 300), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "cannot be read"),
        (lambda f: edit_tensors(f, lambda t: t.pop(FIRST.replace("_A", "_B"))), "lacks the tensor .*lora_B"),
        (lambda f: edit_tensors(f, lambda t: t.update(extra=np.ones(2, np.float32))), "extra, which matches nothing"),
        (lambda f: edit_tensors(f, lambda t: t.update({FIRST: t[FIRST] * np.nan})), "finite"),
        (lambda f: edit_tensors(f, lambda t: t.update({FIRST.replace("layer.0", "layer.5"): t.pop(FIRST)})), "layer.5"),
        (lambda f: edit_tensors(f, lambda t: t.clear()), "no lora_A"),
        (lambda f: (f / "head.json").write_text('{"pooling": "max", "labels": 3}'), "'max'"),
    ],
)
def test_damaged_adapters_are_named(damage, received, saved):
    base, folder = saved
    edit_tensors(folder)
    damage(folder)
    with pytest.raises(ValueError, match=received):
        lnp.load_adapter(base, folder)


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_model(folder, change=lambda tensors: None):
    """Change the tensors of a model; the file then says no more of the configuration beside it, as of transformers."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NORM = "encoder.layer.0.output.LayerNorm.weight"


@pytest.mark.parametrize(
    ("damage", "received"),
    [
        (lambda f: edit_config(f, lambda c: c.update(model_type="llama")), "'llama'.*bert, gpt2, vit"),
        (lambda f: edit_config(f, lambda c: c.pop("vocab_size")), "lacks 'vocab_size'"),
        (lambda f: edit_config(f, lambda c: c.update(hidden_size=18)), r"\(23, 12\).*\(23, 18\)"),
        (lambda f: edit_config(f, lambda c: c.update(num_hidden_layers=3)), "lacks the tensor encoder.layer.2"),
        (lambda f: edit_config(f, lambda c: c.update(num_hidden_layers=1)), "unexpected tensor encoder.layer.1"),
        (lambda f: edit_config(f, lambda c: c.update(num_hidden_layers=10**7)), "num_hidden_layers = 10000000"),
        (lambda f: edit_config(f, lambda c: c.update(vocab_size=10**14)), "vocab_size = 100000000000000"),
        (lambda f: edit_config(f, lambda c: c.update(hidden_act="silu")), "'silu'"),
        (lambda f: edit_config(f, lambda c: c.update(hidden_act=["gelu"])), "expected a name"),
        (lambda f: edit_config(f, lambda c: c.update(hidden_size="12")), "hidden_size = '12'"),
        (lambda f: edit_config(f, lambda c: c.update(num_attention_heads=0)), "num_attention_heads = 0"),
        (lambda f: edit_config(f, lambda c: c.update(layer_norm_eps=-1.0)), "layer_norm_eps = -1.0"),
        (lambda f: edit_config(f, lambda c: c.update(model_type=["bert"])), "bert"),
        (lambda f: edit_config(f, lambda c: c.update(is_decoder=True)), "is_decoder = True"),
        (lambda f: edit_config(f, lambda c: c.update(position_embedding_type="relative_key")), "relative_key"),
        (lambda f: edit_model(f, lambda t: t.update({NORM: t[NORM] * np.inf})), "not finite"),
        (lambda f: edit_model(f, lambda t: t.update({NORM: np.ones(12, np.int32)})), "int32"),
        (lambda f: edit_model(f, lambda t: t.update({f"bert.{NORM}": t[NORM]})), f"{NORM}' twice"),
        (lambda f: (f / "config.json").unlink(), "there is no file"),
        (lambda f: os.truncate(f / "model.safetensors", 2000), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}"), "cannot be read"),
    ],
)
def test_damaged_models_are_named(damage, received, tmp_path):
    lnp.save_model(tiny.build("bert", np.float32), tmp_path)
    edit_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=received):
        lnp.load_pretrained(tmp_path)


def test_only_what_is_computed_here_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="float32 .* or float64 .*, but dtype is"):
        lnp.load_pretrained("digits", dtype=int)
    lnp.save_model(tiny.build("gpt", np.float32), tmp_path)
    edit_config(tmp_path, lambda c: c.update(architectures=None))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
    save_file(tensors, tmp_path / "model.safetensors")
    assert lnp.load_pretrained(tmp_path).head is not None  # the tied table may stand twice
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lm_head"):
        lnp.load_pretrained(tmp_path)
    edit_config(tmp_path, lambda c: c.update(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx"):
        lnp.load_pretrained(tmp_path)


def test_a_model_that_is_built_without_numbers_computes_none():
    assert all(
        np.isnan(a).all() for k, a in lnp.parameters(lnp.bert(tiny.BERT)).items() if k.endswith((".W", ".table"))
    )


def test_unknown_sources_are_named():
    with pytest.raises(ValueError, match=r"'digitz'.*'digits'"):
        lnp.load_pretrained("digitz")
    with pytest.raises(ValueError, match="'digits-upside-down'"):
        lnp.load_data("digits-upside-down")


def test_half_precision_files_are_read(tmp_path):
    lnp.save_model(tiny.build("bert", np.float32), tmp_path)
    edit_model(tmp_path, lambda t: t.update({key: value.astype(np.float16) for key, value in t.items()}))
    model = lnp.load_pretrained(tmp_path)
    assert {array.dtype for array in lnp.parameters(model).values()} == {np.dtype(np.float32)}


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"old": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"metrics\.json could not be written: No space left on device; what was there"):
        files.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_writing_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        files.write_json(tmp_path / "file" / "metrics.json", {})


def test_no_pickle_is_ever_opened(tmp_path):
    """An array of objects would run code when it is unpickled; it must be refused."""
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    from lora_np.cli.commands import main

    lnp.save_model(lnp.load_pretrained("digits"), tmp_path / "model")
    assert main(["predict", "--model", str(tmp_path / "model"), "--images", str(tmp_path / "images.npy")]) == 2


def test_embedded_data_are_complete_and_split_alike():
    for name in ("digits", "digits-rotated", "digits-inverted", "digits-mixed"):
        parts = lnp.load_data(name)
        assert [len(part) for part in parts] == [8000 if name == "digits-mixed" else 1000, 300, 497]
        for part in parts:
            assert part.inputs.dtype == np.float32 and part.inputs.min() == 0 and part.inputs.max() == 1
            assert np.ptp(np.bincount(part.labels) / len(part)) < 0.012  # every class in its share
    upright, rotated, inverted = (lnp.load_data(name)[2] for name in ("digits", "digits-rotated", "digits-inverted"))
    assert np.array_equal(rotated.inputs, np.rot90(upright.inputs, axes=(1, 2)))
    assert np.array_equal(inverted.inputs, 1 - upright.inputs)
    mixed = lnp.load_data("digits-mixed")[2]
    turned = [np.rot90(upright.inputs, k, axes=(1, 2)) for k in range(4)]
    variants = np.stack([*turned, *(1 - t for t in turned)])
    found = (variants == mixed.inputs).all(axis=(2, 3))
    assert found.any(axis=0).all()
    assert (found.sum(axis=1) > 40).all()  # each of the eight ways occurs
    train, all_ways = lnp.load_data("digits")[0], lnp.load_data("digits-mixed")[0]
    for image, label in zip(train.inputs[:20], train.labels[:20]):
        ways = {v.tobytes() for k in range(4) for v in (np.rot90(image, k), 1 - np.rot90(image, k))}
        held = {v.tobytes() for v in all_ways.inputs[all_ways.labels == label]}
        assert ways <= held


def test_splits_do_not_overlap():
    images = np.concatenate([part.inputs.reshape(len(part), -1) for part in lnp.load_data("digits")])
    assert len(np.unique(images, axis=0)) == len(images) == 1797


def test_the_tokenizer_cuts_images_and_names_what_it_cannot_cut():
    tokenizer = lnp.load_tokenizer("digits")
    config = json.loads((Path(lnp.__file__).parent / "data" / "digits" / "config.json").read_text())
    size = config["patch_size"]
    assert tokenizer(np.zeros((2, 8, 8))).shape == (2, (8 // size) ** 2, size**2)
    for images in (np.zeros((2, 7, 8)), np.zeros((2, 8, 8), int), np.full((1, 8, 8), np.nan)):
        with pytest.raises(ValueError, match="expected finite float images"):
            tokenizer(images)


def test_copies_of_the_embedded_model_are_the_same(tmp_path):
    shutil.copytree(Path(lnp.__file__).parent / "data" / "digits", tmp_path / "copy")
    assert same(lnp.load_pretrained("digits"), lnp.load_pretrained(tmp_path / "copy"))


def with_nan(model):
    model.layer[0].attention.query.A[0, 0] = np.nan
    return model


@pytest.mark.parametrize(
    ("save", "received"),
    [
        (lambda f: lnp.save_adapter(with_nan(tiny.adapted("bert", np.float32)), f), r"query\.lora_A.*NaN"),
        (lambda f: lnp.save_adapter(tiny.adapted("bert", np.float32), f, base=5), "base must be .*5"),
        (lambda f: lnp.save_model(nan_head(), f), r"classifier\.W.*NaN"),
        (lambda f: lnp.save_model(lnp.merge(with_nan(tiny.adapted("bert", np.float32))), f), r"query\.W.*NaN"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(save, received, tmp_path):
    with pytest.raises(ValueError, match=received):
        save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def nan_head():
    model = lnp.with_head(tiny.build("bert", np.float32), 3, "mean", np.random.default_rng(0))
    model.head.classifier.W[0, 0] = np.nan
    return model


def test_numbers_of_numpy_and_paths_go_into_a_file(tmp_path):
    config = {"r": np.int64(2), "lora_alpha": np.float32(3), "lora_dropout": np.float64(0.25), "use_rslora": np.True_}
    patterns = {"rank_pattern": {"query": np.int32(3)}, "alpha_pattern": {"value": np.float16(2.5)}}
    base = tiny.build("bert", np.float32)
    lora = lnp.inject(base, lnp.LoRAConfig(**config, **patterns), np.random.default_rng(0))
    lnp.save_adapter(lora, tmp_path, base=Path("some") / "where")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {name: settings[name] for name in config} == {
        "r": 2,
        "lora_alpha": 3.0,
        "lora_dropout": 0.25,
        "use_rslora": True,
    }
    assert settings["rank_pattern"] == {"query": 3} and settings["alpha_pattern"] == {"value": 2.5}
    assert settings["base_model_name_or_path"] == str(Path("some") / "where")
    assert same(lnp.load_adapter(base, tmp_path), lora)


def test_equal_runs_write_equal_bytes(tmp_path):
    for name in ("one", "other"):
        model = tiny.adapted("bert mean head", np.float32)
        lnp.save_adapter(model, tmp_path / name, "base")
        lnp.save_model(lnp.merge(model), tmp_path / name)
    files_ = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files_) == 6
    for name in files_:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("full_at", range(1, 5))
def test_a_disk_that_is_full_between_two_files_leaves_the_old_adapter_whole(full_at, tmp_path, monkeypatch):
    base = tiny.build("bert mean head", np.float32)
    lora = lnp.inject(base, lnp.LoRAConfig(r=2, lora_alpha=4), np.random.default_rng(0))
    other = lnp.inject(base, lnp.LoRAConfig(r=2, lora_alpha=64), np.random.default_rng(1))
    lnp.save_adapter(lora, tmp_path)
    before, count = contents(tmp_path), iter(range(1, 9))

    def full(_):
        if next(count) == full_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="could not be written: No space left on device; what was there before"):
        lnp.save_adapter(other, tmp_path)
    assert contents(tmp_path) == before


def test_a_mixture_of_two_saves_is_refused(tmp_path):
    """As a kill between two renames would leave it: the files of one save are taken together with those of another."""
    base = tiny.build("bert", np.float32)
    for name, alpha, heads in (("one", 4, 3), ("other", 64, 4)):
        model = lnp.with_head(base, 3, "mean", np.random.default_rng(alpha))
        config = lnp.LoRAConfig(r=2, lora_alpha=alpha, task_type="SEQ_CLS")
        lnp.save_adapter(lnp.inject(model, config, np.random.default_rng(alpha)), tmp_path / name)
        config = {**tiny.BERT, "num_attention_heads": heads}
        model = lnp.bert(config, rng=np.random.default_rng(alpha))
        lnp.save_model(lnp.with_head(model, 3, "mean", np.random.default_rng(alpha)), tmp_path / name / "model")
    one, other = tmp_path / "one", tmp_path / "other"
    for name, received in (
        ("adapter_config.json", "lora_alpha = 64, but .* saved with 4"),
        ("head.safetensors", "another save"),
        ("model/config.json", "num_attention_heads = 4, but .* saved with 3"),
        ("model/head.safetensors", "another save"),
    ):
        mixed = tmp_path / name.replace("/", "-")
        shutil.copytree(one, mixed)
        shutil.copy(other / name, mixed / name)
        with pytest.raises(ValueError, match=received):
            if name.startswith("model/"):
                lnp.load_pretrained(mixed / "model")
            else:
                lnp.load_adapter(base, mixed)


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
def test_a_file_of_somebody_else_is_neither_deleted_nor_replaced(name, tmp_path):
    (tmp_path / name).write_text('{"head": "of a statue"}')
    lnp.save_model(tiny.build("bert", np.float32), tmp_path)
    lnp.save_adapter(tiny.adapted("bert", np.float32), tmp_path)
    assert lnp.load_pretrained(tmp_path).head is None
    with_head = tiny.adapted("bert mean head", np.float32)
    before = contents(tmp_path)
    for save in (lambda: lnp.save_adapter(with_head, tmp_path), lambda: lnp.save_model(lnp.merge(with_head), tmp_path)):
        with pytest.raises(ValueError, match=r"head\.json or head\.safetensors that was not written by lora_np"):
            save()
    assert contents(tmp_path) == before and before[name] == b'{"head": "of a statue"}'


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        lnp.save_adapter(tiny.adapted("bert mean head", np.float32), tmp_path)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
        (tmp_path / "adapter_config.json").chmod(0o600)
        lnp.save_adapter(tiny.adapted("bert mean head", np.float32), tmp_path)
        assert (tmp_path / "adapter_config.json").stat().st_mode & 0o777 == 0o600  # as its owner made it
    finally:
        os.umask(old)


def test_numbers_beyond_single_precision_are_refused_and_not_made_infinite(tmp_path):
    lnp.save_model(tiny.build("bert", np.float64), tmp_path)
    edit_model(tmp_path, lambda t: t.update({NORM: np.where(np.arange(12) == 3, 1e300, t[NORM])}))
    with pytest.raises(ValueError, match="beyond float32; load them with dtype=numpy.float64"):
        lnp.load_pretrained(tmp_path)
    assert lnp.parameters(lnp.load_pretrained(tmp_path, np.float64))["layer.0.norm2.gamma"].max() == 1e300
    lora = tiny.adapted("bert", np.float64)
    lora.layer[0].attention.query.A[0, 0] = 1e300
    lnp.save_adapter(lora, tmp_path / "adapter")
    with pytest.raises(ValueError, match="beyond float32"):
        lnp.load_adapter(tiny.build("bert", np.float32), tmp_path / "adapter")


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, "float8", complex, bool, None.__class__])
def test_a_model_computes_in_single_or_double_precision(dtype):
    with pytest.raises(ValueError, match=r"float32.* or (numpy\.)?float64"):
        lnp.load_pretrained("digits", dtype)


def test_the_number_of_tokens_that_an_adapter_was_trained_with_lies_in_it(tmp_path):
    base = tiny.build("bert", np.float32)
    model = replace(base, config={**base.config, "max_seq_length": 7})
    lnp.save_adapter(lnp.inject(model, lnp.LoRAConfig(r=2), np.random.default_rng(0)), tmp_path)
    assert lnp.load_adapter(base, tmp_path).config["max_seq_length"] == 7
    lnp.save_model(model, tmp_path / "model")
    assert lnp.load_pretrained(tmp_path / "model").config["max_seq_length"] == 7


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("[" * 3000 + "]" * 3000, "adapter_config.json"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"r": {"b": 1, "b": 1}}', "'b' twice"),
        ('{"r": NaN}', "NaN"),
        ('{"base_model_name_or_path": "\\\\ud800"}', "not valid JSON"),
        ('{"r": 1' + "0" * 5000 + "}", "not valid JSON"),
    ],
)
def test_json_is_read_strictly(text, received, saved):
    base, folder = saved
    (folder / "adapter_config.json").write_text(text.replace("\\\\u", "\\u"))
    with pytest.raises(ValueError, match=received):
        lnp.load_adapter(base, folder)


@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"rank_pattern": [1]}, r"rank_pattern = \[1\]"),
        ({"rank_pattern": {"query": "3"}}, "rank_pattern"),
        ({"modules_to_save": 5}, "modules_to_save = 5"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path = 5"),
        ({"r": 10**400}, "r = 10000"),
        ({"r": True}, "r = True"),
        ({"lora_alpha": 10**400}, "lora_alpha = 10000"),
        ({"lora_dropout": "0.1"}, "lora_dropout = '0.1'"),
        ({"layers_to_transform": [1.5]}, "layers_to_transform"),
        ({"target_modules": {"query": 1}}, "target_modules"),
        ({"target_modules": "("}, "target_modules"),
        ({"task_type": 5}, "task_type = 5"),
        ({"use_rslora": 1}, "use_rslora = 1"),
        ({"peft_type": None, "bias": 5}, "bias = 5"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_its_file(change, received, saved):
    base, folder = saved
    edit_tensors(folder)
    edit(folder, **change)
    with pytest.raises(ValueError, match=rf"adapter_config\.json.*{received}"):
        lnp.load_adapter(base, folder)


@pytest.mark.parametrize(
    ("kind", "change", "received"),
    [
        ("gpt", {"architectures": 5}, "architectures = 5"),
        ("bert", {"architectures": [5]}, "architectures"),
        ("vit", {"architectures": "ViTModel"}, "architectures = 'ViTModel'"),
        ("gpt", {"n_inner": "x"}, "n_inner = 'x'"),
        ("gpt", {"n_inner": 10**14}, "n_inner = 100000000000000"),
        ("vit", {"class_token": "no"}, "class_token = 'no'"),
        ("bert", {"id2label": ["a"]}, "id2label"),
        ("bert", {"id2label": {"a": "b"}}, "id2label"),
        ("bert", {"hidden_size": 10**400}, "hidden_size = 10000"),
        ("bert", {"layer_norm_eps": 10**400}, "layer_norm_eps = 10000"),
        ("bert", {"initializer_range": "a"}, "initializer_range = 'a'"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named_with_its_file(kind, change, received, tmp_path):
    lnp.save_model(tiny.build(kind, np.float32), tmp_path)
    edit_model(tmp_path)
    edit_config(tmp_path, lambda c: c.update(change))
    with pytest.raises(ValueError, match=rf"config\.json has {received}"):
        lnp.load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "received"),
    [({"classes": 5}, "classes = 5"), ({"classes": ["a"]}, "classes"), ({"pooling": []}, r"pooling = \[\]")],
)
def test_a_head_of_the_wrong_kind_is_named_with_its_file(change, received, saved):
    base, folder = saved
    head = {"pooling": "mean", "labels": 3, "classes": ["a", "b", "c"], **change}
    (folder / "head.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match=rf"head\.json has {received}"):
        lnp.load_adapter(base, folder)


@pytest.mark.parametrize("change", [{"num_attention_heads": 4}, {"layer_norm_eps": 1e-3}, {"hidden_act": "gelu_new"}])
def test_an_adapter_knows_the_settings_of_its_base(change, tmp_path):
    """The same weights with other heads say other things."""
    base = lnp.bert(tiny.BERT, rng=np.random.default_rng(0))
    lnp.save_adapter(lnp.inject(base, lnp.LoRAConfig(r=2), np.random.default_rng(0)), tmp_path)
    lnp.load_adapter(lnp.bert(tiny.BERT, rng=np.random.default_rng(0)), tmp_path)
    with pytest.raises(ValueError, match="trained on other weights or settings"):
        lnp.load_adapter(lnp.bert({**tiny.BERT, **change}, rng=np.random.default_rng(0)), tmp_path)


def test_a_temporary_file_in_use_is_not_swept_by_another_writer(tmp_path):
    """The second writer comes while the first one is at work: both end, and nothing is left."""
    path, left = tmp_path / "a.bin", tmp_path / ".a.bin.0123abcd.part"
    left.write_bytes(b"of one that was killed")

    def pieces():
        yield b"first "
        files.write_bytes(path, b"second")
        assert path.read_bytes() == b"second" and not left.exists()
        yield b"writer"

    files.write_together({path: pieces()})
    assert path.read_bytes() == b"first writer" and os.listdir(tmp_path) == ["a.bin"]
