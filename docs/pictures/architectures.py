"""Draw every network from its code: ``python docs/pictures/architectures.py [--out FOLDER]``.

Each network is built with its default sizes and run once on an empty pair of images. Every convolution and dense layer
is drawn as a bar: as high as its output is large, as wide as it has channels. A line joins a layer with an earlier
output that is concatenated to its input.
"""

from __future__ import annotations

import argparse
import html
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from napari_stnreg.networks.base import NETWORKS
from napari_stnreg.networks.registry import new_network

SIDE = 64
"""Side of the images, pixels."""
HEIGHT, GAP, TOP = 120, 22, 72
COLORS = {"convolution": "#4a7fd4", "dense": "#d4803a", "output": "#c2418f"}
EXTRA = ("affine+voxelmorph",)
"""Sequences that are drawn besides the single networks."""


@dataclass
class Layer:
    """One layer as it ran."""

    kind: str
    size: tuple[int, ...]
    channels: int
    inputs: int
    kernel: str
    joined: int | None = None
    """Position of an earlier layer whose output is concatenated to the input."""


def run(name: str) -> tuple[list[Layer], tuple[int, ...], str, int]:
    """Return the layers in the order of execution, the shape of the output, the family, and the number of weights."""
    network = new_network(name, 2, 1, (SIDE, SIDE)).eval()
    layers: list[Layer] = []

    def record(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            layers.append(Layer("dense", (), module.out_features, module.in_features, "dense"))
        else:
            stride = f" /{module.stride[0]}" if module.stride[0] > 1 else ""
            text = f"{module.kernel_size[0]}x{module.kernel_size[0]}{stride}"
            layers.append(Layer("convolution", tuple(output.shape[2:]), module.out_channels, module.in_channels, text))

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(record)
    image = torch.zeros(1, 1, SIDE, SIDE)
    family = ""
    with torch.no_grad():
        if network.n_inputs == 2 and len(network.networks()) > 1:
            from napari_stnreg.core.grid import Grid

            network.transform(image, image, Grid.from_spacing((SIDE, SIDE)))
            shape: tuple[int, ...] = ()
            family = " + ".join(one.family.name for one in network.networks())
        else:
            output = network(*[image] * network.n_inputs)
            shape = tuple(output.shape[1:])
            family = getattr(getattr(network, "family", None), "name", "")
    for position, layer in enumerate(layers[1:], 1):
        more = layer.inputs - layers[position - 1].channels
        if layer.kind == "convolution" and more > 0:
            fits = [i for i, other in enumerate(layers[: position - 1]) if other.channels == more and other.size]
            scale = layer.size[0] if "/" not in layer.kernel else 2 * layer.size[0]
            layer.joined = next((i for i in reversed(fits) if layers[i].size[0] == scale), None)
    layers[-1].kind = "output"
    return layers, shape, family, sum(p.numel() for p in network.parameters())


def draw(name: str) -> str:
    """Return the drawing as SVG."""
    layers, shape, family, weights = run(name)
    parts: list[str] = []
    x = 26.0
    places: list[tuple[float, float, float]] = []
    middle = TOP + HEIGHT / 2
    inputs = 2 if name != "auto-encoder" else 1
    for i in range(inputs):
        parts.append(
            f'<rect x="{x + 8 * i}" y="{middle - HEIGHT / 2 + 6 * i}" width="10" height="{HEIGHT - 6 * (inputs - 1)}" '
            f'fill="#8a8f98" opacity="{0.55 + 0.3 * i}"/>'
        )
    parts.append(text(x + 9, middle + HEIGHT / 2 + 15, f"{SIDE} x {SIDE}", "middle"))
    parts.append(text(x + 9, middle + HEIGHT / 2 + 27, "both images" if inputs == 2 else "image", "middle"))
    x += 40
    for layer in layers:
        height = HEIGHT * (0.18 + 0.82 * math.log2(max(layer.size)) / math.log2(SIDE)) if layer.size else 26.0
        width = 5 + 5 * math.log2(1 + layer.channels)
        places.append((x, width, height))
        parts.append(
            f'<rect x="{x:.1f}" y="{middle - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
            f'fill="{COLORS[layer.kind]}" opacity="0.9"/>'
        )
        parts.append(text(x + width / 2, middle - height / 2 - 5, str(layer.channels), "middle"))
        below = middle + height / 2
        parts.append(text(x + width / 2, below + 11, str(layer.size[0]) if layer.size else "", "middle", 8))
        parts.append(text(x + width / 2, below + 21 if layer.size else below + 11, layer.kernel, "middle", 8))
        x += width + GAP
    for (left, width, _), (right, _, _) in itertools.pairwise(places):
        parts.append(line(left + width + 2, middle, right - 3, middle))
    joined = sorted({layer.joined for layer in layers if layer.joined is not None})
    rank = {position: order for order, position in enumerate(joined)}
    for (right, _, _), layer in zip(places, layers, strict=True):
        if layer.joined is not None:
            left, width, height = places[layer.joined]
            top = TOP - 44 + 7 * (rank[layer.joined] % 5)
            start, end = left + width / 2, right - 6
            parts.append(
                f'<path d="M{start:.1f} {middle - height / 2 - 16:.1f}V{top}H{end:.1f}V{middle - 6:.1f}" fill="none" '
                'stroke="#7d828b" stroke-dasharray="4 3"/>'
            )
    what = f"parameters of {family}" if family else ("features" if "encoder" in name else "")
    title = f"{name}: {weights:,} weights"
    if shape:
        title += f"; output {' x '.join(str(n) for n in shape)}"
    title += f"; {what}" if what else ""
    width, height = max(x, 430), TOP + HEIGHT + 40
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img" aria-label="{html.escape(title)}" '
        'font-family="system-ui, sans-serif" font-size="10">'
    )
    return "\n".join([head, text(12, 14, title, "start", 12), *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, anchor: str, size: int = 10) -> str:
    """Return a text element; its gray is legible on white and on black."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="#7d828b">{html.escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return an arrow."""
    return (
        f'<path d="M{x1:.1f} {y1:.1f}H{x2:.1f}m-4 -3l4 3l-4 3" fill="none" stroke="#7d828b" stroke-width="1"/>'
        if y1 == y2
        else f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#7d828b"/>'
    )


def main() -> None:
    """Draw all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (*sorted(NETWORKS), *EXTRA):
        path = options.out / f"network_{name}.svg"
        path.write_text(draw(name), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
