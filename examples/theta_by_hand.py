"""A spatial transformer without a network: six numbers, one grid, one pixel and its four neighbors."""

from __future__ import annotations

import numpy as np
from skimage import data

from napari_stnreg.teaching import AffineParameters, ExplorerState, GradientDescent, Scene, Theta

image = data.camera()[::8, ::8]
theta = Theta.from_parameters(AffineParameters(rotation=20, scale_x=0.8, scale_y=0.8, shift_x=3))
print("theta in the paper's coordinates:\n", theta.normalized(image.shape).round(3))

scene = Scene(image, ExplorerState(padding="border"))
scene.theta = theta
look = scene.stencil_at((10, 40))
print(f"output pixel (10, 40) samples at y {look.position[0]:.3f}, x {look.position[1]:.3f}")
for n in look.neighbors:
    print(f"  pixel {n.index}: weight {n.weight:.3f}, value {n.value[0]:.0f}")
print(f"  together {look.value[0]:.2f}; the output holds {scene.output()[10, 40]:.2f}")

pushed = scene.push_forward()
print(f"pushed forward instead, {100 * pushed.hole_fraction:.1f} % of the pixels stay holes")

# Walk back: gradient steps on theta, until the output looks like the input again.
descent = GradientDescent(scene, image, smoothing=2)
start = descent.gradient().loss
steps = 0
while steps < 60 and descent.step(1.0):
    steps += 1
print(f"loss {start:.3f} before, {descent.gradient().loss:.4f} after {steps} gradient steps")
print("theta is now:\n", scene.theta.normalized(image.shape).round(3))
assert np.abs(scene.grid_points()[1] - scene.grid_points()[0]).max() < 4
