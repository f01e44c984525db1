"""Killed at any moment: a run that was resumed ends with the bits of an unbroken one, an adapter on disk is the old one
or the new one, and nothing is left lying about."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from fuzz import killed, valid
from fuzz.oracle import SEED, attempt
from safetensors import safe_open
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.adapt.lora import LoRALinear
from lora_np.model.tree import walk

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals to child processes"),
]
OPTIONS = ["--epochs", "4", "--r", "1", "--batch-size", "100", "--data", "digits-rotated", "--workers", "1"]
STEPS = 40
KILLS, TERMS = 20, 10


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """Return a function that runs a child of killed.py: (its exit code, -signal if it was killed; what it printed)."""
    shown = tmp_path_factory.mktemp("shown") / "shown"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, killed.__file__], env=environment, **pipes) as server:

        def run(signum, count, what, *arguments, cwd):
            shown.write_text("")
            order = str(cwd), str(shown), [str(word) for word in (int(signum), count, what, *arguments)]
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            code, text = int(server.stdout.readline()), shown.read_text()
            assert "Traceback" not in text, text
            return code, text

        yield run


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def same_result(one, other):
    """Return in what two runs differ, or None."""
    if files_of(one) != files_of(other):
        return f"the files: {sorted(set(files_of(one)) ^ set(files_of(other)))}"
    mine, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    if mine.keys() != theirs.keys() or any(mine[key].tobytes() != theirs[key].tobytes() for key in mine):
        return "the adapter"
    mine, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, other))
    different = [key for key in mine if key != "seconds" and mine[key] != theirs.get(key)]
    return f"metrics.json: {different}" if different else None


@pytest.fixture(scope="module")
def unbroken(child, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    code, shown = child(signal.SIGKILL, 0, "finetune", "run", 10, *OPTIONS, "--out", "run", cwd=folder)
    assert code == 0, shown
    return folder / "run"


def steps_saved(folder):
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "numpy") as file:
        return int(file.metadata()["step"])


def going_on(folder):
    """Return the arguments that begin a run in the folder, or go on with the one that is there."""
    return ["--resume", "run"] if (folder / "run.json").exists() else [*OPTIONS, "--out", "run"]


def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(child, unbroken, tmp_path):
    rng, folder, kills = np.random.default_rng([SEED, 1]), tmp_path / "run", 0
    for _ in range(KILLS):
        if (folder / "metrics.json").exists():
            break  # too far: the rest of the moments come after the end
        # Few events between two kills, so that the run is in work at all of them; the first ones meet an empty folder.
        count = int(rng.integers(1, 25))
        code, shown = child(signal.SIGKILL, count, "finetune", "run", 0.0, *going_on(folder), cwd=tmp_path)
        assert code in (-signal.SIGKILL, 0), shown
        kills += code == -signal.SIGKILL
        assert steps_saved(folder) <= STEPS
    assert kills >= KILLS * 3 // 4
    code, shown = child(signal.SIGKILL, 0, "finetune", "run", 10, *going_on(folder), cwd=tmp_path)
    assert code == 0 or "complete" in shown, shown
    assert same_result(folder, unbroken) is None


def test_kills_while_the_results_are_written(child, unbroken, tmp_path):
    """All steps are saved; a kill at each ninth event of what comes then."""
    folder, count = tmp_path / "run", 1
    child(signal.SIGKILL, 300, "finetune", "run", 0.0, *going_on(folder), cwd=tmp_path)
    while not (folder / "metrics.json").exists():
        code, shown = child(signal.SIGKILL, count, "finetune", "run", 10, *going_on(folder), cwd=tmp_path)
        assert code in (-signal.SIGKILL, 0), shown
        count += 9
    if files_of(folder) != files_of(unbroken):  # complete but for the sweeping
        code, shown = child(signal.SIGKILL, 0, "finetune", "run", 10, "--resume", "run", cwd=tmp_path)
        assert "complete" in shown
    assert same_result(folder, unbroken) is None


def test_a_run_that_is_asked_to_end_saves_its_work_each_time(child, unbroken, tmp_path):
    """SIGTERM is what a computer sends that shuts down: no step is lost, though the next checkpoint was far away."""
    rng, folder, done = np.random.default_rng([SEED, 2]), tmp_path / "run", 0
    for _ in range(TERMS):
        steps = int(rng.integers(1, 4))
        code, shown = child(signal.SIGTERM, steps, "steps", "run", 1e9, *going_on(folder), cwd=tmp_path)
        assert code in (130, 143), f"exit code {code}: {shown}"
        assert "--resume" in shown
        assert steps_saved(folder) == done + steps
        done = steps_saved(folder)
    code, shown = child(signal.SIGKILL, 0, "finetune", "run", 10, *going_on(folder), cwd=tmp_path)
    assert code == 0, shown
    assert same_result(folder, unbroken) is None


def described(model):
    """Return all that an adapter's files tell."""
    scales = [node.scale for _, node in walk(model) if isinstance(node, LoRALinear)]
    arrays = {name: array.tobytes() for name, array in lnp.parameters(model).items()}
    return scales, arrays, getattr(model.head, "pooling", None), model.config.get("id2label")


@pytest.mark.parametrize(("name", "other"), [("gpt", 2), ("bert", 1), ("bert", 3)])  # without and with a head of ours
def test_an_adapter_that_is_saved_over_another_is_the_old_one_or_the_new_one(child, name, other, tmp_path):
    """Killed at each event of the writing, one after the other. The folder may be refused in between, never misread."""
    base, folder = valid.model(tmp_path, name), tmp_path / "adapter"
    targets = ["c_attn"] if name == "gpt" else ["query"]
    loaded = lnp.load_pretrained(base)
    known, code, count = [], -signal.SIGKILL, 0
    for which in (0, other):
        lnp.save_adapter(killed.adapted(loaded, which, targets), tmp_path / f"as {which}", str(base))
        known.append(described(lnp.load_adapter(loaded, tmp_path / f"as {which}")))
    assert known[0] != known[1]
    states, refused = [], 0
    while code == -signal.SIGKILL:
        count += 1
        shutil.copytree(tmp_path / "as 0", folder, dirs_exist_ok=True)
        code, shown = child(signal.SIGKILL, count, "save", folder, base, other, *targets, cwd=tmp_path)
        found, findings = attempt(lambda: lnp.load_adapter(loaded, folder), folder)
        assert findings == []
        refused += found is None
        assert found is None or described(found) in known, f"a mixture, after event {count}"
        states.append(found is not None and known.index(described(found)))
    assert code == 0 and count > 5, shown
    assert states[-1] == 1
    # What the killed ones had left is gone.
    assert files_of(folder) == files_of(tmp_path / f"as {other}")
    print(f"{count - 1} kills; refused {refused} times")
