"""Files of every kind: values and positions round-trip, and errors are one sentence."""

import gzip

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io import read_image, read_series, write_image
from napari_stnreg.io.napari_layers import grid_of, layer_data, matrix_of
from napari_stnreg.napari_plugin import readers
from napari_stnreg.napari_plugin.readers import napari_reader, write_labels


def noise(shape, dtype=np.uint8):
    values = np.random.default_rng(3).integers(0, 200, shape)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7), (3, 4, 3)])
def test_tiff_keeps_values_type_and_place(tmp_path, dtype, shape):
    matrix = np.eye(len(shape) + 1) * 0.5
    matrix[0, 1], matrix[0, -1], matrix[-1, -1] = 0.1, 20, 1
    image = Image(noise(shape, dtype), Grid(shape, matrix, "um"))
    write_image(tmp_path / "a.tif", image)
    again = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.data.dtype == (np.uint8 if dtype == "bool" else dtype)
    assert again.grid == image.grid


def test_imagej_sees_the_voxel_size_that_is_written(tmp_path):
    grid = Grid.from_spacing((5, 6, 7), (2.0, 0.25, 0.5), unit="um")
    write_image(tmp_path / "a.tif", Image(noise((5, 6, 7)), grid))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.imagej_metadata["spacing"] == 2.0
        assert tif.imagej_metadata["unit"] == "um"
        assert tif.series[0].axes == "ZYX"
        count, length = tif.pages.first.tags["YResolution"].value
        assert count / length == pytest.approx(4)


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_voxel_size_and_unit_of_imagej_are_honored(tmp_path, unit):
    tifffile.imwrite(tmp_path / "a.tif", noise((4, 6, 7)), imagej=True, resolution=(2, 4),
                     metadata={"axes": "ZYX", "spacing": 3.0, "unit": unit})  # fmt: skip
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_allclose(image.grid.spacing, [3, 0.25, 0.5], rtol=1e-6)
    assert image.grid.unit == "um"


def test_voxel_size_and_units_of_ome_are_honored(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25,
                "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 3000, "PhysicalSizeZUnit": "nm"}  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", noise((4, 6, 7)), ome=True, metadata=metadata)
    image = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_allclose(image.grid.spacing, [3, 0.25, 0.5])
    assert image.grid.unit == "um"


def test_a_print_resolution_is_no_voxel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((6, 7)), resolution=(300, 300), resolutionunit="INCH", metadata=None)
    grid = read_image(tmp_path / "a.tif").grid
    assert grid == Grid.from_spacing((6, 7))


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [("YXS", (6, 7, 3), (6, 7, 3)), ("ZYXS", (5, 6, 7, 3), (5, 6, 7, 3)), ("CYX", (2, 6, 7), (6, 7, 2)),
     ("ZCYX", (5, 2, 6, 7), (5, 6, 7, 2))],
)  # fmt: skip
def test_colors_and_channels_come_last_and_go_back(tmp_path, axes, shape, expected):
    tifffile.imwrite(tmp_path / "a.tif", noise(shape), imagej=True, metadata={"axes": axes})
    image = read_image(tmp_path / "a.tif")
    assert image.data.shape == expected
    assert image.rgb == ("S" in axes)
    write_image(tmp_path / "b.tif", image)
    again = read_image(tmp_path / "b.tif")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.rgb == image.rgb


def test_stack_without_axes_is_slices_along_z(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for page in noise((5, 6, 7)):
            tif.write(page, metadata=None, contiguous=False)
    assert read_image(tmp_path / "a.tif").grid.shape == (5, 6, 7)


def test_frames_of_a_tiff_series_differ_from_slices(tmp_path):
    data = noise((3, 5, 6, 7))
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="3 frames"):
        read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_series(tmp_path / "a.tif")[2].data, data[2])


@pytest.mark.parametrize(
    ("ending", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".npy", np.float32), (".npz", np.int16)]
)
def test_gray_pictures_and_arrays_keep_their_values(tmp_path, ending, dtype):
    image = Image.from_array(noise((6, 7), dtype))
    write_image(tmp_path / f"a{ending}", image)
    again = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.data.dtype == dtype
    assert again.name == "a"


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_color_pictures_keep_their_values(tmp_path, ending, channels):
    image = Image.from_array(noise((6, 7, channels)), channels=True)
    write_image(tmp_path / f"a{ending}", image)
    again = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.rgb


def test_jpeg_is_close(tmp_path):
    ramp = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    write_image(tmp_path / "a.JPG", Image.from_array(ramp))
    assert np.abs(read_image(tmp_path / "a.JPG").data.astype(int) - ramp).max() <= 4


def test_an_archive_of_several_arrays_needs_one_called_image(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 3)), b=np.zeros((3, 3)))
    with pytest.raises(InputError, match="holds a, b"):
        read_image(tmp_path / "two.npz")
    np.savez(tmp_path / "named.npz", a=np.zeros((3, 3)), image=np.ones((4, 5)))
    assert read_image(tmp_path / "named.npz").grid.shape == (4, 5)


def test_unreadable_file_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.tif").write_text("not a tiff at all")
    (tmp_path / "text.png").write_text("not a png at all")
    (tmp_path / "text.nii").write_text("not a nifti at all")
    (tmp_path / "text.nii.gz").write_text("not compressed at all")
    (tmp_path / "text.npy").write_text("no array")
    for name in ("text.npz", "text.xyz", "nii"):
        (tmp_path / name).write_text("no archive")
    np.save(tmp_path / "names.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(5))
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2, 2, 2)))
    (tmp_path / "folder.nii").mkdir()
    cases = {
        "absent.nii": "does not exist", "empty.png": "empty", "text.tif": "cannot be read",
        "text.png": "cannot be read",
        "text.nii": "cannot be read", "text.nii.gz": "cannot be read", "text.npy": "cannot be read",
        "text.npz": "cannot be read", "names.npy": "not an image", "objects.npy": "cannot be read",
        "line.npy": "1 axes", "deep.npy": "5 axes", "folder.nii": "is a folder", "what.xyz": "does not exist",
        "text.xyz": "unsupported", "nii": "unsupported",
    }  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".tif", ".png", ".jpg", ".npy", ".npz"])
def test_truncated_file_is_refused(tmp_path, ending):
    whole = tmp_path / f"a{ending}"
    flat = ending in (".png", ".jpg")
    write_image(whole, Image.from_array(noise((64, 64) if flat else (20, 21, 22))))
    part = tmp_path / f"b{ending}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_image(part)


def test_unwritable_images_are_refused_and_old_files_kept(tmp_path):
    volume, plane = Image.from_array(noise((4, 5, 6))), Image.from_array(noise((5, 6), np.float32))
    write_image(tmp_path / "a.png", Image.from_array(noise((5, 6))))
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match="3D"):
        write_image(tmp_path / "a.png", volume)
    with pytest.raises(InputError, match="float32"):
        write_image(tmp_path / "a.png", plane)
    with pytest.raises(InputError, match="does not exist"):
        write_image(tmp_path / "nowhere" / "a.tif", plane)
    with pytest.raises(InputError, match="Supported: "):
        write_image(tmp_path / "a.doc", plane)
    with pytest.raises(InputError, match="complex"):
        write_image(tmp_path / "a.tif", Image.from_array(np.ones((4, 5), dtype=complex)))
    (tmp_path / "b.tif").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_image(tmp_path / "b.tif", plane)
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.tif"]


def test_pictures_of_other_modes_are_understood(tmp_path):
    gray = noise((6, 7, 2))
    imageio.imwrite(tmp_path / "la.png", gray)
    np.testing.assert_array_equal(read_image(tmp_path / "la.png").data, gray[..., 0])


# --- napari's form of the same -------------------------------------------------------------------------------------


def test_reader_accepts_only_nifti_and_works_without_napari(tmp_path):
    assert napari_reader("a.txt") is None
    assert napari_reader(["a.nii", "b.txt"]) is None
    assert callable(napari_reader(["a.nii", "b.nii.gz"]))


def test_layer_has_the_position_of_the_image(tmp_path):
    matrix = np.array([[2, 0.1, 0, 5], [0, 1, 0.2, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    image = Image(noise((4, 5, 6)), Grid((4, 5, 6), matrix, "mm"), name="head")
    data, keywords, kind = layer_data(image)
    assert kind == "image"
    assert data is image.data
    assert grid_of(keywords, data.shape) == image.grid
    straight = Image.from_array(noise((4, 5)), (2, 3), (1, -1), unit="um")
    _, keywords, _ = layer_data(straight)
    np.testing.assert_array_equal(keywords["scale"], [2, 3])
    assert grid_of(keywords, (4, 5)) == straight.grid


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("keywords", [
    {"scale": (2, 3), "rotate": 30, "shear": [0.3], "translate": (4, 5)},
    {"scale": (1, 2, 3), "rotate": (10, 20, 30), "shear": (0.1, -0.2, 0.3), "translate": (4, 5, 6)},
    {"scale": (1, 2, 3), "affine": np.array([[1, 0.2, 0, 1], [0, 2, 0, 2], [0.1, 0, 1, 3], [0, 0, 0, 1]])},
    {"affine": np.array([[0, 1, 3], [-1, 0, 4], [0, 0, 1.0]])},
])  # fmt: skip
def test_the_matrix_of_a_layer_is_the_one_napari_makes(keywords):
    from napari.layers import Image as Layer

    ndim = len(keywords.get("scale", (1, 1)))
    layer = Layer(np.zeros((4,) * ndim), **keywords)
    points = np.random.default_rng(0).uniform(0, 4, (5, ndim))
    expected = [layer.data_to_world(point) for point in points]
    for given in (keywords, layer.as_layer_data_tuple()[1]):
        matrix = matrix_of(given, ndim)
        np.testing.assert_allclose(points @ matrix[:-1, :-1].T + matrix[:-1, -1], expected, atol=1e-9)


def test_units_of_a_layer_become_one_unit():
    keywords = {"scale": (1.0, 500.0, 500.0), "units": ("micrometer", "nanometer", "nanometer")}
    grid = grid_of(keywords, (4, 5, 6))
    assert grid.unit == "nm"
    np.testing.assert_allclose(grid.spacing, [1000, 500, 500])


def test_a_layer_read_and_written_by_napari_is_the_same_file(tmp_path):
    import nibabel as nib
    from napari.layers import Labels, Layer

    affine = np.array([[0, 0, -2, 5], [-1.5, 0, 0, 6], [0, 0.7, 0, 7], [0, 0, 0, 1.0]])
    labels = noise((5, 4, 3), np.int16)
    original = nib.Nifti1Image(labels, affine)
    original.header.set_intent("label")
    nib.save(original, tmp_path / "a.nii")

    ((data, keywords, kind),) = napari_reader(tmp_path / "a.nii")(tmp_path / "a.nii")
    layer = Layer.create(data, keywords, kind)
    assert isinstance(layer, Labels)
    assert layer.axis_labels == ("z", "y", "x")
    assert {str(unit) for unit in layer.units} == {"millimeter"}
    data, keywords, kind = layer.as_layer_data_tuple()
    assert write_labels(str(tmp_path / "b.nii"), data, keywords) == [str(tmp_path / "b.nii")]
    again = nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), labels)
    np.testing.assert_allclose(again.affine, affine, atol=1e-6)
    assert again.header.get_intent()[0] == "label"
    assert not layer.data.flags.writeable or (layer.data == data).all()


def test_labels_drawn_in_napari_are_marked_as_labels(tmp_path):
    labels = noise((4, 5, 6), np.int32)
    write_labels(str(tmp_path / "a.nii.gz"), labels, {"name": "drawn", "scale": (3, 2, 1), "units": ("mm",) * 3})
    ((data, keywords, kind),) = napari_reader(str(tmp_path / "a.nii.gz"))(str(tmp_path / "a.nii.gz"))
    assert kind == "labels"
    np.testing.assert_array_equal(data, labels)
    np.testing.assert_allclose(keywords["scale"], (3, 2, 1))


def test_time_series_layer_round_trip_through_napari(tmp_path):
    import nibabel as nib
    from napari.layers import Layer

    frames = noise((5, 4, 3, 6), np.int16)
    original = nib.Nifti1Image(frames, np.diag([-2, 2, 3, 1.0]))
    original.header.set_xyzt_units("mm", "msec")
    original.header.set_zooms((2, 2, 3, 1500))
    nib.save(original, tmp_path / "t.nii.gz")
    ((data, keywords, kind),) = napari_reader(str(tmp_path / "t.nii.gz"))(str(tmp_path / "t.nii.gz"))
    layer = Layer.create(data, keywords, kind)
    assert layer.data.shape == (6, 3, 4, 5)
    assert layer.scale[0] == 1.5
    data, keywords, _ = layer.as_layer_data_tuple()
    readers.write_image(str(tmp_path / "u.nii.gz"), data, keywords)
    again = nib.load(tmp_path / "u.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), frames)
    np.testing.assert_allclose(again.affine, original.affine)
    np.testing.assert_allclose(again.header.get_zooms(), (2, 2, 3, 1500))


def test_a_compressed_file_is_really_compressed(tmp_path):
    write_image(tmp_path / "a.nii.gz", Image.from_array(noise((4, 5, 6))))
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + 120
