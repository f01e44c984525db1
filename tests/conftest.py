"""One BLAS thread a process, before NumPy is loaded: the tests run on all cores already (pytest-xdist)."""

import os
from collections import defaultdict

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, help="at most so many cases of each test, spread over all of them")


def pytest_collection_modifyitems(config, items):
    most, cases = config.getoption("--cases"), defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    kept = {item for found in cases.values() for item in found[:: -(-len(found) // (most or len(found)))]}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
