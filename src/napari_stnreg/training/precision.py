"""In which precision a network is trained."""

from __future__ import annotations

import torch

from napari_stnreg.training.settings import TrainingSettings


def half_precision(settings: TrainingSettings, device: torch.device) -> torch.dtype | None:
    """The half precision that is used on a device, or ``None`` for float32 throughout."""
    if settings.mixed_precision == "off" or (settings.mixed_precision == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16
