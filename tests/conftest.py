"""What every test shares."""

import os

import pytest
from hypothesis import settings

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
    """What opens windows comes last, and what needs a CUDA device is skipped where there is none.

    pytest-qt lets Qt work after every test once there was a window, also after tests that know nothing of Qt; a process
    that did both in turn crashed there. Torch is asked for CUDA only if a test that needs it was collected.
    """
    items.sort(key=lambda item: item.path.parent.name in ("widgets", "acceptance"))
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
