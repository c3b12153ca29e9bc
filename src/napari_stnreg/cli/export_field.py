"""``stnreg export-field``: every pixel's displacement as a NumPy array."""

from __future__ import annotations

import argparse

from napari_stnreg.stacks.output.apply import export_field


def run(options: argparse.Namespace) -> None:
    """Do what was asked; see ``stnreg export-field --help``."""
    print(export_field(options.alignment, options.output, overwrite=options.overwrite))
