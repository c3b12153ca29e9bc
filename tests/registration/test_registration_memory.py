"""Memory and devices: a smaller level where it is short, a sentence where it runs out, an honest estimate."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.registration import api, preprocessing, result, stages
from napari_stnreg.registration.settings import RegistrationSettings
from tests.helpers.scenes import bent_pair, registered


def test_low_memory_fits_a_smaller_level_with_a_warning(monkeypatch):
    images = bent_pair(size=96)
    need = sr.estimate_memory(images.fixed, images.moving)
    monkeypatch.setattr(preprocessing, "free_memory", lambda device: int(0.6 * need))
    result = registered(images, preset="balanced")
    assert "not enough memory for full resolution" in result.warnings[0]
    assert result.warped.data.shape == (96, 96)
    assert images.error(result.transform) < 0.8
    monkeypatch.setattr(preprocessing, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"needs .* of memory and at most 800 bytes can be used. Crop or"):
        registered(images)


def test_the_estimate_follows_size_family_and_similarity():
    small, large = bent_pair(size=32), bent_pair(size=64)
    assert sr.estimate_memory(large.fixed, large.moving) == 4 * sr.estimate_memory(small.fixed, small.moving)
    settings = [
        RegistrationSettings.parse(family=f, similarity=s)
        for f, s in (
            ("rigid", "ncc"),
            ("rigid+bspline", "ncc"),
            ("affine+diffeomorphic", "lncc"),
            ("affine+diffeomorphic", "mind"),
        )
    ]
    estimates = [sr.estimate_memory(small.fixed, small.moving, s) for s in settings]
    assert estimates == sorted(estimates)
    assert len(set(estimates)) == 4


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_runs_out_on_the_way_is_a_sentence(error, monkeypatch):
    images = bent_pair(size=32)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(stages, "run_dense", fail)
    with pytest.raises(OutOfMemoryError, match="Not enough memory to register 'fixed' and 'moving'"):
        registered(images)


def test_a_gpu_that_runs_out_hands_over_to_the_cpu(monkeypatch):
    images = bent_pair(size=32)
    original = api.prepare
    monkeypatch.setattr(api, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def prepare(fixed, moving, settings, device, *landmarks, **options):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(fixed, moving, settings, device, *landmarks, **options)

    monkeypatch.setattr(api, "prepare", prepare)
    result = registered(images, iterations=3)
    assert "memory of cuda was not sufficient" in result.warnings[0]


MEASURE = """
import sys, threading, os
import numpy as np
import napari_stnreg as sr
from napari_stnreg.registration.settings import RegistrationSettings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

side, ndim, family = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
images = [sr.Image.from_array(rng.normal(size=(side,) * ndim).astype(np.float32)) for _ in range(2)]
small = [sr.Image.from_array(i.data[(slice(0, 24),) * ndim]) for i in images]
options = {"family": family, "iterations": 2, "start": "none", "device": "cpu"}
sr.register(*small, **options)  # what is loaded once is not the run's
base, peak, ended = resident(), [0], threading.Event()

def watch():
    while not ended.wait(0.002):
        peak[0] = max(peak[0], resident())

watcher = threading.Thread(target=watch)
watcher.start()
sr.register(*images, **options)
ended.set()
watcher.join()
print((peak[0] - base) / sr.estimate_memory(*images, RegistrationSettings.parse(family=family)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize(("side", "ndim", "family"), [(72, 3, "affine+diffeomorphic"), (800, 2, "affine")])
def test_the_estimate_is_honest(side, ndim, family):
    command = [sys.executable, "-c", MEASURE, str(side), str(ndim), family]
    command = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(command.stdout) < 2.0


def test_memory_of_a_sheared_grid_is_that_of_its_axis_aligned_cover(monkeypatch):
    """Thick slices with a real shear: the upright grid has many times the voxels, and that is what must fit."""
    matrix = np.diag([8.0, 1.0, 1.0, 1.0])
    matrix[1, 0] = 2.0
    values = np.random.default_rng(0).random((6, 24, 24)).astype(np.float32)
    fixed, moving = (sr.Image(values + i, sr.Grid(values.shape, matrix), name=n) for i, n in enumerate("ab"))
    settings = RegistrationSettings.parse(family="affine+displacement")
    need = sr.estimate_memory(fixed, moving, settings)
    monkeypatch.setattr(preprocessing, "free_memory", lambda device: int(5 * need))
    problem = preprocessing.prepare(fixed, moving, settings, torch.device("cpu"))
    assert problem.finest > 1
    assert problem.pyramid.fixed_grid.size > 4 * fixed.grid.size
    rounded = matrix.copy()
    rounded[1, 0] = 1e-3 * 8
    fixed, moving = (image.replace(grid=sr.Grid(values.shape, rounded)) for image in (fixed, moving))
    problem = preprocessing.prepare(fixed, moving, settings, torch.device("cpu"))
    assert problem.finest == 1
    assert problem.pyramid.fixed_grid.shape == values.shape


def test_output_grid_exceeding_memory_is_refused_before_allocation(monkeypatch):
    images = bent_pair(size=32)
    monkeypatch.setattr(result, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"Warping 'moving' onto a grid of .* needs"):
        registered(images, family="translation", extent="union")
