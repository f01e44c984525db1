"""Damaged safetensors files: models, adapters, heads and checkpoints.

The safetensors library is the judge: what it refuses is refused here, and what both read has the same names, shapes
and numbers. A model or adapter that loads holds what the judge reads: it is written again and compared.
"""

from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import tiny
from fuzz import mutations, valid
from fuzz.oracle import Findings, attempt, command, generator, short
from safetensors import SafetensorError

import lora_np as lnp
from lora_np.files.safetensors import read_safetensors
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.loop import Plan, Training

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def judged(data):
    """Return what the library reads, or None if it refuses the file; a bfloat16 is widened here, the rest is its."""
    try:
        entries = dict(safetensors.deserialize(data))
    except (SafetensorError, ValueError, OverflowError):
        return None
    found = {}
    for name, entry in entries.items():
        raw = np.frombuffer(bytes(entry["data"]), np.uint8)
        if entry["dtype"] == "BF16":
            found[name] = (raw.view("<u2").astype("<u4") << 16).view("<f4").reshape(entry["shape"])
        elif entry["dtype"] in FLOATS:
            found[name] = raw.view(FLOATS[entry["dtype"]]).reshape(entry["shape"])
        else:
            found[name] = None  # whole numbers and others
    return found


class Target(NamedTuple):
    make: object  # folder -> the folder that holds the file
    file: str
    load: object  # (folder, what is shared) -> the model
    prepare: object = lambda folder: None
    write: object = None  # (model, folder): writes it again
    prefix: tuple = ()  # of the tensors' names


def load_onto_base(folder, base):
    return lnp.load_adapter(base, folder)


def base_of(folder):
    return lnp.load_pretrained(folder.parent / "model")


def load_model(folder, _):
    return lnp.load_pretrained(folder)


def a_model(name):
    return Target(
        lambda folder: valid.model(folder, name), "model.safetensors", load_model, write=lnp.save_model,
        prefix=("bert.", "transformer.", "vit."),
    )  # fmt: skip


def an_adapter(name, file="adapter_model.safetensors"):
    return Target(
        lambda folder: valid.adapter(folder, name), file, load_onto_base, base_of, lnp.save_adapter,
        ("base_model.model.",),
    )  # fmt: skip


TARGETS = {
    **{name: a_model(name) for name in ("bert", "bert pooler", "bert mean head", "gpt", "vit")},
    **{f"adapter of {name}": an_adapter(name) for name in ("bert", "bert pooler", "bert mean head", "gpt", "vit")},
    "head of an adapter": an_adapter("bert mean head", "head.safetensors"),
    "head of a model": a_model("bert mean head")._replace(file="head.safetensors"),
    "a part of a model in two": Target(
        lambda folder: valid.sharded(folder, "bert"), "model-00001-of-00002.safetensors", load_model
    ),
}


def mutated(name, data, rounds):
    rng = generator(name)
    every = mutations.safetensors_mutations(data)
    flips = mutations.flips(data, rng, int(0.3 * min(rounds, len(every))))
    return mutations.sample(every, rounds - len(flips), rng) + flips


def plain(names, prefixes):
    """Return {name without its prefix: array}; None where two become one."""
    found = {}
    for name, array in names.items():
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if name in found:
            return None
        found[name] = array
    return found


@short(15)
@pytest.mark.parametrize("name", TARGETS)
def test_what_loads_is_what_the_file_holds(name, rounds, tmp_path):
    target, findings = TARGETS[name], Findings()
    folder = target.make(tmp_path)
    shared = target.prepare(folder)
    target.load(folder, shared)  # the valid file works
    valid_data = (folder / target.file).read_bytes()
    head = target.load(folder, shared).head is not None
    for k, (what, data) in enumerate(mutated(name, valid_data, rounds)):
        (folder / target.file).write_bytes(data)
        model, found = attempt(lambda: target.load(folder, shared), folder, target.file)
        if model is not None and not found:
            found = [f"loads silently: {fault}" for fault in faults(target, model, data, tmp_path / f"again{k}", head)]
        findings.add(found, what)
    findings.check()


def faults(target, model, data, folder, head):
    """Yield in what a model differs from its file as the judge reads it."""
    expected = judged(data)
    if expected is None:
        yield "the judge refuses the file"
        return
    if (model.head is not None) != head:
        yield "the head is another"
        return
    if not all(np.isfinite(array).all() for array in lnp.parameters(model).values()):
        yield "numbers that are not finite"
    if target.write is None:
        return
    target.write(model, folder)
    again = plain(safetensors.numpy.load_file(folder / target.file), target.prefix)
    expected = plain(expected, target.prefix)
    if expected is None:
        yield "two tensors become one"
        return
    for name, array in again.items():
        if name not in expected:
            yield "a tensor that the file does not hold"
        elif expected[name] is None:
            yield "a tensor of whole numbers is read as weights"
        elif array.shape != expected[name].shape or not np.array_equal(array, expected[name].astype(array.dtype)):
            yield "other numbers than the file's"


@short(100)
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8"])
def test_the_reader_agrees_with_the_library(dtype, rounds, tmp_path):
    """Whatever is refused by one and read by the other is looked at; where both read, all is equal."""
    rng, findings, path = generator(dtype), Findings(), tmp_path / "some.safetensors"
    tensors = {name: np.asarray(50 * rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}
    data = safetensors.numpy.save(tensors, {"format": "pt", "more": "é"})
    for what, new in [("nothing", data), *mutated(dtype, data, rounds)]:
        path.write_bytes(new)
        read, found = attempt(lambda: read_safetensors(path), path)
        try:
            theirs = safetensors.numpy.load(new)
        except Exception:  # whatever it is, it is a refusal
            theirs = None
        if read is not None and not found:
            mine, metadata = read
            if theirs is None and judged(new) is None:
                found = ["reads what the library refuses"]
            elif theirs is not None and not same(mine, theirs):
                found = ["reads other names, shapes, dtypes or numbers than the library"]
            elif not isinstance(metadata, dict) or not all(
                isinstance(x, str) for pair in metadata.items() for x in pair
            ):
                found = ["the metadata are no texts by name"]
        if read is None and what == "nothing":
            found = ["refuses a valid file"]
        findings.add(found, what)
    findings.check()


SHAPES = {"a": (3, 5), "b": (4,), "c": (), "d": (0, 2), "layer.0.weight": (2, 2, 2), "é": (1, 1)}


def same(mine, theirs):
    return mine.keys() == theirs.keys() and all(
        mine[key].shape == theirs[key].shape
        and mine[key].dtype == theirs[key].dtype
        and mine[key].tobytes() == theirs[key].tobytes()
        for key in mine
    )


ARGV = {
    "bert pooler": lambda f: ["predict", "--model", f, "--json", "a good film"],
    "gpt": lambda f: ["info", f],
    "vit": lambda f: ["info", f],
    "adapter of bert mean head": lambda f: ["predict", "--adapter", f, "a good film"],
    "adapter of vit": lambda f: ["info", f],
    "head of an adapter": lambda f: ["predict", "--adapter", f, "a good film", "--json"],
}


@short(5)
@pytest.mark.parametrize("name", ARGV)
def test_a_command_on_a_damaged_file_works_or_says_one_sentence(name, rounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target, findings = TARGETS[name], Findings()
    folder = target.make(tmp_path)
    valid.classed(folder if target.load is load_model else folder.parent / "model")
    data = (folder / target.file).read_bytes()
    for what, new in [("nothing", data), *mutated(f"{name}, command", data, rounds)]:
        (folder / target.file).write_bytes(new)
        shown, found = command(ARGV[name](folder), folder, folder.name, target.file)
        if what == "nothing":
            assert found == []
        findings.add(found, what)
    findings.check()


@pytest.fixture(scope="module")
def training():
    """Return a function that makes the same run anew, and the bytes of its checkpoint after three steps."""

    def make():
        model = tiny.adapted("bert mean head", np.float32, target_modules=["query"])
        rows = tiny.sequences("bert") * 2
        return Training(model, rows, np.arange(len(rows)) % 3, Plan(lr=0.01, epochs=3, batch_size=4))

    return make


@short(37)
def test_a_damaged_checkpoint_changes_nothing_or_is_what_the_file_holds(rounds, training, tmp_path):
    findings, path, run = Findings(), tmp_path / "checkpoint.safetensors", training()
    steps = run.steps()
    losses = [next(steps).loss for _ in range(3)]
    save_checkpoint(run, path, {"loss": losses})
    data, before = path.read_bytes(), state_of(training())
    for what, new in [("nothing", data), *mutated("checkpoint", data, rounds)]:
        path.write_bytes(new)
        fresh = training()
        history, found = attempt(lambda: load_checkpoint(fresh, path), path)  # noqa: B023 (called at once)
        if history is None:
            found += ["a refused checkpoint has changed the run"] if state_of(fresh) != before else []
            found += ["refuses a valid file"] if what == "nothing" else []
        elif not found:
            found = [f"resumes silently: {fault}" for fault in faults_of_checkpoint(fresh, new)]
        findings.add(found, what)
    findings.check()


def state_of(training):
    optimiser = training.optimiser
    arrays = (a.tobytes() for kind in (optimiser.parameters, optimiser.m, optimiser.v) for a in kind.values())
    return [training.done, optimiser.t, *arrays]


def faults_of_checkpoint(training, data):
    """Yield in what a run that goes on differs from its checkpoint as the judge reads it."""
    expected, optimiser = judged(data), training.optimiser
    if expected is None:
        yield "the judge refuses the file"
        return
    for kind, arrays in (("parameter", optimiser.parameters), ("m", optimiser.m), ("v", optimiser.v)):
        for name, array in arrays.items():
            if not np.array_equal(array, expected[f"{kind}/{name}"], equal_nan=True):
                yield "other numbers than the file's"
            if not np.isfinite(array).all():
                yield "numbers that are not finite"
            if kind == "v" and (array < 0).any():
                yield "a mean of squares below zero"
    metadata = mutations.parted(data)[0]["__metadata__"]
    if str(training.done) != metadata["step"].strip() or training.optimiser.t != training.done:
        yield "another step than the file's"


@short(5)
def test_a_run_goes_on_from_a_damaged_checkpoint_or_says_one_sentence(rounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings, folder = Findings(), valid.interrupted(tmp_path)
    path = folder / "checkpoint.safetensors"
    data = path.read_bytes()
    for what, new in mutated("resumed", data, min(rounds, 40)):  # each that loads is a run
        path.write_bytes(new)
        shown, found = command(["finetune", "--resume", folder], folder, path.name, memory=False)
        if shown is not None:
            (folder / "metrics.json").unlink()
        findings.add(found, what)
    findings.check()
