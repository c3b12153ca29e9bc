"""Everything that computes on a CUDA device gives what the CPU gives, and leaves the device's memory as it was."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.device import free_memory, pick_device
from napari_stnreg.core.errors import OutOfMemoryError
from napari_stnreg.losses import LabelOverlap, bending_energy, diffusion, folding_penalty, make_similarity
from napari_stnreg.ops.filters import box_sum, gaussian
from napari_stnreg.ops.interpolation import sample_normalized
from napari_stnreg.registration import api
from napari_stnreg.registration.settings import DEFORMABLE_FAMILIES, LINEAR_FAMILIES
from napari_stnreg.teaching.classifier import DigitClassifier
from napari_stnreg.transforms import InverseTransform, VelocityTransform, make_family
from tests.helpers.drawn_pairs import DrawnPairs
from tests.helpers.scenes import affine_map, bent_map, grid, pair

pytestmark = pytest.mark.gpu

CUDA = "cuda"
SIMILARITIES = ("mse", "ncc", "lncc", "mi", "mind")
QUICK = {"device": CUDA, "batch_size": 12, "learning_rate": 2e-3}

# What each family can represent, and how far from it a fast fit may end, in voxels, in 2D and in 3D.
MOTIONS = {
    "translation": ({"shift": 4.0}, (0.3, 0.5)),
    "rigid": ({"degrees": 6, "shift": 3.0}, (0.3, 0.5)),
    "similarity": ({"degrees": 6, "shift": 3.0, "scale": 1.05}, (0.3, 0.5)),
    "affine": ({"degrees": 5, "shift": 3.0, "scale": 1.05, "shear": 0.04}, (0.3, 0.5)),
}
BENT = (0.9, 1.2)


@pytest.fixture(scope="module", autouse=True)
def workspaces():
    """Let cuBLAS take its workspaces before any memory is counted; it keeps them."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = torch.nn.Linear(64, 64).to(CUDA, dtype)
        layer(torch.rand(64, 64, device=CUDA, dtype=dtype)).sum().backward()
        torch.rand(8, 64, 64, device=CUDA, dtype=dtype) @ torch.rand(8, 64, 64, device=CUDA, dtype=dtype)


@pytest.fixture(autouse=True)
def tidy_device():
    """Release the memory of one test before the next one counts."""
    yield
    gc.collect()
    torch.cuda.empty_cache()


def allocated() -> int:
    gc.collect()
    return torch.cuda.memory_allocated()


def moved_pair(family: str, ndim: int, size: int):
    """A pair that a transform of the family explains."""
    if family in MOTIONS:
        truth, _ = affine_map(ndim, **MOTIONS[family][0]), None
    else:
        truth = bent_map(ndim, height=3.0)
    return pair(truth, grid(size, ndim))


def compared(one, other, images) -> float:
    """Mean distance between two transforms, in voxels, at places that show something."""
    points = images.points()
    apart = np.linalg.norm(one.map_points(points) - other.map_points(points), axis=1)
    return float(apart.mean() / images.fixed.grid.spacing.min())


class TestDevice:
    def test_auto_takes_cuda_and_every_name_of_a_device_works(self):
        assert pick_device("auto").type == "cuda"
        assert pick_device("cuda:0") == torch.device("cuda:0")
        names = [name for name, _ in sr.available_devices()]
        assert names[:2] == ["cpu", "cuda:0"]
        total = torch.cuda.get_device_properties(0).total_memory
        for name in ("cuda", "cuda:0"):
            assert 0 < free_memory(name) <= total
        images = moved_pair("translation", 2, 32)
        for name in ("auto", "cuda", "cuda:0"):
            result = sr.register(images.fixed, images.moving, family="translation", preset="fast", device=name)
            assert images.error(result.transform) < 0.3
            assert not result.warnings


class TestRegistration:
    @pytest.mark.parametrize("similarity", SIMILARITIES)
    @pytest.mark.parametrize("family", LINEAR_FAMILIES + DEFORMABLE_FAMILIES)
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_every_family_and_similarity_agrees_with_truth_and_cpu(self, ndim, family, similarity):
        images = moved_pair(family, ndim, 64 if ndim == 2 else 32)
        options = {"family": family, "similarity": similarity, "preset": "fast"}
        here = sr.register(images.fixed, images.moving, device="cpu", **options)
        there = sr.register(images.fixed, images.moving, device=CUDA, **options)
        limit = MOTIONS[family][1][ndim - 2] if family in MOTIONS else BENT[ndim - 2]
        expected = images.error(here.transform)
        assert images.error(there.transform) < max(limit, 1.1 * expected)
        assert compared(here.transform, there.transform, images) < max(0.2, 0.3 * expected)
        assert not there.warnings
        assert next(iter(there.transform.tensors().values())).device.type == "cpu"
        assert np.isfinite(there.warped.data).all()

    def test_affine_then_diffeomorphic_with_masks_landmarks_and_regularizers(self):
        images = pair(bent_map(3, height=3.0, linear=affine_map(3, degrees=4, shift=2.0)), grid(32, 3))
        mask = np.linalg.norm(images.fixed.grid.points(), axis=-1) < 45
        fixed = images.fixed.replace(mask=mask)
        points = images.points()[:6]
        options = {"preset": "fast", "diffusion": 0.01, "bending": 1e-4, "folding": 0.1,
                   "fixed_landmarks": points, "moving_landmarks": images.truth(points)}  # fmt: skip
        here = sr.register(fixed, images.moving, device="cpu", **options)
        there = sr.register(fixed, images.moving, device=CUDA, **options)
        assert images.error(there.transform) < 1.0
        assert compared(here.transform, there.transform, images) < 0.2

    @pytest.mark.parametrize("start", ["moments", "phase", "search"])
    def test_every_start_finds_a_large_move(self, start):
        degrees = 35 if start == "search" else 0
        images = pair(affine_map(2, degrees=degrees, shift=12.0), grid(64, 2))
        options = {"family": "rigid", "start": start, "preset": "fast"}
        result = sr.register(images.fixed, images.moving, device=CUDA, **options)
        assert images.error(result.transform) < 0.5

    @pytest.mark.parametrize("family", ["affine", "bspline", "tps", "diffeomorphic"])
    def test_start_transform_and_two_deformations_in_a_row(self, family):
        images = pair(bent_map(2, height=3.0, linear=affine_map(2, degrees=4, shift=2.0)), grid(64, 2))
        first = sr.register(images.fixed, images.moving, family="affine", preset="fast", device=CUDA)
        again = {"start_transform": first.transform, "preset": "fast", "device": CUDA}
        result = sr.register(images.fixed, images.moving, family=family, **again)
        assert images.error(result.transform) <= images.error(first.transform) + 0.1
        both = sr.register(
            images.fixed, images.moving, family="rigid+bspline+diffeomorphic", preset="fast", device=CUDA
        )
        assert images.error(both.transform) < 1.0

    def test_same_seed_gives_nearly_the_same_transform(self):
        images = moved_pair("diffeomorphic", 2, 64)
        options = {"preset": "fast", "device": CUDA, "seed": 3}
        one, other = (sr.register(images.fixed, images.moving, **options) for _ in range(2))
        assert compared(one.transform, other.transform, images) < 0.01

    def test_stopping_and_closing_give_the_memory_back(self):
        images = pair(bent_map(3, height=3.0), grid(48, 3))
        before = allocated()
        steps = sr.register_steps(images.fixed, images.moving, device=CUDA)
        for _ in range(20):
            step = next(steps)
        step.preview()
        assert torch.cuda.memory_allocated() > before
        with pytest.raises(StopIteration) as end:
            steps.send("stop")
        result = end.value.value
        assert result.warped.data.shape == images.fixed.data.shape
        del steps, step, end
        assert allocated() == before
        steps = sr.register_steps(images.fixed, images.moving, device=CUDA)
        for _ in range(20):
            next(steps)
        steps.close()
        del steps
        assert allocated() == before
        finished = sr.register(images.fixed, images.moving, preset="fast", device=CUDA)
        assert allocated() == before
        assert finished.transform is not None

    def test_too_little_memory_on_the_device_hands_over_to_the_cpu(self):
        images = moved_pair("diffeomorphic", 3, 64)
        torch.cuda.empty_cache()
        before = allocated()
        fraction = (before + 24 * 2**20) / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(fraction)
        try:
            result = sr.register(images.fixed, images.moving, preset="fast", iterations=2, device=CUDA)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert ["memory of cuda was not" in text for text in result.warnings] == [True]
        assert allocated() == before

    def test_impossible_memory_request_is_refused(self, monkeypatch):
        images = moved_pair("diffeomorphic", 2, 32)

        def fail(*args, **options):
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(api, "prepare", fail)
        with pytest.raises(OutOfMemoryError, match=r"memory.* to register 'fixed' and 'moving'"):
            sr.register(images.fixed, images.moving, device=CUDA)


class TestParts:
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_filters(self, ndim):
        image = torch.rand(2, 2, *([41, 33, 37][:ndim]))
        for function in (lambda x: gaussian(x, 1.7, "nearest"), lambda x: gaussian(x, 0.8), lambda x: box_sum(x, 5)):
            torch.testing.assert_close(function(image.to(CUDA)).cpu(), function(image), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", SIMILARITIES)
    @pytest.mark.parametrize("ndim", [2, 3])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_similarity_and_its_gradient(self, name, ndim, weighted):
        shape = (40, 48) if ndim == 2 else (20, 24, 28)
        random = torch.Generator().manual_seed(ndim)
        fixed = gaussian(torch.rand(2, 1, *shape, generator=random), 2.0)
        moving = 0.7 * fixed + 0.3 * gaussian(torch.rand(2, 1, *shape, generator=random), 2.0)
        weight = (torch.rand(2, 1, *shape, generator=random) > 0.2).float() if weighted else None
        found = []
        for device in ("cpu", CUDA):
            similarity = make_similarity(name)
            other = None if weight is None else weight.to(device)
            similarity.prepare(fixed.to(device), other)
            warped = moving.clone().to(device).requires_grad_()
            loss = similarity(warped, other)
            loss.backward()
            found.append((loss.detach().cpu(), warped.grad.cpu(), similarity.score(moving.to(device), other)))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
        size = float(found[0][1].abs().max())
        assert float((found[0][1] - found[1][1]).abs().max()) < 0.02 * size
        assert found[0][2] == pytest.approx(found[1][2], rel=1e-3, abs=1e-5)

    @pytest.mark.parametrize("ndim", [2, 3])
    def test_regularizers_and_label_overlap(self, ndim):
        field = gaussian(torch.randn(2, ndim, *([16] * ndim)), 1.5)
        spacing = (1.0, 2.0, 1.5)[:ndim]
        for term in (diffusion, bending_energy, folding_penalty):
            torch.testing.assert_close(term(field.to(CUDA), spacing).cpu(), term(field, spacing), rtol=1e-4, atol=1e-6)
        one, other = torch.rand(2, 2, 3, *([16] * ndim))
        torch.testing.assert_close(LabelOverlap(one.to(CUDA))(other.to(CUDA)).cpu(), LabelOverlap(one)(other))

    @pytest.mark.parametrize("family", LINEAR_FAMILIES + DEFORMABLE_FAMILIES)
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_transforms_and_their_inverses(self, family, ndim):
        domain = grid(16, ndim)
        made = make_family(family)
        torch.manual_seed(0)
        theta = made.identity(domain)
        theta = theta + (0.02 if family in MOTIONS else 0.3) * torch.randn_like(theta)
        if family in ("displacement", "diffeomorphic"):
            theta = gaussian(theta, 2.0)
        here = made(theta, domain)
        there = here.to(CUDA)
        assert there.device.type == CUDA
        points = torch.rand(1, 200, ndim) * 60 - 30
        mapped = there(points.to(CUDA))
        torch.testing.assert_close(mapped.cpu(), here(points), rtol=1e-4, atol=2e-3)
        torch.testing.assert_close(there.on_grid(domain).cpu(), here.on_grid(domain), rtol=1e-4, atol=2e-3)
        back = there.inverse()
        tolerance = 0.2 if isinstance(there, VelocityTransform) else 0.02
        assert float((back(mapped) - points.to(CUDA)).abs().max()) < tolerance * float(domain.spacing.min())
        if isinstance(back, InverseTransform):
            assert back.warning is None
        assert back.to("cpu").device.type == "cpu"
        image = sr.Image.from_array(np.random.default_rng(0).random(domain.shape).astype(np.float32))
        image = image.replace(grid=domain)
        expected = sr.warp(image, here, domain)
        for transform in (here, there):
            seen = sr.warp(image, transform, domain, device=CUDA)
            assert np.abs(seen.data - expected.data).max() < 5e-3
        labels = image.replace(data=(image.data * 5).astype(np.uint8))
        same = (
            sr.warp(labels, there, domain, "nearest", device=CUDA).data == sr.warp(labels, here, domain, "nearest").data
        )
        assert same.mean() > 0.99

    def test_sampling_reads_the_same_values(self):
        image, where = torch.rand(2, 3, 9, 8, 7), torch.rand(2, 5, 5, 5, 3) * 2.4 - 1.2
        for padding, mode in itertools.product(("zeros", "border", "reflection"), ("linear", "nearest")):
            options = {"padding": padding, "mode": mode}
            expected = sample_normalized(image, where, **options)
            torch.testing.assert_close(sample_normalized(image.to(CUDA), where.to(CUDA), **options).cpu(), expected)


class TestNetworks:
    @pytest.mark.parametrize(
        ("network", "options"),
        [
            ("affine", {}),
            ("affine", {"family": "rigid"}),
            ("matching", {"network_options": {"features": [16, 32], "depth": 2}}),
            ("tps", {}),
            ("dirnet", {"network_options": {"spacing": 4, "features": 16}}),
            ("voxelmorph", {"family": "displacement"}),
            ("voxelmorph", {"similarity": "mi"}),
            ("affine+voxelmorph", {}),
            ("affine+voxelmorph", {"strategy": "sequential"}),
            ("auto-encoder", {}),
        ],
    )
    @pytest.mark.parametrize("precision", ["off", "on"])
    def test_every_network_trains_and_predicts(self, network, options, precision):
        before = allocated()
        data = DrawnPairs(36, 12, kind="affine", labels=network != "auto-encoder")
        options = {**options, "mixed_precision": precision, "epochs": 8}
        if network != "auto-encoder":
            options |= {"label_weight": 0.5}
        model = sr.train(data, network=network, **QUICK, **options)
        losses = [one["validation_loss"] for one in model.summary["curve"]]
        assert losses[-1] < losses[0]
        assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.network.parameters())
        del model
        assert allocated() == before

    def test_a_volume_trains_with_known_transforms(self):
        data = DrawnPairs(24, 6, size=24, ndim=3, kind="affine", truth=True)
        model = sr.train(data, network="affine", similarity_weight=0.0, truth_weight=1.0, epochs=20, **QUICK)
        scores = [one["scores"]["error"] for one in model.summary["curve"]]
        assert scores[-1] < 0.8 * scores[0]

    def test_resumed_training_continues(self, tmp_path):
        data = DrawnPairs(24, 6, kind="bent")
        options = {"network": "voxelmorph", "epochs": 4, "mixed_precision": "off", **QUICK}
        whole = sr.train(data, **options)
        steps = sr.train_steps(data, output=tmp_path / "model.safetensors", **options)
        for step in steps:
            if step.state == "validated" and step.epoch == 2:
                break
        steps.close()
        resumed = sr.train(data, output=tmp_path / "model.safetensors", resume=True, **options)
        one, other = ([x["validation_loss"] for x in m.summary["curve"]] for m in (whole, resumed))
        # Sums on a GPU come in no fixed order, so that two runs agree closely, not to the last bit.
        assert other == pytest.approx(one, rel=0.02)

    def test_stopping_a_training_gives_the_memory_back(self):
        data = DrawnPairs(24, 6, kind="bent")
        before = allocated()
        steps = sr.train_steps(data, network="voxelmorph", epochs=50, **QUICK)
        for _ in range(4):
            next(steps)
        assert torch.cuda.memory_allocated() > before
        with pytest.raises(StopIteration) as end:
            steps.send("stop")
        assert not next(end.value.value.network.parameters()).is_cuda
        del steps, end
        assert allocated() == before

    def test_training_out_of_memory_raises_one_sentence(self):
        data = DrawnPairs(24, 6, kind="bent")
        data.grid = grid(16384, 2)
        with pytest.raises(OutOfMemoryError, match=r"A training step needs about .*, but only"):
            sr.train(data, network="voxelmorph", epochs=1, device=CUDA, batch_size=1024)

    def test_bundled_model_agrees_between_gpu_and_cpu(self):
        model = sr.load("box-2d")
        images = pair(bent_map(2, height=4.0), grid(96, 2))
        before = allocated()
        here = model.predict(images.fixed, images.moving, device="cpu")
        there = model.predict(images.fixed, images.moving, device=CUDA)
        assert there.device.type == "cpu"
        assert compared(here, there, images) < 0.05
        refined = sr.register(images.fixed, images.moving, model=model, refine=20, device=CUDA)
        assert images.error(refined.transform) < images.error(there)
        model.network.to("cpu")
        assert allocated() == before

    def test_an_auto_encoder_is_a_similarity(self, tmp_path):
        coder = sr.train(DrawnPairs(32, 6, kind="bent", scenes=6), network="auto-encoder", epochs=6, **QUICK)
        path = str(sr.save(coder, tmp_path / "coder.safetensors"))
        images = moved_pair("affine", 2, 48)
        for family in ("affine", "affine+diffeomorphic"):
            result = sr.register(images.fixed, images.moving, family=family, similarity=path, device=CUDA)
            assert images.error(result.transform) < (0.5 if family == "affine" else 1.0)
        seen = sr.train(DrawnPairs(24, 6), network="affine", similarity=path, epochs=2, **QUICK)
        assert np.isfinite(seen.summary["best"]["validation_loss"])

    @pytest.mark.parametrize("family", ["affine", "tps", "bspline", "displacement"])
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_the_spatial_transformer_layer(self, family, ndim):
        shape = (16,) * ndim
        layer = sr.SpatialTransformer.with_cnn(2, shape, family, output_shape=[12] * ndim)
        images = torch.rand(3, 2, *shape)
        count = layer.parameter_count(shape)
        theta = 0.05 * torch.randn(3, count)
        expected = layer(images, parameters=theta)
        layer = layer.to(CUDA)
        torch.testing.assert_close(
            layer(images.to(CUDA), parameters=theta.to(CUDA)).cpu(), expected, rtol=1e-3, atol=1e-3
        )
        layer(images.to(CUDA)).square().mean().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())

    def test_the_digit_classifier_learns(self):
        torch.manual_seed(0)
        model = DigitClassifier(28, transformer=True).to(CUDA)
        pictures, classes = torch.rand(16, 1, 28, 28, device=CUDA), torch.arange(16, device=CUDA) % 10
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        losses = []
        for _ in range(60):
            loss = torch.nn.functional.cross_entropy(model(pictures), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]
