"""Parse a command line, run one command and return an exit code."""

from __future__ import annotations

import inspect
import logging
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import pydantic
from cyclopts import App, CycloptsError, Group, Parameter

from napari_stnreg import __version__
from napari_stnreg.cli.exit_code import ExitCode
from napari_stnreg.cli.progress import PROGRESS
from napari_stnreg.core.errors import FitError, RegistrationError, RegistrationWarning
from napari_stnreg.core.settings import validation_message
from napari_stnreg.registration.settings import FAMILY_HELP, PRESET_HELP, SIMILARITY_HELP, START_HELP

COMMANDS = {
    "register": "Register one image to another.",
    "register-series": "Register the frames of a movie or a 4D scan.",
    "apply-series": "Warp another channel or labels of a registered series.",
    "apply": "Warp an image or points by one transform or several.",
    "compose": "Compose several transforms into one.",
    "fit-landmarks": "Fit a transform to landmarks and judge every pair.",
    "batch": "Register many pairs of images.",
    "evaluate": "Score a registration before and after.",
    "convert": "Convert a transform to the file format of another program.",
    "train": "Train a network that registers in one pass.",
    "align": "Align a stack of serial sections.",
    "apply-stack": "Apply an alignment to another stack or to points.",
    "export-field": "Write the displacement of every pixel of an aligned stack.",
    "import-model": "Convert the weights of another program's network to a model.",
    "export-model": "Write one pass of a model as ONNX or as a torch program.",
    "import-stack": "Render a stack by the transforms of another program.",
    "export-stack": "Write an aligned stack or its transforms for other programs.",
    "info": "Describe an image, transform or model file.",
}
"""The commands and what each one does. A command is the function of its name in the module of its name."""

invocation: list[str] = []
"""The words of the running command, for one that starts itself again in several processes."""

EPILOGUE = (
    "Exit codes: 0 success, 1 error, 2 input that cannot be used, 3 a registration judged as failed, 130 interrupted."
)

_CHOICES = "\n\n".join(
    f"Choices of --{option}:\n\n" + "\n".join(f"- {name}: {text}" for name, text in texts.items())
    for option, texts in (
        ("family", FAMILY_HELP), ("similarity", SIMILARITY_HELP), ("preset", PRESET_HELP), ("start", START_HELP)
    )
)  # fmt: skip

_GLOBAL = Group("Global options", sort_key=100)

app = App(
    name="stnreg",
    help="Register 2D and 3D images with spatial transformers.",
    version=f"stnreg {__version__}",
    version_flags=["--version"],
    help_epilogue=EPILOGUE,
    default_parameter=Parameter(negative=""),
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _name, _help in COMMANDS.items():
    _module = _name.replace("-", "_")
    app.command(f"napari_stnreg.cli.commands.{_module}:{_module}", name=_name, help=_help)
app.register_install_completion_command(name="install-completion", help="Install tab completion for your shell.")


def load_help(name: str) -> None:
    """Take the whole description of a command and its example from its docstring."""
    command = app[name]
    text = inspect.getdoc(command.default_command) or ""
    description, _, rest = text.partition("\n\nParameters\n")
    example = textwrap.indent(rest.partition("\nExamples\n--------\n")[2], "    ")
    choices = [_CHOICES] if name in ("register", "register-series", "batch") else []
    command.help = description
    command.help_epilogue = "\n\n".join(["Example:", example, *choices, EPILOGUE])


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    verbose: Annotated[bool, Parameter(alias="-v", group=_GLOBAL)] = False,
    quiet: Annotated[bool, Parameter(alias="-q", group=_GLOBAL)] = False,
    debug: Annotated[bool, Parameter(group=_GLOBAL)] = False,
) -> int:
    """Run a command with the global options.

    Parameters
    ----------
    tokens
        The command and its arguments.
    verbose
        Log what the program does.
    quiet
        Print no progress and no notes, only results and errors.
    debug
        Show the traceback of an error.
    """
    if not tokens:
        app.help_print()
        return ExitCode.BAD_INPUT
    level = logging.ERROR if quiet else logging.INFO if verbose else PROGRESS
    command = next((token for token in tokens if token in COMMANDS), "")
    name = f"stnreg {command}".strip()
    with _log_to_stderr(name, level):
        try:
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        except KeyboardInterrupt:
            return _fail(name, "Aborted.", ExitCode.INTERRUPTED, debug)
        except CycloptsError as error:
            return _fail(name, f"{_sentence(error)} See {name} --help.", ExitCode.BAD_INPUT, debug)
        except FitError as error:
            return _fail(name, str(error), ExitCode.ERROR, debug)
        except RegistrationError as error:
            return _fail(name, str(error), ExitCode.BAD_INPUT, debug)
        except MemoryError:
            return _fail(name, "Not enough memory. Crop or shrink the images.", ExitCode.ERROR, debug)
        except Exception as error:
            return _fail(name, f"{type(error).__name__}: {error} (--debug shows where)", ExitCode.ERROR, debug)
    return int(code or ExitCode.SUCCESS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The words after ``stnreg``; those of this process by default.

    Returns
    -------
    int
        An :class:`ExitCode`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    invocation[:] = words
    if words and words[0] in COMMANDS and {"--help", "-h"}.intersection(words):
        load_help(words[0])
    try:
        return int(app.meta(words, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except CycloptsError as error:
        return _fail("stnreg", f"{_sentence(error)} See stnreg --help.", ExitCode.BAD_INPUT, False)


@contextmanager
def _log_to_stderr(name: str, level: int) -> Iterator[None]:
    """Send the package's log to the error stream, each line after the command's name."""
    logger = logging.getLogger("napari_stnreg")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    level_before, propagate_before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            # Commands print the warnings of a result themselves, once.
            warnings.simplefilter("ignore", RegistrationWarning)
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        logger.propagate = propagate_before


def _sentence(error: CycloptsError) -> str:
    cause = error.__cause__
    text = validation_message(cause) if isinstance(cause, pydantic.ValidationError) else " ".join(str(error).split())
    return text if text.endswith((".", "?", "!")) else text + "."


def _fail(name: str, text: str, code: ExitCode, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{name}: {text}", file=sys.stderr)
    return int(code)
