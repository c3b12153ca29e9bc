"""Sample pairs whose true transform is known, drawn by code when asked for.

``python -m napari_stnreg.samples FOLDER`` writes them to files; the repository's ``sample_data`` was made so.
"""

from napari_stnreg.samples.common import Sample
from napari_stnreg.samples.digit import digit_pair
from napari_stnreg.samples.head import head_pair
from napari_stnreg.samples.sections import section_stack
from napari_stnreg.samples.serial import SerialSections
from napari_stnreg.samples.shapes import shapes_pair

__all__ = ["Sample", "SerialSections", "digit_pair", "head_pair", "section_stack", "shapes_pair"]
