"""Outputs that would destroy an input, a foreign folder or another run's output are refused."""

import json
import os
import socket
import subprocess
import sys

import pytest

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.output_guard import OutputLock, check_output, remove_folder, sync_tree


@pytest.fixture
def raw(tmp_path):
    """A folder ``raw.zarr`` with content, and a subfolder beside it."""
    (tmp_path / "sub").mkdir()
    folder = tmp_path / "raw.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "chunk").write_text("pixels")
    return folder


def spelled(raw, how):
    """Input and output of a run whose output would destroy its input, one way of writing each."""
    parent = raw.parent
    if how == "same":
        return raw, raw
    if how == "dots":
        return raw, parent / "sub" / ".." / "raw.zarr"
    if how == "trailing slash":
        return raw, f"{raw}/"
    if how == "output is a link to the input":
        (parent / "link.zarr").symlink_to(raw, target_is_directory=True)
        return raw, parent / "link.zarr"
    if how == "input is a link to the output":
        (parent / "link.zarr").symlink_to(raw, target_is_directory=True)
        return parent / "link.zarr", raw
    if how == "through a linked parent":
        (parent / "elsewhere").symlink_to(parent, target_is_directory=True)
        return raw, parent / "elsewhere" / "raw.zarr"
    if how == "input inside the output":
        return raw / "0", raw
    if how == "output inside the input":
        return raw, raw / "0" / "out.zarr"
    raise AssertionError(how)


SPELLINGS = (
    "same", "dots", "trailing slash", "output is a link to the input", "input is a link to the output",
    "through a linked parent", "input inside the output", "output inside the input",
)  # fmt: skip


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("folder", [True, False])
def test_output_equal_to_input_is_refused_in_every_spelling(raw, how, folder):
    source, output = spelled(raw, how)
    with pytest.raises(InputError, match="input"):
        check_output(output, [source], overwrite=True, folder=folder, is_ours=lambda path: True)


def test_relative_paths_are_compared_from_the_working_directory(raw, monkeypatch):
    monkeypatch.chdir(raw)
    with pytest.raises(InputError, match="input"):
        check_output("../raw.zarr", ["."], overwrite=True, folder=True, is_ours=lambda path: True)


def test_paths_with_a_common_prefix_are_distinct(raw):
    assert check_output(raw.with_name("raw.zarr2"), [raw], folder=True) == raw.with_name("raw.zarr2")
    assert check_output(raw.with_name("raw"), [raw, None, ""], folder=True) == raw.with_name("raw")


def test_an_existing_output_is_kept_unless_overwriting_is_allowed(raw, tmp_path):
    with pytest.raises(InputError, match="exists"):
        check_output(raw, folder=True, is_ours=lambda path: True)
    check_output(raw, folder=True, overwrite=True, is_ours=lambda path: True)
    file = tmp_path / "a.npy"
    file.write_text("x")
    with pytest.raises(InputError, match="exists"):
        check_output(file)
    check_output(file, overwrite=True)


def test_foreign_folder_is_never_overwritten(raw, tmp_path):
    with pytest.raises(InputError, match="not written by this program"):
        check_output(raw, folder=True, overwrite=True)
    with pytest.raises(InputError, match="not written by this program"):
        check_output(raw, folder=True, overwrite=True, is_ours=lambda path: False)
    empty = tmp_path / "empty"
    empty.mkdir()
    check_output(empty, folder=True, overwrite=True)


def test_files_and_folders_do_not_replace_each_other(raw, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_output(raw, overwrite=True)
    file = tmp_path / "a"
    file.write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_output(file, overwrite=True, folder=True)


def test_a_link_is_not_replaced_by_a_folder(raw, tmp_path):
    (tmp_path / "link").symlink_to(raw, target_is_directory=True)
    with pytest.raises(InputError, match="symbolic link"):
        check_output(tmp_path / "link", overwrite=True, folder=True, is_ours=lambda path: True)


def test_a_second_run_into_the_same_output_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with OutputLock(tmp_path / "a.zarr") as lock:
        with pytest.raises(InputError, match=rf"Process {os.getpid()} on"):
            OutputLock(tmp_path / "link" / "a.zarr").__enter__()
        with OutputLock(tmp_path / "b.zarr"):
            pass
        assert lock.path.exists()
    assert not list(tmp_path.glob(".*lock*"))


def test_lock_of_an_ended_process_is_replaced(tmp_path):
    script = "import os,sys; from napari_stnreg.core.output_guard import OutputLock\n"
    script += f"OutputLock({str(tmp_path / 'a.zarr')!r}).__enter__(); os._exit(1)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 1
    assert (tmp_path / ".a.zarr.lock").exists()
    with OutputLock(tmp_path / "a.zarr"):
        assert json.loads((tmp_path / ".a.zarr.lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("holder", "refused"),
    [
        ({"host": "another-host", "pid": 1, "started": 0.0}, True),
        ({"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}, False),  # the number was used again
        (None, False),  # emptied by a power cut
    ],
)
def test_stale_locks_are_recognized_by_host_process_and_start_time(tmp_path, holder, refused):
    (tmp_path / ".a.zarr.lock").write_text("" if holder is None else json.dumps(holder))
    if refused:
        with pytest.raises(InputError, match="another-host"):
            OutputLock(tmp_path / "a.zarr").__enter__()
    else:
        with OutputLock(tmp_path / "a.zarr"):
            pass


def test_folder_deletion_cleans_up_after_a_killed_one(raw):
    left = raw.with_name(".raw.zarr-0123.deleted")
    left.mkdir()
    (left / "chunk").write_text("old")
    sync_tree(raw)
    remove_folder(raw)
    assert sorted(p.name for p in raw.parent.iterdir()) == ["sub"]
    remove_folder(raw)
