"""A trained model on images of any size, voxel size, orientation and unit, and its file."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import napari_stnreg as sr
from napari_stnreg.core import container
from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.core.linalg import rotation_2d
from napari_stnreg.models.input_spec import InputSpec, resample_to_lattice
from napari_stnreg.models.model import Model
from napari_stnreg.models.model_file import save_model
from napari_stnreg.networks import new_network
from napari_stnreg.transforms import AffineTransform
from tests.helpers.drawn_pairs import DrawnPairs
from tests.helpers.scenes import SIDE, affine_map, grid, pair

SHIFT = np.array([7.0, -9.0])


@pytest.fixture(scope="module")
def trained():
    """Knows shifts of one scene, in millimeters."""
    return sr.train(
        DrawnPairs(72, 12, kind="shift", unit="mm"), network="affine", family="translation", epochs=30, device="cpu",
        batch_size=12, learning_rate=2e-3, truth_weight=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shaken():
    """Answers something smooth whatever it is shown."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = new_network("voxelmorph", 2, 1, (32, 32), {"resolution": "half"})
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            network.flow.weight.mul_(3)
    return Model(network, InputSpec(2, 1, (32, 32), (SIDE / 32, SIDE / 32), "mm"), {}, "shaken")


def scene_pair(fixed_grid, moving_grid=None):
    return pair(affine_map(2, shift=SHIFT), fixed_grid, moving_grid)


def unit_grid(size, **options):
    return grid(size, 2, unit="mm", **options)


class TestAnyImages:
    def test_model_predicts_an_unseen_shift(self, trained):
        one = scene_pair(unit_grid(32))
        found = trained.predict(one.fixed, one.moving, device="cpu")
        assert one.error(found) < 0.7
        assert found.unit == "mm"

    @pytest.mark.parametrize(
        ("fixed_grid", "moving_grid", "within"),
        [
            (unit_grid(64), unit_grid(64), 0.5),  # finer
            (unit_grid(45), unit_grid(70), 1.0),  # neither a multiple of the other
            (grid((40, 80), unit="mm"), unit_grid(32), 0.7),  # voxels that are no squares
            (unit_grid(64, turn=rotation_2d(np.deg2rad(30))), unit_grid(50), 1.5),  # turned in the world
            (unit_grid(64), unit_grid(64, turn=rotation_2d(np.deg2rad(-50))), 1.5),
        ],
    )
    def test_prediction_is_in_world_coordinates(self, trained, fixed_grid, moving_grid, within):
        plain, other = scene_pair(unit_grid(32)), scene_pair(fixed_grid, moving_grid)
        points = plain.points()
        one = trained.predict(plain.fixed, plain.moving, device="cpu").map_points(points)
        two = trained.predict(other.fixed, other.moving, device="cpu").map_points(points)
        assert np.linalg.norm(one - two, axis=1).max() < within  # world units of which a lattice voxel has three

    @pytest.mark.parametrize("turned", [[[0.0, 1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]]])
    def test_prediction_is_invariant_to_flips_and_transposed_axes(self, shaken, turned):
        plain = scene_pair(unit_grid(32))
        other = scene_pair(unit_grid(32, turn=turned), unit_grid(32, turn=turned))
        points = plain.points()
        one = shaken.predict(plain.fixed, plain.moving, device="cpu").map_points(points)
        two = shaken.predict(other.fixed, other.moving, device="cpu").map_points(points)
        assert np.abs(one - points).max() > 0.5
        assert np.allclose(one, two, atol=1e-3)

    def test_units_of_length_are_converted(self, trained):
        plain = scene_pair(unit_grid(32))
        fixed = plain.fixed.with_unit("um")
        found = trained.predict(fixed, plain.moving, device="cpu")
        here = trained.predict(plain.fixed, plain.moving, device="cpu")
        assert found.unit == "um"
        assert np.allclose(found.map_points([[1e3, 2e3]]) / 1e3, here.map_points([[1.0, 2.0]]), atol=1e-3)

    def test_images_far_from_the_origin_keep_their_precision(self, trained):
        far = np.array([3e6, -5e6])
        plain = scene_pair(unit_grid(32))
        moved = [image.replace(grid=image.grid.translated(far)) for image in (plain.fixed, plain.moving)]
        points = plain.points()
        here = trained.predict(plain.fixed, plain.moving, device="cpu").map_points(points)
        there = trained.predict(*moved, device="cpu").map_points(points + far)
        assert np.allclose(there - far, here, atol=1e-2)

    def test_images_that_do_not_overlap_are_centered_on_each_other(self, trained):
        plain = scene_pair(unit_grid(32))
        away = plain.moving.replace(grid=plain.moving.grid.translated([500.0, 0.0]))
        warnings = []
        found = trained.predict(plain.fixed, away, device="cpu", warnings=warnings)
        here = trained.predict(plain.fixed, plain.moving, device="cpu")
        assert np.allclose(found.map_points([[0.0, 0.0]]) - [[500.0, 0.0]], here.map_points([[0.0, 0.0]]), atol=1e-3)
        assert "their centers were aligned" in warnings[0]

    def test_initial_transform_is_applied_first(self, trained):
        plain = scene_pair(unit_grid(32))
        here = trained.predict(plain.fixed, plain.moving, device="cpu")
        away = plain.moving.replace(grid=plain.moving.grid.translated([30.0, -20.0]))
        start = AffineTransform([[1.0, 0.0, 30.0], [0.0, 1.0, -20.0], [0.0, 0.0, 1.0]], "mm")
        found = trained.predict(plain.fixed, away, device="cpu", start_transform=start)
        points = plain.points()
        assert np.allclose(found.map_points(points), here.map_points(points) + [30.0, -20.0], atol=1e-3)

    def test_odd_sizes_are_padded_and_given_back(self, shaken):
        for size in ((33, 47), (17, 90), (5, 6)):
            where = Grid.from_spacing(size, SIDE / 32, unit="mm")
            rng = np.random.default_rng(0)
            fixed, moving = (Image(rng.random(size), where, name=n) for n in "ab")
            result = shaken(fixed, moving, device="cpu")
            assert result.warped.data.shape == size
            assert result.grid == where

    def test_pixels_have_no_size_where_whole_images_are_seen(self):
        data = DrawnPairs(48, 8, kind="shift")
        model = sr.train(data, network="affine", family="translation", epochs=1, device="cpu")
        assert model.input_spec.size_mode == "extent"
        lattice = model.input_spec.lattice(Grid.from_spacing((100, 300)))
        assert max(lattice.shape) == 32
        assert np.allclose(lattice.spacing, 300 / 32)

    def test_wrong_axes_channels_and_values_are_refused(self, trained):
        plain = scene_pair(unit_grid(32))
        volume = Image(np.random.default_rng(0).random((8, 8, 8)), Grid.from_spacing((8, 8, 8), unit="mm"), name="v")
        with pytest.raises(InputError, match=r"trained on 2D images. 'v' is 3D"):
            trained.predict(volume, volume)
        with pytest.raises(InputError, match="2D"):
            trained(volume, volume.replace(data=volume.data + 1), device="cpu")
        constant = plain.fixed.replace(data=np.ones((32, 32)), name="flat")
        input_spec = InputSpec(2, 1, (32, 32), (1.0, 1.0))
        with pytest.raises(InputError, match="'flat' is constant"):
            Model(trained.network, input_spec).predict(constant, plain.moving, device="cpu")


class TestResult:
    def test_a_pass_gives_what_register_gives_and_samples_the_original_once(self, trained):
        one = scene_pair(unit_grid(64), unit_grid(50))
        result = trained(one.fixed, one.moving, device="cpu")
        assert isinstance(result, sr.Result)
        assert np.array_equal(result.warped.data, sr.warp(one.moving, result.transform, one.fixed.grid, fill=None).data)
        assert result.scores["after"]["ncc"] > result.scores["before"]["ncc"] + 0.2
        assert (result.settings.family, result.settings.model) == ("translation", "affine")
        assert result.report()["settings"]["refine"] == 0

    def test_refinement_is_more_accurate_than_one_pass(self, trained):
        one = scene_pair(unit_grid(64))
        passed = trained(one.fixed, one.moving, device="cpu")
        refined = trained(one.fixed, one.moving, refine=40, device="cpu")
        assert one.error(refined.transform) < 0.1 < one.error(passed.transform)
        assert len(refined.losses) <= 44

    def test_model_repr_is_one_line(self, trained):
        assert repr(trained).startswith(f"<Model {trained.name!r}: network affine, axes 2D")
        assert len(repr(trained)) < 300

    def test_the_same_by_name_and_by_the_face(self, trained, tmp_path):
        path = sr.save(trained, tmp_path / "known.safetensors")
        one = scene_pair(unit_grid(32))
        by_model = trained(one.fixed, one.moving, device="cpu").transform
        by_path = sr.register(one.fixed, one.moving, model=path, device="cpu").transform
        by_setting = sr.register(one.fixed, one.moving, model=str(path), refine=0, device="cpu").transform
        points = one.points()
        assert np.array_equal(by_model.map_points(points), by_path.map_points(points))
        assert np.array_equal(by_model.map_points(points), by_setting.map_points(points))

    def test_stop_after_the_prediction_keeps_it(self, trained):
        one = scene_pair(unit_grid(32))
        steps = sr.register_steps(one.fixed, one.moving, model=trained, refine=500, device="cpu")
        first = next(steps)
        assert first.total == 501
        with pytest.raises(StopIteration) as end:
            steps.send("stop")
        assert end.value.value.stop_reason == "stopped"
        assert np.allclose(end.value.value.transform.as_matrix(), first.preview().as_matrix())

    def test_inputs_are_never_changed(self, shaken):
        one = scene_pair(unit_grid(32))
        before = one.fixed.data.copy(), one.moving.data.copy()
        shaken(one.fixed, one.moving, refine=3, device="cpu")
        assert np.array_equal(one.fixed.data, before[0])
        assert np.array_equal(one.moving.data, before[1])


class TestFeatures:
    def test_auto_encoder_can_be_chosen_as_similarity(self, tmp_path):
        coder = sr.train(DrawnPairs(32, 6, kind="bent", scenes=6), network="auto-encoder", epochs=6, device="cpu")
        path = str(sr.save(coder, tmp_path / "coder.safetensors"))
        one = scene_pair(grid(48, 2))
        for family in ("affine", "affine+diffeomorphic"):
            result = sr.register(one.fixed, one.moving, family=family, similarity=path, device="cpu")
            assert one.error(result.transform) < (0.5 if family == "affine" else 1.0)
        seen = sr.train(DrawnPairs(24, 6), network="affine", similarity=path, epochs=2, device="cpu")
        assert np.isfinite(seen.summary["best"]["validation_loss"])
        volume = Image(np.random.default_rng(0).random((16, 16, 16)), Grid.from_spacing((16, 16, 16)), name="v")
        with pytest.raises(InputError, match="learned from 2D images"):
            sr.register(volume, volume.replace(data=volume.data**2), similarity=path, start="none", device="cpu")

    def test_another_model_is_no_similarity(self, trained, tmp_path):
        path = str(sr.save(trained, tmp_path / "other.safetensors"))
        one = scene_pair(unit_grid(32))
        with pytest.raises(InputError, match="is not an auto-encoder"):
            sr.register(one.fixed, one.moving, similarity=path)


class TestFile:
    @pytest.fixture
    def good(self, shaken, tmp_path):
        return sr.save(shaken, tmp_path / "good.safetensors")

    def rewritten(self, path, change):
        with safe_open(path, framework="pt") as stream:
            header = json.loads(stream.metadata()["napari-stnreg"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        change(header, tensors)
        target = path.with_name("changed.safetensors")
        save_file(tensors, target, metadata={"napari-stnreg": json.dumps(header)})
        return target

    def test_values_read_are_exactly_those_written(self, good, shaken):
        again = sr.load(good)
        assert again.input_spec == shaken.input_spec
        one = scene_pair(unit_grid(32))
        a, b = (m.predict(one.fixed, one.moving, device="cpu").map_points(one.points()) for m in (again, shaken))
        assert np.array_equal(a, b)

    def test_weights_saved_in_half_precision_are_loaded_as_float32(self, good, shaken):
        half = save_model(shaken, good.with_name("half.safetensors"), dtype=torch.float16)
        assert half.stat().st_size < 0.7 * good.stat().st_size
        again = sr.load(half)
        for one, other in zip(again.network.parameters(), shaken.network.parameters(), strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize(
        "change",
        [
            lambda h, t: t.pop("flow.weight"),
            lambda h, t: t.update(extra=torch.zeros(3)),
            lambda h, t: t.update({"flow.bias": t["flow.bias"].repeat(2)}),
            lambda h, t: t.update({"flow.bias": torch.full_like(t["flow.bias"], float("nan"))}),
            lambda h, t: h["network"].update(ndim=3),
            lambda h, t: h["input_spec"].update(ndim=3),
            lambda h, t: h["input_spec"].update(spacing=[0.0, 1.0]),
            lambda h, t: h["network"].update(name="__import__('os')"),
            lambda h, t: h["network"].update(encoder=[10**9] * 4),
            lambda h, t: h["network"].update(encoder="all"),
            lambda h, t: h.pop("network"),
        ],
    )
    def test_a_file_that_contradicts_itself_is_refused(self, good, change):
        with pytest.raises(InputError, match=r"^'changed.safetensors' is damaged.*\.$"):
            sr.load(self.rewritten(good, change))

    def test_other_files_are_refused_each_with_a_sentence(self, good, tmp_path):
        short = tmp_path / "short.safetensors"
        short.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
        with pytest.raises(InputError, match="cut short"):
            sr.load(short)
        newer = self.rewritten(good, lambda h, t: h.update(version=2))
        with pytest.raises(InputError, match="newer napari-stnreg"):
            sr.load(newer)
        foreign = tmp_path / "foreign.safetensors"
        save_file({"weight": torch.zeros(2)}, foreign)
        with pytest.raises(InputError, match="no transform or model"):
            sr.load(foreign)
        with pytest.raises(InputError, match=r"cannot be read"):
            sr.load(tmp_path / "missing.safetensors")
        with pytest.raises(InputError, match="There is no model 'box-9d'"):
            sr.load("box-9d")
        one = scene_pair(unit_grid(32))
        transform = sr.save(
            sr.register(one.fixed, one.moving, family="translation", device="cpu"), tmp_path / "t.safetensors"
        )
        with pytest.raises(InputError, match="holds a transform, not a model"):
            sr.register(one.fixed, one.moving, model=transform)
        with pytest.raises(InputError, match="holds a model, not a transform"):
            container.expect(container.read(good)[0], "napari-stnreg transform", 1, good)

    def test_pickle_is_refused_and_not_executed(self, tmp_path):
        touched = tmp_path / "touched"

        class Bomb:
            def __reduce__(self):
                return (open, (str(touched), "w"))

        path = tmp_path / "bomb.safetensors"
        for content in (pickle.dumps(Bomb()), None):
            if content is None:
                torch.save({"x": Bomb()}, path)
            else:
                path.write_bytes(content)
            with pytest.raises(InputError, match="pickle or an archive"):
                sr.load(path)
            with pytest.raises(InputError, match="pickle or an archive"):
                sr.register(*[scene_pair(unit_grid(16)).fixed] * 2, model=path)
        assert not touched.exists()

    def test_a_model_is_written_whole_or_not_at_all(self, good, shaken, monkeypatch):
        before = good.read_bytes()

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(InputError, match="No space left"):
            sr.save(shaken, good)
        assert good.read_bytes() == before
        assert [p.name for p in good.parent.iterdir()] == ["good.safetensors"]


class TestLattice:
    def test_voxels_that_fit_are_not_interpolated(self):
        rng = np.random.default_rng(0)
        input_spec = InputSpec(3, 1, (20, 20, 20), (2.0, 2.0, 2.0), "mm")
        data = rng.random((9, 7, 8)).astype(np.float32)
        for linear in (np.diag([2.0, 2, 2]), np.diag([-2.0, 2, 2]), 2.0 * np.eye(3)[[2, 0, 1]]):
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = linear, [5.0, -3, 8]
            where = Grid((9, 7, 8), matrix, "mm")
            lattice = input_spec.lattice(where)
            seen = resample_to_lattice(data[None], where, lattice)[0, 0].numpy()
            assert sorted(seen.ravel()) == sorted(data.ravel())
            index = where.to_index(lattice.points()).round().astype(int)
            assert np.array_equal(seen, data[tuple(np.moveaxis(index, -1, 0))])

    def test_fine_images_are_smoothed_before_they_are_thinned(self):
        stripes = np.zeros((64, 64), np.float32)
        stripes[:, ::2] = 1
        input_spec = InputSpec(2, 1, (16, 16), (4.3, 4.3), "mm")
        where = Grid.from_spacing((64, 64), unit="mm")
        seen = resample_to_lattice(stripes[None], where, input_spec.lattice(where))[0, 0]
        assert float((seen[2:-2, 2:-2] - 0.5).abs().max()) < 0.05
