"""Hand transforms to SimpleITK, nitransforms, antspyx and elastix, and take theirs back.

Run it as ``python -m benchmark.check_exchange``.

Two NIfTI files of different orientation and voxel size are made, and transforms of every kind are written by us,
applied by ANTs to the files, and compared with our own warp; a registration by ANTs (affine and SyN) and one by elastix
(affine, then B-spline) are read by us and compared with their warp and their points. Errors are in fixed voxels, for
points inside; images are compared where both read the moving image. Everything must stay below 0.01 voxel, and 0.1
voxel for families that ITK's transform files hold only as a sampled field.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

import napari_stnreg as sr
from benchmark.threads import limit_threads
from napari_stnreg.transforms import Transform, chain, make_family
from napari_stnreg.transforms.bspline import BSplineFamily

LIMIT = 0.01
SAMPLED_LIMIT = 0.1
"""Families that ITK has no form of, in its transform files: sampled, with a stated error."""
SAMPLED = ("tps", "inverse", "bspline_levels")


def make_files(folder: Path) -> tuple[sr.Image, sr.Image]:
    """A fixed and a moving NIfTI file in different orientations."""
    images = []
    for name, shape, axes, voxel, shift in (
        ("fixed", (40, 44, 42), (1, 2, 0), (2.0, 1.5, 1.8), 0.0),
        ("moving", (46, 42, 50), (0, 1, 2), (1.7, 1.7, 1.4), 2.0),
    ):
        affine = np.eye(4)
        angle = 0.15 if name == "fixed" else -0.1
        bend = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        signs = (-1, 1, -1) if name == "fixed" else (1, -1, 1)
        affine[:3, :3] = bend @ np.eye(3)[:, axes] @ np.diag(np.array(voxel) * signs)
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
        x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3] - shift, -1, 0)
        spots = sum(
            h * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * w * w))
            for a, b, c, w, h in ((-9, 4, 3, 8, 1.0), (10, -8, 6, 7, 0.8), (2, 12, -10, 6, 0.9), (-4, -12, -8, 9, 0.7))
        )
        image = nib.Nifti1Image((1000 * spots).astype(np.float32), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{name}.nii.gz")
        images.append(sr.read(folder / f"{name}.nii.gz"))
    return images[0], images[1]


def our_transforms(fixed: sr.Image) -> dict[str, Transform]:
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Transform] = {}
    linear = ("translation", "rigid", "similarity", "affine")
    for name in (*linear, "bspline", "tps", "displacement", "diffeomorphic", "velocity"):
        family = make_family(name)
        theta = torch.randn(1, *family.parameter_shape(fixed.grid), generator=generator, dtype=torch.float64)
        if name in ("displacement", "diffeomorphic", "velocity"):
            coarse = torch.randn(1, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
            theta = 2 * torch.nn.functional.interpolate(
                coarse, size=fixed.grid.shape, mode="trilinear", align_corners=True
            )
        else:
            theta = (0.05 if name in linear else 1.5) * theta
        made[name] = family(theta, fixed.grid).with_coordinate_systems("scanner", "scanner")
    made["chain"] = chain(made["displacement"], made["affine"])
    made["inverse"] = made["bspline"].inverse()
    levels = [BSplineFamily(spacing, fixed.grid) for spacing in (16.0, 8.0)]
    random = [
        torch.randn(1, *one.parameter_shape(fixed.grid), generator=generator, dtype=torch.float64) for one in levels
    ]
    bends = [one(1.5 * theta, fixed.grid) for one, theta in zip(levels, random, strict=True)]
    made["bspline_levels"] = chain(*bends, made["affine"]).with_coordinate_systems("scanner", "scanner")
    return made


def lps(points: np.ndarray) -> np.ndarray:
    return points[:, ::-1] * [-1, -1, 1]


def inner(image: sr.Image) -> np.ndarray:
    cut = (slice(6, -6, 3),) * 3
    return image.grid.points()[cut].reshape(-1, 3)


def report(
    title: str, fixed: sr.Image, apart: np.ndarray, ours: np.ndarray, theirs: np.ndarray, known, limit: float = LIMIT
) -> bool:
    """Print the largest point error, and the image difference as the shift that would explain it."""
    points = float(apart.max()) / float(fixed.grid.spacing.min())
    slope = np.sqrt(sum(g**2 for g in np.gradient(ours.astype(float))))
    middle = (slice(6, -6),) * 3
    slope = np.maximum(slope, 1e-9 * slope.max())
    steep = (slope[middle] > 0.2 * slope.max()) & known[middle]
    shift = float(np.percentile((np.abs(ours - theirs)[middle] / slope[middle])[steep], 99.9)) if steep.any() else 0.0
    good = points < limit and shift < limit
    print(f"{title}: points {points:.1e}, image {shift:.1e} voxel{'' if good else '  <-- too much'}", flush=True)
    return good


def check_ants(folder: Path, fixed: sr.Image, moving: sr.Image) -> bool:
    import ants
    import pandas as pd

    still, other = ants.image_read(str(folder / "fixed.nii.gz")), ants.image_read(str(folder / "moving.nii.gz"))
    points = inner(fixed)
    table = pd.DataFrame(lps(points), columns=list("xyz"))

    def theirs_of(files: list[str], which: list[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
        image = ants.apply_transforms(still, other, files, whichtoinvert=which, interpolator="linear", defaultvalue=-9)
        mapped = ants.apply_transforms_to_points(3, table, files, whichtoinvert=which)
        ants.image_write(image, str(folder / "theirs.nii.gz"))
        return sr.read(folder / "theirs.nii.gz").data, mapped[list("xyz")].to_numpy()

    good = True
    for name, transform in our_transforms(fixed).items():
        ours = sr.warp(moving, transform, fixed.grid, fill=-9).data
        more = {"affine": ("tfm", "mat"), "chain": ("tfm",)}.get(name, ())
        for ending in ("h5", "nii.gz", *more):
            path = sr.save(transform, folder / f"{name}.{ending}", grid=fixed.grid)
            picture, mapped = theirs_of([str(path)])
            apart = np.linalg.norm(mapped - lps(transform.map_points(points)), axis=1)
            good &= report(
                f"ANTs applies our {name}.{ending}",
                fixed,
                apart,
                ours,
                picture,
                (ours > -9) & (picture > -9),
                limit_of(name, ending),
            )
    found = ants.registration(still, other, "SyN", outprefix=str(folder / "syn_"), reg_iterations=(20, 10, 0))
    files = found["fwdtransforms"]
    warp_file, matrix_file = (next(f for f in files if f.endswith(e)) for e in (".nii.gz", ".mat"))
    # ANTs lists them last first, as it applies them to points.
    ours_all = sr.compose(sr.load(warp_file), sr.load(matrix_file))
    for title, transform, used in (
        ("affine .mat", sr.load(matrix_file), [matrix_file]),
        ("SyN warp .nii.gz", sr.load(warp_file), [warp_file]),
        ("warp and affine", ours_all, files),
    ):
        picture, mapped = theirs_of(used)
        ours = sr.warp(moving, transform, fixed.grid, fill=-9).data
        apart = np.linalg.norm(mapped - lps(transform.map_points(points)), axis=1)
        good &= report(f"we apply ANTs' {title}", fixed, apart, ours, picture, (ours > -9) & (picture > -9))
    return good


def check_elastix(folder: Path, fixed: sr.Image, moving: sr.Image) -> bool:
    import itk

    still = itk.imread(str(folder / "fixed.nii.gz"), itk.F)
    other = itk.imread(str(folder / "moving.nii.gz"), itk.F)
    settings = itk.ParameterObject.New()
    for kind in ("rigid", "affine", "bspline"):
        one = settings.GetDefaultParameterMap(kind, 2, 12.0)
        one["MaximumNumberOfIterations"] = ["60"]
        one["ResampleInterpolator"] = ["FinalLinearInterpolator"]
        one["DefaultPixelValue"] = ["-9"]
        one["ResultImagePixelType"] = ["float"]
        settings.AddParameterMap(one)
    _, found = itk.elastix_registration_method(still, other, parameter_object=settings)
    names = [str(folder / f"TransformParameters.{i}.txt") for i in range(found.GetNumberOfParameterMaps())]
    for i in range(1, len(names)):
        found.SetParameter(i, "InitialTransformParameterFileName", names[i - 1])
        found.SetParameter(i, "InitialTransformParametersFileName", names[i - 1])
    itk.ParameterObject.WriteParameterFiles(found, names)
    for i in range(1, len(names)):
        found.SetParameter(i, "InitialTransformParameterFileName", "NoInitialTransform")
        found.SetParameter(i, "InitialTransformParametersFileName", "NoInitialTransform")
    picture = itk.transformix_filter(other, found)
    itk.imwrite(picture, str(folder / "theirs.nii.gz"))
    theirs = sr.read(folder / "theirs.nii.gz").data
    field = itk.transformix_deformation_field(other, found, output_directory=str(folder))
    itk.imwrite(field, str(folder / "field.nii.gz"))
    ours = sr.load(names[-1])
    points = inner(fixed)
    apart = np.linalg.norm(ours.map_points(points) - sr.load(folder / "field.nii.gz").map_points(points), axis=1)
    warped = sr.warp(moving, ours, fixed.grid, fill=-9).data
    return report(
        "we apply elastix' rigid, affine and B-spline", fixed, apart, warped, theirs, (warped > -9) & (theirs > -9)
    )


def check_elastix_reads(folder: Path, fixed: sr.Image, moving: sr.Image) -> bool:
    """Let transformix apply the parameter files that we write."""
    import itk

    other = itk.imread(str(folder / "moving.nii.gz"), itk.F)
    points, made, good = inner(fixed), our_transforms(fixed), True
    for name, transform in (
        ("affine", made["affine"]), ("bspline", made["bspline"]), ("chain", chain(made["affine"], made["bspline"])),
    ):  # fmt: skip
        path = sr.save(transform, folder / f"TransformParameters.{name}.txt", grid=fixed.grid)
        parameters = itk.ParameterObject.New()
        files = sorted(folder.glob(f"{path.stem}.before*.txt")) + [path]
        parameters.ReadParameterFiles([str(one) for one in files])
        for i in range(len(files)):
            parameters.SetParameter(i, "InitialTransformParameterFileName", "NoInitialTransform")
            parameters.SetParameter(i, "DefaultPixelValue", "-9")
        picture = itk.transformix_filter(other, parameters)
        itk.imwrite(picture, str(folder / "theirs.nii.gz"))
        field = itk.transformix_deformation_field(other, parameters, output_directory=str(folder))
        itk.imwrite(field, str(folder / "field.mha"))
        theirs, ours = sr.read(folder / "theirs.nii.gz").data, sr.warp(moving, transform, fixed.grid, fill=-9).data
        mapped = sr.load(folder / "field.mha").map_points(points)
        apart = np.linalg.norm(transform.map_points(points) - mapped, axis=1)
        title = f"elastix applies our {name} parameter files"
        good &= report(title, fixed, apart, ours, theirs, (ours > -9) & (theirs > -9))
    return good


def limit_of(name: str, ending: str) -> float:
    """The largest allowed error of a family in a format, in voxels."""
    return SAMPLED_LIMIT if name in SAMPLED and ending in ("h5", "tfm") else LIMIT


def check_points(title: str, fixed: sr.Image, ours: np.ndarray, theirs: np.ndarray, limit: float = LIMIT) -> bool:
    error = float(np.linalg.norm(ours - theirs, axis=1).max()) / float(fixed.grid.spacing.min())
    print(f"{title}: points {error:.1e} voxel{'' if error < limit else '  <-- too much'}", flush=True)
    return error < limit


def check_simpleitk(folder: Path, fixed: sr.Image, moving: sr.Image) -> bool:
    """Compare points with SimpleITK, for every family and every format that it reads; and read its files back."""
    import SimpleITK as sitk

    points, good = inner(fixed), True
    for name, transform in our_transforms(fixed).items():
        for ending in ("h5", "tfm", "nrrd", "mha", "nii.gz", *(["mat"] if transform.as_matrix() is not None else [])):
            path = str(sr.save(transform, folder / f"{name}_itk.{ending}", grid=fixed.grid))
            is_field = ending in ("nrrd", "mha", "nii.gz")
            theirs = (
                sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
                if is_field
                else sitk.ReadTransform(path)
            )
            mapped = np.array([theirs.TransformPoint(p) for p in lps(points).tolist()])
            good &= check_points(
                f"SimpleITK applies our {name}.{ending}", fixed, lps(transform.map_points(points)), mapped,
                limit_of(name, ending),
            )  # fmt: skip
            if not is_field and ending != "mat":
                again = folder / f"again.{ending}"
                sitk.WriteTransform(theirs, str(again))
                ours = sr.load(again).map_points(points)
                good &= check_points(
                    f"we apply SimpleITK's {name}.{ending}", fixed, ours, transform.map_points(points),
                    limit_of(name, ending),
                )  # fmt: skip
    return good


def check_nitransforms(folder: Path, fixed: sr.Image, moving: sr.Image) -> bool:
    """Exchange linear transforms and displacement fields with nitransforms."""
    import nitransforms as nt

    reference, other = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")
    points, made, good = inner(fixed), our_transforms(fixed), True
    ras = points[:, ::-1]
    known = np.eye(4)
    known[:3] += np.random.default_rng(0).normal(0, 0.05, (3, 4))
    known[:3, 3] = 3, -4, 5
    affine = nt.linear.Affine(known, reference=reference)
    for kind, name in (("itk", "nt.tfm"), ("fsl", "nt.mat"), ("fs", "nt.lta")):
        affine.to_filename(str(folder / name), fmt=kind, moving=other)
        ours = sr.load(folder / name, fixed=fixed, moving=moving).map_points(points)
        good &= check_points(f"we apply nitransforms' affine {name}", fixed, ours[:, ::-1], affine.map(ras))
    for name in ("translation", "rigid", "similarity", "affine"):
        path = sr.save(made[name], folder / "ours_nt.tfm")
        theirs = nt.linear.load(str(path), fmt="itk", reference=reference)
        good &= check_points(f"nitransforms applies our {name}.tfm", fixed, made[name].map_points(points)[:, ::-1],
                             theirs.map(ras))  # fmt: skip
    for name in [one for one, transform in made.items() if transform.as_matrix() is None]:
        path = sr.save(made[name], folder / "ours_nt.nii.gz", grid=fixed.grid)
        dense = nt.nonlinear.load(str(path), fmt="itk")
        good &= check_points(f"nitransforms applies our {name}.nii.gz", fixed, made[name].map_points(points)[:, ::-1],
                             dense.map(ras))  # fmt: skip
    return good


CHECKS = {
    "simpleitk": check_simpleitk, "nitransforms": check_nitransforms, "ants": check_ants, "elastix": check_elastix,
    "transformix": check_elastix_reads,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(CHECKS))
    only = parser.parse_args().only
    limit_threads(1)
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed, moving = make_files(folder)
        for title, check in CHECKS.items():
            if only in (None, title):
                good &= check(folder, fixed, moving)
    print("all below" if good else "NOT all below", f"{LIMIT} voxel")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
