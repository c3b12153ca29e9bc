"""Settings of a series, with the defaults that differ from those of a pair."""

from __future__ import annotations

from pydantic import Field

from napari_stnreg.registration.settings import PresetName, RegistrationSettings


class SeriesSettings(RegistrationSettings):
    """Settings of a series: frames have one contrast, much noise and small motion.

    With these defaults the error of elastic movies falls from 0.24 to 0.03 pixels at noise 0.2 and from 0.94 to 0.12 at
    noise 1 (``python -m benchmark.series``).
    """

    family: str = Field(default="rigid", description="Transform family, or several joined by '+'.")
    similarity: str = Field(
        default="mse", description="Similarity of the frames: mse, ncc, lncc, mi, mind, or an auto-encoder's file."
    )
    preset: PresetName = Field(default="fast", description="Trade-off between time and accuracy.")
    smoothness: float = Field(default=4.0, gt=0, le=10, description="Stiffness of the deformation. Higher is stiffer.")

    @classmethod
    def of(cls, settings: RegistrationSettings) -> SeriesSettings:
        """Return the settings with the defaults of a series where nothing, or ``"auto"``, was chosen."""
        given = {name for name in settings.model_fields_set if getattr(settings, name) != "auto"}
        return cls.parse(**settings.model_dump(include=given))
