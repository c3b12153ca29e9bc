"""Weights of other programs' networks, against what those networks compute, written down here once more."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import napari_stnreg as sr
from napari_stnreg.cli import main
from napari_stnreg.core.errors import InputError, RegistrationWarning
from napari_stnreg.models.import_weights import import_model
from napari_stnreg.networks.array_orientation import ArrayOrientation

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


def pairwise_weights(ndim, down, up, seed=0):
    """Random weights under the names of VxmPairwise of voxelmorph 0.3."""
    made, generator = {}, torch.Generator().manual_seed(seed)

    def convolution(name, inputs, outputs, size=3):
        made[f"{name}.conv0.weight"] = torch.randn(outputs, inputs, *[size] * ndim, generator=generator) * 0.3
        made[f"{name}.conv0.bias"] = torch.randn(outputs, generator=generator) * 0.1

    for i, (a, b) in enumerate(zip([2, *down], down, strict=False)):
        convolution(f"model.downsampling_conv_blocks.{i}.conv_block", a, b)
    convolution("model.lowest_resolution_conv_block", down[-1], up[0])
    for i, (a, skip, b) in enumerate(zip(up, down[::-1], [*up[1:], up[-1]], strict=True)):
        convolution(f"model.upsampling_conv_blocks.{i}.conv_block", a + skip, b)
    convolution("model.out_layer", up[-1], ndim, 1)
    convolution("flow_layer", ndim, ndim)
    return made


def pairwise_field(weights, moving, fixed, steps):
    """What VxmPairwise of voxelmorph 0.3 answers: the displacement in voxels."""
    ndim = moving.ndim - 2
    conv, pool = (F.conv2d, F.max_pool2d) if ndim == 2 else (F.conv3d, F.max_pool3d)
    mode = "bilinear" if ndim == 2 else "trilinear"

    def layer(name, x, padding=1):
        return conv(x, weights[f"{name}.conv0.weight"], weights[f"{name}.conv0.bias"], padding=padding)

    x, skips = torch.cat([moving, fixed], 1), []
    levels = sum("downsampling" in name for name in weights) // 2
    for i in range(levels):
        skips.append(layer(f"model.downsampling_conv_blocks.{i}.conv_block", x).relu())
        x = pool(skips[-1], 2)
    x = layer("model.lowest_resolution_conv_block", x).relu()
    for i in range(levels):
        x = torch.cat([F.interpolate(x, scale_factor=2, mode=mode, align_corners=True), skips[-1 - i]], 1)
        x = layer(f"model.upsampling_conv_blocks.{i}.conv_block", x).relu()
    flow = layer("flow_layer", layer("model.out_layer", x, 0)) / 2**steps
    index = torch.meshgrid(*[torch.arange(float(n)) for n in flow.shape[2:]], indexing="ij")
    for _ in range(steps):
        where = [2 * (i + flow[0, d]) / (n - 1) - 1 for d, (i, n) in enumerate(zip(index, flow.shape[2:], strict=True))]
        flow = flow + F.grid_sample(flow, torch.stack(where[::-1], -1)[None], align_corners=True)
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

    @pytest.mark.parametrize("steps", [None, 0, 7])
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_the_field_is_that_of_version_3(self, ndim, steps, tmp_path):
        shape, down, up = (24, 16, 8)[:ndim], [4, 6, 8], [7, 5, 3]
        weights = pairwise_weights(ndim, down, up)
        torch.save(weights, tmp_path / "v.pt")
        with pytest.warns(RegistrationWarning, match="ReLU was assumed"):
            model = import_model(tmp_path / "v.pt", shape=shape, steps=steps, orientation="zyx"[-ndim:])
        fixed, moving = torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)
        expected = pairwise_field(weights, moving, fixed, 5 if steps is None else steps)
        with torch.no_grad():
            found = model.network(fixed, moving)
        assert float(expected.abs().max()) > 0.1
        assert torch.allclose(found, expected, atol=1e-5)
        model.save(tmp_path / "m.safetensors")
        with torch.no_grad():
            assert torch.equal(sr.load(tmp_path / "m.safetensors").network(fixed, moving), found)

    def test_variants_of_version_3_are_named(self, tmp_path):
        weights = pairwise_weights(2, [4, 6], [5, 3])
        torch.save({**weights, "model.downsampling_conv_blocks.0.conv_block.norm0.weight": torch.ones(4)},
                   tmp_path / "v.pt")  # fmt: skip
        with pytest.raises(InputError, match=r"variant of voxelmorph 0\.3"):
            import_model(tmp_path / "v.pt", shape=(16, 16))
        torch.save(weights, tmp_path / "w.pt")
        with pytest.raises(InputError, match="at full size"):
            import_model(tmp_path / "w.pt", shape=(16, 16), downsize=2)
        del weights["model.out_layer.conv0.bias"]
        torch.save(weights, tmp_path / "w.pt")
        with pytest.raises(InputError, match="incomplete"):
            import_model(tmp_path / "w.pt", shape=(16, 16))

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
        assert "Give the shape" in capsys.readouterr().err

    def test_assumptions_about_the_file_are_announced(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(voxelmorph_weights(2), "bare.pt")
        torch.save({"config": {"inshape": (8, 8), "int_steps": 5, "int_downsize": 1},
                    "model_state": voxelmorph_weights(2)}, "whole.pt")  # fmt: skip
        assert main(["import-model", "bare.pt", "-o", "a.safetensors", "--size", "8,8"]) == 0
        notes = capsys.readouterr().err
        assert "the steps of the integration, so 7" in notes
        assert "the downsize of the integration, so 2" in notes
        assert main(["import-model", "whole.pt", "-o", "b.safetensors"]) == 0
        notes = capsys.readouterr().err
        assert "integration" not in notes
        assert "scaled to 0 to 1" in notes
        with pytest.warns(RegistrationWarning, match=r"does not state the steps"):
            import_model("bare.pt", shape=(8, 8), downsize=2)
        with pytest.raises(InputError, match=r"'whole.pt' was trained with downsize 1, not 2"):
            import_model("whole.pt", downsize=2)

    def test_size_and_integration_are_read_from_the_grids_of_a_state(self, tmp_path):
        grids = {"transformer.grid": torch.zeros(1, 2, 16, 24), "integrate.transformer.grid": torch.zeros(1, 2, 4, 6)}
        torch.save(voxelmorph_weights(2) | grids, tmp_path / "v.pt")
        model = import_model(tmp_path / "v.pt")
        assert model.input_spec.shape == (16, 24)
        assert model.network.config()["downsize"] == 4
        with pytest.raises(InputError, match="trained with downsize 4, not 2"):
            import_model(tmp_path / "v.pt", downsize=2)
        torch.save(voxelmorph_weights(2) | {"transformer.grid": grids["transformer.grid"]}, tmp_path / "w.pt")
        assert import_model(tmp_path / "w.pt").network.config()["steps"] == 0

    def test_a_file_without_a_supported_network_is_refused_by_name(self, tmp_path):
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
        with pytest.raises(InputError, match="do not belong to a supported network"):
            import_model(tmp_path / "x.pt")

    def test_a_plain_pickle_is_refused_without_a_warning_of_torch(self, tmp_path, recwarn):
        (tmp_path / "weights.pt").write_bytes(pickle.dumps({"value": complex}, protocol=4))
        with pytest.raises(InputError, match="Nothing in it was executed"):
            import_model(tmp_path / "weights.pt")
        assert not [one for one in recwarn if "pickle protocol" in str(one.message)]

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


def icon_weights(ndim, bias):
    """Weights of a small network: at half resolution twice, then a last step; each U-Net moves everything alike."""
    made, generator = {}, torch.Generator().manual_seed(0)
    down, up = [2, 4, 6], [5, 4]
    parts = ["netPhi.netPhi.net.net.", "netPhi.netPsi.net.", "netPsi.net."]
    for part, shift in zip(parts, bias, strict=True):
        shapes = {
            "downConvs.0": (4, 2, *[3] * ndim), "downConvs.1": (6, 4, *[3] * ndim),
            "upConvs.0": (4 + up[1], 5, *[4] * ndim), "upConvs.1": (6, 4, *[4] * ndim),
            "lastConv": (ndim, down[0] + up[0], *[3] * ndim),
        }  # fmt: skip
        for name, shape in shapes.items():
            made[f"{part}{name}.weight"] = torch.randn(shape, generator=generator) * 0.1
            made[f"{part}{name}.bias"] = torch.zeros(shape[1] if name.startswith("up") else shape[0])
        made[f"{part}lastConv.weight"].zero_()
        made[f"{part}lastConv.bias"] = torch.as_tensor(shift, dtype=torch.float32)
        for i, n in enumerate(up):
            for kind, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                made[f"{part}batchNorms.{i}.{kind}"] = torch.full((n,), value)
            made[f"{part}batchNorms.{i}.num_batches_tracked"] = torch.tensor(3)
    return made


class TestIcon:
    @pytest.mark.parametrize(("ndim", "code"), [(2, "yx"), (3, "zyx"), (3, "LPS")])
    def test_steps_add_up(self, ndim, code, tmp_path):
        shifts = [[0.2, -0.1, 0.3][:ndim], [0.1, 0.1, 0.0][:ndim], [-0.1, 0.3, 0.2][:ndim]]
        torch.save(icon_weights(ndim, shifts), tmp_path / "net.trch")
        shape = (21, 16, 11)[:ndim]  # in the order of the network
        model = import_model(tmp_path / "net.trch", shape=shape, orientation=code)
        model.save(tmp_path / "m.safetensors")
        network = sr.load(tmp_path / "m.safetensors").network
        images = torch.rand(2, 1, 1, *network.shape)
        with torch.no_grad():
            found = network(images[0], images[1])
        along = 0.1 * np.sum(shifts, axis=0) * (np.asarray(shape) - 1)
        expected = along if code != "LPS" else [along[2], -along[1], -along[0]]
        assert np.allclose(found.amin(dim=tuple(range(2, ndim + 2)))[0], expected, atol=1e-4)
        assert np.allclose(found.amax(dim=tuple(range(2, ndim + 2)))[0], expected, atol=1e-4)

    def test_it_is_the_original(self, tmp_path):
        icon = pytest.importorskip("icon_registration")
        networks = pytest.importorskip("icon_registration.networks")
        shape = (37, 30)

        def unet():
            made = networks.UNet2(3, [[2, 8, 8, 16], [8, 8, 8]], 2)
            for parameter in [*made.lastConv.parameters(), *made.batchNorms.parameters()]:
                torch.nn.init.normal_(parameter, std=0.2)
            for norm in made.batchNorms:
                norm.running_mean.normal_(std=0.1)
            return icon.FunctionFromVectorField(made)

        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = icon.TwoStepRegistration(icon.DownsampleRegistration(unet(), dimension=2), unet())
            net = icon.TwoStepRegistration(icon.DownsampleRegistration(net, dimension=2), unet())
            net = icon.TwoStepRegistration(net, unet())
            net.assign_identity_map((1, 1, *shape))
            moving, fixed = torch.rand(2, 1, 1, *shape)
        net.eval()
        torch.save(net.state_dict(), tmp_path / "net.trch")
        network = import_model(tmp_path / "net.trch", shape=shape).network
        with torch.no_grad():
            phi = net(moving, fixed)(net.identity_map) - net.identity_map
            found = network(fixed, moving)
        expected = phi * torch.tensor([n - 1.0 for n in shape]).reshape(1, 2, 1, 1)
        assert float(expected.abs().max()) > 0.5
        assert torch.allclose(found, expected, atol=2e-5)  # voxels

    def test_a_network_that_is_not_known_is_named(self, tmp_path):
        torch.save({"netPhi.net.downConvs.0.weight": torch.ones(1)}, tmp_path / "net.trch")
        with pytest.raises(InputError, match=r"network of ICON that cannot be imported"):
            import_model(tmp_path / "net.trch", shape=(8, 8))


def transmorph_weights(*, relative=True, learned=False, skips=True, half=False, window=(2, 1, 3), seed=0):
    """Random weights under the names of TransMorph, all of them small."""
    made, rng = {}, np.random.default_rng(seed)
    width, heads, head = 6, (2, 2, 3, 4), 5

    def add(name, *shape, scale=0.3):
        made[name] = torch.as_tensor(rng.standard_normal(shape) * scale, dtype=torch.float32)

    def dense(name, inputs, outputs, bias=True):
        add(f"{name}.weight", outputs, inputs)
        if bias:
            add(f"{name}.bias", outputs)

    def norm(name, n):
        made[f"{name}.weight"], made[f"{name}.bias"] = torch.ones(n), torch.zeros(n)

    add("transformer.patch_embed.proj.weight", width, 2, 4, 4, 4)
    add("transformer.patch_embed.proj.bias", width)
    norm("transformer.patch_embed.norm", width)
    if learned:
        add("transformer.absolute_pos_embed", 1, width, 3, 4, 5)
    cells = np.stack(np.unravel_index(np.arange(np.prod(window)), window), -1)
    apart = cells[:, None] - cells[None] + np.array(window) - 1
    spans = 2 * np.array(window) - 1
    index = torch.as_tensor(np.ravel_multi_index(np.moveaxis(apart, -1, 0), spans))
    for i, n in enumerate(heads):
        size = width * 2**i
        for j in range(2):
            block = f"transformer.layers.{i}.blocks.{j}"
            norm(f"{block}.norm1", size)
            add(f"{block}.attn.relative_position_bias_table", int(np.prod(spans)), n, scale=1.0)
            if relative:
                made[f"{block}.attn.relative_position_index"] = index
            dense(f"{block}.attn.qkv", size, 3 * size, bias=False)
            dense(f"{block}.attn.proj", size, size)
            norm(f"{block}.norm2", size)
            dense(f"{block}.mlp.fc1", size, 2 * size)
            dense(f"{block}.mlp.fc2", 2 * size, size)
        norm(f"transformer.norm{i}", size)
        if i < 3:
            norm(f"transformer.layers.{i}.downsample.norm", 8 * size)
            dense(f"transformer.layers.{i}.downsample.reduction", 8 * size, 2 * size, bias=False)
    ends = [3, head] if not half else [head]
    widths = [48, 24, 12, 6, *ends]
    for i, outputs in enumerate(widths[1:]):
        skip = 0 if not skips else [24, 12, 6, 3, head][i]
        add(f"up{i}.conv1.0.weight", outputs, widths[i] + skip, 3, 3, 3)
        add(f"up{i}.conv2.0.weight", outputs, outputs, 3, 3, 3)
    add("c1.0.weight", 3, 2, 3, 3, 3)  # also in checkpoints of networks without skip connections
    add("c2.0.weight", head, 2, 3, 3, 3)
    add("reg_head.0.weight", 3, head, 3, 3, 3)
    add("reg_head.0.bias", 3)
    made["spatial_trans.grid"] = torch.zeros(1, 3, *[32 * n for n in window])
    return made


def attention_one_by_one(x, weights, block, window, shift):
    """Shifted-window attention of a block, each patch against each other, by their places; windows fit the size."""
    size, width = x.shape[:3], x.shape[3]
    table = weights[f"{block}.attn.relative_position_bias_table"]
    heads = table.shape[1]
    q, k, v = (
        (x.reshape(-1, width) @ weights[f"{block}.attn.qkv.weight"].T).reshape(-1, 3, heads, width // heads).unbind(1)
    )
    places = np.stack(np.unravel_index(np.arange(np.prod(size)), size), -1)
    # Windows of an image that moves back by the shift; what leaves at the low end is by itself.
    group = [np.floor_divide(places[:, a] - shift[a], window[a]) for a in range(3)]
    same = np.all([g[:, None] == g[None] for g in group], axis=0)
    row = np.zeros(same.shape, dtype=int)
    for a in range(3):
        row = row * (2 * window[a] - 1) + places[:, None, a] - places[None, :, a] + window[a] - 1
    row = torch.as_tensor(np.where(same, row, 0))
    scores = torch.einsum("ihc,jhc->hij", q, k) / (width // heads) ** 0.5 + table[row].permute(2, 0, 1)
    scores = scores.masked_fill(~torch.as_tensor(same), float("-inf"))
    out = torch.einsum("hij,jhc->ihc", scores.softmax(-1), v).reshape(-1, width)
    return (out @ weights[f"{block}.attn.proj.weight"].T + weights[f"{block}.attn.proj.bias"]).reshape(*size, width)


class TestTransMorph:
    @pytest.mark.parametrize(
        "kind", [{}, {"relative": False}, {"learned": True}, {"skips": False}, {"half": True}, {"window": (2, 2, 2)}]
    )
    def test_sizes_are_derived_from_the_weights(self, kind, tmp_path):
        torch.save({"epoch": 3, "state_dict": transmorph_weights(**kind)}, tmp_path / "t.pth.tar")
        model = import_model(tmp_path / "t.pth.tar", orientation="LIA", sinusoidal=False)
        config = model.network.config()
        assert config["window"] == list(kind.get("window", (2, 1, 3)))
        assert config["depths"] == [2, 2, 2, 2]
        assert config["heads"] == [2, 2, 3, 4]
        assert config["head"] == 5
        assert (config["relative"], config["half"]) == (kind.get("relative", True), kind.get("half", False))
        assert config["learned"] == ([3, 4, 5] if kind.get("learned") else None)
        assert config["transformer_skips"] == config["convolution_skips"] == kind.get("skips", True)
        assert model.input_spec.shape == tuple(
            32 * config["window"][i] for i in (1, 2, 0)
        )  # the axes of the file are L, I, A
        model.save(tmp_path / "m.safetensors")
        assert sr.load(tmp_path / "m.safetensors").network.config() == config

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ({}, [1.81313, 4.77786, -0.58108]),
            ({"learned": True}, [0.93841, 1.95467, -1.31804]),
            ({"skips": False}, [0.04996, 0.08373, -0.56152]),
            ({"half": True}, [-1.02554, 2.02211, -2.79641]),
            ({"sinusoidal": True}, [1.20105, 5.02088, -0.91787]),
        ],
    )
    def test_the_displacement_is_what_the_original_returned(self, kind, expected, tmp_path):
        kind = dict(kind)
        sinusoidal = kind.pop("sinusoidal", False)
        torch.save({"state_dict": transmorph_weights(window=(2, 2, 2), **kind)}, tmp_path / "t.pth.tar")
        network = import_model(tmp_path / "t.pth.tar", orientation="zyx", sinusoidal=sinusoidal).network
        images = np.random.default_rng(1).random((2, 1, 1, 32, 32, 32))
        fixed, moving = torch.as_tensor(images, dtype=torch.float32)
        with torch.no_grad():
            found = network(fixed, moving)
        # one voxel of the published network with these weights and images, run once and written down
        assert np.allclose(found[0, :, 5, 16, 20], expected, atol=1e-3)

    @pytest.mark.parametrize("shifted", [0, 1])
    def test_attention_in_windows_is_that_of_the_definition(self, shifted, tmp_path):
        window = (2, 3, 4)
        weights = transmorph_weights(window=window)
        torch.save({"state_dict": weights}, tmp_path / "t.pth.tar")
        network = import_model(tmp_path / "t.pth.tar", orientation="zyx").network
        name = f"transformer.layers.0.blocks.{shifted}"
        block = network.get_submodule(name)
        x = torch.randn(4, 6, 8, 6, generator=torch.Generator().manual_seed(2))
        shift = [n // 2 * shifted for n in window]
        y = x + attention_one_by_one(F.layer_norm(x, (6,)), weights, name, window, shift)
        inner = F.linear(F.layer_norm(y, (6,)), weights[f"{name}.mlp.fc1.weight"], weights[f"{name}.mlp.fc1.bias"])
        expected = y + F.linear(F.gelu(inner), weights[f"{name}.mlp.fc2.weight"], weights[f"{name}.mlp.fc2.bias"])
        with torch.no_grad():
            found = block(x[None])[0]
        assert torch.allclose(found, expected, atol=1e-5)

    def test_sinusoidal_positions_are_set_by_an_option(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        torch.save({"state_dict": transmorph_weights()}, "t.pth.tar")
        torch.save(voxelmorph_weights(2), "v.pt")
        base = ["import-model", "t.pth.tar", "--orientation", "zyx"]
        assert main([*base, "-o", "a.safetensors"]) == 0
        assert main([*base, "-o", "b.safetensors", "--sinusoidal"]) == 0
        fixed, moving = torch.rand(2, 1, 1, 32, 32, 32)
        with torch.no_grad():
            without, with_ = (sr.load(f"{name}.safetensors").network(fixed, moving) for name in "ab")
        assert not torch.allclose(without, with_, atol=1e-3)
        capsys.readouterr()
        assert main(["import-model", "v.pt", "-o", "c.safetensors", "--size", "16,16", "--sinusoidal"]) == 2
        assert "Only a TransMorph" in capsys.readouterr().err
        assert main([*base, "-o", "d.safetensors"]) == 0
        assert "TransMorph-Sin have the same form, so TransMorph was assumed" in capsys.readouterr().err
        torch.save(transmorph_weights(relative=False), "n.pth.tar")
        with pytest.raises(InputError, match="neither learned nor relative positions"):
            import_model("n.pth.tar", orientation="zyx")
        torch.save(transmorph_weights(learned=True), "l.pth.tar")
        with pytest.raises(InputError, match="has learned positions, not sinusoidal"):
            import_model("l.pth.tar", orientation="zyx", sinusoidal=True)

    def test_weights_of_another_network_are_refused(self, tmp_path):
        weights = transmorph_weights()
        diffeomorphic = {name: t for name, t in weights.items() if not name.startswith(("reg_head", "up4"))}
        torch.save(diffeomorphic, tmp_path / "d.pth.tar")
        with pytest.raises(InputError, match="another network than TransMorph with a displacement"):
            import_model(tmp_path / "d.pth.tar", orientation="zyx")
        torch.save({**weights, "sigma_head.0.weight": torch.ones(1)}, tmp_path / "b.pth.tar")
        with pytest.raises(InputError, match=r"'sigma_head.0.weight' is unknown"):
            import_model(tmp_path / "b.pth.tar", orientation="zyx")
        unused = transmorph_weights(relative=False)
        del unused["spatial_trans.grid"]
        torch.save(unused, tmp_path / "w.pth.tar")
        model = import_model(tmp_path / "w.pth.tar", shape=(96, 32, 64), orientation="zyx", sinusoidal=False)
        assert model.network.config()["window"] == [3, 1, 2]  # no index tells it, but the size of the image
        with pytest.raises(
            InputError, match=r"window of the TransMorph in 'w\.pth\.tar' cannot be derived from its weights"
        ):
            import_model(tmp_path / "w.pth.tar", shape=(160, 192, 224), orientation="zyx")
