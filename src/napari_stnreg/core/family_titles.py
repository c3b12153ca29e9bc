"""Names of the transform families in texts; also without torch."""

from __future__ import annotations

FAMILY_TITLES = {
    "bspline": "B-spline",
    "tps": "thin-plate spline",
    "displacement": "displacement field",
    "velocity": "stationary velocity",
}


def family_title(family: str) -> str:
    """Return the name of a family, or of several joined by ``"+"``, in texts and in names of layers."""
    return "+".join(FAMILY_TITLES.get(part, part) for part in family.split("+"))
