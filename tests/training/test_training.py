"""Training on small drawn data with known truth: every network learns, and it can be broken off at any moment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import napari_stnreg as sr
from napari_stnreg.core.errors import FitError, InputError, RegistrationWarning
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.progress import run_to_completion
from napari_stnreg.networks import new_network, warp_batch
from napari_stnreg.training.augmentation.spatial import SpatialAugmentation
from napari_stnreg.training.data.datasets import open_training_data
from napari_stnreg.training.data.paired_images import Augmentation
from napari_stnreg.training.loss import mean_dice, transform_distance
from napari_stnreg.training.memory import step_bytes
from napari_stnreg.training.summary import data_warnings
from napari_stnreg.training.synthetic.shapes import GeneratedShapes
from napari_stnreg.transforms import AffineTransform
from tests.helpers.drawn_pairs import DrawnPairs

QUICK = {"device": "cpu", "batch_size": 12, "learning_rate": 2e-3}


def curve(model):
    return [(one["loss"], one["validation_loss"]) for one in model.summary["curve"]]


def same_weights(one, other):
    a, b = one.network.state_dict(), other.network.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def finished(steps, meanwhile=lambda: None):
    """Run a training to its end and return the model."""
    return run_to_completion(steps, lambda _: meanwhile())


class TestLearning:
    """Each network is tested on pairs it was not trained on; training is unsupervised unless stated."""

    def test_a_translation_network_learns_shifts_by_correlation(self):
        data = DrawnPairs(60, 12, kind="shift")
        model = sr.train(data, network="affine", family="translation", similarity="ncc", epochs=30, **QUICK)
        assert data.error(model) < 0.6  # voxels; the shifts are up to 4

    def test_an_affine_network_learns_from_known_transforms(self):
        data = DrawnPairs(160, 16, kind="affine", truth=True)
        options = {**QUICK, "similarity_weight": 0.0, "truth_weight": 1.0}
        model = sr.train(data, network="affine", epochs=40, **options)
        assert data.error(model) < 0.8
        assert model.summary["best"]["scores"]["error"] < 5.0  # at the corners, in world units of 100

    def test_matching_network_learns_rotations_of_unseen_scenes(self):
        data = DrawnPairs(96, 16, kind="affine", truth=True, scenes=200)  # every pair has a scene of its own
        options = {**QUICK, "similarity_weight": 0.0, "truth_weight": 1.0}
        matching = {"features": [16, 32], "depth": 2}
        model = sr.train(data, network="matching", network_options=matching, epochs=15, **options)
        regressed = sr.train(data, network="affine", epochs=15, **options)
        assert data.error(model) < 0.75 * data.error(regressed)

    def test_known_transforms_and_correlation_can_be_mixed(self):
        data = DrawnPairs(96, 12, kind="shift", truth=True)
        model = sr.train(data, network="affine", family="rigid", truth_weight=0.5, epochs=20, **QUICK)
        assert data.error(model) < 0.8

    @pytest.mark.parametrize(
        ("network", "options"),
        [
            ("tps", {"network_options": {"points": 4}, "similarity": "ncc", "diffusion": 0.005}),
            ("dirnet", {"network_options": {"spacing": 4, "features": 16}, "similarity": "mse", "batch_size": 6}),
            ("voxelmorph", {"similarity": "mse", "diffusion": 0.001, "network_options": {"resolution": "half"}}),
            ("voxelmorph", {"similarity": "lncc", "family": "displacement", "diffusion": 0.02}),
        ],
    )
    def test_a_deformable_network_learns_bending(self, network, options):
        data = DrawnPairs(72, 8, kind="bent")
        identity = sr.train(data, network=network, epochs=1, **{**QUICK, "learning_rate": 1e-12})
        model = sr.train(data, network=network, epochs=30, **{**QUICK, **options})
        assert data.error(model) < 0.7 * data.error(identity)

    @pytest.mark.parametrize("strategy", ["joint", "sequential"])
    def test_affine_then_deformable_learns_in_one_model(self, strategy):
        data = DrawnPairs(60, 8, kind="affine")
        model = sr.train(
            data, network="affine+voxelmorph", strategy=strategy, similarity="ncc", diffusion=0.05, epochs=24,
            network_options={"voxelmorph": {"resolution": "half"}}, **QUICK
        )  # fmt: skip
        assert data.error(model) < 1.2
        assert model.family == "affine+velocity"

    def test_labels_alone_can_teach(self):
        data = DrawnPairs(60, 8, kind="shift", labels=True)
        options = {**QUICK, "similarity_weight": 0.0, "label_weight": 1.0}
        model = sr.train(data, network="affine", family="translation", epochs=25, **options)
        first, last = model.summary["curve"][0]["scores"]["dice"], model.summary["best"]["scores"]["dice"]
        assert last > first + 0.2
        assert data.error(model) < 0.8

    def test_volumes_are_learned_too(self):
        data = DrawnPairs(40, 6, size=16, ndim=3, kind="shift", truth=True)
        model = sr.train(data, network="affine", family="translation", truth_weight=1.0, epochs=20, **QUICK)
        assert data.error(model) < 0.7

    def test_an_auto_encoder_learns_to_draw_its_images(self):
        data = DrawnPairs(48, 8, kind="bent", scenes=8)
        model = sr.train(data, network="auto-encoder", epochs=25, **QUICK)
        variance = float(data.fixed.var())
        assert model.summary["best"]["validation_loss"] < 0.25 * variance
        assert not model.registers
        with pytest.raises(InputError, match="is an auto-encoder"):
            model(sr.Image.from_array(np.zeros((32, 32))), sr.Image.from_array(np.ones((32, 32))))


class TestRepeating:
    def test_the_same_seed_gives_the_same_weights_to_the_last_bit(self):
        runs = [
            sr.train(DrawnPairs(24, 6), network="dirnet", similarity="ncc", epochs=2, seed=seed, **QUICK)
            for seed in (3, 3, 4)
        ]
        assert same_weights(runs[0], runs[1])
        assert curve(runs[0]) == curve(runs[1])
        assert not same_weights(runs[0], runs[2])

    def test_a_training_leaves_the_callers_random_numbers_alone(self):
        torch.manual_seed(5)
        wanted = torch.rand(4)
        torch.manual_seed(5)
        for _ in sr.train_steps(DrawnPairs(12, 4), network="affine", epochs=1, **QUICK):
            torch.rand(2)
            torch.manual_seed(5)
        assert torch.equal(torch.rand(4), wanted)

    def test_other_random_draws_do_not_affect_the_result(self):
        plain = sr.train(DrawnPairs(24, 6, labels=True), network="affine", label_weight=1.0, epochs=2, **QUICK)
        steps = sr.train_steps(DrawnPairs(24, 6, labels=True), network="affine", label_weight=1.0, epochs=2, **QUICK)
        beside = sr.train(DrawnPairs(24, 6), network="affine", epochs=1, **QUICK)
        assert same_weights(finished(steps, meanwhile=lambda: torch.rand(3)), plain)
        assert not same_weights(beside, plain)

    def test_accumulated_batches_equal_one_large_batch(self):
        options = {**QUICK, "network": "affine", "epochs": 2, "gradient_clip": 0.0, "similarity": "mse"}
        options |= {"warmup": 0.0}
        whole = sr.train(DrawnPairs(24, 4), **{**options, "batch_size": 10})
        parts = sr.train(DrawnPairs(24, 4), **{**options, "batch_size": 5, "gradient_accumulation": 2})
        each = sr.train(DrawnPairs(24, 4), **{**options, "batch_size": 5})
        # Adam's first steps go by the sign of gradients, and the smallest of them differ by rounding
        losses = [curve(model)[1][1] for model in (whole, parts, each)]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
        assert losses[2] != pytest.approx(losses[0], rel=0.2)


class TestResuming:
    def test_stopped_training_resumes_bit_identically(self, tmp_path):
        options = {**QUICK, "network": "voxelmorph", "label_weight": 0.5, "epochs": 4}
        whole = sr.train(DrawnPairs(24, 6, labels=True), **options)
        steps = sr.train_steps(DrawnPairs(24, 6, labels=True), output=tmp_path / "m.safetensors", **options)
        for step in steps:  # break off in the middle of the third epoch, without a word
            if step.epoch == 2 and step.state == "running":
                steps.close()
        assert (tmp_path / "m.checkpoint.safetensors").exists()
        assert not (tmp_path / "m.safetensors").exists()
        seen = []
        again = sr.train(
            DrawnPairs(24, 6, labels=True), output=tmp_path / "m.safetensors", resume=True, progress=seen.append,
            **options,
        )  # fmt: skip
        assert seen[0].epoch == 2
        assert curve(again) == curve(whole)
        assert same_weights(again, whole)
        assert same_weights(sr.load(tmp_path / "m.safetensors"), whole)
        assert np.array_equal(again.replay, whole.replay)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_a_killed_process_can_be_resumed_with_the_same_curve(self, tmp_path):
        output = tmp_path / "killed.safetensors"
        script = textwrap.dedent(f"""
            import sys, torch
            sys.path.insert(0, {str(Path(__file__).parents[2])!r})
            torch.set_num_threads(1)
            import napari_stnreg as sr
            from tests.helpers.drawn_pairs import DrawnPairs
            options = dict(network="affine+voxelmorph", strategy="sequential", epochs=5, device="cpu", batch_size=6,
                           network_options={{"voxelmorph": {{"resolution": "half"}}}})
            for step in sr.train_steps(DrawnPairs(24, 6), output={str(output)!r}, resume=True, **options):
                print(step.state, step.epoch, flush=True)
        """)

        def start():
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)

        # Killed while it writes, or steps, or validates: wherever it happens to be some time after an epoch's end.
        for wait, epoch in ((0.0, 1), (0.02, 3)):
            process = start()
            for line in process.stdout:
                if line.split() == ["validated", str(epoch)]:
                    time.sleep(wait)
                    process.send_signal(signal.SIGKILL)
                    break
            process.stdout.close()
            assert process.wait() == -signal.SIGKILL
            assert not output.exists()
        process = start()
        seen = [line.split() for line in process.stdout]
        process.stdout.close()
        assert process.wait() == 0
        assert int(seen[0][1]) >= 3
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            whole = sr.train(
                DrawnPairs(24, 6), network="affine+voxelmorph", strategy="sequential", epochs=5, device="cpu",
                batch_size=6, network_options={"voxelmorph": {"resolution": "half"}},
            )  # fmt: skip
        finally:
            torch.set_num_threads(threads)
        resumed = sr.load(output)
        assert curve(resumed) == curve(whole)
        assert same_weights(resumed, whole)

    def test_a_checkpoint_of_another_training_is_not_taken_up(self, tmp_path):
        output = tmp_path / "m.safetensors"
        sr.train(DrawnPairs(12, 4), output=output, network="affine", epochs=1, **QUICK)
        with pytest.raises(InputError, match=r"another training: its family was None, now it is rigid"):
            sr.train(DrawnPairs(12, 4), output=output, resume=True, network="affine", family="rigid", epochs=1, **QUICK)
        with pytest.raises(InputError, match="another training: its pairs"):
            sr.train(DrawnPairs(16, 4), output=output, resume=True, network="affine", epochs=1, **QUICK)
        checkpoint = tmp_path / "m.checkpoint.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
        with pytest.raises(InputError, match="cut short"):
            sr.train(DrawnPairs(12, 4), output=output, resume=True, network="affine", epochs=1, **QUICK)

    def test_resume_without_a_checkpoint_starts_again(self, tmp_path):
        model = sr.train(DrawnPairs(12, 4), output=tmp_path / "m.safetensors", resume=True, network="affine",
                         epochs=1, **QUICK)  # fmt: skip
        assert model.summary["epochs"] == 1


@pytest.fixture(scope="module")
def learned():
    """Knows something of shifts."""
    return sr.train(DrawnPairs(48, 12), network="affine", family="translation", similarity="ncc", epochs=3, **QUICK)


class TestStart:
    """Learning on from a model."""

    def test_training_starts_from_a_model(self, learned):
        data = DrawnPairs(48, 12)
        before = {name: t.clone() for name, t in learned.network.state_dict().items()}
        model = sr.train(data, warm_start=learned, similarity="ncc", epochs=6, **QUICK)
        (first, *_) = model.summary["curve"]
        assert first["validation_loss"] == learned.summary["best"]["validation_loss"]
        assert model.summary["settings"]["network"] == "affine"
        assert model.network.config() == learned.network.config()
        assert not same_weights(model, learned)
        assert all(torch.equal(t, before[name]) for name, t in learned.network.state_dict().items())

    def test_model_file_in_settings_is_not_needed_to_resume(self, learned, tmp_path):
        data = DrawnPairs(48, 12)
        file, output = tmp_path / "learned.safetensors", tmp_path / "more.safetensors"
        learned.save(file)
        options = {"warm_start": str(file), "similarity": "ncc", "epochs": 3, **QUICK}
        whole = sr.train(data, **options)
        steps = sr.train_steps(data, output=output, **options)
        next(one for one in steps if one.epoch == 1 and one.state == "running")
        steps.close()
        assert same_weights(sr.train(data, output=output, resume=True, **options), whole)
        assert whole.summary["settings"]["warm_start"] == "learned"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"network": "dirnet"}, "is the network 'affine', not 'dirnet'"),
            ({"family": "affine"}, "has no family 'affine'"),
            ({"network_options": {"hidden": 7}}, "other sizes than the network options"),
        ],
    )
    def test_settings_for_another_network_are_refused(self, learned, options, words):
        with pytest.raises(InputError, match=words):
            sr.train(DrawnPairs(12, 4), warm_start=learned, epochs=1, **options)

    def test_a_model_for_other_images_is_refused(self, learned):
        with pytest.raises(InputError, match=r"is for 2D images of one channel. The training data are 3D"):
            sr.train(DrawnPairs(4, 2, size=16, ndim=3), warm_start=learned, epochs=1)
        with pytest.raises(InputError, match="lengths in pixel, the training data in mm"):
            sr.train(DrawnPairs(12, 4, unit="mm"), warm_start=learned, epochs=1)


class TestMemory:
    def test_training_exceeding_memory_is_refused_before_the_start(self, monkeypatch):
        monkeypatch.setattr("napari_stnreg.training.memory.free_memory", lambda device: 2**20)
        with pytest.raises(
            sr.OutOfMemoryError, match=r"needs about .* only 1.00 MiB are free. Use a batch size of [1-9]"
        ):
            sr.train(DrawnPairs(12, 4), network="affine", epochs=1, **{**QUICK, "batch_size": 64})
        with pytest.raises(sr.OutOfMemoryError, match="smaller images"):
            sr.train(DrawnPairs(4, 2, size=32, ndim=3), network="voxelmorph", epochs=1, batch_size=1, device="cpu")

    def test_step_memory_grows_with_batch_and_lattice_without_allocation(self):
        network = new_network("voxelmorph", 3, 1, (64, 64, 64))
        few, more, large = (
            step_bytes(network, Grid.from_spacing((size,) * 3), 1, batch)
            for size, batch in ((64, 1), (64, 3), (2048, 1))
        )
        assert more == pytest.approx(3 * few, rel=0.01)
        assert large == pytest.approx(32**3 * few, rel=0.01)
        assert step_bytes(network, Grid.from_spacing((64,) * 3), 1, 1, half=True) < 0.7 * few

    def test_memory_estimate_is_close_to_a_measured_step(self):
        network = new_network("voxelmorph", 3, 1, (96, 96, 96))
        expected = step_bytes(network, Grid.from_spacing((96,) * 3), 1, 1)
        assert 970 * 96**3 < expected < 1.2 * 970 * 96**3


class TestTalking:
    def test_progress_has_epoch_losses_and_scores(self):
        seen = []
        model = sr.train(DrawnPairs(24, 4), network="affine", epochs=3, progress=seen.append, **QUICK)
        assert [p.state for p in seen] == ["validated", *["running", "running", "validated"] * 3]
        assert [p.step for p in seen] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]
        assert {p.steps for p in seen} == {6}
        assert seen[0].seconds_left is None
        assert seen[-1].seconds_left == 0
        assert seen[5].seconds_left > 0
        assert len(seen[-1].curve) == 4
        assert [p.example.epoch for p in seen if p.state == "validated"] == [0, 1, 2, 3]
        assert np.allclose(seen[0].example.warped, seen[0].example.moving, atol=1e-5)
        assert not np.allclose(seen[-1].example.warped, seen[-1].example.moving, atol=1e-3)
        assert model.replay.shape == (4, 32, 32)
        assert model.summary["replay_epochs"] == [0, 1, 2, 3]
        assert np.allclose(model.replay[-1], seen[-1].example.warped, atol=1e-3)

    def test_paused_training_waits_and_continues(self):
        plain = sr.train(DrawnPairs(24, 6), network="affine", epochs=2, **QUICK)
        steps = sr.train_steps(DrawnPairs(24, 6), network="affine", epochs=2, **QUICK)
        next(steps), next(steps)
        waiting = [steps.send("pause"), next(steps), next(steps)]
        assert [p.state for p in waiting] == ["paused"] * 3
        assert len({p.step for p in waiting}) == 1
        assert steps.send("resume").state == "running"
        assert same_weights(finished(steps), plain)

    @pytest.mark.parametrize("first", ["next", "pause"])
    def test_stopping_keeps_the_best_so_far(self, first):
        steps = sr.train_steps(DrawnPairs(24, 6), network="affine", epochs=50, **QUICK)
        for step in steps:
            if step.epoch == 2 and step.state == "running":
                break
        if first == "pause":
            steps.send("pause")
        with pytest.raises(StopIteration) as end:
            steps.send("stop")
        model = end.value.value
        assert model.summary["stop_reason"] == "stopped"
        assert model.summary["epochs"] == 2
        best = min(one["validation_loss"] for one in model.summary["curve"])
        assert model.summary["best"]["validation_loss"] == best

    def test_the_best_weights_are_kept_and_not_the_last(self):
        data = DrawnPairs(24, 6)
        options = {**QUICK, "learning_rate": 0.3, "schedule": "constant", "warmup": 0.5}
        model = sr.train(data, network="affine", similarity="mse", epochs=8, **options)
        losses = [one["validation_loss"] for one in model.summary["curve"]]
        assert model.summary["best"]["epoch"] == int(np.argmin(losses))
        assert losses[-1] > min(losses)
        (batch,) = data.batches("validation", epoch=0, batch_size=6, seed=0)
        with torch.no_grad():
            transform = model.network.transform(batch.fixed, batch.moving, data.grid)
            now = (warp_batch(batch.moving, transform, data.grid) - batch.fixed).square().mean()
        assert float(now) == pytest.approx(min(losses), rel=1e-4)

    def test_patience_ends_a_training_that_gets_no_better(self):
        options = {**QUICK, "learning_rate": 1e-12}
        model = sr.train(DrawnPairs(12, 4), network="affine", epochs=50, patience=3, **options)
        assert model.summary["epochs"] <= 5

    def test_non_finite_values_end_the_run_with_a_message(self):
        data = DrawnPairs(12, 4)
        data.moving[3] = float("inf")
        with pytest.raises(FitError, match="non-finite"):
            sr.train(data, network="affine", similarity="mse", epochs=1, **QUICK)


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"network": "alexnet"}, "There is no network 'alexnet'"),
            ({"network": "voxelmorph", "family": "rigid"}, "has no family 'rigid'"),
            ({"network": "dirnet", "similarity": "sum"}, "no similarity 'sum'"),
            ({"epochs": 0}, "Setting 'epochs'"),
            ({"speed": 3}, "Setting 'speed'"),
            ({"label_weight": 1.0}, "have no labels"),
            ({"similarity_weight": 0.0}, "The loss is empty"),
            ({"network": "affine+voxelmorph", "strategy": "sequential", "epochs": 1}, "at least 2 epochs"),
            ({"device": "cuda:99"}, "was not found"),
        ],
    )
    def test_invalid_settings_are_refused(self, options, words):
        with pytest.raises(InputError, match=words):
            next(sr.train_steps(DrawnPairs(8, 2), **{"device": "cpu", **options}))

    def test_truth_weight_needs_known_transforms(self):
        with pytest.raises(InputError, match="neither labels nor known transforms"):
            sr.train(DrawnPairs(8, 2), network="affine", similarity_weight=0.0, truth_weight=1.0, epochs=1, **QUICK)

    def test_the_learning_rate_rises_and_falls(self):
        from napari_stnreg.training.trainer import Trainer

        options = {"epochs": 10, "batch_size": 5, "learning_rate": 1e-2, "device": "cpu", "network": "affine"}
        trainer = Trainer(
            DrawnPairs(24, 4), sr.TrainingSettings(**options, schedule="cosine", warmup=0.2), None, resume=False
        )
        rates = [trainer.learning_rate(e, s) for e in range(10) for s in range(4)]
        top = int(np.argmax(rates))
        assert 6 <= top <= 9
        assert all(np.diff(rates[: top + 1]) > 0)
        assert all(np.diff(rates[top:]) < 0)
        assert rates[-1] < 0.05 * 1e-2
        flat = Trainer(DrawnPairs(24, 4), sr.TrainingSettings(**options, schedule="constant", warmup=0.0), None,
                       resume=False)  # fmt: skip
        assert {flat.learning_rate(e, s) for e in range(10) for s in range(4)} == {1e-2}


def test_distance_of_transforms_is_measured_in_the_world():
    data = DrawnPairs(4, 1)
    shift = torch.eye(3)[None].clone()
    shift[0, :2, 2] = torch.tensor([3.0, 4.0])
    here = AffineTransform(torch.eye(3)[None])
    assert float(transform_distance(here, AffineTransform(shift), data.grid)) == pytest.approx(5.0, rel=1e-5)
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    # corners at (+-50, +-50) go a quarter round: a chord of 100
    assert float(transform_distance(here, AffineTransform(turn), data.grid)) == pytest.approx(100.0, rel=1e-5)


def test_batch_dice_averages_present_labels():
    fixed = torch.tensor([[[[1, 1, 0, 2]]], [[[0, 0, 0, 1]]]])
    moved = torch.tensor([[[[1, 0, 0, 2]]], [[[0, 0, 1, 1]]]])
    assert mean_dice(fixed, moved, (1, 2)) == pytest.approx(((2 / 3 + 1) / 2 + 2 / 3) / 2)


class TestFewSubjects:
    def images(self, count):
        rng = np.random.default_rng(0)
        return [gaussian_filter(rng.random((16, 16)), 2).astype(np.float32) for _ in range(count)]

    def test_few_subjects_are_announced_before_the_training(self):
        steps = sr.train_steps(self.images(6), network="voxelmorph", epochs=1, device="cpu")
        first = next(steps)
        steps.close()
        assert re.match(r"6 subjects are few for the [\d,]+ weights of voxelmorph, .* add images", first.warnings[0])

    @pytest.mark.parametrize(("count", "few"), [(19, True), (20, False)])
    def test_number_of_subjects_decides(self, count, few):
        data = open_training_data(self.images(count))
        assert bool(data_warnings(data, new_network("voxelmorph", 2, 1, (16, 16)))) == few
        assert "--known-transforms" in data_warnings(data, new_network("affine", 2, 1, (16, 16)))[0]

    def test_known_transforms_need_no_further_subjects(self):
        moved = Augmentation(independent=SpatialAugmentation(rotation=20))
        data = open_training_data(self.images(4), augmentation=moved, same_image=True, pairs=24)
        assert data.count("train") >= 24, "few images are drawn several times in an epoch"
        assert not data_warnings(data, new_network("affine", 2, 1, (16, 16)))

    def test_python_warns_and_the_model_remembers(self):
        with pytest.warns(RegistrationWarning, match="are few for"):
            model = sr.train(self.images(4), network="voxelmorph", epochs=1, device="cpu", snapshots=0)
        assert len(model.summary["warnings"]) in (1, 2)
        start = sr.train_steps(self.images(4), warm_start=model, epochs=1, device="cpu")
        assert not next(start).warnings, "what continues a trained model has seen other images"
        start.close()
        assert not data_warnings(GeneratedShapes(sr.Grid.from_spacing((16, 16))), model.network)
