"""Train a registration network on generated digits, save it, load it, and register with one pass and with refining."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import napari_stnreg as sr
from napari_stnreg.teaching.digits import DigitData, Distortion, load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--pairs", type=int, default=24, help="images to train on")
parser.add_argument("--out", type=Path, default=Path("example-output"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

digits, classes = load_digits()
threes = DigitData(np.repeat(digits[classes == 3], 2, axis=0), np.repeat(classes[classes == 3], 2),
                   size=32, distortion=Distortion(12, 0.1, 0.06, 0))  # fmt: skip
pictures, _ = threes.batch(options.pairs, seed=0)
images = [sr.Image(picture[0].numpy(), sr.Grid.from_spacing((32, 32)), name=f"three {i}")
          for i, picture in enumerate(pictures)]  # fmt: skip

model = sr.train(images, network="dirnet", similarity="ncc", epochs=options.epochs, batch_size=8, device="cpu", seed=0)
sr.save(model, options.out / "threes.safetensors")

network = sr.load(options.out / "threes.safetensors")
fixed, moving = images[-2:]
for refine in (0, 20):
    result = network(fixed, moving, refine=refine)
    alike = np.corrcoef(fixed.data.ravel(), result.warped.data.ravel())[0, 1]
    print(f"refined by {refine:2d} steps: correlation {alike:.3f}, folded {100 * result.folding_fraction:.2f} %")
print(f"before: correlation {np.corrcoef(fixed.data.ravel(), moving.data.ravel())[0, 1]:.3f}")
