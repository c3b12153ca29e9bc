"""The same number of threads for every library."""

from __future__ import annotations

import os
import sys

VARIABLES = (
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker process; these are read once, when a library is loaded."""
    return os.environ | dict.fromkeys(VARIABLES, str(threads))


def limit_threads(threads: int) -> None:
    """Set what is set from inside, in the libraries that are loaded."""
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "itk" in sys.modules:
        itk = sys.modules["itk"]
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)
