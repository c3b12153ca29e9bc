"""Several networks in one model, each looking at what the ones before it have done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork
from napari_stnreg.networks.grid_generator import warped
from napari_stnreg.transforms import Transform, chain


class SequentialNetwork(LocalizationNetwork):
    """Affine, then deformable, or any other networks in a row.

    Each network is shown the fixed image and the moving one as it looks through the stages so far. Their transforms are
    chained and the original is sampled once: ``T(x) = first(second(x))``, for the second one acts in the world into
    which the first has brought the moving image.

    Parameters
    ----------
    stages
        The networks, in order.
    """

    name = "stages"

    def __init__(self, stages: Sequence[LocalizationNetwork]) -> None:
        if not stages or len({(one.ndim, one.channels) for one in stages}) != 1:
            raise InputError("The stages of a model need the same number of axes and of channels.")
        super().__init__(stages[0].ndim, stages[0].channels)
        self.stages = nn.ModuleList(stages)
        self.active = len(stages)
        self.family = stages[-1].family

    def networks(self) -> list[LocalizationNetwork]:
        """The stages."""
        return [cast(LocalizationNetwork, one) for one in self.stages]

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Stages have no parameters in common; use :meth:`transform`."""
        raise NotImplementedError("Several stages give a transform, not one set of parameters.")

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """See :meth:`LocalizationNetwork.transform`; only the first ``active`` stages take part (training in turn)."""
        whole: Transform | None = None
        for stage in self.networks()[: self.active]:
            found = stage.transform(fixed, moving if whole is None else warped(moving, whole, grid), grid)
            whole = found if whole is None else chain(found, whole)
        assert whole is not None
        return whole

    def in_turn(self, number: int) -> None:
        """Train one stage on top of those before it, whose weights stay; a negative number trains all together."""
        self.active = len(self.stages) if number < 0 else number + 1
        for position, stage in enumerate(self.stages):
            stage.requires_grad_(number < 0 or position == number)

    def set_autocast(self, dtype: torch.dtype | None) -> None:
        """Half precision for the layers of every stage."""
        for stage in self.networks():
            stage.autocast = dtype

    def config(self) -> dict[str, Any]:
        """See :meth:`LocalizationNetwork.config`."""
        stages = [one.config() for one in self.networks()]
        return {"name": self.name, "ndim": self.ndim, "channels": self.channels, "stages": stages}
