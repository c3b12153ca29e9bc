"""Workers whose window was closed, and whose program ended, while they ran."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QCoreApplication, QEvent

from napari_stnreg.widgets.common.task_runner import BackgroundCall, ClosingWorker


def steps():
    yield 1
    yield 2


@pytest.mark.parametrize("worker", [lambda: BackgroundCall(int), lambda: ClosingWorker(steps)])
def test_a_worker_outlives_the_program_silently(qapp, worker):
    made = worker()
    made.signals.deleteLater()
    QCoreApplication.sendPostedEvents(made.signals, QEvent.Type.DeferredDelete)
    made.run()


def test_an_error_of_a_running_program_is_reported(qapp):
    def fail():
        raise RuntimeError("broken")

    errors = []
    worker = BackgroundCall(fail)
    worker.errored.connect(errors.append)
    worker.run()
    assert [str(error) for error in errors] == ["broken"]
