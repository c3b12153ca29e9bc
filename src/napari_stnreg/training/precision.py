"""Precision of the training."""

from __future__ import annotations

import torch

from napari_stnreg.training.settings import TrainingSettings


def half_precision(settings: TrainingSettings, device: torch.device) -> torch.dtype | None:
    """Return the half precision type for a device, or ``None`` for float32."""
    if settings.mixed_precision == "off" or (settings.mixed_precision == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16
