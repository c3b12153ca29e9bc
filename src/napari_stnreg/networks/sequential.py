"""Several networks in one model, each applied to the result of those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.networks.base import LocalizationNetwork, make_network
from napari_stnreg.networks.grid_generator import warp_batch
from napari_stnreg.ops.uncompiled import uncompiled
from napari_stnreg.transforms import Transform, chain

_chain = uncompiled(chain)


class SequentialNetwork(LocalizationNetwork, selectable=False):
    """A cascade of networks, such as affine, then deformable.

    Each network sees the fixed image and the moving image warped by the stages so far. The transforms are composed and
    the original is sampled once: ``T(x) = first(second(x))``, since the second acts in the world to which the first has
    brought the moving image.

    Parameters
    ----------
    stages
        The networks, in order, with equal numbers of axes and channels.
    passes
        How often each stage runs before the next one, every time on the moving image warped so far; once by default.
        A repeated stage corrects its own remaining error without further weights.
    """

    name = "sequential"

    def __init__(self, stages: Sequence[LocalizationNetwork], passes: Sequence[int] | None = None) -> None:
        if not stages or len({(one.ndim, one.channels) for one in stages}) != 1:
            raise InputError("The stages of a model need the same number of axes and of channels.")
        self.passes = tuple(int(n) for n in passes) if passes is not None else (1,) * len(stages)
        if len(self.passes) != len(stages) or min(self.passes) < 1:
            raise InputError(f"Each of the {len(stages)} stages needs at least one pass, not {list(self.passes)}.")
        super().__init__(stages[0].ndim, stages[0].channels)
        self.stages = nn.ModuleList(stages)
        self.active = len(stages)
        self.family = stages[-1].family

    @classmethod
    def from_config(cls, options: Mapping[str, Any]) -> SequentialNetwork:
        """See :meth:`Network.from_config`."""
        stages = [make_network(one) for one in options["stages"]]
        return cls([one for one in stages if isinstance(one, LocalizationNetwork)], options.get("passes"))

    def networks(self) -> list[LocalizationNetwork]:
        """Return the stages."""
        return [cast(LocalizationNetwork, one) for one in self.stages]

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Refuse: stages have no common parameters. Use :meth:`transform`."""
        raise NotImplementedError("Several stages give a transform, not one set of parameters.")

    def transform(self, fixed: Tensor, moving: Tensor, grid: Grid) -> Transform:
        """See :meth:`LocalizationNetwork.transform`; only the first ``active`` stages run (sequential training)."""
        whole: Transform | None = None
        active = zip(self.networks()[: self.active], self.passes, strict=False)
        for stage in (stage for stage, passes in active for _ in range(passes)):
            step = stage.transform(fixed, moving if whole is None else warp_batch(moving, whole, grid), grid)
            whole = step if whole is None else _chain(step, whole)
        assert whole is not None
        return whole

    def set_trainable_stage(self, index: int) -> None:
        """Train one stage after those before it, whose weights are frozen; a negative index trains all jointly."""
        self.active = len(self.stages) if index < 0 else index + 1
        for position, stage in enumerate(self.stages):
            stage.requires_grad_(index < 0 or position == index)

    def set_autocast(self, dtype: torch.dtype | None) -> None:
        """Set half precision for the layers of every stage."""
        for stage in self.networks():
            stage.set_autocast(dtype)

    @property
    def is_conditional(self) -> bool:
        """Whether the smoothness is an input of a stage."""
        return any(stage.is_conditional for stage in self.networks())

    def set_smoothness(self, value: float) -> None:
        """Set the smoothness of every stage."""
        for stage in self.networks():
            stage.set_smoothness(value)

    @property
    def is_probabilistic(self) -> bool:
        """Whether a stage predicts a distribution."""
        return any(stage.is_probabilistic for stage in self.networks())

    def set_sampling(self, enabled: bool) -> None:
        """Let every probabilistic stage draw from its distribution."""
        for stage in self.networks():
            stage.set_sampling(enabled)

    def divergence(self) -> Tensor | None:
        """Return the sum of the divergences of the probabilistic stages."""
        found = [value for stage in self.networks()[: self.active] if (value := stage.divergence()) is not None]
        return torch.stack(found).sum() if found else None

    def config(self) -> dict[str, Any]:
        """See :meth:`Network.config`."""
        stages = [one.config() for one in self.networks()]
        config = {"name": self.name, "ndim": self.ndim, "channels": self.channels, "stages": stages}
        return config if max(self.passes) == 1 else {**config, "passes": list(self.passes)}
