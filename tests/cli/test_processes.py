"""Real processes: signals at any moment, closed and full streams, two at once in one folder, kills."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from lora_np.cli.interrupt import Interrupt

QUICK = ["--epochs", "2", "--r", "2", "--data", "digits-rotated"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and shells")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start(*argv, code=None):
    words = ["-m", "lora_np"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *words, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def shell(line, **options):
    words = f"{shlex.quote(sys.executable)} -m lora_np {line}"
    return subprocess.run(["sh", "-c", words], capture_output=True, text=True, **options)


def read_until(process, word):
    for text in process.stdout:
        if word in text:
            return
    raise AssertionError(f"{word!r} was never printed: {process.stderr.read()}")


@posix
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.thorough),
        pytest.param("SIGINT", 130, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_saves_the_work_even_if_it_comes_twice(name, code, tmp_path):
    """`timeout` and container runtimes send SIGTERM, some of them twice; it ended the run and lost the work."""
    process = start("finetune", *QUICK, "--epochs", "12", "--out", "run")  # few enough that each epoch is a line
    read_until(process, "epoch 1")
    for _ in range(2):
        process.send_signal(getattr(signal, name))
    out, err = process.communicate()
    assert process.returncode == code and err == ""
    assert "all work is saved" in out and "python -m lora_np finetune --resume run" in out
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors", "run.json"]


@posix
def test_sigterm_before_the_first_step_is_one_line_and_leaves_nothing_half_written(tmp_path):
    process = start("finetune", *QUICK, "--epochs", "60", "--out", "run")
    read_until(process, "trained")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode in (0, 143) and "Traceback" not in err
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@posix
def test_ctrl_c_while_modules_are_loaded_is_one_line():
    """It ended with a traceback out of NumPy. The module is held up in its first import, to hit that moment."""
    hold = "import sys, time, types, builtins\nright = builtins.__import__\n"
    hold += "def slow(name, *rest, **more):\n"
    hold += "    if name == 'lora_np.cli.commands': print('now', flush=True); time.sleep(30)\n"
    hold += "    return right(name, *rest, **more)\nbuiltins.__import__ = slow\nfrom lora_np.__main__ import run\nrun()"
    process = start("info", "digits", code=hold)
    read_until(process, "now")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "\nlora_np: stopped.\n")


@posix
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("info digits >&-", 2, "standard output is closed"),
        ("finetune >&-", 2, "standard output is closed"),
        ("info digits >&- 2>&-", 2, ""),
        ("info digits 2>&- >shown", 0, ""),
        ("info nowhere 2>&- >shown", 2, ""),
        ("finetune --epochs 1 --data digits-rotated --out run 2>&- >shown", 0, ""),
        ("info digits >/dev/full", 2, "standard output cannot be written: No space left on device"),
    ],
)
def test_streams_that_are_closed_or_full(line, code, said):
    if "full" in line and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    done = shell(line)
    assert done.returncode == code and done.stdout == ""
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == bool(said), done.stderr


@posix
def test_standard_input_that_is_closed(classifier):
    done = shell(f"predict --model {shlex.quote(str(classifier))} --file - <&-")
    assert done.returncode == 2 and "standard input is closed" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_json_is_valid_whatever_standard_output_can_show(encoding, classifier):
    """It held Python's escapes for what the terminal lacks, such as \\xe9, which JSON does not know."""
    texts = ["caf\u00e9 good", "\u4f60\u597d \U0001f600 good", "bad \u2028 \x85 plot"]
    done = subprocess.run(
        [sys.executable, "-m", "lora_np", "predict", "--model", str(classifier), "--json", *texts],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert [json.loads(line)["text"] for line in shown.splitlines()] == texts
    assert ("\u00e9" in shown) == (encoding != "ascii") and ("\u4f60" in shown) == (encoding == "utf-8")


def run_and_wait(*processes):
    return [(process, *process.communicate()) for process in processes]


def test_of_two_new_runs_in_one_folder_one_is_refused(tmp_path):
    """Both ended well, and the numbers that the first one printed were not those of the files."""
    both = [start("finetune", *QUICK, "--seed", seed, "--out", "a/run") for seed in "12"]
    ended = sorted(run_and_wait(*both), key=lambda one: one[0].returncode)
    assert [process.returncode for process, _, _ in ended] == [0, 2]
    refused = ended[1][2]
    assert "another process is at work in a" in refused or "holds a run already" in refused
    record = json.loads((tmp_path / "a/run/metrics.json").read_text())
    assert ended[0][0] is both[record["options"]["seed"] - 1]
    assert not [name for name in os.listdir("a/run") if name.startswith(".")]


@posix
@pytest.mark.thorough
def test_a_killed_run_can_be_resumed_but_not_twice_at_once(tmp_path):
    """The lock of a process that was killed is gone; what it had half written is swept away."""
    code = "from lora_np.cli import commands; from lora_np.experiments import record;"
    code += "record.SAVE_EVERY = 0.0; commands.main()"
    options = ["--r", "2", "--epochs", "8", "--data", "digits-rotated", "--out"]
    process = start("finetune", *options, "run", code=code)
    read_until(process, "epoch 1")
    refused = start("finetune", "--resume", "run")
    assert "another process is at work in run" in refused.communicate()[1] and refused.returncode == 2
    process.kill()
    process.communicate()
    left = tmp_path / "run" / ".checkpoint.safetensors.abcd1234.part"
    left.write_bytes(b"half")
    both = [start("finetune", "--resume", "run") for _ in range(2)]
    codes = sorted(process.returncode for process, _, _ in run_and_wait(*both))
    assert codes == [0, 2]
    whole = start("finetune", *options, "whole")
    assert whole.communicate()[1] == "" and whole.returncode == 0
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "whole"))
    assert all(np.array_equal(one[key], other[key]) for key in one)
    assert not [name for name in os.listdir("run") if name.startswith(".")]


@posix
@pytest.mark.thorough
def test_a_reader_that_leaves_does_not_lose_the_work(tmp_path):
    process = start("finetune", *QUICK, "--epochs", "12", "--out", "run")
    read_until(process, "epoch 1")
    process.stdout.close()
    assert process.wait() == 1 and process.stderr.read() == ""
    process.stderr.close()
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", "numpy") as file:
        assert int(file.metadata()["step"]) == 2 * 16  # where the line that nobody reads was to be printed


@posix
def test_a_second_ctrl_c_ends_the_program_unless_it_is_the_first_one_again():
    """Wrappers pass on what the terminal has sent already, so a signal often comes twice."""
    with Interrupt() as interrupt:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        assert interrupt.asked == signal.SIGINT
        interrupt.since -= 2.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)
