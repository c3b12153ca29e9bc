"""Every sample of the manifest opens with ``viewer.open_sample``, by its command and from File > Open Sample."""

from __future__ import annotations

import numpy as np
import pytest

from napari_stnreg import datasets
from tests.helpers.napari_user import CONTRIBUTIONS, MANIFEST, PLUGIN, choose_entry, execute

TRUTH = {
    "shapes": datasets.shapes_pair,
    "digit": datasets.digit_pair,
    "head": datasets.head_pair,
    "sections": datasets.section_stack,
}
"""What each sample is made of, by its key in the manifest."""

OPENERS = {
    "open_sample": lambda viewer, sample: viewer.open_sample(PLUGIN, sample.key),
    "command": lambda _viewer, sample: execute(f"{PLUGIN}.{sample.key}"),
    "menu": lambda viewer, sample: choose_entry(
        viewer, "File", "Open Sample", MANIFEST.display_name, sample.display_name
    ),
}


UNITS = {"pixel": "pixel", "um": "micrometer", "mm": "millimeter", "nm": "nanometer"}


@pytest.mark.parametrize("sample", CONTRIBUTIONS.sample_data, ids=lambda sample: sample.key)
def test_every_sample_opens(viewer, sample):
    assert sample.key in TRUTH, "add the truth of the new sample to this file"
    truth = TRUTH[sample.key]()
    expected = [truth.moving] if sample.key == "sections" else [truth.fixed, truth.moving]
    for name, opener in OPENERS.items():
        viewer.layers.clear()
        opener(viewer, sample)
        images = {layer.name: layer for layer in viewer.layers if type(layer).__name__ == "Image"}
        assert set(images) == {image.name for image in expected}, name
        for image in expected:
            layer = images[image.name]
            np.testing.assert_array_equal(layer.data, image.data)
            np.testing.assert_allclose(layer.scale, image.grid.spacing)
            assert [str(unit) for unit in layer.units] == [UNITS[image.grid.unit]] * image.grid.ndim
            low, high = layer.contrast_limits
            assert low <= layer.data.min() < layer.data.max() <= high
        labels = [layer for layer in viewer.layers if type(layer).__name__ == "Labels"]
        assert len(labels) == (2 if truth.labels else 0)
