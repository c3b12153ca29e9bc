"""Long work on the command line: a progress bar where there is a terminal, and Ctrl+C that keeps what is done."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class Interrupt:
    """Ctrl+C while something runs: the first one is remembered in :attr:`asked` and answered, the second aborts."""

    def __init__(self, answer: str = "Stopping: the best so far is kept. Ctrl+C again aborts.") -> None:
        self.asked, self._answer = False, answer
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # Written past Python's buffers, which may be in use right now.
        os.write(2, f"\n{self._answer}\n".encode())


def progress_bar(total: float, description: str = "", *, layout: str | None = _FORMAT, unit: str = "it") -> tqdm[None]:
    """A bar on the error stream; it shows nothing where that is no terminal."""
    width, height = shutil.get_terminal_size()  # where a terminal says it has no size, tqdm would show nothing
    quiet = not sys.stderr.isatty()
    return tqdm(total=total, disable=quiet, file=sys.stderr, ncols=width, nrows=height, desc=description,
                bar_format=layout, unit=unit)  # fmt: skip


def show(bar: Any, at: float, total: float, description: str, figures: str = "") -> None:
    """Move the bar to where the work is."""
    bar.total = total
    bar.set_description(description, refresh=False)
    bar.set_postfix_str(figures, refresh=False)
    bar.update(at - bar.n)
