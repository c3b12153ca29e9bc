"""Train the bundled models: ``python scripts/train_bundled_model.py --model {box-2d,box-3d} [--out FOLDER]``.

``box-2d`` (21 CPU minutes): first small scenes, where a step costs a quarter. Then a copy of the trained network is
appended at twice the resolution and trained there, so that the model is two networks in sequence: large displacements
first. At last both are trained together, on textured scenes with local changes of size, and the mean of the weights of
the last steps is kept. ``box-3d`` (16 minutes on a GPU): see
``bundled_volumes.py``. No acquired image is used. An interrupted run is continued. The model is written to
``src/napari_stnreg/models/``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bundled_volumes import train_box_3d
from safetensors.torch import load_file, save_file

import napari_stnreg as sr
from napari_stnreg.networks import SequentialNetwork
from napari_stnreg.training.callbacks import Callbacks
from napari_stnreg.training.checkpoint import checkpoint_path
from napari_stnreg.training.parts import Parts
from napari_stnreg.training.synthetic.shapes import GeneratedShapes, ShapeSettings
from napari_stnreg.training.trainer import Trainer

MODELS = Path(__file__).parents[1] / "src" / "napari_stnreg" / "models"
SIZES = {"encoder": [12, 24, 32, 48, 48], "decoder": [48, 48, 32, 32, 24], "final": [24], "resolution": "half"}
COARSE = {"network": "voxelmorph", "network_options": SIZES}
BOTH = {
    "network": "voxelmorph+voxelmorph",
    "network_options": {"voxelmorph": [{**SIZES, "shrink": 2}, SIZES]},
}
COMMON: dict[str, Any] = {
    "similarity": "lncc", "similarity_weight": 0.0, "label_weight": 1.0, "truth_weight": 15.0, "diffusion": 0.0,
    "size_mode": "extent", "snapshots": 0, "warmup": 0.01,
}  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """One part of the training.

    Parameters
    ----------
    side, pairs
        Of the scenes, and how many there are.
    shapes
        What the scenes look like.
    settings
        Of the trainer.
    left_after
        Epochs after which the phase is left, if not at its end.
    passes
        How often each network runs; all of them are trained. ``None``: once, and only the last one is trained.
    keep
        Epochs for which a scene is kept; see :class:`GeneratedShapes`.
    averaged_steps
        Steps over which the weights are averaged exponentially; 0 keeps the weights of the best validation.
    """

    side: int
    pairs: int
    shapes: ShapeSettings
    settings: dict[str, Any]
    left_after: int | None = None
    passes: tuple[int, ...] | None = None
    keep: bool | int = True
    averaged_steps: int = 0


PASSES = (1, 2)
"""Passes of the two networks in the finished ``box-2d``. Dice on hearts of training and validation patients (every
fourth slice): 0.864 with one pass each, 0.880 with (2, 1), 0.891 with (1, 2), 0.902 with (2, 2). On twelve natural
images with a known deformation of 2.3 pixels, a second pass of the first network raises the error from 0.86 to 0.95.
"""
TEXTURED = ShapeSettings(
    large_pose_probability=0.4, shift=0.03, other_contrast=0.2, local_scale=0.6, texture=0.8, texture_octaves=4
)
FAR = ShapeSettings(large_pose_probability=0.6, shift=0.03, other_contrast=0.25)
AVERAGED = {"epochs": 60, "batch_size": 4, "schedule": "constant"}
PHASES = [
    Phase(64, 1500, ShapeSettings(), {**COARSE, "epochs": 36, "batch_size": 16, "learning_rate": 2e-3}, 12),
    Phase(64, 1500, FAR, {**COARSE, "epochs": 10, "batch_size": 16, "learning_rate": 1.5e-3}, 8),
    # The same network again behind itself, at twice the resolution; the first one stays as it is.
    Phase(128, 400, FAR, {**BOTH, "epochs": 6, "batch_size": 4, "learning_rate": 7e-4}),
    Phase(128, 400, FAR, {"epochs": 10, "batch_size": 4, "learning_rate": 4e-4}, passes=(2, 1), keep=False),
    Phase(128, 400, TEXTURED, {**AVERAGED, "learning_rate": 5e-4}, 14, passes=(1, 1), keep=3, averaged_steps=1000),
    Phase(128, 400, TEXTURED, {**AVERAGED, "learning_rate": 3e-4, "seed": 1}, 2, passes=(2, 1), keep=3,
          averaged_steps=700),
]  # fmt: skip


class AveragedWeights(sr.TrainingCallback):
    """Average the weights exponentially over the steps, and save the mean after every epoch.

    Parameters
    ----------
    path
        File of the mean.
    steps
        Steps after which the weight of an old value is 1/e.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps

    def on_start(self, network: torch.nn.Module, settings: sr.TrainingSettings) -> None:
        """Start with the saved mean, or the weights."""
        self.network = network
        weights = load_file(self.path) if self.path.exists() else network.state_dict()
        self.mean = {name: value.detach().clone() for name, value in weights.items()}

    def on_step(self, progress: sr.TrainingProgress) -> None:
        """Move the mean toward the weights."""
        for name, value in self.network.state_dict().items():
            self.mean[name].lerp_(value, 1 / self.steps)

    def on_epoch(self, progress: sr.TrainingProgress, network: torch.nn.Module) -> None:
        """Save the mean."""
        save_file(self.mean, self.path)


def begin(network: torch.nn.Module, weights: dict[str, torch.Tensor] | None, *, fresh: bool) -> None:
    """Initialize a phase's network with the weights of the phase before, and freeze all stages but the last."""
    stages = list(network.stages) if isinstance(network, SequentialNetwork) else [network]
    if weights is not None and fresh:
        for stage in stages:
            stage.load_state_dict(weights)
    for stage in stages[:-1]:
        stage.requires_grad_(False)


def train_box_2d(options: argparse.Namespace) -> None:
    """Train every phase that is not finished, and write the model."""
    weights: dict[str, torch.Tensor] | None = None
    spent, model = 0.0, None
    for number, phase in enumerate(PHASES):
        path = options.out / f"phase{number}.safetensors"
        cost = path.with_suffix(".json")
        earlier = json.loads(cost.read_text())["cpu_seconds"] if cost.exists() else 0.0
        if not path.exists():
            grid = sr.Grid.from_spacing((phase.side, phase.side))
            data = GeneratedShapes(grid, phase.shapes, count=phase.pairs, validation_count=32, keep=phase.keep)
            if phase.passes is not None and model is not None:
                model.network.passes = phase.passes
            start = None if phase.passes is None else model
            settings = sr.TrainingSettings.parse(**COMMON, **phase.settings)
            mean = AveragedWeights(path.with_suffix(".mean.safetensors"), phase.averaged_steps)
            parts = Parts(callbacks=Callbacks((mean,) if phase.averaged_steps else ()))
            trainer = Trainer(data, settings, checkpoint_path(path), resume=True, warm_start=start, parts=parts)
            if start is None:
                begin(trainer.network, weights, fresh=not trainer.resumed)
            start_time, run, told = time.process_time(), trainer.run(), None
            while True:
                try:
                    step = run.send(told)
                except StopIteration as end:
                    if phase.averaged_steps:
                        end.value.network.load_state_dict(mean.mean)
                    end.value.save(path)
                    break
                if step.state == "validated":
                    used = earlier + time.process_time() - start_time
                    cost.write_text(json.dumps({"cpu_seconds": round(used, 1)}) + "\n")
                    print(
                        f"phase {number} epoch {step.epoch} cpu {used:.0f} s {step.scores}", file=sys.stderr, flush=True
                    )
                told = "stop" if phase.left_after is not None and step.epoch >= phase.left_after else None
            earlier = json.loads(cost.read_text())["cpu_seconds"]
        spent += earlier
        model = sr.load(path)
        weights = model.network.state_dict()
    assert model is not None
    assert isinstance(model.network, SequentialNetwork)
    model.network.passes = PASSES
    model.summary["phases"] = [asdict(phase) for phase in PHASES]
    model.summary["cpu_seconds"] = round(spent)
    options.target.parent.mkdir(exist_ok=True)
    model.save(options.target)


def main() -> None:
    """Train one of the bundled models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("box-2d", "box-3d"), default="box-2d")
    parser.add_argument("--out", type=Path, default=Path("box-model"), help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=None, help="file of the model")
    parser.add_argument("--device", default="auto", help="of box-3d")
    parser.add_argument("--seconds", type=float, default=930.0, help="length of the training of box-3d")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.target = options.target or MODELS / f"{options.model}.safetensors"
    torch.set_num_threads(options.threads)
    if options.model == "box-2d":
        train_box_2d(options)
    else:
        train_box_3d(options.out, options.target, options.device, options.seconds, options.threads)


if __name__ == "__main__":
    main()
