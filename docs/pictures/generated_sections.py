"""Make the picture of generated sections for the docs: ``python docs/pictures/generated_sections.py``."""

from pathlib import Path

import numpy as np
from PIL import Image

from napari_stnreg.datasets import SerialSections

FAULTS = {1: "crack", 2: "fold", 3: "dirt"}


def main() -> None:
    """Four sections of one stack, side by side."""
    made = SerialSections((4, 300, 300), seed=3, faults=FAULTS, crack_width=12, fold_width=16)
    gap = np.full((300, 6), 255, dtype=np.uint8)
    row = np.hstack([part for section in made for part in (section, gap)][:-1])
    Image.fromarray(row).save(Path(__file__).parents[1] / "images" / "generated_sections.jpg", quality=80)


if __name__ == "__main__":
    main()
