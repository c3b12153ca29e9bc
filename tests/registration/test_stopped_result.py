"""A stopped run is finished quickly, with its transform, warped image and verdict."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.progress import StopRequested, StopSignal, interruptible, listening
from napari_stnreg.evaluation.scorecard import QUICKLY_SCORED_VOXELS, image_scores, score_stride
from napari_stnreg.registration import result as result_module
from napari_stnreg.transforms import AffineTransform
from tests.helpers.scenes import FAST, bent_pair


def run(images, stop_at=None):
    """Drive a registration; ``stop_at`` is the stage at whose first progress Stop is sent."""
    steps = sr.register_steps(images.fixed, images.moving, **FAST)
    command = None
    try:
        while True:
            progress = steps.send(command)
            command = "stop" if progress.stage == stop_at else None
            stop_at = None if command else stop_at
    except StopIteration as end:
        return end.value


@pytest.fixture
def counted(monkeypatch):
    """Voxels that are scored and checked for folds."""
    voxels = []

    def scores(fixed, moving, transform, *, stride, **rest):
        voxels.append(np.prod([len(range(0, n, stride)) for n in fixed.grid.shape]))
        return image_scores(fixed, moving, transform, stride=stride, **rest)

    monkeypatch.setattr(result_module, "image_scores", scores)
    return voxels


def test_a_stopped_run_is_scored_on_few_voxels_and_reports_it(counted):
    images = bent_pair(size=512)
    result = run(images, stop_at="diffeomorphic")
    assert result.stop_reason == "stopped"
    assert counted[-1] <= QUICKLY_SCORED_VOXELS < images.fixed.grid.size
    assert result.score_stride == result.report()["score_stride"] == score_stride(images.fixed.grid, 2**17) == 2
    assert result.verdict == "good"
    assert result.warped.grid.shape == images.fixed.grid.shape
    whole = image_scores(images.fixed, images.moving, result.transform)
    for when in ("before", "after"):
        assert result.scores[when]["ncc"] == pytest.approx(whole[when]["ncc"], abs=0.01)


def test_a_stop_while_the_result_is_measured_keeps_the_finished_fit(counted, monkeypatch):
    images = bent_pair(size=512)
    monkeypatch.setattr("napari_stnreg.registration.api.ACTIVITY_VOXELS", 0)  # as for large images
    result = run(images, stop_at="result")
    assert result.stop_reason == "finished"
    assert counted[-1] <= QUICKLY_SCORED_VOXELS
    assert result.score_stride == 2


def test_a_stop_inside_the_scoring_repeats_it_quickly(counted):
    images = bent_pair(size=512)
    requested = []
    steps = result_module.result_steps(
        images.fixed, images.moving, sr.RegistrationSettings(), AffineTransform.identity(2), [], "finished", 0.0, [],
        (None, None),
    )  # fmt: skip
    with listening(StopSignal(lambda: bool(requested))):
        while next(steps) != "scoring":
            pass
        requested.append(True)
        assert next(steps) == "judging"
        with pytest.raises(StopIteration) as end:
            next(steps)
    assert len(counted) == 2
    assert counted[0] == images.fixed.grid.size
    assert counted[1] <= QUICKLY_SCORED_VOXELS
    assert end.value.value.score_stride == 2


def test_a_finished_run_is_scored_at_every_voxel(counted):
    images = bent_pair(size=64)
    assert run(images).score_stride == 1
    assert counted == [images.fixed.grid.size]


def test_a_stop_does_not_wait_for_a_score(monkeypatch):
    image = bent_pair(size=64).fixed
    slow = threading.Event()
    monkeypatch.setattr("napari_stnreg.evaluation.scorecard.evaluation.compare", lambda *_: slow.wait(20) and {})
    began = time.monotonic()
    with listening(StopSignal(lambda: time.monotonic() - began > 0.3)), interruptible(), pytest.raises(StopRequested):
        image_scores(image, image, AffineTransform.identity(2, image.grid.unit))
    assert time.monotonic() - began < 10
    slow.set()
