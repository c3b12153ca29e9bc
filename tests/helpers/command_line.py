"""Parse a command line without running it."""

from napari_stnreg.cli.app import app


def parse_command(words):
    """The arguments that a command would be called with, defaults included."""
    _, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    return bound.arguments
