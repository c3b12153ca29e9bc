"""The whole call: masks, landmarks, colour, output, running again, stopping, determinism, memory and bad input."""

import gc
import hashlib
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import affine_map, bent_map, grid, pair

import napari_stnreg as sr
from napari_stnreg import registration
from napari_stnreg.errors import InputError, OutOfMemoryError
from napari_stnreg.fitting import problem, stages
from napari_stnreg.objectives import make_similarity
from napari_stnreg.settings import RegistrationSettings
from napari_stnreg.transforms import AffineTransform, ChainTransform

FAST = {"preset": "fast", "device": "cpu"}


def bent_pair(ndim=2, size=64, **options):
    truth = bent_map(ndim, height=3.0, linear=affine_map(ndim, degrees=5, shift=2.0))
    return pair(truth, grid(size, ndim), **options)


def run(images, **options):
    return sr.register(images.fixed, images.moving, **{**FAST, **options})


def finish(steps):
    """The result of a generator that is told to stop."""
    with pytest.raises(StopIteration) as end:
        steps.send("stop")
    return end.value.value


# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("family", ["affine", "affine+bspline", "affine+diffeomorphic"])
def test_what_lies_outside_the_masks_does_not_matter(family):
    images = bent_pair(size=64)
    points = np.linalg.norm(images.fixed.grid.points(), axis=-1)
    masks = points < 38, np.linalg.norm(images.moving.grid.points() - 2.0, axis=-1) < 38
    rng = np.random.default_rng(0)
    found = []
    for garbage in (None, "noise", "nan"):
        spoiled = []
        for image, mask in zip((images.fixed, images.moving), masks, strict=True):
            values = image.data.copy()
            if garbage == "noise":
                values[~mask] = rng.normal(100, 300, int((~mask).sum()))
            elif garbage == "nan":
                values[~mask] = np.nan
            spoiled.append(image.replace(data=values, mask=mask))
        found.append(sr.register(*spoiled, family=family, **FAST))
        assert images.error(found[-1].transform, 0.28) < {"affine": 2.5}.get(family, 0.6)
    for other in found[1:]:
        assert torch.equal(
            torch.as_tensor(other.transform.displacement(images.fixed.grid)),
            torch.as_tensor(found[0].transform.displacement(images.fixed.grid)),
        )
        assert other.scores["after"] == pytest.approx(found[0].scores["after"], rel=1e-5)


def test_a_mask_on_one_side_keeps_its_foreign_body_out():
    images = bent_pair(size=96)
    values = images.moving.data.copy()
    values[20:50, 55:80] = 4.0
    mask = np.ones(values.shape, bool)
    mask[18:52, 53:82] = False
    spoiled = images.moving.replace(data=values)
    plain = sr.register(images.fixed, spoiled, device="cpu")
    masked = sr.register(images.fixed, spoiled.replace(mask=mask), device="cpu")
    assert images.error(masked.transform) < 0.5 * images.error(plain.transform)
    assert images.error(masked.transform) < 0.7


# ------------------------------------------------------------------------------------------------ landmarks


def test_landmarks_start_it_off_and_pull_where_the_image_says_nothing():
    images = bent_pair(size=96)
    # a hole in both images: only the landmarks know what happens there
    hole = images.fixed.data.copy()
    hole[34:62, 34:62] = hole[34, 34]
    blind = images.fixed.replace(data=hole)
    rng = np.random.default_rng(0)
    fixed_points = rng.uniform(-14, 14, (12, 2))
    moving_points = images.truth(fixed_points)

    def missed(**options):
        result = sr.register(blind, images.moving, **{**FAST, **options})
        return np.linalg.norm(result.transform.map_points(fixed_points) - moving_points, axis=1).mean(), result

    plain, _ = missed()
    for family in ("affine+diffeomorphic", "affine+displacement", "affine+bspline", "affine+tps"):
        with_landmarks, result = missed(family=family, fixed_landmarks=fixed_points, moving_landmarks=moving_points)
        assert with_landmarks < min(0.8 * plain, 0.8)
        assert result.scores["after"]["landmark_mean"] < result.scores["before"]["landmark_mean"]
        assert result.folded_share == 0
    without_pull, _ = missed(fixed_landmarks=fixed_points, moving_landmarks=moving_points, landmark_weight=0.0)
    assert with_landmarks < without_pull


def test_landmarks_hold_through_a_chain_and_a_start():
    images = bent_pair(size=64)
    points = np.random.default_rng(0).uniform(-20, 20, (15, 2))
    options = {"fixed_landmarks": points, "moving_landmarks": images.truth(points)}
    first = run(images, family="affine+bspline+diffeomorphic", **options)
    assert images.error(first.transform) < 0.5
    again = run(images, start_transform=first.transform, family="diffeomorphic", **options)
    assert again.scores["after"]["landmark_mean"] < 0.6


def test_landmarks_of_another_unit():
    images = pair(affine_map(2, degrees=60, shift=9.0), grid(64, 2, unit="um"))
    points = np.random.default_rng(0).uniform(-25, 25, (6, 2))
    nano = images.moving.with_unit("nm")
    result = sr.register(
        images.fixed,
        nano,
        family="affine",
        fixed_landmarks=points,
        moving_landmarks=images.truth(points) * 1000,
        **FAST,
    )
    assert images.error(result.transform) < 0.3
    assert result.scores["after"]["landmark_mean"] < 0.5
    assert result.scores["before"]["landmark_mean"] > 10


@pytest.mark.parametrize(
    ("fixed", "moving", "sentence"),
    [
        (
            np.zeros((3, 2)),
            np.zeros((2, 2)),
            "There are 3 landmarks on the fixed and 2 on the moving image; they are pa",
        ),
        (np.zeros((3, 2)), None, "needed on both images"),
        (np.zeros((3, 3)), np.zeros((3, 3)), "list of 2D points"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "NaN or infinite"),
    ],
)
def test_landmarks_that_cannot_be_used(fixed, moving, sentence):
    images = bent_pair(size=32)
    with pytest.raises(InputError, match=sentence):
        run(images, fixed_landmarks=fixed, moving_landmarks=moving)


# ----------------------------------------------------------------------------------- colour, channels, output


def test_colour_is_seen_by_its_luminance_and_warped_in_every_channel():
    images = bent_pair(size=64)
    shades = [np.clip(image.data / image.data.max() * 250, 0, 250) for image in (images.fixed, images.moving)]
    colour = [
        sr.Image.from_array(np.stack([s, 255 - s, s / 2], axis=-1).astype(np.uint8), channels=True).replace(
            grid=image.grid
        )
        for s, image in zip(shades, (images.fixed, images.moving), strict=True)
    ]
    result = sr.register(*colour, **FAST)
    assert images.error(result.transform) < 0.6
    assert result.warped.data.shape == (64, 64, 3)
    assert result.warped.data.dtype == np.uint8
    assert result.warped.rgb


def test_a_channel_is_chosen_on_either_side():
    images = bent_pair(size=64)
    nothing = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    fixed = sr.Image(np.stack([nothing[0], images.fixed.data], axis=-1), images.fixed.grid)
    moving = sr.Image(np.stack([images.moving.data, nothing[1]], axis=-1), images.moving.grid)
    result = sr.register(fixed, moving, fixed_channel=1, moving_channel=0, **FAST)
    assert images.error(result.transform) < 0.5
    assert result.warped.data.shape == (64, 64, 2)
    with pytest.raises(InputError, match="channel 2 does not exist"):
        sr.register(fixed, moving, fixed_channel=2, **FAST)


def test_extent_and_fill():
    images = pair(affine_map(2, shift=(20.0, 0.0)), grid(50, 2), grid((80, 40), extent=(160.0, 80.0)))
    moving = images.moving.replace(data=images.moving.data + 7)
    options = {"family": "translation", **FAST}
    fixed = sr.register(images.fixed, moving, **options)
    assert fixed.grid == images.fixed.grid
    assert fixed.warped.grid == fixed.grid
    shifted = sr.register(images.fixed, moving, extent="moving", fill=-3.0, **options)
    corners = fixed.transform.inverse().map_points(moving.grid.corners())
    assert np.allclose(shifted.grid.spacing, images.fixed.grid.spacing)
    assert np.abs(shifted.grid.corners().min(axis=0) - corners.min(axis=0)).max() <= 2.0
    assert np.abs(shifted.grid.corners().max(axis=0) - corners.max(axis=0)).max() <= 2.0
    union = sr.register(images.fixed, moving, extent="union", fill=-3.0, **options)
    low, high = union.grid.corners().min(axis=0), union.grid.corners().max(axis=0)
    assert (low <= np.minimum(corners.min(axis=0), -50) + 1e-6).all()
    assert (high >= np.maximum(corners.max(axis=0), 50) - 1e-6).all()
    assert union.warped.mask is not None
    assert (union.warped.data[~union.warped.mask] == -3.0).all()
    assert np.allclose(union.grid.to_index(images.fixed.grid.origin) % 1, 0, atol=1e-6)
    border = sr.register(images.fixed, moving, extent="union", **options)
    assert np.allclose(border.warped.data[~border.warped.mask], 7.0, atol=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64, np.bool_])
def test_dtypes(dtype):
    images = bent_pair(size=64)
    scaled = [
        image.replace(data=(image.data / image.data.max() * (1 if dtype == np.bool_ else 100) + 0.3).astype(dtype))
        for image in (images.fixed, images.moving)
    ]
    if dtype == np.bool_:
        scaled = [i.replace(data=o.data > 0.5) for i, o in zip(scaled, (images.fixed, images.moving), strict=True)]
    result = sr.register(*scaled, **FAST)
    assert result.warped.data.dtype == dtype
    assert images.error(result.transform) < (1.2 if dtype == np.bool_ else 0.5)


def test_the_result_tells_all_about_the_run():
    images = bent_pair(size=48)
    result = run(images, family="affine+diffeomorphic")
    assert result.warped.name == "moving -> fixed (affine+diffeomorphic)"
    assert result.ending == "finished"
    assert result.scores["after"]["ncc"] > result.scores["before"]["ncc"]
    assert result.scores["after"]["ncc"] > 0.99
    assert {stage for stage, *_ in result.losses} == {"affine", "diffeomorphic"}
    assert set(result.versions) == {"napari-stnreg", "torch", "numpy"}
    assert result.report()["settings"]["preset"] == "fast"
    assert np.array_equal(
        result.warped.data, sr.warp(images.moving, result.transform, images.fixed.grid, fill=None).data
    )


# ------------------------------------------------------------------------------------- chains, running again


@pytest.mark.parametrize(
    "family",
    [
        "affine+bspline+diffeomorphic",
        "rigid+affine",
        "translation+similarity+tps+displacement",
        "bspline",
        "diffeomorphic",
    ],
)
def test_chains(family):
    linear = affine_map(2, degrees=4, shift=2.0) if "+" in family else None
    images = pair(bent_map(2, height=2.0 if "+" not in family else 3.0, linear=linear), grid(64, 2))
    result = run(images, family=family)
    limit = 2.2 if family == "rigid+affine" else 0.5
    assert images.error(result.transform) < limit
    assert result.folded_share == 0


def test_running_again_from_an_affine_and_from_a_deformation():
    images = bent_pair(size=96)
    first = run(images, family="affine")
    deformed = run(images, family="diffeomorphic", start_transform=first.transform)
    assert images.error(deformed.transform) < 0.4 * images.error(first.transform)
    again = sr.register(
        images.fixed, images.moving, family="diffeomorphic", start_transform=deformed.transform, device="cpu"
    )
    assert images.error(again.transform) < 1.1 * images.error(deformed.transform)
    assert isinstance(again.transform, ChainTransform)
    # the original is sampled once, through both: no blur is added by the second run
    once = sr.warp(images.moving, again.transform, images.fixed.grid, fill=None)
    assert np.array_equal(again.warped.data, once.data)
    # nothing is fitted: what comes out is what went in
    kept = next(
        sr.register_steps(images.fixed, images.moving, family="affine", start_transform=deformed.transform, **FAST)
    )
    grid_points = images.points()
    assert np.abs(kept.preview().map_points(grid_points) - deformed.transform.map_points(grid_points)).max() < 1e-3


def test_a_start_of_another_unit_or_dimension_is_refused():
    images = bent_pair(size=32)
    for start in (AffineTransform.identity(2, "um"), AffineTransform.identity(3)):
        with pytest.raises(InputError, match="transform to start from"):
            run(images, start_transform=start)


# ------------------------------------------------------------------------------ determinism, inputs, stopping


def digest(image):
    return hashlib.sha256(image.data.tobytes() + (b"" if image.mask is None else image.mask.tobytes())).hexdigest()


@pytest.mark.parametrize(("ndim", "size"), [(2, 64), (3, 18)])
@pytest.mark.parametrize("similarity", ["lncc", "mi", "mind"])
def test_the_same_run_twice_is_the_same_to_the_bit(ndim, size, similarity):
    images = bent_pair(ndim, size)
    before = digest(images.fixed), digest(images.moving), torch.is_grad_enabled(), torch.get_num_threads()
    one = run(images, similarity=similarity, iterations=8)
    np.random.default_rng().normal(size=10)
    torch.rand(5)
    two = run(images, similarity=similarity, iterations=8)
    for name, tensor in one.transform.tensors().items():
        assert torch.equal(tensor, two.transform.tensors()[name])
    assert one.losses == two.losses
    assert np.array_equal(one.warped.data, two.warped.data)
    assert (digest(images.fixed), digest(images.moving), torch.is_grad_enabled(), torch.get_num_threads()) == before


def test_read_only_and_strided_arrays_are_as_good():
    images = bent_pair(size=48)
    plain = run(images, iterations=4)
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
        assert result.ending == "stopped"
        assert images.error(result.transform) <= before + 1e-9
        assert result.scores["after"]["ncc"] >= result.scores["before"]["ncc"] - 1e-6
        errors.append((count, images.error(result.transform)))
    whole = images.error(run(images, family=family, iterations=5).transform)
    assert max(errors)[1] < 1.3 * whole + 0.05  # stopped at the last step: the deformation is there


def test_stopping_takes_the_best_step_not_the_last(monkeypatch):
    images = bent_pair(size=48)
    calls = []

    class Worsening(type(make_similarity("ncc"))):
        """After ten looks every further one is worse than all before."""

        def __call__(self, warped, weight=None):
            calls.append(1)
            return super().__call__(warped, weight) + max(len(calls) - 10, 0)

    monkeypatch.setattr(stages, "dense_similarity", lambda settings, ndim: Worsening())
    for family in ("displacement", "diffeomorphic", "bspline", "tps"):
        calls.clear()
        steps = sr.register_steps(
            images.fixed, images.moving, family=family, levels=1, iterations=40, start="none", **FAST
        )
        previews = [next(steps) for _ in range(18)]
        best = min(range(18), key=lambda i: previews[i].loss)
        assert best < 12
        wanted = previews[best].preview().displacement(images.fixed.grid)
        found = finish(steps).transform.displacement(images.fixed.grid)
        # while it runs, the diffeomorphic fit integrates its velocity a little less exactly
        limit = 0.1 if family == "diffeomorphic" else 1e-4
        assert np.abs(found - wanted).mean() < limit, family


def test_closing_drops_everything():
    images = bent_pair(size=48)
    kept = []
    original = registration.prepare

    def remember(*args, **options):
        made = original(*args, **options)
        kept.append(weakref.ref(made.pyramid))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "prepare", remember)
        steps = sr.register_steps(images.fixed, images.moving, **FAST)
        for _ in range(12):
            next(steps)
        steps.close()
        del steps
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("family", ["affine", "bspline", "tps", "displacement", "diffeomorphic"])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_best_so_far(family, monkeypatch):
    images = pair(bent_map(2, height=3.0), grid(48, 2))
    calls = []

    class Breaking(type(make_similarity("ncc"))):
        def __call__(self, warped, weight=None):
            calls.append(1)
            loss = super().__call__(warped, weight)
            return loss * float("nan") if len(calls) > 12 else loss

    for name in ("dense_similarity", "linear_similarity"):
        monkeypatch.setattr(stages, name, lambda *args: Breaking())
    result = run(images, family=family, start="none", levels=1, iterations=50)
    assert result.ending == "not finite"
    assert "not finite" in " ".join(result.warnings)
    assert len(result.losses) < 20
    assert np.isfinite(result.transform.displacement(images.fixed.grid)).all()
    assert images.error(result.transform) < 0.95 * images.error(AffineTransform.identity(2))


# ------------------------------------------------------------------------------------------ memory and devices


def test_too_little_memory_fits_a_smaller_level_and_says_so(monkeypatch):
    images = bent_pair(size=96)
    need = sr.estimate_memory(images.fixed, images.moving)
    monkeypatch.setattr(problem, "free_memory", lambda device: int(0.6 * need))
    result = run(images, preset="balanced")
    assert "not enough memory for full resolution" in result.warnings[0]
    assert result.warped.data.shape == (96, 96)
    assert images.error(result.transform) < 0.8
    monkeypatch.setattr(problem, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"needs .* GiB and only .* GiB are free; crop or shrink the images"):
        run(images)


def test_the_estimate_follows_size_family_and_similarity():
    small, large = bent_pair(size=32), bent_pair(size=64)
    assert sr.estimate_memory(large.fixed, large.moving) == 4 * sr.estimate_memory(small.fixed, small.moving)
    settings = [
        RegistrationSettings.parse(family=f, similarity=s)
        for f, s in (
            ("rigid", "ncc"),
            ("rigid+bspline", "ncc"),
            ("affine+diffeomorphic", "lncc"),
            ("affine+diffeomorphic", "mind"),
        )
    ]
    estimates = [sr.estimate_memory(small.fixed, small.moving, s) for s in settings]
    assert estimates == sorted(estimates)
    assert len(set(estimates)) == 4


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_runs_out_on_the_way_is_a_sentence(error, monkeypatch):
    images = bent_pair(size=32)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(stages, "run_dense", fail)
    with pytest.raises(OutOfMemoryError, match="memory was not enough to register 'fixed' and 'moving'"):
        run(images)


def test_a_gpu_that_runs_out_hands_over_to_the_cpu(monkeypatch):
    images = bent_pair(size=32)
    original = registration.prepare
    monkeypatch.setattr(registration, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def prepare(fixed, moving, settings, device, *landmarks, **options):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(fixed, moving, settings, device, *landmarks, **options)

    monkeypatch.setattr(registration, "prepare", prepare)
    result = run(images, iterations=3)
    assert "memory of cuda was not enough" in result.warnings[0]


MEASURE = """
import sys, threading, os
import numpy as np
import napari_stnreg as sr
from napari_stnreg.settings import RegistrationSettings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

side, ndim, family = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
images = [sr.Image.from_array(rng.normal(size=(side,) * ndim).astype(np.float32)) for _ in range(2)]
small = [sr.Image.from_array(i.data[(slice(0, 24),) * ndim]) for i in images]
options = {"family": family, "iterations": 2, "start": "none", "device": "cpu"}
sr.register(*small, **options)  # what is loaded once is not the run's
base, peak, ended = resident(), [0], threading.Event()

def watch():
    while not ended.wait(0.002):
        peak[0] = max(peak[0], resident())

watcher = threading.Thread(target=watch)
watcher.start()
sr.register(*images, **options)
ended.set()
watcher.join()
print((peak[0] - base) / sr.estimate_memory(*images, RegistrationSettings.parse(family=family)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's memory")
@pytest.mark.parametrize(("side", "ndim", "family"), [(72, 3, "affine+diffeomorphic"), (800, 2, "affine")])
def test_the_estimate_is_honest(side, ndim, family):
    command = [sys.executable, "-c", MEASURE, str(side), str(ndim), family]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(told.stdout) < 2.0


# ---------------------------------------------------------------------------------------------------- bad input


def field(shape, **options):
    return sr.Image.from_array(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32), **options)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "sentence"),
    [
        (
            field((20, 20)),
            field((9, 20, 20)),
            {},
            "is 2D and 'image' is 3D; a slice cannot be registered to a volume yet",
        ),
        (field((1, 20, 20)), field((9, 20, 20)), {}, "axis with a single voxel"),
        (field((20, 20)), sr.Image.from_array(np.full((20, 20), 7)), {}, "'image' is constant"),
        (field((20, 20)), sr.Image.from_array(np.where(np.eye(20) > 0, np.nan, 1.0)), {}, "NaN or infinite values"),
        (sr.Image.from_array(np.where(np.eye(20) > 0, np.inf, 1.0)), field((20, 20)), {}, "NaN or infinite values"),
        (field((20, 20), mask=np.zeros((20, 20))), field((20, 20)), {}, "The mask of 'image' is empty"),
        (field((20, 20)), field((20, 20), mask=np.zeros((20, 20))), {}, "The mask of 'image' is empty"),
        (field((20, 20), unit="um"), field((20, 20), unit="pixel"), {}, "unit"),
        (field((20, 20)), field((20, 20), origin=90.0), {"start": "none"}, "do not overlap in the world"),
        (field((20, 20)), field((20, 20)), {"family": "wobbly"}, "there is no transform family 'wobbly'"),
        (field((20, 20)), field((20, 20)), {"family": "bspline+affine"}, "comes after a deformable one"),
        (field((20, 20)), field((20, 20)), {"similarity": "likeness"}, "There is no similarity 'likeness'"),
        (field((20, 20)), field((20, 20)), {"start": "somewhere"}, "Setting 'start'"),
        (field((20, 20)), field((20, 20)), {"colour": "red"}, "Setting 'colour'"),
        (field((20, 20)), field((20, 20)), {"device": "abacus"}, "'abacus' is not a device"),
        (field((20, 20)), field((20, 20)), {"device": "cuda:97"}, "'cuda:97' was not found here; use auto or cpu"),
        (field((20, 20)), field((20, 20)), {"fixed_channel": -1}, "Setting 'fixed_channel'"),
    ],
)
def test_bad_input_is_one_sentence(fixed, moving, options, sentence):
    with pytest.raises(InputError, match=sentence) as told:
        sr.register(fixed, moving, **options)
    assert str(told.value).endswith(".")
    assert "\n" not in str(told.value)


def test_the_same_image_twice_is_refused_unless_two_channels_of_it_are_meant():
    image = field((20, 20))
    with pytest.raises(InputError, match="are the same image; choose two different ones"):
        sr.register(image, image)
    with pytest.raises(InputError, match="are the same image"):
        sr.register(image, image.replace(name="other"))
    images = bent_pair(size=32)
    both = sr.Image(np.stack([images.fixed.data, images.moving.data], axis=-1), images.fixed.grid)
    result = sr.register(both, both, fixed_channel=0, moving_channel=1, iterations=3, **FAST)
    assert result.ending == "finished"


@pytest.mark.parametrize("shape", [(2, 30, 30), (40, 3), (5, 20, 24), (3, 3)])
@pytest.mark.parametrize("similarity", ["lncc", "mi", "mind"])
def test_thin_images_work(shape, similarity):
    rng = np.random.default_rng(0)
    images = [sr.Image.from_array(rng.normal(size=shape).astype(np.float32)) for _ in range(2)]
    result = sr.register(*images, similarity=similarity, iterations=2, device="cpu")
    assert result.warped.data.shape == shape
    assert np.isfinite(result.transform.displacement(images[0].grid)).all()


def test_noise_and_half_empty_images_do_not_break_it():
    rng = np.random.default_rng(0)
    noise = [sr.Image.from_array(rng.normal(size=(48, 48))) for _ in range(2)]
    result = sr.register(*noise, **FAST)
    assert result.folded_share == 0
    sparse = np.zeros((48, 48))
    sparse[20, 30] = 1.0
    other = np.zeros((48, 48))
    other[24, 27] = 1.0
    result = sr.register(sr.Image.from_array(sparse), sr.Image.from_array(other), family="translation", device="cpu")
    assert np.allclose(result.transform.map_points([[20.0, 30.0]]), [[24.0, 27.0]], atol=0.5)
