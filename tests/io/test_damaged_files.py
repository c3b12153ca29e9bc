"""Damaged files end in one sentence, in bounded time and memory; and files that would be silently wrong are refused."""

from __future__ import annotations

import gzip
import io
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.exchange.itk_file import read_parts
from napari_stnreg.transforms import AffineTransform, DisplacementTransform


def _nifti(path: Path, shape: tuple[int, ...] = (12, 14, 10)) -> None:
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(0, 9, shape).astype(np.uint8), np.eye(4)), path)


def test_wrong_checksum_of_a_compressed_file_is_an_error(tmp_path):
    path = tmp_path / "a.nii.gz"
    _nifti(path)
    content = bytearray(path.read_bytes())
    content[-8] ^= 0x10  # first byte of the checksum
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.nii\.gz' cannot be read.*CRC"):
        sr.read_image(path)


def test_declared_size_beyond_the_file_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.nii.gz"
    _nifti(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([1500, 1500, 1500], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(InputError, match="declares"):
        sr.read_image(path)
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2000, 2000, 200)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", stream.getvalue())
    with pytest.raises(InputError, match="declares"):
        sr.read_image(tmp_path / "a.npz")


def _patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".mgz" else content
    assert old in content
    content = content.replace(old, new, 1)
    path.write_bytes(gzip.compress(content) if path.suffix == ".mgz" else content)
    return path


def test_declared_sizes_of_other_formats_are_refused_before_memory_is_taken(tmp_path):
    volume = np.zeros((6, 7, 5), np.float32)
    for ending in (".mgh", ".mgz"):
        path = tmp_path / f"a{ending}"
        nib.save(nib.MGHImage(volume, np.eye(4)), path)
        big = np.array([1200, 1200, 900], ">i4").tobytes()
        with pytest.raises(InputError, match="declares"):
            sr.read_image(_patched(path, np.array([6, 7, 5], ">i4").tobytes(), big))
    image = sr.Image(np.zeros((5, 7, 6), np.float32), Grid.from_spacing((5, 7, 6), unit="mm"))
    for ending, old, new in ((".nrrd", b"sizes: 6 7 5", b"sizes: 900 900 900"), (".mha", b"6 7 5", b"900 900 900")):
        path = tmp_path / f"a{ending}"
        sr.write_image(path, image)
        with pytest.raises(InputError, match="declares"):
            sr.read_image(_patched(path, old, new))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_with_more_rows_than_strips_is_refused(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((24, 28), np.uint8), compression=compression, rowsperstrip=8)
    with tifffile.TiffFile(path) as tif:
        where = tif.pages[0].tags["ImageLength"].valueoffset
    content = bytearray(path.read_bytes())
    content[where : where + 4] = np.array([400_000_000], "<u4").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.tif'"):
        sr.read_image(path)


@pytest.mark.timeout(60)
def test_a_tiff_whose_pages_run_in_a_circle_ends(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((3, 24, 28), np.uint8), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].offset, tif.pages[2].offset
        end = last + 2 + 12 * len(tif.pages[2].tags)
    content = bytearray(path.read_bytes())
    content[end : end + 4] = np.array([first], "<u4").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.tif' cannot be read.*circle"):
        sr.read_image(path)


def test_a_wrong_checksum_of_a_compressed_mgh_file_is_an_error(tmp_path):
    path = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(np.zeros((6, 7, 5), np.float32), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[-7] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.mgz' cannot be read.*CRC"):
        sr.read_image(path)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("fault", ["flipped", "cut"])
def test_damaged_compressed_voxels_of_a_meta_image_are_an_error(tmp_path, suffix, fault):
    volume = np.random.default_rng(0).normal(size=(12, 14, 16)).astype(np.float32)
    path = tmp_path / f"v{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(path), useCompression=True)
    assert sr.read_image(path).data.shape == (12, 14, 16)
    stored = path if suffix == ".mha" else next(tmp_path.glob("*.zraw"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 255
    stored.write_bytes(content if fault == "flipped" else content[:-400])
    with pytest.raises(sr.InputError, match="cannot be read"):
        sr.read_image(path)


def test_grid_without_its_parameters_and_parameters_that_are_not_finite_are_refused(tmp_path):
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: {}_double_3_3\nParameters: {}\nFixedParameters: {}\n"
    fixed = "3000 3000 3000 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1"
    (tmp_path / "a.tfm").write_text(head.format("DisplacementFieldTransform", "0 0 0", fixed))
    with pytest.raises(InputError, match="3 parameters for a grid"):
        sr.load(tmp_path / "a.tfm")
    (tmp_path / "b.tfm").write_text(head.format("AffineTransform", "1 0 0 0 1 0 0 0 nan 0 0 0", "0 0 0"))
    with pytest.raises(InputError, match="not finite"):
        sr.load(tmp_path / "b.tfm")


def test_matrix_offset_transform_base_is_an_affine(tmp_path):
    (tmp_path / "a.txt").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n"
        "Parameters: 1 0 0 0 2 0 0 0 1 4 -5 6\nFixedParameters: 10 20 30\n"
    )
    found = sr.load(tmp_path / "a.txt", space="world", unit="mm").as_matrix()
    np.testing.assert_allclose(found, [[1, 0, 0, 6], [0, 2, 0, -25], [0, 0, 1, 4], [0, 0, 0, 1]])


@pytest.mark.parametrize("position", ["early", "spread"])
def test_damaged_hdf5_never_reaches_this_process(tmp_path, position):
    path = tmp_path / "a.h5"
    field = np.random.default_rng(0).normal(size=(1, 2, 9, 8))
    import torch

    sr.save(DisplacementTransform(torch.from_numpy(field), Grid.from_spacing((9, 8))), path)
    parts, _ = read_parts(path)
    assert [one.kind for one in parts] == ["DisplacementFieldTransform"]
    content = bytearray(path.read_bytes())
    places = range(8, 400, 3) if position == "early" else range(900, len(content), 211)
    for place in places:
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.h5'"):
        sr.load(path)


def test_a_field_wider_than_nifti_1_allows_is_nifti_2(tmp_path):
    matrix = np.eye(3)
    matrix[:2, 2] = 3, -4
    sr.save(AffineTransform(matrix, "pixel"), tmp_path / "f.nii", grid=Grid.from_spacing((2, 33000)))
    np.testing.assert_allclose(sr.load(tmp_path / "f.nii").map_points([[1.0, 20000.0]]), [[4, 19996]])


@pytest.mark.parametrize("place", [4, 6, 270])
def test_dicom_elements_beyond_the_file_are_refused_before_memory_is_taken(tmp_path, place):
    picture = sitk.GetImageFromArray(np.arange(24 * 28, dtype=np.uint16).reshape(24, 28))
    path = tmp_path / "a.dcm"
    sitk.WriteImage(picture, str(path))
    assert sr.read(path).data.shape == (24, 28)
    content = bytearray(path.read_bytes())
    content[132 + place : 136 + place] = b"\xf0\xfe\xff\x0f"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.dcm' is not a readable DICOM image"):
        sr.read(path)


def _samples(folder: Path) -> list[Path]:
    rng = np.random.default_rng(1)
    image = sr.Image(rng.integers(0, 200, (12, 14)).astype(np.uint8), Grid.from_spacing((12, 14)))
    volume = sr.Image(rng.normal(size=(6, 8, 7)).astype(np.float32), Grid.from_spacing((6, 8, 7), unit="mm"))
    names = ("a.png", "a.jpg", "a.tif", "a.ome.tif", "a.npy", "a.npz", "b.nii", "b.nii.gz", "b.nrrd", "b.mha")
    for name in names:
        sr.write_image(folder / name, image if name[0] == "a" else volume)
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    transforms = ("t.tfm", "t.txt", "t.mat", "t.safetensors")
    for name in transforms:
        sr.save(AffineTransform(matrix, "mm"), folder / name)
    tifffile.imwrite(folder / "c.tif", np.asarray(image.data), compression="zlib")
    return [folder / name for name in (*names, "c.tif", *transforms)]


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused_with_a_sentence(tmp_path):
    rng = np.random.default_rng(2)
    sentences: list[str] = []
    for sample in _samples(tmp_path):
        content = sample.read_bytes()
        for number in range(12):
            damaged = bytearray(content)
            if number % 4 == 3:
                damaged = damaged[: int(rng.integers(1, len(content)))]
            reach = min(len(damaged), 400) if number % 2 else len(damaged)
            for place in rng.integers(0, reach, int(rng.integers(1, 6))):
                damaged[place] = int(rng.integers(256))
            mutant = tmp_path / f"mutant{number}{''.join(sample.suffixes)}"
            mutant.write_bytes(damaged)
            try:
                sr.load(mutant) if sample.name.startswith("t.") else sr.read_image(mutant)
            except InputError as error:
                sentences.append(str(error))
    assert sentences
    assert all("mutant" in one for one in sentences), sentences


def test_zero_is_white_palette_and_samples_that_are_not_colors(tmp_path):
    ramp = np.arange(120, dtype=np.uint8).reshape(10, 12)
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="miniswhite")
    np.testing.assert_array_equal(sr.read_image(tmp_path / "a.tif").data, 255 - ramp)
    table = np.zeros((3, 256), np.uint16)
    table[1] = np.arange(256) * 257
    tifffile.imwrite(tmp_path / "b.tif", ramp, photometric="palette", colormap=table)
    found = sr.read_image(tmp_path / "b.tif")
    assert found.rgb
    np.testing.assert_array_equal(found.data[..., 1], ramp)
    four = np.stack([ramp] * 4, axis=-1).astype(np.uint16)
    tifffile.imwrite(tmp_path / "c.tif", four, photometric="minisblack", planarconfig="contig")
    assert not sr.read_image(tmp_path / "c.tif").rgb
    tifffile.imwrite(tmp_path / "d.tif", four.astype(np.uint8), photometric="separated")
    with pytest.raises(InputError, match="CMYK"):
        sr.read_image(tmp_path / "d.tif")


def test_units_of_each_axis_of_imagej_and_ome(tmp_path):
    data = np.zeros((5, 20, 20), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", data, imagej=True, resolution=(2.0, 1 / 500),
        metadata={"unit": "micron", "yunit": "nm", "zunit": "nm", "spacing": 40.0, "axes": "ZYX"},
    )  # fmt: skip
    grid = sr.read_image(tmp_path / "a.tif").grid
    np.testing.assert_allclose(grid.with_unit("um").spacing, [0.04, 0.5, 0.5], rtol=1e-5)
    sizes = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 1, "PhysicalSizeZUnit": "pixel"}
    tifffile.imwrite(tmp_path / "b.ome.tif", data, metadata={"axes": "ZYX", **sizes})
    np.testing.assert_allclose(sr.read_image(tmp_path / "b.ome.tif").grid.spacing, [1, 0.1, 0.1])
    sizes = {"PhysicalSizeX": 5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 5}
    tifffile.imwrite(tmp_path / "c.ome.tif", data, metadata={"axes": "ZYX", **sizes})
    np.testing.assert_allclose(sr.read_image(tmp_path / "c.ome.tif").grid.spacing, [5, 5, 5])


@pytest.mark.parametrize(
    ("sizes", "expected", "unit"),
    [({"PhysicalSizeY": 2, "PhysicalSizeYUnit": "nm"}, [2, 2, 2], "nm"),
     ({"PhysicalSizeX": 0, "PhysicalSizeY": 0, "PhysicalSizeZ": 0}, [1, 1, 1], "pixel"),
     ({"PhysicalSizeX": 0, "PhysicalSizeY": 3, "PhysicalSizeZ": 4, "PhysicalSizeZUnit": "mm"}, [4000, 3, 3], "um")],
)  # fmt: skip
def test_ome_sizes_that_are_missing_or_not_positive_are_no_sizes(tmp_path, sizes, expected, unit):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((5, 20, 20), np.uint8), metadata={"axes": "ZYX", **sizes})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid = sr.read_image(tmp_path / "a.ome.tif").grid
    assert grid.unit == unit
    np.testing.assert_allclose(grid.spacing, expected)
    assert any("does not state the voxel size" in str(one.message) for one in caught) == (unit != "pixel")


def test_photograph_is_turned_upright_and_an_animation_is_refused(tmp_path):
    from PIL import Image as Picture

    picture = Picture.fromarray(np.repeat(np.arange(16, dtype=np.uint8)[:, None] * 16, 24, axis=1))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert sr.read_image(tmp_path / "a.jpg").data.shape == (24, 16)
    picture.save(tmp_path / "b.png", save_all=True, append_images=[picture.rotate(180)])
    with pytest.raises(InputError, match="animation"):
        sr.read_image(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("name", "options", "is_exact"),
    [("seg_a.tif", (), True), ("a.tif", (), True), ("seg_a.tif", ("--interpolation", "linear"), False)],
)
def test_labels_are_warped_by_nearest_by_default(tmp_path, name, options, is_exact):
    from napari_stnreg.cli.app import app

    labels = np.kron(np.array([[0, 90], [200, 30]]), np.ones((8, 8))).astype(np.uint16)
    tifffile.imwrite(tmp_path / name, labels)
    matrix = np.eye(3)
    matrix[:2, 2] = 0.4, -0.3
    sr.save(AffineTransform(matrix, "pixel"), tmp_path / "t.safetensors")
    arguments = [tmp_path / "t.safetensors", tmp_path / name, "-r", tmp_path / name, "-o", tmp_path / "o.tif", *options]
    app(["apply", *map(str, arguments)], result_action="return_value")
    values = set(np.unique(sr.read_image(tmp_path / "o.tif").data).tolist())
    assert (values <= {0, 30, 90, 200}) is is_exact
