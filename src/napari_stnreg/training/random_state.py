"""Random state of one training, separate from the global state of the caller."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomState:
    """Context in which torch draws from the generator state of one training.

    The caller's global state is restored on exit, so a training that is paused between two steps neither reads nor
    changes it. Layers are initialized and labels are drawn inside.

    Parameters
    ----------
    seed
        Seed of the training.
    device
        Device of the training; the generator of a CUDA device is included.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        with torch.random.fork_rng(devices=[] if self._cuda is None else [self._cuda]):
            torch.manual_seed(seed)
            self._own_states = self._states()
        self._saved_states: list[Tensor] = []

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return states if self._cuda is None else [*states, torch.cuda.get_rng_state(self._cuda)]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._cuda is not None and len(states) > 1:
            torch.cuda.set_rng_state(states[1], self._cuda)

    def __enter__(self) -> None:
        self._saved_states = self._states()
        self._set(self._own_states)

    def __exit__(self, *_: object) -> None:
        self._own_states = self._states()
        self._set(self._saved_states)

    def save(self) -> tuple[Tensor, Tensor | None]:
        """Return the states, for a checkpoint."""
        return self._own_states[0], self._own_states[1] if len(self._own_states) > 1 else None

    def load(self, cpu: Tensor | None, cuda: Tensor | None) -> None:
        """Restore states from a checkpoint."""
        if cpu is not None:
            self._own_states[0] = cpu
        if cuda is not None and len(self._own_states) > 1:
            self._own_states[1] = cuda
