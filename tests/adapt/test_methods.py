"""Each method of adaptation is held to what it declares, as scikit-learn's check_estimator does it for estimators.

A new method is checked without a word here: `check_method("its name")` asks the registry what it is to be.
"""

import dataclasses
import doctest
import json
import re
import sys
from math import prod

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.adapt import lora, starts
from lora_np.adapt.config import PeftOptions
from lora_np.adapt.methods import (
    METHODS,
    BetweenSteps,
    adapted_nodes,
    between_steps,
    is_adapted,
    registered,
    sizes,
    tensors_of,
)
from lora_np.adapt.targets import hf_name, targets_of, to_peft
from lora_np.files.safetensors import read_safetensors, write_safetensors
from lora_np.formats.peft.config import own_settings
from lora_np.model.nodes import Linear
from lora_np.model.tree import arrays, fingerprint, freeze, rebuild, walk, with_arrays

MODELS = ("bert mean head", "gpt", "vit")  # one of each architecture
ROUNDING = {np.float64: 1e-12, np.float32: 1e-4}
# What `inject` is to be told beside for a start of LoRA's, which is a method for all that follows.
STARTS = {
    **{f"LoRA, {start}": {"init_lora_weights": start} for start in (*starts.STARTS_AS, "pissa_niter_2", "olora")},
    "LoRA, orthogonal": {"init_lora_weights": "orthogonal", "r": 4},
    "LoRA, eva": {"init_lora_weights": "eva", "eva_config": {"rho": 1.0}},
    "LoRA, loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 2}},
}


def frozen(name, dtype=np.float64, dropout=0.0):
    """Return a tiny model, wholly frozen: a head of its own would be trained, and shared, live. A text has more places
    there than it needs, for virtual tokens."""
    model = tiny.build(name, dtype, dropout)
    counted = {"bert": "max_position_embeddings", "gpt2": "n_positions"}.get(model.config["model_type"])
    if counted:
        old = model.embeddings.position
        position = dataclasses.replace(old, table=np.concatenate([old.table, 0.9 * old.table[:4]]).astype(dtype))
        embeddings = dataclasses.replace(model.embeddings, position=position)
        config = {**model.config, counted: len(position.table)}
        model = dataclasses.replace(model, embeddings=embeddings, config=config)
    return freeze(model)


def unusual(kind, value, other=False):
    """Return a value for an option that is not its default, so that what it does is seen; or yet another one."""
    if kind is bool:
        return not value
    if kind is int:
        return 2 if other else 3 if value > 0 else 6  # a size that is -1, "as you like", divides 12
    return (0.3 if other else 0.6) * value or (0.1 if other else 0.2)


def choices(method):
    """Return {name: field} of its options that are numbers or flags; how an adapter starts leaves no trace in it."""
    own = (*own_settings(method.config), *method.config.OURS)
    plain = [
        field for field in dataclasses.fields(method.config) if field.name in own and field.type in (bool, int, float)
    ]
    return {field.name: field for field in plain if "weights" not in field.name}


def required(method):
    """Return options that have to be given, as their defaults are refused: large numbers."""
    fields = {field.name: field.default for field in dataclasses.fields(method.config)}
    known = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    return {name: 50 for name, (fits, _) in method.config.FIELDS.items() if name in known and not fits(known[name])}


def configuration(method, model, **given):
    """Return a configuration of all linear maps with nothing at its default, and one map that has values of its own."""
    own = {name: field for name, field in choices(method).items() if name not in method.config.OURS}
    options = {name: unusual(field.type, field.default) for name, field in own.items()}
    targets = wide(method)
    names = next(iter(targets_of(model, method.config(target_modules=targets, **required(method))).values()))
    for option, patterns in method.config.PATTERNS.items():
        options[patterns] = {re.escape(names[0]): unusual(own[option].type, own[option].default, other=True)}
    return method.config(
        target_modules=targets, **{**options, **STARTS.get(method.name, {}), **required(method), **given}
    )


def wide(method):
    """Return targets that mean all that a method can adapt: linear maps, or what it says by itself."""
    return "all-linear" if method.config.adapts is PeftOptions.adapts else None


def with_ours(method):
    """Return options for `configuration`: none, and those that PEFT does not have, if there are any."""
    ours = {field.name: field for field in dataclasses.fields(method.config) if field.name in method.config.OURS}
    return [{}, *([{name: unusual(field.type, field.default) for name, field in ours.items()}] if ours else [])]


def fresh(method, model, seed=3, **given):
    data = [batch_for(MODELS[0], model.dtype)] if method.name == "LoRA, eva" else None
    return lnp.inject(model, configuration(method, model, **given), np.random.default_rng(seed), data)


def start_of(name):
    """Return LoRA as a method that starts otherwise, and says so."""
    value = STARTS[name]["init_lora_weights"]
    method = starts.SHIFTED if starts.is_out_of_W(value) else lora.LORA
    return dataclasses.replace(method, name=name, starts_as=starts.STARTS_AS.get(value, method.starts_as))


def in_files(method, model):
    """Return the model as PEFT's files hold it."""
    return method.as_saved(model)


def trained(method, model, seed=3, **given):
    """Return the model adapted, with every array that is trained moved away from its start."""
    rng, model = np.random.default_rng([seed, 1]), fresh(method, model, seed, **given)
    live = lnp.parameters(model, trainable_only=True)
    return with_arrays(model, {k: (a + 0.2 * rng.standard_normal(a.shape)).astype(a.dtype) for k, a in live.items()})


def batch_for(name, dtype=np.float64):
    batch = tiny.batch(name)
    return batch._replace(content=batch.content.astype(dtype)) if name.startswith("vit") else batch


def outputs(model, name, rng=None):
    """Return the output; without rows that are no words'."""
    batch = batch_for(name, model.dtype)
    output = model.forward(batch, rng)[0]
    if len(output) == len(batch.order):
        return output
    words = zip(batch.unpack(output), batch.unpack(batch.position))
    return np.concatenate([rows[-len(places) :] for rows, places in words])


def distance(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def content(model):
    return {name: (array.dtype, np.asarray(array).tobytes()) for name, array in lnp.parameters(model).items()}


def steps_of_training(model, name):
    """Take two steps of AdamW, in place, as a run does."""
    optimiser = lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=1e-2, weight_decay=0.1)
    between = between_steps(model)
    for step in range(2):
        output, cache = model.forward(batch_for(name, model.dtype), np.random.default_rng(step))
        grads = model.backward(output, cache)
        assert list(grads) == list(lnp.parameters(model, trainable_only=True))
        optimiser.step(grads)
        between.after_step(step, grads)
    return model


def settings_of(node):
    own = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return {name: value for name, value in own.items() if name not in arrays(node)}


def nodes_of(model):
    """Return {path: (class, what is no array)} of the adapted nodes."""
    return {path: (type(node), settings_of(node)) for path, node in adapted_nodes(model).items()}


def as_differentiated(_, node):
    """Return a node with that held which its backward takes for a constant."""
    return node.as_differentiated() if hasattr(node, "as_differentiated") else node


# ---- what is checked


def it_starts_where_it_says(method, name, _):
    for dtype, bound in ROUNDING.items():
        base = frozen(name, dtype)
        model = fresh(method, base)
        assert is_adapted(model) and set(adapted_nodes(model)) == set(targets_of(base, model.adapter))
        ours, theirs = outputs(model, name), outputs(base, name)
        assert ours.dtype == dtype
        if method.starts_as == "the base's bits":
            assert np.array_equal(ours, theirs)
        elif method.starts_as == "the base's but for rounding":
            assert distance(ours, theirs) <= bound
        else:
            assert method.starts_as == "something else" and distance(ours, theirs) > bound


def every_gradient_is_proven(method, name, _):
    for own in with_ours(method):
        model = fresh(method, frozen(name, dropout=0.2), **own)
        live = lnp.parameters(model, trainable_only=True)
        nodes = adapted_nodes(model)
        assert set(live) == {f"{path}.{field}" for path, node in nodes.items() for field in tensors_of(node)}
        report = lnp.check_model(model, batch_for(name))
        assert report.ok and {row.argument for row in report.rows} >= set(live), report
        moved = trained(method, frozen(name), **own)
        silent = set(live)
        for seed in range(10):  # whole maps may be dropped
            output, cache = moved.forward(batch_for(name), np.random.default_rng(seed))
            grads = moved.backward(np.random.default_rng(1).standard_normal(output.shape), cache)
            silent &= {key for key, gradient in grads.items() if not gradient.any()}
        assert not silent, f"no gradient away from the start: {silent}"
        held = rebuild(moved, as_differentiated)
        again, _ = held.forward(batch_for(name), np.random.default_rng(9))
        assert np.array_equal(again, output), "what is held is not what was"


def merged_is_unmerged(method, name, _):
    for dtype, bound in ROUNDING.items():
        base = frozen(name, dtype)
        model = trained(method, base)
        if isinstance(method.dense, str):
            with pytest.raises(ValueError, match=re.escape(method.dense)):
                lnp.merge(model)
            return
        merged = lnp.merge(model)
        assert distance(outputs(merged, name), outputs(model, name)) <= bound
        assert distance(outputs(merged, name), outputs(base, name)) > 1e-3, "the test moved nothing"
        assert not is_adapted(merged) and merged.adapter is None and lnp.count_parameters(merged).trainable == 0
        shapes = [{key: array.shape for key, array in lnp.parameters(one).items()} for one in (merged, base)]
        assert shapes[0] == shapes[1] and all(not array.flags.writeable for array in lnp.parameters(merged).values())


def it_comes_back_to_the_bit(method, name, folder):
    for k, given in enumerate(with_ours(method)):
        base, (first, second) = frozen(name, np.float32), (folder / f"{k} first", folder / f"{k} second")
        model = trained(method, base, **given)
        lnp.save_adapter(model, first)
        again = lnp.load_adapter(base, first)
        assert content(again) == content(model) and nodes_of(again) == nodes_of(model)
        for own in (*own_settings(method.config), *method.config.OURS):
            if own not in {
                *method.config.PATTERNS.values(),
                *method.config.PARTS,
            }:  # those name nodes by their names in files
                assert getattr(again.adapter, own) == getattr(model.adapter, own), own
        one, other = (outputs(model, name, np.random.default_rng(0)) for model in (again, model))  # dropout, too
        assert np.array_equal(one, other)
        lnp.save_adapter(again, second)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            assert (first / file).read_bytes() == (second / file).read_bytes(), file


def the_files_hold_its_table(method, name, folder):
    model = trained(method, frozen(name, np.float32))
    lnp.save_adapter(model, folder)
    model, expected = in_files(method, model), {}
    for path, node in adapted_nodes(model).items():
        module = to_peft(model, hf_name(model, path, node))
        for field, (end, transposed) in tensors_of(node).items():
            array = getattr(node, field)
            array = array.T if transposed else array
            if not method.together:
                expected[f"base_model.model.{module}.{end}"] = array
            else:
                expected[end] = np.concatenate([expected[end], array], axis=1) if end in expected else array
    for field, (name, transposed) in method.shared.tensors.items() if method.shared else ():
        for node in adapted_nodes(model).values():
            array = getattr(node, field)
            expected[name] = array.T if transposed else array
    found = load_file(folder / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], array) for key, array in expected.items())


def peft_reads_and_writes_the_same(method, _, folder):
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel

    base, batch = frozen("bert", np.float32), tiny.batch("bert")
    if method.together:
        batch = batch._replace(type=np.zeros_like(batch.type))  # where PEFT puts virtual tokens, it leaves types out
    lnp.save_model(base, folder / "base")
    model = trained(method, base)
    lnp.save_adapter(model, folder / "ours")
    if method.config.peft_type not in peft.PeftType.__members__:
        with pytest.raises((ValueError, KeyError), match=method.config.peft_type):  # PEFT has no such method
            peft.PeftConfig.from_pretrained(folder / "ours")
        return
    theirs = AutoModel.from_pretrained(folder / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, folder / "ours").double().eval()
    exact, rows = lnp.astype(model, np.float64), batch.unpack(batch.content)
    output = batch.unpack(exact.forward(batch)[0])
    types = batch.unpack(batch.type)
    for ids, kinds, ours in zip(rows, types, output):
        given = {"input_ids": torch.tensor(ids[None]), "token_type_ids": torch.tensor(kinds[None])}
        with torch.no_grad():
            assert distance(ours, theirs(**given).last_hidden_state[0].numpy()) < 1e-9
    theirs.float().save_pretrained(folder / "theirs")
    again = lnp.load_adapter(base, folder / "theirs")
    model = in_files(method, model)
    assert content(again) == content(model) and nodes_of(again) == nodes_of(model)


def the_formula_counts_right(method, name, _):
    base = frozen(name)
    model = fresh(method, base)
    linear, expected, shared, held = dict(walk(base)), 0, {}, 0
    if method.shared:
        shared = method.shared.shapes([sizes(linear[path]) for path in targets_of(base, model.adapter)], model.adapter)
    for path, names in targets_of(base, model.adapter).items():
        shapes = method.shapes(*sizes(linear[path]), model.adapter.at(names))
        own = model.adapter.at(names)
        for option, patterns in method.config.PATTERNS.items():
            given = next(iter(getattr(model.adapter, patterns).values()))
            assert getattr(own, option) == (getattr(model.adapter, option) if expected else given)  # the first has it
        node = adapted_nodes(model)[path]
        assert {field: getattr(node, field).shape for field in node.trainable} == shapes
        assert {field: getattr(node, field).shape for field in getattr(node, "SHARED", ())} == shared
        expected += sum(map(prod, shapes.values()))
        held += sum(getattr(node, field).size for field in getattr(node, "HELD", ()))
    count, beside = lnp.count_parameters(model), sum(map(prod, shared.values())) + held
    assert count == (lnp.count_parameters(base).total + beside + expected, expected)


def the_base_is_untouched(method, name, folder):
    base = frozen(name, np.float32)
    before, adapter = content(base), base.adapter
    model = steps_of_training(fresh(method, base), name)
    assert not np.array_equal(outputs(model, name), outputs(base, name)), "the test trained nothing"
    shared, own = lnp.parameters(base), lnp.parameters(model)
    assert all(own[key] is array for key, array in shared.items()), "an array of the base was copied"
    assert not any(array.flags.writeable for array in shared.values())
    assert fingerprint(model) == fingerprint(base), "the adapter is taken for a part of the base"
    lnp.save_adapter(model, folder)
    lnp.load_adapter(base, folder)
    if not isinstance(method.dense, str):
        lnp.merge(model)
    assert content(base) == before and base.adapter is adapter and not is_adapted(base)


def two_on_one_base_do_not_disturb_each_other(method, name, _):
    base = frozen(name, np.float32)
    first, second = fresh(method, base, 1), fresh(method, base, 2)
    steps_of_training(first, name)
    alone, held = outputs(first, name), content(first)
    steps_of_training(second, name)
    assert np.array_equal(outputs(first, name), alone) and content(first) == held
    mine = [lnp.parameters(one, trainable_only=True).values() for one in (first, second)]
    assert not any(np.shares_memory(a, b) for a, b in zip(*mine))


def it_adapts_a_compressed_base_as_a_dense_one(method, name, _):
    base, found = lnp.compress_model(frozen(name), "int8"), []
    for one in (base, lnp.decompress_model(base)):  # the same numbers
        model = trained(method, one)
        output, cache = model.forward(batch_for(name), np.random.default_rng(0))
        merged = np.zeros(1) if isinstance(method.dense, str) else outputs(lnp.merge(model), name)
        found.append([output, merged, *model.backward(output, cache).values()])
    assert all(distance(*pair) <= 1e-10 for pair in zip(*found) if pair[1].any())
    assert lnp.count_parameters(fresh(method, base)) == lnp.count_parameters(fresh(method, one))


def a_configuration_says_how_and_one_that_does_not_fit_is_refused(method, name, folder):
    """A model's nodes say whether it is adapted, its configuration says how; a file is written by both."""
    base = frozen(name)
    model, linear = trained(method, base), dict(walk(base))
    targets = targets_of(base, model.adapter)
    for option, field in choices(method).items():
        value = (
            not getattr(model.adapter, option) if field.type is bool else unusual(field.type, field.default, other=True)
        )
        carried, changes = configuration(method, base, **{option: value}), set()
        for path, node in adapted_nodes(model).items():
            assert not method.differs(node, model.adapter.at(targets[path]))
            own, mine = carried.at(targets[path]), {field: getattr(node, field) for field in node.trainable}
            fixed = (*getattr(node, "SHARED", ()), *getattr(node, "HELD", ()))
            shared = {field: getattr(node, field) for field in fixed}
            changed = {"the arrays"}
            if method.shapes(*sizes(linear[path]), own) == {key: array.shape for key, array in mine.items()}:
                other = settings_of(method.wrap(linear[path], own, {**mine, **shared}))
                changed = {key for key, value in settings_of(node).items() if other[key] != value}
            told = changed - {"dropout"}  # which with_dropout may set
            assert bool(method.differs(node, own)) == bool(told), f"{path}, another {option}: {changed} changed"
            changes |= changed
        if not changes and method.between_steps is not BetweenSteps:
            continue  # it may say how an adapter is trained: its own tests hold that
        if not changes:  # it says how an adapter starts, and nothing of one that is trained
            start = lnp.inject(base, carried, np.random.default_rng(3))
            assert content(start) != content(fresh(method, base)), f"{option} changes nothing"
            continue
        if changes != {"dropout"}:
            with pytest.raises(ValueError, match="carries says otherwise"):
                lnp.save_adapter(dataclasses.replace(model, adapter=carried), folder)
    with pytest.raises(ValueError, match="adapter already"):
        lnp.inject(dataclasses.replace(model, adapter=None), model.adapter, np.random.default_rng(0))
    assert registered("config", model.adapter) is method and not list(folder.iterdir())


def a_file_with_a_value_of_another_kind_is_refused(method, name, folder):
    """By the sentence that names the file and the field: a method's configuration says what each of its own may be."""
    base = frozen(name, np.float32)
    lnp.save_adapter(trained(method, base), folder)
    path = folder / "adapter_config.json"
    right = json.loads(path.read_text())
    for field in own_settings(method.config):
        path.write_text(json.dumps({**right, field: [[1]]}))
        with pytest.raises(ValueError, match=rf"adapter_config\.json has {field} = \[\[1\]\]; expected "):
            lnp.load_adapter(base, folder)
    path.write_text(json.dumps(right))
    weights = folder / "adapter_model.safetensors"
    tensors, metadata = read_safetensors(weights)
    for field in method.config.OURS:
        write_safetensors(weights, tensors, {**metadata, "lora_np_options": json.dumps({field: [[1]]})})
        with pytest.raises(ValueError, match=rf"adapter_model\.safetensors has {field} = \[\[1\]\]; expected "):
            lnp.load_adapter(base, folder)


def what_its_nodes_share_is_one_array(method, name, folder):
    """In memory, also after a cast, in a file, and never trained."""
    base = frozen(name, np.float32)
    model = trained(method, base)
    lnp.save_adapter(model, folder)
    for one in (model, lnp.astype(model, np.float64), freeze(model), lnp.load_adapter(base, folder)):
        first, *others = adapted_nodes(one).values()
        for field in method.shared.tensors if method.shared else ():
            array = getattr(first, field)
            assert all(getattr(node, field) is array for node in others), f"{field} is not one array"
            assert not array.flags.writeable
    everything = lnp.unfreeze(model, "all")
    assert not any(name in node.trainable for _, node in walk(everything) for name in getattr(node, "SHARED", ()))
    for path, node in adapted_nodes(model).items():
        for field in getattr(node, "SHARED", ()):
            with pytest.raises(ValueError, match="shared by its nodes, and stays frozen"):
                lnp.unfreeze(model, f"{path}.{field}")
            other = with_arrays(model, {f"{path}.{field}": getattr(node, field) + 1})
            with pytest.raises(ValueError, match=f"{field} is another array than .*a file holds one for all nodes"):
                lnp.save_adapter(other, folder)


CHECKS = (
    it_starts_where_it_says,
    every_gradient_is_proven,
    merged_is_unmerged,
    it_comes_back_to_the_bit,
    the_files_hold_its_table,
    the_formula_counts_right,
    the_base_is_untouched,
    two_on_one_base_do_not_disturb_each_other,
    what_its_nodes_share_is_one_array,
    it_adapts_a_compressed_base_as_a_dense_one,
    a_configuration_says_how_and_one_that_does_not_fit_is_refused,
    a_file_with_a_value_of_another_kind_is_refused,
)


def is_for(method, name):
    """Return whether a model has what a method adapts."""
    return any(method.config.adapts(path, node) for path, node in walk(frozen(name)))


def check_method(name, folder):
    """Hold a registered method to all that it declares, on a model of each architecture."""
    for check in CHECKS:
        for model in filter(lambda model: is_for(METHODS[name], model), MODELS):
            (folder / check.__name__ / model).mkdir(parents=True)
            check(METHODS[name], model, folder / check.__name__ / model)


@pytest.mark.parametrize(
    "model", [MODELS[0], *(pytest.param(other, marks=pytest.mark.thorough) for other in MODELS[1:])]
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_what_it_declares(name, check, model, tmp_path):
    if is_for(METHODS[name], model):
        check(METHODS[name], model, tmp_path)
    else:
        with pytest.raises(ValueError, match=f"this model has no {METHODS[name].config.ADAPTS}, which is what"):
            fresh(METHODS[name], frozen(model))


OF_A_START = {  # and which are thorough: the nodes are those of above
    it_starts_where_it_says: False,
    two_on_one_base_do_not_disturb_each_other: True,
    every_gradient_is_proven: True,
    merged_is_unmerged: True,
    the_base_is_untouched: False,
    it_comes_back_to_the_bit: True,
}
OF_LOFTQ = list(OF_A_START)[:4]  # whose base is its own: tests/adapt/test_starts.py


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, marks=[pytest.mark.thorough] * slow, id=f"{name}-{check.__name__}")
        for name in STARTS
        for check, slow in OF_A_START.items()
        if name != "LoRA, loftq" or check in OF_LOFTQ
    ],
)
def test_a_start_is_what_it_declares(name, check, tmp_path):
    check(start_of(name), MODELS[0], tmp_path)


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_read_and_written_as_peft_does(name, tmp_path):
    peft_reads_and_writes_the_same(METHODS[name], "bert", tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_method_runs(name):
    failed, tried = doctest.testmod(sys.modules[METHODS[name].node.__module__])
    assert not failed and (tried or name == "LoRA"), "its module's docstring has an example"  # LoRA's is the README's


# ---- and the checks can fail


def b_not_zero(path, node, config, rng):
    return {name: array + np.float32(0.1) for name, array in lora.start(path, node, config, rng).items()}


def one_start_for_all(path, node, config, rng, kept={}):  # noqa: B006
    return kept.setdefault(path + str(node.W.shape) + str(node.W.dtype), lora.start(path, node, config, rng))


def without_dropout(node, config, arrays):
    return dataclasses.replace(lora.add_detour(node, config, arrays), dropout=0.0)


def on_a_copy(node, config, arrays):
    return dataclasses.replace(lora.add_detour(node, config, arrays), W=node.W.copy())


BROKEN = {
    "it starts elsewhere": ({"start": b_not_zero}, "it_starts_where_it_says"),
    "it says that it starts elsewhere": ({"starts_as": "something else"}, "it_starts_where_it_says"),
    "merged without the scale": ({"dense": lambda node: lora.dense(dataclasses.replace(node, scale=1.0))}, "merged"),
    "merged with the base's weight": ({"dense": lambda node: Linear(node.W, node.b, node.hf)}, "merged_is_unmerged"),
    "an array that no file holds": ({"tensors": {"A": ("lora_A.weight", True)}}, "every_gradient_is_proven"),
    "the formula forgets d_out": ({"shapes": lambda d_in, d_out, c: {"A": (d_in, c.r), "B": (c.r, 1)}}, "comes_back"),
    "two adapters share their start": ({"start": one_start_for_all}, "two_on_one_base"),
    "dropout is forgotten": ({"wrap": without_dropout}, "a_configuration_says_how"),
    "the base is copied": ({"wrap": on_a_copy}, "the_base_is_untouched"),
    "every configuration fits": ({"differs": lambda node, config: ""}, "a_configuration_says_how"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.thorough
def test_a_broken_method_is_found(what, tmp_path, monkeypatch):
    changes, where = BROKEN[what]
    monkeypatch.setitem(METHODS, "LoRA", dataclasses.replace(lora.LORA, **changes))
    with pytest.raises((AssertionError, ValueError, KeyError)) as failed:
        check_method("LoRA", tmp_path)
    assert any(where in str(entry.name) for entry in failed.traceback)


def test_a_wrong_backward_is_found(tmp_path, monkeypatch):
    right = lora.lora_linear_backward

    def wrong(dy, cache, needs):
        return right(dy, cache._replace(mask=None), needs)  # right without dropout

    monkeypatch.setattr(lora, "lora_linear_backward", wrong)
    with pytest.raises(AssertionError) as failed:
        check_method("LoRA", tmp_path)
    assert any(entry.name == "every_gradient_is_proven" for entry in failed.traceback)
