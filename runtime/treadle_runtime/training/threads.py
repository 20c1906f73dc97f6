"""How many threads native libraries may use: the model's configuration decides, never the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

# Libraries read these when they are loaded, and scikit-learn's OpenMP code in every call: without
# OMP_NUM_THREADS it takes the lower of the limit and the machine's cores.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Let OpenMP and BLAS use `n` threads inside the block; what was set before comes back afterwards."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, str(n)))
    try:
        with threadpool_limits(limits=n):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
