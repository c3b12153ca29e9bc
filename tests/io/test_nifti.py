"""NIfTI: positions agree with nibabel and SimpleITK, and files round-trip unchanged."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.io import read_image, read_series, write_image
from napari_stnreg.io.nifti import AxisOrientation

SHAPE = (5, 4, 3)
# Every way in which three voxel axes can point: 6 permutations, each with 8 flips.
ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in itertools.permutations(["LR", "PA", "IS"])
    for flips in itertools.product([0, 1], repeat=3)
]


def affine_of(codes: str, spacing=(1.5, 0.7, 2.5), origin=(-10.0, 20.0, 33.0), tilt=(0.0, 0.0, 0.0)) -> np.ndarray:
    """A file's affine with these axis codes, tilted by angles in degrees."""
    axes = np.zeros((3, 3))
    for column, code in enumerate(codes):
        row = ["LR", "PA", "IS"].index(next(pair for pair in ("LR", "PA", "IS") if code in pair))
        axes[row, column] = 1 if code in "RAS" else -1
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ axes * spacing
    affine[:3, 3] = origin
    return affine


def save(path, affine, data=None, **header):
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if data is None else data
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, 1)
    image.set_sform(affine, header.get("sform_code", 1))
    nib.save(image, path)
    return nib.load(path)


def positions(image: Image) -> dict:
    """World position, as (right, anterior, superior), of every voxel value."""
    world = image.grid.points()[..., ::-1]
    return {int(v): p for v, p in zip(image.data.ravel(), world.reshape(-1, 3), strict=True)}


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_round_trips(tmp_path, codes):
    original = save(tmp_path / "a.nii", affine_of(codes, tilt=(4, -7, 11)))
    image = read_image(tmp_path / "a.nii")

    # Upright but for the tilt: each step along z, y, x is mostly along superior, anterior, right.
    assert (np.abs(image.grid.linear).argmax(axis=0) == [0, 1, 2]).all()
    assert (np.diag(image.grid.linear) > 0).all()
    for index in np.ndindex(SHAPE):
        value = int(original.dataobj[index])
        np.testing.assert_allclose(positions(image)[value], original.affine @ [*index, 1] @ np.eye(4)[:, :3], atol=1e-4)

    write_image(tmp_path / "b.nii.gz", image)
    again = nib.load(tmp_path / "b.nii.gz")
    assert again.get_data_dtype() == original.get_data_dtype()
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), np.asanyarray(original.dataobj))
    np.testing.assert_allclose(again.affine, original.affine, atol=1e-6)
    np.testing.assert_allclose(again.get_qform(), original.get_qform(), atol=1e-6)
    for key in original.header:
        np.testing.assert_array_equal(again.header[key], original.header[key], err_msg=key)


@given(
    codes=st.sampled_from(ORIENTATIONS),
    tilt=st.tuples(*[st.floats(-40, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 5)] * 3),
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    shear=st.floats(-0.2, 0.2),
)
@settings(max_examples=80, deadline=None)
def test_reorientation_preserves_world_coordinates(codes, tilt, spacing, shape, shear):
    affine = affine_of(codes, spacing, tilt=tilt) @ np.array(
        [[1, shear, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )
    turn = AxisOrientation.nearest(affine)
    grid = turn.grid(affine, shape, "mm")
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    in_file = index @ affine[:3, :3].T + affine[:3, 3]

    np.testing.assert_allclose(grid.points(), turn.data(in_file)[..., ::-1], atol=1e-9)
    np.testing.assert_array_equal(turn.restore(turn.data(in_file)), in_file)
    np.testing.assert_allclose(turn.affine(grid), affine, atol=1e-9)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SLA", "AIL"])
def test_simpleitk_finds_each_voxel_at_the_same_physical_point(tmp_path, codes):
    save(tmp_path / "a.nii", affine_of(codes, tilt=(10, 5, -8)))
    write_image(tmp_path / "b.nii", read_image(tmp_path / "a.nii"))
    for name in ("a.nii", "b.nii"):
        theirs = sitk.ReadImage(str(tmp_path / name))
        ours = positions(read_image(tmp_path / name))
        for index in itertools.product(*map(range, theirs.GetSize())):
            left, posterior, superior = theirs.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(ours[int(theirs[index])], [-left, -posterior, superior], atol=1e-4)


def test_a_result_on_a_new_grid_is_placed_by_that_grid_in_the_old_axis_order(tmp_path):
    save(tmp_path / "fixed.nii", affine_of("PSR", tilt=(3, 9, -5)), sform_code=4)
    fixed = read_image(tmp_path / "fixed.nii")
    finer = fixed.grid.resized([2 * n for n in fixed.grid.shape])
    result = Image(np.arange(finer.size, dtype=np.float32).reshape(finer.shape), finer, metadata=fixed.metadata)
    write_image(tmp_path / "result.nii", result)

    back = nib.load(tmp_path / "result.nii")
    assert nib.aff2axcodes(back.affine) == ("P", "S", "R")
    assert int(back.header["sform_code"]) == int(back.header["qform_code"]) == 4
    np.testing.assert_allclose(back.get_qform(), back.get_sform(), atol=1e-4)
    again = read_image(tmp_path / "result.nii")
    np.testing.assert_array_equal(again.data, result.data)
    np.testing.assert_allclose(again.grid.points(), finer.points(), atol=1e-4)


def test_an_image_that_never_was_a_file_is_written_upright(tmp_path):
    grid = Grid.from_spacing((3, 4, 5), (2, 1, 0.5), (7, 8, 9), unit="um")
    write_image(tmp_path / "new.nii.gz", Image(np.random.default_rng(0).random((3, 4, 5)), grid))
    back = nib.load(tmp_path / "new.nii.gz")
    assert nib.aff2axcodes(back.affine) == ("R", "A", "S")
    assert back.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(back.affine[:3, 3], [9, 8, 7])
    assert read_image(tmp_path / "new.nii.gz").grid == grid


def test_scaled_integers_become_the_values_they_represent(tmp_path):
    data = np.array([0, 100, 30000], dtype=np.int16).reshape(1, 1, 3) * np.ones((4, 3, 1), dtype=np.int16)
    image = nib.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.25, -3)
    # nibabel scales when it writes as well, so it is given the values themselves.
    nib.save(nib.Nifti1Image(data * 0.25 - 3, np.eye(4), image.header), tmp_path / "a.nii")
    truth = nib.load(tmp_path / "a.nii").get_fdata()
    ours = read_image(tmp_path / "a.nii")
    assert ours.data.dtype == np.float32
    np.testing.assert_allclose(ours.data, truth.transpose(2, 1, 0), rtol=1e-6)
    write_image(tmp_path / "b.nii", ours)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").get_fdata(), truth, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_byte_orders_are_kept(tmp_path, dtype, order):
    data = np.arange(60).reshape(5, 4, 3).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    nib.save(nib.Nifti1Image(data, np.diag([1, 2, 3, 1.0]), header), tmp_path / "a.nii")
    ours = read_image(tmp_path / "a.nii")
    assert ours.data.dtype == np.dtype(dtype)
    assert ours.data.dtype.isnative
    assert ours.data.flags.c_contiguous
    write_image(tmp_path / "b.nii", ours)
    again = nib.load(tmp_path / "b.nii")
    assert again.get_data_dtype().newbyteorder("=") == np.dtype(dtype)
    assert again.header.endianness == order
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), data)


def test_color_volumes_are_read_and_written_as_color(tmp_path):
    colors = np.random.default_rng(1).integers(0, 255, (5, 4, 3, 3), dtype=np.uint8)
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colors.view(kind)[..., 0], affine_of("LPS")), tmp_path / "rgb.nii")
    ours = read_image(tmp_path / "rgb.nii")
    assert ours.rgb
    assert ours.data.shape == (3, 4, 5, 3)
    np.testing.assert_array_equal(ours.data, colors[::-1, ::-1].transpose(2, 1, 0, 3))
    write_image(tmp_path / "again.nii", ours)
    again = np.asarray(nib.load(tmp_path / "again.nii").dataobj)
    np.testing.assert_array_equal(np.stack([again[c] for c in "RGB"], axis=-1), colors)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_a_single_slice_is_a_2d_image_and_goes_back_into_its_tilted_plane(tmp_path, flat):
    shape = tuple(1 if axis == flat else n for axis, n in enumerate(SHAPE))
    affine = affine_of("LPS", tilt=(12, -9, 5))
    original = save(tmp_path / "a.nii", affine, np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    image = read_image(tmp_path / "a.nii")
    assert image.ndim == 2
    write_image(tmp_path / "b.nii", image)
    again = nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), np.asanyarray(original.dataobj))
    np.testing.assert_allclose(again.affine, original.affine, atol=1e-6)

    # Every second voxel of it lies where that voxel lay.
    every_second = image.data[::2, ::2]
    grid = Grid(every_second.shape, image.grid.matrix @ np.diag([2, 2, 1]), "mm")
    write_image(tmp_path / "half.nii", image.replace(data=every_second, grid=grid))
    placed = nib.load(tmp_path / "half.nii")
    for index in np.ndindex(placed.shape):
        where = np.argwhere(np.asanyarray(original.dataobj) == placed.dataobj[index])[0]
        np.testing.assert_allclose(placed.affine @ [*index, 1], original.affine @ [*where, 1], atol=1e-4)


def test_a_two_axis_file_is_a_2d_image(tmp_path):
    nib.save(nib.Nifti1Image(np.arange(12, dtype=np.uint8).reshape(4, 3), np.diag([2, 3, 1, 1.0])), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.data, np.arange(12).reshape(4, 3).T)
    np.testing.assert_allclose(image.grid.spacing, [3, 2])


def test_a_time_series_requires_a_frame_and_returns_each(tmp_path):
    data = np.arange(5 * 4 * 3 * 6, dtype=np.int16).reshape(5, 4, 3, 6)
    nib.save(nib.Nifti1Image(data, affine_of("LAS")), tmp_path / "t.nii.gz")
    with pytest.raises(InputError, match=r"6 frames.*frame=0"):
        read_image(tmp_path / "t.nii.gz")
    with pytest.raises(InputError, match="no frame 6"):
        read_image(tmp_path / "t.nii.gz", frame=6)
    frames = read_series(tmp_path / "t.nii.gz")
    assert len(frames) == 6
    np.testing.assert_array_equal(frames[4].data, data[::-1, ..., 4].transpose(2, 1, 0))
    np.testing.assert_array_equal(read_image(tmp_path / "t.nii.gz", frame=4).data, frames[4].data)
    assert all(frame.grid == frames[0].grid for frame in frames)


def test_more_axes_and_impossible_affines_are_refused_in_a_sentence(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2, 2), dtype=np.uint8), np.eye(4)), tmp_path / "five.nii")
    with pytest.raises(InputError, match="5 axes"):
        read_image(tmp_path / "five.nii")
    header = nib.Nifti1Header()
    header["sform_code"] = 1
    header["srow_x"] = header["srow_y"] = [0, 1, 0, 0]
    header["srow_z"] = [0, 0, 1, 0]
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype=np.uint8), None, header), tmp_path / "flat.nii")
    with pytest.raises(InputError, match="singular"):
        read_image(tmp_path / "flat.nii")


def test_header_extensions_stay_with_an_unchanged_image(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanned on a Tuesday"))
    nib.save(image, tmp_path / "a.nii")
    ours = read_image(tmp_path / "a.nii")
    write_image(tmp_path / "b.nii", ours)
    assert b"Tuesday" in (tmp_path / "b.nii").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii").data, ours.data)
