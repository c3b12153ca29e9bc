"""Image formats: every entry of the registry is read or written with its position, and refused with a sentence."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
import zarr

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io.formats import FORMATS, IMAGE_FORMATS, image_format
from napari_stnreg.io.image import WRITABLE_SUFFIXES, result_suffix
from napari_stnreg.io.series import write_series
from napari_stnreg.napari_plugin.readers import napari_reader
from tests.helpers.locales import kept_locale

COS, SIN = np.cos(0.2), np.sin(0.2)
MANIFEST = yaml.safe_load((Path(sr.__file__).parent / "napari.yaml").read_text())["contributions"]


def volume(shape=(6, 7, 8), dtype=np.int16):
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def oblique_picture():
    """A SimpleITK image whose axes are rotated in space."""
    picture = sitk.GetImageFromArray(volume())
    picture.SetSpacing((0.7, 0.8, 2.5))
    picture.SetOrigin((-10.0, -20.0, 30.0))
    picture.SetDirection((1, 0, 0, 0, COS, -SIN, 0, SIN, COS))
    return picture


def world_of_brightest(image):
    index = np.unravel_index(np.asarray(image.data).argmax(), image.grid.shape)
    return image.grid.to_world(np.array(index))


@kept_locale()
def write_slices(folder, picture, *, uid="1.2.3", description="T1", skip=()):
    """Write the slices of a volume as DICOM files, named against their order."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    d = picture.GetDirection()
    for k in range(picture.GetSize()[2]):
        if k in skip:
            continue
        one = picture[:, :, k]
        position = picture.TransformIndexToPhysicalPoint((0, 0, k))
        tags = {
            "0008|0060": "MR", "0008|103e": description, "0020|000d": "1.2", "0020|000e": uid,
            "0008|0018": f"{uid}.{k}", "0020|0013": str(k), "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "\\".join(map(str, (d[0], d[3], d[6], d[1], d[4], d[7]))),
        }  # fmt: skip
        for key, value in tags.items():
            one.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{99 - k:03d}_{uid}"))
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(one)


# -- the registry


def test_the_manifest_names_the_suffixes_of_the_registry():
    (reader,) = [one for one in MANIFEST["readers"] if one["command"] == "napari-stnreg.read"]
    expected = {f"*{s}" for one in IMAGE_FORMATS if not one.opened_by_napari for s in one.suffixes}
    assert set(reader["filename_patterns"]) == expected
    assert reader["accepts_directories"]
    for kind in ("image", "labels"):
        written = {
            suffix
            for one in MANIFEST["writers"]
            if one["command"] in ("napari-stnreg.write_image", "napari-stnreg.write_labels")
            and one["layer_types"] == [kind]
            for suffix in one["filename_extensions"]
        }
        assert written == {s for one in IMAGE_FORMATS if not one.opened_by_napari for s in one.written_suffixes}


@pytest.mark.parametrize("one", IMAGE_FORMATS, ids=lambda one: one.name)
def test_every_reader_and_writer_of_the_registry_exists(one):
    assert callable(one.read_function())
    assert not one.writer or callable(one.write_function())
    assert one.conventions
    assert one.written_suffixes or one.written_as in WRITABLE_SUFFIXES


def test_results_take_a_format_that_can_be_written(tmp_path):
    assert [result_suffix(n) for n in ("a.nrrd", "a.nhdr", "a.MGZ", "a.czi", "a.ome.tif", "a.png")] == [
        ".nrrd", ".nrrd", ".nii.gz", ".tif", ".ome.tif", ".png"
    ]  # fmt: skip
    assert result_suffix(tmp_path) == ".nii.gz"


@pytest.mark.parametrize("content", ["image", "transform", "points", "surface"])
def test_the_page_of_supported_files_is_the_registry(content):
    docs = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("hooks", docs / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = (docs / "reference" / "supported-files.md").read_text()
    assert f"{{{{ formats {content} }}}}" in page
    rows = hooks._MARK.sub(hooks._filled, page).splitlines()
    for one in (one for one in FORMATS if one.content == content):
        (row,) = [row for row in rows if row.startswith(f"| {one.name} |")]
        cells = row.split(" | ")
        assert all(f"`{suffix}`" in cells[1] for suffix in one.suffixes)
        assert (cells[3] == "no", cells[4] == "no") == (not one.lazy, not one.writer)


# -- positions


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
def test_itk_files_are_where_the_same_nifti_file_is(tmp_path, suffix):
    picture = oblique_picture()
    sitk.WriteImage(picture, str(tmp_path / f"a{suffix}"))
    sitk.WriteImage(picture, str(tmp_path / "b.nii"))
    image, reference = sr.read(tmp_path / f"a{suffix}"), sr.read(tmp_path / "b.nii")
    np.testing.assert_array_equal(image.data, reference.data)
    np.testing.assert_allclose(image.grid.matrix, reference.grid.matrix, atol=1e-5)
    assert (image.grid.unit, image.coordinate_system) == ("mm", "scanner")


@pytest.mark.parametrize("suffix", [s for s in WRITABLE_SUFFIXES if s not in (".png", ".jpg", ".jpeg", ".npy", ".npz")])
@pytest.mark.parametrize("system", ["scanner", "world"])
def test_written_images_come_back_where_they_were(tmp_path, suffix, system):
    matrix = np.diag([2.0, 1.5, 1.2, 1.0])
    if suffix != ".zarr":
        matrix[1:3, 1:3] = np.array([[COS, -SIN], [SIN, COS]]) @ matrix[1:3, 1:3]
    matrix[:3, 3] = 3, -4, 5
    unit = "mm" if system == "scanner" else "um"
    image = Image(volume(), Grid((6, 7, 8), matrix, unit), metadata={"coordinate_system": system})
    sr.write_image(tmp_path / f"a{suffix}", image)
    back = sr.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.data, image.data)
    np.testing.assert_allclose(back.grid.with_unit(unit).matrix, matrix, atol=1e-5)
    if suffix in (".nrrd", ".mha", ".zarr"):
        assert back.coordinate_system == system
        assert back.grid.unit == unit


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_an_image_written_for_itk_fits_a_transform_written_for_itk(tmp_path, suffix):
    """SimpleITK resamples our image by our transform to our result, for images with and without scanner coordinates."""
    for system in ("scanner", "world"):
        grid = Grid.from_spacing((8, 9, 10), (2, 1.5, 1), (5, 6, 7), unit="mm")
        fixed = Image(volume((8, 9, 10), np.float32), grid, metadata={"coordinate_system": system})
        affine = np.eye(4)
        affine[:3] += np.random.default_rng(1).normal(0, 0.03, (3, 4))
        from napari_stnreg.transforms import AffineTransform

        transform = AffineTransform(affine, "mm").with_coordinate_systems(system, system)
        sr.write_image(tmp_path / f"a{suffix}", fixed)
        sr.save(transform, tmp_path / "t.tfm")
        picture = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
        theirs = sitk.Resample(picture, picture, sitk.ReadTransform(str(tmp_path / "t.tfm")), sitk.sitkLinear, -1.0)
        ours = np.asarray(sr.warp(fixed, transform, grid, fill=-1.0).data)
        inside = (sitk.GetArrayFromImage(theirs) != -1) & (ours != -1)
        assert inside.mean() > 0.5
        np.testing.assert_allclose(sitk.GetArrayFromImage(theirs)[inside], ours[inside], atol=0.01)


@pytest.mark.parametrize(
    ("kind", "name"), [(nib.MGHImage, "a.mgz"), (nib.Spm2AnalyzeImage, "a.img"), (nib.Nifti1Pair, "a.hdr")]
)
def test_volumes_are_placed_like_nibabel(tmp_path, kind, name):
    data = volume()
    data[1, 2, 3] = 999
    affine = np.array([[-2.0, 0, 0, 30], [0, 0, 1.5, -20], [0, -3.0, 0, 5], [0, 0, 0, 1]])
    nib.save(kind(data, affine), tmp_path / name)
    stored = nib.load(tmp_path / name).affine
    image = sr.read(tmp_path / name)
    np.testing.assert_allclose(world_of_brightest(image), (stored @ [1, 2, 3, 1])[2::-1], atol=1e-4)
    assert image.coordinate_system == "scanner"


def test_colors_channels_and_series(tmp_path):
    grid = Grid.from_spacing((5, 20, 30), (2, 0.5, 0.6), unit="um")
    color = Image(volume((20, 30, 3), np.uint8), Grid.from_spacing((20, 30), (0.5, 0.6), unit="um"), rgb=True)
    frames = [Image(volume((5, 20, 30, 2), np.uint16) + k, grid) for k in range(2)]
    for suffix in (".nrrd", ".mha", ".zarr", ".ome.tif"):
        sr.write_image(tmp_path / f"c{suffix}", color)
        back = sr.read(tmp_path / f"c{suffix}")
        assert back.rgb
        np.testing.assert_array_equal(back.data, color.data)
    for suffix in (".zarr", ".ome.tif", ".tif"):
        write_series(tmp_path / f"s{suffix}", frames)
        back = sr.read_series(tmp_path / f"s{suffix}")
        np.testing.assert_array_equal([one.data for one in back], [one.data for one in frames])
    with pytest.raises(sr.InputError, match="single image, not 2 frames"):
        write_series(tmp_path / "s.mha", frames)


# -- DICOM


def test_a_folder_of_dicom_slices_is_one_volume_in_the_order_of_positions(tmp_path):
    picture = oblique_picture()
    write_slices(tmp_path / "head", picture)
    (tmp_path / "head" / "notes.txt").write_text("of the scan")
    sitk.WriteImage(picture, str(tmp_path / "b.nii"))
    image, reference = sr.read(tmp_path / "head"), sr.read(tmp_path / "b.nii")
    np.testing.assert_array_equal(image.data, reference.data)
    np.testing.assert_allclose(image.grid.matrix, reference.grid.matrix, atol=1e-4)
    ((data, keywords, _),) = napari_reader(str(tmp_path / "head"))(str(tmp_path / "head"))
    assert data.shape == image.data.shape
    assert keywords["name"] == "head"


def test_dicom_folders_that_are_no_single_volume_are_refused(tmp_path):
    picture = oblique_picture()
    write_slices(tmp_path / "gap", picture, skip=(2,))
    write_slices(tmp_path / "two", picture)
    write_slices(tmp_path / "two", picture, uid="1.2.4", description="T2")
    (tmp_path / "none").mkdir()
    for name, words in (("gap", "not evenly spaced: 5 mm"), ("two", "2 DICOM series: 'T1' .6 files., 'T2'"),
                        ("none", "without DICOM slices")):  # fmt: skip
        with pytest.raises(sr.InputError, match=words):
            sr.read(tmp_path / name)
    assert napari_reader(str(tmp_path / "none")) is None  # left to other readers


# -- OME-Zarr


def make_zarr(folder, data, axes, scale, *, version=2, inside="", translation=None, labels=False):
    """Write a multiscale group with the older or the newer layout of attributes."""
    steps = [{"type": "scale", "scale": scale}]
    steps += [{"type": "translation", "translation": translation}] if translation else []
    described = [{
        "axes": [{"name": n, "type": "space", "unit": u} if u else {"name": n, "type": "channel"} for n, u in axes],
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }]  # fmt: skip
    root = zarr.open_group(str(folder), mode="a", zarr_format=version)
    layout = {"bioformats2raw.layout": 3}
    if inside:
        root.attrs.update({"ome": layout} if version == 3 else layout)
    group = root.create_group(inside) if inside else root
    array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=tuple(min(n, 4) for n in data.shape))
    array[:] = data
    content = {"multiscales": described, **({"image-label": {}} if labels else {})}
    group.attrs.update({"ome": {"version": "0.5", **content}} if version == 3 else content)


SPACE = [("z", "nanometer"), ("y", "nanometer"), ("x", "nanometer")]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("inside", ["", "0"])
def test_ome_zarr_of_both_versions_and_of_bioformats2raw(tmp_path, version, inside):
    data = volume()
    make_zarr(tmp_path / "a.zarr", data, SPACE, [40, 4, 5], version=version, inside=inside, translation=[1, 2, 3])
    for path in ("a.zarr", f"a.zarr/{inside}", f"a.zarr/{inside}/0".replace("//", "/")):
        image = sr.read(tmp_path / path)
        np.testing.assert_array_equal(image.data, data)
        assert image.grid == Grid.from_spacing(data.shape, (40, 4, 5), (1, 2, 3), unit="nm")


def test_ome_zarr_axes_in_any_order_become_frames_and_channels(tmp_path):
    data = volume((3, 6, 2, 7, 8))
    axes = [("c", None), ("z", "micrometer"), ("t", None), ("y", "nanometer"), ("x", "nanometer")]
    make_zarr(tmp_path / "a.zarr", data, axes, [1, 0.04, 1, 4, 4])
    frames = sr.read_series(tmp_path / "a.zarr")
    np.testing.assert_array_equal([one.data for one in frames], data.transpose(2, 1, 3, 4, 0))
    np.testing.assert_allclose(frames[0].grid.spacing, (40, 4, 4))
    ((layer, keywords, _),) = napari_reader(str(tmp_path / "a.zarr"))(str(tmp_path / "a.zarr"))
    assert hasattr(layer, "dask")
    np.testing.assert_array_equal(layer, data.transpose(0, 2, 1, 3, 4))
    assert keywords["channel_axis"] == 0
    np.testing.assert_allclose(keywords["scale"], (1, 40, 4, 4))


def test_pyramid_levels_are_named_by_path_and_aligned(tmp_path):
    data = np.zeros((3, 600, 1100), np.uint8)
    data[:, 300:340, 500:560] = 200
    sr.write_image(tmp_path / "a.zarr", Image.from_array(data, (2, 0.5, 0.5), (1, 2, 3), unit="um"))
    centers = []
    for name in ("a.zarr", "a.zarr/0", "a.zarr/1", "a.zarr/2"):
        image = sr.read(tmp_path / name)
        centers.append(np.average(image.grid.points().reshape(-1, 3), axis=0, weights=np.ravel(image.data) + 1e-12))
    assert image.data.shape == (3, 150, 275)
    np.testing.assert_allclose(centers, [centers[0]] * 4, atol=0.05)
    ((levels, _, _),) = napari_reader(str(tmp_path / "a.zarr"))(str(tmp_path / "a.zarr"))
    assert [one.shape for one in levels] == [(3, 600, 1100), (3, 300, 550), (3, 150, 275)]


def test_zarr_folders_without_a_single_image_are_refused(tmp_path):
    make_zarr(tmp_path / "two.zarr", volume(), SPACE, [1, 1, 1], inside="0")
    make_zarr(tmp_path / "two.zarr", volume(), SPACE, [1, 1, 1], inside="1")
    zarr.open_group(str(tmp_path / "plate.zarr"), mode="w").attrs.update({"ome": {"plate": {}}})
    zarr.open_group(str(tmp_path / "bare.zarr"), mode="w")
    for name, words in (
        ("two.zarr", "2 images. Name one"),
        ("plate.zarr", "is a plate"),
        ("bare.zarr", "without the desc"),
    ):
        with pytest.raises(sr.InputError, match=words):
            sr.read(tmp_path / name)
    np.testing.assert_array_equal(sr.read(tmp_path / "two.zarr" / "1").data, volume())


def test_a_foreign_zarr_folder_is_never_replaced_by_an_image(tmp_path):
    make_zarr(tmp_path / "raw.zarr", volume(), SPACE, [1, 1, 1])
    image = Image.from_array(volume((4, 5, 6)))
    with pytest.raises(sr.InputError, match="not written by this program"):
        sr.write_image(tmp_path / "raw.zarr", image)
    np.testing.assert_array_equal(sr.read(tmp_path / "raw.zarr").data, volume())
    sr.write_image(tmp_path / "own.zarr", image)
    sr.write_image(tmp_path / "own.zarr", image.replace(data=image.data + 1))
    np.testing.assert_array_equal(sr.read(tmp_path / "own.zarr").data, image.data + 1)


def test_a_rotated_grid_cannot_be_an_ome_zarr_image(tmp_path):
    matrix = np.eye(4)
    matrix[:2, :2] = [[COS, -SIN], [SIN, COS]]
    with pytest.raises(sr.InputError, match="rotated or mirrored"):
        sr.write_image(tmp_path / "a.zarr", Image(volume(), Grid((6, 7, 8), matrix, "um")))
    assert not (tmp_path / "a.zarr").exists()


# -- pictures and microscopes


def test_large_and_deep_png_are_read_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_stnreg.io.arrays._PILLOW_PIXELS", 1000)
    flat, deep = volume((50, 60), np.uint8), volume((20, 30, 3), np.uint16) * 200
    for name, data in (("flat.png", flat), ("deep.png", deep)):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(data))
        np.testing.assert_array_equal(sr.read(tmp_path / name).data, data)
    (tmp_path / "cut.png").write_bytes(imagecodecs.png_encode(flat)[:-40])
    with pytest.raises(sr.InputError, match="cannot be read"):
        sr.read(tmp_path / "cut.png")


@pytest.mark.parametrize("codec", ["lzw", "jpeg", "zstd", "webp", "deflate", "packbits", "lzma"])
def test_compressed_tiff_is_read(tmp_path, codec):
    import tifffile

    data = np.kron(volume((8, 8), np.uint8), np.ones((16, 16), np.uint8))[..., None].repeat(3, -1)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=codec, photometric="rgb", tile=(64, 64))
    image = sr.read(tmp_path / "a.tif")
    assert image.rgb
    difference = np.abs(np.asarray(image.data, int) - data)
    assert difference.mean() <= (6 if codec in ("jpeg", "webp") else 0)


@pytest.mark.parametrize("suffix", [".czi", ".nd2", ".lif"])
def test_microscope_files_name_the_missing_plugin(tmp_path, suffix, monkeypatch):
    (tmp_path / f"a{suffix}").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(sr.InputError, match=rf"{suffix} files need bioio-{suffix[1:]}.*microscopy"):
        sr.read(tmp_path / f"a{suffix}")
    assert image_format(f"a{suffix}").extra == "microscopy"


@pytest.mark.parametrize(("shape", "expected"), [((1, 2, 1, 7, 8), (7, 8, 2)), ((1, 1, 6, 7, 8), (6, 7, 8))])
def test_an_image_of_bioio_keeps_axes_and_size(tmp_path, shape, expected, monkeypatch):
    """With a stand-in for the library, since no file of a microscope can be generated."""
    import dask.array

    data = volume(shape)
    sizes = types.SimpleNamespace(Z=2.0, Y=0.5, X=0.5)
    fake = types.SimpleNamespace(
        dims=types.SimpleNamespace(order="TCZYX"), scenes=("one",), physical_pixel_sizes=sizes,
        get_image_dask_data=lambda order: dask.array.from_array(data),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "bioio", types.SimpleNamespace(BioImage=lambda path: fake))
    (tmp_path / "a.nd2").write_bytes(b"something")
    image = sr.read(tmp_path / "a.nd2")
    assert image.data.shape == expected
    assert image.grid.unit == "um"
    np.testing.assert_array_equal(np.moveaxis(image.data, -1, 0) if shape[1] > 1 else image.data, data.squeeze())
    np.testing.assert_allclose(image.grid.spacing, [2.0, 0.5, 0.5][-image.ndim :])


# -- damage


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mgz", ".img"])
def test_a_cut_file_is_refused_with_a_sentence(tmp_path, suffix):
    picture = sitk.GetImageFromArray(volume((20, 21, 22)))
    path = tmp_path / f"a{suffix}"
    if suffix == ".mgz":
        nib.save(nib.MGHImage(volume(), np.eye(4)), path)
    elif suffix == ".img":
        nib.save(nib.Nifti1Pair(volume(), np.eye(4)), path)
    else:
        sitk.WriteImage(picture, str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(sr.InputError, match=r"'a\."):
        sr.read(path)


def test_image_exceeding_memory_is_refused_before_loading(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(2**14, 2**14, 2**14), dtype="uint16", chunks=(64, 64, 64))
    with pytest.raises(sr.InputError, match="of memory, and"):
        sr.read(tmp_path / "a.zarr")
