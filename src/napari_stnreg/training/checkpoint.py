"""Training checkpoints, from which a training resumes with bit-identical results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_stnreg.core import container
from napari_stnreg.core.errors import InputError
from napari_stnreg.models.model_file import check_weights
from napari_stnreg.networks import Network
from napari_stnreg.training.parts import json_state
from napari_stnreg.training.progress import EpochRecord

FORMAT = "napari-stnreg checkpoint"
VERSION = 1


@dataclass
class TrainingState:
    """State of a training besides the network and its optimizer.

    Parameters
    ----------
    epoch
        Completed epochs.
    curve
        One record before training and one for each epoch.
    best_epoch, best_value, best_weights
        The best validation so far (lower is better), with its weights on the CPU.
    scale
        Loss scale in half precision; 0 if not used.
    seconds
        Elapsed time.
    replay, replay_epochs, replay_fixed
        Warped images of the validation pair, their epochs, and the fixed image.
    random, random_cuda
        States of torch's random generators.
    """

    epoch: int = 0
    curve: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    scale: float = 0.0
    seconds: float = 0.0
    replay: list[npt.NDArray[np.float16]] = field(default_factory=list)
    replay_epochs: list[int] = field(default_factory=list)
    replay_fixed: npt.NDArray[np.float16] | None = None
    random: Tensor | None = None
    random_cuda: Tensor | None = None


def checkpoint_path(output: Path) -> Path:
    """Return the checkpoint path of a model file, beside the model."""
    return output.with_name(output.name.removesuffix(".safetensors") + ".checkpoint.safetensors")


def save_checkpoint(
    path: Path,
    state: TrainingState,
    network: Network,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    scheduler: Mapping[str, Any] | None = None,
) -> None:
    """Save a checkpoint atomically.

    Parameters
    ----------
    path, state, network, optimizer
        File, state, network and optimizer.
    identity
        Settings and data, compared on resuming.
    scheduler
        State of a scheduler of the caller, JSON-ready.
    """
    tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in state.best_weights.items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in values.items() if value is not None
        }
    if state.random is not None:
        tensors["random.cpu"] = state.random
    if state.random_cuda is not None:
        tensors["random.cuda"] = state.random_cuda
    if state.replay:
        tensors["replay"] = torch.from_numpy(np.stack(state.replay))
    if state.replay_fixed is not None:
        tensors["replay_fixed"] = torch.from_numpy(state.replay_fixed)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": network.config(),
        "identity": dict(identity),
        "epoch": state.epoch,
        "curve": [asdict(one) for one in state.curve],
        "best_epoch": state.best_epoch,
        "best_value": state.best_value,
        "scale": state.scale,
        "seconds": state.seconds,
        "replay_epochs": state.replay_epochs,
        "groups": [json_state(dict(group)) for group in optimizer.param_groups],
        "scheduler": None if scheduler is None else dict(scheduler),
    }
    container.write(path, header, tensors)


def load_checkpoint(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    scheduler: Any = None,
) -> TrainingState:
    """Restore a network and its optimizer from a checkpoint.

    A training can be continued with more epochs than it was planned for; the learning-rate schedule is then that of the
    longer training from there on.

    Parameters
    ----------
    path, network, optimizer, identity
        See :func:`save_checkpoint`.
    scheduler
        Scheduler of the caller, whose state is restored.

    Raises
    ------
    InputError
        If the file is not a checkpoint, is damaged, or belongs to another training.
    """
    header, tensors = container.read(path)
    container.expect(header, FORMAT, VERSION, path)
    try:
        _compare(header["identity"], identity, path)
        if header["network"] != network.config():
            raise InputError(f"'{path.name}' belongs to another network. Train into a new file.")
        best, weights = _named(tensors, "best"), _named(tensors, "network")
        expected = network.state_dict()
        check_weights(expected, best)
        check_weights(expected, weights)
        network.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _named(tensors, "optimizer").items():
            number, key = name.split(".", 1)
            moments.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        if scheduler is not None:
            for group, saved in zip(optimizer.param_groups, header["groups"], strict=True):
                group.update({name: value for name, value in saved.items() if name != "params"})
            scheduler.load_state_dict({**scheduler.state_dict(), **(header["scheduler"] or {})})
        return TrainingState(
            best_value=float(header["best_value"]),
            best_weights=best,
            scale=float(header["scale"]),
            seconds=float(header["seconds"]),
            random=tensors.get("random.cpu"),
            random_cuda=tensors.get("random.cuda"),
            **_recorded(header, tensors),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path) from error


def read_progress(path: Path) -> TrainingState:
    """Read curves and replay images from a checkpoint, without weights.

    Raises
    ------
    InputError
        If the file is not a checkpoint or is damaged.
    """
    header, tensors = container.read(path)
    container.expect(header, FORMAT, VERSION, path)
    try:
        return TrainingState(**_recorded(header, tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def _recorded(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of a state that record the progress: epochs, curves, and replay images."""
    replay, fixed = tensors.get("replay"), tensors.get("replay_fixed")
    return {
        "epoch": int(header["epoch"]),
        "curve": [EpochRecord(**one) for one in header["curve"]],
        "best_epoch": int(header["best_epoch"]),
        "replay": [] if replay is None else list(replay.numpy()),
        "replay_epochs": [int(e) for e in header["replay_epochs"]],
        "replay_fixed": None if fixed is None else fixed.numpy(),
    }


def _damaged(path: Path) -> InputError:
    return InputError(f"'{path.name}' is damaged: its content is not that of a checkpoint.")


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}


def _compare(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for part in ("settings", "data", "input_spec"):
        a, b = then[part], now[part]
        for name in sorted({*a, *b}):
            if name == "epochs" and a[name] < b[name] and a.get("strategy") != "sequential":
                continue
            if a.get(name) != b.get(name):
                raise InputError(
                    f"'{path.name}' belongs to another training: its {name.replace('_', ' ')} was "
                    f"{_short(a.get(name))}, now it is {_short(b.get(name))}."
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
