"""The similarities by name."""

from __future__ import annotations

from typing import Any

from napari_stnreg.core.errors import InputError
from napari_stnreg.losses.feature_distance import FeatureDistance
from napari_stnreg.losses.lncc import LocalNCC
from napari_stnreg.losses.mind import MIND
from napari_stnreg.losses.mse_ncc import MeanSquares, NormalizedCrossCorrelation
from napari_stnreg.losses.mutual_information import MutualInformation
from napari_stnreg.losses.similarity import Similarity

SIMILARITIES: dict[str, type[Similarity]] = {
    kind.name: kind for kind in (LocalNCC, NormalizedCrossCorrelation, MeanSquares, MutualInformation, MIND)
}
"""Every similarity that needs nothing but options, by its name, the most used first."""


def make_similarity(name: str, **options: Any) -> Similarity:
    """A similarity by name.

    Parameters
    ----------
    name
        A key of :data:`SIMILARITIES`; or the file of a trained auto-encoder, whose frozen features are then compared.
    **options
        Passed to its constructor.

    Raises
    ------
    InputError
        If there is no such similarity or it has no such option.
    """
    if name.endswith(".safetensors"):
        from napari_stnreg.models.model_file import load_model  # the one thing here that comes from a training

        return FeatureDistance(load_model(name).features(), **options)
    if name not in SIMILARITIES:
        raise InputError(f"There is no similarity '{name}'; choose one of {', '.join(SIMILARITIES)}.")
    try:
        return SIMILARITIES[name](**options)
    except TypeError as error:
        raise InputError(f"The similarity '{name}' cannot be made with {options}: {error}.") from error
