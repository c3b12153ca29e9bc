"""Similarities that come from a trained model."""

from __future__ import annotations

from typing import Any

from napari_stnreg.losses import FeatureDistance, Similarity, make_similarity
from napari_stnreg.models.model_file import load_model


def load_similarity(name: str, **options: Any) -> Similarity:
    """Make a similarity from its name or from the file of a trained auto-encoder.

    Parameters
    ----------
    name
        See :func:`~napari_stnreg.losses.make_similarity`; or the path of an auto-encoder's ``.safetensors`` file, whose
        frozen features are compared.
    **options
        Passed to the constructor of the similarity.

    Raises
    ------
    InputError
        If there is no such similarity, it has no such option, or the file is not that of an auto-encoder.
    """
    if name.endswith(".safetensors"):
        return FeatureDistance(load_model(name).features(), **options)
    return make_similarity(name, **options)
