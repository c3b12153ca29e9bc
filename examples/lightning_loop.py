"""Train a network of napari-stnreg in a loop of Lightning, save it as a model, and register with it.

Needs Lightning: pip install lightning
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

import napari_stnreg as sr
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.networks import new_network
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.loss import RegistrationLoss

SIZE = (32, 32)


class Blobs(Dataset):
    """Pairs of images of one Gaussian blob at different positions."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(index)
        y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
        centers = 16 + 2 * torch.randn(2, 2, generator=random)
        fixed, moving = (torch.exp(-((y - c[0]) ** 2 + (x - c[1]) ** 2) / 30)[None] for c in centers)
        return {"fixed": fixed, "moving": moving}


class Registration(lightning.LightningModule):
    """A network and the training loss of this package."""

    def __init__(self) -> None:
        super().__init__()
        grid = sr.Grid.from_spacing(SIZE)
        settings = sr.TrainingSettings(network="voxelmorph", similarity="mse")
        self.network = new_network("voxelmorph", 2, 1, SIZE, {"resolution": "half"})
        self.loss = RegistrationLoss(settings, grid.translated(-grid.center))

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        result = self.loss(self.network, Batch(batch["fixed"], batch["moving"]))
        self.log_dict(result.terms)
        return result.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--output", type=Path, default=Path("blobs.safetensors"))
options = parser.parse_args()

lightning.seed_everything(0, verbose=False)
module = Registration()
trainer = lightning.Trainer(max_epochs=options.epochs, accelerator="auto", logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
trainer.fit(module, DataLoader(Blobs(), batch_size=8))

model = sr.Model(module.network.cpu(), InputSpec(2, 1, SIZE, (1.0, 1.0)), name="blobs")
model.save(options.output)
pair = Blobs()[3]
result = sr.load(options.output)(pair["fixed"][0].numpy(), pair["moving"][0].numpy(), device="cpu")
before, after = (result.scores[when]["mse"] for when in ("before", "after"))
print(f"mean squared difference {before:.4f} before, {after:.4f} after")
