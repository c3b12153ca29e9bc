"""A run: the same every time, stopped, watched, closed, and never losing the best so far."""

import gc
import hashlib
import weakref

import numpy as np
import pytest
import torch

import napari_stnreg as sr
from napari_stnreg.losses import make_similarity
from napari_stnreg.registration import api, stages
from napari_stnreg.transforms import AffineTransform
from tests.helpers.scenes import FAST, bent_map, bent_pair, grid, pair, registered


def finish(steps):
    """Return the result of a generator that is asked to stop."""
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    return end.value.value


def digest(image):
    return hashlib.sha256(image.data.tobytes() + (b"" if image.mask is None else image.mask.tobytes())).hexdigest()


@pytest.mark.parametrize(("ndim", "size"), [(2, 64), (3, 18)])
@pytest.mark.parametrize("similarity", ["lncc", "mi", "mind"])
def test_the_same_run_twice_is_the_same_to_the_bit(ndim, size, similarity):
    images = bent_pair(ndim, size)
    before = digest(images.fixed), digest(images.moving), torch.is_grad_enabled(), torch.get_num_threads()
    one = registered(images, similarity=similarity, iterations=8)
    np.random.default_rng().normal(size=10)
    torch.rand(5)
    two = registered(images, similarity=similarity, iterations=8)
    for name, tensor in one.transform.tensors().items():
        assert torch.equal(tensor, two.transform.tensors()[name])
    assert one.losses == two.losses
    assert np.array_equal(one.warped.data, two.warped.data)
    assert (digest(images.fixed), digest(images.moving), torch.is_grad_enabled(), torch.get_num_threads()) == before


def test_read_only_and_strided_arrays_are_as_good():
    images = bent_pair(size=48)
    plain = registered(images, iterations=4)
    frozen = np.asfortranarray(images.fixed.data)
    frozen.flags.writeable = False
    back = images.moving.data[::-1][::-1]
    other = sr.register(images.fixed.replace(data=frozen), images.moving.replace(data=back), iterations=4, **FAST)
    assert other.losses == plain.losses


def test_watching_does_not_change_torch_for_who_watches():
    images = bent_pair(size=32)
    threads = torch.get_num_threads()
    steps = sr.register_steps(images.fixed, images.moving, **FAST)
    for _ in range(4):
        next(steps)
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == threads
    steps.close()


FAMILIES = [
    "affine",
    "affine+bspline",
    "affine+tps",
    "affine+displacement",
    "affine+diffeomorphic",
    "affine+velocity",
    "affine+bspline+diffeomorphic",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_at_any_moment_keeps_the_best_so_far(family):
    images = bent_pair(size=48)
    before = images.error(AffineTransform.identity(2))
    total = sum(1 for _ in sr.register_steps(images.fixed, images.moving, family=family, iterations=5, **FAST))
    errors = []
    for count in {0, 1, 2, 3, total // 2, total - 2, total - 1}:
        steps = sr.register_steps(images.fixed, images.moving, family=family, iterations=5, **FAST)
        for _ in range(count + 1):
            progress = next(steps)
        assert 0 <= progress.fraction <= 1
        result = finish(steps)
        assert result.stop_reason == "stopped"
        assert images.error(result.transform) <= before + 1e-9
        assert result.scores["after"]["ncc"] >= result.scores["before"]["ncc"] - 1e-6
        errors.append((count, images.error(result.transform)))
    whole = images.error(registered(images, family=family, iterations=5).transform)
    assert max(errors)[1] < 1.3 * whole + 0.05  # stopped at the last step: the deformation is there


def test_stopping_returns_the_best_step_not_the_last(monkeypatch):
    images = bent_pair(size=48)
    calls = []

    class Worsening(type(make_similarity("ncc"))):
        """After ten looks every further one is worse than all before."""

        def __call__(self, warped, weight=None):
            calls.append(1)
            return super().__call__(warped, weight) + max(len(calls) - 10, 0)

    monkeypatch.setattr(stages, "deformable_similarity", lambda settings, ndim: Worsening())
    for family in ("displacement", "diffeomorphic", "velocity", "bspline", "tps"):
        calls.clear()
        steps = sr.register_steps(
            images.fixed, images.moving, family=family, levels=1, iterations=40, start="none", **FAST
        )
        previews = [next(steps) for _ in range(18)]
        best = min(range(18), key=lambda i: previews[i].loss)
        assert best < 12
        wanted = previews[best].preview().displacement(images.fixed.grid)
        found = finish(steps).transform.displacement(images.fixed.grid)
        # while it runs, the velocity fit integrates its velocity a little less exactly
        limit = 0.1 if family == "velocity" else 1e-4
        assert np.abs(found - wanted).mean() < limit, family


def test_closing_drops_everything():
    images = bent_pair(size=48)
    kept = []
    original = api.prepare

    def remember(*args, **options):
        made = original(*args, **options)
        kept.append(weakref.ref(made.pyramid))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "prepare", remember)
        steps = sr.register_steps(images.fixed, images.moving, **FAST)
        for _ in range(12):
            next(steps)
        steps.close()
        del steps
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("family", ["affine", "bspline", "tps", "displacement", "diffeomorphic", "velocity"])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_best_so_far(family, monkeypatch):
    images = pair(bent_map(2, height=3.0), grid(48, 2))
    calls = []

    class Breaking(type(make_similarity("ncc"))):
        def __call__(self, warped, weight=None):
            calls.append(1)
            loss = super().__call__(warped, weight)
            return loss * float("nan") if len(calls) > 12 else loss

    for name in ("deformable_similarity", "linear_similarity"):
        monkeypatch.setattr(stages, name, lambda *args: Breaking())
    result = registered(images, family=family, start="none", levels=1, iterations=50)
    assert result.stop_reason == "diverged"
    assert "non-finite" in " ".join(result.warnings)
    assert len(result.losses) < 20
    assert np.isfinite(result.transform.displacement(images.fixed.grid)).all()
    assert images.error(result.transform) < 0.95 * images.error(AffineTransform.identity(2))
