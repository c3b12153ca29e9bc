"""Weights of other programs' networks, against what those networks compute, written down here once more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError
from napari_stnreg.models.foreign import import_model
from napari_stnreg.networks.orientation import ArrayOrientation

ENCODER, DECODER, FINAL = [4, 6], [6, 6], [5, 4]


def voxelmorph_weights(ndim, seed=0):
    """Random weights under the names of voxelmorph 0.2."""
    made, generator = {}, torch.Generator().manual_seed(seed)

    def convolution(name, inputs, outputs):
        made[f"{name}.weight"] = torch.randn(outputs, inputs, *[3] * ndim, generator=generator) * 0.3
        made[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    widths = [2, *ENCODER]
    for i, (a, b) in enumerate(zip(widths, ENCODER, strict=False)):
        convolution(f"unet_model.encoder.{i}.0.main", a, b)
    convolution("unet_model.decoder.0.0.main", ENCODER[-1], DECODER[0])
    convolution("unet_model.decoder.1.0.main", DECODER[0] + ENCODER[1], DECODER[1])
    convolution("unet_model.remaining.0.main", DECODER[1] + ENCODER[0], FINAL[0])
    convolution("unet_model.remaining.1.main", FINAL[0], FINAL[1])
    convolution("flow", FINAL[1], ndim)
    return made


def voxelmorph_field(weights, moving, fixed, steps=7, downsize=2):
    """What the dense network of voxelmorph 0.2 answers: the displacement in voxels."""
    ndim = moving.ndim - 2
    conv, pool = (F.conv2d, F.max_pool2d) if ndim == 2 else (F.conv3d, F.max_pool3d)
    mode = "bilinear" if ndim == 2 else "trilinear"

    def layer(name, x):
        return F.leaky_relu(conv(x, weights[f"{name}.main.weight"], weights[f"{name}.main.bias"], padding=1), 0.2)

    first = layer("unet_model.encoder.0.0", torch.cat([moving, fixed], 1))
    second = layer("unet_model.encoder.1.0", pool(first, 2))
    x = layer("unet_model.decoder.0.0", pool(second, 2))
    x = layer("unet_model.decoder.1.0", torch.cat([F.interpolate(x, scale_factor=2), second], 1))
    x = layer("unet_model.remaining.0", torch.cat([F.interpolate(x, scale_factor=2), first], 1))
    flow = conv(layer("unet_model.remaining.1", x), weights["flow.weight"], weights["flow.bias"], padding=1)
    if steps == 0:
        return flow
    if downsize > 1:
        flow = F.interpolate(flow, scale_factor=1 / downsize, mode=mode, align_corners=True) / downsize
    flow = flow / 2**steps
    index = torch.meshgrid(*[torch.arange(float(n)) for n in flow.shape[2:]], indexing="ij")
    for _ in range(steps):
        where = [2 * (i + flow[0, d]) / (n - 1) - 1 for d, (i, n) in enumerate(zip(index, flow.shape[2:], strict=True))]
        flow = flow + F.grid_sample(flow, torch.stack(where[::-1], -1)[None], align_corners=True)
    if downsize > 1:
        flow = F.interpolate(flow * downsize, scale_factor=downsize, mode=mode, align_corners=True)
    return flow


class TestVoxelMorph:
    @pytest.mark.parametrize("config", [{}, {"int_steps": 0}, {"int_downsize": 1}, {"int_steps": 5}])
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_the_field_is_that_of_the_original(self, ndim, config, tmp_path):
        shape = (24, 16, 12)[:ndim]
        weights = voxelmorph_weights(ndim)
        torch.save({"config": {"inshape": shape, **config}, "model_state": weights}, tmp_path / "v.pt")
        model = import_model(tmp_path / "v.pt", orientation="zyx"[-ndim:])
        fixed, moving = torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)
        expected = voxelmorph_field(weights, moving, fixed, config.get("int_steps", 7), config.get("int_downsize", 2))
        with torch.no_grad():
            found = model.network(fixed, moving)
        assert float(expected.abs().max()) > 0.5
        assert torch.allclose(found, expected, atol=1e-5)
        model.save(tmp_path / "m.safetensors")
        again = sr.load(tmp_path / "m.safetensors")
        with torch.no_grad():
            assert torch.equal(again.network(fixed, moving), found)
        assert again.input_spec.shape == shape

    @pytest.mark.parametrize("code", ["RAS", "LIA", "PSR"])
    def test_an_orientation_turns_images_and_fields_alike(self, code, tmp_path):
        torch.save({"config": {"inshape": (8, 12, 16)}, "model_state": voxelmorph_weights(3)}, tmp_path / "v.pt")
        network = import_model(tmp_path / "v.pt", orientation=code).network
        turn = ArrayOrientation(code, 3)
        x = torch.arange(8 * 12 * 16.0).reshape(1, 1, 8, 12, 16)
        there = turn.to_network(x)
        letters = {"R": 2, "L": 2, "A": 1, "P": 1, "S": 0, "I": 0}
        for axis, letter in enumerate(code):  # a step along the network's axis is one along ours, or against it
            ours = letters[letter]
            step = float((there.select(axis + 2, 1) - there.select(axis + 2, 0)).flatten()[0])
            assert step == x.stride(ours + 2) * (1 if letter in "RAS" else -1)
        # a field that leads one voxel along the network's first axis
        field = torch.zeros(1, 3, *there.shape[2:])
        field[:, 0] = 1
        back = turn.from_network(field)
        expected = torch.zeros(3)
        expected[letters[code[0]]] = 1 if code[0] in "RAS" else -1
        assert torch.equal(back[0, :, 0, 0, 0], expected)
        assert tuple(back.shape[2:]) == (8, 12, 16)
        assert network.orientation == turn

    def test_the_command_writes_a_model_that_registers(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(voxelmorph_weights(2), "weights.pt")
        assert main(["import-model", "weights.pt", "-o", "m.safetensors", "--size", "32,24"]) == 0
        rng = np.random.default_rng(0)
        model = sr.load("m.safetensors")
        assert model.input_spec.shape == (32, 24)
        transform = model.predict(*(sr.Image.from_array(rng.random((30, 40))) for _ in range(2)))
        assert transform.map_points([[3.0, 4.0]]).shape == (1, 2)
        assert main(["import-model", "weights.pt", "-o", "n.safetensors"]) == 2
        assert "give the shape" in capsys.readouterr().err

    def test_what_is_no_network_of_it_is_named(self, tmp_path):
        weights = voxelmorph_weights(3)
        torch.save(weights, tmp_path / "v.pt")
        with pytest.raises(InputError, match="Give the orientation"):
            import_model(tmp_path / "v.pt", shape=(8, 8, 8))
        with pytest.raises(InputError, match=r"names a direction twice"):
            import_model(tmp_path / "v.pt", shape=(8, 8, 8), orientation="RAR")
        torch.save({**weights, "extra.weight": torch.ones(1)}, tmp_path / "w.pt")
        with pytest.raises(InputError, match=r"other weights too, such as 'extra.weight'"):
            import_model(tmp_path / "w.pt", shape=(8, 8, 8), orientation="zyx")
        torch.save({"layer.weight": torch.ones(1)}, tmp_path / "x.pt")
        with pytest.raises(InputError, match="no network that can be imported"):
            import_model(tmp_path / "x.pt")

    def test_nothing_in_a_checkpoint_is_executed(self, tmp_path):
        class Bad:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

        torch.save({"model_state": Bad()}, tmp_path / "bad.pt")
        with pytest.raises(InputError, match="Nothing in it was executed"):
            import_model(tmp_path / "bad.pt")
        assert not (tmp_path / "executed").exists()
        (tmp_path / "text.pt").write_text("no checkpoint")
        with pytest.raises(InputError, match=r"text.pt"):
            import_model(tmp_path / "text.pt")
