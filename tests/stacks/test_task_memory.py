"""What ``--memory`` reckons with against what the system sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are counted by Linux alone")
def test_task_memory_is_between_a_third_and_all_of_the_estimate():
    command = [sys.executable, "-m", "benchmark.task_memory", "--here", "--sides", "768"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout)
    estimate = found.pop("estimate")
    assert max(found.values()) < estimate < 3 * max(found.values())
