"""Import the weights of other programs' networks into models of this package.

A checkpoint of torch is a pickle; only tensors and plain values are read from it (``weights_only``), nothing in it is
executed. The architecture is built here, and the imported model is saved as safetensors.
"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_stnreg.core.errors import InputError, announce
from napari_stnreg.models.input_spec import InputSpec, SizeMode
from napari_stnreg.models.model import Model
from napari_stnreg.models.model_file import network_from
from napari_stnreg.networks.array_orientation import ArrayOrientation
from napari_stnreg.networks.icon import IconNetwork
from napari_stnreg.networks.transmorph import PATCH, TransMorph, relative_positions
from napari_stnreg.networks.voxelmorph_original import OriginalVoxelMorph, PairwiseVoxelMorph

_INTENSITY_NOTE = (
    "The network is shown images scaled to 0 to 1 by their percentiles. If it was trained on other intensities, its "
    "transforms are worse."
)

PROGRAMS = ("voxelmorph", "icon", "transmorph")
"""Programs whose weights can be imported."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read tensors and plain values of a checkpoint that ``torch.save`` wrote.

    Raises
    ------
    InputError
        If the file cannot be read, or holds anything that would have to be executed.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"'{source}' does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol; the message below is enough
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"'{source.name}' holds more than weights, or is no checkpoint of torch. Nothing in it was executed. Save "
            "the state_dict() of the network alone."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"'{source.name}' is not a readable checkpoint of torch.") from error
    if not isinstance(content, dict):
        raise InputError(f"'{source.name}' holds {type(content).__name__}, not the weights of a network.")
    return content


def import_model(
    path: str | os.PathLike[str],
    *,
    program: str | None = None,
    shape: Sequence[int] | None = None,
    spacing: float | Sequence[float] | None = None,
    unit: str | None = None,
    orientation: str | None = None,
    steps: int | None = None,
    downsize: int | None = None,
    sinusoidal: bool | None = None,
) -> Model:
    """Build a model from the weights of another program's network.

    Parameters
    ----------
    path
        A checkpoint: voxelmorph's (PyTorch, ``.pt``), of version 0.2 with or without its configuration or of
        ``VxmPairwise`` in version 0.3; that of a network of ICON,
        GradICON or uniGradICON (``.trch``); or TransMorph's (``.pth.tar``).
    program
        ``"voxelmorph"``, ``"icon"`` or ``"transmorph"``; recognized by the names of the weights if not given.
    shape
        Size of the network's images in its own axis order; that of the checkpoint by default.
    spacing, unit
        Voxel size of its images along our axes (z, y, x); by default 1 mm in 3D and 1 pixel in 2D.
    orientation
        Axis order of its arrays: ``"RAS"``, ``"LIA"``, ... or ``"zyx"``; needed in 3D.
    steps, downsize
        Integration, if the checkpoint has no configuration: squarings, and the factor by which the field is smaller; 7
        and 2 by default, as in voxelmorph 0.2, 5 and 1 in version 0.3.
    sinusoidal
        Whether a TransMorph was trained with sinusoidal positions (TransMorph-Sin). The weights do not state it; by
        default it was not.

    Returns
    -------
    Model
        Images are scaled to 0 to 1 by their percentiles before they are shown to the network. What the file does not
        state is listed in ``model.summary["source"]["assumptions"]``, and given as a warning.

    Raises
    ------
    InputError
        If the weights are not those of a known network, or something is missing or contradicts the file.
    """
    checkpoint = read_checkpoint(path)
    source = Path(path)
    config = checkpoint.get("config") if isinstance(checkpoint.get("config"), Mapping) else {}
    weights = _state(checkpoint, source)
    if program not in (None, *PROGRAMS):
        raise InputError(f"Weights of '{program}' cannot be imported. Choose from {', '.join(PROGRAMS)}.")
    if program is None:
        program = _recognized(weights, source)
    assumptions = [_INTENSITY_NOTE]
    if program != "voxelmorph" and (steps is not None or downsize is not None):
        raise InputError(
            f"Steps and downsize are options of voxelmorph, but '{source.name}' holds weights of {program}."
        )
    if program == "voxelmorph":
        options, named = _voxelmorph(weights, config or {}, source, steps, downsize, assumptions)
    elif program == "icon":
        options, named = _icon(weights, source)
    else:
        grid = next((t for name, t in weights.items() if name == _IMAGE_GRID and t.ndim == 5), None)
        stored = None if grid is None else tuple(grid.shape[2:])
        shape = shape if shape is not None else stored
        options, named = _transmorph(weights, source, stored or shape)
        options["sinusoidal"] = _has_sinusoids(options, sinusoidal, source, assumptions)
    if sinusoidal and program != "transmorph":
        raise InputError(f"Only a TransMorph has sinusoidal positions, but '{source.name}' holds weights of {program}.")
    ndim = int(options["ndim"])
    if ndim == 3 and orientation is None:
        raise InputError(
            "Give the orientation of the network's volumes: the direction of each axis of its arrays, such as RAS or "
            "LIA, or zyx for the order of this package."
        )
    options["orientation"] = orientation or "zyx"[-ndim:]
    size = shape if shape is not None else (config or {}).get("inshape")
    if size is None and "transformer.grid" in weights:  # of voxelmorph
        size = tuple(weights["transformer.grid"].shape[2:])
    if size is None:
        raise InputError(f"'{source.name}' does not contain the size of its images. Give the shape.")
    turn = ArrayOrientation(str(options["orientation"]), ndim)
    ours = tuple(turn.from_network(torch.zeros(1, ndim, *(int(n) for n in size))).shape[2:])
    if program == "icon":
        options["shape"] = list(ours)
    names = {"voxelmorph": OriginalVoxelMorph.name, "icon": IconNetwork.name, "transmorph": TransMorph.name}
    try:
        network = network_from({"name": options.pop("network", names[program]), **options}, named)
    except InputError as error:
        raise InputError(f"The weights in '{source.name}' do not fit the network: {str(error).rstrip('.')}.") from error
    sizes = [1.0] * ndim if spacing is None else [float(one) for one in np.broadcast_to(np.asarray(spacing), (ndim,))]
    unit = unit or ("mm" if ndim == 3 else "pixel")
    # Networks of ICON were trained on images that are scaled to one size.
    mode: SizeMode = "extent" if program == "icon" and spacing is None else "spacing"
    spec = InputSpec(ndim, int(options["channels"]), ours, tuple(sizes), unit, mode)
    if spacing is None and mode == "spacing" and ndim == 3:
        assumptions.append(f"The voxel size is not in the file, so 1 {unit} was assumed.")
    if ndim == 3:
        assumptions.append(
            f"The orientation {orientation} cannot be checked. In any but its own, the network registers badly."
        )
    origin = {"program": program, "file": source.name, "assumptions": assumptions}
    summary = {"source": origin, "settings": {"similarity_used": "lncc"}}
    for text in assumptions:
        announce(text)
    return Model(network, spec, summary, source.stem)


def _state(checkpoint: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, wherever it keeps them."""
    for key in ("model_state", "state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    weights = {name.removeprefix("module."): t for name, t in checkpoint.items() if isinstance(t, Tensor)}
    if not weights:
        raise InputError(f"'{source.name}' holds no weights of a network.")
    return weights


def _recognized(weights: Mapping[str, Tensor], source: Path) -> str:
    """Return the program that the names of the weights belong to."""
    if any(name.startswith("unet_model.") for name in weights):
        return "voxelmorph"
    if any(name.startswith(_PAIRWISE_LEVELS) for name in weights):
        return "voxelmorph"
    if any("downConvs." in name for name in weights):
        return "icon"
    if "transformer.patch_embed.proj.weight" in weights:
        return "transmorph"
    raise InputError(
        f"The weights in '{source.name}' do not belong to a supported network ({', '.join(PROGRAMS)}). They begin "
        f"with '{next(iter(weights))}'."
    )


def _icon(weights: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return structure and sizes of a network of ICON, and its weights by our names."""
    kept = {
        name.removeprefix("regis_net."): t
        for name, t in weights.items()
        if not name.endswith(("identity_map", "spacing"))
    }

    def tree(prefix: str) -> dict[str, Any]:
        names = [name.removeprefix(prefix) for name in kept if name.startswith(prefix)]
        if any(name.startswith("netPhi.") for name in names):
            return {"first": tree(prefix + "netPhi."), "second": tree(prefix + "netPsi.")}
        if any(name.startswith("net.downConvs.") for name in names):
            levels = sum(bool(re.fullmatch(r"net\.downConvs\.\d+\.weight", name)) for name in names)
            down = [kept[f"{prefix}net.downConvs.{i}.weight"].shape for i in range(levels)]
            up = [int(kept[f"{prefix}net.upConvs.{i}.weight"].shape[1]) for i in range(levels)]
            return {"unet": [[int(down[0][1]), *(int(one[0]) for one in down)], up]}
        if any(name.startswith("net.") for name in names):
            return {"half": tree(prefix + "net.")}
        raise InputError(f"'{source.name}' holds a network of ICON that cannot be imported, at '{prefix}'.")

    try:
        structure = tree("")
    except (KeyError, IndexError) as error:
        raise InputError(f"'{source.name}' holds a network of ICON that cannot be imported ({error}).") from error
    first = next(t for name, t in kept.items() if name.endswith("downConvs.0.weight"))
    options = {"ndim": first.ndim - 2, "channels": int(first.shape[1]) // 2, "tree": structure}
    return options, {f"root.{name}": t for name, t in kept.items()}


def _voxelmorph(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    source: Path,
    steps: int | None,
    downsize: int | None,
    assumptions: list[str],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the sizes of voxelmorph's dense network, and its weights by our names."""
    if any(name.startswith(_PAIRWISE_LEVELS) for name in weights):
        return _voxelmorph_pairwise(weights, config, source, steps, downsize, assumptions)
    stored = _stored_integration(weights) | {
        name: int(config[key]) for name, key in (("steps", "int_steps"), ("downsize", "int_downsize")) if key in config
    }
    integration: dict[str, int] = {}
    for name, given, usual in (("steps", steps, 7), ("downsize", downsize, 2)):
        if given is not None and stored.get(name, given) != given:
            raise InputError(f"'{source.name}' was trained with {name} {stored[name]}, not {given}.")
        integration[name] = stored.get(name, usual if given is None else given)
        if name not in stored and given is None:
            assumptions.append(f"The file does not state the {name} of the integration, so {usual} was assumed.")
    kept = {name: t for name, t in weights.items() if not name.endswith(".grid")}

    def convolutions(part: str) -> list[str]:
        found = sorted(
            {
                match.group(1)
                for name in kept
                if (match := re.match(rf"(unet_model\.{part}\.[\d.]+)\.main\.weight", name))
            },
            key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
        )
        if any(not name.endswith(".0") for name in found if part != "remaining"):
            raise InputError(f"'{source.name}' has several convolutions in a level, which cannot be imported.")
        return found

    encoder, decoder, final = (convolutions(part) for part in ("encoder", "decoder", "remaining"))
    if not encoder or len(encoder) != len(decoder) or not final or "flow.weight" not in kept:
        raise InputError(f"'{source.name}' does not hold the dense network of voxelmorph.")

    def width(name: str) -> int:
        return int(kept[f"{name}.main.weight"].shape[0])

    half = int(kept[f"{final[0]}.main.weight"].shape[1]) == width(decoder[-1])
    options = {
        "ndim": kept["flow.weight"].ndim - 2, "channels": int(kept[f"{encoder[0]}.main.weight"].shape[1]) // 2,
        "encoder": [width(name) for name in encoder], "decoder": [width(name) for name in decoder],
        "final": [width(name) for name in final], "half": half, **integration,
    }  # fmt: skip
    ups = len(encoder) - half
    after = [*decoder[1:], *final]
    places = {name: f"unet.encoder.{i}.0" for i, name in enumerate(encoder)} | {decoder[0]: "unet.bottom.0"}
    places |= {name: f"unet.decoder.{i}.0" for i, name in enumerate(after[:ups])}
    places |= {name: f"unet.final.{i}.0" for i, name in enumerate(after[ups:])}
    named = {f"{ours}.{kind}": kept.pop(f"{name}.main.{kind}") for name, ours in places.items() for kind in _KINDS}
    named |= {f"flow.{kind}": kept.pop(f"flow.{kind}") for kind in _KINDS}
    if kept:
        raise InputError(f"'{source.name}' holds other weights too, such as '{next(iter(kept))}', which are not known.")
    return options, named


def _voxelmorph_pairwise(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    source: Path,
    steps: int | None,
    downsize: int | None,
    assumptions: list[str],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the sizes of ``VxmPairwise`` of voxelmorph 0.3, and its weights by our names."""
    if downsize not in (None, 1):
        raise InputError(f"'{source.name}' is a network of voxelmorph 0.3, which integrates fields at full size.")
    stored = config.get("integration_steps")
    if steps is not None and stored is not None and int(stored) != steps:
        raise InputError(f"'{source.name}' was trained with steps {stored}, not {steps}.")
    chosen = steps if stored is None else int(stored)
    if chosen is None:
        chosen = 5
        assumptions.append(f"The file does not state the steps of the integration, so {chosen} was assumed.")
    assumptions.append("The file does not state the activation, so ReLU was assumed, the default of voxelmorph 0.3.")
    kept, named = dict(weights), {}
    levels = {part: sum(bool(re.fullmatch(rf"model\.{part}\.\d+\.conv_block\.conv0\.weight", name)) for name in kept)
              for part in ("downsampling_conv_blocks", "upsampling_conv_blocks")}  # fmt: skip
    places = {"model.lowest_resolution_conv_block": "bottom", "model.out_layer": "out", "flow_layer": "flow"}
    for part, ours in (("downsampling_conv_blocks", "encoder"), ("upsampling_conv_blocks", "decoder")):
        places |= {f"model.{part}.{i}.conv_block": f"{ours}.{i}" for i in range(levels[part])}
    try:
        named = {f"{ours}.{kind}": kept.pop(f"{name}.conv0.{kind}") for name, ours in places.items() for kind in _KINDS}
    except KeyError as error:
        raise InputError(f"'{source.name}' is an incomplete network of voxelmorph 0.3: it has no {error}.") from error
    if kept or not levels["upsampling_conv_blocks"]:
        other = next(iter(kept), "no upsampling")
        raise InputError(
            f"'{source.name}' is a variant of voxelmorph 0.3 that cannot be imported ({other}): one convolution in "
            "each level, without normalization and transposed convolutions, is supported."
        )
    down, up = ([int(named[f"{part}.{i}.weight"].shape[0]) for i in range(count)]
                for part, count in zip(("encoder", "decoder"), levels.values(), strict=True))  # fmt: skip
    decoder = [int(named["bottom.weight"].shape[0]), *up[:-1]]
    if len(down) != len(up) or up[-1] != decoder[-1]:
        raise InputError(f"'{source.name}' is a variant of voxelmorph 0.3 whose levels do not fit together.")
    first = named["encoder.0.weight"]
    options = {"network": PairwiseVoxelMorph.name, "ndim": first.ndim - 2, "channels": int(first.shape[1]) // 2,
               "encoder": down, "decoder": decoder, "steps": chosen}  # fmt: skip
    return options, named


def _stored_integration(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the integration parameters that follow from the sampling grids in a state of voxelmorph.

    A network that integrates has a grid of the field's size; the other grid has the size of the images.
    """
    whole, coarse = (weights.get(f"{name}.grid") for name in ("transformer", "integrate.transformer"))
    if whole is None:
        return {}
    if coarse is None:
        return {"steps": 0}
    return {"downsize": round(int(whole.shape[2]) / int(coarse.shape[2]))}


_KINDS = ("weight", "bias")


_PAIRWISE_LEVELS = "model.downsampling_conv_blocks."
"""Beginning of the names of weights of voxelmorph 0.3."""


_IMAGE_GRID = "spatial_trans.grid"


def _transmorph(
    weights: Mapping[str, Tensor], source: Path, size: Sequence[int] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the sizes of a TransMorph, and its weights by our names, which are the same."""
    indices = [t for name, t in weights.items() if name.endswith(".relative_position_index")]
    kept = {
        name: t for name, t in weights.items() if name != _IMAGE_GRID and not name.endswith(".relative_position_index")
    }
    try:
        patch = kept["transformer.patch_embed.proj.weight"]
        head = kept["reg_head.0.weight"]
        half = "up4.conv1.0.weight" not in kept
        inputs = [int(kept[f"up{i}.conv1.0.weight"].shape[1]) for i in (0, 3)]
        names = [f"transformer.layers.{i}.blocks.0" for i in range(4)]
        table = kept[f"{names[0]}.attn.relative_position_bias_table"]
        heads = [int(kept[f"{name}.attn.relative_position_bias_table"].shape[1]) for name in names]
        hidden = [int(kept[f"{name}.mlp.fc1.weight"].shape[0]) for name in names]
    except (KeyError, IndexError) as error:
        raise InputError(
            f"'{source.name}' holds another network than TransMorph with a displacement ({error} is missing)."
        ) from error
    if tuple(patch.shape[1:]) != (2, *[PATCH] * 3):
        raise InputError(f"'{source.name}' holds a TransMorph that is not for volumes of one channel, patch size 4.")
    width = int(patch.shape[0])
    learned = kept.get("transformer.absolute_pos_embed")
    convolution_skips = inputs[1] > width
    options = {
        "ndim": 3, "channels": 1, "width": width, "heads": heads, "hidden": hidden, "head": int(head.shape[1]),
        "depths": [sum(bool(re.fullmatch(rf"transformer\.layers\.{i}\.blocks\.\d+\.norm1\.weight", name))
                       for name in kept) for i in range(4)],
        "window": _window(int(table.shape[0]), indices, size, source), "relative": bool(indices),
        "bias": f"{names[0]}.attn.qkv.bias" in kept, "learned": None if learned is None else list(learned.shape[2:]),
        "patch_norm": "transformer.patch_embed.norm.weight" in kept, "half": half,
        "transformer_skips": inputs[0] > 8 * width, "convolution_skips": convolution_skips,
    }  # fmt: skip
    # The original keeps these two convolutions where it does not use them.
    for name, used in (("c1", convolution_skips), ("c2", convolution_skips and not half)):
        if not used:
            kept.pop(f"{name}.0.weight", None)
    return options, kept


def _has_sinusoids(options: Mapping[str, Any], given: bool | None, source: Path, assumptions: list[str]) -> bool:
    """Return whether a TransMorph adds sinusoidal positions, which leave no trace in its weights.

    Raises
    ------
    InputError
        If the weights have a learned table instead, or no positions at all and nothing is given.
    """
    if options["learned"] is not None:
        if given:
            raise InputError(f"The TransMorph in '{source.name}' has learned positions, not sinusoidal ones.")
        return False
    if given is not None:
        return given
    if not options["relative"]:
        raise InputError(
            f"The TransMorph in '{source.name}' has neither learned nor relative positions, so it was trained with "
            "sinusoidal ones or with none. Give sinusoidal (TransMorph-Sin) as true or false."
        )
    assumptions.append(
        "The weights of TransMorph and of TransMorph-Sin have the same form, so TransMorph was assumed. For "
        "TransMorph-Sin, set sinusoidal."
    )
    return False


def _window(rows: int, indices: Sequence[Tensor], size: Sequence[int] | None, source: Path) -> list[int]:
    """Return the window of a TransMorph whose table of relative positions has this number of rows."""
    sides = [n for n in range(1, (rows + 1) // 2 + 1) if rows % (2 * n - 1) == 0]
    fitting = [
        [a, b, c] for a, b, c in itertools.product(sides, repeat=3) if (2 * a - 1) * (2 * b - 1) * (2 * c - 1) == rows
    ]
    if indices:
        fitting = [
            one for one in fitting
            if indices[0].numel() == (one[0] * one[1] * one[2]) ** 2
            and torch.equal(relative_positions(one), indices[0].long())
        ]  # fmt: skip
    if len(fitting) > 1 and size is not None:  # by convention, 1/32 of the image
        fitting = [one for one in fitting if one == [int(n) // 32 for n in size]]
    if len(fitting) != 1:
        raise InputError(f"The window of the TransMorph in '{source.name}' cannot be derived from its weights.")
    return fitting[0]
