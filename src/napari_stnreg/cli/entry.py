"""From the words of a command line to an exit code."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from napari_stnreg.cli.options import make_parser
from napari_stnreg.core.errors import FitError, RegistrationError

GOOD, FAILED, BAD_INPUT, ABORTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after ``stnreg``; those of this process if not given.

    Returns
    -------
    int
        0 when all went well (also when the fit was stopped by hand), 2 when something given cannot be used, 1 for
        every other failure, 130 when aborted.
    """
    options = make_parser().parse_args(arguments)
    try:
        _run(options)
    except KeyboardInterrupt:
        return _failed(options, "aborted.", ABORTED)
    except FitError as error:
        return _failed(options, str(error), FAILED)
    except RegistrationError as error:
        return _failed(options, str(error), BAD_INPUT)
    except MemoryError:
        return _failed(options, "there is not enough memory; crop or shrink the images first.", FAILED)
    except Exception as error:
        return _failed(options, f"{type(error).__name__}: {error} (--debug shows where)", FAILED)
    return GOOD


def _run(options: argparse.Namespace) -> None:
    # Each command lives in the module of its name, imported only now: most of them bring torch.
    import_module(f"napari_stnreg.cli.{options.command.replace('-', '_')}").run(options)


def _failed(options: argparse.Namespace, text: str, code: int) -> int:
    if options.debug:
        traceback.print_exc()
    print(f"stnreg {options.command}: {text}", file=sys.stderr)
    return code
