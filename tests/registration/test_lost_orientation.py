"""Files without an orientation are read in the order of their partner, and results fit the file as it is read."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

import napari_stnreg as sr
from napari_stnreg.registration.lost_orientation import orient_as_partner

SHAPE = (26, 30, 22)
STORED = {
    "RAS": np.diag([2.0, 2, 2, 1]),
    "LAS": np.diag([-2.0, 2, 2, 1]),
    "PSR": np.array([[0.0, 0, 2, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]),
}


def drawn():
    rng = np.random.default_rng(3)
    volume = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.2)
    return (volume / volume.std() * 100).astype(np.float32)


def write(path, volume, affine, code):
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    nib.save(image, path)
    return path


def matched(transform, fixed, moving, voxels):
    """Return how far apart the voxels of the same index in two files are after the transform."""
    points = []
    for image in (fixed, moving):
        affine = nib.load(image.metadata["path"]).affine
        points.append((voxels @ affine[:3, :3].T + affine[:3, 3])[:, ::-1])
    return np.linalg.norm(transform.map_points(points[0]) - points[1], axis=1).max()


@pytest.mark.filterwarnings("ignore::napari_stnreg.RegistrationWarning")
@pytest.mark.parametrize("lost", ["moving", "fixed"])
@pytest.mark.parametrize("order", list(STORED))
def test_a_file_without_orientation_is_read_in_the_order_of_its_partner(tmp_path, order, lost):
    volume = drawn()
    affine = STORED[order].copy()
    affine[:3, 3] = -20, 15, 7
    paths = {
        side: write(tmp_path / f"{side}.nii.gz", volume, affine, int(side != lost)) for side in ("fixed", "moving")
    }
    fixed, moving = (sr.read_image(paths[side]) for side in ("fixed", "moving"))
    result = sr.register(fixed, moving, family="rigid", preset="fast", similarity="ncc")
    voxels = np.array([[3.0, 4, 5], [20, 6, 8], [9, 25, 4], [12, 14, 19]])
    assert matched(result.transform, fixed, moving, voxels) < 0.5
    assert result.verdict == "good"
    assert any(f"'{lost}' states no orientation" in text for text in result.warnings) == (order != "LAS")
    # what was saved fits the file as it is read, in this program and in ITK
    again = sr.warp(sr.read_image(paths["moving"]), result.transform, sr.read_image(paths["fixed"]).grid)
    assert np.corrcoef(again.data.ravel(), fixed.data.ravel())[0, 1] > 0.95
    saved = sr.save(result, tmp_path / "t.tfm")
    pictures = [sitk.ReadImage(str(paths[side])) for side in ("fixed", "moving")]
    warped = sitk.Resample(pictures[1], pictures[0], sitk.ReadTransform(str(saved)), sitk.sitkLinear, 0.0)
    inner = sitk.GetArrayFromImage(warped).transpose(2, 1, 0)[3:-3, 3:-3, 3:-3]
    assert np.corrcoef(inner.ravel(), volume[3:-3, 3:-3, 3:-3].ravel())[0, 1] > 0.95


@pytest.mark.filterwarnings("ignore::napari_stnreg.RegistrationWarning")
def test_the_partner_may_be_of_another_format_and_placed_files_are_left_alone(tmp_path):
    volume = drawn()
    lost = sr.read_image(write(tmp_path / "lost.nii", volume, STORED["RAS"], 0))
    placed = sr.read_image(write(tmp_path / "placed.nii", volume, STORED["RAS"], 1))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "placed.nii")), str(tmp_path / "placed.nrrd"))
    found = orient_as_partner(sr.read_image(tmp_path / "placed.nrrd"), lost)
    assert found is not None
    assert "(RAS)" in found.note
    np.testing.assert_allclose(np.diag(found.matrix), [1, 1, -1, 1])
    np.testing.assert_allclose(found.reoriented_points([[1.0, 2, 3]]), [[1, 2, -3 + 2 * lost.grid.center[2]]])
    assert orient_as_partner(placed, placed.replace(name="other")) is None
    assert orient_as_partner(lost, lost.replace(name="other")) is None
    moved = lost.replace(grid=lost.grid.translated([0.0, 0, 30]))  # placed by hand
    assert orient_as_partner(placed, moved) is None
    assert orient_as_partner(placed, sr.Image.from_array(np.zeros(SHAPE, np.float32))) is None
