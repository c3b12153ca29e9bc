"""Settings and marks of all tests."""

import os
from collections import Counter

import pytest
from hypothesis import settings

GUI_FOLDERS = ("widgets", "acceptance")
SLOW = 10
"""A slow test takes about as long as this many others."""

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
    """Run tests with windows last and long files first, and skip tests that need a CUDA device where there is none.

    Once a window was opened, pytest-qt processes Qt events after every test, also after tests without Qt; a process
    that alternated between both kinds crashed there. Processes side by side take one file after the other in this order
    (`--no-loadscope-reorder`); as the last ones are short, both end at about the same time. Torch is imported only if a
    test that needs CUDA was collected.
    """
    lengths = Counter()
    for item in items:
        lengths[item.path] += SLOW if item.get_closest_marker("slow") else 1
    for item in items:
        if item.path.parent.name in GUI_FOLDERS:
            item.add_marker("gui")
    items.sort(key=lambda item: (item.path.parent.name in GUI_FOLDERS, -lengths[item.path], item.path))
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
