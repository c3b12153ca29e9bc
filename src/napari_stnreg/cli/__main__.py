"""``python -m napari_stnreg.cli`` is ``stnreg``."""

import sys

from napari_stnreg.cli.entry import main

sys.exit(main())
