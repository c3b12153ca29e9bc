"""An aligned stack is written for other programs, and what is written means the same."""

import csv
import json

import imageio.v3 as imageio
import numpy as np
import pytest
import zarr
from scipy.ndimage import map_coordinates

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.datasets import SerialSections


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    raw = SerialSections((3, 160, 176), 2, shift=6.0)[:]
    path = tmp_path_factory.mktemp("stack") / "out.zarr"
    return sr.align_stack(raw, path, workers=1, deform=False, spacing=(40, 8, 8), unit="nm").aligned


def test_sharded_zarr_has_one_file_for_each_section_and_level(aligned, tmp_path):
    assert main(["export-stack", str(aligned.path), str(tmp_path / "s.zarr"), "--to", "zarr"]) == 0
    copy = sr.AlignedStack(tmp_path / "s.zarr")
    for one, other in zip([*aligned.levels, aligned.nodes], [*copy.levels, copy.nodes], strict=True):
        np.testing.assert_array_equal(one[:], other[:])
    assert len(list((tmp_path / "s.zarr" / "0").glob("c/**/0"))) >= 1
    assert sum(one.is_file() for one in (tmp_path / "s.zarr" / "0" / "c").rglob("*")) == 3
    assert sr.open_stack(tmp_path / "s.zarr").spacing == (40.0, 8.0, 8.0)
    assert main(["export-stack", str(aligned.path), str(tmp_path / "s.zarr"), "--to", "zarr"]) == 2
    assert main(["export-stack", str(aligned.path), str(aligned.path), "--to", "zarr", "--overwrite"]) == 2


def test_export_to_a_url(aligned):
    aligned.export("memory://stnreg-test/s.zarr", "zarr")
    there = zarr.open_group("memory://stnreg-test/s.zarr", mode="r")
    np.testing.assert_array_equal(there["0"][:], aligned.levels[0][:])
    with pytest.raises(InputError, match="cannot be written"):
        aligned.export("memory://stnreg-test/s.zarr", "zarr")


def test_precomputed_volume_is_read_by_tensorstore(aligned, tmp_path):
    tensorstore = pytest.importorskip("tensorstore")
    aligned.export(tmp_path / "volume", "precomputed")
    info = json.loads((tmp_path / "volume" / "info").read_text())
    assert info["scales"][0]["resolution"] == [8, 8, 40]
    base = f"file://{tmp_path / 'volume'}/"
    volume = tensorstore.open({"driver": "neuroglancer_precomputed", "kvstore": base}).result()
    found = np.asarray(volume.read().result())[..., 0].T
    np.testing.assert_array_equal(found, aligned.levels[0][:])


def points(aligned):
    y, x = np.meshgrid(np.arange(40.0, 120, 20), np.arange(40.0, 130, 20), indexing="ij")
    return np.stack([y.ravel(), x.ravel()], axis=1)


@pytest.mark.parametrize("kind", ["affine-csv", "bigwarp", "sofima", "render"])
def test_exported_transforms_map_as_the_alignment(aligned, tmp_path, kind):
    target = tmp_path / {"affine-csv": "a.csv", "bigwarp": "landmarks", "sofima": "m.npy", "render": "t.json"}[kind]
    aligned.export(target, kind)
    seen = points(aligned)
    for z in range(3):
        there = np.column_stack([np.full(len(seen), z), seen])
        raw = aligned.map_points(there, inverse=True)[:, 1:]  # of these pixels of the aligned image
        if kind == "affine-csv":
            row = next(one for one in csv.DictReader(target.read_text().splitlines()) if int(one["section"]) == z)
            matrix = np.array([[float(row[k]) for k in ("yy", "yx", "y")], [float(row[k]) for k in ("xy", "xx", "x")]])
            found = seen @ matrix[:, :2].T + matrix[:, 2]
        elif kind == "sofima":
            note = json.loads(target.with_suffix(".json").read_text())
            index = (seen - note["start_yx"]) / note["stride"]
            found = seen + np.stack([map_coordinates(np.load(target)[1 - a, z], index.T, order=1) for a in (0, 1)], -1)
        else:
            if kind == "bigwarp":
                rows = list(csv.reader((target / f"section{z:05d}.csv").read_text().splitlines()))
                values = np.array([[float(v) for v in row[2:]] for row in rows])
            else:
                words = json.loads(target.read_text())[z]["transforms"]["specList"][0]["dataString"].split()
                assert words[:3] == ["affine", "2", "2.0"]
                values = np.array(words[3:], dtype=float).reshape(-1, 5)[:, :4]
            moved = aligned.map_points(np.column_stack([np.full(len(values), z), values[:, 1::-1]]))[:, 1:]
            np.testing.assert_allclose(moved, values[:, 3:1:-1], atol=1e-3)
            continue
        np.testing.assert_allclose(found, raw, atol=0.05)
    with pytest.raises(InputError, match="exists"):
        aligned.export(target, "affine-csv" if kind == "affine-csv" else kind)
    with pytest.raises(InputError, match="no export 'elastix'"):
        aligned.export(target, "elastix")


def test_overwriting_replaces_the_export_and_nothing_else(aligned, tmp_path):
    folder = tmp_path / "landmarks"
    aligned.export(folder, "bigwarp")
    names = sorted(one.name for one in folder.iterdir())
    (folder / "section00099.csv").write_text("of a longer stack")
    aligned.export(folder, "bigwarp", overwrite=True)
    assert sorted(one.name for one in folder.iterdir()) == names
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "table.csv").write_text("1,2")
    zarr.create_array(str(tmp_path / "mine.zarr"), shape=(2, 2), dtype="uint8")[:] = 7
    (tmp_path / "m.json").write_text("{}")
    for name, kind in (("mine", "bigwarp"), ("mine.zarr", "zarr")):
        with pytest.raises(InputError, match="not written by this program"):
            aligned.export(tmp_path / name, kind, overwrite=True)
    with pytest.raises(InputError, match=r"m\.json' exists"):
        aligned.export(tmp_path / "m.npy", "sofima")
    assert (tmp_path / "mine" / "table.csv").read_text() == "1,2"
    assert zarr.open_array(str(tmp_path / "mine.zarr"), mode="r")[0, 0] == 7


def test_overwriting_a_precomputed_volume(aligned, tmp_path):
    pytest.importorskip("tensorstore")
    aligned.export(tmp_path / "volume", "precomputed")
    aligned.export(tmp_path / "volume", "precomputed", overwrite=True)
    (tmp_path / "volume" / "provenance").unlink()
    with pytest.raises(InputError, match="not written by this program"):
        aligned.export(tmp_path / "volume", "precomputed", overwrite=True)


@pytest.mark.parametrize("kind", ["affine-csv", "bigwarp", "sofima", "render"])
def test_imported_transforms_render_the_same_stack(aligned, tmp_path, kind):
    """Sections that were only shifted and rotated, so that every format holds the whole transform."""
    np.save(tmp_path / "raw.npy", SerialSections((3, 160, 176), 2, shift=6.0)[:])
    suffix = {"affine-csv": ".csv", "bigwarp": "", "sofima": ".npy", "render": ".json"}[kind]
    aligned.export(tmp_path / f"maps{suffix}", kind)
    arguments = ["import-stack", str(tmp_path / "raw.npy"), str(tmp_path / f"maps{suffix}"), "--from", kind]
    assert main([*arguments, "-o", str(tmp_path / "back.zarr")]) == 0
    back = sr.AlignedStack(tmp_path / "back.zarr")
    seen = np.column_stack([np.repeat([0, 1, 2], 20), np.tile(points(aligned)[:20], (3, 1))])
    offset = np.array([0, *back.canvas.origin])  # the canvas of the imported stack may begin elsewhere
    found, wanted = back.map_points(seen - offset, inverse=True), aligned.map_points(seen, inverse=True)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    back.apply(tmp_path / "raw.npy", tmp_path / "again.zarr", interpolation="linear")
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "again.zarr")["0"][:], back.levels[0][:])
    assert main([*arguments, "-o", str(tmp_path / "back.zarr")]) == 2
    np.save(tmp_path / "raw.npy", np.zeros((4, 160, 176), np.uint8))
    assert main([*arguments, "-o", str(tmp_path / "other.zarr")]) == 2


def test_import_names_the_sections_that_cannot_be_read(aligned, tmp_path):
    (tmp_path / "raw").mkdir()
    for z, section in enumerate(SerialSections((3, 160, 176), 2, shift=6.0)[:]):
        imageio.imwrite(tmp_path / "raw" / f"section{z}.png", section)
    damaged = tmp_path / "raw" / "section1.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    aligned.export(tmp_path / "maps.csv", "affine-csv")
    with pytest.warns(sr.RegistrationWarning, match=r"cannot be read stay empty: 1\."):
        sr.import_stack(tmp_path / "raw", tmp_path / "maps.csv", "affine-csv", tmp_path / "back.zarr")
    rendered = sr.AlignedStack(tmp_path / "back.zarr").levels[0]
    assert [bool(rendered[z].any()) for z in range(3)] == [True, False, True]


@pytest.mark.parametrize("kind", ["bigwarp", "sofima"])
def test_a_stopped_import_is_resumed(aligned, tmp_path, kind):
    raw = SerialSections((3, 160, 176), 2, shift=6.0)[:]
    maps = tmp_path / {"bigwarp": "maps", "sofima": "maps.npy"}[kind]
    aligned.export(maps, kind)
    sr.import_stack(raw, maps, kind, tmp_path / "whole.zarr")
    steps = sr.import_stack_steps(raw, maps, kind, tmp_path / "part.zarr", workers=1)
    first = next(steps)
    assert (first.done, first.total) == (1, 3)
    with pytest.raises(StopIteration):
        steps.send("stop")
    with pytest.raises(InputError, match="unfinished"):
        sr.AlignedStack(tmp_path / "part.zarr").map_points([[0, 1, 1]])
    with pytest.raises(InputError, match="--resume"):
        sr.import_stack(raw, maps, kind, tmp_path / "part.zarr")
    rest = [now.section for now in sr.import_stack_steps(raw, maps, kind, tmp_path / "part.zarr", resume=True)]
    assert rest  # a task that had already started may have ended
    assert first.section not in rest
    one, other = (sr.AlignedStack(tmp_path / name) for name in ("whole.zarr", "part.zarr"))
    np.testing.assert_array_equal(one.levels[0][:], other.levels[0][:])
    np.testing.assert_array_equal(one.nodes[:], other.nodes[:])
    sr.import_stack(raw, maps, kind, tmp_path / "part.zarr", resume=True)  # finished: nothing to do
    with pytest.raises(InputError, match="Replace it"):
        sr.import_stack(raw[::-1], maps, kind, tmp_path / "part.zarr", resume=True)


def test_import_reports_progress_and_refuses_too_little_memory(aligned, tmp_path, capfd, monkeypatch):
    np.save(tmp_path / "raw.npy", SerialSections((3, 160, 176), 2, shift=6.0)[:])
    aligned.export(tmp_path / "maps.csv", "affine-csv")
    monkeypatch.setattr("napari_stnreg.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    command = ["import-stack", str(tmp_path / "raw.npy"), str(tmp_path / "maps.csv"), "--from", "affine-csv"]
    assert main([*command, "-o", str(tmp_path / "back.zarr"), "--memory", "20MB"]) == 2
    assert "iB are needed" in capfd.readouterr().err
    assert not (tmp_path / "back.zarr").exists()
    assert main([*command, "-o", str(tmp_path / "back.zarr"), "--workers", "1"]) == 0
    assert "warping sections 2/3" in capfd.readouterr().err
