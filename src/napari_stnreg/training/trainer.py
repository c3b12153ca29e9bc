"""Training loop."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.device import pick_device
from napari_stnreg.core.errors import FitError, InputError
from napari_stnreg.losses.custom import CustomSimilarity
from napari_stnreg.models.model import Model
from napari_stnreg.networks import AutoEncoder, CustomNetwork, Network, SequentialNetwork
from napari_stnreg.training.callbacks import Callbacks
from napari_stnreg.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from napari_stnreg.training.data.batch import Batch, TrainingData, steps_of
from napari_stnreg.training.distributed import join_processes, own_device, parallel
from napari_stnreg.training.loss import BatchResult, ReconstructionLoss, RegistrationLoss
from napari_stnreg.training.memory import check_step, step_bytes
from napari_stnreg.training.parts import Parts, complete_settings, json_state
from napari_stnreg.training.precision import half_precision
from napari_stnreg.training.progress import EpochRecord, TrainingProgress, TrainingStatus, ValidationExample
from napari_stnreg.training.random_state import RandomState
from napari_stnreg.training.schedule import LearningRateSchedule
from napari_stnreg.training.settings import TrainingSettings
from napari_stnreg.training.summary import data_warnings, input_spec_of, training_summary
from napari_stnreg.training.warm_start import WarmStart, initial_network
from napari_stnreg.transforms import select_transforms

TrainingSteps = Generator[TrainingProgress, "str | None", Model]

MAX_REPLAY_BYTES = 256 * 2**20
"""Largest size of the replay images."""
PAUSE_INTERVAL_S = 0.05
"""Polling interval while paused."""


class Trainer:
    """One training and its state.

    Parameters
    ----------
    data, settings
        See :func:`~napari_stnreg.training.api.train`.
    checkpoint
        File that is saved after every epoch; ``None`` for none.
    resume
        Continue from it.
    warm_start
        See :func:`~napari_stnreg.training.warm_start.initial_network`.
    parts
        Network, loss, optimizer, scheduler and callbacks of the caller.

    Notes
    -----
    In several processes (see :mod:`~napari_stnreg.training.distributed`) each trains on its shard of a batch, and all
    take the decisions of the first.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: TrainingSettings,
        checkpoint: Path | None,
        *,
        resume: bool,
        warm_start: WarmStart | None = None,
        parts: Parts = Parts(),  # noqa: B008 (immutable)
    ) -> None:
        self.data, self.checkpoint, self.parts = data, checkpoint, parts
        self.processes = join_processes()
        self.device = pick_device(own_device(settings.device))
        if data.count("train") < 1:
            raise InputError("The training data have no pairs.")
        if data.grid.ndim not in (2, 3):
            raise InputError(f"Networks are for 2D and 3D images, not {data.grid.ndim}D.")
        self.random = RandomState(settings.seed, self.device)
        with self.random:
            network, settings = initial_network(data, settings, warm_start, parts.network)
        settings = complete_settings(settings, network, parts)
        loader_size = getattr(data, "batch_size", None)
        if loader_size:  # a data loader decides on it
            settings = settings.model_copy(update={"batch_size": int(loader_size)})
        self.settings = settings
        self.network: Network = network.to(self.device)
        self.input_spec = input_spec_of(data, network, settings)
        self.objective: Any = (
            ReconstructionLoss()
            if isinstance(network, AutoEncoder)
            else RegistrationLoss(settings, data.grid, data.labels, parts.similarity)
        )
        self.optimizer = self._make_optimizer()
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scheduler = parts.make_scheduler(self.optimizer)
        self.callbacks = parts.callbacks if self.processes.is_first else Callbacks()
        self._parallel: Any = None
        self.steps = steps_of(data, "train", settings.batch_size)
        if self.processes.size > 1 and hasattr(data, "shard"):
            data.shard = (self.processes.rank, self.processes.size)
        self.phases = (
            len(network.stages) if settings.strategy == "sequential" and isinstance(network, SequentialNetwork) else 1
        )
        if settings.epochs < self.phases:
            raise InputError(f"Sequential training of {self.phases} networks needs at least {self.phases} epochs.")
        self.schedule = LearningRateSchedule(settings, self.steps, self.phases)
        half = half_precision(settings, self.device)
        needed = step_bytes(network, data.grid, data.channels, settings.batch_size, half=half is not None)
        check_step(needed, settings.batch_size, self.device)
        network.set_autocast(half)
        # bfloat16 has the range of float32; only float16 needs a loss scale
        self.scaler = torch.amp.GradScaler(enabled=half == torch.float16)
        self.state = TrainingState(best_weights=self._weights())
        self.start_time = time.perf_counter()
        self.example: ValidationExample | None = None
        self.shown: Batch | None = None
        found = resume and checkpoint is not None and checkpoint.exists()
        if found:
            assert checkpoint is not None
            self.state = load_checkpoint(checkpoint, self.network, self.optimizer, self._identity(), self.scheduler)
            self.random.load(self.state.random, self.state.random_cuda)
            if self.scaler.is_enabled() and self.state.scale:
                self.scaler = torch.amp.GradScaler(init_scale=self.state.scale)
        self.resumed = found
        # A warm start has learned from other images before.
        self.warnings = [] if settings.warm_start is not None else data_warnings(data, network)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.parts.optimizer is not None:
            return self.parts.make_optimizer(self.network)
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over the weights instead of a dozen
        )

    def run(self) -> TrainingSteps:
        """Train; see :func:`~napari_stnreg.training.api.train_steps`."""
        command: str | None = None
        self.callbacks.call("on_start", self.network, self.settings)
        if not self.resumed:
            with self.random:
                self._validate(None, {}, 0.0)
        else:
            self._restore_example()
        command = yield from self._report("validated", 0, None, {})
        while self.state.epoch < self.settings.epochs and not self._is_out_of_patience():
            command = yield from self._wait(command, 0)
            if command == "stop":
                break
            self._begin_epoch()
            start_time, total, sums, seen = time.perf_counter(), 0.0, dict[str, float](), 0
            with self.random:
                batches = iter(
                    self.data.batches(
                        "train", epoch=self.state.epoch, batch_size=self.settings.batch_size, seed=self.settings.seed
                    )
                )
            idle = 0.0
            for step, batch in enumerate(self._batches(batches)):
                with self.random:
                    result = self._step(batch, step)
                value = float(result.loss.detach())
                total += value * batch.size
                for name, term in result.terms.items():
                    sums[name] = sums.get(name, 0.0) + term * batch.size
                seen += batch.size
                terms = {name: term / seen for name, term in sums.items()}
                command = yield from self._report("running", step + 1, total / seen, terms)
                paused = time.perf_counter()
                command = yield from self._wait(command, step + 1)
                idle += time.perf_counter() - paused
                if command == "stop":
                    break
            if command == "stop":
                break
            if not seen:
                raise InputError("The training data returned no batch for this epoch.")
            loss, terms = self._epoch_means(total, sums, seen)
            self._check_terms(terms)
            with self.random:
                self._validate(loss, terms, time.perf_counter() - start_time - idle)
            self._save()
            command = yield from self._report("validated", 0, loss, terms)
        model = self._model("stopped" if command == "stop" else "finished")
        self.callbacks.call("on_end", model)
        return model

    def _check_terms(self, terms: Mapping[str, float]) -> None:
        """Warn about weights of the loss that had no effect in an epoch, since the data have nothing for them.

        Raises
        ------
        InputError
            If a loss of the caller had no gradient in any batch.
        """
        similarity = getattr(self.objective, "similarity", None)
        if isinstance(similarity, CustomSimilarity) and not similarity.had_gradient and "similarity" in terms:
            raise InputError(
                f"The loss '{similarity.title}' had no gradient in any batch, so the network would not learn from it. "
                "Compute it from `warped` with differentiable functions of torch, without detach(), rounding or NumPy."
            )
        needed = {"truth_weight": ("truth", "known transforms"), "point_weight": ("points", "corresponding points"),
                  "surface_weight": ("surfaces", "points of surfaces")}  # fmt: skip
        for weight, (term, what) in needed.items():
            text = f"{weight} is above 0, but the training data have no {what}, so it has no effect."
            if getattr(self.settings, weight) > 0 and term not in terms and text not in self.warnings:
                self.warnings.append(text)

    def _report(
        self, status: TrainingStatus, step: int, loss: float | None, terms: dict[str, float]
    ) -> Generator[TrainingProgress, str | None, str | None]:
        """Yield progress, call the callbacks, and return the command, the same in all processes."""
        progress = self._progress(status, step, loss, terms)
        command = yield progress
        if self.callbacks.report(progress, self.network):
            command = "stop"
        # A pause of the first process holds the others up where they wait for it.
        return "stop" if self.processes.largest(float(command == "stop"), self.device) else command

    def _epoch_means(self, total: float, sums: dict[str, float], seen: int) -> tuple[float, dict[str, float]]:
        """Return the mean loss and terms of an epoch over all processes."""
        names = sorted(sums)
        total, count, *values = self.processes.sums([total, float(seen), *(sums[name] for name in names)], self.device)
        means = dict(zip(names, (value / count for value in values), strict=True))
        return total / count, {name: means[name] for name in sums}

    def _batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Iterate over batches, each drawn with this training's random state."""
        while True:
            with self.random:
                batch = next(batches, None)
            if batch is None:
                return
            if self.processes.size > 1 and getattr(self.data, "shard", None) is None:
                batch = batch.part(self.processes.rank, self.processes.size)
            yield batch.to(self.device)

    def _wait(self, command: str | None, step: int) -> Generator[TrainingProgress, str | None, str | None]:
        """Wait while paused and return the last command."""
        if command != "pause":
            return command
        paused = time.perf_counter()
        while command not in ("resume", "stop"):
            time.sleep(PAUSE_INTERVAL_S)
            command = yield self._progress("paused", step, None, {})
        self.start_time += time.perf_counter() - paused
        return command

    def _begin_epoch(self) -> None:
        if self.phases > 1:
            assert isinstance(self.network, SequentialNetwork)
            phase = self.schedule.phase(self.state.epoch)
            if self.state.epoch == self.schedule.epochs_of(phase)[0] and phase > 0:
                # The next network builds on the best weights of those before it.
                self.network.load_state_dict(self.state.best_weights)
                self.state.best_value = math.inf
            if not self.resumed or self.state.epoch == self.schedule.epochs_of(phase)[0]:
                self._parallel = None  # other weights are trained
            self.network.set_trainable_stage(phase)
        self.network.train()
        if self.processes.size > 1 and self._parallel is None:
            own = any(isinstance(one, CustomNetwork) for one in self.network.networks())
            self._parallel = parallel(self.network, self.objective, find_unused=own)

    def learning_rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of one batch."""
        return self.schedule.learning_rate(epoch, step)

    def _step(self, batch: Batch, step: int) -> BatchResult:
        # The last group of an epoch may have fewer batches than are accumulated.
        first = step - step % self.settings.gradient_accumulation
        group_size = min(self.settings.gradient_accumulation, self.steps - first)
        last = step + 1 == first + group_size
        self._set_rates(first)
        if self._parallel is None:
            result: BatchResult = self.objective(self.network, batch)
            loss = result.loss
        else:
            with contextlib.nullcontext() if last else self._parallel.no_sync():
                loss, result = self._parallel(batch)
            loss = loss * self._shard_weight(batch, step)
        if not loss.requires_grad:
            raise InputError("The loss does not depend on any weight of the network, so there is nothing to train.")
        if not math.isfinite(self.processes.largest(0.0 if bool(loss.detach().isfinite()) else math.inf, self.device)):
            kept = self.checkpoint is not None and self.checkpoint.exists()
            raise FitError(
                "The training loss became non-finite. Lower the learning rate, and check the loss and the network if "
                "they are your own." + (" The checkpoint of the last epoch is valid." if kept else "")
            )
        with contextlib.nullcontext() if last or self._parallel is None else self._parallel.no_sync():
            self.scaler.scale(loss / group_size).backward()
        if last:
            if self.settings.gradient_clip > 0:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        return result

    def _set_rates(self, step: int) -> None:
        """Set the learning rates of a step by the schedule of the settings, unless the caller has a scheduler."""
        if self.scheduler is not None:
            return
        rate = self.learning_rate(self.state.epoch, step)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate if self.parts.optimizer is None else base * rate / self.settings.learning_rate

    def _shard_weight(self, batch: Batch, step: int) -> float:
        """Return the factor by which the mean over processes becomes the mean over the pairs of a batch."""
        size, most = self.processes.size, self.settings.batch_size
        whole = min(most, max(self.data.count("train") - step * most, 1))
        own = len(range(self.processes.rank, whole, size))  # 0 if the process only keeps the others company
        return own * size / whole

    def _validate(self, loss: float | None, terms: dict[str, float], seconds: float) -> None:
        """Validate the network, add an epoch to the curve, and keep its weights if they are the best."""
        state, settings = self.state, self.settings
        self.network.eval()
        total, count, scores = 0.0, 0, dict[str, list[tuple[float, int]]]()
        split = self._validation_split()
        for batch in self.data.batches(split, epoch=0, batch_size=settings.batch_size, seed=settings.seed):
            batch = batch.to(self.device)
            result, batch_scores = self.objective.score(self.network, batch)
            if not count:
                self._set_example(batch, result, state.epoch + (loss is not None))
            if split == "train":
                break  # without validation pairs only the example is needed
            total += float(result.loss) * batch.size
            count += batch.size
            for name, value in batch_scores.items():
                scores.setdefault(name, []).append((value, batch.size))
        means = {name: sum(v * n for v, n in found) / sum(n for _, n in found) for name, found in scores.items()}
        validation = total / count if count else None
        if loss is not None:
            state.epoch += 1
        rate = self.optimizer.param_groups[0]["lr"] if loss is not None else 0.0
        state.curve.append(EpochRecord(state.epoch, loss, terms, validation, means, rate, seconds))
        value = self._criterion(loss, validation, means)
        if value is not None:
            value = self.processes.of_first(value, self.device)
        if self.scheduler is not None and loss is not None:
            plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(*[value] if plateau else [])
        if value is not None and (value < state.best_value or (self.phases > 1 and state.best_value == math.inf)):
            state.best_epoch, state.best_value, state.best_weights = state.epoch, value, self._weights()
        self._record_replay()

    def _validation_split(self) -> Any:
        return "validation" if self.data.count("validation") else "train"

    def _criterion(self, loss: float | None, validation: float | None, scores: dict[str, float]) -> float | None:
        """Return the criterion of the best weights, lower is better: Dice, error to the known transform, or loss."""
        if "dice" in scores and math.isfinite(scores["dice"]):
            return -scores["dice"]
        if "error" in scores and self.settings.truth_weight > 0:
            return scores["error"]
        return loss if validation is None else validation

    def _set_example(self, batch: Batch, result: BatchResult, epoch: int) -> None:
        grid = batch.grid or self.data.grid
        arrays = [x[0, 0].detach().float().cpu().numpy() for x in (batch.fixed, batch.moving, result.warped)]
        transform = result.transform
        first = None if transform is None else select_transforms(transform, [0]).to("cpu")
        self.example = ValidationExample(epoch, arrays[0], arrays[1], arrays[2], grid, first)

    def _restore_example(self) -> None:
        """Register the validation example of a resumed training."""
        self.network.eval()
        with self.random:
            for batch in self.data.batches(
                self._validation_split(), epoch=0, batch_size=self.settings.batch_size, seed=self.settings.seed
            ):
                batch = batch.to(self.device)
                with torch.random.fork_rng(devices=[]):
                    result, _ = self.objective.score(self.network, batch)
                self._set_example(batch, result, self.state.epoch)
                break

    def _record_replay(self) -> None:
        state, settings = self.state, self.settings
        if self.example is None or settings.snapshots < 1:
            return
        size = self.example.warped.size * 2
        most = max(min(settings.snapshots, MAX_REPLAY_BYTES // max(size, 1)), 1)
        wanted = set(np.linspace(0, settings.epochs, most).round().astype(int).tolist())
        best = state.epoch == state.best_epoch and state.epoch > 0
        if state.replay_epochs and state.replay_epochs[-1] not in {*wanted, state.best_epoch}:
            # only the kept epoch is recorded beside the wanted ones; an earlier best one is not kept any more
            state.replay.pop()
            state.replay_epochs.pop()
        if state.epoch in wanted or best:
            state.replay.append(self.example.warped.astype(np.float16))
            state.replay_fixed = self.example.fixed.astype(np.float16)
            state.replay_epochs.append(state.epoch)

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().cpu().clone() for name, t in self.network.state_dict().items()}

    def _is_out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.epoch - self.state.best_epoch >= patience

    def _save(self) -> None:
        if self.checkpoint is None or not self.processes.is_first:
            return
        self.state.random, self.state.random_cuda = self.random.save()
        self.state.scale = float(self.scaler.get_scale()) if self.scaler.is_enabled() else 0.0
        spent = self.state.seconds
        self.state.seconds = self._seconds()
        scheduler = None if self.scheduler is None else json_state(self.scheduler.state_dict())
        save_checkpoint(self.checkpoint, self.state, self.network, self.optimizer, self._identity(), scheduler)
        self.state.seconds = spent

    def _identity(self) -> dict[str, Any]:
        """Return what must be equal for a training to be resumed; the device and what is recorded may change."""
        excluded = {"device", "snapshots", "patience"}
        settings = self.settings.model_dump(mode="json", exclude=excluded) | self.parts.names()
        identity = {"settings": settings, "data": self.data.summary(), "input_spec": self.input_spec.to_dict()}
        read_back: dict[str, Any] = json.loads(json.dumps(identity))  # tuples become lists, as in the file
        return read_back

    def _seconds(self) -> float:
        return self.state.seconds + time.perf_counter() - self.start_time

    def _progress(
        self, status: TrainingStatus, step: int, loss: float | None, terms: dict[str, float]
    ) -> TrainingProgress:
        state, epochs = self.state, self.settings.epochs
        last = state.curve[-1]
        done, total = state.epoch * self.steps + step, epochs * self.steps
        spent = self._seconds()
        left = spent / done * (total - done) if done else None
        if status == "paused":
            left = None
        message = f"epoch {min(state.epoch + 1, epochs)} of {epochs}"
        if self.phases > 1:
            assert isinstance(self.network, SequentialNetwork)
            name = self.network.networks()[self.schedule.phase(min(state.epoch, epochs - 1))].name
            message += f", {name}"
        if status == "paused":
            message += ", paused"
        return TrainingProgress(
            status, state.epoch, epochs, done, total, last.loss if loss is None else loss, terms or last.terms,
            last.validation_loss, last.scores, state.best_epoch, spent, left, tuple(state.curve), self.example, message,
            tuple(self.warnings),
        )  # fmt: skip

    def _model(self, stop_reason: str) -> Model:
        state = self.state
        self.network.load_state_dict(state.best_weights)
        if isinstance(self.network, SequentialNetwork):
            self.network.set_trainable_stage(-1)
        self.network.set_autocast(None)
        warnings = list(self.warnings)
        if state.epoch > 0 and state.best_epoch == 0:
            warnings.append("No epoch improved the validation, so the model has the weights from before the training.")
        summary = training_summary(
            self.data, self.settings, state, stop_reason=stop_reason, seconds=self._seconds(),
            device=self.device.type, warnings=warnings,
        )  # fmt: skip
        replay = np.stack(state.replay) if state.replay else None
        fixed = None if replay is None or self.example is None else self.example.fixed.astype(np.float16)
        if fixed is None or replay is None or fixed.shape != replay.shape[1:]:
            fixed = None
        return Model(self.network.to("cpu"), self.input_spec, summary, self.settings.network, replay, fixed)

    def release(self) -> None:
        """Release all memory on the device."""
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)
        self.network.to("cpu")
        self.objective = self._parallel = None
