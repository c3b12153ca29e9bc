"""Run a plan of tasks on Dask: threads of this process, or a cluster by its address.

A task is a call whose result is small, because what it makes it writes to disk (see
:mod:`~napari_stnreg.stacks.runtime.checkpoint`). So memory does not grow with the number of tasks, whatever is done can be done
again without harm, and a task that was lost with its worker is simply given to another.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from napari_stnreg.core.errors import FitError, InputError

PATIENCE = 20
"""Seconds to wait for a scheduler's answer."""
_BATCH = 16
"""Tasks of a batch for each thread; between two batches the threads wait for the last of the first."""


@dataclass(frozen=True)
class Task:
    """A call with a name; the tasks of one plan do not need each other, so that any may be made first."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class Executor(Protocol):
    """Runs plans."""

    workers: int

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """Make the calls of a plan, about in its order; yields names and results as they end.

        The plan is read no further than is needed to keep the workers busy. Closing the iterator drops what was not
        begun; threads are waited for.
        """

    def close(self) -> None:
        """Let go of the workers."""


def make_executor(scheduler: str = "threads", workers: int | None = None) -> Executor:
    """The executor that ``--scheduler`` names.

    Parameters
    ----------
    scheduler
        ``"threads"``, or the address of a ``dask.distributed`` scheduler, such as ``tcp://10.0.0.1:8786``.
    workers
        At most this many tasks at a time; all that the machine or the cluster has, if not given.

    Raises
    ------
    InputError
        If there is no such scheduler, or ``distributed`` is not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers can do nothing; give at least 1.")
    if scheduler in ("", "threads"):
        return Threads(workers or available_cores())
    if "://" not in scheduler:
        raise InputError(f"There is no scheduler '{scheduler}'; give 'threads' or an address such as tcp://host:8786.")
    return Cluster(scheduler, workers)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Dask's threaded scheduler, a batch of the plan at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """See :meth:`Executor.run`."""
        import torch

        before, plan = torch.get_num_threads(), iter(tasks)
        try:
            while batch := list(islice(plan, _BATCH * self.workers)):
                yield from self._run_batch(batch)
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Nothing is kept between two runs."""

    def _run_batch(self, batch: list[Task]) -> Iterator[tuple[str, Any]]:
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        dropped = threading.Event()

        def report(task: Task) -> None:
            if not dropped.is_set():
                ended.put((task.name, single_threaded(task.function, *task.arguments)))

        def compute() -> None:
            try:
                from dask.base import compute as run_all
                from dask.delayed import delayed

                calls = [delayed(report, pure=False)(task, dask_key_name=task.name) for task in batch]
                run_all(*calls, scheduler="threads", num_workers=self.workers)
            except BaseException as error:
                ended.put(error)

        helper = threading.Thread(target=compute, name="stnreg-tasks", daemon=True)
        helper.start()
        try:
            for _ in batch:
                one = ended.get()
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            dropped.set()
            helper.join()


class Cluster:
    """A ``dask.distributed`` cluster, which must see the same files under the same names as this process."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        try:
            import distributed
        except ImportError as error:
            raise InputError(
                "A cluster needs the package 'distributed'; install napari-stnreg[cluster], or use threads."
            ) from error
        try:
            self._client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"No Dask scheduler answers at '{address}'; start one, or use threads.") from error
        threads = sum(self._client.nthreads().values())
        if not threads:
            self._client.close()
            raise InputError(f"The Dask scheduler at '{address}' has no workers; start some, or use threads.")
        self.workers = min(workers or threads, threads)

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """See :meth:`Executor.run`."""
        import distributed

        plan = iter(tasks)
        running: dict[Any, str] = {}
        ended = distributed.as_completed(loop=self._client.loop)
        try:
            while True:
                # Twice as many as there are threads: a worker has the next task at hand when it ends one.
                for task in islice(plan, max(2 * self.workers - len(running), 0)):
                    key = f"{task.name}-{os.urandom(6).hex()}"
                    call = (single_threaded, task.function, *task.arguments)
                    future = self._client.submit(*call, key=key, pure=False)
                    running[future] = task.name
                    ended.add(future)
                if not running:
                    return
                future = next(ended)
                name = running.pop(future)
                yield name, self._result(future, name)
        finally:
            self._client.cancel(list(running))

    @staticmethod
    def _result(future: Any, name: str) -> Any:
        import distributed

        try:
            return future.result()
        except distributed.KilledWorker as error:
            raise FitError(
                f"The workers of the cluster died at '{name}', one after the other; they may have too little memory."
            ) from error
        finally:
            future.release()

    def close(self) -> None:
        """Leave the cluster; it goes on."""
        self._client.close()


def single_threaded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with torch kept to one thread.

    There are as many tasks at a time as cores, and sums come out the same to the last bit however many that is.
    """
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return function(*arguments)
