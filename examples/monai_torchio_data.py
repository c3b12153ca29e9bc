"""Train on a dataset of MONAI or TorchIO: volumes with an affine, random transforms and label maps.

Needs one of them: pip install monai, or pip install torchio
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch

import napari_stnreg as sr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--library", choices=["monai", "torchio"], default="monai")
parser.add_argument("--epochs", type=int, default=4)
options = parser.parse_args()


def write_volume(path: Path, seed: int) -> None:
    """Write a NIfTI file with an ellipsoid, in voxels of 2 mm, and its label map."""
    random = np.random.default_rng(seed)
    center, radii = 8 + random.uniform(-1.5, 1.5, 3), random.uniform(4, 6, 3)
    index = np.indices((16, 16, 16))
    distance = (((index.T - center) / radii) ** 2).sum(-1).T
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.exp(-distance).astype(np.float32), affine), path)
    labels = nibabel.Nifti1Image((distance < 1).astype(np.uint8), affine)
    nibabel.save(labels, path.with_name(path.name.replace("image", "label")))


folder = Path(tempfile.mkdtemp())
for number in range(8):
    write_volume(folder / f"image{number}.nii.gz", number)
images, labels = sorted(folder.glob("image*")), sorted(folder.glob("label*"))

dataset: torch.utils.data.Dataset
if options.library == "monai":
    import monai.transforms as mt
    from monai.data import Dataset

    keys = ["image", "label"]
    steps = [mt.LoadImaged(keys), mt.EnsureChannelFirstd(keys), mt.RandGaussianNoised("image", prob=0.5, std=0.02)]
    dataset = Dataset([{"image": a, "label": b} for a, b in zip(images, labels, strict=True)], mt.Compose(steps))
else:
    import torchio as tio

    subjects = [
        tio.Subject(image=tio.ScalarImage(a), label=tio.LabelMap(b)) for a, b in zip(images, labels, strict=True)
    ]
    dataset = tio.SubjectsDataset(subjects, transform=tio.RandomNoise(std=0.02))

model = sr.train(dataset, network="affine", family="affine", similarity="mse", label_weight=0.5, epochs=options.epochs,
                 batch_size=4, network_options={"features": [8, 16]}, device="cpu", seed=0)  # fmt: skip
print(f"trained at {model.describe()['trained at']}, Dice {model.summary['best']['scores']['dice']:.3f}")
