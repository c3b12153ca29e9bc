"""Every file pattern of the manifest opens with ``viewer.open`` and by a drop on the canvas."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.io import savemat

import napari_stnreg as sr
from tests.helpers.locales import kept_locale
from tests.helpers.meshes import sphere, write_mesh
from tests.helpers.napari_user import CONTRIBUTIONS, PLUGIN, drop

MICROSCOPES = ("*.czi", "*.nd2", "*.lif")
PATTERNS = [
    (reader.command, pattern)
    for reader in CONTRIBUTIONS.readers
    for pattern in reader.filename_patterns
    if pattern not in MICROSCOPES  # no library here writes them; see tests/io/test_image_formats.py
]
OPENERS = {"open": lambda viewer, path: viewer.open(path, plugin=PLUGIN), "drop": drop}

# x' = 1.1 (x - 20) + 0.1 (y - 10) + 20 + 4,  y' = -0.05 (x - 20) + 0.95 (y - 10) + 10 - 3
ITK_PARAMETERS = (1.1, 0.1, -0.05, 0.95, 4.0, -3.0)
ITK_CENTER = (20.0, 10.0)
ITK_TEXT = f"""#Insight Transform File V1.0
#Transform 0
Transform: AffineTransform_double_2_2
Parameters: {" ".join(map(str, ITK_PARAMETERS))}
FixedParameters: {" ".join(map(str, ITK_CENTER))}
"""


def itk_map(points):
    """Map points (y, x) by the formula above."""
    y, x = np.moveaxis(np.asarray(points, dtype=float), -1, 0)
    a, b, c, d, shift_x, shift_y = ITK_PARAMETERS
    x, y = x - ITK_CENTER[0], y - ITK_CENTER[1]
    return np.stack([c * x + d * y + ITK_CENTER[1] + shift_y, a * x + b * y + ITK_CENTER[0] + shift_x], axis=-1)


# -- one example for each pattern


def image_example(folder, ending):
    """Write an image in the format of an extension, and return the file and the place of its brightest voxel."""
    if ending in (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".mgz", ".mgh"):
        return nifti_example(folder, ending)
    if ending in (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".ima"):
        data = np.random.default_rng(0).integers(0, 100, (8, 7, 6)).astype(np.int16)
        data[3, 2, 1] = 1000
        picture = sitk.GetImageFromArray(data)
        picture.SetSpacing((2.0, 1.5, 3.0))
        picture.SetOrigin((-30.0, 20.0, 5.0))
        picture.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
        x, y, z = picture.TransformIndexToPhysicalPoint((1, 2, 3))  # to the left and to the back
        place = (z, -y, -x)
        path = folder / f"volume{ending}"
        if ending in (".dcm", ".ima"):
            with kept_locale():
                sitk.WriteImage(picture[:, :, 3], str(path.with_suffix(".dcm")))
            return path.with_suffix(".dcm").rename(path), (None, *(np.array([2, 1]) * picture.GetSpacing()[1::-1]))
        sitk.WriteImage(picture, str(path))
        return path, place
    if ending in (".zarr", ".ome.tif", ".ome.tiff"):
        data = np.random.default_rng(0).integers(0, 100, (8, 7, 6)).astype(np.int16)
        data[3, 2, 1] = 1000
        image = sr.Image.from_array(data, (3.0, 1.5, 2.0), (5, -20, 30), unit="mm", name="volume")
        sr.write_image(folder / f"volume{ending}", image)
        return folder / f"volume{ending}", image.grid.to_world(np.array([3, 2, 1]))
    raise AssertionError(f"add an example of {ending} to this file")


def nifti_example(folder, ending):
    """Write a volume with one bright voxel, oblique and off center, and return the file and that voxel's place."""
    data = np.random.default_rng(0).integers(0, 100, (6, 7, 8)).astype(np.int16)
    data[1, 2, 3] = 1000
    affine = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.5, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    kind = nibabel.MGHImage if ending.startswith(".mg") else nibabel.Nifti1Image
    image = (nibabel.Nifti1Pair if ending[:4] in (".hdr", ".img") else kind)(data, affine)
    if kind is nibabel.Nifti1Image:
        image.header.set_xyzt_units("mm", "sec")
    path = folder / f"volume{ending}"
    nibabel.save(image, path)
    return path, (affine @ [1, 2, 3, 1])[:3][::-1]  # napari's order: z, y, x


def transform_example(folder, ending):
    """Write the affine transform above in the format of an extension, and return the file and the formula."""
    path = folder / f"known{ending}"
    if ending in (".h5", ".hdf5"):
        pytest.importorskip("h5py")
    if ending == ".mat":
        columns = {"AffineTransform_double_2_2": ITK_PARAMETERS, "fixed": ITK_CENTER}
        savemat(path, {name: np.array([values]).T for name, values in columns.items()}, format="4")
        return path, itk_map
    if ending in (".lta", ".xfm"):
        return scanner_example(path)
    source = folder / "source.tfm"
    source.write_text(ITK_TEXT)
    if ending in (".tfm", ".txt"):
        return source.rename(path), itk_map
    return sr.save(sr.load(source), path), itk_map


def scanner_example(path):
    """Write an affine map of (right, anterior, superior) as FreeSurfer or MINC do, and return the file and its map."""
    ras = np.array([[1.1, 0.1, 0, 4], [-0.05, 0.95, 0.02, -3], [0, 0.03, 1.05, 2], [0, 0, 0, 1.0]])
    if path.suffix == ".xfm":  # from the moving to the fixed world
        rows = "\n".join(" ".join(f"{value:.12f}" for value in row) for row in np.linalg.inv(ras)[:3])
        path.write_text(f"MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n")
    else:
        nitransforms = pytest.importorskip("nitransforms")
        volume = path.with_suffix(".nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.zeros((9, 10, 11), np.uint8), np.diag([1.5, 2, 1.8, 1])), volume)
        nitransforms.linear.Affine(ras, reference=str(volume)).to_filename(str(path), fmt="fs", moving=str(volume))
    return path, lambda points: (np.asarray(points)[:, ::-1] @ ras[:3, :3].T + ras[:3, 3])[:, ::-1]


def check_image(viewer, place):
    (layer,) = viewer.layers
    data = np.asarray(layer.data)
    flat = place[0] is None
    assert data.shape == ((7, 6) if flat else (8, 7, 6))
    assert data.dtype == np.int16
    index = np.unravel_index(data.argmax(), data.shape)
    np.testing.assert_allclose(layer.data_to_world(index), place[flat:], atol=1e-4)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * data.ndim
    assert layer.name == "volume"


def check_transform(viewer, expected_map):
    arrows = next(layer for layer in viewer.layers if type(layer).__name__ == "Vectors")
    starts = arrows.data[:, 0]
    assert len(starts) > 20
    np.testing.assert_allclose(starts + arrows.data[:, 1], expected_map(starts), atol=1e-3)
    assert any(type(layer).__name__ == "Image" for layer in viewer.layers)


def surface_example(folder, ending):
    """Write a sphere in the format of an extension, and return the file and its center as it is opened."""
    path = write_mesh(folder / f"known{ending}", sphere(5, (12, 20, 30)))
    is_scanner = not ending.endswith(("vtk", "vtu", "ply", "stl", "obj"))  # those hold x, y, z without a statement
    return path, (12, 20, 30) if is_scanner else (12, -20, -30)


def check_surface(viewer, center):
    (layer,) = viewer.layers
    assert type(layer).__name__ == "Surface"
    np.testing.assert_allclose(layer.extent.world.mean(0), center, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(layer.vertices - center, axis=1), 5, atol=1e-4)
    assert len(layer.faces) > 100


EXAMPLES = {
    "napari-stnreg.read_surface": (surface_example, check_surface),
    "napari-stnreg.read": (image_example, check_image),
    "napari-stnreg.read_transform": (transform_example, check_transform),
}
"""How to make a file for a reader, with what is known of it, and how to check the layers."""


@pytest.mark.parametrize(("command", "pattern"), PATTERNS)
def test_a_file_of_every_pattern_opens(viewer, tmp_path, command, pattern):
    assert command in EXAMPLES, "add an example for the new reader to this file"
    make, check = EXAMPLES[command]
    path, expected = make(tmp_path, pattern.removeprefix("*"))
    for opener in OPENERS.values():
        viewer.layers.clear()
        opener(viewer, path)
        check(viewer, expected)


def test_labels_open_as_labels(viewer, tmp_path):
    data = np.zeros((5, 6, 7), np.int16)
    data[1:3, 2:5, 3:6] = 4
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_intent("label")
    nibabel.save(image, tmp_path / "labels.nii.gz")
    drop(viewer, tmp_path / "labels.nii.gz")
    (layer,) = viewer.layers
    assert type(layer).__name__ == "Labels"
    assert sorted(np.unique(layer.data)) == [0, 4]
    assert np.count_nonzero(layer.data) == 18


@pytest.mark.parametrize("kind", ["parcellation", "mask", "tissues"])
def test_integer_volumes_of_few_values_open_as_labels(viewer, tmp_path, kind):
    """No intent is set, as in the files of many segmentation programs."""
    y, x = np.mgrid[:40, :48]
    inside = (y - 20) ** 2 + (x - 24) ** 2 < 300
    flat = {"parcellation": 1000 + 37 * (y // 8) + x // 8, "mask": np.full_like(y, 255), "tissues": 1 + x // 16}[kind]
    data = np.repeat(np.where(inside, flat, 0)[None], 12, axis=0).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "seg.nii.gz")
    viewer.open(tmp_path / "seg.nii.gz", plugin=PLUGIN)
    assert type(viewer.layers[0]).__name__ == "Labels"
    assert set(np.unique(viewer.layers[0].data)) == set(np.unique(data))


@pytest.mark.parametrize("kind", ["noise", "smooth", "steps"])
def test_gray_volumes_open_as_images(viewer, tmp_path, kind):
    from scipy import ndimage

    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((24, 40, 48)), 5)
    data = {
        "noise": rng.integers(0, 100, smooth.shape),
        "smooth": 255 * (smooth - smooth.min()) / np.ptp(smooth),
        "steps": np.broadcast_to(np.arange(48) // 2, smooth.shape) + rng.integers(0, 2, smooth.shape),
    }[kind].astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "gray.nii.gz")
    viewer.open(tmp_path / "gray.nii.gz", plugin=PLUGIN)
    assert type(viewer.layers[0]).__name__ == "Image"


def test_medical_images_open_without_a_question_once_a_panel_was_open(viewer, tmp_path):
    """napari's own reader claims these endings too, but cannot read them."""
    viewer.window.add_plugin_dock_widget(PLUGIN, "Compare views")
    path, _ = nifti_example(tmp_path, ".nii.gz")
    viewer.open(path, plugin=None)  # raises if there is a choice between readers
    assert viewer.layers[0].source.reader_plugin == PLUGIN


@pytest.mark.parametrize("ending", [".gii", ".vtk", ".obj", ".ply"])
def test_a_mesh_opens_on_its_image_without_a_question(viewer, tmp_path, ending):
    """An image with scanner coordinates gives them to a mesh that states none."""
    viewer.window.add_plugin_dock_widget(PLUGIN, "Compare views")
    path, _ = nifti_example(tmp_path, ".nii.gz")
    viewer.open(path, plugin=None)
    corner = np.asarray(viewer.layers[0].data_to_world((3, 2, 1)))
    viewer.open(write_mesh(tmp_path / f"a{ending}", sphere(4, corner)), plugin=None)  # raises if there is a choice
    surface = viewer.layers[-1]
    assert surface.source.reader_plugin == PLUGIN
    assert surface.units == viewer.layers[0].units
    np.testing.assert_allclose(surface.extent.world.mean(0), corner, atol=1e-4)


def test_several_files_dropped_together_open_together(viewer, tmp_path):
    (tmp_path / "a").mkdir()
    first, _ = nifti_example(tmp_path / "a", ".nii")
    second, _ = nifti_example(tmp_path, ".nii.gz")
    drop(viewer, first, second)
    assert len(viewer.layers) == 2


def test_dropped_model_points_to_the_model_selector(viewer, tmp_path):
    """A model is no layer; napari shows a notification instead."""
    from napari.utils.notifications import notification_manager

    path = sr.load("box-2d").save(tmp_path / "network.safetensors")
    before = len(notification_manager.records)
    drop(viewer, path)
    assert len(viewer.layers) == 0
    said = [record.message for record in notification_manager.records[before:]]
    assert any("network.safetensors" in text and "model" in text for text in said), said
