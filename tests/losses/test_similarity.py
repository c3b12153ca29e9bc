"""Every similarity: right values, right gradients, blind to masked voxels, never NaN."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_stnreg import losses
from napari_stnreg.core.errors import InputError
from napari_stnreg.losses import MIND, SIMILARITIES, FeatureDistance, MutualInformation, make_similarity
from napari_stnreg.ops.bspline import cubic_bspline


def features() -> FeatureDistance:
    """A small frozen network whose two depths see the neighborhood of a voxel."""
    generator = torch.Generator().manual_seed(5)

    class Depths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float64))

        def forward(self, image: Tensor) -> list[Tensor]:
            first = torch.tanh(nn.functional.conv2d(image, self.weight.to(image.dtype), padding=1))
            return [first, nn.functional.avg_pool2d(first, 2)]

    return FeatureDistance(Depths())


VARIANTS = {
    "mse": lambda: make_similarity("mse"),
    "ncc": lambda: make_similarity("ncc"),
    "ncc squared": lambda: make_similarity("ncc", squared=True),
    "lncc": lambda: make_similarity("lncc", radius=2),
    "mi": lambda: make_similarity("mi"),
    "mi normalized": lambda: make_similarity("mi", normalized=True),
    "mi sampled": lambda: make_similarity("mi", samples=30),
    "mind": lambda: make_similarity("mind"),
    "mind l1": lambda: make_similarity("mind", distance="l1", radius=2, dilation=1),
    "features": features,
}
SHAPES = [(2, 2, 7, 8), (1, 1, 6, 5, 7)]


def cases() -> list[tuple[str, tuple[int, ...]]]:
    found = [(name, shape) for name in VARIANTS if name != "features" for shape in SHAPES]
    return [*found, ("features", (2, 1, 8, 6))]


def pair(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed, warped and a binary weight."""
    generator = torch.Generator().manual_seed(seed)
    fixed, warped = (torch.rand(shape, generator=generator, dtype=dtype) for _ in range(2))
    weight = (torch.rand((shape[0], 1, *shape[2:]), generator=generator) > 0.25).to(dtype)
    return fixed, warped, weight


def value_and_gradient(similarity: losses.Similarity, warped: Tensor, weight: Tensor | None = None):
    warped = warped.detach().clone().requires_grad_()
    loss = similarity(warped, weight)
    (gradient,) = torch.autograd.grad(loss, warped)
    return loss.detach(), gradient


@pytest.mark.parametrize(("name", "shape"), cases())
@pytest.mark.parametrize("weighted", [(False, False), (True, True)], ids=["unweighted", "weighted"])
def test_gradient_agrees_with_finite_differences(name, shape, weighted):
    fixed, warped, weight = pair(shape)
    at_step = weight.roll(2, -1) * (0.5 + 0.5 * fixed[:, :1]) if weighted[1] else None
    similarity = VARIANTS[name]()
    similarity.prepare(fixed, weight if weighted[0] else None)
    similarity(1.2 * warped - 0.1)  # mutual information remembers a range wider than what the differences reach
    generator = torch.Generator().manual_seed(1)
    _, gradient = value_and_gradient(similarity, warped, at_step)
    assert gradient.abs().max() > 0
    for _ in range(3):
        way = torch.randn(shape, generator=generator, dtype=torch.float64)
        step = 1e-7
        slope = (similarity(warped + step * way, at_step) - similarity(warped - step * way, at_step)) / (2 * step)
        assert float(slope) == pytest.approx(float((gradient * way).sum()), rel=2e-4, abs=2e-7)


@pytest.mark.parametrize(("name", "shape"), cases())
def test_masked_voxels_change_nothing(name, shape):
    fixed, warped, weight = pair(shape, dtype=torch.float32)
    fixed_weight, step_weight = weight, weight.roll(1, -1)
    results = []
    for garbage in (0.0, 1e30, float("nan")):
        similarity = VARIANTS[name]()
        similarity.prepare(torch.where(fixed_weight > 0, fixed, garbage), fixed_weight)
        dirty = torch.where(fixed_weight * step_weight > 0, warped, -garbage)
        results.append((*value_and_gradient(similarity, dirty, step_weight), similarity.score(dirty, step_weight)))
    for loss, gradient, score in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
        assert score == results[0][2]
    outside = (fixed_weight * step_weight == 0).expand(shape)
    assert not results[0][1][outside].any()


@pytest.mark.parametrize(("name", "shape"), cases())
def test_unit_weights_change_nothing(name, shape):
    fixed, warped, weight = pair(shape, dtype=torch.float32)
    plain, masked = VARIANTS[name](), VARIANTS[name]()
    plain.prepare(fixed)
    masked.prepare(fixed, torch.ones_like(weight))
    loss, gradient = value_and_gradient(plain, warped)
    for similarity, at_step in ((masked, None), (masked, torch.ones_like(weight)), (plain, torch.ones_like(weight))):
        again, slope = value_and_gradient(similarity, warped, at_step)
        torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slope, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "shape"), cases())
def test_empty_mask_gives_a_finite_loss_without_gradient(name, shape):
    fixed, warped, weight = pair(shape, dtype=torch.float32)
    similarity = VARIANTS[name]()
    similarity.prepare(fixed, torch.zeros_like(weight))
    loss, gradient = value_and_gradient(similarity, warped, weight)
    assert torch.isfinite(loss)
    assert not gradient.any()


@pytest.mark.parametrize(("name", "shape"), cases())
def test_constant_images_give_finite_losses_and_gradients(name, shape):
    textured, warped, weight = pair(shape, dtype=torch.float32)
    for fixed, moving in itertools.product((textured, torch.full(shape, 0.3)), (warped, torch.full(shape, 1000.0))):
        similarity = VARIANTS[name]()
        similarity.prepare(fixed)
        for at_step in (None, weight):
            loss, gradient = value_and_gradient(similarity, moving, at_step)
            assert torch.isfinite(loss)
            assert torch.isfinite(gradient).all()
            assert np.isfinite(similarity.score(moving, at_step))


@pytest.mark.parametrize(("name", "shape"), cases())
def test_the_loss_is_lowest_for_the_image_itself_and_repeatable(name, shape):
    fixed, warped, _ = pair(shape, dtype=torch.float32)
    similarity = VARIANTS[name]()
    similarity.prepare(fixed)
    similarity(warped), similarity(fixed)  # the range that mutual information looks at
    assert similarity(fixed) < similarity(0.8 * fixed + 0.2 * warped) < similarity(warped)
    first, second = value_and_gradient(similarity, warped), value_and_gradient(similarity, warped)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "features"])
def test_batch_loss_is_the_mean(name):
    fixed, warped, weight = pair((3, 1, 9, 8), dtype=torch.float64)
    whole = VARIANTS[name]()
    whole.prepare(fixed, weight)
    singles = []
    for i in range(3):
        single = VARIANTS[name]()
        single.prepare(fixed[i : i + 1], weight[i : i + 1])
        singles.append(float(single(warped[i : i + 1])))
    tolerance = 1e-6 if name != "lncc" else 1e-2
    assert float(whole(warped)) == pytest.approx(np.mean(singles), abs=tolerance)


def test_nan_propagates_to_the_loss():
    fixed, warped, _ = pair((1, 1, 9, 9), dtype=torch.float32)
    broken = warped.clone()
    broken[0, 0, 4, 4] = torch.nan
    for name in SIMILARITIES:
        similarity = make_similarity(name)
        similarity.prepare(fixed)
        assert not torch.isfinite(similarity(broken)), name
        assert torch.isfinite(similarity(warped)), name


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.01, 100),
    offset=st.floats(-100, 100),
    shape=st.sampled_from([(7, 9), (5, 6, 7)]),
)
def test_correlation_ignores_gain_and_offset(seed, gain, offset, shape):
    fixed, warped, weight = pair((1, 1, *shape), seed)
    similarity = make_similarity("ncc")
    similarity.prepare(fixed, weight)
    assert similarity.score(gain * warped + offset) == pytest.approx(similarity.score(warped), abs=1e-9)
    counts = weight[0, 0] > 0
    expected = np.corrcoef(fixed[0, 0][counts], warped[0, 0][counts])[0, 1]
    assert similarity.score(warped) == pytest.approx(expected, abs=1e-9)


def test_correlation_keeps_its_precision_far_from_zero():
    fixed, warped, _ = pair((1, 1, 40, 40))
    similarity = make_similarity("ncc")
    similarity.prepare((fixed + 1000).float())
    expected = np.corrcoef(fixed.flatten(), warped.flatten())[0, 1]
    assert similarity.score((warped + 1000).float()) == pytest.approx(expected, abs=1e-3)


def test_squared_correlation_ignores_inverted_contrast():
    fixed, _, _ = pair((1, 1, 9, 9))
    similarity = make_similarity("ncc", squared=True)
    similarity.prepare(fixed)
    assert float(similarity(1 - fixed)) == pytest.approx(0, abs=1e-9)
    assert similarity.score(1 - fixed) == pytest.approx(-1)


def test_mutual_information_of_known_relations():
    rows = torch.arange(6400, dtype=torch.float64).reshape(1, 1, 80, 80)
    four = (rows // 1600) / 3
    similarity = make_similarity("mi")
    similarity.prepare(four)
    # Four equally likely gray values, renamed in the other image: log 4, but for what a window of four bins blurs.
    renamed = torch.tensor([1.0, 0.0, 0.66, 0.33], dtype=torch.float64)[(rows // 1600).long()]
    assert similarity.score(renamed) == pytest.approx(np.log(4), abs=1e-3)
    assert similarity.score(rows % 7) < 0.01


def test_normalized_mutual_information_is_between_one_and_two():
    steps = (torch.arange(1024).reshape(1, 1, 32, 32) % 5).double()
    similarity = make_similarity("mi", normalized=True, bins=64)
    similarity.prepare(steps)
    assert 1.4 < similarity.score(-steps) <= 2
    assert similarity.score(torch.rand(1, 1, 32, 32, dtype=torch.float64)) < similarity.score(-steps)


def test_mutual_information_agrees_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    axis = np.linspace(-3, 3, 48)
    fixed = np.exp(-(axis[:, None] ** 2)) + 0.5 * np.exp(-((axis[None] - 1) ** 2))
    ours, theirs = [], []
    for shift in (0, 1, 2, 4, 8):
        moving = np.cos(3 * np.roll(fixed, shift, axis=0))
        similarity = make_similarity("mi", bins=24)
        similarity.prepare(torch.from_numpy(fixed)[None, None])
        ours.append(similarity.score(torch.from_numpy(moving)[None, None]))
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(24)
        method.SetInitialTransform(sitk.TranslationTransform(2))
        method.SetInterpolator(sitk.sitkLinear)
        theirs.append(-method.MetricEvaluate(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(moving)))
    assert ours == sorted(ours, reverse=True)
    np.testing.assert_allclose(ours, theirs, rtol=0.1)


def test_sampled_mutual_information_is_close_and_seeded():
    fixed, warped, weight = pair((1, 1, 60, 60))
    warped = (fixed + 0.3 * warped).sin()
    scores = {}
    for samples, seed in ((None, 0), (1800, 0), (1800, 0), (1800, 1)):
        similarity = MutualInformation(samples=samples, seed=seed)
        similarity.prepare(fixed)
        scores.setdefault((samples, seed), []).append(similarity.score(warped, weight))
    assert scores[1800, 0][0] == scores[1800, 0][1] != scores[1800, 1][0]
    assert scores[1800, 0][0] == pytest.approx(scores[None, 0][0], rel=0.15)


def test_the_b_spline_window_sums_to_one():
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] - torch.arange(-3, 5, dtype=torch.float64)
    torch.testing.assert_close(cubic_bspline(x).sum(1), torch.ones(11, dtype=torch.float64))


def plain_mind(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """The descriptor voxel by voxel, straight from the definition, far from the border."""
    ndim = image.ndim
    offsets = [s * dilation * np.eye(ndim, dtype=int)[a] for a in range(ndim) for s in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(offsets, 2) if (a + b).any()]
    margin = radius + dilation
    window = list(itertools.product(range(-radius, radius + 1), repeat=ndim))
    out = np.full((len(pairs), *image.shape), np.nan)
    for x in itertools.product(*(range(margin, n - margin) for n in image.shape)):
        out[(slice(None), *x)] = [
            np.mean([(image[tuple(x + a + t)] - image[tuple(x + b + t)]) ** 2 for t in window]) for a, b in pairs
        ]
    out -= out.min(0)
    return out


@pytest.mark.parametrize("shape", [(11, 12), (9, 10, 9)])
def test_mind_matches_its_definition(shape):
    image = np.random.default_rng(0).random(shape)
    radius, dilation = 1, 2
    found = MIND(radius, dilation).descriptor(torch.from_numpy(image)[None, None])[0, 0].numpy()
    distances = plain_mind(image, radius, dilation)
    inside = ~np.isnan(distances[0])
    # Up to the mean distance, which divides all components alike, the logarithms are the distances.
    logs = np.sort(-np.log(found[:, inside]), axis=0)
    wanted = np.sort(distances[:, inside], axis=0)
    assert found.shape[0] == (4 if len(shape) == 2 else 12)
    np.testing.assert_allclose(found.max(0)[inside], 1)
    np.testing.assert_allclose(logs / logs.sum(0), wanted / wanted.sum(0), atol=1e-9)


def test_mind_ignores_gain_offset_and_inverted_contrast():
    fixed, warped, weight = pair((1, 1, 12, 13))
    similarity = make_similarity("mind")
    similarity.prepare(fixed, weight)
    assert similarity.score(3 - 2 * fixed) == pytest.approx(0, abs=1e-12)
    assert similarity.score(3 - 2 * warped) == pytest.approx(similarity.score(warped), abs=1e-9)


def test_mind_features_do_not_depend_on_masked_voxels():
    fixed, _, weight = pair((2, 1, 8, 6))
    similarity = features()
    similarity.prepare(fixed)
    assert float(similarity(torch.where(weight > 0, fixed, 9.0), weight)) == 0


def test_feature_loss_does_not_change_the_network():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout()).train()
    similarity = FeatureDistance(network)
    fixed, warped, _ = pair((1, 1, 8, 8), dtype=torch.float32)
    similarity.prepare(fixed)
    similarity(warped.requires_grad_()).backward()
    assert warped.grad is not None
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_the_registry_names_the_choices():
    assert set(SIMILARITIES) == {"lncc", "ncc", "mse", "mi", "mind"}
    for name, kind in SIMILARITIES.items():
        assert isinstance(make_similarity(name), kind)
        assert kind.description.endswith(".") or len(kind.description) > 20
    with pytest.raises(InputError, match=r"'psnr'.*lncc, mi, mind, mse, ncc"):
        make_similarity("psnr")
    with pytest.raises(InputError, match="color"):
        make_similarity("mse", color=3)
    for options in ({"bins": 3}, {"samples": 0}):
        with pytest.raises(InputError):
            make_similarity("mi", **options)
    for options in ({"radius": -1}, {"dilation": 0}, {"distance": "l3"}):
        with pytest.raises(InputError):
            make_similarity("mind", **options)
