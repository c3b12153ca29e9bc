"""How often a preview is rendered."""

import numpy as np

from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.transforms import AffineTransform
from napari_stnreg.widgets.common import preview


def test_a_slow_first_preview_does_not_delay_the_next(monkeypatch):
    """The first one loads libraries; later ones take 20 % of the time at most."""
    clock = [100.0]
    monkeypatch.setattr(preview.time, "perf_counter", lambda: clock[0])
    image = Image(np.eye(16, dtype=np.float32), Grid.from_spacing((16, 16)))
    renderer = preview.PreviewRenderer(image, image, (None, None), rate=5)
    lines = preview.grid_lines

    def slow(*arguments, **options):
        clock[0] += 3.0
        return lines(*arguments, **options)

    monkeypatch.setattr(preview, "grid_lines", slow)
    identity = AffineTransform.identity(2)
    assert renderer.is_due()
    renderer.render(identity)
    assert renderer.is_due()
    renderer.render(identity)
    assert not renderer.is_due()
    clock[0] += 13.0
    assert renderer.is_due()
