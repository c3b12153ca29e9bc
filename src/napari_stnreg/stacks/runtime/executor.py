"""Run tasks with Dask: in threads of this process, or on a cluster.

A task returns little, because it writes its result to disk (see :mod:`~napari_stnreg.stacks.runtime.checkpoint`).
Memory therefore does not grow with the number of tasks, tasks can be repeated without harm, and a task that was lost
with its worker is given to another.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from napari_stnreg.core.device import single_blas_thread, single_thread
from napari_stnreg.core.errors import FitError, InputError

SCHEDULER_TIMEOUT_S = 20
"""Seconds to wait for the answer of a scheduler."""
BATCH_PER_WORKER = 16
"""Tasks of a batch for each thread; a batch starts when the one before has ended."""


@dataclass(frozen=True)
class Task:
    """A call with a name; the tasks of one plan are independent of each other."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


class Executor(Protocol):
    """Runs plans of tasks."""

    workers: int

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """Run the tasks of a plan, about in its order; yields names and results as they end.

        The plan is read only as far as needed to keep the workers busy. Closing the iterator drops tasks that did not
        start and waits for running threads.
        """

    def close(self) -> None:
        """Release the workers."""


def make_executor(scheduler: str = "threads", workers: int | None = None) -> Executor:
    """Create the executor for a scheduler.

    Parameters
    ----------
    scheduler
        ``"threads"``, or the address of a ``dask.distributed`` scheduler, such as ``tcp://10.0.0.1:8786``.
    workers
        Number of concurrent tasks; all cores of the machine or the cluster if not given.

    Raises
    ------
    InputError
        If the scheduler does not answer, or ``distributed`` is not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"The number of workers is {workers}. It must be at least 1.")
    if scheduler in ("", "threads"):
        return Threads(workers or available_cores())
    if "://" not in scheduler:
        raise InputError(f"Scheduler '{scheduler}' is unknown. Give 'threads' or an address such as tcp://host:8786.")
    return Cluster(scheduler, workers)


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Threads of this process, one batch of the plan at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """See :meth:`Executor.run`."""
        plan = iter(tasks)
        while batch := list(islice(plan, BATCH_PER_WORKER * self.workers)):
            yield from self._run_batch(batch)

    def close(self) -> None:
        """Do nothing; threads end with their batch."""

    def _run_batch(self, batch: list[Task]) -> Iterator[tuple[str, Any]]:
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        is_closed = threading.Event()

        def report(task: Task) -> None:
            if not is_closed.is_set():
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
            is_closed.set()
            helper.join()


class Cluster:
    """A ``dask.distributed`` cluster that sees the same files under the same paths as this process."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        try:
            import distributed
        except ImportError as error:
            raise InputError(
                "A cluster needs the package 'distributed'. Install napari-stnreg[cluster], or use threads."
            ) from error
        try:
            self._client = distributed.Client(address, timeout=SCHEDULER_TIMEOUT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"No Dask scheduler answers at '{address}'. Start one, or use threads.") from error
        threads = sum(self._client.nthreads().values())
        if not threads:
            self._client.close()
            raise InputError(f"The Dask scheduler at '{address}' has no workers. Start some, or use threads.")
        self.workers = min(workers or threads, threads)

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """See :meth:`Executor.run`."""
        import distributed

        plan = iter(tasks)
        running: dict[Any, str] = {}
        ended = distributed.as_completed(loop=self._client.loop)
        try:
            while True:
                # Two tasks for each thread, so that a worker never waits for the next one.
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
                f"Several workers of the cluster died at task '{name}'. They may have too little memory."
            ) from error
        finally:
            future.release()

    def close(self) -> None:
        """Disconnect from the cluster, which keeps running."""
        self._client.close()


def single_threaded(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with torch and BLAS limited to one thread, so that results do not depend on their number."""
    with single_thread(), single_blas_thread():
        return function(*arguments)
