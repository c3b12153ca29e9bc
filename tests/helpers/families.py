"""The transform families that the package ships, linear ones first."""

FAMILIES = (
    "translation",
    "rigid",
    "similarity",
    "affine",
    "bspline",
    "tps",
    "displacement",
    "diffeomorphic",
    "velocity",
)
LINEAR = FAMILIES[:4]
