"""Rename keys and values in the JSON header of a model file: ``scripts/rewrite_model_header.py FILE``.

The tensors are copied byte for byte; only the header changes. Use it when a name that a model file holds is renamed.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

KEYS = {
    "accumulate": "gradient_accumulation",
    "contract": "input_spec",
    "ending": "stop_reason",
    "held_back": "validation_pairs",
    "normalisation": "normalization",
    "sizing": "size_mode",
    "training": "strategy",
}
"""Old and new names of keys."""

VALUES = {"diffeomorphic": "velocity", "in-turn": "sequential", "stages": "sequential", "together": "joint"}
"""Old and new names of string values; several joined by ``+`` are renamed one by one."""


def renamed(part: Any) -> Any:
    """Apply :data:`KEYS` and :data:`VALUES` to a JSON value and everything inside it."""
    if isinstance(part, dict):
        return {KEYS.get(key, key): renamed(value) for key, value in part.items()}
    if isinstance(part, list):
        return [renamed(value) for value in part]
    return "+".join(VALUES.get(word, word) for word in part.split("+")) if isinstance(part, str) else part


def rewrite(path: Path) -> None:
    """Rewrite the header of one safetensors file in place."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    for key, value in metadata.items():
        metadata[key] = json.dumps(renamed(json.loads(value)))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the tensors to 8 bytes
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
