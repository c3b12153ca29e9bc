"""Separation of per-section displacement, slow tissue trend and residuals, in the estimate and in the solve."""

import numpy as np
import pytest

from napari_stnreg.stacks.matching.coarse import CoarseMatch
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import solve_elastic
from napari_stnreg.stacks.solver.pose_graph import solve_poses
from napari_stnreg.stacks.solver.variance_components import (
    PARAMETERS,
    CosineBands,
    ar1_precision,
    estimate_variance_components,
    residual_from_closures,
    segments,
)

SHAPE = (200, 200)
PERSISTENCE = PARAMETERS.trend_correlation


def differences(own, course, rest, gaps, numbers, seed=0):
    """Differences ``(gaps, numbers)`` of sections that shake, of tissue that goes on, of what is new in every gap."""
    rng = np.random.default_rng(seed)
    going = [rng.normal(size=numbers)]
    for _ in range(gaps - 1):
        going.append(PERSISTENCE * going[-1] + np.sqrt(1 - PERSISTENCE**2) * rng.normal(size=numbers))
    shake = np.diff(rng.normal(size=(gaps + 1, numbers)), axis=0)
    return np.sqrt(own) * shake + np.sqrt(course) * np.array(going) + np.sqrt(rest) * rng.normal(size=(gaps, numbers))


@pytest.mark.parametrize(("own", "course", "rest"), [(4.0, 1.0, 0.5), (1.0, 6.0, 2.0), (9.0, 0.01, 1.0)])
def test_variance_components_are_recovered(own, course, rest):
    seen = differences(own, course, rest, gaps=40, numbers=60)
    found = estimate_variance_components([(seen @ seen.T, 60)], 0.0)
    assert found.jitter == pytest.approx(own, rel=0.2)  # the prior's pull, where the course is six times as large
    assert 0.4 * rest < found.residual < 1.6 * rest
    assert found.trend == pytest.approx(course, rel=0.3) if course > 0.1 else found.trend < 0.1 * own


def test_segments_give_the_same_estimate_as_one_run():
    seen = differences(4.0, 1.0, 0.5, gaps=60, numbers=40)
    chain = [None if z in (0, 17, 40, 41) else one for z, one in enumerate(seen)]
    runs = [np.stack(run) for run in segments(chain)]
    assert [len(run) for run in runs] == [16, 22, 18]
    found = estimate_variance_components([(run @ run.T, 40) for run in runs], 0.0)
    assert found.jitter == pytest.approx(4.0, rel=0.15)


def test_residual_change_is_not_attributed_to_jitter():
    seen = differences(0.0, 0.5, 3.0, gaps=19, numbers=8)
    found = estimate_variance_components([(seen @ seen.T, 8)], 0.0)
    assert found.jitter < 0.15 * (found.trend + found.residual)


def test_estimate_without_data_is_finite():
    found = estimate_variance_components([], 0.25)
    assert found.jitter > 0
    assert found.residual > 0


def test_cosine_bands_are_orthonormal_and_contain_poses():
    waves = CosineBands((9, 11), 8.0)
    np.testing.assert_allclose(waves.basis.T @ waves.basis, np.eye(99), atol=1e-12)
    y, x = np.indices((9, 11))
    amplitudes = waves.forward(3.0 - 0.4 * y + 0.7 * x)
    assert np.abs(amplitudes[3:]).max() < 1e-9
    vectors = np.random.default_rng(0).normal(size=(4, 2, 9, 11))
    np.testing.assert_allclose(waves.back(waves.forward(vectors), vectors.shape), vectors, atol=1e-12)


def test_ar1_precision_is_the_inverse_of_the_correlation():
    correlation = PERSISTENCE ** np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
    np.testing.assert_allclose(ar1_precision(np.eye(7)), np.linalg.inv(correlation), atol=1e-9)


def shaken(count, seed, steady, rest=0.3):
    """Plain maps, exact matches of neighbors (two reaches) but for some noise, and the sections' own vectors."""
    lattice = Lattice.covering((-0.5, -0.5), (199.5, 199.5), 40)
    transforms = [SectionTransform.from_affine(np.eye(3), lattice, SHAPE) for _ in range(count)]
    rng = np.random.default_rng(seed)
    waves = CosineBands(lattice.shape, 5.0)
    long = (waves.band <= 2).astype(float)
    own = waves.back(long * rng.normal(0, 12, (count, 2, waves.band.size)), (count, 2, *lattice.shape))
    path = np.arange(count)[:, None, None, None] * np.asarray(steady)[:, None, None]
    firm = np.zeros((1, 1, 3, *lattice.shape))
    firm[:, :, ::2] = 1.0
    matches = {}
    for a in range(count):
        for b in range(a + 1, min(a + 3, count)):
            noise = waves.back(rest * 5 * long * rng.normal(size=(2, waves.band.size)), own[0].shape)
            shift = own[b] - own[a] + path[b] - path[a] + noise
            matches[a, b] = FineMatch(shift[None, None], firm, np.full((1, 1), 0.8), np.ones((1, 1)))
    return transforms, matches, own


def rms(vectors):
    return float(np.sqrt((vectors**2).mean()))


def test_solve_removes_jitter_and_keeps_the_trend():
    transforms, matches, own = shaken(16, seed=1, steady=(2.5, -1.5))
    found = np.stack([m.vectors[0] for m in solve_elastic(transforms, matches, StackSettings.parse())])
    error = found - own
    assert rms(np.diff(error, axis=0)) < 0.35 * rms(np.diff(own, axis=0))
    slope = np.polyfit(np.arange(16), error.mean(axis=(2, 3)), 1)[0]
    assert np.abs(slope / (2.5, -1.5)).max() < 0.25, slope  # 1 were straight
    straight = np.stack([m.vectors[0] for m in solve_elastic(transforms, matches, StackSettings.parse(trend="remove"))])
    assert np.abs(np.polyfit(np.arange(16), (straight - own).mean(axis=(2, 3)), 1)[0]).max() > 1.5


def test_stack_moves_with_the_fixed_section():
    transforms, matches, own = shaken(9, seed=2, steady=(0.0, 0.0))
    own[4] += 25.0  # it lies far off
    for (a, b), match in matches.items():
        match.shift[0, 0] += 25.0 * ((b == 4) - (a == 4))  # type: ignore[operator]
    found = np.stack([m.vectors[0] for m in solve_elastic(transforms, matches, StackSettings.parse(reference=4))])
    assert not found[4].any()
    assert rms(np.diff(found - own, axis=0)[3:5]) < 0.2 * 25


@pytest.mark.parametrize("reference", [None, 3])
def test_few_sections_with_large_shifts_are_aligned(reference):
    rng = np.random.default_rng(3)
    middle = np.array([95.5, 95.5])
    poses = []
    for angle, shift in zip(np.radians(rng.normal(0, 3, 8)), rng.normal(0, 15, (8, 2)), strict=True):
        pose = np.eye(3)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[:2, 2] = middle + shift - pose[:2, :2] @ middle
        poses.append(pose)
    matches = {(a, a + 1): CoarseMatch(poses[a + 1] @ np.linalg.inv(poses[a]), 0.8, 1.0, False) for a in range(7)}
    found = solve_poses(8, matches, [(192, 192)] * 8, StackSettings.parse(reference=reference))
    points = np.array([(60.0, 60.0, 1.0), (60.0, 130.0, 1.0), (130.0, 95.0, 1.0)]).T
    tissue = np.stack([(np.linalg.inv(p) @ f @ points)[:2] for p, f in zip(poses, found, strict=True)])
    jumps = np.linalg.norm(np.diff(tissue, axis=0), axis=1).mean(axis=1)
    assert jumps.max() < 6.0, jumps  # about 26 as recorded
    if reference is not None:
        np.testing.assert_allclose(found[3], np.eye(3), atol=1e-9)


def test_residual_variance_follows_from_loop_closure():
    rng = np.random.default_rng(4)
    single, double = rng.normal(0, 2.0, (41, 50)), rng.normal(0, 2.0 * np.sqrt(2), (40, 50))
    closures = single[:-1] + single[1:] - double
    assert residual_from_closures(closures) == pytest.approx(4.0, rel=0.1)
    closures[7] += 300.0  # one wrong match
    assert residual_from_closures(closures) == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize("largest", [10, 50])
def test_alignment_is_independent_of_the_initial_jitter(largest):
    transforms, matches, own = shaken(16, seed=1, steady=(0.3, -0.2), rest=0.1)
    shifts = np.random.default_rng(2).integers(-largest, largest + 1, (16, 2))
    shifts = (shifts - shifts.mean(axis=0))[:, :, None, None]
    moved = {
        (a, b): FineMatch(one.shift + shifts[b] - shifts[a], one.weight, one.score, one.overlap)
        for (a, b), one in matches.items()
    }
    plain, shifted = (
        np.stack([one.vectors[0] for one in solve_elastic(transforms, found, StackSettings())])
        for found in (matches, moved)
    )
    change = shifted - shifts - plain
    change -= change.mean(axis=(0, 2, 3), keepdims=True)  # one motion of the whole stack
    assert np.linalg.norm(change, axis=1).mean() < 0.3
    assert rms(np.diff(plain - own, axis=0)) < 0.2 * rms(np.diff(own, axis=0))


def test_linear_part_about_the_tissue_does_not_shift_it():
    waves = CosineBands((9, 11), 8.0, center=(2.5, 7.0))
    y, x = np.indices((9, 11))
    amplitudes = waves.forward(0.4 * (y - 2.5) - 0.7 * (x - 7.0))
    assert abs(amplitudes[0]) < 1e-9
    vectors = np.random.default_rng(0).normal(size=(4, 2, 9, 11))
    np.testing.assert_allclose(waves.back(waves.forward(vectors), vectors.shape), vectors, atol=1e-12)
    values = np.random.default_rng(1).normal(size=(2, 99))
    one, other = (waves.forward(vectors[0]) * values).sum(), (vectors[0] * waves.adjoint(values, (2, 9, 11))).sum()
    assert one == pytest.approx(other)


def test_result_does_not_depend_on_the_extent_of_the_lattice():
    """Neurites that spread apart steadily, on a lattice around them and on one that sticks out at one side."""
    transforms, matches, _ = shaken(16, seed=1, steady=(0.0, 0.0), rest=0.1)
    lattice, more = transforms[0].lattice, 5
    y, x = np.indices(lattice.shape)
    spread = 0.02 * np.stack([y - y.mean(), x - x.mean()]) * lattice.spacing[0]
    larger = Lattice(lattice.origin, lattice.spacing, (lattice.shape[0] + more, lattice.shape[1]))
    pad = [(0, 0)] * 3 + [(0, more), (0, 0)]
    found = []
    for one, widths in ((lattice, [(0, 0)] * 5), (larger, pad)):
        seen = {
            (a, b): FineMatch(
                np.pad(m.shift + (b - a) * spread, widths, mode="edge"), np.pad(m.weight, widths), m.score, m.overlap
            )
            for (a, b), m in matches.items()
        }
        plain = [SectionTransform.from_affine(np.eye(3), one, SHAPE) for _ in transforms]
        solved = solve_elastic(plain, seen, StackSettings())
        found.append(np.stack([m.vectors[0][:, : lattice.shape[0]] for m in solved]))
    change = (found[1] - found[0]).mean(axis=(2, 3))
    change -= change.mean(axis=0)
    assert np.linalg.norm(change, axis=1).mean() < 0.3


def test_clear_common_slope_is_kept():
    """A slope of the whole tissue, far above what the jitter of positions feigns."""
    rng = np.random.default_rng(5)
    shake = np.diff(rng.normal(0, 4, (21, 2)), axis=0)
    found = []
    for slope in (0.0, 1.5):
        seen = shake + slope
        known = estimate_variance_components([(seen @ seen.T, 2)], 0.01, 0.02, is_shift=True, linear_trend=1.0)
        found.append(known.trend)
    assert found[0] < 0.05 < 0.5 < found[1]
