"""Write the sample data to files: ``python -m napari_stnreg.datasets FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from napari_stnreg.datasets import Sample, digit_pair, head_pair, section_stack, shapes_pair
from napari_stnreg.io import write_image


def write_samples(folder: Path) -> list[Path]:
    """Draw every sample and write its images, label maps and landmarks.

    Parameters
    ----------
    folder
        Made if it is not there.

    Returns
    -------
    list of Path
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for sample, ending in ((shapes_pair(), ".tif"), (digit_pair(), ".png"), (section_stack(), ".tif")):
        written += _write_pair(folder, sample, ending)
    head = head_pair()
    written += _write_pair(folder, head, ".nii.gz")
    t2 = head_pair("t2").moving.replace(name="head_moving_t2")
    for image in (*(head.labels or ()), t2):
        written.append(folder / f"{image.name}.nii.gz")
        write_image(written[-1], image)
    return written


def _write_pair(folder: Path, sample: Sample, ending: str) -> list[Path]:
    paths = [folder / f"{image.name}{ending}" for image in (sample.fixed, sample.moving)]
    for path, image in zip(paths, (sample.fixed, sample.moving), strict=True):
        write_image(path, image)
    paths.append(folder / f"{sample.name}_landmarks.csv")
    axes = "zyx"[-sample.fixed.ndim :]
    header = ",".join(f"{side}_{axis}" for side in ("fixed", "moving") for axis in axes)
    np.savetxt(paths[-1], np.hstack(sample.landmarks), fmt="%.6f", delimiter=",", header=header, comments="")
    return paths


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m napari_stnreg.datasets", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write")
    for path in write_samples(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
