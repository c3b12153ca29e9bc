"""Random numbers of one training, which leave those of its surroundings alone."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomState:
    """Torch's random numbers of one training, kept apart from those of whoever drives it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        with torch.random.fork_rng(devices=[] if self._cuda is None else [self._cuda]):
            torch.manual_seed(seed)
            self._mine = self._states()
        self._others: list[Tensor] = []

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return states if self._cuda is None else [*states, torch.cuda.get_rng_state(self._cuda)]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._cuda is not None and len(states) > 1:
            torch.cuda.set_rng_state(states[1], self._cuda)

    def __enter__(self) -> None:
        self._others = self._states()
        self._set(self._mine)

    def __exit__(self, *_: object) -> None:
        self._mine = self._states()
        self._set(self._others)

    def save(self) -> tuple[Tensor, Tensor | None]:
        """The states, for a checkpoint."""
        return self._mine[0], self._mine[1] if len(self._mine) > 1 else None

    def load(self, cpu: Tensor | None, cuda: Tensor | None) -> None:
        """Take up states from a checkpoint."""
        if cpu is not None:
            self._mine[0] = cpu
        if cuda is not None and len(self._mine) > 1:
            self._mine[1] = cuda
