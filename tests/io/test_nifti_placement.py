"""NIfTI files with two positions, or none: it is announced, and transforms fit the program they are written for."""

import warnings
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.io.image import read_content
from napari_stnreg.transforms import AffineTransform, BSplineTransform, Transform, chain

SHAPE = (22, 20, 18)


def _affine(angle: float, origin: tuple[float, ...], voxel: tuple[float, ...] = (2.0, 2.0, 2.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zx", [angle, angle / 2], degrees=True).as_matrix() * voxel
    matrix[:3, 3] = origin
    return matrix


FIRST, SECOND = _affine(0, (-22, -20, -18)), _affine(17, (-9, -34, -11))
SHEARED = SECOND @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _write(path, qform, sform, codes) -> sr.Image:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), sform)
    image.header.set_xyzt_units("mm")
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    nib.save(image, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sr.read_image(path)


@dataclass
class _Result:
    """What ``save`` needs of a result."""

    transform: Transform
    fixed: sr.Image
    moving: sr.Image
    info: dict = field(default_factory=dict)

    @property
    def grid(self):
        return self.fixed.grid

    def report(self):
        return self.info


def _transforms(fixed) -> dict[str, Transform]:
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(0, 0.03, (3, 4))
    affine = AffineTransform(matrix, "mm")
    corner = fixed.grid.points().reshape(-1, 3).mean(axis=0)
    lattice = sr.Grid.from_spacing((9,) * 3, 16.0, corner - 4 * 16.0, unit="mm")
    bend = BSplineTransform(torch.from_numpy(np.random.default_rng(1).normal(0, 2, (3, 9, 9, 9))), lattice)
    return {"affine": affine, "chain": chain(affine, bend)}


def _itk_index(path, points) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    return np.array([image.TransformPhysicalPointToContinuousIndex(p) for p in np.asarray(points).tolist()])


def _file_index(image: sr.Image, points: np.ndarray, path) -> np.ndarray:
    """Voxel of the file (i, j, k) of points of our world."""
    return (points[:, ::-1] - nib.load(path).affine[:3, 3]) @ np.linalg.inv(nib.load(path).affine[:3, :3]).T


@pytest.mark.parametrize(
    ("qform", "sform", "codes"),
    [
        (FIRST, SECOND, (1, 2)), (FIRST, SECOND, (1, 4)), (FIRST, SECOND, (3, 3)), (FIRST, SECOND, (1, 1)),
        (FIRST, SECOND, (0, 0)), (FIRST, SHEARED, (1, 1)), (FIRST, SECOND @ np.diag([1.2, 1, 1, 1]), (1, 1)),
    ],
)  # fmt: skip
def test_transforms_for_itk_match_the_position_that_itk_uses(tmp_path, qform, sform, codes):
    name = "chain" if codes in ((1, 2), (0, 0)) else "affine"
    fixed = _write(tmp_path / "f.nii.gz", FIRST, FIRST, (1, 1))
    moving = _write(tmp_path / "m.nii.gz", qform, sform, codes)
    for still, other, first, second in (
        (fixed, moving, "f.nii.gz", "m.nii.gz"),
        (moving, fixed, "m.nii.gz", "f.nii.gz"),
    ):
        transform = _transforms(still)[name].between(still, other).with_domain(still.grid)
        result = _Result(transform, still, other)
        index = np.random.default_rng(2).uniform(3, 14, (20, 3))
        points = (index @ nib.load(tmp_path / first).affine[:3, :3].T + nib.load(tmp_path / first).affine[:3, 3])[
            :, ::-1
        ]
        expected = _file_index(other, transform.map_points(points), tmp_path / second)
        image = sitk.ReadImage(str(tmp_path / first))
        theirs = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()]
        for ending in ("h5", "tfm", "nii.gz"):
            path = sr.save(result, tmp_path / f"t.{ending}")
            if ending == "nii.gz":
                applied = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
            else:
                applied = sitk.ReadTransform(str(path))
            found = _itk_index(tmp_path / second, [applied.TransformPoint(p) for p in theirs])
            np.testing.assert_allclose(found, expected, atol=0.02 if ending == "nii.gz" else 1e-4)
            again = sr.load(path, fixed=read_content(tmp_path / first), moving=read_content(tmp_path / second))
            tolerance = 0.05 if ending == "nii.gz" else 1e-3
            np.testing.assert_allclose(again.map_points(points), transform.map_points(points), atol=tolerance)
        if transform.itk_matrices != (None, None):
            with pytest.raises(InputError, match="Give the fixed and the moving image"):
                sr.load(tmp_path / "t.tfm")


def test_matrices_round_trip_through_file_inverse_and_layer(tmp_path):
    from napari_stnreg.io.napari_layers import transform_from_metadata, transform_to_metadata

    fixed = _write(tmp_path / "f.nii", FIRST, FIRST, (1, 1))
    moving = _write(tmp_path / "m.nii", FIRST, SECOND, (1, 2))
    transform = _transforms(fixed)["chain"].between(fixed, moving)
    assert transform.itk_matrices[0] is None
    assert transform.itk_matrices[1] is not None
    sr.save(transform, tmp_path / "t.safetensors")
    for again in (sr.load(tmp_path / "t.safetensors"), transform_from_metadata(transform_to_metadata(transform)),
                  transform.inverse().inverse(), transform.with_unit("um").translated_frame(np.ones(3))):  # fmt: skip
        assert again.itk_matrices == transform.itk_matrices
    assert transform.inverse().itk_matrices == transform.itk_matrices[::-1]


@pytest.mark.parametrize(
    ("codes", "text"), [((1, 2), "ITK puts"), ((3, 1), "as in ITK"), ((0, 0), "no position"), ((1, 1), "")]
)
def test_an_uncertain_position_is_announced(tmp_path, codes, text, capsys):
    from napari_stnreg.cli.app import app

    path = tmp_path / "m.nii"
    _write(path, FIRST, SECOND if text else FIRST, codes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = sr.read_image(path)
    assert [str(one.message).count(text) > 0 for one in caught] == ([True] if text else [])
    app(["info", str(path)], result_action="return_value")
    assert ("position" in capsys.readouterr().out) is bool(text)
    data = np.random.default_rng(0).normal(size=SHAPE[::-1]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sr.register(
            image.replace(data=data), image.replace(data=data + 1), family="translation", preset="fast"
        )
    assert any("form" in one for one in result.warnings) is bool(text)
    assert result.transform.itk_matrices == (image.itk_matrix, image.itk_matrix)
