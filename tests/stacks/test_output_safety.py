"""No command and no function destroys its input, a foreign folder, or the output of another run."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.output.ome_zarr import update_attributes
from napari_stnreg.stacks.runtime.checkpoint import work_folder

QUICK = {"search_rotations": False, "deform": False, "workers": 1}
WORDS = ["--no-search-rotations", "--no-deform", "--workers", "1"]


def pixels(seed=0):
    """Four sections of noise, alike enough to be matched."""
    rng = np.random.default_rng(seed)
    base = rng.integers(1, 255, (64, 64))
    return np.stack([(base + rng.integers(0, 20, base.shape)).clip(1, 255).astype(np.uint8) for _ in range(4)])


def content(path):
    """Every file below a path with its checksum."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def aligned_once(tmp_path_factory):
    """A finished alignment that kept its work."""
    folder = tmp_path_factory.mktemp("aligned")
    return sr.align_stack(pixels(), folder / "out.zarr", keep_work=True, **QUICK).path


@pytest.fixture
def aligned(aligned_once, tmp_path):
    """A copy of it that a test may change."""
    for name in ("out.zarr", "out.work"):
        shutil.copytree(aligned_once.with_name(name), tmp_path / name)
    return tmp_path / "out.zarr"


@pytest.fixture
def raw(tmp_path):
    """The stack ``raw.zarr``, one array ``0`` inside a group that looks like a result of ours."""
    path = tmp_path / "raw.zarr"
    group = zarr.create_group(str(path), attributes={"stnreg": {"finished": True}}, zarr_format=3)
    group.create_array("0", data=pixels(), chunks=(1, 64, 64))
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{
            "axes": [{"name": n, "type": "space"} for n in "zyx"],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]}],
        }],
    }  # fmt: skip
    (tmp_path / "sub").mkdir()
    return path


def spelled(raw, how):
    """Input and output of a run that would destroy its input."""
    folder = raw.parent
    link = folder / "link.zarr"
    if how in ("output is a link", "input is a link"):
        link.symlink_to(raw, target_is_directory=True)
    if how == "linked parent":
        (folder / "parent").symlink_to(folder, target_is_directory=True)
    return {
        "same": (raw, raw),
        "dots": (raw, folder / "sub" / ".." / "raw.zarr"),
        "output is a link": (raw, link),
        "input is a link": (link, raw),
        "linked parent": (raw, folder / "parent" / "raw.zarr"),
        "input inside output": (raw / "0", raw),
        "output inside input": (raw, raw / "0" / "out.zarr"),
    }[how]


SPELLINGS = ("same", "dots", "output is a link", "input is a link", "linked parent", "input inside output",
             "output inside input")  # fmt: skip


@pytest.mark.parametrize("how", SPELLINGS)
def test_align_stack_never_overwrites_its_input(raw, how, capsys):
    source, output = spelled(raw, how)
    before = content(raw)
    for flags in ([], ["--overwrite"], ["--resume"], ["--resume", "--overwrite"]):
        assert main(["align", str(source), str(output), *WORDS, *flags]) == 2
        assert content(raw) == before
    with pytest.raises(InputError, match="input"):
        sr.align_stack(source, output, overwrite=True, **QUICK)
    assert content(raw) == before
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


@pytest.mark.parametrize("name", [".", "..", "./"])
def test_the_current_folder_is_no_output(raw, name, capsys, monkeypatch):
    monkeypatch.chdir(raw.parent)
    assert main(["align", str(raw), name, *WORDS, "--overwrite"]) == 2
    assert "Choose" in capsys.readouterr().err


@pytest.mark.parametrize("how", SPELLINGS)
def test_apply_never_overwrites_its_input(aligned, raw, how):
    source, output = spelled(raw, how)
    before = content(raw)
    assert main(["apply-stack", str(aligned), str(source), "-o", str(output), "--overwrite"]) == 2
    with pytest.raises(InputError, match="input"):
        sr.AlignedStack(aligned).apply(source, output, overwrite=True)
    assert content(raw) == before


@pytest.mark.parametrize("how", ["same", "dots", "inside"])
def test_apply_never_overwrites_the_alignment(aligned, how, tmp_path):
    (tmp_path / "sub").mkdir()
    output = {"same": aligned, "dots": tmp_path / "sub" / ".." / "out.zarr", "inside": aligned / "x.zarr"}[how]
    np.save(tmp_path / "s.npy", pixels())
    before = content(aligned)
    stack = sr.AlignedStack(aligned)
    assert main(["apply-stack", str(aligned), str(tmp_path / "s.npy"), "-o", str(output), "--overwrite"]) == 2
    for write in (lambda: stack.apply(pixels(), output, overwrite=True), lambda: stack.save(output, overwrite=True)):
        with pytest.raises(InputError, match="input"):
            write()
    assert main(["export-field", str(aligned), str(aligned / "0" / "f.npy"), "--overwrite"]) == 2
    assert content(aligned) == before


@pytest.mark.parametrize("name", ["out.work", "out.report.json", "out.quality.csv"])
def test_files_beside_the_output_never_overwrite_an_input(tmp_path, name):
    """The stack, the masks, or the landmarks may have the name of the work folder or the report."""
    path = tmp_path / name
    if name == "out.work":
        path.mkdir()
        for z, section in enumerate(pixels()):
            sr.write_image(path / f"s{z}.png", sr.Image.from_array(section))
        words = [str(path), str(tmp_path / "out.zarr")]
    else:
        np.save(tmp_path / "s.npy", pixels())
        path.write_text("section_a,y_a,x_a,section_b,y_b,x_b\n0,5,5,1,5,5\n")
        words = [str(tmp_path / "s.npy"), str(tmp_path / "out.zarr"), "--landmarks", str(path)]
    before = content(path)
    assert main(["align", *words, *WORDS, "--overwrite"]) == 2
    assert content(path) == before
    assert not (tmp_path / "out.zarr").exists()


def test_foreign_folders_are_never_overwritten(aligned, tmp_path):
    mine, work = tmp_path / "mine.zarr", tmp_path / "new.work"
    for folder in (mine, work):
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
    before = content(tmp_path)
    np.save(tmp_path / "s.npy", pixels())
    stack = str(tmp_path / "s.npy")
    for flag in ("--overwrite", "--resume"):
        assert main(["align", stack, str(mine), *WORDS, flag]) == 2
        assert main(["align", stack, str(tmp_path / "new.zarr"), *WORDS, flag]) == 2
    assert main(["apply-stack", str(aligned), stack, "-o", str(mine), "--overwrite"]) == 2
    with pytest.raises(InputError, match="not written by this program"):
        sr.AlignedStack(aligned).save(mine, overwrite=True)
    (tmp_path / "s.npy").unlink()
    assert content(tmp_path) == before


def test_resuming_does_not_replace_the_alignment_of_another_stack(aligned, tmp_path):
    shutil.rmtree(work_folder(aligned).path)
    before = content(aligned)
    with pytest.raises(InputError, match=r"another alignment \(sums differ\)"):
        sr.align_stack(pixels(seed=7), aligned, resume=True, **QUICK)
    with pytest.raises(InputError, match=r"another alignment \(motion was rigid, is affine\)"):
        sr.align_stack(pixels(), aligned, resume=True, motion="affine", **QUICK)
    assert sr.align_stack(pixels(), aligned, resume=True, **QUICK).warnings == ["'out.zarr' was already finished."]
    assert content(aligned) == before
    sr.align_stack(pixels(seed=7), aligned, overwrite=True, **QUICK)
    assert content(aligned) != before


def test_an_unfinished_alignment_is_not_applied(aligned, tmp_path, capsys):
    update_attributes(aligned, finished=False)
    np.save(tmp_path / "s.npy", pixels())
    (tmp_path / "p.csv").write_text("z,y,x\n0,5,5\n")
    for words in (
        ["apply-stack", str(aligned), str(tmp_path / "s.npy"), "-o", str(tmp_path / "l.zarr")],
        ["apply-stack", str(aligned), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv")],
        ["export-field", str(aligned), str(tmp_path / "f.npy")],
    ):
        assert main(words) == 2
        assert "is unfinished" in capsys.readouterr().err
        assert not Path(words[-1]).exists()


def test_concurrent_runs_into_one_output_raise(aligned, tmp_path):
    steps = sr.align_stack_steps(pixels(), tmp_path / "a.zarr", **QUICK)
    next(steps)
    with pytest.raises(InputError, match=r"is writing 'a\.zarr'"):
        sr.align_stack(pixels(), tmp_path / "a.zarr", overwrite=True, **QUICK)
    steps.close()
    sr.align_stack(pixels(), tmp_path / "a.zarr", resume=True, **QUICK)
    applying = sr.AlignedStack(aligned).apply_steps(pixels(), tmp_path / "b.zarr", workers=1)
    next(applying)
    with pytest.raises(InputError, match=r"is writing 'b\.zarr'"):
        sr.AlignedStack(aligned).apply(pixels(), tmp_path / "b.zarr", overwrite=True)
    applying.close()
    assert not list(tmp_path.glob(".*.lock"))


@pytest.mark.parametrize("damage", ["emptied", "truncated"])
def test_damaged_work_files_are_recomputed(tmp_path, aligned_once, damage):
    output = tmp_path / "a.zarr"
    steps = sr.align_stack_steps(pixels(), output, **QUICK)
    while next(steps).stage != "render":
        pass
    steps.close()
    files = list(work_folder(output).path.glob("*/*.npz"))
    assert len({file.parent.name for file in files}) >= 4
    for file in files[::2]:
        file.write_bytes(b"" if damage == "emptied" else file.read_bytes()[:-40])
    sr.align_stack(pixels(), output, resume=True, **QUICK)
    for name in ("0", "displacement"):
        once, again = (np.asarray(zarr.open_group(str(p), mode="r")[name][:]) for p in (aligned_once, output))
        np.testing.assert_array_equal(once, again)


def test_output_without_metadata_is_recreated(tmp_path, aligned_once):
    output = tmp_path / "a.zarr"
    steps = sr.align_stack_steps(pixels(), output, **QUICK)
    while next(steps).stage != "render":
        pass
    steps.close()
    shutil.rmtree(output)
    output.mkdir()
    (output / "zarr.json").write_text("")
    shutil.rmtree(work_folder(output).path / "rendered", ignore_errors=True)
    result = sr.align_stack(pixels(), output, resume=True, **QUICK)
    assert result.aligned.finished
    np.testing.assert_array_equal(result.aligned.displacement(2), sr.AlignedStack(aligned_once).displacement(2))
