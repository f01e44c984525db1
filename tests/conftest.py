"""One BLAS thread a process, before NumPy is loaded: the tests run on all cores already (pytest-xdist)."""

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")
