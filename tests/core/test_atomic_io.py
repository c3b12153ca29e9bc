"""Atomic writing: complete or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from napari_stnreg.core.atomic_io import atomic_folder, atomic_path, write_bytes, write_json, write_text
from napari_stnreg.core.errors import InputError


def test_a_failed_write_leaves_the_previous_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "result.nii.gz"
    write_bytes(path, b"before")

    def fail():
        with atomic_path(path) as part:
            assert part.parent == tmp_path
            assert part.name.endswith(".nii.gz")
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == [path.name]


def test_the_content_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_text(tmp_path / "a.txt", "one\r\ntwo\n")
    assert (tmp_path / "a.txt").read_bytes() == b"one\r\ntwo\n"
    assert calls[:2] == [False, "replace"]
    assert calls[2:] in ([True], [])  # Windows cannot open folders


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_json_without_nan_or_infinity(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert "Infinity" not in (tmp_path / "a.json").read_text()


def test_missing_folder_and_existing_folder_are_reported(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write_text(tmp_path / "missing" / "a.txt", "")
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "")


def test_folder_is_replaced_atomically(tmp_path):
    target = tmp_path / "field.zarr"
    for name in ("first", "second"):
        with atomic_folder(target) as part:
            part.mkdir()
            (part / name).touch()
    assert [p.name for p in target.iterdir()] == ["second"]

    def fail():
        with atomic_folder(target) as part:
            part.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in Path(tmp_path).iterdir()] == ["field.zarr"]
