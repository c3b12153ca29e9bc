"""Matching, solving and quality on small stacks with known ground truth."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

import napari_stnreg as sr
from napari_stnreg.core.errors import InputError
from napari_stnreg.datasets import SerialSections
from napari_stnreg.stacks.matching.coarse import PARAMETERS, coarse_match
from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.output.canvas import OutputCanvas, displacement_transform, sample_displacement
from napari_stnreg.stacks.output.render import render_bands
from napari_stnreg.stacks.preprocessing.artifacts import label_fragments
from napari_stnreg.stacks.preprocessing.features import prepare
from napari_stnreg.stacks.quality.sections import chunk_correlation, write_table
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform, union_canvas
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import solve_elastic
from napari_stnreg.stacks.sources.base import reduce_section
from napari_stnreg.stacks.sources.open import open_stack
from tests.helpers.aligned import align

SIDE = 160


def texture(seed, shape=(SIDE, SIDE), grain=2.5):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), grain)
    return (128 + 45 * noise / noise.std()).clip(5, 250)


def tissue(depth, change=0.35, seed=0, shape=(SIDE, SIDE)):
    """Sections that resemble their neighbors: each keeps most of the last one's texture, nothing moves."""
    rng = np.random.default_rng(seed)
    state = texture(rng.integers(1 << 30), shape) - 128
    out = [state]
    for _ in range(depth - 1):
        fresh = texture(rng.integers(1 << 30), shape) - 128
        out.append(np.sqrt(1 - change**2) * out[-1] + change * fresh)
    return np.stack(out) + 128


def placed(section, affine):
    """The section as a raw image: ``raw(q) = section(affine q)``."""
    y, x = np.indices(section.shape, dtype=float)
    where = np.einsum("ij,jhw->ihw", affine, np.stack([y, x, np.ones_like(y)]))[:2]
    return map_coordinates(section, where, order=1, cval=0.0)


def turn(degrees, shift=(0, 0), mirror=False, middle=(SIDE - 1) / 2):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirror else 1.0])
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = middle + np.asarray(shift) - linear @ np.full(2, middle)
    return out


def inner(step=10, margin=45):
    axis = np.arange(margin, SIDE - margin + 1, step, dtype=float)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def apply(matrix, points):
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def settings(**options):
    return StackSettings.parse(**options)


@pytest.mark.parametrize(
    ("degrees", "shift", "mirror"),
    [(0, (50, -10), False), (3, (-8, 40), False), (137, (12, -9), False), (-80, (0, 25), False), (64, (10, 5), True)],
)
def test_coarse_matching_finds_any_rotation_and_large_shifts(degrees, shift, mirror):
    a, b = tissue(2, seed=3)
    motion = turn(degrees, shift, mirror)
    chosen = settings(mirror=mirror)
    found = coarse_match(prepare(a, chosen), prepare(placed(b, motion), chosen), chosen)
    truth = np.linalg.inv(motion)
    points = inner()
    seen = apply(truth, points)
    both = np.all((seen > 0) & (seen < SIDE - 1), axis=1)
    error = np.linalg.norm(apply(found.matrix, points) - seen, axis=1)[both]
    assert error.mean() < 1.0
    assert found.confidence > 0.4
    assert found.mirrored == mirror


@pytest.mark.parametrize("seed", [0, 6, 7])
def test_symmetric_tissue_is_not_rotated(seed):
    """Two sections that share half of what they show: turned by 180 degrees they fit as well."""

    def symmetric(which):
        half = texture(which, grain=5) - 128
        return (half + half[::-1, ::-1]) / 2

    a = symmetric(seed)
    b = 0.5 * a + np.sqrt(0.75) * symmetric(seed + 500)
    chosen = settings()
    found = coarse_match(prepare(a + 128, chosen), prepare(b + 128, chosen), chosen)
    assert found.confidence > PARAMETERS.min_confidence
    assert found.matrix[0, 0] > 0.99


def test_unrelated_sections_have_low_confidence():
    chosen = settings()
    found = coarse_match(prepare(texture(1), chosen), prepare(texture(2), chosen), chosen)
    assert found.confidence < PARAMETERS.min_confidence


def test_far_rotation_needs_evidence_above_chance():
    """Tissue that shares little with its neighbor fits best at any angle, by chance."""
    chosen = settings()
    turned = []
    for seed in (1, 4, 5):
        shared = texture(seed, grain=4) - 128
        a, b = (0.35 * shared + np.sqrt(1 - 0.35**2) * (texture(seed + k, grain=4) - 128) + 128 for k in (100, 200))
        found = coarse_match(prepare(a, chosen), prepare(b, chosen), chosen)
        turned.append(found.confidence >= PARAMETERS.min_confidence and found.matrix[0, 0] < np.cos(np.deg2rad(10)))
    assert not any(turned)


def test_shifts_and_rotations_are_removed():
    truth = tissue(6, seed=5)
    motions = [
        turn(d, s) for d, s in [(0, (0, 0)), (2, (4, -6)), (-3, (-5, 3)), (1, (6, 6)), (-2, (0, -7)), (3, (-3, 2))]
    ]
    raw = np.stack([placed(t, m) for t, m in zip(truth, motions, strict=True)])
    before = raw.copy()
    found = align(raw, settings(deform=False, position_weight=0.1))
    points = inner()
    errors = np.stack([apply(m, f(points)) - points for m, f in zip(motions, found.transforms, strict=True)])
    jumps = np.linalg.norm(np.diff(errors, axis=0), axis=-1)
    assert jumps.mean() < 0.6  # the stack as a whole may lie anywhere
    assert [row.verdict for row in found.rows] == ["good"] * 6
    assert np.array_equal(raw, before)


def test_fine_matching_removes_a_deformation_of_one_section():
    truth = tissue(5, change=0.2, seed=7)
    y, x = np.indices((SIDE, SIDE), dtype=float)
    bend = np.stack([4 * np.sin(2 * np.pi * x / SIDE), 3 * np.cos(2 * np.pi * y / SIDE)])
    raw = truth.copy()
    raw[2] = map_coordinates(truth[2], np.stack([y, x]) + bend, order=1, mode="nearest")
    points = inner()

    def off(transforms):
        here = transforms[2](points)
        lifted = here + np.stack([map_coordinates(b, here.T, order=1) for b in bend], axis=-1)
        return np.linalg.norm(lifted - (transforms[1](points) + transforms[3](points)) / 2, axis=-1).mean()

    bent = off(align(raw, settings(deform=False)).transforms)
    mended = off(align(raw, settings()).transforms)
    assert bent > 2.0
    assert mended < 0.5 * bent


def test_aligned_stack_stays_unchanged():
    raw = tissue(8, seed=9)
    found = align(raw, settings())
    points = inner()
    moved = [np.linalg.norm(m(points) - points, axis=-1).mean() for m in found.transforms]
    assert max(moved) < 0.7


@pytest.mark.slow
def test_oblique_neurites_keep_their_slope():
    """Tissue that flows by 1.5 pixels a section: the recovered slope must not be straightened away."""
    wide = tissue(14, change=0.2, seed=11, shape=(SIDE, SIDE + 40))
    rng = np.random.default_rng(0)
    shake = rng.normal(0, 2.0, (14, 2))
    y, x = np.indices((SIDE, SIDE), dtype=float)
    raw = np.stack(
        [
            map_coordinates(t, np.stack([y + s[0], x + 10 + 1.5 * z + s[1]]), order=1)
            for z, (t, s) in enumerate(zip(wide, shake, strict=True))
        ]
    )
    points = inner()

    def slope(course):
        transforms = align(raw, settings(trend=course)).transforms
        where = [1.5 * z + shake[z, 1] + (m(points) - points)[:, 1].mean() for z, m in enumerate(transforms)]
        return np.polyfit(np.arange(14), where, 1)[0] / 1.5

    kept = slope("keep")
    assert kept > 0.6
    assert slope("remove") < kept


def test_missing_section_is_interpolated():
    raw = tissue(7, seed=13)
    raw[3] = 0
    raw[4:] = np.roll(raw[4:], (5, -3), axis=(1, 2))
    found = align(raw, settings(deform=False, position_weight=0.0))
    assert found.rows[3].status == "bridged"
    assert "missing" in found.rows[3].reason
    points = inner()
    assert np.allclose((found.transforms[4](points) - found.transforms[2](points)).mean(axis=0), (5, -3), atol=0.5)


def test_unrelated_section_fails_without_moving_its_neighbors():
    raw = tissue(7, seed=15)
    raw[3] = texture(999)
    found = align(raw, settings())
    assert found.rows[3].status == "bridged"
    points = inner()
    assert np.linalg.norm(found.transforms[4](points) - found.transforms[2](points), axis=-1).mean() < 0.8


def test_displacement_is_discontinuous_at_a_crack():
    truth = tissue(5, change=0.2, seed=17)
    raw = truth.copy()
    gap = 12
    y, x = np.indices((SIDE, SIDE), dtype=float)
    side = x - SIDE / 2
    raw[2] = map_coordinates(truth[2], np.stack([y, x - np.clip(side, -gap / 2, gap / 2)]), order=1, mode="nearest")
    raw[2][np.abs(side) < gap / 2] = 250
    points = inner()

    def left(transforms):
        here = transforms[2](points)
        lifted = here - np.stack([0 * here[:, 0], np.clip(here[:, 1] - SIDE / 2, -gap / 2, gap / 2)], axis=-1)
        return np.linalg.norm(lifted - (transforms[1](points) + transforms[3](points)) / 2, axis=-1).mean()

    def widest(transforms):
        """By how much two neighbors of each row are drawn apart, where it is most: the gap, if all is right."""
        rows = np.stack(np.meshgrid(np.arange(45.0, 116, 5), np.arange(45.0, 116), indexing="ij"), axis=-1)
        return (np.diff(transforms[2](rows)[..., 1], axis=1) - 1).max(axis=1)

    found, smooth = align(raw, settings()).transforms, align(raw, settings(split_at_cracks=False)).transforms
    assert (found[2].n_fragments, smooth[2].n_fragments) == (2, 1)
    assert widest(found).min() > 0.3 * gap  # wherever it is crossed
    assert widest(smooth).max() < 0.1 * gap
    assert left(found) < 1.8, left(found)  # 6 if nothing were done
    assert left(found) < 0.65 * left(smooth)


def test_dirt_is_masked_and_is_no_crack():
    raw = tissue(5, change=0.2, seed=19)
    clean = align(raw, settings(deform=False)).transforms
    y, x = np.indices((SIDE, SIDE))
    raw[2][np.hypot(y - 60, x - 100) < 18] = 255
    found = align(raw, settings(deform=False))
    assert found.figures[2]["dirt"] + found.figures[2]["empty"] > 0.02
    assert found.transforms[2].n_fragments == 1
    points = inner()
    assert np.linalg.norm(found.transforms[2](points) - clean[2](points), axis=-1).max() < 1.0


def test_result_is_independent_of_contrast():
    raw = tissue(4, seed=21)
    other = raw.copy()
    other[1], other[2] = 40 + 0.3 * other[1], 0.6 * other[2]
    points = inner()
    for a, b in zip(align(raw, settings()).transforms, align(other, settings()).transforms, strict=True):
        assert np.linalg.norm(a(points) - b(points), axis=-1).max() < 0.3


def test_results_are_reproducible():
    raw = tissue(4, seed=23)
    for a, b in zip(align(raw, settings()).transforms, align(raw, settings()).transforms, strict=True):
        assert np.array_equal(a.vectors, b.vectors)
        assert np.array_equal(a.affines, b.affines)


def test_reference_section_does_not_move():
    raw = np.roll(tissue(5, seed=25), 0, axis=0)
    raw[1:] = np.roll(raw[1:], 6, axis=2)
    found = align(raw, settings(reference=4, position_weight=0.0))
    points = inner()
    assert np.allclose(found.transforms[4](points), points)
    assert np.allclose((found.transforms[0](points) - points).mean(axis=0), (0, -6), atol=0.5)


def test_transform_is_a_pull_back():
    """``aligned[y, x] = raw[map(y, x)]``, axis 0 first."""
    lattice = Lattice.covering((0, 0), (SIDE, SIDE), 40)
    affine = np.eye(3)
    affine[:2, 2] = 3, -7
    there = SectionTransform.from_affine(affine, lattice, (SIDE, SIDE))
    raw = texture(1)
    assert np.allclose(rendered(raw, there), raw[23:73, 13:63], atol=1e-3)
    vectors = np.random.default_rng(0).normal(0, 2, there.vectors.shape)
    bent = there.with_vectors(vectors)
    y, x = np.indices((50, 50)) + 20.0
    expected = map_coordinates(raw, np.moveaxis(bent(np.stack([y, x], axis=-1)), -1, 0), order=1)
    assert np.abs(rendered(raw, there) - expected).max() > 20  # there is something to see
    assert np.allclose(rendered(raw, bent), expected, atol=0.01)
    points = inner()
    assert np.allclose(bent.inverse(bent(points)), points, atol=1e-6)
    again = SectionTransform.from_arrays(bent.to_arrays())
    assert np.array_equal(again(points), bent(points))
    (top, left), (height, width) = union_canvas([there])
    assert (top, left, height, width) == (-3, 7, SIDE, SIDE)


def rendered(raw, there):
    """The canvas pixels 20 to 70 of a section, drawn as a run draws them: its displacement first, then band by band."""
    canvas = OutputCanvas((20, 20), (50, 50), raw.shape, 1)
    transform = displacement_transform(sample_displacement(there, canvas), canvas)
    bands = render_bands(open_stack(np.stack([raw, raw])), 0, transform, canvas.grid, rows=16)
    return np.concatenate([band for _, band in bands])


def test_reduced_section_keeps_its_position():
    image = texture(2, (203, 161))
    small = reduce_section(image, 4)
    assert small.shape == (51, 41)
    assert small[0, 0] == pytest.approx(image[:4, :4].mean())
    assert small[-1, -1] == pytest.approx(image[200:, 160:].mean())


def test_results_do_not_depend_on_the_working_resolution():
    raw = tissue(4, seed=27, shape=(320, 320))
    raw[1] = np.roll(raw[1], (6, -9), axis=(0, 1))
    points = inner() + 80
    fine = align(raw, settings(deform=False, working_size=320, position_weight=0.0)).transforms
    half = align(raw, settings(deform=False, working_size=160, position_weight=0.0)).transforms
    for transforms in (fine, half):
        assert np.allclose((transforms[1](points) - transforms[0](points)).mean(axis=0), (6, -9), atol=0.4)


def test_only_complete_cracks_split_a_section():
    crack = np.zeros((100, 100), bool)
    crack[48:52, :60] = True
    assert label_fragments(crack, ~crack & False).max() == 0
    crack[48:52] = True
    labels = label_fragments(crack, ~crack & False)
    assert labels.max() == 1
    assert labels[0, 0] != labels[-1, 0]


def test_interrupted_crack_splits_and_aligned_dirt_does_not():
    y, x = np.indices((SIDE, SIDE), dtype=float)
    glass = 235 + np.random.default_rng(0).normal(0, 1, y.shape)
    band = np.abs(y - 80 - 0.3 * (x - 80)) < 6
    bits = band & (x % 16 < 14)  # each a tenth of the section long, threads of tissue between
    found = prepare(np.where(bits, glass, texture(4)), settings())
    assert found.n_fragments == 2
    assert found.weights[0][band].mean() < 0.02
    assert found.fragment_labels[20, 80] != found.fragment_labels[140, 80]
    spots = np.hypot(y - 80, (x % 32) - 16) < 7
    found = prepare(np.where(spots, glass, texture(4)), settings())
    assert found.n_fragments == 1
    assert not found.weights[0][spots].any()
    assert found.weights[0][80, ::32].all()  # what lies between


@pytest.mark.parametrize("degrees", [0, 35, 90, 140])
@pytest.mark.parametrize(("gray", "width"), [(20, 5), (215, 5), (215, 9), (30, 9)])
def test_cracks_of_any_width_and_direction_split(degrees, gray, width):
    y, x = np.indices((SIDE, SIDE), dtype=float) - SIDE / 2
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    across = c * y - s * x + 4 * np.sin((c * x + s * y) / 30)
    rng = np.random.default_rng(degrees)
    shaded = np.where(np.abs(across) < width / 2, gray, 128 + 0.7 * (texture(degrees) - 128)) + 0.15 * x
    found = prepare(shaded + rng.normal(0, 6, x.shape), settings())
    assert found.n_fragments == 2
    for side in (across < -width, across > width):  # a side is one piece
        assert max(np.bincount(found.fragment_labels[side], minlength=2)) > 0.98 * side.sum()
    assert prepare(shaded, settings(split_at_cracks=False)).n_fragments == 1


def test_tissue_without_cracks_is_not_split():
    made = SerialSections((12, 512, 512), seed=3)
    assert {prepare(reduce_section(made[z], 2), settings()).n_fragments for z in range(0, 12, 2)} == {1}
    assert {
        prepare(texture(seed, (200, 260), grain), settings()).n_fragments for seed in range(6) for grain in (2, 4)
    } == {1}


def test_crack_of_tissue_brightness_is_detected():
    made = SerialSections((20, 512, 512), seed=0, faults={10: "crack"})
    found = prepare(reduce_section(made[10], 2), settings())
    y, x = np.indices((256, 256)) * 2 + 0.5
    gap = np.abs(made.deformation(10).tear.across(np.stack([y, x], axis=-1))) < 6  # it is 16 pixels wide
    assert found.n_fragments == 2
    assert found.weights[0][gap].mean() < 0.02
    assert found.figures["dirt"] < 0.07  # the crack itself takes 0.04


def test_masked_pixels_do_not_affect_the_means():
    a, b = texture(1), texture(1) * 0.5 + 20
    known = np.ones(a.shape, bool)
    known[:, :80] = False
    b[:, :80] = 9999
    assert chunk_correlation(a, b, known).correlation == pytest.approx(1.0)


def test_quality_table_has_one_row_per_section(tmp_path):
    raw = tissue(4, seed=29)
    raw[1] = 0
    found = align(raw, settings(deform=False))
    write_table(found.rows, tmp_path / "quality.csv")
    lines = (tmp_path / "quality.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("section,status,verdict,reason")
    assert lines[2].split(",")[1] == "bridged"


def test_invalid_stack_raises(tmp_path):
    with pytest.raises(InputError, match="2 axes"):
        sr.align_stack(np.zeros((30, 30)), tmp_path / "out.zarr")
    with pytest.raises(InputError, match="at least two"):
        sr.align_stack(np.zeros((1, 30, 30)), tmp_path / "out.zarr")
    with pytest.raises(InputError, match="neighbors"):
        sr.align_stack(np.zeros((3, 30, 30)), tmp_path / "out.zarr", neighbors=0)
    assert not list(tmp_path.iterdir())


def test_landmarks_correct_a_wrong_match():
    """Every comparison with the bent section says "nothing moved"; only the landmarks know better."""
    lattice = Lattice.covering((0, 0), (SIDE, SIDE), 32)
    transforms = [SectionTransform.from_affine(np.eye(3), lattice, (SIDE, SIDE)) for _ in range(5)]
    wrong = np.zeros((1, 1, 2, *lattice.shape))
    firm = np.zeros((1, 1, 3, *lattice.shape))
    firm[:, :, ::2] = 0.5
    score = {True: np.full((1, 1), 0.3), False: np.full((1, 1), 0.9)}
    pairs = [(a, b) for a in range(5) for b in (a + 1, a + 2) if b < 5]
    matches = {pair: FineMatch(wrong, firm, score[2 in pair], np.ones((1, 1))) for pair in pairs}

    def bend(points):
        return points + np.stack(
            [4 * np.sin(2 * np.pi * points[:, 1] / SIDE), 3 * np.cos(2 * np.pi * points[:, 0] / SIDE)], axis=-1
        )

    marks = inner(step=14, margin=17)
    points = inner()

    def off(landmarks):
        chosen = settings()
        found = transforms
        for _ in range(chosen.iterations):
            found = solve_elastic(found, matches, chosen, landmarks=landmarks)
        return np.linalg.norm(found[2](points) - bend(found[1](points)), axis=-1).mean(), found

    assert off({})[0] > 2.5
    error, found = off({(1, 2): (marks, bend(marks))})
    assert error < 1.0, error
    # the others are not dragged along
    assert max(np.linalg.norm(found[z](points) - points, axis=-1).mean() for z in (0, 1, 3, 4)) < 1.0


def test_both_sides_of_an_unmatched_gap_are_aligned():
    truth = np.concatenate([tissue(4, seed=31), tissue(4, seed=32)])  # two blocks with nothing in common
    motions = [turn(2.0 * (z % 3), (25 * (z % 2), -20 * (z % 3))) for z in range(8)]
    raw = np.stack([placed(t, m) for t, m in zip(truth, motions, strict=True)])
    found = align(raw, settings(deform=False, position_weight=0.01))
    points = inner()
    errors = np.stack([apply(m, f(points)) - points for m, f in zip(motions, found.transforms, strict=True)])
    jumps = np.linalg.norm(np.diff(errors, axis=0), axis=-1).mean(axis=-1)
    assert max(jumps[:3]) < 1.0
    assert max(jumps[4:]) < 1.0, jumps
