"""The levels of a pyramid."""

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.ops.filters import gaussian
from napari_stnreg.registration import pyramid


@pytest.mark.parametrize("masked", [False, True])
def test_levels_of_a_large_image_are_those_made_at_once(masked, monkeypatch):
    """Large images are halved step by step; every level must be the one that a single smoothing makes."""
    values = gaussian(torch.rand(1, 1, 96, 128, generator=torch.Generator().manual_seed(3)), 2.0)[0, 0].numpy()
    mask = np.ones(values.shape, bool)
    mask[:20] = False
    grid = sr.Grid.from_spacing(values.shape)
    arguments = (values, mask if masked else None, grid, values, mask if masked else None, grid, torch.device("cpu"))
    levels = {}
    for above in (2**21, 64):
        monkeypatch.setattr(pyramid, "HALVE_ABOVE", above)
        made = pyramid.Pyramid(*arguments)
        levels[above] = [made.level(shrink) for shrink in (8.0, 2.0, 4.0, 1.0)]
    spread = values.std()
    for once, halved in zip(*levels.values(), strict=True):
        assert once.fixed_grid == halved.fixed_grid
        inner = (slice(None), slice(None), slice(4, -2), slice(2, -2))
        difference = (once.fixed - halved.fixed)[inner].abs()
        assert float(difference.max()) < 0.1 * spread
        assert float(difference.mean()) < 0.015 * spread
