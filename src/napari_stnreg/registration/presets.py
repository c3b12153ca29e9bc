"""How much work each preset does: one set of numbers for all 2D and one for all 3D images."""

from __future__ import annotations

from dataclasses import dataclass

from napari_stnreg.registration.optimizers.dense import DenseOptions
from napari_stnreg.registration.settings import RegistrationSettings


@dataclass(frozen=True)
class Preset:
    """Steps a level, from the finest level backwards (the last entry also serves all coarser ones).

    Parameters
    ----------
    linear, bending, dense
        Steps for linear, for B-spline and thin-plate, and for dense families.
    finest
        Shrink factor of the finest level that is used.
    linear_first
        Steps for a linear family that a deformable one follows: it corrects what little is left. With 15 and 25
        instead of 20 and 40, the Dice of 26 tuning pairs of hearts and slices was the same to 0.0003.
    linear_voxels
        A linear stage before a deformable one stops at the first level with at least this many voxels. In 2D it leaves
        out the finest level as well: 9 % less CPU time on 13 tuning pairs of hearts (same Dice) and 12 % less on 13
        brain slices (0.6489 and 0.6492). On 5 hippocampi it took 12 % off and cost 0.0007 of 0.8165.
    """

    linear: tuple[int, ...]
    linear_first: tuple[int, ...]
    bending: tuple[int, ...]
    dense: tuple[int, ...]
    finest: float
    linear_voxels: int

    def steps(self, kind: str, from_finest: int) -> int:
        """Steps at a level, counted from the finest (0)."""
        numbers: tuple[int, ...] = getattr(self, kind)
        return numbers[min(from_finest, len(numbers) - 1)]


PRESETS = {
    "fast": Preset((10, 20, 30), (10, 15, 20), (20, 40, 50), (15, 40, 50), 2.0, 10_000),
    "balanced": Preset((10, 20, 40), (10, 15, 25), (40, 60, 80), (30, 60, 40), 1.0, 20_000),
    "thorough": Preset((40, 80, 120), (40, 80, 120), (80, 120, 150), (100, 150, 200), 1.0, 60_000),
}


def preset_for(settings: RegistrationSettings) -> Preset:
    """Return the preset's schedule, with the number of iterations of the settings if given."""
    preset = PRESETS[settings.preset]
    if settings.iterations is None:
        return preset
    own = (settings.iterations,)
    return Preset(own, own, own, own, preset.finest, preset.linear_voxels)


def window_radius(settings: RegistrationSettings, ndim: int) -> int:
    """Radius of local NCC's window in voxels."""
    return settings.window or (2 if ndim == 3 else 4)


def global_correlation_weight(ndim: int) -> float:
    """Weight of the whole image's squared correlation beside local NCC.

    Windows alone do not care which of two bright places they are over. In a slice, where a contraction can close a
    cavity altogether, the whole image's correlation ties them down; in volumes it made no difference.
    """
    return 1.0 if ndim == 2 else 0.0


@dataclass(frozen=True)
class Smoothing:
    """Standard deviations of the Gaussians of a dense fit, in voxels of the level.

    Coarse levels take finely resolved steps and keep the field smooth: they decide what belongs together. The finest
    level takes smooth steps, for it sees most noise, and lets the field bend. Chosen on the tuning pairs of
    `benchmark/pairs` (20 hearts, brain slices, hippocampi, 1 brain); figures in decisions 0030 and 0031.
    """

    coarse_update: float
    """Of the update, at all levels but the finest."""
    coarse_field: float
    """Of the whole field after each step, at all levels but the finest."""
    finest_update: float
    finest_field: float
    coarse_fixed_weight: float = 0.0
    """Share of the fixed image's gradient in the force, at all levels but the finest."""
    finest_fixed_weight: float = 0.0


SMOOTHING = {2: Smoothing(1.0, 1.75, 1.5, 1.0, 0.5, 0.5), 3: Smoothing(0.5, 1.2, 1.0, 0.75, 0.5, 0.0)}
"""By the number of axes: slices hold more noise a voxel's worth of anatomy than volumes."""
EVEN_SMOOTHING = {2: Smoothing(2.1, 1.05, 2.1, 1.05), 3: Smoothing(1.0, 0.75, 1.0, 0.75)}
"""For similarities of whole images: they push at edges only, and a wide step carries that into flat places."""


def dense_options(settings: RegistrationSettings, ndim: int, from_finest: int = 0) -> DenseOptions:
    """Step sizes and smoothing of a dense stage at a level, counted from the finest (0)."""
    stiff = settings.smoothness**0.5
    widths = (EVEN_SMOOTHING if settings.similarity in ("mse", "ncc", "mi") else SMOOTHING)[ndim]
    update, field, weight = widths.finest_update, widths.finest_field, widths.finest_fixed_weight
    if from_finest > 0:
        update, field, weight = widths.coarse_update, widths.coarse_field, widths.coarse_fixed_weight
    if settings.similarity not in ("auto", "lncc"):  # measured for local NCC only
        weight = 0.0
    return DenseOptions(update_smoothing=update * stiff, field_smoothing=field * stiff, fixed_weight=weight)
