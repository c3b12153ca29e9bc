"""Stopping inside long operations."""

import threading

import numpy as np
import pytest

import napari_stnreg as sr
from napari_stnreg.core.progress import (
    StopRequested,
    StopSignal,
    check_stop,
    interruptible,
    listening,
    run_to_completion,
)
from napari_stnreg.registration import api
from napari_stnreg.widgets.common.task_runner import TaskControl, TaskProgress, relay_progress
from tests.helpers.scenes import bent_pair


def test_stop_is_raised_once_and_cancel_at_every_check():
    canceled = []
    signal = StopSignal(lambda: True, lambda: bool(canceled))
    with listening(signal):
        check_stop()  # not where it is not expected
        with interruptible():
            with pytest.raises(StopRequested):
                check_stop()
            check_stop()
            canceled.append(1)
            for _ in range(2):
                with pytest.raises(StopRequested):
                    check_stop()
    check_stop()


def test_stop_does_not_interrupt_other_threads():
    raised = []

    def work():
        try:
            with interruptible():
                check_stop()
        except StopRequested:
            raised.append(1)

    with listening(StopSignal(lambda: True)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not raised


def test_a_registration_is_stopped_inside_a_step_with_the_best_so_far(monkeypatch):
    """The stop comes while a level is sampled, not between two steps."""
    images = bent_pair(size=96)
    original, calls = api.fit_pair, []
    from napari_stnreg.registration import pyramid

    stop = threading.Event()
    level = pyramid.Pyramid.level

    def stopping_level(self, shrink, *scale):
        calls.append(shrink)
        if len(calls) == 2:
            stop.set()
            check_stop()
        return level(self, shrink, *scale)

    monkeypatch.setattr(pyramid.Pyramid, "level", stopping_level)
    steps = sr.register_steps(images.fixed, images.moving, family="affine", preset="fast")
    result = run_to_completion(steps, stop=stop.is_set)
    assert len(calls) == 2
    assert result.stop_reason == "stopped"
    assert result.warped.data.shape == (96, 96)
    assert original is api.fit_pair


@pytest.mark.parametrize("second", [False, True])
def test_second_stop_aborts_the_result(monkeypatch, second):
    images = bent_pair(size=64)
    control = TaskControl()
    monkeypatch.setattr(api, "ACTIVITY_VOXELS", 0)
    seen = []

    def show(progress):
        seen.append(progress.message)
        if progress.message == "warping" and second:
            control.stop.set()
            control.cancel.set()
        return TaskProgress(progress.fraction, progress.message)

    steps = sr.register_steps(images.fixed, images.moving, family="translation", preset="fast")
    relay = relay_progress(steps, control, lambda item: TaskProgress(0, item.message), show)
    outcome = None
    try:
        while True:
            next(relay)
            control.update_shown.set()
    except StopIteration as end:
        outcome = end.value
    assert seen[0] == "reading intensities"
    assert "warping" in seen
    assert (outcome is None) == second
    assert ("scoring" in seen) == (not second)


def test_stop_after_the_fit_keeps_the_result(monkeypatch):
    """The stop comes while the result is made, between two items of the generator."""
    from napari_stnreg.registration import result as result_module

    images = bent_pair(size=48)
    stop, warp, calls = threading.Event(), result_module.warp, []

    def stopping_warp(*arguments, **keywords):
        calls.append(1)
        stop.set()
        check_stop()
        return warp(*arguments, **keywords)

    monkeypatch.setattr(result_module, "warp", stopping_warp)
    steps = sr.register_steps(images.fixed, images.moving, family="translation", preset="fast")
    result = run_to_completion(steps, stop=stop.is_set)
    assert len(calls) == 2
    assert result.stop_reason == "finished"
    assert result.warped.data.shape == (48, 48)


def test_stop_interrupts_reading(monkeypatch):
    values = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    fixed, moving = sr.Image.from_array(values), sr.Image.from_array(values + 1)

    def normalizing(*arguments):
        check_stop()
        raise AssertionError("not reached")

    monkeypatch.setattr("napari_stnreg.registration.preprocessing.normalize", normalizing)
    with pytest.raises(KeyboardInterrupt):
        run_to_completion(sr.register_steps(fixed, moving), stop=lambda: True)
