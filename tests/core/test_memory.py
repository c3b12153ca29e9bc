"""Free memory with the limits of containers, in both versions of Linux's control groups; sizes as text."""

import pytest

from napari_stnreg.core.memory import container_headroom, format_bytes, free_system_memory


def _write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(str(value))


def test_version_2_takes_the_tightest_enclosing_limit(tmp_path):
    (tmp_path / "own").write_text("0::/pod/box\n")
    root = tmp_path / "cgroup"
    _write(root / "pod" / "box", memory__max="max", memory__current=10)
    _write(root / "pod", memory__max=1000, memory__current=900, memory__stat="anon 1\ninactive_file 300\n")
    assert list(container_headroom(tmp_path / "own", root)) == [400]


def test_version_1_and_a_group_that_is_not_visible_inside_the_container(tmp_path):
    (tmp_path / "own").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n")
    root = tmp_path / "cgroup"
    _write(
        root / "memory", memory__limit_in_bytes=5000, memory__usage_in_bytes=2000,
        memory__stat="inactive_file 7\ntotal_inactive_file 500\n",
    )  # fmt: skip
    assert list(container_headroom(tmp_path / "own", root)) == [3500]
    _write(root / "memory", memory__limit_in_bytes=9223372036854771712)
    assert list(container_headroom(tmp_path / "own", root)) == []


def test_usage_above_the_limit_leaves_nothing_and_no_groups_no_limit(tmp_path):
    (tmp_path / "own").write_text("0::/\n")
    _write(tmp_path / "cgroup", memory__max=100, memory__current=150)
    assert list(container_headroom(tmp_path / "own", tmp_path / "cgroup")) == [0]
    assert list(container_headroom(tmp_path / "missing", tmp_path / "cgroup")) == []


def test_free_memory_is_at_most_what_the_container_leaves(monkeypatch):
    from napari_stnreg.core import memory

    assert free_system_memory() > 2**20
    monkeypatch.setattr(memory, "container_headroom", lambda: iter([12345]))
    assert free_system_memory() == pytest.approx(12345)


@pytest.mark.parametrize(
    ("size", "available", "needed"),
    [
        (0, "0 bytes", "0 bytes"),
        (1023, "1023 bytes", "1023 bytes"),
        (2**20, "1.00 MiB", "1.00 MiB"),
        (30 * 2**20 + 1, "30.0 MiB", "30.1 MiB"),
        (999.9 * 2**20, "999 MiB", "1000 MiB"),
        (15.96 * 2**30, "15.9 GiB", "16.0 GiB"),
        (5 * 2**50, "5120 TiB", "5120 TiB"),
    ],
)
def test_sizes_are_readable_at_every_magnitude(size, available, needed):
    assert format_bytes(size) == available
    assert format_bytes(size, round_up=True) == needed
