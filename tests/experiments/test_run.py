"""A run without a command: silent, the same to the bit, and safe from an observer that fails or stops it."""

import ast
import contextlib
import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_np.cli.commands import main
from lora_np.experiments import Observer, Recipe, read_metrics, read_recipe, run
from lora_np.train.optimisers import AdamW

RECIPE = Recipe(data="digits-rotated", r=2, target_modules=["query"], epochs=3, batch_size=400, dropout=0.1, workers=2)
ARGV = (
    "finetune --data digits-rotated --r 2 --target-modules query --epochs 3 --batch-size 400 --dropout 0.1 --workers 2"
)
STEPS, EVENTS = 9, [name for name in vars(Observer) if not name.startswith("_")]
NEVER = {"note", "computing_features", "resumed", "stopped"}  # in an unbroken run of this kind


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(one, other):
    mine, theirs = adapter(one), adapter(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an unbroken run, and its record."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(RECIPE, folder)


class Broken(Observer):
    """Raises at one event; keeps the names of all."""

    def __init__(self, event=None, at=1):
        self.event, self.left, self.seen = event, at, []

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in EVENTS:
            return method

        def told(*given):
            self.seen.append(name)
            self.left -= name == self.event
            if name == self.event and self.left == 0:
                raise RuntimeError(f"broken at {name}")
            return method(*given)

        return told


def test_a_run_is_silent_and_gets_what_the_command_gets(whole, tmp_path, capfd):
    folder, record = whole
    shown = capfd.readouterr()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found = []
    thread = threading.Thread(target=lambda: found.append(run(RECIPE, tmp_path / "thread")))  # as in a notebook
    thread.start()
    thread.join()
    assert capfd.readouterr() == shown == ("", "")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main([*ARGV.split(), "--out", str(tmp_path / "command")]) == 0
    for other in (tmp_path / "thread", tmp_path / "command"):
        assert same(folder, other)
        theirs = read_metrics(other)
        assert [name for name in record if record[name] != theirs[name]] in ([], ["seconds"])
        assert list(record) == list(theirs)
        assert read_recipe(other) == RECIPE
    assert record == read_metrics(folder) and found == [read_metrics(tmp_path / "thread")]
    assert {*os.listdir(tmp_path / "command")} - {*os.listdir(folder)} == {"curves.png", "predictions.png"}
    assert record["options"] == RECIPE.options() and len(record["history"]["loss"]) == STEPS


def test_an_observer_is_told_everything_in_order(tmp_path):
    observer = Broken()
    assert run(RECIPE, tmp_path / "run", observer) is not None
    once = list(dict.fromkeys(reversed(observer.seen)))[::-1]  # by when it was last told
    assert once == [name for name in EVENTS if name not in NEVER]
    count = {name: observer.seen.count(name) for name in once}
    assert count["stepped"] == count["stop_asked"] == STEPS and count["ended_epoch"] == 3 and count["found"] == 5


OFTEN = [("checked", 1), ("ready", 1), ("stepped", 6), ("stop_asked", 4), ("predicted", 1)]
RARELY = [(name, 1) for name in EVENTS if name not in NEVER and (name, 1) not in OFTEN]


@pytest.mark.parametrize(("event", "at"), [*OFTEN, *(pytest.param(*one, marks=pytest.mark.thorough) for one in RARELY)])
def test_an_observer_that_fails_loses_no_work(event, at, whole, tmp_path):
    """The sixth step ends an epoch: what dev says of it is in the record all the same."""
    folder, observer = tmp_path / "run", Broken(event, at)
    with pytest.raises(RuntimeError, match=f"broken at {event}"):
        run(RECIPE, folder, observer)
    taken = observer.seen.count("stepped")
    if event in ("loaded", "checked"):
        assert not folder.exists()
    elif event != "finished":
        assert (folder / "checkpoint.safetensors").exists() == (taken > 0)
        steps = Broken()
        run(read_recipe(folder), folder, steps, resume=True)
        assert steps.seen.count("stepped") == STEPS - taken  # none was lost
    if folder.exists():
        assert same(folder, whole[0]) and read_metrics(folder)["history"] == whole[1]["history"]


class Stops(Observer):
    def __init__(self, after):
        self.after, self.steps, self.at = after, 0, None

    @contextlib.contextmanager
    def training(self, training):
        yield
        assert self.at == self.after  # the context lasts until the run has stopped

    def stepped(self, step):
        self.steps += 1

    def stop_asked(self):
        return self.steps >= self.after

    def stopped(self, training):
        self.at = training.done


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(whole, tmp_path):
    folder = tmp_path / "run"
    assert run(RECIPE, folder, Stops(4)) is None
    assert sorted(os.listdir(folder)) == ["checkpoint.safetensors", "run.json"]
    other = {**json.loads((folder / "run.json").read_text()), "lr": 0.5}
    with pytest.raises(ValueError, match="lr = 0.005, but here it is 0.5"):
        run(Recipe(**{**RECIPE.options(), "lr": other["lr"]}), folder, resume=True)
    with pytest.raises(ValueError, match="holds a run already; choose another folder, or go on with it by resume"):
        run(RECIPE, folder)
    record = run(RECIPE, folder, resume=True)
    assert same(folder, whole[0]) and record["history"] == whole[1]["history"]
    with pytest.raises(ValueError, match="complete; there is nothing to resume"):
        run(RECIPE, folder, resume=True)


def test_experiments_load_no_command_no_bar_and_no_figures():
    code = (
        "import sys, lora_np.experiments; print([m for m in ('tqdm', 'matplotlib', 'lora_np.cli') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_benchmark_imports_a_command():
    """What they measure is in the rooms below; a command only shows it."""
    for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                whole = [f"{getattr(node, 'module', '')}.{alias.name}".strip(".") for alias in node.names]
                assert not [name for name in whole if name.startswith("lora_np.cli")], path.name


def test_a_run_is_resumed_with_other_threads_to_the_same_bits(tmp_path):
    """The shares are the run's, in run.json; the threads are the machine's."""
    recipe = dataclasses.replace(RECIPE, shares=3, workers=1)

    class Stop(Observer):
        def stop_asked(self):
            return True

    run(recipe, tmp_path / "one")
    assert run(recipe, tmp_path / "two", Stop()) is None
    kept = read_recipe(tmp_path / "two")
    assert (kept.shares, kept.workers) == (3, 1)
    run(dataclasses.replace(kept, workers=2), tmp_path / "two", resume=True)
    files = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_the_way_of_a_number_from_the_command_line_to_the_optimiser_is_short_and_leads_down(tmp_path, monkeypatch):
    """`--lr` passes main, finetune, run, its loop over the steps and the training; then AdamW steps by it."""
    ways, right, package = [], AdamW.step, Path(inspect.getfile(Recipe)).parents[1]

    def step(*given):
        files = [Path(frame.filename) for frame in inspect.stack(context=0)]
        ways.append([file.relative_to(package).parts[0] for file in reversed(files) if package in file.parents])
        right(*given)

    monkeypatch.setattr(AdamW, "step", step)
    assert main([*ARGV.split(), "--lr", "0.001", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert ways == 3 * [["cli", "cli", "experiments", "experiments", "train"]]
