"""Transform formats: files of other programs are read, ours are read by them, and compositions keep their order."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from scipy import ndimage
from scipy.interpolate import BSpline

import napari_stnreg as sr
from napari_stnreg.core.grid import Grid
from napari_stnreg.io.formats import POINT_FORMATS, SURFACE_FORMATS, TRANSFORM_FORMATS
from napari_stnreg.io.transform_io import TransformStep, load_composition
from napari_stnreg.transforms import AffineTransform, chain, make_family

nitransforms = pytest.importorskip("nitransforms")


def matrix(seed=0, ndim=3):
    rng = np.random.default_rng(seed)
    made = np.eye(ndim + 1)
    made[:-1, :-1] += rng.normal(0, 0.05, (ndim, ndim))
    made[:-1, -1] = rng.normal(0, 5, ndim)
    return made


@pytest.fixture
def pair(tmp_path):
    """NIfTI files of different orientation, one left-handed and one right-handed, and points within the fixed one."""
    for name, axes, shape in (("fixed", [[0, -1.5, 0], [2, 0, 0], [0, 0, 1.8]], (9, 10, 11)),
                              ("moving", [[-1.7, 0, 0.1], [0, 1.7, 0], [0.1, 0, -1.4]], (12, 9, 10))):  # fmt: skip
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = 5, -8, 11
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), tmp_path / f"{name}.nii.gz")
    fixed, moving = (sr.read(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving"))
    return fixed, moving, fixed.grid.points().reshape(-1, 3)[::17]


def mapped_in_ras(ras, points):
    """Map points (z, y, x) of scanner coordinates by a matrix of (right, anterior, superior)."""
    return (points[:, ::-1] @ ras[:3, :3].T + ras[:3, 3])[:, ::-1]


def smooth(grid, system="scanner"):
    family = make_family("bspline")
    theta = torch.randn(1, *family.parameter_shape(grid), generator=torch.Generator().manual_seed(0)).double()
    return family(theta, grid).with_coordinate_systems(system, system)


# -- the registry


@pytest.mark.parametrize("one", [*TRANSFORM_FORMATS, *POINT_FORMATS], ids=lambda one: one.name)
def test_the_functions_of_the_registry_exist(one):
    assert callable(one.read_function())
    assert not one.writer or callable(one.write_function())
    assert one.conventions


def test_the_manifest_names_transforms_that_are_no_images():
    readers = yaml.safe_load((Path(sr.__file__).parent / "napari.yaml").read_text())["contributions"]["readers"]
    (reader,) = [one for one in readers if one["command"] == "napari-stnreg.read_transform"]
    images = {".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".zarr"}
    suffixes = {suffix for one in TRANSFORM_FORMATS for suffix in one.suffixes}
    assert {Path(pattern).suffix for pattern in reader["filename_patterns"]} == suffixes - images


def test_the_manifest_names_the_suffixes_of_surfaces():
    readers = yaml.safe_load((Path(sr.__file__).parent / "napari.yaml").read_text())["contributions"]["readers"]
    (reader,) = [one for one in readers if one["command"] == "napari-stnreg.read_surface"]
    assert reader["filename_patterns"] == [f"*{suffix}" for one in SURFACE_FORMATS for suffix in one.suffixes]


# -- of other programs


@pytest.mark.parametrize(("kind", "name"), [("fsl", "flirt.mat"), ("fs", "t.lta")])
def test_linear_transforms_of_fsl_and_freesurfer(tmp_path, pair, kind, name):
    fixed, moving, points = pair
    ras = matrix()
    written = nitransforms.linear.Affine(ras, reference=str(tmp_path / "fixed.nii.gz"))
    written.to_filename(str(tmp_path / name), fmt=kind, moving=str(tmp_path / "moving.nii.gz"))
    transform = sr.load(tmp_path / name, fixed=fixed, moving=moving)
    np.testing.assert_allclose(transform.map_points(points), mapped_in_ras(ras, points), atol=1e-4)
    assert transform.coordinate_systems == ("scanner", "scanner")


def test_a_matrix_of_fsl_needs_both_nifti_images(tmp_path, pair):
    fixed, _, _ = pair
    np.savetxt(tmp_path / "flirt.mat", matrix())
    with pytest.raises(sr.InputError, match=r"-ref.*-in"):
        sr.load(tmp_path / "flirt.mat")
    with pytest.raises(sr.InputError, match="NIfTI"):
        sr.load(tmp_path / "flirt.mat", fixed=fixed, moving=sr.Image.from_array(np.zeros((4, 5, 6))))


def xfm(*parts):
    text = "MNI Transform File\n% made for a test\n\n"
    for values, inverted in parts:
        rows = "\n".join(" ".join(f"{value:.12f}" for value in row) for row in values[:3])
        text += f"Transform_Type = Linear;\n{'Invert_Flag = True;' if inverted else ''}\nLinear_Transform =\n{rows};\n"
    return text


def test_linear_transforms_of_minc_map_the_moving_to_the_fixed_world(tmp_path, pair):
    _, _, points = pair
    first, second = matrix(1), matrix(2)
    (tmp_path / "t.xfm").write_text(xfm((first, False), (second, True)))
    forward = np.linalg.inv(second) @ first
    transform = sr.load(tmp_path / "t.xfm")
    np.testing.assert_allclose(transform.map_points(points), mapped_in_ras(np.linalg.inv(forward), points), atol=1e-8)


@pytest.mark.parametrize("text", ["", "MNI Transform File\n", xfm((np.zeros((4, 4)), False)),
                                  "MNI Transform File\nTransform_Type = Grid_Transform;\nDisplacement_Volume = a.mnc;",
                                  "MNI Transform File\nTransform_Type = Linear;\nLinear_Transform = 1 2;"])  # fmt: skip
def test_damaged_files_of_minc_are_refused(tmp_path, text):
    (tmp_path / "t.xfm").write_text(text)
    with pytest.raises(sr.InputError, match=r"'t\.xfm'"):
        sr.load(tmp_path / "t.xfm")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_a_displacement_field_written_by_itk_maps_points_as_itk_does(tmp_path, pair, suffix):
    _, _, points = pair
    rng = np.random.default_rng(0)
    picture = sitk.GetImageFromArray(rng.normal(0, 1, (11, 10, 9, 3)), isVector=True)
    picture.SetOrigin((-20, -20, 0))
    picture.SetSpacing((4, 4, 4))
    picture.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    sitk.WriteImage(picture, str(tmp_path / f"t{suffix}"))
    transform = sr.load(tmp_path / f"t{suffix}")
    theirs = sitk.DisplacementFieldTransform(sitk.Image(picture))  # it takes the image away
    lps = points[:, ::-1] * [-1, -1, 1]
    index = [picture.TransformPhysicalPointToContinuousIndex(p) for p in lps.tolist()]
    inside = ((np.array(index) > 0.5) & (np.array(index) < np.array([9, 10, 11]) - 1.5)).all(axis=1)
    assert np.sum(inside) > 5
    expected = np.array([theirs.TransformPoint(p) for p in lps[inside].tolist()]) * [-1, -1, 1]
    np.testing.assert_allclose(transform.map_points(points[inside]), expected[:, ::-1], atol=1e-8)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_grid_transform_that_we_write_is_the_field_that_itk_reads(tmp_path, pair, suffix):
    fixed, _, points = pair
    transform = smooth(fixed.grid)
    path = sr.save(transform, tmp_path / f"t{suffix}", grid=fixed.grid)
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    theirs = np.array([field.TransformPoint(p) for p in (points[:, ::-1] * [-1, -1, 1]).tolist()]) * [-1, -1, 1]
    np.testing.assert_allclose(theirs[:, ::-1], transform.map_points(points), atol=1e-6)
    np.testing.assert_allclose(sr.load(path).map_points(points), transform.map_points(points), atol=1e-6)


def test_an_image_is_no_displacement_field(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6))), str(tmp_path / "a.nrrd"))
    with pytest.raises(sr.InputError, match="Is it an image"):
        sr.load(tmp_path / "a.nrrd")


def test_a_linear_transform_is_written_for_ants(tmp_path):
    for ndim in (2, 3):
        transform = AffineTransform(matrix(ndim=ndim), "mm")
        transform = chain(transform, transform)
        path = sr.save(transform, tmp_path / f"t{ndim}.mat")
        points = np.random.default_rng(0).normal(0, 10, (5, ndim))
        theirs = sitk.ReadTransform(str(path))
        expected = [theirs.TransformPoint(p[::-1].tolist())[::-1] for p in points]
        np.testing.assert_allclose(transform.map_points(points), expected, atol=1e-9)
        np.testing.assert_allclose(sr.load(path, space="world", unit="mm").map_points(points), expected, atol=1e-9)
    with pytest.raises(sr.InputError, match="holds a linear transform"):
        sr.save(smooth(Grid.from_spacing((8, 9, 10)), "world"), tmp_path / "b.mat")


def test_parameter_files_of_elastix_hold_affine_and_spline_exactly(tmp_path, pair):
    fixed, _, points = pair
    affine = AffineTransform(matrix(), "mm").with_coordinate_systems("scanner", "scanner")
    for transform in (affine, smooth(fixed.grid), chain(affine, smooth(fixed.grid))):
        path = sr.save(transform, tmp_path / "TransformParameters.0.txt", grid=fixed.grid)
        np.testing.assert_allclose(sr.load(path).map_points(points), transform.map_points(points), atol=1e-9)
    text = path.read_text()
    assert '(InitialTransformParameterFileName "TransformParameters.0.before0.txt")' in text
    assert f"(Size {' '.join(map(str, fixed.grid.shape[::-1]))})" in text
    family = make_family("tps")
    tps = family(0.1 * torch.randn(1, *family.parameter_shape(fixed.grid)), fixed.grid)
    with pytest.raises(sr.InputError, match=r"elastix has no .* transform"):
        sr.save(tps, path, grid=fixed.grid)
    with pytest.raises(sr.InputError, match="grid of the fixed image"):
        sr.save(affine, path)


# -- composition


def test_transforms_are_composed_in_the_order_of_ants(tmp_path):
    first, second = AffineTransform(matrix(1), "mm"), AffineTransform(matrix(2), "mm")
    sr.save(first, tmp_path / "a.tfm")
    sr.save(second, tmp_path / "b.safetensors")
    points = np.random.default_rng(0).normal(0, 10, (5, 3))
    both = load_composition([tmp_path / "a.tfm", f"[{tmp_path / 'b.safetensors'},1]"])
    np.testing.assert_allclose(
        both.map_points(points), second.inverse().map_points(first.map_points(points)), atol=1e-8
    )
    # ITK composes what it is given last first, so that the first of the list acts on points of the fixed image first.
    theirs = sitk.CompositeTransform(3)
    for path in ("b.tfm", "a.tfm"):
        sr.save({"a.tfm": first, "b.tfm": second}[path], tmp_path / path)
        theirs.AddTransform(sitk.ReadTransform(str(tmp_path / path)))
    ours = load_composition([tmp_path / "a.tfm", tmp_path / "b.tfm"])
    expected = [theirs.TransformPoint(p[::-1].tolist())[::-1] for p in points]
    np.testing.assert_allclose(ours.map_points(points), expected, atol=1e-8)


def test_steps_are_written_as_ants_writes_them():
    assert TransformStep.parse("a.h5") == TransformStep(Path("a.h5"))
    assert TransformStep.parse("[a.h5,1]") == TransformStep(Path("a.h5"), True)
    assert TransformStep.parse("[ dir/a b.h5 , 0 ]") == TransformStep(Path("dir/a b.h5"))


def test_transforms_between_different_spaces_are_refused(tmp_path):
    sr.save(AffineTransform(np.eye(3), "mm"), tmp_path / "flat.tfm")
    sr.save(AffineTransform(np.eye(4), "mm"), tmp_path / "world.tfm")
    sr.save(AffineTransform(np.eye(4), "mm").with_coordinate_systems("scanner", "scanner"), tmp_path / "scanner.tfm")
    with pytest.raises(sr.InputError, match=r"'flat\.tfm' is 2D and 'world\.tfm' 3D"):
        load_composition([tmp_path / "world.tfm", tmp_path / "flat.tfm"])
    with pytest.raises(sr.InputError, match="ends in world coordinates"):
        load_composition([tmp_path / "world.tfm", tmp_path / "scanner.tfm"])


# -- nothing is overwritten


def test_a_saved_transform_replaces_neither_an_image_nor_a_foreign_folder(tmp_path):
    transform = AffineTransform(np.eye(4), "mm")
    image = sr.Image.from_array(np.arange(120, dtype=np.uint8).reshape(4, 5, 6), unit="mm")
    sr.write_image(tmp_path / "raw.zarr", image)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "raw.zarr", target_is_directory=True)
    for name in ("raw.zarr", "link.zarr"):
        with pytest.raises(sr.InputError, match=r"not written by this program|symbolic link"):
            sr.save(transform, tmp_path / name)
    np.testing.assert_array_equal(sr.read(tmp_path / "raw.zarr").data, image.data)
    for _ in range(2):  # its own scene is replaced
        sr.save(transform, tmp_path / "scene.zarr")
    with pytest.raises(sr.InputError, match="not written by this program"):
        sr.write_image(tmp_path / "scene.zarr", image)


def test_a_result_is_never_saved_over_its_images(tmp_path):
    from types import SimpleNamespace

    sr.write_image(tmp_path / "fixed.nii", sr.Image.from_array(np.zeros((4, 5, 6), np.uint8), unit="mm"))
    (tmp_path / "sub").mkdir()
    fixed = sr.read(tmp_path / "fixed.nii")
    result = SimpleNamespace(
        transform=AffineTransform(np.eye(4), "mm"), grid=fixed.grid, fixed=fixed, moving=None, report=dict
    )
    before = (tmp_path / "fixed.nii").read_bytes()
    for name in ("fixed.nii", "sub/../fixed.nii"):
        with pytest.raises(sr.InputError, match="is an input of this run"):
            sr.save(result, tmp_path / name)
    assert (tmp_path / "fixed.nii").read_bytes() == before
    sr.save(result, tmp_path / "field.nii")


# -- deformations of SPM, NiftyReg and MINC


def ras_field(seed=0, shape=(9, 10, 11)):
    """Return an oblique affine, displacements (x, y, z, 3) in RAS mm, and a function that maps points with them."""
    affine = np.array([[0, -1.5, 0.2, 5], [2, 0.1, 0, -8], [0.1, 0, 1.8, 11], [0, 0, 0, 1]])
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(0, 8, (*shape, 3)), (2, 2, 2, 0)).astype(np.float32)
    field += np.array([3, -2, 1], np.float32)

    def mapped(points):
        """Map points (z, y, x) as the other program does: linear interpolation in RAS."""
        ras = points[:, ::-1]
        index = (np.c_[ras, np.ones(len(ras))] @ np.linalg.inv(affine).T)[:, :3].T
        moved = ras + np.stack([ndimage.map_coordinates(field[..., i], index, order=1) for i in range(3)], axis=1)
        return moved[:, ::-1]

    index = rng.uniform(1, np.array(shape) - 2, (40, 3))
    return affine, field, mapped, (np.c_[index, np.ones(40)] @ affine.T)[:, 2::-1]


def positions(affine, field):
    index = np.stack(np.meshgrid(*map(np.arange, field.shape[:3]), indexing="ij"), axis=-1)
    return (index @ affine[:3, :3].T + affine[:3, 3] + field).astype(np.float32)


def write_vectors(path, affine, vectors, intent="", parameter=0.0, descrip=b""):
    image = nib.Nifti1Image(vectors[:, :, :, None], affine)
    image.header.set_intent("vector", name=intent)
    image.header["intent_p1"], image.header["descrip"] = parameter, descrip
    nib.save(image, path)


@pytest.mark.parametrize(
    ("name", "absolute", "intent", "parameter"),
    [("any.nii", True, "Mapping", 0), ("y_subject.nii", True, "", 0), ("iy_subject.nii.gz", True, "", 0),
     ("any.nii.gz", True, "NREG_TRANS", 0), ("any.nii.gz", False, "NREG_TRANS", 1)],
)  # fmt: skip
def test_deformations_of_spm_and_niftyreg_map_as_their_programs_do(tmp_path, name, absolute, intent, parameter):
    affine, field, mapped, points = ras_field()
    write_vectors(tmp_path / name, affine, positions(affine, field) if absolute else field, intent, parameter)
    transform = sr.load(tmp_path / name)
    np.testing.assert_allclose(transform.map_points(points), mapped(points), atol=1e-4)
    assert transform.coordinate_systems == ("scanner", "scanner")


def test_control_points_of_niftyreg_map_as_niftyreg_does(tmp_path):
    affine, field, _, _ = ras_field()
    control = positions(affine, field).astype(np.float64)
    write_vectors(tmp_path / "cpp.nii", affine, control.astype(np.float32), "NREG_TRANS", 2)
    rng = np.random.default_rng(1)
    index = rng.uniform(1, np.array(control.shape[:3]) - 2, (40, 3))
    expected = np.zeros((40, 3))
    for point, place in zip(expected, index, strict=True):  # positions of control points, weighted by cubic B-splines
        cell = np.floor(place).astype(int)
        weights = [BSpline.basis_element(np.arange(-2, 3))(p - (c + np.arange(-1, 3)))
                   for p, c in zip(place, cell, strict=True)]  # fmt: skip
        near = control[tuple(slice(c - 1, c + 3) for c in cell)]
        point[:] = np.einsum("i,j,k,ijkd->d", *weights, near)
    points = (np.c_[index, np.ones(40)] @ affine.T)[:, 2::-1]
    transform = sr.load(tmp_path / "cpp.nii")
    assert transform.family == "bspline"
    np.testing.assert_allclose(transform.map_points(points), expected[:, ::-1], atol=1e-4)


def test_undefined_voxels_of_a_map_take_the_nearest_displacement_and_are_announced(tmp_path):
    affine, field, mapped, points = ras_field()
    vectors = positions(affine, field)
    vectors[-1] = np.nan
    write_vectors(tmp_path / "iy_x.nii", affine, vectors, "Mapping")
    with pytest.warns(sr.RegistrationWarning, match="11 % of 'iy_x.nii' is undefined"):
        transform = sr.load(tmp_path / "iy_x.nii")
    near = points[(np.linalg.inv(affine) @ np.c_[points[:, ::-1], np.ones(40)].T)[0] < 7]
    np.testing.assert_allclose(transform.map_points(near), mapped(near), atol=1e-4)


@pytest.mark.parametrize(
    ("intent", "parameter", "descrip"),
    [
        ("NREG_TRANS", 3, b""),
        ("NREG_TRANS", 5, b""),
        ("NREG_TRANS", 6, b""),
        ("NREG_CPP_FILE", 0, b""),
        ("", 0, b"Flow Field"),
    ],
)
def test_flows_and_splines_of_other_programs_are_refused(tmp_path, intent, parameter, descrip):
    affine, field, _, _ = ras_field()
    write_vectors(tmp_path / "t.nii", affine, field, intent, parameter, descrip)
    with pytest.raises(sr.InputError, match="Convert it"):
        sr.load(tmp_path / "t.nii")


def test_positions_without_an_intent_are_not_taken_for_displacements(tmp_path):
    affine, field, _, _ = ras_field()
    write_vectors(tmp_path / "map.nii", affine, positions(affine, field))
    with pytest.raises(sr.InputError, match="seems to hold positions"):
        sr.load(tmp_path / "map.nii")
    write_vectors(tmp_path / "warp.nii", affine, field)
    assert sr.load(tmp_path / "warp.nii").family == "displacement"


def write_minc(path, affine, field, dtype=np.float64):
    """Write a displacement volume of MINC 2, (z, y, x, vectors), with direction cosines."""
    step = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / step
    start = np.linalg.solve(cosines, affine[:3, 3])
    values, (low, high) = field.transpose(2, 1, 0, 3), (float(field.min()), float(field.max()))
    if dtype != np.float64:
        values = np.round((values - low) / (high - low) * 65535 - 32768).astype(dtype)
    with h5py.File(path, "w") as stream:
        image = stream.create_group("minc-2.0/image/0")
        data = image.create_dataset("image", data=values, compression="gzip")
        data.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace,vector_dimension")
        data.attrs["valid_range"] = np.array([-32768.0, 32767.0])
        image["image-min"], image["image-max"] = low, high
        for axis, name in enumerate(("xspace", "yspace", "zspace")):
            one = stream.create_dataset(f"minc-2.0/dimensions/{name}", data=0)
            one.attrs.update(step=step[axis], start=start[axis], direction_cosines=cosines[:, axis])
        stream.create_dataset("minc-2.0/dimensions/vector_dimension", data=0)


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_a_grid_transform_of_minc_follows_its_linear_part(tmp_path, dtype):
    affine, field, mapped, points = ras_field()
    write_minc(tmp_path / "t_grid_0.mnc", affine, field, dtype)
    linear = np.eye(4)
    linear[:3, 3] = 2, -1, 0.5
    grid = "Transform_Type = Grid_Transform;\n{}Displacement_Volume = t_grid_0.mnc;\n"
    (tmp_path / "t.xfm").write_text(xfm((linear, False)) + grid.format("Invert_Flag = True;\n"))
    # the file maps source to target: linear, then the inverted grid; back it is the grid, then the inverse of linear
    expected = mapped(points) - [0.5, -1, 2]
    np.testing.assert_allclose(sr.load(tmp_path / "t.xfm").map_points(points), expected, atol=2e-3)
    (tmp_path / "s.xfm").write_text(xfm((linear, False)) + grid.format(""))
    source = points - [0.5, -1, 2]
    np.testing.assert_allclose(sr.load(tmp_path / "s.xfm").map_points(mapped(points)), source, atol=2e-3)


def test_a_damaged_or_missing_displacement_volume_of_minc_is_refused(tmp_path):
    text = "MNI Transform File\nTransform_Type = Grid_Transform;\nDisplacement_Volume = a.mnc;\n"
    (tmp_path / "t.xfm").write_text(text)
    for content in (None, b"CDF\x01 an old one", b"\x89HDF\r\n\x1a\n" + bytes(100)):
        if content is not None:
            (tmp_path / "a.mnc").write_bytes(content)
        with pytest.raises(sr.InputError, match=r"a\.mnc"):
            sr.load(tmp_path / "t.xfm")


ELASTIX = """(Transform "{}")
(TransformParameters {})
(InitialTransformParametersFileName "NoInitialTransform")
(FixedImageDimension 2)
(GridSize 4 4)
(GridIndex 0 0)
(GridSpacing 5 5)
(GridOrigin 0 0)
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [("TransformParameters.0.txt", ELASTIX.format("AffineTransform", "1 0 0 nan 3 4")),
     ("TransformParameters.0.txt", ELASTIX.format("AffineTransform", "1 2 0.5 1 3 4")),
     ("TransformParameters.0.txt", ELASTIX.format("BSplineTransform", " ".join(["0"] * 31 + ["inf"]))),
     ("TransformParameters.0.txt", ELASTIX.format("AffineTransform", "1 0 0 1 3 4") + "(CenterOfRotationPoint nan 0)"),
     ("t.tfm", "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
               "Parameters: 0 0 0 0 3 4\nFixedParameters: 0 0\n")],
)  # fmt: skip
def test_parameters_that_are_not_finite_or_singular_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(sr.InputError, match=rf"'{name}' (is damaged|holds a singular)"):
        sr.load(tmp_path / name)
