"""The shares of a batch on several cores of one machine: threads, of which each takes one share after another.

NumPy lets go of Python's lock inside its loops and matrix products, so threads run side by side. Each wants its
products on one core then (`threadpoolctl` tells the BLAS library so); a share has one BLAS thread even if it is alone,
so that its bits are the same however many threads there are. Nodes keep no activations, so one model serves all.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lora_np.files import package
from lora_np.train.backends import here


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers):
    """Yield a backend on that many threads, whose calls have one BLAS thread each.

    With `spread`, a call that is alone has as many BLAS threads as there are workers: a single sentence to predict.
    """
    try:
        blas = package("threadpoolctl", "a run on several cores (workers)").ThreadpoolController()
    except ValueError:
        if workers > 1:
            raise
        yield here
        return
    with ThreadPoolExecutor(workers) as pool:

        def run(function, items, spread=False):
            items = list(items)
            alone = len(items) == 1
            with blas.limit(limits=workers if alone and spread else 1, user_api="blas"):
                return list((map if alone or workers == 1 else pool.map)(function, items))

        yield run
