"""Compute devices, their free memory, and torch's number of threads.

torch is imported inside the functions that need it, so that a panel can query the CPU's memory before torch is loaded.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.memory import free_system_memory

if TYPE_CHECKING:
    import torch
    from threadpoolctl import LibController


def pick_device(name: str) -> torch.device:
    """Return the torch device for a setting.

    Parameters
    ----------
    name
        ``"auto"`` (CUDA, then MPS, then the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:0"`` or ``"mps"``.

    Raises
    ------
    InputError
        If the name is unknown or this machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"'{name}' is not a device. Use auto, cpu, cuda, cuda:0 or mps.") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"The device '{name}' was not found. Use auto or cpu.")
    return device


def available_devices() -> list[tuple[str, str]]:
    """List the devices of this machine as ``(name for the settings, text for the user)``, the CPU first."""
    import torch

    threads = torch.get_num_threads()
    devices = [("cpu", f"CPU, {threads} thread{'s' if threads > 1 else ''}")]
    devices += [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU"))
    return devices


def free_memory(device: str) -> int:
    """Return the free memory in bytes of a device such as ``"cpu"`` or ``"cuda:0"``; the CPU needs no torch.

    For the CPU the limits of an enclosing container count.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return free_system_memory()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception reports exhausted memory; only CUDA has an exception class for it."""
    import torch

    text = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text or "out of memory" in text
    )


@cache
def _thread_pools() -> list[LibController]:
    """Return the OpenMP libraries of this process; torch must have been imported."""
    from threadpoolctl import ThreadpoolController

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "openmp"]


class _BlasLimit:
    """Number of blocks that limit BLAS, and the threads that it had before."""

    lock = threading.Lock()
    blocks = 0
    before: ClassVar[list[tuple[LibController, int]]] = []


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit the BLAS libraries of this process to one thread inside the block; blocks may overlap.

    Products of small matrices gain nothing from more threads, but these wait for work in a busy loop. Unlike those of
    OpenMP, the threads of BLAS belong to the whole process.
    """
    from threadpoolctl import ThreadpoolController

    with _BlasLimit.lock:
        if not _BlasLimit.blocks:
            found = [one for one in ThreadpoolController().lib_controllers if one.user_api == "blas"]
            _BlasLimit.before = [(one, one.num_threads) for one in found]
            for library, _ in _BlasLimit.before:
                library.set_num_threads(1)
        _BlasLimit.blocks += 1
    try:
        yield
    finally:
        with _BlasLimit.lock:
            _BlasLimit.blocks -= 1
            if not _BlasLimit.blocks:
                for library, threads in _BlasLimit.before:
                    library.set_num_threads(threads)


@cache
def _limit_of_mkl() -> Callable[[int], int] | None:
    """Return MKL's function that sets the number of threads of the calling thread and returns the one before.

    MKL is part of torch's own library, where threadpoolctl does not find it. After ``torch.set_num_threads`` it
    follows its own number, no longer that of OpenMP. Builds without MKL have no such function.
    """
    import torch

    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            function = getattr(ctypes.CDLL(str(path)), "MKL_Set_Num_Threads_Local", None)
            return cast("Callable[[int], int] | None", function)
    return None


@contextmanager
def single_thread(enabled: bool = True) -> Iterator[None]:
    """Limit torch to one thread inside the block and restore the previous setting.

    Small images are slower on several threads: waking them for each of thousands of short operations costs more than
    it gains. Only the calling thread is limited: ``torch.set_num_threads`` would also set the number with which other
    threads of the process begin.
    """
    if not enabled:
        yield
        return
    import torch

    torch.get_num_threads()  # a thread's first call sets its number, so it must come before the limit
    before = [(library, library.num_threads) for library in _thread_pools()]
    limit_mkl = _limit_of_mkl()
    for library, _ in before:
        library.set_num_threads(1)
    mkl_before = limit_mkl(1) if limit_mkl else 0
    try:
        yield
    finally:
        for library, threads in before:
            library.set_num_threads(threads)
        if limit_mkl:
            limit_mkl(mkl_before)
