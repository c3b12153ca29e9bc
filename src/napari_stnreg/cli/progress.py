"""Progress on the command line, and Ctrl+C that keeps what is done."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from napari_stnreg.io.file_content import FileContent

PROGRESS = 25
"""Log level of progress lines and notes, between INFO and WARNING."""

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is printed where the error stream is not a terminal."""

_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

logger = logging.getLogger("napari_stnreg.cli")


def log_placement(*images: FileContent | None) -> None:
    """Print what readers found about the position of images."""
    from napari_stnreg.core.image import placement_notes

    for image in images:
        for note in [] if image is None else placement_notes(image.metadata):
            logger.log(PROGRESS, "%s", note)


class Interrupt:
    """Handle Ctrl+C: the first one sets :attr:`requested`, the second raises ``KeyboardInterrupt``."""

    def __init__(self, answer: str = "Stopping. The best result so far is kept. Press Ctrl+C again to abort.") -> None:
        self.requested, self._answer = False, answer
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # signals reach no other thread
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Written past Python's buffers, which may be in use right now.
        os.write(2, f"\n{self._answer}\n".encode())


class ProgressDisplay:
    """A progress bar on a terminal, and periodic plain lines elsewhere.

    Parameters
    ----------
    total
        Amount of work, in any unit.
    description
        What is being done.
    unit
        Name of one unit of work, if the bar shall count them.
    """

    def __init__(self, total: float, description: str = "", unit: str | None = None) -> None:
        from tqdm import tqdm

        width, height = shutil.get_terminal_size()  # tqdm shows nothing where a terminal reports no size
        self.is_terminal = sys.stderr.isatty() and logger.isEnabledFor(PROGRESS)
        self.total, self.position = total, 0.0
        self._bar: tqdm[None] = tqdm(
            total=total, disable=not self.is_terminal, file=sys.stderr, ncols=width, nrows=height, desc=description,
            bar_format=None if unit else _BAR_FORMAT, unit=unit or "it",
        )  # fmt: skip
        self._last_line = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, position: float, total: float, description: str, details: str = "") -> None:
        """Show where the work is."""
        self.position, self.total = position, total
        self._bar.total = total
        self._bar.set_description(description, refresh=False)
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.update(position - self._bar.n)
        if not self.is_terminal and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            percent = f"{100 * position / total:.0f} %" if total else ""
            logger.log(PROGRESS, "%s", ", ".join(part for part in (description, percent, details) if part))

    def complete(self) -> None:
        """Move the bar to its end."""
        self._bar.update(self.total - self._bar.n)

    def write(self, line: str) -> None:
        """Print a line to the standard output without breaking the bar."""
        self._bar.write(line, file=sys.stdout)
