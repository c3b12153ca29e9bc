"""One pass of every network as a program: traced, compiled, and as ONNX run by onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.models.export import example_images, export_model, export_program, one_pass
from napari_stnreg.models.input_spec import InputSpec
from napari_stnreg.models.model import Model
from napari_stnreg.networks import AutoEncoder, CustomNetwork, make_network, new_network

SMALL = {"encoder": [4, 4], "decoder": [4, 4], "final": [4]}
KINDS = [
    ("affine", {"family": "rigid"}),
    ("tps", {"points": 3}),
    ("dirnet", {"spacing": 4, "features": 8}),
    ("matching", {"features": [8, 8], "depth": 1}),
    ("voxelmorph", SMALL),
    ("voxelmorph", {**SMALL, "family": "displacement", "resolution": "half", "conditional": True}),
    ("affine+voxelmorph", {"affine": {"features": [8], "family": "rigid"}, "voxelmorph": SMALL}),
]
SHAPES = {2: (30, 37), 3: (14, 20, 17)}


def run_exported(model, path):
    """Export a model and run the file; returns the module, its input, and what onnxruntime gives."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    export_model(model, path)
    module = one_pass(model)
    images = example_images(module.grid, 1, seed=5)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return module, images, session.run(None, {"fixed": images[0].numpy(), "moving": images[1].numpy()})


def model_of(name, options, ndim=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = new_network(name, ndim, 1, SHAPES[ndim], options)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return Model(network, InputSpec(ndim, 1, SHAPES[ndim], (2.0,) * ndim), {}, name)


def differences(found, expected):
    return [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_a_traced_and_a_compiled_pass_give_what_the_network_gives(name, options):
    module = one_pass(model_of(name, options))
    first, other = (example_images(module.grid, 1, seed) for seed in (0, 1))
    with torch.no_grad():
        expected = module(*other)
        traced = export_program(module, first).module()
        assert max(differences(traced(*other), expected)) < 1e-4
        torch._dynamo.reset()
        assert max(differences(torch.compile(module, backend="eager")(*other), expected)) < 1e-5


def test_the_displacement_leads_to_the_warped_image():
    module = one_pass(model_of("dirnet", {"spacing": 4}), (24, 24))
    fixed, moving = example_images(module.grid, 1)
    with torch.no_grad():
        warped, displacement = module(fixed, moving)
    index = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))[None] + displacement
    where = (2 * index + 1) / 24 - 1
    again = torch.nn.functional.grid_sample(
        moving, where.movedim(1, -1).flip(-1), padding_mode="border", align_corners=False
    )
    assert float(displacement.abs().max()) > 0.1
    assert torch.allclose(warped, again, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "ndim"),
    [
        ("voxelmorph", SMALL, 2),
        # The last kind holds an affine network and a VoxelMorph.
        *(
            pytest.param(*kind, ndim, marks=pytest.mark.slow)
            for kind in KINDS
            if kind[0] != "affine" and kind[1] is not SMALL
            for ndim in (2, 3)
        ),
    ],
)
def test_onnxruntime_gives_what_the_network_gives(name, options, ndim, tmp_path):
    module, images, found = run_exported(model_of(name, options, ndim), tmp_path / "m.onnx")
    with torch.no_grad():
        assert max(differences(found, module(*images))) < 1e-3


class Flow(torch.nn.Module):
    """A network of a user's own."""

    family = "flow"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, pair):
        return self.layer(pair)


UNET = {"unet": [[2, 4, 6], [5, 4]]}
IMPORTED = {
    "voxelmorph-original": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "voxelmorph-pairwise": {"encoder": [4, 4], "decoder": [4, 4]},
    "icon": {"tree": {"first": {"half": UNET}, "second": UNET}, "shape": [24, 32]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IMPORTED, "probabilistic", "own"])
def test_networks_of_others_are_exported_too(name, tmp_path):
    shape = (24, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "own":
            network = CustomNetwork(Flow(), 2, shape=shape)
        elif name == "probabilistic":
            network = new_network("voxelmorph", 2, 1, shape, {**SMALL, "probabilistic": True})
        else:
            network = make_network({"name": name, "ndim": 2, "channels": 1, "orientation": "yx", **IMPORTED[name]})
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model = Model(network, InputSpec(2, 1, shape, (1.0, 1.0)), {}, name)
    module, images, found = run_exported(model, tmp_path / "m.onnx")
    with torch.no_grad():
        expected = module(*images)
        assert float(expected[1].abs().max()) > 0.05  # voxels
        assert max(differences(found, expected)) < 1e-4
        torch._dynamo.reset()
        assert max(differences(torch.compile(module, backend="eager")(*images), expected)) < 1e-5


def test_the_command_writes_a_program_of_any_size(tmp_path, capsys):
    sr.save(model_of("dirnet", {"spacing": 4}), tmp_path / "m.safetensors")
    words = ["export-model", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.pt2"), "--size", "20,28"]
    assert main(words) == 0
    program = torch.export.load(str(tmp_path / "m.pt2")).module()
    assert program(torch.rand(1, 1, 20, 28), torch.rand(1, 1, 20, 28))[1].shape == (1, 2, 20, 28)
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*words[:-1], "20,28,3", "--overwrite"]) == 2
    assert "is for 2D images" in capsys.readouterr().err


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Supported: .onnx, .pt2"):
        export_model(model_of("dirnet", {}), tmp_path / "m.xyz")
    encoder = Model(AutoEncoder(2), InputSpec(2, 1, (16, 16), (1.0, 1.0)))
    with pytest.raises(InputError, match="registers nothing"):
        export_model(encoder, tmp_path / "m.onnx")
