"""Interleaved measurements: what is compared runs in turn, round after round, in one process."""

import gc
import os
import platform
import re
import statistics
import time
from pathlib import Path

import numpy as np
import threadpoolctl

import lora_np as lnp
from lora_np.train.backends.threads import cores

PAUSE = 0.1  # seconds between two variants: threads of the one before still spin, and would slow the next


def interleaved(variants, rounds, warm=2):
    """Return {name: list of seconds}, an entry a round.

    Parameters
    ----------
    variants : dict of str to callable
        Each is called with the number of the round.
    rounds : int
    warm : int
        Rounds before, which are not counted.
    """
    seconds = {name: [] for name in variants}
    names = list(variants)
    for k in range(-warm, rounds):
        gc.collect()
        for name in names[k % len(names) :] + names[: k % len(names)]:  # nobody always comes behind the same one
            time.sleep(PAUSE)
            started = time.perf_counter()
            variants[name](k)
            if k >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(seconds, base):
    """Return medians in milliseconds, and of each variant the median of its ratios to `base`, with their quartiles."""
    found = {}
    for name, times in seconds.items():
        ratios = sorted(a / b for a, b in zip(times, seconds[base]))
        found[name] = {
            "ms": 1000 * statistics.median(times),
            "ratio": statistics.median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        }
    return found


def machine():
    kernels = [
        f"{lib['internal_api']} {lib.get('version')} {lib.get('architecture')}"
        for lib in threadpoolctl.threadpool_info()
        if lib["user_api"] == "blas"
    ]
    return {
        "processor": processor(),
        "machine": f"{cores()} cores, {platform.machine()}, {platform.system()}",
        "blas": sorted(set(kernels)),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", "not set"),
        "versions": {"lora_np": lnp.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }


def processor():
    """Return the name of the processor; Linux tells family and model, too, as virtual machines hide the name."""
    told = Path("/proc/cpuinfo")
    lines = dict(re.findall(r"^(.+?)\s*: (.*)$", told.read_text(), re.MULTILINE)) if told.exists() else {}
    numbers = [f"{name.split()[-1]} {lines[name]}" for name in ("cpu family", "model") if name in lines]
    return ", ".join([re.sub(r"\(R\)", "", lines.get("model name", platform.processor())), *numbers])
