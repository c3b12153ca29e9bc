"""Fixtures of the panel tests: a viewer, a docked panel, and an engine that is real or a fast fake."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("qtpy")
pytest.importorskip("napari")

from tests.helpers.gui_fixtures import quick_viewers, settings_file, workers_end  # noqa: F401 - autouse fixtures
from tests.helpers.napari_user import open_from_menu, reopen_from_menu
from tests.widgets.fake_engine import FakeEngine

NAME = "moving -> fixed (affine+diffeomorphic)"
"""How the results of the panel's first run are called."""


@pytest.fixture
def engine(monkeypatch):
    """A quick engine in the place of the real one."""
    import napari_stnreg as sr
    from napari_stnreg.resampling.warp import warp

    fake = FakeEngine()
    monkeypatch.setattr(sr, "register_steps", fake.register_steps, raising=False)
    monkeypatch.setattr(sr, "available_devices", fake.available_devices, raising=False)
    monkeypatch.setattr(sr, "warp", warp, raising=False)
    return fake


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer, qtbot):
    """Open the panel from the menu; one that is open is closed before."""
    return lambda: reopen_from_menu(viewer, "register")


@pytest.fixture
def panel(viewer, open_panel):
    """The panel on a pair of blobs, selected."""
    fixed, moving = blobs((48, 64)), blobs((48, 64), shift=(2, -3))
    viewer.add_image(fixed, name="fixed")
    viewer.add_image(moving, name="moving")
    viewer.layers.selection = set(viewer.layers)
    panel = open_panel()
    plain(panel)
    return panel


def plain(panel):
    """No preview, and the warped image alone as the result: what most tests need, in a tenth of the time."""
    panel.options.rate_box.setValue(0)
    for key, box in panel.options.kind_boxes.items():
        box.setChecked(key == "warped")


@pytest.fixture
def full(panel):
    """The same panel with its default settings: preview and the default result layers."""
    from napari_stnreg.visualization.layers import DEFAULT_KINDS

    panel.options.rate_box.setValue(20)
    for key, box in panel.options.kind_boxes.items():
        box.setChecked(key in DEFAULT_KINDS)
    return panel


@pytest.fixture
def run(qtbot):
    """Wait until a panel has come to rest."""

    def wait(panel, timeout=60_000):
        qtbot.waitUntil(lambda: not panel.running, timeout=timeout)

    return wait


def blobs(shape, shift=0.0, seed=0, dtype=np.float32):
    """A smooth random picture that a registration can hold on to."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    picture = ndimage.shift(ndimage.gaussian_filter(noise, 3), shift, order=1, mode="nearest")
    picture = (picture - picture.min()) / np.ptp(picture)
    return (picture * 200).astype(dtype)


def model_of(ndim=2, name="mine", shape=16):
    """An untrained network that always gives the same shift."""
    import torch

    from napari_stnreg.models.input_spec import InputSpec
    from napari_stnreg.models.model import Model
    from napari_stnreg.networks import AffineNetwork

    lattice = (shape,) * ndim
    network = AffineNetwork(ndim, shape=lattice, family="translation")
    with torch.no_grad():
        list(network.parameters())[-1].copy_(torch.linspace(0.1, 0.2, ndim))
    return Model(network, InputSpec(ndim, 1, lattice, (1.0,) * ndim), {}, name)


def names(viewer):
    """What the layers are called."""
    return [layer.name for layer in viewer.layers]


@pytest.fixture
def open_workbench(viewer, qtbot):
    """Open the workbench from the menu, with transforms in its list."""
    from napari_stnreg.widgets.common.transform_store import store_for

    def make(*transforms):
        store_for(viewer).extra.extend(transforms)
        return open_from_menu(viewer, "workbench")

    return make


@pytest.fixture
def fresh_session():
    """Every test begins with the models in the box alone."""
    from napari_stnreg.widgets.models.session import SESSION

    before, SESSION.entries = SESSION.entries, []
    yield
    SESSION.entries = before


def drifting(count=6, shape=(32, 32)):
    """One picture in several places."""
    picture = blobs(shape)
    random = np.random.default_rng(1)
    return np.stack([ndimage.shift(picture, random.uniform(-3, 3, 2), order=1, mode="nearest") for _ in range(count)])


@pytest.fixture
def open_train(viewer):
    """Open the panel from the menu, and set it up for quick trainings."""

    def make(**settings):
        panel = reopen_from_menu(viewer, "train")
        panel.options.set_values({"network": "affine", "epochs": 3, "batch_size": 3, "device": "cpu", **settings})
        panel.options.augmentation_box.set_current("none")
        panel.options.size_box.value = 32
        return panel

    return make


@pytest.fixture
def train(viewer, open_train):
    """The panel on a stack of drifting pictures."""
    viewer.add_image(drifting(), name="stack")
    return open_train()
