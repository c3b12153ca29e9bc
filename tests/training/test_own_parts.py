"""A training with parts of the user's own: network, loss, data, optimizer, scheduler and callbacks."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.losses import as_similarity
from napari_stnreg.networks import CustomNetwork, custom
from napari_stnreg.training.data.torch_data import DatasetPairs, LoaderPairs, read_sample
from tests.helpers.drawn_pairs import DrawnPairs

QUICK = {"device": "cpu", "batch_size": 12, "learning_rate": 2e-3}


class Shifter(nn.Module):
    """Both images at once, to a shift."""

    family = "translation"

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64 * width, 32), nn.ReLU(), nn.Linear(32, 2),
        )  # fmt: skip

    def forward(self, pair):
        return self.layers(pair)

    def config(self):
        return {"width": self.width}


class Constant(nn.Module):
    """The same answer for every pair, learned."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.as_tensor(answer, dtype=torch.float32))

    def forward(self, fixed, moving):
        return self.answer.expand(len(fixed), *self.answer.shape)


class Pairs(Dataset):
    """The drawn pairs, one by one."""

    def __init__(self, count=16, **options):
        self.drawn = DrawnPairs(count, 0, size=24, **options)

    def __len__(self):
        return len(self.drawn.fixed)

    def __getitem__(self, index):
        return {"fixed": self.drawn.fixed[index], "moving": self.drawn.moving[index]}


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(custom, "_FACTORIES", {})


def random(*shape):
    return np.random.default_rng(len(shape)).random(shape, dtype=np.float32)


def same_weights(one, other):
    a, b = one.network.state_dict(), other.network.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def mapped(family, answer, *, spacing=1.0, shape=(12, 10), **options):
    """Where a network that answers a constant takes the points of a grid."""
    where = sr.Grid.from_spacing(shape, spacing)
    where = where.translated(-where.center)
    network = CustomNetwork(Constant(answer), 2, shape=shape, family=family, **options)
    images = torch.rand(1, 1, *shape)
    return network.transform(images, images, where).on_grid(where)[0].detach().numpy(), where


class TestNetwork:
    def test_a_module_learns_saves_and_loads(self, tmp_path):
        data, module = DrawnPairs(48, 12, size=24), Shifter()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        model = sr.train(data, network=module, similarity="ncc", epochs=20, output=tmp_path / "m.safetensors", **QUICK)
        assert data.error(model) < 1.2  # voxels; the shifts are up to 3
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert model.family == "translation"
        with pytest.raises(InputError, match=r"holds the network 'Shifter', which is not registered.*register_network"):
            sr.load(tmp_path / "m.safetensors")
        sr.register_network("Shifter", Shifter)
        assert same_weights(sr.load(tmp_path / "m.safetensors"), model)

    def test_a_registered_network_is_trained_by_name_and_follows_another(self):
        sr.register_network("shifter", Shifter)
        named = sr.train(DrawnPairs(12, 4), network="shifter", epochs=1, **QUICK)
        assert named.describe()["network"] == "shifter"
        wide = sr.train(DrawnPairs(12, 4), network="affine+shifter", epochs=1,
                        network_options={"shifter": {"options": {"width": 4}}}, **QUICK)  # fmt: skip
        assert wide.family == "affine+translation"
        assert wide.network.networks()[1].module.width == 4

    def test_a_class_that_cannot_be_built_again_is_refused_before_training(self):
        sr.register_network("constant", Constant)
        with pytest.raises(InputError, match=r"'constant' cannot be built with \{\}"):
            sr.train(DrawnPairs(12, 4), network=Constant(torch.zeros(2)), family="translation", **QUICK)
        sr.register_network("wide", lambda: Constant(torch.zeros(3)))
        custom._FACTORIES["constant"] = lambda: Constant(torch.zeros(3))
        custom._FACTORIES["Constant"] = lambda: Constant(torch.zeros(3))
        with pytest.raises(InputError, match="other sizes than the one given"):
            sr.train(DrawnPairs(12, 4), network=Constant(torch.zeros(2)), family="translation", **QUICK)

    @pytest.mark.parametrize(("name", "words"), [("affine", "built-in"), ("a+b", "without"), ("", "without")])
    def test_names_that_would_confuse_are_refused(self, name, words):
        with pytest.raises(InputError, match=words):
            sr.register_network(name, Shifter)

    def test_the_papers_matrix_is_on_coordinates_from_minus_one_to_one(self):
        theta = [[0.5, 0.1, 0.2], [0.0, 1.5, -0.3]]  # rows x, y
        points, where = mapped("affine", theta, spacing=2.0)
        half = np.array([12.0, 10.0])
        y, x = (where.points() / half)[..., 0], (where.points() / half)[..., 1]
        expected = np.stack([1.5 * y - 0.3, 0.5 * x + 0.1 * y + 0.2], axis=-1) * half
        assert np.allclose(points, expected, atol=1e-5)

    def test_dense_answers_are_in_voxels_of_their_own_grid(self):
        field = torch.zeros(2, 6, 5)
        field[0], field[1] = 1.0, -0.5  # y, x in voxels of half the resolution
        points, where = mapped("displacement", field, spacing=3.0)
        assert np.allclose(points - where.points(), [6.0, -3.0], atol=1e-5)
        points, where = mapped("flow", field.flip(0), spacing=3.0)  # x first
        assert np.allclose(points - where.points(), [6.0, -3.0], atol=1e-5)
        points, where = mapped("velocity", field, spacing=3.0)
        assert np.allclose(points - where.points(), [6.0, -3.0], atol=1e-4)

    def test_other_families_and_their_options(self):
        points, where = mapped("rigid", [0.0, 0.0, 0.0])
        assert np.allclose(points, where.points(), atol=1e-6)
        sizes = CustomNetwork(Constant(0.0), 2, shape=(16, 16), family="bspline", spacing=4)
        assert sizes.family.parameter_shape(sr.Grid.from_spacing((16, 16)))[0] == 2
        assert sizes.config()["spacing"] == 4

    @pytest.mark.parametrize("flat", [False, True])
    def test_options_of_a_thin_plate_spline_place_its_control_points(self, flat):
        moves = torch.tensor([[2.0, -1.0]]).repeat(12, 1)  # 3 x 4 control points, all moved equally
        points, where = mapped("tps", moves.flatten() if flat else moves, spacing=3.0, points=[3, 4])
        assert np.allclose(points - where.points(), [6.0, -3.0], atol=1e-4)
        with pytest.raises(InputError, match=r"shape \(B, 12, 2\).*tps needs \(B, 50\)"):
            mapped("tps", moves)  # 5 x 5 by default
        with pytest.raises(InputError, match="'tps' does not take these options: pints"):
            mapped("tps", moves, pints=4)

    def test_a_network_of_a_thin_plate_spline_is_trained_saved_and_loaded(self, tmp_path):
        sr.register_network("Constant", lambda: Constant(torch.zeros(9, 2)))
        path = tmp_path / "tps.safetensors"
        model = sr.train(
            DrawnPairs(12, 4), network=Constant(torch.zeros(9, 2)), family="tps", network_options={"points": 3},
            similarity="mse", epochs=1, output=path, **QUICK,
        )  # fmt: skip
        loaded = sr.load(path)
        assert loaded.family == "tps"
        assert loaded.network.config()["points"] == 3
        assert same_weights(loaded, model)

    @pytest.mark.parametrize(
        ("family", "answer", "words"),
        [
            ("displacement", torch.zeros(3, 12, 10), r"\(B, 3, 12, 10\).*displacement needs \(B, 2, \*size\)"),
            ("rigid", torch.zeros(4), r"\(B, 4\).*rigid needs \(B, 3\)"),
        ],
    )
    def test_wrong_shapes_are_named(self, family, answer, words):
        with pytest.raises(InputError, match=words):
            mapped(family, answer)

    def test_padding_to_a_multiple_and_sizes_not_trained_on(self):
        class Halves(nn.Module):
            multiple = 8

            def __init__(self):
                super().__init__()
                self.factor = nn.Parameter(torch.zeros(1))

            def forward(self, fixed, moving):
                assert fixed.shape[2] % 8 == fixed.shape[3] % 8 == 0
                return (fixed - moving).repeat(1, 2, 1, 1) * self.factor

        model = sr.train(Pairs(), network=Halves(), similarity=nn.MSELoss(), epochs=1, **QUICK)
        result = model(random(37, 21), random(37, 21))
        assert result.warped.data.shape == (37, 21)
        assert model.summary["settings"]["diffusion"] == 0.02  # a dense field is regularized unless told otherwise


class TestLoss:
    def test_the_loss_is_the_mean_of_a_map(self):
        one, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
        values = []
        for loss in (
            nn.MSELoss(), nn.MSELoss(reduction="none"), lambda warped, fixed: ((warped - fixed) ** 2).mean((1, 2, 3))
        ):  # fmt: skip
            similarity, _ = as_similarity(loss)
            similarity.prepare(one)
            values.append(float(similarity(other)))
        np.testing.assert_allclose(values, values[0], rtol=1e-6)

    @pytest.mark.parametrize("answer", [torch.zeros(2, dtype=torch.int64), torch.zeros(0)])
    def test_a_tensor_without_a_mean_is_refused(self, answer):
        with pytest.raises(InputError, match=r"returned a tensor of type .* Return a scalar, or a floating-point map"):
            sr.train(Pairs(), network=Shifter(), similarity=lambda warped, fixed: answer, epochs=1, **QUICK)

    def test_a_loss_of_torch_trains_and_is_named(self):
        data = DrawnPairs(24, 6, size=24)
        model = sr.train(data, network="affine", family="translation", similarity=nn.MSELoss(), epochs=4, **QUICK)
        built_in = sr.train(data, network="affine", family="translation", similarity="mse", epochs=4, **QUICK)
        assert data.error(model) == pytest.approx(data.error(built_in), abs=0.05)
        assert model.summary["settings"]["similarity_used"] == "MSELoss"

    def test_a_function_sees_the_warped_image_first_and_its_mask(self):
        def signed(warped, fixed, mask=None):
            return ((warped - fixed) * (1 if mask is None else mask)).mean()

        loss, name = as_similarity(signed)
        weight = torch.zeros(1, 1, 4, 4)
        weight[..., :2] = 1
        loss.prepare(torch.zeros(1, 1, 4, 4), weight)
        assert name == "signed"
        assert float(loss(torch.ones(1, 1, 4, 4))) == 0.5
        plain, _ = as_similarity(nn.L1Loss(reduction="none"))
        plain.prepare(torch.zeros(1, 1, 4, 4), weight)
        assert float(plain(torch.ones(1, 1, 4, 4))) == 0.5

    @pytest.mark.parametrize(("loss", "words"), [(3, "a name or a function"), (lambda a, b: 1.0, "returned float")])
    def test_an_object_that_is_no_loss_is_refused_by_name(self, loss, words):
        with pytest.raises(InputError, match=words):
            sr.train(DrawnPairs(12, 4), network="affine", similarity=loss, epochs=1, **QUICK)


class TestData:
    def test_a_dataset_and_its_loader_train_as_the_arrays_do(self):
        options = {"network": "affine", "family": "translation", "similarity": "ncc", "epochs": 8, **QUICK}
        dataset = Pairs(48)
        for source in (dataset, DataLoader(dataset, batch_size=12, shuffle=True)):
            model = sr.train(source, **options)
            assert DrawnPairs(2, 24, size=24).error(model) < 2.0
        assert model.summary["settings"]["batch_size"] == 12

    def test_a_loader_repeats_with_its_seed_and_takes_validation_data(self):
        def trained():
            loader = DataLoader(Pairs(24), batch_size=8, shuffle=True)
            return sr.train(loader, validation=Pairs(6), network="affine", epochs=2, device="cpu", seed=4)

        one, other = trained(), trained()
        assert same_weights(one, other)
        assert one.summary["curve"][-1]["validation_loss"] is not None

    def test_samples_of_every_kind(self):
        image = random(20, 18)
        tensor, labels = torch.from_numpy(image)[None], torch.ones(1, 20, 18, dtype=torch.int64)
        for sample, count in (
            ({"fixed": tensor, "moving": tensor}, 2),
            ({"image": tensor, "label": 3}, 1),
            ({"image": tensor, "label": labels}, 1),
            ((tensor, tensor), 2),
            ((tensor, 7), 1),
            ((tensor, tensor, labels, labels), 2),
            (tensor, 1),
            (image, 1),
            (sr.Image.from_array(image, spacing=2.0), 1),
        ):
            items = read_sample(sample)
            assert len(items) == count
            assert np.allclose(items[0].image.data, image)
        assert read_sample({"image": tensor, "label": labels})[0].labels.shape == (20, 18)
        assert read_sample(tensor, spacing=0.5, unit="um")[0].image.grid.spacing.tolist() == [0.5, 0.5]

    def test_volume_with_an_affine_is_placed_like_its_file(self, tmp_path):
        import nibabel

        voxels = random(9, 8, 7)  # x, y, z
        affine = np.array([[-2.0, 0, 0, 3], [0, 1.5, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
        expected = sr.read_image(tmp_path / "a.nii.gz")

        class Scalar:  # as TorchIO's images
            type, data = "intensity", torch.from_numpy(voxels)[None]

        Scalar.affine = affine
        meta = torch.from_numpy(voxels)[None].clone()  # as MONAI's tensors
        meta.affine = torch.from_numpy(affine)
        for value in (Scalar(), meta):
            image = read_sample({"image": value})[0].image
            assert np.array_equal(image.data, expected.data)
            assert np.allclose(image.grid.matrix, expected.grid.matrix)
            assert image.grid.unit == expected.grid.unit == "mm"

    def test_points_and_labels_come_along(self):
        class Annotated(Pairs):
            def __getitem__(self, index):
                points = torch.tensor([[3.0, 4.0], [5.0, 6.0]])[: 1 + index % 2]
                label = (self.drawn.fixed[index] > 0.5).long()
                return {**super().__getitem__(index), "fixed_points": points, "moving_points": points,
                        "fixed_labels": label, "moving_labels": label}  # fmt: skip

        data = DatasetPairs(Annotated(8), validation_fraction=0)
        batch = next(data.batches("train", epoch=0, batch_size=8, seed=0))
        assert data.labels == (1,)
        assert batch.fixed_points.shape == (8, 2, 2)
        assert torch.isnan(batch.fixed_points).any(dim=-1).sum() == 4
        first = batch.fixed_points[0, 0] + torch.as_tensor(sr.Grid.from_spacing((24, 24)).center)
        assert torch.allclose(first.double(), torch.tensor([3.0, 4.0]).double() * 1.0)

    def test_single_images_are_paired_with_another_one(self):
        held = DatasetPairs(torch.utils.data.TensorDataset(torch.rand(8, 1, 16, 16)))
        assert (held.count("train"), held.count("validation")) == (6, 2)
        images = [torch.rand(1, 16, 16) for _ in range(6)]
        data = DatasetPairs(torch.utils.data.TensorDataset(torch.stack(images), torch.arange(6)), validation_fraction=0)
        for batch in data.batches("train", epoch=3, batch_size=1, seed=1):
            assert not torch.equal(batch.fixed, batch.moving)
        loader = LoaderPairs(DataLoader(torch.utils.data.TensorDataset(torch.stack(images)), batch_size=3))
        assert [len(batch.fixed) for batch in loader.batches("train", epoch=0, batch_size=1, seed=0)] == [3, 3]

    @pytest.mark.parametrize(
        ("samples", "words"),
        [
            ([{"a": 1}] * 4, "Name its images 'fixed' and 'moving'"),
            ([(torch.rand(1, 8, 8),) * 3] * 4, "has 3 parts"),
            ([], "empty"),
        ],
    )
    def test_samples_without_images_are_named(self, samples, words):
        class Listed(Dataset):
            def __len__(self):
                return len(samples)

            def __getitem__(self, index):
                return samples[index]

        with pytest.raises(InputError, match=words):
            sr.train(Listed(), network="affine", epochs=1, **QUICK)

    def test_an_object_that_is_no_data_is_refused_by_name(self):
        with pytest.raises(InputError, match="type int cannot be trained on"):
            sr.train(3)

    def test_monai_samples(self):
        monai = pytest.importorskip("monai")
        images = [{"image": random(16, 16)} for _ in range(6)]
        dataset = monai.data.Dataset(images, monai.transforms.EnsureChannelFirstd("image", channel_dim="no_channel"))
        loss = monai.losses.LocalNormalizedCrossCorrelationLoss(spatial_dims=2)
        for source in (dataset, monai.data.DataLoader(dataset, batch_size=3)):
            model = sr.train(source, network="voxelmorph", similarity=loss, epochs=1, **QUICK)
            assert model.input_spec.shape == (16, 16)

    def test_torchio_samples(self):
        tio = pytest.importorskip("torchio")
        affine = np.diag([2.0, 1.0, 1.0, 1.0])
        subjects = [
            tio.Subject(
                fixed=tio.ScalarImage(tensor=torch.rand(1, 8, 12, 16), affine=affine),
                moving=tio.ScalarImage(tensor=torch.rand(1, 8, 12, 16), affine=affine),
                fixed_label=tio.LabelMap(tensor=torch.ones(1, 8, 12, 16), affine=affine),
                moving_label=tio.LabelMap(tensor=torch.ones(1, 8, 12, 16), affine=affine),
            )
            for _ in range(4)
        ]
        dataset = tio.SubjectsDataset(subjects)
        for data in (DatasetPairs(dataset), LoaderPairs(tio.SubjectsLoader(dataset, batch_size=2))):
            assert data.grid.shape == (16, 12, 8)
            assert data.grid.spacing.tolist() == [1.0, 1.0, 2.0]
            assert data.labels == (1,)
            batch = next(iter(data.batches("train", epoch=0, batch_size=2, seed=0)))
            assert batch.fixed.shape[1:] == (1, 16, 12, 8)


class TestOptimizer:
    def test_an_own_optimizer_follows_the_schedule_and_resumes(self, tmp_path):
        options = {"network": "affine", "similarity": "ncc", "device": "cpu", "batch_size": 12,
                   "optimizer": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9)}  # fmt: skip
        seen = []
        whole = sr.train(DrawnPairs(24, 6), epochs=4, progress=seen.append, **options)
        assert seen[-1].curve[-1].learning_rate < 0.1 * 0.05 < seen[-1].curve[1].learning_rate
        steps = sr.train_steps(DrawnPairs(24, 6), epochs=4, output=tmp_path / "m.safetensors", **options)
        for step in steps:
            if step.epoch == 2 and step.state == "running":
                steps.close()
        again = sr.train(DrawnPairs(24, 6), epochs=4, output=tmp_path / "m.safetensors", resume=True, **options)
        assert same_weights(again, whole)

    @pytest.mark.parametrize(
        "scheduler",
        [
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
            lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, mode="max"),
        ],
    )
    def test_an_own_scheduler_sets_the_rate_and_resumes(self, scheduler, tmp_path):
        options = {"network": "affine", "similarity": "ncc", "scheduler": scheduler, "epochs": 4, **QUICK}
        seen = []
        whole = sr.train(DrawnPairs(24, 6), progress=seen.append, **options)
        rates = [one.learning_rate for one in seen[-1].curve]
        assert rates[2] == pytest.approx(2e-3 if scheduler.__code__.co_names[-1] == "StepLR" else rates[2], rel=0.51)
        assert rates[4] < rates[1]
        steps = sr.train_steps(DrawnPairs(24, 6), output=tmp_path / "m.safetensors", **options)
        for step in steps:
            if step.epoch == 2 and step.state == "running":
                steps.close()
        again = sr.train(DrawnPairs(24, 6), output=tmp_path / "m.safetensors", resume=True, **options)
        assert same_weights(again, whole)

    def test_an_optimizer_object_is_refused(self):
        made = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        with pytest.raises(InputError, match="Give the optimizer as a function"):
            sr.train(DrawnPairs(12, 4), network="affine", optimizer=made, **QUICK)
        with pytest.raises(InputError, match="returned int, not an optimizer"):
            sr.train(DrawnPairs(12, 4), network="affine", optimizer=lambda weights: 3, **QUICK)


class TestCallbacks:
    def test_each_method_is_called_and_may_stop(self):
        calls = []

        class Log(sr.TrainingCallback):
            def on_start(self, network, settings):
                calls.append(("start", settings.epochs))

            def on_epoch(self, progress, network):
                calls.append(("epoch", progress.epoch))
                return "stop" if progress.epoch == 2 else None

            def on_end(self, model):
                calls.append(("end", model.summary["stop_reason"]))

        class Count:
            steps = 0

            def on_step(self, progress):
                self.steps += 1

        count = Count()
        sr.train(DrawnPairs(24, 6), network="affine", epochs=9, callbacks=[Log(), count], **QUICK)
        assert calls == [("start", 9), ("epoch", 0), ("epoch", 1), ("epoch", 2), ("end", "stopped")]
        assert count.steps == 4
        with pytest.raises(InputError, match="int is not a callback"):
            sr.train(DrawnPairs(12, 4), network="affine", callbacks=[3], **QUICK)

    def test_curves_are_written_and_a_finished_training_continues(self, tmp_path):
        output = tmp_path / "m.safetensors"
        first = sr.train(DrawnPairs(24, 6), network="affine", epochs=2, output=output, **QUICK)
        longer = sr.train(DrawnPairs(24, 6), network="affine", epochs=4, output=output, resume=True, **QUICK)
        with (tmp_path / "m.curve.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"]
        assert rows[0]["loss"] == ""
        assert float(rows[4]["term_similarity"]) < float(rows[1]["term_similarity"])
        assert [float(row["validation_loss"]) for row in rows] == [
            e["validation_loss"] for e in longer.summary["curve"]
        ]
        assert longer.summary["curve"][:3] == first.summary["curve"]
        with pytest.raises(InputError, match="its epochs was 4, now it is 3"):
            sr.train(DrawnPairs(24, 6), network="affine", epochs=3, output=output, resume=True, **QUICK)

    def test_tensorboard_gets_the_curves(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        model = sr.train(DrawnPairs(12, 4), network="affine", epochs=2, tensorboard=tmp_path / "run", **QUICK)
        events = EventAccumulator(str(tmp_path / "run")).Reload()
        found = [event.value for event in events.Scalars("loss/validation")]
        assert found == pytest.approx([one["validation_loss"] for one in model.summary["curve"]])


def trained_in_parts(first, second):
    """Two trainings, of pairs that are drawn by each process and of batches that are divided among them."""
    options = {"similarity": "mse", "epochs": 2, "batch_size": 6, "device": "cpu"}
    sr.train(DrawnPairs(15, 4, size=16), network="affine+voxelmorph", strategy="sequential", gradient_accumulation=2,
             network_options={"voxelmorph": {"resolution": "half"}}, output=first, **options)  # fmt: skip
    sr.train(Pairs(13), network="affine", output=second, **options)


def test_two_processes_train_like_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, torch\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\ntorch.set_num_threads(1)\n"
        "from tests.training.test_own_parts import trained_in_parts\ntrained_in_parts(*sys.argv[1:])\n"
    )
    one, two = ([str(tmp_path / f"{name}{i}.safetensors") for i in (1, 2)] for name in ("one", "two"))
    trained_in_parts(*one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), *two]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(launch, env=environment, timeout=200, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for alone, together in zip(one, two, strict=True):
        a, b = sr.load(alone), sr.load(together)
        assert [e["epoch"] for e in b.summary["curve"]] == [0, 1, 2]
        losses = [[(e["loss"] or 0, e["validation_loss"] or 0) for e in model.summary["curve"]] for model in (a, b)]
        assert np.allclose(*losses, rtol=2e-3)


class TestUnusableParts:
    """One clear sentence for what cannot be used, instead of an error from inside of torch."""

    def images(self, count=6):
        rng = np.random.default_rng(0)
        return [rng.random((16, 16)).astype(np.float32) for _ in range(count)]

    @pytest.mark.parametrize(
        "module", [torch.nn.Conv3d(2, 2, 3, padding=1), torch.nn.Conv2d(2, 2, 3, padding=1).double()]
    )
    def test_error_inside_a_network_reports_its_input(self, module):
        with pytest.raises(InputError, match=r"'Conv\dd' failed on two float32 images of shape \(B, 1, 16, 16\)"):
            sr.train(self.images(), network=module, epochs=1, device="cpu")

    @pytest.mark.parametrize("loss", [lambda warped: warped.mean(), lambda warped, fixed: warped @ fixed[..., :3, :]])
    def test_error_inside_a_loss_reports_its_arguments(self, loss):
        with pytest.raises(InputError, match=r"failed when it was called as loss\(warped, fixed\) .*\(1, 1, 16, 16\)"):
            sr.train(self.images(), network="voxelmorph", similarity=loss, epochs=1, device="cpu")

    @pytest.mark.parametrize(("name", "what"), [("truth_weight", "transforms"), ("surface_weight", "of surfaces")])
    def test_weight_without_data_for_it_is_announced(self, name, what):
        model = sr.train(self.images(), network="voxelmorph", epochs=1, device="cpu", snapshots=0, **{name: 1.0})
        assert any(name in text and what in text and "no effect" in text for text in model.summary["warnings"])

    def test_single_callback_is_taken(self):
        seen = []

        class Watcher:
            def on_epoch(self, progress, network):
                seen.append(progress.epoch)

        sr.train(self.images(), network="voxelmorph", epochs=1, device="cpu", snapshots=0, callbacks=Watcher())
        assert seen

    def test_too_few_images_and_missing_files_are_named(self, tmp_path):
        with pytest.raises(InputError, match="needs at least two images"):
            sr.train(self.images(1))
        with pytest.raises(InputError, match="besides those kept for validation, not 1"):
            sr.train(self.images(2))
        with pytest.raises(InputError, match="nowhere' does not exist"):
            sr.train(tmp_path / "nowhere")


def tensor_pairs(count=8):
    """A plain list of pairs without a channel axis."""
    return [(sample["fixed"][0], sample["moving"][0]) for sample in (Pairs(count)[i] for i in range(count))]


@pytest.mark.parametrize("as_sample", [tuple, list, lambda pair: {"fixed": pair[0], "moving": pair[1]}])
def test_a_list_of_pairs_trains_like_a_dataset_of_pairs(as_sample):
    model = sr.train([as_sample(pair) for pair in tensor_pairs()], network="affine", epochs=1, device="cpu")
    assert model.ndim == 2
    assert model.summary["curve"][-1]["loss"] == sr.train(
        Pairs(8), network="affine", epochs=1, device="cpu"
    ).summary["curve"][-1]["loss"]  # fmt: skip


def test_the_pairs_of_a_list_may_differ_in_size():
    pairs = [(fixed[: 24 - i], moving[:, : 22 - i]) for i, (fixed, moving) in enumerate(tensor_pairs())]
    assert sr.train(pairs, network="affine", epochs=1, device="cpu").ndim == 2


def test_a_list_of_pairs_is_not_opened_as_images():
    with pytest.raises(InputError, match="list of pairs"):
        sr.open_training_data(tensor_pairs())


@pytest.mark.parametrize(("family", "shape"), [("translation", (2,)), ("displacement", (2, 6, 6))])
def test_a_network_that_returns_nan_ends_in_a_sentence(family, shape):
    class Broken(Constant):
        def forward(self, fixed, moving):
            return super().forward(fixed, moving) * torch.nan

    network = Broken(torch.zeros(shape))
    network.family = family
    with pytest.raises(sr.FitError, match="non-finite") as caught:
        sr.train(Pairs(), network=network, epochs=1, device="cpu")
    assert "checkpoint" not in str(caught.value)  # there is none


def test_a_loss_without_a_gradient_is_refused():
    def detached(warped, fixed):
        return (warped.detach() - fixed).square().mean()

    with pytest.raises(InputError, match="'detached' had no gradient"):
        sr.train(Pairs(), network="voxelmorph", similarity=detached, epochs=1, device="cpu")


def test_frozen_layers_of_a_network_stay_as_they_are():
    network = Shifter()
    network.layers[0].requires_grad_(False)
    model = sr.train(Pairs(), network=network, epochs=1, device="cpu")
    trained = model.network.module.layers
    assert torch.equal(trained[0].weight, network.layers[0].weight)
    assert not torch.equal(trained[-1].weight, network.layers[-1].weight)
    with pytest.raises(InputError, match="nothing to train"):
        sr.train(Pairs(), network=Shifter().requires_grad_(False), epochs=1, device="cpu")


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match="Setting 'overwrite' does not exist"):
        sr.train(Pairs(), network="affine", overwrite=True)
