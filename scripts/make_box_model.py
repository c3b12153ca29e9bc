"""Train the model in the box on generated shapes: ``python scripts/make_box_model.py [--out FOLDER]``.

Small scenes first, where a step costs a quarter, then scenes of the model's own size. Nothing but a seed goes in. An
interrupted run goes on where it was; the model is written to ``src/napari_stnreg/models/box-2d.safetensors``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import napari_stnreg as sr
from napari_stnreg.learning.checkpoint import checkpoint_path
from napari_stnreg.learning.generated import GeneratedShapes
from napari_stnreg.learning.trainer import Trainer

TARGET = Path(__file__).parents[1] / "src" / "napari_stnreg" / "models" / "box-2d.safetensors"
SIZES = {"encoder": [12, 24, 32, 48, 48], "decoder": [48, 48, 32, 32, 24], "final": [24], "resolution": "half"}
COMMON: dict[str, Any] = {
    "network": "voxelmorph", "family": "diffeomorphic", "network_options": SIZES, "similarity": "lncc",
    "similarity_weight": 0.0, "label_weight": 1.0, "truth_weight": 15.0, "diffusion": 0.0, "sizing": "extent",
    "snapshots": 0,
}  # fmt: skip
PHASES: list[tuple[int, int, int, dict[str, Any]]] = [
    (64, 1500, 20, {"epochs": 36, "batch_size": 16, "learning_rate": 2e-3, "warmup": 0.01}),
    (128, 500, 7, {"epochs": 7, "batch_size": 4, "learning_rate": 7e-4, "warmup": 0.01}),
]
"""Side of the scenes, pairs in an epoch, epochs after which the phase is left, and settings of each phase."""


def main() -> None:
    """Train every phase that is not finished, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("box-model"), help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    weights: dict[str, torch.Tensor] | None = None
    spent, model = 0.0, None
    for number, (side, count, last, settings) in enumerate(PHASES):
        path = options.out / f"phase{number}.safetensors"
        cost = path.with_suffix(".json")
        earlier = json.loads(cost.read_text())["cpu_seconds"] if cost.exists() else 0.0
        if not path.exists():
            data = GeneratedShapes(sr.Grid.from_spacing((side, side)), count=count, held_back=32, keep=True)
            checkpoint = checkpoint_path(path)
            trainer = Trainer(data, sr.TrainingSettings.parse(**COMMON, **settings), checkpoint, resume=True)
            if weights is not None and not checkpoint.exists():
                trainer.network.load_state_dict(weights)
            began, run, told = time.process_time(), trainer.run(), None
            while True:
                try:
                    step = run.send(told)
                except StopIteration as end:
                    end.value.save(path)
                    break
                if step.state == "validated":
                    used = earlier + time.process_time() - began
                    cost.write_text(json.dumps({"cpu_seconds": round(used, 1)}) + "\n")
                    print(
                        f"phase {number} epoch {step.epoch} cpu {used:.0f} s {step.scores}", file=sys.stderr, flush=True
                    )
                told = "stop" if step.epoch >= last else None
            earlier = json.loads(cost.read_text())["cpu_seconds"]
        spent += earlier
        model = sr.load(path)
        weights = model.network.state_dict()
    assert model is not None
    model.summary["phases"] = [
        {"side": side, "pairs": count, "left_after": last, **settings} for side, count, last, settings in PHASES
    ]
    model.summary["cpu_seconds"] = round(spent)
    options.target.parent.mkdir(exist_ok=True)
    model.save(options.target)


if __name__ == "__main__":
    main()
