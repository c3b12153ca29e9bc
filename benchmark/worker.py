"""One method on one set, in a process of its own: ``python -m benchmark.worker`` (started by the benchmark).

ITK, ANTs and torch each bring their own OpenMP and thread pools and do not live well in one process; a crash of one
must not end the run either. The result is one JSON line for each pair, so that what was done before a crash is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmark.data import Array, Pair, load_pairs
from benchmark.memory import peak_mb
from benchmark.peers import Method, make_method
from benchmark.scoring import score
from benchmark.threads import limit_threads


def made_pair(ndim: int) -> tuple[Array, Array]:
    """A small made pair for the untimed first call."""
    noise = np.random.default_rng(0).standard_normal((96, 96) if ndim == 2 else (48, 48, 48))
    fixed = ndimage.gaussian_filter(noise, 4)
    fixed = (128 + 40 * fixed / fixed.std()).clip(0, 255)
    return fixed.astype(np.uint8), np.roll(fixed, 2, axis=0).astype(np.uint8)


def unmoved(pair: Pair) -> Array:
    """The displacement of nothing, for a pair that failed."""
    return np.zeros((len(pair.shape), *pair.shape))


def measure(method: Method, name: str, folder: Path, split: str, count: int, threads: int) -> Iterator[dict[str, Any]]:
    """A row for each pair: how long it took, how good it is."""
    warm = False
    for pair in load_pairs(name, folder, split, count):
        if not warm:
            # On the GPU the first call at the real size finds its kernels and memory; elsewhere a small one will do.
            sample = (pair.fixed, pair.moving) if name == "gpu" else made_pair(len(pair.shape))
            method.field(method.fit(*sample))
            limit_threads(threads)  # again: the libraries were loaded by this first call
            warm = True
        row: dict[str, Any] = {"pair": pair.name}
        try:
            start, start_cpu = time.perf_counter(), time.process_time()
            fit = method.fit(pair.fixed, pair.moving)
            row["seconds"], row["cpu_seconds"] = time.perf_counter() - start, time.process_time() - start_cpu
            row |= score(pair, method.field(fit))
        except Exception as error:  # a pair that fails is a row that says so, not the end of the run
            row |= {key: value for key, value in score(pair, unmoved(pair)).items() if "before" in key}
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
            traceback.print_exc()
        yield row


@contextlib.contextmanager
def only_rows_on_stdout() -> Iterator[Callable[[str], None]]:
    """Give a function that writes to standard output, and send what libraries print there to standard error."""
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with kept:
        yield lambda line: print(line, file=kept)


def main() -> None:
    """Measure what the command line names and print a JSON line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--method", "--set", "--split"):
        parser.add_argument(option, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    with only_rows_on_stdout() as write:
        limit_threads(options.threads)
        method = make_method(options.method, options.set, options.threads)
        for row in measure(method, options.set, options.data, options.split, options.pairs, options.threads):
            write(json.dumps({"set": options.set, "method": options.method, **row, "peak_mb": round(peak_mb())}))


if __name__ == "__main__":
    main()
