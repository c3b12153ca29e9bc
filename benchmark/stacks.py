"""Sections warped by known fields, aligned, and scored against the truth.

Run ``python -m benchmark.stacks --data DIR``. Every section of a stack that is continuous by nature (FIB-SEM) or by
construction (the generator) is warped by a smooth field of its own, by a deformation that accumulates along z, shifted,
turned and given another contrast. What is asked of an alignment is ``map``, canvas to section; a section's true
position ``lift`` is known in closed form, so the error at a canvas point x is ``lift(map(x)) - x``, after one rigid
motion of the whole stack has been taken off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

Map = Callable[[np.ndarray], np.ndarray]


@dataclass
class Case:
    """A stack, and where its sections belong."""

    name: str
    raw: np.ndarray  # (z, y, x) uint8
    lifts: list[Map]  # section to tissue, pixels
    truth: np.ndarray  # (z, y, x) the tissue itself
    missing: int | None = None
    cracked: int | None = None
    crack: np.ndarray | None = None  # (y, x) tissue, distance to the crack, pixels
    extra: dict = field(default_factory=dict)


class Field:
    """A smooth field: normal numbers on a coarse grid over the section, interpolated cubically."""

    def __init__(self, values: np.ndarray, shape: tuple[int, int]) -> None:
        scale = [(n - 1) / (k - 1) for n, k in zip(shape, values.shape[1:], strict=True)]
        self.values, self.scale = values, np.array(scale)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        where = np.moveaxis(points / self.scale, -1, 0)
        return np.stack([map_coordinates(v, where, order=3, mode="nearest") for v in self.values], axis=-1)

    @classmethod
    def random(cls, rng, shape, rms: float, cells: int = 4) -> Field:
        made = cls(rng.normal(size=(2, cells, cells)), shape)
        points = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 40) for n in shape), indexing="ij"), axis=-1)
        made.values *= rms / np.sqrt((made(points) ** 2).sum(-1).mean())
        return made


def warped(
    truth: np.ndarray, seed: int, *, name: str, still: bool = False, missing: int | None = None,
    cracked: int | None = None, own: float = 3.0, shift: float = 4.0, turn: float = 0.5, accumulated: float = 0.5,
    opening: float = 16.0,
) -> Case:  # fmt: skip
    """Warp every section of a continuous stack; ``own`` and so on are pixels rms and degrees."""
    rng = np.random.default_rng(seed)
    depth, *shape = truth.shape
    shape = tuple(shape)
    middle = (np.array(shape) - 1) / 2
    points = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    walk = np.zeros((2, 4, 4))
    raw, lifts = np.empty(truth.shape, np.uint8), []
    distance = None
    for z in range(depth):
        mine = Field.random(rng, shape, own)
        walk = walk + Field.random(rng, shape, accumulated).values
        both = Field(mine.values + walk, shape)
        angle, moved = np.deg2rad(rng.normal(0, turn)), rng.normal(0, shift, 2)
        c, s = np.cos(angle), np.sin(angle)
        linear = np.array([[c, -s], [s, c]])
        gap = opening if z == cracked else 0.0
        normal = np.array([np.cos(0.5), np.sin(0.5)])

        def lift(q, linear=linear, moved=moved, both=both, gap=gap, normal=normal):
            if still:
                return q
            if gap:
                side = (q - middle) @ normal
                q = q - normal * np.clip(side, -gap / 2, gap / 2)[..., None]
            p = (q - middle) @ linear.T + middle + moved
            return p + both(p)

        where = lift(points)
        section = map_coordinates(truth[z].astype(np.float32), np.moveaxis(where, -1, 0), order=1, cval=0)
        if gap:
            in_gap = np.abs((points - middle) @ normal) < gap / 2
            section[in_gap] = 235 + rng.normal(0, 2, int(in_gap.sum()))
            # tissue points near the crack
            edge = where[np.abs((points - middle) @ normal) < 1.0]
            from scipy.spatial import cKDTree

            distance = cKDTree(edge).query(points.reshape(-1, 2))[0].reshape(shape)
        if not still:
            gain, offset = rng.uniform(0.75, 1.1), rng.uniform(-15, 15)
            inside = section > 0
            section = np.where(inside, np.clip((section - 128) * gain + 128 + offset, 1, 255), 0)
        if z == missing:
            section[:] = 0
        raw[z] = np.rint(section)
        lifts.append(lift)
    return Case(name, raw, lifts, truth, missing, cracked, distance)


def rigid_off(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What is left of ``targets - points`` (N, 2) when one rigid motion of the points is free."""
    p, t = points - points.mean(0), targets - targets.mean(0)
    u, _, v = np.linalg.svd(p.T @ t)
    turn = u @ np.diag([1, np.sign(np.linalg.det(u @ v))]) @ v
    return t - p @ turn


def errors(case: Case, maps: list[Map], margin: float = 0.2, step: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Error (z, n, 2) at canvas points (n, 2) of the inside."""
    shape = case.raw.shape[1:]
    axes = [np.arange(margin * n, (1 - margin) * n, step) for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    found = np.stack([lift(m(points)) for lift, m in zip(case.lifts, maps, strict=True)])
    keep = [z for z in range(len(maps)) if z != case.missing]
    everywhere = np.broadcast_to(points, found.shape)
    rest = np.full(found.shape, np.nan)
    rest[keep] = rigid_off(everywhere[keep].reshape(-1, 2), found[keep].reshape(-1, 2)).reshape(len(keep), -1, 2)
    return points, rest


def chunk_correlation(stack: np.ndarray, margin: float = 0.2, size: int = 64, skip: int | None = None) -> float:
    """Mean Pearson correlation of neighbouring sections over square chunks of the inside; empty pixels left out."""
    low = [round(margin * n) for n in stack.shape[1:]]
    inner = stack[:, low[0] : -low[0], low[1] : -low[1]].astype(float)
    found = []
    for z in range(1, len(inner)):
        if skip in (z, z - 1):
            continue
        for y in range(0, inner.shape[1] - size // 2, size):
            for x in range(0, inner.shape[2] - size // 2, size):
                a, b = (inner[k, y : y + size, x : x + size] for k in (z - 1, z))
                good = (a > 0) & (b > 0)
                if good.sum() > size * size / 4:
                    found.append(np.corrcoef(a[good], b[good])[0, 1])
    return float(np.nanmean(found))


def score(case: Case, maps: list[Map], seconds: float | None = None) -> dict[str, float]:
    """The figures of one alignment."""
    points, rest = errors(case, maps)
    keep = [z for z in range(len(maps)) if z != case.missing]
    norm = lambda e: np.linalg.norm(e, axis=-1)  # noqa: E731
    jumps = {(a, b): norm(rest[b] - rest[a]) for a, b in pairwise(keep)}
    result = {
        "adjacent": float(np.mean([j.mean() for (a, b), j in jumps.items()])),
        "mean": float(norm(rest[keep]).mean()),
        "last": float(norm(rest[keep[-1]]).mean()),
    }
    if case.missing is not None:
        result["over missing"] = float(jumps[case.missing - 1, case.missing + 1].mean())
    if case.cracked is not None and case.crack is not None:
        z = case.cracked
        near = case.crack[tuple(np.rint(points).astype(int).T)] < 48
        result["at crack"] = float(np.mean([jumps[p][near].mean() for p in ((z - 1, z), (z, z + 1))]))
    # of the displacement itself, by differences over a pixel
    steps = np.eye(2) * 0.5
    folded = [
        np.linalg.det(np.stack([m(points + s) - m(points - s) for s in steps], axis=-1)) <= 0
        for z, m in enumerate(maps) if z in keep
    ]  # fmt: skip
    result["folded"] = float(np.mean(folded))
    canvas = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in case.raw.shape[1:]), indexing="ij"), axis=-1)
    aligned = np.stack([
        map_coordinates(r.astype(np.float32), np.moveaxis(m(canvas), -1, 0), order=1, cval=0)
        for r, m in zip(case.raw, maps, strict=True)
    ])  # fmt: skip
    result["correlation"] = chunk_correlation(aligned, skip=case.missing)
    result["truth"] = chunk_correlation(case.truth, skip=case.missing)
    if seconds is not None:
        result["s/section"] = seconds / len(maps)
    return result


def fibsem(data: Path, axis: int, every: int = 8, count: int = 20, mirrored: bool = True) -> np.ndarray:
    """Slices of the FIB-SEM volume as sections, cut along one of its axes."""
    import tifffile

    volume = np.moveaxis(tifffile.imread(data / "fibsem" / "training_sample2_raw.tif"), axis, 0)
    sections = volume[: every * count : every]
    if mirrored:  # 500 x 500, continued by reflection: the fields are then as smooth as on a large section
        sections = np.pad(sections, ((0, 0), (0, sections.shape[1]), (0, sections.shape[2])), mode="symmetric")
    return np.clip(sections, 1, 255).astype(np.uint8)


def ours(case: Case, **options) -> tuple[list[Map], float]:
    from napari_stnreg.stacks.alignment import align
    from napari_stnreg.stacks.settings import StackSettings

    begin = time.process_time()
    found = align(case.raw, StackSettings.parse(**options))
    return list(found.maps), time.process_time() - begin


def cases(data: Path, seed: int) -> list[Case]:
    tissue = fibsem(data, seed % 3)
    return [
        warped(tissue, seed, name="warped"),
        warped(tissue, seed, name="still", still=True),
        warped(tissue, seed, name="missing", missing=9),
        warped(tissue, seed, name="crack", cracked=10),
    ]


def line(name: str, figures: dict[str, float]) -> str:
    return f"{name:32s}" + "  ".join(f"{k} {v:.3f}" for k, v in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("options", nargs="*", help="settings as name=value")
    args = parser.parse_args()
    options = {}
    for text in args.options:
        name, value = text.split("=")
        options[name] = (
            int(value) if value.lstrip("-").isdigit() else float(value) if value.replace(".", "").isdigit() else value
        )
    for seed in range(args.seeds):
        for case in cases(args.data, seed):
            if args.only and case.name not in args.only:
                continue
            nothing = [lambda p: p] * len(case.raw)
            print(line(f"{case.name} {seed} nothing", score(case, nothing)), flush=True)
            maps, seconds = ours(case, **options)
            print(line(f"{case.name} {seed} ours", score(case, maps, seconds)), flush=True)


if __name__ == "__main__":
    main()
