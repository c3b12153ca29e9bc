"""Long-range pairs: coarse matches that limit the accumulation of errors along a stack."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from napari_stnreg import align_stack
from napari_stnreg.stacks.matching.fine import FineMatch, fine_match, initial_transforms
from napari_stnreg.stacks.matching.pair_selection import fine_pairs, long_range_pairs
from napari_stnreg.stacks.preprocessing.features import prepare
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver.elastic import solve_elastic

SIDE = 256


def blobs(seed, size):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), size)
    return noise / noise.std()


def section(seed, outline, *, strength=2.0, shift=(0, 0)):
    """Outlines that may go on through many sections, under detail that is another in each."""
    picture = strength * blobs(outline, 9.0) + blobs(seed, 1.5)
    return np.roll(128 + 25 * picture, shift, axis=(0, 1)).clip(1, 255)


def matched(a, b, **how):
    settings = StackSettings()
    one, other = prepare(a, settings), prepare(b, settings)
    transforms = initial_transforms([np.eye(3)] * 2, [one, other], settings)
    found = fine_match(one, other, *transforms, settings, **how)
    return found, found.shift[0, 0, :, 3:-3, 3:-3].mean(axis=(1, 2))


def test_each_section_has_one_long_range_pair():
    sections = [0, 1, 2, 3, 5, 6, 7, 8]
    settings = StackSettings(long_range_stride=5)
    assert long_range_pairs(sections, settings) == [(0, 5), (1, 6), (2, 7), (3, 8)]
    assert long_range_pairs(sections, StackSettings()) == []
    near = StackSettings(neighbors=2, long_range_stride=3)
    # 3 to 6 has a hole between, so that the window reaches it: one match is enough
    assert (3, 6) in fine_pairs(sections, near)
    assert (3, 6) not in long_range_pairs(sections, near)
    assert (2, 5) not in long_range_pairs(sections, near)
    assert (0, 3) in long_range_pairs(sections, near)


@pytest.mark.parametrize("iteration", [0, 1])
def test_shared_outlines_match_despite_different_detail(iteration):
    shifts = {}
    for outline in (True, False):
        found = [
            matched(section(10 + k, k), section(30 + k, k, shift=(4, -3)), iteration=iteration, outline=outline)
            for k in range(5)
        ]
        assert (min(match.score[0, 0] for match, _ in found) > 0.4) == outline
        shifts[outline] = np.array([shift for _, shift in found])
    np.testing.assert_allclose(shifts[True].mean(axis=0), (4, -3), atol=0.6)
    error, plain = (np.linalg.norm(shifts[o] - (4, -3), axis=1).mean() for o in (True, False))
    assert error < plain


def test_sections_without_shared_outline_have_zero_weight():
    found, _ = matched(section(1, 7), section(2, 8), outline=True)
    assert not found.weight.any()
    # neighbors are believed as far as they resemble each other: there is nothing better
    assert matched(section(1, 7), section(2, 8))[0].weight.any()


def drift(anchors, seed, count=40):
    """Slow error of a straight stack whose neighbors are matched with errors of their own."""
    rng = np.random.default_rng(seed)
    lattice = Lattice.covering((0, 0), (SIDE, SIDE), 40)
    own = rng.normal(0, 3, (count, 2))
    firm = np.zeros((1, 1, 3, *lattice.shape))
    firm[:, :, ::2] = 1
    matches = {}
    for a in range(count):
        for b in sorted({a + 1, a + 2, a + anchors} - {a}):
            if b < count:
                seen = (own[b] - own[a] + rng.normal(0, 0.7, 2))[:, None, None]
                seen = np.broadcast_to(seen, (1, 1, 2, *lattice.shape))
                matches[a, b] = FineMatch(seen, firm, np.full((1, 1), 0.6), np.ones((1, 1)))
    transforms = [SectionTransform.from_affine(np.eye(3), lattice, (SIDE, SIDE)) for _ in range(count)]
    found = solve_elastic(transforms, matches, StackSettings(trend="remove", long_range_stride=anchors))
    error = np.array([one.vectors[0].mean(axis=(1, 2)) for one in found]) - own
    slow = gaussian_filter1d(error - error.mean(axis=0), 3, axis=0, mode="nearest")
    return np.linalg.norm(slow, axis=1).mean()


def test_long_range_pairs_reduce_accumulated_error():
    without, with_them = (np.mean([drift(anchors, seed) for seed in range(4)]) for anchors in (0, 8))
    assert with_them < 0.7 * without, (with_them, without)


def test_align_stack_matches_long_range_pairs(tmp_path):
    raw = np.stack([section(50 + z, 3) for z in range(7)]).astype(np.uint8)
    result = align_stack(raw, tmp_path / "out.zarr", long_range_stride=4, iterations=1, keep_work=True, workers=1)
    assert {one.status for one in result.verdicts} == {"aligned"}
    pairs = {tuple(int(n) for n in file.stem.split("-")) for file in (tmp_path / "out.work" / "fine 1").glob("*.npz")}
    assert {(0, 4), (1, 5), (2, 6)} < pairs
    assert not pairs & {(0, 3), (0, 5)}
