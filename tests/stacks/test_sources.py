"""Stacks of sections are read one section at a time from every kind of source; errors are clear."""

import pickle

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from imageio.v3 import imwrite

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.image import Image
from napari_stnreg.stacks.sources.base import SectionError, SubStack
from napari_stnreg.stacks.sources.open import open_stack


@pytest.fixture
def stack():
    return np.random.default_rng(0).integers(0, 255, (5, 24, 31), dtype=np.uint8)


def same(source, stack):
    """Every section, and a window of each, also after the source was sent to another process."""
    assert source.shape == stack.shape
    assert source.dtype == stack.dtype
    again = pickle.loads(pickle.dumps(source))
    for z, section in enumerate(stack):
        np.testing.assert_array_equal(source.read(z), section)
        np.testing.assert_array_equal(again.read(z, (slice(3, 9), slice(10, 31))), section[3:9, 10:31])


def write_ome_zarr(path, stack, version="0.5", scale=(40.0, 0.008, 0.008), unit="micrometer"):
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("s0", data=stack, chunks=(*[1] * (stack.ndim - 2), *stack.shape[-2:]))
    names = "tczyx"[-stack.ndim :]
    axes = [{"name": n, "type": "space", "unit": unit} if n in "zyx" else {"name": n} for n in names]
    steps = [{"type": "scale", "scale": [1.0] * (stack.ndim - 3) + list(scale)}]
    multiscales = [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": steps}]}]
    if version == "0.4":
        group.attrs["multiscales"] = multiscales
    else:
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}


def test_numpy_and_lazy_arrays(stack):
    same(open_stack(stack), stack)
    same(open_stack(da.from_array(stack, chunks=(1, 24, 31))), stack)
    image = Image.from_array(stack, spacing=(50, 8, 8), unit="nanometer")
    same(open_stack(image), stack)
    assert open_stack(image).spacing == (50, 8, 8)
    assert open_stack(stack, spacing=(5, 2, 2), unit="micron").unit == "um"


def test_a_lazy_array_is_computed_one_section_at_a_time(stack):
    made = []

    def section(block_info=None):
        made.append(block_info[None]["chunk-location"][0])
        return stack[made[-1]][None]

    lazy = da.map_blocks(section, chunks=((1,) * 5, (24,), (31,)), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    source = open_stack(lazy)
    assert made == []
    source.read(3)
    assert made == [3]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_pixel_size_is_read(tmp_path, stack, version):
    write_ome_zarr(tmp_path / "a.zarr", stack, version)
    source = open_stack(tmp_path / "a.zarr")
    same(source, stack)
    assert source.spacing == (40.0, 0.008, 0.008)
    assert source.unit == "um"


def test_the_first_channel_is_used_and_announced(tmp_path, stack):
    channels = np.stack([stack, 255 - stack])[None]
    write_ome_zarr(tmp_path / "c.zarr", channels)
    default = open_stack(tmp_path / "c.zarr")
    same(default, stack)
    assert "has 2 channels. Channel 0 is used." in default.warning
    assert not open_stack(tmp_path / "c.zarr", channel=0).warning
    same(open_stack(tmp_path / "c.zarr", channel=1), 255 - stack)


def test_corrupt_chunk_is_one_unreadable_section(tmp_path, stack):
    write_ome_zarr(tmp_path / "b.zarr", stack)
    (chunk,) = [p for p in (tmp_path / "b.zarr" / "s0" / "c" / "2").rglob("*") if p.is_file()]
    chunk.write_bytes(chunk.read_bytes()[:10])
    source = open_stack(tmp_path / "b.zarr")
    np.testing.assert_array_equal(source.read(1), stack[1])
    with pytest.raises(SectionError, match="Section 2 of 'b'"):
        source.read(2)


@pytest.mark.parametrize("how", [{}, {"imagej": True}, {"ome": True}, {"compression": "zlib"}])
def test_multi_page_tiff(tmp_path, stack, how):
    path = tmp_path / ("a.ome.tif" if how.get("ome") else "a.tif")
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"}, photometric="minisblack", **how)
    same(open_stack(path), stack)


def test_tiff_with_channels_reads_the_chosen_one(tmp_path, stack):
    both = np.stack([stack, 255 - stack], axis=1)
    tifffile.imwrite(tmp_path / "c.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    same(open_stack(tmp_path / "c.tif", channel=1), 255 - stack)


def test_corrupt_tiff_page_is_one_unreadable_section(tmp_path, stack):
    path = tmp_path / "t.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[4].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start : start + 100] = bytes(100)
    path.write_bytes(bytes(content))
    source = open_stack(path)
    np.testing.assert_array_equal(source.read(3), stack[3])
    with pytest.raises(SectionError, match="Section 4"):
        source.read(4)


@pytest.mark.parametrize("shape", [(40, 50), (1, 40, 50), (2, 1, 40, 50)])
def test_tiff_of_one_section_is_refused_as_such(tmp_path, shape):
    metadata = {"axes": "CZYX"} if len(shape) == 4 else None
    tifffile.imwrite(tmp_path / "one.tif", np.zeros(shape, np.uint8), metadata=metadata, photometric="minisblack")
    with pytest.raises(InputError, match=r"'one\.tif' has 1 section\. A stack has at least two\."):
        open_stack(tmp_path / "one.tif")


def test_truncated_tiff_has_unreadable_last_sections(tmp_path, stack):
    path = tmp_path / "t.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[4].dataoffsets[0]
    path.write_bytes(path.read_bytes()[: start + 5])
    source = open_stack(path)
    np.testing.assert_array_equal(source.read(3), stack[3])
    assert set(source.faults) == {4}
    with pytest.raises(SectionError, match="ends before section 4"):
        source.read(4)


def test_folder_is_sorted_by_number_and_gaps_are_missing_sections(tmp_path, stack):
    for number, section in zip((8, 9, 10, 12, 13), stack, strict=True):
        imwrite(tmp_path / f"cut{number}.png", section)
    source = open_stack(tmp_path)
    assert source.shape == (6, 24, 31)
    np.testing.assert_array_equal(source.read(2), stack[2])
    np.testing.assert_array_equal(source.read(4), stack[3])
    with pytest.raises(SectionError, match=r"Section 3 is missing: no file follows 'cut10\.png'"):
        source.read(3)
    assert "1 of 6 sections" in source.warning


def test_constant_number_increment_is_no_gap(tmp_path, stack):
    for number, section in enumerate(stack):
        imwrite(tmp_path / f"s_{8 * number:03d}.tif", section)
    same(open_stack(tmp_path), stack)


def _folder(folder, names, stack):
    for number, name in enumerate(names):
        imwrite(folder / name, stack[number % len(stack)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("s{:03d}_DAPI.tif", "s{:03d}_GFP.tif"),
        ("s{:03d}_c0.tif", "s{:03d}_c1.tif"),
        ("DAPI {}.png", "Cy5 {}.png"),
        ("x_z{:02d}_488nm.png", "x_z{:02d}_561nm.png"),
        ("C=0 Z={}.tif", "C=1 Z={}.tif"),
        ("cut{}.jpg", "cut{}.tif"),
    ],
)
def test_one_channel_of_a_folder_is_the_stack(tmp_path, stack, first, second):
    for name in (first, second):
        _folder(tmp_path, [name.format(z) for z in range(1, 6)], stack)
    default = open_stack(tmp_path)
    assert default.files == open_stack(tmp_path, channel=0).files
    assert "2 files for each section" in default.warning
    assert "Channel 0 is used" in default.warning
    assert "Channel 0" not in open_stack(tmp_path, channel=0).warning
    chosen = [open_stack(tmp_path, channel=number) for number in (0, 1)]
    assert {one.files for one in chosen} == {tuple(name.format(z) for z in range(1, 6)) for name in (first, second)}
    assert chosen[0].identity() != chosen[1].identity()
    with pytest.raises(InputError, match="no channel 2"):
        open_stack(tmp_path, channel=2)


@pytest.mark.parametrize("names", [["front.tif", "rear.tif"], ["s1.tif", "s2.tif"]])
def test_channel_that_a_folder_does_not_have_is_refused(tmp_path, stack, names):
    _folder(tmp_path, names, stack)
    assert open_stack(tmp_path, channel=0).shape[0] == 2
    with pytest.raises(InputError, match="There is no channel 3"):
        open_stack(tmp_path, channel=3)


def test_pattern_names_the_sections(tmp_path, stack):
    _folder(tmp_path, [f"s{z}_{c}.tif" for z in (9, 10) for c in ("DAPI", "GFP")], stack)
    assert open_stack(tmp_path, pattern="*_gfp.tif").files == ("s9_GFP.tif", "s10_GFP.tif")
    assert open_stack(tmp_path, pattern="*").shape[0] == 4
    with pytest.raises(InputError, match=r"0 image files that fit 'x\*'"):
        open_stack(tmp_path, pattern="x*")


@pytest.mark.parametrize("other", ["overview.tif", "s03_mask.tif", "s1_thumb.png", "Snapshot 7.png", "s02_scan_a.tif"])
def test_other_pictures_in_a_folder_are_left_out_with_a_notice(tmp_path, stack, other):
    names = [f"s{z:02d}.tif" for z in range(5)]
    _folder(tmp_path, [*names, other], stack)
    source = open_stack(tmp_path)
    assert source.files == tuple(names)
    assert source.warning == f"1 file is not used as sections: '{other}'. Name other files with a pattern."


def test_files_with_two_numbers_beside_sections_are_all_listed(tmp_path, stack):
    names = [f"s{z}.tif" for z in range(1, 11)]
    _folder(tmp_path, [*names, "s11_1.tif", "s11_2.tif", "s12_1.tif"], stack)
    source = open_stack(tmp_path)
    assert source.files == tuple(names)
    assert "3 files are not used as sections: 's11_1.tif', 's11_2.tif', 's12_1.tif'" in source.warning


def test_rescan_of_a_numbered_part_is_a_section(tmp_path, stack):
    names = ["s1.1.tif", "s1.2_rescan.tif", *(f"s1.{z}.tif" for z in range(3, 11))]
    _folder(tmp_path, names, stack)
    assert open_stack(tmp_path).files == tuple(names)


def test_masks_beside_sections_are_no_channel_but_a_stack_by_themselves(tmp_path, stack):
    _folder(tmp_path, [f"s{z}.tif" for z in range(5)], stack)
    masks = [f"s{z}_mask.tif" for z in range(5)]
    _folder(tmp_path, masks, stack)
    source = open_stack(tmp_path)
    assert source.files == tuple(f"s{z}.tif" for z in range(5))
    assert "5 files are not used" in source.warning
    assert open_stack(tmp_path, pattern="*_mask.tif").files == tuple(masks)


@pytest.mark.parametrize(
    ("names", "notice"),
    [
        ([f"z{z}.tif" for z in (-2, -1, 0, 1, 2)], ""),
        (["z-10 a.tif", "z-5 a.tif", "z+0 a.tif", "z+5 a.tif"], ""),
        ([f"z_{z}um.tif" for z in ("0.25", "0.5", "0.75", "1.0")], ""),
        (["s1.8.tif", "s1.9.tif", "s1.10.tif", "s1.11.tif", "s1.1.tif"], None),
        ([f"2024010{9 - z}_sec{z}.tif" for z in range(1, 6)], ""),
        ([f"sec{z}_20240101_12{z}{9 - z}30.tif" for z in range(1, 6)], ""),
        ([f"slide{1 + z // 3}_{1 + z % 3:02d}.tif" for z in range(6)], "ordered by 2 numbers"),
        (["s1.tif", "s2.tif", "s3_rescan.tif", "s4.tif"], "between those of"),
        (["front.tif", "middle.tif", "rear.tif"], "no common pattern"),
        ([f"sec-{z:03d}.tif" for z in range(3)], ""),
        ([f"202401{day}.tif" for day in ("01", "09", "30")], "uneven"),
    ],
)
def test_order_of_sections_by_their_names(tmp_path, stack, names, notice):
    _folder(tmp_path, names, stack)
    source = open_stack(tmp_path)
    order = sorted(names, key=lambda n: int(n[3:-4])) if notice is None else names
    assert [name for name in source.files if name] == order
    if notice is not None:
        assert notice in source.warning if notice else not source.warning


@pytest.mark.parametrize("names", [[f"r{r}_c{c}.tif" for r in range(2) for c in range(3)],
                                   [f"{z:03d}_{k}.tif" for z in range(4) for k in (1, 2)]])  # fmt: skip
def test_ambiguous_section_numbers_are_refused(tmp_path, stack, names):
    _folder(tmp_path, names, stack)
    with pytest.raises(InputError, match=r"have 2 numbers.*pattern"):
        open_stack(tmp_path)
    assert open_stack(tmp_path, pattern="*").shape[0] == len(names)


def test_a_picture_of_another_size_is_no_section(tmp_path, stack):
    _folder(tmp_path, [f"s{z}.png" for z in range(5)], stack)
    imwrite(tmp_path / "s2.png", np.zeros((200, 300), np.uint8))
    source = open_stack(tmp_path)
    assert source.shape == stack.shape
    assert "200x300" in source.faults[2]


def test_corrupt_files_are_kept_as_unreadable_sections(tmp_path, stack):
    for number, section in enumerate(stack):
        imwrite(tmp_path / f"s{number}.png", section)
    (tmp_path / "s1.png").write_bytes(b"no picture")
    imwrite(tmp_path / "s3.png", stack[3].astype(np.uint16) * 200)
    (tmp_path / "notes.txt").write_text("hello")
    source = open_stack(tmp_path)
    assert source.shape == stack.shape
    assert set(source.faults) == {1, 3}
    assert "'s1.png' is broken" in source.faults[1]
    assert "uint16" in source.faults[3]


def test_a_smaller_section_is_placed_on_the_common_canvas(tmp_path, stack):
    for number, section in enumerate(stack):
        imwrite(tmp_path / f"s{number}.png", section[:20] if number == 2 else section)
    source = open_stack(tmp_path)
    assert not source.faults
    np.testing.assert_array_equal(source.read(2)[:20], stack[2, :20])
    assert not source.read(2)[20:].any()


def test_color_sections_are_read_as_luminance(tmp_path, stack):
    for number, section in enumerate(stack):
        imwrite(tmp_path / f"s{number}.png", np.stack([section] * 3, axis=-1))
    same(open_stack(tmp_path), stack)


def test_npy_is_memory_mapped(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack)
    same(open_stack(tmp_path / "a.npy"), stack)


def test_reduction_by_strips_equals_block_means(monkeypatch):
    stack = np.random.default_rng(2).normal(size=(2, 37, 50)).astype(np.float32)
    expected = np.array([[stack[1, y : y + 4, x : x + 4].mean() for x in range(0, 50, 4)] for y in range(0, 37, 4)])
    np.testing.assert_allclose(open_stack(stack).read_reduced(1, 4), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("napari_stnreg.stacks.sources.base.STRIP_BYTES", 50 * 4 * 4 * 2)
    np.testing.assert_allclose(open_stack(stack).read_reduced(1, 4), expected, rtol=1e-5, atol=1e-6)


def test_subset_of_sections_is_a_stack(stack):
    part = SubStack((2, 24, 31), np.dtype(np.uint8), whole=open_stack(stack), sections=(4, 1))
    np.testing.assert_array_equal(part.read(0), stack[4])


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((20, 20)), "2 axes"),
        (np.zeros((1, 20, 20)), "1 section"),
        (np.zeros((4, 8, 200)), "8x200"),
        (np.zeros((4, 20, 20), complex), "complex128"),
    ],
)
def test_invalid_stack_raises(array, sentence):
    with pytest.raises(InputError, match=sentence):
        open_stack(array)


def test_non_square_pixels_raise(stack):
    with pytest.raises(InputError, match="not square"):
        open_stack(stack, spacing=(1, 1, 2))


def test_paths_without_a_stack_raise(tmp_path, stack):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tif").write_bytes(b"II*\0nonsense")
    (tmp_path / "a.npy").write_bytes(b"nonsense")
    (tmp_path / "a.doc").write_bytes(b"nonsense")
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    for name, sentence in [
        ("missing", "does not exist"),
        ("empty", "0 image files"),
        ("a.tif", "not a TIFF"),
        ("a.npy", r"not a \.npy"),
        ("a.doc", "not a supported stack"),
        ("g.zarr", "without the description"),
    ]:
        with pytest.raises(InputError, match=sentence):
            open_stack(tmp_path / name)


def test_images_of_other_packages_are_stacks_too():
    import nibabel as nib
    import SimpleITK as sitk

    data = np.random.default_rng(0).integers(0, 255, (4, 20, 24)).astype(np.uint8)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((0.5, 0.5, 3.0))
    source = open_stack(image)
    assert source.shape == (4, 20, 24)
    np.testing.assert_allclose(source.spacing, (3.0, 0.5, 0.5))
    np.testing.assert_array_equal(source.read(2), data[2])
    volume = nib.Nifti1Image(data.transpose(2, 1, 0), np.diag([1.0, 1.0, 5.0, 1.0]))
    assert sorted(open_stack(volume, spacing=(7.0, 1.0, 1.0)).spacing) == [1.0, 1.0, 7.0]


@pytest.mark.parametrize("names", ["zyx", "zcyx", "czyx", "yxz", "xyz", "zyxc", "tzcyx"])
def test_axes_of_a_zarr_array_may_come_in_any_order(tmp_path, stack, names):
    whole = np.stack([255 - stack, stack])[None]
    kept = [0 if name not in names else slice(None) for name in "tc"]
    kept[1] = 1 if "c" not in names else kept[1]
    order = [name for name in "tczyx" if name in names]
    data = whole[tuple(kept)].transpose([order.index(name) for name in names])
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=data.shape, dtype=data.dtype, dimension_names=list(names))
    array[...] = data
    same(open_stack(tmp_path / "a.zarr", channel=1 if "c" in names else None), stack)


@pytest.mark.parametrize("names", ["ZCYX", "CZYX", "ZYX", "TZCYX"])
def test_axes_of_a_tiff_may_come_in_any_order(tmp_path, stack, names):
    whole = np.stack([255 - stack, stack])[None]
    kept = (slice(None) if "T" in names else 0, slice(None) if "C" in names else 1)
    order = [name for name in "TCZYX" if name in names]
    data = whole[kept].transpose([order.index(name) for name in names])
    tifffile.imwrite(tmp_path / "a.ome.tif", data, metadata={"axes": names}, photometric="minisblack")
    same(open_stack(tmp_path / "a.ome.tif", channel=1 if "C" in names else None), stack)
