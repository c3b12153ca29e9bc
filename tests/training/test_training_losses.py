"""Terms of the training loss beside similarity: points, surfaces, inverse consistency, and networks that need them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.networks import VoxelMorph
from napari_stnreg.training.data.batch import Batch
from napari_stnreg.training.loss import RegistrationLoss, point_distance, surface_distance
from napari_stnreg.transforms import AffineTransform, DisplacementTransform
from tests.helpers.drawn_pairs import DrawnPairs

QUICK = {"device": "cpu", "batch_size": 12, "learning_rate": 2e-3}
HALF = {"resolution": "half", "encoder": [8, 16], "decoder": [16, 16], "final": [8]}


def shift(*by):
    matrix = np.eye(len(by) + 1)
    matrix[:-1, -1] = by
    return AffineTransform(matrix, "pixel")


class WithPoints(DrawnPairs):
    """Pairs with some corresponding points, and no weight on what the images look like."""

    def batches(self, split, **options):
        rng = np.random.default_rng(0)
        points = torch.tensor(rng.uniform(-30, 30, (1, 12, 2)), dtype=torch.float32)
        for batch in super().batches(split, **options):
            batch.fixed_points = points.expand(batch.size, -1, -1)
            batch.moving_points = batch.truth(batch.fixed_points)
            batch.fixed_surface, batch.moving_surface = batch.fixed_points, batch.moving_points.flip(1)
            yield batch


def test_distances_of_points_ignore_missing_points():
    fixed = torch.tensor([[[0.0, 0.0], [1.0, 2.0]], [[5.0, 5.0], [torch.nan, torch.nan]]])
    moving = fixed + torch.tensor([3.0, 4.0])
    assert float(point_distance(shift(0, 0), fixed, moving)) == pytest.approx(5.0)
    assert float(point_distance(shift(3, 4), fixed, moving)) == pytest.approx(0.0, abs=1e-5)


def test_distance_of_surfaces_needs_no_order():
    angle = torch.linspace(0, 2 * torch.pi, 400)
    circle = 10 * torch.stack([angle.sin(), angle.cos()], dim=-1)[None]
    wider = 1.3 * circle.flip(1)[:, ::2]
    filled = torch.cat([wider, wider.new_full((1, 7, 2), torch.nan)], dim=1)
    assert float(surface_distance(shift(0, 0), circle, filled)) == pytest.approx(3.0, abs=0.02)
    long = torch.rand(1, 5000, 2)
    assert float(surface_distance(shift(0, 0), long, long)) < 0.01


@pytest.mark.parametrize("term", ["point_weight", "surface_weight"])
def test_a_network_learns_from_points_alone(term):
    data = WithPoints(48, 8, size=24, truth=True)
    model = sr.train(
        data, network="affine", family="translation", similarity_weight=0, epochs=10, **{term: 1.0}, **QUICK
    )
    assert data.error(model) < 1.2  # voxels; the shifts are up to 3
    assert model.summary["best"]["scores"]["points"] < 5  # world units, a voxel has 4.2


def test_points_of_a_list_of_files_follow_the_augmentation(tmp_path):
    from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
    from napari_stnreg.training.data.paired_images import Augmentation

    y, x = np.mgrid[:40, :40]
    for name, (cy, cx) in (("a", (15, 22)), ("b", (19, 18))):
        spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", spot)
        (tmp_path / f"{name}.csv").write_text(f"y,x\n{cy},{cx}\n")
    (tmp_path / "pairs.csv").write_text(
        "fixed,moving,fixed_points,moving_points,split\na.npy,b.npy,a.csv,b.csv,train\n"
    )
    turned = Augmentation(joint=SpatialAugmentation(rotation=40, shift=4), independent=SpatialAugmentation(shift=3))
    data = sr.open_training_data(tmp_path / "pairs.csv", augmentation=turned)
    batch = next(data.batches("train", epoch=1, batch_size=1, seed=2))
    for image, points in ((batch.fixed, batch.fixed_points), (batch.moving, batch.moving_points)):
        brightest = np.unravel_index(int(image[0, 0].argmax()), (40, 40))
        assert np.allclose(data.grid.to_world(brightest), points[0, 0].numpy(), atol=0.8)
    (tmp_path / "pairs.csv").write_text("fixed,moving,fixed_points\na.npy,b.npy,a.csv\n")
    with pytest.raises(InputError, match="needs both fixed_points and moving_points"):
        sr.open_training_data(tmp_path / "pairs.csv")


class TestConsistency:
    def test_both_errors_are_those_of_the_composition(self):
        grid = sr.Grid.from_spacing((20, 20), 2.0)
        grid = grid.translated(-grid.center)
        ramp = torch.tensor(0.1 * (grid.points()[..., 0]), dtype=torch.float32)
        field = torch.stack([ramp, torch.zeros_like(ramp)])[None]

        class Fixed:
            is_conditional = training = False

            def transform(self, fixed, moving, grid):
                return DisplacementTransform(field, grid)  # stretched by 1.1, whatever is fixed

            def divergence(self):
                return None

        settings = sr.TrainingSettings(
            similarity="mse", diffusion=0, inverse_consistency=1, gradient_inverse_consistency=1
        )
        image = torch.rand(1, 1, 20, 20)
        terms = RegistrationLoss(settings, grid)(Fixed(), Batch(image, image)).terms
        # 1.1 * 1.1 - 1 = 0.21 inside; constant beyond the border, where few points go
        assert terms["gradient_inverse_consistency"] == pytest.approx(0.21**2, rel=0.1)
        places = grid.points()[..., 0]
        radius = np.sqrt((grid.points() ** 2).sum(-1).mean())
        assert terms["inverse_consistency"] == pytest.approx((0.21 * places).var() / radius**2, rel=0.1)

    def test_it_lowers_the_round_trip_error(self):
        data = DrawnPairs(24, 6, size=16, kind="bent")
        options = {"network": "voxelmorph", "family": "displacement", "similarity": "mse", "diffusion": 1e-4,
                   "network_options": HALF, "epochs": 15, "device": "cpu", "batch_size": 4,
                   "learning_rate": 1e-2}  # fmt: skip
        errors = []
        for weight in (0.0, 10.0):
            model = sr.train(data, inverse_consistency=weight, **options)
            with torch.no_grad():
                forward = model.network.transform(data.fixed, data.moving, data.grid)
                backward = model.network.transform(data.moving, data.fixed, data.grid)
                error = forward(backward.on_grid(data.grid)) - torch.tensor(data.grid.points(), dtype=torch.float32)
            errors.append(float(error.norm(dim=-1).mean()))
        assert errors[1] < 0.7 * errors[0]


class TestConditional:
    def test_one_network_gives_stiff_and_soft_fields(self, tmp_path):
        data = DrawnPairs(24, 6, size=16, kind="bent", unit="um")
        options = {**HALF, "conditional": True}
        model = sr.train(data, network="voxelmorph", family="displacement", similarity="mse", diffusion=0.05,
                         network_options=options, epochs=25, output=tmp_path / "m.safetensors", **QUICK)  # fmt: skip
        model = sr.load(tmp_path / "m.safetensors")
        fixed, moving = (sr.Image(x[0, 0].numpy(), data.grid) for x in (data.fixed, data.moving))
        roughness = []
        for smoothness in (0.1, 1.0, 10.0):
            found = model(fixed, moving, smoothness=smoothness).transform
            field = found.on_grid(data.grid)[0].numpy() - data.grid.points()
            roughness.append(float(np.square(np.diff(field, axis=0)).mean()))
        assert roughness[0] > 1.4 * roughness[1] > 1.4**2 * roughness[2]

    def test_network_without_smoothness_warns(self):
        model = sr.train(DrawnPairs(12, 4), network="affine", epochs=1, **QUICK)
        notes = []
        picture = sr.Image.from_array(np.random.default_rng(0).random((32, 32)))
        model.predict(picture, picture, smoothness=3, warnings=notes)
        assert "ignores smoothness 3" in notes[0]


class TestProbabilistic:
    def test_it_is_surer_where_there_is_something_to_see(self):
        data = DrawnPairs(24, 6, size=24, kind="bent")
        options = {"device": "cpu", "batch_size": 4, "learning_rate": 1e-2, "epochs": 25}
        model = sr.train(data, network="voxelmorph", similarity="mse", similarity_weight=20.0,
                         network_options={**HALF, "probabilistic": True}, **options)  # fmt: skip
        assert model.is_probabilistic
        fixed, moving = (sr.Image(x[0, 0].numpy(), data.grid) for x in (data.fixed, data.moving))
        before = torch.get_rng_state()
        map_ = model.uncertainty(fixed, moving, samples=8)
        assert torch.equal(before, torch.get_rng_state())
        assert np.array_equal(map_.data, model.uncertainty(fixed, moving, samples=8).data)
        assert map_.grid == fixed.grid
        edges = np.hypot(*np.gradient(fixed.data))
        assert (
            map_.data[edges > np.quantile(edges, 0.9)].mean() < 0.9 * map_.data[edges < np.quantile(edges, 0.3)].mean()
        )
        one, other = (model.predict(fixed, moving).on_grid(fixed.grid) for _ in range(2))
        assert torch.equal(one, other)  # the mean

    def test_the_divergence_is_that_of_gaussians(self):
        network = VoxelMorph(2, family="displacement", probabilistic=True, prior_precision=3.0, **HALF)
        network.train()
        images = torch.rand(1, 1, 16, 16)
        with torch.no_grad():
            network(images, images)
        mean, log_variance = network._distribution
        variance = log_variance.exp()
        value = network.divergence().item()
        expected = 0.5 * float(
            (3.0 * 4 * variance - log_variance).sum(dim=1).mean()
        )  # the mean is zero before training
        assert float(mean.abs().max()) == 0
        assert value == pytest.approx(expected, rel=1e-6)
        assert network.divergence() is None  # once for each prediction

    def test_unknown_model_error_explains_how_to_get_one(self):
        model = sr.train(DrawnPairs(12, 4), network="affine", epochs=1, **QUICK)
        with pytest.raises(InputError, match="network option probabilistic"):
            model.uncertainty(sr.Image.from_array(np.eye(8)), sr.Image.from_array(np.eye(8)))
