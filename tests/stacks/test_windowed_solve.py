"""A long stack is solved in stretches: the same to a fraction of a pixel, in memory that does not grow with it."""

import tracemalloc
from collections import UserDict

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_stnreg.stacks.matching.fine import FineMatch
from napari_stnreg.stacks.section_transform import Lattice, SectionTransform
from napari_stnreg.stacks.settings import StackSettings
from napari_stnreg.stacks.solver import windowed
from napari_stnreg.stacks.solver.elastic import solve_elastic
from napari_stnreg.stacks.solver.windowed import solve_stack

COUNT, SHAPE = 150, (200, 200)  # longer than a window and its overlap at both sides
LATTICE = Lattice.covering((0, 0), SHAPE, 40)
PLAIN = [SectionTransform.from_affine(np.eye(3), LATTICE, SHAPE) for _ in range(COUNT)]


class Counted(dict):
    """Matches, and how many of them were asked for since the last solve began."""

    asked = 0

    def __getitem__(self, pair):
        self.asked += 1
        return super().__getitem__(pair)


@pytest.fixture(scope="module")
def matches():
    """Sections that shake and bend, tissue that goes on obliquely, matched with errors."""
    rng = np.random.default_rng(0)
    bend = gaussian_filter(rng.normal(size=(COUNT, 2, *LATTICE.shape)), (0, 0, 1.5, 1.5)) * 20
    own = bend + rng.normal(0, 4, (COUNT, 2, 1, 1))
    course = [rng.normal(size=(2, 1, 1))]
    for _ in range(COUNT - 2):
        course.append(0.9 * course[-1] + 0.44 * rng.normal(size=(2, 1, 1)))
    firm = np.zeros((1, 1, 3, *LATTICE.shape))
    firm[:, :, ::2] = 1
    found = Counted()
    for a in range(COUNT):
        for b in range(a + 1, min(a + 3, COUNT)):
            seen = own[b] - own[a] - np.sum(course[a:b], axis=0)
            seen = seen + rng.normal(0, 0.5 * (b - a) ** 0.5, seen.shape)
            found[a, b] = FineMatch(seen[None, None], firm, np.full((1, 1), 0.6), np.ones((1, 1)))
    return found


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(windowed, "MAX_WINDOW", 30)


def off(whole, fragment_labels):
    """Differences of two solutions ``(z, 2, gy, gx)``: as a whole, and from section to section."""
    apart = np.stack([b.vectors[0] - a.vectors[0] for a, b in zip(whole, fragment_labels, strict=True)])
    return np.linalg.norm(apart, axis=1).mean(), np.linalg.norm(np.diff(apart, axis=0), axis=1).mean(axis=(1, 2))


def moved(transforms):
    return np.mean([np.linalg.norm(one.vectors[0], axis=0).mean() for one in transforms])


def test_windowed_solve_equals_joint_solve(matches):
    whole, fragment_labels = (
        solve_elastic(PLAIN, matches, StackSettings()),
        solve_stack(PLAIN, matches, StackSettings()),
    )
    apart, jumps = off(whole, fragment_labels)
    assert moved(whole) > 3
    assert apart < 0.4
    assert jumps.max() < 0.3, jumps.argmax()  # at the seams as elsewhere


@pytest.mark.parametrize("pinned", [0, 74, 149])
def test_all_windows_follow_the_fixed_section(matches, pinned):
    settings = StackSettings(reference=pinned)
    whole, fragment_labels = solve_elastic(PLAIN, matches, settings), solve_stack(PLAIN, matches, settings)
    assert not fragment_labels[pinned].vectors.any()
    apart, jumps = off(whole, fragment_labels)
    assert moved(whole) > 3
    assert apart < 1.5  # the stack as a whole may lie elsewhere
    assert jumps.max() < 0.4, jumps.argmax()


def test_range_reads_only_nearby_matches(matches, monkeypatch):
    monkeypatch.setattr(windowed, "OVERLAP", 20)
    before = solve_stack(PLAIN, matches, StackSettings())
    free = range(40, 45)
    held = {z: one for z, one in enumerate(before) if z not in free}
    matches.asked = 0
    again = solve_stack(before, matches, StackSettings(), held)
    assert matches.asked < 0.85 * len(matches)
    assert all(np.array_equal(again[z].vectors, before[z].vectors) for z in held)
    assert max(np.abs(again[z].vectors - before[z].vectors).mean() for z in free) < 0.5


def test_landmarks_apply_in_their_window(matches):
    points = np.stack(np.meshgrid(*[np.arange(20.0, 190, 20)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    wanted = {(70, 71): (points, points + (0, 9))}
    found = solve_stack(PLAIN, matches, StackSettings(), landmarks=wanted)
    apart = found[71](points) - found[70](points)
    assert np.linalg.norm(apart - (0, 9), axis=1).mean() < 1.0


class Made(UserDict):
    """Matches that are made when they are asked for, as those on disk are."""

    def __getitem__(self, pair):
        rng = np.random.default_rng(pair)
        firm = np.zeros((1, 1, 3, *LATTICE.shape))
        firm[:, :, ::2] = 1
        return FineMatch(rng.normal(size=(1, 1, 2, *LATTICE.shape)), firm, np.full((1, 1), 0.6), np.ones((1, 1)))


def peak(count):
    transforms = [SectionTransform.from_affine(np.eye(3), LATTICE, SHAPE) for _ in range(count)]
    matches = Made.fromkeys((a, b) for a in range(count) for b in (a + 1, a + 2) if b < count)
    tracemalloc.start()
    try:
        solve_stack(transforms, matches, StackSettings())
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_is_independent_of_stack_size(monkeypatch):
    """Megabytes: what is left to grow are the maps themselves, which are the result."""
    monkeypatch.setattr(windowed, "OVERLAP", 30)
    short, long = peak(90), peak(270)
    assert short > 1
    assert long < 1.5 * short, (short, long)
