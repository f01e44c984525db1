"""--keep-best: the epoch with the least loss on dev is the one that is tested and saved, interrupted or not."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_np.experiments import Observer, Recipe, run
from lora_np.experiments import experiment as rooms
from lora_np.train.checkpoints import load_checkpoint

EPOCHS, STEPS = 6, 12


@pytest.fixture(scope="module")
def recipe(place, parts):
    files = {"data": str(parts / "train.tsv"), "dev": str(parts / "dev.csv"), "test": str(parts / "test.jsonl")}
    numbers = {"r": 2, "max_length": 9, "epochs": EPOCHS, "batch_size": 40, "lr": 0.03, "workers": 1, "dropout": 0.1}
    return Recipe(model=str(place / "model"), **files, **numbers, keep_best=True)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Leave out the check of the gradients, which takes most of the time of so small a run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rooms, "checked_gradients", lambda *_: SimpleNamespace(rows=[], max_error=0.0))
        yield


class Sees(Observer):
    """Keeps what is trained after each epoch, and stops after a step."""

    def __init__(self, stop=0):
        self.stop, self.steps, self.states, self.best = stop, 0, [], None

    def stepped(self, step):
        self.steps += 1

    def ended_epoch(self, training, history):
        self.states.append({name: array.copy() for name, array in training.optimiser.parameters.items()})

    def stop_asked(self):
        return self.stop and self.steps >= self.stop

    def found(self, name, value):
        self.best = value if name == "best" else self.best


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(mine, theirs):
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    folder, observer = tmp_path_factory.mktemp("whole") / "run", Sees()
    return folder, run(recipe, folder, observer), observer


def test_what_is_saved_is_the_epoch_of_the_least_loss_on_dev(whole):
    folder, record, observer = whole
    losses = record["history"]["dev_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == len(observer.states) == EPOCHS and 0 < best < EPOCHS - 1, losses
    assert record["best"] == observer.best == {
        "epoch": best + 1, "dev_loss": losses[best], "dev_accuracy": record["history"]["dev"][best][1],
    }  # fmt: skip
    assert record["options"]["keep_best"] is True
    saved = adapter(folder)
    for name, array in observer.states[best].items():
        if not name.startswith("head."):
            _, layer, *_, node, letter = name.split(".")
            key = f"base_model.model.encoder.layer.{layer}.attention.self.{node}.lora_{letter}.weight"
            assert np.array_equal(saved.pop(key), array.T)
    assert not saved


def test_the_bits_of_training_are_those_of_a_run_that_keeps_the_last(whole, recipe, tmp_path):
    record = run(dataclasses.replace(recipe, keep_best=None), tmp_path / "last")
    kept = dict(whole[1]["history"])
    assert kept.pop("dev_loss") and record["history"] == kept and "best" not in record
    assert not same(adapter(tmp_path / "last"), adapter(whole[0]))


def test_equal_losses_keep_the_first():
    assert rooms.best_epoch({"dev_loss": [2.0, 1.0, 1.0]}) == 2


@pytest.mark.parametrize("stop", [1, 5, 9, STEPS - 1])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop, whole, recipe, tmp_path):
    """Before the best epoch had ended, and after; once before there was any."""
    assert run(recipe, tmp_path / "run", Sees(stop)) is None
    record = run(recipe, tmp_path / "run", resume=True)
    assert same(adapter(tmp_path / "run"), adapter(whole[0]))
    assert record["best"] == whole[1]["best"] and record["history"] == whole[1]["history"]
    assert record["after"] == whole[1]["after"]


def test_a_failure_while_results_are_written_loses_nothing(whole, recipe, tmp_path, monkeypatch):
    """The checkpoint of the last step holds the last state, too, and not the best one in its place."""
    with monkeypatch.context() as patched:
        patched.setattr(rooms, "save_adapter", lambda *_: (_ for _ in ()).throw(OSError("no room")))
        with pytest.raises(OSError, match="no room"):
            run(recipe, tmp_path / "run")
    steps = Sees()
    record = run(recipe, tmp_path / "run", steps, resume=True)
    assert steps.steps == 0 and same(adapter(tmp_path / "run"), adapter(whole[0]))
    assert record["history"] == whole[1]["history"]


def test_a_loss_on_dev_that_is_not_finite_is_named_and_the_last_good_state_kept(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "mean_loss", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="the loss on dev is not finite after epoch 1; try a lower learning rate"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_damaged_history_of_losses_is_named(recipe, tmp_path):
    assert run(recipe, tmp_path / "run", Sees(4)) is None
    path, right = tmp_path / "run" / "checkpoint.safetensors", load_checkpoint
    for damage in ([], [float("nan")], "x", None):

        def loaded(*given, damage=damage):
            history = right(*given)
            if damage is None:
                del history["dev_loss"]
                return history
            return {**history, "dev_loss": damage}

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("lora_np.experiments.record.load_checkpoint", loaded)
            with pytest.raises(ValueError, match="the record in .* is damaged; delete that file"):
                run(recipe, tmp_path / "run", resume=True)
    assert path.exists() and json.loads((tmp_path / "run" / "run.json").read_text())["keep_best"] is True
