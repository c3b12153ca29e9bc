"""Sample pairs with a known transform, generated on demand.

``python -m napari_stnreg.datasets FOLDER`` writes them to files; the repository's ``sample_data`` was made so.
"""

from napari_stnreg.datasets.digit import digit_pair
from napari_stnreg.datasets.head import head_pair
from napari_stnreg.datasets.sample import Sample
from napari_stnreg.datasets.serial_sections import SerialSections, section_stack
from napari_stnreg.datasets.shapes import shapes_pair

__all__ = ["Sample", "SerialSections", "digit_pair", "head_pair", "section_stack", "shapes_pair"]
