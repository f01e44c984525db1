"""Rules that hold for every input, by hypothesis: what breaks one is shown at its smallest."""

import csv
import functools
import io
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
from fuzz import peft_rule, valid
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear
from lora_np.adapt.targets import from_peft, hf_name, select, to_peft
from lora_np.datasets.splits import split
from lora_np.model.nodes import Linear
from lora_np.model.tree import walk, with_arrays

rules = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("LORA_NP_FUZZ_EXAMPLES", 40)),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
few = settings(rules, max_examples=int(os.environ.get("LORA_NP_FUZZ_EXAMPLES", 15)))  # where each example writes files
KINDS = tuple(tiny.NAMES)


def lengths(longest=9, most=7):
    return st.lists(st.integers(1, longest), min_size=1, max_size=most)


# A batch: what is laid end to end comes back in the order given.


@rules
@given(
    lengths(),
    st.sampled_from(["int8", "uint8", "int32", "int64", "uint64", "mixed"]),
    st.randoms(use_true_random=False),
)
def test_what_is_packed_comes_back(sizes, dtype, random):
    names = ["int8", "int32", "int64", "uint64"]
    dtypes = [random.choice(names) if dtype == "mixed" else dtype for _ in sizes]
    rows = [np.array([random.randrange(100) for _ in range(size)], kind) for size, kind in zip(sizes, dtypes)]
    types = [np.array([random.randrange(2) for _ in range(size)]) for size in sizes]
    batch = lnp.Batch.of(rows, types)
    assert batch.content.dtype.kind in "iu", "ids are no whole numbers any more"
    for mine, theirs in ((rows, batch.content), (types, batch.type), ([np.arange(n) for n in sizes], batch.position)):
        assert [part.tolist() for part in batch.unpack(theirs)] == [part.tolist() for part in mine]
        assert np.array_equal(batch.pack(mine), theirs)
    wide = np.arange(len(batch.content) * 3).reshape(-1, 3)
    assert np.array_equal(batch.pack(batch.unpack(wide)), wide)
    assert sum(group.n * group.T for group in batch.groups) == sum(sizes)
    assert all(group.stop - group.start == group.n * group.T for group in batch.groups)


@rules
@given(lengths(), st.integers(-2, 3))
def test_rows_of_another_number_are_refused_by_unpack_and_pack(sizes, off):
    batch = lnp.Batch.of([np.zeros(size, int) for size in sizes])
    assume(off < 0 or off % len(sizes))  # as many more are rows of class tokens, or of virtual ones
    assume(len(batch.content) + off > 0)
    with pytest.raises(ValueError):
        batch.unpack(np.zeros((len(batch.content) + off, 2)))
    longer = [np.zeros(size) for size in sizes]
    longer[0] = np.zeros(sizes[0] + abs(off))
    with pytest.raises(ValueError):
        batch.pack(longer)
    with pytest.raises(ValueError):
        batch.pack([*(np.zeros(size) for size in sizes), np.zeros(1)])


@rules
@given(lengths(), st.integers(1, 4))
def test_images_with_a_class_row(sizes, width):
    rows = [np.random.default_rng(k).random((size, width)) for k, size in enumerate(sizes)]
    batch = lnp.Batch.of(rows)
    with_row = batch.with_rows(1)
    for mine, theirs in zip(rows, with_row.unpack(with_row.content)):
        assert np.array_equal(theirs[1:], mine) and not theirs[0].any()


# A split is a partition, the same each time, each class in its share.


@rules
@given(st.lists(st.integers(0, 3), min_size=3, max_size=60), st.data())
def test_a_split_is_a_partition(labels, data):
    n = len(labels)
    cut = sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)))
    sizes = (cut[0], cut[1] - cut[0], n - cut[1])
    parts = split(labels, sizes, 5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert tuple(map(len, parts)) == sizes
    assert all(np.array_equal(a, b) for a, b in zip(parts, split(labels, sizes, 5)))
    classes = Counter(labels)
    for part, size in zip(parts, sizes):
        for label, count in classes.items():
            assert abs(sum(labels[k] == label for k in part) - count * size / n) <= 1 + len(classes)


@rules
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=3, max_size=60), st.data())
def test_a_split_keeps_documents_together(rows, data):
    labels, documents = [label for label, _ in rows], [document for _, document in rows]
    first = data.draw(st.integers(0, len(rows)))
    parts = split(labels, (first, len(rows) - first), 5, documents)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    assert not {documents[k] for k in parts[0]} & {documents[k] for k in parts[1]}


# Which modules are adapted: PEFT's rule, stated anew in peft_rule.


@functools.cache
def a_model(name):  # no fixture: hypothesis writes the arguments of an example out
    return tiny.build(name, np.float32)


def linear_names(model):
    """Return the full names of the linear nodes that have one; a ViT's patches are a convolution there."""
    linear = ((path, node) for path, node in walk(model) if isinstance(node, (Linear, LoRALinear)))
    names = [hf_name(model, path, node) for path, node in linear]
    return [name for name in names if name and not name.endswith("projection")]


def ends(names):
    """Return the names and all their ends."""
    return sorted({".".join(name.split(".")[k:]) for name in names if name for k in range(name.count(".") + 1)})


def a_regex(draw, names):
    """Return a regular expression that some of the names match as a whole."""
    one, end = draw(st.sampled_from(names)), draw(st.sampled_from(ends(names)))
    forms = [
        re.escape(one),
        rf".*\.{re.escape(end)}",
        rf".*{re.escape(end)}",
        r".*\.[01]\..*",
        rf"({re.escape(one)}|x)",
    ]
    return draw(st.sampled_from(forms))


@st.composite
def requests(draw, names):
    """Return target_modules, exclude_modules and layers_to_transform."""
    known = ends(names)
    if draw(st.booleans()):
        targets, layers = a_regex(draw, names), None
    else:
        targets = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
        layers = draw(st.sampled_from([None, None, 0, [1], [0, 1]]))
    some = st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True)
    return targets, draw(st.none() | some), layers


@rules
@given(st.sampled_from(KINDS), st.data())
def test_the_adapted_modules_are_those_of_PEFTs_rule(name, data):
    model = a_model(name)
    names = linear_names(model)
    targets, exclude, layers = data.draw(requests(names))
    assume(layers is None or not set(targets) & set(names))  # see test_a_full_name_is_meant_whatever_its_layer
    expected = peft_rule.adapted(names, targets, exclude, layers, output=())
    config = lnp.LoRAConfig(r=1, target_modules=targets, exclude_modules=exclude, layers_to_transform=layers)
    try:
        lora = lnp.inject(model, config, np.random.default_rng(0))
    except ValueError as error:
        # Stricter than PEFT: each part must mean something. Where all parts do, there must have been nothing to adapt.
        assert not expected or "matches nothing" in str(error), str(error)
        return
    found = [hf_name(lora, path, node) for path, node in walk(lora) if isinstance(node, LoRALinear)]
    assert sorted(found) == sorted(expected)


@rules
@given(st.sampled_from([name for name in KINDS if name != "gpt hidden"]), st.data())  # its layers are "h.0": no match
def test_the_rule_that_is_stated_here_is_PEFTs(name, data):
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    from peft.tuners.tuners_utils import check_target_module_exists

    names = linear_names(a_model(name))
    targets, exclude, layers = data.draw(requests(names))
    config = peft.LoraConfig(target_modules=targets, exclude_modules=exclude, layers_to_transform=layers)
    expected = [name for name in names if check_target_module_exists(config, name)]
    assert peft_rule.adapted(names, targets, exclude, layers, output=()) == expected


def test_a_full_name_is_meant_whatever_its_layer():
    """PEFT asks for the layer of names that end with a target, not of those that are one; adapters say it so."""
    names = linear_names(a_model("bert"))
    request = {"target_modules": [names[0], "1.attention.self.key"], "layers_to_transform": [1]}
    lora = lnp.inject(a_model("bert"), lnp.LoRAConfig(r=1, **request), np.random.default_rng(0))
    found = [hf_name(lora, path, node) for path, node in walk(lora) if isinstance(node, LoRALinear)]
    assert sorted(found) == sorted(peft_rule.adapted(names, request["target_modules"], layers=[1], output=()))


@rules
@given(st.sampled_from(KINDS), st.data())
def test_select_by_the_same_rule(name, data):
    nodes = {path: hf_name(a_model(name), path, node) for path, node in walk(a_model(name)) if getattr(node, "hf", "")}
    wanted = data.draw(st.lists(st.sampled_from(ends(nodes.values())), min_size=1, max_size=3, unique=True))
    expected = [path for path, full in nodes.items() if peft_rule.is_listed(full, wanted)]
    found = select(wanted, {path: (full,) for path, full in nodes.items()}, "modules_to_save")
    ours = [path for path in nodes if peft_rule.is_listed(path, wanted)]  # a list means our own names, too
    assert found == [path for path in nodes if path in expected or path in ours]


def patterns(draw, names, values):
    keys = st.sampled_from([*ends(names), *(re.escape(x) for x in names), r"layer\.0\..*", r".*key", "query|value"])
    return draw(st.dictionaries(keys, values, max_size=2))


@rules
@given(st.sampled_from(["bert", "bert pooler", "gpt", "vit"]), st.booleans(), st.data())
def test_r_and_scale_of_each_module_follow_the_patterns(name, rslora, data):
    model = a_model(name)
    names = [x for x in linear_names(model) if "classifier" not in x]
    ranks = patterns(data.draw, names, st.integers(1, 3))
    alphas = patterns(data.draw, names, st.floats(0.25, 64) | st.integers(1, 64))
    config = lnp.LoRAConfig(
        r=2, lora_alpha=5, target_modules=names, rank_pattern=ranks, alpha_pattern=alphas, use_rslora=rslora
    )
    try:
        lora = lnp.inject(model, config, np.random.default_rng(0))
    except ValueError as error:
        assert "matches none" in str(error), str(error)
        return
    for path, node in walk(lora):
        if isinstance(node, LoRALinear):
            full = hf_name(lora, path, node)
            r = peft_rule.by_pattern(ranks, full, 2)
            alpha = peft_rule.by_pattern(alphas, full, 5)
            assert node.A.shape[1] == node.B.shape[0] == r
            assert node.scale == pytest.approx(alpha / (r**0.5 if rslora else r), rel=1e-15)


# What is written is read.


def same(one, other):
    mine, theirs = lnp.parameters(one), lnp.parameters(other)
    return mine.keys() == theirs.keys() and all(mine[key].tobytes() == theirs[key].tobytes() for key in mine)


def outputs(model, name):
    batch = tiny.batch(name)
    return model.forward(batch._replace(content=batch.content.astype(np.float32)) if name.startswith("vit") else batch)[
        0
    ]


@few
@given(
    st.sampled_from(["bert", "bert pooler", "bert mean head", "gpt", "gpt hidden", "vit", "vit mean"]),
    st.integers(1, 4),
    st.integers(1, 40) | st.floats(1e-3, 1e3),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_an_adapter_comes_back_as_it_was(name, r, alpha, dropout, rslora, whole, data):
    base = a_model("bert" if name == "bert mean head" else name)
    model = lnp.with_head(base, 3, "mean", np.random.default_rng(2)) if name == "bert mean head" else base
    names = [x for x in linear_names(model) if not x.endswith(("classifier", "pooler.dense"))]
    targets = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    ranks = {x: data.draw(st.integers(1, 4)) for x in targets[:1] if data.draw(st.booleans())}
    alphas = {x: data.draw(st.floats(0.5, 9)) for x in targets[-1:] if data.draw(st.booleans())}
    saved = [x for x in (data.draw(st.sampled_from([None, "LayerNorm", "ln_f", "layernorm"])),) if x and whole]
    has_head = name in ("bert pooler", "bert mean head", "vit", "vit mean")
    config = {
        "r": r, "lora_alpha": alpha, "lora_dropout": dropout, "use_rslora": rslora, "target_modules": targets,
        "rank_pattern": ranks, "alpha_pattern": alphas, "modules_to_save": saved or None,
        "task_type": "SEQ_CLS" if has_head and (name == "bert mean head" or data.draw(st.booleans())) else None,
    }  # fmt: skip
    try:
        lora = lnp.inject(model, lnp.LoRAConfig(**config), np.random.default_rng(3))
    except ValueError as error:
        assert "matches nothing" in str(error)  # this model has no such norm
        return
    moved = {
        key: (array + np.random.default_rng(4).standard_normal(array.shape)).astype(array.dtype)
        for key, array in lnp.parameters(lora, trainable_only=True).items()
    }
    lora = with_arrays(lora, moved)
    with tempfile.TemporaryDirectory() as folder:
        lnp.save_adapter(lora, folder, "the base")
        back = lnp.load_adapter(base, folder)
        again = Path(folder) / "again"
        lnp.save_adapter(back, again, "the base")
        first, second = (json.loads((Path(f) / "adapter_config.json").read_text()) for f in (folder, again))
    assert same(lora, back)
    assert lnp.count_parameters(lora) == lnp.count_parameters(back)
    mine, theirs = (
        {path: (node.scale, node.dropout) for path, node in walk(m) if isinstance(node, LoRALinear)}
        for m in (lora, back)
    )
    assert mine == theirs
    assert np.array_equal(outputs(lora, name), outputs(back, name))
    assert {k: v for k, v in first.items() if k in config} == {k: v for k, v in second.items() if k in config}


@st.composite
def configurations(draw):
    """Return a function that builds a model, and its configuration."""
    kind = draw(st.sampled_from(["bert", "gpt", "vit"]))
    heads, each, layers, inner = (draw(st.integers(1, high)) for high in (3, 4, 2, 9))
    eps, act = draw(st.sampled_from([1e-12, 1e-5, 0.1])), draw(st.sampled_from(["gelu", "gelu_new"]))
    labels = draw(st.none() | st.integers(1, 4))
    if kind == "gpt":
        config = {**tiny.GPT, "n_embd": heads * each, "n_head": heads, "n_layer": layers, "layer_norm_epsilon": eps}
        config |= {"activation_function": act, **draw(st.sampled_from([{}, {"n_inner": inner}, {"n_inner": None}]))}
        return lnp.gpt, config, {"lm_head": draw(st.booleans())}
    config = {"hidden_size": heads * each, "num_attention_heads": heads, "num_hidden_layers": layers}
    config |= {"intermediate_size": inner, "layer_norm_eps": eps, "hidden_act": act}
    if kind == "bert":
        return lnp.bert, {**tiny.BERT, **config, "type_vocab_size": draw(st.integers(1, 3))}, {"labels": labels}
    patch, side = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    config |= {"patch_size": patch, "image_size": patch * side, "num_channels": draw(st.integers(1, 3))}
    config |= {"class_token": draw(st.booleans()), "qkv_bias": draw(st.booleans())}
    return lnp.vit, {**tiny.VIT, **config}, {"labels": labels}


@few
@given(configurations(), st.sampled_from(["f4", "f8"]))
def test_a_model_comes_back_as_it_was(made, dtype):
    build, config, options = made
    model = tiny.jitter(build(config, rng=np.random.default_rng(1), dtype=np.dtype(dtype), **options))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        lnp.save_model(model, folder / "one")
        back = lnp.load_pretrained(folder / "one", np.dtype(dtype))
        lnp.save_model(back, folder / "two")
        assert same(model, back)
        for file in ("config.json", "model.safetensors"):
            assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()
        merged = lnp.load_pretrained(folder / "one", np.float32)
        assert all(array.dtype == np.float32 for array in lnp.parameters(merged).values())
    rng = np.random.default_rng(5)
    if build is lnp.vit:
        rows = (config["image_size"] // config["patch_size"]) ** 2
        inputs = [
            rng.random((rows, config["num_channels"] * config["patch_size"] ** 2)).astype(dtype) for _ in range(2)
        ]
    else:
        inputs = [rng.integers(0, 23, n) for n in (3, 1, 9)]
    batch = lnp.Batch.of(inputs)
    assert np.array_equal(model.forward(batch)[0], back.forward(batch)[0])


@rules
@given(st.sampled_from(KINDS), st.integers(0, 12), st.sampled_from(["", ".lora_A.weight", ".weight"]))
def test_names_in_PEFTs_files_translate_back(name, number, end):
    for full in linear_names(a_model(name)):
        full = re.sub(r"\.\d+\.", f".{number}.", full) + end
        assert from_peft(a_model(name), to_peft(a_model(name), full)) == full
        assert to_peft(a_model(name), to_peft(a_model(name), full)) == to_peft(a_model(name), full)
        assert from_peft(a_model(name), full) == full  # PEFT with transformers 4 has the old names already


# Tables.

LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\x00")
CELLS = st.text(LETTERS, max_size=12) | st.sampled_from(
    ['"', '""', ' "a" ', "a\tb", "a\nb", "a\rb", "\x85", "\u2028", "x,y"]
)


@rules
@given(st.lists(CELLS, min_size=12, max_size=20), st.sampled_from([".csv", ".tsv"]), st.booleans(), st.booleans())
@example(['"quoted" at the start', *(f"text {k}" for k in range(12))], ".tsv", False, False)
def test_a_table_that_was_written_is_read(cells, suffix, marked, crlf):
    """By the csv module's own writer. A .tsv holds no tab and no line break in a cell: that is an error, by its row."""
    texts = [f"{cell} {k}" for k, cell in enumerate(cells)]
    rows = [(text, f"class {k % 2}") for k, text in enumerate(texts)]
    file = io.StringIO(newline="")
    assume(crlf or not any("\r" in text for text in texts))  # the writer quotes what its own line ends hold
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\r\n" if crlf else "\n")
    writer.writerows([("text", "label"), *rows])
    broken = [k for k, text in enumerate(texts) if re.search(r"[\t\n\r]", text)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"table{suffix}"
            path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + file.getvalue().encode())
            parts = lnp.load_data(path)
    except ValueError as error:
        named = re.search(r"row (\d+) ", str(error))  # by its line in the file: a line break above counts as one
        assert suffix == ".tsv" and broken and named and int(named[1]) >= broken[0] + 2, str(error)
        return
    assert suffix == ".csv" or not broken, "a tab or a line break within a cell of a .tsv"
    found = [(text, part.classes[label]) for part in parts for text, label in zip(part.inputs, part.labels)]
    assert sorted(found) == sorted((text.strip(), label) for text, label in rows)


# Tokenizers.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return lnp.load_tokenizer(valid.model(tmp_path_factory.mktemp("tokenizer"), "bert"))


@rules
@given(
    st.lists(st.lists(st.sampled_from([*valid.WORDS[4:], "zebra"]), min_size=1, max_size=14), max_size=5),
    st.integers(3, 9),
)
def test_ids_are_at_most_so_many_and_keep_their_ends(tokenizer, words, length):
    texts = [" ".join(row) for row in words]
    ids = tokenizer(texts, max_length=length)
    whole = [[2, *(valid.WORDS.index(w) if w in valid.WORDS else 1 for w in row), 3] for row in words]
    assert [row.tolist() for row in ids] == [r if len(r) <= length else [*r[: length - 1], 3] for r in whole]
    assert tokenizer.truncated(texts, max_length=length) == sum(len(row) > length for row in whole)
    assert all(np.array_equal(a, b) for a, b in zip(tokenizer(texts), tokenizer(texts, max_length=9)))
