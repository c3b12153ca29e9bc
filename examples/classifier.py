"""A digit classifier with a spatial transformer in front and one without, on the same distorted digits."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_stnreg.teaching.classifier import train_classifiers
from napari_stnreg.teaching.digits import DigitData, load_digits
from napari_stnreg.teaching.replay import Replay

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2500)
parser.add_argument("--mnist", type=Path, help="a folder with the files of MNIST; scikit-learn's digits if not given")
parser.add_argument("--film", type=Path, help="save what the transformer shows as it learns, .gif or .mp4")
options = parser.parse_args()

data = DigitData(*load_digits(options.mnist))
training = train_classifiers(data, steps=options.steps, every=max(options.steps // 15, 1))
print("step | without | with a transformer | processor seconds of each")
try:
    while True:
        now = next(training)
        print(f"{now.step:4d} | {now.accuracy['plain']:7.3f} | {now.accuracy['transformer']:18.3f} | "
              f"{now.seconds['plain']:.0f}, {now.seconds['transformer']:.0f}", flush=True)  # fmt: skip
except StopIteration as end:
    result = end.value
if options.film:
    Replay.from_classifiers(result).save(options.film)
    print("saved", options.film)
