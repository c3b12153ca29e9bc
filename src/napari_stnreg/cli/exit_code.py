"""Exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``stnreg``."""

    SUCCESS = 0
    ERROR = 1
    """The work failed."""
    BAD_INPUT = 2
    """An argument, a file or a setting cannot be used. Nothing was written."""
    FAILED_VERDICT = 3
    """The results were written, but a registration is judged as failed; ``--accept`` makes this a success."""
    INTERRUPTED = 130
    """Ctrl+C. What was finished before is kept."""
