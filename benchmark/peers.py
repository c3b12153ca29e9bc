"""The peers, with the settings they are measured with.

A method is made for a set (one of :data:`benchmark.data.FILES`) and has two steps. ``fit`` takes the two images and is
timed. ``field`` turns its answer into the one form that all are scored in, and is not timed: a displacement in voxels
of the fixed grid, ``(D, *shape)`` float, axis order (z, y, x), that takes points of the fixed image to the moving one.
``python -m benchmark.check_peers`` holds every conversion against a known shift and a known affine map.

The settings were chosen on the ``tuning`` pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LUMINANCE = np.array([0.2125, 0.7154, 0.0721])


class Method(Protocol):
    """A registration to be measured."""

    settings: dict[str, Any]

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register; everything from arrays to a transform. Timed."""

    def field(self, fit: Any) -> Array:
        """The transform as a dense displacement ``(D, *shape)`` in voxels. Not timed."""


def scalar(image: Array) -> Array:
    """One float32 value per voxel; color pictures as darkness, so that their white background is 0 for every peer."""
    if image.shape[-1] == 3:
        return np.asarray(255.0 - image @ LUMINANCE, dtype=np.float32)
    return image.astype(np.float32)


def grid_points(shape: Sequence[int]) -> Array:
    """Voxel indices of a grid, ``(D, *shape)``."""
    return np.indices(tuple(shape)).astype(np.float64)


@dataclass
class Elastix:
    """itk-elastix: affine, then a cubic B-spline, four levels each, by stochastic gradient descent."""

    settings: dict[str, Any]
    threads: int

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register with elastix."""
        import itk

        parameters = itk.ParameterObject.New()
        for stage in ("affine", "bspline"):
            default = parameters.GetDefaultParameterMap(stage, 4)
            for key, value in self.settings[stage].items():
                default[key] = tuple(str(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
            if stage == "bspline":
                # The default adds a bending penalty and a spacing of its own.
                for key in ("FinalGridSpacingInPhysicalUnits", "Metric0Weight", "Metric1Weight"):
                    default.erase(key)
            parameters.AddParameterMap(default)
        # itk reads arrays as (z, y, x), the other way round than its own (x, y, z).
        images = [itk.image_from_array(np.ascontiguousarray(scalar(image))) for image in (fixed, moving)]
        # Not through the method's own number_of_threads: elastix 0.25.4 crashes on it.
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(self.threads)
        _, transform = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False)
        return images[1], transform

    def field(self, fit: Any) -> Array:
        """Let transformix write the displacement out, and turn (x, y, z) components round."""
        import itk

        with tempfile.TemporaryDirectory() as folder:  # transformix writes the field to a file as well
            image = itk.transformix_deformation_field(*fit, log_to_console=False, output_directory=folder)
            field = itk.array_from_image(image)
        return np.moveaxis(np.asarray(field)[..., ::-1], -1, 0)


@dataclass
class Ants:
    """antspyx: ``ants.registration``, which goes from a center-of-mass start over affine to SyN."""

    settings: dict[str, Any]
    threads: int

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register with ANTs. antspyx keeps the order of an array's axes, so nothing is turned round."""
        import ants

        images = [ants.from_numpy(scalar(image)) for image in (fixed, moving)]
        return images, ants.registration(*images, random_seed=1, **self.settings)

    def field(self, fit: Any) -> Array:
        """Compose affine and warp into one displacement on the fixed grid."""
        import ants

        images, result = fit
        with tempfile.TemporaryDirectory() as folder:
            path = ants.apply_transforms(
                *images, transformlist=result["fwdtransforms"], compose=str(Path(folder) / "total")
            )
            field = ants.image_read(path).numpy()
        for file in {*result["fwdtransforms"], *result["invtransforms"]}:
            Path(file).unlink(missing_ok=True)
        return np.moveaxis(field, -1, 0)


@dataclass
class Dipy:
    """DIPY: symmetric diffeomorphic registration with local cross-correlation, after an affine start if asked."""

    settings: dict[str, Any]
    threads: int

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register with DIPY; all grids are the voxel grids themselves."""
        from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
        from dipy.align.metrics import CCMetric

        static, moving = (scalar(image).astype(np.float64) for image in (fixed, moving))
        world = np.eye(static.ndim + 1)
        start = self._affine(static, moving) if self.settings["affine"] else None
        metric = CCMetric(static.ndim, sigma_diff=self.settings["sigma_diff"], radius=self.settings["radius"])
        syn = SymmetricDiffeomorphicRegistration(metric, level_iters=self.settings["level_iters"])
        return syn.optimize(static, moving, static_grid2world=world, moving_grid2world=world, prealign=start)

    def _affine(self, static: Array, moving: Array) -> Array:
        """Translation, rigid, affine by mutual information, from the centers of mass."""
        from dipy.align import imaffine, transforms

        world = np.eye(static.ndim + 1)
        affine = imaffine.transform_centers_of_mass(static, world, moving, world).affine
        search = imaffine.AffineRegistration(verbosity=0, **self.settings["affine"])
        for name in ("TranslationTransform", "RigidTransform", "AffineTransform"):
            family = getattr(transforms, f"{name}{static.ndim}D")()
            affine = search.optimize(
                static, moving, family, None, static_grid2world=world, moving_grid2world=world, starting_affine=affine
            ).affine
        return np.asarray(affine)

    def field(self, fit: Any) -> Array:
        """A fixed point goes along the warp first and through the inverse of the map's affine part after.

        DIPY returns its map as an inverse one, so that images are pulled back along its ``backward`` field.
        """
        step = np.moveaxis(np.asarray(fit.backward, dtype=np.float64), -1, 0)
        points = grid_points(step.shape[1:])
        ndim = len(points)
        affine = np.eye(ndim + 1) if fit.prealign_inv is None else fit.prealign_inv
        moved = np.einsum("ij,j...->i...", affine[:ndim, :ndim], points + step)
        return moved + affine[:ndim, ndim].reshape(-1, *[1] * ndim) - points


@dataclass
class Ours:
    """napari-stnreg with its default settings: what a person gets who changes nothing."""

    settings: dict[str, Any]
    threads: int

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register with the package's face."""
        import napari_stnreg as sr

        images = [sr.Image.from_array(image, channels=image.shape[-1] == 3) for image in (fixed, moving)]
        return images[0].grid, sr.register(*images, seed=0, **self.settings)

    def field(self, fit: Any) -> Array:
        """The world is the voxel grid here (spacing 1, origin 0), so world units are voxels."""
        grid, result = fit
        return np.asarray(result.transform.displacement(grid), dtype=np.float64)


@dataclass
class FireAnts:
    """FireANTs on the CPU: affine, then greedy composition with local cross-correlation."""

    settings: dict[str, Any]
    threads: int

    def fit(self, fixed: Array, moving: Array) -> Any:
        """Register with FireANTs, intensities scaled to 0..1 as its examples do."""
        import SimpleITK as sitk
        from fireants.io.image import BatchedImages, Image
        from fireants.registration.affine import AffineRegistration
        from fireants.registration.greedy import GreedyRegistration

        batches = []
        for image in (scalar(fixed), scalar(moving)):
            low, high = float(image.min()), float(image.max())
            scaled = (image - low) / max(high - low, 1e-6)
            batches.append(BatchedImages([Image(sitk.GetImageFromArray(scaled), device="cpu")]))
        matrix = None
        if self.settings["affine"]:
            affine = AffineRegistration(
                fixed_images=batches[0], moving_images=batches[1], progress_bar=False, **self.settings["affine"]
            )
            affine.optimize()
            matrix = affine.get_affine_matrix().detach()
        greedy = GreedyRegistration(
            fixed_images=batches[0],
            moving_images=batches[1],
            init_affine=matrix,
            progress_bar=False,
            **self.settings["greedy"],
        )
        greedy.optimize()
        return batches, greedy

    def field(self, fit: Any) -> Array:
        """Turn its coordinates, normalized to -1..1 between the outer voxel centers and (x, y, z), into voxels."""
        (fixed, moving), greedy = fit
        mapped = np.asarray(greedy.get_warped_coordinates(fixed, moving).detach()[0], dtype=np.float64)[..., ::-1]
        sizes = np.asarray(moving.shape[2:], dtype=np.float64)
        index = (mapped + 1) / 2 * (sizes - 1)
        return np.moveaxis(index, -1, 0) - grid_points(index.shape[:-1])


def _fireants_settings(kind: str) -> dict[str, Any]:
    """Settings of FireANTs: those of its own brain examples; hearts need no affine start."""
    affine = {"scales": [4, 2, 1], "iterations": [200, 100, 50], "optimizer_lr": 3e-3, "loss_type": "cc"}
    greedy = {"scales": [4, 2, 1], "iterations": [200, 100, 50], "optimizer_lr": 0.5, "cc_kernel_size": 7}
    greedy |= {"loss_type": "cc", "smooth_warp_sigma": 0.5, "smooth_grad_sigma": 1.0}
    return {"affine": None if kind in ("cardiac", "fibsem") else affine, "greedy": greedy}


def _elastix_settings(kind: str) -> dict[str, Any]:
    """Settings of elastix.

    Correlation did better than mutual information on the tuning pairs of one contrast (cardiac 0.877 to 0.823). The
    histology pictures are large and lie far apart: a fifth level and a wider grid took the error from 33 to 7 px.
    """
    histology = kind == "histology"
    common = {
        "Metric": "AdvancedMattesMutualInformation" if histology else "AdvancedNormalizedCorrelation",
        "Registration": "MultiResolutionRegistration",
        "NumberOfResolutions": 5 if histology else 4,
        "NumberOfSpatialSamples": 2048,
        "NewSamplesEveryIteration": "true",
        "AutomaticTransformInitialization": "true",
        "AutomaticTransformInitializationMethod": "CenterOfGravity" if histology else "GeometricalCenter",
        "RequiredRatioOfValidSamples": 0.05,
        "WriteResultImage": "false",
    }
    return {
        "affine": common | {"MaximumNumberOfIterations": 500 if histology else 256},
        "bspline": common
        | {
            "MaximumNumberOfIterations": 256 if kind in ("cardiac", "fibsem") else 500,
            "FinalGridSpacingInVoxels": 64 if histology else 8,
            "GridSpacingSchedule": [8, 4, 2, 1, 1] if histology else [8, 4, 2, 1],
        },
    }


def _ants_settings(kind: str) -> dict[str, Any]:
    """Settings of ANTs with its defaults.

    On histology the default affine stage ends up to 69 px off; a coarser, smoother one finds the place.
    """
    if kind != "histology":
        return {"type_of_transform": "SyN"}
    return {
        "type_of_transform": "SyN",
        "aff_shrink_factors": (16, 12, 8, 4),
        "aff_smoothing_sigmas": (16, 12, 8, 4),
        "aff_iterations": (2000, 1000, 500, 100),
        "aff_random_sampling_rate": 0.5,
    }


def _ants_cc_settings(kind: str) -> dict[str, Any]:
    """Settings of ANTs with local cross-correlation down to full resolution; a radius of 4 beat 2 on cardiac."""
    return _ants_settings(kind) | {"syn_metric": "CC", "syn_sampling": 4, "reg_iterations": (40, 20, 10)}


def _dipy_settings(kind: str) -> dict[str, Any]:
    """Settings of DIPY: no affine start in 2D, except for histology, whose sections lie turned and shifted."""
    start: dict[str, Any] | None = {"level_iters": [1000, 100, 10], "sigmas": [3.0, 1.0, 0.0], "factors": [4, 2, 1]}
    iterations = [10, 10, 5]
    if kind in ("cardiac", "fibsem"):
        start, iterations = None, [200, 100, 50, 25]
    if kind == "histology":
        # No step at full resolution: it took as long again and changed nothing. A coarser affine start did worse.
        iterations = [100, 50, 0]
    return {"affine": start, "radius": 4, "sigma_diff": 2.0, "level_iters": iterations}


def _our_settings(kind: str) -> dict[str, Any]:
    """Our settings: the defaults, for every set."""
    return {"device": "cuda" if kind == "gpu" else "cpu"}


METHODS: dict[str, tuple[type[Any], Callable[[str], dict[str, Any]], str]] = {
    "ours": (Ours, _our_settings, "napari-stnreg, defaults"),
    "elastix": (Elastix, _elastix_settings, "elastix affine + B-spline"),
    "ants-syn": (Ants, _ants_settings, "ANTs SyN default"),
    "ants-syn-cc": (Ants, _ants_cc_settings, "ANTs SyN CC 40-20-10"),
    "dipy": (Dipy, _dipy_settings, "DIPY SyN CC"),
    "fireants": (FireAnts, _fireants_settings, "FireANTs greedy, CPU"),
}


def make_method(name: str, kind: str, threads: int) -> Method:
    """The method of a name, set up for a set of pairs."""
    make, settings, _ = METHODS[name]
    method: Method = make(settings(kind), threads)
    return method


def describe(name: str) -> str:
    """What to call a method in the table."""
    return METHODS[name][2]
