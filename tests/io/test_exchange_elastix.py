"""elastix' parameter files, checked against ITK's transforms of the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

import napari_stnreg as sr
from tests.helpers.exchange_scenes import inner_points, theirs_of


def parameter_file(path, kind, values, ndim=3, **more):
    lines = {"Transform": kind, "NumberOfParameters": len(values), "TransformParameters": list(values),
             "InitialTransformParametersFileName": "NoInitialTransform", "HowToCombineTransforms": "Compose",
             "FixedImageDimension": ndim, "MovingImageDimension": ndim, **more}  # fmt: skip
    text = "// made by hand\n"
    for key, value in lines.items():
        words = value if isinstance(value, list) else [value]
        text += f"({key} {' '.join(json.dumps(w) if isinstance(w, str) else repr(float(w)) for w in words)})\n"
    path.write_text(text)
    return path


def test_elastix_files_move_points_as_itks_transforms_of_the_same_numbers(tmp_path):
    center = (4.0, -3.0, 2.0)
    euler = sitk.Euler3DTransform(center, 0.2, -0.1, 0.3, (1.0, 2, -3))
    similarity = sitk.Similarity3DTransform(1.1, (0.0, 0.6, 0.8), 0.4, (1.0, 2, 3), center)
    affine = theirs_of("affine")
    affine.SetCenter(center)
    flat = sitk.Euler2DTransform((5.0, -4), 0.2, (1.0, -2))
    around = {"CenterOfRotationPoint": list(center)}
    cases = [
        (euler, "EulerTransform", euler.GetParameters(), around),
        (similarity, "SimilarityTransform", similarity.GetParameters(), around),
        (affine, "AffineTransform", affine.GetParameters(), around),
        (theirs_of("translation"), "TranslationTransform", (3.0, -2, 1), {}),
        (flat, "EulerTransform", flat.GetParameters(), {"ndim": 2, "CenterOfRotationPoint": [5.0, -4]}),
    ]
    other = sitk.Euler3DTransform(center, 0.2, -0.1, 0.3, (1.0, 2, -3))
    other.SetComputeZYX(True)
    cases.append((other, "EulerTransform", other.GetParameters(), {**around, "ComputeZYX": "true"}))
    for number, (theirs, kind, values, more) in enumerate(cases):
        path = parameter_file(tmp_path / f"{number}.txt", kind, values, **more)
        points = inner_points(theirs.GetDimension())
        expected = np.array([theirs.TransformPoint(p) for p in points])
        found = sr.load(path, space="world").map_points(points[:, ::-1])[:, ::-1]
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=kind)


def test_elastix_spline_follows_its_initial_transform(tmp_path):
    theirs = theirs_of("bspline")
    fixed = np.array(theirs.GetFixedParameters())
    affine = theirs_of("affine")
    affine.SetCenter((0.0, 0, 0))
    affine.SetMatrix((np.eye(3) + 0.02).ravel())
    parameter_file(tmp_path / "T.0.txt", "AffineTransform", affine.GetParameters(), CenterOfRotationPoint=[0.0, 0, 0])
    path = parameter_file(
        tmp_path / "T.1.txt", "BSplineTransform", theirs.GetParameters(), GridSize=list(fixed[:3]),
        GridIndex=[0.0, 0, 0], GridOrigin=list(fixed[3:6]), GridSpacing=list(fixed[6:9]),
        GridDirection=list(fixed[9:].reshape(3, 3).T.ravel()), BSplineTransformSplineOrder=3,
        InitialTransformParametersFileName="/gone/T.0.txt",
    )  # fmt: skip
    points = inner_points(3) * 0.7
    expected = np.array([theirs.TransformPoint(affine.TransformPoint(p)) for p in points])
    found = sr.load(path, space="world")
    np.testing.assert_allclose(found.map_points(points[:, ::-1])[:, ::-1], expected, atol=1e-6)
    path.write_text(path.read_text().replace("T.0.txt", "T.7.txt"))
    with pytest.raises(sr.InputError, match="refers to the initial transform"):
        sr.load(path)


@pytest.mark.parametrize(
    ("kind", "values", "more", "sentence"),
    [
        ("WeirdTransform", (1.0,), {}, "WeirdTransform"),
        ("AffineTransform", (1.0, 2), {}, "2 numbers instead of 12"),
        ("EulerTransform", (1.0,) * 6, {"InitialTransformParametersFileName": "self.txt"}, "refers to itself"),
        ("BSplineTransform", (1.0,), {}, "no valid 'GridSize'"),
    ],
)
def test_bad_elastix_files_are_refused(tmp_path, kind, values, more, sentence):
    path = parameter_file(tmp_path / "self.txt", kind, values, **more)
    with pytest.raises(sr.InputError, match=sentence):
        sr.load(path)
