"""``python -m napari_stnreg.cli`` runs ``stnreg``."""

import sys

from napari_stnreg.cli.app import main

sys.exit(main())
