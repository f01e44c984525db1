"""What a step holds, and that a process keeps what it frees."""

import platform
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tiny

import lora_np as lnp
from lora_np.__main__ import run
from lora_np.model.batch import Batch
from lora_np.model.tree import with_arrays
from lora_np.train import memory
from lora_np.train.memory import bytes_by_kind
from lora_np.train.optimisers import AdamW

ROWS = [np.random.default_rng(k).integers(0, 23, 9) for k in range(400)]
FAULTS = """
import resource, threading
import numpy as np
from lora_np.train.memory import keep_freed_memory

if {keep}:
    keep_freed_memory()

def once():  # 150 MB; glibc gives a thread heaps of 64 MB
    return [np.ones(375_000) for _ in range(50)]

def work():
    for k in range(12):
        once()
        if k == 1:
            seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

for run in (work, lambda: (thread := threading.Thread(target=work), thread.start(), thread.join())):
    seen = []
    run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - seen[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc: nothing is told to it")
def test_freed_memory_is_not_asked_for_again():
    def faults(keep):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True)
        return [int(line) for line in done.stdout.split()]  # in the main thread, in another

    pages = 10 * 150_000_000 // 4096
    assert max(faults(False)) > pages / 4  # otherwise there would be nothing to keep
    assert max(faults(True)) < pages / 50


@pytest.mark.parametrize("library", [TypeError("Windows"), object()])
def test_without_glibc_nothing_happens(library, monkeypatch):
    def load(name):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    memory.keep_freed_memory()


def held(model, rows=ROWS, **given):
    return bytes_by_kind(model, AdamW(lnp.parameters(model, trainable_only=True), 1e-3), rows, **given)


def full():
    return lnp.unfreeze(tiny.build("bert mean head", np.float32), "all")


def lora(**given):
    return tiny.adapted("bert mean head", np.float32, **given)


@pytest.mark.parametrize("model", [full(), lora(), lora(dropout=0.2)], ids=["full", "LoRA", "dropout"])
def test_bytes_are_those_that_python_counts(model):
    batch, rng = Batch.of(ROWS), np.random.default_rng(0)
    model.forward(batch, rng)  # what is imported and remembered on the way is not counted
    tracemalloc.start()
    _, cache = model.forward(batch, rng)
    counted = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert cache
    assert held(model)["activations"] == pytest.approx(counted, rel=0.02)


def test_kinds_of_lora_and_of_everything():
    few, all_ = held(lora()), held(full())
    assert all_["weights"] == all_["trained"] == all_["gradients"] == all_["optimiser"] / 2
    assert few["weights"] == all_["weights"] + few["trained"] - sum(
        a.nbytes for a in (full().head.classifier.W, full().head.classifier.b)
    )
    assert few["trained"] < all_["trained"] / 2
    head = held(lnp.unfreeze(tiny.build("bert mean head", np.float32), "head.classifier"))
    assert head["activations"] < 0.75 * all_["activations"]  # a frozen map keeps no input
    assert few["tokens"] == all_["tokens"] == sum(map(len, ROWS))


def test_weights_are_no_activations_though_a_cache_holds_them():
    model, token = full(), [ROWS[0][:1]]
    assert held(model, token)["activations"] < held(model, token)["weights"] / 2
    larger = np.array([model.layer[0].mlp.up.W] * 9)
    view = with_arrays(model, {"layer.0.mlp.up.W": larger[4]})
    assert held(view, token)["activations"] == held(model, token)["activations"]


def test_the_program_keeps_its_memory_and_the_library_does_not_decide(monkeypatch):
    calls, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("lora_np.train.memory.keep_freed_memory", lambda: calls.append("keep"))
    monkeypatch.setattr("lora_np.cli.commands.main", lambda: calls.append("main"))
    with pytest.raises(SystemExit):
        run()
    assert calls == ["keep", "main"] and signal.getsignal(signal.SIGINT) is before


def test_a_piece_holds_its_tokens_alone_and_masks_count():
    whole, piece = held(lora()), held(lora(), max_tokens=900)
    assert piece["tokens"] == 900
    assert piece["activations"] == pytest.approx(whole["activations"] / 4, rel=0.01)
    assert held(lora(dropout=0.2))["activations"] > 1.1 * whole["activations"]
