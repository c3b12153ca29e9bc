"""What an alignment is asked for, checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.stacks.matching.pair_selection import Pair
from napari_stnreg.stacks.preprocessing.encoder import load_extractor
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.sources.base import StackSource, open_stack

Landmarks = Mapping[Pair, tuple[npt.ArrayLike, npt.ArrayLike]]


def check_output(path: Path, source: StackSource, *, again: bool, replace: bool) -> None:
    """Refuse an output that cannot be written, or that would replace something unasked.

    Raises
    ------
    InputError
        With one sentence.
    """
    if not path.name.endswith(".zarr"):
        raise InputError(f"'{path.name}' is to be an OME-Zarr image; choose a name that ends in .zarr.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder '{path.parent}' to write '{path.name}' into.")
    if source.location and Path(source.location) == path:
        raise InputError(f"'{path.name}' is the stack itself and would be written over; name another output.")
    if path.exists() and not (again or replace):
        raise InputError(f"'{path.name}' is there already; name another, or add --overwrite or --resume.")


class Request:
    """What a run works on and is told beforehand; see :func:`~napari_stnreg.align_stack` for the parameters.

    Raises
    ------
    InputError
        If something given cannot be used.
    """

    def __init__(
        self,
        source: StackSource,
        settings: StackSettings,
        masks: Any,
        landmarks: Landmarks | None,
        exclude: Sequence[int],
        only: tuple[int, int] | None,
    ) -> None:
        self.source, self.settings = source, settings
        self.count = source.shape[0]
        if settings.encoder is not None and settings.features != "auto-encoder":
            raise InputError("An encoder is given, but the features are not 'auto-encoder'; choose these, or none.")
        if settings.encoder is not None:
            load_extractor(settings.encoder)  # a wrong file is told before anything is read
        self.masks = None if masks is None else open_stack(masks)
        if self.masks is not None and self.masks.shape != source.shape:
            raise InputError(f"The masks have the shape {self.masks.shape} and the stack {source.shape}.")
        self.landmarks: dict[Pair, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        for (a, b), sides in (landmarks or {}).items():
            one, other = (np.asarray(points, dtype=np.float64).reshape(-1, 2) for points in sides)
            self._check((a, b), "landmarks")
            if a == b or len(one) != len(other) or not len(one):
                raise InputError(
                    f"Sections {a} and {b} have {len(one)} and {len(other)} landmarks; they work in pairs between two "
                    "sections."
                )
            self.landmarks[(a, b) if a < b else (b, a)] = (one, other) if a < b else (other, one)
        self._check(exclude, "exclude")
        self.exclude = frozenset(int(z) for z in exclude)
        if settings.reference is not None:
            self._check([settings.reference], "reference")
        if only is not None:
            self._check(only, "range")
            if only[0] > only[1]:
                raise InputError(f"The range to align again, {only[0]} to {only[1]}, ends before it begins.")
        self.only = only

    def _check(self, sections: Iterable[int], what: str) -> None:
        for z in sections:
            if not 0 <= z < self.count:
                raise InputError(f"The stack has sections 0 to {self.count - 1}; there is no {z} ({what}).")

    def identity(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was begun."""
        return {
            "stack": self.source.identity(),
            "masks": None if self.masks is None else self.masks.identity(),
            "settings": self.settings.model_dump(),
            "exclude": sorted(self.exclude),
            "landmarks": [[a, b, one.tolist(), other.tolist()] for (a, b), (one, other) in self.landmarks.items()],
        }
