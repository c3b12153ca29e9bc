"""How little translation invariance pooling gives: a classifier of centered digits, shown digits that moved."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from napari_stnreg.teaching.classifier import DigitClassifier
from napari_stnreg.teaching.digits import DigitData, Distortion, load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
options = parser.parse_args()
torch.manual_seed(0)

data = DigitData(*load_digits(), distortion=Distortion(rotation=0, scale=0, shift=0, clutter=0))
model = DigitClassifier(data.size, transformer=False, body="convolutional")  # two layers of 2 by 2 max-pooling
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for pictures, classes in data.batches(64, options.steps, seed=0):
    optimizer.zero_grad()
    F.cross_entropy(model(pictures), classes).backward()
    optimizer.step()

pictures, classes = data.batch(400, seed=-1, test=True)
pooled = model.body[:6]  # both convolutions and both poolings
with torch.no_grad():
    at_rest = pooled(pictures)
    print("shift in pixels | digits classified correctly | change of the pooled features")
    for shift in (0, 1, 2, 3, 4, 6, 8):
        moved = torch.roll(pictures, (shift, shift), dims=(2, 3))  # the rim is empty: nothing wraps around
        right = float((model(moved).argmax(1) == classes).float().mean())
        change = float((pooled(moved) - at_rest).norm() / at_rest.norm())
        print(f"{shift:15d} | {100 * right:18.1f} % | {100 * change:6.1f} %")
