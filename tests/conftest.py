"""What every test shares."""

import pytest
from hypothesis import settings

# A loaded machine is no error: no example is failed for being slow. The same examples are drawn on every run.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Skip what needs a CUDA device where there is none; torch is asked only if such a test was collected."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
