"""Settings and marks of all tests."""

import os

import pytest
from hypothesis import settings

GUI_FOLDERS = ("widgets", "acceptance")
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None:
    # Processes side by side: each computes on one core and has preferences of its own. Before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "NAPARI_CONFIG" in os.environ:
        os.environ["NAPARI_CONFIG"] += f".{WORKER}.yaml"

# A loaded machine is no error: no example is failed for being slow. The same examples are drawn on every run.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Run tests with windows last, and skip tests that need a CUDA device where there is none.

    Once a window was opened, pytest-qt processes Qt events after every test, also after tests without Qt; a process
    that alternated between both kinds crashed there. Torch is imported only if a test that needs CUDA was collected.
    """
    for item in items:
        if item.path.parent.name in GUI_FOLDERS:
            item.add_marker("gui")
    items.sort(key=lambda item: item.path.parent.name in GUI_FOLDERS)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
