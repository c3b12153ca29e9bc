"""Conversion between units of length, for layers and files whose worlds are measured differently."""

from __future__ import annotations

from napari_stnreg.core.errors import InputError

_METERS = {
    "m": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "nm": 1e-9,
    "pm": 1e-12,
    "angstrom": 1e-10,
    "inch": 0.0254,
}
_ALIASES = {
    "metre": "m",
    "meter": "m",
    "centimetre": "cm",
    "centimeter": "cm",
    "millimetre": "mm",
    "millimeter": "mm",
    "micrometre": "um",
    "micrometer": "um",
    "micron": "um",
    "microns": "um",
    "µm": "um",
    "μm": "um",
    "nanometre": "nm",
    "nanometer": "nm",
    "picometre": "pm",
    "picometer": "pm",
    "å": "angstrom",
    "ångström": "angstrom",
    "in": "inch",
    "px": "pixel",
    "pixels": "pixel",
    "voxel": "pixel",
    "dimensionless": "pixel",
    "": "pixel",
}


def canonical(unit: str) -> str:
    """Return the short name of a unit: 'micrometer' and 'µm' become 'um'; unknown names stay as they are."""
    name = str(unit).strip()
    lowered = name.lower()
    return _ALIASES.get(lowered, lowered if lowered in _METERS else name)


def conversion_factor(source: str, target: str) -> float:
    """Return the number of target units in one source unit.

    Pixels convert to nothing but pixels: how large a pixel is, only the person knows.

    Raises
    ------
    InputError
        If one of them is not a known length and they differ.
    """
    a, b = canonical(source), canonical(target)
    if a == b:
        return 1.0
    if a not in _METERS or b not in _METERS:
        raise InputError(
            f"Units '{source}' and '{target}' cannot be converted into each other. "
            "Give both images the same unit (or a unit of length each)."
        )
    return _METERS[a] / _METERS[b]
